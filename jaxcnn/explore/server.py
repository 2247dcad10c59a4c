"""The page's server: on this machine only, for one network.

It listens on 127.0.0.1, and everything lies below a random path that the printed address has: whoever does not know it
gets 404. A request whose Host is another name (DNS rebinding) or that comes from another origin is refused. There are
no files in it but the page's own and two pictures of the run, chosen by fixed names; nothing that a request says
becomes a path. What a request sends is limited in size, and each of its values is checked.

Messages are JSON, or, where arrays go with it, `packed`: the length of the JSON in four bytes (little-endian), the
JSON, the arrays' bytes.
"""

from __future__ import annotations

import errno
import json
import math
import re
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from jaxcnn import __version__
from jaxcnn.errors import DataError, UserError, first_line
from jaxcnn.explore.answer import Pixel
from jaxcnn.explore.network import Look, Network, packed, stacked
from jaxcnn.explore.subject import FIGURES, Data
from jaxcnn.format import printable

_PARTS = ("base", "ask", "frozen", "input", "look", "answer", "overlay", "layers", "unit", "training", "page")
SCRIPTS = tuple(f"{part}.js" for part in _PARTS)
"""The page's scripts, in their order."""
ASSETS = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    **{name: (name, "text/javascript") for name in SCRIPTS},
}
SIDE, MOST_MAPS = 112, 64
SECONDS = 0.7  # of an occlusion that is not done: the page shows what there is, and asks again
_MOST_BYTES = 32 << 20  # of an image file
_MOST_JSON = 1 << 20
_MOST_FIELDS = 20  # of a query


class Refused(UserError):
    """A request that is not answered, with its status."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def policy(script: str, style: str, own: str) -> str:
    """The page's Content-Security-Policy: what it may run and show, and whom it may ask."""
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src {own} data: blob:; connect-src {own}; "
        "base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    """One of the page's own files."""
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


# --- messages ----------------------------------------------------------------------------------------------------


