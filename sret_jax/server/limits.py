"""What one request, and all of them together, may take of the machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    upload          of an encoded photograph
    json            of a body of JSON
    uploads         of all bodies that are in memory at a time
    body_seconds    for a whole body to arrive
    stall_seconds   for the next piece of a body to arrive
    idle_seconds    for a connection without a running request: until its head has come, or until it reads its answer
    connections     open at a time
    searches        running or waiting; one runs at a time
    pictures        being encoded or waiting; two are encoded at a time
    cached          of encoded thumbnails that are kept in memory
    """

    upload: int = 20_000_000
    json: int = 64_000
    uploads: int = 200_000_000
    body_seconds: float = 60.0
    stall_seconds: float = 10.0
    idle_seconds: float = 10.0
    connections: int = 500
    searches: int = 16
    pictures: int = 64
    cached: int = 64_000_000
