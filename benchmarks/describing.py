"""What it costs to describe a collection in parts: Ray against a plain loop, and two processes against one.

    python benchmarks/describing.py --root=PHOTOS [--photos=800] [--shards=5] [--rounds=3] [--save]

PHOTOS is any folder with so many photographs. Ratios of one run, medians over the rounds, in each of which everything
is measured in turn:

- engine / loop: seconds of an actor of Ray for all shards but the first, from the end of one to the end of the next,
  over those of one process that describes the same shards one after the other. The first shard starts everything and
  compiles.
- one / two: seconds of one process for all photographs, over those of the slower of two processes that describe a half
  each at the same time. Every process has half of the cores for itself alone.
- one / two, products: the same for products of matrices that stay in the cache of a core: what the cores of this
  machine allow at most, some of which may be two threads of one.
- merge: seconds of merging the shards, as a share of describing them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from timing import command, machine, save

from sret_jax.collection.collection import Collection
from sret_jax.collection.on_ray import Work, index_on_ray

WARM = 8  # photographs that every process describes before it is measured
SIDE, PRODUCTS = 256, 20_000  # of the matrices that are multiplied, and how often: 0.67 TFLOP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--photos", type=int, default=800)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write results/describing_<device>.md")
    parser.add_argument("--loop", default="", help=argparse.SUPPRESS)  # of a process that this one starts
    given = parser.parse_args()
    if given.loop:
        loop(json.loads(given.loop))
        return
    if given.root is None or given.shards < 2:
        sys.exit("give --root=PHOTOS, and at least two shards")
    about, found = machine(), {"engine / loop": [], "one / two": [], "one / two, products": [], "merge": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        link(given.root, work, given.photos)
        for number in range(given.rounds):
            engine, plain, merge = engine_and_loop(work / f"{number}", work / "photos", given.shards)
            found["engine / loop"].append(engine / plain)
            found["merge"].append(merge / (plain * given.shards / (given.shards - 1)))
            found["one / two"].append(described_by_two(work / f"{number}", work / "photos"))
            found["one / two, products"].append(one_and_two({"products": PRODUCTS}, [{"products": PRODUCTS // 2}] * 2))
    rows = [
        f"| {what} | {statistics.median(own):.3f} | {min(own):.3f} to {max(own):.3f} |" for what, own in found.items()
    ]
    text = "\n".join(["| ratio | median | range |", "|---|---|---|", *rows])
    text = f"{command()}\n\n{about}; {given.photos} photographs, {given.shards} shards.\n\n{text}\n"
    print(text)
    if given.save:
        save("describing", text)


def link(root: Path, work: Path, count: int) -> None:
    """The first photographs of a folder, and a few of them as another one."""
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if len(files) < count:
        sys.exit(f"{root} has {len(files)} photographs; {count} are needed")
    for i, file in enumerate(files[:count]):
        for place in ["photos", *(["warm"] if i < WARM else [])]:
            (work / place).mkdir(exist_ok=True)
            (work / place / f"{i:06d}{file.suffix}").symlink_to(file.resolve())


def engine_and_loop(kept: Path, photos: Path, shards: int) -> tuple[float, float, float]:
    """Seconds of the engine and of a plain loop for all shards but the first, and of merging them."""
    ends: list[float] = []
    work = Work(str(photos), str(kept / "engine"))
    index_on_ray(work, shards=shards, actors=1, tell=lambda *_: ends.append(time.perf_counter()))
    begun = time.perf_counter()
    Collection.merge(photos, workdir=kept / "engine")
    merge = time.perf_counter() - begun
    parts = [f"{number}/{shards}" for number in range(shards)]
    (plain,) = processes([{"photos": str(photos), "kept": str(kept / "loop"), "shards": parts}])
    return ends[-1] - ends[0], plain[-1] - plain[0], merge


def described_by_two(kept: Path, photos: Path) -> float:
    common = {"photos": str(photos), "warm": str(photos.parent / "warm")}
    halves = [common | {"kept": str(kept / "two"), "shards": [f"{number}/2"]} for number in range(2)]
    return one_and_two(common | {"kept": str(kept / "one"), "shards": ["0/1"]}, halves)


def one_and_two(whole: dict, halves: list[dict]) -> float:
    """How many times as fast two processes are with half of the cores and of the work each as one with half of the
    cores and all of the work."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    ((one,),) = processes([whole | {"cores": cores[:half]}])
    two = processes([work | {"cores": own} for work, own in zip(halves, (cores[:half], cores[half:]), strict=True)])
    return one / max(seconds for (seconds,) in two)


def processes(works: list[dict]) -> list[list[float]]:
    """Starts a process for each, lets them begin at once, and returns when each of their shards ended, seconds."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, f"--loop={json.dumps(work)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for work in works
    ]
    for process in started:
        if process.stdout.readline() != "ready\n":
            sys.exit(f"a process ended with {process.wait()}")
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def loop(work: dict) -> None:
    """Describes shards one after the other with one network, or multiplies matrices; prints when each was done."""
    if work.get("cores"):
        os.sched_setaffinity(0, work["cores"])
    if "products" in work:
        multiply(work["products"])
        return
    retriever = None
    if warm := work.get("warm"):
        opened = Collection.open(warm, workdir=f"{work['kept']}-warm-{os.getpid()}")
        opened.update()
        retriever = opened.retriever
    print("ready", flush=True)
    sys.stdin.readline()
    begun, ends = time.perf_counter(), []
    for shard in work["shards"]:
        opened = Collection.open(work["photos"], workdir=work["kept"], shard=shard)
        retriever = retriever or opened.retriever
        opened.reuse(retriever)
        opened.update()
        ends.append(time.perf_counter() - begun)
    print(json.dumps(ends))


def multiply(count: int) -> None:
    x = jnp.eye(SIDE, dtype=jnp.float32)
    repeated = jax.jit(lambda x, times: jax.lax.fori_loop(0, times, lambda _, y: y @ x, x))
    repeated(x, 1).block_until_ready()
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    repeated(x, count).block_until_ready()
    print(json.dumps([time.perf_counter() - begun]))


if __name__ == "__main__":
    main()
