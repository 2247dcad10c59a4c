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


def resize(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Images at another size, bilinearly: `(N, H, W, C) -> (N, *size, C)`.

    Output pixel j of J is the linear interpolation of x at (j + 1/2) W / J - 1/2; beyond the outermost pixels of x it
    goes on with their values. Where the image gets smaller, pixels between are passed over. PyTorch's `interpolate`
    with `align_corners=False`; for a whole factor, `upsample`.

    Args:
      x: floating point.
      size: (height, width) of the output.

    Raises:
      UserError: for anything but two whole numbers of at least 1.
    """
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"resize(size={tuple(size)}): expected a height and a width of at least 1")
    dtype = wide_dtype(x.dtype)
    places = [(np.arange(j) + 0.5) * w / j - 0.5 for w, j in zip(x.shape[1:3], size, strict=True)]
    rows, columns = (jnp.asarray(_interpolated(at, w), dtype) for at, w in zip(places, x.shape[1:3], strict=True))
    along = jnp.einsum("jw,nhwc->nhjc", columns, wide(x))
    return rounded(jnp.einsum("ih,nhjc->nijc", rows, along), x.dtype)


def _weights(size: int, factor: int, corner: bool) -> np.ndarray:
    """The matrix of linear interpolation along one axis: `(factor size, size)`."""
    place = np.arange(factor * size)
    return _interpolated(place / factor if corner else (place + 0.5) / factor - 0.5, size)


def _interpolated(at: np.ndarray, size: int) -> np.ndarray:
    """The matrix of linear interpolation at these places of an axis: `(places, size)`."""
    return np.maximum(0, 1 - np.abs(np.clip(at, 0, size - 1)[:, None] - np.arange(size)))
