"""Evaluation over every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.batches import padded_batches
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.preprocess import to_float
from jaxcnn.data.stream import Stream
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
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
    devices: OneDevice | None = None,
) -> Callable[[Any, Any, Dataset | Stream], Evaluation]:
    """A function `evaluate(params, model_state, data) -> Evaluation`, compiled once for all its calls.

    Batches have one shape: the last one is filled up, and what fills it is not counted. Arguments as in `make_step`;
    with `devices`, the variables are those that its `whole` returns, and each process has all results.
    """
    on = devices or OneDevice()
    batch_size = -(-batch_size // on.size) * on.size

    def forward(
        params: Any, model_state: Any, images: Any, labels: Any, weights: Any
    ) -> tuple[Any, dict[str, jax.Array], Any]:
        inputs = preprocess(images)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        outputs, _ = model.apply(params, model_state, *inputs)
        return outputs, {"loss": loss(outputs, labels), **measure(metrics, outputs, labels)}, weights

    compiled = on.results(forward)

    def evaluate(params: Any, model_state: Any, data: Dataset | Stream) -> Evaluation:
        outputs, measured, weighed = [], [], []
        parts = _parts(data, batch_size, on.shard)
        for first, own in zip(range(0, len(data), batch_size), parts, strict=True):
            out, each, weights = compiled(params, model_state, *on.split(own))
            count = min(batch_size, len(data) - first)
            outputs.append(np.asarray(out)[:count])
            measured.append({name: np.asarray(values, np.float64)[:count] for name, values in each.items()})
            weighed.append(np.asarray(weights)[:count])
        # Of a stream, an image that is damaged and may be skipped has weight 0.
        there = np.concatenate(weighed) > 0
        if not there.any():
            raise UserError(f"{data.name}: no image of it can be read")
        means = {name: float(np.concatenate([m[name] for m in measured])[there].mean()) for name in measured[0]}
        return Evaluation(means, np.concatenate(outputs))

    return evaluate


def _parts(data: Dataset | Stream, batch_size: int, shard: tuple[int, int]) -> Iterator[tuple[np.ndarray, ...]]:
    """This process's part of each batch, `(images, labels, weights)`, the last one filled up."""
    if isinstance(data, Stream):
        return data.padded_batches(batch_size, shard)
    index, count = shard
    own = slice(index * batch_size // count, (index + 1) * batch_size // count)
    return (tuple(x[own] for x in batch) for batch in padded_batches(data, batch_size))
