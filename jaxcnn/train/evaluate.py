"""Evaluation over every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.batches import padded_batches
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.preprocess import to_float
from jaxcnn.losses import Loss
from jaxcnn.metrics import Metric
from jaxcnn.train.step import measure

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network does on a dataset.

    Attributes:
      metrics: `loss` and the measures, means over all examples.
      outputs: the network's outputs, `(N, ...)`, in the dataset's order.
    """

    metrics: dict[str, float]
    outputs: np.ndarray


def make_evaluate(
    model: Layer,
    loss: Loss,
    *,
    preprocess: Callable[[Any], Any] = to_float,
    metrics: Mapping[str, Metric] | None = None,
    batch_size: int = _BATCH,
) -> Callable[[Any, Any, Dataset], Evaluation]:
    """A function `evaluate(params, model_state, data) -> Evaluation`, compiled once for all its calls.

    Batches have one shape: the last one is filled up, and what fills it is not counted. Arguments as in `make_step`.
    """

    @jax.jit
    def forward(params: Any, model_state: Any, images: Any, labels: Any) -> tuple[Any, dict[str, jax.Array]]:
        inputs = preprocess(images)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        outputs, _ = model.apply(params, model_state, *inputs)
        return outputs, {"loss": loss(outputs, labels), **measure(metrics, outputs, labels)}

    def evaluate(params: Any, model_state: Any, data: Dataset) -> Evaluation:
        outputs, measured = [], []
        for images, labels, weights in padded_batches(data, batch_size):
            out, each = forward(params, model_state, jnp.asarray(images), jnp.asarray(labels))
            count = int(weights.sum())
            outputs.append(np.asarray(out)[:count])
            measured.append({name: np.asarray(values, np.float64)[:count] for name, values in each.items()})
        means = {name: float(np.concatenate([m[name] for m in measured]).mean()) for name in measured[0]}
        return Evaluation(means, np.concatenate(outputs))

    return evaluate
