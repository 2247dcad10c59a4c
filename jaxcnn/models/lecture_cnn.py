"""The exercise network of the lectures: fill in the sizes and count the parameters."""

from jaxcnn import core
from jaxcnn.layers import conv, dense, flatten, max_pool, relu
from jaxcnn.models.registry import model


@model("the lectures' exercise network: 2 conv, 3 dense layers", input=(32, 32, 3), fixed_size=True)
def lecture_cnn(classes: int = 10) -> core.Layer:
    """Two convolutions and three dense layers: `(N, 32, 32, C) -> (N, classes)` logits.

    For 32x32x3 and 10 classes the layers have 608, 3,216, 48,120, 10,164 and 850 parameters, together 62,958.
    """
    return core.serial(
        conv1=conv(8, 5),
        act1=relu,
        pool1=max_pool(2),
        conv2=conv(16, 5),
        act2=relu,
        pool2=max_pool(2),
        flat=flatten,
        fc1=dense(120),
        act3=relu,
        fc2=dense(84),
        act4=relu,
        out=dense(classes),
    )
