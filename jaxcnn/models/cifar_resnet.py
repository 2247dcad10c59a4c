"""Plain and residual networks for CIFAR (He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016).

The experiment of the paper's section 4.2: the same stack of 3x3 convolutions with and without shortcuts, at any depth.
Plain networks train worse when they are deeper; residual networks do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import dense, dropout, global_avg_pool, relu
from jaxcnn.layers.common import stateless
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import model

Shortcut = Literal["A", "B", "C"]


@core.layer
def subsampled(features: int, stride: int) -> core.Layer:
    """Shortcut A: every `stride`-th row and column of x, with channels of zeros appended. It has no parameters."""

    def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
        x = x[:, ::stride, ::stride]
        return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])])

    return stateless(lambda key, x: {}, apply)


def _way_around(shortcut: Shortcut | None, features: int, stride: int, norm: bool) -> dict[str, core.Layer]:
    """The layer of the shortcut by name; empty if the shortcut is the identity or does not exist."""
    if shortcut == "A" and stride > 1:
        return {"shortcut": subsampled(features, stride)}
    if shortcut == "C" or (shortcut == "B" and stride > 1):
        projection = conv_norm_act(features, 1, stride, act=None)
        return {"shortcut": core.serial(**projection) if norm else core.as_layer(projection["conv"])}
    return {}


@core.layer
def unit(features: int, stride: int = 1, shortcut: Shortcut | None = "A") -> core.Layer:
    """Two 3x3 convolutions with a shortcut: `(N, H, W, C) -> (N, H / stride, W / stride, features)`.

    Args:
      shortcut: as in `cifar_resnet`. With an identity shortcut, C must equal `features`.

    Source: He et al. (2016), figure 2 and section 4.2.
    """
    way_around = _way_around(shortcut, features, stride, norm=True)

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        y = relu(net.bn1(net.conv1(x)))
        y = net.bn2(net.conv2(y))
        if shortcut is None:
            return relu(y)
        return relu(y + (net.shortcut(x) if way_around else x))

    return core.network(
        forward,
        **conv_norm_act(features, 3, stride, at="1", act=None),
        **conv_norm_act(features, 3, at="2", act=None),
        **way_around,
    )


@core.layer
def preactivated_unit(
    features: int, stride: int = 1, shortcut: Shortcut | None = "A", *, first: bool = False, drop: float = 0.0
) -> core.Layer:
    """The unit with normalization and ReLU before each convolution, so that the shortcut is a pure identity.

    Arguments as in `unit`, and:

    Args:
      first: whether this is the first unit of a network. In it, and if the shortcut is a projection, the shortcut
        starts after the first ReLU.
      drop: the dropout rate before the second convolution (Zagoruyko and Komodakis 2016, section 3).

    Source: He, Zhang, Ren and Sun, Identity mappings in deep residual networks (2016), figure 1 (b) and the appendix.
    """
    way_around = _way_around(shortcut, features, stride, norm=False)
    late = first or (bool(way_around) and shortcut != "A")

    def forward(net: core.Net, x: jax.Array) -> jax.Array:
        active = relu(net.bn1(x))
        y = relu(net.bn2(net.conv1(active)))
        y = net.conv2(net.drop(y) if drop else y)
        if shortcut is None:
            return y
        x = active if late else x
        return y + (net.shortcut(x) if way_around else x)

    return core.network(
        forward,
        **conv_norm_act(features, 3, stride, at="1", act=None),
        **conv_norm_act(features, 3, at="2", act=None),
        **({"drop": dropout(drop)} if drop else {}),
        **way_around,
    )


@core.layer
def cifar_resnet(
    depth: int,
    classes: int = 10,
    *,
    shortcut: Shortcut | None = "A",
    preactivation: bool = False,
    width: int = 16,
) -> core.Layer:
    """A network of 6n + 2 layers: `(N, 32, 32, C) -> (N, classes)` logits; other image sizes are possible.

    One convolution; three stages of n units with `width`, 2 `width` and 4 `width` features on 32x32, 16x16 and 8x8
    pixels; the mean over the image; one dense layer.

    Args:
      depth: the number of layers with weights on the longest path: 8, 14, 20, 26, ...
      shortcut: `"A"`, the identity, subsampled and padded with channels of zeros if the shape changes; `"B"`, a
        projection if the shape changes; `"C"`, projections everywhere; None, no shortcut: the plain network.
      preactivation: whether normalization and ReLU are before each convolution instead of after it.
      width: the number of features of the first stage.

    Raises:
      UserError: for a depth that is not 6n + 2, or another shortcut.

    The initial weights are those of He et al. (2015), with fan-out.

    Source: section 4.2; the shortcuts, sections 3.3 and 4.1.
    """
    n, left = divmod(depth - 2, 6)
    if n < 1 or left:
        near = (8,) if n < 1 else (6 * n + 2, 6 * n + 8)
        raise UserError(f"depth={depth}: expected 6n + 2; the nearest is {' or '.join(map(str, near))}")
    if shortcut not in ("A", "B", "C", None):
        raise UserError(f"shortcut={shortcut!r}: expected 'A', 'B', 'C', or None for the plain network")

    stages: dict[str, core.Layer | Callable] = {}
    for stage in (1, 2, 3):
        features, stride = width * 2 ** (stage - 1), 1 if stage == 1 else 2
        if preactivation:
            head = preactivated_unit(features, stride, shortcut, first=stage == 1)
            rest = {f"block{i}": preactivated_unit(features, 1, shortcut) for i in range(2, n + 1)}
        else:
            head = unit(features, stride, shortcut)
            rest = {f"block{i}": unit(features, 1, shortcut) for i in range(2, n + 1)}
        stages[f"layer{stage}"] = core.serial(block1=head, **rest)

    stem = conv_norm_act(width, 3, at="1")
    layers = {"conv1": stem.pop("conv1"), **stages, **stem} if preactivation else {**stem, **stages}
    return core.serial(**layers, avgpool=global_avg_pool, fc=dense(classes))


# The depths of the paper's table 6. The options are those of `cifar_resnet`; parameters for RGB and 10 classes.


@model("residual network for CIFAR, 20 layers (He et al. 2015)", input=(32, 32, 3))
def resnet20(classes: int = 10, **options: Any) -> core.Layer:
    """n = 3: 269,722 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(20, classes, **options)


