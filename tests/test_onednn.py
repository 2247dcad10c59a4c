"""oneDNN's convolution equals XLA's, under every transformation; and its absence costs speed only.

Tolerance 1e-5 of the largest value: both are float32 sums of up to a thousand products, in another order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.random import default_rng

import jaxcnn as cnn
from jaxcnn.ops import onednn

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN's convolution is not used on this platform")


def close(a: Any, b: Any) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.abs(y).max()) + 1e-6), a, b
    )


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(default_rng(seed).standard_normal(shape), jnp.float32)


def a_case(seed: int) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Arrays and settings of a random convolution, small and odd ones among them."""
    rng = default_rng(seed)
    strides = tuple(int(v) for v in rng.choice([1, 1, 2, 3], 2))
    dilation = tuple(int(v) for v in rng.choice([1, 1, 2], 2))
    size = tuple(int(v) for v in rng.choice([1, 2, 3, 5], 2))
    pads = tuple(tuple(int(v) for v in rng.integers(0, 4, 2)) for _ in range(2))
    least = [max(1, d * (f - 1) + 1 - sum(p)) for d, f, p in zip(dilation, size, pads, strict=True)]
    height, width = (int(rng.integers(low, 15)) for low in least)
    n, c, k = (int(rng.choice(options)) for options in ([1, 2, 5], [1, 3, 8], [1, 4, 16]))
    settings = {"strides": strides, "pads": pads, "dilation": dilation}
    return normal(seed, n, height, width, c), normal(seed + 1, *size, c, k), settings


@needs_onednn
@pytest.mark.parametrize("seed", range(0, 48, 2))
def test_values_and_gradients_are_xlas(seed: int) -> None:
    x, kernel, settings = a_case(seed)
    assert onednn.suits(x, kernel, **settings)
    ours, theirs = (jax.jit(partial(f, **settings)) for f in (onednn.conv, onednn._plain))
    y, back = jax.vjp(ours, x, kernel)
    expected, expected_back = jax.vjp(theirs, x, kernel)
    close(y, expected)
    ct = normal(seed + 2, *y.shape)
    close(back(ct), expected_back(ct))


@needs_onednn
@pytest.mark.parametrize("seed", [0, 6, 14])
def test_forward_mode_and_second_derivatives(seed: int) -> None:
    x, kernel, settings = a_case(seed)
    dx, dk = normal(seed + 3, *x.shape), normal(seed + 4, *kernel.shape)

    def both(f: Any) -> Any:
        f = partial(f, **settings)

        def penalty(x: jax.Array, kernel: jax.Array) -> jax.Array:
            gradient = jax.grad(lambda x, k: jnp.sum(jnp.tanh(f(x, k))), argnums=(0, 1))(x, kernel)
            return sum(jnp.sum(g**2) for g in gradient)

        return jax.jvp(f, (x, kernel), (dx, dk)), jax.grad(penalty, argnums=(0, 1))(x, kernel)

    close(both(onednn.conv), both(onednn._plain))


@needs_onednn
@pytest.mark.parametrize(
    ("in_axes", "networks"), [((0, None), 3), ((None, 0), 3), ((0, 0), 3), ((0, 0), 17), ((3, 1), 2)]
)
def test_vmap(in_axes: tuple[int | None, int | None], networks: int) -> None:
    x, kernel = normal(0, 2, 7, 6, 3), normal(1, 3, 3, 3, 4)
    if in_axes[0] is not None:
        x = jnp.moveaxis(normal(0, networks, *x.shape), 0, in_axes[0])
    if in_axes[1] is not None:
        kernel = jnp.moveaxis(normal(1, networks, *kernel.shape), 0, in_axes[1])
    settings = {"strides": (2, 1), "pads": ((1, 1), (0, 2)), "dilation": (1, 1)}

    def both(f: Any) -> Any:
        mapped = jax.vmap(partial(f, **settings), in_axes)
        return mapped(x, kernel), jax.grad(lambda x, k: jnp.sum(jnp.sin(mapped(x, k))), (0, 1))(x, kernel)

    close(both(onednn.conv), both(onednn._plain))


@needs_onednn
def test_remat_and_scan() -> None:
    kernel = normal(1, 3, 3, 4, 4) / 6
    settings = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilation": (1, 1)}

    def both(f: Any) -> Any:
        step = jax.checkpoint(lambda x, k: jnp.tanh(f(x, k, **settings)))

        def steps(kernel: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda x, _: (step(x, kernel), None), normal(0, 2, 8, 8, 4), length=3)[0].sum()

        return jax.jit(jax.value_and_grad(steps))(kernel)

    close(both(onednn.conv), both(onednn._plain))


def primitives(function: Any, *args: Any) -> set[str]:
    # A new function each time: JAX remembers what it traced.
    return {eqn.primitive.name for eqn in jax.make_jaxpr(lambda *a: function(*a))(*args).eqns}


