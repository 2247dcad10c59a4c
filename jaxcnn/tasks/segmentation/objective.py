"""Semantic segmentation: loss, metrics, augmentation, and coloured masks.

A label map is int32 `(N, H, W)`, classes 0 to K - 1, and -1 ("void") for pixels that count neither in the loss
nor in the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.data.augment import Joint
from jaxcnn.data.datasets.camvid import CAMVID
from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.metrics import Summed
from jaxcnn.ops.precision import wide

if TYPE_CHECKING:
    from jaxcnn.inspect.plots import Figure

VOID = -1
"""The label of a pixel that does not count."""

# --- loss --------------------------------------------------------------------------------------------------------


@per_example
def cross_entropy(
    outputs: jax.Array, labels: jax.Array, weights: Sequence[float] | np.ndarray | None = None
) -> jax.Array:
    """Softmax cross-entropy a pixel, void pixels left out: the weighted mean over the others of each image.

    loss = sum over pixels of w_y (-log p_y) / sum over pixels of w_y, with p = softmax(outputs)

    An image of nothing but void has the loss 0, and the gradient 0.

    PyTorch's `F.cross_entropy(outputs, labels, weight, ignore_index=-1)` divides once for the whole batch, so that an
    image counts by its weights, and gives NaN where all is void; of one image it is the same number.

    Args:
      outputs: logits `(N, ..., K)`.
      labels: integer classes `(N, ...)`, -1 to K - 1.
      weights: w, one number a class, 0 or more; all 1 when not given.

    Returns:
      `(N,)`.

    Raises:
      UserError: for labels of another shape or dtype, outside `jit` for labels outside the classes, and for another
        number of weights than classes.
    """
    classes = outputs.shape[-1]
    _check(outputs, labels)
    outputs = wide(outputs)
    w = jnp.ones(classes, outputs.dtype) if weights is None else jnp.asarray(weights, outputs.dtype)
    if w.shape != (classes,):
        raise UserError(f"weights of shape {w.shape} for {classes} classes: expected one a class")
    counted = labels != VOID
    y = jnp.where(counted, labels, 0)
    w = jnp.where(counted, w[y], 0)
    each = w * optax.softmax_cross_entropy_with_integer_labels(outputs, y)
    total, weight = (v.reshape(len(v), -1).sum(1) for v in (each, w))
    return total / jnp.where(weight > 0, weight, 1)


@per_example
def dice(outputs: jax.Array, labels: jax.Array, smooth: float = 1.0) -> jax.Array:
    """1 - Dice coefficient of the probabilities and the labels: the mean over the classes that are in the image.

    loss = mean over classes k of 1 - (2 sum_i p_ik t_ik + s) / (sum_i p_ik + sum_i t_ik + s)

    with p = softmax(outputs), t = 1 for the class of a pixel and 0 for the others, and sums over the pixels i that are
    not void. A class counts as much as another, however small it is, as in mean IoU. Add it to `cross_entropy`, which
    learns faster at the start. An image of nothing but void has the loss 0, and the gradient 0.

    Args:
      outputs: logits `(N, ..., K)`.
      labels: integer classes `(N, ...)`, -1 to K - 1.
      smooth: s, 0 or more.

    Returns:
      `(N,)`.

    Raises:
      UserError: as `cross_entropy`.

    Source: Milletari, Navab and Ahmadi, V-Net (2016), section 3, whose denominator has squares.
    """
    _check(outputs, labels)
    classes = outputs.shape[-1]
    known = (labels != VOID)[..., None]
    p = jnp.where(known, jax.nn.softmax(wide(outputs)), 0).reshape(len(labels), -1, classes)
    t = jnp.where(known, jax.nn.one_hot(labels, classes, dtype=p.dtype), 0).reshape(p.shape)
    of_class = t.sum(1)
    each = 1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + of_class + smooth)
    present = of_class > 0
    return jnp.where(present, each, 0).sum(1) / jnp.maximum(present.sum(1), 1)


def _check(outputs: Any, labels: Any) -> None:
    if not isinstance(labels, jax.core.Tracer):
        labels = np.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"a label map should be of integers, got {labels.dtype} of shape {labels.shape}")
    if outputs.shape[:-1] != labels.shape:
        raise UserError(f"outputs {outputs.shape} and labels {labels.shape} do not belong together: expected "
                        f"(N, H, W, classes) and (N, H, W)")  # fmt: skip
    if isinstance(labels, np.ndarray) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < VOID or high >= outputs.shape[-1]:
            raise UserError(
                f"labels from {low} to {high} for {outputs.shape[-1]} classes: expected 0 to {outputs.shape[-1] - 1}, "
                "or -1 where a pixel does not count"
            )


def median_frequency(labels: np.ndarray, classes: int, power: float = 1.0) -> np.ndarray:
    """Class weights by median frequency balancing: median frequency / frequency, `(classes,)`, float32.

    The frequency of a class is its share of the labelled pixels of those images in which it occurs. A class that does
    not occur has the weight 1.

    Args:
      labels: `(N, H, W)`, -1 for void.
      power: the weights are raised to it: 1 is the paper's, 0.5 is milder, 0 gives ones.

    Source: Eigen and Fergus, Predicting depth, surface normals and semantic labels (2015), section 6.2.1.
    """
    counts = np.stack([np.bincount(np.ravel(own) + 1, minlength=classes + 1)[1:] for own in np.asarray(labels)])
    total = np.where(counts > 0, counts.sum(1, keepdims=True), 0).sum(0)
    occurs = total > 0
    frequency = counts.sum(0) / np.maximum(total, 1)
    weights = np.ones(classes)
    if occurs.any():
        weights[occurs] = (np.median(frequency[occurs]) / frequency[occurs]) ** power
    return weights.astype(np.float32)


# --- measures ----------------------------------------------------------------------------------------------------


@per_example
def confusion(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """How many pixels of class i the network takes for class j, in each image: `(N, K, K)`, float32, void left out."""
    n, classes = len(outputs), outputs.shape[-1]
    true = jax.nn.one_hot(labels.reshape(n, -1), classes)  # of -1 all zeros
    predicted = jax.nn.one_hot(outputs.argmax(-1).reshape(n, -1), classes)
    return jnp.einsum("npi,npj->nij", true, predicted)


def iou(matrix: Any) -> Any:
    """Intersection over union of each class, `(K,)`: true positives / (true positives + false ones + missed ones).

    Args:
      matrix: a confusion matrix `(K, K)`, true classes in rows.

    Returns:
      NaN for a class that neither occurs nor was predicted.
    """
    xp = jnp if isinstance(matrix, jax.Array) else np
    union = matrix.sum(0) + matrix.sum(1) - xp.diagonal(matrix)
    return xp.where(union > 0, xp.diagonal(matrix) / xp.maximum(union, 1), xp.nan)


def mean_iou(matrix: Any) -> Any:
    """The mean of `iou` over the classes that occur or were predicted; 0 where there are none."""
    xp = jnp if isinstance(matrix, jax.Array) else np
    each = iou(matrix)
    there = ~xp.isnan(each)
    return xp.where(there, each, 0).sum() / xp.maximum(there.sum(), 1)


def pixel_accuracy(matrix: Any) -> Any:
    """The share of the counted pixels that have the right class; 0 where there are none."""
    xp = jnp if isinstance(matrix, jax.Array) else np
    return xp.trace(matrix) / xp.maximum(matrix.sum(), 1)


def measures(names: Sequence[str] = ()) -> dict[str, Summed]:
    """The `metrics` of `fit` and `make_evaluate`: `pixel_accuracy` and `mean_iou`, over all pixels of the whole set.

    Args:
      names: of the classes, for an `iou_NAME` of each beside them.
    """

    def figures(matrix: Any) -> dict[str, Any]:
        found = {"pixel_accuracy": pixel_accuracy(matrix), "mean_iou": mean_iou(matrix)}
        if names:
            found |= {f"iou_{name}": value for name, value in zip(names, iou(matrix), strict=True)}
        return found

    return {"segmentation": Summed(confusion, figures)}


# --- augmentation: image and labels together -----------------------------------------------------------------------


def _flip(images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    mirrored = jax.random.bernoulli(key, 0.5, (len(images),))
    images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images, jnp.where(mirrored[:, None, None], labels[:, :, ::-1], labels)


flip = Joint(_flip)
"""Each image and its labels mirrored left to right with probability 1/2."""


def scaled_crop(low: float = 0.6, high: float = 1.6, size: tuple[int, int] | None = None) -> Joint:
    """A window at a random place of each image, enlarged by a random factor: of images and labels alike.

    Where the enlarged image is larger than the window, the window lies within it; where it is smaller, it lies within
    the window. Images are sampled bilinearly and are 0 outside; labels are the nearest pixel's and void outside.

    Args:
      low, high: of the factor, whose logarithm is uniform. With both 1, it is a random crop.
      size: (height, width) of the window; that of the images when not given.
    """
    if not 0 < low <= high:
        raise UserError(f"scaled_crop({low}, {high}): expected 0 < low <= high")

    def augment(images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        n, *whole, _ = images.shape
        scale_key, *place_keys = jax.random.split(key, 3)
        factor = jnp.exp(jax.random.uniform(scale_key, (n, 1), minval=jnp.log(low), maxval=jnp.log(high)))
        x = images.astype(jnp.float32)
        for axis, (length, wanted, own) in enumerate(zip(whole, size or whole, place_keys, strict=True), 1):
            first = jax.random.uniform(own, (n, 1)) * (factor * length - wanted)  # of the window in the enlarged image
            at = (jnp.arange(wanted)[None] + 0.5 + first) / factor - 0.5  # where each of its pixels lies in the image
            outside = jnp.expand_dims((at < -0.5) | (at >= length - 0.5), 3 - axis)
            near = jnp.expand_dims(jnp.clip(jnp.floor(at + 0.5).astype(jnp.int32), 0, length - 1), 3 - axis)
            labels = jnp.where(outside, VOID, jnp.take_along_axis(labels, near, axis))
            at = jnp.clip(at, 0, length - 1)
            before = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, max(length - 2, 0))
            pixels = (jnp.expand_dims(i, (3 - axis, 3)) for i in (before, jnp.minimum(before + 1, length - 1)))
            a, b = (jnp.take_along_axis(x, i, axis) for i in pixels)
            x = a + (b - a) * jnp.expand_dims(at - before, (3 - axis, 3))
            x = jnp.where(outside[..., None], 0, x)
        x = jnp.round(x) if jnp.issubdtype(images.dtype, jnp.integer) else x
        return x.astype(images.dtype), labels

    return Joint(augment)


# --- pictures ----------------------------------------------------------------------------------------------------

_CAMVID = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
           (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192))  # fmt: skip
"""The colours that are usual for CamVid's 11 classes."""


