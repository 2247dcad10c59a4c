"""A training in progress, and its callbacks: `fit` makes a `Training` and runs it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.batches import batches
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.stream import prefetch
from jaxcnn.devices import OneDevice, copied, first_process, from_first, together
from jaxcnn.errors import TrainingError, UserError
from jaxcnn.format import plural
from jaxcnn.ops import cpu
from jaxcnn.runs.averages import averages
from jaxcnn.runs.folder import variables
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.record import Record
from jaxcnn.runs.writer import RunWriter
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.evaluate import Evaluation
from jaxcnn.train.progress import Display
from jaxcnn.train.step import SKIPPED, LossScale, Step, TrainState, Watch
from jaxcnn.train.stopping import Stop, asked_to_stop

_SKIPPED = 50  # consecutive skipped steps that end a training; 48 halvings lead from the largest scale to the smallest
_REFRESH = 0.5  # seconds between two reads of the metrics; each waits for the steps in flight


class Callback:
    """The base class of callbacks. Each method does nothing; a subclass overrides those it needs.

    With several processes, each calls its callbacks, and the first process's record is written.

    Attributes:
      name: the name under which its state is saved; the name of the class when empty.
      watch: `(gradients, updates, params) -> {name: scalar}`, compiled into the step; the record of an epoch has
        the mean over its steps.
      figures: the names of validation metrics that `epoch` adds, without `validation_`; one of them may be the
        objective's `primary`.
    """

    name: str = ""
    watch: Watch | None = None
    figures: tuple[str, ...] = ()

    def begin(self, training: Training) -> None:
        """Called before the first step of this process; in a resumed run, after `Callback.load`."""

    def step(self, training: Training) -> None:
        """Called after each step. `training.metrics` are on the device: reading one waits for the step."""

    def epoch(self, training: Training, record: Record) -> None:
        """Called after each epoch and its validation, before the best epoch is chosen and the record is written.

        Numbers added to `record` are written to metrics.jsonl, and to TensorBoard if the run uses it.
        """

    def end(self, training: Training) -> None:
        """Called after the last epoch, and also if the training was stopped or failed."""

    def save(self) -> Any:
        """Returns the callback's state as JSON, or None; each checkpoint holds it."""
        return None

    def load(self, saved: Any) -> None:
        """Restores what `Callback.save` returned; called before `Callback.begin` in a resumed run."""


def names_of(callbacks: Sequence[Callback]) -> list[str]:
    """The name of each callback.

    Raises:
      UserError: if one is not a `Callback`, or two have the same name.
    """
    names: list[str] = []
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks: expected instances of cnn.train.Callback, got {type(callback).__name__}")
        name = callback.name or type(callback).__name__
        if name in names:
            raise UserError(f"callbacks: two are named {name!r}; give one of them another `name`")
        names.append(name)
    return names


