"""Layers: `init` and `apply` on top of the functions of `jaxcnn.ops`."""

from jaxcnn.layers.activation import elu, leaky_relu, maxout, prelu, relu, sigmoid, softmax, tanh
from jaxcnn.layers.conv import conv, conv_transpose
from jaxcnn.layers.dense import dense, flatten
from jaxcnn.layers.dropout import dropout
from jaxcnn.layers.embed import embed
from jaxcnn.layers.norm import batch_norm, group_norm, layer_norm, local_response_norm
from jaxcnn.layers.pool import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
    "conv",
    "conv_transpose",
    "dense",
    "dropout",
    "elu",
    "embed",
    "flatten",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "local_response_norm",
    "max_pool",
    "maxout",
    "prelu",
    "relu",
    "sigmoid",
    "softmax",
    "sum_pool",
    "tanh",
]
