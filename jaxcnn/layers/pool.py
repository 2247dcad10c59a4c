"""Pooling as layers. The arithmetic and its conventions are in `jaxcnn.ops.pooling`."""

from __future__ import annotations

from typing import Any

import jax

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import by, images, stateless
from jaxcnn.ops import global_avg_pool, global_max_pool
from jaxcnn.ops.geometry import Padding, Size, out_size, pads, per_dim

__all__ = ["adaptive_avg_pool", "avg_pool", "global_avg_pool", "global_max_pool", "max_pool", "sum_pool"]


@layer
def max_pool(size: Size, stride: Size | None = None, padding: Padding = 0, *, ceil: bool = False) -> Layer:
    """Max pooling: the maximum of each window in each channel.

    Args:
      size: F, an integer or one per spatial dimension of the input (1, 2 or 3).
      stride: S; F by default. If it is smaller than F, the windows overlap.
      padding: as in `conv`; padding is never the maximum.
      ceil: round the number of windows up instead of down: out = ceil((W - F + 2P) / S) + 1.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *out, C)`, out = floor((W - F + 2P) / S) + 1.

    Raises:
      LayerError: when the window is larger than the padded input, or an argument is malformed.
    """
    return _pooling(ops.max_pool, size, stride, padding, ceil)


@layer
def avg_pool(
    size: Size, stride: Size | None = None, padding: Padding = 0, *, ceil: bool = False, count_padding: bool = False
) -> Layer:
    """Average pooling: the mean of each window in each channel. Arguments as in `max_pool`, and:

    Args:
      count_padding: whether the zeros of the padding count as values (the default of PyTorch and Flax). If False, the
        sum is divided by the number of pixels of the image in the window.
    """
    return _pooling(ops.avg_pool, size, stride, padding, ceil, count_padding=count_padding)


@layer
def sum_pool(size: Size, stride: Size | None = None, padding: Padding = 0, *, ceil: bool = False) -> Layer:
    """Sum pooling: the sum of each window in each channel. Arguments as in `max_pool`."""
    return _pooling(ops.sum_pool, size, stride, padding, ceil)


@layer
def adaptive_avg_pool(size: Size) -> Layer:
    """Average pooling to a given output size, for inputs of any size: the mean of each of O windows per dimension.

    Args:
      size: O, an integer or one per dimension. Of W pixels, window i covers those from floor(i W / O) up to, but not
        including, ceil((i + 1) W / O).

    Returns:
      A Layer `(N, *spatial, C) -> (N, *size, C)`.

    Raises:
      LayerError: for a malformed size, or input that is not a floating-point image.
    """

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        images(x)
        try:
            per_dim(size, x.ndim - 2, "size")
        except ValueError as error:
            raise LayerError(str(error)) from None
        return ops.adaptive_avg_pool(x, size)

    return stateless(lambda key, x: {}, apply)


def _pooling(op: Any, size: Size, stride: Size | None, padding: Padding, ceil: bool, **options: Any) -> Layer:
    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        if x.ndim not in (3, 4, 5):
            raise LayerError(f"expected images (N, H, W, C), or 1 or 3 spatial dimensions; got {x.shape}")
        ndim = x.ndim - 2
        try:
            window = per_dim(size, ndim, "size")
            strides = window if stride is None else per_dim(stride, ndim, "stride")
            edges = pads(padding, x.shape[1:-1], window, strides, (1,) * ndim)
        except ValueError as error:
            raise LayerError(str(error)) from None
        places = [
            out_size(w, f, s, edge, ceil) for w, f, s, edge in zip(x.shape[1:-1], window, strides, edges, strict=True)
        ]
        if min(places) < 1:
            raise LayerError(
                f"{by(window)} window on {by(x.shape[1:-1])}: the window is larger than its input; "
                "pool less often, pad, or give a larger image"
            )
        if any(max(edge) >= f for edge, f in zip(edges, window, strict=True)):
            raise LayerError(f"{by(window)} window, padding={padding!r}: some windows would see only padding")
        return op(x, window, strides, edges, ceil, **options)

    return stateless(lambda key, x: {}, apply)
