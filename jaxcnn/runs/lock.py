"""The lock of a run's folder: one process at a time may train in it.

The file `lock` in the folder says which: its number, host, start and boot of the machine. Its owner has it locked
(`flock`) while it lives, and removes it at the end: a file that nobody has locked is what a killed process left. On a
file system without `flock` the file alone counts, and its process is looked up: gone, or another one under the same
number (it started at another time), or of an earlier boot, means that it was killed. The state of a process on another
host is unknown; a user who knows that it has ended removes the file. A process that trains touches the file every
minute: if it has not for half an hour, it was probably killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jaxcnn.atomic import PART
from jaxcnn.errors import UserError
from jaxcnn.runs.record import parsed, text_of

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

NAME = "lock"
_TRIES, _PAUSE = 25, 0.02
_YOUNG = 10.0  # seconds
_BEAT, SILENT = 60.0, 1800.0  # seconds between two touches; after which a process that did not is taken for killed

State = Literal["free", "held", "stale", "unknown"]


@dataclass(frozen=True)
class Owner:
    """The process that a lock names.

    Attributes:
      process, host: its number, on which machine.
      started: when it started, as its system counts; a number alone may come again.
      boot: which boot of the machine that was, where it says.
      space: in which space of process numbers (containers have their own).
      flock: whether it had the file locked.
      token: another one each time that the lock is taken.
    """

    process: int
    host: str
    started: str = ""
    boot: str = ""
    space: str = ""
    flock: bool = False
    token: str = ""

    @staticmethod
    def me(flock: bool) -> Owner:
        """This process."""
        started = _started(os.getpid()) or ""
        return Owner(os.getpid(), socket.gethostname(), started, _boot(), _space(), flock, secrets.token_hex(8))


class Lock:
    """A lock that this process has; see `acquire`."""

    def __init__(self, path: Path, file: int, owner: Owner):
        self._path, self._owner, self._process = path, owner, os.getpid()
        self._file: int | None = file
        self._touched = time.monotonic()
        _had.add(self)  # until it is closed

    def touch(self) -> None:
        """Shows other hosts that this process is alive, once a minute."""
        now = time.monotonic()
        if self._file is not None and now - self._touched > _BEAT:
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Releases the lock, if this process still holds it."""
        if os.getpid() == self._process:
            with contextlib.suppress(OSError):
                if _read(self._path) == self._owner:
                    self._path.unlink()
            self.close()

    def close(self) -> None:
        """Unlocks the file and keeps it."""
        _had.discard(self)
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)


_had: set[Lock] = set()


def _forked() -> None:
    """Closes the locks in a forked child, which would otherwise keep them after this process ends."""
    for lock in list(_had):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def acquire(path: Path) -> Lock:
    """Takes the lock at `path`, a stale one included.

    Raises:
      UserError: if another process holds it.
      OSError: if it cannot be written.
    """
    for _ in range(_TRIES):
        if (lock := _make(path)) is not None:
            return lock
        try:
            content, young = _content(path), time.time() - path.stat().st_mtime < _YOUNG
        except FileNotFoundError:
            continue
        state, owner = look(path)
        if state == "unknown":
            raise _taken(path, owner, state)
        if state == "held" and owner is not None:
            break
        if state == "held" or (not content and young):  # on a file system without links it is empty for a moment
            time.sleep(_PAUSE)
        elif state == "stale":
            _remove(path, content)
    raise _taken(path, look(path)[1], "held")


def _make(path: Path) -> Lock | None:
    """A new lock: the file appears with its content, and locked. None where there is one already."""
    own = path.with_name(f".{NAME}-{secrets.token_hex(8)}{PART}")
    file, made = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), False
    try:
        owner = _sign(file)
        try:
            os.link(own, path)
        except FileExistsError:
            return None
        except OSError:  # a file system without links
            os.close(file)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            owner = _sign(file)
        made = True
        return Lock(path, file, owner)
    except FileExistsError:
        file = -1  # closed above
        return None
    finally:
        if not made and file >= 0:
            os.close(file)
        own.unlink(missing_ok=True)


