"""Photographs to descriptors: compiled batches, one compilation per bucket shape, restartable chunk by chunk."""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int8

from sret_jax.config import Config, DataConfig, to_dict
from sret_jax.config.own_parts import OF_NETWORKS, suspects
from sret_jax.data.concurrency import run_ahead
from sret_jax.data.decoding import DECODING_VERSION
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch, evaluation_batches
from sret_jax.data.resizing import RESIZING_VERSION
from sret_jax.errors import UserError
from sret_jax.extraction.multiscale import pool_scales, resize_input
from sret_jax.extraction.origin import Descriptors
from sret_jax.models.descriptor import NETWORK_VERSION, RetrievalNetwork, Variables
from sret_jax.models.pooling import GeM
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.storage.artifacts import fingerprint
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.row_store import Part, fill_part, fill_store, joined

log = logging.getLogger(__name__)

# What turns a photograph into a descriptor. Raising one of them makes stored descriptors, features and maps stale.
VERSIONS = {"decoding": DECODING_VERSION, "resizing": RESIZING_VERSION, "network": NETWORK_VERSION}
AHEAD = 2  # batches given to the device before the oldest is waited for


@dataclass(frozen=True)
class Extraction:
    """Descriptors of a photo set and how long they took."""

    chunks: list[Float[np.ndarray, "_ d"]]  # float32, unit length, in the order of the photos, mapped from the store
    fingerprint: str  # of everything they depend on
    photos: int  # described in this call; the others were in the store already
    seconds: float  # of this call
    waiting: float  # of these: until decoded photographs arrived
    compiling: float  # of these: for the first batch of each shape
    retriever: str = ""  # fingerprint of what described them

    @property
    def descriptors(self) -> Float[np.ndarray, "n d"]:
        """All of them, which know their retriever; `joined` on every access."""
        return Descriptors.of(joined(self.chunks), self.retriever)

    @property
    def images_per_second(self) -> float:
        """Compilation left out; 0 when the store had everything."""
        return self.photos / max(self.seconds - self.compiling, 1e-9) if self.photos else 0.0


