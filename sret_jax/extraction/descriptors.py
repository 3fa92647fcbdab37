"""Photographs to descriptors: compiled batches, one compilation per bucket shape, restartable chunk by chunk."""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

import sret_jax
from sret_jax.config import Config, to_dict
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch, evaluation_batches
from sret_jax.errors import UserError
from sret_jax.extraction import multiscale
from sret_jax.extraction.multiscale import pool_scales, resize_input
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.pooling import GeM
from sret_jax.models.whitening import apply_whitening
from sret_jax.storage.artifacts import enough_space, file_digest, fingerprint, lock_folder
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.row_store import DescriptorStore, joined

log = logging.getLogger(__name__)

Learned = tuple[np.ndarray, np.ndarray]  # mean [c] and projection [c d] of a whitening learned after training
AHEAD = 2  # batches given to the device before the oldest is waited for


@dataclass(frozen=True)
class Extracted:
    """Descriptors of a photo set and how long they took."""

    chunks: list[Float[np.ndarray, "_ d"]]  # float32, unit length, in the order of the photos, mapped from the store
    fingerprint: str  # of everything they depend on
    photos: int  # described in this call; the others were in the store already
    seconds: float  # of this call
    waiting: float  # of these: until decoded photographs arrived
    compiling: float  # of these: for the first batch of each shape

    @property
    def descriptors(self) -> Float[np.ndarray, "n d"]:
        """All of them, `joined` every time that they are asked for."""
        return joined(self.chunks)

    @property
    def images_per_second(self) -> float:
        """Compilation left out; 0 when the store had everything."""
        return self.photos / max(self.seconds - self.compiling, 1e-9) if self.photos else 0.0


def extract(
    network: RetrievalNetwork,
    variables: Variables,
    photos: PhotoSet,
    config: Config,
    folder: Path,
    whitening: Learned | None = None,
) -> Extracted:
    """Descriptors of all photos, kept in a store in `folder`.

    What the store has already is reused when its fingerprint (parameters, photographs, settings, source code of the
    network) is the same, and made again otherwise. A kill costs one chunk.

    Args:
      network: whose `__call__` makes the descriptors.
      variables: its parameters and statistics.
      photos: described in their order.
      config: `data.image_size` and `data.bucket_ratios` shape the batches, `extract` sizes them. With several
        `extract.scales` a descriptor is pooled from those of the resized photo: `extraction/multiscale.py`.
      folder: of the store; one process at a time.
      whitening: a mean and a projection learned after training, applied last.

    Raises:
      UserError: a descriptor is not finite (the photo is named), or `whitening` is of another length; another process
        writes to `folder`, the disk is full (what is in the store stays), or the device's memory is too small.
    """
    start_time = time.perf_counter()
    key = extraction_fingerprint(network, variables, photos, config, whitening)
    with lock_folder(Path(folder)), enough_space(Path(folder)):
        store = DescriptorStore.resume(folder, photos.names, key, config.extract.chunk_rows)
        missing = store.missing()
        extractor = Extractor(network, variables, photos, config)
        for chunk, start, stop in missing:
            described = extractor.describe(range(start, stop))
            if whitening is not None:
                if described.shape[1] != len(whitening[0]):
                    raise UserError(
                        f"the whitening was learned from descriptors of {len(whitening[0])} numbers, but this "
                        f"network's have {described.shape[1]}; change config.model.whitening or whitening_dim"
                    )
                described = apply_whitening(described, *whitening)
            store.write(chunk, described)
            log.info("%s: %d of %d photographs described", photos.name, stop, len(photos))
        chunks = store.parts()
    return Extracted(
        chunks=chunks,
        fingerprint=key,
        photos=sum(stop - start for _, start, stop in missing),
        seconds=time.perf_counter() - start_time,
        waiting=extractor.waiting,
        compiling=extractor.compiling,
    )


def describe(
    network: RetrievalNetwork, variables: Variables, photos: PhotoSet, config: Config, rows: Sequence[int]
) -> Float[np.ndarray, "m d"]:
    """Descriptors of some photos, in the order of `rows`, without a store."""
    return Extractor(network, variables, photos, config).describe(rows)


