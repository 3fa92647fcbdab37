"""What a file of weights holds: a foreign checkpoint, converted strictly both ways, or one of our own safetensors.

Every parameter of a foreign file's layout must be in it with the right shape, and everything in it must be used or be
named as something to leave out. Which of several networks in a file is meant says `entries`.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from sret_jax.errors import UserError
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.weights.entries import CHOOSE, Unclear, checked_prefix, find_names, grouped, heads_among, holds
from sret_jax.models.weights.folder import beside, open_folder
from sret_jax.models.weights.layouts import FORMS, Layout, State, find_layout, recognised
from sret_jax.models.weights.preprocessing import preprocessing
from sret_jax.models.weights.source import Place, located
from sret_jax.models.weights.torch_file import TorchFile, read_bytes, read_torch
from sret_jax.storage.artifacts import write_file
from sret_jax.storage.files import Unreadable
from sret_jax.storage.foreign import check_safetensors
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)
Tree = dict[str, Any]
FORMAT = "sret_jax"  # entry of our own files' metadata
PLAIN = "the names without a prefix"  # in what is said of a choice
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
    filter: str = ""  # that its authors resize photographs with, and how they round: as `config.data`; "" if unknown
    rounding: str = ""
    part: str = ""  # of the foreign file: entry, and prefix of names


def read_weights(
    source: str | Path | Place, layout: str = "auto", learned: str = "", part: str = "", backbone: str = ""
) -> Weights:
    """The weights in a torch checkpoint, a safetensors file with torch's names, a saved folder, or a file of our own.

    Args:
      source: as in `source`: a file or folder, of the hub too, with a part of it behind "#"; or where that is.
      layout: of the names; by default what they show.
      learned: one of the whitenings that were learned after training: of cirtorch, in `meta["Lw"]`, "NAME/ss" (one
        scale) or "NAME/ms" (several); of DIR, in `pca`, "NAME".
      part: of the file, where `source` has none.
      backbone: the network that it is taken for, where the file alone does not tell.

    Raises:
      UserError: names file and key.
    """
    place = source if isinstance(source, Place) else located(source)
    if part and place.part:
        raise UserError(f"{place.path}: two parts of it are asked for, {place.part!r} and {part!r}; leave one out")
    part = part or place.part
    saved = _read(place.path, part)
    if isinstance(format := saved.beside.get("format"), str) and format == FORMAT:
        for what, given in (("part", part), ("learned whitening", learned), ("layout", layout.removeprefix("auto"))):
            if given:
                raise UserError(
                    f"{place.path}: was converted before, so it has no {what} {given!r} to choose; convert the "
                    "checkpoint that it was made of"
                )
        return _own(place.path, saved.state, saved.beside)
    named, prefix, outside = _named(saved, layout, place.path)
    try:
        found = find_layout(named, layout, place.path, backbone, saved.about)
    except UserError as error:
        if recognised(named, layout):
            raise
        raise UserError(f"{error}; {holds(named, saved.beside)}") from None
    named, heads = _without_heads(named, found)
    variables = convert(named, found, source=place.path)
    around = prefix[: prefix.rstrip(".").rfind(".") + 1]
    if outside or heads:
        log.info("%s: left out: %s", place.label, grouped([name.removeprefix(around) for name in outside] + heads))
    info = BACKBONES[found.backbone]
    silent = info.mean, info.deviation
    shown = preprocessing(found.name, silent, saved.beside, saved.about, saved.preprocessor, place.path)
    statistics = variables.setdefault("batch_stats", {}).setdefault("backbone", {})
    statistics |= found.statistics
    if not info.fixed:
        statistics |= {"image_mean": shown.mean, "image_deviation": shown.deviation}
    if learned:
        variables["whitening"] = _learned_whitening(saved.beside, learned, place.path)
    return Weights(
        variables,
        found.backbone,
        found.stage,
        found.name,
        found.whitens,
        place.label,
        saved.digest,
        shown.filter,
        shown.rounding,
        "/".join(filter(None, (saved.entry, prefix.removesuffix(".")))),
    )


class _Saved(NamedTuple):
    """What files of weights hold before names are looked at."""

    state: State
    beside: Mapping[str, Any]
    about: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    digest: str  # sha256 of the file; of several, of their digests
    entry: str = ""  # of the file, that is the network
    others: Sequence[str] = ()  # entries that are further networks
    rest: str = ""  # what of the wanted part is no entry


def _read(path: Path, part: str) -> _Saved:
    if not path.is_dir():
        about, preprocessor = beside(path)
        state, read, digest = _read_file(path, part)
        if not isinstance(read, TorchFile):
            return _Saved(state, read, about, preprocessor, digest, rest=part)
        entry, _, others, rest = read.found
        return _Saved(state, read.beside, about, preprocessor, digest, entry, others, rest)
    folder = open_folder(path)
    if len(folder.files) == 1:
        return _read(folder.files[0], part)._replace(about=folder.about, preprocessor=folder.preprocessor)
    whole: dict[str, np.ndarray] = {}
    digests = []
    for file in folder.files:
        state, _, digest = _read_file(file, "")
        digests.append(digest)
        for name, value in state.items():
            if folder.weight_map.get(name) != file.name:
                raise UserError(f"{file}: holds {name!r}, which the index of its folder does not know there")
            whole[name] = value
    missing = [name for name in folder.weight_map if name not in whole]
    if missing:
        raise UserError(
            f"{path}: no entry {missing[0]!r} in {folder.weight_map[missing[0]]}, which its index names there"
        )
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return _Saved(whole, {}, folder.about, folder.preprocessor, digest, rest=part)


def _read_file(path: Path, part: str) -> tuple[State, TorchFile | Mapping[str, Any], str]:
    """State dict, what is beside it or the whole torch file, and sha256."""
    data = read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if data[:4] == b"PK\x03\x04" or path.suffix != ".safetensors":
        torch = read_torch(path, data, part)
        return torch.state, torch, digest
    return *_read_safetensors(path, data), digest


def _named(saved: _Saved, layout: str, path: Path) -> tuple[State, str, list[str]]:
    """The network's own names and arrays, the prefix that they had, and the names that do not have it.

    What an order decided is logged. Raises `UserError` where none does.
    """
    entries = dict.fromkeys([*saved.entry.split("/")[:1], *saved.others, *saved.beside])
    try:
        wanted = checked_prefix(saved.rest, saved.state, entries)
        names = find_names(saved.state, lambda inside: recognised(inside, layout), wanted)
    except Unclear as error:
        raise UserError(f"{path}: {error}: {CHOOSE}") from None
    prefix = names.prefix if names else f"{wanted}." if wanted else ""
    others = [*saved.others, *(other.removesuffix(".") or PLAIN for other in (names.others if names else ()))]
    if others:
        taken = "/".join(filter(None, (saved.entry, prefix.removesuffix(".")))) or PLAIN
        log.warning("%s: takes %s, not %s; to choose: %s", path.name, taken, ", ".join(others), CHOOSE)
    within = tuple(other for other in (names.others if names else ()) if other.startswith(prefix) and other != prefix)
    own = {name for name in saved.state if name.startswith(prefix) and not name.startswith(within)}
    inside = {name[len(prefix) :]: value for name, value in saved.state.items() if name in own}
    return inside, prefix, [name for name in saved.state if name not in own]


def _without_heads(state: State, layout: Layout) -> tuple[State, list[str]]:
    """The state without what belongs to heads for another task, and the names of that."""
    extra = heads_among([name for name in state if name not in layout.leaves and name not in layout.biases])
    named = [name for name in state if name in extra]
    return {name: value for name, value in state.items() if name not in extra}, named


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


@plainly()
def write_weights(path: str | Path, weights: Weights) -> None:
    """One tensor per variable, its path joined by dots; what else is known goes into the file's metadata."""
    flat = {name: np.asarray(v, order="C") for name, v in flatten_dict(weights.variables, sep=".").items()}
    about = {name: value for name, value in weights._asdict().items() if name != "variables"}
    write_file(Path(path), safetensors.numpy.save(flat, {"format": FORMAT} | about))


