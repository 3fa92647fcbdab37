"""Every kind of strange photograph, made from code: those of `photo_files`, and more of each format.

What must become of each is frozen in `tests/golden/frozen_photographs.json`.
"""

import functools
import io
import random
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, features

from sret_jax.data.formats import installed
from tests.support.photo_files import (
    ACCEPTED,
    ADOBE_RGB,
    DISPLAY_P3,
    REJECTED,
    H,
    W,
    cmyk_profile,
    heic,
    photo_bytes,
    png_of,
    quadrants,
    raw_png,
)
from tests.support.photos import encode

# How near the pixels come depends on the encoder that made the file, or on the decoder: other builds differ by a level.
LOSSY = (".jpg", ".avif", ".heic", ".jp2", ".j2k", "lossy", "JPEG", "palette", ".gif", "profile", "Display P3")


def is_exact(name: str) -> bool:
    """Whether every build of the libraries makes the same pixels of it."""
    return not any(word in name for word in LOSSY) or name == "png named.jpg"


@functools.cache
def strange_photos() -> dict[str, bytes]:
    """Name -> bytes; a hundred and more. Formats that are not installed here are left out."""
    found = {name: data for name, (data, *_) in {**ACCEPTED, **REJECTED}.items()}
    photo = Image.fromarray(quadrants())
    for turn in range(1, 9):
        found[f"turn {turn}.jpg"] = photo_bytes(orientation=turn)
        found[f"turn {turn}.png"] = photo_bytes("PNG", orientation=turn)
    found |= _pngs(photo) | _tiffs(photo) | _jpegs(photo) | _others(photo) | _no_photographs(photo)
    whole = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif", "BMP": ".bmp"}
    for kind, ending in whole.items():
        data = photo_bytes(kind) if kind in ("JPEG", "PNG", "WEBP", "TIFF") else encode(photo.convert("P"), kind)
        for part, at in ("a quarter", len(data) // 4), ("three quarters", 3 * len(data) // 4), ("nearly all", -2):
            found[f"{part}{ending}"] = data[:at]
    if features.check("avif"):
        found |= {"plain.avif": photo_bytes("AVIF"), "turned.avif": photo_bytes("AVIF", orientation=6)}
        found |= {"clear.avif": photo_bytes("AVIF", "RGBA"), "half.avif": photo_bytes("AVIF")[:-40]}
    if installed("HEIF"):
        found |= {"plain.heic": heic(), "turned.heic": heic(orientation=6), "half.heic": heic()[:-40]}
    return found


def _pngs(photo: Image.Image) -> dict[str, bytes]:
    plain = photo_bytes("PNG")
    chunk = plain.index(b"IDAT") - 4
    end = chunk + 12 + int.from_bytes(plain[chunk : chunk + 4], "big")
    grey, deep = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40, quadrants().astype(np.uint16) * 257
    rotten = bytearray(plain)
    rotten[chunk + 20] ^= 4
    header = struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(21 * 20))
    palette = encode(Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40), "L").convert("P"), "PNG")
    at = palette.index(b"PLTE") - 4
    without = palette[:at] + palette[at + 12 + int.from_bytes(palette[at : at + 4], "big") :]
    text = zlib.compress(bytes(900_000), 9)
    return {
        "bits.png": encode(photo.convert("1", dither=Image.Dither.NONE), "PNG"),
        "grey steps of 16 bits.png": encode(Image.fromarray(grey), "PNG"),
        "grey and alpha of 16 bits.png": raw_png(16, 4, deep[..., :2]),
        "see-through palette.png": encode(photo.convert("P"), "PNG", transparency=bytes(range(256))),
        "see-through colour.png": encode(photo, "PNG", transparency=(200, 40, 40)),
        "no palette.png": without,
        "interlaced rows missing.png": png_of(struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 1), body),
        "bit rot.png": bytes(rotten),
        "wrong checksum of a note.png": plain[:33] + b"\0\0\0\1tEXtaWRNG" + plain[33:],
        "no pixels.png": plain[:chunk] + plain[end:],
        "no end.png": plain[:-12],
        "end first.png": plain[:33] + plain[-12:] + plain[33:],
        "twice the header.png": plain[:33] + plain[8:33] + plain[33:],
        "more rows than it says.png": png_of(header, zlib.compress(bytes(21 * 4000))),
        "fewer rows than it says.png": png_of(header, zlib.compress(bytes(21 * 10))),
        "unknown depth.png": png_of(struct.pack(">IIBBBBB", 20, 20, 7, 0, 0, 0, 0), body),
        "unknown colour.png": png_of(struct.pack(">IIBBBBB", 20, 20, 8, 5, 0, 0, 0), body),
        "long note.png": png_of(header, body, (b"zTXt", b"a\0\0" + text)),
        "many notes.png": png_of(header, body, *[(b"zTXt", b"a\0\0" + text)] * 100),
        "profile bomb.png": png_of(header, body, (b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000), 9))),
        "Adobe RGB profile.png": encode(photo, "PNG", icc_profile=ADOBE_RGB),
        "Display P3, transparent.png": encode(photo.convert("RGBA"), "PNG", icc_profile=DISPLAY_P3),
        "damaged profile.png": encode(photo, "PNG", icc_profile=ADOBE_RGB[:200]),
        "profile of another kind.png": encode(photo, "PNG", icc_profile=cmyk_profile()),
        "profile of noise.png": encode(photo, "PNG", icc_profile=random.Random(0).randbytes(3000)),
        "strip.png": encode(photo.resize((4000, 16)), "PNG"),
        "one row.png": encode(photo.resize((4000, 1)), "PNG"),
        "one column.png": encode(photo.resize((1, 4000)), "PNG"),
        "smallest.png": encode(photo.resize((16, 16)), "PNG"),
    }


