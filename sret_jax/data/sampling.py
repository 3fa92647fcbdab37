"""Which photographs each training batch holds. A plan is a function of the seed and of the batch's number alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from sret_jax.config import DataConfig, trains_singles
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError

PLAN, VIEW, MINE, HOLD_OUT = 0, 1, 2, 3  # separate streams of random numbers from one seed


@runtime_checkable
class Plan(Protocol):
    """`size` photographs a batch, those of all processes together; `rows(number)` says which."""

    @property
    def size(self) -> int: ...

    def rows(self, number: int) -> Int[np.ndarray, " b"]: ...


def rows_of_instances(photos: PhotoSet, at_least: int = 1) -> list[np.ndarray]:
    """The rows of every instance that has at least so many photographs."""
    order = np.argsort(photos.labels, kind="stable")
    labels = photos.labels[order]
    groups = np.split(order, np.flatnonzero(np.diff(labels)) + 1)
    return [group for group in groups if len(group) >= at_least and photos.labels[group[0]] >= 0]


@dataclass(frozen=True, eq=False)
class InstancePlan:
    """P distinct instances times K photos. An instance with fewer than K repeats some of them.

    Where there are fewer instances than P, a batch holds all of them.

    With `source_balance` b below 1, each of the P draws a source first, of those of which an instance is left, in
    proportion to m ** b where it has m instances to train on, and then one of its instances: every instance alike with
    b = 1, every source alike with b = 0.
    """

    photos: PhotoSet
    config: DataConfig
    seed: int

    def __post_init__(self) -> None:
        if len(self.rows_of) < 2:
            of = "" if self._least == 1 else f" with two photographs or more (of {len(self.photos.instances)})"
            raise UserError(
                f"{self.photos.name}: training needs at least two instances{of}, here it has {len(self.rows_of)}; add "
                "photographs"
            )
        if self.config.photos_per_instance < 1:
            raise UserError(f"config.data.photos_per_instance={self.config.photos_per_instance}: must be at least 1")

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        """The rows of every instance that has a pair to learn from, which two views of one photograph may be."""
        return rows_of_instances(self.photos, self._least)

    @property
    def _least(self) -> int:
        """Photographs that an instance needs."""
        return 1 if trains_singles(self.config) else 2

    @property
    def instances(self) -> int:
        """Of a batch."""
        return min(self.config.instances_per_batch, len(self.rows_of))

    @property
    def size(self) -> int:
        return self.instances * self.config.photos_per_instance

    def rows(self, number: int) -> Int[np.ndarray, " b"]:
        rng = np.random.default_rng((self.seed, PLAN, number))
        k = self.config.photos_per_instance
        rows = []
        for instance in self._instances(rng):
            own = rng.permutation(self.rows_of[instance])
            rows.append(np.resize(own, k))  # repeats from the start when it is too short
        return np.concatenate(rows)

    def _instances(self, rng: np.random.Generator) -> Int[np.ndarray, " p"]:
        """P distinct indices into `rows_of`."""
        count = self.instances
        if self.config.source_balance == 1 or len(self._members) < 2:
            return rng.choice(len(self.rows_of), count, replace=False)
        left = np.array([len(own) for own in self._members])
        weights = left**self.config.source_balance
        drawn = np.empty(count, np.int64)  # the source of each instance
        for i in range(count):
            possible = weights * (left > 0)
            drawn[i] = rng.choice(len(weights), p=possible / possible.sum())
            left[drawn[i]] -= 1
        chosen = np.empty(count, np.int64)
        for source in np.unique(drawn):
            at = np.flatnonzero(drawn == source)
            chosen[at] = rng.choice(self._members[source], len(at), replace=False)
        return chosen

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """Of every source the indices into `rows_of` of its instances."""
        sources = self.photos.sources or [""] * len(self.photos.instances)
        own = np.array([sources[self.photos.labels[rows[0]]] for rows in self.rows_of])
        return [np.flatnonzero(own == source) for source in np.unique(own)]


@dataclass(frozen=True, eq=False)
class BalancedPlan:
    """P*K photographs, each of an instance drawn at random: rare instances are seen as often as common ones."""

    photos: PhotoSet
    config: DataConfig
    seed: int

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        return rows_of_instances(self.photos)

    @property
    def size(self) -> int:
        return self.config.instances_per_batch * self.config.photos_per_instance

    def rows(self, number: int) -> Int[np.ndarray, " b"]:
        rng = np.random.default_rng((self.seed, PLAN, number))
        return np.array([rng.choice(self.rows_of[i]) for i in rng.integers(len(self.rows_of), size=self.size)])


@dataclass(frozen=True, eq=False)
class RandomPlan:
    """P*K photographs; all labelled photographs of the set in random order, then again in another."""

    photos: PhotoSet
    config: DataConfig
    seed: int

    @property
    def size(self) -> int:
        return self.config.instances_per_batch * self.config.photos_per_instance

    def rows(self, number: int) -> Int[np.ndarray, " b"]:
        turns = np.arange(number * self.size, (number + 1) * self.size)
        round_of, place = np.divmod(turns, len(self._labelled))
        return np.concatenate([self._order(r)[place[round_of == r]] for r in np.unique(round_of).tolist()])

    @cached_property
    def _labelled(self) -> np.ndarray:
        return np.flatnonzero(self.photos.labels >= 0)

    @cached_property
    def _order(self) -> Callable[[int], np.ndarray]:
        return lru_cache(maxsize=2)(
            lambda r: np.random.default_rng((self.seed, PLAN, r)).permutation(self._labelled)  # one order per round
        )


@dataclass(frozen=True, eq=False)
class TuplePlan:
    """`per_batch` tuples, one after the other, of one epoch's; `first` is the number of its first batch."""

    tuples: Int[np.ndarray, "t n"]
    per_batch: int
    first: int

    @property
    def size(self) -> int:
        return self.per_batch * self.tuples.shape[1]

    def rows(self, number: int) -> Int[np.ndarray, " b"]:
        start = (number - self.first) * self.per_batch
        return self.tuples[start : start + self.per_batch].reshape(-1)


def make_plan(photos: PhotoSet, config: DataConfig, seed: int) -> Plan:
    """The plan that `config.sampling` names, of those that need no mining.

    Raises:
      UserError: no photograph belongs to an instance, or fewer than two instances can be drawn for "instances".
    """
    if not (photos.labels >= 0).any():
        raise UserError(
            f"config.data.root: none of the {len(photos)} photographs of {photos.name} belongs to an instance; "
            'training needs a folder <instance>/<photo>, or config.data.dataset="photos"'
        )
    plans: dict[str, Callable[[PhotoSet, DataConfig, int], Plan]] = {
        "instances": InstancePlan,
        "balanced": BalancedPlan,
        "random": RandomPlan,
    }
    return plans[config.sampling](photos, config, seed)
