"""This package's own passes over an image on a CPU: batch statistics and the sums of their gradient, layer
normalization, max pooling.

Statistics and gradients are compared with float64 formulas. Tolerance 1e-5 of the largest value: float32 has 6e-8, and
a gradient of a batch norm is a difference of terms some ten times as large.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn import ops
from jaxcnn.ops import cpu, maximum
from jaxcnn.ops.cpu import channels
from tests.ops.cpu.test_cpu import needs_engine

pytestmark = needs_engine

# Few and many channels, widths that are no multiple of a vector, fewer pixels than a group, one pixel, one channel.
SHAPES = [
    (4, 33, 31, 16), (3, 9, 7, 3), (2, 40, 40, 65), (70000, 1), (5, 5), (1, 40), (2, 6, 5, 4, 24), (8, 7, 7, 2048),
    (2, 14, 14, 1025), (300, 100), (4, 30, 30, 48), (2, 100, 257),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_LEAST", 0)


def image(seed: int, *shape: int, mean: float = 3) -> np.ndarray:
    """Each channel has a mean and a spread of its own."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 3, shape[-1])
    return (rng.normal(size=shape) * spread + mean * rng.normal(size=shape[-1])).astype(np.float32)


def wide(*arrays: Any) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in arrays]


# --- statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments_and_sums_are_those_of_float64(shape: tuple[int, ...], dtype: Any) -> None:
    """Numbers in bfloat16 are exact in float32, so the tolerance is the same."""
    x, y, centre = jnp.asarray(image(0, *shape), dtype), jnp.asarray(normal(1, *shape), dtype), normal(2, shape[-1])
    axes = tuple(range(len(shape) - 1))
    mean, var = jax.jit(channels.moments_p.bind)(x)
    total, product = jax.jit(channels.sums_p.bind)(y, x, centre)
    x, y, centre = wide(x, y, centre)
    close((mean, var), (x.mean(axes), x.var(axes)), 1e-6)
    # A sum of both signs cancels: it is compared with the sum of the terms' sizes.
    for found, terms in ((total, y), (product, y * (x - centre))):
        assert np.all(np.abs(found - terms.sum(axes)) <= 1e-6 * np.abs(terms).sum(axes) + 1e-30)


@pytest.mark.parametrize("mean", [1e3, 1e5])
def test_the_variance_of_numbers_far_from_zero(mean: float) -> None:
    """E[x^2] - E[x]^2 would lose all digits: the mean is a thousand and a hundred thousand times the spread."""
    x = (normal(0, 64, 20, 20, 24) + mean).astype(np.float32)
    found = channels.moments_p.bind(jnp.asarray(x))
    close(tuple(found), (wide(x)[0].mean((0, 1, 2)), wide(x)[0].var((0, 1, 2))), 1e-5)


def test_pieces_with_different_means() -> None:
    """Pieces of the image are read apart, and their means differ more than the pixels in each."""
    x = normal(0, 40, 50, 50, 16) + np.arange(40, dtype=np.float32)[:, None, None, None]
    mean, var = channels.moments_p.bind(jnp.asarray(x))
    close((mean, var), (wide(x)[0].mean((0, 1, 2)), wide(x)[0].var((0, 1, 2))), 1e-6)


def test_numbers_that_are_not_finite() -> None:
    x = np.zeros((4, 10, 10, 3), np.float32)
    x[0, 0, 0, 1], x[1, 2, 3, 2] = np.inf, np.nan
    mean, var = channels.moments_p.bind(jnp.asarray(x))
    np.testing.assert_array_equal(np.isfinite(mean), [True, False, False])
    np.testing.assert_array_equal(var, [0, np.nan, np.nan])


@pytest.mark.parametrize("shape", [(4, 33, 31, 16), (5, 9, 7, 3), (600, 40)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_and_its_gradients_are_those_of_float64(shape: tuple[int, ...], affine: bool) -> None:
    x, weights = image(0, *shape), normal(1, *shape)
    scale, bias = (normal(2, shape[-1]), normal(3, shape[-1])) if affine else (None, None)

    def ours(x: Any, scale: Any, bias: Any) -> Any:
        assert cpu.sums_channels(x)
        y, mean, var, _ = ops.batch_norm(x, scale, bias, 1e-5)
        return (y * weights).sum() + jnp.sin(mean).sum() + jnp.sqrt(var).sum(), (y, mean, var)

    def formula(x: Any, scale: Any, bias: Any) -> Any:
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes), x.var(axes)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * (1 if scale is None else scale) + (0 if bias is None else bias)
        return (y * weights).sum() + jnp.sin(mean).sum() + jnp.sqrt(var).sum(), (y, mean, var)

    def both(f: Any, *args: Any) -> Any:
        arguments = (0, 1, 2) if affine else (0,)
        return jax.jit(jax.value_and_grad(f, arguments, has_aux=True))(*args)

    (_, aux), gradients = both(ours, x, scale, bias)
    with jax.enable_x64(True):
        (_, expected), exact = both(formula, *jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (x, scale, bias)))
        close(aux, expected, 1e-5)
        close(gradients, exact, 1e-4)  # the scale's is a sum that nearly cancels


