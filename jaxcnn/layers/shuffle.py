"""Channels in another order, and channels that become pixels."""

from __future__ import annotations

import jax

from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import count, images, stateless


@layer
def channel_shuffle(groups: int) -> Layer:
    """The channels dealt out like cards: of C channels in G groups, channel g C / G + j becomes channel j G + g.

    Behind a grouped convolution, the next one then gets channels of every group.

    Args:
      groups: G.

    Returns:
      A Layer `(..., C) -> (..., C)`.

    Raises:
      LayerError: when the channels cannot be divided into the groups.

    Source: Zhang et al., ShuffleNet (2018), section 3.1, figure 1 (c).
    """
    groups = count(groups, "groups")

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        *outer, channels = x.shape
        if channels % groups:
            raise LayerError(f"{channels} channels cannot be divided into groups={groups}")
        return x.reshape(*outer, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)

    return stateless(lambda key, x: {}, apply)


@layer
def pixel_shuffle(factor: int) -> Layer:
    """Channels that become pixels ("depth to space"): an image r times as high and wide, of r^2 times fewer channels.

    y[n, r i + u, r j + v, c] = x[n, i, j, c r^2 + u r + v] for u, v from 0 to r - 1

    A convolution and this layer enlarge an image as a transposed convolution with stride r does, without its uneven
    overlaps.

    Args:
      factor: r.

    Returns:
      A Layer `(N, H, W, C r^2) -> (N, r H, r W, C)`. PyTorch's `PixelShuffle` has the same order of channels.

    Raises:
      LayerError: when the channels cannot be divided by r^2, or for input that is no floating-point image.

    Source: Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional
      neural network (2016), section 3.2, equation 4.
    """
    factor = count(factor, "factor")

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        images(x, 2)
        n, height, width, channels = x.shape
        if channels % factor**2:
            raise LayerError(f"{channels} channels cannot be divided by factor^2 = {factor**2}")
        blocks = x.reshape(n, height, width, channels // factor**2, factor, factor)
        return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, factor * height, factor * width, channels // factor**2)

    return stateless(lambda key, x: {}, apply)
