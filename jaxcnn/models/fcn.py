"""Fully convolutional networks (Long, Shelhamer and Darrell, Fully convolutional networks for semantic segmentation,
2015): a classifier whose dense layers became convolutions, and the way back from its coarse map to the pixels.

The last map of a classifier knows what is there, and hardly where: its pixels are 32 of the image's apart. FCN-32s
enlarges the scores of that map bilinearly. FCN-16s first adds scores of the map at stride 16, and FCN-8s of the one at
stride 8.
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
"""The classifiers that the networks can be built on."""


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
      stride: that of the finest map whose scores are used: 32, 16 or 8.
      backbone: the classifier, one of `BACKBONES`. VGG's dense layers become a 7x7 and a 1x1 convolution; ResNet's
        stages are taken as they are, and scored at once.
      width: filters of its first stage.
      units: filters of fc6 and fc7 (VGG).
      drop: dropout behind fc6 and fc7 (VGG).
      learn_last: whether the last upsampling is learned, too. The paper fixes it.

    Variables: those of the classifier under its own names, without the last dense layer; `score`, and for each of the
    finer maps `score_MAP` (a 1x1 convolution that starts at 0) and `up_MAP` (a transposed convolution, factor 2, that
    starts bilinearly); with `learn_last`, `up`. FCN-16s has all variables of FCN-32s, and FCN-8s all of FCN-16s.

    A trained classifier is put in after `convolutional` (see there):

      >>> _, trained, _ = convolutional(vgg16(), classifier, {}, (224, 224, 3))
      >>> params |= {name: trained[name] for name in trained if name in params}

    Against the paper: fc6 is padded by 3 and pools round up, as the authors' Caffe does, where they put 100 zeros
    around the image; so the maps need no offset, and are only cut at the far ends. Before an upsampling, a map is
    continued by its own border, not by zeros. ResNets (2016) came later: their strided convolutions stand on the first
    pixel of a block and not in its middle, and the kernels are odd accordingly.

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
    """FCN-32s: the scores of the last map, enlarged 32 times. Options are those of `fcn`."""
    return fcn(32, classes, backbone, **options)


@model("a class a pixel, from stride 16 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def fcn16s(classes: int = 21, backbone: str = "vgg16", **options: Any) -> core.Layer:
    """FCN-16s: the scores of the last two maps together, enlarged 16 times. Options are those of `fcn`."""
    return fcn(16, classes, backbone, **options)


@model("a class a pixel, from stride 8 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def fcn8s(classes: int = 21, backbone: str = "vgg16", **options: Any) -> core.Layer:
    """FCN-8s: the scores of the last three maps together, enlarged 8 times. Options are those of `fcn`."""
    return fcn(8, classes, backbone, **options)


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """The first rows and columns of the images, as many as `like` has."""
    return x[:, : like.shape[1], : like.shape[2]]


# --- the parts ---------------------------------------------------------------------------------------------------

Trunk = dict[str, core.Layer | Callable[..., Any]]


def _trunk(backbone: str, width: int, units: int, drop: float) -> tuple[Trunk, tuple[str, str], bool]:
    """The layers down to stride 32, the names of the maps at strides 16 and 8, and whether maps stand on corners."""
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
    """A transposed convolution that starts as `upsample`, on a map that is continued by one pixel on each side."""
    size, padding = (2 * factor - 1, 2 * factor - 1) if corner else (2 * factor, factor + factor // 2)
    grown = conv_transpose(
        classes, size, factor, padding, output_padding=factor - 1 if corner else 0, bias=False, kernel_init=bilinear
    )
    return core.serial(edge=_edge, conv=grown)


def _edge(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
