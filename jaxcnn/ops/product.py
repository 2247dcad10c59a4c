"""The product of a few rows and a large matrix.

What is slow there on a CPU is to read the matrix once. 16 rows times 9216x4096, AlexNet's fc6, take XLA 23 ms and
oneDNN (`jaxcnn.ops.cpu`) 13 (PyTorch 15); the gradient by the rows, 13 and 10.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcnn.ops import cpu

_ROWS, _LARGE = 32, 1 << 20  # rows up to which, and numbers of the matrix from which on, oneDNN is the quicker one


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y = x kernel: `(..., D), (D, K) -> (..., K)`, in the wider of the two dtypes."""
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    rows = x.size // max(x.shape[-1], 1)
    if cpu.available(x) and dtype == jnp.float32 and kernel.size >= _LARGE and 0 < rows <= _ROWS:
        return cpu.product(x, kernel)
    return x @ kernel
