"""The page's server: on this machine only, for one network.

It listens on 127.0.0.1, and everything lies below a random path that the printed address has: whoever does not know it
gets 404. A request whose Host is another name (DNS rebinding) or that comes from another origin is refused. It serves
no files but the page's own and two pictures of the run, chosen by fixed names; no part of a request becomes a path.
"""

from __future__ import annotations

import errno
import re
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from jaxcnn.errors import UserError, first_line
from jaxcnn.explore.answers import Answers
from jaxcnn.explore.messages import Refused, query, to_json
from jaxcnn.format import printable

_PARTS = (
    "base", "ask", "frozen", "input", "look", "answer", "overlay", "card", "layers", "unit", "views", "graph",
    "convolution", "points", "confusion", "training", "page",
)  # fmt: skip
SCRIPTS = tuple(f"{part}.js" for part in _PARTS)
"""The page's scripts, in their order."""
STYLES = tuple(
    f"{part}.css" for part in ("base", "input", "layers", "graph", "convolution", "points", "training", "page")
)
"""The page's styles, in their order: those of narrow windows come last."""
ASSETS = {
    "": ("page.html", "text/html"),
    **{name: (name, "text/css") for name in STYLES},
    **{name: (name, "text/javascript") for name in SCRIPTS},
}
_MOST_BYTES = 32 << 20  # of an image file


def policy(script: str, style: str, own: str) -> str:
    """The page's Content-Security-Policy: the scripts, styles and images it may use, and the server it may ask."""
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src {own} data: blob:; connect-src {own}; "
        "base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """One of the page's own files."""
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


class Server(ThreadingHTTPServer):
    """The server of one network.

    Attributes:
      token: the path below which everything lies.
      url: the page's address.
    """

    daemon_threads = True
    request_queue_size = 1024  # connections that wait to be accepted; the system may set a lower limit

    def __init__(self, answers: Answers, port: int = 0):
        if not 0 <= port <= 65535:
            raise UserError(f"port {port}: expected 1 to 65535, or 0 for any that is free")
        self.answers = answers
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is in use: choose another one, or none for one that is free") from None
            raise UserError(f"port {port} cannot be used: {error.strerror or error}") from None
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.url = f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a connection that broke."""
        if not isinstance(sys.exception(), (OSError, ValueError)):
            print(f"jaxcnn: {_one_line(sys.exception())}", file=sys.stderr)


def _one_line(error: BaseException | None) -> str:
    return "unknown error" if error is None else f"{type(error).__name__}: {printable(first_line(error)[:200])}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "jaxcnn", ""
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, answer: Callable[[str, Mapping[str, str]], tuple[str, bytes]]) -> None:
        try:
            path, asked = self._allowed()
            kind, body = answer(path, asked)
        except Refused as error:
            self._send(error.status, "application/json", to_json({"error": str(error)}))
        except UserError as error:
            self._send(400, "application/json", to_json({"error": str(error)}))
        except OSError:
            self.close_connection = True
        except Exception as error:  # any error: the page shows it and the server continues
            print(f"jaxcnn: {_one_line(error)}", file=sys.stderr)
            self._send(500, "application/json", to_json({"error": _one_line(error)}))
        else:
            self._send(200, kind, body)

    def _allowed(self) -> tuple[str, dict[str, str]]:
        """The path below the token, and the query; an error for a request that does not come from the page."""
        self._last = self.close_connection
        if self.command == "POST":
            self.close_connection = True  # until its body has been read
        host, origin = self.headers.get_all("Host") or [], self.headers.get("Origin")
        if len(host) != 1 or host[0].lower() not in self.server.hosts:
            raise Refused("this server answers to 127.0.0.1 and localhost only", 403)
        if origin is not None and origin.lower() != f"http://{host[0].lower()}":
            raise Refused("requests of other pages are refused", 403)
        try:
            parts = urlsplit(self.path)
        except ValueError:
            raise Refused("the address cannot be read") from None
        token, slash, path = parts.path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused("there is no such page: use the whole address that was printed", 404)
        # A link on another page may lead to this one, and nothing else.
        followed = path == "" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not followed:
            raise Refused("requests of other pages are refused", 403)
        return path, query(parts.query)

    def _get(self, path: str, asked: Mapping[str, str]) -> tuple[str, bytes]:
        if path in ASSETS:
            name, kind = ASSETS[path]
            return f"{kind}; charset=utf-8", asset(name).encode()
        answers = self.server.answers
        if path.startswith("figure/"):
            return "image/png", answers.figure(path.removeprefix("figure/"))
        known = {"about": answers.about, "layers": answers.layers, "graph": answers.graph}
        binary = {"examples": answers.examples, "filters": answers.filters}
        if path in known:
            return "application/json", known[path](asked)
        if path in binary:
            return "application/octet-stream", binary[path](asked)
        raise Refused("there is no such page", 404)

    def _post(self, path: str, asked: Mapping[str, str]) -> tuple[str, bytes]:
        answers = self.server.answers
        known = {"look": answers.look, "unit": answers.unit, "overlay": answers.overlay}
        known |= {"images": answers.images, "points": answers.points}
        if path not in known:
            raise Refused("there is no such page", 404)
        return "application/octet-stream", known[path](self._body())

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not re.fullmatch("[0-9]+", length) or len(length) > 18:
            raise Refused("the request has to say how long it is", 411)
        if int(length) > _MOST_BYTES:
            raise Refused(f"the file is {int(length) / 1e6:,.0f} MB, the most is {_MOST_BYTES / 1e6:.0f} MB", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the request was cut short")
        self.close_connection = self._last
        return body

    def _send(self, status: int, kind: str, body: bytes) -> None:
        own = policy("'self'", "'self'", "'self'") + "; frame-ancestors 'none'"
        try:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("Content-Security-Policy", own),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Cross-Origin-Opener-Policy", "same-origin"),
                ("Connection", "close" if self.close_connection else "keep-alive"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if status == 413:
                self._drain()
        except OSError:
            self.close_connection = True

    def _drain(self) -> None:
        """Reads the rest of the request for a moment, so that the browser reads the answer."""
        self.connection.settimeout(1)
        left = 4 * _MOST_BYTES
        while left > 0 and (part := self.connection.recv(1 << 16)):
            left -= len(part)
        self.connection.shutdown(socket.SHUT_RDWR)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's errors for requests that are not HTTP, as JSON."""
        self.close_connection = True
        said = "the request cannot be read" if code < 500 else "there is no such method"
        self._send(code, "application/json", to_json({"error": said}))

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""
