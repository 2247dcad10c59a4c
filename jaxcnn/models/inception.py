"""Inception v3 (Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception architecture for computer vision,
2016).

A large window is made of small ones: two 3x3 convolutions see 5x5 pixels, and a 1x7 behind a 7x1 sees 7x7, with a part
of the weights. Where the map shrinks, a convolution of stride 2 and a pool stand side by side, so that neither a
bottleneck nor a large map is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import avg_pool, batch_norm, dense, dropout, global_avg_pool, max_pool
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import Published, model
from jaxcnn.ops.geometry import Size

# Cut at 2, that is at 20 standard deviations: as good as normal.
_start = initializers.normal(0.1)


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    return ".".join


# Its published weights were made for images from -1 to 1 (torchvision's `transform_input=True`).
WEIGHTS = Published(
    "inception",
    _torch_names,
    ("fc", "AuxLogits/fc"),
    ("AuxLogits.",),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    size=299,
    resize=(342, "bilinear"),
)


@core.layer
def unit(features: int, kernel_size: Size, stride: int = 1, *, pad: bool = True) -> core.Layer:
    """Convolution without bias, batch normalization with an eps of 0.001, ReLU.

    Args:
      pad: whether the map keeps its size, but for the stride.
    """
    options: dict[str, Any] = {} if pad else {"padding": 0, "floor": stride > 1}  # any size of image, as torchvision
    norm = batch_norm(eps=1e-3)
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=norm, kernel_init=_start, **options))


Branch = tuple[core.Layer, ...]


def _mixed(pool: core.Layer, fork: tuple[str, ...] = (), **branches: Branch) -> core.Layer:
    """Branches of convolutions side by side, and a pool last.

    Args:
      pool: the pool; convolutions that follow it are the branch `branch_pool`.
      fork: branches whose last two convolutions stand side by side, too (figure 7).
      branches: the convolutions of each. They are named by branch and number, `branch5x5_1`, `branch5x5_2`; a branch of
        one has no number; the two of a fork are `2a` and `2b`.
    """
    names: dict[str, list[str]] = {}
    layers: dict[str, core.Layer] = {}
    for branch, convolutions in branches.items():
        count = len(convolutions)
        ends = [""] if count == 1 else [f"_{i}" for i in range(1, count + 1)]
        if branch in fork:
            ends[-2:] = [f"_{count - 1}a", f"_{count - 1}b"]
        names[branch] = [branch + end for end in ends]
        layers |= dict(zip(names[branch], convolutions, strict=True))

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        outputs = []
        for branch, chain in names.items():
            y = net.pool(x) if branch == "branch_pool" else x
            ends = 2 if branch in fork else 1
            for name in chain[:-ends]:
                y = net[name](y)
            outputs += [net[name](y) for name in chain[-ends:]]
        return core.concat(*outputs) if "branch_pool" in names else core.concat(*outputs, net.pool(x))

    return core.network(forward, **layers, pool=pool)


def _mean() -> core.Layer:
    """The mean of 3x3 pixels, beyond the border zeros."""
    return avg_pool(3, 1, 1, count_padding=True)


_ROW, _COLUMN = (1, 7), (7, 1)


@core.layer
def inception_a(projected: int) -> core.Layer:
    """1x1, 5x5, two 3x3 and a pool side by side, on 35x35: `(N, H, W, C) -> (N, H, W, 224 + projected)`.

    Source: figure 5, whose second branch keeps its 5x5 in the authors' code.
    """
    return _mixed(
        _mean(),
        branch1x1=(unit(64, 1),),
        branch5x5=(unit(48, 1), unit(64, 5)),
        branch3x3dbl=(unit(64, 1), unit(96, 3), unit(96, 3)),
        branch_pool=(unit(projected, 1),),
    )


@core.layer
def inception_b() -> core.Layer:
    """From 35x35 to 17x17: `(N, H, W, C) -> (N, h, w, C + 480)`. Source: figure 10."""
    return _mixed(
        max_pool(3, 2),
        branch3x3=(unit(384, 3, 2, pad=False),),
        branch3x3dbl=(unit(64, 1), unit(96, 3), unit(96, 3, 2, pad=False)),
    )


@core.layer
def inception_c(inner: int) -> core.Layer:
    """7x7 and two 7x7 as 1x7 and 7x1, on 17x17: `(N, H, W, C) -> (N, H, W, 768)`. Source: figure 6, n = 7."""
    thin = (unit(inner, 1), unit(inner, _COLUMN), unit(inner, _ROW), unit(inner, _COLUMN))
    return _mixed(
        _mean(),
        branch1x1=(unit(192, 1),),
        branch7x7=(unit(inner, 1), unit(inner, _ROW), unit(192, _COLUMN)),
        branch7x7dbl=(*thin, unit(192, _ROW)),
        branch_pool=(unit(192, 1),),
    )


@core.layer
def inception_d() -> core.Layer:
    """From 17x17 to 8x8: `(N, H, W, C) -> (N, h, w, C + 512)`. Source: figure 10, with a 7x7 in front of a branch."""
    return _mixed(
        max_pool(3, 2),
        branch3x3=(unit(192, 1), unit(320, 3, 2, pad=False)),
        branch7x7x3=(unit(192, 1), unit(192, _ROW), unit(192, _COLUMN), unit(192, 3, 2, pad=False)),
    )


@core.layer
def inception_e() -> core.Layer:
    """1x3 and 3x1 side by side, on 8x8: `(N, H, W, C) -> (N, H, W, 2048)`. Source: figure 7."""
    row, column = (1, 3), (3, 1)
    return _mixed(
        _mean(),
        fork=("branch3x3", "branch3x3dbl"),
        branch1x1=(unit(320, 1),),
        branch3x3=(unit(384, 1), unit(384, row), unit(384, column)),
        branch3x3dbl=(unit(448, 1), unit(384, 3), unit(384, row), unit(384, column)),
        branch_pool=(unit(192, 1),),
    )


def _head(classes: int) -> core.Layer:
    """The auxiliary classifier on the last 17x17 map (section 4 and figure 8)."""
    return core.serial(
        pool=avg_pool(5, 3),
        conv0=unit(128, 1),
        conv1=unit(768, 5, pad=False),
        avgpool=global_avg_pool,
        fc=dense(classes, kernel_init=initializers.normal(0.001)),
    )


@model("Inception v3 (Szegedy et al. 2015)", input=(299, 299, 3), published=WEIGHTS)
def inception_v3(classes: int = 1000, *, aux: bool = False, drop: float = 0.5) -> core.Layer:
    """Inception v3: `(N, H, W, C) -> (N, classes)` logits, of images of 75x75 and more; 23,834,568 parameters.

    Args:
      aux: one more classifier, on the last 17x17 map, in training only. A training pass then returns two logits,
        `(logits, aux)`, whose losses are usually added as loss + 0.4 aux; an evaluation returns the logits alone. With
        it there are 27,161,264 parameters.
      drop: dropout before the last dense layer.

    Against the paper: the filters, and where a map is not padded, are those of the authors' published code, which
    torchvision follows.

    Source: section 6 and table 1; the modules, figures 5 to 7 and 10.
    """
    layers = {
        "Conv2d_1a_3x3": unit(32, 3, 2, pad=False),
        "Conv2d_2a_3x3": unit(32, 3, pad=False),
        "Conv2d_2b_3x3": unit(64, 3),
        "maxpool1": max_pool(3, 2),
        "Conv2d_3b_1x1": unit(80, 1),
        "Conv2d_4a_3x3": unit(192, 3, pad=False),
        "maxpool2": max_pool(3, 2),
        "Mixed_5b": inception_a(32),
        "Mixed_5c": inception_a(64),
        "Mixed_5d": inception_a(64),
        "Mixed_6a": inception_b(),
        "Mixed_6b": inception_c(128),
        "Mixed_6c": inception_c(160),
        "Mixed_6d": inception_c(160),
        "Mixed_6e": inception_c(192),
        "Mixed_7a": inception_d(),
        "Mixed_7b": inception_e(),
        "Mixed_7c": inception_e(),
        "avgpool": core.as_layer(global_avg_pool),
        "drop": dropout(drop),
        "fc": dense(classes, kernel_init=_start),
    }

    def forward(net: core.Net, x: jax.Array) -> Any:
        early = []
        for name in layers:
            x = net[name](x)
            if aux and net.train and name == "Mixed_6e":
                early.append(net.AuxLogits(x))
        return (x, *early) if early else x

    return core.network(forward, **layers, **({"AuxLogits": _head(classes)} if aux else {}))
