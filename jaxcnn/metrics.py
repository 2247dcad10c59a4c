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

from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
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


@per_example
def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is the label, averaged over any axes behind the batch: `(N, ..., K) -> (N,)`.

    Of labels that are probabilities `(N, ..., K)`, as `mixup` gives them, the likeliest class counts.
    """
    return top_k(1)(outputs, labels)


@per_example
def error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Top-1 error: 1 - accuracy."""
    return 1 - accuracy(outputs, labels)


@per_example
def binary_accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where a logit `(N,)` or `(N, 1)` has the label's sign (label 0 or 1; -1 or +1): `(N,)`."""
    outputs = outputs.reshape(labels.shape)
    return ((outputs > 0) == (labels > 0)).astype(jnp.float32)


def top_k(k: int) -> Metric:
    """A metric: 1 where the label is among the k largest outputs. Its top-5 error is 1 minus the mean.

    A label counts as found when fewer than k outputs are larger, or as large and of a lower class: the order of argmax.
    A label outside the classes is never found.
    """

    @per_example
    def found(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        if are_probabilities(outputs, labels):
            labels = labels.argmax(-1)
        there = (labels >= 0) & (labels < outputs.shape[-1])  # a negative index would count from the end
        own = jnp.take_along_axis(outputs, jnp.where(there, labels, 0)[..., None], axis=-1)
        classes = jax.lax.broadcast_to_rank(jnp.arange(outputs.shape[-1]), outputs.ndim)
        # As for argmax, a NaN is ahead of every number; with its own output NaN, a label is never found.
        ahead = ~(outputs <= own) | ((outputs == own) & (classes < labels[..., None]))
        hit = there & (ahead.sum(-1) < min(k, outputs.shape[-1]))
        return hit.astype(jnp.float32).mean(tuple(range(1, labels.ndim)))

    return found


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often class j was predicted for class i: an integer matrix [i, j] `(classes, classes)`.

    Raises:
      UserError: for a class that is not from 0 to `classes - 1`.
    """
    matrix = np.zeros((classes, classes), np.int64)
    # Booleans, of a binary classifier, would be taken for a mask.
    true, found = (np.ravel(values).astype(np.intp) for values in (labels, predicted))
    for what, values in (("labels", true), ("predicted classes", found)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise UserError(f"{what} from {values.min()} to {values.max()}: expected 0 to {classes - 1}")
    np.add.at(matrix, (true, found), 1)
    return matrix


def generalization_gap(train_loss: float, test_loss: float) -> float:
    """How much worse a network does on data it has not seen: test loss minus training loss (or errors likewise)."""
    return test_loss - train_loss


# --- for a reader --------------------------------------------------------------------------------------------------

_NAMES = {"accuracy": "accuracy", "mean_iou": "mean IoU", "f": "F", "map": "mAP", "top5": "top5"}
_SHARES = ("precision", "recall", "pixel_accuracy", "plain", "relational")
_SHARES_OF_CLASSES = ("ap_", "iou_")


def name_of(figure: str) -> str:
    """What a figure is called in a text."""
    return _NAMES.get(figure, figure.replace("_", " "))


def is_share(figure: str) -> bool:
    """Whether a figure of this package is shown in per cent. It decides about nothing else."""
    return figure in _NAMES or figure in _SHARES or figure.startswith(_SHARES_OF_CLASSES)


def shown(figure: str, value: float) -> str:
    """The value of a figure for a reader."""
    return f"{100 * value:.2f} %" if is_share(figure) else f"{value:.4f}"
