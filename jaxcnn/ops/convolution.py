"""Convolution and its transpose, in one, two or three dimensions.

On a CPU, oneDNN computes them and their gradients if it can be called (`jaxcnn.ops.cpu`). Otherwise, a transposed
convolution inserts the zeros by an explicit pad and then convolves, which is far faster than `lhs_dilation`.

A kernel that is large for its image, as in a classifier whose dense layers became convolutions, is faster as a matrix
product: FCN's fc6, 7x7x512x4096 on 7x10 pixels, takes 92 ms instead of oneDNN's 224 ms, which copies 411 MB in each
call; its gradients take 214 instead of 500 ms.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import cpu
from jaxcnn.ops.backend import suits_cpu
from jaxcnn.ops.geometry import Edges, Ints, Padding, Size, extent, out_size, pads, per_dim
from jaxcnn.ops.precision import rounded, wide
from jaxcnn.ops.product import matmul

_FEW, _LARGE = 128, 1 << 22  # most output pixels of a batch, and least numbers of a kernel, for a matrix product
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    dtype: Any = None,
) -> jax.Array:
    """Convolution as in neural networks (cross-correlation).

    y[n, i, j, k] = sum over u, v, c of x[n, S i + D u - P, S j + D v - P, c] kernel[u, v, c, k]

    Args:
      x: `(N, *spatial, C)`, floating point.
      kernel: `(*size, C / groups, K)`.
      stride, dilation: S and D, an integer or one per dimension.
      padding: see `jaxcnn.ops.geometry.pads`.
      groups: the number of groups of channels; each group has K / groups filters.
      dtype: the dtype of the arithmetic and of the result; by default the wider of the two. In a half precision, a
        float32 kernel is rounded, and its gradient is in float32.

    Returns:
      `(N, *out, K)` with out = floor((W + 2P - D (F - 1) - 1) / S) + 1, in `dtype`.

    Raises:
      ValueError: from XLA's shape rules, and for a malformed stride, padding or dilation. The layer `jaxcnn.conv` has
        clearer messages.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016).
    """
    ndim = kernel.ndim - 2
    window, strides, dilations = (
        kernel.shape[:ndim],
        per_dim(stride, ndim, "stride"),
        per_dim(dilation, ndim, "dilation"),
    )
    edges = pads(padding, x.shape[1:-1], window, strides, dilations)
    dtype = jnp.result_type(x, kernel) if dtype is None else jnp.dtype(dtype)
    x = x.astype(dtype)
    few = groups == 1 and suits_cpu("products", x) and _is_mostly_kernel(x, kernel, strides, edges, dilations)
    if not few and cpu.available(x) and cpu.takes(x, kernel, strides, edges, dilations, groups):
        return cpu.conv(x, kernel, strides, edges, dilations, groups)
    kernel = kernel.astype(dtype)
    if few:
        return _product(x, kernel, strides, edges, dilations)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        edges,
        rhs_dilation=dilations,
        dimension_numbers=_LAYOUTS[ndim],
        feature_group_count=groups,
    )


def _is_mostly_kernel(x: jax.Array, kernel: jax.Array, strides: Ints, edges: Edges, dilations: Ints) -> bool:
    places = [
        out_size(w, extent(f, d), s, e)
        for w, f, s, e, d in zip(x.shape[1:-1], kernel.shape, strides, edges, dilations, strict=False)
    ]
    return kernel.size >= _LARGE and 0 < len(x) * math.prod(places) <= _FEW and x.shape[-1] == kernel.shape[-2]


def _product(x: jax.Array, kernel: jax.Array, strides: Ints, edges: Edges, dilations: Ints) -> jax.Array:
    """The pixels under each window, concatenated, times the kernel as a matrix. The kernel is read once, uncopied."""
    *window, _, features = kernel.shape
    under = wide(x)  # the gradient of a pixel is a sum over the windows that contain it
    if any(any(edge) for edge in edges):
        under = lax.pad(under, jnp.zeros((), under.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in edges), (0, 0, 0)])
    # One dimension after the other: XLA compiles a program for each slice, 14 instead of 49 for 7x7.
    for axis in range(len(window), 0, -1):
        f, s, d = window[axis - 1], strides[axis - 1], dilations[axis - 1]
        last = (out_size(under.shape[axis], extent(f, d), s) - 1) * s + 1
        parts = [lax.slice_in_dim(under, u * d, u * d + last, s, axis) for u in range(f)]
        under = jnp.concatenate(parts, -1)
    return matmul(rounded(under, x.dtype), kernel.reshape(-1, features))


def convolve(
    x: jax.Array, kernel: jax.Array, stride: Size = 1, padding: Padding = 0, dilation: Size = 1, groups: int = 1
) -> jax.Array:
    """Convolution as in mathematics: `conv` with the kernel flipped along every spatial dimension."""
    return conv(x, jnp.flip(kernel, range(kernel.ndim - 2)), stride, padding, dilation, groups)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    output_padding: Size = 0,
) -> jax.Array:
    """Transposed convolution: the linear map whose matrix is the transpose of the convolution's matrix.

    y[n, S i + D u - P, S j + D v - P, k] += x[n, i, j, c] kernel[u, v, c, k], over all i, j, u, v and c

    Args:
      x: `(N, *spatial, C)`.
      kernel: `(*size, C, K)`. PyTorch's weight is `(C, K, *size)`.
      stride, padding, dilation: those of the convolution that is transposed.
      output_padding: extra pixels at the end of each dimension. The convolution maps several sizes to the size of x;
        this chooses one of them. It must be smaller than the stride or the dilation, as in PyTorch.

    Returns:
      `(N, *out, K)` with out = S (W - 1) - 2P + D (F - 1) + 1 + output_padding.

    Raises:
      ValueError: for a malformed stride, padding or dilation, or an output_padding that is too large.

    Source: Dumoulin and Visin (2016), section 4; PyTorch's ConvTranspose2d has the same conventions.
    """
    ndim = kernel.ndim - 2
    strides, dilations = per_dim(stride, ndim, "stride"), per_dim(dilation, ndim, "dilation")
    padding_, extra = per_dim(padding, ndim, "padding", 0), per_dim(output_padding, ndim, "output_padding", 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ValueError(
            f"output_padding={output_padding!r} with stride={stride!r}, dilation={dilation!r}: expected less than the "
            "stride or the dilation; more pixels belong to a larger input"
        )
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    sizes = tuple(
        s * (w - 1) - 2 * p + extent(f, d) + e
        for w, f, s, d, p, e in zip(x.shape[1:-1], kernel.shape, strides, dilations, padding_, extra, strict=False)
    )
    if cpu.available(x) and cpu.takes_transposed(x, kernel, sizes, strides, padding_, dilations):
        return cpu.conv_transpose(x, kernel, sizes, strides, padding_, dilations)
    kernel = jnp.flip(kernel, range(ndim))
    edges = tuple(
        (extent(f, d) - 1 - p, extent(f, d) - 1 - p + e)
        for f, d, p, e in zip(kernel.shape[:ndim], dilations, padding_, extra, strict=True)
    )
    if suits_cpu("stuffed", x):
        config = [(0, 0, 0), *((lo, hi, s - 1) for (lo, hi), s in zip(edges, strides, strict=True)), (0, 0, 0)]
        return conv(lax.pad(x, jnp.zeros((), dtype), config), kernel, dilation=dilations)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,) * ndim,
        edges,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=_LAYOUTS[ndim],
    )
