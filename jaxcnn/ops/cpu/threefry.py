"""The random bits of `jax.random`, computed by this package's library: the same ones, in programs that compile faster.

XLA writes out the twenty rounds of Threefry for each array that is drawn. For a layer's `init` that is two thirds of
what XLA and JAX do before it runs: 15 ms to lower and 60 ms to compile for an array of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxcnn.ops.backend import suits_cpu
from jaxcnn.ops.cpu import library
from jaxcnn.ops.jaxpr import Read, called, evaluate, every

_THREEFRY = "threefry2x32"
_BITS, _SPLIT, _FOLD = "random_bits", "random_split", "random_fold_in"


def quick_bits(program: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """The results of a program, whose `jax.random` draws bits with this package's library where it can.

    It takes over 32 random bits, `split` and `fold_in` of a single Threefry key (JAX's default), also inside functions
    that `jax.jit` has compiled. Everything else, also what stands in loops, is computed as it is. Results are the same
    to the last bit.

    Args:
      values: those of the program's inputs.
    """
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]  # the default; else other bits
    takes = partitionable and suits_cpu("random") and library.unavailable() is None
    return evaluate(program.jaxpr, [*program.consts, *values], _rule if takes else None)


def _rule(eqn: JaxprEqn, read: Read) -> list[Any] | None:
    """The results of an equation that draws, and of a call with one; None for others."""
    name = eqn.primitive.name
    if name == "jit":
        body = called(eqn)
        if body is None or not any(e.primitive.name in (_BITS, _SPLIT, _FOLD) for e in every(body.jaxpr)):
            return None
        return evaluate(body.jaxpr, [*body.consts, *map(read, eqn.invars)], _rule)
    if name not in (_BITS, _SPLIT, _FOLD):
        return None
    key = read(eqn.invars[0])
    if key.ndim or jax.random.key_impl(key) != _THREEFRY:
        return None
    words = jax.random.key_data(key)
    if name == _BITS:
        return [_bits(words, eqn.params["shape"])] if eqn.params["bit_width"] == 32 else None
    if name == _SPLIT:
        return [_keys(words, np.uint32(0), eqn.params["shape"])]
    data = read(eqn.invars[1])
    return None if jnp.ndim(data) else [_keys(words, data, ())]


def _bits(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.ffi.ffi_call(library.RANDOM_BITS, jax.ShapeDtypeStruct(shape, jnp.uint32))(words)


def _keys(words: jax.Array, first: Any, shape: tuple[int, ...]) -> jax.Array:
    call = jax.ffi.ffi_call(library.RANDOM_KEYS, jax.ShapeDtypeStruct((*shape, 2), jnp.uint32))
    return jax.random.wrap_key_data(call(words, first), impl=_THREEFRY)
