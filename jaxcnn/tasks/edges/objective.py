"""Edges: boundaries of label maps, class-balanced loss, F-measure, thinning, and Sobel's filter as a baseline.

A boundary map has one number a pixel, `(N, H, W)`: a label 1 (boundary), 0 (none) or -1 (ignored), a score 0 to 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.metrics import Summed
from jaxcnn.ops.geometry import taps
from jaxcnn.ops.precision import wide

Array = jax.Array


def between(labels: np.ndarray) -> np.ndarray:
    """The boundaries between the classes of a label map, one pixel wide.

    A pixel is a boundary if its class differs from that of its right or lower neighbour. A pixel that is void (-1), or
    has a void neighbour above, below, left or right, is ignored, unless it is a boundary between two classes.

    Args:
      labels: integer classes `(..., H, W)`, -1 for void.

    Returns:
      int32 of the same shape: 1, 0 or -1.
    """
    labels = np.asarray(labels)
    if labels.ndim < 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"expected integer label maps (..., H, W), got {labels.dtype} of shape {labels.shape}")
    void = labels == -1
    boundary = np.zeros(labels.shape, bool)
    unknown = void.copy()
    for axis in (-2, -1):
        here, there = (_cut(axis, part) for part in (slice(None, -1), slice(1, None)))
        boundary[here] |= (labels[here] != labels[there]) & ~void[here] & ~void[there]
        unknown[here] |= void[there]
        unknown[there] |= void[here]
    return np.where(boundary, 1, np.where(unknown, -1, 0)).astype(np.int32)


def _cut(axis: int, part: slice) -> tuple[Any, ...]:
    return (..., part) if axis == -1 else (..., part, slice(None))


@per_example
def class_balanced_cross_entropy(outputs: Array, labels: Array) -> Array:
    """The class-balanced cross-entropy: boundaries and all other pixels have equal weight.

    -beta sum over boundaries of log p - (1 - beta) sum over the others of log(1 - p), divided by the number of pixels,
    with p = sigmoid(outputs) and beta the share of an image's pixels that are no boundary.

    Ignored pixels do not count. An image without any boundary, or with nothing else, has a loss of 0.

    Args:
      outputs: logits `(N, H, W)`.
      labels: `(N, H, W)`, 1, 0 or -1.

    Returns:
      `(N,)`. For a network with side outputs: `every_output(class_balanced_cross_entropy)`.

    Against the paper: its equation 2 is the sum over the pixels, not their mean.

    Source: Xie and Tu, Holistically-nested edge detection (2015), equation 2.
    """
    if isinstance(outputs, (tuple, list)):
        raise UserError(
            f"the network gives {len(outputs)} outputs in training and this is a loss of one: pass "
            "loss=every_output(class_balanced_cross_entropy)"
        )
    _checked(outputs, labels)
    outputs = wide(outputs)
    pixels = (1, 2)
    boundary, other = labels == 1, labels == 0
    counted = jnp.maximum((boundary | other).sum(pixels, keepdims=True), 1)
    beta = other.sum(pixels, keepdims=True) / counted
    weights = jnp.where(boundary, beta, jnp.where(other, 1 - beta, 0))
    each = weights * optax.sigmoid_binary_cross_entropy(outputs, boundary.astype(outputs.dtype))
    return (each / counted).sum(pixels)


def _checked(outputs: Any, labels: Any, distance: float | None = None) -> float:
    """Checks outputs and labels; returns the distance in pixels."""
    if outputs.ndim != 3 or outputs.shape != labels.shape:
        raise UserError(f"outputs {outputs.shape} and labels {labels.shape} should both be (N, H, W)")
    if not isinstance(labels, jax.core.Tracer) and not np.isin(known := np.asarray(labels), (-1, 0, 1)).all():
        raise UserError(f"boundary labels from {known.min()} to {known.max()}: expected 1, 0, or -1 (ignored)")
    if distance is None:
        return 0.0075 * math.hypot(*outputs.shape[1:])
    if distance < 0:
        raise UserError(f"distance={distance}: expected 0 pixels or more")
    return distance


# --- how well boundaries are found -------------------------------------------------------------------------------


def boundary_f(distance: float | None = None, thresholds: int = 99) -> Summed:
    """A metric of logits: F, precision and recall of the boundaries at the best threshold for the dataset.

    F = 2 P R / (P + R), the ODS of the BSDS benchmark, of counts over all images; see `matches`.

    Args:
      distance: in pixels, as in `matches`.
      thresholds: how many are tried, evenly spaced inside 0 to 1.

    Returns:
      A metric for `fit`, of outputs and labels `(N, H, W)`. Its figures are `f`, `precision`, `recall`, `threshold`.
    """

    @per_example
    def each(outputs: Any, labels: Array) -> dict[str, Array]:
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        return matches(jax.nn.sigmoid(wide(first)), labels, distance, spaced(thresholds))

    return Summed(each, lambda counts: best(counts, spaced(thresholds)))


def spaced(count: int) -> np.ndarray:
    """`count` thresholds, evenly spaced inside 0 to 1: k / (count + 1) for k = 1, ..., count."""
    return np.arange(1, count + 1, dtype=np.float32) / (count + 1)


@functools.partial(jax.jit, static_argnames="distance")
def matches(
    scores: Array, labels: Array, distance: float | None = None, thresholds: Sequence[float] | np.ndarray = spaced(99)
) -> dict[str, Array]:
    """Counts of boundary pixels that are found and of predictions that are right, for each threshold.

    The scores are thinned first (`thin`). Predicted are the pixels that then have at least the threshold. A prediction
    is right where some true boundary pixel is no further away than `distance`, and a true pixel is found where some
    prediction is no further away: each is matched separately, and several may have the same partner. That is fast
    enough for a training step, but overrates random predictions: see `one_to_one`.

    Args:
      scores: `(N, H, W)`, 0 to 1. A score of 0, as a thinned-out pixel has, is never a prediction.
      labels: `(N, H, W)`, 1, 0 or -1. What is predicted at an ignored pixel is neither right nor wrong, nor a find.
      distance: between pixel centres; 0.0075 of the image's diagonal when not given, as in the benchmark.
      thresholds: above 0, in ascending order.

    Returns:
      float32 counts of each image: `predicted`, `right` and `found`, `(N, T)` for T thresholds, and `boundary`, the
      true pixels, `(N,)`. Their sums over images are what `best` takes.

    Source: Martin, Fowlkes and Malik, Learning to detect natural image boundaries using local brightness, color, and
    texture cues (2004), for precision and recall of boundaries.
    """
    distance = _checked(scores, labels, distance)
    true = labels == 1
    predicted = jnp.where(labels == -1, 0, thin(scores)).astype(jnp.float32)
    near = _largest_within(true.astype(jnp.float32), distance) > 0
    best_near = _largest_within(predicted, distance)

    levels = jnp.asarray(thresholds, jnp.float32)
    return {
        "predicted": _at_least(levels, predicted, jnp.ones_like(true)),
        "right": _at_least(levels, predicted, near),
        "found": _at_least(levels, best_near, true),
        "boundary": true.sum((1, 2)).astype(jnp.float32),
    }


def _at_least(levels: Array, values: Array, counted: Array) -> Array:
    """How many of the counted pixels `(N, H, W)` have at least each of the ascending levels: `(N, T)`."""
    n = len(values)
    reached = jnp.searchsorted(levels, values.reshape(n, -1), side="right")  # the number of levels reached
    exactly = jnp.zeros((n, len(levels) + 1)).at[jnp.arange(n)[:, None], reached].add(counted.reshape(n, -1))
    return jnp.cumsum(exactly[:, :0:-1], 1)[:, ::-1]


def one_to_one(
    scores: Array | np.ndarray,
    labels: np.ndarray,
    distance: float | None = None,
    thresholds: Sequence[float] | np.ndarray = spaced(19),
) -> dict[str, np.ndarray]:
    """The counts of `matches` when each true pixel is the partner of one prediction at most, as in the BSDS benchmark.

    Predictions and true pixels at most `distance` from each other are matched in as many pairs as possible, each pixel
    in one of them at most; so a second line beside a boundary, and lines all over an image, are wrong. Arguments and
    counts as in `matches`; `right` and `found` are the same number. It takes some hundredths of a second per image and
    threshold.

    Against the benchmark: it assigns at the least total distance, and so leaves a pair out here and there, and thins
    what has reached a threshold once more.

    Source: Martin, Fowlkes and Malik (2004), appendix B.
    """
    from scipy.sparse import csgraph, csr_matrix  # imported here: it takes a third of a second

    distance = _checked(scores, labels, distance)
    labels = np.asarray(labels)
    predicted = np.where(labels == -1, 0, np.asarray(thin(jnp.asarray(scores))))
    reach = int(distance)
    offsets = [
        (dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1) if math.hypot(dy, dx) <= distance
    ]
    drawn = np.zeros((len(labels), len(thresholds)), np.float32)
    paired = np.zeros_like(drawn)
    for n, true in enumerate(labels == 1):
        # Every pair of a possible prediction and a true pixel, once; a threshold then takes some of them.
        rows, columns = np.nonzero(predicted[n] > 0)
        number = np.where(true, np.cumsum(true).reshape(true.shape) - 1, -1)
        framed = np.pad(number, reach, constant_values=-1)
        partner = np.stack([framed[rows + dy + reach, columns + dx + reach] for dy, dx in offsets], 1)
        values = predicted[n][rows, columns]
        for k, threshold in enumerate(thresholds):
            own = partner[values >= threshold]
            drawn[n, k] = len(own)
            which, where = np.nonzero(own >= 0)
            if len(which):
                graph = csr_matrix((np.ones(len(which)), (which, own[which, where])), (len(own), int(true.sum())))
                paired[n, k] = (csgraph.maximum_bipartite_matching(graph, "column") >= 0).sum()
    return {
        "predicted": drawn,
        "right": paired,
        "found": paired,
        "boundary": (labels == 1).sum((1, 2)).astype(np.float32),
    }


def precision_recall(counts: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Precision, recall and F at each threshold, `(T,)` each, of counts summed over images.

    Precision is right / predicted, 1 where nothing is predicted; recall is found / boundary, 1 where there is none; F
    is 2 P R / (P + R), 0 where both are 0.
    """
    predicted, boundary = jnp.asarray(counts["predicted"]), jnp.asarray(counts["boundary"])
    precision = jnp.where(predicted > 0, counts["right"] / jnp.maximum(predicted, 1), 1.0)
    recall = jnp.where(boundary > 0, counts["found"] / jnp.maximum(boundary, 1), 1.0)
    total = precision + recall
    return precision, recall, jnp.where(total > 0, 2 * precision * recall / jnp.where(total > 0, total, 1), 0.0)