@needs_onednn
def test_where_it_is_used_and_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = normal(0, 2, 8, 8, 4), normal(1, 3, 3, 4, 8)
    own = onednn.conv_p.name
    assert own in primitives(cnn.ops.conv, x, kernel)
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    assert (own in primitives(cnn.ops.conv, *half)) == onednn.computes("bfloat16")
    assert own not in primitives(cnn.ops.conv, x.astype(jnp.float16), kernel.astype(jnp.float16))
    assert own in primitives(cnn.ops.conv, x[:, 0], kernel[0])
    assert own in primitives(partial(cnn.ops.conv, groups=2), x, kernel[:, :, :2])
    with monkeypatch.context() as patch:
        patch.setenv("JAXCNN_ONEDNN", "0")
        assert own not in primitives(cnn.ops.conv, x, kernel)
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "CHECKED", frozenset({"0.0.1"}))
        assert own not in primitives(cnn.ops.conv, x, kernel)


def test_a_filter_larger_than_the_image_is_an_error_in_python() -> None:
    """oneDNN would end the process. The layer says it; below the layers, XLA does."""
    layer = cnn.conv(2, 5)
    params, state = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(cnn.LayerError, match="5x5 filter"):
        layer.apply(params, state, jnp.zeros((1, 3, 3, 1)))
    x, kernel = jnp.zeros((1, 3, 3, 1)), jnp.zeros((5, 5, 1, 2))
    assert not onednn.suits(x, kernel, (1, 1), ((0, 0), (0, 0)), (1, 1))
    assert not onednn.suits(x, jnp.zeros((3, 3, 2, 2)), (1, 1), ((0, 0), (0, 0)), (1, 1))


@needs_onednn
def test_what_onednn_computes_wrongly_is_left_to_xla() -> None:
    """One channel, a stride along the width only, one column left: some of its rows were never written."""
    for k, stride in ((1, 2), (16, 3)):
        x, kernel = normal(0, 2, 6, 3, 1), normal(1, 5, 5, 1, k)
        settings = {"strides": (1, stride), "pads": ((0, 1), (0, 2)), "dilation": (1, 1)}
        close(jax.jit(partial(onednn.conv, **settings))(x, kernel), onednn._plain(x, kernel, **settings))


def test_a_network_trains_alike_with_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same LeNet-5 gives the same loss and gradients with and without."""
    model, x = cnn.models.lenet5(), normal(0, 4, 32, 32, 1)
    params, state = model.init(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(model.apply(params, state, x)[0], jnp.arange(4)).mean()

    ours = jax.value_and_grad(loss)(params)
    monkeypatch.setenv("JAXCNN_ONEDNN", "0")
    close(ours, jax.value_and_grad(loss)(params))


PARALLEL = """
import jax, jax.numpy as jnp, numpy as np, jaxcnn as cnn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, k = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((4, 8, 8, 3), (3, 3, 3, 4)))
loss = lambda k, x: (cnn.ops.conv(x, k) ** 2).mean()
expected = jax.grad(loss)(k, x)
shared = jax.jit(jax.grad(loss))(k, jax.device_put(x, NamedSharding(mesh, P("d"))))
mean = lambda k, x: jax.lax.pmean(loss(k, x), "d")
mapped = jax.shard_map(jax.grad(mean), mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
np.testing.assert_allclose(shared, expected, atol=1e-5)
np.testing.assert_allclose(jax.jit(mapped)(k, x), expected, atol=1e-5)
"""


def test_on_several_devices() -> None:
    """Under `jit` with a sharded batch, and under `shard_map` with its checks on: needs a process with two devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


CACHED = """
import os, warnings, jax, jax.numpy as jnp, jaxcnn as cnn
warnings.simplefilter("error")
from jaxcnn.ops import product
x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
called = jax.jit(lambda x, k: cnn.ops.conv(x, k)).lower(x, k), jax.jit(
    lambda x, k: product.matmul_p.bind(x, k, transposed=False)).lower(x[0, 0], k[0, 0])
for name, one in zip(("convolution", "matmul"), called, strict=True):
    assert f"__onednn${name}" in one.as_text()
before = set(os.listdir(os.environ["JAX_COMPILATION_CACHE_DIR"]))
for one in called:
    one.compile()
assert set(os.listdir(os.environ["JAX_COMPILATION_CACHE_DIR"])) == before
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((3, 3)))
print(len(set(os.listdir(os.environ["JAX_COMPILATION_CACHE_DIR"])) - before))
"""


@needs_onednn
def test_the_compilation_cache_passes_over_it_without_a_word(tmp_path: Path) -> None:
    """XLA would try to write it down, and now and then crash."""
    environment = {
        **os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
