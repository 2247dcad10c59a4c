"""Object detection by regions: sampling of regions, loss, decoding of boxes, average precision, pictures.

The networks are `models.rcnn` and `models.fast_rcnn`; they take `(images, boxes)` and give `Regions`. Labels are a
dict of arrays, padded to one number of objects G an image:

- `boxes` `(N, G, 4)`: x1, y1, x2, y2 in pixels;
- `classes` `(N, G)` int32: 0 to K - 1, and -1 where there is no object;
- `difficult` `(N, G)` bool, may be left out: objects that need not be found.

Boxes of regions are padded as well: one of zero size is none. Class K is background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw, ImageFont

from jaxcnn.core import Layer
from jaxcnn.data.augment import Joint
from jaxcnn.data.batches import padded_batches
from jaxcnn.data.dataset import Examples
from jaxcnn.data.preprocess import to_float
from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.format import printable, shortened
from jaxcnn.losses import Loss
from jaxcnn.models.fast_rcnn import Regions
from jaxcnn.ops import boxes as box
from jaxcnn.ops.nms import nms
from jaxcnn.ops.precision import wide

DEVIATION = (0.1, 0.1, 0.2, 0.2)
"""What a box's correction is divided by, so that its four numbers have about unit variance (Fast R-CNN's code)."""

Labels = Mapping[str, Any]


class Detections(NamedTuple):
    """The objects detected in each image, in descending order of scores, padded to one number D.

    Attributes:
      boxes: `(N, D, 4)`, in pixels.
      scores: `(N, D)`, the probability of the class; 0 where there is none.
      classes: `(N, D)` int32, -1 where there is none.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


# --- learning ----------------------------------------------------------------------------------------------------


