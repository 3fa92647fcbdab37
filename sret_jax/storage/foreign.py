"""What is inside of files that strangers made: JSON, lines, arrays and the directories of archives.

Each is measured before it is built, so that a small file cannot ask for much memory: JSON by how many lists it has,
an array by its header against the bytes there are, an archive by its directory. `Unreadable` says what is wrong with
it; `files.named` puts the name of the file and the remedy to it. What JSON holds is checked by one function for each
type, which returns the value or says where it is wrong.
"""

import json
import math
import os
import re
import reprlib
import struct
import sys
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np

from sret_jax.storage.files import MAX_BYTES, Unreadable, open_file, read_file

MAX_DEPTH = 64  # of lists in lists
MAX_CONTAINERS = 1_000_000  # lists and objects of a JSON file; an empty one takes two bytes there and 64 here
MAX_LINES = 5_000_000
MAX_TEXT = 4096  # characters of a name; a path has no more
FARTHEST = 1e12  # what a number may be; whole ones are exact as floats
MAX_HEADER = 1 << 16  # bytes, of a .npy file; numpy writes a hundred
MAX_MEMBERS, MAX_DIRECTORY = 100_000, 16 << 20  # of a zip archive, and bytes of what lists them
# How much longer a packed array may become: numbers that rank or describe something shrink to a fifth at best.
MAX_RATIO, SPARE = 30, 1 << 20
MAX_TENSORS = 30_000  # of a safetensors file; the largest networks here have a few thousand
MAX_SAFETENSORS = 100 << 20  # bytes of a header, as its authors' reader has it

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_SHORT = reprlib.Repr()  # bounded in depth as well, which `repr` is not
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3


def short(value: Any) -> str:
    """A value in an error: as `repr` shows it, but never long."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write those of many digits
        return "a number of many digits"
    shown = _SHORT.repr(value)
    return shown if len(shown) <= 120 else f"{shown[:60]}...{shown[-57:]}"


# ---- JSON ----------------------------------------------------------------------------------------------------------


def read_json(path: str | os.PathLike[str], most: int = MAX_BYTES) -> Any:
    """The value in a JSON file, as `parse_json` takes it."""
    return parse_json(read_file(path, most))


def parse_json(data: bytes) -> Any:
    """The value of JSON text, without NaN, infinity and keys that are there twice, of bounded depth and size."""
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise Unreadable(f"not JSON of at most {MAX_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(data, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError:
        raise Unreadable(f"JSON that is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        # Of long numbers Python says how programmers raise its limit.
        digits = "digits" in str(error) and not isinstance(error, json.JSONDecodeError)
        raise Unreadable(f"not JSON ({'a number of many digits' if digits else str(error)[:200]})") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one) if isinstance(part, list | dict)]
        if not level:
            return value
    raise Unreadable(f"JSON that is nested more than {MAX_DEPTH} deep")


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise Unreadable(f"JSON in which the key {short(twice)} is there twice")
    return made


def an_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is {short(value)}, not an object")
    return value


def a_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable(f"{what} is {short(value)}, not a list")
    return value


def a_text(value: Any, what: str) -> str:
    """A text that can be written, and can be a name on disk."""
    if (
        not isinstance(value, str)
        or len(value) > MAX_TEXT
        or "\0" in value
        or any("\ud800" <= c < "\ue000" for c in value)
    ):
        raise Unreadable(f"{what} is {short(value)}, not a text of at most {MAX_TEXT} letters")
    return value


def a_number(value: Any, what: str) -> float:
    """Finite, and no truth value."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not abs(value) <= FARTHEST:
        raise Unreadable(f"{what} is {short(value)}, not a number up to {FARTHEST:.0e}")
    return float(value)