def to_json(value: Any) -> bytes:
    """JSON that JavaScript reads: a number that is not finite is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, (float, np.floating)):
            return float(value) if math.isfinite(value) else None
        return int(value) if isinstance(value, np.integer) else value

    return json.dumps(plain(value), allow_nan=False, separators=(",", ":")).encode()


def pack(record: Mapping[str, Any], *arrays: bytes) -> bytes:
    """A record with bytes behind it."""
    head = to_json(record)
    head += b" " * (-len(head) % 4)  # so that float32 begins at a multiple of four
    return b"".join([struct.pack("<I", len(head)), head, *arrays])


def unpack(body: bytes) -> tuple[dict[str, Any], bytes]:
    """What `pack` packed, if it is that."""
    if len(body) < 4 or (size := struct.unpack("<I", body[:4])[0]) > min(len(body) - 4, _MOST_JSON):
        raise Refused("the request is cut short")
    try:
        record = json.loads(body[4 : 4 + size])
    except (ValueError, RecursionError):
        raise Refused("the request has no JSON that can be read") from None
    if not isinstance(record, dict):
        raise Refused("the request should have an object")
    return record, body[4 + size :]


def integer(record: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """An integer of a request, within bounds."""
    value = record.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(f"{name}: expected an integer from {low} to {high}")
    return value


def numbers(asked: Mapping[str, str], *names: str) -> dict[str, int]:
    """The integers of a query that it gives under these names, each of at most nine digits."""
    for name in names:
        if not re.fullmatch("-?[0-9]{1,9}", asked.get(name, "0")):
            raise Refused(f"{name}: expected an integer, got {asked[name][:40]!r}")
    return {name: int(asked[name]) for name in names if name in asked}


def query(sent: str) -> dict[str, str]:
    """The fields of a query, each given once."""
    try:
        pairs = parse_qsl(sent, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:  # a UnicodeDecodeError too
        raise Refused(f"the query has more than {_MOST_FIELDS} fields, or is no UTF-8") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refused("the query gives one field more than once")
    return fields


def text(record: Mapping[str, Any], name: str) -> str:
    """A name in a request."""
    value = record.get(name)
    if not isinstance(value, str) or len(value) > 1000:
        raise Refused(f"{name}: expected a name")
    return value


# --- answers -----------------------------------------------------------------------------------------------------


class Answers:
    """What the page is told, by the name of the question."""

    def __init__(self, network: Network, first: np.ndarray | None = None, first_name: str = ""):
        self.network = network
        self.subject = network.subject
        self._first, self._first_name = first, first_name
        self._examples: Data | DataError | None = None
        self._reading = threading.Lock()

    def about(self, asked: Mapping[str, str]) -> bytes:
        """All that is known without computing."""
        record = self.subject.about()
        record |= {"version": __version__, "given": list(self.network.shape), "frame": list(self.network.frame())}
        record["file"] = printable(self._first_name) if self._first is not None else None
        return to_json(record)

    def layers(self, asked: Mapping[str, str]) -> bytes:
        return to_json(layers(self.network))

    def examples(self, asked: Mapping[str, str]) -> bytes:
        """The images of a page of examples, of one class or of all, and their labels, where they are classes."""
        found = self._data()
        classes = found.labels if np.ndim(found.labels) == 1 else np.full(len(found), -1)
        given = numbers(asked, "label", "first", "count")
        label = integer(given, "label", -1, len(self.subject.answer.names) - 1, -1)
        index = np.arange(len(found)) if label < 0 else np.flatnonzero(classes == label)
        first, count = integer(given, "first", 0, len(found), 0), integer(given, "count", 1, 100, 20)
        chosen = index[first : first + count]
        record = {"total": len(index), "index": chosen.tolist(), "labels": classes[chosen].tolist()}
        return pack(record, found.inputs[chosen].tobytes())

    def _data(self) -> Data:
        with self._reading:
            if self._examples is None:
                try:
                    self._examples = self.subject.examples()
                except UserError as error:
                    self._examples = DataError(str(error))
        if isinstance(self._examples, DataError):
            raise Refused(f"no examples: {self._examples}", 404)
        return self._examples

    def look(self, body: bytes) -> bytes:
        """What the network makes of an input: its classes, and the maps of the layers that are asked for."""
        record, sent = unpack(body)
        source, label = record.get("source"), None
        shape = self.subject.trained.image
        if source == "look":
            look = self._kept(record)
        elif source == "example":
            found = self._data()
            index = integer(record, "index", 0, len(found) - 1)
            look, label = self.network.see(found.inputs[index]), found.labels[index]
        elif source == "pixels":
            if len(sent) != math.prod(shape):
                raise Refused(f"expected {math.prod(shape)} bytes of pixels, got {len(sent)}")
            look = self.network.see(np.frombuffer(sent, np.uint8).reshape(shape))
        elif source == "file":
            look = self.network.see(self.subject.read(sent, "the file"))
        elif source == "first" and self._first is not None:
            look = self.network.see(self._first)
        else:
            raise Refused("source: expected look, example, pixels or file")
        asked = record.get("layers", [])
        if not isinstance(asked, list) or len(asked) > 5000:
            raise Refused("layers: expected a list")
        wanted = [one for one in (self._wanted(entry, look) for entry in asked) if one is not None]
        # What the page has already is not sent again.
        image, pictures = source not in ("pixels", "look"), source != "look"
        return message(self.network, look, wanted, label, self._pixel(record), image, pictures)

    def _pixel(self, record: Mapping[str, Any]) -> Pixel | None:
        """The pixel of the answer that is asked about."""
        place, size = record.get("pixel"), self.subject.answer.size
        if place is None or size is None:
            return None
        if not isinstance(place, list) or len(place) != 2:
            raise Refused("pixel: expected a row and a column")
        given = {"row": place[0], "column": place[1]}
        return integer(given, "row", 0, size[0] - 1), integer(given, "column", 0, size[1] - 1)

    def _kept(self, record: Mapping[str, Any]) -> Look:
        try:
            return self.network.find(integer(record, "look", 0, 1 << 53))
        except Refused:
            raise
        except UserError as error:
            raise Refused(str(error), 410) from None

    def _wanted(self, entry: Any, look: Look) -> tuple[str, int, int, int] | None:
        """Which maps of which layer; None for one whose output is not known, inside of a loop for instance."""
        if not isinstance(entry, dict):
            raise Refused("layers: expected objects")
        name = text(entry, "name")
        if name not in look.outputs:
            if any(record["name"] == name for record in self.network.layers()):
                return None
            raise Refused(f"there is no layer {name[:100]!r} with an output to show")
        total = stacked(look.outputs[name]).shape[-1]
        first = integer(entry, "first", 0, total - 1, 0)
        return name, first, integer(entry, "count", 1, MOST_MAPS, MOST_MAPS), integer(entry, "side", 1, 1024, SIDE)

    def unit(self, body: bytes) -> bytes:
        """One unit, with the numbers that made it as float32 behind the record."""
        record, _ = unpack(body)
        look = self._kept(record)
        place = record.get("place")
        if not isinstance(place, list) or any(isinstance(p, bool) or not isinstance(p, int) for p in place):
            raise Refused("place: expected a list of integers")
        return unit(self.network, look, text(record, "layer"), tuple(place))

    def filters(self, asked: Mapping[str, str]) -> bytes:
        """The filters of a convolution: of one input channel, or, of three, as colours."""
        found = self.network.filters(text(asked, "layer"))
        given = numbers(asked, "first", "count", "channel")
        first = integer(given, "first", 0, found.shape[-1] - 1, 0)
        count = integer(given, "count", 1, MOST_MAPS, MOST_MAPS)
        if "channel" in given:
            found = found[:, :, integer(given, "channel", 0, found.shape[2] - 1), :]
        elif found.shape[2] == 3:  # as colours: the three slices of each filter under one another, on one scale
            found = np.concatenate([found[:, :, c] for c in range(3)])
        else:
            found = found[:, :, 0, :]
        record, pixels = packed(found, first, count, 1 << 20)
        return pack({**record, "total": found.shape[-1]}, pixels)

    def overlay(self, body: bytes) -> bytes:
        """A map over the input: Grad-CAM, occlusion or gradient."""
        record, _ = unpack(body)
        look = self._kept(record)
        layer = None if record.get("layer") is None else text(record, "layer")
        count = len(self.subject.answer.names)
        chosen = None if record.get("unit") is None else integer(record, "unit", 0, count - 1)
        return overlay(self.network, look, text(record, "kind"), layer, chosen, self._pixel(record), SECONDS)

    def figure(self, name: str) -> bytes:
        """One of the pictures in the run's folder."""
        picture = self.subject.figure(name) if name in FIGURES else None
        if picture is None:
            raise Refused("there is no such page", 404)
        return picture


