"""Names of many files in one word: `{000..099}` and `{a,b}` as a shell has them, `*`, `?` and `[ab]`."""

import re
from collections.abc import Iterator
from itertools import islice

from sret_jax.errors import UserError

MOST = 1_000_000  # names that braces may stand for
WILD = "*?["
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")


def is_wild(text: str) -> bool:
    """Whether names have to be looked for."""
    return any(letter in text for letter in WILD)


def is_pattern(text: str) -> bool:
    return is_wild(text) or _BRACES.search(text) is not None


def split_pattern(text: str) -> tuple[str, str]:
    """The folder that all names lie below, and the pattern below it; the folder alone has no braces or wild letters."""
    first = min(m.start() for m in re.finditer(r"[*?\[{]", text))
    folder, _, _ = text[:first].rpartition("/")
    return folder, text[len(folder) :].lstrip("/")


def expanded(pattern: str) -> list[str]:
    """What the braces of a pattern stand for, in their order. Raises `UserError` for more than `MOST` names."""
    found = list(islice(_expanded(pattern), MOST + 1))
    if len(found) > MOST:
        raise UserError(f"{pattern}: stands for more than {MOST:,} names; give several, or a folder")
    return list(dict.fromkeys(found))


def _expanded(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, listed = match.groups()
    if listed is not None:
        parts: Iterator[str] = iter(listed.split(","))
    else:
        step = 1 if int(first) <= int(last) else -1
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts = (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
    for part in parts:
        yield from _expanded(pattern[: match.start()] + part + pattern[match.end() :])
