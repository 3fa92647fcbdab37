"""The parts of an index: consecutive rows, what they are searched by, and their files.

descriptors.npy            float32 [n d], of unit length; where ScaNN holds them itself, they are in its folder
codes.npy, scales.npy      of fewer bits, see `codes`
scann, or scann-0, -1 ...  ScaNN's own files, of the whole or of each part
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval.approximate import build_scann, load_scann, save_scann
from sret_jax.retrieval.codes import Codes
from sret_jax.retrieval.searcher import APPROXIMATE, Searcher, Settings
from sret_jax.retrieval.tuning import tune
from sret_jax.storage.artifacts import DamagedError, write_array
from sret_jax.storage.refusals import plainly

DESCRIPTORS, CODES, SCALES = "descriptors.npy", "codes.npy", "scales.npy"
LEAST = 16  # photos that an approximate method needs


@dataclass(frozen=True)
class Part:
    """Rows from `start` to before `stop` of the `total` in a folder.

    number  of the part; -1 of the only one
    error   of the codes of the whole, see `Codes`
    exactly searched without the ScaNN that it was built for
    """

    folder: str
    number: int
    start: int
    stop: int
    total: int
    method: str
    settings: Settings
    config: SearchConfig
    error: float = 0.0
    exactly: bool = False

    @property
    def scann(self) -> Path:
        return Path(self.folder) / ("scann" if self.number < 0 else f"scann-{self.number}")

    def rows(self) -> Float32[np.ndarray, "n d"]:
        """The descriptors, mapped. Raises as `load`."""
        own = self.method == "exact" or is_bare(self.config)
        return self._mapped(DESCRIPTORS if own else "scann/dataset.npy", (np.float32,))

    def load(self) -> Searcher:
        """With descriptors and codes that are mapped. Raises `DamagedError` where the files do not fit together."""
        rows, codes, scann = self.rows(), None, None
        if self.config.store != "float32":
            numbers = self._mapped(CODES, (np.float16, np.int8))
            scales = np.load(Path(self.folder) / SCALES, allow_pickle=False) if numbers.dtype == np.int8 else None
            codes = Codes(numbers, scales, self.error)
            if numbers.shape != rows.shape or (scales is not None and scales.shape != rows.shape[1:]):
                raise DamagedError(f"{self.folder}: its codes are not of its descriptors; build the index anew")
        method = "exact" if self.exactly else self.method
        if method != "exact":
            scann = load_scann(self.scann, self.stop - self.start)
        return Searcher(rows, method, self.settings, self.config, scann, codes, is_bare(self.config))

    def _mapped(self, name: str, dtypes: Sequence[type]) -> np.ndarray:
        file = Path(self.folder) / name
        x = np.load(file, mmap_mode="r", allow_pickle=False)
        if x.ndim != 2 or len(x) != self.total or x.dtype not in dtypes:
            raise DamagedError(
                f"{file} has {len(x)} rows for {self.total} names, or no descriptors; build the index anew"
            )
        return np.asarray(x[self.start : self.stop])

    def listed(self) -> dict[str, Any]:
        """What the index says of it, for `listed_parts`."""
        return {"start": self.start, "settings": self.settings, "error": self.error}

    def said(self) -> dict[str, Any]:
        """As JSON can hold it: for `heard`."""
        return asdict(self)

    @classmethod
    def heard(cls, said: dict[str, Any]) -> "Part":
        return cls(**(said | {"config": SearchConfig(**said["config"])}))


def part_bounds(n: int, parts: int, method: str) -> list[int]:
    """Where each of so many parts of about the same size begins, and the end of the last.

    Raises `UserError` where there are too few photos.
    """
    least = LEAST if method in APPROXIMATE else 1
    if n < parts * least:
        raise UserError(
            f"search.shards={parts}: needs {parts * least} photos, there are {n}; set it to {max(1, n // least)}"
        )
    return [n * i // parts for i in range(parts + 1)]


def is_bare(config: SearchConfig) -> bool:
    """Whether ScaNN only proposes: what it proposes is scored again by descriptors that it does not hold."""
    return config.store != "float32" or config.shards > 1


def build_part(
    x: Float[np.ndarray, "n d"], method: str, settings: Settings, config: SearchConfig
) -> tuple[Settings, Any]:
    """ScaNN over rows of unit length, and the settings that it is searched with: tuned, where a recall is asked for."""
    if method == "exact":
        return settings, None

    def build(own: Settings) -> Any:
        return build_scann(x, method, own, bare=is_bare(config))

    if config.recall and method in APPROXIMATE:
        return tune(x, settings.get("leaves", 0), config.recall, config.chunk_rows, build)
    return settings, build(settings)


def build_parts(
    x: Float32[np.ndarray, "n d"],
    codes: Codes | None,
    method: str,
    settings: Callable[[int], Settings],
    config: SearchConfig,
) -> list[Part]:
    """As many parts as there are shards, in a new temporary folder, one built after the other.

    Args:
      settings: of the method, for so many rows.

    Raises `UserError` where there are too few rows, or no room on the disk.
    """
    bounds = part_bounds(len(x), config.shards, method)
    folder = Path(tempfile.mkdtemp(prefix="sret-index-"))
    parts: list[Part] = []
    try:
        with plainly(folder):
            for i, (start, stop) in enumerate(pairwise(bounds)):
                chosen, scann = build_part(x[start:stop], method, settings(stop - start), config)
                error = codes.error if codes else 0.0
                parts.append(Part(str(folder), i, start, stop, len(x), method, chosen, config, error))
                write_scann(parts[-1], scann)
            write_rows_of(parts[0], x, codes)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return parts


def write_rows_of(part: Part, x: Float32[np.ndarray, "n d"], codes: Codes | None) -> None:
    """The descriptors of all parts, unless ScaNN writes them, and their codes."""
    folder = Path(part.folder)
    if part.method == "exact" or is_bare(part.config):
        write_array(folder / DESCRIPTORS, x)
    if codes is not None:
        write_array(folder / CODES, codes.rows)
        if codes.scales is not None:
            write_array(folder / SCALES, codes.scales)


def write_scann(part: Part, scann: Any) -> None:
    if scann is not None:
        save_scann(scann, part.scann)


def copy_parts(parts: Sequence[Part], folder: Path) -> None:
    """The files of all parts, into another folder."""
    source = Path(parts[0].folder)
    for name in (DESCRIPTORS, CODES, SCALES):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    for part in parts:
        if part.scann.exists():
            shutil.copytree(part.scann, folder / part.scann.name)


def listed_parts(folder: Path, about: dict[str, Any], config: SearchConfig) -> list[Part]:
    """The parts that an index lists; one of an index that lists none."""
    n, listed = len(about["names"]), about.get("parts") or [{"start": 0, "settings": about["settings"], "error": 0.0}]
    bounds = [*(own["start"] for own in listed), n]
    if bounds[0] != 0 or any(type(start) is not int or start > stop for start, stop in pairwise(bounds)):
        raise ValueError("its parts do not follow each other")
    method, parts = about["method"], []
    for i, (own, (start, stop)) in enumerate(zip(listed, pairwise(bounds), strict=True)):
        number = i if len(listed) > 1 else -1
        parts.append(Part(str(folder), number, start, stop, n, method, own["settings"], config, float(own["error"])))
    return parts
