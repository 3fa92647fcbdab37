"""Photographs in padded batches, decoded by threads while the device computes (grain).

Everything a batch holds is a function of the seed and of the batch's number alone, so the state of the iterator is a
position, and resuming is exact. Threads, not processes: the decoder releases the interpreter, and no worker
outlives a killed run.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from sret_jax.config import DataConfig, trains_singles
from sret_jax.data.augmentation import augment, strong_view
from sret_jax.data.map_augmentation import augment_map
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size, place, resize, round_to
from sret_jax.data.sampling import VIEW, InstancePlan, Plan, make_plan
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable
from sret_jax.storage.refusals import of_process

log = logging.getLogger(__name__)
PhotoBatch = Mapping[str, np.ndarray]
# Rows -> maps [b h w c] and masks [b h w] of these photographs.
Maps = Callable[[Int[np.ndarray, "b"]], tuple[Float[np.ndarray, "b h w c"], Bool[np.ndarray, "b h w"]]]
ENDLESS = range(2**40)  # batches


@dataclass(frozen=True, eq=False)
class PlannedPhotos:
    """The list of training photographs, batch after batch, as a plan has them.

    Each is shown by `augment`. Where single photographs are instances, what repeats one of its batch is shown by
    `strong_view`.

    Position `i` is slot `i % B` of the process's share of batch `numbers[i // B]`, `B = plan.size / processes`. Process
    `r` holds the `r`-th run of photographs of the batch that one process would have.
    """

    photos: PhotoSet
    plan: Plan
    config: DataConfig
    seed: int
    size_multiple: int
    process_index: int
    process_count: int
    numbers: range
    maps: Maps | None = None  # what is shown instead of the photographs

    @property
    def local_batch(self) -> int:
        return self.plan.size // self.process_count

    def __len__(self) -> int:
        return len(self.numbers) * self.local_batch

    def __getitem__(self, position: int) -> dict[str, Any]:
        at, slot = divmod(int(position), self.local_batch)
        number, slot = self.numbers[at], slot + self.process_index * self.local_batch
        rows = self._cached_rows(number)
        row = int(rows[slot])
        rng = np.random.default_rng((self.seed, VIEW, number, slot))
        image, mask = self._view(row, rng, again=row in rows[:slot])
        return {"image": image, "mask": mask, "label": self.photos.labels[row], "row": np.int32(row)}

    def _view(self, row: int, rng: np.random.Generator, again: bool) -> tuple[np.ndarray, np.ndarray]:
        """A view of a photograph; `again`: it is in the batch already."""
        if self.maps is not None:
            maps, masks = self.maps(np.array([row]))
            size = int(masks[0].any(1).sum()), int(masks[0].any(0).sum())
            return augment_map(maps[0], size, rng, self.config)
        side = round_to(self.config.image_size, self.size_multiple)
        show = strong_view if again and trains_singles(self.config) else augment
        view = show(load(self.photos, row), rng, self.config, multiple=self.size_multiple)
        return place(view, (side, side))

    @cached_property
    def _cached_rows(self) -> Any:
        return lru_cache(maxsize=16)(self.plan.rows)


@dataclass(frozen=True, eq=False)
class BucketedPhotos:
    """The finite list of photographs to describe: one bucket after the other, each padded to whole batches."""

    photos: PhotoSet
    contents: list[tuple[int, int]]  # size of each row's photograph inside its bucket
    plan: list[tuple[tuple[int, int], int]]  # (bucket shape, row or -1)
    filter: str

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> dict[str, Any]:
        shape, row = self.plan[position]
        if row < 0:
            return {"image": np.zeros((*shape, 3), np.uint8), "mask": np.zeros(shape, bool), "row": np.int32(-1)}
        image, mask = place(resize(load(self.photos, row), self.contents[row], self.filter), shape)
        return {"image": image, "mask": mask, "row": np.int32(row)}


def load(photos: PhotoSet, row: int, at_least: int | None = None) -> np.ndarray:
    """The photograph; it was decoded once when the set was prepared, so a failure means that the cache is damaged."""
    try:
        return photos.photo(row, at_least)
    except (Unreadable, OSError, RuntimeError, ValueError) as error:
        if of_process(error):
            raise
        raise UserError(
            f"{photos.name}: photograph {photos.names[row]!r} cannot be read any more ({error}); "
            "put it back, or delete the data cache where it was prepared, and run again"
        ) from error


def training_batches(
    photos: PhotoSet,
    config: DataConfig,
    *,
    seed: int,
    size_multiple: int,
    process_index: int = 0,
    process_count: int = 1,
    plan: Plan | None = None,
    numbers: range = ENDLESS,
    maps: Maps | None = None,
) -> grain.DatasetIterator:
    """Batches `{"image": uint8 [B S S 3], "mask": bool [B S S], "label": int32 [B], "row": int32 [B]}`.

    B is this process's share of the photographs, S = `config.image_size` rounded to `size_multiple`. The iterator's
    `get_state`/`set_state` resume exactly.

    Args:
      plan: what the batches hold; None: as `config.sampling` says.
      numbers: of the batches to make.
      maps: stored maps of the photographs: "image" then holds views of these, [B h w c], and "mask" their positions.

    Raises:
      UserError: fewer than two instances, or a batch that does not divide over the processes.
    """
    plan = plan or make_plan(photos, config, seed)
    _check_division(plan, config, process_count)
    if isinstance(plan, InstancePlan) and (left_out := len(photos.instances) - len(plan.rows_of)):
        log.warning("%s: %d instances with one photograph only are not trained on", photos.name, left_out)
    if isinstance(plan, InstancePlan) and plan.instances < config.instances_per_batch:
        log.warning(
            "%s: every batch shows all %d instances, fewer than the %d of config.data.instances_per_batch",
            *(photos.name, plan.instances, config.instances_per_batch),
        )
    source = PlannedPhotos(photos, plan, config, seed, size_multiple, process_index, process_count, numbers, maps)
    options = grain.ReadOptions(
        num_threads=config.threads, prefetch_buffer_size=max(config.threads, 2 * source.local_batch)
    )
    return iter(grain.MapDataset.source(source).to_iter_dataset(options).batch(source.local_batch))


def _check_division(plan: Plan, config: DataConfig, processes: int) -> None:
    if isinstance(plan, InstancePlan) and plan.instances % processes:
        raise UserError(
            f"config.data.instances_per_batch: a batch has {plan.instances} instances, which is not a multiple of the "
            f"{processes} processes"
        )
    if plan.size % processes:
        raise UserError(
            f"a batch of {plan.size} photographs does not divide over {processes} processes; change "
            "config.data.instances_per_batch, or config.mining.tuples_per_batch where tuples are mined"
        )


def shown_sizes(
    photos: PhotoSet,
    image_size: int,
    size_multiple: int,
    enlarged: float | None = None,
    rounding: str = "nearest",
) -> list[tuple[int, int]]:
    """(height, width) at which `evaluation_batches` shows each photograph, or the part of it that is meant."""
    sides = photos.sizes.max(1)
    # A part of a photograph is shown at the scale that the whole one would have.
    longest = np.minimum(image_size, (enlarged or np.inf) * sides) * photos.regions.max(1) / sides
    known = zip(photos.regions.tolist(), longest.tolist(), strict=True)
    return [content_size(region, side, size_multiple, rounding) for region, side in known]


def evaluation_batches(
    photos: PhotoSet,
    *,
    image_size: int,
    bucket_ratios: Sequence[float],
    size_multiple: int,
    batch_size: int,
    rows: Sequence[int] | Int[np.ndarray, " m"] | None = None,
    threads: int,
    enlarged: float | None = None,
    filter: str = "bicubic",
    rounding: str = "nearest",
) -> Iterator[PhotoBatch]:
    """Batches `{"image": uint8 [b H W 3], "mask": bool [b H W], "row": int32 [b]}`, every one of `batch_size`.

    All photographs of one bucket shape (H, W) follow each other, in the order of `rows`; the last batch of a bucket is
    filled up with empty photographs of row -1. The longest side of a photograph becomes `image_size`, or where that is
    more than `enlarged` times what it was, that. `filter` and `rounding` as in `data.resizing`.
    """
    chosen = range(len(photos)) if rows is None else [int(row) for row in rows]
    buckets = bucket_shapes(image_size, bucket_ratios, size_multiple)
    contents = shown_sizes(photos, image_size, size_multiple, enlarged, rounding)
    members: dict[tuple[int, int], list[int]] = {shape: [] for shape in buckets}
    for row in chosen:
        members[choose_bucket(contents[row], buckets)].append(row)
    plan = [(shape, row) for shape, own in members.items() for row in own + [-1] * (-len(own) % batch_size)]
    source = BucketedPhotos(photos, contents, plan, filter)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size))
    return iter(grain.MapDataset.source(source).to_iter_dataset(options).batch(batch_size))
