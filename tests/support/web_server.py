"""A web server of files in memory, on this machine, which sends parts of them and pages that list them."""

import contextlib
import html
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """`files` by path; `fails`: so many requests are answered with an error first; `asked`: (path, range) of each."""

    files: dict[str, bytes]
    address: str = ""
    fails: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[Served]:
    served = Served(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection for each request, so that none outlives the server

        def do_GET(self) -> None:
            path, asked = self.path.strip("/"), self.headers.get("Range", "")
            served.asked.append((path, asked))
            if served.fails:
                served.fails -= 1
                self.answer(503, b"busy")
            elif path in files:
                data = files[path]
                tag = {"ETag": f'"{hash(data)}"', "Accept-Ranges": "bytes"}
                if asked.startswith("bytes="):
                    start, _, end = asked.removeprefix("bytes=").partition("-")
                    last = min(int(end or len(data)), len(data) - 1)
                    part = data[int(start) : last + 1]
                    self.answer(206, part, tag | {"Content-Range": f"bytes {start}-{last}/{len(data)}"})
                else:
                    self.answer(200, data, tag)
            elif names := sorted(
                {name[len(path) :].strip("/").split("/")[0] for name in files if name.startswith(path)}
            ):
                lines = [f'<a href="/{path}/{html.escape(name)}">{name}</a>' for name in names]
                self.answer(200, "\n".join(lines).encode(), {"Content-Type": "text/html"})
            else:
                self.answer(404, b"")

        do_HEAD = do_GET

        def answer(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
