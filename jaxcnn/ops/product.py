"""The product of a few rows and a large matrix on a CPU, by oneDNN.

What is dear there is to read the matrix once. 16 rows times 9216x4096, AlexNet's fc6, take XLA 23 ms and oneDNN 13
(PyTorch 15); the gradient by the rows, 13 and 10. The gradient by the matrix is written, not read, and takes either as
long. It is the same custom call, with the same conditions, as `jaxcnn.ops.onednn`'s.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jaxcnn.ops import onednn
from jaxcnn.ops.backend import compute, stored, vary_alike

_ROWS, _LARGE = 32, 1 << 20  # rows up to which, and numbers of the matrix from which on, oneDNN is the quicker one


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y = x kernel: `(..., D), (D, K) -> (..., K)`, in the wider of the two dtypes."""
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    rows = x.size // max(x.shape[-1], 1)
    if onednn.available(x) and dtype == jnp.float32 and kernel.size >= _LARGE and 0 < rows <= _ROWS:
        return matmul_p.bind(*vary_alike(x, kernel), transposed=False)
    return x @ kernel


matmul_p = Primitive("jaxcnn_matmul")


def _abstract(x: Any, kernel: Any, *, transposed: bool) -> Any:
    return x.update(shape=(*x.shape[:-1], kernel.shape[0 if transposed else 1]), weak_type=False)


def _plain(x: jax.Array, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    return x @ (kernel.T if transposed else kernel)


def _onednn(x: jax.Array, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    if not onednn.available():
        return _plain(x, kernel, transposed=transposed)
    kernel = kernel.T if transposed else kernel
    rows, features = _rows(x), kernel.shape[1]
    out = jax.ShapeDtypeStruct((len(rows), features), x.dtype)
    layouts = [(0, 1), (1, 0) if transposed else (0, 1)]  # transposed, it lies as it is
    call = onednn.runtime("matmul", out, {"onednn_matmul_config": {}}, layouts)
    return call(rows, kernel).reshape(*x.shape[:-1], features)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _row_gradient(ct: jax.Array, x: Any, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    return matmul_p.bind(*vary_alike(stored(ct), kernel), transposed=not transposed)


def _kernel_gradient(ct: jax.Array, x: jax.Array, kernel: Any, *, transposed: bool) -> jax.Array:
    ct, x = _rows(stored(ct)), _rows(x)
    return ct.T @ x if transposed else x.T @ ct


def _batched(args: Any, dims: Any, *, transposed: bool) -> tuple[jax.Array, int]:
    return jax.vmap(lambda x, kernel: _plain(x, kernel, transposed=transposed), dims)(*args), 0


matmul_p.def_abstract_eval(_abstract)
ad.defbilinear(matmul_p, _row_gradient, _kernel_gradient)
batching.primitive_batchers[matmul_p] = _batched
compute(matmul_p, _plain, cpu=_onednn)
