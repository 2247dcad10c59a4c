"""The folder of a run: what was asked, what was measured, and the weights.

config.json    what was asked; `jaxcnn evaluate` and `predict` rebuild the network from it
metrics.jsonl  a line an epoch
result.json    what came of it
curves.png, confusion.png, mistakes.png
checkpoints/   the newest states, with the best epoch's weights; see `jaxcnn.train.checkpoint`
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.errors import UserError
from jaxcnn.train.checkpoint import Checkpoints, Progress, on_disk, read_like, read_some
from jaxcnn.train.objective import Record
from jaxcnn.train.step import TrainState


class Run:
    """A run's folder.

    Use `Run.new` for a new one and `Run.open` for one that is there.

    Attributes:
      checkpoints: those in it.
    """

    def __init__(self, path: str | Path):
        # Orbax takes absolute paths only.
        self.path = Path(path).expanduser().absolute()
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @staticmethod
    def new(path: str | Path) -> Run:
        """A folder for `make` to make; an empty one that is there is taken.

        Raises:
          UserError: when it is there and not empty.
        """
        run = Run(path)
        # A part of a file is what a process left that was killed before its run began.
        if run.path.exists() and (not run.path.is_dir() or any(p.suffix != ".part" for p in run.path.iterdir())):
            raise UserError(
                f"the run folder {path} is there and not empty; choose another --run, or go on with --resume"
            )
        return run

    def make(self) -> None:
        """Makes the folder.

        Raises:
          TrainingError: when it cannot be made.
        """
        with on_disk(f"the run folder {self.path} cannot be made"):
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
        with on_disk(f"{self.path / name} cannot be written"):
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

    def save(self, state: TrainState, progress: Progress, best: tuple[Any, Any] | None = None) -> None:
        """Writes a checkpoint in the background.

        Args:
          progress: what a resumed run has to know beside the state; JSON.
          best: the variables of the best epoch, where they are not the state's.
        """
        arrays = _plain(state)
        if best is not None:
            arrays["best"] = {"params": best[0], "model_state": best[1]}
        apart = {"best_apart": best is not None, "config": self._asked()}
        self.checkpoints.save(int(state.step), arrays, {**progress, **apart})

    def restore(self, like: TrainState) -> tuple[TrainState, tuple[Any, Any], Progress] | None:
        """State, best variables and progress of the newest checkpoint; None where there is none yet.

        Args:
          like: a state of the same shapes.

        Raises:
          UserError: when all checkpoints are damaged, or of another network, or config.json is not what it was.
        """

        def read(folder: Path, progress: Progress) -> tuple[TrainState, tuple[Any, Any], Progress]:
            if progress["config"] != self._asked():
                raise UserError(
                    f"{self.path / 'config.json'} is not what it was when the run began: it cannot go on as it would "
                    "have. Start another run for other settings"
                )
            wanted = _plain(like)
            if progress["best_apart"]:
                wanted["best"] = {"params": _averaged(like), "model_state": like.model_state}
            arrays = _read(folder, wanted)
            best = arrays.pop("best", None)
            key = jax.random.wrap_key_data(arrays["key"], impl=jax.random.key_impl(like.key))
            state = like.replace(**{**arrays, "key": key})
            return state, (best["params"], best["model_state"]) if best else variables(state), progress

        return self.checkpoints.newest(read)

    def _asked(self) -> str | None:
        """The SHA-256 of config.json."""
        path = self.path / "config.json"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def restore_best(self) -> tuple[Any, Any]:
        """The parameters and the model's state after the best epoch, whatever the optimizer was.

        Raises:
          UserError: when there is no checkpoint, all are damaged, or the first epoch has not ended.
        """

        def read(folder: Path, progress: Progress) -> tuple[Any, Any] | None:
            if not progress["history"]:
                return None
            arrays = read_some(folder, ("best",) if progress["best_apart"] else ("params", "model_state", "ema"))
            arrays = jax.tree.map(jnp.asarray, arrays.get("best", arrays))
            return arrays.get("ema", arrays["params"]), arrays.get("model_state", {})

        found = self.checkpoints.newest(read)
        if found is None:
            raise UserError(f"{self.path} has no weights yet: the run has not come to the end of its first epoch")
        return found


def variables(state: TrainState) -> tuple[Any, Any]:
    """The parameters that are measured and kept, the averaged ones if there are such, and the model's state."""
    return _averaged(state), state.model_state


def _averaged(state: TrainState) -> Any:
    return state.params if state.ema is None else state.ema


def _read(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a checkpoint, also of one that was written before skipped steps were counted."""
    try:
        return read_like(folder, wanted)
    except UserError:
        if "scale" not in wanted:
            raise
        scale = wanted["scale"]
        arrays = read_like(folder, {**wanted, "scale": {"value": scale.value, "taken": scale.taken}})
        return {**arrays, "scale": scale.replace(**arrays["scale"])}


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as arrays: random keys as their data; without what it does not have."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    arrays = {name: value for name, value in fields.items() if value is not None}
    return {**arrays, "key": jax.random.key_data(state.key)}
