"""Convolutions that take in what follows them give what the network gives, and take in what they should and no more.

Where not said otherwise every kernel is multiplied, however large it is for its image: tests have small images.
Tolerance as in tests/ops/cpu/test_cpu.py: the same sums in another order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same
from jax.extend.core import jaxprs_in_params

import jaxcnn as cnn
from jaxcnn.models.googlenet import conv_bn, inception
from jaxcnn.models.resnet import basic_block, bottleneck_block, resnet
from jaxcnn.ops import cpu, fusion
from jaxcnn.ops.backend import stored_p
from tests.ops.cpu.test_cpu import needs_engine

pytestmark = needs_engine


def steps(function: Callable, *args: Any) -> Counter[str]:
    """How often each primitive stands in the function's program."""
    count: Counter[str] = Counter()

    def add(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            count[eqn.primitive.name] += 1
            for inner in jaxprs_in_params(eqn.params):
                add(inner)

    add(jax.make_jaxpr(lambda *a: function(*a))(*args))
    return count


def convolutions(function: Callable, *args: Any) -> tuple[int, int]:
    """How many convolutions took something in, and how many did not."""
    count = steps(fusion.fuse(function), *args)
    return count[cpu.conv_fused_p.name], count[cpu.convolution_p.name]


def varied(tree: Any) -> Any:
    """Variables with none at 0 or 1, where a mistake would not show; variances are positive."""
    leaves, structure = jax.tree.flatten(tree)
    moved = [leaf + 0.1 * np.abs(normal(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, moved)


def network(model: cnn.Layer, *shape: int) -> tuple[Callable, tuple[Any, Any, Any]]:
    x = jnp.asarray(normal(0, *shape))
    params, state = model.init(jax.random.key(0), x)
    return model.apply, (varied(params), varied(state), x)


def bn_relu(**options: bool) -> cnn.Layer:
    return cnn.serial(conv=cnn.conv(8, 3), bn=cnn.batch_norm(**options), relu=cnn.relu)


NETWORKS = {
    "identity": (basic_block(8), (2, 6, 6, 8), 2),
    "projection": (basic_block(16, 2, project=True), (2, 6, 6, 8), 3),
    "bottleneck": (bottleneck_block(16), (2, 6, 6, 16), 3),
    "bottleneck, projection": (bottleneck_block(16, 2, project=True), (2, 6, 6, 8), 4),
    "imagenet": (resnet((1,), 3, bottleneck=True, width=4), (1, 32, 32, 3), 5),
    "cifar, option A": (cnn.models.cifar_resnet(8, width=2), (1, 4, 4, 3), 7),
    "inception": (inception(conv_bn, 3, 4, 4, 8, 4, 8, 4), (2, 6, 6, 4), 6),
    "bias": (cnn.serial(cnn.conv(4, 3), cnn.max_pool(2), cnn.conv(1, 1), cnn.sigmoid), (2, 8, 8, 1), 2),
    "bias, relu": (cnn.serial(cnn.conv(4, 3, 2, 1, dilation=2, floor=True), cnn.relu), (2, 9, 8, 3), 1),
    "bias, norm": (bn_relu(), (2, 6, 6, 3), 1),
    "no scale": (bn_relu(scale=False), (2, 6, 6, 3), 1),
    "no shift": (bn_relu(bias=False), (2, 6, 6, 3), 1),
    "7x7/2": (cnn.serial(cnn.conv(8, 7, 2, 3, floor=True), cnn.relu), (1, 16, 16, 3), 1),
    "one pixel": (basic_block(8), (1, 1, 1, 8), 2),
}


def test_a_bias_in_bfloat16_is_taken_in() -> None:
    """Its broadcast is converted from float32. Two roundings to 8 bits, of the product and of the sum, become one."""
    model = cnn.mixed_precision(cnn.serial(cnn.conv(4, 3), cnn.relu))
    apply, args = network(model, 2, 9, 8, 3)
    assert convolutions(apply, *args) == (1, 0)
    close(jax.jit(fusion.fuse(apply))(*args)[0], jax.jit(apply)(*args)[0], 2**-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same(name: str) -> None:
    model, shape, count = NETWORKS[name]
    apply, args = network(model, *shape)
    assert convolutions(apply, *args) == (count, 0)
    (y, state), (expected, expected_state) = jax.jit(fusion.fuse(apply))(*args), jax.jit(apply)(*args)
    close(y, expected)
    same(state, expected_state)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("resnet18", 20),
        ("resnet50", 53),
        ("googlenet", 57),
        ("vgg16", 13),
        ("mobilenet_v2", 52),
        ("mobilenet_v3_small", 52),
        ("efficientnet_b0", 81),
    ],
)
def test_every_convolution_of_a_large_network(model: str, count: int) -> None:
    """Nothing is computed: the program is looked at."""
    made = getattr(cnn.models, model)()
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(made.init, jax.random.key(0), image)
    assert convolutions(made.apply, *variables, image) == (count, 0)
    left = steps(fusion.fuse(made.apply), *variables, image)
    # The ReLUs of dense layers, and of hard sigmoids.
    assert left[stored_p.name] == {"vgg16": 2, "mobilenet_v3_small": 9}.get(model, 0)


def test_a_preactivated_network_has_the_sums_inside() -> None:
    """Behind its convolutions there is a sum, or normalization and ReLU; before the first of a stage nothing."""
    apply, args = network(cnn.models.cifar_resnet(8, preactivation=True, shortcut="B", width=2), 1, 4, 4, 3)
    close(jax.jit(fusion.fuse(apply))(*args), jax.jit(apply)(*args))
    taken, left = convolutions(apply, *args)
    assert taken + left == steps(apply, *args)[cpu.convolution_p.name]
    assert taken >= 6


ONE = jnp.ones((4,))
X, KERNEL, BIAS = jnp.asarray(normal(0, 2, 5, 5, 3)), jnp.asarray(normal(1, 3, 3, 3, 4)), jnp.asarray(normal(2, 4))
SUM = jnp.asarray(normal(3, 2, 5, 5, 4))
conv = partial(cnn.ops.conv, padding=1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, k: conv(x, k), (0, 1)),
        (lambda x, k: cnn.relu(conv(x, k)), (1, 0)),
        (lambda x, k: jnp.maximum(0, conv(x, k)), (1, 0)),
        (lambda x, k: BIAS + conv(x, k), (1, 0)),
        (lambda x, k: conv(x, k) - BIAS, (1, 0)),
        (lambda x, k: BIAS - conv(x, k), (0, 1)),
        (lambda x, k: (conv(x, k) - BIAS) * BIAS * 2 + 1, (1, 0)),
        (lambda x, k: SUM + conv(x, k) * BIAS, (1, 0)),
        (lambda x, k: (conv(x, k) + SUM) * BIAS, (1, 0)),
        (lambda x, k: cnn.relu(conv(x, k) + SUM + BIAS), (1, 0)),
        (lambda x, k: conv(x, k) + SUM + SUM, (1, 0)),
        (lambda x, k: cnn.relu(conv(x, k)) + SUM, (1, 0)),
        (lambda x, k: conv(x, k) + conv(x, k[::-1]), (1, 1)),
        (lambda x, k: conv(x, k) * BIAS + (conv(x, k[::-1]) + BIAS), (2, 0)),
        (lambda x, k: conv(x, k) + jnp.arange(5.0)[:, None], (0, 1)),
        (lambda x, k: conv(x, k) + jnp.broadcast_to(BIAS, (2, 5, 5, 4)), (1, 0)),
        (lambda x, k: jnp.maximum(conv(x, k), 0.5), (0, 1)),
        (lambda x, k: cnn.ops.max_pool(cnn.relu(conv(x, k) + BIAS), 2), (1, 0)),
        (lambda x, k: jax.jit(lambda x: cnn.relu(conv(x, k) + BIAS))(x), (1, 0)),
        (lambda x, k: jax.lax.scan(lambda x, _: (x, cnn.relu(conv(x, k))), x, length=2)[1], (0, 1)),
        (lambda x, k: (y := conv(x, k), cnn.relu(y)), (0, 1)),
        (lambda x, k: (y := conv(x, k) + BIAS, cnn.relu(y), cnn.relu(y + SUM)), (1, 0)),
        (lambda x, k: (y := conv(x, k)) + y, (0, 1)),
        (lambda x, k: (y := conv(x, k) + BIAS) * y.mean((0, 1, 2)), (1, 0)),
    ],
)
def test_what_is_taken_in(function: Callable, expected: tuple[int, int]) -> None:
    """A value that something else needs stays, and its result is the same."""
    assert convolutions(function, X, KERNEL) == expected
    close(jax.jit(fusion.fuse(function))(X, KERNEL), jax.jit(function)(X, KERNEL))


