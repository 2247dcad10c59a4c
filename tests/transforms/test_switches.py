"""JAX's own switches and tools: every layer under each of them, and what depends on them elsewhere.

What a switch forbids while a function is traced needs no compilation to be seen, so that most of this only traces.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal, same
from jax import lax

import jaxcnn as cnn
from jaxcnn import ops
from jaxcnn.data import augment
from jaxcnn.ops import convolution, cpu, product
from jaxcnn.ops.backend import stored, stored_p
from jaxcnn.ops.bilinear import upsample
from jaxcnn.ops.correlation import correlation
from jaxcnn.ops.fusion import fuse
from jaxcnn.ops.roi import crop_regions
from jaxcnn.train import max_norm
from tests.layers.test_layers import CASES, Case

every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
KINDS = ("threefry2x32", "rbg", "unsafe_rbg")
KEY = jax.random.key(0)
PLATFORMS = ("cpu", "cuda", "tpu")


def loss_of(case: Case, state: Any, train: bool, key: Any) -> Callable[..., Any]:
    """`(params, x) -> (sum of the sines of the outputs, outputs)`."""

    def loss(params: Any, x: Any) -> Any:
        output = case.layer.apply(params, state, x, train=train, key=key)[0]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(output)), output

    return loss


def gradients(case: Case, loss: Callable[..., Any]) -> Callable[..., Any]:
    return jax.value_and_grad(loss, 0 if case.integer else (0, 1), has_aux=True)


# --- what is seen while a function is traced ---------------------------------------------------------------------


def all_of(*switches: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    def on() -> ExitStack:
        stack = ExitStack()
        for switch in switches:
            stack.enter_context(switch())
        return stack

    return on


PROMOTION = {
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
}
# What only forbids goes together: the error says which of them it was.
TRACING: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "all that forbid": all_of(*PROMOTION.values(), jax.checking_leaks, lambda: jax.legacy_prng_key("error")),
    "double precision": lambda: jax.enable_x64(True),
    "keys and precision": all_of(
        lambda: jax.enable_custom_prng(True),
        lambda: jax.threefry_partitionable(False),
        lambda: jax.default_matmul_precision("BF16_BF16_F32_X3"),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _few_objects() -> None:
    """Checking for leaks collects garbage again and again; it need not look at what other tests have left."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("switch", TRACING)
@every_layer
def test_a_layer_is_traced(case: Case, switch: str) -> None:
    params, state, x = case.values(1)
    with TRACING[switch]():
        jax.eval_shape(case.layer.init, KEY, case.struct)
        for train in case.modes:
            (_, output), _ = jax.eval_shape(gradients(case, loss_of(case, state, train, KEY)), params, x)
            assert jax.tree.map(jnp.shape, output) == case.output


