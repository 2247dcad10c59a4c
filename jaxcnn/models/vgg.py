"""VGG (Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import adaptive_avg_pool, dense, dropout, flatten, max_pool, relu
from jaxcnn.models.blocks import conv_norm_act, counted_names
from jaxcnn.models.registry import Published, model, with_weights

_normal = initializers.normal(0.01)
WEIGHTS = Published("vgg", counted_names, heads=("fc8",))


def stages(convolutions: Sequence[int], width: int = 64, norm: bool = False) -> dict[str, core.Layer | Callable]:
    """The layers before the dense ones by name; arguments as in `vgg`."""
    layers: dict[str, core.Layer | Callable] = {}
    bias: dict[str, Any] = {"bias": True} if norm else {}  # torchvision has a bias also before a normalization
    for stage, count in enumerate(convolutions, 1):
        for i in range(1, count + 1):
            layers |= conv_norm_act(width * min(2 ** (stage - 1), 8), 3, at=f"{stage}_{i}", norm=norm, **bias)
        layers[f"pool{stage}"] = max_pool(2)
    return layers


@with_weights(WEIGHTS)
@core.layer
def vgg(
    convolutions: Sequence[int],
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    units: int = 4096,
    drop: float = 0.5,
) -> core.Layer:
    """Stages of 3x3 convolutions and a 2x2 max pool, then three dense layers: `(N, H, W, C) -> (N, classes)` logits.

    Two 3x3 filters in a row see 5x5 pixels and three see 7x7, with fewer weights than one large filter has.

    Args:
      convolutions: the number of convolutions in each stage: a column of the paper's table 1.
      norm: whether batch normalization follows each convolution.
      width: filters of the first stage. Each stage has twice as many as the previous one, up to 8 times the first.
      units: units of the hidden dense layers.
      drop: dropout after the hidden dense layers.

    Against the paper: as in torchvision, an average pool reduces the map to 7x7 before the dense layers, so images of
    32 pixels or more can be used; at 224 it changes nothing. The initial weights are those of He et al. (2015) with
    fan-out, where the paper starts from the weights of a shallower network. Batch normalization is torchvision's.

    Source: section 2.1 and table 1; comparison with large filters, section 2.3.
    """
    return core.serial(
        **stages(convolutions, width, norm),
        avgpool=adaptive_avg_pool(7),
        flat=flatten,
        fc6=dense(units, kernel_init=_normal),
        relu6=relu,
        drop6=dropout(drop),
        fc7=dense(units, kernel_init=_normal),
        relu7=relu,
        drop7=dropout(drop),
        fc8=dense(classes, kernel_init=_normal),
    )


# Columns A, B, D and E of table 1. The options are those of `vgg`.


@model("VGG, 11 layers (Simonyan and Zisserman 2014)", input=(224, 224, 3), published=WEIGHTS)
def vgg11(classes: int = 1000, **options: Any) -> core.Layer:
    """Configuration A: 8 convolutions; 132,863,336 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg((1, 1, 2, 2, 2), classes, **options)


@model("VGG, 13 layers (2014)", input=(224, 224, 3), published=WEIGHTS)
def vgg13(classes: int = 1000, **options: Any) -> core.Layer:
    """Configuration B: 10 convolutions; 133,047,848 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg((2, 2, 2, 2, 2), classes, **options)


@model("VGG, 16 layers (2014)", input=(224, 224, 3), published=WEIGHTS)
def vgg16(classes: int = 1000, **options: Any) -> core.Layer:
    """Configuration D: 13 convolutions; 138,357,544 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg((2, 2, 3, 3, 3), classes, **options)


@model("VGG, 19 layers (2014)", input=(224, 224, 3), published=WEIGHTS)
def vgg19(classes: int = 1000, **options: Any) -> core.Layer:
    """Configuration E: 16 convolutions; 143,667,240 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg((2, 2, 4, 4, 4), classes, **options)


@model("VGG, 11 layers (2014), with batch normalization (2015)", input=(224, 224, 3), published=WEIGHTS)
def vgg11_bn(classes: int = 1000, **options: Any) -> core.Layer:
    """VGG-11 with batch normalization: 132,868,840 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg11(classes, norm=True, **options)


@model("VGG, 13 layers (2014), with batch normalization (2015)", input=(224, 224, 3), published=WEIGHTS)
def vgg13_bn(classes: int = 1000, **options: Any) -> core.Layer:
    """VGG-13 with batch normalization: 133,053,736 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg13(classes, norm=True, **options)


@model("VGG, 16 layers (2014), with batch normalization (2015)", input=(224, 224, 3), published=WEIGHTS)
def vgg16_bn(classes: int = 1000, **options: Any) -> core.Layer:
    """VGG-16 with batch normalization: 138,365,992 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg16(classes, norm=True, **options)


@model("VGG, 19 layers (2014), with batch normalization (2015)", input=(224, 224, 3), published=WEIGHTS)
def vgg19_bn(classes: int = 1000, **options: Any) -> core.Layer:
    """VGG-19 with batch normalization: 143,678,248 parameters at 224x224x3. Options are those of `vgg`."""
    return vgg19(classes, norm=True, **options)
