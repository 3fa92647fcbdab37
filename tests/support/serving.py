"""A server of a fake collection: in a thread of a test, or as a command of its own for `benchmarks/serve_hostile.py`.

python -m tests.support.serving [--port=8017]
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sret_jax.server.limits import Limits
from sret_jax.server.readiness import Readiness
from sret_jax.server.serving import address, bind, server
from tests.support.collection import FakeCollection, drawn_collection


@contextmanager
def running(
    collection: FakeCollection, limits: Limits | None = None, readiness: Readiness | None = None
) -> Iterator[str]:
    """The address of a server that runs in a thread until the block ends."""
    with bind("127.0.0.1", 0) as listener:
        running_server = server(collection, "127.0.0.1", limits, readiness)
        thread = threading.Thread(target=running_server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not running_server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield address(listener)
        finally:
            running_server.should_exit = True
            thread.join(15)
            assert not thread.is_alive(), "the server did not end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8017)
    with bind("127.0.0.1", parser.parse_args().port) as listener:
        print(address(listener), flush=True)
        server(drawn_collection(), "127.0.0.1").run(sockets=[listener])


if __name__ == "__main__":
    main()
