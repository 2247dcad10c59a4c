"""Metrics: `metric(outputs, labels)` is one number per example, averaged over the data; and the confusion matrix.

`Summed` is for a metric of the whole dataset that is not a mean over examples, such as the intersection over union of a
class over the pixels of all images; `WholeSet` for one that is not a function of sums, such as the area under a curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.losses import are_probabilities
from jaxcnn.ops.precision import wide


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


@dataclass(frozen=True)
class WholeSet:
    """A metric that needs all outputs of a dataset at once, such as the area under a curve or one of scikit-learn.

    It is computed in evaluations, of the validation and test sets, not in training steps. `name` in `primary` may be
    one of its figures.

    >>> ranked = cnn.metrics.WholeSet(lambda outputs, labels: sklearn.metrics.roc_auc_score(labels, outputs[:, 1]))
    >>> cnn.train.Objective(metrics={"auroc": ranked}, primary="auroc", higher_is_better=True)

    Attributes:
      function: `(outputs, labels) -> number`, or several by name. It takes NumPy arrays of all examples `(N, ...)`, in
        the dataset's order: the results of `keep`.
      keep: `(outputs, labels) -> (outputs, labels)` of a batch, what is kept of it; everything when None. Computed on
        the device; the value of an example must depend on that example alone.
      names: the names of the figures, if `function` returns several.
    """

    function: Callable[[Any, Any], Any]
    keep: Callable[[Any, Any], tuple[Any, Any]] | None = None
    names: tuple[str, ...] = ()

    def __call__(self, outputs: Any, labels: Any) -> tuple[Any, Any]:
        return (outputs, labels) if self.keep is None else self.keep(outputs, labels)

    def named(self, name: str, kept: tuple[Any, Any]) -> dict[str, Any]:
        """The figures of everything that was kept, by name; a single one is called `name`."""
        found = self.function(*kept)
        return dict(found) if isinstance(found, Mapping) else {name: found}


Metric = Callable[[Any, Any], Any] | Summed | WholeSet
"""`(outputs, labels) -> one number per example`, or `Summed` or `WholeSet` over the dataset."""


def in_training(metrics: Mapping[str, Metric] | None) -> Mapping[str, Metric] | None:
    """The metrics that a training step measures: all but those of a whole dataset."""
    if metrics is None:
        return None
    return {name: metric for name, metric in metrics.items() if not isinstance(metric, WholeSet)}


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


def top_k(k: int) -> Callable[[Any, Any], jax.Array]:
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


def f1(average: Literal["macro", "micro", "weighted", "none"] = "macro", names: Sequence[str] = ()) -> Summed:
    """F1 over a dataset: 2 TP / (2 TP + FP + FN) from the counts of each class over all examples (and pixels).

    The predicted class is that of the largest output. A label outside the classes, such as -1, is left out. For logits
    `(N,)` or `(N, 1)` of labels 0 and 1, the positive class is the only one.

    Args:
      average: `macro`, the mean over the classes that occur as a label or a prediction; `micro`, from the counts of all
        classes together, which is the accuracy if each label is a class; `weighted`, the mean weighted by the number of
        labels of each class; or `none`, each class by name, `f1_NAME`, 0 for one that does not occur.
      names: the names of the classes, for `none`; their numbers when empty.

    Returns:
      A metric of outputs `(N, ..., K)` and labels `(N, ...)`, from 0 to 1.

    Raises:
      UserError: for an unknown average.
    """
    if average not in ("macro", "micro", "weighted", "none"):
        raise UserError(f"f1(average={average!r}): expected 'macro', 'micro', 'weighted' or 'none'")

    @per_example
    def counts(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        if outputs.shape in (labels.shape, (*labels.shape, 1)):
            true, found = (v.reshape(len(labels), -1, 1) > 0 for v in (labels, outputs))
        else:
            classes = jnp.arange(outputs.shape[-1])
            true, found = (v.reshape(len(labels), -1, 1) == classes for v in (labels, outputs.argmax(-1)))
            found = found & true.any(-1, keepdims=True)
        # In int32: a float32 sum of ones ends at 2^24.
        return jnp.stack([(true & found).sum(1), found.sum(1), true.sum(1)], 1)  # (N, 3, K)

    def finish(total: Any) -> Any:
        right, found, true = total
        if average == "micro":
            return 2 * right.sum() / (found.sum() + true.sum())
        occurs = found + true > 0
        each = 2 * right / (found + true + ~occurs)
        if average == "macro":
            return each.sum() / occurs.sum()
        if average == "weighted":
            return (each * true).sum() / true.sum()
        known = names or [str(number) for number in range(len(each))]
        if len(known) != len(each):
            raise UserError(f"f1: {len(known)} names of classes for {len(each)} classes")
        return {f"f1_{name}": value for name, value in zip(known, each, strict=True)}

    return Summed(counts, finish)


def auroc() -> WholeSet:
    """The area under the ROC curve over a dataset: the probability that a positive example scores above a negative one.

    Ties count half: sum of the ranks of the positive examples, minus P (P + 1) / 2, over P times the number of
    negatives, P the number of positives. The scores are

    - the logits `(N,)` or `(N, 1)` with labels 0 and 1, or o_1 - o_0 of two classes `(N, 2)`;
    - softmax(o)_k of K classes `(N, K)`: the mean of the areas of each class against the others;
    - the logits `(N, K)` with labels `(N, K)`, 0 or 1: the mean over the columns.

    A class without positives or without negatives is left out of the mean; NaN if that leaves none.

    Source: Fawcett, An introduction to ROC analysis (2006), sections 7 and 8.
    """
    return WholeSet(lambda scores, labels: _mean_over_classes(_area, scores, labels), _scores)


def average_precision() -> WholeSet:
    """Average precision over a dataset: sum over thresholds n of (R_n - R_(n-1)) P_n, with recall R and precision P.

    The thresholds are the scores, from the highest; equal scores share one. Scores, classes and their mean are those of
    `auroc`. It is the area under the precision-recall curve without interpolation.

    Source: Davis and Goadrich, The relationship between precision-recall and ROC curves (2006), section 2.
    """
    return WholeSet(lambda scores, labels: _mean_over_classes(_precision, scores, labels), _scores)


def _scores(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores `(N, C)` and labels `(N, C)`, bool, of C questions with the answer yes or no."""
    if outputs.shape in (labels.shape, (*labels.shape, 1)):
        return wide(outputs).reshape(len(labels), -1), labels.reshape(len(labels), -1) > 0
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
        raise UserError(f"outputs {outputs.shape} and labels {labels.shape}: expected (N, K) and (N,), or equal shapes")
    outputs, classes = wide(outputs), outputs.shape[1]
    if classes == 2:
        return outputs[:, 1:] - outputs[:, :1], labels[:, None] == 1
    return jax.nn.softmax(outputs), labels[:, None] == jnp.arange(classes)


