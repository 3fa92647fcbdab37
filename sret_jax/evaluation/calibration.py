"""How well an uncertainty predicts which queries are answered badly. numpy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


def auroc(uncertainty: Float[np.ndarray, "q"], bad: Bool[np.ndarray, "q"]) -> float:
    """The chance that a bad query is more uncertain than a good one, an equal one counting half.

    0.5 is no knowledge, 1 perfect. It is the area under the receiver operating characteristic.

    Args:
      uncertainty: of each query, finite.
      bad: whether it is answered badly, e.g. its AP is below a threshold.

    Returns:
      In [0, 1]; nan where all are bad or none is.
    """
    good = np.sort(uncertainty[~bad])
    failed = uncertainty[bad]
    below = np.searchsorted(good, failed, "left") + np.searchsorted(good, failed, "right")
    return float(below.sum() / (2 * len(good) * len(failed))) if len(good) and len(failed) else float("nan")


def risk_coverage(
    uncertainty: Float[np.ndarray, "q"], ap: Float[np.ndarray, "q"]
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The risk of answering only the most certain queries: the mean of 1 - AP over each share of them.

    Queries of equal uncertainty are answered together or not at all, so the order they come in does not matter.

    Args:
      uncertainty: of each query, finite.
      ap: in [0, 1]; nan = nothing to find, the query is left out.

    Returns:
      coverage, rising to 1, and risk, with one entry for each distinct uncertainty.
    """
    valid = ~np.isnan(ap)
    levels, level = np.unique(uncertainty[valid], return_inverse=True)
    answered = np.cumsum(np.bincount(level, minlength=len(levels)))
    lost = np.cumsum(np.bincount(level, 1 - ap[valid], minlength=len(levels)))
    return answered / max(valid.sum(), 1), lost / answered


def calibration(
    uncertainty: Mapping[int, float], queries: Int[np.ndarray, "q"], ap: Float[np.ndarray, "q"]
) -> dict[str, Any]:
    """How well the uncertainty that a re-ranker has found predicts which queries are answered badly; {} without any.

    Args:
      uncertainty: by row of the query.
      queries: rows of the queries that were searched.
      ap: average precision of each; nan = not scored.
    """
    known = [i for i, row in enumerate(queries) if int(row) in uncertainty and not np.isnan(ap[i])]
    if not known:
        return {}
    values, own = np.array([uncertainty[int(queries[i])] for i in known]), ap[known]
    coverage, risk = risk_coverage(values, own)
    worse = float(np.median(own))
    return {
        "queries": len(known),
        "AUROC": auroc(values, own < worse),
        "bad": f"AP below {100 * worse:.2f} %, the median",
        "coverage": coverage.tolist(),
        "risk": risk.tolist(),
    }
