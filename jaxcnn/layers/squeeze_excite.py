"""Squeeze and excitation: channels weighted by what the whole image holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, Net, layer, network
from jaxcnn.layers.activation import relu, sigmoid
from jaxcnn.layers.common import Initializer, count, images
from jaxcnn.layers.conv import conv


@layer
def squeeze_excite(
    features: int,
    hidden: int,
    activation: Callable[..., Any] | Layer = relu,
    gate: Callable[..., Any] | Layer = sigmoid,
    *,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Each channel times a number from 0 to 1 that follows from the means of all channels.

    y[n, i, j, c] = x[n, i, j, c] g[n, c],  g = gate(fc2(activation(fc1(mean over i, j of x))))

    Args:
      features: C, the channels of the input.
      hidden: the units of fc1; the paper has C / 16.
      activation: of the hidden units.
      gate: of the C outputs of fc2; `hard_sigmoid` in MobileNetV3.
      kernel_init, bias_init: as in `conv`.

    Variables: params `fc1`: `kernel` `(1, 1, C, hidden)`, `bias` `(hidden,)`; `fc2`: `kernel` `(1, 1, hidden, C)`,
      `bias` `(C,)`. They are 1x1 convolutions of an image of one pixel, as in torchvision's files.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *spatial, C)` in the input's dtype; g is computed in float32 at least.

    Raises:
      LayerError: for another number of channels than `features`, or input that is no floating-point image.

    Source: Hu, Shen and Sun, Squeeze-and-excitation networks (2018), section 3, equations 2 to 4.
    """
    features, hidden = count(features, "features"), count(hidden, "hidden")

    def forward(net: Net, x: jax.Array) -> jax.Array:
        images(x)
        if x.shape[-1] != features:
            raise LayerError(f"made for {features} channels, got {x.shape[-1]} in {x.shape}")
        values = ops.wide(x)
        mean = ops.global_avg_pool(values).reshape(x.shape[0], *[1] * (x.ndim - 2), features)
        return ops.rounded(values * net.gate(net.fc2(net.activation(net.fc1(mean)))), x.dtype)

    first: dict[str, Any] = {"kernel_init": kernel_init, "bias_init": bias_init}
    return network(
        forward, fc1=conv(hidden, 1, **first), activation=activation, fc2=conv(features, 1, **first), gate=gate
    )
