"""Wide residual networks for CIFAR (Zagoruyko and Komodakis, Wide residual networks, 2016).

A hundred times deeper is not a hundred times better: 28 layers of ten times as many filters do better than a thousand
thin ones, and train several times faster. Dropout stands between the convolutions of a block.
"""

from __future__ import annotations

from typing import Any

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import batch_norm, dense, global_avg_pool, relu
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.cifar_resnet import preactivated_unit
from jaxcnn.models.registry import model


@core.layer
def wide_resnet(depth: int, widen: int, classes: int = 10, *, drop: float = 0.0, width: int = 16) -> core.Layer:
    """WRN-d-k of 6n + 4 layers: `(N, 32, 32, C) -> (N, classes)` logits. Other sizes of image go in too.

    One convolution of `width` filters; three stages of n preactivated units with `width` k, 2 `width` k and 4 `width` k
    features on 32x32, 16x16 and 8x8 pixels; normalization, ReLU, the mean over the image; one dense layer.

    Args:
      depth: d, the number of convolutions, those of the shortcuts included: 10, 16, 22, 28, 40, ...
      widen: k, how many times wider than the thin network the stages are.
      drop: dropout between the two convolutions of a unit; 0.3 in the paper where it is used.
      width: filters of the first convolution.

    Raises:
      UserError: for a depth that is not 6n + 4.

    The weights start by fan-out, as He et al. (2015) propose.

    Source: section 2 and table 1; dropout, section 3.
    """
    n, left = divmod(depth - 4, 6)
    if n < 1 or left:
        near = (10,) if n < 1 else (6 * n + 4, 6 * n + 10)
        raise UserError(f"depth={depth}: expected 6n + 4; the nearest is {' or '.join(map(str, near))}")
    options: dict[str, Any] = {"drop": drop} if drop else {}
    stages = {}
    for stage in (1, 2, 3):
        features, stride = width * widen * 2 ** (stage - 1), 1 if stage == 1 else 2
        head = preactivated_unit(features, stride, "C", first=stage == 1, **options)
        rest = {f"block{i}": preactivated_unit(features, **options) for i in range(2, n + 1)}
        stages[f"layer{stage}"] = core.serial(block1=head, **rest)
    stem = {"conv1": conv_norm_act(width, 3, at="1", act=None)["conv1"]}
    end: dict[str, Any] = {"bn1": batch_norm(), "relu1": relu, "avgpool": global_avg_pool, "fc": dense(classes)}
    return core.serial(**stem, **stages, **end)


@model("wide residual network for CIFAR, 28 layers, 10 times as wide (Zagoruyko et al. 2016)", input=(32, 32, 3))
def wrn28_10(classes: int = 10, **options: Any) -> core.Layer:
    """d = 28, k = 10: 36,479,194 parameters for RGB and 10 classes. Options are those of `wide_resnet`."""
    return wide_resnet(28, 10, classes, **options)
