"""Ready-made callbacks of `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError
from jaxcnn.runs.record import Record
from jaxcnn.train.training import Callback, Training


class GradientNorm(Callback):
    """Records `gradient_norm`, the global norm of the gradient, as the mean over an epoch."""

    @staticmethod
    def watch(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
        """sqrt(sum g^2) over all parameters, in float32."""
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
