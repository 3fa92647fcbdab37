"""Hard negatives: before every epoch the network as it is says which other instances it finds most similar.

An epoch draws queries with a positive each and a pool of photographs, describes them, and gives every query the most
similar photographs of the pool, at most one of an instance and none of its own. What was mined is part of the state
that a checkpoint holds, since it follows from parameters that are gone when the epoch has begun.

Reference: F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import Config, steps_per_epoch
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch, training_batches
from sret_jax.data.sampling import MINE, TuplePlan, rows_of_instances
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.training import parallel

log = logging.getLogger(__name__)
QUERIES_AT_ONCE = 512  # rows of the similarity matrix that are held


class MinedBatches:
    """Endless batches of tuples. `start_step` comes before the batches of a step are taken."""

    def __init__(self, config: Config, network: RetrievalNetwork, photos: PhotoSet):
        self.config, self.network, self.photos = config, network, photos
        self.epoch, self.tuples = -1, np.zeros((0, 2 + config.train.negatives), np.int64)
        self._batches: Iterator[PhotoBatch] | None = None

    def start_step(self, done: int, variables: Callable[[], Variables]) -> None:
        """Mines when the step after `done` steps is the first of an epoch; `variables` gives the network's own."""
        steps, per_step = steps_per_epoch(self.config), self.config.train.accumulate
        if done // steps != self.epoch:
            self.epoch, self._batches = done // steps, None
            self.tuples = mine(self.config, self.network, variables(), self.photos, self.epoch)
        if self._batches is None:
            first, end = self.epoch * steps * per_step, (self.epoch + 1) * steps * per_step
            self._batches = training_batches(
                self.photos,
                self.config.data,
                seed=self.config.seed,
                size_multiple=self.network.size_multiple,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                plan=TuplePlan(self.tuples, self.config.mining.tuples_per_batch, first),
                numbers=range(done * per_step, end),
            )

    def __next__(self) -> PhotoBatch:
        assert self._batches is not None, "start_step comes first"
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The epoch and its tuples, as JSON values; the position in it follows from the step."""
        return {"epoch": self.epoch, "tuples": self.tuples.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.epoch, self._batches = state["epoch"], None
        self.tuples = np.array(state["tuples"], np.int64).reshape(-1, 2 + self.config.train.negatives)


def mine(
    config: Config, network: RetrievalNetwork, variables: Variables, photos: PhotoSet, epoch: int
) -> Int[np.ndarray, "t n"]:
    """The tuples of an epoch: rows of query, positive and negatives. The same in every process."""
    settings, rng = config.mining, np.random.default_rng((config.seed, MINE, epoch))
    pairs = random_pairs(photos, settings.queries, rng)
    pool = rng.permutation(np.flatnonzero(photos.labels >= 0))[: settings.pool]
    rows = np.union1d(pairs[:, 0], pool)
    x = _describe_together(config, network, variables, photos, rows)
    of_query, of_pool = np.searchsorted(rows, pairs[:, 0]), np.searchsorted(rows, pool)
    labels = photos.labels[pairs[:, 0]], photos.labels[pool]
    negatives = hard_negatives(x[of_query], x[of_pool], *labels, config.train.negatives)
    distance = np.linalg.norm(x[of_query][:, None] - x[of_pool][negatives], axis=2).mean()
    log.info("epoch %d: %d tuples mined, negatives at a mean distance of %.3f", epoch, len(pairs), distance)
    return np.asarray(parallel.from_main(np.concatenate([pairs, pool[negatives]], axis=1)))


def random_pairs(photos: PhotoSet, count: int, rng: np.random.Generator) -> Int[np.ndarray, "q 2"]:
    """Rows of queries and positives: pairs that the set names, or two photographs of an instance.

    No named pair, and no query otherwise, comes again before all have had a turn.
    """
    if photos.pairs is not None:
        return photos.pairs[_turns(len(photos.pairs), count, rng)]
    groups = rows_of_instances(photos, at_least=2)
    if not groups:
        raise UserError(f"{photos.name}: no instance has two photographs, so there is no pair to learn from")
    own = np.concatenate([np.full(len(group), i) for i, group in enumerate(groups)])
    queries = np.concatenate(groups)
    chosen = _turns(len(queries), count, rng)
    positives = [rng.choice(groups[own[i]][groups[own[i]] != queries[i]]) for i in chosen]
    return np.stack([queries[chosen], np.array(positives)], axis=1)


def hard_negatives(
    queries: Float[np.ndarray, "q d"],
    pool: Float[np.ndarray, "m d"],
    query_labels: Int[np.ndarray, "q"],
    pool_labels: Int[np.ndarray, "m"],
    count: int,
) -> Int[np.ndarray, "q n"]:
    """For each query the positions in the pool of its most similar photographs, most similar first.

    At most one of each label and none of the query's own; of equally similar ones of a label the first in the pool.

    Raises:
      UserError: the pool has fewer other labels than `negatives`.
    """
    order = np.argsort(pool_labels, kind="stable")
    labels, starts = np.unique(pool_labels[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    if len(labels) < count + 1:
        raise UserError(
            f"config.train.negatives={count}: the pool shows only {len(labels)} instances, {count + 1} are needed; "
            "lower it, or raise config.mining.pool"
        )
    out = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        similarity = queries[part] @ pool[order].T
        best = np.maximum.reduceat(similarity, starts, axis=1)  # of each label
        best[labels[None] == query_labels[part, None]] = -np.inf
        nearest = np.argsort(-best, axis=1, kind="stable")[:, :count]
        for i, of_query in enumerate(nearest):
            at = [starts[j] + np.argmax(similarity[i, starts[j] : ends[j]]) for j in of_query]
            out[start + i] = order[at]
    return out


def _turns(n: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "m"]:
    """`count` of 0..n-1 in random order, none again before all have come."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]


def _describe_together(
    config: Config, network: RetrievalNetwork, variables: Variables, photos: PhotoSet, rows: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "m d"]:
    """Descriptors of these photographs at one scale; every process describes its share."""
    size = config.mining.image_size or config.data.image_size
    settings = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=size),
        extract=dataclasses.replace(config.extract, scales=(1.0,)),
    )
    processes = jax.process_count()
    shares = np.resize(rows, (processes, -(-len(rows) // processes)))  # of one length, by describing some twice
    described = Extractor(network, variables, settings).describe(photos, shares[jax.process_index()].tolist())
    return parallel.gather_processes(described)[: len(rows)]
