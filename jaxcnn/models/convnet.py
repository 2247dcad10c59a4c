"""The common pattern of convolutional networks, with its repetitions as arguments."""

from collections.abc import Callable

from jax.nn import initializers

from jaxcnn import core
from jaxcnn.errors import UserError
from jaxcnn.layers import conv, dense, dropout, flatten, max_pool, relu
from jaxcnn.models.registry import model

_he = initializers.he_normal()


@model("[(conv-relu)*n - pool]*m - (fc-relu)*k: the lectures' pattern", input=(32, 32, 3))
def convnet(
    classes: int = 10,
    n: int = 2,
    m: int = 2,
    k: int = 1,
    *,
    width: int = 32,
    units: int = 128,
    kernel_size: int = 3,
    pool: bool = True,
    drop: float = 0.0,
) -> core.Layer:
    """[(CONV-RELU)*N - POOL?]*M - (FC-RELU)*K - FC: `(N, H, W, C) -> (N, classes)` logits; softmax is in the loss.

    Args:
      n, m, k: the repetitions of the pattern; usually n is up to 5, m large, and 0 <= k <= 2.
      width: filters of the first stage; each stage has twice as many as the previous one.
      units: units of each hidden dense layer.
      kernel_size: F of all filters; the padding keeps the size.
      pool: whether each stage ends with 2x2 max pooling.
      drop: dropout after each hidden dense layer.

    The initial weights are those of He et al. (2015) for ReLU: normal with variance 2 / fan-in.
    """
    if min(n, m) < 1 or k < 0:
        raise UserError(f"convnet: n={n}, m={m} and k={k}; expected n and m of at least 1, k of at least 0")
    layers: dict[str, core.Layer | Callable] = {}
    for stage in range(1, m + 1):
        for i in range(1, n + 1):
            features = width * 2 ** (stage - 1)
            layers[f"conv{stage}_{i}"] = conv(features, kernel_size, padding="SAME", kernel_init=_he)
            layers[f"relu{stage}_{i}"] = relu
        if pool:
            layers[f"pool{stage}"] = max_pool(2)
    layers["flat"] = flatten
    for i in range(1, k + 1):
        layers[f"fc{i}"] = dense(units, kernel_init=_he)
        layers[f"relu{i}"] = relu
        if drop:
            layers[f"drop{i}"] = dropout(drop)
    return core.serial(**layers, head=dense(classes))