def a_whole_number(value: Any, what: str, end: int = 2**53) -> int:
    """From 0 to `end`, without it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        raise Unreadable(f"{what} is {short(value)}, not a whole number from 0 to {end - 1}")
    return value


def numbers(value: Any, what: str, *counts: int) -> list[float]:
    """A list of finite numbers, as many as one of `counts` says."""
    found = [a_number(x, what) for x in a_list(value, what)]
    if counts and len(found) not in counts:
        raise Unreadable(f"{what} is {short(value)}, not {' or '.join(map(str, counts))} numbers")
    return found


def one_of(value: Mapping[str, Any], key: str, what: str) -> Any:
    """An entry that has to be there."""
    if key not in value:
        raise Unreadable(f"{what} has no {key!r}")
    return value[key]


# ---- Text ----------------------------------------------------------------------------------------------------------


def read_lines(path: str | os.PathLike[str], most: int = MAX_BYTES) -> list[str]:
    """The lines of a text file in UTF-8, at most `MAX_LINES`."""
    data = read_file(path, most)
    if data.count(b"\n") > MAX_LINES:
        raise Unreadable(f"more than {MAX_LINES:,} lines")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeError:
        raise Unreadable("not text in UTF-8") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


# ---- Arrays --------------------------------------------------------------------------------------------------------

_HEADERS = {(1, 0): ("<H", np.lib.format.read_array_header_1_0), (2, 0): ("<I", np.lib.format.read_array_header_2_0)}
_BAD_HEADER = (
    *(ValueError, TypeError, LookupError, OverflowError, AttributeError, SyntaxError, RecursionError, MemoryError),
    tokenize.TokenError,
)


def npy_header(file: BufferedReader | BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type of the array that a .npy file holds; the file is left where its data begin."""
    try:
        version = np.lib.format.read_magic(file)
        form, read = _HEADERS[version]
        at = file.tell()
        (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        file.seek(at)
        shape, fortran, dtype = read(file)
    except (*_BAD_HEADER, struct.error) as error:
        raise Unreadable(f"damaged, or no .npy file ({type(error).__name__})") from None
    if any(type(n) is not int or n < 0 for n in shape):
        raise Unreadable(f"an array of the shape {short(shape)}")
    return shape, fortran, dtype


def open_npy(path: str | os.PathLike[str], most: int, kinds: str, ndim: int) -> np.ndarray:
    """The array of a .npy file, mapped and read-only, once its header fits the bytes there are.

    Args:
      path: of the file.
      most: bytes that it may have.
      kinds: letters of numpy's kinds of numbers: "iu", "fi".
      ndim: how many axes the array has.
    """
    with open_file(path, most) as file:
        shape, fortran, dtype = npy_header(file)
        at = file.tell()
        _check_array(shape, dtype, os.fstat(file.fileno()).st_size - at, kinds, ndim)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", at, shape, "F" if fortran else "C")


def read_npz_array(path: str | os.PathLike[str], most: int, kinds: str, ndim: int, name: str) -> np.ndarray:
    """The only array of a .npz file, or that of several called `name`. The sizes are checked before it is unpacked.

    most   bytes of the array
    """
    with open_file(path, most) as file:
        try:
            archive, members = open_zip(file)
        except zipfile.BadZipFile as error:
            raise Unreadable(f"a damaged archive ({error})") from None
        arrays = {name.removesuffix(".npy"): info for name, info in members.items() if name.endswith(".npy")}
        if not arrays:
            raise Unreadable("holds no array")
        if len(arrays) > 1 and name not in arrays:
            raise Unreadable(
                f"holds the arrays {', '.join(arrays)[:100]}, and none is called {name!r}; save only that one"
            )
        info = arrays[name] if name in arrays else next(iter(arrays.values()))
        if info.file_size > most:
            raise Unreadable(f"{short(info.filename)} is larger than {most >> 20} MiB; give it as .npy")
        try:
            with archive.open(info) as member:
                header = BytesIO(member.read(MAX_HEADER + 16))
                shape, fortran, dtype = npy_header(header)
                at = header.tell()
                _check_array(shape, dtype, info.file_size - at, kinds, ndim)
                data = bytearray(header.read())
                while piece := member.read(1 << 20):
                    data += piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise Unreadable(f"a damaged archive ({type(error).__name__})") from None
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise Unreadable("its array is cut off")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any], size: int, kinds: str, ndim: int) -> None:
    if dtype.kind not in kinds or dtype.shape or len(shape) != ndim:
        axes = f"{ndim} axes" if ndim > 1 else "one axis"
        raise Unreadable(f"{short(str(dtype))} {short(list(shape))}, not numbers along {axes}")
    if math.prod(shape) * dtype.itemsize != size:
        raise Unreadable(f"{dtype} {short(list(shape))} in {size} bytes; it is cut off or damaged")