def assign(regions: jax.Array, labels: Labels, threshold: float = 0.5) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The target of each region.

    A region has the class of the object with which its IoU is largest, if that is `threshold` or more, else that of
    background, -2. It is left out, -1, where there is none or the object is a difficult one.

    Args:
      regions: `(N, R, 4)`.
      labels: as above.

    Returns:
      classes `(N, R)`, that object's boxes `(N, R, 4)`, and the IoU `(N, R)`.

    Source: Girshick, Fast R-CNN (2015), section 2.3.
    """
    there = labels["classes"] >= 0
    overlap = jnp.where(there[:, None], box.iou(regions, labels["boxes"]), 0)
    most, which = overlap.max(-1), overlap.argmax(-1)
    classes = jnp.take_along_axis(labels["classes"], which, 1)
    matched = most >= threshold
    if "difficult" in labels:
        classes = jnp.where(jnp.take_along_axis(labels["difficult"], which, 1), -1, classes)
    classes = jnp.where(matched, classes, -2)
    classes = jnp.where(box.area(regions) > 0, classes, -1)
    return classes, jnp.take_along_axis(labels["boxes"], which[..., None], 1), most


def sample_regions(
    count: int = 64,
    positive: float = 0.25,
    foreground: float = 0.5,
    background: tuple[float, float] = (0.1, 0.5),
) -> Joint:
    """Samples the training regions in each step: `((images, boxes), labels, key) -> ((images, some), labels)`.

    The objects' own boxes are regions, too. Of those whose IoU with an object is `foreground` or more, at most
    `positive` times `count` are drawn; the others have an IoU in `background`, low to below high. Where an image has
    too few, places stay empty.

    Args:
      count: regions of an image.
      positive: the largest share that are objects.

    Raises:
      UserError: if `count` is below 1, or `positive` is not from 0 to 1.

    Source: Girshick, Fast R-CNN (2015), section 2.3: 64 of each image, a quarter of them objects.
    """
    if count < 1 or not 0 <= positive <= 1:
        raise UserError(f"expected count 1 or more and positive from 0 to 1, got {count} and {positive}")

    def both(inputs: Any, labels: Labels, key: jax.Array) -> tuple[Any, Labels]:
        images, regions = inputs
        objects = jnp.where((labels["classes"] >= 0)[..., None], labels["boxes"], 0)
        regions = jnp.concatenate([regions, objects.astype(regions.dtype)], 1)
        classes, _, overlap = assign(regions, labels, foreground)
        is_object = classes >= 0
        low, high = background
        is_background = (classes == -2) & (overlap >= low) & (overlap < high)
        lots = jax.random.uniform(key, classes.shape)
        # The chosen objects first, then background, then nothing: three groups, each in random order.
        place = jnp.argsort(jnp.where(is_object, lots, 2), 1).argsort(1)
        chosen = is_object & (place < round(positive * count))
        rank = jnp.where(chosen, lots, jnp.where(is_background, 1 + lots, 3))
        order = jnp.argsort(rank, 1)[:, :count]
        taken = jnp.take_along_axis(rank, order, 1) < 3
        some = jnp.take_along_axis(regions, order[..., None], 1)
        return (images, jnp.where(taken[..., None], some, 0)), labels

    return Joint(both)


def flip_boxes(vertical: bool = False) -> Joint:
    """Each image mirrored with probability 1/2, its regions and objects with it: left to right, or upside down."""

    def both(inputs: Any, labels: Labels, key: jax.Array) -> tuple[Any, Labels]:
        images, regions = inputs
        axis, length = (1, images.shape[1]) if vertical else (2, images.shape[2])
        mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1))

        def one(boxes: jax.Array) -> jax.Array:
            order = jnp.asarray([0, 3, 2, 1] if vertical else [2, 1, 0, 3])
            turned = jnp.asarray([False, True, False, True] if vertical else [True, False, True, False])
            other = jnp.where(turned, length - boxes, boxes)[..., order]
            # Padding keeps zero size, at 0.
            return jnp.where(mirrored & (box.area(boxes) > 0)[..., None], other, boxes)

        images = jnp.where(mirrored[..., None], jnp.flip(images, axis), images)
        return (images, one(regions)), {**labels, "boxes": one(labels["boxes"])}

    return Joint(both)


def multi_task(weight: float = 1.0, foreground: float = 0.5) -> Loss:
    """The loss of a network of regions: cross-entropy of classes, and smooth L1 of boxes where there is an object.

    L = mean over the regions of an image of -log p_u + weight [u is an object] sum over x, y, w, h of
    smooth_l1(t_u - v): u is the true class, p = softmax(logits), v the correction that makes the object's box of the
    region's (in units of `DEVIATION`), and t_u the one that the network gives for that class.

    Args:
      weight: of the boxes, lambda.
      foreground: the IoU from which on a region is an object.

    Returns:
      `(Regions, labels) -> (N,)`.

    Source: Girshick, Fast R-CNN (2015), equations 1 to 3.
    """

    @per_example
    def loss(outputs: Regions, labels: Labels) -> jax.Array:
        logits, deltas, regions = wide(outputs.logits), wide(outputs.deltas), outputs.boxes
        _check_classes(labels["classes"], deltas.shape[2])
        classes, goal, _ = assign(regions, labels, foreground)
        known = deltas.shape[2]
        counted = classes != -1
        own = jnp.where(classes == -2, known, jnp.maximum(classes, 0))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, own)
        index = jnp.clip(classes, 0, known - 1)[..., None, None]
        given = jnp.take_along_axis(deltas, index, 2)[..., 0, :]
        wanted = box.encode(regions, goal, DEVIATION)
        is_object = classes >= 0
        difference = jnp.where(is_object[..., None], given - wanted, 0)
        each = jnp.where(counted, entropy, 0) + weight * optax.huber_loss(difference).sum(-1)
        return each.sum(1) / jnp.maximum(counted.sum(1), 1)

    return loss


def _check_classes(classes: Any, count: int) -> None:
    """Checks, outside `jit`, that the classes of objects are among the network's."""
    if isinstance(classes, jax.core.Tracer) or not np.size(classes):
        return
    known = np.asarray(classes)
    if known.min() < -1 or known.max() >= count:
        raise UserError(
            f"objects of classes from {known.min()} to {known.max()} for {count} classes: expected 0 to {count - 1}, "
            "or -1 where there is none"
        )


# --- detecting ---------------------------------------------------------------------------------------------------


