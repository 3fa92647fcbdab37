"""Unpacks a tar archive that strangers made: all of its files or none, and nothing outside of the folder."""

import contextlib
import gzip
import io
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from sret_jax.errors import UserError
from sret_jax.storage.files import named, open_file
from sret_jax.storage.foreign import short

BLOCK = 1 << 20  # bytes
# Photographs do not shrink: what unpacks to much more, or into more files than any benchmark has, fills the disk.
MAX_GROWTH, MAX_FILES = 10, 1_000_000
MAX_NAME = 1024  # characters of a member's path
MAX_BYTES = 1 << 40
SPARE = 1 << 20  # bytes that an archive may grow by in any case


class _Stream(io.RawIOBase):
    """The tar inside of an archive, compressed or not, for `tarfile`, which reads a header of any length at once."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.file, self.last = file, b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self.file.read(size)
        self.last = (self.last + data)[-tarfile.BLOCKSIZE :]
        return data


def unpack(archive: Path, folder: Path, name: str, flat: bool) -> None:
    """The files of a tar archive into `folder`: all of them, or none and a `UserError` that names the member.

    flat   the archive's own folders are left out
    """
    building = folder / ".unpacking"
    shutil.rmtree(building, ignore_errors=True)
    try:
        _extract(archive, building, name, flat)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{name}: cannot be unpacked ({error}); make room, or delete {archive} and run again") from None
    else:
        for file in [path for path in building.rglob("*") if path.is_file()]:
            target = folder / file.relative_to(building)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _extract(archive: Path, building: Path, name: str, flat: bool) -> None:
    with contextlib.ExitStack() as opened:
        with named(archive, f"fetch {name} again from its authors"):
            raw = opened.enter_context(open_file(archive, MAX_BYTES))
        most = MAX_GROWTH * os.fstat(raw.fileno()).st_size + SPARE
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Stream(opened.enter_context(gzip.open(raw, "rb")) if packed else raw)
        size = 0
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            count = 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it keeps every one, for whoever asks for it by its name
                count += 1
                path = PurePosixPath(member.name)
                sound = (member.isfile() or member.isdir()) and not member.issparse()
                if not sound or path.is_absolute() or ".." in path.parts or len(path.as_posix()) > MAX_NAME:
                    raise UserError(
                        f"{name}: its member {short(member.name)} is a link, a device, full of holes, or leads out of "
                        "the folder; nothing of it is unpacked, fetch it from its authors"
                    )
                size = member.offset_data + max(0, member.size)  # headers count too: an empty file has one
                if member.size < 0 or size > most or count > MAX_FILES:
                    raise UserError(
                        f"{name}: unpacks to more than {most / 1e6:.0f} MB or {MAX_FILES} files at its member "
                        f"{short(member.name)}; nothing of it is unpacked, fetch it from its authors"
                    )
                if member.isdir():
                    continue
                if flat:
                    member = member.replace(name=path.name, deep=False)
                tar.extract(member, building, filter="data")
        if stream.last.strip(b"\0"):  # tarfile stops without a word where a header is damaged or the file is cut off
            raise tarfile.ReadError(f"it has no end mark after {size} bytes of files")
        rest = 0
        while data := stream.read(BLOCK):  # to its end, where a compressed one has its checksum
            rest += len(data)
            if rest > most:
                raise tarfile.ReadError("no end")
