"""DenseNet (Huang, Liu, van der Maaten and Weinberger, Densely connected convolutional networks, 2017).

Each layer of a block sees the maps of all layers before it, side by side, and adds a few of its own. Nothing has to be
computed a second time to be passed on, and the gradient of the loss reaches each layer directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import avg_pool, batch_norm, conv, dense, dropout, global_avg_pool, max_pool, relu
from jaxcnn.models.blocks import uniform_fan_in
from jaxcnn.models.registry import Published, model, with_weights

_he = initializers.variance_scaling(2, "fan_in", "normal")


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    return lambda path: ".".join(path if path[0] == "classifier" else ("features", *path))


# torchvision's published files were written when a dense layer's parts were called `norm.1`, `conv.2`.
WEIGHTS = Published(
    "densenet", _torch_names, heads=("classifier",), older=(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1")
)


def _conv(features: int, kernel_size: int, stride: int = 1) -> core.Layer:
    return conv(features, kernel_size, stride, kernel_size // 2, bias=False, kernel_init=_he)


@core.layer
def dense_layer(growth: int, drop: float = 0.0) -> core.Layer:
    """A bottleneck to 4 k maps and a 3x3 convolution to k maps: `(N, H, W, C) -> (N, H, W, k)`, k the growth rate.

    Source: section 3, "Composite function" and "Bottleneck layers".
    """
    return core.serial(
        norm1=batch_norm(),
        relu1=relu,
        conv1=_conv(4 * growth, 1),
        norm2=batch_norm(),
        relu2=relu,
        conv2=_conv(growth, 3),
        **({"drop": dropout(drop)} if drop else {}),
    )


@core.layer
def dense_block(layers: int, growth: int, drop: float = 0.0) -> core.Layer:
    """Layers that see the input and all maps before them: `(N, H, W, C) -> (N, H, W, C + layers * growth)`.

    Source: equation 2.
    """
    inside = {f"denselayer{i}": dense_layer(growth, drop) for i in range(1, layers + 1)}

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        for name in inside:
            x = core.concat(x, net[name](x))
        return x

    return core.network(forward, **inside)


@with_weights(WEIGHTS)
@core.layer
def densenet(
    blocks: Sequence[int], classes: int = 1000, *, growth: int = 32, width: int = 64, drop: float = 0.0
) -> core.Layer:
    """A stem, dense blocks with transitions between them, the mean and one dense layer: `(N, H, W, C) -> (N, classes)`.

    A transition takes half of the maps (a 1x1 convolution) on half of the rows and columns (an average pool): the
    paper's DenseNet-BC with a compression of 0.5.

    Args:
      blocks: how many layers each block has: a column of the paper's table 1.
      growth: k, the maps that a layer adds.
      width: filters of the stem, 2 k in the paper.
      drop: dropout behind each layer; the paper has 0.2 where images are not augmented.

    Weights start by fan-in (He et al. 2015), as the paper's and torchvision's do.

    Source: section 3 and table 1.
    """
    layers: dict[str, core.Layer | Callable] = {
        "conv0": _conv(width, 7, 2),
        "norm0": batch_norm(),
        "relu0": relu,
        "pool0": max_pool(3, 2, 1),
    }
    features = width
    for number, count in enumerate(blocks, 1):
        layers[f"denseblock{number}"] = dense_block(count, growth, drop)
        features += count * growth
        if number < len(blocks):
            features //= 2
            layers[f"transition{number}"] = core.serial(
                norm=batch_norm(), relu=relu, conv=_conv(features, 1), pool=avg_pool(2)
            )
    classifier = dense(classes, kernel_init=uniform_fan_in)
    return core.serial(**layers, norm5=batch_norm(), relu5=relu, avgpool=global_avg_pool, classifier=classifier)


# The columns of table 1; DenseNet-161 is in the authors' code. The options are those of `densenet`.


@model("DenseNet, 121 layers (Huang et al. 2016)", input=(224, 224, 3), published=WEIGHTS)
def densenet121(classes: int = 1000, **options: Any) -> core.Layer:
    """k = 32: 7,978,856 parameters for RGB. Options are those of `densenet`."""
    return densenet((6, 12, 24, 16), classes, **options)


@model("DenseNet, 161 layers, growth 48 (2016)", input=(224, 224, 3), published=WEIGHTS)
def densenet161(classes: int = 1000, **options: Any) -> core.Layer:
    """k = 48: 28,681,000 parameters for RGB. Options are those of `densenet`."""
    return densenet((6, 12, 36, 24), classes, **{"growth": 48, "width": 96, **options})


@model("DenseNet, 169 layers (2016)", input=(224, 224, 3), published=WEIGHTS)
def densenet169(classes: int = 1000, **options: Any) -> core.Layer:
    """k = 32: 14,149,480 parameters for RGB. Options are those of `densenet`."""
    return densenet((6, 12, 32, 32), classes, **options)


@model("DenseNet, 201 layers (2016)", input=(224, 224, 3), published=WEIGHTS)
def densenet201(classes: int = 1000, **options: Any) -> core.Layer:
    """k = 32: 20,013,928 parameters for RGB. Options are those of `densenet`."""
    return densenet((6, 12, 48, 32), classes, **options)
