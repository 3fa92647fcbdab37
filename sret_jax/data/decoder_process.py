"""The other side of `apart`: a process that reads and decodes photographs, one after the other, until its input ends.

It imports Pillow and numpy, and nothing that computes. A request is `REQUEST` and a path or an encoded photograph, an
answer `ANSWER` and bytes or pixels.
"""

import contextlib
import os
import resource
import select
import signal
import struct
import threading
from pathlib import Path

from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.storage.files import Unreadable, read_file
from sret_jax.storage.refusals import of_process

Body = bytes | memoryview
REQUEST = struct.Struct("<cIQ")  # what is wanted, `at_least` or 0, bytes that follow
ANSWER = struct.Struct("<cIIQ")  # what became of it, height, width, bytes that follow
READ, PHOTO, SIZE, DECODE = b"r", b"p", b"s", b"d"  # of a path its bytes, or these and the size; of bytes size, pixels
DONE, REJECTED, UNREADABLE, LIMITED = b"+", b"-", b"u", b"l"  # the last: this process may open too few files
MEMORY = 2**30  # bytes that a photograph may take beside what the process has: none needs more than half of them
LONGEST = 600  # seconds for a request, after which the process ends itself, whatever holds it
IDLE = 600  # seconds without a request after which it ends


def answer(wanted: bytes, payload: bytes, at_least: int = 0) -> tuple[tuple[int, int], Body]:
    """(height, width), where it is decoded, and what else is wanted. Raises `Unreadable`."""
    data = read_file(os.fsdecode(payload)) if wanted in (READ, PHOTO) else payload
    if wanted == READ:
        return (0, 0), data
    pixels = decode_photo(data, at_least or None)
    height, width = pixels.shape[:2]
    return (height, width), pixels.data.cast("B") if wanted == DECODE else data if wanted == PHOTO else b""


def serve() -> None:
    """Answers requests on standard input by standard output."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # where libraries may write
        os.dup2(nowhere, standard)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # meant for the command, which ends its decoders
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    threading.Thread(target=_end_with_the_command, args=(requests,), daemon=True).start()
    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as many processes as processors are at work already
    with contextlib.suppress(BrokenPipeError, EOFError):
        _send(answers, ANSWER.pack(DONE, 0, 0, 0))
        while select.select([requests], [], [], IDLE)[0]:
            wanted, at_least, length = REQUEST.unpack(_receive(requests, REQUEST.size))
            signal.alarm(LONGEST)
            payload = _receive(requests, length)
            size: tuple[int, int] = (0, 0)
            body: Body
            try:
                (size, body), outcome = answer(wanted, payload, at_least), DONE
            except PhotoRejected as rejected:
                body, outcome = rejected.reason.encode("utf-8", "backslashreplace"), REJECTED
            except Unreadable as rejected:
                body, outcome = rejected.reason.encode("utf-8", "backslashreplace"), UNREADABLE
            except Exception as error:
                if not of_process(error):
                    raise
                body, outcome = b"", LIMITED
            _send(answers, ANSWER.pack(outcome, *size, memoryview(body).nbytes))
            _send(answers, body)
            del payload, body
            signal.alarm(0)


def _end_with_the_command(requests: int) -> None:
    """Also where a file system does not answer. Its death signal would be that of the thread that started this."""
    closed = select.poll()
    closed.register(requests, 0)  # the end of the other side is reported unasked
    closed.poll()
    os._exit(0)


def _limit_memory() -> None:
    """Of what it may write to, not of addresses: threads reserve many."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (has + MEMORY, has + MEMORY))


def _receive(file: int, length: int) -> bytes:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        count = os.readv(file, [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
    return bytes(data)


def _send(file: int, data: Body) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


if __name__ == "__main__":
    serve()
