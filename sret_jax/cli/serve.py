"""Serves a page, on this machine, on which a person points at a thing in a photograph and finds it in a collection.

    sret serve [--collection=NAME]         and open the address that it prints
    sret serve PHOTOS                      the same for a folder that may not have been indexed yet

What is new in the folder is described meanwhile; what is there is searched at once. The photographs stay where they
are, and nothing is sent elsewhere. By default only this machine reaches the page.
"""

import argparse
import ipaddress
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sret_jax.cli.collections import add_name, collection_folder, parser
from sret_jax.config.paths import expanded
from sret_jax.errors import UserError
from sret_jax.server.protocols import Collection
from sret_jax.server.readiness import Readiness

if TYPE_CHECKING:
    from sret_jax.collection.collection import Collection as Opened

PORT = 8017


def main(words: Sequence[str]) -> None:
    arguments = parser("serve", __doc__)
    add_name(arguments)
    arguments.add_argument("photos", nargs="?", type=expanded, help="a folder of photographs")
    arguments.add_argument("--host", default="127.0.0.1", help="the address of this machine to serve at (%(default)s)")
    arguments.add_argument("--port", default=PORT, type=_port, help="%(default)s")
    arguments.add_argument("--no-update", action="store_true", help="search what is indexed; describe nothing new")
    options = arguments.parse_args(words)
    from sret_jax.server.serving import address, bind, server

    listener = bind(options.host, options.port)  # first, because opening may take a while
    with listener:
        readiness = Readiness()
        collection = open_collection(options, readiness)
        print(f"{collection.status().name}: {len(collection.names)} photographs at {address(listener)}", flush=True)
        if not _is_loopback(listener.getsockname()[0]):
            print(
                "warning: whoever reaches this machine can see the photographs; there is no password", file=sys.stderr
            )
        print("Ctrl+C ends it.", flush=True)
        server(collection, options.host, readiness=readiness).run(sockets=[listener])


def open_collection(options: argparse.Namespace, readiness: Readiness) -> Collection:
    """The collection that is meant, which is made ready and brought up to date while it is served."""
    from sret_jax.collection.collection import Collection as Opened

    if options.photos:
        opened = Opened.open(options.photos, workdir=options.workdir, name=options.collection)
    else:
        opened = Opened(collection_folder(options))

    _ = opened.retriever.extractor  # before the address is printed, so that the first query does not wait for it

    readiness.ready = False
    threading.Thread(
        target=_follow, args=(opened, readiness, not options.no_update), name="update", daemon=True
    ).start()
    return opened


def _follow(opened: "Opened", readiness: Readiness, updating: bool) -> None:
    """Makes a collection ready to be searched, and brings it up to date; what is indexed is served whatever comes."""

    def failed(what: str, error: UserError | OSError) -> None:
        reason = error if isinstance(error, UserError) else error.strerror or error
        readiness.message = f"{opened.name} could not be {what}: {reason}"
        print(readiness.message, file=sys.stderr, flush=True)

    try:
        try:
            opened.prepare()
            readiness.ready = True
        except (UserError, OSError) as error:
            if not updating:  # else what another version has described is described again now
                failed("made ready", error)
        if updating and opened.update().anything:
            opened.prepare()
    except (UserError, OSError) as error:  # OSError: the disk is read-only, or fails
        failed("brought up to date", error)
    finally:
        readiness.ready = True


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535, such as {PORT}")
    return int(text)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
