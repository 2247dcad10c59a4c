"""The folder of a run: what was asked, what was measured, and the weights.

config.json    what was asked; `jaxcnn evaluate` and `predict` rebuild the network from it
metrics.jsonl  a line an epoch
result.json    what came of it
curves.png, confusion.png, mistakes.png
checkpoints/   the best epoch's and the last one's state, by Orbax
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcnn.errors import TrainingError, UserError
from jaxcnn.train.step import TrainState

Record = dict[str, Any]
_SPARE = 1 << 20  # bytes beside the arrays: Orbax's indices, and the run's other files


class Run:
    """A run's folder.

    Use `Run.new` for a new one and `Run.open` for one that is there.
    """

    def __init__(self, path: str | Path):
        # Orbax takes absolute paths only.
        self.path = Path(path).expanduser().absolute()
        self._manager: ocp.CheckpointManager | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @staticmethod
    def new(path: str | Path) -> Run:
        """A folder for `make` to make; an empty one that is there is taken.

        Raises:
          UserError: when it is there and not empty.
        """
        run = Run(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise UserError(
                f"the run folder {path} is there and not empty; choose another --run, or go on with --resume"
            )
        return run

    def make(self) -> None:
        """Makes the folder.

        Raises:
          TrainingError: when it cannot be made.
        """
        with _disk(f"the run folder {self.path} cannot be made"):
            self.path.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def open(path: str | Path) -> Run:
        """The folder of an earlier run.

        Raises:
          UserError: when it is not there, or is no run.
        """
        run = Run(path)
        if not run.path.is_dir():
            raise UserError(f"the run folder {path} is not there")
        if not (run.path / "config.json").is_file():
            raise UserError(f"{path} is no run of jaxcnn: it has no config.json")
        return run

    # --- files

    @property
    def config(self) -> Record:
        return self._read("config.json")

    @property
    def result(self) -> Record | None:
        return self._read("result.json") if (self.path / "result.json").is_file() else None

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file as a whole or not at all."""
        self._replace(name, json.dumps(value, indent=2) + "\n")

    def write_metrics(self, history: list[Record]) -> None:
        """Writes metrics.jsonl anew."""
        self._replace("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def _replace(self, name: str, text: str) -> None:
        part = self.path / f".{name}.part"
        with _disk(f"{self.path / name} cannot be written"):
            try:
                part.write_text(text)
                os.replace(part, self.path / name)
            finally:
                part.unlink(missing_ok=True)

    def _read(self, name: str) -> Record:
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from None

    # --- checkpoints

    @property
    def _checkpoints(self) -> ocp.CheckpointManager:
        if self._manager is None:
            # Each thread that fails prints its trace; what is wrong is said once, by `_disk` or `_restore`.
            sys.unraisablehook = _unraisable
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            keep = ocp.checkpoint_managers

            def best(metrics: Any) -> Any:
                return tuple(metrics["score"])

            options = ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), keep.BestN(get_metric_fn=best, n=1)]),
                best_fn=best,  # with it the scores are on the disk, where a later process finds them
            )
            with _disk(f"{self.path / 'checkpoints'} cannot be opened"):
                self._manager = ocp.CheckpointManager(self.path / "checkpoints", options=options)
        return self._manager

    def save(self, epoch: int, state: TrainState, history: list[Record]) -> None:
        """Saves the state after an epoch, in the background; kept are the last one and the one with the best score."""
        self.wait()
        with _disk(f"the checkpoint of epoch {epoch} cannot be written to {self.path / 'checkpoints'}"):
            tree = _plain(state)
            # Orbax's threads fail one by one and noisily when the disk fills under them.
            if shutil.disk_usage(self.path).free < sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._checkpoints.save(
                epoch,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree), history=ocp.args.JsonSave({"epochs": list(history)})
                ),
                metrics={"score": list(score(history[-1]))},
                force=True,
            )

    def wait(self) -> None:
        """Waits until what is being saved is on the disk."""
        if self._manager is not None:
            with _disk(f"a checkpoint cannot be written to {self.path / 'checkpoints'}"):
                self._manager.wait_until_finished()

    def epochs(self) -> list[int]:
        """The epochs whose state is there."""
        return sorted(self._checkpoints.all_steps()) if (self.path / "checkpoints").is_dir() else []

    def restore(self, epoch: int, like: TrainState) -> tuple[TrainState, list[Record]]:
        """The state and the history after an epoch. `like` has the same shapes.

        Raises:
          UserError: when the checkpoint is damaged, or of another network.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), _plain(like))
        tree, history = self._restore(epoch, ocp.args.StandardRestore(abstract))
        return TrainState(**{**tree, "key": jax.random.wrap_key_data(tree["key"])}), history

    def restore_best(self) -> tuple[Any, Any]:
        """The parameters and the model's state after the best epoch, whatever the optimizer was.

        Raises:
          UserError: when there is no checkpoint, or it is damaged.
        """
        epochs = self.epochs()
        if not epochs:
            raise UserError(f"{self.path} has no checkpoint yet: the run ended before its first epoch did")
        device = jax.local_devices()[0]
        # The last checkpoint's history says which epoch was the best.
        trees = {}
        history: list[Record] = []
        for epoch in reversed(epochs):
            trees[epoch], found = self._restore(
                epoch, ocp.args.StandardRestore(fallback_sharding=jax.sharding.SingleDeviceSharding(device))
            )
            history = history or found
        best = best_of(history)["epoch"]
        tree = trees.get(best, trees[epochs[-1]])
        return tree["params"], tree["model_state"]

    def _restore(self, epoch: int, args: Any) -> tuple[dict[str, Any], list[Record]]:
        manager, wanted = self._checkpoints, ocp.args.Composite(state=args, history=ocp.args.JsonRestore())
        try:
            item = manager.restore(epoch, args=wanted)
            return item["state"], item["history"]["epochs"]
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"the checkpoint of epoch {epoch} in {self.path} cannot be restored: it is damaged, or of another "
                f"network ({first})"
            ) from error

    def close(self) -> None:
        if self._manager is not None:
            with _disk(f"a checkpoint cannot be written to {self.path / 'checkpoints'}"):
                self._manager.close()
            self._manager = None


def score(record: Record) -> tuple[float, float, int]:
    """What makes one epoch better than another: validation accuracy, then loss, then being the later one."""
    return record.get("validation_accuracy", 0.0), -record.get("validation_loss", 0.0), record["epoch"]


def best_of(history: list[Record]) -> Record:
    """The record of the best epoch."""
    return max(history, key=score)


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as arrays: random keys as their data."""
    return {
        "step": state.step,
        "params": state.params,
        "model_state": state.model_state,
        "opt_state": state.opt_state,
        "key": jax.random.key_data(state.key),
    }


_report = sys.unraisablehook


def _unraisable(lost: Any) -> None:
    """Python's hook, but for what TensorStore's threads write when Orbax has given up on a bad file or a full disk."""
    if str(lost.exc_value) != "Event loop is closed":
        _report(lost)


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
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
