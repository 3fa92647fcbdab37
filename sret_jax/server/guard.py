"""What is checked of every request before anything else, and the headers that every response carries.

A page of a stranger can make a person's browser send requests to this machine. Its requests are told by the names that
the browser gives: a name of the stranger's in `Host`, which is made to point here (DNS rebinding), and the stranger's
origin in `Origin` and `Sec-Fetch-Site` (cross-site request forgery).
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sret_jax.server.responses import error

HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:[0-9]*)?")
OWN = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Answers 400 to requests for another host and 403 to those of other sites; passes the rest on.

    Args:
        app: what answers the rest.
        host: the name or address that the server was bound to.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app = app
        self.hosts = OWN | {host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope)
        await (error(*refused) if refused else self.app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        # The address that the connection came in by is one too: with --host=0.0.0.0 there are several. A name of a
        # stranger's can point to it, but it is not it.
        own = self.hosts | {str((scope.get("server") or ("",))[0]).lower()}
        if len(hosts) != 1 or _hostname(hosts[0]) not in own:
            return 400, "this host name is not served; use the address that `sret serve` printed, or name it by --host"
        if origins and origins != [f"http://{hosts[0]}"]:
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            followed = headers.get("sec-fetch-mode") == "navigate" and scope["method"] in ("GET", "HEAD")
            if not followed:  # a link on another page may lead here
                return 403, "requests of other sites are refused"
        return None


def _hostname(host: str) -> str | None:
    """The name or address without its port and brackets; None where it is neither."""
    found = HOST.fullmatch(host.lower())
    return (found["address"] or found["name"]) if found else None
