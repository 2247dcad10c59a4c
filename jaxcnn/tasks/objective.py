"""The objective of a training: loss, metrics, augmentation and preprocessing in one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.data.augment import Augment, augmented
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.loader import Loader
from jaxcnn.data.preprocess import Preprocess, to_float
from jaxcnn.data.stream import Stream
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss, softmax_cross_entropy
from jaxcnn.metrics import Metric


@dataclass(frozen=True)
class Objective:
    """What a training minimizes and measures.

    A step minimizes the mean over the batch of `loss(model(preprocess(views(augment(inputs)))), labels)`, plus
    `penalty(params)`.

    An objective needs no labels: those of `Examples(images)` are None, and a loss may ignore the labels that there are.
    A loss may compare the examples of a batch (`losses.nt_xent`); it is then undeclared, so that an evaluation never
    gives it padding (`losses.per_example`). Several networks that play against each other are one Layer with a loss for
    each of them, whose sum is minimized; `transforms.constant` keeps a loss from a network that it must not change.

    Attributes:
      loss: `(outputs, labels) -> (N,)`, one number per example.
      metrics: further metrics by name, `(outputs, labels) -> (N,)`, or `Summed` or `WholeSet` over the dataset. When
        None, `accuracy` is measured if the loss is one of classes (`softmax_cross_entropy`, `multiclass_hinge`,
        `zero_one`, one that calls them with the outputs, or Optax's of integer labels) and the labels are integers. Of
        several outputs it uses the first, and of mixed labels the class with the larger share.
      primary: the metric that chooses the best epoch: `loss`, one of the metrics, or a callback's. When None,
        `accuracy` if it is measured, else the loss. A value that is not finite is never the best; between equal
        values the lower loss decides, then the later epoch.
      higher_is_better: whether `primary` is maximized. Required unless `primary` is `loss` or `accuracy`.
      augment: `(inputs, key) -> inputs`, or a paired transform (`data.Joint`) that changes the labels too. Training
        batches only, before `preprocess`.
      views: `(inputs, key) -> inputs`, or a paired transform, for random inputs that belong to the objective, so that
        an evaluation has them too: two views of each image (`data.views`), a noise vector beside it (`data.noise`).
        After `augment`, before `preprocess`. An evaluation makes them one example at a time, example k of the data with
        the key fold_in(key(0), k): they are the same each time, for all batch sizes and numbers of devices.
      preprocess: `inputs -> inputs` of the network, inside the step. When None, `fit` normalizes images to zero mean
        and unit variance of the training data (of ImageNet for a stream); `make_step` and `make_evaluate`, and `fit`
        for a `Loader`, scale uint8 to 0..1.
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
    views: Augment | None = None
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
        for name, given in (("augment", self.augment), ("views", self.views)):
            if given is not None and not callable(given):
                raise UserError(
                    f"{name}: expected a function, got {type(given).__name__}; "
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

    def viewed(self, inputs: Any, labels: Any, places: jax.Array) -> tuple[Any, Any]:
        """A batch with the `views` of an evaluation.

        Args:
          places: the number of each example in its dataset, `(N,)`.
        """
        if self.views is None:
            return inputs, labels
        views = self.views

        def one(inputs: Any, labels: Any, place: jax.Array) -> tuple[Any, Any]:
            inputs, labels = jax.tree.map(lambda x: x[None], (inputs, labels))
            made = augmented(views, inputs, labels, jax.random.fold_in(jax.random.key(0), place))
            first: tuple[Any, Any] = jax.tree.map(lambda x: x[0], made)
            return first

        return jax.vmap(one)(inputs, labels, places)

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
    """Images to zero mean and unit variance of `data` (of ImageNet for a stream).

    Other inputs, and those of a loader, which may normalize them itself, by `to_float`.
    """
    if isinstance(data, Stream):
        return Preprocess.imagenet(data.image)
    if isinstance(data, Loader):
        return to_float
    images = data.inputs
    is_images = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    return Preprocess.of(images) if isinstance(data, Dataset) or is_images else to_float


def _named(given: Any) -> str:
    return repr(given) if isinstance(given, (str, int, float)) else type(given).__name__
