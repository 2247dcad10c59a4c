"""Evaluation over every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.batches import padded_batches
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.preprocess import inputs_of, to_float
from jaxcnn.data.stream import Stream
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss
from jaxcnn.metrics import Metric, Summed
from jaxcnn.train.step import measure

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network does on a dataset.

    Attributes:
      metrics: `loss` and the measures, means over all examples or, of `Summed`, figures of them all.
      outputs: the network's outputs, `(N, ...)`, in the dataset's order; None where they were not kept.
    """

    metrics: dict[str, float]
    outputs: Any


def make_evaluate(
    model: Layer,
    loss: Loss,
    *,
    preprocess: Callable[[Any], Any] = to_float,
    metrics: Mapping[str, Metric] | None = None,
    batch_size: int = _BATCH,
    devices: OneDevice | None = None,
) -> Callable[..., Evaluation]:
    """A function `evaluate(params, model_state, data, keep=True) -> Evaluation`, compiled once for all its calls.

    Batches have one shape: the last one is filled up, and what fills it is not counted. Arguments as in `make_step`;
    with `devices`, the variables are those that its `whole` returns, and each process has all results. With
    `keep=False` the outputs are not kept: a score of each class for each pixel is more than the images are.
    """
    on = devices or OneDevice()
    batch_size = -(-batch_size // on.size) * on.size

    def forward(
        params: Any, model_state: Any, images: Any, labels: Any, weights: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        outputs, _ = model.apply(params, model_state, *inputs_of(preprocess, images))
        return outputs, {"loss": loss(outputs, labels), **measure(metrics, outputs, labels)}, weights

    compiled = on.results(forward)

    def evaluate(params: Any, model_state: Any, data: Dataset | Examples | Stream, keep: bool = True) -> Evaluation:
        outputs: list[Any] = []
        sums: dict[str, Any] = {}
        seen = 0
        parts = _parts(data, batch_size, on.shard)
        for first, own in zip(range(0, len(data), batch_size), parts, strict=True):
            out, each, weights = compiled(params, model_state, *on.split(own))
            count = min(batch_size, len(data) - first)
            if keep:
                outputs.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], out))
            # Of a stream, an image that is damaged and may be skipped has weight 0; and so has what fills a batch up.
            there = np.asarray(weights) > 0
            found = jax.tree.map(lambda x, there=there: np.asarray(x, np.float64)[there].sum(0), each)
            sums = jax.tree.map(np.add, sums, found) if sums else found
            seen += int(there.sum())
        if not seen:
            raise UserError(f"{data.name}: no image of it can be read")
        figures: dict[str, float] = {}
        for name, total in sums.items():
            metric = (metrics or {}).get(name)
            named = metric.named(name, total) if isinstance(metric, Summed) else {name: total / seen}
            figures |= {name: float(value) for name, value in named.items()}
        return Evaluation(figures, jax.tree.map(lambda *parts: np.concatenate(parts), *outputs) if keep else None)

    return evaluate


def _parts(data: Dataset | Examples | Stream, batch_size: int, shard: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
    """This process's part of each batch, `(inputs, labels, weights)`, the last one filled up."""
    if isinstance(data, Stream):
        return data.padded_batches(batch_size, shard)
    index, count = shard
    own = slice(index * batch_size // count, (index + 1) * batch_size // count)
    return (jax.tree.map(lambda x: x[own], batch) for batch in padded_batches(data, batch_size))
