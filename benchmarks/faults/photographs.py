"""Photographs of strangers: every kind, the largest of each format, and mutated ones with a fixed seed.

    python benchmarks/faults/photographs.py              all, a few minutes on two cores
    python benchmarks/faults/photographs.py --half       the shorter half, which is a test too
    python benchmarks/faults/photographs.py --speed      what it costs to decode in processes of their own

- table: the kinds of `tests/support/strange_photos.py`, compared with what is frozen of each.
- largest: as many pixels as a format may have, each decoded in a process of its own.
- mutated: flipped bits, cuts, exchanged and inserted pieces, changed headers, over all formats.

Decoders run in child processes. Memory is the peak of the resident set over what it was before the photograph, seconds
are the processor's. A photograph falls short that ends its process, raises anything but `PhotoRejected`, takes more
than a second (the largest, which are thousands of times as large as what is mutated, may take ten) or more than 512 MB.
Needs Linux.
"""

import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

sys.path.append(str(Path(__file__).parents[2]))
from sret_jax.data import apart
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.formats import installed
from tests.golden.test_photographs import FILE, outcome, same
from tests.support.photo_files import DISPLAY_P3, heic, photo_bytes, raw_png
from tests.support.photos import encode
from tests.support.strange_photos import strange_photos

SEED, MUTATED, LARGE = 0, 30_000, 7000
SECONDS, LARGE_SECONDS, MEGABYTES = 1.0, 10.0, 512
PATIENCE = 60  # seconds after which a child is taken to hang
CEILING = 4 << 30  # bytes: more is not tried
CRASH, HANG, OTHER = "crash", "hang", "another error"
HEADER = 64  # bytes that most formats begin with
PNG = b"\x89PNG\r\n\x1a\n"


def table() -> int:
    """Prints the summary; how many kinds come out otherwise than is frozen."""
    frozen = json.loads(FILE.read_text())
    found = {name: outcome(name, data) for name, data in strange_photos().items()}
    wrong = [name for name in found if not same(name, frozen[name], found[name])]
    rejected = sum("rejected" in one for one in found.values())
    print("| kinds | accepted | rejected | not as frozen |\n|---|---|---|---|")
    print(f"| {len(found)} | {len(found) - rejected} | {rejected} | {len(wrong)} |\n", flush=True)
    for name in wrong:
        print(f"{name}: {found[name]}")
    return len(wrong)


