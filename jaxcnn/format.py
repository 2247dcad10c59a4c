"""Text and numbers for a reader, made safe for a terminal: a name from outside may have any character."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of Persian, Hindi and emoji


def printable(text: object, lines: bool = False) -> str:
    """The text with escapes for characters that control a terminal or cannot be shown, such as `\\x1b`.

    Escaped are control characters (a name could send escape sequences), marks that reorder text (the right-to-left
    override, `\\u202e`, shows `exe.jpg` as `gpj.exe`), other invisible characters, and bytes of file names that are not
    UTF-8 (`\\xe9`). All scripts stay unchanged, with their combining marks.

    Args:
      text: the text, or another object, which `str` converts.
      lines: whether to keep line feeds.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shown(c) or (lines and c == "\n") else _escaped(c) for c in text)


def _shown(c: str) -> bool:
    return c.isprintable() or c in JOINERS or unicodedata.category(c) == "Zs"


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # Python's surrogate for a byte that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()


def shortened(text: str, most: int) -> str:
    """The text, cut to `most` characters if it is longer; the last one is then an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def width(text: str) -> int:
    """The columns of the text on a terminal: two for a wide character (Chinese), none for a combining mark."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.category(c) in ("Mn", "Me") or c in JOINERS for c in text)
    return len(text) + wide - marks


def padded(text: str, columns: int, right: bool = False) -> str:
    """The text with spaces after it, or before it (`right`), up to a number of columns on the terminal."""
    space = " " * (columns - width(text))
    return space + text if right else text + space


def plural(count: int, noun: str) -> str:
    """The noun for this number: `epoch` for 1, `epochs` for any other."""
    return noun if count == 1 else f"{noun}s"


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence, or its first line."""
    return re.split(r"\. |\n", text, maxsplit=1)[0]


def duration(seconds: float) -> str:
    """A duration in at most two units: `42s`, `3m07s`, `1h20m`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
