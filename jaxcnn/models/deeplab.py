"""DeepLabV3 (Chen, Papandreou, Schroff and Adam, Rethinking atrous convolution for semantic image segmentation, 2017),
and the FCN that torchvision builds on the same backbone.

A classifier's last stages halve the map no further; their filters are dilated instead, and see as much of the image as
before on four or sixteen times as many pixels. DeepLab looks at the last map with filters of several dilations at once,
and adds the mean of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxcnn import core
from jaxcnn.errors import UserError, unknown
from jaxcnn.layers import conv, dropout
from jaxcnn.models.blocks import conv_norm_act, divisible, uniform_fan_in
from jaxcnn.models.features import features
from jaxcnn.models.mobilenet_v3 import WEIGHTS as MOBILENET
from jaxcnn.models.mobilenet_v3 import mobilenet_v3_large
from jaxcnn.models.registry import Published, model, with_weights
from jaxcnn.models.resnet import WEIGHTS as RESNET
from jaxcnn.models.resnet import resnet50, resnet101
from jaxcnn.ops import resize

_RESNET = {"resnet50": resnet50, "resnet101": resnet101}
BACKBONES = (*_RESNET, "mobilenet_v3_large")
"""The classifiers that the networks can be built on."""


@core.layer
def aspp(filters: int = 256, rates: Sequence[int] = (12, 24, 36), drop: float = 0.5) -> core.Layer:
    """Atrous spatial pyramid pooling: `(N, H, W, C) -> (N, H, W, filters)`.

    A 1x1 convolution, one 3x3 convolution for each rate, and the mean over the image, side by side; then a 1x1
    convolution of them all. Each is normalized.

    Args:
      filters: of each branch, and of the output.
      rates: the dilations of the 3x3 convolutions.
      drop: dropout at the end.

    Source: section 3.3 and figure 5.
    """
    branches = {"ones": _unit(filters, 1)}
    branches |= {f"rate{rate}": _unit(filters, 3, padding=rate, dilation=rate) for rate in rates}

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        whole = net.mean(x.mean((1, 2), keepdims=True))
        outputs = [net[name](x) for name in branches]
        return net.drop(net.project(core.concat(*outputs, resize(whole, x.shape[1:3]))))

    return core.network(forward, **branches, mean=_unit(filters, 1), project=_unit(filters, 1), drop=dropout(drop))


def _unit(filters: int, kernel_size: int, **options: Any) -> core.Layer:
    return core.serial(**conv_norm_act(filters, kernel_size, kernel_init=uniform_fan_in, **options))


def deeplab_head(
    classes: int, filters: int = 256, rates: Sequence[int] = (12, 24, 36), drop: float = 0.5
) -> core.Layer:
    """The pyramid, a 3x3 convolution, normalized, and a score for each class."""
    return core.serial(
        aspp=aspp(filters, rates, drop), **conv_norm_act(filters, 3, kernel_init=uniform_fan_in), score=_score(classes)
    )


def fcn_head(classes: int, entering: int, drop: float = 0.1) -> core.Layer:
    """A 3x3 convolution to a quarter of the channels, normalized, dropout, and a score for each class."""
    unit = conv_norm_act(entering // 4, 3, kernel_init=uniform_fan_in)
    return core.serial(**unit, drop=dropout(drop), score=_score(classes))


def _score(classes: int) -> core.Layer:
    return conv(classes, 1, kernel_init=uniform_fan_in)


def segmenter(backbone: core.Layer, head: core.Layer, aux: core.Layer | None, maps: tuple[str, str]) -> core.Layer:
    """A head on the last map of a backbone, its scores enlarged to the image: `(N, H, W, C) -> (N, H, W, classes)`.

    Args:
      backbone: the classifier without its last layers.
      head: from the last map to scores.
      aux: from an earlier map to scores, in training only, or None. A training pass then returns two outputs.
      maps: the paths of the earlier map and of the last.
    """
    early, last = maps

    def forward(net: core.Net, image: jax.Array) -> Any:
        found = net.backbone(image)
        scores = resize(net.classifier(found[last]), image.shape[1:3])
        if aux is None or not net.train:
            return scores
        return scores, resize(net.aux_classifier(found[early]), image.shape[1:3])

    trunk = features(backbone, maps if aux is not None else (last,))
    return core.network(forward, backbone=trunk, classifier=head, **({} if aux is None else {"aux_classifier": aux}))


# --- backbones ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trunk:
    """A classifier without its last layers.

    Attributes:
      layers: the layers.
      early, last: the paths of the map at stride 8 that auxiliary heads take, and of the last map.
      channels: of the two.
      torch: `path -> its name in torchvision's files`.
    """

    layers: core.Layer
    early: str
    last: str
    channels: tuple[int, int]
    torch: Callable[[core.Path], str]


def trunk(backbone: str, width: float | None = None, output_stride: int | None = None) -> Trunk:
    """The classifier as a backbone: arguments as in `deeplabv3`."""
    if backbone in _RESNET:
        planes = 64 if width is None else int(width)
        whole = _RESNET[backbone](width=planes, output_stride=8 if output_stride is None else output_stride)
        early, last, channels, end = "layer3", "layer4", (16 * planes, 32 * planes), "avgpool"
        torch = RESNET.torch(whole)
    elif backbone == "mobilenet_v3_large":
        if output_stride not in (None, 16):
            raise UserError(f"output_stride={output_stride}: mobilenet_v3_large has 16")
        share = 1.0 if width is None else width
        whole = mobilenet_v3_large(width=share, dilated=True)
        # The last of the blocks that begin a stage of stride 8, and the last convolution.
        early, last, channels, end = "block4", "last", (divisible(40 * share), 6 * divisible(160 * share)), "avgpool"
        torch = _without_first(MOBILENET.torch(whole))
    else:
        raise unknown("backbone", backbone, BACKBONES)
    names = list(whole.sublayers)
    layers = core.serial(**{name: whole.sublayers[name] for name in names[: names.index(end)]})
    return Trunk(layers, early, last, channels, torch)


def _without_first(names: Callable[[core.Path], str]) -> Callable[[core.Path], str]:
    """`features.4.block.0.0` as `4.block.0.0`."""
    return lambda path: names(path).partition(".")[2]


# --- names in torchvision's files --------------------------------------------------------------------------------


_PLACE = {"conv": 0, "bn": 1, "relu": 2, "drop": 3, "score": 4}


def _torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    head = model.sublayers["classifier"].sublayers
    pyramid = list(head["aspp"].sublayers) if "aspp" in head else []
    backbone = _backbone(model).torch

    def name(path: core.Path) -> str:
        part, *rest = path
        if part == "backbone":
            return f"backbone.{backbone(tuple(rest))}"
        if rest[0] != "aspp":
            # The pyramid is the head's first layer, and the one with it has no dropout.
            first = 1 if pyramid and part == "classifier" and rest[0] != "score" else 0
            return f"{part}.{first + _PLACE[rest[0]]}"
        branch, layer = rest[1], rest[-1]
        if branch in ("project", "drop"):
            return f"{part}.0.project.{_PLACE[layer]}"
        first = 1 if branch == "mean" else 0  # the mean is a layer there
        return f"{part}.0.convs.{pyramid.index(branch)}.{first + _PLACE[layer]}"

    return name


def _backbone(model: core.Layer) -> Trunk:
    """The trunk that the model was made with; ResNet's for one of another maker."""
    first = next(iter(model.sublayers["backbone"].sublayers))
    return trunk("mobilenet_v3_large" if first == "stem" else "resnet50")


