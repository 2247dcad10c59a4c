"""The objective of a training: loss, metrics, augmentation and preprocessing in one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.data.augment import Augment
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.preprocess import Preprocess, to_float
from jaxcnn.data.stream import Stream
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss, softmax_cross_entropy
from jaxcnn.metrics import Metric


@dataclass(frozen=True)
class Objective:
    """What a training minimizes and measures.

    A step minimizes the mean over the batch of `loss(model(preprocess(augment(inputs))), labels)`, plus
    `penalty(params)`.

    Attributes:
      loss: `(outputs, labels) -> (N,)`, one number per example.
      metrics: further metrics by name, `(outputs, labels) -> (N,)`, or `Summed` over the dataset. When None, `accuracy`
        is measured if the loss is one of classes (`softmax_cross_entropy`, `multiclass_hinge`, `zero_one`, one that
        calls them with the outputs, or Optax's of integer labels) and the labels are integers. Of several outputs it
        uses the first, and of mixed labels the class with the larger share.
      primary: the metric that chooses the best epoch: `loss`, one of the metrics, or a callback's. When None,
        `accuracy` if it is measured, else the loss. A value that is not finite is never the best; between equal
        values the lower loss decides, then the later epoch.
      higher_is_better: whether `primary` is maximized. Required unless `primary` is `loss` or `accuracy`.
      augment: `(inputs, key) -> inputs`, or a paired transform (`data.Joint`) that changes the labels too. Training
        batches only, before `preprocess`.
      preprocess: `inputs -> inputs` of the network, inside the step. When None, `fit` normalizes images to zero mean
        and unit variance of the training data (of ImageNet for a stream); `make_step` and `make_evaluate` scale uint8
        to 0..1.
      penalty: `params -> number`, added to the loss: `lambda p: 1e-4 * losses.l2_penalty(p)`.
      loss_scale: whether the loss is scaled, for a model in float16; see `mixed_precision`.
      test_metrics: further metrics, measured on the test set only. A value that is not finite is left out.
      evaluate: `(trained, data) -> metrics` of a whole dataset that are not sums over its examples, such as the mean
        average precision; computed on the test set with the best variables, by the first of several processes.
      unit: what the examples are called in the display of a training, in the plural; when empty, images for images
        with a class each, else examples.
    """

    loss: Loss = softmax_cross_entropy
    metrics: Mapping[str, Metric] | None = None
    primary: str | None = None
    higher_is_better: bool | None = None
    augment: Augment | None = None
    preprocess: Callable[[Any], Any] | None = None
    penalty: Callable[[Any], jax.Array] | None = None
    loss_scale: bool = False
    test_metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    evaluate: Callable[[Any, Any], Mapping[str, float]] | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise UserError(
                f"loss: expected a function of outputs and labels, such as those of cnn.losses, got {_named(self.loss)}"
            )
        if self.augment is not None and not callable(self.augment):
            raise UserError(
                f"augment: expected a function, got {type(self.augment).__name__}; "
                "cnn.data.compose(a, b) makes one of several"
            )

    @staticmethod
    def of(given: Objective | Loss) -> Objective:
        """Returns an objective unchanged; wraps a loss in an objective.

        Raises:
          UserError: if it is neither.
        """
        return given if isinstance(given, Objective) else Objective(given)

    @property
    def inputs(self) -> Callable[[Any], Any]:
        """The preprocessing of the inputs: `preprocess`, or `to_float` when it is None."""
        return to_float if self.preprocess is None else self.preprocess

    def prepared(self, data: Any) -> Objective:
        """The objective with the default `preprocess` for the training data if it has none."""
        if self.preprocess is not None:
            return self
        return dataclasses.replace(self, preprocess=usual_preprocess(data))

    def kept(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures of a test set: with `test_metrics`, only those that are finite."""
        return {name: value for name, value in figures.items() if not self.test_metrics or np.isfinite(value)}

    def for_test(self) -> Objective:
        """The objective with the test metrics among its metrics."""
        if not self.test_metrics:
            return self
        return dataclasses.replace(self, metrics={**(self.metrics or {}), **self.test_metrics}, test_metrics={})


def usual_preprocess(data: Any) -> Callable[[Any], Any]:
    """Images to zero mean and unit variance of `data` (of ImageNet for a stream); other inputs by `to_float`."""
    if isinstance(data, Stream):
        return Preprocess.imagenet(data.image)
    images = data.inputs
    is_images = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    return Preprocess.of(images) if isinstance(data, Dataset) or is_images else to_float


def _named(given: Any) -> str:
    return repr(given) if isinstance(given, (str, int, float)) else type(given).__name__
