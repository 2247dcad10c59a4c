"""Half precision: sums in float32, forward and in gradients; coordinates are no activations.

The oracle is the same function of the same numbers in float64, which other tests compare with formulas, or a number
that is known by hand. Tolerance: u is half a spacing of the format, 2^-8 in bfloat16 and 2^-11 in float16; what is
rounded once is off by at most u, and in the mean (L2) by u / sqrt(3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn import losses, ops
from jaxcnn.models.text_cnn import max_over_time
from jaxcnn.ops import convolution
from jaxcnn.ops.backend import general_form
from jaxcnn.tasks.edges.objective import class_balanced_cross_entropy
from jaxcnn.tasks.flow.objective import end_point_error
from jaxcnn.tasks.segmentation.objective import cross_entropy as pixel_cross_entropy

HALF = {"bfloat16": 2**-8, "float16": 2**-11}
half = pytest.mark.parametrize("dtype", HALF)


def off(actual: Any, expected: Any) -> float:
    """The L2 norm of the error by that of what is expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


# --- sums over windows, regions and places -------------------------------------------------------------------------

FLAT = np.zeros((1, 64, 64, 2))  # all pixels share the maximum
IMAGES = np.random.default_rng(0).integers(-16, 17, (2, 24, 30, 4)) / 4  # exact in both formats: no other maximum
BOXES = (np.random.default_rng(1).uniform(0, 1, (2, 400, 4)) * [8, 8, 16, 12] + [0, 0, 9, 9]).astype(np.float32)
OPERATIONS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "conv_as_a_product": (lambda x: ops.conv(x, np.ones((7, 7, 4, 3), x.dtype), 1, 3), IMAGES[:1, :9, :9]),
    "avg_pool": (lambda x: ops.avg_pool(x, 24), IMAGES),
    "avg_pool_overlapping": (lambda x: ops.avg_pool(x, 15, 1, 7), IMAGES),
    "sum_pool_overlapping": (lambda x: ops.sum_pool(x, 8, 1), IMAGES),
    "adaptive_avg_pool": (lambda x: ops.adaptive_avg_pool(x, (5, 7)), IMAGES),
    "adaptive_avg_pool_repeating": (lambda x: ops.adaptive_avg_pool(x[:, :2, :3], (60, 50)), IMAGES),
    "global_avg_pool": (ops.global_avg_pool, IMAGES),
    "global_max_pool_of_equals": (ops.global_max_pool, FLAT),
    "max_over_time_of_equals": (lambda x: max_over_time(x, jnp.array([4096])), FLAT.reshape(1, 4096, 2)),
    "max_pool_overlapping": (lambda x: ops.max_pool(x, 8, 1), IMAGES),
    "max_pool_wide": (lambda x: ops.max_pool(x, 15, 1), IMAGES),
    "local_response_norm": (lambda x: ops.local_response_norm(100 * x, 3, 1e-4), IMAGES),
    "softmax": (lambda x: cnn.softmax(x.reshape(2, -1)), IMAGES),
    "upsample": (lambda x: ops.upsample(x, 16), IMAGES[:, :6, :6]),
    "correlation": (lambda x: ops.correlation(x, x[::-1], 5), 64 * IMAGES[:, :10, :10]),
    "roi_max_pool": (lambda x: ops.roi_max_pool(x, BOXES, 2, 0.4), IMAGES[:, :7, :7]),
    "roi_align": (lambda x: ops.roi_align(x, BOXES, 3), IMAGES),
    "crop_regions": (lambda x: ops.crop_regions(x, BOXES, 6, 1), IMAGES),
}


PLAIN = [name for name in OPERATIONS if name.startswith(("avg", "sum", "max_pool"))]  # they have another form, too


@pytest.mark.parametrize(
    ("name", "plain"), [*((name, False) for name in OPERATIONS), *((name, True) for name in PLAIN)]
)
def test_operations_sum_in_float32(name, plain, monkeypatch):
    monkeypatch.setattr(convolution, "_LARGE", 0)  # any kernel is a large one
    function, x = OPERATIONS[name]
    shape = jax.eval_shape(function, jax.ShapeDtypeStruct(x.shape, np.float32)).shape
    ct = np.random.default_rng(2).uniform(0.5, 1.5, shape).astype(jnp.bfloat16)

    @jax.jit
    def both(x: Any, ct: Any) -> Any:
        y, pull = jax.vjp(function, x)
        return y, pull(ct)[0]

    def found(dtype: Any) -> Any:
        if plain:
            with general_form():
                return both(x.astype(dtype), ct.astype(dtype))
        return both(x.astype(dtype), ct.astype(dtype))

    results = {dtype: found(dtype) for dtype in HALF}
    with jax.enable_x64(True):
        expected = jax.tree.map(np.asarray, found(np.float64))
    for dtype, result in results.items():
        for what, a, e in zip(("y", "gradient"), result, expected, strict=True):
            assert a.dtype == dtype
            if np.any(e):
                # One more rounding where the function's argument is multiplied first.
                assert off(a, e) <= 1.2 * HALF[dtype], f"{dtype} {what}"
            else:
                assert not np.any(a)


