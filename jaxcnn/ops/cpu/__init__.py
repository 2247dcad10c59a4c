"""Convolutions on a CPU by oneDNN, which is called over XLA's public foreign function interface.

XLA's own convolutions are several times slower than oneDNN's, and some gradients a hundred times. oneDNN is the package
`onednn-cpu-gomp`; `src` is C++ that makes its functions handlers of XLA's and is compiled when jaxcnn is installed
(`build`). Where one of the two is missing (`library.unavailable` says which), and on other platforms than Linux on
x86-64, XLA's own convolutions are taken, with the same results.

- `library`: finds and loads both, and asks oneDNN what code it has for a convolution.
- `primitive`: the convolution and its gradients as a primitive of JAX, with its rules; `fused`: the same with what
  follows it in inference; `product`: a few rows times a large matrix.
- `partition`: a batch that `jit` divides among several devices.

**Threads.** oneDNN has OpenMP's, as many as OMP_NUM_THREADS, or else NPROC, says, otherwise as many as the process has
processors (`taskset`, limits of containers). One call runs at a time, on all of them, since XLA calls from several
threads at once. Between calls they sleep soon, to leave the processors to XLA: GOMP_SPINCOUNT is set while the library
is loaded, unless it or OMP_WAIT_POLICY is set. After a fork a call has one thread.

**Descriptions.** A call says by its attributes what is computed, so a program with calls can be written to JAX's
compilation cache. Primitives of oneDNN are kept by shape, 1024 of them.
"""

from jaxcnn.ops.cpu.fused import conv_fused, conv_fused_p
from jaxcnn.ops.cpu.library import about, notice, unavailable
from jaxcnn.ops.cpu.primitive import (
    available,
    conv,
    conv_transpose,
    convolution_p,
    shapes,
    takes,
    takes_transposed,
)
from jaxcnn.ops.cpu.product import product, product_p

__all__ = [
    "about",
    "available",
    "conv",
    "conv_fused",
    "conv_fused_p",
    "conv_transpose",
    "convolution_p",
    "notice",
    "product",
    "product_p",
    "shapes",
    "takes",
    "takes_transposed",
    "unavailable",
]
