"""Reading users' files and folders, which may have system files, links, pipes, and names in any Unicode form."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import unicodedata
from pathlib import Path

from jaxcnn.errors import DataError

_SYSTEMS_OWN = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "__pycache__"})
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def regular(path: str | Path) -> Path:
    """The path, if it is a regular file or a link to one. (Opening a pipe would wait for a writer forever.)

    Raises:
      OSError: FileNotFoundError, IsADirectoryError, or an error whose `strerror` says what the path is.
    """
    path = Path(path)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", str(path))
    return path


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """The text of a file, without its byte-order mark. If UTF-8 is expected, UTF-16 is recognized by its mark.

    Raises:
      DataError: when the file cannot be read, or is not text in this encoding.
    """
    path = Path(path).expanduser()
    try:
        data = regular(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    marks = _MARKS if encoding == "utf-8" else ()
    mark, encoding = next((found for found in marks if data.startswith(found[0])), (b"", encoding))
    try:
        text = data.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding} text (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "save it in that encoding"
        ) from None
    if "\0" in text:
        raise DataError(f"{path} is not {encoding} text: it has bytes 0; save it in that encoding")
    return text


def hidden(name: str) -> bool:
    """Whether a file or folder with this name belongs to a system or tool: `._0.png`, `__MACOSX`, `.git`."""
    return name.startswith(".") or name in _SYSTEMS_OWN


def normal(text: str) -> str:
    """The text in Unicode's normal form C, where each accented letter has only one spelling."""
    return unicodedata.normalize("NFC", text)


def located(path: Path) -> Path:
    """The path, or an existing one whose name differs only in its normal form: macOS stores accents separately."""
    others = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((p for p in (path, *others) if os.path.lexists(p)), path)


def below(top: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, without hidden ones, and the links that were not followed; both sorted.

    A link to a file counts as a file. A link to a folder is not followed: it could lead to a folder above it, or to
    images that are already in the list.
    """
    found: list[Path] = []
    links: list[Path] = []
    for folder, inside, files in os.walk(top):
        inside[:] = sorted(name for name in inside if not hidden(name))
        links += [path for name in inside if (path := Path(folder, name)).is_symlink()]
        for path in (Path(folder, name) for name in files if not hidden(name)):
            if path.is_file():
                found.append(path)
            elif path.is_symlink():
                links.append(path)
    return sorted(found), sorted(links)
