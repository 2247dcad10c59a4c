"""Half precision: numbers are stored in bfloat16 or float16, and summed in float32.

A sum of ones in bfloat16 stops at 256, since 256 + 1 is rounded to 256; in float16 it stops at 2048, and the largest
number is 65504. XLA sums in the dtype of its operand, also in the gradients of a broadcast and of a lookup. So an
operation that sums many numbers converts its input by `wide` and rounds its result once, and a value that is added to
many numbers (a bias) is broadcast by `spread`. Both leave float32 and float64 unchanged.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(dtype: Any) -> Any:
    """The dtype for sums: float32 for bfloat16 and float16, otherwise the dtype itself."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def wide(x: jax.Array) -> jax.Array:
    """x in at least float32; its gradient is summed in that dtype, then rounded to x's. Integers stay unchanged."""
    dtype = wide_dtype(x.dtype)
    return x if dtype == x.dtype else x.astype(dtype)


def rounded(y: jax.Array, dtype: Any) -> jax.Array:
    """y in `dtype` if that is a half-precision dtype; otherwise y itself. It is the inverse of `wide`."""
    return y.astype(dtype) if dtype != wide_dtype(dtype) else y


def summed_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """XLA's matrix product of two arrays of the same dtype, summed in at least float32.

    XLA:CPU of jaxlib 0.12 sums some products of bfloat16 in bfloat16, unless the sum is asked for in float32.
    """
    return rounded(jnp.matmul(x, y, preferred_element_type=wide_dtype(x.dtype)), x.dtype)


def spread(x: jax.Array, like: jax.Array) -> jax.Array:
    """x in the dtype of `like`, and in a shape that broadcasts to it; the gradient is summed in at least float32.

    For a half-precision `like`, x is converted to float32, broadcast to the shape of `like`, and converted to its
    dtype. The transpose converts the gradient to float32, sums it, and converts the sum. Otherwise x gets leading axes
    of length 1, as in NumPy's broadcasting.

    Args:
      x: a bias or another parameter, whose shape broadcasts to that of `like`.
      like: activations.
    """
    dtype = wide_dtype(like.dtype)
    if dtype != like.dtype:
        return jnp.broadcast_to(x.astype(dtype), like.shape).astype(like.dtype)
    return jnp.expand_dims(x.astype(like.dtype), tuple(range(like.ndim - x.ndim)))
