"""MNASNet (Tan et al., MnasNet: Platform-aware neural architecture search for mobile, 2019).

Blocks found by a search whose reward was accuracy and the time that a phone took.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import batch_norm, dense, dropout, global_avg_pool, relu
from jaxcnn.models.blocks import conv_norm_act, divisible, timm_names
from jaxcnn.models.mobilenet_v2 import inverted_residual
from jaxcnn.models.registry import Published, model, with_weights


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    inside = {"conv": 0, "bn": 1, "relu": 2}
    units = {"expand": 0, "depthwise": 3, "project": 6}
    starts = {"stem": 0, "separable": 0, "last": 14} | {f"stage{i}": 7 + i for i in range(1, 7)}

    def name(path: core.Path) -> str:
        if path[0] not in starts:
            return "classifier.1" if path[0] == "fc" else path[0]
        top, rest = starts[path[0]], path[1:]
        if path[0].startswith("stage"):
            block, unit, layer = rest
            return f"layers.{top}.{int(block.removeprefix('block')) - 1}.layers.{units[unit] + inside[layer]}"
        return f"layers.{top + sum(units.get(part, inside.get(part, 0)) for part in rest)}"

    return name


def _place(block: core.Path) -> str:
    if block == ("separable",):
        return "0.0"
    return f"{block[0].removeprefix('stage')}.{int(block[1].removeprefix('block')) - 1}"


WEIGHTS = Published("mnasnet", _torch_names, heads=("fc",), timm=timm_names(_place))
_LATER = dataclasses.replace(WEIGHTS, resize=(232, "bilinear"))  # of 0.75 and 1.3, which came later

# Figure 7 (a), by torchvision: kernel, stride, times more channels in the middle, channels of the output, blocks.
STAGES = ((3, 2, 3, 24, 3), (5, 2, 3, 40, 3), (5, 2, 6, 80, 3), (3, 1, 6, 96, 2), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))


@core.layer
def unit(features: int, kernel_size: int, stride: int = 1, *, groups: int = 1, act: Any = relu) -> core.Layer:
    """Convolution without bias, batch normalization with a momentum of 0.9997, ReLU."""
    options: dict[str, Any] = {"groups": groups} if groups > 1 else {}
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=batch_norm(0.9997), act=act, **options))


@with_weights(WEIGHTS)
@core.layer
def mnasnet(width: float = 1.0, classes: int = 1000, *, drop: float = 0.2) -> core.Layer:
    """A stem, a separable convolution, stages of inverted residuals, a last convolution and one dense layer.

    `(N, H, W, C) -> (N, classes)`. It is the paper's variant without squeeze and excitation, B1.

    Args:
      width: multiplies the number of channels, but for the 1280 of the last convolution.
      drop: dropout before the dense layer.

    Weights start as in torchvision: convolutions by fan-out (He et al. 2015), the dense layer uniformly within
    sqrt(3 / classes).

    torchvision's `MNASNet.load_state_dict` asks for the version of a state dict, 2, which a file of ours does not have:
    `state = OrderedDict(load_file(path)); state._metadata = {"": {"version": 2}}`.

    Source: section 5 and figure 7.
    """
    first, entering = divisible(32 * width), divisible(16 * width)
    separable = {"depthwise": unit(first, 3, groups=first), "project": unit(entering, 1, act=None)}  # never a shortcut
    layers: dict[str, Any] = {"stem": unit(first, 3, 2), "separable": core.serial(**separable)}
    for stage, (kernel, stride, times, features, count) in enumerate(STAGES, 1):
        blocks = {}
        for i in range(count):
            leaving = divisible(features * width)
            blocks[f"block{i + 1}"] = inverted_residual(
                unit, entering, times * entering, leaving, kernel, stride if i == 0 else 1
            )
            entering = leaving
        layers[f"stage{stage}"] = core.serial(**blocks)
    return core.serial(
        **layers,
        last=unit(1280, 1),
        avgpool=global_avg_pool,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=initializers.variance_scaling(1, "fan_out", "uniform")),
    )


@model("MNASNet, half as wide (Tan et al. 2018)", input=(224, 224, 3), published=WEIGHTS)
def mnasnet0_5(classes: int = 1000, *, drop: float = 0.2) -> core.Layer:
    """Width 0.5: 2,218,512 parameters for RGB. `drop` as in `mnasnet`."""
    return mnasnet(0.5, classes, drop=drop)


@model("MNASNet, three quarters as wide (2018)", input=(224, 224, 3), published=_LATER)
def mnasnet0_75(classes: int = 1000, *, drop: float = 0.2) -> core.Layer:
    """Width 0.75: 3,170,208 parameters for RGB. `drop` as in `mnasnet`."""
    return mnasnet(0.75, classes, drop=drop)


@model("MNASNet (2018)", input=(224, 224, 3), published=WEIGHTS)
def mnasnet1_0(classes: int = 1000, *, drop: float = 0.2) -> core.Layer:
    """Width 1: 4,383,312 parameters for RGB. `drop` as in `mnasnet`."""
    return mnasnet(1.0, classes, drop=drop)


@model("MNASNet, 1.3 times as wide (2018)", input=(224, 224, 3), published=_LATER)
def mnasnet1_3(classes: int = 1000, *, drop: float = 0.2) -> core.Layer:
    """Width 1.3: 6,282,256 parameters for RGB. `drop` as in `mnasnet`."""
    return mnasnet(1.3, classes, drop=drop)
