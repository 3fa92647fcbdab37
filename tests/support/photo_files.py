"""Files that people have in photo folders, and what must become of each."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sret_jax.data.formats import RAW, THUMBNAIL, TOO_LARGE, written
from tests.support.photos import encode

NO_PHOTO = f"not a {written()} photograph"
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


def tiff(
    pixels: bytes, *tags: tuple[int, int, int], sub: tuple[tuple[int, int, int], ...] = (), start: bytes = b"II*\0"
) -> bytes:
    """A grey TIFF of 20 x 20 pixels with these (tag, type, value) instead of its own, and a directory below it."""
    first = {256: (3, 20), 257: (3, 20), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (3, 20)}
    first |= {tag: (kind, value) for tag, kind, value in tags}
    first |= {273: (4, 0), 279: (4, len(pixels))} if 322 not in first else {324: (4, 0), 325: (4, len(pixels))}
    first |= {330: (4, 0)} if sub else {}
    behind = len(start) + 4 + 2 + 12 * len(first) + 4
    below = struct.pack("<H", len(sub)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in sub) + bytes(4)
    first |= {tag: (4, behind + len(below)) for tag in (273, 324) if tag in first}
    first |= {330: (4, behind)} if sub else {}
    entries = b"".join(struct.pack("<HHII", t, k, 1, v) for t, (k, v) in sorted(first.items()))
    return start + struct.pack("<IH", len(start) + 4, len(first)) + entries + bytes(4) + below + pixels


def icc_profile(columns: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A profile of three colours (X, Y, Z at D50) and a gamma, as cameras and screens have them."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + bytes(78), b"cprt": b"text\0\0\0\0none\0"}
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + fixed(*white)}
    for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*column)}
        tags |= {name + b"TRC": b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(256 * gamma))}
    return _profile(b"mntrRGB XYZ ", tags)


def cmyk_profile() -> bytes:
    """Every ink takes a quarter of the light, and none is coloured: a profile that no formula guesses."""
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    light = [255 - 60 * sum(ink) for ink in np.ndindex(2, 2, 2, 2)]
    colours = b"".join(bytes((value, 128, 128)) for value in light)
    table += 4 * bytes(range(256)) + colours + 3 * bytes(range(256))
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    desc, text = b"desc\0\0\0\0\0\0\0\2x\0" + bytes(78), b"text\0\0\0\0none\0"
    return _profile(b"prtrCMYKLab ", {b"desc": desc, b"cprt": text, b"wtpt": white, b"A2B0": table})


def _profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    start, listed, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        listed += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI12s6H", start + len(body), b"test", 0x02400000, kind, 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + listed + body


def heic(orientation: int = 1) -> bytes:
    """As telephones write it: the container says how the photograph is turned. Needs pillow-heif, an extra."""
    import pillow_heif

    file, photo = io.BytesIO(), pillow_heif.from_pillow(Image.fromarray(quadrants()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.info["exif"] = exif.tobytes()
    photo.save(file, quality=95)
    return file.getvalue()


DISPLAY_P3 = icc_profile(((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)), 2.2)
ADOBE_RGB = icc_profile(((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 2.2)
HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def _photo16(value: np.ndarray) -> np.ndarray:
    return value.astype(np.uint16) * 257


_jpeg, _png, _webp = photo_bytes(), photo_bytes("PNG"), photo_bytes("WEBP", lossless=True)
_clear = np.dstack([quadrants(), np.full((H, W), 255, np.uint8)])
_clear[: H // 2, : W // 2, 3] = 0
_palette = Image.fromarray(quadrants()).convert("P", palette=Image.Palette.ADAPTIVE)
ALL = [RED, GREEN, BLUE, GREY]
GREYS = [(x, x, x) for x in (int(Image.new("RGB", (1, 1), c).convert("L").getpixel((0, 0))) for c in ALL)]

_codestream = encode(Image.fromarray(quadrants()), "JPEG2000", no_jp2=True)


def _with(data: bytes, at: int, part: bytes) -> bytes:
    return data[:at] + part + data[at + len(part) :]


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
    "Display P3.png": (
        encode(Image.fromarray(quadrants()), "PNG", icc_profile=DISPLAY_P3),
        [(220, 0, 18), (0, 164, 35), (40, 69, 209), (121, 121, 121)],
        2,
    ),
    "plain.tif": (photo_bytes("TIFF"), ALL, 0),
    "turned.tif": (photo_bytes("TIFF", orientation=6), [BLUE, RED, GREY, GREEN], 0),
    "packed.tif": (encode(Image.fromarray(quadrants()), "TIFF", compression="tiff_lzw"), ALL, 0),
    "deflated.tif": (encode(Image.fromarray(quadrants()), "TIFF", compression="tiff_adobe_deflate"), ALL, 0),
    "JPEG inside.tif": (encode(Image.fromarray(quadrants()), "TIFF", compression="jpeg", quality=95), ALL, 12),
    "cmyk.tif": (photo_bytes("TIFF", "CMYK"), ALL, 0),
    "16 bit.tif": (encode(Image.fromarray(_photo16(quadrants()[..., 0])), "TIFF"), [(x[0],) * 3 for x in ALL], 0),
    "transparent.tif": (encode(Image.fromarray(_clear), "TIFF"), [(255,) * 3, *ALL[1:]], 0),
    "pages.tif": (frames("TIFF"), ALL, 0),
    "plain.gif": (encode(_palette, "GIF"), ALL, 2),
    "animated.gif": (frames("GIF"), ALL, 2),
    "plain.bmp": (encode(Image.fromarray(quadrants()), "BMP"), ALL, 0),
    "palette.bmp": (encode(_palette, "BMP"), ALL, 2),
    "plain.jp2": (encode(Image.fromarray(quadrants()), "JPEG2000"), ALL, 1),
    "grey.j2k": (encode(Image.fromarray(quadrants()).convert("L"), "JPEG2000", no_jp2=True), GREYS, 1),
    "unknown turn.jpg": (photo_bytes(orientation=9), ALL, 3),
}

# name -> (bytes, beginning of the reason)
REJECTED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"this is no photograph\n" * 20, NO_PHOTO),
    "zeros.jpg": (bytes(5000), NO_PHOTO),
    "html.jpg": (b"<!DOCTYPE html><html>404</html>", NO_PHOTO),
    "header only.jpg": (_jpeg[:3], NO_PHOTO),
    "half.jpg": (_jpeg[: len(_jpeg) // 2], "damaged: "),
    "no end.jpg": (_jpeg[: len(_jpeg) - 20], "damaged: "),
    "half.png": (_png[: len(_png) // 2], "damaged: "),
    "half.webp": (_webp[: len(_webp) // 2], ""),  # found while opening or while decoding
    "wrong checksum.png": (_png.replace(b"IDAT", b"IDAT\xff", 1), "damaged: "),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_PHOTO),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NO_PHOTO),
    "half.gif": (encode(_palette, "GIF")[:-30], "damaged: "),
    "half.bmp": (encode(Image.fromarray(quadrants()), "BMP")[:2000], "damaged: "),
    "half.tif": (photo_bytes("TIFF")[:2000], "damaged: "),
    "half.jp2": (encode(Image.fromarray(quadrants()), "JPEG2000")[:300], ""),
    "bomb.gif": (b"GIF89a" + struct.pack("<HH", 60000, 60000) + encode(_palette, "GIF")[10:], TOO_LARGE),
    "bomb.bmp": (_with(encode(_palette, "BMP"), 18, struct.pack("<ii", 60000, 60000)), TOO_LARGE),
    "bomb.tif": (tiff(bytes(400), (256, 4, 60000), (257, 4, 60000)), TOO_LARGE),
    "tile bomb.tif": (tiff(zlib.compress(bytes(999)), (259, 3, 8), (322, 4, 60000), (323, 4, 60000)), TOO_LARGE),
    "tag bomb.tif": (_with(tiff(bytes(400), (40000, 2, 0)), 98, struct.pack("<I", 10**6)), "damaged: its tags"),
    "bomb.j2k": (_with(_codestream, 8, struct.pack(">II", 60000, 60000)), TOO_LARGE),
    "floats.tif": (encode(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF"), "pixels of mode F"),
    "lab.tif": (encode(Image.new("LAB", (20, 20)), "TIFF"), "pixels of mode LAB"),
    "canon.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), RAW),
    "canon.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), RAW),
    "fuji.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(99), RAW),
    "olympus.orf": (b"IIRO\x08\0\0\0" + bytes(99), RAW),
    "panasonic.rw2": (b"IIU\0\x18\0\0\0" + bytes(99), RAW),
    "any.dng": (tiff(bytes(400), (50706, 1, 0x0401)), RAW),
    "nikon.nef": (tiff(bytes(400), (254, 4, 1), sub=((256, 4, 6000), (257, 4, 4000), (262, 3, 32803))), RAW),
    "sony.arw": (tiff(bytes(400), sub=((256, 4, 6000), (257, 4, 4000), (259, 3, 32767))), RAW),
    "pentax.pef": (tiff(bytes(400), (259, 3, 65535), (262, 3, 32803)), RAW),
    "preview.tif": (tiff(bytes(400), sub=((256, 4, 6000), (257, 4, 4000))), THUMBNAIL),
    "thumbnail.tif": (tiff(bytes(400), (254, 4, 1)), THUMBNAIL),
    "large.tif": (tiff(bytes(400), start=b"II+\0"), "a TIFF of an unusual kind"),
    "one pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels: a side is shorter than 16"),
    "thin.png": (encode(Image.new("RGB", (400, 15)), "PNG"), "15x400 pixels: a side is shorter than 16"),
    "no width.png": (png_of(struct.pack(">IIBBBBB", 0, 40, 8, 2, 0, 0, 0), zlib.compress(b"")), ""),
    "bomb 8000.png": (bomb(8000), TOO_LARGE),
    "bomb 12000.png": (bomb(12000), TOO_LARGE),
    "bomb 60000.png": (
        png_of(struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), zlib.compress(bytes(1000))),
        TOO_LARGE,
    ),
    "lying size.jpg": (size_of_jpeg_changed(_jpeg, 65000), TOO_LARGE),
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
        "notes.txt": NO_PHOTO,
        "huge.jpg": "larger than 64 MiB",
        "latin-\\xe9.jpg": "its name is not UTF-8",
    }
