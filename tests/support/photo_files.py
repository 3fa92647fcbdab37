"""Files that people have in photo folders, and what must become of each."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.photos import encode

H, W = 36, 48
RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 160, 60), (50, 70, 200), (120, 120, 120)


def quadrants() -> np.ndarray:
    """Red and green above blue and grey: every turn and every swap of channels shows."""
    photo = np.zeros((H, W, 3), np.uint8)
    photo[: H // 2, : W // 2], photo[: H // 2, W // 2 :] = RED, GREEN
    photo[H // 2 :, : W // 2], photo[H // 2 :, W // 2 :] = BLUE, GREY
    return photo


def corners(photo: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quadrants: top left, top right, bottom left, bottom right."""
    h, w = photo.shape[:2]
    return [tuple(int(c) for c in photo[y, x]) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def photo_bytes(kind: str = "JPEG", mode: str = "RGB", orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "exif": exif} | options if kind != "PNG" else {"exif": exif} | options
    return encode(Image.fromarray(quadrants()).convert(mode), kind, **options)


def raw_png(bits: int, colour: int, rows: np.ndarray) -> bytes:
    """A PNG of samples as they stand; Pillow writes no colour with 16 bits."""
    samples = rows.astype(">u2" if bits == 16 else np.uint8).reshape(len(rows), -1)
    body = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, colour, 0, 0, 0)
    return png_of(header, zlib.compress(body))


