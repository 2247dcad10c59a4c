"""LR-ASPP (Howard et al., Searching for MobileNetV3, 2019): segmentation for a phone.

Of the pyramid of DeepLab two branches are left: a 1x1 convolution of the last map, and a weight for each of its
channels by the mean of the image. A finer map adds scores of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxcnn import core
from jaxcnn.layers import conv, sigmoid
from jaxcnn.models.blocks import conv_norm_act, uniform_fan_in
from jaxcnn.models.deeplab import trunk
from jaxcnn.models.features import features
from jaxcnn.models.registry import Published, model
from jaxcnn.ops import resize


@core.layer
def lraspp_head(classes: int, filters: int = 128) -> core.Layer:
    """Scores from two maps: `(N, h, w, c), (N, H, W, C) -> (N, H, W, classes)`, the coarse map first.

    s = enlarged(cbr(high) * sigmoid(scale(mean of high))); scores = low_classifier(low) + high_classifier(s).

    Source: section 6.4 and figure 10. As in torchvision, the mean is that of the whole map, where the paper has windows
      of 49x49.
    """

    def forward(net: core.Net, high: jax.Array, low: jax.Array) -> jax.Array:
        gate = sigmoid(net.scale(high.mean((1, 2), keepdims=True)))
        y = resize(net.cbr(high) * gate, low.shape[1:3])
        return net.low_classifier(low) + net.high_classifier(y)

    return core.network(
        forward,
        cbr=core.serial(**conv_norm_act(filters, 1, kernel_init=uniform_fan_in)),
        scale=conv(filters, 1, bias=False, kernel_init=uniform_fan_in),
        low_classifier=conv(classes, 1, kernel_init=uniform_fan_in),
        high_classifier=conv(classes, 1, kernel_init=uniform_fan_in),
    )


_TORCH = {"cbr/conv": "cbr.0", "cbr/bn": "cbr.1", "scale": "scale.1"}


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    backbone = trunk("mobilenet_v3_large").torch

    def name(path: core.Path) -> str:
        part, *rest = path
        inside = "/".join(rest)
        return f"{part}.{backbone(tuple(rest)) if part == 'backbone' else _TORCH.get(inside, inside)}"

    return name


WEIGHTS = Published(
    "lraspp", _torch_names, ("classifier/low_classifier", "classifier/high_classifier"), size=520,
    resize=(520, "bilinear"),
)  # fmt: skip


@model(
    "a class a pixel, LR-ASPP on MobileNetV3 (Howard et al. 2019)",
    input=(520, 520, 3),
    task="segmentation",
    classes=21,
    published=WEIGHTS,
)
def lraspp_mobilenet_v3_large(classes: int = 21, *, width: float = 1.0, filters: int = 128) -> core.Layer:
    """Scores of each class for each pixel: `(N, H, W, C) -> (N, H, W, classes)` logits; 3,221,538 parameters.

    Args:
      width: multiplies the channels of the MobileNetV3, whose last stage is dilated (output stride 16).
      filters: of the head.

    Variables: `backbone`, under the classifier's own names without its dense layers; `classifier`.
    """
    base = trunk("mobilenet_v3_large", width)

    def forward(net: core.Net, image: jax.Array) -> Any:
        maps = net.backbone(image)
        return resize(net.classifier(maps[base.last], maps[base.early]), image.shape[1:3])

    taken = features(base.layers, (base.early, base.last))
    return core.network(forward, backbone=taken, classifier=lraspp_head(classes, filters))
