"""Half precision: bfloat16 and float16 store numbers, sums are taken in float32.

A sum of ones in bfloat16 ends at 256, since 256 + 1 is rounded to 256; in float16 it ends at 2048, and 65504 is the
largest number. XLA sums in the type it is given, in the gradient of a broadcast and of a lookup as well. So whatever
sums many numbers works on `wide` arrays and rounds its result once, and whatever holds one number for many (a bias)
reaches them by `spread`. Both leave float32 and float64 as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(dtype: Any) -> Any:
    """The dtype to sum in: float32 for bfloat16 and float16, otherwise the dtype itself."""
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def wide(x: jax.Array) -> jax.Array:
    """x in at least float32; its gradient is summed there and then rounded to x's dtype. Integers stay as they are."""
    dtype = wide_dtype(x.dtype)
    return x if dtype == x.dtype else x.astype(dtype)


def rounded(y: jax.Array, dtype: Any) -> jax.Array:
    """What was computed of `wide` arrays, in their half-precision dtype; for every other dtype, y as it is."""
    return y.astype(dtype) if dtype != wide_dtype(dtype) else y


def spread(x: jax.Array, like: jax.Array) -> jax.Array:
    """x in the dtype of `like` and in a shape that broadcasts against it; the gradient is summed in at least float32.

    For a half-precision `like`, x is converted to float32, broadcast to `like`'s shape, and converted to its dtype:
    the transpose of that converts the gradient to float32, sums it, and converts the sum. Otherwise x gets leading axes
    of length 1, as NumPy's broadcasting adds them.

    Args:
      x: a bias or another parameter, whose shape broadcasts against that of `like` from the right.
      like: activations.
    """
    dtype = wide_dtype(like.dtype)
    if dtype != like.dtype:
        return jnp.broadcast_to(x.astype(dtype), like.shape).astype(like.dtype)
    return jnp.expand_dims(x.astype(like.dtype), tuple(range(like.ndim - x.ndim)))
