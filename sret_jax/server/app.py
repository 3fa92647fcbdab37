"""The application: which address is answered by what."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sret_jax.errors import UserError
from sret_jax.retrieval.engine import ServerError
from sret_jax.server.api import Api
from sret_jax.server.guard import Guard
from sret_jax.server.limits import Limits
from sret_jax.server.protocols import Collection
from sret_jax.server.readiness import Readiness
from sret_jax.server.responses import Refused, answer_refused, answer_server_error, answer_user_error, error

KINDS = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


class NameConvertor(PathConvertor):
    """A name below a folder, which may hold any character, newlines too."""

    regex = "(?s:.*)"


register_url_convertor("photo", NameConvertor())


def application(
    collection: Collection, host: str = "127.0.0.1", limits: Limits | None = None, readiness: Readiness | None = None
) -> ASGIApp:
    """The page and the API over a collection.

    Args:
        collection: what is searched.
        host: the name or address that the server is bound to; requests for others are refused.
        limits: what requests may take; the default is for one person or a few.
        readiness: of the collection, which another thread makes ready; by default it is.
    """
    api = Api(collection, limits or Limits(), readiness or Readiness())
    routes = [
        Route("/search", api.search, methods=["POST"]),
        Route("/heat", api.heat, methods=["POST"]),
        Route("/object", api.object, methods=["POST"]),
        Route("/preview", api.preview, methods=["POST"]),
        Route("/photos", api.names),
        Route("/photos/{name:photo}", api.photo),
        Route("/status", api.status),
        Route("/health", api.health),
        Route("/openapi.json", api.openapi),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        api.close()

    app = Starlette(
        routes=[*routes, *_page()],
        lifespan=lifespan,
        exception_handlers={
            Refused: answer_refused,
            ServerError: answer_server_error,
            UserError: answer_user_error,
            HTTPException: _answer_http,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_failure,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, host)


def _page() -> list[Route]:
    """One route for each file of the page. They are read here once, so that no request names a file."""
    routes = []
    for file in sorted(files("sret_jax.server").joinpath("static").iterdir(), key=lambda file: file.name):
        kind = KINDS[file.name[file.name.rindex(".") :]]
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        routes.append(Route(path, _constant(file.read_bytes(), kind)))
    return routes


def _constant(data: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(data, headers={"Cache-Control": "no-cache"}, media_type=kind)

    return answer


async def _answer_http(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    text = {404: "nothing is here; GET /openapi.json lists what there is", 405: "not by this method"}
    response = error(exception.status_code, text.get(exception.status_code, exception.detail))
    response.headers.update(exception.headers or {})
    return response


async def _answer_nobody(_: Request, exception: Exception) -> Response:
    return error(400, "the connection ended within the request")  # the client has gone and does not read it


async def _answer_failure(_: Request, exception: Exception) -> Response:
    return error(500, "the server failed; its log says why")
