"""The application on a socket, by uvicorn, with a limit on how long a connection may dawdle."""

import asyncio
import errno
import logging
import socket
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sret_jax.errors import UserError
from sret_jax.server.app import application
from sret_jax.server.limits import Limits
from sret_jax.server.protocols import Collection
from sret_jax.server.readiness import Readiness


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that cuts connections which neither send a request nor read its answer; uvicorn waits for ever.

    Within a request the application looks at the time, see `bodies`.
    """

    idle_seconds: float

    def __init__(self, *arguments: Any, idle_seconds: float, **options: Any):
        super().__init__(*arguments, **options)
        self.idle_seconds = idle_seconds
        self._since = self.loop.time()
        self._unread = 0
        self._request: object = None  # the last that was seen
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        running = self.cycle is not None and not self.cycle.response_complete
        unread = self.transport.get_write_buffer_size()
        if self.cycle is not self._request or unread < self._unread or (running and not unread):
            self._since = self.loop.time()
        self._request, self._unread = self.cycle, unread
        if self.loop.time() - self._since > self.idle_seconds:
            self.transport.abort()  # `close` would wait until it has read the answer
        else:
            self._watch = self.loop.call_later(min(1.0, self.idle_seconds / 4), self._look)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not yet listening. Raises `UserError` where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(f"--host={host}: {error}; give an address of this machine, such as 127.0.0.1") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else 8017
            raise UserError(f"port {port} is taken; give another one, --port={other}, or end what uses it") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is for the administrator; give one above 1023, such as 8017") from None
        raise UserError(f"--host={host}: {error.strerror}; give an address of this machine") from None
    return listener


def server(
    collection: Collection, host: str, limits: Limits | None = None, readiness: Readiness | None = None
) -> uvicorn.Server:
    """A server that has not started; `run(sockets=[bind(...)])` does, until a signal or `should_exit`."""
    limits = limits or Limits()
    config = uvicorn.Config(
        application(collection, host, limits, readiness),
        http=partial(ImpatientProtocol, idle_seconds=limits.idle_seconds),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(limits.idle_seconds) or 1,
        timeout_graceful_shutdown=3,
    )
    errors = logging.getLogger("uvicorn.error")
    errors.setLevel(logging.ERROR)  # not each request that is no HTTP
    errors.addFilter(_is_no_ending)
    return uvicorn.Server(config)


def _is_no_ending(record: logging.LogRecord) -> bool:
    """Requests that run when the server is ended are cancelled, which is no failure."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def address(listener: socket.socket) -> str:
    """What a person types into the browser."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}/"
