"""Hostile clients against a running server of this machine: what crashes, what is read that must not be, who waits.

    sret serve COLLECTION                        in one terminal
    python benchmarks/serve_hostile.py           in another; or the address, http://127.0.0.1:8017/

60 uploads, 50 previews, 50 path tricks, 20 slow clients and 10 oversized requests come at once, while /health is asked
all the time. Everything is written to sockets as it stands, because HTTP clients mend what is wrong. Needs Linux.
"""

import argparse
import ipaddress
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np

from sret_jax.data.decoding import encode_jpeg, encode_png

Address = tuple[str, int]
LONGEST = 120  # seconds that a slow client goes on, if the server lets it
LARGE = 25_000_000  # bytes, more than may be uploaded
CANARIES = (b"root:x:", b"HOME=", b"[boot loader]", b"OPENSSH PRIVATE KEY")  # of files that are not photographs


def exchange(address: Address, request: bytes, timeout: float = 60) -> tuple[int, bytes]:
    """Status and body of the answer to bytes; status 0 where there is none."""
    try:
        with socket.create_connection(address, timeout) as connection:
            try:
                connection.sendall(request)
            except OSError:  # it is not read to its end; the answer may be there
                pass
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except OSError:
        answer = locals().get("answer", b"")
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0), body


def message(target: bytes, body: bytes | None = None, *headers: bytes, method: bytes = b"") -> bytes:
    """A request that ends its connection; with a body it is POSTed."""
    method = method or (b"GET" if body is None else b"POST")
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers]
    if body is not None and not any(b"length:" in line.lower() or b"encoding:" in line.lower() for line in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def uploads() -> list[bytes]:
    """60 requests to /search: cut, damaged and lying photographs, bombs, files of other kinds, odd parameters."""
    rng = random.Random(0)
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    jpeg, png = encode_jpeg(photo, 90), encode_png(photo)
    cut = [data[: len(data) * i // 9] for data in (jpeg, png) for i in range(1, 9)]
    damaged = [_damaged(rng, data) for data in (jpeg, png) for _ in range(7)]
    at = jpeg.index(b"\xff\xc0") + 5
    text = b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))
    bombs = [_png(8000), _png(12000), _png(60000), jpeg[:at] + b"\xfe\xfe\xfe\xfe" + jpeg[at + 4 :], _png(20, text)]
    kinds = [b"", b"no photograph", bytes(100_000), rng.randbytes(100_000), b"GIF89a" + bytes(50), b"BM" + bytes(60)]
    kinds += [
        b"II*\0\x08\0\0\0" + bytes(50),
        b"%PDF-1.7\n",
        b"PK\x03\x04" + jpeg,
        b"\x7fELF" + bytes(99),
        b"<?php x();",
    ]
    kinds += [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<!DOCTYPE html><script>alert(1)</script>",
    ]
    kinds += [b"%!PS\n/file (/etc/passwd) (r) file", b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(40)]
    odd = [b"region=nan,nan", b"region=inf,1,2,3", b"region=1e999,2", b"region=1,2,3", b"region=-9e9,0,9e9,9", b"k=0"]
    odd += [b"k=" + b"9" * 3000, b"start=-1", b"region=%00%ff%fe", b"region=" + b"1," * 3000]
    kind = b"Content-Type: image/jpeg"
    files = [message(b"/search?k=3&region=2,2,60,60", data, kind) for data in cut + damaged + bombs + kinds]
    return files + [message(b"/search?" + query, jpeg, kind) for query in odd]


def previews() -> list[bytes]:
    """50 requests to /preview: the files of `uploads`, which are shown where they are photographs at all."""
    head = b"POST /search?k=3&region=2,2,60,60 "
    return [b"POST /preview " + data[len(head) :] for data in uploads() if data.startswith(head)]


def path_tricks(name: str) -> list[bytes]:
    """50 requests for files that are not in the collection; `name` is one that is."""
    passwd = "../../../../../../etc/passwd"
    tricks = [passwd, passwd.replace("/", "%2f"), passwd.replace(".", "%2e"), passwd.replace("../", "%252e%252e%252f")]
    tricks += [passwd.replace("/", "\\"), passwd.replace("/", "%5c"), "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd"]
    tricks += [passwd.replace("/", "%c0%af"), passwd.replace("..", "%c0%ae%c0%ae"), passwd.replace("/", "%ef%bc%8f")]
    tricks += [
        passwd.replace("../", "....//"),
        passwd.replace("../", "..;/"),
        "file:///etc/passwd",
        "~root/.ssh/id_rsa",
    ]
    tricks += [
        f"{quote(name)}/../{passwd}",
        f"{quote(name)}%00",
        f"{passwd}%00.jpg",
        "C:%5cboot.ini",
        "%2e",
        ".",
        "a" * 9000,
    ]
    tricks += ["../../../../../proc/self/environ", "\0"]
    return [message(prefix + trick.encode("latin-1")) for prefix in (b"/photos/", b"/static/") for trick in tricks]


def oversized() -> list[bytes]:
    """10 requests that are too large, or lie about how large they are."""
    kind, large = b"Content-Type: image/png", bytes(LARGE)
    chunked = b"%x\r\n" % LARGE + large + b"\r\n0\r\n\r\n"
    return [
        message(b"/search", large, kind),
        message(b"/preview", large, kind),
        message(b"/search", chunked, kind, b"Transfer-Encoding: chunked"),
        message(b"/search", large, kind, b"Content-Length: 10"),
        message(b"/search", b"short", kind, b"Content-Length: 999999999999999"),
        message(b"/search", b"short", kind, b"Content-Length: -5"),
        message(b"/search", b"short", kind, b"Content-Length: 5", b"Content-Length: 500"),
        message(b"/search", b'{"name": "' + b"x" * 1_000_000 + b'"}', b"Content-Type: application/json"),
        message(b"/health", None, b"X-Large: " + b"x" * 1_000_000),
        message(b"/health?" + b"x" * 1_000_000),
    ]


def slow_clients(name: str) -> list[tuple[bytes, bytes]]:
    """20 pairs of what is sent at once, and what is sent of again and again, a byte a time."""
    upload = message(b"/search", b"", b"Content-Type: image/jpeg", b"Content-Length: 100000")
    as_json = message(b"/search", b"", b"Content-Type: application/json", b"Content-Length: 50000")
    photo = message(b"/photos/" + quote(name).encode())
    kinds = [(b"", b""), (b"", b"GET /health HTTP/1.1\r\nX: "), (photo[:-2], b"X"), (upload, b""), (upload, b"\xff")]
    kinds += [
        (as_json, b" "),
        (photo, b""),
        (photo * 3, b""),
        (b"POST /search HTTP/1.1\r\nHost: ", b""),
        (upload[:-4], b""),
    ]
    return kinds * 2


def dawdle(address: Address, at_once: bytes, drip: bytes, pause: float) -> float:
    """Seconds until the server ends the connection of a client that sends slowly and reads nothing."""
    began = time.monotonic()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(LONGEST)
        connection.connect(address)
        try:
            connection.sendall(at_once)
            i = 0
            while time.monotonic() - began < LONGEST:
                time.sleep(pause)
                if _ended(address, connection):
                    break
                if drip:
                    connection.sendall(drip[i % len(drip) : i % len(drip) + 1])
                    i += 1
        except OSError:
            pass
    return time.monotonic() - began


def attack(address: Address, pause: float = 1.0) -> dict[str, object]:
    """All at once; what came of it. `pause` is that of slow clients between two bytes, seconds."""
    name = json.loads(exchange(address, message(b"/photos?count=1"))[1])["names"][0]
    requests = {"upload": uploads(), "preview": previews(), "path trick": path_tricks(name), "oversized": oversized()}
    waits: list[float] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch_health, args=(address, waits, done))
    watcher.start()
    with ThreadPoolExecutor(32) as pool:
        slow = [pool.submit(dawdle, address, *kind, pause) for kind in slow_clients(name)]
        answers = {kind: list(pool.map(lambda data: exchange(address, data), sent)) for kind, sent in requests.items()}
        longest = max(future.result() for future in slow)
    done.set()
    watcher.join()
    statuses = {kind: Counter(status for status, _ in found) for kind, found in answers.items()}
    served = [answer for status, answer in answers["path trick"] if status == 200]
    outside = [answer for found in answers.values() for _, answer in found if any(word in answer for word in CANARIES)]
    search = message(b"/search", json.dumps({"name": name}).encode(), b"Content-Type: application/json")
    return {
        "statuses": {kind: dict(sorted(count.items())) for kind, count in statuses.items()},
        "crashes": sum(
            count[status] for count in statuses.values() for status in count if status >= 500 and status != 503
        ),
        "reads outside": len(served) + len(outside),
        "longest slow client, s": round(longest, 1),
        "health checks": len(waits),
        "worst health check, s": round(max(waits), 3),
        "searches afterwards": exchange(address, search)[0] == 200,
    }


def _watch_health(address: Address, waits: list[float], done: threading.Event) -> None:
    while not done.is_set():
        began = time.monotonic()
        status, _ = exchange(address, message(b"/health"))
        waits.append(time.monotonic() - began if status == 200 else float("inf"))
        done.wait(0.1)


def _ended(address: Address, connection: socket.socket) -> bool:
    """Whether the server has closed or cut a connection, as Linux lists it; its end may lie behind unread bytes."""
    ends = address[1], connection.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == ends:
            return state not in ("01", "08")  # established, or closed by the client alone
    return True


def _damaged(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 30)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _png(side: int, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of zeros that says that it has `side` x `side` pixels, in a few kilobytes."""
    body = zlib.compress(bytes((side + 1) * min(side, 2000)))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8017/")
    place = urlsplit(parser.parse_args().url)
    if not ipaddress.ip_address(place.hostname or "").is_loopback:
        parser.error("give an address of this machine, http://127.0.0.1:PORT/")
    for what, found in attack((place.hostname or "", place.port or 80)).items():
        print(f"{what}: {found}")


if __name__ == "__main__":
    main()
