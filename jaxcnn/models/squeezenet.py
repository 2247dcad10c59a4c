"""SqueezeNet (Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016).

Most filters are 1x1, and a layer of few channels stands before those that are 3x3. There is no dense layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import conv, dropout, global_avg_pool, max_pool, relu
from jaxcnn.models.blocks import places
from jaxcnn.models.registry import Published, model, with_weights

_start = initializers.variance_scaling(2, "fan_in", "uniform")


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    place = places(model)
    classifier = place[("drop",)]

    def name(path: core.Path) -> str:
        top = place[path[:1]]
        start = f"features.{top}" if top < classifier else f"classifier.{top - classifier}"
        return ".".join([start, *path[1:]])

    return name


WEIGHTS = Published("squeezenet", _torch_names, heads=("conv10",))


@core.layer
def fire(squeeze: int, expand: int) -> core.Layer:
    """1x1 filters to few channels, then 1x1 and 3x3 filters side by side: `(N, H, W, C) -> (N, H, W, 2 expand)`.

    Args:
      squeeze: s_1x1, the channels between the two.
      expand: e_1x1 = e_3x3, the filters of each kind.

    Source: section 3.2 and figure 1.
    """

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        x = relu(net.squeeze(x))
        return core.concat(relu(net.expand1x1(x)), relu(net.expand3x3(x)))

    return core.network(
        forward,
        squeeze=conv(squeeze, 1, kernel_init=_start),
        expand1x1=conv(expand, 1, kernel_init=_start),
        expand3x3=conv(expand, 3, padding=1, kernel_init=_start),
    )


@with_weights(WEIGHTS)
@core.layer
def squeezenet(stem: tuple[int, int], pools: Sequence[int], classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """A convolution, eight fire modules, a 1x1 convolution to the classes and their mean over the image.

    `(N, H, W, C) -> (N, classes)`.

    Args:
      stem: the number and size of the first filters, whose stride is 2.
      pools: the numbers of the fire modules, 2 to 9, behind which a pool stands; one stands behind the stem, too.
      drop: dropout before the last convolution.

    Against the paper: the last convolution has a ReLU before the mean, as in the authors' model and in torchvision, and
    its weights start from a normal distribution of deviation 0.01, all others as He et al. (2015) propose, uniformly.

    Source: section 3.3 and table 1.
    """
    features, size = stem
    layers: dict[str, core.Layer | Callable] = {
        "conv1": conv(features, size, 2, floor=True, kernel_init=_start),
        "relu1": relu,
        "pool1": max_pool(3, 2, ceil=True),
    }
    for number in range(2, 10):
        width = number // 2
        layers[f"fire{number}"] = fire(16 * width, 64 * width)
        if number in pools:
            layers[f"pool{number}"] = max_pool(3, 2, ceil=True)
    return core.serial(
        **layers,
        drop=dropout(drop),
        conv10=conv(classes, 1, kernel_init=initializers.normal(0.01)),
        relu10=relu,
        avgpool=global_avg_pool,
    )


@model("SqueezeNet 1.0 (Iandola et al. 2016)", input=(224, 224, 3), published=WEIGHTS)
def squeezenet1_0(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """The paper's network: 1,248,424 parameters. `drop` as in `squeezenet`."""
    return squeezenet((96, 7), (4, 8), classes, drop=drop)


@model("SqueezeNet 1.1 (2016)", input=(224, 224, 3), published=WEIGHTS)
def squeezenet1_1(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """The authors' later version, of 2.4 times fewer operations: 1,235,496 parameters. `drop` as in `squeezenet`."""
    return squeezenet((64, 3), (3, 5), classes, drop=drop)
