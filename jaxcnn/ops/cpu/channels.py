"""Sums over all pixels for each channel, in one pass over the image: what batch normalization and its gradient need.

XLA computes each sum by itself. A training step of batch normalization reads the image for the mean, again for the
variance, and twice more, with the gradient, for the two sums of the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops.backend import compute, suits_cpu
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.primitive import alone, available
from jaxcnn.ops.precision import rounded, wide

_LEAST = 1 << 14  # numbers; for smaller images, XLA fuses the sums with other work

moments_p, sums_p, affine_p = Primitive("jaxcnn_moments"), Primitive("jaxcnn_sums"), Primitive("jaxcnn_affine")
moments_p.multiple_results = sums_p.multiple_results = True


def sums_channels(x: jax.Array) -> bool:
    """Whether `moments` and `affine` are used for this image. A batch that several devices share is left to XLA."""
    return suits_cpu("sums", x) and x.size >= _LEAST and alone(x, *library.TYPES)


@jax.custom_jvp
def moments(x: jax.Array, stored: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel: `(..., C) -> (C,), (C,)`, float32.

    mean = sum(x) / M,  var = sum((x - mean)^2) / M

    Args:
      x: in float32. The derivative is that of this argument.
      stored: the same image in float32 or bfloat16, which is read.
    """
    mean, var = moments_p.bind(stored)
    return mean, var


@moments.defjvp
def _moments_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    mean, var = moments(*primals)
    (_, stored), (dx, _) = primals, tangents
    count = stored.size // stored.shape[-1]
    total, product = sums_p.bind(dx, stored, mean)
    return (mean, var), (total / count, 2 * product / count)  # the sum of x - mean is 0


@jax.custom_jvp
def affine(x: jax.Array, stored: jax.Array, centre: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """y = (x - centre) factor + shift in the dtype of `stored`: `(..., C)` and three `(C,)`, float32.

    x and `stored` are as in `moments`.
    """
    return rounded((wide(stored) - centre) * factor + shift, stored.dtype)


@affine.defjvp
def _affine_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    _, stored, centre, factor, _ = primals
    dx, _, dcentre, dfactor, dshift = tangents
    rest = affine_p.bind(dshift - dcentre * factor, dfactor, stored, centre, dtype=stored.dtype)
    return affine(*primals), rounded(dx * factor, stored.dtype) + rest


# --- rules -------------------------------------------------------------------------------------------------------
#
# sums(y, x, c) = sum of y, sum of y (x - c)     linear in y
# affine(u, v, x, c) = u + (x - c) v             linear in u and v, and the transpose of `sums`
#
# Images are float32 or bfloat16, vectors float32.


def _axes(x: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _plain_moments(x: jax.Array) -> list[jax.Array]:
    values = wide(x)
    mean = values.mean(_axes(x))
    return [mean, jnp.square(values - mean).mean(_axes(x))]


def _plain_sums(y: jax.Array, x: jax.Array, centre: jax.Array) -> list[jax.Array]:
    values = wide(y)
    return [values.sum(_axes(y)), (values * (wide(x) - centre)).sum(_axes(y))]


def _plain_affine(u: jax.Array, v: jax.Array, x: jax.Array, centre: jax.Array, *, dtype: Any) -> jax.Array:
    return rounded(u + (wide(x) - centre) * v, dtype)


def _vectors(x: jax.Array) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)] * 2


def _fast_moments(x: jax.Array) -> Sequence[jax.Array]:
    if not available(x):
        return _plain_moments(x)
    return jax.ffi.ffi_call(library.MOMENTS, _vectors(x))(x)


def _fast_sums(y: jax.Array, x: jax.Array, centre: jax.Array) -> Sequence[jax.Array]:
    if not available(x):
        return _plain_sums(y, x, centre)
    if y.dtype != x.dtype:  # in a forward derivative
        y, x = wide(y), wide(x)
    return jax.ffi.ffi_call(library.SUMS, _vectors(x))(y, x, centre)


def some(tangent: Any) -> jax.Array:
    """A tangent as an array, also where it is 0."""
    return ad.instantiate_zeros(tangent)


def _is_zero(*tangents: Any) -> bool:
    return all(type(t) is ad.Zero for t in tangents)


def _sums_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (y, x, centre), (dy, dx, dcentre) = primals, tangents
    total, product = sums_p.bind(some(dy), x, centre)
    if not _is_zero(dx, dcentre):
        product = product + (wide(y) * (wide(some(dx)) - some(dcentre))).sum(_axes(y))
    return sums_p.bind(y, x, centre), [total, product]


def _sums_transpose(cts: Any, y: Any, x: jax.Array, centre: jax.Array) -> list[Any]:
    return [affine_p.bind(*map(some, cts), x, centre, dtype=y.aval.dtype), None, None]


def _affine_p_jvp(primals: Any, tangents: Any, *, dtype: Any) -> tuple[Any, Any]:
    (_, v, x, centre), (du, dv, dx, dcentre) = primals, tangents
    tangent = affine_p.bind(some(du), some(dv), x, centre, dtype=dtype)
    if not _is_zero(dx, dcentre):
        tangent = tangent + rounded((wide(some(dx)) - some(dcentre)) * v, dtype)
    return affine_p.bind(*primals, dtype=dtype), tangent


def _affine_transpose(ct: Any, u: Any, v: Any, x: jax.Array, centre: jax.Array, *, dtype: Any) -> list[Any]:
    total, product = sums_p.bind(some(ct), x, centre)
    return [total if ad.is_undefined_primal(u) else None, product if ad.is_undefined_primal(v) else None, None, None]


def batched(plain: Any, args: Any, dims: Any, **params: Any) -> tuple[Any, Any]:
    """A rule for `vmap`: the plain form's."""
    out = jax.vmap(functools.partial(plain, **params), dims)(*args)
    return out, [0] * len(out) if isinstance(out, list) else 0


def _like_vectors(x: Any, *_: Any) -> list[Any]:
    return [x.update(shape=x.shape[-1:], dtype=jnp.dtype("float32"), weak_type=False)] * 2


moments_p.def_abstract_eval(_like_vectors)
sums_p.def_abstract_eval(_like_vectors)
affine_p.def_abstract_eval(lambda u, v, x, centre, dtype: x.update(dtype=dtype, weak_type=False))
ad.primitive_jvps.update({sums_p: _sums_jvp, affine_p: _affine_p_jvp})
ad.primitive_transposes.update({sums_p: _sums_transpose, affine_p: _affine_transpose})
for primitive, plain in ((moments_p, _plain_moments), (sums_p, _plain_sums), (affine_p, _plain_affine)):
    batching.primitive_batchers[primitive] = functools.partial(batched, plain)
compute(moments_p, _plain_moments, cpu=_fast_moments)
compute(sums_p, _plain_sums, cpu=_fast_sums)
affine_p.def_impl(_plain_affine)
mlir.register_lowering(affine_p, mlir.lower_fun(_plain_affine, multiple_results=False))
