"""A re-ranker and a method of localization of one's own, among those that go by name."""

import inspect
from collections.abc import Sequence

import numpy as np

from sret_jax.config.own_parts import Part
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import Method, PredictedMask
from sret_jax.parts.network import shape_of
from sret_jax.reranking.answers import Candidates, Context, Step
from sret_jax.reranking.rerankers import Reranker

NUMBER = 100  # of the first answers that a re-ranker concerns where neither it nor the command line says


def own_reranker(part: Part) -> Reranker:
    def make(number: int, context: Context) -> Step:
        with part.blamed():
            step = part.definition(number, context, **part.parameters(context.config.rerank))
        if not callable(step):
            raise part.fails(f"gave {type(step).__name__}, not a function from candidates to candidates")

        def checked(candidates: Candidates) -> Candidates:
            with part.blamed():
                given = step(candidates)
            _check_order(part, candidates, given)
            return given

        return checked

    first = next(iter(inspect.signature(part.definition).parameters.values()), None)
    return Reranker(make, first.default if first is not None and isinstance(first.default, int) else NUMBER)


def _check_order(part: Part, before: Candidates, after: Candidates) -> None:
    """Raises `UserError` unless the same photographs are in another order, with a number each."""
    if not isinstance(after, Candidates):
        raise part.fails(f"gave {type(after).__name__}, not Candidates: use dataclasses.replace(candidates, ids=...)")
    ids, scores = np.asarray(after.ids), np.asarray(after.scores)
    if ids.shape != before.ids.shape or scores.shape != ids.shape:
        raise part.fails(f"gave ids {list(ids.shape)} and scores {list(scores.shape)}, not {list(before.ids.shape)}")
    if not np.array_equal(np.sort(ids, axis=1), np.sort(before.ids, axis=1)):
        raise part.fails("gave other photographs than it got: it may change their order and nothing else")
    if np.isnan(scores).any():
        raise part.fails(f"gave a score that is not a number, for query {int(np.isnan(scores).any(1).argmax())}")


def own_method(part: Part) -> Method:
    def locate(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
        with part.blamed():
            found = list(part.definition(localizer, query, rows, **part.parameters(localizer.config.localize)))
        if len(found) != len(rows):
            raise part.fails(f"gave {len(found)} masks for {len(rows)} photographs")
        return [_checked(part, localizer, row, one) for row, one in zip(rows, found, strict=True)]

    return locate


def _checked(part: Part, localizer: Localizer, row: int, given: PredictedMask | np.ndarray) -> PredictedMask:
    marked = given if isinstance(given, PredictedMask) else PredictedMask(np.asarray(given))
    for name, value, kind in (("mask", marked.mask, np.bool_), ("heat", marked.heat, np.floating)):
        if value is None and name == "heat":
            continue
        if not (isinstance(value, np.ndarray) and np.issubdtype(value.dtype, kind)) or value.shape != localizer.size(
            row
        ):
            size, what = list(localizer.size(row)), "bool" if kind is np.bool_ else "float"
            raise part.fails(
                f"gave {shape_of(value)} as the {name} of {localizer.photos.names[row]}, not {what} {size}"
            )
    if marked.heat is not None and not np.isfinite(marked.heat).all():
        raise part.fails(f"gave a heat of {localizer.photos.names[row]} that is not a number everywhere")
    return marked
