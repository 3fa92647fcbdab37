"""The forwarder leads to the service, and tells a service that is gone from a connection that broke."""

import contextlib
import socket
import threading

import pytest

from sret_jax.training.peers import forwarder


class Service:
    """Speaks first, as HTTP/2 does, and then says everything again."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address, self.connections = self._listening.getsockname(), []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                one = self._listening.accept()[0]
            except OSError:
                return
            self.connections.append(one)  # before it speaks: whoever has heard it may look for it
            one.sendall(b"hello")
            threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                one.sendall(data)

    def end(self):
        """As a process that dies: connections break before nobody is let in any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        for one in self.connections:
            one.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def received(one, size):
    data = b""
    while len(data) < size and (part := one.recv(size - len(data))):
        data += part
    return data


@pytest.fixture
def joined():
    """A service, a connection through a forwarder, and the event of its end."""
    service, gone = Service(), threading.Event()
    near = socket.create_connection(("127.0.0.1", forwarder(service.address, gone.set)), timeout=10)
    assert received(near, 5) == b"hello"
    return service, near, gone


def test_what_is_said_comes_through_in_both_directions(joined):
    _, near, gone = joined
    data = bytes(range(256)) * 4000
    threading.Thread(target=near.sendall, args=(data,), daemon=True).start()
    assert received(near, len(data)) == data and not gone.is_set()


def test_the_end_of_the_service_is_told_and_keeps_the_near_end_open(joined):
    service, near, gone = joined
    service.end()
    assert gone.wait(10)
    near.settimeout(0.3)
    with pytest.raises(TimeoutError):
        near.recv(1)


def test_a_connection_that_breaks_alone_is_closed_and_a_new_one_is_made(joined):
    service, near, gone = joined
    service.connections[0].shutdown(socket.SHUT_RDWR)
    assert near.recv(1) == b"" and not gone.is_set()
    again = socket.create_connection(near.getpeername(), timeout=10)
    assert received(again, 5) == b"hello"


def test_whoever_leaves_first_ends_nothing(joined):
    service, near, gone = joined
    near.close()
    assert not gone.wait(0.5)


def test_a_service_that_comes_late_is_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    near = socket.create_connection(("127.0.0.1", forwarder(address, lambda: None)), timeout=10)
    with socket.create_server(address) as late:
        late.settimeout(10)
        late.accept()[0].sendall(b"hello")
        assert received(near, 5) == b"hello"
