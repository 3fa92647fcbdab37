"""Names that can be chosen, of what is built elsewhere in the package: a test compares them with what there is.

A config is checked before any of it is imported.
"""

BACKBONES = (
    *(f"efficientnet_lite{i}" for i in range(3)),
    *(f"resnet{depth}" for depth in (18, 50, 101, 152)),
    *(f"dinov3_convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"dinov2_vit{size}14{registers}" for registers in ("", "_reg") for size in "sbl"),
    *(f"dinov3_vit{size}" for size in ("s16", "s16plus", "b16", "l16", "l16_sat")),
    *(f"lingbot_vit{size}16" for size in "sbl"),
    *(f"pe_core_vit{size}" for size in ("t16", "s16", "b16", "l14")),
    *(f"{family}_{size}" for family in ("siglip2", "siglip") for size in ("vitb16", "vitl16", "so400m14", "so400m16")),
)
STAGES = ("c1", "c2", "c3", "c4", "c5", "last", "keys", "cls", "attention_pool")
POOLINGS = ("gem", "mac", "spoc", "rmac", "superglobal", "how", "class_token", "attention")
RERANKERS = ("sv", "aqe", "alpha_qe", "dba", "superglobal", "diffusion", "hypergraph")
METHODS = (
    *("everything", "lost", "lost_inwards", "query_lost", "seed_lost", "discovery", "regions", "dense", "sv"),
    "sv+discovery",
)
DESCRIPTOR_DTYPES, DESCRIPTOR_SCALES = ("float32", "float16", "int8"), ("dimension", "vector")  # exported
DESCRIPTOR_FORMS = ("npy", "parquet")
SERVERS = ("milvus", "pgvector")  # that a collection is searched in
STORES = ("float32", "float16", "int8")  # what descriptors are held as where they are searched
KEPT_FEATURES = ("none", "sift", "head")  # local features that a collection keeps
BENCHMARKS = (
    *("synthetic", "folder", "roxford5k", "rparis6k", "revisited", "proxford", "prparis", "gldv2", "ilias"),
    "paintings",
)
