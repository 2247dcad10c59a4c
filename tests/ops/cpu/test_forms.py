"""The forms in which a CPU computes: each gives what XLA's own operations give, and can be switched off.

Tolerance 1e-5 of the largest value for a single operation in float32, which is computed in another order; 1e-4 for the
gradients of a network, where that adds up from layer to layer.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn import ops
from jaxcnn.errors import UserError
from jaxcnn.ops import convolution, product
from jaxcnn.ops.backend import FORMS, general_form, ordered, stored, suits_cpu, switched_on
from jaxcnn.ops.cpu.product import outer
from jaxcnn.ops.precision import summed_product
from tests.ops.cpu.test_cpu import needs_engine

cpu = pytest.mark.skipif(not suits_cpu("stored"), reason="the forms are for a CPU")


def block(features: int) -> cnn.Layer:
    body = {"conv": cnn.conv(features, 3, padding=1, bias=False), "bn": cnn.batch_norm()}
    return cnn.network(lambda net, x: cnn.relu(x + net.bn(net.conv(x))), **body)


def everything() -> cnn.Layer:
    """A network in which each of the forms is used."""
    branches = cnn.parallel(
        cnn.conv(4, 1), cnn.serial(cnn.max_pool(3, 1, padding=1), cnn.conv(4, 3, 2, padding=1),
                                   cnn.conv_transpose(4, 2, 2)), cnn.avg_pool(3, 1, padding=1), join=cnn.core.concat,
    )  # fmt: skip
    return cnn.serial(
        cnn.conv(32, 5, 2, padding=2), cnn.relu, block(32), block(32), branches, cnn.max_pool(2), cnn.conv(6, 3),
        cnn.relu, cnn.global_avg_pool, cnn.dense(3),
    )  # fmt: skip


@cpu
@pytest.mark.parametrize("form", [*FORMS, "all"])
def test_a_network_is_the_same_without(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_LARGE", 300)
    model, x = everything(), jnp.asarray(normal(0, 2, 16, 16, 3))
    params, state = model.init(jax.random.key(0), x)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(model.apply(params, state, x, train=True)[0], jnp.arange(2)).mean()

    def found() -> Any:
        jax.clear_caches()  # what was traced and compiled keeps its form
        return jax.jit(jax.value_and_grad(lambda *a: loss(*a), (0, 1)))(params, x)

    ours = found()
    monkeypatch.setenv("JAXCNN_PLAIN", form)
    assert not suits_cpu(form)
    close(ours, found(), 1e-4)


def test_a_form_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("the forms are for a CPU")
    monkeypatch.setenv("JAXCNN_PLAIN", "stored, onednnn")
    with pytest.raises(UserError, match="unknown form in JAXCNN_PLAIN 'onednnn': did you mean onednn"):
        ops.max_pool(jnp.ones((1, 4, 4, 1)), 2)


# --- stored ------------------------------------------------------------------------------------------------------


def test_what_is_decided_once_does_not_depend_on_what_is_traced_then() -> None:
    """oneDNN may be loaded while a summary or an export is made, which use none of the forms."""
    with general_form():
        assert switched_on("pages")
        assert not suits_cpu("pages")


def test_stored_is_its_argument_whatever_that_is() -> None:
    x = jnp.array([1.5, -0.0, np.inf, -np.inf, np.nan])
    same(jax.jit(stored)(x), x)
    same(jax.jit(stored)(jnp.arange(3)), jnp.arange(3))
    x = jnp.array([1.0, 2.0])
    same(jax.jvp(jax.jit(stored), (x,), (x + 1,)), (x, x + 1))
    same(jax.vmap(jax.grad(lambda v: stored(v) ** 3))(x), 3 * x**2)
    same(jax.vmap(jax.grad(jax.grad(lambda v: stored(v) ** 3)))(x), 6 * x)


@needs_engine
def test_kernels_are_not_copied_by_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the new ones are the same to the last bit: what is added to their gradients is 0."""
    model = cnn.serial(cnn.conv(4, 3), cnn.relu, cnn.conv(8, 3), cnn.relu, cnn.flatten, cnn.dense(3))
    optimizer = cnn.train.make_optimizer("momentum")
    batch = (jnp.asarray(normal(0, 4, 8, 8, 2)), jnp.arange(4) % 3)

    def found() -> tuple[Any, int]:
        step = cnn.train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
        state = cnn.train.create_state(model, optimizer, jax.random.key(0), batch[0])
        compiled = step.lower(state, batch).compile()
        copies = [line for line in compiled.as_text().splitlines() if " copy(" in line and "kernel" in line]
        return step(state, batch)[0].params, len(copies)

    params, copies = found()
    monkeypatch.setenv("JAXCNN_PLAIN", "ordered")
    plain, copied = found()
    same(params, plain)
    assert copies == 0
    assert copied >= 1  # else XLA needs this form no longer


