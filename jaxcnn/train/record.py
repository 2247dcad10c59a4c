"""JSON of a run's folder, read with care: whatever is in a file, the outcome is its value or one error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError

Record = dict[str, Any]


def text_of(path: Path) -> str:
    """The text of a file, UTF-8.

    Raises:
      OSError, ValueError: when it cannot be read, or is none: a pipe, for instance, would be waited for.
    """
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
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
    """A JSON value in a few letters."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"
