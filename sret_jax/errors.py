"""The one exception for bad input: its text names the thing and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST = 4000  # characters of an error


class UserError(Exception):
    """Bad use or bad input. The commands print its text as one line and exit with 2.

    A text in which a file speaks is cut in its middle: what is wrong stands at its beginning, the remedy at its end.
    """

    def __init__(self, text: object = ""):
        words = str(text)
        super().__init__(words if len(words) <= MOST else f"{words[: MOST - 1000]} ... {words[-1000:]}")


def choices(given: str, known: Iterable[str]) -> str:
    """`'smoothign'; did you mean 'smoothing'? Choose one of ...`: what an error says of a name that is unknown."""
    known = list(known)
    meant = did_you_mean(given, known)
    return f"{given!r}{meant or ';'} {'C' if meant else 'c'}hoose one of {', '.join(known)}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'smoothing'?`, or "" where no name is near."""
    near = get_close_matches(given, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
