"""JSON of a run's folder, read with care: whatever is in a file, the outcome is its value or one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError

Record = dict[str, Any]


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
        value = parsed(path.read_text(encoding="utf-8"))
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
