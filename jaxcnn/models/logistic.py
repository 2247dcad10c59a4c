"""Logistic regression: the network without a hidden layer."""

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import dense, flatten
from jaxcnn.models.registry import model


@model("logistic regression: one linear layer", input=(28, 28, 1))
def logistic(classes: int = 10) -> core.Layer:
    """One linear function of the pixels per class: `(N, H, W, C) -> (N, classes)` logits.

    With softmax cross-entropy this is multinomial logistic regression. With `classes=1` and sigmoid cross-entropy it is
    the binary form, h(x) = g(theta x). The problem is convex, so the weights start at zero.
    """
    return core.serial(flat=flatten, head=dense(classes, kernel_init=initializers.zeros))