@cpu
def test_what_is_no_kernel_is_left_as_it_is() -> None:
    tree = {"a": jnp.ones(3), "b": jnp.ones((2, 0)), "c": jnp.ones((2, 2), jnp.int32), "d": jnp.ones((2, 2))}
    assert all(new is old for new, old in zip(jax.tree.leaves(ordered(tree)), jax.tree.leaves(tree), strict=True))
    wide = {"a": jnp.full((2, 2), jnp.nan), "b": -jnp.ones((1, 2), jnp.bfloat16)}
    same(jax.jit(ordered)(wide), wide)  # a NaN stays in its own array


@needs_engine
def test_a_relu_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind three residual blocks XLA would compute the first ReLU again and again."""
    model, x = cnn.serial(block(4), block(4), block(4), cnn.conv(4, 3)), jnp.ones((2, 8, 8, 4))
    params, state = model.init(jax.random.key(0), x)

    def maxima() -> int:
        loss = lambda params: model.apply(params, state, x, train=True)[0].sum()  # noqa: E731
        jax.clear_caches()
        return jax.jit(jax.grad(loss)).lower(params).compile().as_text().count(" maximum(")

    assert maxima() <= 4
    monkeypatch.setenv("JAXCNN_PLAIN", "stored")
    assert maxima() > 12


# --- products ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2, "padding": ((1, 2), (0, 3))}, {"dilation": (2, 1), "padding": 2}], ids=str
)
def test_few_pixels_and_a_large_kernel(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, k = jnp.asarray(normal(0, 2, 6, 5, 3)), jnp.asarray(normal(1, 3, 2, 3, 4))
    found = []
    for large in (1, 1 << 30):
        monkeypatch.setattr(convolution, "_LARGE", large)
        y, back = jax.vjp(lambda x, k: ops.conv(x, k, **settings), x, k)
        found.append((y, back(jnp.asarray(normal(2, *y.shape)))))
    close(*found)


@needs_engine
def test_products_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, k, dx, dk = (jnp.asarray(normal(i, *s)) for i, s in enumerate([(5, 6), (6, 7)] * 2))

    def found() -> Any:
        jax.clear_caches()
        loss = lambda x, k: jnp.sum(jnp.sin(ops.matmul(x, k)))  # noqa: E731
        twice = lambda x, k: jnp.sum(jax.grad(loss)(x, k) ** 2) + jnp.sum(jax.grad(loss, 1)(x, k) ** 2)  # noqa: E731
        return (
            ops.matmul(x, k), ops.matmul(x[0], k), ops.matmul(x[:, None], k),
            jax.jit(jax.grad(loss, (0, 1)))(x, k), jax.jvp(ops.matmul, (x, k), (dx, dk)), jax.grad(twice, (0, 1))(x, k),
            jax.vmap(ops.matmul, (0, None))(jnp.stack([x, dx]), k),
            jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(jnp.stack([x, dx]), jnp.stack([k, dk])),
        )  # fmt: skip

    plain = found()
    monkeypatch.setattr(product, "_LARGE", 1)
    close(found(), plain)
    assert "@jaxcnn_product" in jax.jit(ops.matmul).lower(x, k).as_text()
    assert "@jaxcnn_outer" in jax.jit(jax.grad(lambda k: ops.matmul(x, k).sum())).lower(k).as_text()


@pytest.mark.parametrize("shape", [(5, 120, 7), (2, 24, 15, 9), (4, 6, 5, 8, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@needs_engine
def test_all_pixels_times_a_matrix_are_a_convolution(shape: tuple[int, ...], dtype: str) -> None:
    """And its gradients; beside XLA's product: 1e-5 in float32, for sums in another order, one rounding in bfloat16."""
    x, k, ct = (
        jnp.asarray(normal(seed, *s), dtype) for seed, s in enumerate((shape, (shape[-1], 6), (*shape[:-1], 6)))
    )

    def both(product: Any) -> Any:
        y, back = jax.vjp(product, x, k)
        return y, *back(ct)

    assert "@jaxcnn_convolution" in jax.jit(ops.matmul).lower(x, k).as_text()
    found, expected = jax.jit(lambda: both(ops.matmul))(), both(summed_product)
    close(found, expected, 1e-5 if dtype == "float32" else 1e-2)
    assert "@jaxcnn_convolution" not in jax.jit(ops.matmul).lower(x[:1, :4], k).as_text(), "few pixels"


