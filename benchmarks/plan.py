"""Hours, machines, memory, disk and money for collections of 10^6 to 10^9 photographs, from rates measured here.

    python benchmarks/plan.py [--root=PHOTOS] [--photographs=1e6,1e7,1e8,1e9] [--hosts=1]
                              [--host cores=64,gpus=8,memory=512,price=30,disk=20] [--rates=FILE] [--save]

Three tables, which say where each number comes from:

- measured here, in a minute: the processor's seconds for a photograph of decoding, describing, finding local features
  and storing, on `--measured` photographs of PHOTOS, or drawn by code at `--side` pixels; those of building an index
  and of a query at two sizes, with the exponent between them, which is carried on, but not below 1.5 and 0.5; and bytes
  of what is stored. They are seconds of the processor and not of the clock, so that what else runs on the machine does
  not count: a core of yours that is twice as fast takes half;
- given, by `--host` and `--hosts`: what a machine of yours is and what it costs. The defaults are placeholders, not
  offers: look yours up;
- multiplied: everything else. Nothing in the last table has been run at that size.

`--host`: `cores` and `memory` (GB) of a machine; `gpus` in it, each with `tflops` (peak of bfloat16) of which
describing reaches the share `reached` (a guess, where you have not measured yours; `benchmarks/programs.py` computes
the most that is possible); `price` of the machine for an hour, `disk` for a TB and month, in any one currency.
"""

import argparse
import dataclasses
import io
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from comparison import markdown
from growth import drawn, names_of
from PIL import Image
from timing import command, machine, save

import sret_jax
from sret_jax.collection.reading import as_shown, pixel_set
from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import Described, Store
from sret_jax.config import SearchConfig
from sret_jax.data.decoding import decode_photo
from sret_jax.data.opening import open_photos
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.extraction.sift import sift
from sret_jax.models.platform import traced_for
from sret_jax.retrieval.index import Index
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import write_json

HOUR, GB, TB = 3600, 1e9, 1e12
QUERIES, ANSWERS = 64, 20
SIFT_BYTES = 138  # of a local feature as a collection keeps it
LIST_BYTES = 1900  # in memory, of what a collection knows of a photograph beside its rows: benchmarks/growth.py
# A tree of 2 sqrt(n) leaves: every descriptor is compared with all of them while it is built, and a query with all of
# them. At the sizes that are measured here what does not grow hides that.
INDEX_EXPONENT, QUERY_EXPONENT = 1.5, 0.5
STEPS, BATCH = 300, 72  # of a training run as configs/spatial_context.py has it


@dataclass(frozen=True)
class Rates:
    """What was measured: seconds of one core, and bytes, for a photograph unless it says otherwise."""

    decode: float  # from a file's bytes to pixels at the size that is shown
    describe: float  # from these to descriptor and map
    local: float  # SIFT features
    store: float  # into a collection
    index: float  # an index of `index_size` photographs, whole
    index_size: int
    index_exponent: float  # of its growth between two sizes
    query: float  # one query in that index
    query_exponent: float
    operations: float  # floating-point, of describing
    descriptor_bytes: float
    map_bytes: float
    local_bytes: float


