"""Callbacks of `fit`: code of a user's own that sees a training, adds figures to its record, and may end it."""

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
    """What a training calls. Each method does nothing; a subclass overrides those that it needs.

    With several processes each of them calls its own callbacks, and the record of the first one is written.

    Attributes:
      name: what its state is saved under; the name of the class when empty.
      watch: `(gradients, updates, params) -> {name: scalar}`, compiled into the step; the record of an epoch has the
        mean over its steps. None for nothing.
      figures: the names of the figures of a validation that `epoch` adds, `validation_` apart; one of them may be the
        objective's `primary`.
    """

    name: str = ""
    watch: Watch | None = None
    figures: tuple[str, ...] = ()

    def begin(self, training: Training) -> None:
        """Before the first step, and before the first step of a resumed run, after `load`."""

    def step(self, training: Training) -> None:
        """After a step. `training.metrics` are its figures on the device: reading one waits for the step."""

    def epoch(self, training: Training, record: Record) -> None:
        """After an epoch and its validation, before the best epoch is chosen and the record is written.

        Numbers that are added to `record` are written to metrics.jsonl, and to TensorBoard where that is asked for.
        """

    def end(self, training: Training) -> None:
        """After the last epoch, and also when the training was stopped or has failed."""

    def save(self) -> Any:
        """What a resumed run has to know, as JSON; None for nothing. It is part of each checkpoint."""
        return None

    def load(self, saved: Any) -> None:
        """Takes back what `save` returned, before `begin`, in a resumed run."""


def names_of(callbacks: Sequence[Callback]) -> list[str]:
    """The name of each callback.

    Raises:
      UserError: when one is no `Callback`, or two have the same name.
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
    """Checks what a callback added to a record.

    Raises:
      UserError: when it is no number.
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
    """Records `gradient_norm`, the norm of the gradient of all parameters together, as the mean over an epoch."""

    @staticmethod
    def watch(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
        return {"gradient_norm": optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), gradients))}


class LearningRate(Callback):
    """Records `learning_rate`, that of the next step, from the schedule that the optimizer was made with."""

    def __init__(self, schedule: Callable[[int], Any]):
        self.schedule = schedule

    def epoch(self, training: Training, record: Record) -> None:
        record["learning_rate"] = float(self.schedule(record["step"]))


class StopAt(Callback):
    """Ends the training after the first epoch whose figure has reached a value: `StopAt("validation_accuracy", 0.99)`.

    Args:
      figure: a name in the record.
      value: the value to reach.
      higher: whether the figure has to be at least, or at most, the value.
    """

    def __init__(self, figure: str, value: float, higher: bool = True):
        self.figure, self.value, self.higher = figure, value, higher

    def epoch(self, training: Training, record: Record) -> None:
        if self.figure not in record:
            raise UserError(f"StopAt: the record has no {self.figure!r}; it has {', '.join(record)}")
        found = record[self.figure]
        if (found >= self.value) if self.higher else (found <= self.value):
            training.stop(f"{self.figure} is {found:.6g}, which was to be reached: {self.value:g}")
