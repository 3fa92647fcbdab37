"""Which files a tar archive holds and where their bytes lie, read from its headers alone; of any archive, by anybody.

Nothing is unpacked. Read are the old form, POSIX ustar, GNU (long names, large sizes) and pax (long names, sizes);
every header has to have its checksum. Whoever reads a member reads the header before it too, so that an archive that
became another one meanwhile is noticed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sret_jax.storage.files import Unreadable

BLOCK = 512  # bytes: of a header, and what members are filled up to
MAX_MEMBERS = 1_000_000
MAX_EXTENDED = 1 << 20  # bytes of what a long name or a pax header may hold
MAX_CHAINED = 16  # such headers before one member; tar writes three at most
FILE, FOLDER, LINKS = (b"0", b"\0", b"7"), b"5", (b"1", b"2")
PAX, PAX_OF_ALL, LONG_NAME, LONG_LINK = b"x", b"g", b"L", b"K"
Read = Callable[[int, int], bytes]  # start, size -> the bytes there are of these


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file of an archive.

    name    as it is written there; of bytes that are no UTF-8 surrogates
    at      where its bytes begin
    size    bytes
    header  digest of the header before them
    reason  why it cannot be used, whatever it holds; "" where it can
    """

    name: str
    at: int
    size: int
    header: str
    reason: str = ""


@dataclass(frozen=True)
class TarListing:
    """The members of an archive but folders, in its order; `problem` says where reading it came to an end too early."""

    members: list[TarMember]
    problem: str = ""


def list_tar(read: Read, size: int) -> TarListing:
    """The members of an archive of `size` bytes. What is sound before a damaged place is listed, and the place named.

    Raises what `read` raises.
    """
    members: list[TarMember] = []
    pax: dict[str, str] = {}
    at, long_name, chained = 0, "", 0

    def end(what: str) -> TarListing:
        place = f"behind {members[-1].name!r}" if members else "at its beginning"
        return TarListing(members, f"{what} {place}")

    while len(header := read(at, BLOCK)) == BLOCK:
        if not header.strip(b"\0"):  # of the end there are two, and whatever follows counts no more
            return TarListing(members)
        try:
            _check_sum(header)
            length = _number(header[124:136])
            kind = header[156:157]
            if kind in (PAX, PAX_OF_ALL, LONG_NAME, LONG_LINK):
                chained += 1
                if length > MAX_EXTENDED or chained > MAX_CHAINED:
                    raise Unreadable("damaged")
                body = read(at + BLOCK, length)
                if len(body) < length:
                    return end("cut off")
                if kind == LONG_NAME:
                    long_name = _text(body.partition(b"\0")[0])
                elif kind == PAX:
                    pax |= _pax_records(body)
                at += BLOCK + _filled(length)
                continue
            length = _decimal(pax["size"]) if "size" in pax else length
        except Unreadable as rejected:
            return end(rejected.reason)
        name = pax.get("path") or long_name or _name(header)
        holds = length if kind in FILE or kind not in (FOLDER, *LINKS) else 0
        if at + BLOCK + holds > size:
            return TarListing(members, f"cut off in {name!r}")
        if kind != FOLDER and not (kind == b"\0" and name.endswith("/")):  # a folder of the old form
            reason = _reason(kind, pax)
            members.append(TarMember(name, at + BLOCK, length, header_digest(header), reason))
            if len(members) > MAX_MEMBERS:
                return end(f"more than {MAX_MEMBERS:,} files")
        at += BLOCK + _filled(holds)
        long_name, pax, chained = "", {}, 0
    return end("cut off" if size else "empty")  # or without the mark of its end, which nobody can tell from that


def read_member(read: Read, member: TarMember) -> bytes:
    """The bytes of a member. Raises `Unreadable` where its archive is another one by now, and what `read` raises."""
    data = read(member.at - BLOCK, BLOCK + member.size)
    if len(data) < BLOCK + member.size or header_digest(data[:BLOCK]) != member.header:
        raise Unreadable("its archive changed while it was read")
    return data[BLOCK:]


def header_digest(header: bytes) -> str:
    return hashlib.sha256(header).hexdigest()[:16]


def _reason(kind: bytes, pax: dict[str, str]) -> str:
    if kind in LINKS:
        return "a link in its archive"
    if kind not in FILE or any(key.startswith("GNU.sparse") for key in pax):
        return "not a regular file in its archive"
    return ""


def _filled(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_sum(header: bytes) -> None:
    """Raises `Unreadable` for what is no header. Some programs of old have added the bytes as signed numbers."""
    said = _number(header[148:156])
    rest = header[:148] + b" " * 8 + header[156:]
    if said not in (sum(rest), sum(byte - 256 * (byte > 127) for byte in rest)):
        raise Unreadable("damaged, or no tar archive")


def _number(field: bytes) -> int:
    """Octal; of GNU also binary, of which negative ones mean nothing here."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if field[0] & 0x80 or text.strip(b"01234567"):
        raise Unreadable("damaged, or no tar archive")
    return int(text or b"0", 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise Unreadable("damaged")
    return int(text)


def _name(header: bytes) -> str:
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    posix = header[257:263] == b"ustar\0"  # GNU's has other things there
    return _text(prefix + b"/" + name if posix and prefix else name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _pax_records(body: bytes) -> dict[str, str]:
    """Of "<length> <key>=<value>\\n" one after the other."""
    found, at = {}, 0
    while at < len(body) and body[at] != 0:
        digits, space, _ = body[at : at + 20].partition(b" ")
        if not space or not digits.isdigit():
            raise Unreadable("damaged")
        record = body[at : at + int(digits)]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != int(digits) or not equals or not record.endswith(b"\n"):
            raise Unreadable("damaged")
        found[_text(key)] = _text(value)
        at += int(digits)
    return found
