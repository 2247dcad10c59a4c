"""Depthwise convolutions of 5x5 and 7x7 by this package's own code, beside float64.

Tolerance 1e-6 of the largest value: sums of 49 products at most, in float32, which has 6e-8.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import convolutions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

from jaxcnn.ops import cpu
from jaxcnn.ops.cpu import fused, library


def code(kind: str, image: tuple[int, ...], kernel: tuple[int, ...], window: dict[str, Any]) -> str:
    shapes = image, kernel, convolutions.out_shape(image, kernel, window)
    return library.implementation(kind, "float32", *shapes, **window, direct=True)


def window_of(channels: int, pads: Any) -> dict[str, Any]:
    return {"strides": (1, 1), "pads": pads, "dilation": (1, 1), "groups": channels}


def _is_used() -> bool:
    return cpu.available() and code("output", (1, 9, 9, 16), (5, 5, 1, 16), window_of(16, ((2, 2),) * 2)) == "depthwise"


pytestmark = pytest.mark.skipif(not _is_used(), reason="the engine is missing here, or the processor has no AVX-512")


@pytest.mark.parametrize("seed", range(16))
def test_random_convolutions(seed: int) -> None:
    """Output and input gradient, for any padding below the size, images lower than a window, and odd widths."""
    rng = np.random.default_rng(seed)
    size, channels = (5, 7)[seed % 2], 16 * int(rng.integers(1, 6))
    pads = tuple((int(rng.integers(0, size)), int(rng.integers(0, size))) for _ in range(2))
    height = int(rng.integers(max(1, size - sum(pads[0])), 12))
    image, kernel = (int(rng.integers(1, 4)), height, int(rng.integers(13, 31)), channels), (size, size, 1, channels)
    window = window_of(channels, pads)
    assert [code(kind, image, kernel, window) for kind in ("output", "input")] == ["depthwise"] * 2
    x, k = jnp.asarray(normal(seed, *image)), jnp.asarray(normal(seed + 1, *kernel))
    ct = jnp.asarray(normal(seed + 2, *convolutions.out_shape(image, kernel, window)))
    y, back = jax.vjp(lambda x: cpu.conv(x, k, **window), x)
    wide_x, wide_k, wide_ct = (np.asarray(a, np.float64) for a in (x, k, ct))
    close(y, convolutions.convolution(wide_x, wide_k, window), 1e-6)
    close(back(ct)[0], convolutions.input_gradient(image, wide_k, wide_ct, window), 1e-6)
    same(y, jax.jit(lambda x: cpu.conv(x, k, **window))(x))


@pytest.mark.parametrize(
    ("image", "kernel", "changed"),
    [
        ((2, 9, 9, 16), (3, 3, 1, 16), {}),
        ((2, 9, 9, 16), (5, 3, 1, 16), {}),
        ((2, 9, 9, 16), (5, 5, 1, 16), {"strides": (2, 2)}),
        ((2, 9, 9, 16), (5, 5, 1, 16), {"dilation": (1, 2)}),
        ((2, 9, 9, 24), (5, 5, 1, 24), {"groups": 24}),
        ((2, 9, 9, 32), (5, 5, 2, 32), {}),
        ((2, 9, 9, 16), (5, 5, 1, 32), {}),
        ((2, 9, 6, 16), (5, 5, 1, 16), {}),
        ((2, 9, 9, 16), (5, 5, 1, 16), {"pads": ((5, 2), (2, 2))}),
    ],
    ids=str,
)
def test_what_is_left_to_onednn(image: Any, kernel: Any, changed: dict[str, Any]) -> None:
    window = window_of(16, ((2, 2), (2, 2))) | changed
    assert code("output", image, kernel, window) != "depthwise"


def test_nothing_is_added_by_it() -> None:
    """A factor alone it takes in; with a shift or an activation oneDNN computes."""
    x, k, factor = jnp.asarray(normal(0, 2, 9, 9, 32)), jnp.asarray(normal(1, 5, 5, 1, 32)), jnp.asarray(normal(2, 32))
    window = window_of(32, ((2, 2), (2, 2)))
    expected = convolutions.convolution(*(np.asarray(a, np.float64) for a in (x, k)), window) * np.asarray(factor)
    run = partial(cpu.conv_fused, **window)
    close(run(x, k, factor, affine=cpu.Affine(factor=0)), expected, 1e-6)
    close(run(x, k, factor, affine=fused.SHIFT, activation="relu"), jax.nn.relu(cpu.conv(x, k, **window) + factor))


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    x, k = jnp.asarray(normal(0, 2, 9, 9, 16)), jnp.asarray(normal(1, 5, 5, 1, 16))
    window = window_of(16, ((2, 2), (2, 2)))
    ours = jax.jit(lambda x: cpu.conv(x, k, **window))
    assert "direct = true" in ours.lower(x).as_text()
    monkeypatch.setenv("JAXCNN_PLAIN", "direct")
    theirs = jax.jit(lambda x: cpu.conv(x, k, **window))
    assert "direct = false" in theirs.lower(x).as_text()
    close(ours(x), theirs(x), 1e-6)
