"""Batches of one shape from a dataset in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.errors import DataError


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` examples in an epoch: a permutation that depends on the seed and the epoch only."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_places(count: int, size: int, start: int = 0, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The positions in an epoch's order of each batch: `(batches, size / shards)`, whole batches only.

    Batch b of all shards together has the positions `b * size` to `(b + 1) * size - 1`; shard i of n has the i-th of n
    equal parts of them. The examples of a batch therefore do not depend on the number of shards.

    Args:
      start: the first batch to return.
      shard: `(i, n)`: the i-th of n parts, i from 0 to n - 1.

    Raises:
      DataError: when size is below 1, start is negative, i is not below n, or n does not divide the size.
    """
    index, shards = shard
    if size < 1 or start < 0:
        raise DataError(f"batches of {size} from batch {start}: expected a size of 1 or more and a batch of 0 or more")
    if not 0 <= index < shards:
        raise DataError(f"shard {shard}: expected (i, n) with i from 0 to n - 1")
    if size % shards:
        raise DataError(f"a batch of {size} cannot be divided among {shards} shards")
    places = np.arange(count // size * size).reshape(-1, shards, size // shards)
    return places[start:, index]


def batches(
    data: Dataset | Examples,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Any, ...]]:
    """The shuffled batches of one epoch: `(inputs, labels)` of `batch_size` examples each.

    Data with weights give `(inputs, labels, weights)`.

    The order depends on the seed and the epoch only, so that training can resume at any batch. The examples after the
    last whole batch are left out, others in each epoch. A set smaller than a batch is one batch.

    Args:
      start: the first batch to return.
      shard: `(i, n)` returns the i-th of n equal parts of each batch, for one of n processes.

    Raises:
      DataError: when n does not divide the batch, or i is not below n.
    """
    order = epoch_order(len(data), seed, epoch)
    for places in batch_places(len(data), min(batch_size, len(data)), start, shard):
        index = order[places]
        yield jax.tree.map(lambda x, index=index: x[index], (data.inputs, data.labels, *_weights(data)))


def padded_batches(data: Dataset | Examples, batch_size: int) -> Iterator[tuple[Any, ...]]:
    """Every example once, in order: `(inputs, labels, there)`, all batches of one shape.

    The last batch is padded with copies of its first example, for which `there` is 0 and not 1. A metric has to ignore
    them, as `train.make_evaluate` does. Data with weights give `(inputs, labels, there, weights)`.
    """
    for first in range(0, len(data), batch_size):
        places, there = padding(min(batch_size, len(data) - first), batch_size)
        index = first + places
        inputs, labels, *weights = jax.tree.map(
            lambda x, index=index: x[index], (data.inputs, data.labels, *_weights(data))
        )
        yield inputs, labels, there, *weights


def padding(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How `count` examples fill a batch of `size`: the place of each, the first one's for copies, and `there`.

    `there`, float32, is 1 for the examples and 0 for the copies.
    """
    places = np.arange(size)
    there = places < count
    return np.where(there, places, 0), there.astype(np.float32)


def _weights(data: Dataset | Examples) -> tuple[np.ndarray, ...]:
    return () if data.weights is None else (data.weights,)