def palette(classes: Sequence[str]) -> np.ndarray:
    """A colour for each class, then black for void: `(K + 1, 3)`, uint8.

    CamVid's classes have the colours that are usual for them; others those of Pascal VOC's palette, without its black.
    """
    colours = np.zeros((len(classes) + 1, 3), np.uint8)
    if tuple(classes) == CAMVID:
        colours[:-1] = _CAMVID
        return colours
    number = np.arange(1, len(classes) + 1)
    for bit in range(24):  # the number's bits go to red, green and blue in turn, the lowest to the highest of each
        colours[:-1, bit % 3] |= ((number >> bit & 1) << 7 >> bit // 3).astype(np.uint8)
    return colours


def mask(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The colour of each pixel's class: `(..., H, W)`, -1 for void, to `(..., H, W, 3)`, uint8."""
    return palette(classes)[np.asarray(labels)]


def overlay(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], share: float = 0.6) -> np.ndarray:
    """The mask laid over grey or RGB uint8 images `(..., H, W, C)`: `share` of its colour; void shows the image."""
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    mixed = (1 - share) * images + share * mask(labels, classes)
    return np.where((np.asarray(labels) == VOID)[..., None], images, np.round(mixed)).astype(np.uint8)


def figure(
    columns: Mapping[str, np.ndarray], classes: Sequence[str], images: np.ndarray | None = None, share: float = 1.0
) -> Figure:
    """Pictures side by side, a row an image, with a legend of the colours.

    Args:
      columns: by title, label maps `(N, H, W)`, or uint8 images `(N, H, W, C)` as they are.
      classes: the names of the classes.
      images: what the masks are laid over, `(N, H, W, C)`.
      share: of the mask's colour.
    """
    from matplotlib.patches import Patch

    from jaxcnn.inspect.plots import Figure, plain

    n, height, width = next(iter(columns.values())).shape[:3]
    wide = max(2.4, min(4.5, 3.0 * width / height))
    tall = wide * height / width
    shown = Figure(figsize=(wide * len(columns), (tall + 0.05) * n + 0.75), layout="constrained")
    grid = shown.subplots(n, len(columns), squeeze=False)
    there: set[int] = set()
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes = grid[row, column]
            axes.axis("off")
            if row == 0:
                axes.set_title(plain(title), fontsize=10)
            if picture.ndim == 2:
                there |= set(np.unique(picture).tolist())
                picture = mask(picture, classes) if images is None else overlay(images[row], picture, classes, share)
            axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), interpolation="nearest")
    colours = palette(classes) / 255
    names = [*classes, "void"]
    order = [k for k in (*range(len(classes)), VOID) if k in there]
    patches = [Patch(facecolor=colours[k], edgecolor="0.4", linewidth=0.5, label=plain(names[k], 40)) for k in order]
    columns_of_legend = max(1, int(wide * len(columns) / 1.05))
    shown.legend(handles=patches, loc="outside lower center", ncols=columns_of_legend, frameon=False, fontsize=9)
    return shown