def _mean_over_classes(function: Callable[[Any, Any], float], scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the columns that have labels of both kinds."""
    both = [function(s, y) for s, y in zip(scores.T, labels.T, strict=True) if y.any() and not y.all()]
    return float(np.mean(both)) if both and np.isfinite(scores).all() else math.nan


def _area(scores: np.ndarray, labels: np.ndarray) -> float:
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    positives = int(labels.sum())
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives)))


def _precision(scores: np.ndarray, labels: np.ndarray) -> float:
    _, place = np.unique(-scores, return_inverse=True)
    hits = np.bincount(place, labels)
    precision = np.cumsum(hits) / np.cumsum(np.bincount(place))
    return float((hits * precision).sum() / labels.sum())


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

_NAMES = {
    "accuracy": "accuracy", "mean_iou": "mean IoU", "f": "F", "map": "mAP", "top5": "top5", "f1": "F1",
    "auroc": "AUROC", "average_precision": "average precision",
}  # fmt: skip
_SHARES = ("precision", "recall", "pixel_accuracy", "plain", "relational")
_SHARES_OF_CLASSES = ("ap_", "iou_", "f1_")


def name_of(metric: str) -> str:
    """The name of a metric in text for a reader."""
    return _NAMES.get(metric, metric.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a metric of this package is shown in per cent. Nothing else depends on it."""
    return metric in _NAMES or metric in _SHARES or metric.startswith(_SHARES_OF_CLASSES)


def shown(metric: str, value: float) -> str:
    """The value of a metric as text for a reader."""
    return f"{100 * value:.2f} %" if is_share(metric) else f"{value:.4f}"
