"""Printing and errors, shared by all commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jaxcnn.format import printable


def say(text: object, **options: Any) -> None:
    """Prints text, with control characters escaped: it may contain names from outside."""
    print(printable(text, lines=True), **options)


def fail(message: str, code: int = 1) -> int:
    say(f"jaxcnn: {' '.join(message.split())}", file=sys.stderr)
    return code


def shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
