"""Detection by regions against loops in NumPy's float64 and OpenCV; boxes of no size, outside, and none at all."""

import json
import math
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same
from PIL import Image

import jaxcnn as cnn
from jaxcnn import detection
from jaxcnn.core import LayerError
from jaxcnn.data import proposals
from jaxcnn.data.datasets.voc import voc
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.fast_rcnn import Regions, fast_rcnn, small_backbone, vgg_backbone
from jaxcnn.models.rcnn import rcnn
from jaxcnn.ops import boxes as box
from jaxcnn.ops import roi
from jaxcnn.ops.nms import nms
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.detection.task import TASK


def random_boxes(seed, *shape, size=(20, 30), least=0.0):
    """Boxes (..., 4), some of them partly outside an image of `size`."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-4, np.array(size[::-1]), (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(least, 12, (*shape, 2))], -1).astype(np.float32)


ODD = np.array(
    [
        [5, 5, 5, 5],  # no size
        [5, 5, 12, 5],
        [12, 9, 5, 4],  # inside out
        [100, 100, 120, 130],  # outside
        [-50, -40, -10, -20],
        [-60, -60, 200, 300],  # larger than the image
        [0, 0, 30, 20],  # the image
        [29.6, 19.6, 40, 40],
        [0.5, 1.5, 2.5, 3.5],  # halves are rounded
    ],
    np.float32,
)


# --- boxes -------------------------------------------------------------------------------------------------------


def iou_loop(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def test_iou_is_the_loop():
    a = np.concatenate([random_boxes(0, 12), ODD]).astype(np.float64)
    expected = np.array([[iou_loop(p, q) for q in a] for p in a])
    assert 0 < (expected > 0.3).sum() < expected.size
    close(jax.jit(box.iou)(a.astype(np.float32), a.astype(np.float32)), expected)
    assert box.iou(jnp.zeros((2, 0, 4)), jnp.zeros((2, 3, 4))).shape == (2, 0, 3)
    close(box.area(jnp.asarray(ODD)), np.array([0, 0, 0, 600, 800, 260 * 360, 600, 10.4 * 20.4, 4]))


def test_clip_and_the_codes_of_boxes():
    boxes, truth = random_boxes(1, 9, least=1), random_boxes(2, 9, least=1)
    got = np.asarray(box.clip(jnp.asarray(boxes), (20, 30)))
    same(got, np.stack([np.clip(boxes[:, i], 0, (30, 20, 30, 20)[i]) for i in range(4)], 1))
    encode, decode = (jax.jit(lambda a, b, f=f: f(a, b, detection.DEVIATION)) for f in (box.encode, box.decode))
    code = encode(boxes, truth)
    p, g = boxes[0].astype(np.float64), truth[0].astype(np.float64)
    pw, ph, gw, gh = p[2] - p[0], p[3] - p[1], g[2] - g[0], g[3] - g[1]
    expected = [((g[0] + g[2]) - (p[0] + p[2])) / 2 / pw / 0.1, ((g[1] + g[3]) - (p[1] + p[3])) / 2 / ph / 0.1,
                math.log(gw / pw) / 0.2, math.log(gh / ph) / 0.2]  # fmt: skip
    close(code[0], np.array(expected))
    close(decode(boxes, code), truth)
    for boxes in (ODD, ODD[::-1]):  # boxes of no size have finite codes, and huge codes finite boxes
        assert np.isfinite(encode(ODD, boxes)).all()
    assert np.isfinite(decode(ODD, np.full((9, 4), 1e6, np.float32))).all()


# --- pooling of regions ------------------------------------------------------------------------------------------


def away(value):
    """Rounded, halves away from zero."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