def everywhere() -> dict[str, Callable[[], Any]]:
    """What is neither a layer nor an optimizer, as functions without arguments."""
    images, classes = jnp.zeros((4, 8, 8, 3), jnp.uint8), jnp.zeros(4, jnp.int32)
    maps, boxes = jnp.ones((4, 6, 7, 2)), jnp.ones((4, 3, 4)) * jnp.array([1.0, 2, 5, 6]).reshape(1, 1, 4)
    logits, pixels = jnp.ones((4, 3)), jnp.ones((4, 6, 7, 3))
    flow, places = jnp.ones((4, 6, 7, 2)), jnp.zeros((4, 6, 7), jnp.int32)
    augments = {
        "crop": augment.crop(padding=1), "affine": augment.affine(), "scale": augment.scale(),
        "colour": augment.colour(hue=0.1), "cutout": augment.cutout(3), "mixup": augment.mixup(3),
    }  # fmt: skip
    losses = {
        "softmax": cnn.losses.softmax_cross_entropy, "hinge": cnn.losses.multiclass_hinge, "top 2": cnn.metrics.top_k(2)
    }  # fmt: skip
    return {
        **{name: lambda a=a: augment.augmented(a, images, classes, KEY) for name, a in augments.items()},
        **{name: lambda f=f: (f(logits, classes), f(pixels, places)) for name, f in losses.items()},
        "probabilities": lambda: cnn.losses.softmax_cross_entropy(logits, jax.nn.softmax(logits), 0.1),
        "regression": lambda: [f(logits, logits) for f in (cnn.losses.l1, cnn.losses.l2, cnn.losses.smooth_l1)],
        "preprocess": lambda: cnn.data.Preprocess.imagenet((8, 8, 3))(images),
        "regions": lambda: (ops.roi_max_pool(maps, boxes, 2), ops.roi_align(maps, boxes, 2),
                            crop_regions(maps, boxes, (6, 6), 1)),
        "boxes": lambda: (ops.boxes.clip(boxes, (6, 7)), ops.boxes.iou(boxes, boxes),
                          ops.boxes.decode(boxes, ops.boxes.encode(boxes, boxes))),
        "upsample": lambda: upsample(maps, 2),
        "correlation": lambda: correlation(maps, maps, 2),
        "flow": lambda: cnn.flow.warp(maps, flow),
        "fused": lambda: fuse(
            lambda x: jax.nn.relu(ops.conv(x, jnp.ones((3, 3, 2, 4))) * jnp.full((1, 1, 1, 4), 2.0) + 1)
        )(maps),
    }  # fmt: skip


@pytest.mark.parametrize("name", everywhere())
@pytest.mark.parametrize("switch", PROMOTION)
def test_augmentations_losses_and_operations_are_traced(name: str, switch: str) -> None:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        function = everywhere()[name]
    with PROMOTION[switch]():
        jax.eval_shape(function)


def network() -> cnn.Layer:
    return cnn.serial(
        cnn.conv(4, 3), cnn.relu, cnn.max_pool(2, 1, 1), cnn.batch_norm(), cnn.flatten, cnn.dropout(0.5), cnn.dense(3)
    )


