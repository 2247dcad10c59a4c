"""Convolutions on a CPU by oneDNN, which is called through XLA's public foreign function interface.

XLA's convolutions are several times slower than oneDNN's, some gradients a hundred times. oneDNN is the package
`onednn-cpu-gomp`. The C++ files in `src` are XLA handlers that call it; they are compiled when jaxcnn is installed
(`build`). If oneDNN or the compiled library is missing (`library.unavailable` says which), and on other platforms than
Linux on x86-64, XLA computes the convolutions, with the same results.

- `library`: finds and loads both libraries, and asks oneDNN which code it has for a convolution.
- `primitive`: the convolution and its gradients as a JAX primitive with its rules.
- `fused`: the convolution with the operations that follow it in inference.
- `product`: a few rows times a large matrix, and the matrix's gradient.
- `channels`, `rows`, `pooling`: batch statistics and the sums of their gradient, layer normalization, and max
  pooling. This package computes them itself, in vectors and on oneDNN's threads (`src/kernels.inc`).
- `threefry`: the random bits of `jax.random` for initial values, in programs that compile in half the time.
- `src/direct.h`: convolutions of few channels, which this package computes itself where it is faster.
- `src/depthwise.h`: depthwise convolutions of 5x5 and 7x7, likewise, with AVX-512.
- `src/winograd.h`: 3x3 and 5x5 convolutions of stride 1, likewise.
- `partition`: a batch that `jit` divides among several devices.

**Threads.** oneDNN uses OpenMP's threads. Their number is OMP_NUM_THREADS, else NPROC, else the number of processors
that the process may use (`taskset`, limits of containers). XLA calls from several threads at once, so calls take turns,
each with all threads. Between calls the threads soon sleep and leave the processors to XLA: GOMP_SPINCOUNT is set
while the library is loaded, unless it or OMP_WAIT_POLICY is set. After a fork, a call has one thread.

**Kernels.** oneDNN's code needs a kernel in blocks of 16 to 64 filters or channels. It is copied there by this package,
since oneDNN's own reordering took up to 8 % of a training step (GoogLeNet).

**Descriptions.** The attributes of a call say what it computes, so JAX's compilation cache can store a program with
calls. The last 1024 primitives of oneDNN are kept, one per shape.
"""

from jaxcnn.ops.cpu.channels import affine, moments, sums_channels
from jaxcnn.ops.cpu.fused import Affine, conv_fused, conv_fused_p
from jaxcnn.ops.cpu.library import about, notice, unavailable
from jaxcnn.ops.cpu.pooling import max_pool, maximum, pools, put
from jaxcnn.ops.cpu.primitive import (
    available,
    conv,
    conv_transpose,
    convolution_p,
    shapes,
    takes,
    takes_transposed,
)
from jaxcnn.ops.cpu.product import outer_p, product, product_p
from jaxcnn.ops.cpu.rows import layer_norm, normalizes

__all__ = [
    "Affine",
    "about",
    "affine",
    "available",
    "conv",
    "conv_fused",
    "conv_fused_p",
    "conv_transpose",
    "convolution_p",
    "layer_norm",
    "max_pool",
    "maximum",
    "moments",
    "normalizes",
    "notice",
    "pools",
    "product",
    "outer_p",
    "product_p",
    "put",
    "shapes",
    "sums_channels",
    "takes",
    "takes_transposed",
    "unavailable",
]
