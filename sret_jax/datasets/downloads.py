"""Fetches the files of a benchmark from where their authors publish them, into the layout that its reader expects.

`sret download` does it; run again after an interruption, it continues.

An archive that lies in DIR already, or in --archives=DIR, is taken instead of fetched, and kept; where all do, no
network is needed. `DIR/DOWNLOADED.json` lists what is done, with its md5 and, of photographs, the version. A file whose
checksum its authors publish has to match; of the others the md5 is noted, so that two people can compare. Archives are
unpacked beside and moved when whole; one with a member that is a link, a device, or leads out of the folder is refused,
and nothing of it is unpacked.
"""

import hashlib
import http.client
import json
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sret_jax.datasets.sources import BYTES, UNKNOWN, VERSIONS, PublishedFile
from sret_jax.datasets.unpacking import unpack
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import write_json

log = logging.getLogger(__name__)
DONE = "DOWNLOADED.json"
NAMED = 3  # archives named in words
CHECKSUM = re.compile("[0-9a-f]{32}|[0-9a-f]{64}")
BLOCK = 1 << 20  # bytes
PATIENCE = 60  # seconds without an answer
TRIES, PAUSE = 5, 2.0  # in a row without a single new byte, and seconds between them


def sizes(sources: Sequence[PublishedFile]) -> list[int]:
    """Bytes of each, as stated or as its server says; 0 where neither does."""
    return [source.size or _length(source.url) for source in sources]


def download(sources: Sequence[PublishedFile], folder: str | Path, archives: str | Path = "") -> None:
    """Takes what lies in `archives` or `folder` and fetches what is not there yet; checks and unpacks it.

    Raises `UserError` that names the file: it cannot be reached, is not what was published, or is not to be unpacked.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = done_urls(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    screen = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal) as progress:
        for number, source in enumerate(sources, 1):
            if source.url in done:
                continue
            own = by_hand(source, folder, archives)
            name, part = own.name if own else source.name, folder / f".{source.name}.part"
            bar = progress.add_task(f"{number}/{len(sources)} {name}", total=None)
            if own is None:
                _fetch(source.url, part, partial(_show, progress, bar))
            md5, how = _checked(source, part, own)
            entry: dict[str, Any] = {"name": name, "bytes": (own or part).stat().st_size, "md5": md5, "checked": how}
            if source.is_archive:
                progress.update(bar, description=f"{number}/{len(sources)} {name}: unpacking")
                unpack(own or part, folder / source.target, name, source.flat)
                known = BYTES.get(name, entry["bytes"]) == entry["bytes"]
                entry["version"] = VERSIONS.get(name, UNKNOWN) if known else UNKNOWN
            elif own != folder / source.target:
                (folder / source.target).parent.mkdir(parents=True, exist_ok=True)
                if own:
                    shutil.copyfile(own, part)
                part.replace(folder / source.target)
            done[source.url] = entry
            write_json(folder / DONE, done)
            for leftover in (part, _version(part)):
                leftover.unlink(missing_ok=True)
            progress.remove_task(bar)
            log.info("%s: md5 %s, %s%s", name, md5, how, f"; {own} is kept" if own else "")


def _show(progress: Progress, bar: TaskID, size: int, total: int | None) -> None:
    progress.update(bar, completed=size, total=total)


def by_hand(source: PublishedFile, folder: Path, archives: str | Path = "") -> Path | None:
    """Where the file lies that somebody has put there: in its place, in `archives` or in `folder`."""
    places = [Path(archives), folder] if archives else [folder]
    found = [] if source.is_archive else [folder / source.target]
    found += [place / name for place in places for name in (source.name, source.older) if name]
    return next((path for path in found if path.is_file()), None)


def image_version(folder: str | Path) -> str:
    """Which version of the photographs was unpacked in a folder, in words: as `DOWNLOADED.json` records it."""
    try:
        entries = [entry for entry in done_urls(Path(folder)).values() if "version" in entry]
        words = []
        for version in sorted({entry["version"] for entry in entries}):
            of = [entry for entry in entries if entry["version"] == version]
            named = [f"{entry['name']} ({entry['bytes']} bytes, md5 {entry['md5']})" for entry in of[:NAMED]]
            more = [f"and {len(of) - NAMED} more archives"] if len(of) > NAMED else []
            words.append(f"{version}: {', '.join(named + more)}")
    except (UserError, KeyError, TypeError):
        return f"{UNKNOWN}: {DONE} is unreadable"
    return "; ".join(words) or f"{UNKNOWN}: no archive is in a {DONE} beside the photographs"


def done_urls(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        done = json.loads((folder / DONE).read_bytes())
        return {url: {"md5": entry} if isinstance(entry, str) else dict(entry) for url, entry in done.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
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


def _checked(source: PublishedFile, part: Path, own: Path | None) -> tuple[str, str]:
    """The md5, and in words what it was compared with; a checksum that is published must be that of the file."""
    published, how = _published(source, own)
    with open(own or part, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        file.seek(0)
        kind, found = (
            ("md5", md5) if len(published) != 64 else ("sha256", hashlib.file_digest(file, "sha256").hexdigest())
        )
    if published and found != published:
        if own:
            raise UserError(f"{own}: its {kind} is {found}, published is {published}; put the whole file in its place")
        for leftover in (part, _version(part)):
            leftover.unlink(missing_ok=True)
        raise UserError(f"{source.url}: its {kind} is {found}, published is {published}; it is discarded, run again")
    return md5, how


def _published(source: PublishedFile, own: Path | None) -> tuple[str, str]:
    """`(checksum, in words)`; the list of checksums may lie beside a file of one's own. "" where there is none."""
    if not source.checksum.startswith("http"):
        return source.checksum, "as published" if source.checksum else "no checksum is published"
    listed = own and own.with_name(source.checksum.rsplit("/", 1)[1])
    try:
        if listed and listed.is_file():
            text = listed.read_text("utf-8", "replace")
        else:
            with _request(source.checksum) as answer:
                text = answer.read(BLOCK).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        if own:
            return "", f"not compared with {source.checksum} ({error})"
        raise UserError(f"{source.checksum}: {error}; what has arrived is kept, run again later") from None
    lines = [line.split() for line in text.lower().splitlines() if line.strip()]
    right = [line[0] for line in lines if line[-1].endswith(source.name.lower()) or len(lines) == 1]
    if not right or not CHECKSUM.fullmatch(right[0]):
        raise UserError(f"{source.checksum}: no md5 or sha256 of {source.name} in it; run again later")
    return right[0], "as published"
