"""From a dataset to batches of one shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxcnn.data.dataset import Dataset


def batches(
    data: Dataset, batch_size: int, seed: int = 0, epoch: int = 0, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The shuffled batches of one epoch: `(images, labels)` of `batch_size` examples each.

    The order is a function of the seed and the epoch alone, so that training can go on at any batch. What is left
    behind the last whole batch is another remainder each epoch. A set smaller than a batch is one batch.

    Args:
      start: the first batch to give.
    """
    size = min(batch_size, len(data))
    order = np.random.default_rng([seed, epoch]).permutation(len(data))
    for first in range(start * size, len(data) - size + 1, size):
        index = order[first : first + size]
        yield data.images[index], data.labels[index]


def padded_batches(data: Dataset, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every example once, in order: `(images, labels, weights)`, all batches of one shape.

    The last batch is filled up with copies of its first example, of weight 0.
    """
    for first in range(0, len(data), batch_size):
        images, labels = data.images[first : first + batch_size], data.labels[first : first + batch_size]
        missing = batch_size - len(images)
        weights = np.ones(batch_size, np.float32)
        if missing:
            images = np.concatenate([images, np.repeat(images[:1], missing, 0)])
            labels = np.concatenate([labels, np.repeat(labels[:1], missing, 0)])
            weights[batch_size - missing :] = 0
        yield images, labels, weights
