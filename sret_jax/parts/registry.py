"""`register`: a name for a function or class of somebody else's, among those of its kind that come with the package."""

import builtins
import linecache
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, overload

import flax.linen as nn

from sret_jax.config.own_parts import KINDS, Part, enter, own_part
from sret_jax.config.source import Unreadable, definition_line, source_digest
from sret_jax.errors import UserError, choices
from sret_jax.evaluation.benchmark import OPENERS
from sret_jax.localization.methods import METHODS
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.descriptor import POOLINGS, REFINEMENTS, SMOOTHINGS
from sret_jax.parts import protocols
from sret_jax.parts.answers import own_method, own_reranker
from sret_jax.parts.benchmark import own_benchmark
from sret_jax.parts.loss import own_loss
from sret_jax.parts.network import OwnPooling, OwnRefinement, backbone_info, frozen
from sret_jax.reranking.rerankers import RERANKERS
from sret_jax.training.losses import LOSSES

NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # what a config, a flag and a folder can all hold

PoolingT = TypeVar("PoolingT", bound=protocols.Pooling | type[nn.Module])
RefinementT = TypeVar("RefinementT", bound=protocols.Refinement | type[nn.Module])
LossT = TypeVar("LossT", bound=protocols.Loss | type[nn.Module])
BackboneT = TypeVar("BackboneT", bound=type[protocols.Backbone])
RerankerT = TypeVar("RerankerT", bound=protocols.Reranker)
MethodT = TypeVar("MethodT", bound=protocols.LocalizationMethod)
BenchmarkT = TypeVar("BenchmarkT", bound=protocols.OpensBenchmark)


def _module(module: type[nn.Module], part: Part) -> Callable[..., nn.Module]:
    return lambda config: module(part, frozen(part.parameters(config)))


# By kind: the names there are, and what makes a part one of them.
_PLACES: dict[str, tuple[dict[str, Any], Callable[[Part], Any]]] = {
    "pooling": (POOLINGS, partial(_module, OwnPooling)),
    "smoothing": (SMOOTHINGS, partial(_module, OwnRefinement)),
    "refinement": (REFINEMENTS, partial(_module, OwnRefinement)),
    "backbone": (BACKBONES, backbone_info),
    "loss": (LOSSES, own_loss),
    "reranker": (RERANKERS, own_reranker),
    "localizer": (METHODS, own_method),
    "benchmark": (OPENERS, own_benchmark),
}
assert set(_PLACES) == set(KINDS)


@overload
def register(kind: Literal["pooling"], name: str) -> Callable[[PoolingT], PoolingT]: ...
@overload
def register(kind: Literal["smoothing", "refinement"], name: str) -> Callable[[RefinementT], RefinementT]: ...
@overload
def register(kind: Literal["loss"], name: str) -> Callable[[LossT], LossT]: ...
@overload
def register(kind: Literal["backbone"], name: str) -> Callable[[BackboneT], BackboneT]: ...
@overload
def register(kind: Literal["reranker"], name: str) -> Callable[[RerankerT], RerankerT]: ...
@overload
def register(kind: Literal["localizer"], name: str) -> Callable[[MethodT], MethodT]: ...
@overload
def register(kind: Literal["benchmark"], name: str) -> Callable[[BenchmarkT], BenchmarkT]: ...
def register(kind: str, name: str) -> Callable[[Any], Any]:
    """Decorates a function or a class of flax: from here on `name` is what a config, a flag or a call can name.

        @sret_jax.register("pooling", "trimmed")
        def trimmed(x, mask, share=0.1): ...

        ModelConfig(pool="trimmed", parts={"trimmed": {"share": 0.2}})

    It goes on as if it had come with the package: it trains, resumes, is measured and saved. A digest of its source is
    kept with the run (`config.source.source_digest`), and another source refused on resume.

    Args:
      kind: "pooling", "smoothing", "refinement", "backbone", "loss", "reranker", "localizer" or "benchmark"; what each
        has to be is in `parts.protocols`.
      name: letters, digits, "-" and "_".

    Raises:
      UserError: an unknown kind, a name that is taken, or a definition that is not at the top of a file.
    """
    if kind not in _PLACES:
        raise UserError(f"register: no kind {choices(kind, KINDS)}")
    if not NAMES.fullmatch(name):
        raise UserError(f"register({kind!r}, {name!r}): a name has letters, digits, - and _, and begins with a letter")

    def decorate(definition: Any) -> Any:
        part = _part(kind, name, definition)
        known, made = _PLACES[kind]
        before = own_part(kind, name)
        if before is None and name in known:
            raise UserError(f"{part.place}: {kind} {name!r} comes with sret_jax; choose another name")
        if before is not None and os.path.realpath(before.file) != os.path.realpath(part.file):
            raise UserError(f"{part.place}: {kind} {name!r} is there already, of {before.place}; choose another name")
        known[name] = made(part)
        enter(part)
        return definition

    return decorate


def _part(kind: str, name: str, definition: Any) -> Part:
    where = f"register({kind!r}, {name!r})"
    called, module = getattr(definition, "__qualname__", ""), getattr(definition, "__module__", "")
    if not called or called.rpartition(".")[0] or module == builtins.__name__:
        raise UserError(f"{where}: takes a function or class that is defined at the top of a file, not {definition!r}")
    code = getattr(definition, "__code__", None)
    file = code.co_filename if code else getattr(sys.modules.get(module), "__file__", None) or _file_here(module)
    linecache.checkcache(file)
    text = "".join(linecache.getlines(file))
    try:
        digest, line = source_digest(text, called), definition_line(text, called)
    except Unreadable as error:
        raise UserError(
            f"{where}: {file or module}: {error}; the part has to be read to know when it changes"
        ) from None
    origin = module if "." in module else os.path.basename(file)
    return Part(kind, name, digest, origin, file, line, definition)


def _file_here(module: str) -> str:
    """The file of a module that is being run: in a cell of a notebook, or one that is in no list of modules."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame.f_code.co_filename