WEIGHTS = Published(
    "deeplab", _torch_names, ("classifier/score", "aux_classifier/score"), ("aux_classifier.",), size=520,
    resize=(520, "bilinear"),
)  # fmt: skip


# --- the networks ------------------------------------------------------------------------------------------------


@with_weights(WEIGHTS)
@core.layer
def deeplabv3(
    backbone: str = "resnet50",
    classes: int = 21,
    *,
    aux: bool = False,
    width: float | None = None,
    filters: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    output_stride: int | None = None,
) -> core.Layer:
    """Scores of each class for each pixel: `(N, H, W, C) -> (N, H, W, classes)` logits, for any H and W.

    Args:
      backbone: the classifier, one of `BACKBONES`.
      aux: one more head, a small FCN on an earlier map, in training only. A training pass then returns two outputs,
        whose losses torchvision adds as loss + 0.5 aux (`losses.every_output(loss, 0.5)`).
      width: filters of a ResNet's first stage, 64 when None; what multiplies the channels of a MobileNetV3.
      filters: of the pyramid.
      rates: the dilations in the pyramid. They are for an output stride of 8; the paper has half of them for 16.
      output_stride: how many pixels of the image lie between two of the last map: 8 (when None) or 16 of a ResNet;
        16 of a MobileNetV3.

    Variables: `backbone`, under the classifier's own names without the last dense layer; `classifier`, the pyramid and
      what follows; with `aux`, `aux_classifier`.

    Raises:
      UserError: for another backbone or output stride.

    Source: sections 3.2 and 3.3.
    """
    base = trunk(backbone, width, output_stride)
    aux_head = fcn_head(classes, base.channels[0]) if aux else None
    return segmenter(base.layers, deeplab_head(classes, filters, rates), aux_head, (base.early, base.last))