def _read_safetensors(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        about = check_safetensors(data)
        entries = safetensors.deserialize(data)
    except (Unreadable, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file: {error}; fetch or convert it again") from None
    state = {}
    for name, entry in entries:
        kind = np.dtype(ml_dtypes.bfloat16) if entry["dtype"] == "BF16" else _TYPES.get(entry["dtype"])
        if kind is None:
            raise UserError(f"{path}: {name!r} is of type {entry['dtype']}; save it as float32, float16 or bfloat16")
        state[name] = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    return state, about


def _own(path: Path, state: State, about: Mapping[str, str]) -> Weights:
    groups = {name[:at] for name in state for at, letter in enumerate(name) if letter == "."}
    for name, value in state.items():
        if name in groups:
            raise UserError(f"{path}: {name!r} is both a variable and a group of them; convert the file again")
        if name.split(".")[0] not in ("params", "batch_stats", "whitening") or not np.isfinite(value).all():
            raise UserError(f"{path}: {name!r} is no variable of a network, or not finite; convert the file again")
    known = [field for field in Weights._fields if field != "variables"]
    if any(not isinstance(about.get(field, Weights._field_defaults.get(field)), str) for field in known):
        raise UserError(f"{path}: its metadata lacks one of {', '.join(known)}; convert the file again")
    info = BACKBONES.get(about["backbone"])
    if info is None or about["stage"] not in info.stages:
        what = f"{about['backbone'][:80]!r} up to {about['stage'][:80]!r}"
        raise UserError(f"{path}: holds {what}, which is no backbone here; convert the file again")
    variables = unflatten_dict({name: np.asarray(value, np.float32) for name, value in state.items()}, sep=".")
    return Weights(variables, **{field: about[field] for field in known if field in about})


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