def test_without_a_compiler_and_with_every_kind_of_argument() -> None:
    """Eagerly; with integers, keys and closed-over arrays; and with arguments by keyword."""

    def function(key: jax.Array, tree: dict[str, Any], kernel: jax.Array, flip: bool = False) -> Any:
        y = cnn.relu(conv(tree["x"] / 255, -kernel if flip else kernel) + BIAS) + jax.random.normal(key, (4,))
        return {"y": y, "labels": tree["labels"], "none": None}

    args = jax.random.key(0), {"x": jnp.asarray(X * 100, jnp.uint8), "labels": jnp.arange(2)}, KERNEL
    fused = fusion.fuse(function)
    close(fused(*args), function(*args))
    assert (fused(*args, flip=True)["y"] != fused(*args)["y"]).any()
    close(
        jax.grad(lambda k: fused(*args[:2], k)["y"].sum())(KERNEL),
        jax.grad(lambda k: function(*args[:2], k)["y"].sum())(KERNEL),
    )


def test_derivatives_are_the_functions_own() -> None:
    """Also where a ReLU stands at 0, also of what is closed over, forwards, backwards and twice."""

    def loss(fuse: Callable, params: Any, x: jax.Array) -> jax.Array:
        def function(x: jax.Array) -> jax.Array:
            y = cnn.relu(conv(x, params["kernel"]) * params["scale"] + params["bias"])
            return jnp.maximum(conv(y, params["kernel"].swapaxes(2, 3)[..., :1]) + SUM[..., :1], 0)

        return jnp.sum(jnp.tanh(fuse(function)(x)))

    params = {"kernel": KERNEL * jnp.array([1, 1, 1, 0.0]), "scale": ONE, "bias": jnp.array([0, 1, 2, 0.0])}

    def every(fuse: Callable) -> Any:
        f = partial(loss, fuse)
        first = jax.grad(f, (0, 1))
        return (
            jax.jit(first)(params, X),
            jax.jvp(partial(f, params), (X,), (X,)),
            jax.grad(lambda x: jnp.sum(jax.grad(partial(f, params))(x) ** 2))(X),
        )

    close(every(fusion.fuse), every(lambda f: f))