def best(counts: dict[str, Any], thresholds: Sequence[float] | np.ndarray = spaced(99)) -> dict[str, Array]:
    """`f`, `precision`, `recall` and `threshold` where F is largest, of counts summed over images."""
    precision, recall, f = precision_recall(counts)
    k = jnp.argmax(f)
    return {"f": f[k], "precision": precision[k], "recall": recall[k], "threshold": jnp.asarray(thresholds)[k]}


@jax.jit
def thin(scores: Array) -> Array:
    """Scores `(N, H, W)` where they are largest across the line that they draw, 0 elsewhere: lines of about one pixel.

    Across is the direction in which the smoothed scores are bent most sharply, an eigenvector of their Hessian. A pixel
    stays when it is above what lies one pixel away on one side, bilinearly interpolated, and no lower than that on the
    other; beyond the edge there is 0. That is Canny's non-maximum suppression, with the Hessian where he has the
    gradient, since scores have their maximum on the line itself.

    Source: Canny, A computational approach to edge detection (1986), section VIII.
    """
    x = scores[..., None]
    smooth = _filtered(x, _SMOOTH, _SMOOTH)
    yy, xx = _filtered(smooth, _SECOND, (1.0,)), _filtered(smooth, (1.0,), _SECOND)
    xy = _filtered(smooth, _FIRST, _FIRST)
    largest = jnp.where(xx + yy > 0, 1, -1)  # of its two eigenvalues the one that is further from 0 is above or below
    angle = 0.5 * jnp.arctan2(2 * largest * xy, largest * (xx - yy))[..., 0]
    dx, dy = jnp.cos(angle), jnp.sin(angle)
    before, after = jnp.zeros_like(scores), jnp.zeros_like(scores)
    for place, tap in enumerate(taps(x, (3, 3), (1, 1), ((1, 1), (1, 1)))):
        row, column = place // 3 - 1, place % 3 - 1
        before += tap[..., 0] * jax.nn.relu(1 - abs(row + dy)) * jax.nn.relu(1 - abs(column + dx))
        after += tap[..., 0] * jax.nn.relu(1 - abs(row - dy)) * jax.nn.relu(1 - abs(column - dx))
    return jnp.where((scores > before) & (scores >= after), scores, 0)


