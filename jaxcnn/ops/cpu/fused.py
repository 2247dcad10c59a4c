"""A convolution with bias, residual sum and activation as one primitive, for inference.

As separate operations they read the whole image from memory and write it back. oneDNN applies them to each part of the
result while it is in the cache. `jaxcnn.ops.fusion` finds where this is possible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching

from jaxcnn.ops.backend import compute, vary_alike
from jaxcnn.ops.cpu.partition import divided
from jaxcnn.ops.cpu.primitive import LOOP, call, conv, padded, result, runs
from jaxcnn.ops.geometry import Window
from jaxcnn.ops.precision import spread

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
"""The activations by the names that the C++ library knows."""

conv_fused_p = Primitive("jaxcnn_conv_fused")


def conv_fused(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    activation: str = "",
    **window: Unpack[Window],
) -> jax.Array:
    """activation(conv(x, kernel) + bias + residual), in one pass over the memory.

    It has a rule for `vmap` but none for gradients; `jaxcnn.ops.fusion` differentiates the original program instead.
    oneDNN's ReLU turns a NaN into 0.

    Args:
      x, kernel: `(N, *spatial, C)`, `(*size, C / groups, K)`.
      bias: `(K,)`, or None.
      residual: an array of the output's shape, or None.
      activation: a name of `ACTIVATIONS`.
      **window: see `jaxcnn.ops.geometry.Window`.
    """
    x, pads = padded(x, kernel.shape, window["strides"], window["pads"], window["dilation"])
    operands = [a for a in (x, kernel, bias, residual) if a is not None]
    added = {"bias": bias is not None, "residual": residual is not None}
    return _bind(*operands, **added, activation=activation, **{"groups": 1, **window, "pads": pads})


def _bind(*operands: jax.Array, **params: Any) -> jax.Array:
    return conv_fused_p.bind(
        *vary_alike(*operands), parts=divided(_with(**params), operands, _images(params)), **params
    )


def _images(params: dict[str, Any]) -> list[bool]:
    """For each operand, whether it is an image, whose first axis is the batch."""
    return [True, False] + [False] * params["bias"] + [True] * params["residual"]


def _settings(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the convolution alone, as in `jaxcnn.ops.cpu.primitive`."""
    names = ("strides", "pads", "dilation", "groups")
    return {"kind": "output", "sizes": (), "swapped": False, "wide": False, **{name: params[name] for name in names}}


def _abstract(x: Any, kernel: Any, *operands: Any, **params: Any) -> Any:
    return x.update(shape=result(x, kernel, **_settings(params)).shape, weak_type=False)


def plain(
    x: jax.Array, kernel: jax.Array, *operands: jax.Array, bias: bool, residual: bool, activation: str, **window: Any
) -> jax.Array:
    """The same as separate operations."""
    y = conv(x, kernel, **window)
    return ACTIVATIONS[activation](sum((spread(operand, y) for operand in operands), y))


def _onednn(x: jax.Array, kernel: jax.Array, *operands: jax.Array, **params: Any) -> jax.Array:
    settings = _settings(params) | {name: params[name] for name in ("bias", "residual", "activation")}
    if not runs(x, kernel, **settings):
        return plain(x, kernel, *operands, **params)
    return call(x, kernel, *operands, **settings)


@functools.lru_cache(maxsize=1024)
def _with(**params: Any) -> Any:
    return functools.partial(_onednn, **params)


def _batched(operands: Any, dims: Any, *, parts: Any, **params: Any) -> tuple[jax.Array, int]:
    size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
    first = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(operands, dims, strict=True)]
    images = _images(params)
    if all(image or d is None for image, d in zip(images, dims, strict=True)):  # merge the batches of the images
        joined = [
            lax.collapse(jnp.broadcast_to(a, (size, *a.shape)) if d is None else a, 0, 2) if image else a
            for a, d, image in zip(first, dims, images, strict=True)
        ]
        out = _bind(*joined, **params)
        return out.reshape(size, len(out) // size, *out.shape[1:]), 0
    if size <= LOOP:
        each = ([a if d is None else a[i] for a, d in zip(first, dims, strict=True)] for i in range(size))
        return jnp.stack([_bind(*one, **params) for one in each]), 0
    return jax.vmap(functools.partial(plain, **params), [None if d is None else 0 for d in dims])(*first), 0


conv_fused_p.def_abstract_eval(_abstract)
batching.primitive_batchers[conv_fused_p] = _batched
compute(conv_fused_p, plain, cpu=_onednn)
