"""Runs commands as `command_server` does, and counts by JAX's own events which of their programs were on disk.

Reads a line of JSON for each, `{"words": [...], "cwd": ..., "ask": ...}`, and answers with one: the exit status, what
was said, how many programs were asked for, and the names of those that had to be compiled. Where "ask" is given, it is
the body of a search that a server is asked for as soon as it is ready; then the server is ended.
"""

import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

import jax
import ml_collections.config_flags  # noqa: F401

import sret_jax.cli.updating
import sret_jax.evaluation.training_run
import sret_jax.export.folder
import sret_jax.server.serving  # noqa: F401
from sret_jax.cli import main

jax.config.update("jax_disable_most_optimizations", True)


class Missed(logging.Handler):
    """The names of the programs that JAX says it had to compile."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"PERSISTENT COMPILATION CACHE MISS for '([^']*)'", record.getMessage()):
            self.names.append(found[1])


def counted(request: dict, said: str) -> dict:
    """Runs a command in this process. `said` is the file that its output goes to."""
    missed, counts = Missed(), {"asked": 0, "found": 0}
    names = {"compile_requests_use_cache": "asked", "cache_hits": "found"}

    def count(event: str, **_: object) -> None:
        if name := names.get(event.removeprefix("/jax/compilation_cache/")):
            counts[name] += 1

    jax.monitoring.register_event_listener(count)
    log = logging.getLogger("jax._src.compiler")
    log.addHandler(missed)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    os.chdir(request["cwd"])
    for descriptor in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    if request.get("ask"):
        threading.Thread(target=ask, args=(said, json.dumps(request["ask"]).encode()), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    sys.argv, status = ["sret", *request["words"]], 0
    try:
        main.main()
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    with open(said) as file:
        return {"status": status, "said": file.read(), "missed": missed.names} | counts


def ask(said: str, body: bytes) -> None:
    """Searches by the server whose address is said, once it is ready, and ends it."""
    address = ""
    while not address:
        time.sleep(0.05)
        with open(said) as file:
            address = "".join(re.findall(r"http://\S+/(?=\s)", file.read()))
    while not is_ready(address):
        time.sleep(0.05)
    request = urllib.request.Request(f"{address}search", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            os.write(1, answer.read() + b"\n")
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}status") as answer:
            return json.load(answer)["ready"]
    except OSError:  # it has said where it will be, and does not listen yet
        return False


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "answer")
            child = os.fork()
            if not child:
                found = counted(json.loads(line), os.path.join(folder, "said"))
                with open(file, "w") as answer:
                    json.dump(found, answer)
                os._exit(0)
            os.waitpid(child, 0)
            with open(file) as answer:
                print(answer.read(), flush=True)


if __name__ == "__main__":
    serve()
