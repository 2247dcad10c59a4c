"""The multilayer perceptron."""

from collections.abc import Callable, Sequence

import jax

from jaxcnn import core
from jaxcnn.layers import dense, flatten, relu
from jaxcnn.models.blocks import activation_of
from jaxcnn.models.registry import model


@model("multilayer perceptron, 128 hidden units", input=(28, 28, 1))
def mlp(
    classes: int = 10, hidden: int | Sequence[int] = 128, activation: Callable[[jax.Array], jax.Array] | str = relu
) -> core.Layer:
    """Dense layers with an activation between them: `(N, H, W, C) -> (N, classes)` logits.

    Args:
      hidden: the number of hidden units, or one number per hidden layer. 128 on 28x28 pixels is the lectures'
        784-128-10.
      activation: a function of arrays, or its name.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    layers: dict[str, core.Layer | Callable] = {"flat": flatten}
    for i, width in enumerate(widths, 1):
        layers |= {f"fc{i}": dense(width), f"act{i}": activation_of(activation)}
    return core.serial(**layers, head=dense(classes))
