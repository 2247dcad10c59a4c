"""Segmentation: bilinear upsampling, FCN, converted classifiers, loss, measures, augmentation, data, the task."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal, same, shapes
from PIL import Image

import jaxcnn as cnn
from jaxcnn import inspect, segmentation
from jaxcnn.data.datasets.camvid import CAMVID, load_segmentation
from jaxcnn.errors import DataError, UserError
from jaxcnn.models import convolutional
from jaxcnn.models.fcn import BACKBONES, fcn, fcn8s, fcn16s, fcn32s
from jaxcnn.ops.bilinear import bilinear, upsample
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.segmentation.task import TASK

KEY = jax.random.key(0)
LOGITS = 2 * normal(0, 3, 4, 5, 6, dtype=np.float64)
LABELS = np.random.default_rng(1).integers(-1, 6, (3, 4, 5)).astype(np.int32)
WEIGHTS = np.random.default_rng(2).uniform(0.1, 3, 6)


# --- bilinear upsampling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 31])
def test_bilinear_kernel_is_the_formula(size):
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    expected = np.zeros((size, size, 3, 2))
    for u in range(size):
        for v in range(size):
            for c in range(2):
                expected[u, v, c, c] = (1 - abs(u - centre) / factor) * (1 - abs(v - centre) / factor)
    same(np.asarray(bilinear(KEY, (size, size, 3, 2), jnp.float32)), expected.astype(np.float32))
    assert bilinear(KEY, (size, 1, 1), jnp.bfloat16).dtype == jnp.bfloat16


def test_bilinear_needs_a_kernel():
    with pytest.raises(UserError, match=r"kernels of shape \(F, F, C, K\) for transposed"):
        bilinear(KEY, (3, 4))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_transposed_convolution_that_starts_bilinearly_keeps_constants_and_ramps(factor):
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    x = np.stack([2 + 0 * rows, 3 * rows - columns, -rows + 0.5 * columns], -1)[None].astype(np.float32)
    layer = cnn.conv_transpose(3, 2 * factor, factor, factor // 2, bias=False, kernel_init=bilinear)
    y = layer.apply(*layer.init(KEY, x), x)[0]
    assert y.shape == (1, 5 * factor, 6 * factor, 3)
    i, j = np.meshgrid(*[(np.arange(factor * n) + 0.5) / factor - 0.5 for n in (5, 6)], indexing="ij")
    inside = np.s_[:, factor:-factor, factor:-factor]
    close(y[inside], np.stack([2 + 0 * i, 3 * i - j, -i + 0.5 * j], -1)[None].astype(np.float32)[inside])


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize(("factor", "size"), [(1, (3, 4)), (2, (1, 1)), (3, (2, 5)), (8, (4, 3))])
def test_upsampling_is_interpolation_along_each_axis(factor, size, corner):
    x = normal(3, 2, *size, 2)
    expected = x.astype(np.float64)
    for axis, n in enumerate(size, 1):
        j = np.arange(n * factor)
        at = j / factor if corner else (j + 0.5) / factor - 0.5
        expected = np.apply_along_axis(lambda v, at=at: np.interp(at, np.arange(len(v)), v), axis, expected)
    close(upsample(x, factor, corner=corner), expected)


@pytest.mark.parametrize("factor", [2, 8])
def test_upsampling_is_that_of_opencv(factor):
    cv2 = pytest.importorskip("cv2")
    x = normal(4, 5, 7, 3)
    expected = cv2.resize(x, (7 * factor, 5 * factor), interpolation=cv2.INTER_LINEAR)
    close(upsample(x[None], factor)[0], expected, 1e-4)  # OpenCV's weights have fewer bits


def test_upsampling_needs_a_whole_factor():
    with pytest.raises(UserError, match="factor=0"):
        upsample(jnp.zeros((1, 2, 2, 1)), 0)


# --- the networks ------------------------------------------------------------------------------------------------

SMALL = {"width": 2, "units": 4}


def filled(model, image, seed=0):
    """Variables of the model, random numbers throughout; variances are positive."""
    like = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    params, state = jax.tree.map(lambda p: normal(seed, *p.shape) / math.sqrt(max(p.size // p.shape[-1], 1)), like)
    return params, jax.tree.map(lambda s: s**2 + 0.5, state)


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_any_size_of_image_gives_a_score_for_each_pixel(backbone):
    model = fcn8s(4, backbone, **SMALL)
    params, state = filled(model, (32, 32, 3))
    for size in [(1, 1), (33, 57), (64, 32)]:
        x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        scores = jax.eval_shape(lambda x: model.apply(params, state, x, train=True, key=KEY)[0], x)
        assert (scores.shape, scores.dtype) == ((2, *size, 4), jnp.float32)
    with pytest.raises(cnn.LayerError, match=r"conv1.* filter, stride . on 0x8: .* there are 0"):
        jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 0, 8, 3), jnp.float32))


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_each_network_has_the_variables_of_the_coarser_one(backbone):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    coarse, middle, fine = (
        jax.eval_shape(make(4, backbone, **SMALL).init, KEY, x)[0] for make in (fcn32s, fcn16s, fcn8s)
    )
    last, before = ("pool4", "pool3") if backbone == "vgg11" else ("layer3", "layer2")
    assert set(middle) - set(coarse) == {f"score_{last}", f"up_{last}"}
    assert set(fine) - set(middle) == {f"score_{before}", f"up_{before}"}
    assert shapes({name: fine[name] for name in coarse}) == shapes(coarse)
    learned = jax.eval_shape(fcn32s(4, backbone, learn_last=True, **SMALL).init, KEY, x)[0]
    assert set(learned) - set(coarse) == {"up"}


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50"])
def test_maps_lie_where_the_upsampling_puts_them(backbone):
    """The middle of what a map's first pixel sees: the middle of a block for pools, its first pixel for strides."""
    model = fcn8s(3, backbone, width=4, units=1)  # a bottleneck has a quarter of the width
    rows = {r.name: r for r in inspect.summary(model, jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)).layers}
    names = ("pool3", "pool4") if backbone == "vgg16" else ("layer2", "layer3")
    for name, stride in zip((*(f"score_{name}" for name in names), "score"), (8, 16, 32), strict=True):
        row = rows[name]  # a 1x1 convolution sees what its map sees
        assert row.receptive_stride == stride
        middle = row.receptive_offset + (row.receptive_field - 1) / 2
        assert middle == ((stride - 1) / 2 if backbone == "vgg16" else 0)


