"""Work that takes long, in threads, so that the server answers meanwhile; so much of it and no more."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from sret_jax.server.responses import Refused

T = TypeVar("T")


class Work:
    """Runs calls in `threads` threads, first come, first served; at most `most` are running or waiting."""

    def __init__(self, name: str, threads: int, most: int):
        self.most = most
        self.pending = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()

    async def run(self, request: Request, call: Callable[[], T]) -> T:
        """What the call returns or raises. A call that still waits when its client goes away is dropped.

        Raises:
            Refused: 503, as many as there may be are running or waiting.
            ClientDisconnect: the client has gone.
        """
        with self._lock:
            if self.pending >= self.most:
                raise Refused(503, "too many requests are waiting; try again in a moment")
            self.pending += 1
        future = self._threads.submit(call)
        future.add_done_callback(self._finished)
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_gone(request))
        try:
            either: list[asyncio.Future[Any]] = [result, gone]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise ClientDisconnect
            return result.result()
        finally:
            result.cancel()  # takes effect where it still waits
            gone.cancel()

    def close(self) -> None:
        """Drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self.pending -= 1


async def _gone(request: Request) -> None:
    """Returns when the client has closed its connection. The body has to be read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
