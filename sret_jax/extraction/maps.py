"""Feature maps of all photographs on disk, for localization: every method reads the same ones."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float16, Float32, Int

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor, extraction_fingerprint
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.storage.artifacts import fingerprint
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.row_store import RowStore, StoredRows, fill_store

MAPS_VERSION = 1  # of what is stored of a map that the network makes: raise it when that changes


def localizing_network(network: RetrievalNetwork, config: Config) -> RetrievalNetwork:
    """The network whose `feature_map` is what `config.localize.source` names; the variables stay the same.

    Raises `UserError` for a stage that the backbone does not have up to the one that is pooled.
    """
    source = config.localize.source
    if source == "map":
        return network
    plain = network.clone(smoothing=None, refinement=None, local=None)
    if source == "backbone":
        return plain
    stages = list(BACKBONES[config.model.backbone].stages)
    before = stages[: stages.index(network.stage) + 1]
    if "keys" in stages and network.stage in ("c5", "last"):  # of a transformer, whose last block gives both
        before = [*before, "keys"]
    if source not in before:
        choices = ", ".join(["map", "backbone", *before])
        raise UserError(f"config.localize.source={source!r}: this network has {choices}")
    return plain.clone(stage=source)


class StoredMaps:
    """The maps of a photo set; rows are read from the disk on demand."""

    def __init__(self, store: RowStore):
        self._rows = StoredRows([store])

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rows: Int[np.ndarray, "b"]) -> tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, "b h w"]]:
        """Maps of these photographs and where in them the photographs are."""
        maps, mask = self.as_stored(rows)
        return maps.astype(np.float32), mask

    def as_stored(self, rows: Int[np.ndarray, "b"]) -> tuple[Float16[np.ndarray, "b h w c"], Bool[np.ndarray, "b h w"]]:
        """The same in 16 bits."""
        records = self._rows[rows]
        height, width = records["map"].shape[1:3]
        down, across = (np.arange(n)[None] < records["size"][:, i, None] for i, n in enumerate((height, width)))
        return records["map"], down[:, :, None] & across[:, None]


def store_maps(
    extractor: Extractor,
    network: RetrievalNetwork,
    photos: PhotoSet,
    image_size: int,
    folder: Path,
    *,
    write: bool = True,
    shared: Path | None = None,
) -> StoredMaps:
    """The maps of all photographs in 16 bits, kept in `folder` and used again while nothing has changed.

    Args:
      extractor: parameters and settings.
      network: of `localizing_network`, which shares the parameters.
      photos: all in one square shape of `image_size`.
      write: False reads what another process has made.
      shared: as for `fill_store`.

    Raises:
      UserError: another process writes to `folder`, the disk is full, or the device's memory too small.
    """
    config = extractor.config
    settings = [repr(network), image_size, config.localize.source, MAPS_VERSION]
    key = fingerprint(extraction_fingerprint(extractor, photos), settings)

    def rows_of(rows: range) -> np.ndarray:
        return _records(network, extractor.variables, photos, config, image_size, rows)

    if not write:
        return StoredMaps(RowStore.load(folder, key))
    return StoredMaps(fill_store(folder, photos.names, key, config.localize.chunk_rows, rows_of, shared=shared))


def _records(
    network: RetrievalNetwork,
    variables: Variables,
    photos: PhotoSet,
    config: Config,
    image_size: int,
    rows: Sequence[int],
) -> np.ndarray:
    batches = evaluation_batches(
        photos,
        image_size=image_size,
        bucket_ratios=(),
        size_multiple=network.size_multiple,
        batch_size=config.extract.batch_size,
        rows=rows,
        threads=config.data.threads,
        filter=config.data.filter,
        rounding=config.data.rounding,
    )
    out: np.ndarray | None = None
    for batch in batches:
        with enough_memory("making feature maps; lower config.extract.batch_size or config.localize.image_size"):
            maps, mask = jax.device_get(_map(network, variables, batch["image"], batch["mask"]))
        if out is None:
            out = np.zeros(len(rows), [("map", np.float16, maps.shape[1:]), ("size", np.int32, (2,))])
        real = batch["row"] >= 0
        place = batch["row"][real] - rows[0]
        out["map"][place] = np.clip(maps[real], *(np.finfo(np.float16).max * np.array([-1, 1])))
        out["size"][place] = np.stack([mask[real].any(2).sum(1), mask[real].any(1).sum(1)], 1)
    assert out is not None  # a chunk has photographs
    return out


@partial(jax.jit, static_argnums=0)
def _map(network: RetrievalNetwork, variables: Variables, images: Array, mask: Array) -> tuple[Array, Array]:
    found: Any = network.apply(variables, images, mask, method="feature_map")
    x, mask, _ = found
    return x, mask