_SMOOTH = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_FIRST = (-0.5, 0.0, 0.5)
_SECOND = (1.0, -2.0, 1.0)


def _filtered(x: Array, rows: Sequence[float], columns: Sequence[float]) -> Array:
    """Images `(N, H, W, C)` correlated with rows x columns, an odd number of each; at the edges, their last pixels."""
    for axis, weights in ((1, rows), (2, columns)):
        edge = len(weights) // 2
        padded = jnp.pad(x, [(edge, edge) if a == axis else (0, 0) for a in range(4)], "edge")
        size = x.shape[axis]
        x = sum(w * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i, w in enumerate(weights))  # type: ignore[assignment]
    return x


def _largest_within(x: Array, distance: float) -> Array:
    """The largest value no further than `distance` from each pixel: `(N, H, W)`, not negative."""
    reach = int(min(distance, max(x.shape[1:])))
    side = 2 * reach + 1
    result = x
    for place, tap in enumerate(taps(x[..., None], (side, side), (1, 1), ((reach, reach),) * 2)):
        if math.hypot(place // side - reach, place % side - reach) <= distance:
            result = jnp.maximum(result, tap[..., 0])
    return result


# --- the baseline, and pictures ----------------------------------------------------------------------------------


def sobel(images: Array | np.ndarray, sigma: float = 0.0) -> Array:
    """The length of the gradient by Sobel's filters, largest over the channels: `(N, H, W, C) -> (N, H, W)`, 0 to 1.

    |(G_x, G_y)| / (4 sqrt 2) with G_x = (1 2 1)^T (-1 0 1) and G_y its transpose, on images from 0 to 1. Beyond its
    edge an image goes on with its last pixels.

    Args:
      images: uint8, or floating point from 0 to 1.
      sigma: of a Gaussian that smooths the images first, in pixels; 0 for none.

    Source: Sobel and Feldman, An isotropic 3x3 image gradient operator (1968).
    """
    if sigma < 0:
        raise UserError(f"sigma={sigma}: expected 0 or more pixels")
    x = jnp.asarray(images)
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
    if sigma:
        reach = math.ceil(3 * sigma)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        gaussian = tuple(weights / weights.sum())
        x = _filtered(x, gaussian, gaussian)
    across, down = _filtered(x, (1, 2, 1), (-1, 0, 1)), _filtered(x, (-1, 0, 1), (1, 2, 1))
    return jnp.sqrt(across**2 + down**2).max(-1) / (4 * math.sqrt(2))


def picture(scores: np.ndarray | Array) -> np.ndarray:
    """Scores `(H, W)`, 0 to 1, as dark lines on white: uint8 `(H, W)`. A negative score (ignored) is light grey."""
    scores = np.asarray(scores, np.float32)
    return np.where(scores < 0, 224, np.round(255 * (1 - np.clip(scores, 0, 1)))).astype(np.uint8)