def test_scores_start_at_0_and_upsampling_bilinearly():
    parts = fcn8s(4, "vgg11").sublayers
    for name in ("score", "score_pool4", "score_pool3"):
        assert not np.any(parts[name].init(KEY, jnp.zeros((1, 2, 2, 5)))[0]["kernel"])
    for name in ("up_pool4", "up_pool3"):
        same(parts[name].init(KEY, jnp.zeros((1, 2, 2, 4)))[0]["conv"]["kernel"], bilinear(KEY, (4, 4, 4, 4)))


def _up_kernel(model, image):
    return jax.eval_shape(model.init, KEY, image)[0]["up"]["conv"]["kernel"].shape


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_a_learned_upsampling_starts_as_the_fixed_one(backbone):
    image = normal(5, 1, 37, 50, 3)
    fixed, learned = (fcn16s(3, backbone, learn_last=learn, **SMALL) for learn in (False, True))
    params, state = filled(fixed, image.shape[1:])
    own = {**params, "up": {"conv": {"kernel": bilinear(KEY, _up_kernel(learned, image))}}}
    expected = jax.jit(lambda x: fixed.apply(params, state, x)[0])(image)
    assert np.std(expected) > 1e-3
    close(jax.jit(lambda x: learned.apply(own, state, x)[0])(image), np.asarray(expected))


def test_what_there_is_not():
    with pytest.raises(UserError, match="stride=4"):
        fcn(4)
    with pytest.raises(UserError, match="unknown backbone 'resnet19': did you mean resnet18"):
        fcn32s(21, "resnet19")
    assert {"vgg16", "vgg16_bn", "resnet50"} < set(BACKBONES)
    assert repr(fcn8s(11, "resnet18", width=32)) == "fcn8s(11, 'resnet18', width=32)"


def test_fcn32s_learns_two_halves_of_an_image():
    """From scores of 0 in a few steps, with dropout and batch statistics: gradients go all the way down."""
    model = fcn32s(2, "vgg11_bn", width=2, units=8, drop=0.1)
    x = normal(6, 2, 64, 64, 1) + np.where(np.arange(64) < 32, -2, 2).astype(np.float32)[:, None]
    y = jnp.broadcast_to((jnp.arange(64) >= 32).astype(jnp.int32), (2, 64, 64))
    optimizer = optax.adam(1e-2)
    params, state = filled(model, (64, 64, 1))
    params["score"] = jax.tree.map(np.zeros_like, params["score"])
    state = cnn.train.create_state(model, optimizer, KEY, x, variables=(params, state))
    step = cnn.train.make_step(model, cnn.train.Objective(segmentation.cross_entropy, metrics={}), optimizer)
    losses = []
    for _ in range(12):
        state, measured = step(state, (x, y))
        losses.append(float(measured["loss"]))
    assert losses[0] == pytest.approx(math.log(2), rel=1e-5)
    assert losses[-1] < 0.5


