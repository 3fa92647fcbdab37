"""What each address answers, over a drawn collection: against its own description, and for bad input."""

import io
import json
import re
import socket
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import jsonschema
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sret_jax.data.decoding import decode_photo
from sret_jax.retrieval.engine import UnreachableError
from sret_jax.server.app import application
from sret_jax.server.limits import Limits
from sret_jax.server.openapi import description
from sret_jax.server.readiness import Readiness
from tests.support import photo_files
from tests.support.collection import FakeCollection, lying_photo, small_collection
from tests.support.serving import running

BASE = "http://127.0.0.1:8017"
NAME = "a/one.jpg"


@pytest.fixture
def collection() -> FakeCollection:
    return small_collection()


@pytest.fixture
def client(collection):
    with TestClient(application(collection), base_url=BASE) as client:
        yield client


def conforms(response, method: str, path: str) -> None:
    """The response is among those that are described, and its JSON is as described."""
    whole = description()
    described = whole["paths"][path][method]["responses"]
    assert str(response.status_code) in described, response.text
    content = described[str(response.status_code)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in content
    if "application/json" in content:
        schema = content[kind].get("schema", {}) | {"components": whole["components"]}
        jsonschema.Draft202012Validator(schema).validate(response.json())


@pytest.mark.parametrize(
    ("method", "path", "url", "options"),
    [
        ("post", "/search", "/search", {"json": {"name": NAME, "region": [5, 6, 20, 20]}}),
        ("post", "/search", "/search", {"json": {"name": NAME}}),
        ("post", "/search", "/search", {"json": {"name": NAME, "verify": True}}),
        ("post", "/search", "/search", {"json": {"name": NAME, "region": [1, 1, 1, 1]}}),
        ("post", "/search", "/search", {"json": {"name": NAME, "region": "object"}}),
        ("post", "/search", "/search", {"json": {"name": "nothing"}}),
        ("post", "/search", "/search", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        ("post", "/heat", "/heat", {"json": {"name": NAME, "photo": "lying.jpg"}}),
        ("post", "/heat", "/heat", {"json": {"name": NAME}}),
        ("post", "/object", "/object", {"json": {"name": NAME}}),
        ("post", "/object", "/object", {"json": {"name": "nothing"}}),
        ("post", "/preview", "/preview", {"content": lying_photo(), "headers": {"Content-Type": "image/heic"}}),
        ("post", "/preview", "/preview", {"content": b"no", "headers": {"Content-Type": "image/heic"}}),
        ("post", "/preview", "/preview", {"json": {"name": NAME}}),
        ("get", "/photos", "/photos?contains=A/", {}),
        ("get", "/photos", "/photos?count=0", {}),
        ("get", "/photos/{name}", "/photos/a/one.jpg", {}),
        ("get", "/photos/{name}", "/photos/a/one.jpg?size=321", {}),
        ("get", "/photos/{name}", "/photos/a/1.jpg", {}),
        ("get", "/status", "/status", {}),
        ("get", "/health", "/health", {}),
        ("get", "/openapi.json", "/openapi.json", {}),
    ],
)
def test_responses_are_as_the_description_has_them(client, collection, method, path, url, options):
    collection.skipped = [("note.txt", "not a JPEG, PNG or WebP photograph")]
    conforms(client.request(method, url, **options), method, path)


def test_every_route_is_described_and_nothing_else(client):
    routes = {
        (route.path.replace(":photo", ""), method.lower())
        for route in client.app.app.routes
        for method in route.methods - {"HEAD"}
        if route.path != "/" and not route.path.startswith("/static/")
    }
    assert routes == {(path, method) for path, methods in description()["paths"].items() for method in methods}


def test_answers_are_ranked_with_box_and_outlines(client):
    found = client.post("/search", json={"name": NAME, "region": [5, 6, 20, 20], "k": 2}).json()
    assert found["query"] == {"width": 64, "height": 48} and found["searched"] == [5, 6, 20, 20] and found["more"]
    best, second = found["answers"]
    assert best["score"] >= second["score"] and NAME not in (best["name"], second["name"])
    assert best["found"] and best["box"] == [5, 6, 25, 36] and len(best["outlines"][0]) == 40
    rest = client.post("/search", json={"name": NAME, "region": [5, 6, 20, 20], "k": 20, "start": 2}).json()
    assert len(rest["answers"]) == 2 and not rest["more"]
    assert [answer["found"] for answer in rest["answers"]] == [False, False]


def test_answers_are_verified_where_there_are_local_features(client, collection):
    refused = client.post("/search", json={"name": NAME, "verify": True})
    assert refused.status_code == 400 and "`sret index PHOTOS --local=sift`" in refused.json()["error"]
    plain = client.post("/search", json={"name": NAME, "verify": False}).json()["answers"]
    collection.local = "sift"
    assert client.get("/status").json()["local"] == "sift"
    asked = {"json": {"name": NAME, "verify": True}}
    conforms(client.post("/search", **asked), "post", "/search")
    verified = client.post("/search", **asked).json()["answers"]
    assert [answer["inliers"] for answer in verified] == sorted((len(a["name"]) for a in plain), reverse=True)
    assert {answer["inliers"] for answer in plain} == {None}
    sent = {"content": collection.photos[NAME], "headers": {"Content-Type": "image/jpeg"}}
    assert client.post("/search?verify=true", **sent).json()["answers"] == verified
    assert client.post("/search?verify=false", **sent).json()["answers"] == plain


def test_a_sent_photograph_is_searched_as_one_of_the_collection(client, collection):
    data = collection.photos[NAME]
    sent = client.post("/search?region=5,6,20,20&k=3", content=data, headers={"Content-Type": "image/jpeg"})
    assert sent.json() == client.post("/search", json={"name": NAME, "region": [5, 6, 20, 20], "k": 3}).json()
    unnamed = client.post("/search", content=data, headers={"Content-Type": "application/octet-stream"})
    assert unnamed.status_code == 200


@pytest.mark.parametrize("size", ["", "?size=320"])
def test_photographs_are_upright_and_without_metadata(client, size):
    given = lying_photo()
    assert b"Exif" in given and b"SecretCamera" in given and b"SecretComment" in given
    got = client.get(f"/photos/lying.jpg{size}")
    assert got.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(got.content))
    assert (
        image.format == "JPEG"
        and not image.getexif()
        and set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    )
    assert not re.search(rb"Exif|Secret", got.content)
    photo = decode_photo(got.content)
    assert photo.shape[:2] == (120, 80)
    np.testing.assert_allclose(photo[20, 40], (200, 40, 40), atol=12)
    np.testing.assert_allclose(photo[100, 40], (40, 60, 200), atol=12)


@pytest.mark.parametrize("form", ["TIFF", "JPEG2000", "BMP", "AVIF"])
def test_what_a_browser_may_not_show_is_shown_as_jpeg(client, collection, form):
    """Of the collection, or sent for a preview; both at the size of the page, and with that of the file."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 27, 3), np.uint8)).resize((2700, 2000))
    file = io.BytesIO()
    picture.save(file, form, **({"exif": exif} if form in ("TIFF", "AVIF") else {}))
    collection.photos["own.x"] = file.getvalue()
    sent = client.post("/preview", content=file.getvalue(), headers={"Content-Type": "application/octet-stream"})
    for got in (sent, client.get("/photos/own.x?size=1280")):
        image = Image.open(io.BytesIO(got.content))
        assert (image.format, image.size, got.headers["x-photograph-size"]) == ("JPEG", (1280, 948), "2700x2000")
        assert not image.getexif() and b"Secret" not in got.content
        np.testing.assert_allclose(np.asarray(image).mean((0, 1)), np.asarray(picture).mean((0, 1)), atol=3)
    assert sent.headers["cache-control"] == "no-store"


def test_a_preview_is_upright(client):
    sent = client.post("/preview", content=lying_photo(), headers={"Content-Type": "image/jpeg"})
    assert sent.headers["x-photograph-size"] == "80x120" and not re.search(rb"Exif|Secret", sent.content)
    np.testing.assert_allclose(decode_photo(sent.content)[20, 40], (200, 40, 40), atol=12)


@pytest.mark.parametrize("name", photo_files.REJECTED)
def test_what_is_no_photograph_has_no_preview(client, name):
    data, reason = photo_files.REJECTED[name]
    response = client.post("/preview", content=data, headers={"Content-Type": "image/heic"})
    assert response.status_code == 400
    assert response.json()["error"].startswith(reason if data else "the body is empty")


def test_what_is_there_is_told_while_a_search_waits(collection):
    """Also that a name is none: nothing is loaded or compiled for it."""
    collection.seconds = 20.0
    with running(collection) as url:
        address = urlsplit(url)
        body = json.dumps({"name": NAME}).encode()
        head = f"POST /search HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((address.hostname, address.port)) as search:
            search.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not collection.searches:
                time.sleep(0.01)
            began = time.monotonic()
            for path in ("/status", "/photos", f"/photos/{NAME}?size=320"):
                assert urllib.request.urlopen(url + path[1:], timeout=30).status == 200
            for path in ("/search", "/object", "/heat"):
                unknown = urllib.request.Request(
                    url + path[1:], b'{"name": "none"}', {"Content-Type": "application/json"}
                )
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(unknown, timeout=30)
            assert time.monotonic() - began < 3
            collection.ending.set()


def test_the_size_of_the_file_is_told_with_every_picture_of_it(client, collection):
    height, width = collection.query_size(NAME)
    for size in ("", "?size=320"):
        assert client.get(f"/photos/{NAME}{size}").headers["x-photograph-size"] == f"{width}x{height}"


def test_the_object_of_a_photograph_is_suggested(client, collection):
    assert client.post("/object", json={"name": NAME}).json() == {"box": list(collection.object_in(NAME))}
    sent = client.post("/object", content=collection.photos[NAME], headers={"Content-Type": "image/jpeg"})
    assert sent.json() == {"box": list(collection.object_in(collection.photos[NAME]))}


@pytest.mark.parametrize("sent", [False, True])
def test_the_object_is_searched_for_where_that_is_the_region(client, collection, sent):
    """As if its box had been sent, and the answer says which that was."""
    query = collection.photos[NAME] if sent else NAME
    box = list(collection.object_in(query))

    def asked(path, region, **others):
        if not sent:
            return client.post(path, json={"name": NAME, "region": region} | others)
        text = region if isinstance(region, str) else ",".join(map(str, region))
        headers = {"Content-Type": "image/jpeg"}
        return client.post(path, params={"region": text} | others, content=query, headers=headers)

    found, pointed_at = (asked("/search", region, k=2, start=1).json() for region in ("object", box))
    assert found.pop("object") == box and pointed_at.pop("object") is None
    assert found == pointed_at and found["searched"] == box
    heat = {"photo": "a/two.jpg"}
    assert asked("/heat", "object", **heat).content == asked("/heat", box, **heat).content


def test_a_thumbnail_has_the_size_that_was_asked_for_and_is_made_once(client, collection):
    collection.photos["large.jpg"] = photo_files.encode(Image.new("RGB", (2000, 1000)), "JPEG")
    for _ in range(2):
        got = client.get("/photos/large.jpg?size=320")
        assert decode_photo(got.content).shape[:2] == (160, 320)
    assert collection.reads == ["large.jpg"]
    assert decode_photo(client.get("/photos/large.jpg").content).shape[:2] == (1000, 2000)


def test_any_name_can_be_asked_for(client, collection):
    for odd in ("new\nline.jpg", "\n", "ends\n", "a/\r\n.jpg", "\u2028.jpg"):
        collection.photos[odd] = collection.photos[NAME]
    names = client.get("/photos").json()["names"]
    assert names == collection.names
    from urllib.parse import quote

    for name in names:
        assert client.get(f"/photos/{quote(name)}").status_code == 200, name


def test_names_are_listed_page_by_page_and_filtered(client):
    assert client.get("/photos?start=1&count=2").json() == {
        "total": 5,
        "start": 1,
        "names": ["a/two.jpg", "b/three.png"],
    }
    assert client.get("/photos?contains=T").json()["names"] == ["a/two.jpg", "b/three.png"]
    assert client.get("/photos?contains=ü").json()["total"] == 1
    assert client.get("/photos?start=99").json()["names"] == []


def test_a_heat_map_is_a_half_transparent_picture(client):
    got = client.post("/heat", json={"name": "a/two.jpg", "photo": NAME, "region": [5, 6, 25, 36]})
    image = Image.open(io.BytesIO(got.content))
    assert got.headers["content-type"] == "image/png" and image.mode == "RGBA" and image.size == (64, 48)
    pixels = np.asarray(image).astype(int)
    assert pixels[21, 15, :3].sum() > 2 * pixels[47, 63, :3].sum() and 0 < pixels[..., 3].min() < 255
    data = {"content": lying_photo(), "headers": {"Content-Type": "image/jpeg"}}
    assert client.post(f"/heat?photo={NAME}&region=10,10", **data).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"name": NAME, "region": [1, 2, 3]}, "region [1, 2, 3]: a region is a box [left, top, right, bottom]"),
        ({"name": NAME, "region": [True, 2]}, "region [True, 2]: a region is"),
        ({"name": NAME, "region": ["1", 2]}, "region ['1', 2]: a region is"),
        ({"name": NAME, "region": [1e300, 2]}, "region [1e+300, 2]: a region is"),
        ({"name": NAME, "region": [30, 2, 20, 9]}, "region [30, 2, 20, 9]: right has to be greater than left"),
        ({"name": NAME, "region": [500, 500, 600, 600]}, "region [500.0, 500.0, 600.0, 600.0]: it lies outside"),
        ({"name": NAME, "region": {"left": 1}}, "region {'left': 1}: a region is"),
        ({"name": NAME, "k": 0}, "k 0: give a whole number from 1 to 100"),
        ({"name": NAME, "k": 1.5}, "k 1.5: give a whole"),
        ({"name": NAME, "start": -1}, "start -1: give a whole number from 0"),
        ({"name": NAME, "verify": 1}, "verify 1: give true or false"),
        ({"name": NAME, "verify": "yes"}, "verify 'yes': give true or false"),
        ({"name": 7}, "give the name of a photograph"),
        ({}, "give the name of a photograph"),
        ([1], "the body has to be a JSON object"),
    ],
)
def test_bad_parameters_are_named(client, body, says):
    response = client.post("/search", json=body)
    assert response.status_code == 400 and response.json()["error"].startswith(says)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"name": NaN}', b"[" * 50_000, b'{"name": ' + b"9" * 5000 + b"}", b"nul"],
    ids=["empty", "cut", "no UTF-8", "nan", "deep", "large number", "word"],
)
def test_what_is_not_json_is_said(client, body):
    response = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    said = response.json()["error"]
    assert response.status_code == 400 and re.match(r"the body is (not JSON \(|JSON that is nested)", said)
    assert len(said) < 200 and "sys." not in said


def test_half_a_surrogate_pair_can_be_a_name(client):
    response = client.post("/search", content=rb'{"name": "\ud800"}', headers={"Content-Type": "application/json"})
    assert response.status_code == 404 and "\\ud800" in response.json()["error"]


@pytest.mark.parametrize("name", photo_files.REJECTED)
def test_what_is_no_photograph_is_refused_with_the_reason(client, name):
    data, reason = photo_files.REJECTED[name]
    response = client.post("/search", content=data, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 400
    assert response.json()["error"].startswith(reason if data else "the body is empty")


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch", "options"])
def test_other_methods_are_refused(client, method):
    response = client.request(method, "/search")
    assert response.status_code == 405 and response.headers["allow"] == "POST" and response.json()["error"]


def test_large_bodies_are_refused_whatever_their_length_says(collection):
    limits = Limits(upload=3000, json=200)
    with TestClient(application(collection, limits=limits), base_url=BASE) as client:
        for kind, most in (("image/jpeg", 3000), ("application/json", 200)):
            whole = client.post("/search", content=bytes(most + 1), headers={"Content-Type": kind})
            in_pieces = client.post("/search", content=iter([bytes(most), b"1"]), headers={"Content-Type": kind})
            assert whole.status_code == in_pieces.status_code == 413
            assert client.post("/search", content=bytes(most), headers={"Content-Type": kind}).status_code == 400
    assert collection.searches == 0 or not collection.reads


def test_all_bodies_together_are_bounded(collection):
    with TestClient(application(collection, limits=Limits(uploads=1000)), base_url=BASE) as client:
        for _ in range(3):  # and what was counted is given back
            response = client.post("/search", content=bytes(1001), headers={"Content-Type": "image/png"})
            assert response.status_code == 503 and response.headers["retry-after"]
            assert client.post("/search", content=bytes(900), headers={"Content-Type": "image/png"}).status_code == 400


def test_a_photograph_that_has_gone_is_not_found(client, collection):
    collection.photos["gone.jpg"] = b""
    response = client.get("/photos/gone.jpg")
    assert response.status_code == 404 and response.json()["error"] == "gone.jpg: empty file"


def test_a_failure_is_said_without_its_inside(collection, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret /home/path")

    monkeypatch.setattr(collection, "search", broken)
    with TestClient(application(collection), base_url=BASE, raise_server_exceptions=False) as client:
        response = client.post("/search", json={"name": NAME})
        assert response.status_code == 500 and "secret" not in response.text and response.json()["error"]
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_status_says_how_far_indexing_is(client, collection):
    collection.indexing = (2, 9)
    collection.skipped = [(f"{i}.txt", "not a photograph") for i in range(150)]
    status = client.get("/status").json()
    assert (status["indexing"], status["done"], status["total"], status["photos"]) == (True, 2, 9, 5)
    assert status["skipped"] == 150 and len(status["skipped_files"]) == 100
    assert status["skipped_files"][0] == {"name": "0.txt", "reason": "not a photograph"}


def test_the_status_says_whether_a_search_would_wait_and_what_went_wrong(collection):
    readiness = Readiness(ready=False)
    with TestClient(application(collection, readiness=readiness), base_url=BASE) as client:
        status = client.get("/status").json()
        assert (status["ready"], status["message"]) == (False, "")
        readiness.ready, readiness.message = True, "it could not\nbe brought up to date"
        status = client.get("/status").json()
        assert (status["ready"], status["message"]) == (True, "it could not be brought up to date")


def test_the_page_needs_nothing_but_this_server(client):
    """No script or style within it, which its policy forbids, and no address of another server in any of its files."""
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)
    linked = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert {"/static/app.js", "/static/style.css", "/static/icon.svg"} <= set(linked)
    files = {route.path for route in client.app.app.routes if route.path.startswith("/static/")}
    assert set(linked) <= files
    for path in files:
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(", text), path
        for module in re.findall(r'from "\./([^"]+)"', text):
            assert f"/static/{module}" in files
    assert client.get("/static/none.js").status_code == 404


def test_a_server_of_vectors_that_does_not_answer_is_said_as_what_will_pass(collection, client, monkeypatch):
    def search(*query, **how):
        raise UnreachableError("PostgreSQL at db: does not answer; start it")

    monkeypatch.setattr(collection, "search", search)
    response = client.post("/search", json={"name": NAME})
    conforms(response, "post", "/search")
    assert response.status_code == 503 and response.headers["retry-after"] and "at db" in response.json()["error"]
    monkeypatch.undo()
    assert client.post("/search", json={"name": NAME}).status_code == 200
