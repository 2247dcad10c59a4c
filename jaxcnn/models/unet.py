"""U-Net (Ronneberger, Fischer and Brox, U-Net: Convolutional networks for biomedical image segmentation, 2015).

On the left, a classifier's stages, each on half of the rows and columns of the one before. On the right the same way
back: each map is enlarged and joined with the left one of its size, which knows where the edges are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError, unknown
from jaxcnn.layers import conv, conv_transpose, dropout, max_pool
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.features import features
from jaxcnn.models.registry import model
from jaxcnn.models.resnet import resnet18, resnet34, resnet50
from jaxcnn.ops import resize

_RESNET = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}
BACKBONES = tuple(_RESNET)
"""The classifiers that can be the left side."""

# The paper's section 3: a standard deviation of sqrt(2 / N), N the inputs of a unit.
_he = initializers.variance_scaling(2, "fan_in", "normal")


def _two_convolutions(filters: int, **options: Any) -> core.Layer:
    first, second = (conv_norm_act(filters, 3, at=at, kernel_init=_he, **options) for at in ("1", "2"))
    return core.serial(**first, **second)


@model("a class a pixel, U-Net (Ronneberger et al. 2015)", input=(240, 320, 3), task="segmentation", classes=21)
def unet(
    classes: int = 21,
    *,
    width: int = 64,
    depth: int = 4,
    padded: bool = True,
    norm: bool = False,
    drop: float = 0.0,
) -> core.Layer:
    """Scores of each class for each pixel: `(N, H, W, C) -> (N, H, W, classes)` logits.

    Args:
      width: filters of the first stage. Each stage has twice as many on half as many rows and columns.
      depth: how many times the map is halved; below, there is one more stage.
      padded: whether 3x3 convolutions keep the size. H and W are then any; a map of an odd size is halved by rounding
        up. Without padding, as in the paper, each takes two rows and columns, and the output is smaller than the image:
        572x572 gives 388x388. The left maps are cropped to the size of the right ones.
      norm: batch normalization behind each 3x3 convolution; the paper came before it.
      drop: dropout on the lowest map; the paper has some "at the end of the contracting path", and no number.

    Variables: `down1`, `down2`, ..., the stages on the left, the lowest last; `up1`, `up2`, ..., the transposed
      convolutions that lead up to each left map, and `join1`, ..., the stages behind; `score`.

    Raises:
      UserError: without padding, for an image of a size at which a map would have an odd number of rows or columns to
        be halved, or none left.

    Source: section 2 and figure 1; the first weights, section 3.
    """
    options: dict[str, Any] = {"norm": norm, **({} if padded else {"padding": 0})}
    stages = range(1, depth + 1)

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        left = []
        for stage in stages:
            x = net[f"down{stage}"](x)
            left.append(x)
            if not padded and (x.shape[1] % 2 or x.shape[2] % 2):
                raise UserError(
                    f"a map of {x.shape[1]}x{x.shape[2]} pixels cannot be halved: without padding, give images of "
                    "another size (572x572, or 16 more or less, for four stages), or padded=True"
                )
            x = net.pool(x)
        x = net.drop(net[f"down{depth + 1}"](x))
        for stage in reversed(stages):
            x = net[f"up{stage}"](x)
            x = net[f"join{stage}"](_joined(left[stage - 1], x, padded))
        return net.score(x)

    return core.network(
        forward,
        **{f"down{s}": _two_convolutions(width * 2 ** (s - 1), **options) for s in range(1, depth + 2)},
        pool=max_pool(2, ceil=True),
        drop=dropout(drop),
        **{f"up{s}": conv_transpose(width * 2 ** (s - 1), 2, 2, kernel_init=_he) for s in stages},
        **{f"join{s}": _two_convolutions(width * 2 ** (s - 1), **options) for s in stages},
        score=conv(classes, 1, kernel_init=_he),
    )


def _joined(left: jax.Array, right: jax.Array, padded: bool) -> jax.Array:
    """Both maps side by side: the right one without its last row of an odd size, or of the left one the middle."""
    height, width = left.shape[1:3] if padded else right.shape[1:3]
    top, side = (left.shape[1] - height) // 2, (left.shape[2] - width) // 2
    return core.concat(left[:, top : top + height, side : side + width], right[:, :height, :width])


# --- a classifier on the left ------------------------------------------------------------------------------------


@core.layer
def resnet_unet(
    backbone: str = "resnet34",
    classes: int = 21,
    *,
    width: int = 64,
    filters: Sequence[int] = (256, 128, 64, 32, 16),
) -> core.Layer:
    """A U-Net whose left side is a residual network: `(N, H, W, C) -> (N, H, W, classes)` logits, for any H and W.

    Args:
      backbone: the classifier, one of `BACKBONES`.
      width: filters of its first stage.
      filters: of the stages on the right, from the lowest up: at strides 16, 8, 4 and 2, and at the image's own size.

    Variables: `encoder`, the classifier's under its own names, without the last dense layer; `join1`, ..., the stages
      on the right, from the lowest up, and `score`. A trained classifier is put in by its name:

      >>> params["encoder"] = {name: trained[name] for name in params["encoder"]}

    Against the paper: maps are enlarged bilinearly, and normalized; there is no left map of the image's own size.

    Raises:
      UserError: for another backbone, or another number of stages than five.
    """
    if backbone not in _RESNET:
        raise unknown("backbone", backbone, BACKBONES)
    if len(filters) != 5:
        raise UserError(f"filters={tuple(filters)}: expected those of five stages")
    trunk: dict[str, core.Layer | Callable] = dict(_RESNET[backbone](width=width).sublayers)
    del trunk["avgpool"], trunk["fc"]
    maps = ("relu1", "layer1", "layer2", "layer3", "layer4")

    def forward(net: core.Net, image: jax.Array) -> jax.Array:
        found = net.encoder(image)
        left = [found[name] for name in maps]  # by name: JAX sorts the keys of a dict
        x = left.pop()
        for stage in range(1, 6):
            size = left[-1].shape[1:3] if left else image.shape[1:3]
            x = resize(x, size)
            x = net[f"join{stage}"](core.concat(left.pop(), x) if left else x)
        return net.score(x)

    return core.network(
        forward,
        encoder=features(core.serial(**trunk), maps),
        **{f"join{stage}": _two_convolutions(count) for stage, count in enumerate(filters, 1)},
        score=conv(classes, 1, kernel_init=_he),
    )


@model("U-Net on ResNet-18 (Ronneberger et al. 2015)", input=(240, 320, 3), task="segmentation", classes=21)
def unet_resnet18(classes: int = 21, **options: Any) -> core.Layer:
    """The left side is ResNet-18. Options are those of `resnet_unet`."""
    return resnet_unet("resnet18", classes, **options)


@model("U-Net on ResNet-34 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def unet_resnet34(classes: int = 21, **options: Any) -> core.Layer:
    """The left side is ResNet-34. Options are those of `resnet_unet`."""
    return resnet_unet("resnet34", classes, **options)


@model("U-Net on ResNet-50 (2015)", input=(240, 320, 3), task="segmentation", classes=21)
def unet_resnet50(classes: int = 21, **options: Any) -> core.Layer:
    """The left side is ResNet-50. Options are those of `resnet_unet`."""
    return resnet_unet("resnet50", classes, **options)
