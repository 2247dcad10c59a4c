"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxcnn.errors import TrainingError, UserError

PART = ".part"
"""The ending of unfinished files. A killed process may leave such files; they can be removed."""

Content = str | bytes | Callable[[IO[bytes]], Any]


def write_whole(path: str | Path, content: Content) -> None:
    """Writes a file under another name, waits for the disk, and renames it, so it is never half-written.

    Args:
      path: an existing file is replaced.
      content: text (written as UTF-8), bytes, or a function that writes to the open file.

    Raises:
      OSError: when the file cannot be written; an existing file at `path` is then unchanged.
    """
    path = Path(path)
    # The name has a fixed length, because the name of `path` may be as long as the file system allows.
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with open(part, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            to_disk(file)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def put(path: str | Path, content: Content) -> None:
    """`write_whole` for a file that the user named; its folder is created.

    Raises:
      UserError: when the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def to_disk(file: IO[bytes]) -> None:
    """Waits until a file's content is on the disk, if the file system supports it."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


@contextlib.contextmanager
def on_disk(what: str) -> Iterator[None]:
    """A context that turns an error of the file system, or of a library that writes files, into one sentence.

    Raises:
      TrainingError: its message begins with `what`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
        if full:
            raise TrainingError(f"{what}: the disk is full. Free some space and continue with --resume") from error
        if isinstance(error, OSError):
            raise TrainingError(f"{what}: {error.strerror or error}") from error
        raise TrainingError(f"{what}: {text[:200]}") from error
