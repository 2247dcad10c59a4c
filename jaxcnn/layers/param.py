"""Variables by themselves: any array, and a factor for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, count, floating, stateless


@layer
def param(shape: int | Sequence[int], init: Initializer = initializers.zeros) -> Layer:
    """A variable that a network's own function computes with: `net.NAME()` is the array.

    For what no layer has: weights that two layers share, a learned scale, the two factors of a low-rank change.

    Args:
      shape: of the array; an integer for a vector, `()` for one number.
      init: `(key, shape) -> array`, as in `jax.nn.initializers`.

    Variables: params `value`, of that shape. In PyTorch's files it has the layer's name alone, as `nn.Parameter` does.

    Returns:
      A Layer without inputs, whose output is `value` in its own dtype. `jaxcnn.ops.spread(net.NAME(), x)` brings it to
      the dtype and shape of activations, with a gradient that is summed in float32.

    Raises:
      LayerError: for a shape with anything but whole numbers of at least 1.

    Example:
      >>> def forward(net, x):
      ...     return x * net.scale()
      >>> scaled = cnn.network(forward, scale=cnn.param(64, jax.nn.initializers.ones))
    """
    sizes = tuple(count(size, "shape") for size in (shape if isinstance(shape, Sequence) else (shape,)))

    def make(key: jax.Array) -> dict[str, jax.Array]:
        return {"value": init(key, sizes)}

    def apply(params: dict[str, jax.Array]) -> jax.Array:
        value = params["value"]
        if value.shape != sizes:
            raise LayerError(f"made for {sizes}, got a value of shape {value.shape}")
        return value

    return stateless(make, apply)


@layer
def layer_scale(start: float = 1e-6) -> Layer:
    """Each channel times a number that is learned: y = x * scale, over the last axis.

    At the end of a residual branch, with a small start, it lets a block begin as its shortcut.

    Args:
      start: of all factors. ConvNeXt has 1e-6.

    Variables: params `scale` `(C,)`. In torchvision's files it is `(C, 1, 1)` and has the layer's name alone.

    Returns:
      A Layer `(..., C) -> (..., C)` in the input's dtype.

    Raises:
      LayerError: for another number of channels than the layer was made for, or integer input.

    Source: Touvron et al., Going deeper with image transformers (2021), section 2, equation 4.
    """

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        floating(x)
        return {"scale": initializers.constant(start)(key, x.shape[-1:])}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        floating(x)
        scale = params["scale"]
        if scale.shape != x.shape[-1:]:
            raise LayerError(f"made for {scale.size} channels, got {x.shape[-1]} in {x.shape}")
        values = ops.wide(x)
        return ops.rounded(values * ops.spread(scale, values), x.dtype)

    return stateless(init, apply)
