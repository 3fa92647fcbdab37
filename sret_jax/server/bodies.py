"""Bodies of requests, read up to a limit of bytes and of time, whatever their headers promise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from sret_jax.server.limits import Limits
from sret_jax.server.responses import Refused


class Bodies:
    """Reads bodies, and knows how many bytes of them are in memory."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """The body of at most `most` bytes, counted as held until the block ends.

        Raises:
            Refused: 413 a larger one, 408 one that comes too slowly, 503 all bodies together are too many bytes.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise _too_large(most)
        data = bytearray()
        try:
            await self._arrive(request, most, data)
            yield bytes(data)
        finally:
            self.held -= len(data)

    async def _arrive(self, request: Request, most: int, data: bytearray) -> None:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                pieces = request.stream()
                while (piece := await self._next(pieces)) is not None:
                    if len(data) + len(piece) > most:
                        raise _too_large(most)
                    if self.held + len(piece) > self.limits.uploads:
                        raise Refused(503, "too many photographs are being sent; try again in a moment")
                    self.held += len(piece)
                    data += piece
        except TimeoutError:
            raise Refused(408, "the request came too slowly; send it again") from None
        except ClientDisconnect:
            raise Refused(400, "the connection ended within the request") from None

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        async with asyncio.timeout(self.limits.stall_seconds):
            return await anext(pieces, None)


def _too_large(most: int) -> Refused:
    size = f"{most / 1e6:g} MB" if most >= 1e6 else f"{most / 1e3:g} kB"
    return Refused(413, f"the request is larger than {size}; send a smaller photograph")
