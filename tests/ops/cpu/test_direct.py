"""This package's own convolutions of few channels on a CPU, beside float64 and beside oneDNN.

Tolerance 3e-6 of the root mean square of the exact result for the root mean square of the error: of 1,000 random cases,
the worst had 8e-7. A wrong tap or a wrong pixel at an edge gives 1e-2 or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import error, exact
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn import ops
from jaxcnn.ops.cpu import library
from tests.ops.cpu.own import KINDS, any_number_of_threads, code, is_the_convolution, run
from tests.ops.cpu.test_cpu import needs_engine

pytestmark = needs_engine


def case(
    kind: str, batch: int, sizes: tuple[int, int], channels: int, filters: int, window: tuple[int, int],
    strides: tuple[int, int] = (1, 1), pads: Any = ((0, 0), (0, 0)), swapped: bool = False,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    """The two operands, and the parameters of the primitive."""
    params = {"kind": kind, "sizes": {"output": (), "input": sizes, "kernel": window}[kind], "strides": strides,
              "pads": pads, "dilation": (1, 1), "groups": 1, "swapped": swapped}  # fmt: skip
    outs = [(n + sum(p) - f) // s + 1 for n, f, s, p in zip(sizes, window, strides, pads, strict=True)]
    x, y = normal(0, batch, *sizes, channels), normal(1, batch, *outs, filters)
    kernel = normal(2, *window, *((filters, channels) if swapped else (channels, filters)))
    a, b = {"output": (x, kernel), "input": (y, kernel), "kernel": (x, y)}[kind]
    return a, b, params


# LeNet-5's two layers; strides; each padding; windows of one row, of one column, of one pixel; results of one pixel;
# channels for each width of a product (8, 16, 32, 48, 64); one image, which is divided among the threads.
CASES: dict[str, list[Any]] = {
    "output": [
        (8, (32, 32), 1, 6, (5, 5)),
        (8, (14, 14), 6, 16, (5, 5)),
        (1, (23, 17), 3, 8, (3, 3), (1, 1), ((1, 1), (1, 1))),
        (2, (30, 29), 5, 20, (7, 4), (2, 3), ((3, 0), (1, 2))),
        (2, (9, 40), 7, 64, (1, 5), (1, 2), ((0, 0), (4, 4))),
        (3, (12, 9), 6, 40, (3, 1), (3, 1), ((2, 1), (0, 0))),
        (2, (16, 11), 100, 1, (1, 1), (2, 2)),
        (4, (5, 5), 2, 7, (5, 5)),
    ],
    "kernel": [
        (8, (32, 32), 1, 6, (5, 5)),
        (8, (14, 14), 6, 16, (5, 5)),
        (1, (23, 17), 3, 8, (3, 3), (1, 1), ((1, 1), (1, 1))),
        (5, (13, 31), 1, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
        (2, (30, 29), 40, 7, (7, 4), (2, 3), ((3, 0), (1, 2))),
        (2, (16, 40), 100, 1, (1, 1), (2, 2)),
        (3, (20, 9), 33, 5, (1, 5), (3, 1), ((0, 0), (2, 4))),
    ],
    "input": [
        (8, (14, 14), 6, 16, (5, 5)),
        (8, (32, 32), 1, 6, (5, 5)),
        (16, (33, 20), 3, 64, (4, 4), (2, 2), ((1, 1), (1, 1))),
        (16, (30, 29), 4, 20, (7, 30), (2, 3), ((3, 0), (15, 12))),
        (16, (9, 40), 7, 12, (1, 9), (1, 2), ((0, 0), (4, 4))),
        (16, (12, 9), 2, 40, (3, 1), (3, 1), ((2, 1), (0, 0))),
        (16, (28, 28), 3, 9, (3, 3), (1, 1), ((1, 1), (1, 1))),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments"), [(k, a) for k, cases in CASES.items() for a in cases], ids=str)
def test_it_is_the_convolution(kind: str, arguments: Any) -> None:
    for swapped in (False, True):
        *operands, params = case(kind, *arguments, swapped=swapped)
        is_the_convolution(*operands, params, "direct")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = 0
    while found < 40:
        kind = KINDS[rng.integers(3)]
        batch, height, width, channels, filters = (int(n) for n in rng.integers(1, (20, 24, 40, 9, 65)))
        if kind != "input" and rng.integers(3):
            channels, filters = filters, min(channels, 8)
        window: Any = tuple(int(n) for n in rng.integers(1, 8, 2))
        strides: Any = tuple(int(n) for n in rng.integers(1, 4, 2))
        pads: Any = tuple(tuple(int(n) for n in rng.integers(0, f, 2)) for f in window)
        if any(n + sum(p) < f for n, f, p in zip((height, width), window, pads, strict=True)):
            continue
        swapped = bool(rng.integers(2))
        *operands, params = case(kind, batch, (height, width), channels, filters, window, strides, pads, swapped)
        if code(*operands, params, direct=True) == "direct":
            found += 1
            assert error(run(*operands, params), exact(*operands, params)) < 3e-6


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("output", (8, (28, 28), 16, 16, (3, 3))),  # whole registers
        ("output", (8, (28, 28), 3, 32, (3, 3))),
        ("kernel", (8, (28, 28), 8, 32, (3, 3))),
        ("kernel", (8, (9, 1), 3, 3, (3, 1))),  # rows of three numbers
        ("input", (8, (28, 28), 8, 16, (3, 3))),
        ("input", (8, (28, 28), 2, 2, (3, 3))),  # few sums
        ("input", (8, (28, 28), 6, 12, (1, 1))),
        ("input", (1, (28, 28), 1, 6, (5, 5))),  # fewer images than threads
    ],
    ids=str,
)
def test_where_onednn_is_faster_it_is_used(kind: str, arguments: Any) -> None:
    *operands, params = case(kind, *arguments)
    if kind == "input" and arguments[0] == 1 and library.threads() == 1:
        pytest.skip("there is one thread")
    assert code(*operands, params, direct=True) not in ("direct", "")
    assert error(run(*operands, params), exact(*operands, params)) < 3e-6


@pytest.mark.parametrize("other", [{"dilation": (2, 2)}, {"groups": 2}], ids=str)
def test_other_windows_are_left_to_onednn(other: dict[str, Any]) -> None:
    x, kernel, params = case("output", 4, (16, 16), 4, 8, (3, 3))
    params |= other
    assert code(x, kernel[:, :, : 4 // params["groups"]], params, direct=True) not in ("direct", "")


def test_bfloat16_is_left_to_onednn() -> None:
    x, kernel, params = case("output", 4, (16, 16), 1, 6, (5, 5))
    assert code(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), params, direct=True) not in ("direct", "")


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    *operands, params = case("input", 8, (14, 14), 6, 16, (5, 5))
    ours = run(*operands, params)
    monkeypatch.setenv("JAXCNN_PLAIN", "direct")
    onednn = run(*operands, params)
    assert (ours != onednn).any(), "the sums are in another order"
    close(ours, onednn)


@pytest.mark.parametrize("filters", [6, 8])
@pytest.mark.parametrize("activation", [None, ops.relu, ops.tanh, ops.silu])
def test_bias_and_activation_in_inference(filters: int, activation: Any) -> None:
    """ReLU and tanh are computed while a row is in the cache; for SiLU, oneDNN computes all of it."""
    x, kernel, params = case("output", 3, (19, 23), 3, filters, (5, 5), (1, 1), ((2, 2), (2, 2)))
    bias = jnp.asarray(normal(3, filters))

    def network(x: jax.Array) -> jax.Array:
        y = ops.conv(x, kernel, padding=2) + bias
        return y if activation is None else activation(y)

    fused = ops.fuse(network)
    assert "conv_fused" in str(jax.make_jaxpr(fused)(x))
    y = exact(x, kernel, params) + np.asarray(bias, np.float64)
    apply = {None: lambda y: y, ops.relu: lambda y: np.maximum(y, 0), ops.tanh: np.tanh,
             ops.silu: lambda y: y / (1 + np.exp(-y))}  # fmt: skip
    assert error(np.asarray(jax.jit(fused)(jnp.asarray(x))), apply[activation](y)) < 3e-6


def test_tanh() -> None:
    """At most 3 units in the last place off, for numbers of every size; odd; NaN of NaN."""
    rng = np.random.default_rng(0)
    some = rng.uniform(1, 10, 4000) * 10.0 ** rng.integers(-37, 3, 4000)  # XLA makes 0 of smaller ones
    edges = [0.0, -0.0, 9.0, -9.0, 20.0, 1e38, np.inf, -np.inf, np.nan, *np.linspace(-10, 10, 2000)]
    values = np.concatenate([some, edges]).astype(np.float32)
    kernel = jnp.ones((1, 1, 1, 1), jnp.float32)
    function = jax.jit(ops.fuse(lambda x: ops.tanh(ops.conv(x, kernel))))
    found = np.asarray(function(jnp.asarray(values).reshape(1, 1, -1, 1)))[0, 0, :, 0]
    expected = np.tanh(values.astype(np.float64))
    assert np.isnan(found[np.isnan(values)]).all()
    number = ~np.isnan(values)
    units = np.spacing(np.abs(expected[number]).astype(np.float32)).astype(np.float64)
    assert (np.abs(found[number] - expected[number]) / units).max() < 3
    same(np.asarray(function(jnp.asarray(-values).reshape(1, 1, -1, 1)))[0, 0, number, 0], -found[number])


def test_an_infinite_number_stays_in_its_windows() -> None:
    """Of numbers that are left over in a register, none is added to a neighbour."""
    y, kernel, params = case("input", 8, (14, 14), 6, 16, (5, 5))
    y[3, 4, 5, 6] = np.inf
    assert code(y, kernel, params, direct=True) == "direct"
    reached = np.zeros((8, 14, 14), bool)
    reached[3, 4:9, 5:10] = True
    same(~np.isfinite(run(y, kernel, params)).all(-1), reached)


def test_second_derivatives_of_lenet5(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a squared gradient, beside oneDNN's, in float32: 1e-4, as in test_forms.py."""
    model = cnn.models.lenet5()
    x = jnp.asarray(normal(0, 4, 32, 32, 1))
    params, state = model.init(jax.random.key(0), x)

    def slope(params: Any) -> jax.Array:
        inner = jax.grad(lambda p: jnp.square(model.apply(p, state, x)[0]).sum())(params)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(inner))

    ours = jax.jit(jax.grad(slope))(params)
    monkeypatch.setenv("JAXCNN_PLAIN", "direct")
    close(ours, jax.jit(jax.grad(lambda p: slope(p)))(params), 1e-4)


_THREADS = """
import sys
import jax, numpy as np
from jaxcnn import ops
shapes = (8, 19, 21, 1), (5, 5, 1, 6), (5, 5, 6, 16)
x, g, h = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in shapes)
y, back = jax.vjp(lambda x, g, h: ops.conv(ops.conv(x, g), h), x, g, h)
np.savez(sys.argv[1], y, *back(y))
"""


def test_any_number_of_threads(tmp_path: Path) -> None:
    any_number_of_threads(_THREADS, tmp_path, (1, 2, 3, 7), images=2)
