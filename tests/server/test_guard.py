"""Which requests are let in, by the names that browsers give, and what every response carries."""

import pytest
from starlette.testclient import TestClient

from sret_jax.server.app import application
from tests.support.collection import small_collection

SEARCH = {"json": {"name": "a/one.jpg"}}


@pytest.fixture(scope="module")
def client():
    with TestClient(application(small_collection(), "192.168.7.7"), base_url="http://127.0.0.1:8017") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.1:8017", "[::1]", "[::1]:8017", "192.168.7.7:80"]
)
def test_own_hosts_are_served(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8017", "evil.example@127.0.0.1:x", "", "[::1",
     "192.168.7.8", "0.0.0.0", "127.0.0.1 evil.example", "a@b@localhost.evil"],
)  # fmt: skip
def test_other_hosts_are_refused(client, host):
    response = client.get("/health", headers={"Host": host})
    assert response.status_code == 400 and "host name" in response.json()["error"]


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8017"])
def test_own_origins_may_search(client, origin):
    headers = {"Origin": origin} if origin else {}
    assert client.post("/search", headers=headers, **SEARCH).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8017", "http://127.0.0.1:3000", "http://127.0.0.1", ""]
)
def test_other_origins_may_not(client, origin):
    response = client.post("/search", headers={"Origin": origin}, **SEARCH)
    assert response.status_code == 403 and response.json()["error"] == "requests of other sites are refused"


@pytest.mark.parametrize(
    ("method", "site", "mode", "status"),
    [
        ("GET", "same-origin", "no-cors", 200),
        ("GET", "none", "navigate", 200),
        ("GET", "cross-site", "navigate", 200),
        ("GET", "cross-site", "no-cors", 403),
        ("GET", "same-site", "cors", 403),
        ("POST", "cross-site", "navigate", 403),
    ],
)
def test_what_other_pages_make_a_browser_ask_is_refused(client, method, site, mode, status):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    options = SEARCH if method == "POST" else {}
    path = "/search" if method == "POST" else "/photos/a/one.jpg"
    assert client.request(method, path, headers=headers, **options).status_code == status


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/photos/a/one.jpg", "/photos", "/nothing", "/search"])
def test_every_response_is_locked_down(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers and headers["cache-control"] != "public"
