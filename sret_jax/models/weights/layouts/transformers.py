"""Layouts of vision transformers: which one a file has, and where each of its entries goes.

What the entries are called is in `transformer_names`. The same tensors in two layouts may be two networks at any size
but the one they were trained at, because their authors resample positions in different ways, or take another GELU:
`Layout.statistics` says which.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import ATTENTION_POOL, CLASS_TOKEN
from sret_jax.models.backbones.positions import RESAMPLING
from sret_jax.models.backbones.vit_specs import SPECS, ViTSpec
from sret_jax.models.weights.folder import CONFIG, value_of
from sret_jax.models.weights.layouts.base import Layout, Leaf, Shape, State, length
from sret_jax.models.weights.layouts.transformer_names import NAMINGS, Naming, PoolNaming

MARKS: dict[str, Callable[[State], bool]] = {  # in this order: the first that holds
    "transformers-dinov2": lambda s: _has(s, "transformers-dinov2", "encoder.layer.0.attention.q_proj.weight"),
    "transformers-dinov2-old": lambda s: _has(
        s, "transformers-dinov2-old", "encoder.layer.0.attention.attention.query.weight"
    ),
    "transformers-dinov3": lambda s: _has(s, "transformers-dinov3", "layer.0.attention.q_proj.weight"),
    "transformers-siglip": lambda s: _has(s, "transformers-siglip", "encoder.layers.0.self_attn.q_proj.weight"),
    "pe": lambda s: _has(s, "pe", "ln_pre.weight"),
    "dinov3": lambda s: "patch_embed.proj.weight" in s and "storage_tokens" in s,
    "timm-dinov3": lambda s: "patch_embed.proj.weight" in s and "blocks.0.gamma_1" in s,
    "timm-pe": lambda s: "patch_embed.proj.weight" in s and "norm_pre.weight" in s,
    "timm-siglip": lambda s: _has(s, "timm-siglip", "pos_embed") and not _has(s, "timm-siglip", "cls_token"),
    "timm": lambda s: "patch_embed.proj.weight" in s and ("reg_token" in s or "mask_token" not in s),
    "dinov2": lambda s: "patch_embed.proj.weight" in s,
}


def _has(state: State, name: str, key: str) -> bool:
    return any(prefix + key in state for prefix in NAMINGS[name].prefixes)


def _pools(state: State, name: str) -> bool:
    """Whether it has the attention pooling, which is all that tells Perception Encoder's core from CLIP."""
    pool = NAMINGS[name].pool
    return pool is not None and _has(state, name, pool.probe)


def known_otherwise(state: State) -> str:
    """What a file seems to hold that has the names of a network here but is another one; "" for nothing of the kind.

    CLIP has the tensors of Perception Encoder's core but for its attention pooling, and no rotary positions, of which
    a file says nothing: read as that, it would give descriptors that look like some.
    """
    for name, before, after, scale in (
        ("pe", "ln_pre.weight", "ln_post.weight", "transformer.resblocks.0.ls_1.gamma"),
        ("timm-pe", "norm_pre.weight", "norm.weight", "blocks.0.gamma_1"),
    ):
        there = [NAMINGS[name].patches.format("weight"), before]
        if all(_has(state, name, key) for key in there) and not _pools(state, name):
            clip = _has(state, name, after) and not _has(state, name, scale)
            return "a CLIP network" if clip else "Perception Encoder's lang or spatial network"
    return "a CLIP network" if _has(state, "transformers-siglip", "pre_layrnorm.weight") else ""


def transformer_layout(
    name: str, state: State, source: Any, backbone: str = "", about: Mapping[str, Any] | None = None
) -> Layout:
    """The layout of this name for the transformer that the file holds.

    backbone: which of several that share all shapes; "" where the caller knows of none. about: the `config.json` beside
    the file. Raises `UserError` where no network fits, or several that are not the same.
    """
    naming = NAMINGS[name]
    prefix = next((p for p in naming.prefixes if p + naming.patches.format("weight") in state), "")
    network = _network(name, naming, prefix, state, source, backbone, about or {})
    spec = SPECS[network]
    leaves = _outside(name, naming, prefix, spec, state, source)
    for i in range(spec.depth):
        leaves |= _block(naming, prefix, spec, state, i)
    zeros: dict[tuple[str, ...], Shape] = {}
    if not any(leaf.path[-2:] == ("qkv", "bias") for leaf in leaves.values()):
        zeros = {("backbone", f"block{i}", "qkv", "bias"): (3 * spec.width,) for i in range(spec.depth)}
    pool = naming.pool
    pooled = pool is not None and all(f"{prefix}{key}" in state for key in (pool.probe, _matrix(pool)) if key)
    if pool is not None and pooled:
        leaves |= _pool(pool, prefix, spec)
        if pool.plain:
            zeros["backbone", ATTENTION_POOL, "projection", "bias"] = (spec.projection,)
    beside = naming.beside + (naming.text if prefix else ())
    unused = {key for key in state if key.endswith(naming.ends) or (beside and key.startswith(beside))}
    stage = ATTENTION_POOL if pooled else CLASS_TOKEN if spec.class_token else "keys"
    statistics = _statistics(name, spec)
    return Layout(name, network, stage, leaves, frozenset(unused - leaves.keys()), statistics=statistics, zeros=zeros)


