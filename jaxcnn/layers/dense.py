"""The fully connected layer, and flattening before it."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, count, floating, stateless


@layer
def dense(
    features: int,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Fully connected layer: y = x kernel + bias, applied to the last axis.

    Args:
      features: the number of units.
      bias, kernel_init, bias_init: as in `conv`.

    Variables: params `kernel` `(D, features)`, `bias` `(features,)`.

    Returns:
      A Layer `(..., D) -> (..., features)`. Flatten images first; otherwise the layer acts on each pixel separately.

    Raises:
      LayerError: when D is not the one that the layer was initialized with, or for integer input.
    """
    features = count(features, "features")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        if not x.shape:
            raise LayerError("expected (..., D), got a scalar")
        floating(x)
        kernel_key, bias_key = jax.random.split(key)
        params = {"kernel": kernel_init(kernel_key, (x.shape[-1], features))}
        if bias:
            params["bias"] = bias_init(bias_key, (features,))
        return params

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        floating(x)
        kernel = params["kernel"]
        if x.shape[-1] != kernel.shape[0]:
            raise LayerError(
                f"made for {kernel.shape[0]} inputs, got {x.shape[-1]} in {x.shape}: "
                "the layer was initialized with an input of another size"
            )
        y = ops.matmul(x, kernel)
        return y + ops.spread(params["bias"], y) if bias else y

    return stateless(init, apply)


def flatten(x: jax.Array) -> jax.Array:
    """`(N, H, W, C) -> (N, H W C)`, row by row, channels last. In PyTorch's order the channels are first."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 fails for an empty batch