@pytest.mark.parametrize(
    "axes", [(0, None, None, None), (0, None, None, 0), (None, 0, 0, 0), (None, None, None, 2), (1, 3, 0, 0)]
)
@pytest.mark.parametrize("networks", [2, 17])
def test_vmap(axes: tuple[int | None, ...], networks: int) -> None:
    args = [
        a if d is None else jnp.moveaxis(jnp.asarray(normal(i, networks, *a.shape)), 0, d)
        for i, (a, d) in enumerate(zip((X, KERNEL, BIAS, SUM), axes, strict=True))
    ]

    def function(x: jax.Array, kernel: jax.Array, bias: jax.Array, other: jax.Array) -> jax.Array:
        return cnn.relu(conv(x, kernel) + bias + other)

    close(jax.vmap(fusion.fuse(function), axes)(*args), jax.vmap(function, axes)(*args))
    if networks == 2:
        fused = steps(jax.vmap(fusion.fuse(function), axes), *args)[cpu.conv_fused_p.name]
        assert fused == (1 if axes[1] is None else networks)


def test_an_ensemble_and_a_gradient_under_vmap() -> None:
    model = cnn.serial(bn_relu(), cnn.global_avg_pool)
    params, state = jax.vmap(lambda key: model.init(key, X))(jax.random.split(jax.random.key(0), 3))

    def every(apply: Callable) -> Any:
        one = jax.value_and_grad(lambda p, s: apply(p, s, X)[0].sum())
        return jax.jit(jax.vmap(one))(params, state)

    close(every(fusion.fuse(model.apply)), every(model.apply))


def test_the_residual_is_not_overwritten() -> None:
    def function(x: jax.Array, kernel: jax.Array, other: jax.Array) -> Any:
        other = other * 2
        y = cnn.relu(conv(x, kernel) + other)
        return y, jnp.sin(other), cnn.relu(conv(y, kernel.swapaxes(2, 3)[..., :1]) + other[..., :1])

    close(jax.jit(fusion.fuse(function))(X, KERNEL, SUM), jax.jit(function)(X, KERNEL, SUM))


NORMS: dict[str, Callable[..., jax.Array]] = {
    "difference first": lambda y, mean, var, scale, bias: (y - mean) * (scale / jnp.sqrt(var + 1e-3)) + bias,
    "one product": lambda y, mean, var, scale, bias: y * (f := scale * jax.lax.rsqrt(var + 1e-3)) + (bias - mean * f),
    "several": lambda y, mean, var, scale, bias: ((y * scale - mean) * 0.5 + -bias) * jax.lax.rsqrt(var) * 2.0,
    "a leading axis": lambda y, mean, var, scale, bias: (y - mean[None, None]) * scale.reshape(1, 1, 1, -1) + bias,
}


