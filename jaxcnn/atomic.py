"""Files that are written as a whole, or not at all."""

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
"""How the names of unfinished files end. What a killed process left of them may be removed."""

Content = str | bytes | Callable[[IO[bytes]], Any]


def write_whole(path: str | Path, content: Content) -> None:
    """Writes a file under another name, waits for the disk, and renames it: it is never seen half-written.

    Args:
      path: what is there is replaced.
      content: text (UTF-8), bytes, or a function that is given the open file.

    Raises:
      OSError: when it cannot be written; what was at `path` is then still there, and nothing else is left.
    """
    path = Path(path)
    # Of a fixed length: the name of the file itself may be as long as the file system allows.
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
    """`write_whole`, for a file that somebody has asked for; its folder is made.

    Raises:
      UserError: when it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def to_disk(file: IO[bytes]) -> None:
    """Waits until a file's content is on the disk, where the file system knows of that."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


@contextlib.contextmanager
def on_disk(what: str) -> Iterator[None]:
    """Turns an error of the file system, or of a library that writes to it, into one sentence.

    Raises:
      TrainingError: which begins with `what`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
        if full:
            raise TrainingError(f"{what}: the disk is full. Make room and go on with --resume") from error
        if isinstance(error, OSError):
            raise TrainingError(f"{what}: {error.strerror or error}") from error
        raise TrainingError(f"{what}: {text[:200]}") from error
