"""What a search answers, as values of JSON: of `POST /search`, and of `sret search --json`."""

from typing import Any

from sret_jax.server.protocols import Answer, Box, Found


def search_result(found: Found, start: int, k: int, discovered: Box | None = None) -> dict[str, Any]:
    """`found` by a search for `k` answers from `start` on, for the object in the box that was `discovered`."""
    height, width = found.size
    return {
        "query": {"width": int(width), "height": int(height)},
        "object": None if discovered is None else [int(x) for x in discovered],
        "searched": [int(x) for x in found.searched],
        "start": start,
        "more": len(found.answers) == k,
        "answers": [_answer(answer) for answer in found.answers],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    height, width = answer.size
    return {
        "name": answer.name,
        "score": float(answer.score),
        "width": int(width),
        "height": int(height),
        "found": None if answer.found is None else bool(answer.found),
        "box": None if answer.box is None else [int(x) for x in answer.box],
        "outlines": [[[int(x), int(y)] for x, y in outline] for outline in answer.outlines],
        "inliers": None if answer.inliers is None else int(answer.inliers),
    }
