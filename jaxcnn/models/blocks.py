"""Parts that many architectures share: a convolution with normalization and activation, and initializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.nn import initializers

from jaxcnn import layers
from jaxcnn.core import Layer, Path, leaves
from jaxcnn.errors import unknown
from jaxcnn.layers import batch_norm, conv, relu
from jaxcnn.layers.common import Initializer
from jaxcnn.ops.geometry import Padding, Size

he_fan_out = initializers.variance_scaling(2, "fan_out", "normal")
"""Normal weights with variance 2 / (F F K): He et al. (2015), equation 14, with fan-out as in torchvision."""

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hard_swish")
"""Activations without settings, which a model's options may name."""

uniform_fan_in = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform weights in +-1 / sqrt(fan-in): PyTorch's default."""


def activation_of(given: Callable[..., Any] | str) -> Callable[..., Any]:
    """An activation as it is, or the one of a name in `jaxcnn.layers`: `"relu"`.

    Raises:
      UserError: for another name.
    """
    if not isinstance(given, str):
        return given
    if given not in ACTIVATIONS:
        raise unknown("activation", given, ACTIVATIONS)
    found: Callable[..., Any] = getattr(layers, given)
    return found


def counted_names(model: Layer) -> Callable[[Path], str]:
    """Names in torchvision's AlexNet and VGG: `features.N`, `classifier.N`. N also counts layers without variables."""
    layers = list(model.sublayers)
    features, classifier = layers[: layers.index("avgpool")], layers[layers.index("flat") + 1 :]
    names = {layer: f"features.{i}" for i, layer in enumerate(features)}
    names |= {layer: f"classifier.{i}" for i, layer in enumerate(classifier)}
    return lambda path: names.get(path[0], path[0])


def places(model: Layer) -> dict[Path, int]:
    """The place of each layer, by path, among the layers of the network that it is in, from 0 on."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    for path, _ in leaves(model):
        for above, at in ((path[:n], path[: n + 1]) for n in range(len(path))):
            if at not in found:
                found[at] = counts[above] = counts.get(above, -1) + 1
    return found


def mobile_names(inside: str) -> Callable[[Layer], Callable[[Path], str]]:
    """torchvision's names of networks of inverted residuals: `features.3.conv.1.0` and `classifier.1`.

    Layers are counted, as in `torch.nn.Sequential`: those up to `avgpool` are `features`, the others `classifier`.

    Args:
      inside: what the sequence of layers inside of a `block` is called there.
    """

    def names(model: Layer) -> Callable[[Path], str]:
        place = places(model)
        first = place[("avgpool",)] + 1

        def name(path: Path) -> str:
            top = place[path[:1]]
            parts = ["features", str(top)] if top < first else ["classifier", str(top - first)]
            for n in range(1, len(path)):
                if path[n - 1].startswith("block"):
                    parts.append(inside)
                parts.append(path[n] if path[n] in ("fc1", "fc2") else str(place[path[: n + 1]]))
            return ".".join(parts)

        return name

    return names


def timm_names(where: Callable[[Path], str]) -> Callable[[Layer], Callable[[Path], str]]:
    """timm's names of networks of inverted residuals: `blocks.2.1.conv_dw`.

    Args:
      where: the path of a block -> the numbers of its stage and of it in the stage, `"2.1"`.
    """
    whole = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    short = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}  # of a block that does not expand
    squeeze = {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}
    outside = {
        "stem/conv": "conv_stem",
        "stem/bn": "bn1",
        "last/conv": "conv_head",
        "last/bn": "bn2",
        "fc": "classifier",
    }

    def names(model: Layer) -> Callable[[Path], str]:
        paths = [path for path, _ in leaves(model)]
        expanding = {path[:-2] for path in paths if path[-2:-1] == ("expand",)}

        def name(path: Path) -> str:
            *block, unit, layer = path if len(path) > 2 else ("", "", *path)
            if not any(block) or (layer not in ("conv", "bn") and layer not in squeeze):
                return outside.get("/".join(path), "/".join(path))
            inner = squeeze.get(layer) or (whole if tuple(block) in expanding else short)[unit][layer == "bn"]
            return f"blocks.{where(tuple(block))}.{inner}"

        return name

    return names


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, or the next one if that is less than nine tenths of the channels.

    Source: Sandler et al., MobileNetV2 (2018), in the authors' code: widths that hardware takes well.
    """
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by


def conv_norm_act(
    features: int,
    kernel_size: Size,
    stride: int = 1,
    *,
    at: str = "",
    padding: Padding | None = None,
    norm: Layer | bool | None = True,
    act: Callable[..., Any] | None = relu,
    kernel_init: Initializer = he_fan_out,
    **options: Any,
) -> dict[str, Layer | Callable[..., Any]]:
    """The layers `conv`, `bn` and `relu`, or `act` for another one, by name: `serial(**conv_norm_act(64, 3))`.

    At stride 1 the convolution keeps the image's size. It has a bias only if no normalization follows.

    Args:
      features, kernel_size, stride: arguments of the convolution.
      at: the ending of the names: `"1"` gives `conv1`, `bn1` and `relu1`.
      padding: the padding of the convolution, an integer or one per dimension; None for half the kernel size.
      norm: the normalization; True for `batch_norm()`, False or None for none.
      act: the activation; None for none.
      kernel_init, **options: arguments of the convolution.
    """
    strides = (stride,) if stride != 1 else ()
    if padding is None:
        padding = kernel_size // 2 if isinstance(kernel_size, int) else tuple(f // 2 for f in kernel_size)
    options = {"padding": padding, **({"bias": False} if norm else {}), "kernel_init": kernel_init, **options}
    layers: dict[str, Layer | Callable[..., Any]] = {f"conv{at}": conv(features, kernel_size, *strides, **options)}
    if norm:
        layers[f"bn{at}"] = batch_norm() if norm is True else norm
    if act is not None:
        layers[f"relu{at}" if act is relu else f"act{at}"] = act
    return layers
