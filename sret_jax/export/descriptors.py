"""Descriptors for other programs: `.npy` or Parquet, in 32, 16 or 8 bits, with their names.

<folder>/
    about.json            how the numbers are stored, and which retriever made them
    names.json            of the photographs, in the order of the rows
    descriptors.npy       [n d], float32, float16 or int8; or
    descriptors.parquet   a row each: `name`, `descriptor` (a list of fixed length), `scale` where it is per vector
    scale.npy             int8: float32 [d] or [n]

In 8 bits a number is `stored * scale`, with one scale for each dimension or for each vector: its largest magnitude over
127. What that costs in accuracy is in `docs/export.md`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from sret_jax.config.names import DESCRIPTOR_DTYPES, DESCRIPTOR_FORMS, DESCRIPTOR_SCALES
from sret_jax.errors import UserError, choices
from sret_jax.extraction.origin import Descriptors
from sret_jax.storage.artifacts import (
    MANIFEST,
    DamagedError,
    commit_folder,
    new_folder,
    verify_folder,
    write_array,
    write_json,
    write_rows,
)
from sret_jax.storage.files import Unreadable, named, open_file
from sret_jax.storage.foreign import open_npy, read_json
from sret_jax.storage.refusals import plainly

FORMAT = "sret_jax descriptors 1"
STEMS = ("about", "names", "descriptors", "scale")  # of the files
ROWS = 65536  # converted at once
MOST_BYTES, MOST_NAMES = 64 << 30, 256 << 20  # of what is read again


def quantized(x: Float[np.ndarray, "n d"], scale: Float[np.ndarray, "..."]) -> Shaped[np.ndarray, "n d"]:
    """int8: the nearest whole numbers of `x / scale`, -127 to 127. `scale` broadcasts to x."""
    return np.clip(np.rint(x / np.maximum(scale, 1e-30)), -127, 127).astype(np.int8)


def scale_of(parts: Sequence[Float[np.ndarray, "_ d"]], per: str) -> Float[np.ndarray, "_"]:
    """The largest magnitude of every dimension, [d], or of every vector, [n], over 127."""
    if per == "dimension":
        largest = np.max([np.abs(part).max(0) for part in parts], 0)
    else:
        largest = np.concatenate([np.abs(part).max(1) for part in parts])
    return (largest / 127).astype(np.float32)


def write_descriptors(
    folder: str | Path,
    parts: Float[np.ndarray, "n d"] | Sequence[Float[np.ndarray, "_ d"]],
    names: Sequence[str],
    *,
    dtype: str = "float32",
    per: str = "dimension",
    form: str = "npy",
    retriever: str = "",
) -> None:
    """Writes descriptors and their names as a folder, whole or not at all.

    Args:
      parts: the descriptors, or chunks of them, which may be mapped from a disk.
      dtype: "float32", "float16" or "int8".
      per: what has a scale of its own in "int8": "dimension" or "vector".
      form: "npy" or "parquet".
      retriever: fingerprint of what made them; "" if unknown.

    Raises:
      UserError: `folder` holds something or is the current one, a choice that is none, numbers of names and rows that
        differ, a descriptor that is not finite (it is named), or Parquet without the package for it.
    """
    for option, value, known in (
        ("dtype", dtype, DESCRIPTOR_DTYPES),
        ("per", per, DESCRIPTOR_SCALES),
        ("form", form, DESCRIPTOR_FORMS),
    ):
        if value not in known:
            raise UserError(f"descriptors: {option} {choices(value, known)}")
    folder = new_folder(folder)
    parts = [parts] if isinstance(parts, np.ndarray) else [part for part in parts if len(part)]
    rows = sum(map(len, parts))
    if rows != len(names) or not rows:
        raise UserError(f"descriptors: {rows} rows for {len(names)} names; give one name per row, and at least one")
    if form == "parquet":
        _parquet()
    _check_finite(parts, names)
    scale = scale_of(parts, per) if dtype == "int8" else None
    about = {"format": FORMAT, "dtype": dtype, "form": form, "rows": rows, "dimensions": parts[0].shape[1]}
    about |= {"retriever": retriever} | ({"scale_per": per} if scale is not None else {})
    with plainly(folder), commit_folder(folder) as built:
        chunks = _stored(parts, dtype, per, scale)
        if form == "npy":
            shape = rows, parts[0].shape[1]
            write_rows(built / "descriptors.npy", (chunk for _, chunk in chunks), np.dtype(dtype), shape)
        else:
            own = about | ({"scale": scale.tolist()} if scale is not None and per == "dimension" else {})
            _write_parquet(built / "descriptors.parquet", chunks, names, own, scale if per == "vector" else None)
        if scale is not None:
            write_array(built / "scale.npy", scale)
        write_json(built / "names.json", list(names))
        write_json(built / "about.json", about)


def _check_finite(parts: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Raises `UserError` that names the first photograph whose descriptor is not: it would spoil a scale of all."""
    first = 0
    for part in parts:
        for start in range(0, len(part), ROWS):
            x = part[start : start + ROWS]
            bad = np.flatnonzero(~np.isfinite(x).all(1))
            if len(bad):
                raise UserError(f"{names[first + bad[0]]}: its descriptor is not finite; describe the photograph again")
            first += len(x)


