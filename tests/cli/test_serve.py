"""`sret serve`: what it opens, what it prints, and that it says what is wrong before it opens anything."""

import argparse
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from sret_jax.cli import serve
from sret_jax.errors import UserError
from sret_jax.server import serving
from tests.support.collection import FakeCollection, small_collection


@pytest.fixture
def opened(monkeypatch):
    """The options that collections were opened with; servers end at once."""
    options, served = [], []

    class Server:
        def run(self, sockets):
            served.append(sockets[0].getsockname())

    monkeypatch.setattr(serve, "open_collection", lambda given: options.append(given) or small_collection())
    monkeypatch.setattr(serving, "server", lambda collection, host: Server())
    return options, served


def test_it_says_where_the_page_is(opened, capsys):
    serve.main(["photos", "--port=0", "--workdir=run", "--no-update"])
    (options,), ((host, port),) = opened
    assert (options.photos, options.workdir, options.no_update) == ("photos", "run", True)
    out, err = capsys.readouterr()
    assert out.startswith(f"Postcards: 5 photographs at http://127.0.0.1:{port}/\n") and host == "127.0.0.1" and not err


def test_it_warns_where_others_can_reach_it(opened, capsys):
    serve.main(["photos", "--port=0", "--host=0.0.0.0"])
    assert "there is no password" in capsys.readouterr().err


def test_a_taken_port_is_said_before_the_collection_is_opened(opened):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken; give another one, --port="):
            serve.main(["photos", f"--port={port}"])
    assert opened == ([], [])


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1e3"])
def test_what_is_no_port_is_said(opened, capsys, port):
    with pytest.raises(UserError, match="is no port; give a number from 1 to 65535"):
        serve.main(["photos", f"--port={port}"])


@pytest.mark.parametrize(
    "error", [OSError(30, "Read-only file system", "kept/.lock"), UserError("kept/.lock: is in use")]
)
def test_what_cannot_be_updated_is_served_and_said(monkeypatch, capsys, error):
    class Opened(FakeCollection):
        retriever = SimpleNamespace(extractor=None)

        def __init__(self, folder):
            super().__init__({})

        def prepare(self):
            pass

        def update(self):
            raise error

    monkeypatch.setattr("sret_jax.collection.collection.Collection", Opened)
    monkeypatch.setattr(serve, "collection_folder", lambda _: "kept/Postcards")
    monkeypatch.setattr(threading, "excepthook", lambda _: print("TRACEBACK", file=sys.stderr))
    serve.open_collection(argparse.Namespace(photos=None, no_update=False))
    for thread in threading.enumerate():
        if thread.name == "update":
            thread.join()
    said = capsys.readouterr().err
    assert said.startswith("Postcards: ") and "kept/.lock: " in said and "TRACEBACK" not in said
