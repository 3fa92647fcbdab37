"""`sret serve`: what it opens, what it prints, and that it says what is wrong before it opens anything."""

import socket

import pytest

from sret_jax.cli import serve
from sret_jax.errors import UserError
from sret_jax.server import serving
from sret_jax.server.readiness import Readiness
from tests.support.collection import small_collection


@pytest.fixture
def opened(monkeypatch):
    """The options that collections were opened with; servers end at once."""
    options, served = [], []

    class Server:
        def run(self, sockets):
            served.append(sockets[0].getsockname())

    monkeypatch.setattr(serve, "open_collection", lambda given, _: options.append(given) or small_collection())
    monkeypatch.setattr(serving, "server", lambda collection, host, readiness: Server())
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
    ("error", "reason"),
    [(OSError(30, "Read-only file system", "/photos/x"), "Read-only file system"), (UserError("no disk"), "no disk")],
)
def test_what_is_indexed_is_served_where_it_cannot_be_brought_up_to_date(error, reason, capsys):
    class Unwilling:
        name = "Pictures"
        prepared = 0

        def prepare(self):
            self.prepared += 1

        def update(self):
            raise error

    opened, readiness = Unwilling(), Readiness(ready=False)
    serve._follow(opened, readiness, updating=True)
    said = f"Pictures could not be brought up to date: {reason}"
    assert opened.prepared == 1 and readiness == Readiness(True, said)
    assert capsys.readouterr().err == said + "\n"


def test_nothing_new_is_described_unless_it_is_wanted():
    class Ready:
        name = "Pictures"

        def prepare(self):
            assert not readiness.ready

    readiness = Readiness(ready=False)
    serve._follow(Ready(), readiness, updating=False)
    assert readiness == Readiness()