def check_record(record: Record, before: set[str], name: str) -> None:
    """Checks what a callback added to a record, and converts it to float.

    Raises:
      UserError: if a value is not a number.
    """
    for key in record.keys() - before:
        value = record[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            try:
                record[key] = float(value)
            except (TypeError, ValueError):
                raise UserError(
                    f"the callback {name} added {key!r} to the record: expected a number, got {type(value).__name__}"
                ) from None


@dataclass
class Place:
    """The position of a training: all that resuming needs in addition to the state. JSON.

    Attributes:
      history: the records of the completed epochs.
      position: the number of completed batches of the next epoch.
      rows: their metrics.
      seconds: the time spent.
      stopped: why a callback ended the training; empty if none did.
      callbacks: the saved state of the callbacks, by name.
    """

    history: list[Record] = field(default_factory=list)
    position: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""
    callbacks: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(progress: dict[str, Any]) -> Place:
        """The position in the progress of a checkpoint."""
        return Place(**{f.name: progress[f.name] for f in dataclasses.fields(Place) if f.name in progress})

    def next_epoch(self, record: Record) -> None:
        self.history.append(record)
        self.position, self.rows = 0, []


@dataclass(eq=False)
class Training:
    """A training in progress, as its callbacks see it.

    Attributes:
      model, objective, data, validation: the arguments of `fit`.
      primary: the metric that chooses the best epoch.
      epochs, batch_size, seed, patience: as given to `fit`; the batch size is at most the number of examples.
      devices: the devices that hold the state.
      state: the state after the last step, on the devices.
      best: the variables `(params, model_state)` of the best epoch so far.
      metrics: those of the last step, on the device.
      epoch: the number of the current epoch, from 1.
      place: the position of the training.
    """

    model: Layer
    objective: Objective
    data: Any
    validation: Any
    primary: Primary
    epochs: int
    batch_size: int
    seed: int
    patience: int | None
    devices: OneDevice
    state: TrainState
    take_step: Step
    evaluate: Callable[..., Evaluation]
    writer: RunWriter
    callbacks: Sequence[Callback] = ()
    began: float = field(default_factory=time.monotonic)
    place: Place = field(default_factory=Place)
    best: tuple[Any, Any] = (None, None)
    metrics: dict[str, jax.Array] = field(default_factory=dict)
    epoch: int = 0
    _saved: int = -1  # the step of the newest checkpoint
    _compiled: bool = False  # whether this process has taken a step

    # --- for callbacks

    @property
    def history(self) -> list[Record]:
        """The records of the completed epochs."""
        return self.place.history

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in the training data."""
        return len(self.data) // self.batch_size

    @property
    def unit(self) -> str:
        """What the examples are called, in the plural."""
        return self.objective.unit or ("examples" if isinstance(self.data, Examples) else "images")

    @property
    def variables(self) -> tuple[Any, Any]:
        """The parameters to evaluate (averaged, if an average is kept) and the model's state, on one device."""
        return variables(self.devices.single(self.state))

    @property
    def path(self) -> Path | None:
        """The run's folder; None if nothing is written."""
        return self.writer.path

    @property
    def seconds(self) -> float:
        """The training time in seconds, including that before resuming."""
        return self.place.seconds + time.monotonic() - self.began

    def stop(self, reason: str) -> None:
        """Ends the training after the current epoch, which is still evaluated and recorded."""
        self.place.stopped = reason or "stopped by a callback"

    # --- the loop

    def run(self, show: bool) -> None:
        """Trains from the current position to the end."""
        found = self.writer.restore(self.state)
        self.best = variables(self.state)
        if found is not None:
            self.state, self.best, progress = found
            self.place = Place.of(progress)
            self._saved = int(self.state.step)
        self.best = copied(self.best)
        self.state = self.devices.replicate(self.state)
        for name, callback in zip(names_of(self.callbacks), self.callbacks, strict=True):
            if name in self.place.callbacks:
                callback.load(self.place.callbacks[name])
        self.writer.watch(self.history)
        examples = self.steps_per_epoch * self.batch_size
        with (
            Display(self.epochs, examples, show and first_process(), primary=self.primary, unit=self.unit) as display,
            asked_to_stop(self.writer.folder) as stop,
            together(),
        ):
            if line := cpu.notice():
                display.line(line)
            try:
                for callback in self.callbacks:
                    callback.begin(self)
                self._run_epochs(display, stop)
            finally:
                for callback in self.callbacks:
                    callback.end(self)
                self.writer.wait()

    def _run_epochs(self, display: Display, stop: Stop) -> None:
        while len(self.history) < self.epochs and not (why := self._ends()):
            self.epoch = len(self.history) + 1
            record = self._one_epoch(display, stop)
            self.place.next_epoch(record)
            if self.primary.best(self.history) is record:
                self.best = copied(self.variables)
            self._save(wait=stop.asked(record["step"]))
            self.writer.epoch(record, self.history)
            display.epoch(record)
            stop.leave(record["step"])
        if len(self.history) < self.epochs:
            display.line(f"stopped: {why}")
        last = self.history[-1]["step"]
        check_skipped(self.place, last, last=True)
        if self.validation is not None and not any(self.primary.value(record) is not None for record in self.history):
            display.line(f"the validation {self.primary.primary} was finite in no epoch: no epoch is known as the best")
        if self._saved != last:
            self._save(wait=True)

    def _ends(self) -> str:
        """Why the training ends early; empty if it does not. The same in all processes."""
        if self.patience is not None and self.history and self.primary.stalled(self.history, self.patience):
            return f"no better validation for {self.patience} {plural(self.patience, 'epoch')}"
        return from_first(lambda: self.place.stopped) if self.callbacks else self.place.stopped

    def _one_epoch(self, display: Display, stop: Stop) -> Record:
        """Runs the steps and the validation of an epoch; returns its record."""
        rate = self._steps(display, stop)
        one = self.devices.single(self.state)
        record: Record = {"epoch": self.epoch, "step": int(one.step), **means(self.place.rows)}
        if self.validation is not None:
            measured = self.evaluate(*self.devices.whole(variables(one)), self.validation, keep=False).metrics
            record |= {f"validation_{name}": value for name, value in measured.items()}
        record |= {"images_per_second": round(rate, 1)} if rate > 0 else {}
        record |= {"seconds": self.seconds}
        for callback in self.callbacks:
            before = set(record)
            callback.epoch(self, record)
            check_record(record, before, type(callback).__name__)
        return record

    def _steps(self, display: Display, stop: Stop) -> float:
        """Runs the epoch's remaining steps; returns examples per second, 0 if only a step was taken that compiles: the
        first one of this process, which does not count."""
        place, size = self.place, self.batch_size
        done = int(self.devices.single(self.state).step) - place.position  # steps before this epoch
        start = shown = saved = time.monotonic()
        counted = 0  # examples since `start`
        pending: list[dict[str, jax.Array]] = []

        def look() -> None:
            # The only place where the loop waits for the device.
            for row in jax.device_get(pending):
                place.rows.append({name: float(value) for name, value in row.items()})
                check_finite(place.rows[-1]["loss"], done + len(place.rows), self.epoch)
            pending.clear()
            check_skipped(place, done)

        def leave() -> None:
            look()
            self._save(wait=True)
            stop.leave(done + place.position)

        for batch in self._batches():
            self.state, self.metrics = self.take_step(self.state, batch)
            pending.append(self.metrics)
            place.position += 1
            self.writer.step(self.metrics)
            for callback in self.callbacks:
                callback.step(self)
            if not self._compiled:
                look()
                start = shown = time.monotonic()
                self._compiled = True
            else:
                counted += size
            if stop.asked(done + place.position):
                leave()
            now = time.monotonic()
            if now - shown > _REFRESH:
                look()
                shown = now
                display.update(self.epoch, len(place.rows) * size, means(place.rows), counted / (shown - start))
            if now - saved > self.writer.save_every:
                look()
                self._save(wait=False)
                saved = now
        look()
        rate = counted / max(time.monotonic() - start, 1e-9)
        if stop.asked(done + place.position):  # the validation that follows may take long
            leave()
        return rate

    def _batches(self) -> Iterator[Any]:
        """The epoch's remaining batches, on the devices."""
        on, where = self.devices, (self.batch_size, self.seed, self.epoch, self.place.position, self.devices.shard)
        if isinstance(self.data, (Dataset, Examples)):
            return map(on.batch, batches(self.data, *where))
        return prefetch(self.data.batches(*where), put=on.batch)  # a stream's or a loader's

    def _save(self, wait: bool) -> None:
        """Saves a checkpoint; skipped if an earlier one is still being written and `wait` is False."""
        if self.writer.folder is None or (self.writer.busy and not wait):
            return
        one = self.devices.single(self.state)
        self._saved = int(one.step)
        saved = {name: each.save() for name, each in zip(names_of(self.callbacks), self.callbacks, strict=True)}
        self.place.callbacks = {name: value for name, value in saved.items() if value is not None}
        progress = {**dataclasses.asdict(self.place), "seconds": self.seconds}
        is_best = bool(self.history) and self.primary.best(self.history)["step"] == self._saved
        in_state = is_best and not averages(one.opt_state)  # whoever reads only the weights does not know the optimizer
        self.writer.save(one, progress, None if in_state or not self.history else self.best)


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The means of the metrics over steps."""
    # The number of skipped steps is cumulative.
    counts = {SKIPPED: rows[-1][SKIPPED]} if SKIPPED in rows[0] else {}
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | counts


def check_finite(loss: float, step: int, epoch: int) -> None:
    """Checks that the loss is finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step} (epoch {epoch}): the weights have diverged. Try a smaller learning "
            "rate, look for extreme values in the input, or clip the gradient (--clip 1, or "
            "optax.clip_by_global_norm)"
        )


def check_skipped(place: Place, done: int, last: bool = False) -> None:
    """Checks that steps are still taken: that some loss scale gives finite gradients.

    Args:
      done: the number of steps before the current epoch.
      last: whether the training is over; it then also fails if all its steps were skipped.
    """
    if SKIPPED not in (place.rows or place.history)[-1]:
        return
    counts = [(0, 0.0), *((r["step"], r.get(SKIPPED, 0.0)) for r in place.history)]
    counts += [(done + k, row.get(SKIPPED, 0.0)) for k, row in enumerate(place.rows, 1)]
    row = 0
    for (before, fewer), (step, skipped) in zip(counts[-2::-1], counts[:0:-1], strict=True):
        if skipped - fewer < step - before:
            break
        row += step - before
    if row >= _SKIPPED or (last and 0 < row == counts[-1][0]):
        raise TrainingError(
            f"the last {row} {plural(row, 'step')}, up to step {counts[-1][0]}, were skipped: their gradients are not "
            f"finite in half precision, and the factor of the loss (smallest: {LossScale.SMALLEST:g}) does not help. "
            "Try bfloat16 (--precision bfloat16), a smaller learning rate or loss, or float32; look for extreme values "
            "in the input"
        )