# --- classifiers turned into maps --------------------------------------------------------------------------------


def trained(model, image):
    return normal(7, 2, *image), *filled(model, image, 8)


@pytest.mark.parametrize(
    ("model", "image"),
    [
        (cnn.models.lenet5(), (32, 32, 1)),
        (cnn.models.convnet(5, 1, 2, 1, width=3, units=4, drop=0.5), (12, 16, 3)),
        (cnn.models.resnet18(5, width=2), (64, 64, 3)),
        (cnn.models.vgg11(3, width=1, units=3), (224, 224, 1)),
        (
            cnn.serial(
                body=cnn.serial(conv=cnn.conv(3, 3), bn=cnn.batch_norm()),
                head=cnn.serial(flat=cnn.flatten, act=cnn.tanh, fc=cnn.dense(4, bias=False), bn=cnn.batch_norm(),
                                out=cnn.dense(2), soft=cnn.softmax),
            ),
            (6, 5, 2),
        ),
        (cnn.models.mlp(3), (4, 5, 2)),
    ],
    ids=["lenet5", "convnet", "resnet18", "vgg11", "nested", "mlp"],
)  # fmt: skip
def test_a_converted_classifier_gives_the_same_answer(model, image):
    x, params, state = trained(model, image)
    expected = np.asarray(jax.jit(lambda x: model.apply(params, state, x)[0])(x))
    scanner, *variables = convolutional(model, params, state, image)
    scores = jax.jit(lambda x: scanner.apply(*variables, x)[0])(x)
    assert scores.shape == (2, 1, 1, expected.shape[-1])
    assert np.ptp(expected) > 1e-4
    close(scores[:, 0, 0], expected)
    fresh = jax.eval_shape(scanner.init, KEY, x)
    assert jax.tree.structure(fresh) == jax.tree.structure(tuple(variables))
    assert shapes(fresh[0]) == shapes(variables[0])


def test_on_a_larger_image_it_gives_a_map_of_the_windows_answers():
    model = cnn.models.lenet5()
    _, params, state = trained(model, (32, 32, 1))
    scanner, *variables = convolutional(model, params, state, (32, 32, 1))
    image = normal(9, 1, 48, 40, 1)
    scores = jax.jit(scanner.apply)(*variables, image)[0]
    assert scores.shape == (1, 5, 3, 10)
    windows = np.stack([image[0, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32] for i in range(5) for j in range(3)])
    expected = np.asarray(jax.jit(model.apply)(params, state, windows)[0]).reshape(1, 5, 3, 10)
    assert np.std(expected[..., 0]) > 1e-3, "windows should differ"
    close(scores, expected)


def test_a_converted_vgg_fits_into_fcn():
    classifier = cnn.models.vgg11(7, width=1, units=3)
    params, _ = filled(classifier, (224, 224, 3))
    _, converted, _ = convolutional(classifier, params, {}, (224, 224, 3))
    own, _ = filled(fcn8s(4, "vgg11", width=1, units=3), (64, 64, 3))
    assert set(converted) - set(own) == {"fc8"}
    assert set(own) - set(converted) == {"score", "score_pool4", "score_pool3", "up_pool4", "up_pool3"}
    both = set(own) & set(converted)
    assert shapes({n: own[n] for n in both}) == shapes({n: converted[n] for n in both})


def _first(x):
    return x[:, :1]


