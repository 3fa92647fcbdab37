"""Parts that do not come with the package: which there are, which of them a config names, and what they were.

`sret_jax.register` enters them here. Nothing is ever imported because a folder names it: a part is there when the
person has given its file, or has imported it.
"""

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sret_jax.config.base import Config, ModelConfig
from sret_jax.errors import UserError

OF_NETWORKS = ("pooling", "smoothing", "refinement", "backbone")  # a network cannot be built without them
OF_TRAINING = (*OF_NETWORKS, "loss")  # what reaches the parameters
KINDS = (*OF_TRAINING, "reranker", "localizer", "benchmark")


@dataclass(frozen=True, repr=False)
class Part:
    """A function or class of somebody else's.

    kind, name  as configs name it
    file, line  where it is defined
    origin      what others call the file: its name, or the module of a package
    sha256      of its source: `config.source.source_digest`
    """

    kind: str
    name: str
    sha256: str
    origin: str
    file: str = field(compare=False)
    line: int = field(compare=False)
    definition: Callable[..., Any] = field(compare=False)

    def __repr__(self) -> str:  # it is part of a network's, and so of what stored descriptors depend on
        return f"{self.kind} {self.name} {self.sha256[:16]}"

    @property
    def place(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    def fails(self, what: str) -> UserError:
        """An error of theirs that is found outside of their code."""
        return UserError(f"{self.place}: {self.kind} {self.name!r} {what}")

    def parameters(self, section: Any) -> dict[str, Any]:
        """Its keyword arguments: `parts` of the section of a config that names it."""
        return dict(section.parts.get(self.name, {}))

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Around a call of theirs: an exception becomes a `UserError` with the file and the line in it."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            line = self._line_of(error)
            said = " ".join(str(error).split())
            what = f"{type(error).__name__}: {said if len(said) <= MOST_SAID else said[:MOST_SAID] + '…'}"
            where = f"{os.path.basename(self.file)}:{line}"
            raise UserError(f"{where}: {self.kind} {self.name!r}: {what}") from error

    def _line_of(self, error: BaseException) -> int:
        """The innermost line of their file on the way to an error; where there is none, that of the definition."""
        one: BaseException | None = error
        while one is not None:
            if own := [f.lineno for f in traceback.extract_tb(one.__traceback__) if self._is_in(f.filename)]:
                return own[-1] or self.line
            one = one.__cause__ or one.__context__
        return self.line

    def _is_in(self, file: str) -> bool:
        return file == self.file or os.path.realpath(file) == os.path.realpath(self.file)


MOST_SAID = 400  # characters of an exception in an error
_PARTS: dict[tuple[str, str], Part] = {}


def enter(part: Part) -> None:
    _PARTS[part.kind, part.name] = part


def own_part(kind: str, name: str) -> Part | None:
    """The part of this kind and name that has been registered; None of what comes with the package, too."""
    return _PARTS.get((kind, name))


def own_names(kind: str) -> tuple[str, ...]:
    return tuple(name for one, name in _PARTS if one == kind)


def own_stages() -> tuple[str, ...]:
    """The names of the stages of backbones of one's own."""
    backbones = [part.definition for (kind, _), part in _PARTS.items() if kind == "backbone"]
    return tuple(dict.fromkeys(str(name) for backbone in backbones for name in getattr(backbone, "stages", ())))


def named_parts(config: Config) -> list[tuple[str, str]]:
    """`(kind, name)` of everything that a config uses of the kinds that there can be one's own of."""
    model = config.model
    return [
        *network_parts(model),
        ("loss", config.train.loss),
        *(("reranker", stage.partition(":")[0]) for stage in config.rerank.stages),
        *(("localizer", method) for method in config.localize.methods),
        *(("benchmark", name.partition("+")[0]) for name in config.eval.benchmarks),
    ]


def network_parts(model: ModelConfig) -> list[tuple[str, str]]:
    return [
        ("backbone", model.backbone),
        ("pooling", model.pool),
        *([("smoothing", model.smoothing.form)] if model.smoothing.enabled else []),
        *([("refinement", model.refinement.form)] if model.refinement.enabled else []),
    ]


def parts_of(config: Config, kinds: Sequence[str] = KINDS) -> list[Part]:
    """The registered parts that a config names."""
    found = (own_part(kind, name) for kind, name in named_parts(config) if kind in kinds)
    return [part for part in found if part is not None]


def with_sources(config: Config) -> Config:
    """The config as it is written: with the origin and the digest of every part in it that is somebody's own.

    What was written of a part that is not there now, as a loss is not needed to describe, stays.
    """
    named = {" ".join(one) for one in named_parts(config)}
    before = {one: written for one, written in config.sources.items() if one in named}
    now = {f"{part.kind} {part.name}": f"{part.origin} {part.sha256}" for part in parts_of(config)}
    return dataclasses.replace(config, sources=before | now)


def check_sources(config: Config, where: str, *, changed: bool = False, kinds: Sequence[str] = OF_NETWORKS) -> None:
    """Raises `UserError` where a config that was written names a part that is not there, or is another one now.

    Args:
      where: it was written, for the error.
      changed: a part may be another one.
      kinds: of the parts that are needed.
    """
    for named, written in config.sources.items():
        kind, _, name = named.partition(" ")
        origin, _, digest = written.partition(" ")
        part = own_part(kind, name)
        if kind not in kinds:
            continue
        if part is None:
            raise UserError(
                f"{where}: needs the {kind} {name!r} of {origin}, which does not come with sret_jax, and nothing is "
                f"imported because a folder names it: give --parts={origin}, or in Python import it before"
            )
        if part.sha256 != digest and not changed:
            raise UserError(
                f"{part.place}: the {kind} {name!r} is not what {where} was made with; put it back, or accept it with "
                "--config.changed_parts=True (train, eval), and for a collection with another --retriever (index)"
            )


def suspects(config: Config, kinds: Sequence[str] = OF_TRAINING) -> str:
    """For an error about numbers that are not finite: where they may come from; "" where all comes with the package."""
    found = [f"{part.place} ({part.kind} {part.name!r})" for part in parts_of(config, kinds)]
    return f"; look first at your own {', '.join(found)}" if found else ""
