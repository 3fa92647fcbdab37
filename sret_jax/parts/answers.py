"""A re-ranker and a method of localization of one's own, among those that go by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config.own_parts import Part
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import Method, PredictedMask
from sret_jax.parts.network import shape_of
from sret_jax.reranking.answers import Candidates, Context, Step
from sret_jax.reranking.rerankers import Reranker

NUMBER = 100  # of the first answers that a re-ranker concerns where the command line does not say


def own_reranker(part: Part) -> Reranker:
    def make(number: int, context: Context) -> Step:
        with part.blamed():
            step = part.definition(number, context, **part.parameters(context.config.rerank))
        if not callable(step):
            raise part.fails(f"gave {type(step).__name__}, not a function from candidates to candidates")

        def checked(candidates: Candidates) -> Candidates:
            before = candidates.ids.copy()  # which it may change in place
            with part.blamed():
                given = step(candidates)
            _check_order(part, before, given)
            return given

        return checked

    return Reranker(make, NUMBER)


def _check_order(part: Part, before: Int[np.ndarray, "q k"], after: Any) -> None:
    """Raises `UserError` unless the same photographs are in another order, with a number each."""
    if not isinstance(after, Candidates):
        raise part.fails(f"gave {type(after).__name__}, not Candidates: use dataclasses.replace(candidates, ids=...)")
    ids, scores = np.asarray(after.ids), np.asarray(after.scores)
    if ids.shape != before.shape or scores.shape != ids.shape:
        raise part.fails(f"gave ids {list(ids.shape)} and scores {list(scores.shape)}, not {list(before.shape)}")
    if not np.array_equal(np.sort(ids, axis=1), np.sort(before, axis=1)):
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


def _checked(part: Part, localizer: Localizer, row: int, given: Any) -> PredictedMask:
    marked = isinstance(given, PredictedMask)
    mask, heat = (given.mask, given.heat) if marked else (given, None)
    size, photo = localizer.size(row), localizer.photos.names[row]
    for name, value, kind in (("mask", mask, np.bool_), ("heat", heat, np.floating)):
        if value is None and name == "heat":
            continue
        if not (isinstance(value, np.ndarray) and np.issubdtype(value.dtype, kind) and value.shape == size):
            wanted = f"a {'bool' if kind is np.bool_ else 'float'} array of numpy, {list(size)}"
            raise part.fails(f"gave {shape_of(value)} as the {name} of {photo}, not {wanted}")
    if heat is not None and not np.isfinite(heat).all():
        raise part.fails(f"gave a heat of {photo} that is not a number everywhere")
    return given if marked else PredictedMask(mask)