def detections(
    outputs: Regions, size: tuple[int, int], least: float = 0.05, threshold: float = 0.3, limit: int = 100
) -> Detections:
    """The objects that the outputs show: each region's box corrected for each class, then suppression class by class.

    Args:
      outputs: of the network.
      size: (height, width) of the images; boxes are cut at their edges.
      least: the lowest probability of a class.
      threshold: the largest IoU of two objects of a class.
      limit: D, the most objects of an image.

    Source: Girshick, Fast R-CNN (2015), section 3.1; 0.3 is R-CNN's.
    """
    probability = jax.nn.softmax(wide(outputs.logits))[..., :-1]
    there = box.area(outputs.boxes) > 0
    moved = box.clip(box.decode(outputs.boxes[:, :, None], outputs.deltas, DEVIATION), size)
    there = there[..., None] & (box.area(moved) > 0)  # a correction may leave nothing inside the image
    probability = jnp.where(there & (probability >= least), probability, -jnp.inf)
    n, regions, classes = probability.shape
    flat_boxes, scores = moved.reshape(n, -1, 4), probability.reshape(n, -1)
    names = jnp.tile(jnp.arange(classes, dtype=jnp.int32), regions)
    kept = jax.vmap(lambda b, s: nms(b, s, threshold, limit, names))(flat_boxes, scores)
    found = kept >= 0
    place = jnp.maximum(kept, 0)
    return Detections(
        jnp.where(found[..., None], jnp.take_along_axis(flat_boxes, place[..., None], 1), 0),
        jnp.where(found, jnp.take_along_axis(scores, place, 1), 0),
        jnp.where(found, names[place], -1),
    )


def make_detect(
    model: Layer, preprocess: Callable[[Any], Any] = to_float, batch_size: int = 4, **options: Any
) -> Callable[[Any, Any, Examples], Detections]:
    """A compiled function `detect(params, model_state, data) -> Detections` of NumPy arrays, for all of the data.

    Args:
      model: a network of regions.
      preprocess: as in `fit`, of `(images, boxes)`.
      batch_size: images at a time.
      **options: of `detections`.
    """

    @jax.jit
    def one(params: Any, model_state: Any, inputs: Any) -> Detections:
        outputs, _ = model.apply(params, model_state, *preprocess(inputs))
        return detections(outputs, inputs[0].shape[1:3], **options)

    def detect(params: Any, model_state: Any, data: Examples) -> Detections:
        parts = [one(params, model_state, inputs) for inputs, _, _ in padded_batches(data, min(batch_size, len(data)))]
        arrays = [np.concatenate(each)[: len(data)] for each in zip(*parts, strict=True)]
        return Detections(*arrays)  # type: ignore[arg-type]  # NumPy's serve as well

    return detect


# --- measuring ---------------------------------------------------------------------------------------------------


