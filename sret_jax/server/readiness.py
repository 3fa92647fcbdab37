"""How far that is which is done besides serving: before it, a search takes longer, and it may go wrong."""

from dataclasses import dataclass


@dataclass
class Readiness:
    """Set by whoever makes the collection ready, read by the server.

    ready    whether programs are loaded and compiled, so that a search does not wait for them
    message  what went wrong and what was left undone, one line; "" for nothing
    """

    ready: bool = True
    message: str = ""
