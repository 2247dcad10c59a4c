"""GoogLeNet (Szegedy et al., Going deeper with convolutions, 2015): 22 layers with few parameters.

An Inception module applies filters of several sizes to the same maps. 1x1 convolutions before the larger filters reduce
the number of channels, and so the cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import (
    adaptive_avg_pool,
    avg_pool,
    batch_norm,
    dense,
    dropout,
    flatten,
    global_avg_pool,
    local_response_norm,
    max_pool,
    relu,
)
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import Published, model

# Table 1: the filters of each module's 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

Unit = Callable[..., core.Layer]
"""`(features, kernel_size, stride=1) -> Layer`: a convolution with its normalization and activation."""


@core.layer
def inception(
    unit: Unit, wide: int, ones: int, reduce3: int, threes: int, reduce5: int, fives: int, projected: int
) -> core.Layer:
    """Four parallel branches: `(N, H, W, C) -> (N, H, W, ones + threes + fives + projected)`.

    Args:
      unit: the convolution, which keeps the image's size.
      wide: the size of the largest filter; 5 in the paper.
      ones, reduce3, threes, reduce5, fives, projected: numbers of filters, as in the paper's table 1.

    Source: figure 2 (b).
    """
    return core.parallel(
        branch1=unit(ones, 1),
        branch2=core.serial(reduce=unit(reduce3, 1), conv=unit(threes, 3)),
        branch3=core.serial(reduce=unit(reduce5, 1), conv=unit(fives, wide)),
        branch4=core.serial(pool=max_pool(3, 1, padding=1), project=unit(projected, 1)),
        join=core.concat,
    )


def _with_heads(aux: bool, aux1: core.Layer, aux2: core.Layer, **layers: core.Layer | Callable) -> core.Layer:
    """The layers in sequence. With `aux`, a training pass also applies aux1 to the map of 4a and aux2 to that of 4d."""

    def forward(net: core.Net, x: jax.Array) -> Any:
        early = []
        for name in layers:
            x = net[name](x)
            if aux and net.train and name == "inception4a":
                early.append(net.aux1(x))
            if aux and net.train and name == "inception4d":
                early.append(net.aux2(x))
        return (x, *early) if early else x

    return core.network(forward, **layers, **({"aux1": aux1, "aux2": aux2} if aux else {}))


# --- torchvision's -----------------------------------------------------------------------------------------------

_normal = initializers.normal(0.01)


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    order = {"reduce": 0, "conv": 1, "project": 1}

    def name(path: core.Path) -> str:
        module, *rest = path
        # torchvision numbers the layers of a branch. The first branch has only one layer.
        if len(rest) == 3 and rest[0].startswith("branch"):
            rest[1] = str(order[rest[1]])
        return ".".join([module, *rest])

    return name


# The published weights expect images from -1 to 1 (torchvision's `transform_input=True`).
WEIGHTS = Published(
    "googlenet", _torch_names, ("fc", "aux1/fc2", "aux2/fc2"), ("aux1.", "aux2."), mean=(0.5,) * 3, std=(0.5,) * 3
)


@core.layer
def conv_bn(features: int, kernel_size: int, stride: int = 1) -> core.Layer:
    """Convolution without bias, batch normalization with an eps of 0.001, ReLU."""
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=batch_norm(eps=1e-3), kernel_init=_normal))


@model("GoogLeNet, torchvision's: 3x3, batch normalization (2015)", input=(224, 224, 3), published=WEIGHTS)
def googlenet(classes: int = 1000, *, aux: bool = False, drop: float = 0.2, drop_aux: float = 0.7) -> core.Layer:
    """torchvision's GoogLeNet: `(N, H, W, C) -> (N, classes)` logits; 6,624,904 parameters.

    Args:
      aux: whether to add two auxiliary classifiers in training, on the maps of 4a and 4d. A training pass then returns
        `(logits, aux1, aux2)`, and the paper's loss is loss + 0.3 aux1 + 0.3 aux2; an evaluation returns the logits
        alone. With the heads, there are 13,004,888 parameters.
      drop, drop_aux: dropout before the last dense layer of the network, and of the heads.

    Against the paper: batch normalization after each convolution and no local response normalization; 3x3 filters
    instead of 5x5, a mistake in torchvision that the published weights depend on; a 2x2 pool before 5a; less dropout.

    Source: section 5 and table 1; Ioffe and Szegedy, Batch normalization (2015), for the normalization.
    """

    def head() -> core.Layer:
        return core.serial(
            pool=adaptive_avg_pool(4),
            conv=conv_bn(128, 1),
            flat=flatten,
            fc1=dense(1024, kernel_init=_normal),
            relu=relu,
            drop=dropout(drop_aux),
            fc2=dense(classes, kernel_init=_normal),
        )

    module = {name: inception(conv_bn, 3, *filters) for name, filters in TABLE_1.items()}
    return _with_heads(
        aux,
        aux1=head(),
        aux2=head(),
        conv1=conv_bn(64, 7, 2),
        maxpool1=max_pool(3, 2, ceil=True),
        conv2=conv_bn(64, 1),
        conv3=conv_bn(192, 3),
        maxpool2=max_pool(3, 2, ceil=True),
        inception3a=module["3a"],
        inception3b=module["3b"],
        maxpool3=max_pool(3, 2, ceil=True),
        inception4a=module["4a"],
        inception4b=module["4b"],
        inception4c=module["4c"],
        inception4d=module["4d"],
        inception4e=module["4e"],
        maxpool4=max_pool(2, 2, ceil=True),
        inception5a=module["5a"],
        inception5b=module["5b"],
        avgpool=global_avg_pool,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=_normal),
    )


# --- the paper's -------------------------------------------------------------------------------------------------

# The initial weights of the authors' Caffe model, "xavier", and its biases; the paper does not give them.
_xavier = initializers.variance_scaling(1, "fan_in", "uniform")
_start: dict[str, Any] = {"kernel_init": _xavier, "bias_init": initializers.constant(0.2)}


@core.layer
def conv_relu(features: int, kernel_size: int, stride: int = 1) -> core.Layer:
    """Convolution with bias, ReLU."""
    return core.serial(**conv_norm_act(features, kernel_size, stride, norm=None, **_start))


@model("GoogLeNet, the paper's (Szegedy et al. 2014)", input=(224, 224, 3))
def googlenet_2014(classes: int = 1000, *, aux: bool = False, drop: float = 0.4, drop_aux: float = 0.7) -> core.Layer:
    """The paper's GoogLeNet: `(N, H, W, C) -> (N, classes)` logits; 6,998,552 parameters.

    Args:
      aux, drop, drop_aux: as in `googlenet`. With the heads, there are 13,378,280 parameters.

    The last pool is the mean over the image (7x7 for the paper's 224x224), so other sizes can be used. The paper does
    not describe the padding; pooling rounds up, which gives the sizes of its table 1: 112, 56, 28, 14, 7.

    Source: section 5, figure 3 and table 1; local response normalization as in Krizhevsky et al. (2012).
    """

    def head() -> core.Layer:
        return core.serial(
            pool=avg_pool(5, 3),
            conv=conv_relu(128, 1),
            flat=flatten,
            fc1=dense(1024, **_start),
            relu=relu,
            drop=dropout(drop_aux),
            fc2=dense(classes, kernel_init=_xavier),
        )

    module = {name: inception(conv_relu, 5, *filters) for name, filters in TABLE_1.items()}
    return _with_heads(
        aux,
        aux1=head(),
        aux2=head(),
        conv1=conv_relu(64, 7, 2),
        maxpool1=max_pool(3, 2, ceil=True),
        norm1=local_response_norm(),
        conv2=conv_relu(64, 1),
        conv3=conv_relu(192, 3),
        norm2=local_response_norm(),
        maxpool2=max_pool(3, 2, ceil=True),
        inception3a=module["3a"],
        inception3b=module["3b"],
        maxpool3=max_pool(3, 2, ceil=True),
        inception4a=module["4a"],
        inception4b=module["4b"],
        inception4c=module["4c"],
        inception4d=module["4d"],
        inception4e=module["4e"],
        maxpool4=max_pool(3, 2, ceil=True),
        inception5a=module["5a"],
        inception5b=module["5b"],
        avgpool=global_avg_pool,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=_xavier),
    )
