"""How well an uncertainty predicts which queries are answered badly. numpy only."""

import numpy as np
from jaxtyping import Bool, Float


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
