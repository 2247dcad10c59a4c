"""Metrics: `metric(outputs, labels)` is one number per example, averaged over the data; and the confusion matrix.

`Summed` is for a metric of the whole dataset that is not a mean over examples, such as the intersection over union of a
class over the pixels of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.losses import are_probabilities


@dataclass(frozen=True)
class Summed:
    """A metric of a whole dataset: `finish(sum over the examples of each(outputs, labels))`.

    Attributes:
      each: `(outputs, labels) -> ` a pytree of arrays whose first axis is the batch, for instance a confusion matrix
        per image, `(N, K, K)`.
      finish: maps their sum to one number, or to several by name. A training step calls it with the `jax.Array`s of its
        batch, an evaluation with float64 NumPy arrays.
    """

    each: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]

    def __call__(self, outputs: Any, labels: Any) -> Any:
        return self.each(outputs, labels)

    def named(self, name: str, total: Any) -> dict[str, Any]:
        """The metrics of a sum by name; a single one is called `name`."""
        found = self.finish(total)
        return dict(found) if isinstance(found, Mapping) else {name: found}


Metric = Callable[[Any, Any], Any] | Summed
"""`(outputs, labels) -> one number per example`, or `Summed`."""


@per_example
def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 if the largest output is at the label, else 0, averaged over all axes after the batch: `(N, ..., K) -> (N,)`.

    If the labels are probabilities `(N, ..., K)`, as from `mixup`, the most probable class counts as the label.
    """
    return top_k(1)(outputs, labels)


@per_example
def error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Top-1 error: 1 - accuracy."""
    return 1 - accuracy(outputs, labels)


@per_example
def binary_accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 if a logit `(N,)` or `(N, 1)` is positive exactly when the label is (0 or 1; -1 or +1), else 0: `(N,)`."""
    outputs = outputs.reshape(labels.shape)
    return ((outputs > 0) == (labels > 0)).astype(jnp.float32)


def top_k(k: int) -> Metric:
    """A metric: 1 if the label is among the k largest outputs, else 0. The top-5 error is 1 minus the mean for k = 5.

    The label is among them if fewer than k outputs are larger, or equal and of a lower class, which is the order of
    argmax. A label outside the classes never is.
    """

    @per_example
    def found(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        if are_probabilities(outputs, labels):
            labels = labels.argmax(-1)
        there = (labels >= 0) & (labels < outputs.shape[-1])  # NumPy's indexing would count -1 from the end
        own = jnp.take_along_axis(outputs, jnp.where(there, labels, 0)[..., None], axis=-1)
        classes = jax.lax.broadcast_to_rank(jnp.arange(outputs.shape[-1]), outputs.ndim)
        # As for argmax, a NaN is ahead of every number. A label whose output is NaN is never found.
        ahead = ~(outputs <= own) | ((outputs == own) & (classes < labels[..., None]))
        hit = there & (ahead.sum(-1) < min(k, outputs.shape[-1]))
        return hit.astype(jnp.float32).mean(tuple(range(1, labels.ndim)))

    return found


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix `(classes, classes)`, integers: entry [i, j] counts how often j was predicted for class i.

    Raises:
      UserError: for a class outside 0 to `classes - 1`.
    """
    matrix = np.zeros((classes, classes), np.int64)
    # NumPy would take the booleans of a binary classifier for a mask.
    true, found = (np.ravel(values).astype(np.intp) for values in (labels, predicted))
    for what, values in (("labels", true), ("predicted classes", found)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise UserError(f"{what} from {values.min()} to {values.max()}: expected 0 to {classes - 1}")
    np.add.at(matrix, (true, found), 1)
    return matrix


def generalization_gap(train_loss: float, test_loss: float) -> float:
    """Test loss minus training loss: how much worse a network is on unseen data. Errors may be used instead."""
    return test_loss - train_loss


# --- display -----------------------------------------------------------------------------------------------------

_NAMES = {"accuracy": "accuracy", "mean_iou": "mean IoU", "f": "F", "map": "mAP", "top5": "top5"}
_SHARES = ("precision", "recall", "pixel_accuracy", "plain", "relational")
_SHARES_OF_CLASSES = ("ap_", "iou_")


def name_of(metric: str) -> str:
    """The name of a metric in text for a reader."""
    return _NAMES.get(metric, metric.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a metric of this package is shown in per cent. Nothing else depends on it."""
    return metric in _NAMES or metric in _SHARES or metric.startswith(_SHARES_OF_CLASSES)


def shown(metric: str, value: float) -> str:
    """The value of a metric as text for a reader."""
    return f"{100 * value:.2f} %" if is_share(metric) else f"{value:.4f}"
