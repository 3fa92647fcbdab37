"""Which of a run's networks is kept: the one that finds instances best on which it was never trained."""

import logging
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.sampling import HOLD_OUT, rows_of_instances
from sret_jax.errors import UserError
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.training import parallel
from sret_jax.training.shown import Shown
from sret_jax.training.whitening import whitened_start

log = logging.getLogger(__name__)
Tree = dict[str, Any]
WITHOUT = ", or set config.train.validate_every=0 to train without validation"
FEW = 10  # held-out instances below which a gain is hardly ever larger than its standard error, or is by chance


@dataclass(eq=False)
class Validation:
    """Measures networks of a run on `held_out` and remembers the best.

    The score is the leave-one-out mAP, averaged over the queries of an instance and then over instances, in percent. A
    source of m instances counts in proportion to m ** config.data.source_balance, as it does in training. A network
    replaces the best one so far when its score is higher, and its gain over the start is more than the gain's standard
    error over instances: a network that may have won by chance does not replace the one there was.

    before           the variables before training
    start, best      AP of every instance before training and of the best network; None before they are measured
    step, variables  of the best network, made of the step's as `kept` does; the variables in the main process
    curve            (step, score) of everything that was measured
    grew_at          the step at which the run got more steps: what was measured before does not end it again
    """

    config: Config
    network: RetrievalNetwork
    shown: Shown
    held_out: Shown
    before: Tree
    grew_at: int = 0
    start: Float[np.ndarray, "m"] | None = None
    best: Float[np.ndarray, "m"] | None = None
    step: int = 0
    variables: Tree | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if parallel.is_main():
            warn_of_few(len(rows_of_instances(self.held_out.photos, at_least=2)), "config.data.held_out")

    def measure(self, step: int, variables: Tree) -> float:
        """The score of the network with these variables, which may become the best.

        A whitening layer that came with the weights has two chances, as it is and computed anew: a few photographs may
        not be enough for the second. Before training it is measured as it is.
        """
        chosen = variables
        per_instance = np.zeros(len(rows_of_instances(self.held_out.photos, at_least=2)))
        if parallel.is_main():
            networks = []
            if own := self.config.model.whitening_init == "weights":
                networks.append(averaged(self.config, variables, self.before))
            if not own or (step and self.config.train.whitening_refit != "none"):
                networks.append(kept(self.config, variables, self.before, self.shown))
            measured = [self._per_instance(network) for network in networks]
            best = int(np.argmax([found @ self.weights for found in measured]))
            chosen, per_instance = networks[best], measured[best]
        per_instance = np.asarray(parallel.from_main(per_instance))
        score = float(per_instance @ self.weights)
        self.curve.append((step, score))
        if self.start is None or self.best is None:
            self.start = per_instance
        elif not (score > self.best @ self.weights and self._gain(per_instance) > self._error(per_instance)):
            return score
        self.best, self.step, self.variables = per_instance, step, chosen
        return score

    def _per_instance(self, variables: Tree) -> Float[np.ndarray, "m"]:
        """AP of every instance, averaged over its queries, in percent."""
        x = self.held_out.describe(self.network, variables)
        found = leave_one_out_map(x @ x.T, self.held_out.photos.labels)["per_instance"]
        return np.array([found[label] for label in sorted(found)])

    @property
    def weights(self) -> Float[np.ndarray, "m"]:
        """Of every instance in the score; they sum to 1."""
        photos = self.held_out.photos
        labels = [photos.labels[rows[0]] for rows in rows_of_instances(photos, at_least=2)]
        sources = np.array([photos.sources[label] if photos.sources else "" for label in labels])
        _, which, count = np.unique(sources, return_inverse=True, return_counts=True)
        balance = self.config.data.source_balance
        weights: np.ndarray = count[which] ** (balance - 1)
        return weights / weights.sum()

    def _gain(self, per_instance: np.ndarray) -> float:
        return float((per_instance - self.start) @ self.weights)

    def _error(self, per_instance: np.ndarray) -> float:
        """Standard error of the gain: of a weighted mean of independent differences."""
        difference, m = per_instance - self.start, len(per_instance)
        if m < 2:
            return float("inf")
        spread = (difference - self._gain(per_instance)) ** 2
        return float(np.sqrt(np.sum(self.weights**2 * spread) * m / (m - 1)))

    @property
    def since_best(self) -> int:
        """Measurements since the best network's, or since the run grew."""
        return sum(step > max(self.step, self.grew_at) for step, _ in self.curve)

    @property
    def over(self) -> bool:
        """Whether training ends: as many measurements as `config.train.patience` found no better network."""
        return 0 < self.config.train.patience <= self.since_best

    def verdict(self) -> str:
        """One sentence on what was kept and why."""
        assert self.start is not None and self.best is not None
        before, after = float(self.start @ self.weights), float(self.best @ self.weights)
        if self.step:
            gain = f"{after - before:+.2f} ± {self._error(self.best):.2f}"
            return f"step {self.step} is kept: mAP {after:.2f} on held-out instances, {gain} over the start"
        tried = max((score for step, score in self.curve if step), default=before)
        return (
            f"training did not help: no step beats the start (mAP {before:.2f} on held-out instances, at best "
            f"{tried:.2f}) by more than chance, so the network is kept as it was before training"
        )

    def arrays(self) -> Tree:
        """What a checkpoint holds of it beside `record`: the chosen network, and the APs."""
        return {"variables": self.variables, "start": self.start, "best": self.best}

    def record(self) -> Tree:
        return {"step": self.step, "curve": self.curve}

    def restore(self, arrays: Tree, record: Tree) -> None:
        self.variables = {"batch_stats": {}} | arrays["variables"]
        self.start, self.best = arrays["start"], arrays["best"]
        self.step, self.curve = record["step"], [(int(step), float(score)) for step, score in record["curve"]]


