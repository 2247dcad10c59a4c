"""Reads JSON of a run's folder: any file gives its value or one clear error."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.files import regular

Record = dict[str, Any]
_DEEPEST, _NESTED = 100, "it is nested too deeply"


def text_of(path: Path) -> str:
    """The text of a file, UTF-8.

    Raises:
      OSError, ValueError: when it cannot be read, or is none: a pipe, for instance, would be waited for.
    """
    regular(path)
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(file, encoding="utf-8") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("it is no file")
        return opened.read()


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: when it is none, nested too deeply, or has a number of thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_NESTED) from None
    level = [value]
    for _ in range(_DEEPEST):  # what can be read may be too deep to be written
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(_NESTED)
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def reason(error: BaseException) -> str:
    """Why a file cannot be used, in a few words."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__


def read_object(path: Path) -> Record:
    """The object in a JSON file.

    Raises:
      UserError: when there is none.
    """
    try:
        value = parsed(text_of(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object, it holds {named(value)}")
    return value


def named(value: Any) -> str:
    """A JSON value, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
