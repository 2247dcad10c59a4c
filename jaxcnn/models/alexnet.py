"""AlexNet (Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012).

Five convolutions and three dense layers, in the three forms that are called AlexNet: torchvision's, which has published
weights; the paper's, in two groups; and the lectures' simplified one.
"""

from __future__ import annotations

from typing import Any

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import adaptive_avg_pool, conv, dense, dropout, flatten, local_response_norm, max_pool, relu
from jaxcnn.models.blocks import counted_names, uniform_fan_in
from jaxcnn.models.registry import Published, model

_uniform = uniform_fan_in  # for kernels; PyTorch also draws biases from it, here they are 0
WEIGHTS = Published("alexnet", counted_names, heads=("fc8",))


@model("AlexNet, torchvision's, in one column (Krizhevsky 2014)", input=(224, 224, 3), published=WEIGHTS)
def alexnet(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """torchvision's AlexNet: `(N, 224, 224, C) -> (N, classes)` logits; 61,100,840 parameters.

    Against the paper: one column instead of two groups, fewer filters in the first convolutions (64 and 192), no
    local response normalization, and an average pool to 6x6 before the dense layers, so images of 63 pixels or more can
    be used. Dropout is before the dense layers instead of after them.

    Args:
      drop: dropout before fc6 and fc7.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks (2014), for the single column.
    """
    return core.serial(
        conv1=conv(64, 11, 4, padding=2, floor=True, kernel_init=_uniform),
        relu1=relu,
        pool1=max_pool(3, 2),
        conv2=conv(192, 5, padding=2, kernel_init=_uniform),
        relu2=relu,
        pool2=max_pool(3, 2),
        conv3=conv(384, 3, padding=1, kernel_init=_uniform),
        relu3=relu,
        conv4=conv(256, 3, padding=1, kernel_init=_uniform),
        relu4=relu,
        conv5=conv(256, 3, padding=1, kernel_init=_uniform),
        relu5=relu,
        pool5=max_pool(3, 2),
        avgpool=adaptive_avg_pool(6),
        flat=flatten,
        drop6=dropout(drop),
        fc6=dense(4096, kernel_init=_uniform),
        relu6=relu,
        drop7=dropout(drop),
        fc7=dense(4096, kernel_init=_uniform),
        relu7=relu,
        fc8=dense(classes, kernel_init=_uniform),
    )


# Section 5: normal weights with std 0.01; some biases start at 1, which gives their ReLUs positive inputs.
_normal: dict[str, Any] = {"kernel_init": initializers.normal(0.01)}
_positive: dict[str, Any] = {**_normal, "bias_init": initializers.ones}


@model("AlexNet, the paper's, in two groups (2012)", input=(227, 227, 3), fixed_size=True)
def alexnet_2012(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """The paper's AlexNet: `(N, 227, 227, C) -> (N, classes)` logits; 60,965,224 parameters.

    The second, fourth and fifth convolution have two groups, because each half of the network was on its own GPU: a
    filter sees only the maps of its half. Responses are normalized across neighbouring maps after the first two
    convolutions. Pooling windows overlap: 3x3 at stride 2.

    The paper gives the input as 224x224, on which 11x11 filters at stride 4 do not fit; its 55x55 outputs need 227x227.
    Here, the normalization also uses neighbours from the other half; the paper does not say whether it does.

    Args:
      drop: dropout after fc6 and fc7.

    Source: section 3.5 and figure 2; normalization 3.3, overlapping pooling 3.4, dropout 4.2, first weights 5.
    """
    return core.serial(
        conv1=conv(96, 11, 4, **_normal),
        relu1=relu,
        norm1=local_response_norm(5, alpha=1e-4, beta=0.75, k=2.0),
        pool1=max_pool(3, 2),
        conv2=conv(256, 5, padding=2, groups=2, **_positive),
        relu2=relu,
        norm2=local_response_norm(5, alpha=1e-4, beta=0.75, k=2.0),
        pool2=max_pool(3, 2),
        conv3=conv(384, 3, padding=1, **_normal),
        relu3=relu,
        conv4=conv(384, 3, padding=1, groups=2, **_positive),
        relu4=relu,
        conv5=conv(256, 3, padding=1, groups=2, **_positive),
        relu5=relu,
        pool5=max_pool(3, 2),
        flat=flatten,
        fc6=dense(4096, **_positive),
        relu6=relu,
        drop6=dropout(drop),
        fc7=dense(4096, **_positive),
        relu7=relu,
        drop7=dropout(drop),
        fc8=dense(classes, **_normal),
    )


@model("AlexNet, the lectures' table, without groups (2012)", input=(227, 227, 3), fixed_size=True)
def alexnet_single(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """The lectures' AlexNet: `(N, 227, 227, C) -> (N, classes)` logits; 62,378,344 parameters.

    The paper's network without groups: every filter sees all maps, and normalization is after pooling.

    Args:
      drop: dropout after fc6 and fc7.

    Source: Stanford CS231n's table of the simplified architecture, which the lectures show.
    """
    return core.serial(
        conv1=conv(96, 11, 4, **_normal),
        relu1=relu,
        pool1=max_pool(3, 2),
        norm1=local_response_norm(),
        conv2=conv(256, 5, padding=2, **_positive),
        relu2=relu,
        pool2=max_pool(3, 2),
        norm2=local_response_norm(),
        conv3=conv(384, 3, padding=1, **_normal),
        relu3=relu,
        conv4=conv(384, 3, padding=1, **_positive),
        relu4=relu,
        conv5=conv(256, 3, padding=1, **_positive),
        relu5=relu,
        pool3=max_pool(3, 2),
        flat=flatten,
        fc6=dense(4096, **_positive),
        relu6=relu,
        drop6=dropout(drop),
        fc7=dense(4096, **_positive),
        relu7=relu,
        drop7=dropout(drop),
        fc8=dense(classes, **_normal),
    )
