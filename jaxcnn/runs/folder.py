"""The folder of a run: settings, metrics and weights.

config.json    the settings, and the hashes of the data; `jaxcnn evaluate` and `predict` rebuild the network from it
metrics.jsonl  one line per epoch
result.json    the final results
failed.json    why the training failed, until it is resumed
confusion.png, mistakes.png, curves.png
checkpoints/   the newest states, with the best epoch's weights; see `jaxcnn.runs.checkpoint`
lock           while it is trained: by which process; see `jaxcnn.runs.lock`

Each file is written completely or not at all, in this order; curves.png is the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.atomic import PART, Content, on_disk, write_whole
from jaxcnn.devices import copied
from jaxcnn.errors import TrainingError, UserError
from jaxcnn.runs import lock
from jaxcnn.runs.checkpoint import Checkpoints, Progress, read_like, read_some, sha256
from jaxcnn.runs.record import Record, read_object, reason

State = Any
"""A training's state, a dataclass: at least `step`, `params`, `model_state`, `ema` and `replace`."""
FAILED = "failed.json"
LAST = "curves.png"
"""The file that is written last."""


class Run:
    """The folder of a run, and how `fit` writes it: `fit(..., run=Run("runs/a", save_every=60))`.

    `Run(path)` is a new run, or with `resume` one that goes on. `Run.numbered` finds its own name, and `Run.open` reads
    the folder of an earlier run.

    Args:
      path: the folder.
      resume: go on from the newest checkpoint, at the batch that comes next, with the data that the run began with.
      save_every: the seconds after which a checkpoint is written inside an epoch; there is one after each epoch.
      keep: the number of checkpoints that stay.
      tensorboard: whether the metrics are written for TensorBoard, too, to `path/tensorboard`.
      profile: the number of steps that are profiled, to `path/profile`, for TensorBoard or Perfetto.
      config: what config.json says beside the settings that `fit` knows.

    Attributes:
      path: absolute.
      checkpoints: those in it.

    Raises:
      UserError: if a time is negative, or `keep` is below 1.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool = False,
        save_every: float = 600,
        keep: int = 2,
        tensorboard: bool = False,
        profile: int = 0,
        config: Mapping[str, Any] | None = None,
    ):
        if keep < 1:
            raise UserError(f"keep={keep}: at least 1 checkpoint has to stay")
        if profile < 0 or not save_every >= 0:
            raise UserError(f"profile={profile} and save_every={save_every} should be at least 0")
        self.resume, self.save_every = resume, save_every
        self.tensorboard, self.profile, self.asked = tensorboard, profile, dict(config or {})
        self.checkpoints = Checkpoints(Path(), keep)
        self.move(path)
        self._given = path
        self._numbered: Path | None = None
        self._lock: lock.Lock | None = None
        self._belongs: str | None = None  # the hash of config.json when this process began

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def move(self, path: str | Path) -> None:
        """Sets the path of the folder, which does not exist yet."""
        self.path = Path(path).expanduser().absolute()
        self.checkpoints.path = self.path / "checkpoints"

    def looked_at(self) -> Run:
        """Checks the folder: a new one must be empty, a resumed one must be a run.

        Raises:
          UserError: if it is not.
        """
        if self.resume:
            Run.open(self._given)
        elif self._numbered is None:
            self._check_empty(self._given)
        return self

    @staticmethod
    def new(path: str | Path, **settings: Any) -> Run:
        """A folder that `make` will create; it may exist if it is empty.

        Raises:
          UserError: if it is not empty, or cannot be read.
        """
        return Run(path, **settings).looked_at()

    @staticmethod
    def numbered(path: str | Path, **settings: Any) -> Run:
        """A folder PATH-1, PATH-2, ... for `make` to choose and make: the first one that is not there."""
        run = Run(path, **settings)
        run._numbered = run.path
        return run

    def _check_empty(self, path: str | Path) -> None:
        try:
            there = self.path.exists()
            # A part of a file, and a lock, are what a process left that was killed before its run began.
            empty = not there or (self.path.is_dir() and all(map(_is_left, self.path.iterdir())))
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be used: {reason(error)}") from None
        if not empty:
            raise UserError(
                f"the run folder {path} is there and not empty; choose another --run, or go on with --resume"
            )

    def make(self) -> None:
        """Makes the folder and locks it for this process.

        Raises:
          TrainingError: if it cannot be made.
          UserError: if another process was faster.
        """
        with on_disk(f"the run folder {self.path} cannot be made"):
            if self._numbered is None:
                self.path.mkdir(parents=True, exist_ok=True)
            else:
                base = self._numbered
                base.parent.mkdir(parents=True, exist_ok=True)
                for number in itertools.count(1):
                    self.move(base.with_name(f"{base.name}-{number}"))
                    try:
                        self.path.mkdir()  # of several processes, one makes it
                        break
                    except FileExistsError:
                        continue
        self.take()
        try:
            self._check_empty(self.path)
        except UserError:
            self.release()
            raise

    @staticmethod
    def open(path: str | Path) -> Run:
        """The folder of an earlier run.

        Raises:
          UserError: if it does not exist or is not a run.
        """
        run = Run(path)
        try:
            there, begun = run.path.is_dir(), (run.path / "config.json").is_file()
        except OSError as error:
            raise UserError(f"the run folder {path} cannot be read: {reason(error)}") from None
        if not there:
            raise UserError(f"the run folder {path} is not there")
        if not begun:
            raise UserError(f"{path} is no run of jaxcnn: it has no config.json")
        return run

    # --- one process at a time

    def take(self) -> None:
        """Locks the folder for this process, until `release`.

        Raises:
          UserError: if another process holds the lock.
          TrainingError: if the lock cannot be written.
        """
        if self._lock is None:
            with on_disk(f"the run folder {self.path} cannot be locked"):
                self._lock = lock.acquire(self.path / lock.NAME)
            for part in self.path.iterdir():
                if part.name.startswith(".") and part.suffix == PART:  # of a process that was killed
                    part.unlink(missing_ok=True)
            (self.path / FAILED).unlink(missing_ok=True)

    def touch(self) -> None:
        """Shows other hosts that the run is being trained."""
        if self._lock is not None:
            self._lock.touch()

    def release(self) -> None:
        """Unlocks the folder."""
        taken, self._lock = self._lock, None
        if taken is not None:
            taken.release()

    # --- files

    @property
    def config(self) -> Record:
        return read_object(self.path / "config.json")

    @property
    def result(self) -> Record | None:
        return read_object(self.path / "result.json") if (self.path / "result.json").is_file() else None

    @property
    def pictured(self) -> bool:
        """Whether the pictures were drawn, which come after result.json."""
        return (self.path / LAST).is_file()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Makes the folder, with config.json."""
        self.make()
        self.write("config.json", {**config, "id": uuid.uuid4().hex})
        self._belongs = self._asked()

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file completely or not at all."""
        self.put(name, json.dumps(value, indent=2) + "\n")

    def write_metrics(self, history: list[Record]) -> None:
        """Writes metrics.jsonl anew."""
        self.put("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def failed(self, reason: str) -> None:
        """Writes why the training of this process failed, if the disk allows; a resumed run removes it."""
        if self._lock is not None and (self.path / "config.json").is_file():
            with contextlib.suppress(TrainingError):
                self.write(FAILED, {"error": reason})

    def put(self, name: str, content: Content) -> None:
        """Writes a file as a whole or not at all.

        Raises:
          TrainingError: when it cannot be written.
        """
        with on_disk(f"{self.path / name} cannot be written"):
            write_whole(self.path / name, content)

    # --- checkpoints

    def save(self, state: State, progress: Progress, best: tuple[Any, Any] | None = None) -> None:
        """Writes a checkpoint in the background.

        Args:
          progress: what a resumed run needs in addition to the state; JSON.
          best: the variables of the best epoch, if they are not the state's.
        """
        arrays = _plain(state)
        if best is not None:
            arrays["best"] = {"params": best[0], "model_state": best[1]}
        self._belongs = self._belongs or self._asked()
        belongs = {"best_apart": best is not None, "config": self._belongs}
        self.checkpoints.save(int(state.step), arrays, {**progress, **belongs})

    def restore(self, like: State) -> tuple[State, tuple[Any, Any], Progress] | None:
        """State, best variables and progress of the newest checkpoint; None where there is none yet.

        Args:
          like: a state of the same shapes.

        Raises:
          UserError: when all checkpoints are damaged, or of another network, or config.json is not what it was.
        """

        def read(folder: Path, progress: Progress) -> tuple[State, tuple[Any, Any], Progress]:
            self._check_config(progress)
            wanted = _plain(like)
            if progress["best_apart"]:
                wanted["best"] = {"params": _averaged(like), "model_state": like.model_state}
            arrays = _read(folder, wanted)
            best = arrays.pop("best", None)
            state = like.replace(**arrays)
            return state, (best["params"], best["model_state"]) if best else variables(state), progress

        return self.checkpoints.newest(read)

    def check(self, weights: bool = False) -> None:
        """Checks that config.json is that of the newest checkpoint, if there is one.

        Args:
          weights: whether a checkpoint of a completed epoch is required.

        Raises:
          UserError: if it is not, or all checkpoints are damaged.
        """

        def read(folder: Path, progress: Progress) -> bool:
            self._check_config(progress)
            return bool(progress["history"])

        if not self.checkpoints.newest(read) and weights:
            raise self._without_weights()

    def _without_weights(self) -> UserError:
        return UserError(f"{self.path} has no weights yet: the run has not come to the end of its first epoch")

    def _check_config(self, progress: Progress) -> None:
        if progress.get("config") not in (None, self._asked()):
            raise UserError(
                f"{self.path / 'config.json'} is not what it was when the run began, or the checkpoints are another "
                "run's: what they hold belongs to other settings. Bring the file back, or start another run"
            )

    def _asked(self) -> str | None:
        """The SHA-256 of config.json."""
        path = self.path / "config.json"
        return sha256(path) if path.is_file() else None

    def restore_best(self) -> tuple[Any, Any]:
        """The parameters and the model's state after the best epoch, whatever the optimizer was.

        Raises:
          UserError: when there is no checkpoint, all are damaged, the first epoch has not ended, or config.json is not
            what it was.
        """

        def read(folder: Path, progress: Progress) -> tuple[Any, Any] | None:
            self._check_config(progress)
            if not progress["history"]:
                return None
            arrays = read_some(folder, ("best",) if progress["best_apart"] else ("params", "model_state", "ema"))
            arrays = copied(arrays.get("best", arrays))
            return arrays.get("ema", arrays["params"]), arrays.get("model_state", {})

        found = self.checkpoints.newest(read)
        if found is None:
            raise self._without_weights()
        return found


def _is_left(path: Path) -> bool:
    return path.suffix == PART or path.name == lock.NAME


def variables(state: State) -> tuple[Any, Any]:
    """The parameters that are evaluated and kept (an average, if the state or the optimizer keeps one), and the model's
    state."""
    return _averaged(state), state.model_state


def _averaged(state: State) -> Any:
    from jaxcnn.runs.averages import compiled  # on first use: the command line starts faster without Optax

    return compiled(getattr(state, "opt_state", None), state.params) if state.ema is None else state.ema


def _read(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a checkpoint, also of one from before skipped steps were counted."""
    try:
        return read_like(folder, wanted)
    except UserError:
        if "scale" not in wanted:
            raise
        scale = wanted["scale"]
        arrays = read_like(folder, {**wanted, "scale": {"value": scale.value, "taken": scale.taken}})
        return {**arrays, "scale": scale.replace(**arrays["scale"])}


def _plain(state: State) -> dict[str, Any]:
    """The state as a dict, without what it does not have."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}