def _tiffs(photo: Image.Image) -> dict[str, bytes]:
    deep = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    return {
        "strips of a row.tif": encode(photo, "TIFF", compression="tiff_lzw", tiffinfo={278: 1}),
        "bits.tif": encode(photo.convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4"),
        "packed bits.tif": encode(photo, "TIFF", compression="packbits"),
        "palette.tif": encode(photo.convert("P"), "TIFF"),
        "YCbCr, JPEG.tif": encode(photo.convert("YCbCr"), "TIFF", compression="jpeg"),
        "grey steps of 16 bits.tif": encode(Image.fromarray(deep), "TIFF"),
        "grey of 16 bits, big end first.tif": _big_endian_tiff(deep),
        "whole numbers.tif": encode(Image.fromarray(deep.astype(np.int32) * 2 - 9000), "TIFF"),
        "profile.tif": encode(photo, "TIFF", icc_profile=DISPLAY_P3),
        "all tags.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(500),
        "directory of itself.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(50),
    }


def _big_endian_tiff(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1)]
    tags += [(278, 3, height), (279, 4, pixels.size * 2)]
    start = 8 + 2 + 12 * len(tags) + 4
    listed = b""
    for tag, kind, value in tags:
        value = start if tag == 273 else value
        listed += struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else value.to_bytes(4))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + listed + bytes(4) + pixels.astype(">u2").tobytes()


