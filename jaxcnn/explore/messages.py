"""Messages between the page and the server.

They are JSON, or, where arrays go with it, `packed`: the length of the JSON in four bytes (little-endian), the JSON,
the bytes of the arrays. A request is limited in size, and each of its values is checked.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from jaxcnn.errors import UserError

_MOST_JSON = 1 << 20
_MOST_FIELDS = 20  # of a query


class Refused(UserError):
    """A request that is not answered, with its status."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


def to_json(value: Any) -> bytes:
    """JSON for JavaScript: a number that is not finite is null."""

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
    """A record followed by bytes."""
    header = to_json(record)
    header += b" " * (-len(header) % 4)  # so that float32 begins at a multiple of four
    return b"".join([struct.pack("<I", len(header)), header, *arrays])


def unpack(body: bytes) -> tuple[dict[str, Any], bytes]:
    """The record and the bytes of a message that `pack` made."""
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
