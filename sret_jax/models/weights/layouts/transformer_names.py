"""What vision transformers' entries are called, by whoever wrote the file: one `Naming` a layout.

layout               a block's keys                          what marks it
dinov2               blocks.0.attn.qkv, .mlp.fc1, .ls1       register_tokens; Meta's
dinov3               the same, or .mlp.w1 and w2             storage_tokens, rope_embed; Meta's
pe                   transformer.resblocks.0.attn.in_proj    Meta's; with visual. beside a text tower
timm                 as dinov2                               reg_token, and then positions without the class token's
timm-dinov3          blocks.0.attn.qkv, .mlp.fc1, .gamma_1   LingBot-Vision too
timm-pe              blocks.0.attn.qkv, .mlp.fc1             norm_pre
timm-siglip          the same                                no class token; visual.trunk. beside a text tower
transformers-dinov2  encoder.layer.0.attention               embeddings.position_embeddings
transformers-dinov3  layer.0.attention.q_proj                embeddings.register_tokens
transformers-siglip  encoder.layers.0.self_attn.q_proj       vision_model. beside a text tower
"""

from typing import NamedTuple


class PoolNaming(NamedTuple):
    """Of the attention pooling. `qkv`: templates and the thirds, from and to, that each of them fills."""

    probe: str
    qkv: tuple[tuple[str, int, int], ...]
    proj: str
    norm: str
    mlp: tuple[str, str]
    projection: str = ""  # a linear layer's template, or with `plain` the matrix itself
    plain: bool = False


class Naming(NamedTuple):
    """Keys of one layout. `{}` stands for "weight" or "bias"; `{n}` for 1 and 2, the two halves of a block."""

    family: str
    patches: str
    block: str  # what is before the keys of block {i}
    norms: str
    qkv: tuple[str, ...]  # of all three, or of each
    proj: str
    mlp: tuple[str, str]
    norm: str
    gated: tuple[str, str, str] = ("", "", "")  # gate, in, out of a gated perceptron
    scale: str = ""
    class_token: tuple[str, str] = ("cls_token", "tokens")  # and its form
    positions: tuple[str, str] = ("pos_embed", "tokens")
    registers: str = "register_tokens"
    norm_before: str = ""
    biases: tuple[tuple[str, int], ...] = ()  # of queries 0, keys 1, values 2, where they are apart or may be missing
    bias_form: str = "vector"
    pool: PoolNaming | None = None
    prefixes: tuple[str, ...] = ("",)
    beside: tuple[str, ...] = ()  # beginnings of keys that are not used
    text: tuple[str, ...] = ()  # the same of the text tower, beside which the image tower has a prefix
    ends: tuple[str, ...] = ("mask_token",)  # ends of keys that are not used


_FUSED = ("attn.qkv.{}",)
_MLP = ("mlp.fc1.{}", "mlp.fc2.{}")
_META = Naming(
    "dinov2", "patch_embed.proj.{}", "blocks.{i}.", "norm{n}.{}", _FUSED, "attn.proj.{}", _MLP, "norm.{}",
    scale="ls{n}.gamma",
)  # fmt: skip
_TIMM = _META._replace(registers="reg_token", scale="gamma_{n}")
_TIMM_POOL = PoolNaming(
    "attn_pool.latent",
    (("attn_pool.q.{}", 0, 1), ("attn_pool.kv.{}", 1, 3)),
    "attn_pool.proj.{}",
    "attn_pool.norm.{}",
    ("attn_pool.mlp.fc1.{}", "attn_pool.mlp.fc2.{}"),
)
_TRANSFORMERS = Naming(
    "dinov2",
    "embeddings.patch_embeddings.projection.{}",
    "encoder.layer.{i}.",
    "norm{n}.{}",
    tuple(f"attention.{part}_proj.{{}}" for part in "qkv"),
    "attention.o_proj.{}",
    _MLP,
    "layernorm.{}",
    scale="layer_scale{n}.lambda1",
    class_token=("embeddings.cls_token", "tokens"),
    positions=("embeddings.position_embeddings", "tokens"),
    registers="embeddings.register_tokens",
    prefixes=("", "dinov2.", "dinov2_with_registers."),
)
_LOGITS = ("logit_scale", "logit_bias")

