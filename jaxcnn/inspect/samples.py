"""Examples of a dataset as pictures: as a training sees them, and those that a network is mistaken about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle

from jaxcnn.data.augment import Augment, augmented
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.preprocess import Preprocess, inputs_of
from jaxcnn.data.stream import Stream
from jaxcnn.errors import UserError
from jaxcnn.inspect import plots
from jaxcnn.inspect.pictures import visible
from jaxcnn.inspect.plots import Figure, distinct, plain

_BATCH = 256
_MOST_NAMES = 20  # of a legend
_STRENGTH = 0.5  # of a mask over its image
_LEAST = 0.01  # the smallest share of a class that a title names


class Classifier(Protocol):
    """A trained network: a `FitResult` or a `TrainedModel`."""

    def probabilities(self, images: Any) -> np.ndarray: ...


def show_batch(
    data: Dataset | Examples | Stream,
    augment: Augment | None = None,
    preprocess: Preprocess | Any = None,
    n: int = 16,
    seed: int = 0,
) -> Figure:
    """Random examples of a dataset, as a training step sees them: after augmentation and preprocessing.

    A class, or the shares of several classes (after `mixup`), is the title of its image. A class for each pixel is laid
    over the image in colours, and boxes are drawn in it; both only where `preprocess` keeps the size. Preprocessed
    images are each stretched to their own range.

        cnn.inspect.show_batch(digits, augment=cnn.data.affine())

    Args:
      data: images with labels: a `Dataset`, a `Stream`, or `Examples` with images among their inputs.
      augment, preprocess: as in an `Objective`; neither when None.
      n: the number of examples, at most all.
      seed: of the choice and of the augmentation.

    Raises:
      UserError: if n is below 1, or the inputs have no images `(N, H, W, 1 or 3)`.
    """
    if n < 1:
        raise UserError(f"n={n}: expected at least 1 example to show")
    inputs, labels = _some(data, min(n, len(data)), seed)
    if augment is not None:
        arrays = jax.tree.map(jnp.asarray, (inputs, labels))
        inputs, labels = augmented(augment, arrays[0], arrays[1], jax.random.key(seed))
    before = _images(inputs).shape[1:3]
    if preprocess is not None:
        found = inputs_of(preprocess, jax.tree.map(jnp.asarray, inputs))
        inputs = found[0] if len(found) == 1 else found
    images = _images(inputs)
    if preprocess is None and images.dtype != np.uint8 and _images(_inputs(data, 1)).dtype == np.uint8:
        images = np.clip(np.round(images), 0, 255).astype(np.uint8)  # an augmentation computes in float32
    labels = jax.tree.map(np.asarray, labels)
    figure = plots.images(visible(images), _titles(labels, data.classes, len(images)))
    if images.shape[1:3] == before:
        _lay_over(figure, labels, data.classes, images.shape)
    return figure


def mistakes(trained: Classifier, data: Dataset, most: int = 32) -> Figure:
    """The mistakes that a network is surest of, each with the true class, the predicted one, and its probability.

        cnn.inspect.mistakes(cnn.train.TrainedModel.load("runs/five"), cnn.data.load("digits", "test"))

    Args:
      trained: a network of image classes: a `FitResult`, or a `TrainedModel` of a run.
      data: labelled images of its classes.
      most: the number of mistakes to draw.

    Raises:
      UserError: if data is no `Dataset`, or has another number of classes than the network.
    """
    if not isinstance(data, Dataset):
        raise UserError(f"expected a Dataset, images with a class each, got {type(data).__name__}")
    parts = [trained.probabilities(data.images[k : k + _BATCH]) for k in range(0, len(data), _BATCH)]
    probabilities = np.concatenate(parts)
    if probabilities.shape != (len(data), len(data.classes)):
        raise UserError(
            f"{data.name} has {len(data.classes)} classes; the network's outputs are {probabilities.shape[1:]}"
        )
    return plots.mistakes(data, probabilities, most)


def _some(data: Any, n: int, seed: int) -> tuple[Any, Any]:
    """Random examples: inputs and labels."""
    if isinstance(data, Stream):
        return next(iter(data.batches(n, seed)))
    some = data.take(np.random.default_rng(seed).permutation(len(data))[:n])
    return some.inputs, some.labels


def _inputs(data: Any, n: int) -> Any:
    return np.zeros((n, *data.image), np.uint8) if isinstance(data, Stream) else data.inputs


def _images(inputs: Any) -> np.ndarray:
    """The first images among the inputs."""
    for leaf in jax.tree.leaves(inputs):
        if getattr(leaf, "ndim", 0) == 4 and leaf.shape[-1] in (1, 3):
            return np.asarray(leaf)
    shapes = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(inputs))
    raise UserError(f"expected images (N, H, W, 1 or 3) among the inputs, got {shapes}")


def _titles(labels: Any, classes: Sequence[str], count: int) -> list[str] | None:
    """The title of each image; None for labels that are no classes and no numbers."""
    if not isinstance(labels, np.ndarray):
        return None
    if labels.ndim == 1:
        named = bool(classes) and np.issubdtype(labels.dtype, np.integer)
        return [classes[label] if named else f"{label:g}" for label in labels.tolist()]
    if labels.shape == (count, len(classes)):
        return [_shares(row, classes) for row in labels]
    return None


def _shares(row: np.ndarray, classes: Sequence[str]) -> str:
    """The two classes with the largest shares; one alone if it is whole."""
    first, *others = [int(k) for k in np.argsort(-row, kind="stable")[:2]]
    if row[first] > 1 - _LEAST:
        return classes[first]
    return "\n".join(f"{classes[k]} {100 * row[k]:.0f} %" for k in (first, *others) if row[k] > _LEAST)


def _lay_over(figure: Figure, labels: Any, classes: Sequence[str], shape: tuple[int, ...]) -> None:
    """Draws masks and boxes into the images of a figure."""
    is_mask = isinstance(labels, np.ndarray) and labels.shape == shape[:3] and labels.dtype.kind in "iub"
    is_boxes = isinstance(labels, dict) and {"boxes", "classes"} <= labels.keys()
    if not is_mask and not is_boxes:
        return
    numbers = (labels if is_mask else labels["classes"]).astype(np.int64)
    count = max(len(classes), int(numbers.max()) + 1, 1)
    colors = distinct(count)
    (axes,) = figure.axes
    for k, image in enumerate(list(axes.images)):
        left, right, bottom, top = image.get_extent()
        if is_mask:
            seen = np.ma.masked_less(numbers[k], 0)  # pixels that do not count
            axes.imshow(seen, cmap=ListedColormap(colors), vmin=-0.5, vmax=count - 0.5, alpha=_STRENGTH,
                        interpolation="nearest", extent=(left, right, bottom, top))  # fmt: skip
            continue
        pixel = (right - left) / shape[2]
        for (x1, y1, x2, y2), number in zip(labels["boxes"][k].tolist(), numbers[k], strict=True):
            if number >= 0:
                corner = (left + pixel * min(x1, x2), top - pixel * max(y1, y2))
                size = (pixel * abs(x2 - x1), pixel * abs(y2 - y1))
                axes.add_patch(Rectangle(corner, *size, fill=False, color=colors[number], linewidth=1.5))
    there = [number for number in np.unique(numbers).tolist() if number >= 0][:_MOST_NAMES]
    names = [plain(classes[number] if number < len(classes) else number, 30) for number in there]
    handles = [Patch(color=colors[number], label=name) for number, name in zip(there, names, strict=True)]
    if handles:
        columns = max(1, int(figure.get_figwidth() / 1.4))
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns) + 0.2)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