@with_weights(WEIGHTS)
@core.layer
def dilated_fcn(
    backbone: str = "resnet50",
    classes: int = 21,
    *,
    aux: bool = False,
    width: float | None = None,
    output_stride: int | None = None,
) -> core.Layer:
    """torchvision's FCN: two convolutions on the last map of a dilated residual network. Arguments as in `deeplabv3`.

    Against the paper (Long, Shelhamer and Darrell 2015; see `fcn`): the map keeps an eighth of the image's rows and
    columns, so no finer map is needed, and the scores are enlarged once.
    """
    base = trunk(backbone, width, output_stride)
    aux_head = fcn_head(classes, base.channels[0]) if aux else None
    return segmenter(base.layers, fcn_head(classes, base.channels[1]), aux_head, (base.early, base.last))


_SEGMENT: dict[str, Any] = {"input": (520, 520, 3), "task": "segmentation", "classes": 21, "published": WEIGHTS}


@model("a class a pixel, dilated ResNet-50 (Long et al. 2015)", **_SEGMENT)
def fcn_resnet50(classes: int = 21, **options: Any) -> core.Layer:
    """32,963,669 parameters, with `aux` 35,322,218. Options are those of `dilated_fcn`."""
    return dilated_fcn("resnet50", classes, **options)


@model("a class a pixel, dilated ResNet-101 (2015)", **_SEGMENT)
def fcn_resnet101(classes: int = 21, **options: Any) -> core.Layer:
    """51,955,797 parameters, with `aux` 54,314,346. Options are those of `dilated_fcn`."""
    return dilated_fcn("resnet101", classes, **options)


@model("a class a pixel, DeepLabV3 on ResNet-50 (Chen et al. 2017)", **_SEGMENT)
def deeplabv3_resnet50(classes: int = 21, **options: Any) -> core.Layer:
    """39,645,781 parameters, with `aux` 42,004,074. Options are those of `deeplabv3`."""
    return deeplabv3("resnet50", classes, **options)


@model("a class a pixel, DeepLabV3 on ResNet-101 (2017)", **_SEGMENT)
def deeplabv3_resnet101(classes: int = 21, **options: Any) -> core.Layer:
    """58,637,909 parameters, with `aux` 60,996,202. Options are those of `deeplabv3`."""
    return deeplabv3("resnet101", classes, **options)


@model("a class a pixel, DeepLabV3 on MobileNetV3 (2017, 2019)", **_SEGMENT)
def deeplabv3_mobilenet_v3_large(classes: int = 21, **options: Any) -> core.Layer:
    """11,024,341 parameters, with `aux` 11,029,328. Options are those of `deeplabv3`."""
    return deeplabv3("mobilenet_v3_large", classes, **options)
