"""How much of the exact answers an approximate index finds."""

import numpy as np
from jaxtyping import Float

from sret_jax.retrieval.engine import Engine
from sret_jax.retrieval.index import Index

RECALLS = (10, 100)
SAMPLE = 100  # queries compared
EXACT = ("exact", "brute_force")
EQUAL = 1e-6  # cosines closer than this differ by rounding only


def index_recall(index: Engine, queries: Float[np.ndarray, "q d"], k: int) -> dict[str, float]:
    """Recall of the index against exact search over the same descriptors, percent, on a sample of the queries.

        recall@r = |found at r or before, and as near as the exact r-th| / r

    A photo exactly as near as the r-th stands for it: which of equal ones is first is chance.

    Args:
      index: searched with its own settings.
      queries: all of them; at most `SAMPLE` are searched, the same ones in every run.
      k: depth of the search, as in the search that is evaluated: a shallower one finds less.

    Returns:
      `{"recall@10", "recall@100", "queries", "asked"}`; no recall deeper than k. {} where the index is exact.
    """
    if index.method in EXACT:
        return {}
    sample = np.sort(np.random.default_rng(0).permutation(len(queries))[:SAMPLE])
    depths = sorted({min(r, k) for r in RECALLS})
    exact = Index(index.descriptors, index.names, index.config, "exact", {}, index.fingerprint)
    found, true = index.search(queries[sample], k).scores, exact.search(queries[sample], depths[-1]).scores
    recall = {f"recall@{r}": 100 * float((found[:, :r] >= true[:, r - 1 : r] - EQUAL).mean()) for r in depths}
    return recall | {"queries": len(sample), "asked": k}
