"""Errors that a user can mend: the message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from jaxcnn.format import printable


class UserError(ValueError):
    """Something given from outside cannot be used. The command line prints the message alone and exits with 1.

    The message may quote what came from outside. It is shown without control characters, which a terminal would obey.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class DataError(UserError):
    """A dataset or an image file is missing, damaged, or not what it was said to be."""


class TrainingError(UserError):
    """Training cannot start or go on."""


class Stopped(KeyboardInterrupt):
    """A training was asked to end, by Ctrl-C or SIGTERM, and its state is saved.

    Attributes:
      signal: which it was.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest ones that do."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    return UserError(f"unknown {what} {name!r}: {hint}")
