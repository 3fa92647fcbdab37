"""JSON that any name fits into, and errors as JSON."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sret_jax.errors import UserError


class Refused(Exception):
    """A request that is answered by an error: its HTTP status, and what is said."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: half of a surrogate pair, which a client may send as a name, can be written back."""
    return Response(json.dumps(value, allow_nan=False), status, headers, media_type="application/json")


def error(status: int, text: str) -> Response:
    return reply({"error": " ".join(text.split())}, status, {"Retry-After": "1"} if status == 503 else None)


async def answer_refused(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, Refused)
    return error(exception.status, str(exception))


async def answer_server_error(_: Request, exception: Exception) -> Response:
    """Where the server of vectors does not answer: whoever asked did nothing wrong, and may ask again."""
    return error(503, str(exception))


async def answer_user_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, UserError)
    return error(400, str(exception))
