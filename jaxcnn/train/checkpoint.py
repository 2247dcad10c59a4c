"""Checkpoints that are whole, or are not used.

checkpoints/STEP/
  arrays/        the training state and, where they are others, the best epoch's variables, by Orbax
  progress.json  how far the run is: the epoch, its batches that are done, and all that was measured
  manifest.json  the SHA-256 of each file above

A checkpoint is written under another name, the manifest last, and then renamed: one that a kill cut short never has its
name. One whose files are not those of its manifest, whatever happened to them on the disk, is passed over for the one
before it. Each is complete in itself, the best epoch's variables included, so which one a run goes on from changes
nothing but how much of it is computed again.

All of it goes on in a thread: a step waits for a copy of the state in memory, not for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxcnn.errors import TrainingError, UserError, first_line

PyTree = Any
Progress = dict[str, Any]
_SPARE = 1 << 20  # bytes beside the arrays: Orbax's indices, and the run's other files


class Checkpoints:
    """The checkpoints in a folder, which is made with the first of them.

    Args:
      path: absolute.
      keep: how many stay, the newest ones.
    """

    def __init__(self, path: Path, keep: int = 2):
        self.path = path
        self.keep = keep
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, whole or not."""
        if not self.path.is_dir():
            return []
        return sorted(int(p.name) for p in self.path.iterdir() if p.name.isdecimal() and p.is_dir())

    # --- writing

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and not self._writing.done()

    def save(self, step: int, arrays: PyTree, progress: Progress) -> None:
        """Writes a checkpoint in the background. The arrays are copied first and may be donated afterwards.

        Raises:
          TrainingError: when this one, or the one before it, cannot be written.
        """
        self.wait()
        with on_disk(f"the checkpoint of step {step} cannot be written to {self.path}"):
            # Orbax's threads fail one by one and noisily when the disk fills under them.
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) + _SPARE
            if shutil.disk_usage(_there(self.path)).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copies = jax.tree.map(jnp.copy, arrays)
        text = json.dumps(progress)  # now: the run's history grows while this is written
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._writer.submit(self._write, step, copies, text)

    def wait(self) -> None:
        """Waits until what is being written is on the disk.

        Raises:
          TrainingError: when it cannot be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with on_disk(f"a checkpoint cannot be written to {self.path}"):
                writing.result()

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def _write(self, step: int, arrays: PyTree, progress: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob(".*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        part, done = self.path / f".{step}", self.path / str(step)
        part.mkdir()
        with _orbax() as orbax:
            orbax.save(part / "arrays", args=ocp.args.StandardSave(jax.device_get(arrays)))
        (part / "progress.json").write_text(progress)
        (part / "manifest.json").write_text(json.dumps(_hashes(part), indent=1))
        if done.exists():  # a damaged one, from which the run did not go on
            self._remove(done)
        part.rename(done)
        steps = self.steps()
        later = [other for other in steps if other > step]  # of a time that is computed again
        for old in [*steps[: -self.keep - len(later)], *later]:
            self._remove(self.path / str(old))

    def _remove(self, folder: Path) -> None:
        # Under another name first: what is half removed has to look like nothing.
        gone = folder.rename(folder.with_name(f".gone-{folder.name}"))
        shutil.rmtree(gone, ignore_errors=True)

    # --- reading

    def newest(self, read: Callable[[Path, Progress], Any]) -> Any:
        """What `read(folder, progress)` makes of the newest checkpoint that is whole; None when there is none at all.

        A damaged one is named in a warning.

        Raises:
          UserError: when there are checkpoints and all of them are damaged.
        """
        wrong = []
        for step in reversed(self.steps()):
            folder = self.path / str(step)
            if problem := _damage(folder):
                wrong.append(f"the checkpoint of step {step} is damaged ({problem})")
                continue
            for text in wrong:
                warnings.warn(f"{self.path}: {text}; that of step {step} is used", stacklevel=3)
            return read(folder, json.loads((folder / "progress.json").read_text()))
        if wrong:
            raise UserError(f"{self.path}: {'; '.join(wrong)}: there is nothing to go on from, start another run")
        return None


def read_like(folder: Path, like: PyTree) -> PyTree:
    """The arrays of a checkpoint, of the shapes and dtypes of `like`, on this process's first device.

    Raises:
      UserError: when they have other shapes, or others are there.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
    try:
        with _orbax() as orbax:
            return orbax.restore(folder / "arrays", args=ocp.args.StandardRestore(wanted))
    except Exception as error:  # its files are what they were: so they are another network's
        first = first_line(error)[:200]
        raise UserError(f"the checkpoint {folder} is of another network or optimizer ({first})") from error


def read_some(folder: Path, names: tuple[str, ...]) -> dict[str, PyTree]:
    """Those arrays of a checkpoint whose first name is one of these, as NumPy has them."""
    _silence()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        metadata = orbax.metadata(folder / "arrays")
        tree = getattr(metadata, "item_metadata", metadata)
        tree = {name: value for name, value in getattr(tree, "tree", tree).items() if name in names}
        wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return orbax.restore(
            folder / "arrays", args=ocp.args.PyTreeRestore(item=tree, restore_args=wanted, partial_restore=True)
        )


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a checkpoint, but for the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, if anything is."""
    try:
        expected, found = json.loads((folder / "manifest.json").read_text()), _hashes(folder)
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    if not isinstance(expected, dict) or "progress.json" not in expected:
        return "its manifest is of another form"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is not there"
        if expected.get(name) != found[name]:
            return f"{name} is not what was written"
    return None


def _there(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


# --- Orbax -------------------------------------------------------------------------------------------------------


def _orbax() -> ocp.Checkpointer:
    """Orbax in this process alone: the processes of a run agree on what to do in `jaxcnn.devices`."""
    _silence()
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix="own")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _silence() -> None:
    """Without what Orbax logs, and what its threads print when it has given up: what is wrong is said once, by us."""
    sys.unraisablehook = _unraisable
    logging.getLogger("absl").setLevel(logging.CRITICAL)


_report = sys.unraisablehook


def _unraisable(lost: Any) -> None:
    """Python's hook, but for what TensorStore's threads write when Orbax has given up on a bad file or a full disk."""
    if str(lost.exc_value) != "Event loop is closed":
        _report(lost)


@contextlib.contextmanager
def on_disk(what: str) -> Iterator[None]:
    """Turns an error of the file system, Orbax's and TensorStore's included, into one sentence."""
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
