"""What each address of the server answers. Nothing is kept between two requests but thumbnails."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sret_jax.errors import UserError
from sret_jax.server.bodies import Bodies
from sret_jax.server.limits import Limits
from sret_jax.server.openapi import description
from sret_jax.server.parameters import (
    FARTHEST,
    MOST_NAMES,
    OBJECT,
    Asked,
    json_object,
    known_name,
    search_parameters,
    whole_number,
)
from sret_jax.server.pictures import SIZES, PictureCache, heat_picture, picture, preview
from sret_jax.server.protocols import Box, Collection
from sret_jax.server.readiness import Readiness
from sret_jax.server.responses import Refused, reply
from sret_jax.server.results import search_result
from sret_jax.server.work import Work

MOST_SKIPPED = 100  # files that /status names
PRIVATE = {"Cache-Control": "private, max-age=300"}


class Api:
    """The endpoints over one collection. `close` ends its threads."""

    def __init__(self, collection: Collection, limits: Limits, readiness: Readiness):
        self.collection = collection
        self.readiness = readiness
        self.limits = limits
        self.bodies = Bodies(limits)
        self.cache = PictureCache(limits.cached)
        self.searches = Work("search", 1, limits.searches)  # the device does one at a time
        self.pictures = Work("picture", 2, limits.pictures)
        self.reads = Work("read", 1, limits.pictures)  # short, but they read files

    def close(self) -> None:
        for work in (self.searches, self.pictures, self.reads):
            work.close()

    async def health(self, _: Request) -> Response:
        return reply({"status": "ok"})

    async def openapi(self, _: Request) -> Response:
        return reply(description())

    async def status(self, request: Request) -> Response:
        status = await self.reads.run(request, self.collection.status)
        skipped = [{"name": name, "reason": reason} for name, reason in status.skipped[:MOST_SKIPPED]]
        return reply(
            {
                "name": status.name,
                "photos": int(status.photos),
                "indexing": bool(status.indexing),
                "done": int(status.done),
                "total": int(status.total),
                "ready": self.readiness.ready,
                "message": " ".join(self.readiness.message.split()),
                "updated": status.updated,
                "retriever": status.retriever,
                "local": status.local,
                "skipped": len(status.skipped),
                "skipped_files": skipped,
            }
        )

    async def names(self, request: Request) -> Response:
        given = request.query_params
        start = whole_number("start", given.get("start", 0), 0, FARTHEST * 1000)
        count = whole_number("count", given.get("count", 60), 1, MOST_NAMES)
        wanted = given.get("contains", "").casefold()

        def listed() -> dict[str, Any]:
            names = self.collection.names
            if wanted:
                names = [name for name in names if wanted in name.casefold()]
            return {"total": len(names), "start": start, "names": list(names[start : start + count])}

        return reply(await self.reads.run(request, listed))

    async def photo(self, request: Request) -> Response:
        name, size = request.path_params["name"], request.query_params.get("size")
        if size is not None and size not in map(str, SIZES):
            raise UserError(f"size {size[:20]!r}: give one of {', '.join(map(str, SIZES))}, or none for the whole")

        def encoded() -> tuple[bytes, str]:
            known_name(name, self.collection.names)
            try:
                height, width = self.collection.query_size(name)
                own, key = f"{width}x{height}", (name, int(size or 0), self.collection.status().updated)
                if found := self.cache.get(key):
                    return found, own
                data = picture(self.collection.read(name), int(size) if size else None)
            except UserError as error:
                said = str(error)
                raise Refused(404, said if said.startswith(name) else f"{name}: {said}") from None
            if size:
                self.cache.put(key, data)
            return data, own

        data, own = await self.pictures.run(request, encoded)
        return Response(data, headers=PRIVATE | {"X-Photograph-Size": own}, media_type="image/jpeg")

    async def search(self, request: Request) -> Response:
        async with self._query(request) as (query, given):
            asked = search_parameters(given)

            def found() -> dict[str, Any]:
                box, region = self._pointed_at(query, asked.region)
                answers = self.collection.search(query, region, asked.k, asked.start, verify=asked.verify)
                return search_result(answers, asked.start, asked.k, box)

            return reply(await self.searches.run(request, found))

    async def heat(self, request: Request) -> Response:
        async with self._query(request) as (query, given):
            asked = search_parameters(given)
            name = await self._known(request, given.get("photo"))

            def drawn() -> bytes:
                return heat_picture(self.collection.heat(name, query, self._pointed_at(query, asked.region)[1]))

            return Response(await self.searches.run(request, drawn), media_type="image/png")

    async def object(self, request: Request) -> Response:
        async with self._query(request) as (query, _):

            def found() -> dict[str, Any]:
                return {"box": [int(x) for x in self.collection.object_in(query)]}

            return reply(await self.searches.run(request, found))

    async def preview(self, request: Request) -> Response:
        if not _is_photograph(_kind(request)):
            raise Refused(415, "send an encoded photograph, with Content-Type: image/*")
        async with self._photograph(request) as photo:
            data, (height, width) = await self.pictures.run(request, lambda: preview(photo))
        return Response(data, headers={"X-Photograph-Size": f"{width}x{height}"}, media_type="image/jpeg")

    def _pointed_at(self, query: str | bytes, asked: Asked) -> tuple[Box | None, list[float] | None]:
        """The box that object discovery suggests, None where nobody asked for it; and the region that is searched."""
        if asked != OBJECT:
            return None, asked
        box = self.collection.object_in(query)
        return box, [float(x) for x in box]

    @asynccontextmanager
    async def _query(self, request: Request) -> AsyncIterator[tuple[str | bytes, Mapping[str, Any]]]:
        """What is looked for, a known name or an encoded photograph, and the other things that were given."""
        if (kind := _kind(request)) == "application/json":
            async with self.bodies.read(request, self.limits.json) as data:
                given = json_object(data)
            yield await self._known(request, given.get("name")), given
        elif _is_photograph(kind):
            async with self._photograph(request) as photo:
                yield photo, request.query_params
        else:
            raise Refused(
                415,
                "send JSON, with Content-Type: application/json, or an encoded photograph, with Content-Type: image/*",
            )

    @asynccontextmanager
    async def _photograph(self, request: Request) -> AsyncIterator[bytes]:
        """What the body holds, encoded."""
        async with self.bodies.read(request, self.limits.upload) as data:
            if not data:
                raise UserError("the body is empty; send an encoded photograph in it")
            yield data

    async def _known(self, request: Request, name: Any) -> str:
        """A name of the collection, which is looked up before anything waits for a search."""
        return await self.reads.run(request, lambda: known_name(name, self.collection.names))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_photograph(kind: str) -> bool:
    return kind == "application/octet-stream" or kind.startswith("image/")
