"""Where the photographs of a benchmark lie on disk, as far as that is known."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from sret_jax.config.paths import listed_paths
from sret_jax.data.folders import folder_names
from sret_jax.evaluation.benchmark import Benchmark

Original = Callable[[str], Path | None]  # of a photograph's name


def originals(benchmark: Benchmark) -> tuple[Original, Original]:
    """What finds the files of its queries, and of its database, by their names."""
    request, folder = benchmark.request, benchmark.folder
    roots = listed_paths(request.root) if request.root else []
    searched: dict[str, Path] = {"": folder} if folder else {}
    if len(roots) > 1:
        searched = {f"{name}/": Path(root) for name, root in zip(folder_names(roots), roots, strict=True)}
    distractors = {f"{Path(one).resolve().name}/": Path(one) for one in request.distractors}
    asked = searched
    if request.queries:
        place = Path(request.queries)
        asked = {"": place if place.is_dir() else place.parent}
    return partial(_found, asked), partial(_found, searched | distractors)


def _found(folders: Mapping[str, Path], name: str) -> Path | None:
    """The file of that name below the folder of its prefix; of "roxford5k" names are without folder and ending."""
    for prefix, folder in folders.items():
        own = name.removeprefix(prefix)
        if not name.startswith(prefix) or own.startswith("/") or ".." in PurePosixPath(own).parts:
            continue
        for path in (folder / own, folder / "jpg" / f"{own}.jpg"):
            try:
                if path.is_file():
                    return path.absolute()
            except OSError:  # a name that no file can have
                continue
    return None
