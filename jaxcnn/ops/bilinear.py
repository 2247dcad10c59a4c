"""Bilinear upsampling: the initial kernel of a transposed convolution, and a fixed upsampling as two matrix products.

Along one axis, tap u of a kernel of F taps has the weight 1 - |u - (F - 1) / 2| / S, with stride S. With an even kernel
of 2S taps, the S output pixels of an input pixel lie around its centre, which reverses 2x2 pooling. With an odd kernel
of 2S - 1 taps, the input pixel lies on the first of them, which reverses a padded convolution of stride S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.ops.precision import rounded, wide, wide_dtype


def bilinear(key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
    """An initializer for a transposed convolution that interpolates each channel bilinearly.

    kernel[u, v, c, k] = w_u w_v where c = k and 0 elsewhere, w_u = 1 - |u - (F - 1) / 2| / S with S = ceil(F / 2).

    Args:
      key: not used, since nothing is random.
      shape: `(F, F, C, K)`, or any other number of spatial axes. For a factor S, F is 2S (or 2S - 1).
      dtype: of the kernel.

    Returns:
      The kernel. With stride S (and padding S / 2 for an even F) it enlarges S times. A constant image stays constant
      and a linear ramp stays linear, except in the outermost S pixels, where the zeros around the image contribute.

    Source: Long, Shelhamer and Darrell, Fully convolutional networks for semantic segmentation (2015), section 3.3.
    """
    if len(shape) < 3:
        raise UserError(f"bilinear makes kernels of shape (F, F, C, K) for transposed convolutions, not {tuple(shape)}")
    *window, channels, features = shape
    kernel = np.eye(channels, features)
    for f in reversed(window):
        weights = 1 - np.abs(np.arange(f) - (f - 1) / 2) / math.ceil(f / 2)
        kernel = np.multiply.outer(weights, kernel)
    return jnp.asarray(kernel, dtype)


def upsample(x: jax.Array, factor: int, *, corner: bool = False) -> jax.Array:
    """Bilinear upsampling by an integer factor: `(N, H, W, C) -> (N, factor H, factor W, C)`.

    Output pixel j is the linear interpolation of x at (j + 1/2) / factor - 1/2, or, with `corner`, at j / factor.
    Outside the image, x has the value of its nearest edge pixel. This equals a transposed convolution with the kernel
    of `bilinear` (2 factor taps; 2 factor - 1 with `corner`) on an image padded with its edge values. The kernel is
    separable, so the function computes one matrix product per axis.

    Args:
      x: floating point.
      factor: an integer of at least 1.
      corner: whether an input pixel lies on the first of its output pixels instead of at their centre.

    Source: Long, Shelhamer and Darrell (2015), section 3.3.
    """
    if factor < 1:
        raise UserError(f"upsample(factor={factor}): expected an integer of at least 1")
    dtype = wide_dtype(x.dtype)
    rows, columns = (jnp.asarray(_weights(size, factor, corner), dtype) for size in x.shape[1:3])
    along = jnp.einsum("jw,nhwc->nhjc", columns, wide(x))
    return rounded(jnp.einsum("ih,nhjc->nijc", rows, along), x.dtype)


def _weights(size: int, factor: int, corner: bool) -> np.ndarray:
    """The matrix of linear interpolation along one axis: `(factor size, size)`."""
    place = np.arange(factor * size)
    at = np.clip(place / factor if corner else (place + 0.5) / factor - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))