# ---- Archives ------------------------------------------------------------------------------------------------------


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an archive does."""
    with open_file(path, sys.maxsize) as file:
        return file.read(2) == b"PK"


def open_zip(file: BufferedReader | BytesIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip archive and its members by name, once its directory is known to be small, and to fit the bytes there are.

    Raises `zipfile.BadZipFile` for what is no archive, and `Unreadable` for one that lists too much, the same twice,
    or members that share bytes or grow beyond measure.
    """
    size = file.seek(0, os.SEEK_END)
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined] # what `ZipFile` itself goes by; there is nothing public
    if end and (end[4] > MAX_MEMBERS or end[5] > MAX_DIRECTORY):
        raise Unreadable(
            f"its archive lists more than {MAX_MEMBERS:,} files, or in more than {MAX_DIRECTORY >> 20} MiB"
        )
    try:
        archive = zipfile.ZipFile(file)
    except (ValueError, OverflowError, struct.error, NotImplementedError, UnicodeError) as error:
        raise zipfile.BadZipFile(str(error)) from None
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    members = {entry.filename: entry for entry in entries}
    if len(members) < len(entries) or len(entries) > MAX_MEMBERS:
        raise Unreadable("its archive lists a name twice, or too many")
    at = 0
    for entry in entries:
        if entry.header_offset < at or entry.header_offset + 30 + entry.compress_size > size:
            raise Unreadable("its archive entries overlap, or lie beyond its end")
        at = entry.header_offset + 30 + entry.compress_size
        if entry.file_size > MAX_RATIO * entry.compress_size + SPARE:
            raise Unreadable(f"its archive's {short(entry.filename)} becomes more than {MAX_RATIO} times as large")
    return archive, members


def check_safetensors(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file. Raises `Unreadable` where its header does not fit the bytes behind it."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_SAFETENSORS or 8 + length > len(data):
        raise Unreadable(f"its header would have {length} bytes")
    header = an_object(parse_json(data[8 : 8 + length]), "its header")
    metadata = an_object(header.pop("__metadata__", None) or {}, "its metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise Unreadable(f"its metadata {short(key)} is {short(value)}, not a text")
    if len(header) > MAX_TENSORS:
        raise Unreadable(f"its header lists more than {MAX_TENSORS:,} tensors")
    spans = []
    for name, entry in header.items():
        what = short(name)
        fields = an_object(entry, what)
        a_text(one_of(fields, "dtype", what), f"the type of {what}")
        for n in a_list(one_of(fields, "shape", what), f"the shape of {what}"):
            a_whole_number(n, f"the shape of {what}")
        span = a_list(one_of(fields, "data_offsets", what), f"the place of {what}")
        spans.append(([a_whole_number(n, f"the place of {what}") for n in span], what))
    at = 0
    for span, what in sorted(spans):
        if len(span) != 2 or span[0] != at or span[1] < at:
            raise Unreadable(f"{what} does not lie behind the one before it")
        at = span[1]
        if 8 + length + at > len(data):
            raise Unreadable(f"{what} is cut off")
    if 8 + length + at != len(data):
        raise Unreadable(f"{len(data) - 8 - length - at} bytes behind its last tensor")
    return metadata
