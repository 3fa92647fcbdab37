"""Which files are photographs: a closed list of formats, and what their first bytes tell before anything is decoded.

Raw camera files are refused. Many of them are TIFF, and the first picture in those is a thumbnail. Formats that Pillow
hands to other programs, PostScript, are not in the list.

Pillow checks the size that a file declares, but not that of a TIFF's tiles, which may be larger and would be decoded.
So a TIFF's tags are read here before Pillow reads them.
"""

import importlib.util
import struct
from collections.abc import Iterable
from pathlib import PurePath

from PIL import features

MAX_PIXELS = 50_000_000  # of a photograph, and of any part of one; checked before it is decoded
# Of these, whose decoders hold the photograph several times over: what none of them takes more than 512 MB for.
FEWER_PIXELS = {"WEBP": 30_000_000, "AVIF": 30_000_000, "JPEG2000": 20_000_000}
FEWER_OF_FOUR_CHANNELS = 40_000_000  # progressive JPEG of four inks, transparent HEIC
MAX_PARTS = 200_000  # strips or tiles of a TIFF; even tiles of 16 x 16 pixels are fewer

# Pillow's names of what is decoded -> how people write them.
FORMATS = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WEBP": "WebP",
    "AVIF": "AVIF",
    "HEIF": "HEIC",
    "GIF": "GIF",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "JPEG2000": "JPEG 2000",
}
# Those that not every installation or version decodes, by the endings of their files: caches remember which it did.
NOT_EVERYWHERE = {
    ".avif": "AVIF",
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".gif": "GIF",
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG2000"),
}
BUILT_IN = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # where Pillow was built with it

AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
JP2, CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"

RAW = "a raw camera file: export it as a JPEG"
THUMBNAIL = "a raw camera file, or a TIFF that begins with a thumbnail: export it as a JPEG"
TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels"
RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
RAW_MARKS = (b"CR", b"IIII", b"MMMM")  # behind the header of a TIFF: Canon, Phase One
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}  # -> byte order
ODD_TIFF_STARTS = (b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")  # 64 bits, or the wrong byte order; Pillow would read them
SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, SUB_DIRECTORIES = 254, 256, 257, 259, 262, 330
TILE_WIDTH, TILE_HEIGHT, DNG_VERSION = 322, 323, 50706
SENSOR = (32803, 34892)  # photometric interpretations: values of a sensor, not colours
RAW_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000, 65534, 65535)  # Sony, Epson, Samsung, Nikon, Kodak, Pentax
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of a value
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I"}


class TooMuch(ValueError):
    """Tags that hold more than their file can."""


def written(formats: Iterable[str] = FORMATS) -> str:
    """ "JPEG, PNG or WebP": the formats as a message names them."""
    *first, last = (FORMATS[name] for name in formats)
    return f"{', '.join(first)} or {last}" if first else last


def is_heic(data: bytes) -> bool:
    """A photograph of a telephone, as its brands say; AVIF has the same container."""
    brands = _brands(data)
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS


def installed(name: str) -> bool:
    """Whether a format can be decoded here."""
    if name == "HEIF":
        return importlib.util.find_spec("pillow_heif") is not None
    return name not in BUILT_IN or bool(features.check(BUILT_IN[name]))


def decoder(name: str) -> str:
    """What a file of this name needs beyond what every installation has, and whether it is there; "" for nothing."""
    needed = NOT_EVERYWHERE.get(PurePath(name).suffix.lower(), "")
    return needed and f"{needed} {installed(needed)}"


def too_large(name: str, size: tuple[int, int], four_channels: bool = False) -> str:
    """Why a photograph of a format and a size is not decoded; "" where it is. `four_channels`: all four are held."""
    most = min(FEWER_PIXELS.get(name, MAX_PIXELS), FEWER_OF_FOUR_CHANNELS if four_channels else MAX_PIXELS)
    if size[0] * size[1] > MAX_PIXELS:
        return TOO_LARGE
    if size[0] * size[1] > most:
        kind = FORMATS.get(name, "JPEG")
        return f"more than {most // 1_000_000} megapixels, too many for this kind of {kind}: save it as a PNG"
    return ""


