"""Logistic regression: the network without a hidden layer."""

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import dense, flatten


@core.layer
def logistic(classes: int = 10) -> core.Layer:
    """One linear function of the pixels for each class: `(N, H, W, C) -> (N, classes)` logits.

    With softmax cross-entropy this is multinomial logistic regression. `classes=1` and sigmoid cross-entropy is the
    binary form, h(x) = g(theta x). The problem is convex, so the weights start at zero.
    """
    return core.serial(flat=flatten, head=dense(classes, kernel_init=initializers.zeros))