@pytest.mark.parametrize("name", NORMS)
def test_vectors_are_computed_in_the_call(name: str) -> None:
    """So XLA compiles no program for them: nothing but the call is left."""

    def function(x: jax.Array, kernel: jax.Array, *vectors: jax.Array) -> jax.Array:
        return cnn.relu(NORMS[name](conv(x, kernel), *vectors))

    args = (X, KERNEL, *(1 + jnp.abs(jnp.asarray(normal(3 + i, 4))) for i in range(4)))
    assert convolutions(function, *args) == (1, 0)
    fused = jax.jit(fusion.fuse(function))
    close(fused(*args), jax.jit(function)(*args))
    text = fused.lower(*args).as_text()
    assert "custom_call @jaxcnn_convolution_fused" in text
    assert not any(f"stablehlo.{op}" in text for op in ("add", "subtract", "multiply", "divide", "sqrt", "rsqrt"))


def test_vectors_that_are_computed_otherwise_are_given_to_the_call() -> None:
    def function(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return (conv(x, kernel) + jnp.exp(bias)) * (jnp.sin(bias) + 2) + jnp.float32(3)

    assert convolutions(function, X, KERNEL, BIAS) == (1, 0)
    close(jax.jit(fusion.fuse(function))(X, KERNEL, BIAS), jax.jit(function)(X, KERNEL, BIAS))


def test_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return cnn.relu(conv(x, kernel))

    half = X.astype(jnp.float16), KERNEL.astype(jnp.float16)
    assert convolutions(function, *half) == (0, 0)
    monkeypatch.setenv("JAXCNN_PLAIN", "onednn")
    assert convolutions(function, X, KERNEL) == (0, 0)
    same(fusion.fuse(function)(X, KERNEL), function(X, KERNEL))


@pytest.mark.parametrize(
    ("module", "activation"),
    [(jax.nn, name) for name in ("relu6", "silu", "hard_swish")]
    + [(cnn, name) for name in ("relu6", "silu", "hard_swish", "gelu", "gelu_tanh")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_other_activations(module: Any, activation: str) -> None:
    """In the functions of `jax.nn`, in this package's, and in a user's own around the former."""
    function = getattr(module, activation)
    for one in (function, jax.jit(lambda x: function(x))) if module is jax.nn else (function,):
        fused = partial(lambda x, k, one: one(conv(x, k) + BIAS + SUM), one=one)
        assert convolutions(fused, X, KERNEL) == (1, 0)
        assert activation in str(jax.make_jaxpr(fusion.fuse(lambda x, k, f=fused: f(x, k)))(X, KERNEL))
        close(jax.jit(fusion.fuse(fused))(X, KERNEL), jax.jit(fused)(X, KERNEL))
    other = lambda x, k: jax.jit(lambda y: y * jax.nn.sigmoid(2 * y))(conv(x, k))  # noqa: E731
    assert convolutions(other, X, KERNEL) == (0, 1)


@pytest.mark.parametrize("ndim", [1, 3])
def test_other_dimensions_and_groups(ndim: int) -> None:
    shape = (2, *(7, 5, 6)[:ndim], 4)
    x, k, bias = (jnp.asarray(normal(i, *s)) for i, s in enumerate((shape, (*(3,) * ndim, 2, 6), (6,))))
    function = lambda x, k: cnn.relu(cnn.ops.conv(x, k, padding=1, groups=2) * bias + 1)  # noqa: E731
    assert convolutions(function, x, k) == (1, 0)
    close(jax.jit(fusion.fuse(function))(x, k), jax.jit(function)(x, k))


PARALLEL = """
import jax, jax.numpy as jnp, numpy as np, jaxcnn as cnn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, k, b = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((4, 8, 8, 3), (3, 3, 3, 4), (4,)))
plain = lambda x, k, b: jax.nn.relu(cnn.ops.conv(x, k) * b + b)
fused = cnn.ops.fuse(plain)
shared = jax.jit(fused)(jax.device_put(x, NamedSharding(mesh, P("d"))), k, b)
mapped = jax.jit(jax.shard_map(fused, mesh=mesh, in_specs=(P("d"), P(), P()), out_specs=P("d")))(x, k, b)
np.testing.assert_allclose(shared, plain(x, k, b), atol=1e-5)
np.testing.assert_allclose(mapped, plain(x, k, b), atol=1e-5)
"""


def test_on_several_devices() -> None:
    """Under `jit` with a sharded batch, and under `shard_map` with its checks on: needs a process with two devices."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
