"""Fetches the files of a benchmark from where their authors publish them, into the layout that its reader expects.

    python -m sret_jax.data.downloads NAME DIR          says how much it is, and from where
    python -m sret_jax.data.downloads NAME DIR --yes    fetches it; run again after an interruption, it continues

`DIR/DOWNLOADED.json` lists what is there already, with its md5. A file whose checksum its authors publish has to match;
of the others the md5 is noted, so that two people can compare. Archives are unpacked beside and moved when whole; a
member that is a link, a device, or leads out of the folder is refused, and nothing of that archive is kept.
"""

import argparse
import hashlib
import http.client
import json
import logging
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from sret_jax.artifacts import write_json
from sret_jax.errors import UserError

log = logging.getLogger(__name__)
DONE = "DOWNLOADED.json"
BLOCK = 1 << 20  # bytes
PATIENCE = 60  # seconds without an answer
TRIES, PAUSE = 5, 2.0  # in a row without a single new byte, and seconds between them


@dataclass(frozen=True)
class Source:
    """One published file.

    target   where it goes below the folder; of an archive the folder it is unpacked in, which ends with "/"
    md5      published; or where it is published, a URL
    flat     the archive's own folders are left out
    size     bytes as its authors state them; 0: the server is asked
    """

    url: str
    target: str
    md5: str = ""
    flat: bool = False
    size: int = 0


# github.com/filipradenovic/revisitop, python/download.py; the photographs are those with blurred faces, of 2022.
# Neither states checksums. The md5 of the ground truths is that of the files of 2018.
_OXFORD, _REVISITOP = "https://www.robots.ox.ac.uk/~vgg/data", "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_MILLION = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
# github.com/filipradenovic/cnnimageretrieval-pytorch, cirtorch/utils/download.py
_SFM = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train"
# github.com/cvdfoundation/google-landmark, README.md, with the sizes and where the md5 of every archive is
_LANDMARKS = "https://s3.amazonaws.com/google-landmark"
_PARTS = {"train": (500, 10**9), "index": (100, 850 * 10**6), "test": (20, 500 * 10**6)}


def _landmark_parts(split: str) -> list[Source]:
    count, size = _PARTS[split]
    return [
        Source(
            f"{_LANDMARKS}/{split}/images_{i:03d}.tar",
            f"{split}/",
            md5=f"{_LANDMARKS}/md5sum/{split}/md5.images_{i:03d}.txt",
            size=size,
        )
        for i in range(count)
    ]


SOURCES: dict[str, list[Source]] = {
    "roxford5k": [
        Source(
            f"{_REVISITOP}/roxford5k/gnd_roxford5k.pkl", "gnd_roxford5k.pkl", md5="f2b67579f625a587b5b0828dbf2e8eb0"
        ),
        Source(f"{_OXFORD}/oxbuildings/oxbuild_images-v1.tgz", "jpg/", flat=True),
    ],
    "rparis6k": [
        Source(f"{_REVISITOP}/rparis6k/gnd_rparis6k.pkl", "gnd_rparis6k.pkl", md5="2feae0a8257a5c6ca1b31b8eb73c8571"),
        Source(f"{_OXFORD}/parisbuildings/paris_1-v1.tgz", "jpg/", flat=True),
        Source(f"{_OXFORD}/parisbuildings/paris_2-v1.tgz", "jpg/", flat=True),
    ],
    "revisitop1m": [
        Source(f"{_MILLION}/revisitop1m.txt", "revisitop1m.txt"),
        *(Source(f"{_MILLION}/jpg/revisitop1m.{i}.tar.gz", "jpg/") for i in range(1, 101)),
    ],
    "sfm120k": [
        Source(f"{_SFM}/dbs/retrieval-SfM-120k.pkl", "retrieval-SfM-120k.pkl"),
        Source(f"{_SFM}/ims/ims.tar.gz", "ims/"),
    ],
    "gldv2": [
        *(Source(f"{_LANDMARKS}/metadata/{name}.csv", f"{name}.csv") for name in ("index", "test")),
        *(
            Source(f"{_LANDMARKS}/ground_truth/{name}_solution_v2.1.csv", f"{name}_solution_v2.1.csv")
            for name in ("retrieval", "recognition")
        ),
        *_landmark_parts("test"),
        *_landmark_parts("index"),
    ],
    "gldv2_train": [
        *(Source(f"{_LANDMARKS}/metadata/{name}.csv", f"{name}.csv") for name in ("train_clean", "train")),
        *_landmark_parts("train"),
    ],
}


def sizes(sources: Sequence[Source]) -> list[int]:
    """Bytes of each, as stated or as its server says; 0 where neither does."""
    return [source.size or _length(source.url) for source in sources]


