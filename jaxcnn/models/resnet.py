"""Residual networks for ImageNet (He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016).

What the layers of a block learn is the difference from its input: H(x) = F(x) + x. Where F is of no use, weights near
zero leave x as it is, and so a deeper network is not harder to fit than a shallow one.
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
    """The shortcut to another shape: a 1x1 convolution, normalized."""
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
    """Two 3x3 convolutions and a shortcut around them: `(N, H, W, C) -> (N, H / stride, W / stride, features)`.

    Args:
      project: whether the shortcut is a projection; if not, it is the identity, and C is `features` already.
      last_scale: where the scale of the last normalization starts. At zero, the block starts as its shortcut.
      padding: as in `resnet`.

    Source: He et al. (2016), figure 5 on the left.
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
    """1x1 to a quarter of the features, 3x3 there, 1x1 back, and a shortcut around them.

    Arguments and shapes as in `basic_block`. As in torchvision ("v1.5"), the 3x3 convolution has the stride, where the
    paper has it in the first 1x1, which then skips three of four pixels.

    Source: He et al. (2016), figure 5 on the right.
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
      blocks: how many there are in each stage: a column of the paper's table 1.
      bottleneck: blocks of three convolutions, whose outputs have four times the features, instead of two.
      width: filters of the stem and the first stage. Each stage has twice as many on half as many rows and columns.
      stem: `"imagenet"`, a 7x7 convolution and a pool that leave a quarter of the rows and columns, or `"cifar"` for
        small images, a 3x3 convolution that leaves them all.
      zero_init_residual: whether every block starts as its shortcut (Goyal et al. 2017, section 5.1).
      padding: where the 3x3 windows of stride 2, the stem's pool included, have their border: `"symmetric"`, one pixel
        on every side, as torchvision's weights expect; or `"same"`, as those of Flax's ImageNet example do: of an even
        number of rows or columns only behind the last.

    Shortcuts are the identity, and projections where the shape changes: the paper's option B. The weights start by
    fan-out (He et al. 2015), as in torchvision.

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
