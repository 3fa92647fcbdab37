"""The process that decodes, but for some photographs, which do to it what those of strangers may.

What a file does is said by bytes behind the end of its picture: `AILMENTS`.
"""

import errno
import os
import signal
import time

import numpy as np

from sret_jax.data import decoder_process
from sret_jax.data.decoding import damage_rejected, decode_photo

AILMENTS = CRASHES, HANGS, CRASHES_ONCE, GREEDY, CHATTERS, LACKS_FILES = (
    b"crashes",
    b"hangs",
    b"crashes once",
    b"greedy",
    b"chatters",
    b"lacks files",
)
MARK = "ODD_DECODER_MARK"  # environment: the file that is there when `CRASHES_ONCE` has


def decode(data: bytes, at_least: int | None = None) -> np.ndarray:
    if data.endswith(CRASHES):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(HANGS):
        time.sleep(1000)
    if data.endswith(CRASHES_ONCE) and not os.path.exists(os.environ[MARK]):
        open(os.environ[MARK], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(GREEDY):
        with damage_rejected():
            np.ones(2 * decoder_process.MEMORY, np.uint8)
    if data.endswith(CHATTERS):
        os.system("echo a library says something; echo and warns >&2")
    if data.endswith(LACKS_FILES):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return decode_photo(data, at_least)


if __name__ == "__main__":
    decoder_process.decode_photo = decode
    decoder_process.serve()