def warn_of_few(instances: int, share: str) -> None:
    """Says where too few instances are held out; `share` is what a person raises for more."""
    if instances < FEW:
        log.warning(
            "%s",
            f"validation: {instances} held-out instance{'s' * (instances != 1)} with two photographs or more: too few "
            f"to tell whether training helps, which takes {FEW} or so. Add photographs of more objects, or raise "
            f"{share}",
        )


def kept(config: Config, variables: Tree, before: Tree, shown: Shown) -> Tree:
    """What is kept of a network: `averaged`, and its whitening layer computed anew where the config asks for it."""
    return refilled(config, averaged(config, variables, before), shown)


def averaged(config: Config, variables: Tree, before: Tree) -> Tree:
    """`variables` with the backbone's weights moved towards those before training by `config.train.start_share`.

    Reference: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022: on a straight line between both.
    """
    if not (share := config.train.start_share):
        return variables
    params = variables["params"]
    backbone = jax.tree.map(
        lambda now, start: np.asarray(now + np.float32(share) * (start - now)),  # what did not train stays to the bit
        params["backbone"],
        before["params"]["backbone"],
    )
    return variables | {"params": params | {"backbone": backbone}}


def refilled(config: Config, variables: Tree, shown: Shown) -> Tree:
    """`variables` with the whitening layer computed anew, where `config.train.whitening_refit` asks for it."""
    if config.train.whitening_refit == "none":
        return variables
    return whitened_start(config, variables, shown, config.train.whitening_refit)


def hold_out(
    photos: PhotoSet, share: float, seed: int, named: str = "config.data.held_out", otherwise: str = WITHOUT
) -> tuple[PhotoSet, PhotoSet]:
    """Two sets without a common instance, the second with about `share` of the instances of every source, at least one.

    Photographs without a label stay in the first.

    Raises `UserError` when that leaves fewer than two instances of two photographs to train on. It calls the share as
    it is `named`, and says what a person can do `otherwise` than add photographs.
    """
    several = [int(photos.labels[rows[0]]) for rows in rows_of_instances(photos, at_least=2)]
    rng = np.random.default_rng((seed, HOLD_OUT))
    of_source: dict[str, list[int]] = {}
    for label in rng.permutation(several).tolist():
        of_source.setdefault(photos.sources[label] if photos.sources else "", []).append(label)
    # Dealt out one source after the other, so that small sources share what none of them could give alone.
    dealt = [label for labels in of_source.values() for label in labels]
    count = max(1, round(share * len(dealt)))
    if len(dealt) - count < 2:
        raise UserError(
            f"{named}={share}: of {len(dealt)} instances with two photographs or more that leaves "
            f"{max(0, len(dealt) - count)} to train on, and training needs two; add photographs of more objects"
            f"{otherwise}"
        )
    out = [dealt[int((i + 0.5) * len(dealt) / count)] for i in range(count)]
    return photos.select(np.flatnonzero(~np.isin(photos.labels, out))), photos.select(
        np.flatnonzero(np.isin(photos.labels, out))
    )
