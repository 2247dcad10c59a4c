"""Products with a matrix: of a few rows and a large one, and of all pixels of images.

On a CPU, the time of a few rows is that of reading the matrix once. 16 rows times 9216x4096, AlexNet's fc6, take 23 ms
by XLA and 13 ms by oneDNN (`jaxcnn.ops.cpu`; PyTorch: 15 ms); the gradient with respect to the rows takes 13 and 10 ms.
All pixels of images times a matrix are a 1x1 convolution: by it, a training step of ConvNeXt-T takes 0.87 of the time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcnn.ops import cpu
from jaxcnn.ops.geometry import Edges, Ints
from jaxcnn.ops.precision import summed_product

_ROWS, _LARGE = 32, 1 << 20  # most rows and least numbers of the matrix for which oneDNN is faster
_PIXELS = 512  # least pixels


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y = x kernel: `(..., D), (D, K) -> (..., K)`, in the wider of the two dtypes."""
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if not cpu.available(x):
        return summed_product(x, kernel)
    rows = x.size // max(x.shape[-1], 1)
    if dtype == jnp.float32 and kernel.size >= _LARGE and 0 < rows <= _ROWS:
        return cpu.product(x, kernel)
    if rows >= _PIXELS:
        window = _one_pixel(x.ndim - 2)
        pixel = kernel.reshape(*window[0], *kernel.shape)
        if cpu.takes(x, pixel, *window):
            return cpu.conv(x, pixel, *window)
    return summed_product(x, kernel)


def _one_pixel(ndim: int) -> tuple[Ints, Edges, Ints]:
    """Stride, padding and dilation of a 1x1 convolution in this number of dimensions."""
    return (1,) * ndim, ((0, 0),) * ndim, (1,) * ndim
