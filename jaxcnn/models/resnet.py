"""Residual networks for ImageNet (He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016).

The layers of a block learn the difference from its input: H(x) = F(x) + x. If F does not help, weights near zero leave
x unchanged, so a deeper network is not harder to fit than a shallow one.

Two families change the bottlenecks. ResNeXt (Xie, Girshick, Dollar, Tu and He, Aggregated residual transformations for
deep neural networks, 2017) divides their 3x3 convolutions into groups. Wide ResNets (Zagoruyko and Komodakis, Wide
residual networks, 2016) give them more filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
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


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        there = "/".join(path).replace("shortcut/conv", "downsample/0").replace("shortcut/bn", "downsample/1")
        return re.sub(r"block(\d+)", lambda m: str(int(m[1]) - 1), there).replace("/", ".")

    return name


WEIGHTS = Published("resnet", _torch_names, heads=("fc",))


def _conv3(features: int, stride: int, at: str, padding: Pads, dilation: int, **options: Any) -> dict[str, Any]:
    """A 3x3 convolution, normalized; the activation stands in the block's function."""
    if dilation > 1:
        options["dilation"] = dilation
    pads: Any = "SAME" if padding == "same" else dilation
    return conv_norm_act(features, 3, stride, at=at, padding=pads, act=None, **options)


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
    dilation: tuple[int, int] = (1, 1),
) -> core.Layer:
    """Two 3x3 convolutions with a shortcut: `(N, H, W, C) -> (N, H / stride, W / stride, features)`.

    Args:
      project: whether the shortcut is a projection; otherwise it is the identity, and C must equal `features`.
      last_scale: the initializer of the last normalization's scale. With zeros, the block starts as its shortcut.
      padding: as in `resnet`.
      dilation: the distance between the taps of the first 3x3 convolution, and of the second.

    Source: He et al. (2016), figure 5, left.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = net.bn2(net.conv2(y))
        return relu(y + (net.shortcut(x) if project else x))

    return core.network(
        forward,
        **_conv3(features, stride, "1", padding, dilation[0]),
        **_conv3(features, 1, "2", "symmetric", dilation[1], norm=batch_norm(scale_init=last_scale)),
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
    dilation: tuple[int, int] = (1, 1),
    inner: int | None = None,
    groups: int = 1,
) -> core.Layer:
    """A 1x1 convolution to a quarter of the features, a 3x3 convolution, a 1x1 convolution back, with a shortcut.

    Arguments and shapes as in `basic_block`, and:

    Args:
      dilation: only the first number is used: there is one 3x3 convolution.
      inner: the number of filters of the first two convolutions; a quarter of the features when None.
      groups: the number of groups of the 3x3 convolution.

    As in torchvision ("v1.5"), the 3x3 convolution has the stride. In the paper, the first 1x1 convolution has it and
    ignores three of four pixels.

    Source: He et al. (2016), figure 5, right; with groups, Xie et al. (2017), figure 3 (c).
    """
    width = features // 4 if inner is None else inner
    grouped: dict[str, Any] = {"groups": groups} if groups > 1 else {}

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = relu(net.bn2(net.conv2(y)))
        y = net.bn3(net.conv3(y))
        return relu(y + (net.shortcut(x) if project else x))

    return core.network(
        forward,
        **conv_norm_act(width, 1, at="1", act=None),
        **_conv3(width, stride, "2", padding, dilation[0], **grouped),
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
    groups: int = 1,
    group_width: int = 64,
    output_stride: int = 32,
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
      groups, group_width: of the bottlenecks' 3x3 convolutions, which have groups * group_width filters in the first
        stage when `width` is 64: ResNeXt's cardinality and its d.
      output_stride: the distance in pixels of the image between two positions of the last map: 32, 16 or 8. Later
        stages keep their rows and columns, and their 3x3 convolutions are dilated instead (Yu and Koltun, Multi-scale
        context aggregation by dilated convolutions, 2016), so that trained weights see what they saw.

    Shortcuts are the identity, or projections if the shape changes: the paper's option B. The initial weights are those
    of He et al. (2015) with fan-out, as in torchvision.

    Raises:
      UserError: for a stem, padding or output stride that is none of these, or groups of basic blocks.

    Source: section 3.4, figure 3 and table 1. The small stem is that of section 4.2.
    """
    if stem not in ("imagenet", "cifar"):
        raise UserError(f"stem={stem!r}: expected 'imagenet' or 'cifar'")
    if padding not in ("symmetric", "same"):
        raise UserError(f"padding={padding!r}: expected 'symmetric' or 'same'")
    if output_stride not in (8, 16, 32):
        raise UserError(f"output_stride={output_stride}: expected 8, 16 or 32")
    if not bottleneck and (groups, group_width) != (1, 64):
        raise UserError("groups and group_width are for networks of bottlenecks: pass bottleneck=True")
    layers = conv_norm_act(width, *((7, 2) if stem == "imagenet" else (3,)), at="1")
    if stem == "imagenet":
        layers["maxpool"] = max_pool(3, 2, 1 if padding == "symmetric" else "SAME")

    expansion = 4 if bottleneck else 1
    shared: dict[str, Any] = {"last_scale": initializers.zeros if zero_init_residual else initializers.ones}
    if padding != "symmetric":
        shared["padding"] = padding
    if groups > 1:
        shared["groups"] = groups
    entering, dilation = width, 1
    for stage, count in enumerate(blocks, 1):
        planes, stride, before = width * 2 ** (stage - 1), 1 if stage == 1 else 2, dilation
        if 2 ** (stage + 1) > output_stride:
            stride, dilation = 1, 2 * dilation
        if (groups, group_width) != (1, 64):
            shared["inner"] = planes * group_width // 64 * groups
        changes = stride != 1 or expansion * planes != entering
        layers[f"layer{stage}"] = _stage(
            bottleneck_block if bottleneck else basic_block, count, expansion * planes, stride, changes,
            (before, dilation), shared,
        )  # fmt: skip
        entering = expansion * planes
    return core.serial(**layers, avgpool=global_avg_pool, fc=dense(classes, kernel_init=uniform_fan_in))