NAMINGS = {
    "transformers-dinov2": _TRANSFORMERS,
    # As they were saved before transformers 5, and still are.
    "transformers-dinov2-old": _TRANSFORMERS._replace(
        qkv=tuple(f"attention.attention.{part}.{{}}" for part in ("query", "key", "value")),
        proj="attention.output.dense.{}",
    ),
    "transformers-dinov3": _TRANSFORMERS._replace(
        family="dinov3",
        patches="embeddings.patch_embeddings.{}",
        block="layer.{i}.",
        mlp=("mlp.up_proj.{}", "mlp.down_proj.{}"),
        gated=("mlp.gate_proj.{}", "mlp.up_proj.{}", "mlp.down_proj.{}"),
        norm="norm.{}",
        biases=tuple((f"attention.{part}_proj.bias", n) for n, part in enumerate("qkv")),
        prefixes=("", "model."),
    ),
    "transformers-siglip": Naming(
        "siglip",
        "embeddings.patch_embedding.{}",
        "encoder.layers.{i}.",
        "layer_norm{n}.{}",
        tuple(f"self_attn.{part}_proj.{{}}" for part in "qkv"),
        "self_attn.out_proj.{}",
        _MLP,
        "post_layernorm.{}",
        positions=("embeddings.position_embedding.weight", "vector"),
        pool=PoolNaming(
            "head.probe",
            (("head.attention.in_proj_{}", 0, 3),),
            "head.attention.out_proj.{}",
            "head.layernorm.{}",
            ("head.mlp.fc1.{}", "head.mlp.fc2.{}"),
        ),
        prefixes=("", "vision_model."),
        text=("text_model.", *_LOGITS),
        ends=("embeddings.position_ids",),
    ),
    "pe": Naming(
        "pe",
        "conv1.{}",
        "transformer.resblocks.{i}.",
        "ln_{n}.{}",
        ("attn.in_proj_{}",),
        "attn.out_proj.{}",
        ("mlp.c_fc.{}", "mlp.c_proj.{}"),
        "ln_post.{}",
        class_token=("class_embedding", "row"),
        positions=("positional_embedding", "vector"),
        norm_before="ln_pre.{}",
        pool=PoolNaming(
            "attn_pool.probe",
            (("attn_pool.attn.in_proj_{}", 0, 3),),
            "attn_pool.attn.out_proj.{}",
            "attn_pool.layernorm.{}",
            ("attn_pool.mlp.c_fc.{}", "attn_pool.mlp.c_proj.{}"),
            "proj",
            plain=True,
        ),
        prefixes=("", "visual."),
        text=(
            "token_embedding.",
            "transformer.",
            "positional_embedding",
            "ln_final.",
            "text_projection",
            "logit_scale",
        ),
    ),
    "dinov3": _META._replace(
        family="dinov3",
        gated=("mlp.w1.{}", "mlp.w2.{}", "mlp.w3.{}"),
        registers="storage_tokens",
        bias_form="masked",
        # The second is of the small crops of training; released networks have it that were trained on satellites.
        beside=("rope_embed.", "local_cls_norm."),
        ends=("mask_token", ".bias_mask"),
    ),
    "timm-dinov3": _TIMM._replace(
        family="dinov3",
        gated=("mlp.fc1_g.{}", "mlp.fc1_x.{}", "mlp.fc2.{}"),
        biases=(("attn.q_bias", 0), ("attn.v_bias", 2)),
    ),
    "timm-pe": _TIMM._replace(
        family="pe", norm_before="norm_pre.{}", pool=_TIMM_POOL._replace(projection="head.{}"), scale=""
    ),
    "timm-siglip": _TIMM._replace(
        family="siglip",
        pool=_TIMM_POOL,
        scale="",
        prefixes=("", "visual.trunk."),
        text=("text.", *_LOGITS),
    ),
    "timm": _META._replace(registers="reg_token"),
    "dinov2": _META,
}
