"""What all commands share: printing, errors, and the forms of options."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.format import printable


def say(text: object, **options: Any) -> None:
    """Prints text in which there may be names from outside: a terminal is sent no control characters of theirs."""
    print(printable(text, lines=True), **options)


def fail(message: str, code: int = 1) -> int:
    say(f"jaxcnn: {' '.join(message.split())}", file=sys.stderr)
    return code


def shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def words(text: str) -> tuple[str, ...]:
    """What stands between the commas; "none" is nothing."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if words == ("none",) else words


def size_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = numbers(text, 2)
    if found is None:
        raise UserError(f"--size {text}: expected height,width, for instance 180,240")
    return found[0], found[1]


def numbers(text: str, count: int) -> tuple[int, ...] | None:
    """So many numbers above 0, with commas or an x between them; None for anything else."""
    parts = re.split(r"[,x]", text.strip("()[] "))
    if len(parts) != count or not all(re.fullmatch("[0-9]{1,9}", p.strip()) and int(p) > 0 for p in parts):
        return None
    return tuple(int(p) for p in parts)
