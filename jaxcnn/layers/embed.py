"""Embedding of words, or of other integers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, count, stateless


@layer
def embed(vocabulary: int, features: int, *, kernel_init: Initializer = initializers.normal(1.0)) -> Layer:
    """A vector for each integer: y[...] = kernel[x[...]].

    Args:
      vocabulary: the number of integers, which run from 0 to vocabulary - 1.
      features: the length of a vector.
      kernel_init: as in `jax.nn.initializers`.

    Variables: params `kernel` `(vocabulary, features)`.

    Returns:
      A Layer `(...) -> (..., features)`. An integer outside the vocabulary gives NaN, because no error can be raised
      inside `jit`, and a wrong vector would go unnoticed.

    Raises:
      LayerError: for input whose dtype is not an integer.
    """
    vocabulary, features = count(vocabulary, "vocabulary"), count(features, "features")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        return {"kernel": kernel_init(key, (vocabulary, features))}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise LayerError(f"expected integers from 0 to {vocabulary - 1}, got {x.dtype} of shape {x.shape}")
        # JAX would count a negative index from the end.
        index = jnp.where(x < 0, vocabulary, x)
        # The gradient sums the vectors of each word in float32.
        kernel = params["kernel"]
        return ops.rounded(jnp.take(ops.wide(kernel), index, axis=0, mode="fill", fill_value=jnp.nan), kernel.dtype)

    return stateless(init, apply)
