"""The other side of `shards`: a process that searches one part of an index, until its input ends.

It is told its part as JSON, and then asked. A request is `REQUEST` and float32 [q d] queries of unit length; an answer
`ANSWER`, int64 [q k] ids within the part and float32 [q k] scores, or with `FAILED` why there are none. A folder of a
part that is temporary is removed at the end: also where the command was killed and cannot.
"""

import contextlib
import json
import os
import shutil
import signal
import struct
from typing import BinaryIO

import numpy as np

from sret_jax.retrieval.index_parts import Part

HEAD = struct.Struct("<Q")  # bytes that follow, of the part
REQUEST = struct.Struct("<QQQ")  # queries, their dimensions, answers wanted of each
ANSWER = struct.Struct("<cQ")  # what became of it, bytes that follow
DONE, FAILED = b"+", b"-"


def serve() -> None:
    """Answers requests on standard input by standard output."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # where libraries may write
        os.dup2(nowhere, standard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the command, which ends its shards
    told = json.loads(requests.read(HEAD.unpack(requests.read(HEAD.size))[0]))
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        _serve(requests, answers, Part.heard(told["part"]))
    if told["temporary"]:
        shutil.rmtree(told["temporary"], ignore_errors=True)
    os._exit(0)  # nothing is left to be flushed, or to be waited for


def _serve(requests: BinaryIO, answers: BinaryIO, part: Part) -> None:
    def send(outcome: bytes, *bodies: bytes) -> None:
        answers.write(ANSWER.pack(outcome, sum(map(len, bodies))))
        for body in bodies:
            answers.write(body)
        answers.flush()

    try:
        searcher = part.load()
    except Exception as error:  # whatever it is, the command says it
        send(FAILED, str(error).encode("utf-8", "replace"))
        requests.read()
        return
    send(DONE)
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        count, dim, k = REQUEST.unpack(head)
        body = requests.read(4 * count * dim)
        if len(body) < 4 * count * dim:
            return
        try:
            ids, scores = searcher.search(np.frombuffer(body, np.float32).reshape(count, dim), k)
        except Exception as error:
            send(FAILED, str(error).encode("utf-8", "replace"))
        else:
            send(DONE, ids.astype(np.int64).tobytes(), scores.astype(np.float32).tobytes())


if __name__ == "__main__":
    serve()
