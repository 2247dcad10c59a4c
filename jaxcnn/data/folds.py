"""K-fold cross-validation: a dataset in k parts, each of which is the validation set once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcnn.errors import UserError


def folds(labels: np.ndarray, count: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Cross-validation: the indices `(N,)` in `count` random parts, each with its share of every class.

    Each part is the test set once, and the others are the training set: `np.setdiff1d(np.arange(N), part)`.

    Raises:
      UserError: when count is below 2, or above the number of examples of the rarest class.
    """
    labels = np.asarray(labels)
    counts = np.unique(labels, return_counts=True)[1]
    if count < 2 or not len(counts) or count > counts.min():
        fewest = int(counts.min()) if len(counts) else 0
        raise UserError(f"{count} folds: expected 2 to {fewest}, the number of examples of the rarest class")
    rng = np.random.default_rng(seed)
    # Each class is shuffled and dealt like cards: the counts of a class in two parts differ by at most one.
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [np.sort(order[k::count]) for k in range(count)]


def k_fold(data: Any, count: int, seed: int = 0, stratified: bool | None = None) -> Iterator[tuple[Any, Any]]:
    """The pairs (train, validation) of a k-fold cross-validation, one for each part of the data.

    The `count` parts are random, disjoint, and together they are the data; their sizes differ by at most one. The same
    seed gives the same parts.

        for train, validation in cnn.data.k_fold(data, 5):
            result = cnn.train.fit(model, train, validation=validation)

    Args:
      data: a `Dataset`, `Examples`, a `Stream` or a `Corpus`.
      stratified: whether each part has its share of every class. When None, it has if each example has one class.

    Raises:
      UserError: when count is below 2, or above the number of examples (of the rarest class, if stratified); for
        `stratified=True` where an example has no single class; for data that cannot be divided.
    """
    return (_pair(data, part) for part in _parts(data, count, seed, stratified))


def fold(data: Any, number: int, count: int, seed: int = 0, stratified: bool | None = None) -> tuple[Any, Any]:
    """The pair (train, validation) of one fold, `number` from 1 to `count`; see `k_fold`.

    Raises:
      UserError: as `k_fold`, and for a number outside 1 to `count`.
    """
    if not 1 <= number <= count:
        raise UserError(f"fold {number} of {count}: expected a number from 1 to {count}")
    return _pair(data, _parts(data, count, seed, stratified)[number - 1])


def _pair(data: Any, part: np.ndarray) -> tuple[Any, Any]:
    return data.take(np.setdiff1d(np.arange(len(data)), part)), data.take(part)


def _parts(data: Any, count: int, seed: int, stratified: bool | None) -> list[np.ndarray]:
    """The indices of each part."""
    if not hasattr(data, "take"):
        raise UserError(f"expected a Dataset, Examples, a Stream or a Corpus to divide, got {type(data).__name__}")
    labels = _classes_of(data)
    if stratified and labels is None:
        raise UserError(f"{type(data).__name__}: stratified=True needs one class for each example; leave it out")
    if labels is not None and stratified is not False:
        return folds(labels, count, seed)
    if not 2 <= count <= len(data):
        raise UserError(f"{count} folds: expected 2 to {len(data)}, the number of examples")
    return folds(np.zeros(len(data), np.int64), count, seed)


def _classes_of(data: Any) -> np.ndarray | None:
    """The class of each example, `(N,)`; None if there is not one for each."""
    labels = getattr(data, "labels", None)
    if labels is None:
        labels = getattr(getattr(data, "source", None), "labels", None)  # of a stream of files
    found = isinstance(labels, np.ndarray) and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    return labels if found else None
