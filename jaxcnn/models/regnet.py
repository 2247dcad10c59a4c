"""RegNet (Radosavovic, Kosaraju, Girshick, He and Dollar, Designing network design spaces, 2020).

Not one network but a rule for networks: the width of the blocks grows linearly with depth, rounded so that a few stages
come out. Four numbers (depth, first width, slope, ratio between stages) and the width of a group say all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import dense, global_avg_pool, relu, squeeze_excite
from jaxcnn.models.blocks import conv_norm_act, divisible, he_fan_out
from jaxcnn.models.registry import Published, model, with_weights

_TORCH = {"conv1": "f.a.0", "bn1": "f.a.1", "conv2": "f.b.0", "bn2": "f.b.1", "se": "f.se"}
_TORCH |= {"conv3": "f.c.0", "bn3": "f.c.1", "proj": "proj", "conv": "0", "bn": "1"}


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        if path[0].startswith("stage"):
            stage, block = path[0].removeprefix("stage"), int(path[1].removeprefix("block")) - 1
            first, path = f"trunk_output.block{stage}.block{stage}-{block}.", path[2:]
        else:
            first = ""
        return first + ".".join(_TORCH.get(part, part) for part in path)

    return name


_TIMM = {f"{kind}{i}": f"conv{i}.{kind}" for kind in ("conv", "bn") for i in (1, 2, 3)} | {"proj": "downsample"}


def _timm_names(model: core.Layer) -> Callable[[core.Path], str]:
    def name(path: core.Path) -> str:
        if path == ("fc",):
            return "head.fc"
        short = (part.replace("stage", "s").replace("block", "b") for part in path[:2])
        return ".".join((*(path[:2] if path[0] == "stem" else short), *(_TIMM.get(part, part) for part in path[2:])))

    return name


WEIGHTS = Published("regnet", _torch_names, heads=("fc",), timm=_timm_names)


def stages(depth: int, first: int, slope: float, ratio: float, group: int) -> list[tuple[int, int, int]]:
    """What the rule gives for each stage: how many blocks, their width, and the width of a group.

    Block j has the width u_j = first + slope j (equation 2), brought to the next power of the ratio, first * ratio^s_j
    (equations 3 and 4), and to a multiple of 8; blocks of one width are a stage. Widths are then brought to a multiple
    of a group's, which is at most the stage's own (`blocks.divisible`).
    """
    wanted = first + slope * np.arange(depth)
    steps = np.round(np.log(wanted / first) / np.log(ratio))
    widths = (np.round(first * ratio**steps / 8) * 8).astype(int)
    found = []
    for width in sorted(set(widths.tolist())):
        own = min(group, width)
        found.append((int((widths == width).sum()), divisible(width, own), own))
    return found


@core.layer
def block(features: int, entering: int, stride: int, group: int, squeeze: float) -> core.Layer:
    """1x1, grouped 3x3, 1x1 and a shortcut around them: `(N, H, W, C) -> (N, H / stride, W / stride, features)`.

    Args:
      features: of all three convolutions (the paper's b = 1).
      entering: C. The shortcut is a normalized 1x1 convolution where the shape changes.
      stride: of the 3x3 convolution.
      group: channels of a group.
      squeeze: hidden units of a squeeze-and-excitation behind the 3x3, for each channel that enters; 0 for none.

    Source: figure 4.
    """
    projects = stride != 1 or entering != features

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = relu(net.bn2(net.conv2(y)))
        y = net.bn3(net.conv3(net.se(y) if squeeze else y))
        return relu(y + (net.proj(x) if projects else x))

    hidden = round(squeeze * entering)
    return core.network(
        forward,
        **({"proj": core.serial(**conv_norm_act(features, 1, stride, act=None))} if projects else {}),
        **conv_norm_act(features, 1, at="1", act=None),
        **conv_norm_act(features, 3, stride, at="2", act=None, groups=features // group),
        **({"se": squeeze_excite(features, hidden, kernel_init=he_fan_out)} if squeeze else {}),
        **conv_norm_act(features, 1, at="3", act=None),
    )


@with_weights(WEIGHTS)
@core.layer
def regnet(
    depth: int,
    first: int,
    slope: float,
    ratio: float,
    group: int,
    classes: int = 1000,
    *,
    squeeze: float = 0.0,
    stem: int = 32,
) -> core.Layer:
    """A 3x3 stem, stages by the rule, the mean and one dense layer: `(N, H, W, C) -> (N, classes)` logits.

    Args:
      depth, first, slope, ratio, group: the paper's d, w_0, w_a, w_m and g; see `stages`.
      squeeze: 0.25 for RegNetY, whose blocks have a squeeze-and-excitation; 0 for RegNetX.
      stem: filters of the stem.

    Raises:
      UserError: for a rule that is none: first not a multiple of 8, a slope below 0, a ratio of 1 or less.

    Weights start by fan-out (He et al. 2015), as in torchvision.

    Source: sections 3.2 to 3.4 and 4; the sizes, appendix D.
    """
    if first < 8 or first % 8 or slope < 0 or ratio <= 1:
        raise UserError(
            f"regnet(first={first}, slope={slope}, ratio={ratio}): expected a first width that is a multiple of 8, a "
            "slope of at least 0 and a ratio above 1"
        )
    layers: dict[str, core.Layer | Callable] = {"stem": core.serial(**conv_norm_act(stem, 3, 2))}
    entering = stem
    for number, (count, features, own) in enumerate(stages(depth, first, slope, ratio, group), 1):
        blocks = {"block1": block(features, entering, 2, own, squeeze)}
        entering = features
        blocks |= {f"block{i}": block(features, features, 1, own, squeeze) for i in range(2, count + 1)}
        layers[f"stage{number}"] = core.serial(**blocks)
    return core.serial(**layers, avgpool=global_avg_pool, fc=dense(classes, kernel_init=initializers.normal(0.01)))


# RegNetX and RegNetY of appendix D, and the one of 128 G of Goyal et al., Self-supervised pretraining of visual
# features in the wild (2021). The names give the multiply-accumulates at 224x224. The options are those of `regnet`.


@model("RegNetX, 400 M multiply-accumulates (Radosavovic et al. 2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_400mf(classes: int = 1000, **options: Any) -> core.Layer:
    """5,495,976 parameters for RGB. Options are those of `regnet`."""
    return regnet(22, 24, 24.48, 2.54, 16, classes, **options)


@model("RegNetX, 800 M multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_800mf(classes: int = 1000, **options: Any) -> core.Layer:
    """7,259,656 parameters for RGB. Options are those of `regnet`."""
    return regnet(16, 56, 35.73, 2.28, 16, classes, **options)


@model("RegNetX, 1.6 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_1_6gf(classes: int = 1000, **options: Any) -> core.Layer:
    """9,190,136 parameters for RGB. Options are those of `regnet`."""
    return regnet(18, 80, 34.01, 2.25, 24, classes, **options)


@model("RegNetX, 3.2 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_3_2gf(classes: int = 1000, **options: Any) -> core.Layer:
    """15,296,552 parameters for RGB. Options are those of `regnet`."""
    return regnet(25, 88, 26.31, 2.25, 48, classes, **options)


@model("RegNetX, 8 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_8gf(classes: int = 1000, **options: Any) -> core.Layer:
    """39,572,648 parameters for RGB. Options are those of `regnet`."""
    return regnet(23, 80, 49.56, 2.88, 120, classes, **options)


@model("RegNetX, 16 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_16gf(classes: int = 1000, **options: Any) -> core.Layer:
    """54,278,536 parameters for RGB. Options are those of `regnet`."""
    return regnet(22, 216, 55.59, 2.1, 128, classes, **options)


@model("RegNetX, 32 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_x_32gf(classes: int = 1000, **options: Any) -> core.Layer:
    """107,811,560 parameters for RGB. Options are those of `regnet`."""
    return regnet(23, 320, 69.86, 2.0, 168, classes, **options)


@model("RegNetY, 400 M multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_400mf(classes: int = 1000, **options: Any) -> core.Layer:
    """4,344,144 parameters for RGB. Options are those of `regnet`."""
    return regnet(16, 48, 27.89, 2.09, 8, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 800 M multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_800mf(classes: int = 1000, **options: Any) -> core.Layer:
    """6,432,512 parameters for RGB. Options are those of `regnet`."""
    return regnet(14, 56, 38.84, 2.4, 16, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 1.6 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_1_6gf(classes: int = 1000, **options: Any) -> core.Layer:
    """11,202,430 parameters for RGB. Options are those of `regnet`."""
    return regnet(27, 48, 20.71, 2.65, 24, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 3.2 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_3_2gf(classes: int = 1000, **options: Any) -> core.Layer:
    """19,436,338 parameters for RGB. Options are those of `regnet`."""
    return regnet(21, 80, 42.63, 2.66, 24, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 8 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_8gf(classes: int = 1000, **options: Any) -> core.Layer:
    """39,381,472 parameters for RGB. Options are those of `regnet`."""
    return regnet(17, 192, 76.82, 2.19, 56, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 16 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_16gf(classes: int = 1000, **options: Any) -> core.Layer:
    """83,590,140 parameters for RGB. Options are those of `regnet`."""
    return regnet(18, 200, 106.23, 2.48, 112, classes, **{"squeeze": 0.25, **options})


@model("RegNetY, 32 G multiply-accumulates (2020)", input=(224, 224, 3), published=WEIGHTS)
def regnet_y_32gf(classes: int = 1000, **options: Any) -> core.Layer:
    """145,046,770 parameters for RGB. Options are those of `regnet`."""
    return regnet(20, 232, 115.89, 2.53, 232, classes, **{"squeeze": 0.25, **options})


@model(
    "RegNetY, 128 G multiply-accumulates (2021)",
    input=(384, 384, 3),
    published=replace(WEIGHTS, size=384, resize=(384, "bicubic")),
)
def regnet_y_128gf(classes: int = 1000, **options: Any) -> core.Layer:
    """644,812,894 parameters for RGB. Options are those of `regnet`."""
    return regnet(27, 456, 160.83, 2.52, 264, classes, **{"squeeze": 0.25, **options})