def _sign(file: int) -> Owner:
    """Locks a new file, where that can be done, and writes this process into it."""
    try:
        locked = _flock(file)
    except OSError:
        locked = False
    owner = Owner.me(locked)
    os.write(file, json.dumps(asdict(owner)).encode())
    return owner


def _remove(path: Path, content: bytes) -> None:
    """Removes a stale lock of this content. Of several processes that want to, one does, and no other lock is met."""
    mark = path.with_name(f".{NAME}-{hashlib.sha256(content).hexdigest()[:16]}{PART}")
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        with contextlib.suppress(OSError):
            if time.time() - mark.stat().st_mtime > _YOUNG:  # of a process that was killed just then
                mark.unlink()
        time.sleep(_PAUSE)
        return
    try:
        # Whoever had the mark before has removed the lock of this content, if it is not there.
        with contextlib.suppress(FileNotFoundError):
            if _content(path) == content:
                path.unlink()
    finally:
        mark.unlink(missing_ok=True)


def refuse(path: Path) -> None:
    """Checks that no other process holds the lock at `path`; raises UserError as `acquire` does."""
    state, owner = look(path)
    if state in ("held", "unknown"):
        raise _taken(path, owner, state)


def _content(path: Path) -> bytes:
    """What is in a lock file; nothing where that is no text, or no file."""
    try:
        return text_of(path).encode()
    except ValueError:
        return b""


def look(path: Path) -> tuple[State, Owner | None]:
    """Whether a lock is there and its process lives, and which it is."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return "free", None
    try:
        try:
            locked: bool | None = not _flock(file, shared=True)
        except OSError:
            locked = None
        owner = _read(path)
        return _judged(owner, locked), owner
    finally:
        os.close(file)


def silent(path: Path) -> bool:
    """Whether the process that has the lock has not touched it for long: half an hour."""
    try:
        return time.time() - path.stat().st_mtime > SILENT
    except OSError:
        return False


def _judged(owner: Owner | None, locked: bool | None) -> State:
    """What a lock file says: `locked` is whether somebody has its flock, None where there is no flock."""
    if locked:
        return "held"
    if owner is None:
        return "stale" if locked is not None else "unknown"
    if owner.boot and owner.boot == _boot():
        if owner.flock and locked is not None:
            return "stale"  # one system, and it has not locked it any more
        if owner.space != _space():
            return "unknown"
    elif owner.host != socket.gethostname():
        return "unknown"
    elif owner.boot:
        return "stale"  # the machine has started anew since
    started = _started(owner.process)
    if started is None:
        return "stale"
    return "held" if started == owner.started else "stale"


def _taken(path: Path, owner: Owner | None, state: State) -> UserError:
    run = path.parent
    if owner is None:
        return UserError(f"the run {run} is being trained by another process; if there is none, remove {path}")
    said = f"the run {run} is being trained by process {owner.process} on {owner.host}"
    return UserError(said + (f"; if that process is gone, remove {path}" if state == "unknown" else ""))


def _read(path: Path) -> Owner | None:
    """Who has a lock, as its file says; None where it says nothing."""
    try:
        value = parsed(text_of(path))
    except (OSError, ValueError):
        return None
    fields = Owner.__dataclass_fields__
    if not isinstance(value, dict) or not {"process", "host"} <= value.keys() <= fields.keys():
        return None
    if type(value["process"]) is not int or not all(isinstance(v, (str, int)) for v in value.values()):
        return None
    return Owner(**value)


def _flock(file: int, shared: bool = False) -> bool:
    """Whether this process could lock the file.

    Raises:
      OSError: where the file system has no such locks.
    """
    if fcntl is None:
        raise OSError("no flock")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- the machine and its processes -------------------------------------------------------------------------------


def _started(process: int) -> str | None:
    """When a process of this machine started; None where there is none, empty where that cannot be known."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
        return text.rpartition(")")[2].split()[19]  # field 22: proc(5); the name before may have blanks and brackets
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError, ValueError):
        return ""
    if os.name != "posix":
        return ""
    try:
        asked = ["ps", "-o", "lstart=", "-p", str(process)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return ""


def _boot() -> str:
    """Which boot of this machine it is; empty where that cannot be known."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _space() -> str:
    """The space of process numbers that this process is in; empty where there is one only."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
