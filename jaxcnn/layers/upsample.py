"""Upsampling as a layer."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import count, images, stateless


@layer
def upsample(factor: int, method: Literal["nearest", "bilinear"] = "nearest") -> Layer:
    """Images enlarged a whole number of times: `(N, H, W, C) -> (N, factor H, factor W, C)`.

    Args:
      factor: how many times larger.
      method: `"nearest"`: y[n, i, j, c] = x[n, floor(i / factor), floor(j / factor), c], each pixel a square of equal
        ones. `"bilinear"`: linear interpolation at (i + 1/2) / factor - 1/2, by `jaxcnn.ops.upsample`; PyTorch's
        `align_corners=False`.

    Returns:
      A Layer in the input's dtype.

    Raises:
      LayerError: for another method, a factor that is no whole number, or input that is no floating-point image.
    """
    factor = count(factor, "factor")
    if method not in ("nearest", "bilinear"):
        raise LayerError(f"method={method!r}: expected 'nearest' or 'bilinear'")

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        images(x, 2)
        if method == "bilinear":
            return ops.upsample(x, factor)
        n, height, width, channels = x.shape
        squares = jnp.broadcast_to(ops.wide(x)[:, :, None, :, None], (n, height, factor, width, factor, channels))
        return ops.rounded(squares.reshape(n, factor * height, factor * width, channels), x.dtype)

    return stateless(lambda key, x: {}, apply)
