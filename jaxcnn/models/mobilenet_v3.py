"""MobileNetV3 (Howard et al., Searching for MobileNetV3, 2019).

MobileNetV2's blocks, of sizes found by a search for a phone's speed, with squeeze and excitation, and with an
activation that is as good as swish and has no exponential. The last convolution works on the mean of the image, where
one pixel is left.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import (
    batch_norm,
    dense,
    dropout,
    global_avg_pool,
    hard_sigmoid,
    hard_swish,
    relu,
    squeeze_excite,
)
from jaxcnn.models.blocks import conv_norm_act, divisible, he_fan_out, mobile_names
from jaxcnn.models.mobilenet_v2 import inverted_residual
from jaxcnn.models.registry import Published, model, with_weights

WEIGHTS = Published("mobilenet_v3", mobile_names("block"), heads=("fc",))

_normal = initializers.normal(0.01)
Row = tuple[int, int, int, bool, Literal["RE", "HS"], int]

# Tables 1 and 2: kernel, channels in the middle, channels of the output, squeeze and excitation, activation, stride.
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)


@core.layer
def unit(
    features: int, kernel_size: int, stride: int = 1, *, groups: int = 1, act: Any = hard_swish, dilation: int = 1
) -> core.Layer:
    """Convolution without bias, batch normalization (momentum 0.99, eps 0.001), activation."""
    options: dict[str, Any] = {"groups": groups} if groups > 1 else {}
    if dilation > 1 and kernel_size > 1:
        options |= {"dilation": dilation, "padding": kernel_size // 2 * dilation}
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=batch_norm(0.99, 1e-3), act=act, **options))


@with_weights(WEIGHTS)
@core.layer
def mobilenet_v3(
    rows: Sequence[Row],
    units: int,
    classes: int = 1000,
    *,
    width: float = 1.0,
    dilated: bool = False,
    drop: float = 0.2,
) -> core.Layer:
    """A stem, inverted residuals, a last convolution, the mean and two dense layers: `(N, H, W, C) -> (N, classes)`.

    Args:
      rows: `LARGE` or `SMALL`, the blocks of the paper's tables.
      units: of the hidden dense layer.
      width: multiplies all channels and these units.
      dilated: the blocks from the last stride on do not halve the image, but have dilated windows, as the networks for
        segmentation need it.
      drop: dropout before the last dense layer.

    Weights start as in torchvision: convolutions by fan-out (He et al. 2015), dense layers from a normal distribution
    of deviation 0.01.

    Source: sections 5 and 6, tables 1 and 2.
    """
    entering = divisible(16 * width)
    layers: dict[str, Any] = {"stem": unit(entering, 3, 2)}
    last_stride = max(i for i, row in enumerate(rows) if row[-1] > 1)
    for i, (kernel, hidden, features, squeezed, activation, stride) in enumerate(rows):
        hidden, leaving = divisible(hidden * width), divisible(features * width)
        options: dict[str, Any] = {"act": relu if activation == "RE" else hard_swish}
        if dilated and i >= last_stride:
            options["dilation"], stride = 2, 1
        gate = squeeze_excite(hidden, divisible(hidden // 4), gate=hard_sigmoid, kernel_init=he_fan_out)
        layers[f"block{i + 1}"] = inverted_residual(
            functools.partial(unit, **options), entering, hidden, leaving, kernel, stride,
            between=gate if squeezed else None,
        )  # fmt: skip
        entering = leaving
    return core.serial(
        **layers,
        last=unit(6 * entering, 1),
        avgpool=global_avg_pool,
        hidden=dense(divisible(units * width), kernel_init=_normal),
        act=hard_swish,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=_normal),
    )


@model("MobileNetV3, large (Howard et al. 2019)", input=(224, 224, 3), published=WEIGHTS)
def mobilenet_v3_large(classes: int = 1000, **options: Any) -> core.Layer:
    """Table 1: 5,483,032 parameters for RGB. Options are those of `mobilenet_v3`."""
    return mobilenet_v3(LARGE, 1280, classes, **options)


@model("MobileNetV3, small (2019)", input=(224, 224, 3), published=WEIGHTS)
def mobilenet_v3_small(classes: int = 1000, **options: Any) -> core.Layer:
    """Table 2: 2,542,856 parameters for RGB. Options are those of `mobilenet_v3`."""
    return mobilenet_v3(SMALL, 1024, classes, **options)
