"""Where the photographs of a benchmark lie on disk, as far as that is known, as links of a page."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import quote

from sret_jax.config.paths import listed_paths
from sret_jax.data.folders import folder_names
from sret_jax.evaluation.benchmark import Benchmark

Link = Callable[[str], str]  # of a photograph's name; empty where its file is not known


def originals(benchmark: Benchmark, page: Path) -> tuple[Link, Link]:
    """What links a page in the folder `page` to the files of its queries, and of its database, by their names."""
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
    return partial(_link, asked, page), partial(_link, searched | distractors, page)


def _link(folders: Mapping[str, Path], page: Path, name: str) -> str:
    """Relative: it says nothing of the folders above both, and holds where they are moved or mounted together."""
    file = _found(folders, name)
    if file is None:
        return ""
    try:
        return quote(os.fsencode(PurePath(os.path.relpath(file, page)).as_posix()))
    except ValueError:  # on another drive
        return file.as_uri()


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
