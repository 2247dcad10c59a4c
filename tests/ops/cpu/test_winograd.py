"""Winograd's algorithm for 3x3 and 5x5 convolutions on a CPU, beside float64 and beside oneDNN.

Tolerance 3e-6 of the root mean square of the exact result for the root mean square of the error: of 200 random cases,
the worst had 8e-7, oneDNN's sums of products 8e-7. A wrong tap or a wrong pixel at an edge gives 1e-2 or more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import error, exact
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn import ops
from tests.ops.cpu.own import KINDS, any_number_of_threads, code, is_the_convolution, run
from tests.ops.cpu.test_cpu import needs_engine

pytestmark = needs_engine

Pads = tuple[tuple[int, int], tuple[int, int]]


def settings(kind: str, sizes: tuple[int, int], pads: Pads, swapped: bool = False, size: int = 3) -> dict[str, Any]:
    given = {"output": (), "input": sizes, "kernel": (size, size)}[kind]
    return {"kind": kind, "sizes": given, "strides": (1, 1),
            "pads": pads, "dilation": (1, 1), "groups": 1, "swapped": swapped}  # fmt: skip


def case(
    kind: str, batch: int, sizes: tuple[int, int], channels: int, filters: int, pads: Pads, swapped: bool = False,
    size: int = 3,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The two operands."""
    height, width = (n + sum(edge) - size + 1 for n, edge in zip(sizes, pads, strict=True))
    x, y = normal(0, batch, *sizes, channels), normal(1, batch, height, width, filters)
    kernel = normal(2, size, size, *((filters, channels) if swapped else (channels, filters)))
    return {"output": (x, kernel), "input": (y, kernel), "kernel": (x, y)}[kind]


# Images of odd sizes, of one row of tiles, with more tiles than are computed at a time, with fewer tiles than channels;
# all paddings; channels for each width of a product (16, 32, 48, 64 and more).
CASES: list[tuple[int, tuple[int, int], int, int, Pads]] = [
    (2, (14, 14), 32, 64, ((1, 1), (1, 1))),
    (3, (9, 17), 32, 48, ((0, 2), (1, 0))),
    (1, (40, 4), 64, 80, ((2, 2), (2, 1))),
    (8, (13, 11), 48, 32, ((0, 0), (0, 0))),
    (1, (12, 12), 176, 144, ((1, 1), (1, 1))),
    (16, (7, 5), 128, 160, ((1, 1), (2, 2))),
    (40, (8, 8), 16, 64, ((1, 0), (0, 1))),
    (2, (33, 30), 64, 16, ((2, 0), (1, 1))),
]
# As above; in the last two, an image's tiles are fewer than its results' channels, which the threads then divide.
CASES_5X5: list[tuple[int, tuple[int, int], int, int, Pads]] = [
    (8, (14, 14), 32, 96, ((2, 2), (2, 2))),
    (3, (33, 20), 64, 48, ((0, 4), (1, 3))),
    (2, (27, 29), 64, 80, ((4, 0), (2, 4))),
    (12, (13, 17), 48, 128, ((0, 0), (0, 0))),
    (8, (14, 14), 16, 400, ((2, 2), (2, 2))),
    (8, (14, 14), 400, 16, ((2, 2), (2, 2))),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "arguments"), [*((3, case) for case in CASES), *((5, case) for case in CASES_5X5)], ids=str
)
def test_winograd_is_the_convolution(size: int, arguments: Any, kind: str) -> None:
    _, sizes, _, _, pads = arguments
    for swapped in (False, True):
        params = settings(kind, sizes, pads, swapped, size)
        is_the_convolution(*case(kind, *arguments, swapped, size), params, "winograd")


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_random_convolutions(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        batch, *sizes = (int(n) for n in rng.integers((1, size, size), (9, 27, 27)))
        channels, filters = (16 * int(n) for n in rng.integers(1, 15, 2))
        pads: Any = tuple(tuple(int(n) for n in edge) for edge in rng.integers(0, size, (2, 2)))
        swapped = bool(rng.integers(2))
        for kind in KINDS:
            params = settings(kind, (sizes[0], sizes[1]), pads, swapped, size)
            operands = case(kind, batch, (sizes[0], sizes[1]), channels, filters, pads, swapped, size)
            assert error(run(*operands, params), exact(*operands, params)) < 3e-6


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("output", (1, (64, 64), 3, 64, ((1, 1), (1, 1)))),  # channels that are no multiple of 16
        ("output", (8, (32, 32), 16, 16, ((1, 1), (1, 1)))),  # few channels
        ("output", (1, (6, 6), 64, 64, ((1, 1), (1, 1)))),  # few tiles
        ("output", (90, (1, 9), 64, 64, ((1, 1), (1, 1)))),  # tiles that are half outside
        ("kernel", (1, (7, 7), 512, 512, ((1, 1), (1, 1)))),
        ("output", (8, (7, 7), 48, 128, ((2, 2), (2, 2)), False, 5)),
        ("input", (8, (28, 28), 16, 32, ((2, 2), (2, 2)), False, 5)),
        ("output", (8, (28, 28), 32, 32, ((2, 2), (2, 2)), False, 4)),
    ],
    ids=str,
)  # fmt: skip
def test_where_onednn_is_faster_it_is_used(kind: str, arguments: Any) -> None:
    params = settings(kind, arguments[1], *arguments[4:])
    operands = case(kind, *arguments)
    assert code(*operands, params, winograd=True) not in ("winograd", "")
    assert error(run(*operands, params), exact(*operands, params)) < 3e-6