def largest(half: bool) -> Iterator[tuple[str, bytes]]:
    """Photographs of as many pixels as are decoded, that take as much memory as any of their format."""

    def drawn(side: int) -> Image.Image:
        y, x = np.mgrid[:side, :side].astype(np.uint32)
        return Image.fromarray(np.dstack([x * 250 // side, y * 250 // side, (x + y) * 120 // side]).astype(np.uint8))

    def clear(image: Image.Image) -> Image.Image:
        image = image.convert("RGBA")
        image.putalpha(image.getchannel(2).point(lambda v: 255 - v))
        return image

    whole, turned = drawn(LARGE), Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(whole).astype(np.uint16) * 257
    fast = {"compress_level": 1}
    yield "JPEG, turned", encode(whole, "JPEG", exif=turned, icc_profile=DISPLAY_P3)
    yield "PNG, transparent", encode(clear(whole), "PNG", icc_profile=DISPLAY_P3, **fast)
    yield "PNG, grey of 16 bits", encode(Image.fromarray(deep[..., 0]), "PNG", **fast)
    if features.check("webp"):
        yield "WebP, lossless", encode(clear(drawn(5470)), "WEBP", lossless=True, method=0, quality=0)
    if half:
        return
    yield "JPEG, progressive", encode(whole, "JPEG", progressive=True, subsampling=0)
    yield "JPEG, four inks", encode(whole.convert("CMYK"), "JPEG")
    yield "JPEG, four inks, progressive", encode(drawn(6320).convert("CMYK"), "JPEG", progressive=True, subsampling=0)
    yield "PNG, transparent, of 16 bits", raw_png(16, 6, np.dstack([deep, deep[..., :1]]))
    yield "PNG, transparent palette", encode(whole.convert("P"), "PNG", transparency=b"\x80" * 256, **fast)
    yield "TIFF, whole numbers", encode(Image.fromarray(deep[..., 1].astype(np.int32)), "TIFF", compression="tiff_lzw")
    yield "TIFF, transparent", encode(clear(whole), "TIFF", compression="tiff_lzw")
    yield "TIFF, JPEG inside", encode(whole, "TIFF", compression="jpeg")
    yield "GIF", encode(whole.convert("P"), "GIF")
    yield "BMP", encode(whole.convert("P"), "BMP")
    yield "WebP", encode(drawn(5470), "WEBP", method=0)
    yield "JPEG 2000, transparent", encode(clear(drawn(4470)), "JPEG2000")
    if features.check("avif"):
        yield "AVIF, transparent", encode(clear(drawn(5470)), "AVIF", speed=10, subsampling="4:4:4")
    if installed("HEIF"):
        import pillow_heif

        for name, image in (("HEIC", whole), ("HEIC, transparent", clear(drawn(6320)))):
            file = io.BytesIO()
            pillow_heif.from_pillow(image).save(file, quality=50)
            yield name, file.getvalue()


def mutated(number: int, whole: list[bytes]) -> tuple[str, bytes]:
    """The `number`-th mutated photograph, and how it was made."""
    rng = random.Random(f"{SEED} {number}")
    data = bytearray(whole[number % len(whole)])
    kind = ("flips", "cut", "exchanged", "inserted", "header")[number // len(whole) % 5]
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if kind == "flips":
        for _ in range(rng.choice((1, 1, 4, 40))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[first : rng.choice((last, len(data)))]
    elif kind == "exchanged":
        piece, at = bytes(data[first:last])[:200], rng.randrange(len(data))
        data[at : at + len(piece)] = piece
    elif kind == "inserted":
        piece = rng.choice((rng.randbytes(rng.randrange(1, 300)), bytes(300), b"\xff" * 300, bytes(data[first:last])))
        at = rng.randrange(len(data))
        data[at:at] = piece
    else:
        for _ in range(rng.choice((1, 2, 4))):
            size = rng.choice((1, 2, 4))
            at = rng.randrange(min(HEADER, len(data) - 4))
            value = rng.choice((0, 1, 0xFF, 0x7F, 0x80, 256**size - 1, rng.randrange(256**size)))
            data[at : at + size] = (value % 256**size).to_bytes(size, rng.choice(("big", "little")))
    if data[:8] == PNG and rng.random() < 0.7:  # else its checksums would stop nearly all of them
        data = bytearray(with_checksums(bytes(data)))
    return kind, bytes(data)


def with_checksums(png: bytes) -> bytes:
    at, out = 8, png[:8]
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        body = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + png[at:]


def sound() -> list[bytes]:
    """What is mutated: all that is accepted, so that each format has its share."""
    frozen = json.loads(FILE.read_text())
    found = [data for name, data in strange_photos().items() if "size" in frozen[name]]
    found += [photo_bytes("AVIF")] * 8 if features.check("avif") else []
    return found + ([heic()] * 8 if installed("HEIF") else [])


def memory(field: str) -> int:
    """Of this process, bytes: VmRSS now, VmHWM at most since the last reset."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{field}:"))


def measured(data: bytes) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    text = ""
    try:
        decode_photo(data)
        became = "photograph"
    except PhotoRejected as rejected:
        became, text = "rejected", rejected.reason
        if "\n" in text or not text or len(text) > 500:
            became = OTHER
    except BaseException as error:
        became, text = OTHER, repr(error)
    seconds = time.process_time() - start
    return {"became": became, "text": text, "seconds": seconds, "bytes": max(0, memory("VmHWM") - before)}


def serve_child(first: int, end: int, step: int, place: str) -> None:
    """Decodes the mutated photographs `first`, `first + step`, ...; notes in `place` which it is at."""
    resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))
    whole = sound()
    for data in whole:  # what is imported for a format is not the photograph's
        measured(data)
    note = os.open(place, os.O_WRONLY | os.O_CREAT)
    for number in range(first, end, step):
        os.pwrite(note, number.to_bytes(8), 0)
        signal.alarm(PATIENCE)
        kind, data = mutated(number, whole)
        print(json.dumps({"number": number, "kind": kind} | measured(data)))
    sys.stdout.flush()


def measure_file(path: str) -> None:
    measured(photo_bytes("PNG"))
    print(json.dumps(measured(Path(path).read_bytes())))


def measure_largest(half: bool, folder: Path) -> list[dict[str, Any]]:
    found = []
    for name, data in largest(half):
        path = folder / "large"
        path.write_bytes(data)
        text = subprocess.run([sys.executable, __file__, f"--decode={path}"], stdout=subprocess.PIPE).stdout
        result = json.loads(text) if text else {"became": CRASH, "text": "", "seconds": 0.0, "bytes": 0}
        found.append({"kind": name} | result)
        if result["became"] != "photograph":
            print(f"{name}: {result}", flush=True)
    return found


def measure_mutated(count: int, folder: Path) -> list[dict[str, Any]]:
    """Of several children at once, each of which goes on behind what ended it."""
    found: list[dict[str, Any]] = []
    step = os.cpu_count() or 1
    running = {}

    def start(i: int, first: int) -> None:
        out = open(folder / f"{i}.out", "w+")  # noqa: SIM115 - as long as the child
        words = ["--child", str(first), str(count), str(step), str(folder / f"{i}.note")]
        command = [sys.executable, __file__, *words]
        running[i] = (subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, text=True), out)

    for i in range(step):
        start(i, i)
    while running:
        time.sleep(0.2)
        for i, (process, out) in list(running.items()):
            if process.poll() is None:
                continue
            out.seek(0)
            found += [json.loads(line) for line in out if line.endswith("}\n")]
            out.close()
            del running[i]
            if process.returncode:
                number = int.from_bytes((folder / f"{i}.note").read_bytes())
                became = HANG if process.returncode == -signal.SIGALRM else CRASH
                text = f"exit {process.returncode}"
                found.append({"number": number, "kind": "", "became": became, "text": text, "seconds": 0, "bytes": 0})
                start(i, number + step)
    return found


def fell_short(one: dict[str, Any], seconds: float) -> bool:
    bad = one["became"] in (CRASH, HANG, OTHER)
    return bool(bad or one["seconds"] > seconds or one["bytes"] > MEGABYTES << 20)


def rows(title: str, results: list[dict[str, Any]], seconds: float) -> int:
    """Prints a table with a line for each kind; how many fell short."""
    heads = [title, "photographs", "decoded", "crashes, hangs", "other errors", f"over {seconds:g} s"]
    heads += [f"over {MEGABYTES} MB", "slowest, s", "most, MB"]
    lines = [heads, ["---"] * len(heads)]
    for kind in [*dict.fromkeys(one["kind"] for one in results if one["kind"]), "all"]:
        own = [one for one in results if kind in ("all", one["kind"])]
        counts = [len(own), sum(one["became"] == "photograph" for one in own)]
        counts += [sum(one["became"] in (CRASH, HANG) for one in own), sum(one["became"] == OTHER for one in own)]
        counts += [sum(one["seconds"] > seconds for one in own), sum(one["bytes"] > MEGABYTES << 20 for one in own)]
        most = [f"{max(one['seconds'] for one in own):.2f}", f"{max(one['bytes'] for one in own) / 2**20:.0f}"]
        lines.append([kind, *map(str, counts), *most])
    print("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", flush=True)
    short = [one for one in results if fell_short(one, seconds)]
    for one in short[:20]:
        print(one)
    return len(short)


def processor_seconds() -> float:
    """Of this process and of those that decode for it."""
    own = time.process_time()
    for decoder in apart._processes.idle:
        user, system = Path(f"/proc/{decoder.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        own += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return own


def speed(photos: int, rounds: int, folder: Path) -> None:
    """Prints photographs per second in turn with and without processes; the first round is not counted."""
    import dataclasses

    import sret_jax

    rng = np.random.default_rng(SEED)
    root = folder / "photos"
    root.mkdir()
    for i in range(photos):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(root / f"{i:05}.jpg", quality=88)
    retriever = sret_jax.load()
    config = dataclasses.replace(retriever.config, data=dataclasses.replace(retriever.config.data, image_size=320))
    retriever = dataclasses.replace(retriever, config=config)

    def described() -> None:
        retriever.describe(sret_jax.open_photos(root))

    def collected() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            collection = sret_jax.Collection.open(root, workdir=kept, retriever=retriever)
            assert len(collection.update().added) == photos

    def decoded() -> None:
        for path in root.iterdir():
            decode(path.read_bytes())

    def opened() -> None:
        sret_jax.open_photos(root)

    decode = apart.decode_apart
    print("| photographs/s | apart | inside | apart costs, by the clock | apart costs, of the processors |")
    print("|---|---|---|---|---|")
    tasks = {"opened and described": described, "collection": collected, "opened": opened, "decoded alone": decoded}
    for name, task in tasks.items():
        seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for _ in range(rounds + 1):
            for inside in (False, True):
                apart._processes.none_start = inside
                start = time.perf_counter(), processor_seconds()
                task()
                seconds[inside].append((time.perf_counter() - start[0], processor_seconds() - start[1]))
        own, other = (np.array(seconds[inside][1:]) for inside in (False, True))
        cost = 100 * (np.median(own / other, axis=0) - 1)
        each = [f"{photos / np.median(x[:, 0]):.1f}" for x in (own, other)]
        print(f"| {name} | {each[0]} | {each[1]} | {cost[0]:+.1f} % | {cost[1]:+.1f} % |", flush=True)
    apart._processes.none_start = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", action="store_true", help="fewer of the largest, and 3,000 mutated photographs")
    parser.add_argument("--mutated", type=int, default=0, help=f"how many; by default {MUTATED}")
    parser.add_argument("--speed", action="store_true", help="only what decoding in other processes costs")
    parser.add_argument("--photos", type=int, default=1000, help="of --speed")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--decode", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        serve_child(*map(int, given.child[:3]), given.child[3])
        return 0
    if given.decode:
        measure_file(given.decode)
        return 0
    with tempfile.TemporaryDirectory(prefix="photographs-") as place:
        folder = Path(place)
        if given.speed:
            speed(given.photos, given.rounds, folder)
            return 0
        short = table()
        short += rows("largest", measure_largest(given.half, folder), LARGE_SECONDS)
        count = given.mutated or (MUTATED // 10 if given.half else MUTATED)
        results = measure_mutated(count, folder)
        assert len(results) == count
        short += rows("mutated", results, SECONDS)
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