def test_every_derivative_of_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dx = jnp.asarray(image(0, 6, 5, 7, 9)), jnp.asarray(normal(1, 6, 5, 7, 9))
    scale, weights = jnp.asarray(normal(2, 9)), jnp.asarray(normal(3, 6, 5, 7, 9))

    def found() -> Any:
        jax.clear_caches()
        norm = lambda x, scale: ops.batch_norm(x, scale, None, 1e-5)[0]  # noqa: E731
        curved = lambda x, scale: jnp.sum(weights * norm(x, scale) ** 3)  # noqa: E731
        gradient = jax.grad(curved, (0, 1))
        return (
            jax.jvp(norm, (x, scale), (dx, scale)),
            jax.jit(lambda *at: jax.jvp(gradient, at, (dx, scale)))(x, scale),
            jax.grad(lambda *at: sum(jnp.sum(g**2) for g in gradient(*at)), (0, 1))(x, scale),
            jax.vmap(jax.grad(curved), (0, None))(jnp.stack([x, 2 * x]), scale),
            jax.grad(jax.checkpoint(curved))(x, scale),
        )

    ours = found()
    assert "jaxcnn_sums" in str(jax.make_jaxpr(jax.grad(lambda x: ops.batch_norm(x, None, None, 1e-5)[0].sum()))(x))
    monkeypatch.setenv("JAXCNN_PLAIN", "sums")
    close(ours, found(), 3e-5)


@pytest.mark.parametrize("shape", [(4, 33, 31, 16), (5, 9, 7, 3)], ids=str)
def test_batch_norm_of_bfloat16_is_float32s_but_for_rounding(shape: tuple[int, ...]) -> None:
    """Its result, and the gradient for x, are rounded once: 2^-8 of each number. Those of vectors are sums in float32
    of numbers that were rounded."""
    x, weights = (jnp.asarray(a, jnp.bfloat16) for a in (image(0, *shape), normal(1, *shape)))
    scale, bias = normal(2, shape[-1]), normal(3, shape[-1])

    def loss(x: Any, scale: Any, bias: Any) -> Any:
        y, mean, var, _ = ops.batch_norm(x, scale, bias, 1e-5)
        assert y.dtype == x.dtype
        assert mean.dtype == var.dtype == jnp.float32
        return (y.astype(jnp.float32) * weights.astype(jnp.float32)).sum() + jnp.sin(mean).sum(), (y, mean, var)

    assert cpu.sums_channels(x)
    run = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    (_, (y, mean, var)), (dx, *vectors) = jax.jit(run)(x, scale, bias)
    (_, (exact, *moments)), (slope, *others) = run(x.astype(jnp.float32), scale, bias)
    assert dx.dtype == x.dtype
    for found, expected in ((y, exact), (dx, slope)):
        error = jnp.abs(found.astype(jnp.float32) - expected)
        assert (error <= 2.0**-8 * jnp.abs(expected) + 1e-5 * jnp.abs(expected).max()).all()
    close(((mean, var), vectors), (tuple(moments), others), 1e-5)
    _, tangent = jax.jvp(lambda x: ops.batch_norm(x, scale, bias, 1e-5)[0], (x,), (weights,))
    _, expected = jax.jvp(
        lambda x: ops.batch_norm(x, scale, bias, 1e-5)[0],
        (x.astype(jnp.float32),), (weights.astype(jnp.float32),),
    )  # fmt: skip
    close(tangent.astype(jnp.float32), expected, 2.0**-7)  # a sum of two rounded numbers


def test_statistics_that_devices_share() -> None:
    """`axis_name`: the mean and variance over all parts, from those of each."""
    x = jnp.asarray(image(0, 4, 6, 10, 8))
    parts = jax.vmap(lambda x: ops.batch_statistics(x, (0, 1), "parts")[:2], axis_name="parts")(x)
    whole = ops.batch_statistics(x, (0, 1, 2))[:2]
    close(jax.tree.map(lambda a: a[3], parts), whole, 1e-6)