SHAPES = [(1, 1, 1), (16, 130, 64), (7, 65, 48), (5, 13, 50), (32, 300, 1), (3, 12, 2000)]


@needs_engine
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_few_outer_products(shape: tuple[int, int, int]) -> None:
    """Rows and columns that no register divides, and rows that several threads compute."""
    count, rows, columns = shape
    x, y = normal(0, count, rows), normal(1, count, columns)
    found = jax.jit(outer)(x, y)
    close(found, x.T.astype(np.float64) @ y.astype(np.float64))
    same(jax.jit(outer)(x, y), found)


# --- the maximum -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 1), (1, 0))])
def test_max_pool_under_every_transformation(size: Any, stride: Any, padding: Any, monkeypatch: Any) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("the form that is tested is a CPU's")
    x, dx = (jnp.asarray(normal(i, 3, 2, 7, 8, 2, dtype=np.float64)) for i in (0, 1))

    def found() -> Any:
        jax.clear_caches()
        pool = lambda x: ops.max_pool(x, size, stride, padding)  # noqa: E731
        curved = lambda x: jnp.sum(jnp.sin(pool(x)))  # noqa: E731
        step = jax.checkpoint(lambda x, _: (x + pool(x).sum(), None))
        return (
            jax.vmap(pool)(x),
            jax.jvp(jax.vmap(pool), (x,), (dx,)),
            jax.vmap(jax.grad(curved))(x),
            jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(curved)(x) ** 2)))(x[0]),
            jax.grad(lambda x: jax.lax.scan(step, x, length=3)[0].sum())(x[0] / 100),
        )

    ours = found()
    monkeypatch.setenv("JAXCNN_PLAIN", "maximum")
    close(ours, found(), 1e-12)


def test_a_summary_is_the_same_with_and_without_the_forms(monkeypatch):
    """What a network computes, costs and sees does not depend on how a CPU computes it."""
    model = cnn.serial(
        cnn.conv(32, 3, padding="SAME"), cnn.relu, cnn.max_pool(2), cnn.conv(4096, 7), cnn.relu,
        cnn.conv(512, 1), cnn.flatten, cnn.dense(1024),
    )  # fmt: skip

    def summary():
        found = cnn.inspect.summary(model, jnp.zeros((1, 20, 24, 16)))
        return [(row.output_shape, row.macs, row.receptive_field, row.receptive_stride) for row in found.layers]

    used = summary()
    monkeypatch.setenv("JAXCNN_PLAIN", "all")
    assert summary() == used
    assert used[3] == ((1, 4, 6, 4096), 4 * 6 * 4096 * 49 * 32, 16, 2)


@needs_engine
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("relu", 1),
        ("relu6", 1),
        ("tanh", 1),
        ("sigmoid", 1),
        ("silu", 2),
        ("hard_swish", 2),
        ("gelu", 2),
        ("gelu_tanh", 2),
    ],
)
def test_what_an_activation_keeps_for_its_gradient(name: str, images: int) -> None:
    """Its result, the input of the next layer, and its own input if the derivative needs that: no third image."""

    def bytes_of(depth: int) -> int:
        def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
            for kernel in kernels:
                x = getattr(cnn, name)(ops.conv(x, kernel))
            return jnp.square(x).sum()

        kernels = [jax.ShapeDtypeStruct((1, 1, 64, 64), jnp.float32)] * depth
        x = jax.ShapeDtypeStruct((2, 32, 32, 64), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(kernels, x).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(6) - bytes_of(4) == pytest.approx(2 * images * 2 * 32 * 32 * 64 * 4, rel=0.02)
