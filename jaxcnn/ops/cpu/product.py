"""The matrix product as a JAX primitive, which oneDNN computes on a CPU."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jaxcnn.ops.backend import compute, stored, vary_alike
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.partition import divided
from jaxcnn.ops.cpu.primitive import available
from jaxcnn.ops.precision import summed_product

product_p = Primitive("jaxcnn_product")


def product(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
    """`(..., D), (D, K) -> (..., K)`; if `transposed`, the kernel is `(K, D)`. Float32 or bfloat16, not empty."""
    rows = _rows(x)
    parts = divided(_with(transposed), (rows, kernel), (True, False))
    out = product_p.bind(*vary_alike(rows, kernel), transposed=transposed, parts=parts)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _abstract(x: Any, kernel: Any, *, transposed: bool, parts: Any) -> Any:
    return x.update(shape=(x.shape[0], kernel.shape[0 if transposed else 1]), weak_type=False)


def _plain(x: jax.Array, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    return summed_product(x, kernel.T if transposed else kernel)


def _onednn(x: jax.Array, kernel: jax.Array, *, transposed: bool) -> jax.Array:
    if not available(x):
        return _plain(x, kernel, transposed=transposed)
    out = jax.ShapeDtypeStruct((x.shape[0], kernel.shape[0 if transposed else 1]), x.dtype)
    return jax.ffi.ffi_call(library.PRODUCT, out)(x, kernel, transposed=transposed)


@functools.cache
def _with(transposed: bool) -> Any:
    return functools.partial(_onednn, transposed=transposed)


def _row_gradient(ct: jax.Array, x: Any, kernel: jax.Array, *, transposed: bool, parts: Any) -> jax.Array:
    return product(stored(ct), kernel, not transposed)


def _kernel_gradient(ct: jax.Array, x: jax.Array, kernel: Any, *, transposed: bool, parts: Any) -> jax.Array:
    ct = stored(ct)  # XLA's product, which is as fast: the time is that of writing the gradient
    return summed_product(ct.T, x) if transposed else summed_product(x.T, ct)


def _batched(operands: Any, dims: Any, *, transposed: bool, parts: Any) -> tuple[jax.Array, int]:
    return jax.vmap(functools.partial(_plain, transposed=transposed), dims)(*operands), 0


product_p.def_abstract_eval(_abstract)
ad.defbilinear(product_p, _row_gradient, _kernel_gradient)
batching.primitive_batchers[product_p] = _batched
compute(product_p, _plain, cpu=_onednn)
