"""Compiled `init` functions; equal layers with inputs of equal shapes share one."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.layer import Layer, PyTree, Variables, is_comparable

_SIZE = 512  # entries per cache; the oldest is dropped first
_KEPT = 32  # compiled functions that are kept after `init`; each holds 3 MB
_shapes: dict[Any, tuple[Variables, Variables]] = {}
_compiled: dict[Any, Callable[[jax.Array], tuple[Variables, Variables]]] = {}


@dataclass
class Leaf:
    """A leaf of a network that is being initialized.

    Attributes:
      layer: the leaf.
      inputs: the shapes and dtypes of the inputs of its first call.
      variables: the shapes and dtypes of `(params, state)`.
      identity: a hashable; leaves with equal identities have the same `init`.
    """

    layer: Layer
    inputs: tuple[PyTree, ...]
    variables: tuple[Variables, Variables]
    identity: Any

    @staticmethod
    def of(layer: Layer, inputs: tuple[PyTree, ...], key: Any) -> Leaf:
        while layer.base is not None and layer.init is layer.base.init:
            layer = layer.base
        arrays, structure = jax.tree.flatten(inputs)
        identity = layer, structure, tuple((a.shape, a.dtype) for a in arrays), jnp.result_type(float)
        variables = _shapes.get(identity)
        if variables is None:
            variables = jax.eval_shape(functools.partial(_init, layer), key, *inputs)
            _remember(_shapes, identity, variables)
        return Leaf(layer, inputs, variables, identity)

    def make(self, key: jax.Array) -> tuple[Variables, Variables]:
        """The variables, computed by a compiled `init`.

        Compiling `jax.random` is slow on a CPU: 0.2 to 0.6 s per shape. LLVM's optimization level 1 takes a third of
        that time, and its results are the same to the last bit. Inside `jit` or `vmap`, `init` is not compiled here.
        """
        if isinstance(key, jax.core.Tracer) or not is_comparable(self.layer):
            return self.layer.init(key, *self.inputs)
        identity = self.identity, jax.default_backend(), key.dtype
        if identity not in _compiled:
            options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
            layer, inputs = self.layer, self.inputs
            _remember(_compiled, identity, jax.jit(lambda key: layer.init(key, *inputs), compiler_options=options))
        return _compiled[identity](key)


def forget() -> None:
    """Frees the compiled functions, and the memory that compiling has left, if the last network had many of them.

    For GoogLeNet's 83 that is 230 MB, a fifth of what its training takes at most, and `init` is called once.
    """
    if len(_compiled) <= _KEPT:
        return
    _compiled.clear()
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # GNU's C library
        trim(0)


def _init(layer: Layer, key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
    return layer.init(key, *inputs)


def _remember(cache: dict[Any, Any], identity: Any, value: Any) -> None:
    if len(cache) >= _SIZE:
        cache.pop(next(iter(cache)))
    cache[identity] = value
