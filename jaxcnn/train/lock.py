"""A run's folder belongs to one process while it is trained.

The file `lock` in the folder says which: its number, host, start and boot of the machine. Its owner has it locked
(`flock`) while it lives, and removes it at the end: a file that nobody has locked is what a killed process left. On a
file system without `flock` the file alone counts, and its process is looked up: gone, or another one under the same
number (it started at another time), or of an earlier boot, means that it was killed. Of a process on another host
nothing can be known; whoever knows that it is gone removes the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jaxcnn.atomic import write_whole
from jaxcnn.errors import UserError
from jaxcnn.train.record import parsed

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

NAME = "lock"
_TRIES, _PAUSE = 25, 0.02  # whoever only looks has it locked for a moment, too

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
    """

    process: int
    host: str
    started: str = ""
    boot: str = ""
    space: str = ""
    flock: bool = False

    @staticmethod
    def me(flock: bool) -> Owner:
        """This process."""
        return Owner(os.getpid(), socket.gethostname(), _started(os.getpid()) or "", _boot(), _space(), flock)


class Lock:
    """A lock that this process has; see `acquire`."""

    def __init__(self, path: Path, file: int | None, owner: Owner):
        self._path, self._file, self._owner, self._process = path, file, owner, os.getpid()
        _had.add(self)

    def release(self) -> None:
        """Gives it back, if it still is this process's."""
        if os.getpid() == self._process:
            with contextlib.suppress(OSError):
                if _read(self._path) == self._owner:
                    self._path.unlink()
            self.close()

    def close(self) -> None:
        """Leaves the file as it is, and does not have it locked any more."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)


_had: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forked() -> None:
    """A child that outlives this process would keep its locks."""
    for lock in list(_had):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def acquire(path: Path) -> Lock:
    """Takes the lock at `path`, a stale one included.

    Raises:
      UserError: when another process has it.
      OSError: when it cannot be written.
    """
    for _ in range(_TRIES):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        kept = False
        try:
            try:
                locked = _flock(file)
            except OSError:
                return _acquire_by_name(path)
            if locked and _same(file, path):  # else its owner has removed it meanwhile
                there = _read(path)
                state = _judged(there, locked=False)
                if state in ("held", "unknown"):
                    raise _taken(path, there, state)
                owner = Owner.me(flock=True)
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(asdict(owner)).encode(), 0)
                kept = True
                return Lock(path, file, owner)
        finally:
            if not kept:
                os.close(file)
        time.sleep(_PAUSE)
    raise _taken(path, _read(path), "held")


def _acquire_by_name(path: Path) -> Lock:
    """Where there is no flock: the file that is made first counts."""
    owner = Owner.me(flock=False)
    own = path.with_name(f".{NAME}-{os.getpid()}-{time.monotonic_ns()}.part")
    aside = own.with_suffix(".old.part")
    for _ in range(_TRIES):
        write_whole(own, json.dumps(asdict(owner)))
        try:
            _link(own, path)
            return Lock(path, None, owner)
        except FileExistsError:
            pass
        finally:
            own.unlink(missing_ok=True)
        there = _read(path)
        state = "stale" if there is None and _is_empty(path) else _judged(there, locked=None)
        if state in ("held", "unknown"):
            raise _taken(path, there, state)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)  # one of several can
            if _read(aside) != there:  # somebody else was quicker, and it is theirs
                os.rename(aside, path)
        aside.unlink(missing_ok=True)
    raise _taken(path, _read(path), "held")


def _link(own: Path, path: Path) -> None:
    """Gives a file its name, with its content or not at all.

    Raises:
      FileExistsError: when the name is taken.
    """
    try:
        os.link(own, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with open(path, "xb") as file:
            file.write(own.read_bytes())


def _is_empty(path: Path) -> bool:
    try:
        return not path.stat().st_size
    except OSError:
        return True


def look(path: Path) -> tuple[State, Owner | None]:
    """Whether a lock is there and its process lives, and which it is."""
    try:
        file = os.open(path, os.O_RDONLY)
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
        value = parsed(path.read_text())
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


def _same(file: int, path: Path) -> bool:
    """Whether the open file still is the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


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