def layers(network: Network) -> dict[str, Any]:
    """The layers, and those that Grad-CAM can take, the one that it takes when none is named among them; JSON."""
    return {"layers": network.layers(), "maps": network.map_layers(), "cam": network.cam_layer()}


def message(
    network: Network,
    look: Look,
    wanted: list[tuple[str, int, int, int]],
    label: Any = None,
    pixel: Pixel | None = None,
    image: bool = True,
    pictures: bool = True,
) -> bytes:
    """A look: its image and the answer's pictures, where they are asked for, and the maps that are wanted."""
    records, arrays = [], []
    answer = network.subject.answer
    head: dict[str, Any] = {"look": look.number, "milliseconds": look.milliseconds}
    head["label"] = int(label) if label is not None and np.ndim(label) == 0 else None
    head["probabilities"] = answer.bars(look.output, pixel).tolist()
    if image:
        head["image"] = look.image.size
        arrays.append(look.image.tobytes())
    if pictures:
        found = {"said": answer.picture(look.output), "labelled": answer.labelled(label)}
        head["pictures"] = [name for name, picture in found.items() if picture is not None]
        arrays += [picture.tobytes() for picture in found.values() if picture is not None]
    for name, first, count, side in wanted:
        maps = stacked(look.outputs[name])
        one, pixels = packed(maps, first, count, side)
        records.append({"name": name, **one, "full": list(maps.shape)})
        arrays.append(pixels)
    return pack({**head, "layers": records}, *arrays)


def unit(network: Network, look: Look, layer: str, place: tuple[int, ...]) -> bytes:
    """A unit as a message."""
    found = network.unit(look.number, layer, place)
    arrays = []
    for name in ("inputs", "kernel"):
        array = found.pop(name, None)
        found[name] = None if array is None else list(array.shape)
        if array is not None:
            arrays.append(np.ascontiguousarray(array, "<f4").tobytes())
    return pack(found, *arrays)


def overlay(
    network: Network,
    look: Look,
    kind: str,
    layer: str | None,
    chosen: int | None,
    pixel: Pixel | None = None,
    seconds: float = math.inf,
    effort: float = 1.0,
) -> bytes:
    """An overlay as a message."""
    found, about = network.overlay(look.number, kind, layer, chosen, pixel, seconds, effort)
    record, pixels = packed(found[..., None], 0, 1, 512)
    return pack({**record, **about}, pixels)


# --- HTTP --------------------------------------------------------------------------------------------------------


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
        """A connection that broke is nobody's concern."""
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
        except Exception as error:  # whatever it is, the page says it and the server goes on
            print(f"jaxcnn: {_one_line(error)}", file=sys.stderr)
            self._send(500, "application/json", to_json({"error": _one_line(error)}))
        else:
            self._send(200, kind, body)

    def _allowed(self) -> tuple[str, dict[str, str]]:
        """The path below the token, and the query; an error for a request that is none of ours."""
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
        known = {"about": answers.about, "layers": answers.layers}
        binary = {"examples": answers.examples, "filters": answers.filters}
        if path in known:
            return "application/json", known[path](asked)
        if path in binary:
            return "application/octet-stream", binary[path](asked)
        raise Refused("there is no such page", 404)

    def _post(self, path: str, asked: Mapping[str, str]) -> tuple[str, bytes]:
        answers = self.server.answers
        known = {"look": answers.look, "unit": answers.unit, "overlay": answers.overlay}
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
        """Takes what is still being sent for a moment, so that the browser comes to read the answer."""
        self.connection.settimeout(1)
        left = 4 * _MOST_BYTES
        while left > 0 and (part := self.connection.recv(1 << 16)):
            left -= len(part)
        self.connection.shutdown(socket.SHUT_RDWR)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of requests that are not HTTP, in our form."""
        self.close_connection = True
        said = "the request cannot be read" if code < 500 else "there is no such method"
        self._send(code, "application/json", to_json({"error": said}))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what matters."""