@dataclass(frozen=True)
class Host:
    """A machine: what the user says of it."""

    cores: float = 16
    gpus: float = 0
    memory: float = 64  # GB
    price: float = 1.0  # an hour
    disk: float = 20.0  # a TB and month
    tflops: float = 989.0  # of a GPU: peak of dense bfloat16 of an H100's data sheet
    reached: float = 0.3  # share of it

    @classmethod
    def of(cls, text: str) -> "Host":
        """From `cores=64,gpus=8,...`."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in known:
                sys.exit(f"--host: unknown {name!r}; give {', '.join(sorted(known))}")
            try:
                values[name] = float(value)
            except ValueError:
                sys.exit(f"--host: {name}={value!r} is no number")
            if not math.isfinite(values[name]) or values[name] < 0 or (name != "gpus" and values[name] == 0):
                sys.exit(f"--host: {name}={value!r} must be more than 0")
        return cls(**values)


@dataclass(frozen=True)
class Job:
    """What a job takes: hours of the clock on so many machines, and what each has to hold."""

    hours: float
    machines: int
    memory: float  # bytes on a machine
    disk: float  # bytes, altogether
    bound: str  # by what

    def money(self, host: Host) -> float:
        """For the machines while it runs, and a month of the disk."""
        return self.hours * self.machines * host.price + self.disk / TB * host.disk


def describing_rate(rates: Rates, host: Host) -> tuple[float, str]:
    """Photographs per second of a machine, and what bounds them."""
    prepare = rates.decode + rates.store
    if not host.gpus:
        return host.cores / (prepare + rates.describe), "cores"
    fed = host.cores / prepare
    device = host.gpus * host.tflops * 1e12 * host.reached / rates.operations
    return (fed, "decoding") if fed < device else (device, "GPUs")


def search_bytes(rates: Rates, photographs: float) -> float:
    """In memory, while an index answers: descriptors that candidates are scored by again, a code of 4 bits for two
    numbers, and the list of the photographs."""
    return photographs * (rates.descriptor_bytes * (1 + 1 / 32) + LIST_BYTES)


def jobs(rates: Rates, host: Host, hosts: int, photographs: float) -> dict[str, Job]:
    """What is multiplied, by the name of the job."""
    rate, bound = describing_rate(rates, host)
    stored = photographs * (rates.descriptor_bytes + rates.map_bytes)
    held = search_bytes(rates, photographs)
    searching, building = (max(math.ceil(held * times / (host.memory * GB)), 1) for times in (1, 2))
    growth = (photographs / building / rates.index_size) ** max(rates.index_exponent, INDEX_EXPONENT)
    passes = 3 * STEPS * BATCH  # a gradient takes two passes more
    device = host.gpus * host.tflops * 1e12 * host.reached
    computing = passes * (rates.operations / device if device else rates.describe / host.cores)
    decoding = STEPS * BATCH * rates.decode / host.cores
    return {
        "describe": Job(photographs / rate / hosts / HOUR, hosts, 4 * GB, stored, bound),
        "local features": Job(
            photographs * rates.local / host.cores / hosts / HOUR,
            hosts,
            2 * GB,
            photographs * rates.local_bytes,
            "cores",
        ),
        "index": Job(rates.index * growth / host.cores / HOUR, building, 2 * held / building, held, "cores"),
        "search": Job(0.0, searching, held / searching, 0.0, "memory"),
        "train": Job(
            max(computing, decoding) / HOUR,
            1,
            4 * GB,
            1e8,
            "decoding" if decoding > computing else "GPUs" if device else "cores",
        ),
    }


def queries_per_second(rates: Rates, host: Host, photographs: float) -> float:
    """Of all machines that hold an index together: each answers every query over its part."""
    searching = max(math.ceil(search_bytes(rates, photographs) / (host.memory * GB)), 1)
    growth = (photographs / searching / rates.index_size) ** max(rates.query_exponent, QUERY_EXPONENT)
    return host.cores / (rates.query * growth)


def multiplied(rates: Rates, host: Host, hosts: int, sizes: list[float]) -> str:
    rows = {}
    for size in sizes:
        for name, job in jobs(rates, host, hosts, size).items():
            rows[f"{size:.0e} photographs, {name}".replace("e+0", "e")] = {
                "hours": "while it serves" if name == "search" else shown(job.hours),
                "machines": f"{job.machines:,}",
                "memory of each, GB": shown(job.memory / GB),
                "disk, TB": shown(job.disk / TB),
                "money": f"{shown(job.machines * host.price)} / hour" if name == "search" else shown(job.money(host)),
                "bound by": job.bound
                if name != "search"
                else f"{shown(queries_per_second(rates, host, size))} queries/s",
            }
    return markdown(rows)


def shown(value: float) -> str:
    """Two digits: these are estimates."""
    if value == 0:
        return "0"
    digits = max(1 - math.floor(math.log10(abs(value))), 0)
    return f"{round(value, 1 - math.floor(math.log10(abs(value)))):,.{digits}f}"


def measure(retriever: Retriever, encoded: list[bytes], sizes: tuple[int, int], work: Path) -> Rates:
    """A minute's work."""

    def cpu(step: Any) -> tuple[float, Any]:
        before = time.process_time()
        found = step()
        return time.process_time() - before, found

    n, extractor = len(encoded), retriever.extractor
    whole = decode_photo(encoded[0])
    decode, pixels = cpu(lambda: [as_shown(decode_photo(data), extractor) for data in encoded])
    photos = pixel_set(pixels, [one.shape[:2] for one in pixels])
    extractor.describe_with_maps(photos, range(n), "c4")  # compiles
    describe, (x, maps) = cpu(lambda: extractor.describe_with_maps(photos, range(n), "c4"))
    few = encoded[: max(n // 8, 1)]
    most, side = retriever.config.local.most, retriever.config.local.image_size
    local, found = cpu(lambda: [sift(decode_photo(data, side), most) for data in few])
    store = Store.create(work / "collection", x.shape[1], maps[0].shape[-1], {"retriever": "drawn", "stage": "c4"})
    names = names_of(n)
    stored = [
        StoredPhoto(name, whole.shape[:2], f"{i:064x}", one.shape[:2], one.shape[:2], (0, 0))
        for i, (name, one) in enumerate(zip(names, maps, strict=True))
    ]
    store_seconds, _ = cpu(lambda: store.add(Described(stored, x, maps)))
    index, query = [], []
    for size in sizes:
        y = drawn(size, x.shape[1])
        seconds, built = cpu(lambda y=y, size=size: Index.build(y, names_of(size), SearchConfig(method="tree_ah")))
        index.append(seconds)
        built.search(y[:QUERIES], ANSWERS)
        query.append(cpu(lambda y=y, built=built: built.search(y[:QUERIES], ANSWERS))[0] / QUERIES)
    ratio = math.log(sizes[1] / sizes[0])
    return Rates(
        decode=decode / n,
        describe=describe / n,
        local=local / len(few),
        store=store_seconds / n,
        index=index[1],
        index_size=sizes[1],
        index_exponent=math.log(index[1] / index[0]) / ratio,
        query=query[1],
        query_exponent=math.log(query[1] / query[0]) / ratio,
        operations=operations_of(retriever),
        descriptor_bytes=float(x[0].nbytes),
        map_bytes=float(np.mean([one.nbytes for one in maps])),
        local_bytes=SIFT_BYTES * float(np.mean([len(one.strength) for one in found])),
    )


def operations_of(retriever: Retriever) -> float:
    """Of describing one square photograph, as XLA counts them: backbone and heads."""
    size, network = retriever.config.data.image_size, retriever.network
    images, mask = (
        jax.ShapeDtypeStruct((1, size, size, *rest), kind) for rest, kind in (((3,), "uint8"), ((), "bool"))
    )
    variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), retriever.variables)
    with traced_for("tpu"):
        traced = jax.jit(lambda *given: network.apply(*given)[0]).trace(variables, images, mask)
    return float(traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"])


def photographs(root: Path | None, count: int, side: int, work: Path) -> tuple[list[bytes], str]:
    """Encoded photographs, and what they are in words."""
    if root:
        photos = open_photos(root)
        rows = np.linspace(0, len(photos) - 1, min(count, len(photos))).astype(int)
        found = [bytes(photos.source[int(row)]["image"]) for row in rows]
        height, width = np.median(photos.sizes[rows], axis=0)
        return found, f"{len(found)} photographs of a folder, median {width:.0f} x {height:.0f} px"
    photos = prepare_synthetic(work / "drawn", instances=-(-count // 8), photos=8, seed=0, split="test")
    found = []
    for row in range(count):
        image = Image.fromarray(photos.photo(row)).resize((side, 3 * side // 4), Image.Resampling.BICUBIC)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=90)
        found.append(data.getvalue())
    return found, f"{count} photographs drawn by code, {side} x {3 * side // 4} px"


def about_rates(rates: Rates) -> str:
    """The measured rates as a table."""
    ms = {name: 1e3 * getattr(rates, name) for name in ("decode", "describe", "local", "store", "query")}
    rows = {
        "decode and resize": f"{ms['decode']:.1f} ms of a core, {1e3 / ms['decode']:.0f} photographs / s",
        "describe, with the map": f"{ms['describe']:.1f} ms of a core, {1e3 / ms['describe']:.1f} photographs / s",
        "local features (SIFT)": f"{ms['local']:.0f} ms of a core",
        "store in a collection": f"{1e3 * ms['store']:.0f} µs of a core",
        "build an index": f"{rates.index:.2f} s of a core of {rates.index_size:,}, exponent {rates.index_exponent:.2f}",
        "a query": f"{ms['query']:.2f} ms of a core in {rates.index_size:,}, exponent {rates.query_exponent:.2f}",
        "descriptor": f"{rates.descriptor_bytes:,.0f} bytes",
        "map": f"{rates.map_bytes:,.0f} bytes",
        "local features": f"{rates.local_bytes:,.0f} bytes",
        "describe, counted by XLA": f"{rates.operations / 1e9:.2f} GFLOP",
    }
    return markdown({name: {"of a photograph": value} for name, value in rows.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="photographs like yours; without it some are drawn")
    parser.add_argument("--measured", type=int, default=64, help="photographs that are measured")
    parser.add_argument("--side", type=int, default=1024, help="of drawn photographs, pixels")
    parser.add_argument("--index_sizes", default="10000,20000", help="drawn descriptors, two sizes")
    parser.add_argument("--photographs", default="1e6,1e7,1e8,1e9")
    parser.add_argument("--hosts", type=int, default=1, help="machines that describe")
    parser.add_argument("--host", default="", help="cores=,gpus=,memory=,price=,disk=,tflops=,reached=")
    parser.add_argument("--rates", type=Path, help="file of what was measured: read where it is there, else written")
    parser.add_argument("--save", action="store_true", help="keep the tables under benchmarks/results")
    given = parser.parse_args()
    host, sizes = Host.of(given.host), [float(size) for size in given.photographs.split(",")]
    smaller, larger = (int(size) for size in given.index_sizes.split(","))
    about = machine()
    if given.rates and given.rates.exists():
        kept = json.loads(given.rates.read_text())
        rates, what, about = Rates(**kept["rates"]), kept["of"], kept["on"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            encoded, what = photographs(given.root, given.measured, given.side, Path(folder))
            rates = measure(sret_jax.load(), encoded, (smaller, larger), Path(folder))
        if given.rates:
            write_json(given.rates, {"rates": dataclasses.asdict(rates), "of": what, "on": about})
    rate, bound = describing_rate(rates, host)
    devices = (
        f"{host.gpus:g} GPUs of {host.tflops:g} TFLOP/s, of which {host.reached:.0%} are reached, " if host.gpus else ""
    )
    text = (
        f"{command()}\n\nMeasured here on {what}, by the weights that come with the package; {about}. Seconds of the "
        f"processor; indices are of drawn descriptors.\n\n{about_rates(rates)}\n\n"
        f"Given: {given.hosts} x {host.cores:g} cores, {devices}{host.memory:g} GB, {host.price:g} an hour; "
        f"{host.disk:g} a TB and month. A machine then describes {shown(rate)} photographs / s, bound by {bound}.\n\n"
        f"Multiplied, and never run at these sizes:\n\n{multiplied(rates, host, given.hosts, sizes)}\n"
    )
    print(text)
    if given.save:
        print("saved", save("plan", text))


if __name__ == "__main__":
    main()
