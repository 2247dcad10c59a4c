"""Measures: `metric(outputs, labels) -> one number an example`, averaged over the data, and the confusion matrix.

A measure that is no mean over the examples, as the intersection over union of a class's pixels in all images, is
`Summed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.losses import are_probabilities


@dataclass(frozen=True)
class Summed:
    """A measure of a set as a whole: `finish(sum over its examples of each(outputs, labels))`.

    Attributes:
      each: `(outputs, labels) -> ` a pytree of arrays whose first axis is the examples: a confusion matrix an image,
        `(N, K, K)`.
      finish: of their sum, one number, or several by name. It is given `jax.Array`s by a training step, for its batch,
        and float64 NumPy arrays by an evaluation.
    """

    each: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]

    def __call__(self, outputs: Any, labels: Any) -> Any:
        return self.each(outputs, labels)

    def named(self, name: str, total: Any) -> dict[str, Any]:
        """The figures of a sum, by name: `name` where there is one."""
        found = self.finish(total)
        return dict(found) if isinstance(found, Mapping) else {name: found}


Metric = Callable[[Any, Any], Any] | Summed
"""`(outputs, labels) -> one number an example`, or `Summed`."""


def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is the label, averaged over any axes behind the batch: `(N, ..., K) -> (N,)`.

    Of labels that are probabilities `(N, ..., K)`, as `mixup` gives them, the likeliest class counts.
    """
    return top_k(1)(outputs, labels)


def error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Top-1 error: 1 - accuracy."""
    return 1 - accuracy(outputs, labels)


def binary_accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where a logit `(N,)` or `(N, 1)` has the label's sign (label 0 or 1; -1 or +1): `(N,)`."""
    outputs = outputs.reshape(labels.shape)
    return ((outputs > 0) == (labels > 0)).astype(jnp.float32)


def top_k(k: int) -> Metric:
    """A metric: 1 where the label is among the k largest outputs. Its top-5 error is 1 minus the mean.

    A label counts as found when fewer than k outputs are larger, or as large and of a lower class: the order of argmax.
    """

    def found(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        if are_probabilities(outputs, labels):
            labels = labels.argmax(-1)
        own = jnp.take_along_axis(outputs, labels[..., None], axis=-1)
        classes = jax.lax.broadcast_to_rank(jnp.arange(outputs.shape[-1]), outputs.ndim)
        # As for argmax, a NaN is ahead of every number; with its own output NaN, a label is never found.
        ahead = ~(outputs <= own) | ((outputs == own) & (classes < labels[..., None]))
        hit = ahead.sum(-1) < min(k, outputs.shape[-1])
        return hit.astype(jnp.float32).mean(tuple(range(1, labels.ndim)))

    return found


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often class j was predicted for class i: an integer matrix [i, j] `(classes, classes)`."""
    matrix = np.zeros((classes, classes), np.int64)
    # Booleans, of a binary classifier, would be taken for a mask.
    np.add.at(matrix, (np.ravel(labels).astype(np.intp), np.ravel(predicted).astype(np.intp)), 1)
    return matrix


def generalization_gap(train_loss: float, test_loss: float) -> float:
    """How much worse a network does on data it has not seen: test loss minus training loss (or errors likewise)."""
    return test_loss - train_loss


SCORES = {"accuracy": "accuracy", "mean_iou": "mean IoU", "f": "F", "map": "mAP"}
"""Measures from 0 to 1, the higher the better, with their names for a reader. A kind of network has one at most."""


def score_of(record: Mapping[str, Any], prefix: str = "") -> str | None:
    """The measure among `SCORES` that a record holds, under `prefix`; None where it has none."""
    return next((name for name in SCORES if prefix + name in record), None)