def average_precision(recall: np.ndarray, precision: np.ndarray, points: int | None = None) -> float:
    """The area under the curve of precision by recall, where precision is the best at that recall or a higher one.

    Args:
      recall, precision: `(D,)` after each detection, in descending order of scores.
      points: 11 for the mean at the recalls 0, 0.1, ..., 1 (VOC 2007); None for the area itself (VOC 2010 and later).

    Source: Everingham et al., The Pascal Visual Object Classes challenge (2010), section 4.2.
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float((np.diff(recall, prepend=0.0) * best).sum())
    first = np.searchsorted(recall, np.arange(points) / (points - 1) - 1e-12)
    return float(np.append(best, 0.0)[first].mean())


def mean_average_precision(
    found: Detections, labels: Labels, classes: Sequence[str], iou: float = 0.5
) -> dict[str, float]:
    """The average precision of each class, and their mean.

    Detections of a class, over all images, are taken in the order of their scores. One is right if the object of its
    class and image that it overlaps most has an IoU of `iou` or more with it and was not found before; of an object
    found twice the second detection is wrong. Detections of difficult objects do not count either way.

    Args:
      found: NumPy arrays; the labels' images in the labels' order.
      classes: their names.
      iou: the least IoU.

    Returns:
      `map` (all points) and `map_07` (11 points), means over the classes of which there is an object, NaN when there is
      none; `ap NAME` and `ap_07 NAME` for each of those classes.
    """
    truth, true_class = np.asarray(labels["boxes"], np.float64), np.asarray(labels["classes"])
    difficult = np.asarray(labels.get("difficult", np.zeros(true_class.shape, bool)))
    boxes, scores, own = (np.asarray(a) for a in found)
    figures: dict[str, float] = {}
    for index, name in enumerate(classes):
        objects = int(((true_class == index) & ~difficult).sum())
        if not objects:
            continue
        image, place = np.nonzero(own == index)
        order = np.argsort(-scores[image, place], kind="stable")
        seen = np.zeros(true_class.shape, bool)
        right = np.zeros(len(order), bool)
        counts = np.ones(len(order), bool)
        for at, (i, j) in enumerate(zip(image[order], place[order], strict=True)):
            overlap = np.where(true_class[i] == index, _iou(boxes[i, j].astype(np.float64), truth[i]), -1)
            best = int(overlap.argmax()) if overlap.size else 0
            if not overlap.size or overlap[best] < iou:
                continue
            counts[at] = not difficult[i, best]
            right[at] = counts[at] and not seen[i, best]
            seen[i, best] = True
        hits = np.cumsum(right[counts])
        recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
        figures[f"ap {name}"] = average_precision(recall, precision)
        figures[f"ap_07 {name}"] = average_precision(recall, precision, points=11)
    means = {
        key: float(np.mean([v for name, v in figures.items() if name.startswith(prefix)])) if figures else float("nan")
        for key, prefix in (("map", "ap "), ("map_07", "ap_07 "))
    }
    return means | figures


def _iou(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """The IoU of one box with each of many, in NumPy's float64."""
    shared = np.maximum(np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2]), 0).prod(1)
    union = np.maximum(one[2:] - one[:2], 0).prod() + np.maximum(many[:, 2:] - many[:, :2], 0).prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def recall_of(regions: np.ndarray, labels: Labels, classes: Sequence[str], iou: float = 0.5) -> dict[str, float]:
    """The share of the objects of each class that some region reaches with an IoU of `iou` or more."""
    there = np.asarray(labels["classes"])
    most = np.zeros(there.shape)
    for i, (own, truth) in enumerate(zip(regions, labels["boxes"], strict=True)):
        most[i] = [_iou(np.asarray(one, np.float64), own.astype(np.float64)).max(initial=0) for one in truth]
    return {name: float((most[there == k] >= iou).mean()) for k, name in enumerate(classes) if (there == k).any()}


# --- showing -----------------------------------------------------------------------------------------------------

COLOURS = ("#e41a1c", "#1f5fd0", "#118a2e", "#b35c00", "#8e3bb8", "#007f8c", "#c2187a", "#5a5a00")


def draw_boxes(
    image: np.ndarray,
    boxes: Iterable[Sequence[float]],
    classes: Iterable[int],
    names: Sequence[str],
    scores: Iterable[float] | None = None,
    zoom: int = 2,
) -> np.ndarray:
    """A picture of the image with its boxes: `(H, W, 3)` uint8 to `(zoom H, zoom W, 3)`.

    A class has one colour, and its name stands in the box's corner, with the score where there are scores. Boxes of
    class -1 are left out.
    """
    picture = Image.fromarray(np.asarray(image)).convert("RGB")
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BILINEAR)
    drawing = ImageDraw.Draw(picture)
    font = ImageFont.load_default(6 + 3 * zoom)
    each = zip(boxes, classes, strict=True) if scores is None else zip(boxes, classes, scores, strict=True)
    for (x1, y1, x2, y2), kind, *score in each:
        if kind < 0:
            continue
        colour = COLOURS[kind % len(COLOURS)]
        corner = zoom * max(x1, x2) - 1, zoom * max(y1, y2) - 1
        drawing.rectangle((zoom * x1 - 1, zoom * y1 - 1, *corner), outline=colour, width=max(1, zoom))
        name = shortened(printable(names[kind]), 40)  # Pillow's font refuses what is no text
        text = f"{name} {score[0]:.2f}" if score else name
        left, top, right, bottom = drawing.textbbox((zoom * x1, zoom * y1), text, font=font)
        # Inside the picture, wherever the box is.
        dx, dy = min(0, picture.width - right - 2), min(0, picture.height - bottom - 2)
        drawing.rectangle((left + dx, top + dy, right + dx + 2, bottom + dy + 1), fill=colour)
        drawing.text((zoom * x1 + dx + 1, zoom * y1 + dy), text, fill="white", font=font)
    return np.asarray(picture)
