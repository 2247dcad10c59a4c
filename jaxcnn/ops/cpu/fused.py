"""A convolution with bias, residual sum and activation as one primitive, for inference.

As separate operations they read the whole image from memory and write it back. oneDNN applies them to each part of the
result while it is in the cache. `jaxcnn.ops.fusion` finds where this is possible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching

from jaxcnn.ops.backend import compute, vary_alike
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.partition import divided
from jaxcnn.ops.cpu.primitive import LOOP, attributes, conv, padded, result, runs
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

_OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "neg": jnp.negative,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
}
"""What a step of `Affine` does, by the names of JAX's primitives."""

_ONE = ("neg", "sqrt", "rsqrt")
"""The operations on one register."""


@dataclass(frozen=True)
class Affine:
    """A factor and a shift of each channel, as a small program on vectors `(K,)`, which the C++ library runs.

    It has numbered registers: first the vectors that it is given, then the results of its steps.

    Attributes:
      steps: `(operation, register, register)`. The second register of an operation on one is not used.
        `("constant", i, 0)` is the constant i.
      constants: numbers.
      factor, shift: registers, or -1 for none.
    """

    steps: tuple[tuple[str, int, int], ...] = ()
    constants: tuple[float, ...] = ()
    factor: int = -1
    shift: int = -1

    def run(self, vectors: Sequence[jax.Array]) -> tuple[jax.Array | None, jax.Array | None]:
        """Factor and shift, by XLA."""
        registers = list(vectors)
        for name, first, second in self.steps:
            if name == "constant":
                registers.append(jnp.float32(self.constants[first]))
            else:
                used = (first,) if name in _ONE else (first, second)
                registers.append(_OPERATIONS[name](*(registers[i] for i in used)))
        factor, shift = (None if i < 0 else registers[i] for i in (self.factor, self.shift))
        return factor, shift

    def attributes(self) -> dict[str, Any]:
        """What a call says of it."""
        code = [(library.OPERATIONS.index(name), first, second) for name, first, second in self.steps]
        return {
            "code": np.array(code, np.int64).reshape(-1),
            "constants": np.array(self.constants, np.float32),
            "factor": np.int64(self.factor),
            "shift": np.int64(self.shift),
        }


NOTHING = Affine()
SHIFT = Affine(shift=0)
"""The only vector is added."""


def conv_fused(
    x: jax.Array,
    kernel: jax.Array,
    *vectors: jax.Array,
    affine: Affine = NOTHING,
    residual: jax.Array | None = None,
    activation: str = "",
    **window: Unpack[Window],
) -> jax.Array:
    """activation(conv(x, kernel) factor + shift + residual), in one pass over the memory.

    It has a rule for `vmap` but none for gradients; `jaxcnn.ops.fusion` differentiates the original program instead.
    oneDNN's ReLU turns a NaN into 0.

    Args:
      x, kernel: `(N, *spatial, C)`, `(*size, C / groups, K)`.
      *vectors: `(K,)`, float32.
      affine: the factor and the shift, from these vectors.
      residual: an array of the output's shape, or None.
      activation: a name of `ACTIVATIONS`.
      **window: see `jaxcnn.ops.geometry.Window`.
    """
    if affine.factor >= 0:
        kernel = kernel.astype(jnp.float32)  # rounded after it is multiplied
    x, pads = padded(x, kernel.shape, window["strides"], window["pads"], window["dilation"])
    images = () if residual is None else (residual,)
    settings = {"residual": residual is not None, "wide": x.dtype != kernel.dtype, "activation": activation}
    return _bind(x, kernel, *images, *vectors, affine=affine, **settings, **{"groups": 1, **window, "pads": pads})


def _bind(*operands: jax.Array, **params: Any) -> jax.Array:
    images = _images(len(operands), params)
    return conv_fused_p.bind(*vary_alike(*operands), parts=divided(_with(**params), operands, images), **params)


def _images(count: int, params: dict[str, Any]) -> list[bool]:
    """For each operand, whether it is an image, whose first axis is the batch."""
    images = [True, False] + [True] * params["residual"]
    return images + [False] * (count - len(images))


def _settings(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the convolution alone, as in `jaxcnn.ops.cpu.primitive`."""
    names = ("strides", "pads", "dilation", "groups", "wide")
    return {"kind": "output", "sizes": (), "swapped": False, **{name: params[name] for name in names}}


def _abstract(x: Any, kernel: Any, *operands: Any, **params: Any) -> Any:
    return x.update(shape=result(x, kernel, **_settings(params)).shape, weak_type=False)


def plain(
    x: jax.Array,
    kernel: jax.Array,
    *operands: jax.Array,
    affine: Affine,
    residual: bool,
    wide: bool,
    activation: str,
    **window: Any,
) -> jax.Array:
    """The same as separate operations."""
    factor, shift = affine.run(operands[residual:])
    y = conv(x, kernel if factor is None else kernel * factor, **window)
    if shift is not None:
        y = y + spread(jnp.broadcast_to(shift, y.shape[-1:]), y)
    return ACTIVATIONS[activation](y + operands[0] if residual else y)


def _onednn(x: jax.Array, kernel: jax.Array, *operands: jax.Array, **params: Any) -> jax.Array:
    settings, affine, activation = _settings(params), params["affine"], params["activation"]
    added = {"bias": affine.shift >= 0, "residual": params["residual"], "activation": activation}
    if not runs(x, kernel, **settings, **added):
        return plain(x, kernel, *operands, **params)
    run = jax.ffi.ffi_call(library.CONVOLUTION_FUSED, result(x, kernel, **settings))
    named = {"residual": params["residual"], "activation": activation}
    return run(x, kernel, *operands, **attributes(**settings), **affine.attributes(), **named)


@functools.lru_cache(maxsize=1024)
def _with(**params: Any) -> Any:
    return functools.partial(_onednn, **params)


def _batched(operands: Any, dims: Any, *, parts: Any, **params: Any) -> tuple[jax.Array, int]:
    size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
    first = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(operands, dims, strict=True)]
    images = _images(len(operands), params)
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
