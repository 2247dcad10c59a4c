"""Arithmetic on arrays, without variables; the layers are built on it.

Images are `(N, *spatial, C)` (NHWC in two dimensions), kernels `(*spatial, C_in / groups, C_out)` (HWIO). Each function
works on one, two or three spatial dimensions.

Speed on a CPU
--------------
XLA:CPU (jaxlib 0.10.2) computes a convolution by YNNPACK, and its gradients too, after transposing their operands. It
fuses an elementwise operation into every operation that uses its result, and so computes it several times.
`reduce_window` is a plain loop, and its gradient is a scatter. This package computes them in other forms
(`jaxcnn.ops.backend.FORMS`), listed here by their effect, the largest first:

- `onednn`: oneDNN computes all convolutions, their gradients, products of a few rows and a large matrix, and, in
  inference, the bias, normalization, residual sum and activation after a convolution (`jaxcnn.ops.fusion`). It is
  called through XLA's public foreign function interface (`jaxcnn.ops.cpu`, which says what it needs).
- `winograd`: a 3x3 convolution of stride 1 and both its gradients, in float32, need 16 products for 4 results instead
  of 36 by Winograd's algorithm, which this package computes itself (`ops/cpu/src/winograd.h`): 1.1 to 1.8 times as fast
  as oneDNN, and as exact. A 5x5 convolution is the sum of four of them: 1.2 to 1.5 times as fast for AlexNet's second.
  (A pixel that is infinite or NaN makes NaN of all results in its tiles of 2x2.)
- `direct`: a convolution of up to 8 results, its kernel gradient, and input gradients of up to 7 channels, in float32.
  Each row of a window lies in the image without gaps, so they are products of matrices that need no copy
  (`ops/cpu/src/direct.h`). oneDNN computes 16 channels at a time: on LeNet-5's layers this is 1.2 to 2.2 times as fast.
  Depthwise convolutions of 5x5 and 7x7 with stride 1, and their input gradients, hold the columns of a row in registers
  for all its taps: 1.4 times as fast, with AVX-512 (`ops/cpu/src/depthwise.h`).
- `stored`: a value that several operations use is computed once. XLA has no barrier on a CPU (it removes
  `optimization_barrier` before fusion), but it does not repeat an operation on two whole images. A ReLU therefore ends
  with a select between x and NaN by x == x.
- `maximum`: max pooling records which tap had the maximum, and its gradient uses this (`jaxcnn.ops.maximum`).
- `sums`: the mean and variance of a batch are computed in one pass over it, and the two sums of their gradient in
  another one. XLA reads the image for each of the four. Layer normalization and its gradient are one pass each, which
  keep nothing but the image; XLA keeps five more for each (`ops/cpu/rows.py`).
- `products`: a convolution of few pixels with a large kernel is a matrix product.
- `slices`: sums over windows are sums of strided slices.
- `pages`: XLA takes the memory of each call from the system and gives it back, and the system clears it page by page,
  which was a fifth of a step. Where oneDNN is called, it comes in huge pages (`ops/cpu/src/pages.h`).
- `ordered`: a training step updates its kernels in place when their last use is over (`backend.ordered`). XLA's order
  is free, so it worked on copies of them, made at the beginning of the step.
- `random`: the random bits of initial values are drawn by this package's library, the same ones as by `jax.random`. XLA
  writes out Threefry's twenty rounds for each array, two thirds of the time to compile an `init`: ResNet-50 is
  initialized in half the time without them (`ops/cpu/threefry.py`).
- `stuffed`: without oneDNN, a transposed convolution is a convolution of an image with zeros inserted.

Each form applies wherever a function is traced: under `jax.jit`, in `scan`, `vmap`, `remat` and `shard_map`. None
applies on a GPU or TPU, or in a program that `jax.export` writes. The environment variable JAXCNN_PLAIN switches off
the forms that it lists, or `all`. `python -m experiments.speed --ablation` measures each form alone; the README has
the results.

The package changes no setting of XLA. One setting can help, but the user must set it:
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, huge pages for what `pages` does not reach, the first arrays of a step.
(`mallopt` can keep the memory within the process: a step of ResNet-20 takes 3 % less, but its peak memory is 1.7 times
as large.)

Changes that did not help: computing the variance as E[x^2] - E[x]^2, with a fallback where digits are lost (saves a
pass, 1 %); folding the pixels of the first layer's image into channels (no faster); keeping XLA's other thread from
computing while oneDNN does (-3 to 3 %); and 1x1 convolutions as matrix products by the code of `winograd` (0.96 to 1.16
of oneDNN's speed forward, 0.70 to 0.97 for the kernel gradient: the memory counts, not the products).
"""

from jaxcnn.ops import boxes
from jaxcnn.ops.activation import gelu, gelu_tanh, hard_sigmoid, hard_swish, relu, relu6, sigmoid, silu, tanh
from jaxcnn.ops.bilinear import bilinear, resize, upsample
from jaxcnn.ops.convolution import conv, conv_transpose, convolve
from jaxcnn.ops.correlation import correlation
from jaxcnn.ops.fusion import fuse
from jaxcnn.ops.nms import nms
from jaxcnn.ops.normalization import (
    batch_norm,
    batch_normalize,
    batch_statistics,
    layer_norm,
    local_response_norm,
    normalize,
)
from jaxcnn.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, global_max_pool, max_pool, sum_pool
from jaxcnn.ops.precision import rounded, spread, wide
from jaxcnn.ops.product import matmul
from jaxcnn.ops.roi import crop_regions, roi_align, roi_max_pool

__all__ = [
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
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
    "gelu",
    "gelu_tanh",
    "global_avg_pool",
    "global_max_pool",
    "hard_sigmoid",
    "hard_swish",
    "layer_norm",
    "local_response_norm",
    "matmul",
    "max_pool",
    "nms",
    "normalize",
    "relu",
    "relu6",
    "resize",
    "roi_align",
    "roi_max_pool",
    "rounded",
    "sigmoid",
    "silu",
    "spread",
    "sum_pool",
    "tanh",
    "upsample",
    "wide",
]
