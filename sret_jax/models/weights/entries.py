"""Which dict in a checkpoint is the network, and which prefix its names carry.

A file holds one network or several, as dicts of names and arrays, beside whatever else a training keeps. Taken is the
first of what is there:

    averaged weights    state_dict_ema, model_ema, ema, ...     rather than the raw ones beside them
    a teacher           teacher                                 which DINO and its kind average as well
    a network           state_dict, model_state_dict, model, net, ...
    the file itself     names and arrays without a dict around them
    the only other      a dict of any name, if no second one holds a network too

Then names are cut to those of a known layout: `module.`, `_orig_mod.`, `model.`, `backbone.` and any other prefix, also
several one behind the other. Of several networks in one dict the order is the same, where names without a prefix are a
network as `model` is; of MoCo's, `encoder_q` comes before `encoder_k`. A word of the order may be part of a name:
`teacher_backbone`, `backbone_ema`. Whatever order decides is said in a line of the log, with what else there is. A
person chooses by a part: `ENTRY`, `ENTRY/ENTRY`, or a prefix of names behind it, or alone.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import did_you_mean
from sret_jax.models.weights.restricted_pickle import Tensor, Unread
from sret_jax.storage.numpy_pickle import PickledArray
from sret_jax.storage.plain_pickle import Refused

AVERAGED = (
    *("state_dict_ema", "ema_state_dict", "model_ema_state_dict", "model_ema", "ema_model", "params_ema", "ema"),
    *("model_state_dict_ema", "net_ema", "ema_net", "averaged_model", "swa_model", "shadow_params", "shadow"),
)
TEACHER = (
    *("teacher", "teacher_state_dict", "teacher_model", "model_teacher", "target_encoder"),
    *("encoder_q", "base_encoder"),  # MoCo's, of which the one that is evaluated is not the average
)
NETWORK = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "_orig_mod", "model_dict"),
    *("net_state_dict", "network_state_dict", "params", "weights", "backbone", "encoder", "image_encoder", "visual"),
)
LAST = ("student", "student_state_dict", "student_model", "online_encoder", "encoder_k", "momentum_encoder")
ORDER = {name: float(place) for place, name in enumerate((*AVERAGED, *TEACHER, *NETWORK, *LAST))}
# Words of a name that put it where these are, whatever else it says.
MARKS = {word: ORDER[word] for word in ("ema", "teacher", "student")}
NETWORKS = float(len(AVERAGED) + len(TEACHER))  # the place of the first of these
UNORDERED = len(ORDER) - len(LAST) - 0.5  # the place of any other name
DEPTH = 5  # of dicts, and of prefixes
FEW = 8  # names; no network has fewer
SHOWN = 6  # names in an error
CHOOSE = "FILE#NAME, or --entry and --strip of sret convert"  # how a person does

# What heads for another task, and states of a training, are called. What is behind such a name is left out.
HEADS = frozenset(
    "fc head heads head_dist classifier cls_head last_linear last_layer logits projector projection projection_head "
    "proj_head projection_mlp predictor prediction_head prediction_mlp prototypes mlp mlp_head dino_head ibot_head "
    "contrastive_head contrast_head aux_head aux_classifier loss loss_fn criterion margin arcface metric_fc queue "
    "queue_ptr n_averaged".split()
)


class Unclear(Refused):
    """Which network of a file is meant."""


class Found(NamedTuple):
    """A state dict in a file: where it is, its content, and the entries that hold other ones."""

    entry: str  # keys joined by "/"; "" for the file itself
    state: dict[str, Any]
    others: list[str]
    prefix: str  # what of a wanted part is not an entry, and so a prefix of names; "" for none


class Names(NamedTuple):
    """The names of a network among those of a state dict: all that begin with `prefix`."""

    prefix: str
    others: list[str]  # prefixes of further networks


def find_state(root: Any, part: str = "") -> Found:
    """The network in a file that was unpickled, as the head of this file says; or the wanted `part` of it.

    Raises `Refused`, with the entries that there are, where there is none; of its kind `Unclear` where no order decides
    between several, or the part is not there.
    """
    if not isinstance(root, dict):
        raise Refused(f"it holds no dict of tensors{f': {root.reason}' if isinstance(root, Unread) else ''}")
    node, path, rest = root, [], part.strip("/.")
    while keys := [k for k in node if rest and isinstance(k, str) and isinstance(node[k], dict) and _begins(rest, k)]:
        key = max(keys, key=len)
        node, rest = node[key], rest[len(key) :].strip("/.")
        path.append(key)
    found = _choose(node, DEPTH, {})
    if found is None:
        where = f"its entry {'/'.join(path)!r}" if path else "it"
        raise Refused(f"{where} holds no state dict, but {_listed(node)}")
    if isinstance(found, Unclear):
        raise found
    below, others, state = found
    prefix = checked_prefix(rest, state, root)
    return Found("/".join([*path, *below]), state, ["/".join([*path, other]) for other in others], prefix)


def checked_prefix(part: str, names: Mapping[str, Any], entries: Mapping[Any, Any]) -> str:
    """What of a wanted part is no entry, as a prefix of names: "" or words joined by dots.

    Raises `Unclear`, with the entries and the beginnings of names that there are, if no name begins so.
    """
    prefix = part.strip("/.").replace("/", ".")
    if prefix and not any(str(name).startswith(f"{prefix}.") for name in names):
        known = [str(key) for key in entries if key not in names]
        begin = _beginnings(names)
        raise Unclear(
            f"it has no part {part!r}{did_you_mean(prefix.partition('.')[0], [*known, *begin])}"
            f"{f'; its entries are {_some(known)}' if known else ''}; names begin with {_some(begin)}"
        )
    return prefix


def find_names(
    state: Mapping[str, np.ndarray], known: Callable[[Mapping[str, np.ndarray]], bool], prefix: str = ""
) -> Names | None:
    """The prefix behind which the names are `known`, the shortest; None if there is none.

    Within a network only those are looked for that are averages, teachers or students: `ema.` beside its raw names.

    Args:
      known: whether names are those of a layout.
      prefix: of the names to look at, without the dot behind it; "" for all.

    Raises:
      Unclear: several are known, and no order decides between them.
    """
    hits: list[str] = []
    todo = [(f"{prefix}." if prefix else "", DEPTH)]
    while todo:
        at, left = todo.pop(0)
        inside = {name[len(at) :]: value for name, value in state.items() if name.startswith(at)}
        if hit := known(inside):
            hits.append(at)
        if left:
            counts: dict[str, int] = {}
            for name in inside:
                first, dot, _ = name.partition(".")
                counts[first] = counts.get(first, 0) + bool(dot)
            likely = (first for first, count in counts.items() if count >= FEW and (not hit or _is_version(first)))
            todo += [(f"{at}{first}.", left - 1) for first in likely]
    if not hits:
        return None
    ranks = {hit: _place(hit) for hit in hits}
    best = min(ranks.values())
    chosen = [hit for hit in hits if ranks[hit] == best]
    if len(chosen) > 1:
        raise Unclear(f"names that begin with {_some(chosen)} are of a network each; choose one")
    return Names(chosen[0], [hit for hit in hits if hit != chosen[0]])


def heads_among(names: Collection[str]) -> set[str]:
    """Those that belong to a head for another task, or to the state of a training."""
    return {name for name in names if name.partition(".")[0] in HEADS}


def grouped(names: Collection[str]) -> str:
    """Names by their first part, as "fc (2), queue": what a line of the log says of them."""
    counts: dict[str, int] = {}
    for name in sorted(names):
        first = name.partition(".")[0]
        counts[first] = counts.get(first, 0) + 1
    return ", ".join(f"{first} ({count})" if count > 1 else first for first, count in counts.items())


def holds(names: Mapping[str, Any], entries: Mapping[Any, Any]) -> str:
    """What there is, for an error: how names begin, and the entries beside."""
    beside = f"; beside it are {_some(entries)}" if entries else ""
    return f"its names begin with {_some(_beginnings(names))}{beside}"


def is_array(value: Any) -> bool:
    return isinstance(value, Tensor | PickledArray)


Choice = tuple[list[str], list[str], dict[str, Any]]  # path to a network, keys of further ones, and it


def _choose(
    node: dict[Any, Any], depth: int, known: dict[tuple[int, int], Choice | Unclear | None]
) -> Choice | Unclear | None:
    """The network in a dict, None if there is none, or why it is unclear. `known`: of dicts seen before."""
    if (id(node), depth) not in known:
        known[id(node), depth] = None  # a dict may hold itself
        known[id(node), depth] = _chosen(node, depth, known)
    return known[id(node), depth]


def _chosen(
    node: dict[Any, Any], depth: int, known: dict[tuple[int, int], Choice | Unclear | None]
) -> Choice | Unclear | None:
    inner = {
        key: found
        for key, value in node.items()
        if depth and isinstance(key, str) and isinstance(value, dict) and (found := _choose(value, depth - 1, known))
    }
    ordered = sorted((key for key in inner if _order(key) != UNORDERED), key=_order)
    if not ordered and _is_state(node):
        return [], list(inner), node
    if not ordered and len(inner) > 1:
        return Unclear(f"its entries {_some(inner)} hold a network each; choose one")
    for key in ordered or inner:
        found = inner[key]
        if isinstance(found, Unclear):
            return found
        below, _, state = found
        return [key, *below], [other for other in inner if other != key], state
    return None


def _is_state(node: dict[Any, Any]) -> bool:
    """Whether a dict has weights in it: arrays of numbers with axes, by name."""

    def weight(name: Any, value: Any) -> bool:
        if isinstance(value, Tensor):
            return bool(value.shape) and value.storage.dtype.kind not in "iub"
        return isinstance(name, str) and name.endswith(".weight")  # whatever it is, something else was expected

    return any(weight(name, value) for name, value in node.items())


def _place(prefix: str) -> tuple[float, ...]:
    """The place of a prefix in the order: of the words in it that are not just names of a network, else of all."""
    places = [_order(word) for word in prefix.split(".")[:-1]]
    special = [place for place in places if not NETWORKS <= place < UNORDERED]
    return (min(special),) if special else (*places,) or (NETWORKS,)


def _order(name: str) -> float:
    """The place of an entry or a word of a prefix in the order, by all of it or by a part of it."""
    name = name.lower()
    marked = [MARKS[word] for word in name.split("_") if word in MARKS]
    return ORDER.get(name, min(marked, default=UNORDERED))


def _is_version(name: str) -> bool:
    """Whether it is that of an average, a teacher or a student, not just of a network."""
    return not NETWORKS <= _order(name) <= UNORDERED


def _begins(part: str, key: str) -> bool:
    return part == key or part.startswith((f"{key}/", f"{key}."))


def _beginnings(state: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(str(name).partition(".")[0] for name in state))


def _listed(node: Mapping[Any, Any]) -> str:
    """The entries of a dict and what they are, for an error."""

    def kind(value: Any) -> str:
        if isinstance(value, Unread):
            return value.reason
        return "a tensor" if is_array(value) else f"a {type(value).__name__}"

    entries = [f"{str(key)[:40]!r} ({kind(value)})" for key, value in list(node.items())[:SHOWN]]
    return ", ".join(entries) + (", ..." if len(node) > SHOWN else "") or "nothing"


def _some(names: Any) -> str:
    listed = [repr(str(name)[:40]) for name in names]
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")
