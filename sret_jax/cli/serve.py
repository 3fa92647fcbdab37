"""Serves a page, on this machine, on which a person points at a thing in a photograph and finds it in a collection.

    sret serve COLLECTION                  and open the address that it prints

The photographs stay where they are, and nothing is sent elsewhere. By default only this machine reaches the page.
"""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from importlib import import_module

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError
from sret_jax.server.protocols import Collection

PORT = 8017


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "sret serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("collection", type=expanded, help="a folder of photographs")
    parser.add_argument("--workdir", default="", type=expanded, metavar="DIR", help="the run whose network describes")
    parser.add_argument("--host", default="127.0.0.1", help="the address of this machine to serve at")
    parser.add_argument("--port", default=PORT, type=_port)
    parser.add_argument("--no-update", action="store_true", help="search what is indexed; describe nothing new")
    options = parser.parse_args(words)
    from sret_jax.server.serving import address, bind, server

    listener = bind(options.host, options.port)  # first, because opening may take a while
    with listener:
        collection = open_collection(options)
        print(f"{collection.status().name}: {len(collection.names)} photographs at {address(listener)}", flush=True)
        if not _is_loopback(listener.getsockname()[0]):
            print(
                "warning: whoever reaches this machine can see the photographs; there is no password", file=sys.stderr
            )
        print("Ctrl+C ends it.", flush=True)
        server(collection, options.host).run(sockets=[listener])


def open_collection(options: argparse.Namespace) -> Collection:
    """The collection of the command's options: `collection`, `workdir`, `no_update`."""
    try:
        module = import_module("sret_jax.collection")
    except ModuleNotFoundError:
        raise UserError(f"{options.collection}: this installation cannot open collections; install it again") from None
    opened: Collection = module.open_collection(options.collection, options.workdir, update=not options.no_update)
    return opened


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535, such as {PORT}")
    return int(text)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