def png_of(header: bytes, body: bytes, *more: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", header), *more, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def size_of_jpeg_changed(data: bytes, side: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


def frames(kind: str) -> bytes:
    first = Image.fromarray(quadrants())
    others = [Image.new("RGB", first.size, colour) for colour in ("black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(first, kind, save_all=True, append_images=others, **options)


def bomb(side: int) -> bytes:
    """A valid grey PNG of `side` x `side` zeros in a few kilobytes."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes((side + 1) * 100)) for _ in range(side // 100)) + packer.flush()
    return png_of(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), body)


def _photo16(value: np.ndarray) -> np.ndarray:
    return value.astype(np.uint16) * 257


_jpeg, _png, _webp = photo_bytes(), photo_bytes("PNG"), photo_bytes("WEBP", lossless=True)
_clear = np.dstack([quadrants(), np.full((H, W), 255, np.uint8)])
_clear[: H // 2, : W // 2, 3] = 0
_palette = Image.fromarray(quadrants()).convert("P", palette=Image.Palette.ADAPTIVE)
ALL = [RED, GREEN, BLUE, GREY]
GREYS = [(x, x, x) for x in (int(Image.new("RGB", (1, 1), c).convert("L").getpixel((0, 0))) for c in ALL)]

# name -> (bytes, colours of the four quadrants, greatest difference of a channel)
ACCEPTED: dict[str, tuple[bytes, list[tuple[int, ...]], int]] = {
    "plain.jpg": (_jpeg, ALL, 3),
    "plain.png": (_png, ALL, 0),
    "plain.webp": (_webp, ALL, 0),
    "lossy.webp": (photo_bytes("WEBP"), ALL, 12),
    "progressive.jpg": (photo_bytes(progressive=True), ALL, 3),
    "png named.jpg": (_png, ALL, 0),
    "grey.jpg": (photo_bytes(mode="L"), GREYS, 2),
    "grey.png": (photo_bytes("PNG", "L"), GREYS, 0),
    "grey alpha.png": (photo_bytes("PNG", "LA"), GREYS, 0),
    "palette.png": (encode(_palette, "PNG"), ALL, 2),
    "cmyk.jpg": (photo_bytes(mode="CMYK"), ALL, 4),
    "16 bit grey.png": (encode(Image.fromarray(_photo16(quadrants()[..., 0])), "PNG"), [(x[0],) * 3 for x in ALL], 0),
    "16 bit colour.png": (raw_png(16, 2, _photo16(quadrants())), ALL, 0),
    "16 bit alpha.png": (raw_png(16, 6, _photo16(np.dstack([quadrants(), _clear[..., 3]]))), [(255,) * 3, *ALL[1:]], 0),
    "transparent.png": (encode(Image.fromarray(_clear), "PNG"), [(255,) * 3, *ALL[1:]], 0),
    "transparent.webp": (encode(Image.fromarray(_clear), "WEBP", lossless=True), [(255,) * 3, *ALL[1:]], 0),
    "animated.png": (frames("PNG"), ALL, 0),
    "animated.webp": (frames("WEBP"), ALL, 0),
    "two pictures.jpg": (frames("MPO"), ALL, 40),
    "bytes after the end.jpg": (_jpeg + b"\0" * 100, ALL, 3),
    "turned.jpg": (photo_bytes(orientation=6), [BLUE, RED, GREY, GREEN], 3),
    "turned.png": (photo_bytes("PNG", orientation=3), [GREY, BLUE, GREEN, RED], 0),
    "turned.webp": (photo_bytes("WEBP", orientation=8, lossless=True), [GREEN, GREY, RED, BLUE], 0),
    "unknown turn.jpg": (photo_bytes(orientation=9), ALL, 3),
}

# name -> (bytes, beginning of the reason)
REJECTED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"this is no photograph\n" * 20, "not a JPEG, PNG or WebP photograph"),
    "zeros.jpg": (bytes(5000), "not a JPEG, PNG or WebP photograph"),
    "html.jpg": (b"<!DOCTYPE html><html>404</html>", "not a JPEG, PNG or WebP photograph"),
    "header only.jpg": (_jpeg[:3], "not a JPEG, PNG or WebP photograph"),
    "half.jpg": (_jpeg[: len(_jpeg) // 2], "damaged: "),
    "no end.jpg": (_jpeg[: len(_jpeg) - 20], "damaged: "),
    "half.png": (_png[: len(_png) // 2], "damaged: "),
    "half.webp": (_webp[: len(_webp) // 2], ""),  # found while opening or while decoding
    "wrong checksum.png": (_png.replace(b"IDAT", b"IDAT\xff", 1), "damaged: "),
    "gif.jpg": (encode(Image.fromarray(quadrants()), "GIF"), "not a JPEG, PNG or WebP photograph"),
    "bmp.jpg": (encode(Image.fromarray(quadrants()), "BMP"), "not a JPEG, PNG or WebP photograph"),
    "tiff.jpg": (encode(Image.fromarray(quadrants()), "TIFF"), "not a JPEG, PNG or WebP photograph"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG or WebP photograph"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG, PNG or WebP photograph"),
    "one pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels: a side is shorter than 16"),
    "thin.png": (encode(Image.new("RGB", (400, 15)), "PNG"), "15x400 pixels: a side is shorter than 16"),
    "no width.png": (png_of(struct.pack(">IIBBBBB", 0, 40, 8, 2, 0, 0, 0), zlib.compress(b"")), ""),
    "bomb 8000.png": (bomb(8000), "more than 50 megapixels"),
    "bomb 12000.png": (bomb(12000), "more than 50 megapixels"),
    "bomb 60000.png": (
        png_of(struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), zlib.compress(bytes(1000))),
        "more than 50 megapixels",
    ),
    "lying size.jpg": (size_of_jpeg_changed(_jpeg, 65000), "more than 50 megapixels"),
    "text bomb.png": (
        png_of(
            struct.pack(">IIBBBBB", 20, 20, 8, 0, 0, 0, 0),
            zlib.compress(bytes(21 * 20)),
            (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000), 9)),
        ),
        "damaged: ",
    ),
}


def write_hostile_names(folder: Path) -> dict[str, str]:
    """Makes entries that are not used, whatever they hold: printed name -> beginning of the reason."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nowhere.jpg").symlink_to("missing.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / ".hidden.jpg").write_bytes(_jpeg)
    (folder / "notes.txt").write_text("bought at the market\n")
    with open(folder / "huge.jpg", "wb") as file:
        file.truncate(65 * 2**20)
    with open(os.path.join(os.fsencode(folder), b"latin-\xe9.jpg"), "wb") as file:
        file.write(_jpeg)
    return {
        "pipe.jpg": "not a regular file",
        "nowhere.jpg": "cannot be opened: No such file",
        "circle.jpg": "cannot be opened: Too many levels",
        "folder.jpg": "a folder inside an instance folder",
        "device.jpg": "not a regular file",
        ".hidden.jpg": "hidden",
        "notes.txt": "not a JPEG, PNG or WebP photograph",
        "huge.jpg": "larger than 64 MiB",
        "latin-\\xe9.jpg": "its name is not UTF-8",
    }
