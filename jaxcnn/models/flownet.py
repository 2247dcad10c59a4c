"""FlowNet (Fischer et al., FlowNet: Learning optical flow with convolutional networks, 2015), both forms.

A contracting part reduces the images to 1/64 of their size. An expanding part predicts the flow from coarse to fine;
each scale uses the contracting part's map of the same size and the flow of the coarser scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import conv, conv_transpose, leaky_relu
from jaxcnn.models.registry import model
from jaxcnn.ops.bilinear import bilinear, upsample
from jaxcnn.ops.correlation import correlation
from jaxcnn.ops.precision import rounded, wide

_he = initializers.he_normal()
_small = initializers.normal(0.001)
_COARSEST = 64  # the stride of the last map: six convolutions of stride 2
_FINEST = 4  # the stride of the finest flow


def _unit(features: int, size: int, stride: int = 1) -> core.Layer:
    """A convolution that keeps the image's size (at stride 2: halves it), and a leaky ReLU."""
    convolved = conv(features, size, stride, padding=size // 2, kernel_init=_he)
    return core.serial(conv=convolved, relu=leaky_relu(0.1))


def _up(features: int) -> core.Layer:
    """A transposed convolution that doubles the image's size, and a leaky ReLU."""
    return core.serial(conv=conv_transpose(features, 4, 2, padding=1, kernel_init=_he), relu=leaky_relu(0.1))


def _deeper(f: int) -> dict[str, core.Layer | Callable]:
    """The layers of both forms after conv3: the rest of the contracting part, and the expanding part."""
    layers: dict[str, core.Layer | Callable] = {
        "conv3_1": _unit(4 * f, 3),
        "conv4": _unit(8 * f, 3, 2),
        "conv4_1": _unit(8 * f, 3),
        "conv5": _unit(8 * f, 3, 2),
        "conv5_1": _unit(8 * f, 3),
        "conv6": _unit(16 * f, 3, 2),
        "conv6_1": _unit(16 * f, 3),
    }
    for level, features in ((5, 8 * f), (4, 4 * f), (3, 2 * f), (2, f)):
        layers[f"deconv{level}"] = _up(features)
    for level in (6, 5, 4, 3, 2):
        layers[f"flow{level}"] = conv(2, 3, padding=1, kernel_init=_small)
    for level in (5, 4, 3, 2):
        layers[f"upflow{level}"] = conv_transpose(2, 4, 2, padding=1, kernel_init=bilinear)
    return layers


def _contracted(net: core.Net, x: jax.Array) -> dict[int, jax.Array]:
    """conv3_1 to conv6_1: the maps at 1/8, 1/16, 1/32 and 1/64, by level."""
    maps = {3: net.conv3_1(x)}
    for level in (4, 5, 6):
        maps[level] = net[f"conv{level}_1"](net[f"conv{level}"](maps[level - 1]))
    return maps


def _expanded(net: core.Net, maps: dict[int, jax.Array], scale: float, image: jax.Array, every: bool) -> Any:
    """The flows at all scales in pixels, finest first, or the finest at the image's size."""
    x = maps[6]
    flows = [net.flow6(x)]
    for level in (5, 4, 3, 2):
        x = core.concat(maps[level], net[f"deconv{level}"](x), net[f"upflow{level}"](flows[0]))
        flows.insert(0, net[f"flow{level}"](x))
    flows = [scale * flow for flow in flows]
    if every:
        return tuple(flows)
    return upsample(flows[0], _FINEST)[:, : image.shape[1], : image.shape[2]]


def _prepared(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both images, normalized together to mean 0 and std 1, and padded at bottom and right to a multiple of 64."""
    if first.shape != second.shape or first.ndim != 4:
        raise core.LayerError(f"expected two images (N, H, W, C) of one shape, got {first.shape} and {second.shape}")
    both = wide(jnp.stack([first, second]))
    mean, deviation = (f(both, (0, 2, 3, 4), keepdims=True) for f in (jnp.mean, jnp.std))
    edges = ((0, 0), (0, 0), *((0, -side % _COARSEST) for side in first.shape[1:3]), (0, 0))
    dtype = jnp.result_type(first, second)
    first, second = rounded(jnp.pad((both - mean) / jnp.maximum(deviation, 1e-3), edges, "edge"), dtype)
    return first, second


@model(
    "optical flow of two images (Fischer et al. 2015)",
    input=(384, 512, 3),
    task="flow",
    classes=2,
    more=(((384, 512, 3), "float32"),),
)
def flownet_s(*, width: int = 64, scale: float = 20.0) -> core.Layer:
    """FlowNetSimple: two images `(N, H, W, C)`, stacked along the channels, to the flow from the first to the second.

    Args:
      width: filters of the first convolution; the others have up to 16 times as many. The paper's value is 64.
      scale: the flow in pixels for an output of 1 of the convolutions that predict it.

    Returns:
      A Layer of two inputs, of any size. In an evaluation, its output is `(N, H, W, 2)`: the finest flow (dx, dy) in
      pixels, upsampled bilinearly to the image's size. In training, the output is the flows at all five scales,
      `(N, h, w, 2)` each, finest first: 1/4, 1/8, 1/16, 1/32 and 1/64 of the image, which is padded to a multiple of
      64. All flows are in pixels of the image.

    Against the paper: each pair of images is normalized to mean 0 and std 1; there is a second convolution at 1/64
    (conv6_1), as in the authors' code; the coarser flow is upsampled by transposed convolutions that start bilinear.

    Source: section 3, figures 2 and 3.
    """
    f = width

    def forward(net: core.Net, first: jax.Array, second: jax.Array) -> Any:
        x = core.concat(*_prepared(first, second))
        two = net.conv2(net.conv1(x))
        maps = {2: two} | _contracted(net, net.conv3(two))
        return _expanded(net, maps, scale, first, net.train)

    return core.network(forward, conv1=_unit(f, 7, 2), conv2=_unit(2 * f, 5, 2), conv3=_unit(4 * f, 5, 2), **_deeper(f))


@model(
    "optical flow by correlation (2015)",
    input=(384, 512, 3),
    task="flow",
    classes=2,
    more=(((384, 512, 3), "float32"),),
)
def flownet_c(*, width: int = 64, scale: float = 20.0, displacement: int = 20, stride: int = 2) -> core.Layer:
    """FlowNetCorr: the same convolutions give the features of each image, and their correlation follows.

    Args:
      width, scale: as in `flownet_s`.
      displacement: the largest displacement between compared positions along each axis, on maps of 1/8 of the size: the
        paper's 20 means 160 pixels. The number of pairs grows with its square.
      stride: the step between displacements; the paper's values give 21 x 21 of them.

    Returns:
      A Layer with the inputs and outputs of `flownet_s`.

    Source: section 3, figure 2; the correlation is equation 1.
    """
    f = width

    def forward(net: core.Net, first: jax.Array, second: jax.Array) -> Any:
        both = jnp.concatenate(_prepared(first, second))  # one batch, since both images have the same filters
        two = net.conv2(net.conv1(both))
        ours, theirs = jnp.split(net.conv3(two), 2)
        alike = jax.nn.leaky_relu(correlation(ours, theirs, displacement, stride), 0.1)
        x = core.concat(net.redirect(ours), alike)
        maps = {2: two[: first.shape[0]]} | _contracted(net, x)
        return _expanded(net, maps, scale, first, net.train)

    return core.network(
        forward, conv1=_unit(f, 7, 2), conv2=_unit(2 * f, 5, 2), conv3=_unit(4 * f, 5, 2),
        redirect=_unit(max(f // 2, 1), 1), **_deeper(f),
    )  # fmt: skip
