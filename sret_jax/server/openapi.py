"""The description of the server's API, OpenAPI 3.1. The tests hold every response against it."""

from typing import Any

from sret_jax.server.parameters import MOST_ANSWERS, MOST_NAMES, OBJECT
from sret_jax.server.pictures import SIZES

COUNT = {"type": "integer", "minimum": 0}
PIXEL = {"type": "integer"}
TEXT = {"type": "string"}
BOX = {"type": "array", "items": PIXEL, "minItems": 4, "maxItems": 4, "description": "left, top, right, bottom; pixels"}
REGION = {
    "anyOf": [
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
        {"const": OBJECT},
        {"type": "null"},
    ],
    "description": "A box [left, top, right, bottom] or a click [x, y], in pixels of the upright query, or "
    f'"{OBJECT}": the box that POST /{OBJECT} suggests. Without it the whole photograph is looked for.',
}

VERIFY = {
    "type": "boolean",
    "default": False,
    "description": "Put the first 50 answers in the order of spatial verification: by the inliers of their local "
    "features. An error unless the collection keeps these, as /status says.",
}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS = {
    "Error": _object({"error": TEXT}),
    "Health": _object({"status": {"const": "ok"}}),
    "Status": _object(
        {
            "name": TEXT,
            "photos": COUNT | {"description": "photographs that are searched"},
            "indexing": {"type": "boolean", "description": "whether photographs are being described"},
            "done": COUNT,
            "total": COUNT,
            "ready": {"type": "boolean", "description": "false: a search waits until programs are compiled"},
            "message": TEXT | {"description": "what went wrong with indexing; empty: nothing"},
            "updated": TEXT | {"description": "when the index last changed, ISO 8601"},
            "retriever": TEXT,
            "local": TEXT | {"description": "local features by which answers can be verified; empty: none"},
            "skipped": COUNT | {"description": "files that cannot be used"},
            "skipped_files": {
                "type": "array",
                "items": _object({"name": TEXT, "reason": TEXT}),
                "description": "the first of them",
            },
        }
    ),
    "Names": _object({"total": COUNT, "start": COUNT, "names": {"type": "array", "items": TEXT}}),
    "Answer": _object(
        {
            "name": TEXT,
            "score": {"type": "number", "minimum": -1.001, "maximum": 1.001, "description": "cosine"},
            "width": COUNT,
            "height": COUNT,
            "found": {"type": ["boolean", "null"], "description": "whether the object is in it; null: not looked for"},
            "box": {"anyOf": [BOX, {"type": "null"}], "description": "of the object"},
            "outlines": {
                "type": "array",
                "items": {
                    "type": "array",
                    "items": {"type": "array", "items": PIXEL, "minItems": 2, "maxItems": 2},
                },
                "description": "closed polygons of [x, y] around the object, in pixels",
            },
            "inliers": {
                "type": ["integer", "null"],
                "minimum": 0,
                "description": "of spatial verification; null: not verified",
            },
        }
    ),
    "Found": _object(
        {
            "query": _object({"width": COUNT, "height": COUNT}),
            "object": {
                "anyOf": [BOX, {"type": "null"}],
                "description": f'of the query: the box that region "{OBJECT}" stood for; null: another region was sent',
            },
            "searched": BOX | {"description": "the part of the query that was described"},
            "start": COUNT,
            "answers": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}},
            "more": {"type": "boolean", "description": "whether there may be more answers"},
        }
    ),
    "Search": {
        "type": "object",
        "properties": {
            "name": TEXT | {"description": "the query, a photograph of the collection"},
            "region": REGION,
            "k": {"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS, "default": 20},
            "start": COUNT | {"default": 0},
            "verify": VERIFY,
        },
        "required": ["name"],
    },
    "Object": {
        "type": "object",
        "properties": {"name": TEXT | {"description": "a photograph of the collection"}},
        "required": ["name"],
    },
    "Suggested": {
        "type": "object",
        "properties": {"box": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}},
        "required": ["box"],
    },
    "Heat": {
        "type": "object",
        "properties": {
            "photo": TEXT | {"description": "the photograph of the collection that the heat map is of"},
            "name": TEXT | {"description": "the query, a photograph of the collection"},
            "region": REGION,
        },
        "required": ["photo", "name"],
    },
}
WORDS = {
    400: "bad input",
    403: "a request of another site",
    404: "no such photograph",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "another kind of body",
    503: "too busy, or the server of vectors does not answer; try again in a moment",
}


