"""Text and numbers for a reader. Names from outside may hold any character: they are made safe for a terminal."""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of Persian, Hindi and emoji


def printable(text: object, lines: bool = False) -> str:
    """The text with an escape for each character that a terminal obeys or that cannot be shown.

    These are control characters (a name may not send escape sequences), marks that reorder the text around them (the
    right-to-left override, which makes `gpj.exe` of `exe.jpg`), other invisible ones, and the bytes of file names that
    are no UTF-8: `\\x1b`, `\\u202e`, `\\xe9`. All scripts stay as they are, with their combining marks.

    Args:
      text: the text; of another object, what `str` makes of it.
      lines: keep line feeds.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shown(c) or (lines and c == "\n") else _escaped(c) for c in text)


def _shown(c: str) -> bool:
    return c.isprintable() or c in JOINERS or unicodedata.category(c) == "Zs"


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # how Python keeps a byte that is no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()


def shortened(text: str, most: int) -> str:
    """The text, cut to `most` characters, the last of which is then an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def width(text: str) -> int:
    """The columns that the text takes on a terminal: two for a wide character (Chinese), none for a combining mark."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.category(c) in ("Mn", "Me") or c in JOINERS for c in text)
    return len(text) + wide - marks


def padded(text: str, columns: int, right: bool = False) -> str:
    """The text with spaces behind it, or in front of it, up to a width on the terminal."""
    space = " " * (columns - width(text))
    return space + text if right else text + space


def duration(seconds: float) -> str:
    """A time in at most two units: `42s`, `3m07s`, `1h20m`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