def _network(
    name: str, naming: Naming, prefix: str, state: State, source: Any, backbone: str, about: Mapping[str, Any]
) -> str:
    """The name of the network whose shapes the file has; `backbone`, where it is one of several."""
    patches = prefix + naming.patches.format("weight")
    width, patch = (length(state, patches, axis, 4, source, name) for axis in (0, 3))
    before, after = (prefix + naming.block).split("{i}")
    depth = len({key[len(before) :].split(".")[0] for key in state if key.startswith(before)})
    first = f"{before}0{after}"
    gated = bool(naming.gated[0]) and first + naming.gated[0].format("weight") in state
    inner = first + (naming.gated[1] if gated else naming.mlp[0]).format("weight")
    tokens = prefix + naming.registers
    registers = length(state, tokens, 1, 3, source, name) if tokens in state else 0
    hidden = length(state, inner, 0, 2, source, name) if inner in state else 0
    found = (width, depth, patch, hidden, registers, gated)
    fits = [
        known
        for known, s in SPECS.items()
        if s.family == naming.family and (s.width, s.depth, s.patch, s.perceptron, s.registers, s.gated) == found
    ]
    if not fits:
        raise UserError(
            f"{source}: of the layout {name}, but no network known here has {depth} blocks of {width} channels, "
            f"{hidden} inside, with {patch}x{patch} patches and {registers} registers"
        )
    if name == "dinov3":  # of Meta's own files only those trained on satellite images have it
        fits = [known for known in fits if known.endswith("_sat") == ("local_cls_norm.weight" in state)] or fits
    if name.startswith("timm") and about:  # whose tag names what it was trained on
        cfg = value_of(about, "pretrained_cfg", dict, {}, source, CONFIG)
        tag = f"{about.get('architecture', '')} {cfg.get('tag', '')}"
        fits = [known for known in fits if known.endswith("_sat") == ("sat493m" in tag)] or fits
    if backbone in fits or all(SPECS[known] == SPECS[fits[0]] for known in fits):
        return backbone if backbone in fits else fits[0]
    raise UserError(
        f"{source}: the entries are those of {', '.join(fits)}, which normalise photographs differently; say which by "
        "config.model.backbone, or sret convert --backbone"
    )


