"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998)."""

from collections.abc import Callable

import jax

from jaxcnn import core
from jaxcnn.layers import avg_pool, conv, dense, flatten, tanh


@core.layer
def lenet5(classes: int = 10, activation: Callable[[jax.Array], jax.Array] = tanh) -> core.Layer:
    """LeNet-5 as it is taught: `(N, 32, 32, C) -> (N, classes)` logits; 61,706 parameters for 10 classes of 32x32x1.

    Against the paper: every map of C3 sees all of S2, subsampling is a plain average without weights, C5 is a dense
    layer, and the output is linear for softmax cross-entropy. MNIST's 28x28 digits are padded to 32x32, as there.
    """
    return core.serial(
        conv1=conv(6, 5),
        act1=activation,
        pool1=avg_pool(2),
        conv2=conv(16, 5),
        act2=activation,
        pool2=avg_pool(2),
        flat=flatten,
        fc1=dense(120),
        act3=activation,
        fc2=dense(84),
        act4=activation,
        head=dense(classes),
    )
