"""A server on a socket: what hostile and slow clients cannot do to it, and what is said of a port that is taken."""

import http.client
import json
import runpy
import threading
import time
from urllib.parse import urlsplit

import pytest

from sret_jax.errors import UserError
from sret_jax.server.limits import Limits
from sret_jax.server.serving import address, bind
from tests.support.collection import small_collection
from tests.support.commands import REPOSITORY
from tests.support.serving import running

hostile = runpy.run_path(str(REPOSITORY / "benchmarks/serve_hostile.py"))
QUICK = Limits(body_seconds=3.0, stall_seconds=1.0, idle_seconds=1.0)


def place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


def test_a_port_that_is_taken_is_said_with_the_remedy():
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken; give another one, --port={port + 1}"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no such host", "192.0.2.1", "a" * 70 + ".example", "\ud800"])
def test_a_host_that_is_not_this_machine_is_said(host):
    with pytest.raises(UserError, match="give an address of this machine"):
        bind(host, 0)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_address_can_be_opened(host, shown):
    with bind(host, 0) as listener:
        assert address(listener) == f"http://{shown}:{listener.getsockname()[1]}/"


def test_a_connection_may_be_used_again_and_again():
    """More often, and for longer, than an idle one is kept."""
    with running(small_collection(), QUICK) as url:
        connection = http.client.HTTPConnection(*place(url))
        connection.connect()
        own = connection.sock.getsockname()
        for _ in range(12):
            connection.request("GET", "/health")
            assert json.load(connection.getresponse()) == {"status": "ok"}
            assert connection.sock.getsockname() == own
            time.sleep(0.2)


@pytest.mark.parametrize("kind", range(10))
def test_a_slow_client_is_cut_and_others_are_served_meanwhile(kind):
    with running(small_collection(), QUICK) as url:
        at_once, drip = hostile["slow_clients"]("a/one.jpg")[kind]
        found = []
        client = threading.Thread(target=lambda: found.append(hostile["dawdle"](place(url), at_once, drip, 0.2)))
        client.start()
        assert hostile["exchange"](place(url), hostile["message"](b"/health"))[0] == 200
        client.join(20)
        assert found and found[0] < 12


def test_health_is_answered_while_a_search_runs_and_too_many_searches_are_refused():
    collection = small_collection()
    collection.seconds = 1.5
    body = json.dumps({"name": "a/one.jpg"}).encode()
    search = hostile["message"](b"/search", body, b"Content-Type: application/json")
    with running(collection, Limits(searches=2)) as url:
        statuses = []
        clients = [
            threading.Thread(target=lambda: statuses.append(hostile["exchange"](place(url), search)[0]))
            for _ in range(5)
        ]
        for client in clients:
            client.start()
        began = time.monotonic()
        assert hostile["exchange"](place(url), hostile["message"](b"/health"))[0] == 200
        assert time.monotonic() - began < 1
        for client in clients:
            client.join()
    assert sorted(statuses) == [200, 200, 503, 503, 503]


def test_a_search_whose_client_went_away_is_not_made():
    collection = small_collection()
    collection.seconds = 0.5
    body = json.dumps({"name": "a/one.jpg"}).encode()
    search = hostile["message"](b"/search", body, b"Content-Type: application/json")
    with running(collection) as url:
        connections = [hostile["socket"].create_connection(place(url)) for _ in range(4)]
        for connection in connections:
            connection.sendall(search)
        time.sleep(0.2)
        for connection in connections:
            connection.close()
        assert hostile["exchange"](place(url), search)[0] == 200
    assert collection.searches == 2  # that which ran already, and the last


def test_the_load_is_what_it_says():
    assert len(hostile["uploads"]()) == len(set(hostile["uploads"]())) == 60
    assert len(hostile["previews"]()) == len(set(hostile["previews"]())) == 50
    assert len(hostile["path_tricks"]("a")) == 50 and len(hostile["slow_clients"]("a")) == 20
    assert len(hostile["oversized"]()) == 10


@pytest.mark.slow
def test_hostile_clients_all_at_once():
    collection = small_collection()
    with running(collection, Limits(body_seconds=6.0, stall_seconds=2.0, idle_seconds=2.0)) as url:
        found = hostile["attack"](place(url), pause=0.3)
    assert found["crashes"] == found["reads outside"] == 0 and found["searches afterwards"]
    assert set(found["statuses"]["upload"]) <= {200, 400, 503}
    assert set(found["statuses"]["preview"]) <= {200, 400, 503}
    assert set(found["statuses"]["path trick"]) <= {0, 400, 404}
    assert set(found["statuses"]["oversized"]) <= {0, 400, 413, 503}  # 0: it is cut while it still sends
    assert found["worst health check, s"] < 3 and found["longest slow client, s"] < 30
    assert set(collection.reads) <= set(collection.photos)
