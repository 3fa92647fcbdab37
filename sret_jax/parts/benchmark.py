"""A benchmark of one's own among those that are opened by name."""

from pathlib import Path

from sret_jax.config import Config
from sret_jax.config.own_parts import Part
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.lookups import Lookup
from sret_jax.evaluation.benchmark import (
    Benchmark,
    Opener,
    benchmark_of_instances,
    benchmark_of_lookup,
)
from sret_jax.evaluation.request import Request


def own_benchmark(part: Part) -> Opener:
    def open_own(
        name: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: Path
    ) -> Benchmark:
        root = Path(request.root)
        with part.blamed():
            found = part.definition(root, cache_dir, **part.parameters(config.eval))
        if isinstance(found, Benchmark):
            if distractors:
                raise part.fails("is a whole benchmark, to which no distractors can be added")
            return found
        if isinstance(found, Lookup):
            _check(part, found)
            return benchmark_of_lookup(name, found, request, distractors, root)
        if isinstance(found, PhotoSet):
            return benchmark_of_instances(name, found, request, distractors, str(root), root)
        raise part.fails(f"gave {type(found).__name__}, not a Lookup, a PhotoSet or a Benchmark")

    return open_own


def _check(part: Part, found: Lookup) -> None:
    queries, photos = len(found.queries), len(found.photos)
    if not len(found.relevant) == len(found.groups) == queries:
        lists = f"{len(found.relevant)} lists of right answers and {len(found.groups)} groups"
        raise part.fails(f"gave {lists} for {queries} queries")
    for query, rows in zip(found.queries.names, found.relevant, strict=True):
        for row in rows:
            if not 0 <= row < photos:
                raise part.fails(f"has row {row} among the right answers of {query!r}, of {photos} photographs")
