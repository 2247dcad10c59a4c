"""Checkpoints: only complete and undamaged ones are used.

checkpoints/STEP/
  arrays.safetensors  the training state and, if they differ, the best epoch's variables, by `jaxcnn.runs.arrays`
  progress.json       how far the run is: the epoch, the number of its batches done, all metrics; and the run and the
                      config.json it belongs to
  manifest.json       the SHA-256 of each file above

A checkpoint is written under a temporary name, the manifest last; its arrays' names and sizes are read back, and then
it is renamed. An unfinished checkpoint therefore never has a final name. A checkpoint whose files do not match its
manifest is skipped for the one before it. Each is complete, with the best epoch's variables, so that resuming from an
older one gives the same results and only repeats some steps.

A thread writes the checkpoints: a step waits for a copy of the state in memory, not for the disk.

Checkpoints of earlier versions have a folder `arrays`, written by Orbax; see `jaxcnn.runs.orbax`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxcnn.atomic import on_disk, write_whole
from jaxcnn.errors import UserError, first_line
from jaxcnn.runs import arrays as files
from jaxcnn.runs.record import parsed, reason, text_of

PyTree = Any
Progress = dict[str, Any]
_ARRAYS, _PROGRESS, _MANIFEST = "arrays.safetensors", "progress.json", "manifest.json"
_STEP = re.compile("0|[1-9][0-9]{0,17}")  # int() would also accept 0038, and digits of other scripts
_SPARE = 1 << 20  # bytes in addition to the arrays: their header, and the run's other files


class Checkpoints:
    """The checkpoints in a folder; the first one creates the folder.

    Args:
      path: the absolute path of the folder.
      keep: the number of newest checkpoints to keep.
    """

    def __init__(self, path: Path, keep: int = 2):
        self.path = path
        self.keep = keep
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included.

        Raises:
          UserError: if the folder cannot be read.
        """
        return sorted(int(name) for name in self._names() if _STEP.fullmatch(name))

    def _names(self) -> list[str]:
        """The names of the subfolders, without unfinished ones, and of anything named like a checkpoint."""
        try:
            return [p.name for p in self.path.iterdir() if not p.name.startswith(".") and _may_be_one(p)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {reason(error)}") from None

    # --- writing

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def save(self, step: int, arrays: PyTree, progress: Progress) -> None:
        """Writes a checkpoint in the background. The arrays are copied first, so they may be donated afterwards.

        Raises:
          TrainingError: if this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        with on_disk(f"the checkpoint of step {step} cannot be written to {self.path}"):
            found = files.flat(arrays)
            needed = sum(leaf.nbytes for leaf in found.arrays.values()) + _SPARE
            if shutil.disk_usage(_there(self.path)).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copies = found.copied()
        text = json.dumps({**progress, "step": step})  # serialized now: the run's history grows during the writing
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._writer.submit(self._write, step, copies, text)

    def wait(self) -> None:
        """Waits until the checkpoint under way is on the disk.

        Raises:
          TrainingError: if it cannot be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with on_disk(f"a checkpoint cannot be written to {self.path}"):
                writing.result()

    def close(self) -> None:
        """Waits for the writing and ends the thread."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def _write(self, step: int, arrays: files.Flat, progress: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob(".*"):  # left by a process that was killed
            _delete(left)
        part, done = self.path / f".{step}", self.path / str(step)
        part.mkdir()
        files.write(part / _ARRAYS, arrays)
        files.check(part / _ARRAYS, arrays)
        write_whole(part / _PROGRESS, progress)
        write_whole(part / _MANIFEST, json.dumps(_hashes(part), indent=1))
        if os.path.lexists(done):  # a damaged checkpoint, which the run skipped
            self._remove(done)
        part.rename(done)
        steps = self.steps()
        later = [other for other in steps if other > step]  # from steps that are being repeated
        for old in [*steps[: -self.keep - len(later)], *later]:
            self._remove(self.path / str(old))

    def _remove(self, folder: Path) -> None:
        # Renamed first, so that a half removed checkpoint is not taken for a damaged one.
        gone = folder.rename(folder.with_name(f".gone-{folder.name}"))
        _delete(gone)

    # --- reading

    def newest(self, read: Callable[[Path, Progress], Any]) -> Any:
        """Returns `read(folder, progress)` of the newest undamaged checkpoint; None if there is no checkpoint.

        A warning names the damaged ones.

        Raises:
          UserError: if there are checkpoints, all of them damaged.
        """
        wrong = [
            f"{name} is no name of a checkpoint, which is its step"
            for name in sorted(self._names())
            if not _STEP.fullmatch(name)
        ]
        for step in reversed(self.steps()):
            folder = self.path / str(step)
            problem, progress = _examined(folder, step)
            if problem:
                wrong.append(f"the checkpoint of step {step} is damaged ({problem})")
                continue
            for text in wrong:
                warnings.warn(f"{self.path}: {text}; that of step {step} is used", stacklevel=3)
            return read(folder, progress)
        if wrong:
            raise UserError(f"{self.path}: {'; '.join(wrong)}: there is nothing to go on from, start another run")
        return None


def read_like(folder: Path, like: PyTree) -> PyTree:
    """The arrays of a checkpoint, of the shapes and dtypes of `like`, on this process's first device.

    Raises:
      UserError: if the names or shapes differ.
    """
    try:
        if (folder / _ARRAYS).exists():
            return files.read_like(folder / _ARRAYS, like)
        from jaxcnn.runs import orbax

        return orbax.read_like(folder / "arrays", like)
    except UserError:
        raise
    except Exception as error:  # the files are undamaged, so they are another network's
        first = first_line(error)[:200]
        raise UserError(f"the checkpoint {folder} is of another network or optimizer ({first})") from error


def read_some(folder: Path, names: tuple[str, ...]) -> dict[str, PyTree]:
    """The arrays of a checkpoint under these top-level names, as NumPy arrays.

    Raises:
      UserError: if they cannot be read.
    """
    try:
        if (folder / _ARRAYS).exists():
            return files.read_some(folder / _ARRAYS, names)
        from jaxcnn.runs import orbax

        return orbax.read_some(folder / "arrays", names)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the checkpoint {folder} cannot be read: {reason(error)}") from error


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a checkpoint except the manifest."""
    there = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return {str(path.relative_to(folder)): sha256(path) for path in there}


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _examined(folder: Path, step: int) -> tuple[str | None, Progress]:
    """What is wrong with a checkpoint, or None; and its progress."""
    try:
        expected = parsed(text_of(folder / _MANIFEST))
        found = _hashes(folder)
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read: {reason(error)}", {}
    if not isinstance(expected, dict) or _PROGRESS not in expected:
        return "its manifest is of another form", {}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is not there", {}
        if expected.get(name) != found[name]:
            return f"{name} is not what was written", {}
    try:
        progress = parsed(text_of(folder / _PROGRESS))
    except (OSError, ValueError) as error:
        return f"{_PROGRESS} cannot be read: {reason(error)}", {}
    if not isinstance(progress, dict) or progress.get("step", step) != step:
        return "it is another step's", {}
    return None, progress


def _may_be_one(path: Path) -> bool:
    return bool(_STEP.fullmatch(path.name)) or path.is_dir()


def _delete(path: Path) -> None:
    """Removes a folder, a link or a file; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _there(path: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
