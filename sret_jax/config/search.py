"""The settings of what follows training: describing, searching, re-ranking, localization and evaluation."""

from dataclasses import dataclass, field
from typing import Annotated

from sret_jax.config.names import BENCHMARKS, METHODS, RERANKERS, STAGES, STORES
from sret_jax.config.rules import (
    Between,
    ChunkRows,
    Count,
    FilePath,
    OneOf,
    Parts,
    Pixels,
    Scales,
    Seed,
    Share,
    Text,
    Word,
    ruled,
)

PROTOCOLS = {  # of benchmarks with query boxes; what deviates is labelled wherever its numbers are shown
    "standard": "",
    "compat:uncropped": "compat: queries are not cut to their boxes, as in DOLG and CGD; "
    "not comparable with the benchmark's own protocol",
    "compat:junk-first": "compat: what a set does not count is taken out before the first answers are re-ranked, as in "
    "DELG, CVNet and AMES, which takes the ground truth; not comparable with the benchmark's own protocol",
}


@ruled
@dataclass
class ExtractConfig:
    batch_size: Annotated[int, Between(1, 4096)] = 16  # photographs per compiled batch
    scales: Scales = (1.0,)  # of image_size
    # over scales: "mean", "max", "power3", or "gem" (by the exponents of the network)
    scale_pooling: Annotated[str, OneOf("mean", "max", "power3", "gem")] = "mean"
    # "photo": each scale from the decoded photo; "tensor": from the network's input
    resized: Annotated[str, OneOf("photo", "tensor")] = "photo"
    chunk_rows: ChunkRows = 1024  # photographs per committed chunk


@ruled
@dataclass
class SearchConfig:
    # Of descriptors "exact", "brute_force", "ah", "tree_ah", or "auto" by the library's size rules; of a server "auto",
    # "exact" or "hnsw"; of local features "asmk": those of the network's own head, over local.scales
    method: Annotated[str, OneOf("auto", "exact", "brute_force", "ah", "tree_ah", "hnsw", "asmk")] = "auto"
    engine: Annotated[str, OneOf("local", "milvus", "pgvector")] = "local"  # where descriptors are searched
    # of Milvus http://HOST:PORT or a file NAME.db; of PostgreSQL a URI or connection string, or "" for what PGHOST and
    # the like say. Never a password: that is read from MILVUS_TOKEN, and PGPASSWORD or ~/.pgpass
    server: Annotated[str, Text("address")] = ""
    table: Annotated[str, Text("name", least=1, most=24)] = "sret"  # what names of tables in a server begin with
    leaves_to_search: Annotated[int, Between(0, 1_000_000)] = 0  # tree_ah; 0: chosen by size
    reorder: Annotated[int, Between(0, 10_000_000)] = 0  # candidates re-scored; 0: ten per answer, of a server two
    chunk_rows: ChunkRows = 131072  # rows scored at once by exact search (bounds its memory)
    # ah, tree_ah: share of the exact first ten answers that is found, measured on the photographs searched; leaves,
    # leaves_to_search and reorder are chosen for it. 0: these by size
    recall: Share = 0.0
    # What is searched by: "float32"; "float16" or "int8" take a half or a quarter of it, and what may be among the
    # answers is scored again by float32, which stays on the disk. Of a collection `sret index --store` may say another
    store: Annotated[str, OneOf(*STORES)] = "float32"
    # parts of an index, each searched by a process of its own. Collections are searched by one
    shards: Annotated[int, Between(1, 1024)] = 1
    # asmk: visual words; 0: 65,536, or one for 39 local features where there are fewer
    words: Annotated[int, Between(0, 10_000_000)] = 0
    # asmk: folder whose photographs, at any depth, the words are learned on; "": those of data.root and data.split, or
    # without these the photographs searched, which is no fair comparison with words of others
    codebook: FilePath = ""
    # asmk: of these photographs, at most, evenly spread
    codebook_photos: Annotated[int, Between(1, 10_000_000)] = 20000
    # asmk: visual words per query feature; database features always use one
    assignments: Annotated[int, Between(1, 1000)] = 5
    binary: bool = True  # asmk: compare the signs of residuals, or with False the residuals


@ruled
@dataclass
class LocalSearchConfig:
    """Local features of every photograph searched, for spatial verification: `extraction/local_features.py`."""

    # "sift"; of the network: "head" (config.model.local), "map" (what is pooled), "backbone" (the map before smoothing
    # and refinement)
    source: Annotated[str, OneOf("sift", "head", "map", "backbone")] = "sift"
    most: Annotated[int, Between(1, 100_000)] = 1000  # features of a photograph, the strongest
    image_size: Pixels = 1024  # sift: longest side of a photograph, pixels; smaller ones are not enlarged
    scales: Scales = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)  # of data.image_size, where a network looks
    # map, backbone: dimension of a feature after a PCA-whitening of the photographs searched
    dim: Annotated[int, Between(1, 4096)] = 128
    shrinkage: Share = 1.0  # of that whitening, see model.whitening_shrinkage
    chunk_rows: ChunkRows = 256  # photographs per committed chunk