class Extractor:
    """One network on all local devices, describing photos of one set; every device gets the same share of a batch."""

    def __init__(self, network: RetrievalNetwork, variables: Variables, photos: PhotoSet, config: Config):
        devices = np.asarray(jax.local_devices())
        self.network, self.photos, self.config = network, photos, config
        self.batch_size = -(-config.extract.batch_size // devices.size) * devices.size
        mesh = Mesh(devices, ("batch",))
        self.split = NamedSharding(mesh, PartitionSpec("batch"))
        self.variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        self.waiting = self.compiling = 0.0  # seconds
        self._compiled: set[tuple[float, ...]] = set()

    def describe(self, rows: Sequence[int]) -> Float[np.ndarray, "m d"]:
        """Descriptors of these photos, in the order of `rows`: pooled over the scales, unit length."""
        settings = self.config.extract
        side = self.config.data.image_size * max(settings.scales)
        remedy = (
            f"describing {self.batch_size} photographs of up to {side:.0f} px at once; lower "
            "config.extract.batch_size, config.data.image_size or config.extract.scales"
        )
        with enough_memory(remedy):
            found = [self._at_scale(rows, scale) for scale in settings.scales]
        return found[0] if len(found) == 1 else pool_scales(np.stack(found), settings.scale_pooling, self._exponents())

    def _exponents(self) -> np.ndarray:
        """Of the generalised mean over scales: those over positions, 1 where a layer mixes the channels afterwards."""
        plain = isinstance(self.network.pool, GeM) and self.network.whitening is None
        return np.asarray(self.variables["params"]["pool"]["p"] if plain else 1.0, np.float32)

    def intermediates(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """For each row the network's named intermediates of that photo, and `"photo_mask"` [h w], True on the photo."""
        out = {}
        for batch in self._batches(rows, 1.0):
            images, masks = jax.device_put((batch["image"], batch["mask"]), self.split)
            seen = jax.device_get(_apply(self.network, self.variables, images, masks, 1.0)[1])
            for i in np.flatnonzero(batch["row"] >= 0):
                seen_here = jax.tree.map(lambda x, i=i: x[i], seen)
                out[int(batch["row"][i])] = seen_here | {"photo_mask": batch["mask"][i]}
        return out

    def _batches(self, rows: Sequence[int], scale: float) -> Iterator[PhotoBatch]:
        batches = evaluation_batches(
            self.photos,
            image_size=round(self.config.data.image_size * scale),
            bucket_ratios=self.config.data.bucket_ratios,
            size_multiple=self.network.size_multiple,
            batch_size=self.batch_size,
            rows=rows,
            threads=self.config.data.threads,
            enlarged=None if self.config.data.enlarge else scale,
        )
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waiting += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _at_scale(self, rows: Sequence[int], scale: float) -> Float[np.ndarray, "m d"]:
        found: dict[int, np.ndarray] = {}
        running: deque[tuple[np.ndarray, jax.Array]] = deque()

        def collect() -> None:
            batch_rows, descriptors = running.popleft()
            found.update((int(row), x) for row, x in zip(batch_rows, np.asarray(descriptors), strict=True) if row >= 0)

        resized = 1.0 if self.config.extract.resized == "photo" else scale  # by the device
        for batch in self._batches(rows, scale / resized):
            images, masks = jax.device_put((batch["image"], batch["mask"]), self.split)
            start = time.perf_counter()
            running.append((batch["row"], _apply(self.network, self.variables, images, masks, resized)[0]))
            if (resized, *images.shape) not in self._compiled:  # the call returns at once, but for the compilation
                self._compiled.add((resized, *images.shape))
                self.compiling += time.perf_counter() - start
            if len(running) > AHEAD:
                collect()
        while running:
            collect()
        return np.stack([found[row] for row in rows])


def extraction_fingerprint(
    network: RetrievalNetwork,
    variables: Variables,
    photos: PhotoSet,
    config: Config,
    whitening: Learned | None = None,
) -> str:
    """Identifies everything that the descriptors of `photos` depend on."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((variables, whitening)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    shapes = {name: to_dict(config.data)[name] for name in ("image_size", "enlarge", "bucket_ratios")}
    computed_by = [source_fingerprint(), jax.__version__, jax.default_backend()]
    settings = [repr(network), to_dict(config.extract), shapes]
    return fingerprint(digest.hexdigest(), photos.fingerprint, settings, computed_by)


@cache
def source_fingerprint() -> str:
    """Identifies the code that turns a photograph into a descriptor: a change of it makes old descriptors stale."""
    package = Path(sret_jax.__file__).parent
    rooms = [file for part in ("models", "data", "datasets") for file in package.glob(f"{part}/**/*.py")]
    files = sorted([*rooms, Path(__file__), Path(multiscale.__file__)])
    return fingerprint([(file.relative_to(package).as_posix(), file_digest(file)) for file in files])


@partial(jax.jit, static_argnums=(0, 4))
def _apply(network, variables, images, masks, scale):  # with the intermediates: one program serves both
    if scale != 1:
        images, masks = resize_input(images, masks, scale, network.size_multiple)
    return network.apply(variables, images, masks, train=False)
