"""Which members of an archive are photographs, as WebDataset and others pack them; nothing is unpacked."""

import posixpath
from dataclasses import replace

from sret_jax.data.side_files import lies_beside
from sret_jax.storage.foreign import MAX_TEXT
from sret_jax.storage.tar import TarListing, TarMember

ARCHIVE = ".tar"
PACKED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
PACKED_REASON = "a packed archive, of which no part can be read alone: unpack it to .tar"
PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpf", ".jpx"),
)


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE)


def is_photograph(name: str) -> bool:
    """Whether a name is one that photographs have."""
    return name.lower().endswith(PHOTOGRAPHS)


def photographs_of(listing: TarListing) -> dict[str, TarMember]:
    """The members that are photographs or may be, by the name below the archive, in its order.

    Of a name that is there twice the last one counts, as in unpacking. Passed over is what `lies_beside` photographs in
    folders, and what belongs to a photograph of the archive, which has its name up to the first dot: `12.json` and
    `12.cls` of `12.jpg`.
    """
    found: dict[str, TarMember] = {}
    for member in listing.members:
        name, reason = _name(member.name)
        *folders, file = name.split("/")
        if not reason and (lies_beside(file, False) or any(lies_beside(folder, True) for folder in folders)):
            continue
        found.pop(name, None)
        found[name] = replace(member, name=name, reason=reason or member.reason)
    samples = {_key(name) for name in found if is_photograph(name)}
    return {name: own for name, own in found.items() if is_photograph(name) or _key(name) not in samples}


def _name(written: str) -> tuple[str, str]:
    """The name by which a member is known, and why it cannot be used under it; "" where it can."""
    try:
        written.encode()
    except UnicodeError:
        return written.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), "its name is not UTF-8"
    parts = [part for part in written.split("/") if part not in ("", ".")]
    if written.startswith("/") or ".." in parts or "\0" in written or not parts or len(written) > MAX_TEXT:
        return written[:MAX_TEXT].replace("\0", "\\0") or "''", "its name is not one below the archive"
    return "/".join(parts), ""


def _key(name: str) -> str:
    folder, file = posixpath.split(name)
    return f"{folder}/{file.partition('.')[0]}"