def download(sources: Sequence[Source], folder: str | Path) -> None:
    """Fetches what is not there yet, checks and unpacks it.

    Raises `UserError` that names the file: it cannot be reached, is not what was published, or is not to be unpacked.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    screen = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal) as progress:
        for number, source in enumerate(sources, 1):
            if source.url in done:
                continue
            name = PurePosixPath(source.url).name
            bar = progress.add_task(f"{number}/{len(sources)} {name}", total=None)
            part = folder / f".{name}.part"
            _fetch(source.url, part, lambda n, total, bar=bar: progress.update(bar, completed=n, total=total))
            md5 = _checked(source, part)
            if source.target.endswith("/"):
                progress.update(bar, description=f"{number}/{len(sources)} {name}: unpacking")
                unpack(part, folder / source.target, name, source.flat)
            else:
                (folder / source.target).parent.mkdir(parents=True, exist_ok=True)
                part.replace(folder / source.target)
            done[source.url] = md5
            write_json(folder / DONE, done)
            for leftover in (part, _version(part)):
                leftover.unlink(missing_ok=True)
            progress.remove_task(bar)
            log.info("%s: md5 %s, %s", name, md5, "as published" if source.md5 else "none is published")


def unpack(archive: Path, folder: Path, name: str, flat: bool) -> None:
    """The files of a tar archive into `folder`: all of them, or none and a `UserError` that names the member."""
    building = folder.parent / f".{folder.name}.unpacking"
    shutil.rmtree(building, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
                    raise UserError(
                        f"{name}: its member {member.name!r} is a link, a device or leads out of the folder; "
                        "nothing of it is unpacked, fetch it from its authors"
                    )
                if member.isdir():
                    continue
                if flat:
                    member = member.replace(name=path.name, deep=False)
                tar.extract(member, building, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise UserError(f"{name}: cannot be unpacked ({error}); make room, or delete {archive} and run again") from None
    except UserError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    for file in [path for path in building.rglob("*") if path.is_file()]:
        target = folder / file.relative_to(building)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(building, ignore_errors=True)


def _done(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / DONE).read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / DONE}: unreadable ({error}); delete it to fetch everything again") from None


def _request(url: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: not an address of http or https")
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=PATIENCE)


def _length(url: str) -> int:
    try:
        with _request(url, "HEAD") as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, http.client.HTTPException, ValueError):
        return 0


def _version(part: Path) -> Path:
    """Beside a part: which version of the file it is of, as the server tells it."""
    return part.with_name(part.name + ".version")


def _fetch(url: str, part: Path, tell: Callable[[int, int | None], None]) -> None:
    """Fills `part`, from where it ends; after a cut connection it goes on, as long as bytes arrive."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            for size, total in _append(url, part, before):
                tell(size, total)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and (error.headers.get("Content-Range") or "").endswith(f"*/{before}"):
                return  # whole already
            if error.code < 500:
                raise UserError(f"{url}: {error.code} {error.reason}; fetch it by hand to its place") from None
            reason: object = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        tries = 0 if part.exists() and part.stat().st_size > before else tries + 1
        if tries == TRIES:
            raise UserError(f"{url}: {reason}; what has arrived is kept, run again later to continue")
        log.warning("%s: %s; trying again", url, reason)
        time.sleep(PAUSE)


def _append(url: str, part: Path, start: int) -> Iterator[tuple[int, int | None]]:
    """`(bytes there, bytes in all)` as they arrive. A file that has changed on the server is fetched from its start."""
    version = _version(part).read_text() if start and _version(part).exists() else ""
    asked = {"Range": f"bytes={start}-", "If-Range": version} if version else {}
    with _request(url, **asked) as answer:
        start = start if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        _version(part).write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            yield start, total
            while block := answer.read(BLOCK):
                file.write(block)
                start += len(block)
                yield start, total
    if total is not None and start != total:
        raise OSError(f"cut after {start} of {total} bytes")


def _checked(source: Source, part: Path) -> str:
    """The md5, which must be the published one where there is one."""
    published = source.md5
    if published.startswith("http"):
        with _request(published) as answer:
            published = answer.read(1000).decode("ascii", "replace").split()[0]
    with open(part, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if published and md5 != published:
        for leftover in (part, _version(part)):
            leftover.unlink(missing_ok=True)
        raise UserError(f"{source.url}: its md5 is {md5}, published is {published}; it is discarded, run again")
    return md5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--yes", action="store_true", help="fetch it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        done = _done(options.folder)
        sources = [source for source in SOURCES[options.name] if source.url not in done]
        found = sizes(sources)
        unknown = f", and {found.count(0)} whose size is not known" if 0 in found else ""
        print(f"{options.name}: {len(sources)} files, {sum(found) / 1e9:.1f} GB{unknown}, to {options.folder}")
        for host in sorted({source.url.rsplit("/", 1)[0] for source in sources}):
            print(f"  from {host}/")
        if not options.yes:
            print("Photographs take about as much again while an archive is unpacked. Give --yes to fetch them.")
            return
        options.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(options.folder).free
        if (wanted := sum(found) + max(found, default=0)) > free:
            raise UserError(f"{options.folder}: {free / 1e9:.1f} GB are free, {wanted / 1e9:.1f} GB are needed")
        download(sources, options.folder)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
