"""Errors that a user can fix: the message says what was expected, what was given, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from jaxcnn.format import printable


class UserError(ValueError):
    """An argument, option or file cannot be used. The command prints only the message, and exits with status 1.

    The message may quote input from outside, so control characters in it are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class DataError(UserError):
    """A dataset or file is missing, damaged, or of another kind than expected."""


class TrainingError(UserError):
    """Training cannot start or continue."""


class Interrupted(KeyboardInterrupt):
    """A training run was stopped by Ctrl-C or SIGTERM, and its state is saved.

    Attributes:
      signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


Stopped = Interrupted
"""The former name of `Interrupted`."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that does not exist; its message suggests the nearest known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    return UserError(f"unknown {what} {name!r}: {hint}")
