"""Arithmetic on arrays, without variables: what the layers are made of.

Images are `(N, *spatial, C)` (NHWC for pictures), kernels `(*spatial, C_in / groups, C_out)` (HWIO). Each function
works on one, two or three spatial dimensions.

How they are fast on a CPU
--------------------------
What XLA:CPU does (jaxlib 0.10.2): a convolution goes to YNNPACK, its gradients to the same after their operands have
been transposed; elementwise operations are fused into each operation that uses them, and computed again in each;
`reduce_window` is a plain loop, and its gradient a scatter. What is done here instead (`jaxcnn.ops.backend.FORMS`), in
the order of what it brings:

- `onednn`: convolutions of every kind and both their gradients, products of a few rows and a large matrix and, in
  inference, bias, normalization, residual sum and activation (`jaxcnn.ops.fusion`) are calls of oneDNN, over XLA's
  public foreign function interface (`jaxcnn.ops.cpu`, where what it needs is said).
- `stored`: what several operations use is computed once. XLA has no barrier on a CPU (`optimization_barrier` is gone
  before fusion); what it does not repeat is an operation on two whole images, and so a ReLU ends with a select between
  x and NaN by x == x.
- `maximum`: max pooling writes down which tap had the maximum, and its gradient asks for it (`jaxcnn.ops.maximum`).
- `products`, `slices`, `stuffed`: convolutions of few pixels with a large kernel as matrix products, sums over windows
  as strided slices, and, without oneDNN, the zeros of a transposed convolution put in beforehand.

Each is taken by itself, wherever a function is traced: under a user's own `jax.jit`, in `scan`, `vmap`, `remat` and
`shard_map`. None is taken on a GPU or TPU, nor in a program that `jax.export` writes, and JAXCNN_PLAIN in the
environment switches off those that it lists, or `all`. `python -m experiments.speed --ablation` measures each alone,
and the README has the figures.

No setting of XLA is changed. The one that helps where oneDNN is not used,
`XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-individual_convolution` (convolutions by Eigen), takes a step of
ResNet-20 in XLA's own operations from 2.26 to 1.54 of the time that it takes here; XLA ends the process over a flag
that its version does not know, so it is the user's to set. So is `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`: XLA takes the
memory of a step from the system and gives it back, each time, and the system clears it page by page. With huge pages
a step took 6 to 16 % less in four networks, and on a machine whose memory was in pieces 30 % more. (`mallopt` can be
told within the process to keep the memory, which is as fast, but then two steps' worth stay resident.)

What was tried and did not help: variance as E[x^2] - E[x]^2 with a fallback where it loses digits (saves a pass, 1 %);
folding the pixels of the first layer's image into channels (its convolution takes as long).
"""

from jaxcnn.ops import boxes
from jaxcnn.ops.activation import relu
from jaxcnn.ops.bilinear import bilinear, resize, upsample
from jaxcnn.ops.convolution import conv, conv_transpose, convolve
from jaxcnn.ops.correlation import correlation
from jaxcnn.ops.fusion import fuse
from jaxcnn.ops.nms import nms
from jaxcnn.ops.normalization import batch_normalize, batch_statistics, local_response_norm, normalize
from jaxcnn.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool
from jaxcnn.ops.precision import rounded, spread, wide
from jaxcnn.ops.product import matmul
from jaxcnn.ops.roi import crop_regions, roi_align, roi_max_pool

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "batch_normalize",
    "batch_statistics",
    "bilinear",
    "boxes",
    "conv",
    "conv_transpose",
    "convolve",
    "correlation",
    "crop_regions",
    "fuse",
    "global_avg_pool",
    "global_max_pool",
    "local_response_norm",
    "matmul",
    "max_pool",
    "nms",
    "normalize",
    "relu",
    "resize",
    "roi_align",
    "roi_max_pool",
    "rounded",
    "spread",
    "sum_pool",
    "upsample",
    "wide",
]
