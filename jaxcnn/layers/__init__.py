"""Layers: `init` and `apply` on top of the functions of `jaxcnn.ops`."""

from jaxcnn.layers.activation import (
    elu,
    gelu,
    gelu_tanh,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    maxout,
    prelu,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from jaxcnn.layers.conv import conv, conv_transpose, separable_conv
from jaxcnn.layers.dense import dense, flatten
from jaxcnn.layers.dropout import drop_path, dropout
from jaxcnn.layers.embed import embed
from jaxcnn.layers.norm import batch_norm, group_norm, layer_norm, local_response_norm
from jaxcnn.layers.param import layer_scale, param
from jaxcnn.layers.pool import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool
from jaxcnn.layers.shuffle import channel_shuffle, pixel_shuffle
from jaxcnn.layers.squeeze_excite import squeeze_excite
from jaxcnn.layers.upsample import upsample

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
    "channel_shuffle",
    "conv",
    "conv_transpose",
    "dense",
    "drop_path",
    "dropout",
    "elu",
    "embed",
    "flatten",
    "gelu",
    "gelu_tanh",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "layer_norm",
    "layer_scale",
    "leaky_relu",
    "local_response_norm",
    "max_pool",
    "maxout",
    "param",
    "pixel_shuffle",
    "prelu",
    "relu",
    "relu6",
    "separable_conv",
    "sigmoid",
    "silu",
    "softmax",
    "squeeze_excite",
    "sum_pool",
    "tanh",
    "upsample",
]