IMAGES, BOXES, WORDS = ((1, 64, 64, 3), jnp.float32), ((1, 2, 4), jnp.float32), ((1, 3, 12), jnp.int32)
MODELS: dict[str, tuple[cnn.Layer, list[Any]]] = {
    "lenet5_1998": (cnn.models.lenet5_1998(), [((1, 32, 32, 1), jnp.float32)]),
    "resnet20": (cnn.models.resnet20(), [((1, 32, 32, 3), jnp.float32)]),
    "fcn32s": (cnn.models.fcn32s(3), [IMAGES]),
    "text_cnn": (cnn.models.text_cnn(vocabulary=20), [((1, 12), jnp.int32)]),
    "vqa_relation": (cnn.models.vqa_relation(vocabulary=20), [IMAGES, WORDS]),
    "flownet_c": (cnn.models.flownet_c(), [IMAGES, IMAGES]),
    "fast_rcnn": (cnn.models.fast_rcnn(3), [IMAGES, BOXES]),
    "rcnn": (cnn.models.rcnn(3), [IMAGES, BOXES]),
    "ensemble": (cnn.ensemble(cnn.models.lenet5(), 2), [((1, 32, 32, 1), jnp.float32)]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_traced_and_exported(name: str) -> None:
    """Without rank promotion, and for any number of examples on several platforms."""
    model, inputs = MODELS[name]
    params, state = jax.eval_shape(model.init, KEY, *(jax.ShapeDtypeStruct(*one) for one in inputs))
    (n,) = jax.export.symbolic_shape("n")
    given = [jax.ShapeDtypeStruct((n, *shape[1:]), dtype) for shape, dtype in inputs]
    with jax.numpy_rank_promotion("raise"):
        predict = jax.jit(lambda params, state, *given: model.apply(params, state, *given)[0])
        exported = jax.export.export(predict, platforms=PLATFORMS)(params, state, *given)
    assert jax.tree.leaves(exported.out_avals)[0].shape[0] == n


def test_pictures_are_made_without_rank_promotion() -> None:
    model, x = network(), jnp.asarray(normal(0, 1, 8, 8, 1))
    params, state = model.init(KEY, x)
    with jax.numpy_rank_promotion("raise"):
        seen = cnn.inspect.occlusion(model, params, state, x, size=4, stride=4, unit=1)
        first, flow = cnn.flow.moved(x, jnp.ones((1, 8, 8, 2)))
    assert seen.probability.shape == (1, 2, 2)
    assert first.shape == x.shape
    assert bool(jnp.isnan(flow[0, -1, -1]).all())


@pytest.mark.parametrize("name", cnn.train.optimizers.OPTIMIZERS)
def test_a_step_is_traced_without_rank_promotion(name: str) -> None:
    optimizer = optax.chain(
        cnn.train.make_optimizer(name, schedule="cosine", steps=10, warmup=2, weight_decay=1e-3, clip=1.0),
        max_norm(3.0),
    )
    images, labels = jnp.zeros((8, 8, 8, 1), jnp.uint8), jnp.zeros(8, jnp.int32)
    with jax.numpy_rank_promotion("raise"):
        state = jax.eval_shape(lambda: cnn.train.create_state(network(), optimizer, KEY, images, ema=True))
        step = cnn.train.make_step(
            network(),
            cnn.train.Objective(
                cnn.losses.softmax_cross_entropy, augment=augment.mixup(3), penalty=cnn.losses.l2_penalty
            ),
            optimizer,
            accumulate=2,
        )
        jax.eval_shape(step, state, (images, labels))


# --- what is seen when it runs -----------------------------------------------------------------------------------


@every_layer
def test_a_layer_computes_the_same(case: Case) -> None:
    """Under the switches that look at results or choose how JAX's own functions are differentiated, all at once."""
    params, state, x = jax.device_put(case.values(1))
    expected = case.compiled(params, state, x, KEY)[0]
    with ExitStack() as switches:
        for switch in (
            jax.debug_nans(True), jax.debug_infs(True), jax.transfer_guard("disallow"), jax.softmax_custom_jvp(False),
            jax.default_matmul_precision("float32"), jax.default_device(jax.devices("cpu")[0]), jax.log_compiles(False),
        ):  # fmt: skip
            switches.enter_context(switch)
        (_, output), _ = jax.jit(gradients(case, loss_of(case, state, True, KEY)))(params, x)
    close(output, expected)


WINDOW = {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilation": (1, 1)}
IMAGE, KERNEL = normal(0, 2, 6, 5, 3), normal(1, 3, 3, 3, 4)
PRIMITIVES: dict[str, Callable[[Any, Any], Any]] = {
    cpu.convolution_p.name: lambda x, k: cpu.conv(x, k, **WINDOW),
    cpu.conv_fused_p.name: lambda x, k: cpu.conv_fused(x, k, k[0, 0, 0], affine=cpu.Affine(shift=0), **WINDOW),
    cpu.product_p.name: lambda x, k: cpu.product(x, k[0, 0]),
    stored_p.name: lambda x, k: stored(x),
    "jaxcnn_pool": lambda x, k: jax.grad(lambda x: jnp.sum(ops.max_pool(x, 2) * k[0, 0, 0, 0]))(x),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_primitive_runs_without_jit(name: str) -> None:
    x, k = jnp.asarray(IMAGE), jnp.asarray(KERNEL)
    function = PRIMITIVES[name]
    expected = jax.jit(function)(x, k)
    with jax.disable_jit():
        close(function(x, k), expected)
        close(jax.jit(function)(x, k), expected)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", [name for name in PRIMITIVES if name != stored_p.name])
def test_a_nan_is_found_in_a_primitive(name: str, jit: bool) -> None:
    """Infinity times 0; the search for its place calls each primitive without `jit`."""
    x, k = jnp.full(IMAGE.shape, jnp.inf), jnp.zeros(KERNEL.shape)
    if name == "jaxcnn_pool":
        k = k.at[0, 0, 0, 0].set(jnp.nan)
    function = jax.jit(PRIMITIVES[name]) if jit else PRIMITIVES[name]
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        function(x, k)


def test_padding_of_a_maximum_is_no_infinite_result() -> None:
    x = jnp.asarray(IMAGE)
    with jax.debug_infs(True):
        same(ops.max_pool(x, 3, 2, 1), jax.jit(lambda x: ops.max_pool(x, 3, 2, 1))(x))


def test_a_step_moves_nothing_between_host_and_device() -> None:
    optimizer = cnn.train.make_optimizer("adam", schedule="cosine", steps=10)
    batch = jax.device_put((normal(0, 8, 8, 8, 1), np.arange(8, dtype=np.int32) % 3))
    state = cnn.train.create_state(network(), optimizer, KEY, batch[0], ema=True)
    step = cnn.train.make_step(network(), cnn.losses.softmax_cross_entropy, optimizer)
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, measured = step(state, batch)
    assert np.isfinite(float(measured["loss"]))


# --- random keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key(kind: str, default: str) -> None:
    """In weights, dropout, augmentation and a step, whatever the default kind is; a key keeps its kind."""
    images, labels = jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.zeros(4, jnp.int32)
    optimizer = optax.sgd(0.1)
    both = augment.compose(augment.crop(padding=1), augment.affine(), augment.cutout(2), augment.mixup(3))
    step = cnn.train.make_step(
        network(), cnn.train.Objective(cnn.losses.softmax_cross_entropy, augment=both), optimizer, accumulate=2
    )
    with jax.default_prng_impl(default):
        key = jax.random.key(0, impl=kind)
        state = cnn.train.create_state(network(), optimizer, key, images)
        jax.eval_shape(step, state, (images, labels))
        jax.eval_shape(cnn.ensemble(network(), 2).init, key, images)
        for form in ("jit", "pmap"):
            on = cnn.devices.DataParallel(1, form)
            assert jax.random.key_impl(on.single(on.replicate(state)).key) == jax.random.key_impl(key)


def test_keys_of_the_old_style() -> None:
    x, old = jnp.zeros((1, 8, 8, 1)), jax.random.PRNGKey(3)
    expected = network().init(jax.random.key(3), x)
    for key in (old, np.asarray(old)):
        same(network().init(key, x), expected)


def test_a_key_keeps_its_kind_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    key = jax.random.key(0, impl="rbg")
    on = cnn.devices.DataParallel(1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    placed = on._put({"key": key}, on._whole)["key"]
    assert jax.random.key_impl(placed) == jax.random.key_impl(key)
    same(jax.random.key_data(placed), jax.random.key_data(key))


# --- a user's own export -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["b", None])
@every_layer
def test_a_layer_is_exported(case: Case, batch: str | None) -> None:
    """Outputs and gradients, of any number of examples and of a fixed one; what runs only here, JAX refuses."""
    params, state, x = case.values(1)
    first = jax.export.symbolic_shape(batch)[0] if batch else x.shape[0]
    function = jax.jit(gradients(case, loss_of(case, state, False, None)))
    given = jax.ShapeDtypeStruct((first, *x.shape[1:]), x.dtype)
    exported = jax.export.export(function, platforms=PLATFORMS)(params, given)
    assert jax.tree.leaves(exported.out_avals)[1].shape[0] == first


def test_what_is_exported_computes_the_same() -> None:
    model = cnn.serial(
        cnn.conv(4, 3, padding=1), cnn.batch_norm(), cnn.relu, cnn.max_pool(2), cnn.flatten, cnn.dense(3)
    )
    x = jnp.asarray(normal(0, 5, 8, 8, 2))
    params, state = model.init(KEY, x)
    predict = jax.jit(lambda params, x: model.apply(params, state, x)[0])
    struct = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 8, 8, 2), jnp.float32)
    exported = jax.export.export(predict, platforms=PLATFORMS)(params, struct)
    restored = jax.export.deserialize(exported.serialize())
    for n in (1, 5):
        close(restored.call(params, x[:n]), predict(params, x[:n]))


def test_fused_and_large_networks_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the forms that a network on a CPU takes beside the convolution: products, fused convolutions."""
    monkeypatch.setattr(convolution, "_LARGE", 300)
    monkeypatch.setattr(product, "_LARGE", 1)
    model = cnn.serial(cnn.conv(4, 3), cnn.relu, cnn.conv(8, 5), cnn.relu, cnn.flatten, cnn.dense(3))
    x = jnp.asarray(normal(0, 2, 8, 8, 2))
    params, state = model.init(KEY, x)
    for predict in (
        lambda x: model.apply(params, state, x)[0],
        fuse(lambda x: model.apply(params, state, x)[0]),
    ):
        exported = jax.export.export(jax.jit(predict))(x)
        close(exported.call(x), predict(x))


# --- geometry ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("size", "filter_", "stride", "padding", "groups"),
    [
        (3, 3, 3, 1, 1), (4, 5, 4, 2, 1), (4, 3, 4, 1, 1), (2, 3, 3, 1, 1), (2, 4, 4, 1, 1), (1, 1, 3, 1, 1),
        (3, 3, 3, 1, 2),
    ],
)  # fmt: skip
def test_windows_that_see_little_but_padding(size: int, filter_: int, stride: int, padding: int, groups: int) -> None:
    """Values and first and second derivatives, alone and under vmap, against XLA's own in float64.

    In float32, 1e-5 of the largest value: sums of at most 200 products.
    """
    x, k = normal(0, 2, 2, size, size, 2), normal(1, filter_, filter_, 2 // groups, 4)
    settings = {"stride": stride, "padding": padding, "groups": groups}

    def plain(x: jax.Array, k: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, k, (stride,) * 2, ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    def found(conv: Callable[..., Any], x: Any, k: Any) -> Any:
        slopes = jax.grad(lambda x, k: jnp.sum(jnp.sin(conv(x, k))), (0, 1))
        curved = lambda x, k: sum(jnp.sum(jnp.sin(g)) for g in slopes(x, k))  # noqa: E731
        both = lambda x, k: (conv(x, k), slopes(x, k), jax.grad(curved, (0, 1))(x, k))  # noqa: E731
        return jax.jit(jax.vmap(both, (0, None)))(x, k)

    ours = found(lambda x, k: ops.conv(x, k, **settings), jnp.float32(x), jnp.float32(k))
    close(ours, found(plain, x.astype(np.float64), k.astype(np.float64)))


def test_every_small_window_has_gradients() -> None:
    """Traced only, through every size, filter, stride, padding and dilation of one row: 0.1 s each if compiled."""
    settings = itertools.product((1, 2, 3, 5), (1, 2, 3, 5), (1, 2, 3, 4), (0, 1, 3), (1, 2))
    for size, filter_, stride, padding, dilation in settings:
        if size + 2 * padding < dilation * (filter_ - 1) + 1:
            continue
        x, k = (
            jax.ShapeDtypeStruct((2, 2, size, 1, 2), jnp.float32),
            jax.ShapeDtypeStruct((filter_, 1, 2, 3), jnp.float32),
        )
        window = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
        slope = jax.grad(lambda x, k, window=window: jnp.sum(jnp.sin(ops.conv(x, k, **window))), (0, 1))
        jax.eval_shape(jax.vmap(slope, (0, None)), x, k)


def test_an_empty_batch_is_flattened() -> None:
    assert cnn.flatten(jnp.zeros((0, 3, 4, 5))).shape == (0, 60)
