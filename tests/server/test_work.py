"""Work in threads: bounded, in order, and dropped when nobody waits for it any more."""

import asyncio
import threading

import pytest
from starlette.requests import ClientDisconnect, Request

from sret_jax.server.responses import Refused
from sret_jax.server.work import Work


def request(gone: asyncio.Event | None = None) -> Request:
    gone = gone or asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def test_more_than_may_wait_are_refused_and_room_is_made_again():
    async def main():
        work, release = Work("test", 1, 3), threading.Event()
        running = [asyncio.ensure_future(work.run(request(), release.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await work.run(request(), release.wait)
        assert refused.value.status == 503
        release.set()
        assert await asyncio.gather(*running) == [True] * 3
        assert await work.run(request(), lambda: 7) == 7 and work.pending == 0
        work.close()

    asyncio.run(main())


def test_what_waits_for_a_client_that_has_gone_is_dropped():
    async def main():
        work, release, gone, done = Work("test", 1, 9), threading.Event(), asyncio.Event(), []
        first = asyncio.ensure_future(work.run(request(), release.wait))
        second = asyncio.ensure_future(work.run(request(gone), lambda: done.append(2)))
        third = asyncio.ensure_future(work.run(request(), lambda: done.append(3)))
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(ClientDisconnect):
            await second
        release.set()
        await asyncio.gather(first, third)
        assert done == [3] and work.pending == 0
        work.close()

    asyncio.run(main())


def test_what_a_call_raises_is_raised():
    async def main():
        work = Work("test", 1, 1)
        with pytest.raises(ZeroDivisionError):
            await work.run(request(), lambda: 1 / 0)
        assert work.pending == 0
        work.close()

    asyncio.run(main())
