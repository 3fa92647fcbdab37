"""What a run shows its network: views of photographs, or of maps that were made of them once."""

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sret_jax.config import Config
from sret_jax.data.folders import plain_name
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import training_batches
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.extraction.maps import StoredMaps, store_maps
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.backbones.base import STAGES
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.pooling import SPoC
from sret_jax.storage.provenance import enough_memory
from sret_jax.training import parallel

log = logging.getLogger(__name__)


def last_fixed_stage(config: Config, network: RetrievalNetwork) -> str:
    """The last stage of the backbone whose map stays the same during training.

    Raises `UserError` where there is none because the whole backbone trains, or none that a transformer goes on from.
    """
    stages = list(BACKBONES[config.model.backbone].stages)
    stages = stages[: stages.index(network.stage) + 1]
    attended = [stages.index(stage) for stage in config.model.attention.stages]
    fixed = [
        stage
        for i, stage in enumerate(stages)
        if not network.backbone.trains(STAGES.index(stage if stage in STAGES else "last"))
        and all(i < first for first in attended)
    ]
    if fixed and fixed[-1] != network.stage and not network.backbone.goes_on:
        raise UserError(
            f"config.train.on_maps: {config.model.backbone} cannot go on from the map of {fixed[-1]!r}, the last that "
            f"stays the same with config.train.train_from={config.train.train_from!r}; train on photographs "
            "(config.train.on_maps=False)"
        )
    if not fixed:
        raise UserError(
            f"config.train.on_maps: no map stays the same with config.train.train_from={config.train.train_from!r} and "
            f"attention after {config.model.attention.stages}; train on photographs (config.train.on_maps=False)"
        )
    return fixed[-1]


@dataclass(frozen=True, eq=False)
class Shown:
    """Photographs of a run, for training or validation, the way its network sees them.

    maps   of stage `given`, which stays the same; None: the photographs themselves
    """

    photos: PhotoSet
    config: Config
    maps: StoredMaps | None = None
    given: str = ""

    def batches(self, network: RetrievalNetwork) -> Any:
        """Endless training batches of this process, as `config.data` plans them."""
        return training_batches(
            self.photos,
            self.config.data,
            seed=self.config.seed,
            size_multiple=network.size_multiple,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            maps=self.maps and self.maps.as_stored,
        )

    def describe(self, network: RetrievalNetwork, variables: Variables) -> Float[np.ndarray, "n d"]:
        """Descriptors of all photographs: at the scales of `config.extract`, or where that is one, of the maps."""
        if self.maps is None or tuple(self.config.extract.scales) != (1.0,):
            return Extractor(network, variables, self.config).describe(self.photos, range(len(self.photos)))
        size, found = self.config.extract.batch_size, []
        with enough_memory(f"describing {size} maps at once; lower config.extract.batch_size"):
            for start in range(0, len(self.photos), size):
                rows = np.arange(start, start + size) % len(self.photos)  # a last batch is filled up
                maps, mask = self.maps.as_stored(rows)
                found.append(np.asarray(_describe(network, variables, maps, mask, self.given)))
        return np.concatenate(found)[: len(self.photos)]


@partial(jax.jit, static_argnums=(0, 4))
def _describe(
    network: RetrievalNetwork, variables: Variables, maps: jax.Array, mask: jax.Array, given: str
) -> jax.Array:
    found: Any = network.apply(variables, maps, mask, given=given)
    return found[0]


def shown(config: Config, network: RetrievalNetwork, variables: Variables, photos: PhotoSet, cache: Path) -> Shown:
    """The photographs, or with `config.train.on_maps` their maps, which are made once and kept below `cache`.

    Networks that share the stages up to the last fixed one share the maps.

    Args:
      variables: of the start; only what makes the map of the last fixed stage is used.
      cache: of prepared photographs.
    """
    if not config.train.on_maps:
        return Shown(photos, config)
    given = last_fixed_stage(config, network)
    bare = network.backbone.clone(train_from="none", update_stats=False, parent=None)
    plain = RetrievalNetwork(bare, SPoC(), given, network.size_multiple)
    backbone = {kind: {"backbone": tree["backbone"]} for kind, tree in variables.items() if "backbone" in tree}
    settings = dataclasses.replace(config, localize=dataclasses.replace(config.localize, source="backbone"))
    size = config.data.image_size
    folder = cache / "maps" / f"{plain_name(photos.name)}-{photos.fingerprint[:12]}-{given}-{size}"
    store = partial(store_maps, Extractor(plain, backbone, settings), plain, photos, size, folder)
    if parallel.is_main():
        maps = store()
    parallel.wait_for_all(f"maps {folder.name}")
    if not parallel.is_main():
        maps = store(write=False)
    log.info("%s: %d maps of stage %s", photos.name, len(maps), given)
    return Shown(photos, config, maps, given)
