"""R-CNN (Girshick et al., Rich feature hierarchies for accurate object detection and semantic segmentation, 2014)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.models.fast_rcnn import Regions, region_head, small_backbone
from jaxcnn.models.registry import model
from jaxcnn.ops.precision import rounded, wide
from jaxcnn.ops.roi import crop_regions


@model(
    "boxes: regions, each classified (Girshick et al. 2014)",
    input=(240, 320, 3),
    task="detection",
    classes=20,
    more=(((64, 4), "float32"),),
)
def rcnn(
    classes: int = 20,
    *,
    backbone: core.Layer | None = None,
    size: int = 56,
    context: int = 4,
    units: int = 128,
    layers: int = 1,
    drop: float = 0.0,
) -> core.Layer:
    """Each region is cropped, warped to a square and classified: `(images, boxes (N, R, 4)) -> Regions`.

    Args:
      classes: K, without background.
      backbone: a Layer from warped regions `(N R, size, size, C)` to a map; `small_backbone()` by default.
      size: the size of the warped regions; 227 in the paper.
      context: the pixels of a warped region, on each side, that lie outside the box; 16 in the paper.
      units, layers, drop: see `models.fast_rcnn.region_head`.

    The mean colour of each image is subtracted first. So pixels outside the image, which are 0, have this colour.

    Against the paper: one network is trained with one loss. Its softmax is the classifier, and its last layer predicts
    the boxes; the paper trains support vector machines and a ridge regression on the network's features.

    Raises:
      LayerError: for boxes of another shape.

    Source: section 2; warping, appendix A; boxes, appendix C.
    """

    def forward(net: core.Net, images: jax.Array, boxes: jax.Array) -> Regions:
        try:
            values = wide(images)
            centred = rounded(values - values.mean((1, 2), keepdims=True), images.dtype)
            crops = crop_regions(centred, boxes, size, context)
        except UserError as error:
            raise core.LayerError(str(error)) from None
        features = net.backbone(crops.reshape(-1, *crops.shape[2:]))
        logits, deltas = net.head(features.reshape(*crops.shape[:2], *features.shape[1:]))
        return Regions(logits, deltas, jnp.asarray(boxes))

    return core.network(
        forward,
        backbone=small_backbone() if backbone is None else backbone,
        head=region_head(classes, units, layers=layers, drop=drop),
    )