class Extractor:
    """One network on all local devices, whatever the photo set; every device gets the same share of a batch.

    Attributes:
      network, variables: what describes the photographs.
      config: `data.image_size` and `data.bucket_ratios` shape the batches, `extract` sizes them. With several
        `extract.scales` a descriptor is pooled from those of the resized photo: `extraction/multiscale.py`.
      whitening: learned after training, applied last; None where there is none.
      waiting, compiling: seconds so far, until decoded photographs arrived and for the first batch of each shape.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        variables: Variables,
        config: Config,
        whitening: LearnedWhitening | None = None,
    ):
        self.network, self.config, self.whitening = network, config, whitening
        self._devices = np.asarray(jax.local_devices())
        self.batch_size = -(-config.extract.batch_size // self._devices.size) * self._devices.size
        mesh = Mesh(self._devices, ("batch",))
        self._split, self._everywhere = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (["batch"], []))
        self.variables = jax.device_put(variables, self._everywhere)
        self.waiting = self.compiling = 0.0
        self._compiled: set[tuple[float, ...]] = set()

    @cached_property
    def fingerprint(self) -> str:
        """Identifies everything that a descriptor depends on, but the photograph."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path((self.variables, self.whitening)):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        data = to_dict(self.config.data)
        shapes = {name: data[name] for name in ("image_size", "enlarge", "bucket_ratios")}
        plain = to_dict(DataConfig())  # what was stored before there was a choice stays valid
        shapes |= {name: data[name] for name in ("filter", "rounding") if data[name] != plain[name]}
        computed_by = [VERSIONS, jax.__version__, jax.default_backend()]
        settings = [repr(self.network), to_dict(self.config.extract), shapes]
        return fingerprint(digest.hexdigest(), settings, computed_by)

    def describe(
        self, photos: PhotoSet, rows: Sequence[int], batch_size: int | None = None
    ) -> Float[np.ndarray, "m d"]:
        """Descriptors of these photos, in the order of `rows`: pooled over the scales, whitened, unit length.

        Args:
          batch_size: photographs per compiled batch, which is filled up; by default as the config says.

        Raises:
          UserError: the whitening is of descriptors of another length, or the device's memory is too small.
        """
        settings, size = self.config.extract, batch_size or self.batch_size
        side = self.config.data.image_size * max(settings.scales)
        remedy = (
            f"describing {size} photographs of up to {side:.0f} px at once; lower "
            "config.extract.batch_size, config.data.image_size or config.extract.scales"
        )
        with enough_memory(remedy):
            found = [self._at_scale(photos, rows, scale, size) for scale in settings.scales]
        x = found[0]
        if len(found) > 1:
            x = pool_scales(np.stack(found), settings.scale_pooling, self._exponents())
        if self.whitening is None:
            return x
        if x.shape[1] != len(self.whitening[0]):
            raise UserError(
                f"the whitening was learned from descriptors of {len(self.whitening[0])} dimensions, but this "
                f"network's have {x.shape[1]}; change config.model.whitening or whitening_dim"
            )
        return apply_whitening(x, *self.whitening)

    def describe_with_maps(
        self, photos: PhotoSet, rows: Sequence[int], stage: str, batch_size: int | None = None
    ) -> tuple[Float[np.ndarray, "m d"], list[Int8[np.ndarray, "_ _ c"]]]:
        """`describe`, and the map of a stage of the backbone of each photograph, in one pass of the network.

        A map has the positions of the photograph alone, and says of each which way its features point, in 8 bits. How
        long they are is lost: every method of localization begins with their directions.

        Args:
          stage: of the backbone, up to the one that is pooled.
          batch_size: as for `describe`, whose errors it raises too.
        """
        one_scale = tuple(self.config.extract.scales) == (1.0,)
        x: dict[int, np.ndarray] = {}
        maps: dict[int, np.ndarray] = {}
        batches = self._batches(photos, rows, 1.0, batch_size or self.batch_size)
        running = (
            (batch["row"], _apply_keeping(self.network, self.variables, *self._placed(batch), stage))
            for batch in batches
        )
        for batch_rows, computed in run_ahead(running, AHEAD):
            found = jax.device_get(computed)
            for row, descriptor, kept, mask in zip(batch_rows.tolist(), *found, strict=True):
                if row >= 0:
                    x[row], maps[row] = descriptor, kept[: mask.any(1).sum(), : mask.any(0).sum()].copy()
        descriptors = np.stack([x[row] for row in rows])
        if not one_scale:
            descriptors = self.describe(photos, rows, batch_size)
        elif self.whitening is not None:
            descriptors = apply_whitening(descriptors, *self.whitening)
        return descriptors, [maps[row] for row in rows]

    def _exponents(self) -> np.ndarray:
        """Of the generalised mean over scales: those over positions, 1 where a layer mixes the channels afterwards."""
        plain = isinstance(self.network.pool, GeM) and self.network.whitening is None
        return np.asarray(self.variables["params"]["pool"]["p"] if plain else 1.0, np.float32)

    def intermediates(self, photos: PhotoSet, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """For each row the network's named intermediates of that photo, and `"photo_mask"` [h w], True on the photo."""
        out = {}
        for batch in self._batches(photos, rows, 1.0, self.batch_size):
            intermediates = jax.device_get(_apply(self.network, self.variables, *self._placed(batch), 1.0)[1])
            for i in np.flatnonzero(batch["row"] >= 0):
                own = jax.tree.map(lambda x, i=i: x[i], intermediates)
                out[int(batch["row"][i])] = own | {"photo_mask": batch["mask"][i]}
        return out

    def _placed(self, batch: PhotoBatch) -> tuple[jax.Array, jax.Array]:
        """Photographs and masks, shared out among the devices; a batch that does not divide is on each of them."""
        divides = len(batch["row"]) % self._devices.size == 0
        return jax.device_put((batch["image"], batch["mask"]), self._split if divides else self._everywhere)

    def _batches(self, photos: PhotoSet, rows: Sequence[int], scale: float, batch_size: int) -> Iterator[PhotoBatch]:
        batches = evaluation_batches(
            photos,
            image_size=round(self.config.data.image_size * scale),
            bucket_ratios=self.config.data.bucket_ratios,
            size_multiple=self.network.size_multiple,
            batch_size=batch_size,
            rows=rows,
            threads=self.config.data.threads,
            enlarged=None if self.config.data.enlarge else scale,
            filter=self.config.data.filter,
            rounding=self.config.data.rounding,
        )
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waiting += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _at_scale(
        self, photos: PhotoSet, rows: Sequence[int], scale: float, batch_size: int
    ) -> Float[np.ndarray, "m d"]:
        found: dict[int, np.ndarray] = {}
        for batch_rows, descriptors in run_ahead(self._running(photos, rows, scale, batch_size), AHEAD):
            found.update((int(row), x) for row, x in zip(batch_rows, np.asarray(descriptors), strict=True) if row >= 0)
        return np.stack([found[row] for row in rows])

    def _running(
        self, photos: PhotoSet, rows: Sequence[int], scale: float, batch_size: int
    ) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Rows of each batch, and their descriptors, which the device may still compute."""
        resized = 1.0 if self.config.extract.resized == "photo" else scale  # by the device
        for batch in self._batches(photos, rows, scale / resized, batch_size):
            images, masks = self._placed(batch)
            start = time.perf_counter()
            descriptors = _apply(self.network, self.variables, images, masks, resized)[0]
            if (resized, *images.shape) not in self._compiled:  # the call returns at once, but for the compilation
                self._compiled.add((resized, *images.shape))
                self.compiling += time.perf_counter() - start
            yield batch["row"], descriptors


def extract(extractor: Extractor, photos: PhotoSet, folder: Path, shared: Path | None = None) -> Extraction:
    """Descriptors of all photos, in their order, kept in a store in `folder`.

    What the store has already is reused when its fingerprint (parameters, photographs, settings, versions of the code)
    is the same, and made again otherwise. A kill costs one chunk. `shared`: as for `fill_store`.

    Raises:
      UserError: a descriptor is not finite (the photo is named), or the whitening is of another length; another process
        writes to `folder`, the disk is full (what is in the store stays), or the device's memory is too small.
    """
    start, before = time.perf_counter(), (extractor.waiting, extractor.compiling)
    described: list[int] = []
    key, rows = extraction_fingerprint(extractor, photos), extractor.config.extract.chunk_rows
    make = partial(_described, extractor, photos, described)
    store = fill_store(folder, photos.names, key, rows, make, extractor.fingerprint, shared)
    return Extraction(
        chunks=store.parts(),
        fingerprint=key,
        photos=sum(described),
        seconds=time.perf_counter() - start,
        waiting=extractor.waiting - before[0],
        compiling=extractor.compiling - before[1],
        retriever=extractor.fingerprint,
    )


def extract_part(extractor: Extractor, photos: PhotoSet, folder: Path, part: Part) -> int:
    """Describes one part of the photographs, which `extract` in the same folder takes over; how many they are.

    Raises as `extract`.
    """
    key, rows = extraction_fingerprint(extractor, photos), extractor.config.extract.chunk_rows
    make = partial(_described, extractor, photos, [])
    return fill_part(folder, photos.names, key, rows, make, part, extractor.fingerprint)


def _described(extractor: Extractor, photos: PhotoSet, described: list[int], rows: range) -> Float[np.ndarray, "m d"]:
    """Descriptors of a range of photos, whose number is added to `described`."""
    found = extractor.describe(photos, rows)
    described.append(len(rows))
    bad = np.flatnonzero(~np.isfinite(found).all(1))
    if len(bad) and (where := suspects(extractor.config, OF_NETWORKS)):
        raise UserError(f"{photos.names[rows[bad[0]]]}: its descriptor is not finite{where}")
    log.info("%s: %d of %d photographs described", photos.name, rows.stop, len(photos))
    return found


def extraction_fingerprint(extractor: Extractor, photos: PhotoSet) -> str:
    """Identifies everything that the descriptors of `photos` depend on."""
    return fingerprint(extractor.fingerprint, photos.fingerprint)


@partial(jax.jit, static_argnums=(0, 4))
def _apply(
    network: RetrievalNetwork, variables: Variables, images: jax.Array, masks: jax.Array, scale: float
) -> tuple[jax.Array, dict[str, Any]]:  # with the intermediates: one program serves both
    if scale != 1:
        images, masks = resize_input(images, masks, scale, network.size_multiple)
    found: Any = network.apply(variables, images, masks, train=False)
    return found


@partial(jax.jit, static_argnums=(0, 4))
def _apply_keeping(
    network: RetrievalNetwork, variables: Variables, images: jax.Array, masks: jax.Array, stage: str
) -> tuple[Float[Array, "b d"], Int8[Array, "b h w c"], Bool[Array, "b h w"]]:
    """Descriptors, and the directions of the features of a stage: each as long as makes its largest number 127."""
    found: Any = network.apply(variables, images, masks, train=False, keep=stage)
    descriptors, intermediates = found
    kept, mask = intermediates["kept"]
    kept = kept.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kept), axis=-1, keepdims=True)
    return descriptors, jnp.round(kept * (127 / jnp.maximum(largest, 1e-30))).astype(jnp.int8), mask