def _stored(
    parts: Sequence[np.ndarray], dtype: str, per: str, scale: np.ndarray | None
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as they are stored), a limited number at once."""
    first = 0
    for part in parts:
        for start in range(0, len(part), ROWS):
            x = part[start : start + ROWS]
            if scale is None:
                yield first, np.asarray(x, dtype)
            else:
                yield first, quantized(x, scale if per == "dimension" else scale[first : first + len(x), None])
            first += len(x)


def read_descriptors(folder: str | Path) -> tuple[Float[np.ndarray, "n d"], list[str]]:
    """Descriptors as float32 and their names, as `Index.build` takes them; they know the retriever that made them.

    Raises:
      UserError: no such folder, or Parquet without the package for it.
      DamagedError: a file is not what was written.
    """
    folder = Path(folder).expanduser()
    if not (folder / "about.json").is_file():
        raise UserError(f"{folder}: no descriptors there; `sret export-descriptors` writes them")
    for path in folder.iterdir():
        if path.stem in STEMS or path.name == MANIFEST:
            with named(path, "export them again"), open_file(path, MOST_BYTES):
                pass  # no pipe and no device
    verify_folder(folder, only=[path.name for path in folder.iterdir() if path.stem in STEMS])
    try:
        about, names = (read_json(folder / name, MOST_NAMES) for name in ("about.json", "names.json"))
        if about["format"] != FORMAT:
            raise UserError(f"{folder}: written as {about['format']!r}, this version reads {FORMAT!r}")
        form, dtype, per = about["form"], about["dtype"], about.get("scale_per", "")
        if form == "npy":
            stored = open_npy(folder / "descriptors.npy", MOST_BYTES, "fi", 2)
        else:
            stored = _read_parquet(folder / "descriptors.parquet")
        x = np.asarray(stored, np.float32)
        if dtype == "int8":
            scale = open_npy(folder / "scale.npy", MOST_BYTES, "f", 1)
            x = x * (scale[None] if per == "dimension" else scale[:, None])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Unreadable) as error:
        raise DamagedError(f"{folder}: not descriptors that this version wrote ({error}); export them again") from None
    if x.shape != (about["rows"], about["dimensions"]) or len(names) != len(x):
        raise DamagedError(f"{folder}: {list(x.shape)} numbers for {len(names)} names; export them again")
    return Descriptors.of(x, about.get("retriever", "")), names


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("Parquet needs the package pyarrow: pip install 'sret_jax[parquet]'") from None
    return pyarrow


def _write_parquet(
    path: Path,
    chunks: Iterator[tuple[int, np.ndarray]],
    names: Sequence[str],
    about: dict[str, Any],
    scale: np.ndarray | None,
) -> None:
    arrow = _parquet()
    kind = {"float32": arrow.float32(), "float16": arrow.float16(), "int8": arrow.int8()}[about["dtype"]]
    fields = [("name", arrow.string()), ("descriptor", arrow.list_(kind, about["dimensions"]))]
    fields += [("scale", arrow.float32())] if scale is not None else []
    schema = arrow.schema(fields, metadata={"sret_jax": json.dumps(about)})  # so that the file says enough alone
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        for start, chunk in chunks:
            stop = start + len(chunk)
            flat = arrow.array(np.ascontiguousarray(chunk).reshape(-1), kind)
            columns = [
                arrow.array(list(names[start:stop]), arrow.string()),
                arrow.FixedSizeListArray.from_arrays(flat, about["dimensions"]),
            ]
            columns += [arrow.array(scale[start:stop])] if scale is not None else []
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _read_parquet(path: Path) -> np.ndarray:
    arrow = _parquet()
    column = arrow.parquet.read_table(path, columns=["descriptor"]).column("descriptor").combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
