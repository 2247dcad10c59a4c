"""Correlation of two feature maps: each position of one is compared with the positions around it in the other."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.errors import UserError
from jaxcnn.ops.precision import rounded, wide


@functools.partial(jax.jit, static_argnames=("displacement", "stride"))
def correlation(first: jax.Array, second: jax.Array, displacement: int, stride: int = 1) -> jax.Array:
    """The mean product of the features at each position of `first` and at displaced positions of `second`.

    y[n, i, j, k] = 1 / C sum over c of first[n, i, j, c] second[n, i + dy_k, j + dx_k, c]

    with 0 outside of `second`. The displacements (dy_k, dx_k) are the multiples of `stride` whose components are at
    most `displacement`, row by row: (-d, -d), (-d, -d + stride), ..., (d, d) if the stride divides d.

    Args:
      first, second: `(N, H, W, C)`, floating point.
      displacement: d, 0 or more; it may be larger than the image.
      stride: the step between displacements, at least 1 (the paper's s_2).

    Returns:
      `(N, H, W, (2 floor(d / stride) + 1)^2)`.

    Raises:
      UserError: for images of different shapes or with another number of axes; for a displacement or stride out of
        range.

    Against the paper: single positions are compared (its K = 0) at every position of `first` (s_1 = 1), as in its
    networks; the sum is divided by C, as in the authors' code.

    Source: Fischer et al., FlowNet: Learning optical flow with convolutional networks (2015), section 3, equation 1.
    """
    if first.shape != second.shape or first.ndim != 4:
        raise UserError(f"correlation takes two images (N, H, W, C) of one shape, got {first.shape} and {second.shape}")
    if displacement < 0 or stride < 1:
        raise UserError(f"displacement={displacement} should be at least 0 and stride={stride} at least 1")
    dtype = jnp.result_type(first, second)
    first, second = wide(first), wide(second)
    steps = displacement // stride
    edge = steps * stride
    padded = jnp.pad(second, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    offsets = jnp.array(list(itertools.product(range(0, 2 * edge + 1, stride), repeat=2)))

    @jax.checkpoint  # the gradient slices again, since hundreds of displaced images would not fit in memory
    def product(offset: jax.Array) -> jax.Array:
        moved = lax.dynamic_slice(padded, (0, offset[0], offset[1], 0), second.shape)
        return (first * moved).mean(-1)

    return rounded(jnp.moveaxis(lax.map(product, offsets), 0, -1), dtype)