def _outside(name: str, naming: Naming, prefix: str, spec: ViTSpec, state: State, source: Any) -> dict[str, Leaf]:
    """Leaves of what is before and behind the blocks."""
    c = spec.width
    leaves = _affine(prefix + naming.patches, ("patches",), (spec.patch, spec.patch, 3, c), "kernel", spec.patch_bias)
    leaves |= _affine(prefix + naming.norm, ("norm",), (c,))
    if spec.norm_before:
        leaves |= _affine(prefix + naming.norm_before, ("norm_before",), (c,))
    if spec.class_token:
        key, form = naming.class_token
        leaves[prefix + key] = _leaf(("class_token",), (1, c), form)
    if spec.registers:
        leaves[prefix + naming.registers] = _leaf(("registers",), (spec.registers, c), "tokens")
    if spec.grid:
        key, form = naming.positions
        if naming.registers == "reg_token" and spec.registers:  # then timm has no position of the class token
            form = "grid"
        rows = spec.grid**2 + spec.class_token
        if prefix + key in state:
            axes = 2 if form == "vector" else 3
            rows = length(state, prefix + key, axes - 2, axes, source, name) + (form == "grid")
        patches = rows - spec.class_token
        if patches < 1 or math.isqrt(patches) ** 2 != patches:
            raise UserError(f"{source}: {prefix + key!r} has {rows} positions, which are of no square of patches")
        leaves[prefix + key] = _leaf(("positions",), (rows, c), form)
    if "rope_embed.periods" in state:
        leaves["rope_embed.periods"] = Leaf("batch_stats", ("backbone", "periods"), (spec.head_width // 4,))
    return leaves


def _block(naming: Naming, prefix: str, spec: ViTSpec, state: State, i: int) -> dict[str, Leaf]:
    c, hidden, own = spec.width, spec.perceptron, f"block{i}"
    before = prefix + naming.block.format(i=i)
    leaves: dict[str, Leaf] = {}
    part = 3 * c // len(naming.qkv)
    for n, template in enumerate(naming.qkv):
        total = 0 if part == 3 * c else 3 * c
        weight = _leaf((own, "qkv", "kernel"), (c, part), "matrix")
        leaves[before + template.format("weight")] = weight._replace(start=n * part, total=total)
        if not naming.biases:
            bias = _leaf((own, "qkv", "bias"), (part,), naming.bias_form)
            leaves[before + template.format("bias")] = bias._replace(start=n * part, total=total)
    first = prefix + naming.block.format(i=0)
    for key, n in naming.biases:
        if first + key in state:
            leaves[before + key] = _leaf((own, "qkv", "bias"), (c,))._replace(start=n * c, total=3 * c)
    leaves |= _affine(before + naming.proj, (own, "proj"), (c, c), "matrix")
    inner, outer = naming.gated[1:] if spec.gated else naming.mlp
    leaves |= _affine(before + inner, (own, "fc1"), (c, hidden), "matrix")
    leaves |= _affine(before + outer, (own, "fc2"), (hidden, c), "matrix")
    if spec.gated:
        leaves |= _affine(before + naming.gated[0], (own, "gate"), (c, hidden), "matrix")
    for n in (1, 2):
        leaves |= _affine(before + naming.norms.replace("{n}", str(n)), (own, f"norm{n}"), (c,))
        if spec.layer_scale:
            leaves[before + naming.scale.format(n=n)] = _leaf((own, f"gamma{n}"), (c,))
    return leaves


def _pool(naming: PoolNaming, prefix: str, spec: ViTSpec) -> dict[str, Leaf]:
    c, hidden, own = spec.width, spec.perceptron, ATTENTION_POOL
    leaves = {prefix + naming.probe: _leaf((own, "probe"), (1, c), "tokens")}
    for template, start, end in naming.qkv:
        part, total = (end - start) * c, 0 if end - start == 3 else 3 * c
        for kind, shape, form in (("weight", (c, part), "matrix"), ("bias", (part,), "vector")):
            leaf = _leaf((own, "kernel" if kind == "weight" else "bias"), shape, form)
            leaves[prefix + template.format(kind)] = leaf._replace(start=start * c, total=total)
    leaves |= _affine(prefix + naming.proj, (own, "proj"), (c, c), "matrix")
    leaves |= _affine(prefix + naming.norm, (own, "norm"), (c,))
    leaves |= _affine(prefix + naming.mlp[0], (own, "fc1"), (c, hidden), "matrix")
    leaves |= _affine(prefix + naming.mlp[1], (own, "fc2"), (hidden, c), "matrix")
    if naming.plain:
        leaves[prefix + naming.projection] = _leaf((own, "projection", "kernel"), (c, spec.projection))
    elif naming.projection:
        leaves |= _affine(prefix + naming.projection, (own, "projection"), (c, spec.projection), "matrix")
    return leaves


def _matrix(naming: PoolNaming) -> str:
    """The key of the projection's matrix, or ""."""
    return naming.projection.format("weight")


def _leaf(path: tuple[str, ...], shape: Shape, form: str = "vector") -> Leaf:
    return Leaf("params", ("backbone", *path), shape, form)


def _affine(
    template: str, path: tuple[str, ...], shape: Shape, form: str = "vector", bias: bool = True
) -> dict[str, Leaf]:
    """Weight and bias of a norm, whose shape is that of a vector, or of a linear layer or convolution."""
    weight = "scale" if len(shape) == 1 else "kernel"
    leaves = {template.format("weight"): _leaf((*path, weight), shape, form)}
    return leaves | ({template.format("bias"): _leaf((*path, "bias"), shape[-1:])} if bias else {})


def _statistics(name: str, spec: ViTSpec) -> dict[str, np.ndarray]:
    """What the authors of the layout compute differently."""
    found: dict[str, Any] = {}
    if spec.grid and name.startswith("timm"):
        found["resampling"] = RESAMPLING.index("antialias")
    if name.startswith("transformers-dinov2") and not spec.registers:
        found["resampling"] = RESAMPLING.index("bicubic")
    if name == "timm-pe":
        found["rotary_reference"] = spec.grid
    if name == "timm-siglip":  # timm has the one by tanh in this network alone, the authors in all
        found["gelu_tanh"] = spec == SPECS["siglip2_so400m16"]
    return {key: np.asarray(value, np.float32) for key, value in found.items()}
