"""What a collection costs: adding to it, bytes on disk, and a query from bytes to marked answers.

    python benchmarks/collection.py --root=PHOTOS [--photos=3000] [--rounds=20] [--drawn=1000,10000,100000] [--local]
                                    [--save]

PHOTOS is any folder with 200 photographs more than `--photos`. Times are ratios to what has to be done anyway, measured
in turn: adding 100 photographs and removing 5, against describing these 100 alone with the same network; and are
compared with a collection that is made anew of the same photographs. Bytes are of drawn descriptors and maps. With
`--local` the collection is made to keep SIFT features once it is there, the 100 are described with theirs, and answers
are verified.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import command, machine, save

import sret_jax
from sret_jax.collection.collection import Collection
from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import Described, Store
from sret_jax.data.opening import open_photos

ADDED, REMOVED = 100, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--photos", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=20, help="queries of each kind")
    parser.add_argument("--drawn", default="1000,10000,100000,1000000", help="sizes at which bytes are counted")
    parser.add_argument("--local", action="store_true", help="keep local features, and verify answers")
    parser.add_argument("--save", action="store_true", help="write results/collection[_local]_<device>.md")
    given = parser.parse_args()
    about = machine()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines += of_photographs(work, given)
        lines += of_drawn(work / "drawn", [int(size) for size in given.drawn.split(",") if size])
    text = "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {how} |" for what, how in lines)])
    text = f"{command()}\n\n{about}.\n\n{text}\n"
    print(text)
    if given.save:
        save("collection_local" if given.local else "collection", text)


Line = tuple[str, str]


def of_photographs(work: Path, given: argparse.Namespace) -> list[Line]:
    files = sorted(path for path in given.root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    step = len(files) / (given.photos + 2 * ADDED)
    if step < 1:
        sys.exit(f"{given.root} has {len(files)} photographs; {given.photos + 2 * ADDED} are needed")
    chosen = [files[int(i * step)] for i in range(given.photos + 2 * ADDED)]
    for file in chosen[: given.photos]:
        link(file, work / "photos", given.root)
    collection = Collection.open(work / "photos", workdir=work / "kept")
    collection._retriever = sret_jax.load()
    lines = [first_time(collection)]
    if given.local:
        Collection.open(collection.root, workdir=work / "kept", local="sift")
        lines.append(local_later(collection))
    lines.append(added(collection, chosen[given.photos :], given.root, work))
    lines.append(as_fresh(collection, work))
    disk = sum(path.stat().st_size for path in collection.folder.rglob("*") if path.is_file())
    lines.append(("kept on disk", f"{disk / len(collection.names) / 1024:.1f} KiB / photograph"))
    if given.local:
        lines.append(of_local(collection))
    lines += query_times(collection, given.rounds)
    lines.append(("first query of a fresh process, imports and all", fresh_process(collection)))
    return lines


def first_time(collection: Collection) -> Line:
    start = time.perf_counter()
    collection.update()
    seconds, n = time.perf_counter() - start, len(collection.names)
    return f"{n} photographs described the first time", f"{n / seconds:.1f} photographs / s"


def local_later(collection: Collection) -> Line:
    start = time.perf_counter()
    found = len(collection.update().completed)
    rate = found / (time.perf_counter() - start)
    return f"local features of these {found} photographs found later", f"{rate:.1f} photographs / s"


def added(collection: Collection, files: list[Path], source: Path, work: Path) -> Line:
    """Adds all of the files, `ADDED` at a time, and removes a few each time."""
    ratios, retriever, local = [], collection.retriever, bool(collection.status().local)
    for part in (files[start : start + ADDED] for start in range(0, len(files), ADDED)):
        start = time.perf_counter()
        photos = open_photos([str(file) for file in part])
        retriever.extractor.describe(photos, range(len(photos)))
        if local:
            retriever.local_features(photos, work / f"alone-{len(ratios)}")
        alone = time.perf_counter() - start
        for file in part:
            link(file, collection.root, source)
        gone = collection.names[:: len(collection.names) // REMOVED][:REMOVED]
        for name in gone:
            (collection.root / name).unlink()
        start = time.perf_counter()
        done = collection.update()
        ratios.append((time.perf_counter() - start) / alone)
        assert (len(done.added), len(done.removed), len(done.completed)) == (ADDED, REMOVED, 0)
    times = {1: "once", 2: "twice"}[len(ratios)]
    what = f"{ADDED} more, {REMOVED} fewer, {times}: x the time of opening and describing {ADDED}"
    return what + local * " with their local features", " and ".join(f"{ratio:.2f}" for ratio in ratios)


def as_fresh(collection: Collection, work: Path) -> Line:
    local = collection.status().local
    fresh = Collection.open(collection.root, workdir=work / "fresh", local=local or None)
    fresh._retriever = collection.retriever
    fresh.update()
    same, error = 0, 0.0
    names = collection.names[:: max(1, len(collection.names) // (20 if local else 200))]
    for name in names:
        one, other = (c.search(name, k=20, mark=False, verify=bool(local)).answers for c in (collection, fresh))
        same += [answer.name for answer in one] == [answer.name for answer in other]
        error = max(error, *(abs(a.score - b.score) for a, b in zip(one, other, strict=True)))
    return (
        "same 20 answers as a fresh collection" + ", verified" * bool(local),
        f"{same} of {len(names)} queries; cosines within {error:.1e}",
    )


def query_times(collection: Collection, rounds: int) -> list[Line]:
    names = collection.names[:: max(1, len(collection.names) // 200)]
    queries = [(collection.root / name).read_bytes() for name in names[:rounds]]
    kinds = {"without marks": {"mark": False}, "with ten marked": {"mark": True}}
    if collection.status().local:
        kinds["without marks, 50 verified"] = {"mark": False, "verify": True}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(2):  # the first round compiles
        times = {kind: [] for kind in kinds}
        for query in queries:
            for kind, how in kinds.items():
                start = time.perf_counter()
                collection.search(query, k=10, **how)
                times[kind].append(time.perf_counter() - start)
    lines = []
    for kind, seconds in times.items():
        words = f"median {1000 * np.median(seconds):.0f} ms, at most {1000 * max(seconds):.0f}"
        lines.append((f"a query from bytes to 10 answers {kind}, warm, {len(collection.names)} photographs", words))
    return lines


def of_local(collection: Collection) -> Line:
    """Bytes for a photograph, and what as many slots for every photograph would take."""
    store = Store(collection.folder)
    counts = np.array([store.state.local[row].count for row in store.state.live.values()])
    own, slots = store.state.feature_bytes, collection.retriever.config.local.most
    return (
        "of these local features",
        f"{own * counts.mean() / 1024:.1f} KiB / photograph ({counts.mean():.0f} features); "
        f"{own * slots / 1024:.1f} with {slots} slots for each",
    )


def link(file: Path, root: Path, source: Path) -> None:
    """The same photograph below another folder."""
    path = root / file.relative_to(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(file.resolve(), path)


def fresh_process(collection: Collection) -> str:
    query = collection.root / collection.names[0]
    code = (
        "import sys, time; from pathlib import Path; start = time.perf_counter(); import sret_jax; "
        "c = sret_jax.Collection(sys.argv[1]); c.prepare(); ready = time.perf_counter(); "
        "c.search(Path(sys.argv[2]), k=10); end = time.perf_counter(); print(ready - start, end - ready)"
    )
    found = []
    for _ in range(2):  # the first fills the cache of compiled programs
        done = subprocess.run(
            [sys.executable, "-c", code, str(collection.folder), str(query)], capture_output=True, text=True, check=True
        )
        found = [float(word) for word in done.stdout.split()[-2:]]
    return f"{found[0]:.1f} s until ready, then {found[1]:.2f} s"


def of_drawn(folder: Path, sizes: list[int], dim: int = 1024, channels: int = 112) -> list[Line]:
    """Bytes written for each of 100 photographs that are added to collections of these sizes."""
    rng = np.random.default_rng(0)
    own = rng.integers(-127, 128, (1, 1, channels)).astype(np.int8)  # maps of one position: the same at every size
    store = Store.create(folder, dim, channels, {"retriever": "drawn", "stage": "c4"})
    lines, count = [], 0

    def add(n: int) -> None:
        nonlocal count
        photos = [
            StoredPhoto(
                f"{(count + i) // 1000:04d}/{count + i:08d}.jpg",
                (768, 1024),
                f"{count + i:064x}",
                (1, 1),
                (1, 1),
                (0, 0),
            )
            for i in range(n)
        ]
        store.add(Described(photos, rng.normal(size=(n, dim)).astype(np.float32), [own] * n))
        count += n

    for size in sizes:
        while count < size:
            add(min(1000, size - count))
        before, start = written(), time.perf_counter()
        add(100)
        seconds = time.perf_counter() - start
        bytes_each = (written() - before) / 100
        lines.append(
            (f"added to {size} drawn", f"{bytes_each:.0f} bytes written / photograph, {10 * seconds:.2f} ms each")
        )
        count_now = time.perf_counter()
        Store(folder)
        lines.append((f"{count} opened", f"{time.perf_counter() - count_now:.1f} s"))
    shutil.rmtree(folder)
    return lines


def written() -> int:
    """Bytes that this process has given to the system to write."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("wchar")))


if __name__ == "__main__":
    main()
