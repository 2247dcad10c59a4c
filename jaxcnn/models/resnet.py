"""Residual networks for ImageNet (He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016).

The layers of a block learn the difference from its input: H(x) = F(x) + x. If F does not help, weights near zero leave
x unchanged, so a deeper network is not harder to fit than a shallow one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import batch_norm, dense, global_avg_pool, max_pool, relu
from jaxcnn.layers.common import Initializer
from jaxcnn.models.blocks import conv_norm_act, uniform_fan_in
from jaxcnn.models.registry import Published, model, with_weights

Pads = Literal["symmetric", "same"]
_PADS: dict[str, Any] = {"symmetric": None, "same": "SAME"}


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        there = "/".join(path).replace("shortcut/conv", "downsample/0").replace("shortcut/bn", "downsample/1")
        return re.sub(r"block(\d+)", lambda m: str(int(m[1]) - 1), there).replace("/", ".")

    return name


WEIGHTS = Published("resnet", _torch_names, heads=("fc",))


def _projection(features: int, stride: int) -> core.Layer:
    """The shortcut when the shape changes: a 1x1 convolution with normalization."""
    return core.serial(**conv_norm_act(features, 1, stride, act=None))


@core.layer
def basic_block(
    features: int,
    stride: int = 1,
    *,
    project: bool = False,
    last_scale: Initializer = initializers.ones,
    padding: Pads = "symmetric",
) -> core.Layer:
    """Two 3x3 convolutions with a shortcut: `(N, H, W, C) -> (N, H / stride, W / stride, features)`.

    Args:
      project: whether the shortcut is a projection; otherwise it is the identity, and C must equal `features`.
      last_scale: the initializer of the last normalization's scale. With zeros, the block starts as its shortcut.
      padding: as in `resnet`.

    Source: He et al. (2016), figure 5, left.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = net.bn2(net.conv2(y))
        return relu(y + (net.shortcut(x) if project else x))

    return core.network(
        forward,
        **conv_norm_act(features, 3, stride, at="1", padding=_PADS[padding], act=None),
        **conv_norm_act(features, 3, at="2", norm=batch_norm(scale_init=last_scale), act=None),
        **({"shortcut": _projection(features, stride)} if project else {}),
    )


@core.layer
def bottleneck_block(
    features: int,
    stride: int = 1,
    *,
    project: bool = False,
    last_scale: Initializer = initializers.ones,
    padding: Pads = "symmetric",
) -> core.Layer:
    """A 1x1 convolution to a quarter of the features, a 3x3 convolution, a 1x1 convolution back, with a shortcut.

    Arguments and shapes as in `basic_block`. As in torchvision ("v1.5"), the 3x3 convolution has the stride. In the
    paper, the first 1x1 convolution has it, which ignores three of four pixels.

    Source: He et al. (2016), figure 5, right.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = relu(net.bn2(net.conv2(y)))
        y = net.bn3(net.conv3(y))
        return relu(y + (net.shortcut(x) if project else x))

    return core.network(
        forward,
        **conv_norm_act(features // 4, 1, at="1", act=None),
        **conv_norm_act(features // 4, 3, stride, at="2", padding=_PADS[padding], act=None),
        **conv_norm_act(features, 1, at="3", norm=batch_norm(scale_init=last_scale), act=None),
        **({"shortcut": _projection(features, stride)} if project else {}),
    )


@with_weights(WEIGHTS)
@core.layer
def resnet(
    blocks: Sequence[int],
    classes: int = 1000,
    *,
    bottleneck: bool = False,
    width: int = 64,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    zero_init_residual: bool = False,
    padding: Pads = "symmetric",
) -> core.Layer:
    """A stem, stages of residual blocks, the mean over the image and one dense layer: `(N, H, W, C) -> (N, classes)`.

    Args:
      blocks: the number of blocks in each stage: a column of the paper's table 1.
      bottleneck: whether blocks have three convolutions, and four times as many output features, instead of two.
      width: filters of the stem and the first stage. Each stage has twice as many, on half as many rows and columns.
      stem: `"imagenet"`, a 7x7 convolution and a pool, which reduce rows and columns to a quarter; or `"cifar"` for
        small images, a 3x3 convolution, which keeps them.
      zero_init_residual: whether every block starts as its shortcut (Goyal et al. 2017, section 5.1).
      padding: the padding of the 3x3 windows of stride 2, including the stem's pool: `"symmetric"`, one pixel on every
        side, for torchvision's weights; or `"same"`, for the weights of Flax's ImageNet example: for an even number of
        rows or columns, one pixel after the last.

    Shortcuts are the identity, or projections if the shape changes: the paper's option B. The initial weights are those
    of He et al. (2015) with fan-out, as in torchvision.

    Source: section 3.4, figure 3 and table 1. The small stem is that of section 4.2.
    """
    if stem not in ("imagenet", "cifar"):
        raise UserError(f"stem={stem!r}: expected 'imagenet' or 'cifar'")
    if padding not in ("symmetric", "same"):
        raise UserError(f"padding={padding!r}: expected 'symmetric' or 'same'")
    layers = conv_norm_act(width, *((7, 2) if stem == "imagenet" else (3,)), at="1")
    if stem == "imagenet":
        layers["maxpool"] = max_pool(3, 2, 1 if padding == "symmetric" else "SAME")

    block, expansion = (bottleneck_block, 4) if bottleneck else (basic_block, 1)
    shared: dict[str, Any] = {"last_scale": initializers.zeros if zero_init_residual else initializers.ones}
    if padding != "symmetric":
        shared["padding"] = padding
    entering = width
    for stage, count in enumerate(blocks, 1):
        features, stride = expansion * width * 2 ** (stage - 1), 1 if stage == 1 else 2
        changes = stride != 1 or features != entering
        first = block(features, stride, project=changes, **shared)
        rest = {f"block{i}": block(features, **shared) for i in range(2, count + 1)}
        layers[f"layer{stage}"] = core.serial(block1=first, **rest)
        entering = features
    return core.serial(**layers, avgpool=global_avg_pool, fc=dense(classes, kernel_init=uniform_fan_in))


# The columns of table 1. The options are those of `resnet`.


@model("residual network, 18 layers (He et al. 2015)", input=(224, 224, 3), published=WEIGHTS)
def resnet18(classes: int = 1000, **options: Any) -> core.Layer:
    """18 layers in basic blocks: 11,689,512 parameters for RGB. Options are those of `resnet`."""
    return resnet((2, 2, 2, 2), classes, **options)


@model("residual network, 34 layers (2015)", input=(224, 224, 3), published=WEIGHTS)
def resnet34(classes: int = 1000, **options: Any) -> core.Layer:
    """34 layers in basic blocks: 21,797,672 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 6, 3), classes, **options)


@model("residual network, 50 layers in bottlenecks (2015)", input=(224, 224, 3), published=WEIGHTS)
def resnet50(classes: int = 1000, **options: Any) -> core.Layer:
    """50 layers in bottlenecks: 25,557,032 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 6, 3), classes, bottleneck=True, **options)


@model("residual network, 101 layers in bottlenecks (2015)", input=(224, 224, 3), published=WEIGHTS)
def resnet101(classes: int = 1000, **options: Any) -> core.Layer:
    """101 layers in bottlenecks: 44,549,160 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 23, 3), classes, bottleneck=True, **options)


@model("residual network, 152 layers in bottlenecks (2015)", input=(224, 224, 3), published=WEIGHTS)
def resnet152(classes: int = 1000, **options: Any) -> core.Layer:
    """152 layers in bottlenecks: 60,192,808 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 8, 36, 3), classes, bottleneck=True, **options)