# --- layer normalization -----------------------------------------------------------------------------------------

ROWS = [(4, 33, 31, 16), (30, 90, 3), (2, 40, 40, 65), (5, 4), (40, 1025), (8, 7, 7, 768), (600, 100)]


def normalized(x: jax.Array, scale: Any, bias: Any) -> jax.Array:
    """The formula."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-3) * scale + bias


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_layer_norm_and_its_derivatives_are_those_of_float64(shape: tuple[int, ...], dtype: Any) -> None:
    """In bfloat16 the results are rounded once, to 8 bits; the sums of the gradients are float32's."""
    x, dy = (jnp.asarray(a, dtype) for a in (image(0, *shape), normal(1, *shape)))
    scale, bias = jnp.asarray(normal(2, shape[-1])), jnp.asarray(normal(3, shape[-1]))

    def derivatives(function: Any, *args: Any) -> Any:
        y, back = jax.vjp(function, *args[:3])
        return y, back(args[3]), jax.jvp(function, args[:3], (args[3], *args[1:3]))[1]

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        assert cpu.normalizes(x)
        return ops.layer_norm(x, scale, bias, 1e-3)

    y, (dx, *sums), tangent = jax.jit(lambda *args: derivatives(ours, *args))(x, scale, bias, dy)
    with jax.enable_x64(True):
        expected = derivatives(normalized, *map(jnp.asarray, wide(x, scale, bias, dy)))
        (want_y, (want_dx, *want_sums), want_tangent) = jax.tree.map(np.asarray, expected)
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
    close(wide(y, dx, tangent), [want_y, want_dx, want_tangent], tolerance)
    close(wide(*sums), want_sums)
    assert y.dtype == dx.dtype == tangent.dtype == dtype


@pytest.mark.parametrize(("scale", "bias"), [(True, False), (False, True), (False, False)])
def test_layer_norm_without_scale_or_bias(scale: bool, bias: bool) -> None:
    layer = cnn.layer_norm(1e-3, scale=scale, bias=bias)
    x = jnp.asarray(image(0, 5, 6, 24))
    params, state = layer.init(jax.random.key(0), x)
    assert "jaxcnn_layer_norm" in str(jax.make_jaxpr(lambda x: layer.apply(params, state, x))(x))
    close(layer.apply(params, state, x)[0], normalized(x, 1, 0))


def test_second_derivatives_and_vmap_of_layer_norm() -> None:
    """Of three times the values of one example, and of scales of their own."""
    x, scale, bias = jnp.asarray(image(0, 3, 4, 24)), jnp.asarray(normal(1, 24)), jnp.asarray(normal(2, 24))

    def energy(function: Any) -> Any:
        return lambda x, s, b: (jnp.sin(function(x, s, b)) * x).sum()

    def hessian(function: Any) -> Any:
        gradient = jax.grad(energy(function), (0, 1, 2))
        forward = jax.jvp(gradient, (x, scale, bias), (2 * x, bias, scale))[1]
        back = jax.grad(lambda *args: sum(jnp.square(g).sum() for g in gradient(*args)), (0, 1, 2))(x, scale, bias)
        return forward, back

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return ops.layer_norm(x, scale, bias, 1e-3)

    close(jax.jit(lambda: hessian(ours))(), jax.jit(lambda: hessian(normalized))(), 1e-4)  # cancels twice
    several = jnp.stack([scale, bias, scale + 1])
    for axes in ((0, None, None), (0, 0, 0), (None, 0, None)):
        args = [a if d is None else b for d, a, b in zip(axes, (x[0], scale, bias), (x, several, several), strict=True)]
        for function in (ours, jax.grad(energy(ours), (0, 1, 2))):
            reference = normalized if function is ours else jax.grad(energy(normalized), (0, 1, 2))
            close(jax.jit(jax.vmap(function, axes))(*args), jax.vmap(reference, axes)(*args), 1e-4)
    linear = jax.linear_transpose(lambda dy: jax.vjp(ours, x, scale, bias)[1](dy), x)
    close(linear((x, scale, bias))[0], jax.jvp(normalized, (x, scale, bias), (x, scale, bias))[1], 1e-5)


def test_layer_norm_twice_has_the_same_bits() -> None:
    x = jnp.asarray(image(0, 16, 56, 56, 96))
    run = jax.jit(lambda x: jax.vjp(lambda *a: ops.layer_norm(*a, 1e-6), x, x[0, 0, 0], x[1, 0, 0])[1](x))
    same(run(x), run(x))