def refusal(data: bytes) -> str:
    """Why a file is not decoded whatever it holds; "" where its first bytes allow it."""
    if _is_raw(data):
        return RAW
    for name, known in (
        ("HEIF", is_heic(data)),
        ("AVIF", bool(_brands(data) & AVIF_BRANDS)),
        ("WEBP", data[:4] == b"RIFF" and data[8:12] == b"WEBP"),
        ("JPEG2000", data.startswith((JP2, CODESTREAM))),
    ):
        if known and not installed(name):
            remedy = 'pip install "sret_jax[heic]"' if name == "HEIF" else "install Pillow from its wheel"
            return f"{FORMATS[name]}, which cannot be decoded here: {remedy}, or export it as a JPEG"
    try:
        if data[:4] in TIFF_STARTS:
            return _tiff_refusal(data, TIFF_STARTS[data[:4]])
    except struct.error:
        return "damaged: it ends in its header"
    except TooMuch:
        return "damaged: its tags hold more than the file"
    return "a TIFF of an unusual kind: save it as an ordinary one, or as a JPEG" if data[:4] in ODD_TIFF_STARTS else ""


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12]} | {data[at : at + 4] for at in range(16, end - 3, 4)}


def _is_raw(data: bytes) -> bool:
    marked = data[:4] in TIFF_STARTS and data[8:12].startswith(RAW_MARKS)
    return marked or data.startswith(RAW_STARTS) or b"crx " in _brands(data)


def _tiff_refusal(data: bytes, order: str) -> str:
    (start,) = struct.unpack_from(order + "I", data, 4)
    first = _directory(data, start, order)
    others = [_directory(data, at, order) for at in first.get(SUB_DIRECTORIES, ())[:16] if at < len(data)]
    if any(_is_sensor(tags) for tags in (first, *others)) or DNG_VERSION in first:
        return RAW
    reduced = first.get(SUBFILE_TYPE, (0,))[0] & 1
    if reduced or any(_area(tags, WIDTH, HEIGHT) > _area(first, WIDTH, HEIGHT) for tags in others):
        return THUMBNAIL
    return TOO_LARGE if _area(first, TILE_WIDTH, TILE_HEIGHT) > MAX_PIXELS else ""


def _is_sensor(tags: dict[int, tuple[int, ...]]) -> bool:
    return tags.get(PHOTOMETRIC, (0,))[0] in SENSOR or tags.get(COMPRESSION, (0,))[0] in RAW_COMPRESSIONS


def _area(tags: dict[int, tuple[int, ...]], width: int, height: int) -> int:
    return tags.get(width, (0,))[0] * tags.get(height, (0,))[0]


def _directory(data: bytes, at: int, order: str) -> dict[int, tuple[int, ...]]:
    """The numbers of a TIFF's directory, at most 16 of each tag.

    Raises `struct.error` where the file ends before, and `TooMuch` for more values than a photograph has.
    """
    (entries,) = struct.unpack_from(order + "H", data, at)
    tags: dict[int, tuple[int, ...]] = {}
    total = 0
    for entry in range(entries):
        tag, kind, count, place = struct.unpack_from(order + "HHII", data, at + 2 + 12 * entry)
        size = count * SIZES.get(kind, 0)
        total += size
        if total > len(data) or (kind in (3, 4, 13, 16) and count > MAX_PARTS):
            raise TooMuch
        if kind in NUMBERS and count and tag not in tags:
            values = f"{order}{min(count, 16)}{NUMBERS[kind]}"
            tags[tag] = struct.unpack_from(values, data, place if size > 4 else at + 10 + 12 * entry)
    return tags
