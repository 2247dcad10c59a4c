"""Fast R-CNN (Girshick, Fast R-CNN, 2015): the convolutions run once per image, and each region pools its part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import dense, dropout, max_pool, relu
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import model
from jaxcnn.models.vgg import stages
from jaxcnn.ops.geometry import Padding
from jaxcnn.ops.roi import roi_align, roi_max_pool


class Regions(NamedTuple):
    """The output of a network for the regions of each image.

    Attributes:
      logits: `(N, R, K + 1)`, a score per class; the last one is background.
      deltas: `(N, R, K, 4)`, for each class the deltas from the region to the box of its object (`ops.boxes.encode`),
        divided by `jaxcnn.tasks.detection.objective.DEVIATION`.
      boxes: `(N, R, 4)`, the regions. A region of zero size is padding.
    """

    logits: jax.Array
    deltas: jax.Array
    boxes: jax.Array


@core.layer
def small_backbone(width: int = 24, *, norm: bool = True) -> core.Layer:
    """Convolutions to a map of stride 8, for small images and objects: `(N, H, W, C) -> (N, H / 8, W / 8, 4 width)`.

    A 5x5 convolution of stride 2, then two stages, each of a 2x2 max pool and two 3x3 convolutions. A pixel of the map
    sees 68 x 68 pixels of the image. H and W should be multiples of 8.

    Args:
      width: filters of the first convolution; the stages have 2 and 4 times as many.
      norm: whether batch normalization follows each convolution.
    """
    layers: dict[str, core.Layer | Callable] = {}

    def add(name: str, features: int, size: int, stride: int = 1) -> None:
        pads: Padding | None = "SAME" if stride > 1 else None
        layers.update(conv_norm_act(features, size, stride, at=name, padding=pads, norm=norm))

    add("1", width, 5, stride=2)
    for stage in (2, 3):
        layers[f"pool{stage - 1}"] = max_pool(2)
        for i in (1, 2):
            add(f"{stage}_{i}", 2 ** (stage - 1) * width, 3)
    return core.serial(**layers)


@core.layer
def vgg_backbone(convolutions: Sequence[int] = (2, 2, 3, 3, 3), *, width: int = 64, norm: bool = False) -> core.Layer:
    """VGG's stages without the last pool, as in the paper: `(N, H, W, C) -> (N, H / 16, W / 16, 8 width)`.

    Args:
      convolutions: their number in each stage; (2, 2, 3, 3, 3) is VGG-16. The layers have the same names as in
        `models.vgg`, so its trained variables fit.
      width: filters of the first stage.
      norm: whether batch normalization follows each convolution.
    """
    layers = stages(convolutions, width, norm)
    layers.pop(f"pool{len(convolutions)}", None)
    return core.serial(**layers)


@core.layer
def region_head(classes: int, units: int = 128, *, layers: int = 1, drop: float = 0.0) -> core.Layer:
    """Dense layers, then a score for each class and background, and a box for each class.

    `(N, R, P, P, C) -> (N, R, K + 1), (N, R, K, 4)`.

    Args:
      classes: K.
      units: the units of each hidden layer; 4096 in the paper.
      layers: the number of hidden layers; 2 in the paper.
      drop: dropout after each hidden layer.

    Source: section 2.1; the initial weights of the last layers have std 0.01 and 0.001 (section 2.3).
    """

    def forward(net: core.Net, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        for i in range(layers):
            x = net[f"drop{i + 6}"](relu(net[f"fc{i + 6}"](x)))
        return net.score(x), net.box(x).reshape(*x.shape[:2], classes, 4)

    hidden: dict[str, Any] = {f"fc{i + 6}": dense(units, kernel_init=_he_in) for i in range(layers)}
    hidden |= {f"drop{i + 6}": dropout(drop) for i in range(layers)}
    return core.network(
        forward,
        **hidden,
        score=dense(classes + 1, kernel_init=initializers.normal(0.01)),
        box=dense(4 * classes, kernel_init=initializers.normal(0.001)),
    )


_he_in = initializers.he_normal()


@model(
    "boxes: one feature map, RoI pooling (Girshick 2015)",
    input=(240, 320, 3),
    task="detection",
    classes=20,
    more=(((64, 4), "float32"),),
)
def fast_rcnn(
    classes: int = 20,
    *,
    backbone: core.Layer | None = None,
    pool: int = 7,
    align: bool = False,
    units: int = 128,
    layers: int = 1,
    drop: float = 0.0,
) -> core.Layer:
    """One feature map per image, RoI pooling, two heads: `(images (N, H, W, C), boxes (N, R, 4)) -> Regions`.

    Args:
      classes: K, without background.
      backbone: a Layer from images to a map; `small_backbone()` by default, `vgg_backbone()` in the paper. The scale
        of the map follows from the sizes of image and map.
      pool: P; a region is pooled to P x P.
      align: whether to use RoI align instead of the paper's RoI max pooling.
      units, layers, drop: see `region_head`. The paper has two layers of 4096 units with dropout 0.5.

    Raises:
      LayerError: for boxes of another shape.

    Source: section 2 and figure 1.
    """

    def forward(net: core.Net, images: jax.Array, boxes: jax.Array) -> Regions:
        features = net.backbone(images)
        scale = features.shape[1] / images.shape[1]
        if abs(features.shape[2] / images.shape[2] - scale) > 1e-6:
            raise core.LayerError(
                f"images of {images.shape[1]}x{images.shape[2]} have a map of {features.shape[1]}x{features.shape[2]}, "
                "which is not the same scale on both sides; use images whose sides are multiples of the map's stride"
            )
        try:
            pooled = (roi_align if align else roi_max_pool)(features, boxes, pool, scale)
        except UserError as error:
            raise core.LayerError(str(error)) from None
        logits, deltas = net.head(pooled)
        return Regions(logits, deltas, jnp.asarray(boxes))

    return core.network(
        forward,
        backbone=small_backbone() if backbone is None else backbone,
        head=region_head(classes, units, layers=layers, drop=drop),
    )