def _stage(
    block: Callable[..., core.Layer],
    count: int,
    features: int,
    stride: int,
    project: bool,
    dilation: tuple[int, int],
    options: dict[str, Any],
) -> core.Layer:
    """Blocks one after the other. The first has the stride, and begins at the dilation of the stage before."""
    before, after = dilation
    first, rest = ({"dilation": (before, after)}, {"dilation": (after, after)}) if after > 1 else ({}, {})
    layers = {"block1": block(features, stride, project=project, **options, **first)}
    layers |= {f"block{i}": block(features, **options, **rest) for i in range(2, count + 1)}
    return core.serial(**layers)


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


# ResNeXt, table 1 and section 5.1, and Wide ResNets, section 3.2 of theirs. The options are those of `resnet`.


@model("ResNeXt, 50 layers, 32 groups of 4 (Xie et al. 2016)", input=(224, 224, 3), published=WEIGHTS)
def resnext50_32x4d(classes: int = 1000, **options: Any) -> core.Layer:
    """ResNet-50 with grouped bottlenecks: 25,028,904 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 6, 3), classes, bottleneck=True, groups=32, group_width=4, **options)


@model("ResNeXt, 101 layers, 32 groups of 8 (2016)", input=(224, 224, 3), published=WEIGHTS)
def resnext101_32x8d(classes: int = 1000, **options: Any) -> core.Layer:
    """ResNet-101 with grouped bottlenecks: 88,791,336 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 23, 3), classes, bottleneck=True, groups=32, group_width=8, **options)


@model(
    "ResNeXt, 101 layers, 64 groups of 4 (2016)",
    input=(224, 224, 3),
    published=replace(WEIGHTS, resize=(232, "bilinear")),
)
def resnext101_64x4d(classes: int = 1000, **options: Any) -> core.Layer:
    """ResNet-101 with grouped bottlenecks: 83,455,272 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 23, 3), classes, bottleneck=True, groups=64, group_width=4, **options)


@model("ResNet-50, its bottlenecks twice as wide (Zagoruyko et al. 2016)", input=(224, 224, 3), published=WEIGHTS)
def wide_resnet50_2(classes: int = 1000, **options: Any) -> core.Layer:
    """ResNet-50 with wide bottlenecks: 68,883,240 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 6, 3), classes, bottleneck=True, group_width=128, **options)


@model("ResNet-101, its bottlenecks twice as wide (2016)", input=(224, 224, 3), published=WEIGHTS)
def wide_resnet101_2(classes: int = 1000, **options: Any) -> core.Layer:
    """ResNet-101 with wide bottlenecks: 126,886,696 parameters for RGB. Options are those of `resnet`."""
    return resnet((3, 4, 23, 3), classes, bottleneck=True, group_width=128, **options)