def _jpegs(photo: Image.Image) -> dict[str, bytes]:
    plain = photo_bytes()
    scan = plain.index(b"\xff\xda") + 20
    found = {
        "cmyk with a profile.jpg": encode(photo.convert("CMYK"), "JPEG", quality=95, icc_profile=cmyk_profile()),
        "Adobe RGB profile.jpg": encode(photo, "JPEG", quality=95, icc_profile=ADOBE_RGB),
        "coarse colours.jpg": encode(photo, "JPEG", quality=95, subsampling=2),
        "progressive cmyk.jpg": encode(photo.convert("CMYK"), "JPEG", quality=95, progressive=True),
        "lowest quality.jpg": encode(photo, "JPEG", quality=1),
        "strip.jpg": encode(photo.resize((4000, 16)), "JPEG", quality=95),
        "one row.jpg": encode(photo.resize((4000, 1)), "JPEG"),
        "bytes before the start.jpg": b"\0\0" + plain,
        "odd EXIF.jpg": encode(photo, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\xff" * 40),
        "EXIF in circles.jpg": encode(photo, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"),
        "two starts.jpg": plain[:2] + plain,
        "no tables.jpg": plain.replace(b"\xff\xdb", b"\xff\xfe"),
        "no codes.jpg": plain.replace(b"\xff\xc4", b"\xff\xfe"),
        "no scan.jpg": plain[: scan - 20],
        "no height.jpg": plain[: plain.index(b"\xff\xc0") + 5] + b"\0\0" + plain[plain.index(b"\xff\xc0") + 7 :],
        "wider than it is.jpg": _sized(plain, H, 2 * W),
        "higher than it is.jpg": _sized(plain, 20 * H, W),
        "arithmetic.jpg": plain.replace(b"\xff\xc0", b"\xff\xc9"),
        "lossless.jpg": plain.replace(b"\xff\xc0", b"\xff\xc3"),
    }
    for at in (0, 40, 120):
        rotten = bytearray(plain)
        rotten[scan + at] ^= 16
        found[f"bit rot at {at}.jpg"] = bytes(rotten)
    return found


def _sized(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _others(photo: Image.Image) -> dict[str, bytes]:
    clear = photo.convert("RGBA")
    clear.putalpha(photo.convert("L"))
    small = photo.convert("P").resize((20, 20))
    gif = encode(small, "GIF")
    webp = photo_bytes("WEBP", lossless=True)
    return {
        "half-transparent.webp": encode(clear, "WEBP", lossless=True, exact=True),
        "half-transparent.tif": encode(clear, "TIFF"),
        "half-transparent.png": encode(clear, "PNG"),
        "interlaced.gif": encode(photo.convert("P"), "GIF", interlace=1),
        "see-through.gif": encode(photo.convert("P"), "GIF", transparency=3),
        "frame outside the picture.gif": gif[:6] + struct.pack("<HH", 18, 18) + gif[10:],
        "frame smaller than the picture.gif": gif[:6] + struct.pack("<HH", 60, 60) + gif[10:],
        "no frame.gif": gif[:13] + b";",
        "bits.bmp": encode(photo.convert("1", dither=Image.Dither.NONE), "BMP"),
        "grey.bmp": encode(photo.convert("L"), "BMP"),
        "upside down.bmp": _with_height(encode(photo, "BMP"), -H),
        "bytes cut and size lies.bmp": encode(photo, "BMP")[:60],
        "transparent.bmp": encode(clear, "BMP"),
        "length lies.webp": webp[:4] + struct.pack("<I", 2**31) + webp[8:],
        "bit rot.webp": webp[:60] + bytes([webp[60] ^ 255]) + webp[61:],
        "profile.webp": encode(photo, "WEBP", lossless=True, icc_profile=DISPLAY_P3),
        "grey.jp2": encode(photo.convert("L"), "JPEG2000"),
        "transparent.jp2": encode(clear, "JPEG2000"),
        "tiles.jp2": encode(photo, "JPEG2000", tile_size=(16, 16)),
        "16 bit.jp2": encode(Image.fromarray(quadrants()[..., 0].astype(np.uint16) * 257), "JPEG2000"),
    }


def _with_height(bmp: bytes, height: int) -> bytes:
    return bmp[:22] + struct.pack("<i", height) + bmp[26:]


def _no_photographs(photo: Image.Image) -> dict[str, bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(zipfile.ZipInfo("a.jpg"), b"photo")
    found = {
        "archive.jpg": packed.getvalue(),
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n",
        "program.jpg": b"\x7fELF\x02\x01\x01" + bytes(200),
        "pickle.jpg": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "film.jpg": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(100),
        "one byte.jpg": b"\xff",
        "start only.jpg": b"\xff\xd8\xff",
        "start only.png": b"\x89PNG\r\n\x1a\n",
        "start only.webp": b"RIFF\0\0\0\0WEBPVP8 ",
        "start only.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "start only.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
        "noise.jpg": random.Random(0).randbytes(5000),
    }
    for kind in ("ICO", "PPM", "TGA", "PCX", "SGI", "EPS", "IM", "DDS"):
        found[f"of kind {kind}.jpg"] = encode(photo, kind)
    return found
