"""Datasets in memory: labelled images, and inputs of any other form with or without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import numpy as np

from jaxcnn.data.folds import k_fold
from jaxcnn.errors import DataError


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and labels of any form, in memory: images with a class for each pixel, sentences, questions, ...

    `Examples(images)` has no labels: the loss is given None for them.

    Attributes:
      inputs: a pytree of arrays with the same first axis, N. A tuple holds several inputs of the network.
      labels: a pytree of arrays with the same first axis, for the loss; None for an objective without labels.
      classes: the names of the classes, if there are any.
      name: where they come from.
      extra: JSON that belongs to the data, for instance a vocabulary.
      weights: the weight of each example in the loss, `(N,)`, 0 or more; all equal when None. See `make_step`.

    Raises:
      DataError: when the arrays differ in length, or there is no example.
    """

    inputs: Any
    labels: Any = None
    classes: tuple[str, ...] = ()
    name: str = "data"
    extra: Mapping[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        arrays = jax.tree_util.tree_leaves_with_path({"inputs": self.inputs, "labels": self.labels})
        counts = {jax.tree_util.keystr(path, simple=True, separator="/"): len(array) for path, array in arrays}
        if len(set(counts.values())) != 1:
            each = ", ".join(f"{count} in {path}" for path, count in counts.items())
            raise DataError(f"{self.name}: expected as many inputs as labels, there are {each or 'no arrays'}")
        if not len(self):
            raise DataError(f"{self.name}: the dataset is empty; it has no example to train on or to measure")
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "weights", check_weights(self.weights, len(self), self.name))

    def __len__(self) -> int:
        return len(jax.tree.leaves((self.inputs, self.labels))[0])

    def __repr__(self) -> str:
        def forms(tree: Any) -> str:
            return ", ".join(f"{'x'.join(map(str, x.shape[1:])) or 'one'} {x.dtype}" for x in jax.tree.leaves(tree))

        classes = f", {len(self.classes)} classes" if self.classes else ""
        labels = "without labels" if self.labels is None else f"to {forms(self.labels)}"
        return f"Examples({self.name!r}, {len(self):,} of {forms(self.inputs)} {labels}{classes})"

    def take(self, index: np.ndarray | Sequence[int] | slice) -> Self:
        """The examples at `index` (integers, a mask or a slice)."""
        inputs, labels, weights = jax.tree.map(lambda x: x[index], (self.inputs, self.labels, self.weights))
        return dataclasses.replace(self, inputs=inputs, labels=labels, weights=weights)

    def hold_out(self, share: float, seed: int = 0) -> tuple[Self, Self]:
        """All but a random `share` (0 < share < 1) of the examples, and that share; the same for the same seed."""
        return _held_out(self, [np.arange(len(self))], share, seed)

    def folds(self, count: int, seed: int = 0) -> Iterator[tuple[Self, Self]]:
        """The pairs (train, validation) of a `count`-fold cross-validation; see `k_fold`."""
        return k_fold(self, count, seed)


def check_weights(weights: Any, count: int, name: str) -> np.ndarray | None:
    """The weights of examples as float32 `(count,)`, or None.

    Raises:
      DataError: if they are no finite numbers of 0 or more, one for each example.
    """
    if weights is None:
        return None
    known = np.asarray(weights)
    if known.shape != (count,) or known.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: weights {known.dtype} {known.shape}, expected one number for each example, ({count},)"
        )
    if not (np.isfinite(known).all() and (known >= 0).all()):
        raise DataError(f"{name}: weights from {known.min():g} to {known.max():g}: expected finite numbers, 0 or more")
    return known.astype(np.float32)


def stratified(data: Any, share: float, seed: int) -> tuple[Any, Any]:
    """All but a random `share` of each class of `data`, and that share; data has `labels`, `classes` and `take`."""
    return _held_out(data, [np.flatnonzero(data.labels == label) for label in range(len(data.classes))], share, seed)


def _held_out(data: Any, groups: Sequence[np.ndarray], share: float, seed: int) -> tuple[Any, Any]:
    """`data` without a random `share` of each group of its examples, and that share."""
    if not 0 < share < 1:
        raise DataError(f"the share to hold out should be between 0 and 1, got {share}")
    rng = np.random.default_rng(seed)
    val = np.zeros(len(data), bool)
    for members in groups:
        val[rng.permutation(members)[: round(share * len(members))]] = True
    if val.all() or not val.any():
        raise DataError(f"{data.name}: {len(data)} examples are too few to hold out a share of {share}")
    return data.take(~val), data.take(val)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory.

    Attributes:
      images: `(N, H, W, C)`, uint8.
      labels: `(N,)`, int32, from 0 to `len(classes) - 1`.
      classes: the names of the classes, in the order of the labels.
      name: where they come from.
      weights: the weight of each example in the loss, `(N,)`, 0 or more; all equal when None. See `make_step`.

    Raises:
      DataError: when the arrays do not fit together, a label is outside the classes, or there is no example.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "data"
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim != 4:
            raise DataError(f"{self.name}: images should be (N, H, W, C), got {images.shape}")
        _, first, height, width = images.shape
        if first in (1, 3) and height == width > 4:
            raise DataError(
                f"{self.name}: images of shape {images.shape} look like (N, C, H, W); expected (N, H, W, C): "
                "images.transpose(0, 2, 3, 1)"
            )
        if labels.shape != images.shape[:1]:
            hint = "; for one-hot labels, use labels.argmax(1)" if labels.ndim == 2 else ""
            raise DataError(
                f"{self.name}: {len(images)} images and labels of shape {labels.shape}, expected ({len(images)},){hint}"
            )
        if isinstance(self.classes, (str, int)):
            raise DataError(
                f"{self.name}: classes should be the names of the classes, for instance "
                f"tuple(map(str, range(10))), got {self.classes!r}"
            )
        if not len(images):
            raise DataError(f"{self.name}: the dataset is empty; it has no example to train on or to measure")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{self.name}: labels should be integers, got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name}: labels from {low} to {high} for {len(self.classes)} classes: "
                f"expected 0 to {len(self.classes) - 1}"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int32))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "weights", check_weights(self.weights, len(images), self.name))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def inputs(self) -> np.ndarray:
        """The images."""
        return self.images

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of an image, (height, width, channels)."""
        return self.images.shape[1:]

    def __repr__(self) -> str:
        n, h, w, c = self.images.shape
        return f"Dataset({self.name!r}, {n:,} images {h}x{w}x{c} {self.images.dtype}, {len(self.classes)} classes)"

    def take(self, index: np.ndarray | Sequence[int] | slice) -> Dataset:
        """The examples at `index` (integers, a mask or a slice)."""
        weights = None if self.weights is None else self.weights[index]
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index], weights=weights)

    def hold_out(self, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """All but a random `share` (0 < share < 1) of each class, and that share.

        The same seed gives the same parts.
        """
        return stratified(self, share, seed)

    def folds(self, count: int, seed: int = 0) -> Iterator[tuple[Dataset, Dataset]]:
        """The pairs (train, validation) of a `count`-fold cross-validation, stratified; see `k_fold`."""
        return k_fold(self, count, seed)
