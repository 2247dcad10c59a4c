"""A learning rate for a training, from one short run with a growing rate."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxcnn.core import Layer
from jaxcnn.data.batches import batches
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.loader import Loader
from jaxcnn.data.stream import prefetch
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.checks import batch_of, data_of
from jaxcnn.train.optimizers import make_optimizer
from jaxcnn.train.step import create_state, make_step

_DIVERGED = 4.0  # times the lowest smoothed loss ends the search
_MEMORY = 20  # the average of the losses remembers this part of the search

MakeOptimizer = Callable[[optax.Schedule], optax.GradientTransformation]


@dataclass(frozen=True, eq=False, repr=False)
class RateSearch:
    """What `find_learning_rate` returns.

    Attributes:
      rates: the learning rate of each step, growing geometrically: `(steps,)`.
      losses: the loss of each step's batch before its update, `(steps,)`. The search ends where it diverges.
      smoothed: their exponential moving average, `(steps,)`.
      suggestion: the suggested rate.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def picture(self) -> Any:
        """The losses by rate with the suggestion, a `matplotlib.figure.Figure`."""
        from jaxcnn.inspect import plots

        return plots.learning_rates(self.rates, self.losses, self.smoothed, self.suggestion)

    def __repr__(self) -> str:
        low, high = self.rates[0], self.rates[-1]
        return f"RateSearch(suggestion={self.suggestion:.2g}; {len(self.rates)} steps from {low:.2g} to {high:.2g})"

    def _repr_html_(self) -> str:
        png = base64.b64encode(self.picture()._repr_png_()).decode()
        text = f"suggested learning rate: <b>{self.suggestion:.2g}</b>"
        return f'<div><p>{text}</p><img alt="loss by learning rate" src="data:image/png;base64,{png}"></div>'


def find_learning_rate(
    model: Layer,
    data: Any,
    objective: Objective | Loss | None = None,
    *,
    optimizer: str | MakeOptimizer = "adam",
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    batch_size: int = 128,
    seed: int = 0,
    variables: tuple[Any, Any] | None = None,
) -> RateSearch:
    """Tries learning rates in one short training, in which the rate grows from step to step until the loss diverges.

    Step t of T has the rate low (high / low)^(t / (T - 1)). The losses l are smoothed by
    m_t = beta m_(t-1) + (1 - beta) l_t, divided by 1 - beta^(t+1), with beta = 1 - 20 / T. The search ends when the
    smoothed loss is not finite or exceeds four times its minimum. The suggestion is the rate at which the smoothed
    loss, as a function of the rate's logarithm, falls fastest: below it training is slow, and the minimum itself lies
    close to divergence.

    It is a place to begin, and the largest rate of a schedule that falls, such as `cosine`. It depends on the batch
    size, and on the seed within a factor of about two.

    Args:
      model, data, objective, batch_size, seed, variables: as for `fit`. The variables given are not changed.
      optimizer: a name for `make_optimizer`, or a function that makes an optimizer from a schedule:
        `lambda rate: optax.lion(rate, weight_decay=0.1)`.
      low, high: the first and the last rate.
      steps: the number of rates, at least 10; more give a smoother curve.

    Raises:
      UserError: if settings or data cannot be used; if the loss falls at no rate.

    Source: Smith, Cyclical learning rates for training neural networks (2017), section 3.3, with rates that grow
    geometrically.
    """
    if not (0 < low < high and steps >= 10 and batch_size >= 1):
        raise UserError(
            f"low={low}, high={high}, steps={steps}, batch_size={batch_size}: expected 0 < low < high, at least 10 "
            "steps and a batch of at least 1"
        )
    if not (isinstance(optimizer, str) or callable(optimizer)):
        raise UserError(
            "optimizer: expected a name, or a function that makes an optimizer from a schedule, such as optax.sgd, got "
            f"{type(optimizer).__name__}"
        )
    (data,) = data_of(data=data)
    size = data.size if isinstance(data, Loader) else min(batch_size, len(data))
    objective = Objective.of(Objective() if objective is None else objective).prepared(data)

    def rate(step: Any) -> Any:
        return low * (high / low) ** (step / (steps - 1))

    made = make_optimizer(optimizer, rate) if isinstance(optimizer, str) else optimizer(rate)
    state = create_state(
        model, made, jax.random.key(seed), batch_of(objective, data, 1)[0], objective.inputs, variables,
        loss_scale=objective.loss_scale,
    )  # fmt: skip
    step = make_step(model, objective, made)
    losses: list[float] = []
    smoothed: list[float] = []
    decay, mean = max(0.0, 1 - _MEMORY / steps), 0.0
    for number, batch in enumerate(itertools.islice(_endless(data, size, seed), steps)):
        state, measured = step(state, batch)
        losses.append(float(measured["loss"]))
        mean = decay * mean + (1 - decay) * losses[-1]
        smoothed.append(mean / (1 - decay ** (number + 1)))
        if not math.isfinite(mean) or smoothed[-1] > _DIVERGED * min(smoothed):
            break
    rates = np.array([rate(number) for number in range(len(losses))])
    return RateSearch(rates, np.array(losses), np.array(smoothed), suggested(rates, np.array(smoothed)))


def suggested(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """The rate before that of the lowest loss at which the smoothed loss falls fastest by the rate's logarithm.

    Raises:
      UserError: if the loss does not fall.
    """
    finite = np.where(np.isfinite(smoothed), smoothed, np.inf)
    lowest = int(finite.argmin())
    if lowest < 2:
        raise UserError(
            f"the loss falls at no learning rate from {rates[0]:.3g} to {rates[-1]:.3g}: begin lower, or look at the "
            "data and the network"
        )
    slopes = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return float(rates[int(slopes.argmin())])


def _endless(data: Any, size: int, seed: int) -> Iterator[Any]:
    """The batches of one epoch after another."""
    put = OneDevice().batch
    for epoch in itertools.count(1):
        if isinstance(data, (Dataset, Examples)):
            yield from map(put, batches(data, size, seed, epoch))
        else:
            yield from prefetch(data.batches(size, seed, epoch), put=put)
