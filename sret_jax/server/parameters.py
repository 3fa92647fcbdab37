"""What a client asks for, checked once: names, regions and numbers out of JSON or an address."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sret_jax.errors import UserError
from sret_jax.server.responses import Refused
from sret_jax.storage.files import Unreadable
from sret_jax.storage.foreign import parse_json, short

MOST_ANSWERS, MOST_NAMES = 100, 500  # of one request
FARTHEST = 1_000_000  # pixel, and answer, that a request may name
OBJECT: Literal["object"] = "object"  # a region that object discovery finds

Asked = list[float] | Literal["object"] | None


@dataclass(frozen=True)
class SearchParameters:
    """What part of the query is looked for, and which answers are wanted."""

    region: Asked
    k: int
    start: int
    verify: bool


def search_parameters(given: Mapping[str, Any]) -> SearchParameters:
    """Out of JSON, or of an address, in which everything is text. Raises `UserError` that names what is wrong."""
    return SearchParameters(
        region(given.get("region")),
        whole_number("k", given.get("k", 20), 1, MOST_ANSWERS),
        whole_number("start", given.get("start", 0), 0, FARTHEST),
        truth("verify", given.get("verify", False)),
    )


def region(given: Any) -> Asked:
    """A box [left, top, right, bottom] or a click [x, y], from numbers or the text "l,t,r,b", pixels; or as it is."""
    if given is None or given == "":
        return None
    if given == OBJECT:
        return OBJECT
    rule = 'a region is a box [left, top, right, bottom] or a click [x, y], in pixels, or "object"'
    if isinstance(given, str):
        try:
            given = [float(word) for word in given[:200].split(",")]
        except ValueError:
            raise UserError(f"region {_shown(given)}: {rule}; numbers are separated by commas") from None
    numbers = isinstance(given, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in given)
    if not numbers or len(given) not in (2, 4) or not all(abs(x) <= FARTHEST for x in given):
        raise UserError(f"region {_shown(given)}: {rule}")
    if len(given) == 4 and not (given[0] < given[2] and given[1] < given[3]):
        raise UserError(f"region {_shown(given)}: right has to be greater than left, and bottom than top")
    return [float(x) for x in given]


def whole_number(name: str, given: Any, least: int, most: int) -> int:
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 10:
        given = int(given)
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given <= most:
        raise UserError(f"{name} {_shown(given)}: give a whole number from {least} to {most}")
    return given


def truth(name: str, given: Any) -> bool:
    """True or false, of JSON or in letters."""
    known = {"true": True, "false": False}.get(given, given) if isinstance(given, str) else given
    if not isinstance(known, bool):
        raise UserError(f"{name} {_shown(given)}: give true or false")
    return known


def known_name(given: Any, names: Sequence[str]) -> str:
    """The name, which is one of the collection's sorted own. Nothing else is ever looked up on disk.

    Raises:
        Refused: 404, it is not.
        UserError: it is no text.
    """
    if not isinstance(given, str):
        raise UserError("give the name of a photograph of the collection, as GET /photos lists them")
    place = bisect_left(names, given)
    if place == len(names) or names[place] != given:
        raise Refused(404, f"no photograph {_shown(given)} in this collection; GET /photos lists them")
    return given


def json_object(data: bytes) -> dict[str, Any]:
    """Raises `UserError` for whatever is no JSON object."""
    try:
        value = parse_json(data)
    except Unreadable as rejected:
        raise UserError(f"the body is {rejected.reason}") from None
    if not isinstance(value, dict):
        raise UserError('the body has to be a JSON object, such as {"name": "a photograph.jpg"}')
    return value


def _shown(value: Any) -> str:
    return short(value)
