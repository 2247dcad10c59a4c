"""Callbacks of `fit`: user code that observes a training, adds metrics to its records, and may end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError
from jaxcnn.runs.record import Record
from jaxcnn.train.step import Watch

if TYPE_CHECKING:
    from jaxcnn.train.training import Training


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
        """Called before the first step of this process; in a resumed run, after `load`."""

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
        """Restores what `save` returned; called before `begin` in a resumed run."""


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


class GradientNorm(Callback):
    """Records `gradient_norm`, the global norm of the gradient, as the mean over an epoch."""

    @staticmethod
    def watch(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
        return {"gradient_norm": optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), gradients))}


class LearningRate(Callback):
    """Records `learning_rate`, the rate of the next step, from the optimizer's schedule."""

    def __init__(self, schedule: Callable[[int], Any]):
        self.schedule = schedule

    def epoch(self, training: Training, record: Record) -> None:
        record["learning_rate"] = float(self.schedule(record["step"]))


class StopAt(Callback):
    """Ends the training after the first epoch whose metric reaches a value: `StopAt("validation_accuracy", 0.99)`.

    Args:
      figure: a name in the record.
      value: the value to reach.
      higher: True to stop at this value or above, False at this value or below.
    """

    def __init__(self, figure: str, value: float, higher: bool = True):
        self.figure, self.value, self.higher = figure, value, higher

    def epoch(self, training: Training, record: Record) -> None:
        if self.figure not in record:
            raise UserError(f"StopAt: the record has no {self.figure!r}; it has {', '.join(record)}")
        found = record[self.figure]
        if (found >= self.value) if self.higher else (found <= self.value):
            training.stop(f"{self.figure} is {found:.6g}, which was to be reached: {self.value:g}")
