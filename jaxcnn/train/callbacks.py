"""Ready-made callbacks of `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class PlateauState(NamedTuple):
    """The state of `ReduceOnPlateau.scale`: that of Optax's `reduce_on_plateau`."""

    plateau: Any


class ReduceOnPlateau(Callback):
    """Lowers the learning rate when a figure of the record has stopped falling.

    After each epoch, the factor of all updates is multiplied by `factor` if the figure was not below
    (1 - rtol) best - atol for `patience` epochs. This is `optax.contrib.reduce_on_plateau` with the figure of an epoch
    in place of a step's loss. The record has `learning_rate_scale`, the factor of the next epoch. Checkpoints hold the
    optimizer's state, and with it the factor and its history.

    Args:
      figure: a name in the record, of a figure that is minimized.
      factor, patience, rtol, atol, cooldown, min_scale: as in `optax.contrib.reduce_on_plateau`; patience and cooldown
        count epochs.

    Attributes:
      scale: the transformation that multiplies the updates. It has to be a part of the optimizer: at the end of a
        chain, or inside of an optimizer whose updates are applied as they are, such as `lookahead` and SAM.

    Raises:
      UserError: when the training begins, if the optimizer lacks `scale`; when an epoch ends, if the record lacks the
        figure.

    Example:
      >>> plateau = cnn.train.ReduceOnPlateau("validation_loss", factor=0.5, patience=3)
      >>> cnn.train.fit(model, data, validation=val, optimizer=optax.chain(optax.adam(1e-3), plateau.scale),
      ...               callbacks=[plateau])
    """

    def __init__(
        self,
        figure: str = "validation_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        rtol: float = 1e-4,
        atol: float = 0.0,
        cooldown: int = 0,
        min_scale: float = 0.0,
    ):
        self.figure = figure
        plateau = optax.contrib.reduce_on_plateau(
            factor, patience, rtol=rtol, atol=atol, cooldown=cooldown, min_scale=min_scale
        )

        def init(params: Any) -> PlateauState:
            return PlateauState(plateau.init(params))

        def update(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, PlateauState]:
            return jax.tree.map(lambda u: u * state.plateau.scale.astype(u.dtype), updates), state

        self.scale = optax.GradientTransformation(init, update)
        self._after = jax.jit(lambda state, value: PlateauState(plateau.update({}, state.plateau, value=value)[1]))

    def begin(self, training: Training) -> None:
        if not any(map(_is_plateau, jax.tree.leaves(training.state.opt_state, is_leaf=_is_plateau))):
            raise UserError(
                "ReduceOnPlateau: the optimizer lacks its factor; expected "
                "optimizer=optax.chain(optax.adam(1e-3), plateau.scale), and callbacks=[plateau]"
            )

    def epoch(self, training: Training, record: Record) -> None:
        if self.figure not in record:
            raise UserError(f"ReduceOnPlateau: the record has no {self.figure!r}; it has {', '.join(record)}")
        on, value = training.devices, jnp.float32(record[self.figure])

        def one(state: Any) -> Any:
            if not _is_plateau(state):
                return state
            new = self._after(on.single(state), value)
            record["learning_rate_scale"] = float(new.plateau.scale)
            return on.replicate(new)

        opt_state = jax.tree.map(one, training.state.opt_state, is_leaf=_is_plateau)
        training.state = training.state.replace(opt_state=opt_state)


def _is_plateau(state: Any) -> bool:
    return isinstance(state, PlateauState)