@ruled
@dataclass
class RerankConfig:
    """How the first answers are put in a new order; which of it is done says `stages`: `reranking/chain.py`."""

    # in this order, each NAME or NAME:NUMBER, as of `--rerank=sv:100,aqe:10`
    stages: Annotated[tuple[str, ...], OneOf(*RERANKERS, own="reranker", added=":"), Count(0, 16)] = ()
    # between two photographs of the object: "affine" or "homography"
    transform: Annotated[str, OneOf("affine", "homography")] = "affine"
    # A match is this much nearer than the second nearest; 1: no such test. 0: 0.9 of SIFT, and 1 of a network's own
    # features, of which those of neighbouring positions and scales are alike
    ratio: Share = 0.0
    distance: Annotated[float, Between(0, 2)] = 0.0  # greatest distance of a match, features of unit length; 0: any
    mutual: bool = True  # a match is the nearest both ways
    trials: Annotated[int, Between(1, 1_000_000)] = 1000  # transforms tried per pair of photographs
    # greatest error of an inlier, longest side of the photograph = 1
    residual: Annotated[float, Between(0, 1, above=True)] = 0.02
    seed: Seed = 0
    # sv: with fewer inliers, which chance gives too, an answer keeps its place behind those with more
    trusted: Annotated[int, Between(0, 1_000_000)] = 10
    alpha: Annotated[float, Between(0, 100)] = 3.0  # alpha_qe, dba: weight of a neighbour = cosine^alpha
    beta: Annotated[float, Between(0, 100)] = 0.15  # superglobal: weight of the neighbours
    neighbours: Annotated[int, Between(1, 10_000)] = 9  # superglobal: of each photograph
    diffusion_alpha: Annotated[float, Between(0, 1, below=True)] = 0.99  # diffusion: share that goes on at each step
    diffusion_gamma: Annotated[float, Between(0, 100)] = 3.0  # diffusion: edge = cosine^gamma
    diffusion_queries: Annotated[int, Between(1, 10_000)] = 10  # diffusion: photographs that a query starts from
    # diffusion: photographs around these that a query walks among, so that its time does not grow with the collection;
    # 0: all
    diffusion_photos: Annotated[int, Between(0, 1_000_000)] = 0
    hops: Annotated[int, Between(1, 100)] = 3  # hypergraph: propagations
    inliers: Annotated[int, Between(1, 1_000_000)] = 20  # hypergraph: that make two photographs neighbours
    compat: bool = False  # hypergraph: as published, with its faults
    parts: Parts = field(default_factory=dict)  # of re-rankers of your own: see ModelConfig.parts


@ruled
@dataclass
class LocalizeConfig:
    """Where in each photograph found the object of the query is: `localization/localizer.py`."""

    # compared with each other, as of `--localize=discovery,sv`
    methods: Annotated[tuple[str, ...], OneOf(*METHODS, own="localizer"), Count(0, 16)] = ()
    # Of the features: "map" (what is pooled), "backbone" (the map before smoothing and refinement), or an earlier stage
    # of the backbone, such as "c4"; of a transformer also the "keys" of its last block, as LOST was published
    source: Annotated[str, OneOf("map", "backbone", *STAGES, own="stage")] = "map"
    image_size: Pixels = 640  # longest side of a photograph searched, pixels
    query_size: Pixels = 320  # of a query, which shows little beside its object
    # what makes pixels of a heat map: "none" (a threshold), "guided" by edges, or "grabcut"
    refine: Annotated[str, OneOf("none", "guided", "grabcut")] = "grabcut"
    # sv: with fewer, nothing is marked; sv+discovery: then discovery takes over
    inliers: Annotated[int, Between(0, 1_000_000)] = 10
    chunk_rows: ChunkRows = 64  # photographs per committed chunk of maps
    parts: Parts = field(default_factory=dict)  # of methods of your own: see ModelConfig.parts


@ruled
@dataclass
class EvalConfig:
    # run after training: "synthetic", "rparis6k+1m", ...
    benchmarks: Annotated[tuple[str, ...], OneOf(*BENCHMARKS, own="benchmark", added="+1m"), Count(0, 32)] = (
        "synthetic",
    )
    root: FilePath = ""  # the benchmark's folder, of "folder" also several as in data.root; "" = data.root ("folder")
    split: Word = "test"  # benchmark "folder": the entry of data.splits that is searched
    # benchmark "synthetic": objects, none of them trained on
    synthetic_instances: Annotated[int, Between(1, 10_000)] = 16
    synthetic_photos: Annotated[int, Between(1, 10_000)] = 8
    untrained: bool = False  # also measure the network before training
    gnd: FilePath = ""  # benchmarks like "roxford5k": the ground truth file; "" = gnd_<benchmark>.pkl in root
    # folders whose photographs are searched as well, as wrong answers
    distractors: Annotated[tuple[str, ...], Text("path", least=1), Count(0, 64)] = ()
    # one of PROTOCOLS: the others deviate as some published numbers do
    protocol: Annotated[str, OneOf(*PROTOCOLS)] = "standard"
    # photographs ranked per query; 0 = all. What is not ranked counts as never found
    ranked: Annotated[int, Between(0, 1_000_000_000)] = 0
    parts: Parts = field(default_factory=dict)  # of benchmarks of your own: see ModelConfig.parts
