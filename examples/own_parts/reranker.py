"""A re-ranker of one's own: an answer counts as much as the query is found among what is like the answer."""

import dataclasses

import numpy as np

import sret_jax


@sret_jax.register("reranker", "mutual")
def mutual(number, context, weight=0.5):
    """Of `--rerank=mutual:NUMBER`. What is needed once for the database is computed here, before the first query."""
    database = context.database.descriptors

    def step(candidates):
        ids, scores = candidates.ids.copy(), candidates.scores.copy()
        for query, row, score in zip(candidates.queries, ids[:, :number], scores[:, :number], strict=True):
            found = row[row >= 0]
            own, others = database[found] @ query, database[found] @ database[found].T
            rank = (others > own[:, None]).mean(1)  # the share of the answers that are more like it than the query is
            new = score[: len(found)] - weight * rank
            order = np.argsort(-new, kind="stable")
            row[: len(found)], score[: len(found)] = found[order], new[order]
        return dataclasses.replace(candidates, ids=ids, scores=scores)

    return step