def bins(first, last, count, length):
    h = max(last - first + 1, 1)
    return [
        (min(max(first + i * h // count, 0), length), min(max(first - (-(i + 1) * h // count), 0), length))
        for i in range(count)
    ]


def roi_max_loop(x, boxes, size, scale):
    """Values, and for each the flat place of the first pixel that has it (-1 for none)."""
    n, height, width, channels = x.shape
    value = np.zeros((n, boxes.shape[1], *size, channels))
    place = np.full(value.shape, -1)
    for i, r in np.ndindex(boxes.shape[:2]):
        x1, y1, x2, y2 = (int(away(np.float32(v) * np.float32(scale))) for v in boxes[i, r])
        for p, (top, bottom) in enumerate(bins(y1, y2, size[0], height)):
            for q, (left, right) in enumerate(bins(x1, x2, size[1], width)):
                for c in range(channels):
                    best = -np.inf
                    for row in range(top, bottom):
                        for column in range(left, right):
                            if x[i, row, column, c] > best:
                                best = value[i, r, p, q, c] = x[i, row, column, c]
                                place[i, r, p, q, c] = np.ravel_multi_index((i, row, column, c), x.shape)
    return value, place


@pytest.mark.parametrize(
    ("shape", "size", "scale", "boxes"),
    [
        (
            (2, 10, 15, 2),
            (3, 4),
            0.5,
            [
                np.stack([np.concatenate([random_boxes(s, 9), ODD]) for s in (3, 4)]),
                np.clip(random_boxes(6, 2, 18), 0, [30, 20, 30, 20]),
            ],  # all in the image: the smaller table
        ),
        ((1, 9, 7, 1), (1, 1), 0.4, [ODD[None]]),  # one bin, which may be the whole map
        ((1, 1, 5, 3), (7, 7), 0.25, [np.concatenate([random_boxes(5, 6), ODD])[None]]),
    ],
)
def test_roi_max_pool_and_its_gradient_are_the_loop(shape, size, scale, boxes):
    x = np.random.default_rng(7).integers(-4, 3, shape).astype(np.float32)  # ties, and maxima below 0

    @jax.jit
    def run(x, boxes, weight):
        y, back = jax.vjp(lambda x: roi.roi_max_pool(x, boxes, size, scale), x)
        return y, back(weight)[0]

    for own in boxes:
        value, place = roi_max_loop(x, own, size, scale)
        assert len(np.unique(value)) > 2
        weight = normal(8, *value.shape)
        expected = np.zeros(x.size)
        np.add.at(expected, place[place >= 0], weight[place >= 0])
        got, slope = run(x, own, weight)
        same(np.asarray(got), value.astype(np.float32))
        close(slope, expected.reshape(shape))


def test_roi_pooling_of_no_box_and_of_what_cannot_be_pooled():
    x = jnp.ones((2, 6, 6, 3))
    for pool in (jax.jit(f, static_argnums=2) for f in (roi.roi_max_pool, roi.roi_align, roi.crop_regions)):
        assert pool(x, jnp.zeros((2, 0, 4)), 2).shape == (2, 0, 2, 2, 3)
        for bad in (jnp.zeros((3, 1, 4)), jnp.zeros((2, 4)), jnp.zeros((2, 1, 5))):
            with pytest.raises(UserError, match=r"expected boxes \(2, R, 4\) for 2 images"):
                pool(x, bad, 2)
        with pytest.raises(UserError, match="floating point map"):
            pool(x.astype(jnp.uint8), jnp.zeros((2, 1, 4)), 2)
        with pytest.raises(UserError, match="at least 1"):
            pool(x, jnp.zeros((2, 1, 4)), 0)
    # NaN for a box's edge is 0, infinity is far away: no crash, and no NaN.
    odd = jnp.array([[[jnp.nan, 0, 3, 3], [0, 0, jnp.inf, jnp.inf]]] * 2)
    pool = jax.jit(roi.roi_max_pool, static_argnums=2)
    assert np.isfinite(pool(x, odd, 2)).all()
    # A NaN in the map is not hidden.
    assert np.isnan(pool(x.at[0, 2, 2, 0].set(jnp.nan), jnp.array([[[0.0, 0, 5, 5]] * 2] * 2), 2)[0, 0]).any()


def bilinear(x, y, column, border):
    """One sample of x `(H, W, C)` at the place (y, column) of pixel centres; `border` repeats the edge for 1 pixel."""
    height, width, channels = x.shape
    if border:
        if not (-1 <= y <= height and -1 <= column <= width):
            return np.zeros(channels)
        y, column = min(max(y, 0), height - 1), min(max(column, 0), width - 1)
    total = np.zeros(channels)
    for row in (math.floor(y), math.floor(y) + 1):
        for col in (math.floor(column), math.floor(column) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += (1 - abs(y - row)) * (1 - abs(column - col)) * x[row, col]
    return total


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_is_the_loop(aligned):
    x, scale, size, samples = normal(9, 1, 8, 11, 2), 0.5, (2, 3), 2
    boxes = np.concatenate([random_boxes(10, 6), ODD])
    expected = np.zeros((1, len(boxes), *size, 2))
    for r, (x1, y1, x2, y2) in enumerate(boxes.astype(np.float64) * scale - (0.5 if aligned else 0)):
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for p, q, i, j in np.ndindex(*size, samples, samples):
            y = y1 + (p + (i + 0.5) / samples) * height / size[0]
            column = x1 + (q + (j + 0.5) / samples) * width / size[1]
            expected[0, r, p, q] += bilinear(x[0].astype(np.float64), y, column, True) / samples**2
    close(jax.jit(lambda x, b: roi.roi_align(x, b, size, scale, samples, aligned))(x, boxes[None]), expected)
    with pytest.raises(UserError, match="samples=0"):
        roi.roi_align(jnp.asarray(x), boxes[None], size, samples=0)


def test_crop_regions_is_the_loop():
    image, context, size = normal(11, 1, 9, 12, 3), 1, (5, 6)
    boxes = np.concatenate([random_boxes(12, 4, size=(9, 12)), [[0, 0, 12, 9], [3, 3, 3, 3], [90, 90, 99, 99]]])
    expected = np.zeros((1, len(boxes), *size, 3))
    for r, (x1, y1, x2, y2) in enumerate(boxes):
        for p, q in np.ndindex(*size):
            y = y1 + (p + 0.5 - context) * (y2 - y1) / (size[0] - 2 * context) - 0.5
            column = x1 + (q + 0.5 - context) * (x2 - x1) / (size[1] - 2 * context) - 0.5
            expected[0, r, p, q] = bilinear(image[0].astype(np.float64), y, column, False)
    crop = jax.jit(roi.crop_regions, static_argnums=(2, 3))
    close(crop(image, boxes[None].astype(np.float32), size, context), expected)
    whole = crop(image, jnp.array([[[0.0, 0, 12, 9]]]), (9, 12))
    close(whole[:, 0], image)  # a box that is the image is the image
    with pytest.raises(UserError, match="context=3"):
        roi.crop_regions(jnp.asarray(image), boxes[None], 6, 3)


# --- suppression -------------------------------------------------------------------------------------------------


def nms_loop(boxes, scores, threshold, limit, classes=None):
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > -np.inf]
    kept = []
    for i in order:
        if all(
            (classes is not None and classes[i] != classes[j]) or iou_loop(boxes[i], boxes[j]) <= threshold
            for j in kept
        ):
            kept.append(i)
    return (kept + [-1] * limit)[:limit]


NMS = jax.jit(nms, static_argnums=3)


def test_nms_is_the_greedy_loop():
    for seed in range(4):
        boxes = np.concatenate([random_boxes(seed, 51), ODD])
        scores = np.random.default_rng(seed).integers(0, 12, 60).astype(np.float32)  # ties
        scores[[3, 7]] = np.nan, -np.inf
        classes = np.random.default_rng(seed).integers(0, 3, 60)
        plain = [np.float64(b) for b in boxes]
        assert NMS(boxes, scores, 0.3, 60).tolist() == nms_loop(plain, scores, 0.3, 60)
        assert NMS(boxes, scores, 0.3, 5, classes).tolist() == nms_loop(plain, scores, 0.3, 5, classes)


def test_nms_of_nothing_of_equal_boxes_and_of_infinite_scores():
    assert nms(jnp.zeros((0, 4)), jnp.zeros(0), limit=3).tolist() == [-1, -1, -1]
    same_box = jnp.array([[0.0, 0, 2, 2]] * 3)
    assert nms(same_box, jnp.array([1.0, 1, 1]), limit=3).tolist() == [0, -1, -1]
    assert nms(same_box, jnp.array([jnp.nan] * 3), limit=2).tolist() == [-1, -1]
    assert nms(same_box, jnp.array([0.0, jnp.inf, jnp.nan]), limit=2).tolist() == [1, -1]
    # Two boxes whose IoU is the threshold both stay; boxes of no size overlap nothing.
    half = jnp.array([[0.0, 0, 2, 1], [0, 0, 1, 1], [5, 5, 5, 5], [5, 5, 5, 5]])
    assert nms(half, jnp.array([4.0, 3, 2, 1]), 0.5, 5).tolist() == [0, 1, 2, 3, -1]


def test_nms_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    for seed in range(5):
        boxes = np.round(random_boxes(seed, 60, least=1)).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.random.default_rng(seed).permutation(60).astype(np.float32) / 60 + 0.01
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(int)
        kept = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, 0.41)
        got = NMS(boxes, scores, 0.41, 60)
        assert got[got >= 0].tolist() == np.ravel(kept).tolist()


# --- learning ----------------------------------------------------------------------------------------------------

TRUTH = {
    "boxes": np.array([[[0, 0, 8, 8], [10, 2, 16, 12], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3], np.float32),
    "classes": np.array([[1, 0, -1], [-1, -1, -1]], np.int32),
    "difficult": np.zeros((2, 3), bool),
}
REGIONS = np.array(
    [[[0, 0, 8, 7], [10, 2, 16, 11], [0, 0, 8, 4], [0, 0, 8, 3.9], [0, 0, 0, 0], [20, 15, 24, 19]]] * 2, np.float32
)


def test_regions_are_assigned_to_the_objects_that_they_overlap_most():
    assign = jax.jit(detection.assign)
    classes, goal, overlap = assign(REGIONS, TRUTH)
    assert classes.tolist() == [[1, 0, 1, -2, -1, -2], [-2, -2, -2, -2, -1, -2]]
    same(np.asarray(goal[0, :3]), TRUTH["boxes"][0, [0, 1, 0]])
    close(overlap[0], np.array([7 / 8, 0.9, 0.5, 3.9 / 8, 0, 0]))
    difficult = {**TRUTH, "difficult": np.array([[True, False, False], [False] * 3])}
    assert assign(REGIONS, difficult)[0][0].tolist() == [-1, 0, -1, -2, -1, -2]
    none = {"boxes": jnp.zeros((2, 1, 4)), "classes": jnp.full((2, 1), -1)}
    assert assign(REGIONS, none)[0].tolist() == [[-2, -2, -2, -2, -1, -2]] * 2


def multi_task_loop(outputs, labels, weight):
    totals = []
    for logits, deltas, regions, truth, true in zip(*outputs, labels["boxes"], labels["classes"], strict=True):
        total, counted = 0.0, 0
        for o, t, region in zip(logits.astype(np.float64), deltas, regions, strict=True):
            if (region[2:] <= region[:2]).any():
                continue
            counted += 1
            overlaps = [iou_loop(region, g) if k >= 0 else 0.0 for g, k in zip(truth, true, strict=True)]
            best = int(np.argmax(overlaps))
            u = true[best] if overlaps[best] >= 0.5 else len(o) - 1
            total += np.log(np.exp(o).sum()) - o[u]
            if u < len(o) - 1:
                (x1, y1, x2, y2), (a, b, c, d) = region.astype(np.float64), truth[best].astype(np.float64)
                v = np.array([((a + c) - (x1 + x2)) / 2 / (x2 - x1), ((b + d) - (y1 + y2)) / 2 / (y2 - y1),
                              np.log((c - a) / (x2 - x1)), np.log((d - b) / (y2 - y1))])  # fmt: skip
                z = np.abs(t[u] - v / detection.DEVIATION)
                total += weight * np.where(z < 1, 0.5 * z**2, z - 0.5).sum()
        totals.append(total / max(counted, 1))
    return np.array(totals)


def test_multi_task_loss_is_the_loop():
    logits, deltas = normal(13, 2, 6, 3), normal(14, 2, 6, 2, 4)
    outputs = Regions(logits, deltas, REGIONS)
    expected = multi_task_loop(outputs, TRUTH, 0.7)
    loss = jax.jit(detection.multi_task(0.7))
    close(loss(Regions(*map(jnp.asarray, outputs)), TRUTH), expected)
    # Only the true class of a region that is an object has a gradient in its box.
    slope = jax.grad(lambda d: loss(Regions(logits, d, REGIONS), TRUTH).sum())(jnp.asarray(deltas))
    moved = np.argwhere(np.abs(slope).sum(-1) > 0).tolist()
    assert moved == [[0, 0, 1], [0, 1, 0], [0, 2, 1]]
    nothing = loss(Regions(logits, deltas, jnp.zeros((2, 6, 4))), TRUTH)  # no region at all
    assert nothing.tolist() == [0, 0]


def test_sampled_regions_have_the_shares_asked_for():
    near = random_boxes(15, 2, 30, least=4)
    labels = {"boxes": near[:, :3], "classes": np.array([[0, 1, -1], [1, 0, 1]])}
    regions = np.concatenate([np.repeat(near[:, :3], 6, 1) + normal(16, 2, 18, 4) / 3, near], 1)
    regions = np.concatenate([regions, np.zeros((2, 5, 4), np.float32)], 1)
    draw, assign = jax.jit(detection.sample_regions(16, 0.25, background=(0.0, 0.5)).both), jax.jit(detection.assign)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    drawn = []
    for seed in range(3):
        (_, some), kept = draw((images, regions), labels, jax.random.key(seed))
        same(jax.tree.map(np.asarray, kept), labels)
        assert some.shape == (2, 16, 4)
        classes = np.asarray(assign(some, labels)[0])
        assert ((classes >= 0).sum(1) == 4).all()
        assert ((classes == -2).sum(1) == 12).all()
        drawn.append(np.asarray(some))
    assert (drawn[0] != drawn[1]).any()
    # Too few: what is there is taken once, and the rest stays empty. Objects are regions themselves.
    (_, some), _ = draw((images, np.zeros((2, 1, 4), np.float32)), labels, jax.random.key(0))
    assert (np.asarray(assign(some, labels)[0]) >= 0).sum(1).tolist() == [2, 3]
    assert (np.asarray(box.area(some)) > 0).sum(1).tolist() == [2, 3]
    with pytest.raises(UserError, match="count 1 or more"):
        detection.sample_regions(0)
    with pytest.raises(UserError, match="from 0 to 1"):
        detection.sample_regions(8, 1.5)


@pytest.mark.parametrize("vertical", [False, True])
def test_flipped_boxes_cover_what_they_covered(vertical):
    image = np.zeros((8, 6, 9, 1), np.uint8)
    image[:, 1:4, 2:8] = 7
    boxes = np.tile(np.array([[2, 1, 8, 4], [0, 0, 0, 0]], np.float32), (8, 1, 1))
    labels = {"boxes": boxes[:, :1], "classes": np.zeros((8, 1), np.int32)}
    turn = jax.jit(detection.flip_boxes(vertical).both)
    (turned, regions), flipped = turn((image, boxes), labels, jax.random.key(1))
    moved = [not np.array_equal(t, i) for t, i in zip(turned, image, strict=True)]
    assert 0 < sum(moved) < 8
    for t, (one, empty), own in zip(np.asarray(turned), np.asarray(regions), flipped["boxes"][:, 0], strict=True):
        x1, y1, x2, y2 = one.astype(int)
        assert (t[y1:y2, x1:x2] == 7).all()
        assert t.sum() == 7 * (y2 - y1) * (x2 - x1)
        assert empty.tolist() == [0, 0, 0, 0]
        assert own.tolist() == one.tolist()


# --- networks ----------------------------------------------------------------------------------------------------


def test_networks_of_regions_have_the_outputs_and_name_what_is_wrong():
    images, regions = (
        normal(17, 2, 32, 48, 3),
        np.concatenate([random_boxes(18, 2, 3, least=4), np.zeros((2, 1, 4))], 1),
    )
    for model in (
        fast_rcnn(2, backbone=small_backbone(2), units=8, pool=3, drop=0.5),
        fast_rcnn(2, backbone=vgg_backbone((1, 1), width=2), units=8, layers=2, align=True),
        rcnn(2, backbone=small_backbone(2, norm=False), size=16, context=2, units=8),
    ):
        params, state = jax.eval_shape(model.init, jax.random.key(0), images, regions)
        outputs, _ = jax.eval_shape(model.apply, params, state, images, regions)
        assert [o.shape for o in outputs] == [(2, 4, 3), (2, 4, 2, 4), (2, 4, 4)]
        empty, _ = jax.eval_shape(model.apply, params, state, images, regions[:, :0])
        assert empty.logits.shape == (2, 0, 3)
        with pytest.raises(LayerError, match=r"expected boxes \(2, R, 4\)"):
            model.init(jax.random.key(0), images, regions[:1])
    with pytest.raises(LayerError, match="multiples of the map's stride"):
        fast_rcnn(2, backbone=small_backbone(2)).init(jax.random.key(0), images[:, :32, :44], regions)


def test_rcnn_sees_each_region_by_itself():
    """The answer for a region is that of the same pixels cut out of another image."""
    model = rcnn(2, backbone=cnn.conv(3, 4, 4), size=16, context=0, units=8)
    image = normal(19, 1, 24, 24, 3)
    region = np.array([[[4, 4, 20, 20], [1, 2, 9, 20]]], np.float32)
    params, state = model.init(jax.random.key(1), image, region)
    apply = jax.jit(model.apply)
    both, _ = apply(params, state, image, region)
    one, _ = apply(params, state, image, np.repeat(region[:, :1], 2, 1))  # the same program
    close(one.logits[:, 0], both.logits[:, 0])
    assert np.abs(both.logits[:, 0] - both.logits[:, 1]).max() > 1e-4


def test_detections_are_each_class_corrected_cut_and_suppressed():
    rng = np.random.default_rng(20)
    outputs = Regions(
        rng.normal(0, 2, (2, 12, 4)).astype(np.float32),
        rng.normal(0, 1, (2, 12, 3, 4)).astype(np.float32),
        np.concatenate([random_boxes(21, 2, 10, least=3), np.zeros((2, 2, 4))], 1).astype(np.float32),
    )
    found = jax.jit(lambda o: detection.detections(o, (20, 30), least=0.1, threshold=0.3, limit=20))(outputs)
    for i in range(2):
        p = np.exp(outputs.logits[i].astype(np.float64))
        p = (p / p.sum(1, keepdims=True))[:, :3]
        expected = []
        for c in range(3):
            boxes = np.asarray(box.decode(outputs.boxes[i], outputs.deltas[i, :, c], detection.DEVIATION), np.float64)
            boxes = np.clip(boxes, 0, [30, 20, 30, 20])
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
            scores = np.where((p[:, c] >= 0.1) & (np.arange(12) < 10) & inside, p[:, c], -np.inf)
            expected += [(scores[k], c, *boxes[k]) for k in nms_loop(boxes, scores, 0.3, 12) if k >= 0]
        expected.sort(reverse=True)
        count = len(expected)
        assert 3 < count < 20
        got = np.column_stack([found.scores[i], found.classes[i], found.boxes[i]])
        close(got[:count], np.array(expected))
        assert found.classes[i, count:].tolist() == [-1] * (20 - count)
        assert not np.asarray(found.scores[i, count:]).any()


def test_fit_learns_to_find_bright_squares():
    """The whole way: data, sampling, loss, detection and its measure."""
    rng = np.random.default_rng(22)
    images = rng.integers(0, 60, (6, 32, 32, 3)).astype(np.uint8)
    truth = np.zeros((6, 1, 4), np.float32)
    for image, (place,) in zip(images, truth, strict=True):
        x, y = rng.integers(0, 20, 2)
        image[y : y + 12, x : x + 12] += 150
        place[:] = x, y, x + 12, y + 12
    windows = proposals.sliding_windows((32, 32), [12], step=1 / 3)
    labels = {"boxes": truth, "classes": np.zeros((6, 1), np.int32)}
    data = proposals.with_regions(cnn.data.Examples(images, labels, ("square",)), windows)
    model = fast_rcnn(1, backbone=cnn.serial(conv=cnn.conv(8, 4, 4), act=cnn.relu), units=16, pool=2)
    run = cnn.train.fit(
        model,
        data,
        cnn.train.Objective(
            detection.multi_task(),
            metrics={},
            augment=detection.sample_regions(16, 0.5, background=(0, 0.5)),
            preprocess=cnn.data.to_float,
        ),
        epochs=60,
        batch_size=3,
        optimizer=cnn.train.make_optimizer("adam", 5e-3),
        show=False,
    )
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 3
    found = detection.make_detect(model)(run.params, run.model_state, data)
    figures = detection.mean_average_precision(found, labels, data.classes)
    assert figures["map"] > 0.8


# --- measures ----------------------------------------------------------------------------------------------------


def ap_loop(found, labels, index, iou, points):
    """VOC's rule, with a list of everything."""
    lines = sorted(
        ((-float(s), i, j) for i, (ss, cs) in enumerate(zip(found.scores, found.classes, strict=True))
         for j, (s, c) in enumerate(zip(ss, cs, strict=True)) if c == index),
    )  # fmt: skip
    objects = [(i, j) for i, j in np.argwhere(labels["classes"] == index).tolist() if not labels["difficult"][i, j]]
    seen, right, wrong, curve = set(), 0, 0, []
    for _, i, j in lines:
        overlaps = {
            k: iou_loop(np.float64(found.boxes[i, j]), np.float64(labels["boxes"][i, k]))
            for k in np.flatnonzero(labels["classes"][i] == index).tolist()
        }
        best = max(overlaps, key=overlaps.get) if overlaps else None
        if best is not None and overlaps[best] >= iou:
            if labels["difficult"][i, best]:
                continue
            right, wrong = (right, wrong + 1) if (i, best) in seen else (right + 1, wrong)
            seen.add((i, best))
        else:
            wrong += 1
        curve.append((right / len(objects), right / (right + wrong)))
    if points == 11:
        return sum(max((p for r, p in curve if r >= t / 10 - 1e-12), default=0) for t in range(11)) / 11
    steps = sorted({r for r, _ in curve})
    return sum(
        (r - before) * max(p for q, p in curve if q >= r) for before, r in zip([0.0, *steps], steps, strict=False)
    )


def test_average_precision_is_the_loop():
    rng = np.random.default_rng(23)
    truth = random_boxes(24, 5, 6, least=4)
    labels = {
        "boxes": truth,
        "classes": rng.integers(-1, 2, (5, 6)).astype(np.int32),
        "difficult": rng.random((5, 6)) < 0.25,
    }
    # Near an object, twice near the same one, or anywhere; of the right class more often than not.
    near = truth[:, [0, 1, 1, 2, 3, 3, 4, 5, 5]] + normal(25, 5, 9, 4)
    boxes = np.concatenate([near, random_boxes(26, 5, 4, least=4)], 1)
    own = np.concatenate([labels["classes"][:, [0, 1, 1, 2, 3, 3, 4, 5, 5]], rng.integers(0, 2, (5, 4))], 1)
    found = detection.Detections(boxes, rng.random((5, 13)).astype(np.float32), own)
    for iou in (0.3, 0.6):
        got = detection.mean_average_precision(found, labels, ("a", "b", "no such"), iou)
        expected = {f"{key} {name}": ap_loop(found, labels, k, iou, points)
                    for k, name in enumerate("ab") for key, points in (("ap", None), ("ap_07", 11))}  # fmt: skip
        assert 0.05 < expected["ap a"] < 0.95
        expected["map"] = (expected["ap a"] + expected["ap b"]) / 2
        expected["map_07"] = (expected["ap_07 a"] + expected["ap_07 b"]) / 2
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert got[key] == pytest.approx(value, abs=1e-12), key


def test_average_precision_of_nothing():
    none = detection.Detections(np.zeros((2, 3, 4)), np.zeros((2, 3)), np.full((2, 3), -1))
    assert detection.mean_average_precision(none, TRUTH, ("a", "b"))["map"] == 0
    no_objects = {"boxes": np.zeros((2, 0, 4)), "classes": np.zeros((2, 0), np.int32)}
    assert math.isnan(detection.mean_average_precision(none, no_objects, ("a", "b"))["map"])
    # The objects themselves are all right, the same again is half wrong, and what is found first counts.
    found = detection.Detections(TRUTH["boxes"], np.array([[0.9, 0.8, 0]] * 2), TRUTH["classes"])
    got = detection.mean_average_precision(found, TRUTH, ("a", "b"))
    assert (got["map"], got["map_07"]) == (1, pytest.approx(1))
    assert detection.average_precision(np.array([0.5, 0.5, 1.0]), np.array([1, 0.5, 2 / 3])) == pytest.approx(5 / 6)
    assert detection.average_precision(np.array([]), np.array([]), 11) == 0


def test_recall_of_regions():
    got = detection.recall_of(REGIONS, TRUTH, ("a", "b", "c"))
    assert got == {"a": 1.0, "b": 1.0}
    assert detection.recall_of(REGIONS[:, 2:], TRUTH, ("a", "b"), 0.6) == {"a": 0.0, "b": 0.0}


def test_drawn_boxes_are_where_they_should_be():
    image = np.full((40, 60, 3), 255, np.uint8)
    picture = detection.draw_boxes(image, [[2, 12, 50, 38], [0, 0, 5, 5]], [0, -1], ("cell",), [0.5, 0.9], zoom=2)
    assert picture.shape == (80, 120, 3)
    red = tuple(int(detection.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(picture[75, 50]) == red  # the lower edge
    assert tuple(picture[1, 5]) == (255, 255, 255)  # the box of class -1 is not there
    for odd in ([5, 5, 5, 5], [9, 9, 2, 2], [-50, -50, 500, 500]):  # of no size, inside out, larger than the image
        assert detection.draw_boxes(image, [odd], [0], ("cell",)).shape == (80, 120, 3)
    none = detection.draw_boxes(image, np.zeros((0, 4)), [], ("cell",))
    assert (none == 255).all()


# --- data --------------------------------------------------------------------------------------------------------

OBJECT = (
    "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def make_voc(folder, annotations, sizes, ending="png"):
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for name, objects in annotations.items():
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
        Image.new("RGB", sizes[name], "white").save(folder / "JPEGImages" / f"{name}.{ending}")
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{name} 1\n" for name in annotations))
    return folder


def test_a_voc_folder_is_read(tmp_path):
    top = make_voc(
        tmp_path / "blood",
        {
            "a": [
                OBJECT.format("rbc", "", 1, 1, 10, 20),
                OBJECT.format("wbc", "<difficult>1</difficult>", 5, 6, 200, 60),
            ],
            "b": [],
            "c": [OBJECT.format("rbc", "", 11, 11, 20, 20)],
        },
        {"a": (40, 30), "b": (40, 30), "c": (80, 60)},
    )
    data = voc(top, "train")
    assert data.inputs.shape == (3, 30, 40, 3)
    assert data.classes == ("rbc", "wbc")
    assert data.extra == {"names": ["a", "b", "c"]}
    assert data.labels["classes"].tolist() == [[0, 1], [-1, -1], [0, -1]]
    assert data.labels["difficult"].tolist() == [[False, True], [False, False], [False, False]]
    assert data.labels["boxes"].tolist() == [
        [[0, 0, 10, 20], [4, 5, 40, 30]],  # cut at the edge
        [[0, 0, 0, 0]] * 2,
        [[5, 5, 10, 10], [0, 0, 0, 0]],  # halved with its image
    ]
    half = voc(top, "train", ("wbc", "rbc"), (15, 20))
    assert half.labels["classes"][0].tolist() == [1, 0]
    assert half.labels["boxes"][0, 0].tolist() == [0, 0, 5, 10]


def test_objects_of_no_size_are_left_out_with_a_warning(tmp_path):
    objects = [OBJECT.format("rbc", "", 5, 5, 5, 5), OBJECT.format("rbc", "", 90, 90, 99, 99),
               OBJECT.format("rbc", "", 2, 2, 9, 9)]  # fmt: skip
    top = make_voc(tmp_path / "v", {"a": objects}, {"a": (40, 30)})
    with pytest.warns(UserWarning, match=r"2 of 3 objects have no size, or lie outside the image, .* rbc \(5.0, 5.0"):
        data = voc(top, "train")
    assert data.labels["boxes"].tolist() == [[[1, 1, 9, 9]]]


def test_damaged_voc_folders_are_named(tmp_path):
    good = OBJECT.format("rbc", "", 1, 1, 10, 20)
    top = make_voc(tmp_path / "v", {"a": [good], "b": [good]}, {"a": (40, 30), "b": (40, 30)})
    annotation, sets = top / "Annotations" / "b.xml", top / "ImageSets" / "Main"

    def refused(says, split="train", **options):
        with pytest.raises(DataError, match=says):
            voc(top, split, **options)

    refused(r"no split 'test'; there are train", "test")
    refused(r"b?a\.xml: the class 'rbc' is not one of cat", classes=("cat",))
    (sets / "val.txt").write_text("\n")
    refused("the split is empty", "validation")
    for text, says in (
        ("<annotation><object>", "not XML that can be read"),
        ("", "not XML that can be read"),
        ("<annotation><object><name>rbc</name></object></annotation>", "expected four numbers"),
        (f"<annotation>{OBJECT.format('rbc', '', 'x', 1, 2, 3)}</annotation>", "expected four numbers"),
        (f"<annotation>{OBJECT.format('rbc', '', 'nan', 1, 2, 3)}</annotation>", "a name and a box"),
        (f"<annotation>{OBJECT.format('', '', 1, 1, 2, 3)}</annotation>", "a name and a box"),
    ):
        annotation.write_text(text)
        refused(says)
    annotation.unlink()
    refused("no such annotation", classes=("rbc",))
    annotation.write_text(f"<annotation>{good}</annotation>")
    (top / "JPEGImages" / "b.png").write_bytes(b"no image")
    refused("no image that can be read")
    (top / "JPEGImages" / "b.png").unlink()
    refused("there is no such image")
    with pytest.raises(DataError, match="no folder in Pascal VOC's form"):
        voc(tmp_path, "train")


def stored(upright, orientation):
    """The pixels of a file that is upright once turned as EXIF says: Pillow's operation, undone."""
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    picture = Image.fromarray(upright)
    return picture.transpose(Image.Transpose[back[orientation]]) if orientation > 1 else picture


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("size", ["of the file", "of the upright image", None])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(tmp_path, orientation, size, ending):
    """The box is where the disc is, whichever of the two the annotation was made on."""
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[3:11, 20:36] = 255
    picture = stored(upright, orientation)
    seen = np.asarray(picture)[..., 0]
    shape = seen.shape
    if size == "of the upright image" and orientation >= 5:
        seen, shape = upright[..., 0], (30, 40)
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    edges = columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1
    said = f"<size><width>{shape[1]}</width><height>{shape[0]}</height></size>" if size else ""
    top = make_voc(tmp_path / "v", {"a": [said, OBJECT.format("disc", "", *edges)]}, {"a": (1, 1)}, ending)
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(top / "JPEGImages" / f"a.{ending}", exif=exif)
    data = voc(top)
    np.testing.assert_array_equal(data.inputs[0], upright)
    assert data.labels["boxes"][0, 0].tolist() == [20, 3, 36, 11]


def test_an_annotation_of_another_image_is_refused(tmp_path):
    said = "<size><width>{}</width><height>{}</height></size>"
    for width, height, right in ((40, 30, True), (0, 0, True), ("", "", True), (80, 60, False), (30, 40, False)):
        top = make_voc(tmp_path / f"{width}x{height}", {"a": [said.format(width, height)]}, {"a": (40, 30)})
        if right:
            assert len(voc(top, classes=("disc",))) == 1
            continue
        with pytest.raises(DataError, match=rf"a\.xml: <size> says {width}x{height}, and a\.png is 40x30"):
            voc(top, classes=("disc",))


def test_annotations_of_other_programs(tmp_path):
    """In the encodings of Chinese and Japanese systems, with accents written apart, beside macOS's own files."""
    box = OBJECT.format("红细胞", "", 1, 1, 10, 20)
    top = make_voc(tmp_path / "v", {name: [] for name in "abcd"}, dict.fromkeys("abcd", (40, 30)))
    for name, encoding in (("a", "gb2312"), ("b", "utf-16"), ("c", "gbk"), ("d", "utf-8-sig")):
        declared = encoding.removesuffix("-sig")
        text = f'<?xml version="1.0" encoding="{declared}"?>\n<annotation>{box}</annotation>'
        (top / "Annotations" / f"{name}.xml").write_bytes(text.encode(encoding))
    (top / "Annotations" / "._a.xml").write_bytes(b"\0\5\x16\7")
    (top / "ImageSets" / "Main" / "train.txt").write_text("\ufeffa\nb\nc\nd\n", "utf-8")
    data = voc(top)
    assert data.classes == ("红细胞",)
    assert data.labels["boxes"][:, 0].tolist() == [[0, 0, 10, 20]] * 4
    cafe = make_voc(tmp_path / "w", {"cafe\u0301": [OBJECT.format("cafe\u0301", "", 1, 1, 10, 20)]},
                    {"cafe\u0301": (40, 30)})  # fmt: skip
    (cafe / "ImageSets" / "Main" / "train.txt").write_text("caf\u00e9\n", "utf-8")
    assert voc(cafe, classes=("cafe\u0301",)).classes == ("caf\u00e9",)
    upper = make_voc(tmp_path / "x", {"a": [box]}, {"a": (40, 30)}, "PNG")
    assert len(voc(upper)) == 1


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ('<?xml version="1.0" encoding="klingon"?><a/>', "unknown encoding: klingon"),
        ('<?xml version="1.0" encoding="zip"?><a/>', "not XML that can be read"),
        (f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>', "it declares an entity, l0"),
        (f"<annotation>{OBJECT.format('x' * 3000, '', 1, 1, 9, 9)}</annotation>", "x… has 3,000 letters|has 3,000"),
        (f"<annotation>{OBJECT.format('x', '', '9' * 9999 + 'y', 1, 9, 9)}</annotation>", "expected four numbers"),
        ("<annotation>" + " " * (17 << 20), "too large for an annotation"),
        (None, "it is a pipe; expected a regular file"),
    ],
)
def test_hostile_annotations(tmp_path, xml, says):
    top = make_voc(tmp_path / "v", {"a": []}, {"a": (40, 30)})
    file = top / "Annotations" / "a.xml"
    file.unlink()
    if xml is None:
        os.mkfifo(file)
    else:
        file.write_text(xml)
    with pytest.raises(DataError, match=says) as error:
        voc(top)
    assert len(str(error.value)) < 1000


def test_names_of_images_stay_in_their_folder(tmp_path):
    top = make_voc(tmp_path / "v", {"a": []}, {"a": (40, 30)})
    for name in ("../../etc/passwd", "/etc/passwd", "x" * 5000, "红" * 200, "a\x1b[31m"):
        (top / "ImageSets" / "Main" / "train.txt").write_text(f"{name}\n", "utf-8")
        with pytest.raises(DataError, match="is not the name of an image in JPEGImages") as error:
            voc(top)
        assert len(str(error.value)) < 1000
        assert "\x1b" not in str(error.value)


def test_the_task_of_the_command_line(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("OpenCV without contrib modules")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    top = make_voc(tmp_path / "v", {"a": [OBJECT.format("disc", "", 9, 14, 32, 37)]}, {"a": (80, 60)})
    Image.fromarray(blobs()[0][0]).save(top / "JPEGImages" / "a.png")
    data = TASK.load(Recipe(data=str(top)), "train")
    assert data.inputs[1].shape == (1, 800, 4)
    assert list((tmp_path / "cache" / "jaxcnn").iterdir())
    objective = TASK.objective(Recipe(), TASK.facts(Recipe(), data))
    assert objective.augment is not None
    assert TASK.objective(Recipe(augment="none"), {}).augment is None
    model = rcnn(1, backbone=cnn.conv(2, 4, 4), size=8, context=0, units=4)
    params, state = model.init(jax.random.key(0), *cnn.data.to_float(jax.tree.map(lambda x: x[:1], data.inputs)))
    # Every region is a disc, which the network is sure of.
    params["head"]["score"] = {"kernel": jnp.zeros((4, 2)), "bias": jnp.array([3.0, 0.0])}
    params["head"]["box"] = jax.tree.map(jnp.zeros_like, params["head"]["box"])
    config = {"inputs": [[60, 80, 3], [800, 4]], "extra": {}}
    trained = Trained(model, params, state, cnn.data.to_float, (), data.classes, config)
    figures = objective.evaluate(trained, data)
    assert 0 < figures[TASK.metric.primary] <= 1
    assert set(figures) == {"map", "map_07", "ap disc", "ap_07 disc"}
    large = tmp_path / "large.png"
    Image.fromarray(blobs()[0][0]).resize((160, 120)).save(large)
    file = str(top / "JPEGImages" / "a.png")
    rows = TASK.predict(trained, [file, str(large), file], tmp_path / "out")
    assert [sorted(row) for row in rows] == [["image", "objects", "picture", "text"]] * 3
    assert [row["picture"].rsplit("/", 1)[1] for row in rows] == ["a-boxes.png", "large-boxes.png", "a-2-boxes.png"]
    with Image.open(rows[0]["picture"]) as picture:
        assert picture.size == (640, 480)
    assert rows[0]["text"].startswith(f"{file}: {len(rows[0]['objects'])} disc (of ")
    first = rows[0]["objects"][0]
    assert first["class"] == "disc"
    assert first["score"] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-4)
    # The same picture twice as large has its boxes where it has them.
    for row, scale in zip(rows, (1, 2, 1), strict=True):
        assert max(iou_loop(np.array([8, 13, 32, 37]) * scale, found["box"]) for found in row["objects"]) > 0.6
    json.dumps(rows)
    with pytest.raises(DataError, match=r"the dataset bccd was not found under .*Pascal VOC's form"):
        TASK.load(Recipe(data="bccd", data_dir=tmp_path), "train")
    with pytest.raises(UserError, match="unknown dataset 'bcd': did you mean bccd"):
        TASK.load(Recipe(data="bcd", data_dir=tmp_path), "train")


def test_bccd(data_dir):
    with pytest.warns(UserWarning, match="1 of 1138 objects have no size"):
        data = voc(data_dir / "bccd", "validation", size=(60, 80))
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert data.inputs.shape == (87, 60, 80, 3)
    counts = [int((data.labels["classes"] == k).sum()) for k in range(3)]
    assert counts == [83, 967, 87]


# --- regions -----------------------------------------------------------------------------------------------------


def test_sliding_windows_cover_the_image():
    windows = proposals.sliding_windows((30, 40), [10, 20], (1, 0.5), 0.5)
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2] <= 40 + 1e-5).all()
    assert (windows[:, 3] <= 30 + 1e-5).all()
    for corner in ([0, 0], [40 - 10, 30 - 10]):
        assert (np.abs(windows[:, :2] - corner).max(1) < 1e-5).any()
    # A square at any place has an IoU of 0.62 or more with a window of its size at a step of 1/4.
    fine = proposals.sliding_windows((30, 40), [10], step=0.25)
    squares = np.random.default_rng(27).uniform(0, [30, 20], (200, 2))
    squares = np.concatenate([squares, squares + 10], 1)
    assert np.asarray(box.iou(squares, fine)).max(1).min() > 0.62
    with pytest.raises(UserError, match="no window with sides"):
        proposals.sliding_windows((30, 40), [50])


def blobs(count=2):
    """Grey images with a dark disc each, and the discs' boxes."""
    images = np.full((count, 60, 80, 3), 200, np.uint8)
    rows, columns = np.mgrid[:60, :80]
    truth = np.zeros((count, 1, 4), np.float32)
    for i in range(count):
        x, y, r = 20 + 15 * i, 25 + 5 * i, 12
        images[i][(columns - x) ** 2 + (rows - y) ** 2 < r**2] = 90, 40, 60
        truth[i, 0] = x - r, y - r, x + r, y + r
    return images, {"boxes": truth, "classes": np.zeros((count, 1), np.int32)}


def test_selective_search_finds_discs_and_is_kept(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("OpenCV without contrib modules")
    images, truth = blobs()
    regions = proposals.selective_search(images, most=50, cache=tmp_path / "c", workers=1)
    assert regions.shape == (2, 50, 4)
    assert regions.dtype == np.float32
    assert detection.recall_of(regions, truth, ("disc",), 0.8) == {"disc": 1.0}
    sides = regions[..., 2:] - regions[..., :2]
    there = sides.prod(-1) > 0
    assert sides[there].min() >= 8
    overlap = np.array(box.iou(regions[0][there[0]], regions[0][there[0]]))
    np.fill_diagonal(overlap, 0)
    assert overlap.max(initial=0) < 0.8
    same(proposals.selective_search(images, most=50), regions)  # the same again, without the file

    calls = []
    monkeypatch.setattr(proposals, "_search", lambda *_: calls.append(1) or np.zeros((50, 4), np.float32))
    same(proposals.selective_search(images, most=50, cache=tmp_path / "c"), regions)
    assert not calls
    same(proposals.selective_search(images[1:], most=50, cache=tmp_path / "c"), regions[1:])  # another split
    assert not calls
    assert proposals.selective_search(images[:, 1:], most=50, cache=tmp_path / "c").sum() == 0  # other images
    other = proposals.SearchSettings(base=31)
    assert proposals.selective_search(images, most=50, settings=other, cache=tmp_path / "c").sum() == 0
    assert len(calls) == 4
    for file in (tmp_path / "c").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert proposals.selective_search(images, most=50, cache=tmp_path / "c").sum() == 0  # computed again
    assert len(calls) == 6
    assert proposals.selective_search(images[:0], most=50).shape == (0, 50, 4)


def test_an_image_of_one_colour_and_no_image_have_no_regions():
    pytest.importorskip("cv2")
    plain = np.full((1, 40, 40, 3), 7, np.uint8)
    assert proposals.selective_search(plain, most=4).shape == (1, 4, 4)
    with pytest.raises(UserError, match="uint8 images"):
        proposals.selective_search(plain.astype(np.float32))
    with pytest.raises(UserError, match="uint8 images"):
        proposals.selective_search(plain[..., :1])


def test_without_opencv_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'jaxcnn\[detection\]'"):
        proposals.selective_search(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the regions cannot be kept in"):
        proposals.selective_search(np.zeros((1, 20, 20, 3), np.uint8), most=2, cache=tmp_path / "file" / "c")


def test_regions_join_the_images():
    data = cnn.data.Examples(np.zeros((3, 4, 4, 3), np.uint8), {"classes": np.zeros((3, 1), np.int32)})
    one = proposals.with_regions(data, np.zeros((5, 4)))
    assert one.inputs[1].shape == (3, 5, 4)
    assert proposals.with_regions(one, np.ones((3, 2, 4))).inputs[1].shape == (3, 2, 4)
    with pytest.raises(UserError, match="regions should be"):
        proposals.with_regions(data, np.zeros((3, 2, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(one.take([0, 2])) == 2
