"""What a file of weights holds: a foreign checkpoint, converted strictly both ways, or one of our own safetensors.

Every parameter of a foreign file's layout must be in it with the right shape, and everything in it must be used or be
named as something to leave out.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN
from sret_jax.models.weights.layouts import FORMS, Layout, State, find_layout
from sret_jax.models.weights.torch_file import read_bytes, read_torch
from sret_jax.storage.artifacts import write_file

Tree = dict[str, Any]
FORMAT = "sret_jax"  # entry of our own files' metadata
MAX_HEADER = 100 << 20  # bytes, of a safetensors file, as its authors' reader has it
DIR_POWER = 0.25  # of the variance; its authors' scripts give `--whitenp 0.25`
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


class Weights(NamedTuple):
    """What a file holds.

    `variables`: `{"params", "batch_stats"}` with the network's module names below, and `{"whitening": {"mean" [c],
    "projection" [c d]}}` where one that was learned after training is kept.
    """

    variables: Tree
    backbone: str
    stage: str  # the last one that the file has
    layout: str
    whitens: str  # what the whitening layer takes: the "normalized" pooled vector, or "pooled"
    source: str
    sha256: str  # of the foreign file


def read_weights(path: str | Path, layout: str = "auto", learned: str = "", backbone: str = "") -> Weights:
    """The weights in a torch checkpoint, a safetensors file with torch's names, or one that `write_weights` wrote.

    `learned`: one of the whitenings that were learned after training: of cirtorch, in `meta["Lw"]`, "NAME/ss" (one
    scale) or "NAME/ms" (several); of DIR, in `pca`, "NAME". `backbone`: the network that it is taken for, where the
    file alone does not tell. Raises `UserError` naming file and key.
    """
    path = Path(path)
    data = read_bytes(path)
    if data[:4] == b"PK\x03\x04" or path.suffix != ".safetensors":
        state, beside = read_torch(path, data)
    else:
        state, beside = _read_safetensors(path, data)
        if beside.get("format") == FORMAT:
            return _own(path, state, beside)
    found = find_layout(state, layout, path, backbone)
    variables = convert(state, found, source=path)
    if not found.backbone.startswith("efficientnet"):
        mean, deviation = _image_statistics(beside, path)
        statistics = variables.setdefault("batch_stats", {}).setdefault("backbone", {})
        statistics |= {"image_mean": mean, "image_deviation": deviation} | found.statistics
    if learned:
        variables["whitening"] = _learned_whitening(beside, learned, path)
    digest = hashlib.sha256(data).hexdigest()
    return Weights(variables, found.backbone, found.stage, found.name, found.whitens, path.name, digest)


def convert(state: State, layout: Layout, *, source: str | Path) -> Tree:
    """`{"params", "batch_stats"}` in float32, from a torch state dict.

    BatchNorm's counters `num_batches_tracked` are never used. Raises `UserError` that names `source`, the key and, when
    they differ, the shapes.
    """
    flat = {("params", *path): np.zeros(shape, np.float32) for path, shape in layout.zeros.items()}
    unused = {k for k in state if not k.endswith("num_batches_tracked")} - layout.left_out

    def value_of(key: str) -> np.ndarray:
        if key not in state:
            raise UserError(f"{source}: no entry {key!r}, which the layout {layout.name} of {layout.backbone} has")
        unused.discard(key)
        value = np.asarray(state[key])
        if not np.isfinite(value.astype(np.float32)).all():
            raise UserError(f"{source}: {key!r} holds values that are not finite; the file is damaged")
        return value

    moves = {mean: bias for bias, mean in layout.biases.items()}
    for key, leaf in layout.leaves.items():
        form, value = FORMS[leaf.form], value_of(key)
        wanted = form.wanted(leaf.shape)
        if value.shape != wanted:
            raise UserError(f"{source}: {key!r} has the shape {list(value.shape)}, expected {list(wanted)}")
        if key in moves:
            bias = value_of(moves[key])
            if bias.shape != wanted:
                raise UserError(f"{source}: {moves[key]!r} has the shape {list(bias.shape)}, expected {list(wanted)}")
            value = value - bias
        array = np.array(form.turned(value, leaf.shape), np.float32, order="C")
        if leaf.total:
            whole = flat.setdefault((leaf.collection, *leaf.path), np.zeros((*leaf.shape[:-1], leaf.total), np.float32))
            whole[..., leaf.start : leaf.start + leaf.shape[-1]] = array
        else:
            flat[leaf.collection, *leaf.path] = array
    if unused:
        raise UserError(
            f"{source}: unexpected entry {sorted(unused)[0]!r} in a checkpoint of the layout {layout.name} "
            f"with {layout.backbone}"
        )
    return unflatten_dict(flat)


def write_weights(path: str | Path, weights: Weights) -> None:
    """One tensor per variable, its path joined by dots; what else is known goes into the file's metadata."""
    flat = {name: np.asarray(v, order="C") for name, v in flatten_dict(weights.variables, sep=".").items()}
    about = {name: value for name, value in weights._asdict().items() if name != "variables"}
    write_file(Path(path), safetensors.numpy.save(flat, {"format": FORMAT} | about))


def _read_safetensors(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged or not a safetensors file{_where_cut(data)} ({error})") from None
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    state = {}
    for name, entry in entries:
        kind = np.dtype(ml_dtypes.bfloat16) if entry["dtype"] == "BF16" else _TYPES.get(entry["dtype"])
        if kind is None:
            raise UserError(f"{path}: {name!r} is of type {entry['dtype']}; save it as float32, float16 or bfloat16")
        state[name] = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    return state, about


def _where_cut(data: bytes) -> str:
    """The first tensor that reaches beyond the end of a safetensors file; nothing where its header does not tell."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), MAX_HEADER):
        return ""
    try:
        entries = [(e["data_offsets"], k) for k, e in json.loads(data[8:start]).items() if k != "__metadata__"]
        name = next((name for (_, end), name in sorted(entries) if start + end > len(data)), "")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""
    return f": {name[:80]!r} is cut off" if name else ""


def _own(path: Path, state: State, about: Mapping[str, str]) -> Weights:
    groups = {name[:at] for name in state for at, letter in enumerate(name) if letter == "."}
    for name, value in state.items():
        if name in groups:
            raise UserError(f"{path}: {name!r} is both a variable and a group of them; convert the file again")
        if name.split(".")[0] not in ("params", "batch_stats", "whitening") or not np.isfinite(value).all():
            raise UserError(f"{path}: {name!r} is no variable of a network, or not finite; convert the file again")
    known = [field for field in Weights._fields if field != "variables"]
    if any(field not in about for field in known):
        raise UserError(f"{path}: its metadata lacks one of {', '.join(known)}; convert the file again")
    variables = unflatten_dict({name: np.asarray(value, np.float32) for name, value in state.items()}, sep=".")
    return Weights(variables, **{field: about[field] for field in known})


def _image_statistics(beside: Mapping[str, Any], source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel that the photographs are normalised with, of values 0..1.

    cirtorch and SOLAR keep them in `meta`, HOW in `net_params`; where the file is silent they are ImageNet's.
    """
    meta, options = beside.get("meta") or {}, beside.get("net_params") or {}
    pair = (meta.get("mean", IMAGE_MEAN), meta.get("std", IMAGE_DEVIATION))
    pair = (options.get("runtime") or {}).get("mean_std", pair)
    try:
        mean, deviation = (np.asarray(v, np.float32).reshape(3) for v in pair)
    except (TypeError, ValueError):
        raise UserError(f"{source}: its mean and std of photographs are not three numbers each: {pair}") from None
    if not ((0 <= mean) & (mean <= 1) & (deviation > 0) & (deviation <= 1)).all():
        raise UserError(f"{source}: mean {mean.tolist()} and std {deviation.tolist()} are not of photographs in 0..1")
    return mean, deviation


def _learned_whitening(beside: Mapping[str, Any], name: str, source: Path) -> Tree:
    """cirtorch's `P (x - m)`, or DIR's `V (x - m) / l^DIR_POWER`, as mean and projection."""
    try:
        cirtorch = (beside.get("meta") or {}).get("Lw") or {}
        known = {f"{data}/{scale}": (lw, "P", "m") for data, scales in cirtorch.items() for scale, lw in scales.items()}
        known |= {data: (pca, "components_", "mean_") for data, pca in (beside.get("pca") or {}).items()}
        if name not in known:
            raise UserError(f"{source}: no learned whitening {name!r}; it has: {', '.join(known) or 'none'}")
        stored, *parts = known[name]
        p, m = (np.asarray(stored[part], np.float64) for part in parts)
        if stored.get("whiten"):
            p = p / np.asarray(stored["explained_variance_"], np.float64)[:, None] ** DIR_POWER
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: the learned whitening {name!r} is incomplete or damaged ({error!r})") from None
    if p.ndim != 2 or m.size != p.shape[1] or not (np.isfinite(p).all() and np.isfinite(m).all()):
        raise UserError(f"{source}: the learned whitening {name!r} has the shapes {p.shape} and {m.shape}")
    return {"mean": m.reshape(-1).astype(np.float32), "projection": p.T.astype(np.float32)}