# --- max pooling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_max_pooling_is_what_xla_computes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values to the last bit, with ties and NaN; gradients to the rounding of a sum of a few numbers."""
    rng = np.random.default_rng(seed)
    ndim = seed % 3 + 1
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high, ndim))  # noqa: E731
    window, strides = draw(1, 4), draw(1, 4)
    edges = tuple((int(rng.integers(0, f + 1)), int(rng.integers(0, f + 1))) for f in window)
    sizes = tuple(f + w for f, w in zip(window, draw(0, 9), strict=True))
    x = np.round(rng.normal(size=(2, *sizes, int(rng.integers(16, 50))))).astype(np.float32)
    x[0].flat[0], x[1].flat[-1], x[1].flat[3] = np.nan, np.inf, -np.inf
    windows = {"window": window, "strides": strides, "edges": edges}
    monkeypatch.setattr(cpu, "pools", lambda *_: True)
    y, chosen = jax.jit(lambda x: maximum.largest_p.bind(x, **windows))(x)
    expected = maximum._largest(x, window, strides, edges)
    same([y, chosen], expected)
    same(jax.jit(lambda x: ops.max_pool(x, window, strides, edges))(x), y)
    ct = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    put = jax.jit(lambda ct, chosen: maximum.put_p.bind(ct, chosen, size=sizes, **windows))(ct, chosen)
    close(put, maximum._put(ct, chosen, size=sizes, **windows), 1e-6)


def test_the_same_bits_with_any_number_of_threads() -> None:
    """The parts of a sum depend on the image's shape, not on the threads."""
    code = (
        "import numpy as np, jax, hashlib; from jaxcnn.ops.cpu import channels, rows; from jaxcnn.ops import maximum\n"
        "x = jax.numpy.asarray(np.random.default_rng(0).normal(size=(8, 30, 31, 40)), np.float32)\n"
        "pool = dict(window=(3, 3), strides=(2, 2), edges=((0, 0), (0, 0)))\n"
        "y, chosen = maximum.largest_p.bind(x, **pool); back = maximum.put_p.bind(y, chosen, size=(30, 31), **pool)\n"
        "norm = rows.gradient_p.bind(x, 2 * x, x[0, 0, 0], eps=1e-3)\n"
        "out = [*channels.moments_p.bind(x), *channels.sums_p.bind(x, 2 * x, x[0, 0, 0]), y, chosen, back, *norm]\n"
        "print(hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in out)).hexdigest())\n"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": n}, check=True, capture_output=True
        ).stdout
        for n in ("1", "2", "3")
    }
    assert len(results) == 1


def test_which_images_are_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    x, three, one = jnp.ones((2, 20, 20, 32)), (3, 3), (1, 1)
    assert cpu.sums_channels(x)
    assert cpu.pools(x, three, one)
    assert not cpu.pools(x, three, three), "windows that do not overlap"
    assert not cpu.pools(x[..., :24], three, one), "few channels"
    assert cpu.sums_channels(x.astype(jnp.bfloat16))
    assert cpu.normalizes(x.astype(jnp.bfloat16))
    assert not cpu.pools(x.astype(jnp.bfloat16), three, one)
    assert not any(cpu.sums_channels(a) or cpu.pools(a, three, one) for a in (x.astype(jnp.float16), x[:0]))
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not cpu.sums_channels(x)
    assert not cpu.normalizes(x)
    assert not cpu.pools(x, three, one)
    monkeypatch.undo()
    assert not cpu.sums_channels(x[:1, :2]), "smaller than 16,384 numbers"
    assert not cpu.normalizes(x[:1, :2])


def test_a_network_trains_alike_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn.serial(
        cnn.conv(32, 3), cnn.batch_norm(), cnn.relu, cnn.max_pool(3, 2, padding=1), cnn.conv(32, 3), cnn.batch_norm(),
        cnn.layer_norm(), cnn.gelu, cnn.max_pool(2), cnn.global_avg_pool, cnn.dense(3),
    )  # fmt: skip
    x, labels = jnp.asarray(normal(0, 8, 20, 20, 3)), jnp.arange(8) % 3
    params, state = model.init(jax.random.key(0), x)

    def loss(params: Any) -> Any:
        logits, new = model.apply(params, state, x, train=True)
        return cnn.losses.softmax_cross_entropy(logits, labels).mean(), new

    def found() -> Any:
        jax.clear_caches()
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ours = found()
    monkeypatch.setenv("JAXCNN_PLAIN", "sums,maximum")
    close(ours, found(), 1e-4)