def test_means_and_sums_of_ones_and_of_large_numbers():
    ones = jnp.ones((1, 32, 32, 1), jnp.bfloat16)
    for mean in (ops.avg_pool(ones, 32), ops.adaptive_avg_pool(ones, 1), ops.global_avg_pool(ones)):
        assert float(mean.squeeze()) == 1
    assert float(ops.sum_pool(ones, 32).squeeze()) == 1024
    large = jnp.full((1, 8, 8, 1), 2000, jnp.float16)  # their sum is beyond float16
    for mean in (ops.avg_pool(large, 8), ops.adaptive_avg_pool(large, 1), ops.global_avg_pool(large)):
        assert float(mean.squeeze()) == 2000
    assert float(ops.local_response_norm(jnp.full((1, 1, 1, 3), 300, jnp.float16)).max()) > 0


# --- parameters that many activations share ------------------------------------------------------------------------


@half
@pytest.mark.parametrize(
    ("layer", "shape", "name", "expected"),
    [
        (cnn.conv(8, 3, padding=1), (16, 56, 56, 3), "bias", 50176),
        (cnn.conv_transpose(2, 2, 2), (16, 28, 28, 3), "bias", 50176),
        (cnn.dense(2), (16, 56, 56, 3), "bias", 50176),
        (cnn.maxout(2, 2), (16, 56, 56, 3), "bias", 50176),
        (cnn.prelu(), (16, 56, 56, 3), "slope", -50176),
        (cnn.prelu(shared=True), (16, 56, 56, 1), "slope", -50176),
        (cnn.layer_norm(), (16, 56, 56, 3), "bias", 50176),
    ],
    ids=str,
)
def test_gradients_of_shared_parameters_by_hand(layer, shape, name, expected, dtype):
    """The loss is the sum of the outputs, each of which adds 1 (PReLU's the input, -1). Both formats have 50176."""
    params, state = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    model = cnn.mixed_precision(layer, dtype)

    def total(params: Any) -> Any:
        return model.apply(params, state, -jnp.ones(shape))[0].astype(jnp.float32).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(params)[name], np.float64)
    per_unit = gradient.sum(0) if str(layer).startswith("maxout") else gradient  # shared out among equal pieces
    np.testing.assert_allclose(per_unit, expected, rtol=HALF[dtype])
    if not str(layer).startswith("maxout"):
        same(gradient, np.full(gradient.shape, float(expected)))


@half
def test_gradient_of_an_embedding_by_hand(dtype):
    model = cnn.mixed_precision(cnn.serial(e=cnn.embed(10, 4)), dtype)
    words = jnp.zeros((64, 64), jnp.int32)
    params, state = model.init(jax.random.key(0), words)
    gradient = jax.grad(lambda p: model.apply(p, state, words)[0].sum())(params)["e"]["kernel"]
    same(gradient, np.repeat([4096.0, 0], [1, 9])[:, None] * np.ones((1, 4), np.float32))


@half
def test_spread_has_derivatives_of_every_order_and_vmap(dtype):
    """f(b) = sum (x + b)^2: its gradient is 2 sum(x + b), its second derivative 2 N."""
    x = jnp.full((1024, 3), 0.5, dtype)
    b = jnp.array([0.25, 0.5, 1.0], dtype)

    def f(b: Any) -> Any:
        return jnp.square(ops.wide(x + ops.spread(b, x))).sum()

    close(np.asarray(jax.grad(f)(b), np.float64), 2048 * (0.5 + np.asarray(b, np.float64)))
    second = jax.jvp(jax.grad(f), (b,), (jnp.ones_like(b),))[1]
    same(np.asarray(second, np.float64), np.full(3, 2048.0))
    several = jnp.stack([b, 2 * b])
    same(jax.vmap(jax.grad(f))(several), jnp.stack([jax.grad(f)(row) for row in several]))
    assert jax.jvp(f, (b,), (jnp.ones_like(b),))[1] == jax.grad(f)(b).astype(jnp.float32).sum()


def test_spread_is_broadcasting_in_float32():
    def program(function: Callable[..., Any]) -> str:
        gradient = jax.grad(lambda b, x: jnp.square(function(b, x)).sum())
        return str(jax.make_jaxpr(gradient)(np.zeros(3, np.float32), np.zeros((2, 4, 5, 3), np.float32)))

    assert program(lambda b, x: x + ops.spread(b, x)) == program(lambda b, x: x + b)


# --- losses --------------------------------------------------------------------------------------------------------

