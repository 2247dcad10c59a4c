"""ShuffleNetV2 (Ma et al., ShuffleNet V2: Practical guidelines for efficient CNN architecture design, 2018).

What counts is time and not operations: equal widths, few groups, few branches, few elementwise operations. A block sees
half of the channels, and lets the other half pass; a shuffle then mixes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import core
from jaxcnn.layers import channel_shuffle, dense, global_avg_pool, max_pool
from jaxcnn.models.blocks import conv_norm_act, places, uniform_fan_in
from jaxcnn.models.registry import Published, model, with_weights


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    place = places(model)

    def name(path: core.Path) -> str:
        kept = ("branch1", "branch2", "shuffle")
        inner = [path[n] if path[n] in kept else str(place[path[: n + 1]]) for n in range(1, len(path))]
        return ".".join([path[0], *inner])

    return name


WEIGHTS = Published("shufflenet_v2", _torch_names, heads=("fc",))
_LATER = dataclasses.replace(WEIGHTS, resize=(232, "bilinear"))  # of 1.5 and 2.0, which came later

Layers = dict[str, Any]


def _dense(features: int, at: str) -> Layers:
    """A 1x1 convolution, normalization and ReLU."""
    return conv_norm_act(features, 1, at=at, kernel_init=uniform_fan_in)


def _depthwise(channels: int, stride: int, at: str) -> Layers:
    """A 3x3 convolution of each channel by itself, and normalization."""
    return conv_norm_act(channels, 3, stride, at=at, groups=channels, act=None, kernel_init=uniform_fan_in)


@core.layer
def unit(features: int) -> core.Layer:
    """Half of the channels through three convolutions, the others as they are: `(N, H, W, features)` again.

    Source: figure 3 (c).
    """
    half = features // 2

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        kept, used = jnp.split(x, 2, -1)
        return net.shuffle(core.concat(kept, net.branch2(used)))

    branch = core.serial(**_dense(half, "1"), **_depthwise(half, 1, "2"), **_dense(half, "3"))
    return core.network(forward, branch2=branch, shuffle=channel_shuffle(2))


@core.layer
def down_unit(entering: int, features: int) -> core.Layer:
    """Two branches with stride 2, each of all channels: `(N, H, W, entering) -> (N, H / 2, W / 2, features)`.

    Source: figure 3 (d).
    """
    half = features // 2

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        return net.shuffle(core.concat(net.branch1(x), net.branch2(x)))

    return core.network(
        forward,
        branch1=core.serial(**_depthwise(entering, 2, "1"), **_dense(half, "2")),
        branch2=core.serial(**_dense(half, "1"), **_depthwise(half, 2, "2"), **_dense(half, "3")),
        shuffle=channel_shuffle(2),
    )


@with_weights(WEIGHTS)
@core.layer
def shufflenet_v2(features: Sequence[int], classes: int = 1000) -> core.Layer:
    """A convolution and a pool, three stages, a 1x1 convolution, the mean and one dense layer.

    `(N, H, W, C) -> (N, classes)`

    Args:
      features: the channels of the three stages and of the last convolution: a column of the paper's table 5.

    Weights start uniformly within 1 / sqrt(fan-in), as PyTorch's do; PyTorch's bias of the dense layer, drawn likewise,
    is 0 here.

    Source: section 3 and table 5.
    """
    *stages, last = features
    start: dict[str, Any] = {"kernel_init": uniform_fan_in}
    layers: Layers = {"conv1": core.serial(**conv_norm_act(24, 3, 2, **start)), "maxpool": max_pool(3, 2, 1)}
    entering = 24
    for stage, (width, count) in enumerate(zip(stages, (4, 8, 4), strict=True), 2):
        rest = {f"unit{i}": unit(width) for i in range(2, count + 1)}
        layers[f"stage{stage}"] = core.serial(unit1=down_unit(entering, width), **rest)
        entering = width
    return core.serial(
        **layers,
        conv5=core.serial(**conv_norm_act(last, 1, **start)),
        avgpool=global_avg_pool,
        fc=dense(classes, **start),
    )


@model("ShuffleNetV2, half as wide (Ma et al. 2018)", input=(224, 224, 3), published=WEIGHTS)
def shufflenet_v2_x0_5(classes: int = 1000) -> core.Layer:
    """The column 0.5x of table 5: 1,366,792 parameters for RGB."""
    return shufflenet_v2((48, 96, 192, 1024), classes)


@model("ShuffleNetV2 (2018)", input=(224, 224, 3), published=WEIGHTS)
def shufflenet_v2_x1_0(classes: int = 1000) -> core.Layer:
    """The column 1x of table 5: 2,278,604 parameters for RGB."""
    return shufflenet_v2((116, 232, 464, 1024), classes)


@model("ShuffleNetV2, 1.5 times as wide (2018)", input=(224, 224, 3), published=_LATER)
def shufflenet_v2_x1_5(classes: int = 1000) -> core.Layer:
    """The column 1.5x of table 5: 3,503,624 parameters for RGB."""
    return shufflenet_v2((176, 352, 704, 1024), classes)


@model("ShuffleNetV2, twice as wide (2018)", input=(224, 224, 3), published=_LATER)
def shufflenet_v2_x2_0(classes: int = 1000) -> core.Layer:
    """The column 2x of table 5: 7,393,996 parameters for RGB."""
    return shufflenet_v2((244, 488, 976, 2048), classes)
