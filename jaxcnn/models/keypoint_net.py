"""A network that finds points: a map for each point, and the mean position under it (Nibali et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import core
from jaxcnn.layers import conv, max_pool
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import model
from jaxcnn.ops.precision import wide


def expected_positions(maps: jax.Array, height: int, width: int) -> jax.Array:
    """The mean position under the softmax of each map, in pixels of the image: `(N, H, W, P) -> (N, P, 2)`, float32.

    p = softmax over the H W cells; (x, y) = (sum p x_j, sum p y_i) with the cells' edges spread over the image:
    x_j = width j / (W - 1), y_i = height i / (H - 1), so that a point may lie on the image's edge.

    Args:
      maps: scores of the cells.
      height, width: of the image in pixels.

    Source: Nibali et al., Numerical coordinate regression with convolutional neural networks (2018), section 3.
    """
    n, rows, columns, points = maps.shape
    p = jax.nn.softmax(wide(maps).reshape(n, rows * columns, points), axis=1).reshape(n, rows, columns, points)
    x = (p.sum(1) * jnp.linspace(0, width, columns)[:, None]).sum(1)
    y = (p.sum(2) * jnp.linspace(0, height, rows)[:, None]).sum(1)
    return jnp.stack([x, y], axis=-1)


@model("the positions of points (after Nibali et al. 2018)", input=(32, 32, 1), task="keypoints", classes=4)
def keypoint_net(classes: int = 4, *, width: int = 16) -> core.Layer:
    """Points in an image: `(N, H, W, C) -> (N, classes, 2)`, (x, y) in pixels, for images of any size.

    Two stages of two 3x3 convolutions halve the image; a third one, of dilated convolutions, sees the whole of a small
    image; a 1x1 convolution gives a map for each point, whose `expected_positions` are the output.

    Args:
      classes: the number of points.
      width: filters of the first stage; the others have 2 and 4 times as many.
    """
    layers: dict[str, core.Layer | Callable[..., Any]] = {}
    for stage in (1, 2):
        for i in (1, 2):
            layers |= conv_norm_act(width * stage, 3, at=f"{stage}_{i}")
        layers[f"pool{stage}"] = max_pool(2)
    for i, dilation in enumerate((1, 2, 4), 1):
        layers |= conv_norm_act(4 * width, 3, at=f"3_{i}", padding=dilation, dilation=dilation)
    layers["maps"] = conv(classes, 1)

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        _, height, width, _ = x.shape
        for name in layers:
            x = net[name](x)
        return expected_positions(x, height, width)

    return core.network(forward, **layers)