SCORES, CLASSES = normal(3, 4, 40, 50, 5) * 8, np.random.default_rng(4).integers(0, 5, (4, 40, 50))
LOSSES = {
    "softmax": (losses.softmax_cross_entropy, SCORES, CLASSES),
    "smoothed": (lambda o, y: losses.softmax_cross_entropy(o, y, 0.1), SCORES, CLASSES),
    "probabilities": (losses.softmax_cross_entropy, SCORES, np.full(SCORES.shape, 0.2, np.float32)),
    "sigmoid": (losses.sigmoid_cross_entropy, SCORES[..., 0], CLASSES % 2),
    "hinge": (losses.hinge, SCORES[..., 0], 2 * (CLASSES % 2) - 1),
    "multiclass_hinge": (losses.multiclass_hinge, SCORES, CLASSES),
    "l1": (losses.l1, SCORES, SCORES[::-1]),
    "l2": (losses.l2, SCORES, SCORES[::-1]),  # 8 million: beyond float16
    "smooth_l1": (losses.smooth_l1, SCORES, SCORES[::-1]),
    "kl": (losses.kl_divergence, SCORES, np.full(SCORES.shape, 0.2, np.float32)),
    "pixels": (pixel_cross_entropy, SCORES, CLASSES - 1),
    "boundaries": (class_balanced_cross_entropy, SCORES[..., 0], CLASSES % 3 - 1),
    "flow": (end_point_error, SCORES[..., :2], SCORES[::-1, ..., :2]),
}


@half
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_outputs_are_float32(name, dtype):
    """They are those of the same outputs in float32, to its rounding."""
    loss, outputs, labels = LOSSES[name]
    rounded = outputs.astype(dtype)
    value = loss(rounded, labels)
    assert value.dtype == jnp.float32
    close(value, loss(rounded.astype(np.float32), labels))
    if labels.dtype == np.float32:
        assert loss(rounded, labels.astype(dtype)).dtype == jnp.float32


def test_l2_penalty_of_half_precision_parameters():
    assert float(losses.l2_penalty({"a": {"kernel": jnp.full((300, 300), 1, jnp.float16)}})) == 90_000


# --- boxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16", "int32", "uint16"])
def test_boxes_are_computed_in_float32(dtype):
    boxes = np.array([[0, 0, 300, 400], [100, 0, 400, 400], [0, 0, 30000, 16384], [400, 400, 100, 100]]).astype(dtype)
    wide = boxes.astype(np.float64)
    width, height = wide[:, 2] - wide[:, 0], wide[:, 3] - wide[:, 1]
    expected = np.where((width > 0) & (height > 0), width * height, 0)
    area, overlap = ops.boxes.area(boxes), ops.boxes.iou(boxes, boxes)
    assert area.dtype == overlap.dtype == jnp.float32
    np.testing.assert_allclose(area, expected, rtol=1e-6)
    shared = (min(wide[0, 2], wide[1, 2]) - max(wide[0, 0], wide[1, 0])) * wide[0, 3]
    np.testing.assert_allclose(overlap[0, 1], shared / (expected[0] + expected[1] - shared), rtol=1e-6)
    same(np.diag(overlap), np.array([1, 1, 1, 0], np.float32))
    same(ops.nms(boxes, np.array([4.0, 3, 2, 1], np.float32), 0.4, 4), np.array([0, 2, 3, -1], np.int32))
    close(ops.boxes.decode(boxes[:3], ops.boxes.encode(boxes[:3], boxes[1::-1][[0, 1, 0]])), wide[[1, 0, 1]])


def test_large_boxes_of_integers_do_not_overflow():
    box = np.array([[0, 0, 100_000, 100_000]], np.int32)
    assert float(ops.boxes.area(box)[0]) == 1e10
    assert float(ops.boxes.iou(box, box // 2)[0, 0]) == 0.25
    same(ops.boxes.clip(np.array([[-5, 0, 90, 127]], np.int8), (300, 80)), np.array([[0, 0, 80, 127]], np.float32))


@half
def test_regions_are_where_their_boxes_are_in_half_precision(dtype):
    """On a ramp the value is the place: 301.25 in coordinates of bfloat16 is 302, and in float16 301.2."""
    ramp = np.broadcast_to(np.arange(8.0)[:, None, None] + np.arange(8.0)[None, :, None], (1, 8, 8, 1))
    boxes = np.array([[[301.2, 303.4, 305.1, 306.9]]], np.float32)
    wide, scale = ramp.astype(np.float32), 1 / 64
    for function in (
        lambda x: ops.roi_align(x, boxes, 2, scale),
        lambda x: ops.crop_regions(x, boxes * scale, 2),
    ):
        assert off(function(ramp.astype(dtype)), function(wide)) <= HALF[dtype]
    grown = np.asarray(
        jax.grad(lambda b: ops.roi_align(ramp.astype(dtype), b, 2, scale).astype(jnp.float32).sum())(boxes)
    )
    close(grown, np.asarray(jax.grad(lambda b: ops.roi_align(wide, b, 2, scale).sum())(boxes)))
