"""Fully convolutional networks (Long, Shelhamer and Darrell, Fully convolutional networks for semantic segmentation,
2015): a classifier whose dense layers became convolutions, and upsampling from its coarse map to the pixels.

The last map of a classifier says what is in the image, but only roughly where: its stride is 32. FCN-32s enlarges the
scores of that map bilinearly. FCN-16s first adds the scores of the map at stride 16, and FCN-8s those at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError, unknown
from jaxcnn.layers import conv, conv_transpose, max_pool
from jaxcnn.models.registry import model
from jaxcnn.models.resnet import resnet18, resnet34, resnet50
from jaxcnn.models.vgg import vgg11, vgg13, vgg16, vgg19
from jaxcnn.ops.bilinear import bilinear, upsample

_VGG = {"vgg11": vgg11, "vgg13": vgg13, "vgg16": vgg16, "vgg19": vgg19}
_RESNET = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}
_he = initializers.he_normal()

BACKBONES = (*_VGG, *(f"{name}_bn" for name in _VGG), *_RESNET)
"""The classifiers that can be the backbone."""


@core.layer
def fcn(
    stride: int,
    classes: int = 21,
    backbone: str = "vgg16",
    *,
    width: int = 64,
    units: int = 4096,
    drop: float = 0.5,
    learn_last: bool = False,
) -> core.Layer:
    """Scores of each class for each pixel: `(N, H, W, C) -> (N, H, W, classes)` logits, for any H and W.

    Args:
      stride: the stride of the finest map whose scores are used: 32, 16 or 8.
      backbone: the classifier, one of `BACKBONES`. VGG's dense layers become a 7x7 and a 1x1 convolution; ResNet's
        stages are used unchanged, and the scores follow directly.
      width: filters of the first stage.
      units: filters of fc6 and fc7 (VGG).
      drop: dropout after fc6 and fc7 (VGG).
      learn_last: whether the last upsampling is learned, too. It is fixed in the paper.

    Variables: those of the classifier under its names, without the last dense layer; `score`, and for each finer map
    `score_MAP` (a 1x1 convolution that starts at 0) and `up_MAP` (a transposed convolution, factor 2, that starts
    bilinearly); with `learn_last`, `up`. FCN-16s has all variables of FCN-32s, and FCN-8s all of FCN-16s.

    To use a trained classifier, convert it by `convolutional` first:

      >>> _, trained, _ = convolutional(vgg16(), classifier, {}, (224, 224, 3))
      >>> params |= {name: trained[name] for name in trained if name in params}

    Against the paper: fc6 is padded by 3, where the authors pad the image by 100 zeros, and pools round up, as in their
    Caffe. So the maps need no offset, and are only cropped at the far ends. Before upsampling, a map is padded with its
    edge values, not with zeros. ResNets (2016) came later: their strided convolutions are centred on the first pixel of
    a block, not on its middle, so the upsampling kernels are odd.

    Raises:
      UserError: for another stride or backbone.

    Source: sections 3.1 to 3.3, 4.1 and 4.2.
    """
    if stride not in (32, 16, 8):
        raise UserError(f"fcn(stride={stride}): expected 32, 16 or 8")
    trunk, finer, corner = _trunk(backbone, width, units, drop)
    used = finer[: {32: 0, 16: 1, 8: 2}[stride]]
    up = _learned_upsampling(classes, stride, corner) if learn_last else _upsampling(stride, corner)

    def forward(net: core.Net, image: jax.Array) -> jax.Array:
        maps, x = {}, image
        for name in trunk:
            x = maps[name] = net[name](x)
        y = net.score(x)
        for name in used:
            y = cropped(net[f"up_{name}"](y), maps[name]) + net[f"score_{name}"](maps[name])
        return cropped(net.up(y), image)

    return core.network(
        forward,
        **trunk,
        score=_score(classes),
        **{f"score_{name}": _score(classes) for name in used},
        **{f"up_{name}": _learned_upsampling(classes, 2, corner) for name in used},
        up=up,
    )


# The networks of section 4.2. The options are those of `fcn`.


@model("a class a pixel, from stride 32 (Long et al. 2015)", input=(240, 320, 3), task="segmentation", classes=21)
def fcn32s(classes: int = 21, backbone: str = "vgg16", **options: Any) -> core.Layer:
    """FCN-32s: the scores of the last map, upsampled 32 times. Options are those of `fcn`."""
    return fcn(32, classes, backbone, **options)


@model("a class a pixel, from stride 16 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def fcn16s(classes: int = 21, backbone: str = "vgg16", **options: Any) -> core.Layer:
    """FCN-16s: the sum of the scores of the last two maps, upsampled 16 times. Options are those of `fcn`."""
    return fcn(16, classes, backbone, **options)


@model("a class a pixel, from stride 8 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def fcn8s(classes: int = 21, backbone: str = "vgg16", **options: Any) -> core.Layer:
    """FCN-8s: the sum of the scores of the last three maps, upsampled 8 times. Options are those of `fcn`."""
    return fcn(8, classes, backbone, **options)


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """The images cropped to the height and width of `like`, at the top left."""
    return x[:, : like.shape[1], : like.shape[2]]


# --- the parts ---------------------------------------------------------------------------------------------------

Trunk = dict[str, core.Layer | Callable[..., Any]]


def _trunk(backbone: str, width: int, units: int, drop: float) -> tuple[Trunk, tuple[str, str], bool]:
    """The layers up to stride 32, the names of the maps at strides 16 and 8, and `corner` for `upsample`."""
    if backbone in _RESNET:
        layers: Trunk = dict(_RESNET[backbone](width=width).sublayers)
        del layers["avgpool"], layers["fc"]
        return layers, ("layer3", "layer2"), True
    if backbone not in BACKBONES:
        raise unknown("backbone", backbone, BACKBONES)
    layers = dict(_VGG[backbone.removesuffix("_bn")](width=width, drop=drop, norm=backbone.endswith("_bn")).sublayers)
    del layers["avgpool"], layers["flat"], layers["fc8"]
    layers |= {f"pool{stage}": max_pool(2, ceil=True) for stage in range(1, 6)}
    layers |= {"fc6": conv(units, 7, padding=3, kernel_init=_he), "fc7": conv(units, 1, kernel_init=_he)}
    return layers, ("pool4", "pool3"), False


def _score(classes: int) -> core.Layer:
    """A 1x1 convolution that starts at 0 (section 4.1)."""
    return conv(classes, 1, kernel_init=initializers.zeros)


def _upsampling(factor: int, corner: bool) -> Callable[[jax.Array], jax.Array]:
    def fixed(x: jax.Array) -> jax.Array:
        return upsample(x, factor, corner=corner)

    return fixed


def _learned_upsampling(classes: int, factor: int, corner: bool) -> core.Layer:
    """A transposed convolution that starts as `upsample`, on a map padded by one pixel on each side."""
    size, padding = (2 * factor - 1, 2 * factor - 1) if corner else (2 * factor, factor + factor // 2)
    grown = conv_transpose(
        classes, size, factor, padding, output_padding=factor - 1 if corner else 0, bias=False, kernel_init=bilinear
    )
    return core.serial(edge=_edge, conv=grown)


def _edge(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
