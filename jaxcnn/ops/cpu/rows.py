"""Layer normalization over the channels of each pixel: one pass over the image forward, and one back.

XLA writes the differences from the mean, their products with the factor, and the factor and the scale in the image's
shape, and keeps them all for the backward pass: in ConvNeXt-T's training step, five images for each normalization.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jaxcnn.ops.backend import compute
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.channels import batched, some, sums_channels
from jaxcnn.ops.cpu.primitive import available
from jaxcnn.ops.precision import rounded, wide

layer_norm_p, gradient_p = Primitive("jaxcnn_layer_norm"), Primitive("jaxcnn_layer_norm_gradient")
tangent_p = Primitive("jaxcnn_layer_norm_tangent")
gradient_p.multiple_results = True


def normalizes(x: jax.Array) -> bool:
    """Whether `layer_norm` is used for this image. A batch that several devices share is left to XLA."""
    return x.ndim > 1 and sums_channels(x)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """y = h scale + bias,  h = (x - mean) / sqrt(var + eps), with mean and variance over the channels of each pixel.

    Args:
      x: `(..., C)`, float32 or bfloat16, of at least two dimensions.
      scale, bias: `(C,)`, float32.

    Returns:
      y in x's shape and dtype.
    """
    return layer_norm_p.bind(x, scale, bias, eps=eps)


# --- rules -------------------------------------------------------------------------------------------------------
#
# With f = 1 / sqrt(var + eps) and P(u) = f (u - mean(u) - h mean(u h)), which is its own transpose:
#
# tangent(dx, dscale, dbias, x, scale) = P(dx) scale + h dscale + dbias             linear in the first three
# gradient(dy, x, scale) = P(dy scale), sum of dy h, sum of dy                      linear in dy, and its transpose


def _moments(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """h and f."""
    values = wide(x)
    centred = values - values.mean(-1, keepdims=True)
    factor = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return centred * factor, factor


def _projected(u: jax.Array, h: jax.Array, factor: jax.Array) -> jax.Array:
    return factor * (u - u.mean(-1, keepdims=True) - h * (u * h).mean(-1, keepdims=True))


def _plain(x: jax.Array, scale: jax.Array, bias: jax.Array, *, eps: float) -> jax.Array:
    return rounded(_moments(x, eps)[0] * scale + bias, x.dtype)


def _plain_tangent(
    dx: jax.Array, dscale: jax.Array, dbias: jax.Array, x: jax.Array, scale: jax.Array, *, eps: float
) -> jax.Array:
    h, factor = _moments(x, eps)
    return rounded(_projected(wide(dx), h, factor) * scale + h * dscale + dbias, x.dtype)


def _plain_gradient(dy: jax.Array, x: jax.Array, scale: jax.Array, *, eps: float) -> list[jax.Array]:
    h, factor = _moments(x, eps)
    given, axes = wide(dy), tuple(range(x.ndim - 1))
    dx = rounded(_projected(given * scale, h, factor), x.dtype)
    return [dx, (given * h).sum(axes), given.sum(axes)]


def _fast(x: jax.Array, scale: jax.Array, bias: jax.Array, *, eps: float) -> jax.Array:
    if not available(x):
        return _plain(x, scale, bias, eps=eps)
    call = jax.ffi.ffi_call(library.LAYER_NORM, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return call(x, scale, bias, eps=np.float32(eps))


def _fast_gradient(dy: jax.Array, x: jax.Array, scale: jax.Array, *, eps: float) -> list[jax.Array]:
    if not available(x):
        return _plain_gradient(dy, x, scale, eps=eps)
    vector = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype), vector, vector]
    return list(jax.ffi.ffi_call(library.LAYER_NORM_GRADIENT, results)(dy, x, scale, eps=np.float32(eps)))


def _jvp(primals: Any, tangents: Any, *, eps: float) -> tuple[jax.Array, jax.Array]:
    x, scale, _ = primals
    tangent = tangent_p.bind(*map(some, tangents), x, scale, eps=eps)
    return layer_norm_p.bind(*primals, eps=eps), tangent


def _plain_jvp(primitive: Primitive, plain: Callable[..., Any], primals: Any, tangents: Any, **params: Any) -> Any:
    """For the derivatives of derivatives, those of the plain form."""
    _, tangent = jax.jvp(functools.partial(plain, **params), primals, tuple(map(some, tangents)))
    return primitive.bind(*primals, **params), tangent


def _tangent_transpose(ct: Any, dx: Any, dscale: Any, dbias: Any, x: jax.Array, scale: jax.Array, *, eps: float) -> Any:
    found = gradient_p.bind(some(ct), x, scale, eps=eps)
    linear = (ad.is_undefined_primal(v) for v in (dx, dscale, dbias))
    return [value if one else None for value, one in zip(found, linear, strict=True)] + [None, None]


def _gradient_transpose(cts: Any, dy: Any, x: jax.Array, scale: jax.Array, *, eps: float) -> list[Any]:
    return [tangent_p.bind(*map(some, cts), x, scale, eps=eps), None, None]


def _batched_images(args: Any, dims: Any, *, eps: float) -> tuple[Any, int]:
    x, scale, bias = args
    if dims[1:] != (None, None):
        return batched(_plain, args, dims, eps=eps)
    return layer_norm_p.bind(jnp.moveaxis(x, dims[0], 0), scale, bias, eps=eps), 0


def _like(x: Any) -> Any:
    return x.update(weak_type=False)


def _gradients(dy: Any, x: Any, scale: Any, *, eps: float) -> list[Any]:
    return [_like(x), *[_like(scale)] * 2]


layer_norm_p.def_abstract_eval(lambda x, scale, bias, eps: _like(x))
tangent_p.def_abstract_eval(lambda dx, dscale, dbias, x, scale, eps: _like(x))
gradient_p.def_abstract_eval(_gradients)
ad.primitive_jvps[layer_norm_p] = _jvp
ad.primitive_jvps[tangent_p] = functools.partial(_plain_jvp, tangent_p, _plain_tangent)
ad.primitive_jvps[gradient_p] = functools.partial(_plain_jvp, gradient_p, _plain_gradient)
ad.primitive_transposes.update({tangent_p: _tangent_transpose, gradient_p: _gradient_transpose})
batching.primitive_batchers[layer_norm_p] = _batched_images
batching.primitive_batchers[tangent_p] = functools.partial(batched, _plain_tangent)
batching.primitive_batchers[gradient_p] = functools.partial(batched, _plain_gradient)
compute(layer_norm_p, _plain, cpu=_fast)
compute(tangent_p, _plain_tangent, cpu=_plain_tangent)
compute(gradient_p, _plain_gradient, cpu=_fast_gradient)
