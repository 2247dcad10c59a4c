"""MobileNetV2 (Sandler et al., MobileNetV2: Inverted residuals and linear bottlenecks, 2018).

A residual block turned inside out: the shortcuts connect the thin layers, and in between a depthwise convolution, which
is cheap, filters many channels. The thin layers have no activation, which would lose what few channels hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import dense, drop_path, dropout, global_avg_pool, relu6
from jaxcnn.models.blocks import conv_norm_act, divisible, mobile_names, timm_names
from jaxcnn.models.registry import Published, model

Unit = Callable[..., core.Layer]
"""`(features, kernel_size, stride=1, *, groups=1, act=...) -> Layer`: a convolution with what belongs to it."""


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    names = mobile_names("conv")(model)

    def name(path: core.Path) -> str:
        if path[1:2] != ("project",):
            return names(path)
        above, unit, layer = names(path).rsplit(".", 2)  # the last two layers of a block are no unit there
        return f"{above}.{int(unit) + int(layer)}"

    return name


# Table 2: how many times more channels in the middle, channels of the output, blocks, stride of the first block.
TABLE_2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

_PLACES = [f"{stage}.{i}" for stage, (_, _, count, _) in enumerate(TABLE_2) for i in range(count)]
_timm_names = timm_names(lambda block: _PLACES[int(block[0].removeprefix("block")) - 1])
WEIGHTS = Published("mobilenet_v2", _torch_names, heads=("fc",), timm=_timm_names)


@core.layer
def inverted_residual(
    unit: Unit,
    entering: int,
    hidden: int,
    features: int,
    kernel_size: int = 3,
    stride: int = 1,
    *,
    between: core.Layer | None = None,
    drop: float = 0.0,
) -> core.Layer:
    """1x1 to many channels, a depthwise convolution, 1x1 to few, and a shortcut around them where the shape stays.

    `(N, H, W, entering) -> (N, H / stride, W / stride, features)`

    Args:
      unit: the convolutions, with normalization and activation.
      entering: the channels of the input.
      hidden: the channels in the middle; if they are those of the input, there is no first convolution.
      features: the channels of the output.
      kernel_size, stride: of the depthwise convolution.
      between: what follows the depthwise convolution, `squeeze_excite` in later networks.
      drop: the probability that an example takes the shortcut alone, in training.

    Source: Sandler et al. (2018), section 3.3, table 1 and figure 4 (d).
    """
    residual = stride == 1 and entering == features
    layers: dict[str, core.Layer] = {}
    if hidden != entering:
        layers["expand"] = unit(hidden, 1)
    layers["depthwise"] = unit(hidden, kernel_size, stride, groups=hidden)
    if between is not None:
        layers["squeeze"] = between
    layers["project"] = unit(features, 1, act=None)
    return shortcut(layers, residual, drop)


def shortcut(layers: dict[str, core.Layer], residual: bool, drop: float = 0.0) -> core.Layer:
    """The layers one after the other and, if it is a residual block, a shortcut around them.

    Args:
      drop: as in `inverted_residual`.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = x
        for name in layers:
            y = net[name](y)
        if not residual:
            return y
        return x + (net.drop_path(y) if drop else y)

    return core.network(forward, **layers, **({"drop_path": drop_path(drop)} if residual and drop else {}))


@core.layer
def unit(features: int, kernel_size: int, stride: int = 1, *, groups: int = 1, act: Any = relu6) -> core.Layer:
    """Convolution without bias, batch normalization, ReLU6."""
    options: dict[str, Any] = {"groups": groups} if groups > 1 else {}
    return core.serial(**conv_norm_act(features, kernel_size, stride, act=act, **options))


@model("MobileNetV2 (Sandler et al. 2018)", input=(224, 224, 3), published=WEIGHTS)
def mobilenet_v2(classes: int = 1000, *, width: float = 1.0, drop: float = 0.2) -> core.Layer:
    """MobileNetV2: `(N, H, W, C) -> (N, classes)` logits; 3,504,872 parameters for RGB and 1000 classes.

    Args:
      width: multiplies the number of channels of every layer; of the last one, only if it is above 1.
      drop: dropout before the dense layer.

    Weights start by fan-out (He et al. 2015), those of the dense layer from a normal distribution of deviation 0.01, as
    in torchvision.

    Source: section 4 and table 2.
    """
    entering = divisible(32 * width)
    layers = {"stem": unit(entering, 3, 2)}
    for times, features, count, stride in TABLE_2:
        for i in range(count):
            leaving = divisible(features * width)
            layers[f"block{len(layers)}"] = inverted_residual(
                unit, entering, times * entering, leaving, 3, stride if i == 0 else 1
            )
            entering = leaving
    layers["last"] = unit(divisible(1280 * max(1.0, width)), 1)
    return core.serial(
        **layers,
        avgpool=global_avg_pool,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=initializers.normal(0.01)),
    )
