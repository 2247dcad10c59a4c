"""Max, average and sum pooling over windows, and over whole images.

On a CPU, a sum is computed by strided slices, one dimension after the other, and a maximum by `jaxcnn.ops.maximum`.
XLA's `reduce_window` is slower, especially the gradient of the maximum, a select-and-scatter. In all forms, if several
pixels of a window have the maximum, the first in row-major order gets the gradient, as in PyTorch.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.backend import suits_cpu
from jaxcnn.ops.geometry import Edges, Ints, Padding, Size, out_size, pads, per_dim
from jaxcnn.ops.maximum import MOST, maximum
from jaxcnn.ops.precision import rounded, wide

_MAX_SLICES = 16  # larger windows use reduce_window, since the number of slices grows with their width


def max_pool(
    x: jax.Array, size: Size, stride: Size | None = None, padding: Padding = 0, ceil: bool = False
) -> jax.Array:
    """The maximum of each window in each channel: y[n, i, j, c] = max over u, v of x[n, S i + u - P, S j + v - P, c].

    Args:
      x: `(N, *spatial, C)`.
      size: F, an integer or one per dimension.
      stride: S; F by default.
      padding: see `jaxcnn.ops.geometry.pads`; padding is never the maximum.
      ceil: round the output size up instead of down; the last window then reaches beyond the edge.

    Returns:
      `(N, *out, C)`, out = floor((W + 2P - F) / S) + 1, or with ceil.
    """
    window, strides, edges = _windows(x, size, stride, padding, ceil)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if floating and suits_cpu("maximum", x) and math.prod(window) <= MOST:
        return maximum(x, window, strides, edges)
    if not floating:
        return _pool(x, window, strides, edges, np.asarray(jnp.iinfo(x.dtype).min, x.dtype), lax.max)
    # Not by slices, whose maximum would split the gradient between equals. Overlapping windows sum their gradients.
    values = wide(x) if any(s < f for f, s in zip(window, strides, strict=True)) else x
    lowest = np.asarray(-jnp.inf, values.dtype)
    return rounded(_by_window(values, window, strides, edges, lowest, lax.max), x.dtype)


def sum_pool(
    x: jax.Array, size: Size, stride: Size | None = None, padding: Padding = 0, ceil: bool = False
) -> jax.Array:
    """The sum of each window, in at least float32; arguments, shapes and dtype as in `max_pool`."""
    window, strides, edges = _windows(x, size, stride, padding, ceil)
    return rounded(_total(x, window, strides, edges), x.dtype)


def avg_pool(
    x: jax.Array,
    size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil: bool = False,
    count_padding: bool = False,
) -> jax.Array:
    """The mean of each window, summed in at least float32; arguments, shapes and dtype as in `max_pool`.

    Args:
      count_padding: divide by the number of pixels of the window on the padded image (the default of PyTorch and Flax),
        instead of those on the image. Pixels that are added by `ceil` never count.
    """
    window, strides, edges = _windows(x, size, stride, padding, ceil)
    _, _, declared = _windows(x, size, stride, padding, ceil=False)
    total = _total(x, window, strides, edges)
    counts = np.ones((), np.float64)
    for w, f, s, (lo, hi), (_, behind) in zip(x.shape[1:-1], window, strides, edges, declared, strict=True):
        start = np.arange((w + lo + hi - f) // s + 1) * s - lo
        first, last = (-lo, w + behind) if count_padding else (0, w)
        counts = counts[..., None] * (np.minimum(start + f, last) - np.maximum(start, first))
    return rounded(total / np.maximum(counts, 1)[None, ..., None].astype(total.dtype), x.dtype)


def adaptive_avg_pool(x: jax.Array, size: Size) -> jax.Array:
    """The mean of each of O windows per dimension, for images of any size.

    Of O windows over W pixels, window i covers the pixels from floor(i W / O) up to, but not including,
    ceil((i + 1) W / O). If O divides W, this is `avg_pool(x, W / O)`; otherwise neighbouring windows overlap by a
    pixel, and if W < O, pixels repeat.

    Args:
      x: `(N, *spatial, C)`.
      size: O, an integer or one per dimension.

    Returns:
      `(N, *size, C)`; x itself if it has that size. PyTorch's AdaptiveAvgPool has the same windows.
    """
    places = per_dim(size, x.ndim - 2, "size")
    if places == x.shape[1:-1]:
        return x
    if not any(w % o for w, o in zip(x.shape[1:-1], places, strict=True)):
        return avg_pool(x, tuple(w // o for w, o in zip(x.shape[1:-1], places, strict=True)))
    # A window is a product of intervals, so its mean is a mean of means.
    means = wide(x)
    for axis, o in enumerate(places, 1):
        w = x.shape[axis]
        cuts = [(i * w // o, -(-(i + 1) * w // o)) for i in range(o)]
        means = jnp.concatenate(
            [lax.slice_in_dim(means, a, b, axis=axis).mean(axis, keepdims=True) for a, b in cuts], axis
        )
    return rounded(means, x.dtype)


def global_max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each channel over the whole image: `(N, *spatial, C) -> (N, C)`."""
    # The gradient is divided among equals, and counting them is a sum.
    return rounded(wide(x).max(axis=tuple(range(1, x.ndim - 1))), x.dtype)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean of each channel over the whole image: `(N, *spatial, C) -> (N, C)`.

    Source: Lin et al., Network in Network (2014), section 3.2.
    """
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _windows(
    x: jax.Array, size: Size, stride: Size | None, padding: Padding, ceil: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Window, strides and padding; with `ceil`, the padding at the end is enlarged until the last window fits."""
    ndim = x.ndim - 2
    window = per_dim(size, ndim, "size")
    strides = window if stride is None else per_dim(stride, ndim, "stride")
    edges = pads(padding, x.shape[1:-1], window, strides, (1,) * ndim)
    if ceil:
        edges = tuple(
            (lo, max(hi, (out_size(w, f, s, (lo, hi), True) - 1) * s + f - w - lo))
            for w, f, s, (lo, hi) in zip(x.shape[1:-1], window, strides, edges, strict=True)
        )
    return window, strides, edges


def _total(x: jax.Array, window: Ints, strides: Ints, edges: Edges) -> jax.Array:
    """The sum of each window, in at least float32."""
    x = wide(x)
    return _pool(x, window, strides, edges, np.zeros((), x.dtype), lax.add)


def _by_window(x: jax.Array, window: Ints, strides: Ints, edges: Edges, start: np.ndarray, combine: Any) -> jax.Array:
    return lax.reduce_window(x, start, combine, (1, *window, 1), (1, *strides, 1), ((0, 0), *edges, (0, 0)))


def _pool(x: jax.Array, window: Ints, strides: Ints, edges: Edges, start: np.ndarray, combine: Any) -> jax.Array:
    if not suits_cpu("slices", x) or sum(window) > _MAX_SLICES:
        return _by_window(x, window, strides, edges, start, combine)
    if any(any(edge) for edge in edges):
        x = lax.pad(x, jnp.asarray(start), [(0, 0, 0), *((lo, hi, 0) for lo, hi in edges), (0, 0, 0)])
    for axis in range(x.ndim - 2, 0, -1):
        f, s = window[axis - 1], strides[axis - 1]
        places = (x.shape[axis] - f) // s + 1
        x = functools.reduce(combine, (lax.slice_in_dim(x, u, u + (places - 1) * s + 1, s, axis) for u in range(f)))
    return x