@model("residual network for CIFAR, 32 layers (2015)", input=(32, 32, 3))
def resnet32(classes: int = 10, **options: Any) -> core.Layer:
    """n = 5: 464,154 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(32, classes, **options)


@model("residual network for CIFAR, 44 layers (2015)", input=(32, 32, 3))
def resnet44(classes: int = 10, **options: Any) -> core.Layer:
    """n = 7: 658,586 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(44, classes, **options)


@model("residual network for CIFAR, 56 layers (2015)", input=(32, 32, 3))
def resnet56(classes: int = 10, **options: Any) -> core.Layer:
    """n = 9: 853,018 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(56, classes, **options)


@model("residual network for CIFAR, 110 layers (2015)", input=(32, 32, 3))
def resnet110(classes: int = 10, **options: Any) -> core.Layer:
    """n = 18: 1,727,962 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(110, classes, **options)


@model("residual network for CIFAR, 1202 layers (2015)", input=(32, 32, 3))
def resnet1202(classes: int = 10, **options: Any) -> core.Layer:
    """n = 200: 19,421,274 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(1202, classes, **options)


@model("resnet20 without its shortcuts (2015)", input=(32, 32, 3))
def plain20(classes: int = 10, **options: Any) -> core.Layer:
    """`resnet20` without its shortcuts. Options are those of `cifar_resnet`."""
    return cifar_resnet(20, classes, shortcut=None, **options)


@model("resnet32 without its shortcuts (2015)", input=(32, 32, 3))
def plain32(classes: int = 10, **options: Any) -> core.Layer:
    """`resnet32` without its shortcuts. Options are those of `cifar_resnet`."""
    return cifar_resnet(32, classes, shortcut=None, **options)


@model("resnet44 without its shortcuts (2015)", input=(32, 32, 3))
def plain44(classes: int = 10, **options: Any) -> core.Layer:
    """`resnet44` without its shortcuts. Options are those of `cifar_resnet`."""
    return cifar_resnet(44, classes, shortcut=None, **options)


@model("resnet56 without its shortcuts (2015)", input=(32, 32, 3))
def plain56(classes: int = 10, **options: Any) -> core.Layer:
    """`resnet56` without its shortcuts. Options are those of `cifar_resnet`."""
    return cifar_resnet(56, classes, shortcut=None, **options)


@model("resnet110 without its shortcuts (2015)", input=(32, 32, 3))
def plain110(classes: int = 10, **options: Any) -> core.Layer:
    """`resnet110` without its shortcuts. Options are those of `cifar_resnet`."""
    return cifar_resnet(110, classes, shortcut=None, **options)