@pytest.mark.parametrize("other", [{"strides": (2, 2)}, {"dilation": (2, 2)}, {"groups": 2}], ids=str)
def test_other_windows_are_left_to_onednn(other: dict[str, Any]) -> None:
    params = settings("output", (16, 16), ((1, 1), (1, 1))) | other
    x, kernel = case("output", 4, (16, 16), 64, 64, ((1, 1), (1, 1)))
    assert code(x, kernel[:, :, : 64 // params["groups"]], params, winograd=True) not in ("winograd", "")


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    params = settings("output", (16, 16), ((1, 1), (1, 1)))
    operands = case("output", 4, (16, 16), 64, 64, ((1, 1), (1, 1)))
    ours = run(*operands, params)
    monkeypatch.setenv("JAXCNN_PLAIN", "winograd")
    onednn = run(*operands, params)
    assert (ours != onednn).any(), "the sums are in another order"
    close(ours, onednn)


@pytest.mark.parametrize("filters", [32, 80])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, ops.relu, ops.silu])
def test_bias_residual_sum_and_activation_in_inference(filters: int, residual: bool, activation: Any) -> None:
    """ReLU is computed in the same pass; for SiLU, oneDNN computes all of it."""
    x, kernel = (jnp.asarray(a) for a in case("output", 2, (13, 9), 32, filters, ((1, 1), (1, 1))))
    bias, added = jnp.asarray(normal(3, filters)), jnp.asarray(normal(4, 2, 13, 9, filters))

    def network(x: jax.Array) -> jax.Array:
        y = ops.conv(x, kernel, padding=1) + bias
        y = y + added if residual else y
        return y if activation is None else activation(y)

    fused = ops.fuse(network)
    assert "conv_fused" in str(jax.make_jaxpr(fused)(x))
    params = settings("output", (13, 9), ((1, 1), (1, 1)))
    expected = exact(np.asarray(x), np.asarray(kernel), params) + np.asarray(bias) + np.asarray(added) * residual
    if activation is ops.relu:
        expected = np.maximum(expected, 0)
    if activation is ops.silu:
        expected = expected / (1 + np.exp(-expected))
    assert error(np.asarray(jax.jit(fused)(x)), expected) < 3e-6


def test_the_gradient_of_a_bias() -> None:
    x, kernel, bias = normal(0, 3, 15, 14, 32), normal(1, 3, 3, 32, 48), normal(2, 48)
    weights = normal(3, 3, 15, 14, 48)
    found = jax.jit(jax.grad(lambda b: (weights * (ops.conv(x, kernel, padding=1) + b)).sum()))(bias)
    close(found, weights.astype(np.float64).sum((0, 1, 2)).astype(np.float32))


def test_second_derivatives_in_a_network() -> None:
    """The gradient of a squared gradient, beside the one without Winograd, in float32: 1e-4, as in test_forms.py."""
    model = cnn.serial(cnn.conv(32, 3, padding=1), cnn.relu, cnn.conv(32, 3, padding=1), cnn.global_avg_pool)
    x = jnp.asarray(normal(0, 4, 12, 12, 32))
    params, state = model.init(jax.random.key(0), x)

    def slope(params: Any) -> jax.Array:
        inner = jax.grad(lambda p: jnp.square(model.apply(p, state, x)[0]).sum())(params)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(inner))

    ours = jax.jit(jax.grad(slope))(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXCNN_PLAIN", "winograd")
        close(ours, jax.jit(jax.grad(lambda p: slope(p)))(params), 1e-4)


_THREADS = """
import sys
import jax, numpy as np
from jaxcnn import ops
size, images, kernel = SIZES
x, g = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in (images, kernel))
y, back = jax.vjp(lambda x, g: ops.conv(x, g, padding=size // 2), x, g)
np.savez(sys.argv[1], y, *back(y))
"""


@pytest.mark.parametrize(
    "sizes", [(3, (5, 15, 13, 160), (3, 3, 160, 144)), (5, (9, 15, 13, 48), (5, 5, 48, 80))], ids=["3x3", "5x5"]
)
def test_any_number_of_threads(sizes: Any, tmp_path: Path) -> None:
    any_number_of_threads(_THREADS.replace("SIZES", str(sizes)), tmp_path, (1, 2, 3, 4, 7), images=2)