def description() -> dict[str, Any]:
    """The whole of it, as JSON has it."""
    region = _query(
        "region", TEXT, f"l,t,r,b or x,y, in pixels, or {OBJECT}; without it the whole photograph is looked for"
    )
    k = _query("k", SCHEMAS["Search"]["properties"]["k"], "answers that are wanted")
    start = _query("start", COUNT | {"default": 0}, "the first answer that is wanted, counted from 0")
    verify = _query("verify", VERIFY, "whether answers are verified")
    return {
        "openapi": "3.1.0",
        "info": {"title": "sret serve", "version": "1", "description": "Search a collection of photographs."},
        "paths": {
            "/search": {
                "post": {
                    "summary": "Photographs that show what is in a region of the query, best first",
                    "description": "The query is a photograph of the collection, by its name in JSON, or an encoded "
                    "photograph (of any format that is indexed, 20 MB at most) as the body. It is not kept: send it "
                    "again for more answers.",
                    "parameters": [region, k, start, verify],
                    "requestBody": _bodies("Search"),
                    "responses": _json("Found") | _errors(400, 403, 404, 408, 413, 415, 503),
                }
            },
            "/heat": {
                "post": {
                    "summary": "How much each pixel of a photograph is like the region of the query",
                    "description": "A half transparent picture to lay over the photograph. It is brightest where that "
                    "photograph is most like the region; two photographs cannot be compared by it.",
                    "parameters": [_query("photo", TEXT, "the photograph, with an encoded query"), region],
                    "requestBody": _bodies("Heat"),
                    "responses": _file("image/png") | _errors(400, 403, 404, 408, 413, 415, 503),
                }
            },
            "/object": {
                "post": {
                    "summary": "The box of the object that stands out in a photograph, by object discovery",
                    "requestBody": _bodies("Object"),
                    "responses": _json("Suggested") | _errors(400, 403, 404, 408, 413, 415, 503),
                }
            },
            "/preview": {
                "post": {
                    "summary": "A photograph as a browser can show it, before it is searched with",
                    "description": "A small JPEG, upright and without the file's metadata. X-Photograph-Size tells the "
                    "size of the file's photograph, WIDTHxHEIGHT in pixels, in which regions are given. Not kept.",
                    "requestBody": _bodies(""),
                    "responses": _file("image/jpeg") | _errors(400, 403, 408, 413, 415, 503),
                }
            },
            "/photos": {
                "get": {
                    "summary": "Names of the photographs that are searched, sorted",
                    "parameters": [
                        _query("start", COUNT | {"default": 0}, "the first name, counted from 0"),
                        _query(
                            "count", {"type": "integer", "minimum": 1, "maximum": MOST_NAMES, "default": 60}, "names"
                        ),
                        _query("contains", TEXT, "only names with this in them, in any case"),
                    ],
                    "responses": _json("Names") | _errors(400, 503),
                }
            },
            "/photos/{name}": {
                "get": {
                    "summary": "A photograph, upright, encoded anew and without the file's metadata",
                    "description": "X-Photograph-Size tells the size of the file's photograph, WIDTHxHEIGHT in pixels, "
                    "in which regions are given.",
                    "parameters": [
                        {"name": "name", "in": "path", "required": True, "schema": TEXT, "description": "with its /"},
                        _query("size", {"enum": list(SIZES)}, "longest side in pixels; without it that of the file"),
                    ],
                    "responses": _file("image/jpeg") | _errors(400, 404, 503),
                }
            },
            "/status": {"get": {"summary": "The collection", "responses": _json("Status") | _errors(503)}},
            "/health": {"get": {"summary": "Whether the server answers", "responses": _json("Health")}},
            "/openapi.json": {
                "get": {
                    "summary": "This description",
                    "responses": {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {}}}},
                }
            },
        },
        "components": {"schemas": SCHEMAS},
    }


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _bodies(schema: str) -> dict[str, Any]:
    """An encoded photograph, or JSON of this schema; "" for none."""
    file = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}} if schema else {}
    return {"required": True, "content": json | {"image/*": file, "application/octet-stream": file}}


def _json(schema: str) -> dict[str, Any]:
    return {
        "200": {
            "description": "OK",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
    }


def _file(kind: str) -> dict[str, Any]:
    return {"200": {"description": "OK", "content": {kind: {"schema": {"type": "string", "contentMediaType": kind}}}}}


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": WORDS[status], "content": content} for status in statuses}
