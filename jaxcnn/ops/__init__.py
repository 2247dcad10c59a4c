"""Arithmetic on arrays, without variables: what the layers are made of.

Images are `(N, *spatial, C)` (NHWC for pictures), kernels `(*spatial, C_in / groups, C_out)` (HWIO). Each function
works on one, two or three spatial dimensions. On a CPU some of them take a form that XLA compiles better than its own
primitive; the result is the same, and the module's docstring says what was measured.
"""

from jaxcnn.ops.activation import relu
from jaxcnn.ops.convolution import conv, conv_transpose, convolve
from jaxcnn.ops.fusion import fuse
from jaxcnn.ops.normalization import batch_normalize, batch_statistics, local_response_norm, normalize
from jaxcnn.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "batch_normalize",
    "batch_statistics",
    "conv",
    "conv_transpose",
    "convolve",
    "fuse",
    "global_avg_pool",
    "global_max_pool",
    "local_response_norm",
    "max_pool",
    "normalize",
    "relu",
    "sum_pool",
]
