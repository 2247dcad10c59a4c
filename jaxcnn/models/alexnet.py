"""AlexNet (Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012).

Five convolutions and three dense layers, in the three forms that go by the name: the one that torchvision's weights
belong to, the paper's own in two groups, and the simplified one of the lectures.
"""

from __future__ import annotations

from typing import Any

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import adaptive_avg_pool, conv, dense, dropout, flatten, local_response_norm, max_pool, relu
from jaxcnn.models.blocks import counted_names, uniform_fan_in
from jaxcnn.models.registry import Published, model

_uniform = uniform_fan_in  # PyTorch's biases, drawn likewise, are 0 here
WEIGHTS = Published("alexnet", counted_names, heads=("fc8",))


@model("AlexNet, torchvision's, in one column (Krizhevsky 2014)", input=(224, 224, 3), published=WEIGHTS)
def alexnet(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """AlexNet as torchvision has it: `(N, 224, 224, C) -> (N, classes)` logits; 61,100,840 parameters.

    Against the paper: one column instead of two groups, fewer filters in the first convolutions (64 and 192), no
    response normalization, and an average pool that brings any image of 63 pixels or more to 6x6 before the dense
    layers. Dropout stands before the dense layers rather than behind them.

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


# Section 5: weights normal with deviation 0.01; biases 1 where it gives ReLUs something positive to begin with.
_normal: dict[str, Any] = {"kernel_init": initializers.normal(0.01)}
_positive: dict[str, Any] = {**_normal, "bias_init": initializers.ones}


@model("AlexNet, the paper's, in two groups (2012)", input=(227, 227, 3), fixed_size=True)
def alexnet_2012(classes: int = 1000, *, drop: float = 0.5) -> core.Layer:
    """AlexNet as the paper has it: `(N, 227, 227, C) -> (N, classes)` logits; 60,965,224 parameters.

    The second, fourth and fifth convolution are in two groups, which were two GPUs' halves of the network: a filter
    sees only the maps of its own half. Responses are normalized across neighbouring maps behind the first two
    convolutions, and pooling windows overlap, 3x3 at stride 2.

    The paper speaks of 224x224 images, on which 11x11 filters at stride 4 do not fit: its 55x55 outputs need 227.
    The five neighbours of a map in the normalization may lie in the other half, of which the paper says nothing.

    Args:
      drop: dropout behind fc6 and fc7.

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
    """AlexNet as the lectures draw it: `(N, 227, 227, C) -> (N, classes)` logits; 62,378,344 parameters.

    The paper's network in one piece: every filter sees all maps, and the normalization stands behind the pooling.

    Args:
      drop: dropout behind fc6 and fc7.

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
