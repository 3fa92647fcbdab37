"""Local features of all photographs on disk, 8 bits a number, from SIFT or from a network."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Shaped, UInt8

from sret_jax.config import Config, to_dict
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch, evaluation_batches, load
from sret_jax.data.resizing import content_size, resize
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor, extraction_fingerprint
from sret_jax.extraction.multiscale import resize_input
from sret_jax.extraction.selection import SelectedFeatures, extract_local
from sret_jax.extraction.sift import SIFT_VERSION, sift
from sret_jax.models.attention import l2_attention
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.pooling import l2_normalize
from sret_jax.models.whitening import pca_whitening
from sret_jax.storage.artifacts import fingerprint
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.row_store import Part, RowStore, StoredRows, fill_part, fill_store

LOCAL_VERSION = 1  # of what is made of a map besides what the network does: raise it when that changes
SOURCES = ("sift", "head", "map", "backbone")
LEVELS = 127  # of a number, each way
LEARNED_ON = 200  # photographs, evenly spread, that the reduction of "map" and "backbone" is learned on
Reduction = tuple[Float[np.ndarray | jax.Array, "c"], Float[np.ndarray | jax.Array, "c d"]]  # mean and projection


@runtime_checkable
class FeatureSource(Protocol):
    """What describes photographs by local features."""

    fingerprint: str  # of everything that the features depend on but the photographs

    def __call__(self, photos: PhotoSet, rows: Sequence[int]) -> Iterator[tuple[int, SelectedFeatures]]:
        """The features of each row, in any order; as many slots for every photograph."""
        ...


def feature_dtype(dim: int) -> np.dtype[np.void]:
    """One feature of a record of `pack`, of `dim` numbers."""
    half = np.float16
    named = [("features", np.int8, (dim,)), ("length", half), ("strength", half), ("position", half, (2,))]
    return np.dtype([*named, ("scale", half)])


def pack(selected: Sequence[SelectedFeatures]) -> Shaped[np.ndarray, "b"]:
    """A record per photograph: every feature as 8-bit numbers times its own length, the rest in 16 bits.

    A number is off by at most 1/254 of the largest of its feature, a position by 2^-12 of the photograph.
    """
    n, c = selected[0].features.shape
    out = np.zeros(len(selected), _record_dtype(n, c))
    for to, one in zip(out, selected, strict=True):
        length = np.abs(one.features).max(1).astype(np.float16)
        divisor = np.where(length > 0, length, 1).astype(np.float32)[:, None]
        to["features"] = np.clip(np.rint(one.features / divisor * LEVELS), -LEVELS, LEVELS)
        to["length"], to["strength"], to["position"] = length, one.strength, one.position
        to["scale"], to["count"] = one.scale, one.counts
    return out


def unpack(records: Shaped[np.ndarray, "b"]) -> SelectedFeatures:
    """Inverse of `pack`, up to rounding; float32."""
    features = records["features"].astype(np.float32)
    features *= (records["length"].astype(np.float32) / LEVELS)[..., None]
    strength, position, scale = (records[name].astype(np.float32) for name in ("strength", "position", "scale"))
    return SelectedFeatures(features, strength, position, scale, records["count"])


def _record_dtype(slots: int, dim: int) -> np.dtype[np.void]:
    one = feature_dtype(dim)
    fields = [(name, one[name].base, (slots, *one[name].shape)) for name in one.names or ()]
    return np.dtype([*fields, ("count", np.int32)])


def real_features(record: Shaped[np.void, ""]) -> Shaped[np.ndarray, "n"]:
    """The features of one record of `pack` that are real, one after the other: what is worth keeping of it."""
    out = np.empty(record["count"], feature_dtype(record["features"].shape[-1]))
    for name in out.dtype.names or ():
        out[name] = record[name][: len(out)]
    return out


def as_records(photos: Sequence[Shaped[np.ndarray, "_"]], slots: int) -> Shaped[np.ndarray, "b"]:
    """Records of `pack` with so many slots, of what `real_features` left of them."""
    out = np.zeros(len(photos), _record_dtype(slots, photos[0].dtype["features"].shape[0]))
    for to, own in zip(out, photos, strict=True):
        for name in own.dtype.names or ():
            to[name][: len(own)] = own[name]
        to["count"] = len(own)
    return out


class StoredLocal:
    """The local features of photo sets, one after the other; rows are read from the disk on demand.

    Attributes:
      nbytes: of all of them on disk.
      fingerprint: of the photographs and of everything else that the features depend on.
    """

    def __init__(self, stores: Sequence[RowStore]):
        self._rows = StoredRows(stores)
        self.nbytes = self._rows.nbytes
        self.fingerprint = fingerprint(*(store.fingerprint for store in stores))

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rows: Int[np.ndarray, "b"]) -> SelectedFeatures:
        """Features of these photographs, in this order."""
        return unpack(self._rows[rows])


def store_local(
    source: FeatureSource, photos: PhotoSet, config: Config, folder: Path, shared: Path | None = None
) -> RowStore:
    """The local features of all photos, kept in `folder` and used again while nothing has changed.

    `shared`: as for `fill_store`.

    Raises:
      UserError: a feature is not finite, another process writes to `folder`, the disk is full (what is in the store
        stays), or the device's memory is too small for a batch.
    """

    key, make = local_fingerprint(source, photos), partial(packed, source, photos)
    return fill_store(folder, photos.names, key, config.local.chunk_rows, make, shared=shared)


def store_local_part(source: FeatureSource, photos: PhotoSet, config: Config, folder: Path, part: Part) -> int:
    """Finds those of one part of the photographs, which `store_local` takes over; how many photographs these are.

    Raises as `store_local`.
    """
    key, make = local_fingerprint(source, photos), partial(packed, source, photos)
    return fill_part(folder, photos.names, key, config.local.chunk_rows, make, part)


def local_fingerprint(source: FeatureSource, photos: PhotoSet) -> str:
    """Identifies everything that the local features of `photos` depend on."""
    return fingerprint(source.fingerprint, photos.fingerprint)


def packed(source: FeatureSource, photos: PhotoSet, rows: range) -> Shaped[np.ndarray, "m"]:
    """The local features of a range of photos, as they are stored."""
    found = dict(source(photos, rows))
    return pack([found[row] for row in rows])


def open_source(extractor: Extractor, photos: PhotoSet, config: Config) -> FeatureSource:
    """What finds the local features that `config.local.source` names.

    Args:
      extractor: the network, where features are its own.
      photos: searched; a reduction of "map" and "backbone" is learned from them.
      config: its `local`, `extract` and `data` say how; it may differ from the extractor's own in `local`.

    Raises:
      UserError: an unknown source, or a network without local features of its own.
    """
    source = config.local.source
    if source not in SOURCES:
        raise UserError(f"config.local.source={source!r}; choose one of {', '.join(SOURCES)}")
    if source == "sift":
        return Sift(config)
    if source == "head" and extractor.network.local is None:
        raise UserError(
            "config.local.source='head': the network has no local features of its own; set config.model.local.enabled "
            "in its training, or choose another source"
        )
    return NetworkFeatures(extractor, photos, config)


class Sift:
    """SIFT in the photograph as it is, or reduced to `config.local.image_size`."""

    def __init__(self, config: Config):
        self._config = config
        settings = [config.local.most, config.local.image_size]
        self.fingerprint = fingerprint("sift", settings, SIFT_VERSION)

    def __call__(self, photos: PhotoSet, rows: Sequence[int]) -> Iterator[tuple[int, SelectedFeatures]]:
        with ThreadPoolExecutor(self._config.data.threads) as threads:
            yield from zip(rows, threads.map(partial(self._one, photos), rows), strict=True)

    def _one(self, photos: PhotoSet, row: int) -> SelectedFeatures:
        return self.of_photo(load(photos, row))

    def of_photo(self, photo: UInt8[np.ndarray, "h w 3"]) -> SelectedFeatures:
        """Those of one photograph; may be called by several threads."""
        longest = min(self._config.local.image_size, max(photo.shape[:2]))
        photo = resize(photo, content_size(photo.shape[:2], longest, 1))
        found = sift(photo, self._config.local.most)
        height, width = photo.shape[:2]
        count, most = len(found.features), self._config.local.most
        features, strength, position, scale = (np.zeros((most, *z), np.float32) for z in ((128,), (), (2,), ()))
        out = SelectedFeatures(features, strength, position, scale, np.array(count, np.int32))
        out.features[:count], out.strength[:count], out.scale[:count] = found.features, found.strength, found.scale
        out.position[:count] = found.position * max(height, width) / [width, height]
        return out


class NetworkFeatures:
    """Local features of a network: of its own head, of the map it pools, or of that before smoothing and refinement.

    Those of a map have unit length and the strength of their norm; they are PCA-whitened and shortened.
    """

    def __init__(self, extractor: Extractor, photos: PhotoSet, config: Config):
        self._network, self._variables, self._config = extractor.network, extractor.variables, config
        whole = [to_dict(config.local), extraction_fingerprint(extractor, photos)]
        self.fingerprint = fingerprint(whole, LOCAL_VERSION)
        self._reduction: Reduction | None = None
        if config.local.source != "head":
            self._reduction = self._learn(photos)

    def __call__(self, photos: PhotoSet, rows: Sequence[int]) -> Iterator[tuple[int, SelectedFeatures]]:
        settings = self._config.local
        with enough_memory("finding local features; lower config.extract.batch_size or config.local.scales"):
            batches = self._batches(photos, rows)
            yield from extract_local(self._maps, batches, scales=settings.scales, most=settings.most)

    def _learn(self, photos: PhotoSet) -> Reduction:
        rows = np.unique(np.linspace(0, len(photos) - 1, min(LEARNED_ON, len(photos))).astype(int)).tolist()
        parts = [self._maps(batch["image"], batch["mask"], 1.0) for batch in self._batches(photos, rows)]
        features = np.concatenate([np.asarray(part["features"])[np.asarray(part["mask"])] for part in parts])
        dim = min(self._config.local.dim, features.shape[1])
        mean, projection = pca_whitening(features, dim, self._config.local.shrinkage)
        return mean.astype(np.float32), projection.astype(np.float32)

    def _batches(self, photos: PhotoSet, rows: Sequence[int]) -> Iterator[PhotoBatch]:
        """All in one square shape: several shapes at every scale would compile for longer than they save."""
        return evaluation_batches(
            photos,
            image_size=self._config.data.image_size,
            bucket_ratios=(),
            size_multiple=self._network.size_multiple,
            batch_size=self._config.extract.batch_size,
            rows=rows,
            threads=self._config.data.threads,
            enlarged=None if self._config.data.enlarge else 1.0,
            filter=self._config.data.filter,
            rounding=self._config.data.rounding,
        )

    def _maps(self, images: ArrayLike, mask: ArrayLike, scale: float) -> dict[str, jax.Array]:
        return _local_maps(
            self._network, self._config.local.source, scale, self._variables, self._reduction, images, mask
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _local_maps(
    network: RetrievalNetwork,
    source: str,
    scale: float,
    variables: Variables,
    reduction: Reduction | None,
    images: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    if scale != 1:
        images, mask = resize_input(images, mask, scale, network.size_multiple, recomputed=True)
    found: Any = network.apply(variables, images, mask, method="feature_map")
    x, mask, intermediates = found
    if source == "head":
        return intermediates["local"]
    x = (x if source == "map" else intermediates["backbone"]).astype("float32")
    strength = l2_attention(x) * mask
    x = l2_normalize(x)
    if reduction is not None:
        x = (x - reduction[0][None, None, None]) @ reduction[1]
    return {"features": x * mask[..., None], "strength": strength, "mask": mask}
