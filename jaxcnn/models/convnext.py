"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, A ConvNet for the 2020s, 2022).

A residual network brought step by step to what transformers do: patches instead of a stem, one 7x7 depthwise
convolution a block, four times the features inside, GELU, layer normalization, and one of each where there were many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import conv, dense, drop_path, gelu, global_avg_pool, layer_norm, layer_scale
from jaxcnn.models.registry import Published, model, with_weights

# Cut at 2, that is at 100 standard deviations: as good as normal.
_start = initializers.normal(0.02)
_TORCH = {"conv": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        part, *rest = path
        if part == "stem":
            return f"features.0.{0 if rest == ['conv'] else 1}"
        if part.startswith("down"):
            return f"features.{2 * int(part[4:]) - 2}.{0 if rest == ['norm'] else 1}"
        if part.startswith("stage"):
            block, layer = rest
            return f"features.{2 * int(part[5:]) - 1}.{int(block[5:]) - 1}.{_TORCH.get(layer, layer)}"
        return f"classifier.{0 if part == 'norm' else 2}"

    return name


_TIMM = {"conv": "conv_dw", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "layer_scale": "gamma"}


def _timm_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        part, *rest = path
        if part == "stem":
            return f"stem.{0 if rest == ['conv'] else 1}"
        if part.startswith("down"):
            return f"stages.{int(part[4:]) - 1}.downsample.{0 if rest == ['norm'] else 1}"
        if part.startswith("stage"):
            block, layer = rest
            return f"stages.{int(part[5:]) - 1}.blocks.{int(block[5:]) - 1}.{_TIMM.get(layer, layer)}"
        return f"head.{part}"

    return name


WEIGHTS = Published("convnext", _torch_names, heads=("fc",), timm=_timm_names)


def _resized(side: int) -> Published:
    return replace(WEIGHTS, resize=(side, "bilinear"))


def _norm() -> core.Layer:
    return layer_norm(eps=1e-6)


@core.layer
def block(features: int, drop: float = 0.0, scale: float = 1e-6) -> core.Layer:
    """7x7 depthwise, normalization, to four times the features and back, and a shortcut around them.

    `(N, H, W, features) -> (N, H, W, features)`.

    Args:
      drop: the probability that an example takes the shortcut alone, in training (stochastic depth).
      scale: where the factors of the branch's channels start (layer scale).

    Source: figure 4; section 2.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = net.norm(net.conv(x))
        y = net.fc2(net.gelu(net.fc1(y)))
        y = net.layer_scale(y)
        return x + (net.drop(y) if drop else y)

    return core.network(
        forward,
        conv=conv(features, 7, padding=3, groups=features, kernel_init=_start),
        norm=_norm(),
        fc1=dense(4 * features, kernel_init=_start),
        gelu=gelu,
        fc2=dense(features, kernel_init=_start),
        layer_scale=layer_scale(scale),
        **({"drop": drop_path(drop)} if drop else {}),
    )


@with_weights(WEIGHTS)
@core.layer
def convnext(
    blocks: Sequence[int], width: int, classes: int = 1000, *, drop: float = 0.0, scale: float = 1e-6
) -> core.Layer:
    """4x4 patches, four stages, the mean, normalization and one dense layer: `(N, H, W, C) -> (N, classes)` logits.

    Args:
      blocks: how many each stage has.
      width: features of the first stage. Each stage has twice as many on half as many rows and columns.
      drop: stochastic depth's probability for the last block; it grows linearly from 0 for the first.
      scale: as in `block`.

    Source: section 2; the sizes, section 3.
    """
    layers: dict[str, core.Layer | Callable] = {
        "stem": core.serial(conv=conv(width, 4, 4, floor=True, kernel_init=_start), norm=_norm())
    }
    last, done = max(1, sum(blocks) - 1), 0
    for stage, count in enumerate(blocks, 1):
        features = width * 2 ** (stage - 1)
        if stage > 1:
            layers[f"down{stage}"] = core.serial(
                norm=_norm(), conv=conv(features, 2, 2, floor=True, kernel_init=_start)
            )
        layers[f"stage{stage}"] = core.serial(
            **{f"block{i + 1}": block(features, drop * (done + i) / last, scale) for i in range(count)}
        )
        done += count
    return core.serial(**layers, avgpool=global_avg_pool, norm=_norm(), fc=dense(classes, kernel_init=_start))


# Section 3; stochastic depth as in torchvision. The options are those of `convnext`.


@model("ConvNeXt, tiny (Liu et al. 2022)", input=(224, 224, 3), published=_resized(236))
def convnext_tiny(classes: int = 1000, **options: Any) -> core.Layer:
    """28,589,128 parameters for RGB. Options are those of `convnext`."""
    return convnext((3, 3, 9, 3), 96, classes, **{"drop": 0.1, **options})


@model("ConvNeXt, small (2022)", input=(224, 224, 3), published=_resized(230))
def convnext_small(classes: int = 1000, **options: Any) -> core.Layer:
    """50,223,688 parameters for RGB. Options are those of `convnext`."""
    return convnext((3, 3, 27, 3), 96, classes, **{"drop": 0.4, **options})


@model("ConvNeXt, base (2022)", input=(224, 224, 3), published=_resized(232))
def convnext_base(classes: int = 1000, **options: Any) -> core.Layer:
    """88,591,464 parameters for RGB. Options are those of `convnext`."""
    return convnext((3, 3, 27, 3), 128, classes, **{"drop": 0.5, **options})


@model("ConvNeXt, large (2022)", input=(224, 224, 3), published=_resized(232))
def convnext_large(classes: int = 1000, **options: Any) -> core.Layer:
    """197,767,336 parameters for RGB. Options are those of `convnext`."""
    return convnext((3, 3, 27, 3), 192, classes, **{"drop": 0.5, **options})