@pytest.mark.parametrize(
    ("model", "image", "says"),
    [
        (cnn.conv(3, 2), (8, 8, 1), "do not run one after the other"),
        (cnn.parallel(cnn.relu, cnn.relu, join=cnn.concat), (8, 8, 1), "do not run one after the other"),
        (cnn.serial(cnn.conv(3, 2), cnn.relu), (8, 8, 1), "gives a map already"),
        (cnn.serial(pool=cnn.adaptive_avg_pool(3), flat=cnn.flatten, fc=cnn.dense(2)), (8, 8, 1),
         "pool brings 8x8 pixels to 3x3"),
        (cnn.serial(own=lambda x: x.reshape(len(x), -1), fc=cnn.dense(2)), (4, 4, 1), "own makes .*: expected `flatt"),
        (cnn.serial(flat=cnn.flatten, own=lambda x: x - x.mean(1, keepdims=True)), (4, 4, 1), "own cannot be conv"),
        (cnn.serial(flat=cnn.flatten, soft=cnn.softmax, fc=cnn.dense(4)), (4, 4, 3), "soft cannot be converted"),
        (cnn.serial(flat=cnn.flatten, bn=cnn.batch_norm(), fc=cnn.dense(4)), (4, 4, 3), "bn cannot be converted"),
        (cnn.serial(flat=cnn.flatten, fc=cnn.dense(4), half=_first), (4, 4, 1), "half cannot be converted"),
        (cnn.serial(cnn.flatten, cnn.dense(4)), (4, 4), r"image=\(4, 4\): expected"),
        (cnn.models.lenet5_1998(), (32, 32, 1), "output cannot be converted"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_cannot_be_converted_is_said(model, image, says):
    x = jax.ShapeDtypeStruct((1, *image) if len(image) == 3 else (1, 4, 4, 1), jnp.float32)
    variables = filled(model, x.shape[1:])
    with pytest.raises(UserError, match=says):
        convolutional(model, *variables, image)


# --- loss --------------------------------------------------------------------------------------------------------


def loss_by_hand(outputs, labels, weights):
    result = []
    for image, truth in zip(outputs, labels, strict=True):
        total = weight = 0.0
        for scores, y in zip(image.reshape(-1, image.shape[-1]), truth.ravel(), strict=True):
            if y >= 0:
                total += weights[y] * (np.log(np.exp(scores).sum()) - scores[y])
                weight += weights[y]
        result.append(total / weight if weight else 0.0)
    return np.array(result)


every_label_map = pytest.mark.parametrize(
    "labels",
    [LABELS, np.where(np.arange(3)[:, None, None] == 1, -1, LABELS), np.full_like(LABELS, -1), np.zeros_like(LABELS)],
    ids=["mixed", "an image of void", "all void", "one class"],
)


@pytest.mark.parametrize("weights", [None, WEIGHTS, [0, 1, 1, 1, 1, 1]], ids=["plain", "weighted", "a class of none"])
@every_label_map
def test_loss_is_the_formula_and_void_does_nothing(labels, weights):
    expected = loss_by_hand(LOGITS, labels, np.ones(6) if weights is None else weights)

    @jax.jit
    def run(o, y):
        return segmentation.cross_entropy(o, y, weights), jax.grad(
            lambda o: segmentation.cross_entropy(o, y, weights).sum()
        )(o)

    o = jnp.asarray(LOGITS, jnp.float32)
    value, gradient = run(o, labels)
    close(value, expected)
    close(segmentation.cross_entropy(o, labels, weights), expected)
    assert np.isfinite(gradient).all()
    assert not np.any(np.asarray(gradient)[labels == -1])
    counted = (labels >= 0) & (np.asarray(WEIGHTS if weights is None else weights)[labels] > 0)
    assert np.all(np.abs(gradient).max(-1)[counted] > 0)


def test_the_gradient_is_p_minus_y_by_the_number_of_pixels_that_count():
    o, labels = jnp.asarray(LOGITS[:1], jnp.float32), LABELS[:1]
    p = np.exp(LOGITS[:1]) / np.exp(LOGITS[:1]).sum(-1, keepdims=True)
    expected = (p - np.eye(6)[labels]) * (labels >= 0)[..., None] / (labels >= 0).sum()
    close(jax.jit(jax.grad(lambda o: segmentation.cross_entropy(o, labels).sum()))(o), expected)


@every_label_map
def test_dice_is_the_formula_and_void_does_nothing(labels):
    def by_hand(o):
        found = []
        for scores, y in zip(o, labels, strict=True):
            scores, y = scores[y >= 0], y[y >= 0]
            p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            each = [
                1 - (2 * p[y == k, k].sum() + 0.5) / (p[:, k].sum() + (y == k).sum() + 0.5)
                for k in range(6)
                if (y == k).any()
            ]
            found.append(np.mean(each) if each else 0)
        return np.array(found)

    def loss(o):
        return segmentation.dice(o, labels, smooth=0.5)

    o = jnp.asarray(LOGITS, jnp.float32)
    close(loss(o), by_hand(LOGITS))
    gradient = np.asarray(jax.jit(jax.grad(lambda o: loss(o).sum()))(o))
    assert not np.any(gradient[labels == -1])
    step = 1e-5 * np.random.default_rng(0).normal(size=LOGITS.shape)
    difference = (by_hand(LOGITS + step) - by_hand(LOGITS - step)).sum() / 2
    # Of float32 sums beside a central difference of float64 values.
    assert (gradient * step).sum() == pytest.approx(difference, rel=1e-4, abs=1e-12)


def test_dice_of_a_sure_network_is_0():
    assert segmentation.dice(100 * jax.nn.one_hot(LABELS, 6), LABELS).max() < 1e-6
    with pytest.raises(UserError, match="do not belong together"):
        segmentation.dice(jnp.zeros((1, 2, 2, 3)), np.zeros((1, 2), int))


@pytest.mark.parametrize(
    ("labels", "weights", "says"),
    [
        (np.full((1, 2, 2), 3), None, "labels from 3 to 3 for 3 classes: expected 0 to 2, or -1"),
        (np.full((1, 2, 2), -2), None, "labels from -2 to -2"),
        (np.zeros((1, 2, 2)), None, "of integers, got float64"),
        (np.zeros((1, 2), int), None, "do not belong together"),
        (np.zeros((1, 2, 2, 1), int), None, "do not belong together"),
        (np.zeros((1, 2, 2), int), [1, 2], r"weights of shape \(2,\) for 3 classes"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused(labels, weights, says):
    with pytest.raises(UserError, match=says):
        segmentation.cross_entropy(jnp.zeros((1, 2, 2, 3)), labels, weights)


def test_weights_by_median_frequency():
    labels = np.random.default_rng(3).integers(-1, 4, (5, 6, 7))
    labels[0][labels[0] == 2] = 1
    labels[1:][labels[1:] == 3] = 0
    frequency = []
    for k in range(4):
        own = total = 0
        for image in labels:
            if (image == k).any():
                own += (image == k).sum()
                total += (image >= 0).sum()
        frequency.append(own / total)
    expected = np.median(frequency) / np.array(frequency)
    close(segmentation.median_frequency(labels, 4), expected)
    close(segmentation.median_frequency(labels, 6), np.append(expected, [1, 1]))  # two that do not occur
    close(segmentation.median_frequency(labels, 4, 0.5), np.sqrt(expected))
    same(segmentation.median_frequency(np.full((2, 3, 3), -1), 4), np.ones(4, np.float32))
    same(segmentation.median_frequency(np.zeros((2, 3, 3), int), 2), np.ones(2, np.float32))


# --- measures ----------------------------------------------------------------------------------------------------


def matrix_by_hand(predicted, labels, classes):
    matrix = np.zeros((classes, classes))
    for i, j in zip(labels.ravel(), predicted.ravel(), strict=True):
        if i >= 0:
            matrix[i, j] += 1
    return matrix


def iou_by_hand(predicted, labels, classes):
    counted, result = labels >= 0, []
    for k in range(classes):
        union = (((predicted == k) | (labels == k)) & counted).sum()
        result.append(((predicted == k) & (labels == k)).sum() / union if union else np.nan)
    return np.array(result)


@pytest.mark.parametrize("case", ["random", "all void", "one class", "classes that do not occur"])
def test_measures_of_a_whole_set_are_those_of_its_pixels(case):
    rng = np.random.default_rng(4)
    labels, logits = rng.integers(-1, 4, (5, 3, 4)).astype(np.int32), normal(5, 5, 3, 4, 4)
    if case == "all void":
        labels[:] = -1
    elif case == "one class":
        labels[:] = 2
    elif case == "classes that do not occur":
        labels[labels == 3] = 1
        logits[..., 3] = -9
    predicted = logits.argmax(-1)
    each = iou_by_hand(predicted, labels, 4)
    same(np.asarray(segmentation.confusion(logits, labels)).sum(0), matrix_by_hand(predicted, labels, 4).astype("f4"))
    # Batches of 2 of 5 images: means over batches or images would be other numbers.
    names = ("a", "b", "c", "d")
    evaluate = cnn.train.make_evaluate(
        cnn.serial(cnn.identity),
        cnn.train.Objective(segmentation.cross_entropy, metrics=segmentation.measures(names)),
        batch_size=2,
    )
    found = evaluate({}, {}, cnn.data.Examples(logits, labels), keep=False).metrics
    there = each[~np.isnan(each)]
    counted = labels >= 0
    np.testing.assert_allclose([found[f"iou_{name}"] for name in names], each, rtol=1e-6)
    assert found["mean_iou"] == pytest.approx(there.mean() if len(there) else 0)
    right = (predicted == labels).sum() / max(counted.sum(), 1)
    assert found["pixel_accuracy"] == pytest.approx(right)
    assert (case == "classes that do not occur") == (np.isnan(each).sum() == 1)
    matrix = matrix_by_hand(predicted, labels, 4)
    for measure in (segmentation.iou, segmentation.mean_iou, segmentation.pixel_accuracy):
        np.testing.assert_allclose(jax.jit(measure)(jnp.asarray(matrix)), measure(matrix), rtol=1e-6)


# --- augmentation ------------------------------------------------------------------------------------------------


def test_flip_mirrors_labels_with_their_image():
    images = np.random.default_rng(6).integers(0, 256, (32, 3, 4, 2)).astype(np.uint8)
    labels = images[..., 0].astype(np.int32) % 7
    flipped, moved = jax.jit(segmentation.flip)(images, labels, KEY)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(np.asarray(flipped), images, strict=True)]
    assert 4 < sum(mirrored) < 28
    for i, own in enumerate(mirrored):
        same(np.asarray(flipped[i]), images[i][:, ::-1] if own else images[i])
        same(np.asarray(moved[i]), labels[i][:, ::-1] if own else labels[i])


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("size", [None, (12, 30)])
def test_a_scaled_crop_takes_image_and_labels_from_the_same_places(factor, size):
    """Images of their own coordinates show where each pixel came from."""
    height, width = 24, 20
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    images = np.broadcast_to(np.stack([rows, columns, 0 * rows + 1], -1), (6, height, width, 3)).astype(np.float32)
    labels = np.broadcast_to(rows * width + columns, (6, height, width)).astype(np.int32)
    new, moved = jax.jit(segmentation.scaled_crop(factor, factor, size))(images, labels, KEY)
    new, moved = np.asarray(new), np.asarray(moved)
    window = size or (height, width)
    assert new.shape == (6, *window, 3)
    assert moved.shape == (6, *window)
    inside = moved >= 0
    same(inside, new[..., 2] == 1)  # outside the image is 0 and void, both
    assert not np.any(new[~inside])
    assert np.abs(moved // width - new[..., 0])[inside].max() <= 0.5 + 1e-4
    assert np.abs(moved % width - new[..., 1])[inside].max() <= 0.5 + 1e-4
    for channel, (axis, length, wanted) in enumerate(zip((0, 1), (height, width), window, strict=True)):
        for image, there in zip(new, inside, strict=True):
            seen = there.any(1 - axis)
            assert abs(seen.sum() - min(wanted, factor * length)) <= 1
            at = np.where(there, image[..., channel], np.nan)
            at = np.nanmax(at, 1 - axis, initial=-1, where=there)[seen]
            at = at[(at > 0) & (at < length - 1)]  # beyond the outermost pixels' middles their value goes on
            np.testing.assert_allclose(np.diff(at), 1 / factor, atol=1e-4)
    places = {tuple(image[window[0] // 2, window[1] // 2]) for image in new}
    assert (len(places) > 1) == (factor * height != window[0] or factor * width != window[1])


def test_a_crop_of_factor_1_is_a_window_of_the_image():
    images = np.random.default_rng(7).integers(0, 256, (4, 9, 11, 3)).astype(np.uint8)
    labels = np.random.default_rng(8).integers(-1, 5, (4, 9, 11)).astype(np.int32)
    new, moved = jax.jit(segmentation.scaled_crop(1, 1))(images, labels, KEY)
    same(np.asarray(new), images)
    same(np.asarray(moved), labels)
    with pytest.raises(UserError, match="0 < low <= high"):
        segmentation.scaled_crop(2, 1)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_colours():
    assert segmentation.mask(np.array([[0, 3, -1]]), CAMVID).tolist() == [[[128, 128, 128], [128, 64, 128], [0, 0, 0]]]
    many = segmentation.palette([str(k) for k in range(200)])
    assert len({tuple(colour) for colour in many.tolist()}) == 201
    assert many[:3].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]  # as Pascal VOC begins
    image = np.full((1, 2, 1), 100, np.uint8)
    assert segmentation.overlay(image, np.array([[1, -1]]), "abc", 0.5).tolist() == [[[50, 114, 50], [100, 100, 100]]]


def test_figure_has_a_legend_of_what_is_there():
    labels = np.array([[[0, 1], [1, -1]]])
    shown = segmentation.figure({"image": np.zeros((1, 2, 2, 1), np.uint8), "truth": labels}, ("sky", "sea", "sand"))
    assert [text.get_text() for text in shown.legends[0].get_texts()] == ["sky", "sea", "void"]
    assert [axes.get_title() for axes in shown.axes] == ["image", "truth"]


# --- data --------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, labels: np.ndarray, image: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = normal(1, *labels.shape, 3) > 0 if image is None else image
    Image.fromarray(np.uint8(255) * image.astype(np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(labels.astype(np.uint8)).save(folder / f"{name}_label.png")


def folder_of(path: Path) -> Path:
    (path / "classes.txt").write_text("sea\nland\n")
    write(path / "train", "b", np.array([[0, 1, 2], [1, 1, 255]]))
    write(path / "train", "a", np.array([[0, 0, 0], [1, 1, 0]]))
    write(path / "val", "c", np.array([[0, 0, 0], [1, 1, 0]]))
    return path


def test_a_folder_of_images_and_label_images(tmp_path):
    folder = folder_of(tmp_path)
    data = load_segmentation(str(folder))
    assert (data.classes, data.name, len(data)) == (("sea", "land"), tmp_path.name, 2)
    assert data.labels.dtype == np.int32
    assert data.labels.tolist() == [[[0, 0, 0], [1, 1, 0]], [[0, 1, -1], [1, 1, -1]]]
    assert data.inputs.shape == (2, 2, 3, 3)
    assert len(load_segmentation(str(folder), "validation")) == 1
    large = load_segmentation(str(folder), size=(4, 6))
    same(large.labels, data.labels.repeat(2, 1).repeat(2, 2))
    assert large.inputs.shape == (2, 4, 6, 3)
    palette = Image.fromarray(np.array([[1, 0, 1], [0, 0, 2]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    palette.save(folder / "train" / "a_label.png")
    assert load_segmentation(str(folder)).labels[0].tolist() == [[1, 0, 1], [0, 0, -1]]


def _spoil(folder, what):
    train = folder / "train"
    if what == "no labels":
        (train / "a_label.png").unlink()
    elif what == "another size":
        write(train, "b", np.zeros((3, 3)), np.zeros((3, 4, 3)))
    elif what == "a label too large":
        write(train, "b", np.array([[0, 1, 0], [0, 0, 7]]))
    elif what == "colours":
        Image.new("RGB", (3, 2)).save(train / "b_label.png")
    elif what == "damaged":
        (train / "b_label.png").write_bytes((train / "b_label.png").read_bytes()[:40])
    elif what == "no image":
        (train / "b_label.png").write_text("labels")
    elif what == "sizes differ":
        write(train, "b", np.zeros((5, 4)))
    elif what == "no classes":
        (folder / "classes.txt").unlink()
    elif what == "empty classes":
        (folder / "classes.txt").write_text("\n")
    elif what == "empty":
        for file in train.iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no labels", "a.png has no labels: expected .*a_label.png"),
        ("another size", "b_label.png is 3x3 and its image 3x4"),
        ("a label too large", "label 7 at row 1, column 2; expected 0 to 1, or 2 or 255 for void"),
        ("colours", "one number a pixel .* this one is RGB"),
        ("damaged", "b_label.png"),
        ("no image", "b_label.png is no image that can be read"),
        ("sizes differ", "b.png is 5x4 and a.png 2x3: give the size to resize"),
        ("no classes", "classes.txt is missing"),
        ("empty classes", "classes.txt is empty"),
        ("empty", "there is no image in it"),
    ],
)
def test_data_that_cannot_be_used_is_said(tmp_path, what, says):
    _spoil(folder_of(tmp_path), what)
    with pytest.raises(DataError, match=says):
        load_segmentation(str(tmp_path))


def test_data_that_is_not_there_is_said(tmp_path, monkeypatch):
    folder_of(tmp_path)
    with pytest.raises(DataError, match="has no folder test"):
        load_segmentation(str(tmp_path), "test")
    with pytest.raises(DataError, match="has the splits train, validation and test, not 'val'"):
        load_segmentation(str(tmp_path), "val")
    with pytest.raises(DataError, match="there is no folder"):
        load_segmentation(str(tmp_path / "none"))
    with pytest.raises(
        DataError,
        match=r"unknown dataset 'cityscapes': there are camvid; .* ./cityscapes",
    ):
        load_segmentation("cityscapes")
    with pytest.raises(DataError, match=r"the dataset camvid was not found under .*, and 11 for void; then pass"):
        load_segmentation("camvid", data_dir=tmp_path)


def test_camvid(data_dir):
    if not (data_dir / "camvid").is_dir():
        pytest.skip("camvid is not there")
    data = load_segmentation("camvid", "validation", data_dir)
    assert repr(data) == "Examples('camvid', 101 of 180x240x3 uint8 to 180x240 int32, 11 classes)"
    assert (data.labels.min(), data.labels.max(), data.classes) == (-1, 10, CAMVID)
    largest = np.bincount(data.labels[data.labels >= 0]).argsort()[-3:]
    assert {CAMVID[k] for k in largest} == {"road", "building", "tree"}
    assert same(load_segmentation(str(data_dir / "camvid"), "validation").labels, data.labels) is None


# --- the task ----------------------------------------------------------------------------------------------------


def asked(model, params, classes):
    preprocess = cnn.data.Preprocess((8, 8), (0.5,) * 3, (0.25,) * 3)
    return cnn.train.Trained(model, params, {}, preprocess, (8, 8, 3), classes, {})


def test_predict_writes_mask_and_numbers_in_the_images_own_size(tmp_path):
    model = cnn.serial(conv=cnn.conv(3, 1))
    params = {"conv": {"kernel": jnp.asarray(10 * np.eye(3), jnp.float32)[None, None], "bias": jnp.zeros(3)}}
    network = asked(model, params, ("red", "green", "blue"))
    picture = np.zeros((7, 12, 3), np.uint8)
    picture[..., 1], picture[:3, :, 2], picture[:, :2, 0] = 100, 200, 250
    for name in ("one/a.png", "two/a.png", "wide.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture if name != "wide.png" else np.zeros((2, 3000, 3), np.uint8)).save(tmp_path / name)
    given = [str(tmp_path / name) for name in ("one/a.png", "two/a.png", "wide.png")]
    rows = json.loads(json.dumps(TASK.predict(network, given, tmp_path / "out")))
    expected = np.where(np.arange(12) < 2, 0, np.where(np.arange(7)[:, None] < 3, 2, 1))
    same(np.asarray(Image.open(rows[0]["labels"])), expected.astype(np.uint8))
    assert rows[0]["shares"] == pytest.approx({"green": 40 / 84, "blue": 30 / 84, "red": 14 / 84}, abs=1e-6)
    assert list(rows[0]["shares"]) == ["green", "blue", "red"]
    assert "green 47.6 %, blue 35.7 %, red 16.7 %" in rows[0]["text"]
    assert [Path(row["mask"]).name for row in rows] == ["a-mask.png", "a-2-mask.png", "wide-mask.png"]
    with Image.open(rows[0]["mask"]) as mask:
        assert mask.width > 300
    assert rows[2]["size"] == [1, 1500]
    assert "shrunk from 2x3000 to 1x1500" in rows[2]["text"]
    assert "shrunk" not in rows[0]["text"]


def test_the_task_trains_and_measures(tmp_path):
    folder = tmp_path / "islands"
    folder.mkdir()
    (folder / "classes.txt").write_text("sea\nland\nreef\n")
    for split in ("train", "val"):
        for i in range(4):
            land = np.random.default_rng(i).random((8, 8)) > 0.5
            write(folder / split, f"{i}", np.where(land, 1, 0), np.repeat(land[..., None], 3, -1))
    recipe = Recipe(data=str(folder))
    data, held = (TASK.load(recipe, split) for split in ("train", "validation"))
    model = cnn.serial(conv=cnn.conv(3, 1))
    facts = json.loads(json.dumps(TASK.facts(recipe, data)))
    objective = TASK.objective(recipe, facts)
    weights = segmentation.median_frequency(data.labels, 3, 0.5)
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    expected = segmentation.cross_entropy(outputs, data.labels, weights)
    same(objective.loss(outputs, data.labels), expected)
    close(objective.loss((outputs, outputs), data.labels), 1.5 * expected)  # an auxiliary head counts half
    run = cnn.train.fit(model, data, objective, validation=held, epochs=2, batch_size=2, show=False)
    assert 0 <= run.result["validation_mean_iou"] <= 1
    assert {"train_pixel_accuracy", "validation_pixel_accuracy", "train_mean_iou"} <= set(run.result)
    bright = {"conv": {"kernel": jnp.asarray([[-1.0, 1, 0]] * 3)[None, None], "bias": jnp.asarray([0.0, 0, -9])}}
    measured = cnn.train.make_evaluate(model, objective.for_test(), batch_size=2)(bright, {}, held).metrics
    assert (measured["iou_sea"], measured["iou_land"]) == (1, 1)
    assert np.isnan(measured["iou_reef"]), "the reef is neither there nor predicted"
    tested = cnn.train.fit(model, data, objective, test=held, epochs=1, batch_size=2, show=False).result
    assert {"test_iou_sea", "test_iou_land", "test_mean_iou"} <= set(tested)
