"""Parts that many architectures share: a convolution with normalization and activation, and initializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.nn import initializers

from jaxcnn.core import Layer, Path
from jaxcnn.layers import batch_norm, conv, relu
from jaxcnn.layers.common import Initializer
from jaxcnn.ops.geometry import Padding

he_fan_out = initializers.variance_scaling(2, "fan_out", "normal")
"""Normal weights with variance 2 / (F F K): He et al. (2015), equation 14, with fan-out as in torchvision."""

uniform_fan_in = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform weights in +-1 / sqrt(fan-in): PyTorch's default."""


def counted_names(model: Layer) -> Callable[[Path], str]:
    """Names in torchvision's AlexNet and VGG: `features.N`, `classifier.N`. N also counts layers without variables."""
    layers = list(model.sublayers)
    features, classifier = layers[: layers.index("avgpool")], layers[layers.index("flat") + 1 :]
    names = {layer: f"features.{i}" for i, layer in enumerate(features)}
    names |= {layer: f"classifier.{i}" for i, layer in enumerate(classifier)}
    return lambda path: names.get(path[0], path[0])


def conv_norm_act(
    features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    at: str = "",
    padding: Padding | None = None,
    norm: Layer | bool | None = True,
    act: Callable[..., Any] | None = relu,
    kernel_init: Initializer = he_fan_out,
    **options: Any,
) -> dict[str, Layer | Callable[..., Any]]:
    """The layers `conv`, `bn` and `relu` by name: `serial(**conv_norm_act(64, 3))`.

    At stride 1 the convolution keeps the image's size. It has a bias only if no normalization follows.

    Args:
      features, kernel_size, stride: arguments of the convolution.
      at: the ending of the names: `"1"` gives `conv1`, `bn1` and `relu1`.
      padding: the padding of the convolution; None for half the kernel size.
      norm: the normalization; True for `batch_norm()`, False or None for none.
      act: the activation; None for none.
      kernel_init, **options: arguments of the convolution.
    """
    strides = (stride,) if stride != 1 else ()
    pads = kernel_size // 2 if padding is None else padding
    options = {"padding": pads, **({"bias": False} if norm else {}), "kernel_init": kernel_init, **options}
    layers: dict[str, Layer | Callable[..., Any]] = {f"conv{at}": conv(features, kernel_size, *strides, **options)}
    if norm:
        layers[f"bn{at}"] = batch_norm() if norm is True else norm
    if act is not None:
        layers[f"relu{at}"] = act
    return layers
