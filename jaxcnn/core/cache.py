"""Functions that run once, such as a layer's `init`, compiled in little time.

Equal layers with inputs of equal shapes share a compiled `init`.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from jaxcnn.core.layer import Layer, PyTree, Variables, is_comparable
from jaxcnn.ops import jaxpr
from jaxcnn.ops.cpu.threefry import quick_bits

T = TypeVar("T")

_SIZE = 512  # entries per cache; the oldest is dropped first
_KEPT = 32  # compiled functions that are kept after `init`; each holds 3 MB
_shapes: dict[Any, tuple[Variables, Variables]] = {}
_compiled: dict[Any, Callable[[jax.Array], tuple[Variables, Variables]]] = {}
_outputs: dict[Any, PyTree] = {}  # shapes


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
        """The variables, computed by a compiled `init`. Inside `jit` or `vmap`, `init` is not compiled here."""
        found, _ = self.function(key)
        return found(key)

    def output(self, layer: Layer, run: Callable[[], PyTree]) -> PyTree:
        """The output of the first call, in a trace of which only shapes are used: `run()`, or zeros of known shapes.

        Args:
          layer: the leaf; transformations that leave `init` as it is may change the output's dtype.
        """
        identity = layer, self.identity
        if identity in _outputs:
            return zeros(_outputs[identity])
        output = run()
        if _known(layer) and all(_plain(array) for array in jax.tree.leaves(output)):
            shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), output)
            _remember(_outputs, identity, shapes)
        return output

    def function(self, key: jax.Array) -> tuple[Callable[[jax.Array], tuple[Variables, Variables]], bool]:
        """`key -> (params, state)`, and whether it is a new one that has to be compiled."""
        layer, inputs = self.layer, self.inputs
        if _traced(key) or not is_comparable(layer):
            return lambda key: layer.init(key, *inputs), False
        identity = self.identity, jax.default_backend(), key.dtype
        if new := identity not in _compiled:
            _remember(_compiled, identity, compiled(lambda key: layer.init(key, *inputs), key))
        return _compiled[identity], new and hasattr(_compiled[identity], "lower")


def zeros(structs: T) -> T:
    """Arrays of zeros of these shapes and dtypes."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structs)


def _known(layer: Layer) -> bool:
    """Whether the shape of its output follows from its inputs alone; a user's function may read what changes later."""
    if layer.call is None:
        return False
    made = layer.call.args[0] if layer.is_function else layer.call.maker
    module = f"{getattr(made, '__module__', '')}."
    if layer.base is not None:
        return module.startswith("jaxcnn.transforms.") and _known(layer.base)
    return module.startswith(("jaxcnn.layers.", "jax."))


def _plain(array: Any) -> bool:
    """Whether the shape and the dtype say all that a trace knows of an array."""
    extended = jax.dtypes.extended  # random keys
    return isinstance(array, jax.core.Tracer) and not (array.weak_type or jax.dtypes.issubdtype(array.dtype, extended))


def compile_together(leaves: Iterable[Leaf], key: jax.Array) -> None:
    """Compiles what `make` of these leaves needs, several at a time; `make` then finds it in JAX's caches."""
    found = [leaf.function(key) for leaf in leaves]
    lowered = [function.lower(key) for function, new in found if new]  # type: ignore[attr-defined]
    x64 = jnp.result_type(float) == jnp.float64  # a setting of this thread

    def compile_one(one: Any) -> None:
        with jax.enable_x64(x64):
            one.compile()

    if len(lowered) > 1:
        with ThreadPoolExecutor(min(len(lowered), _workers())) as pool:
            list(pool.map(compile_one, lowered))


def compiled(function: Callable[..., T], *args: Any) -> Callable[..., T]:
    """The function as one program for arguments like these, which soon compiles, for it runs once.

    A function that only fills arrays, such as the `init` of a normalization, is not compiled at all. Inside a function
    that is traced, it is a part of that one's program, and is returned as it is.
    """
    if _traced(*jax.tree.leaves(args)):
        return function
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    structure = jax.tree.structure(shapes)

    def run(*args: Any) -> T:
        return jax.tree.unflatten(structure, quick_bits(program, jax.tree.leaves(args)))

    once = jax.jit(run, compiler_options=compile_options())
    values = jaxpr.constants(program)
    if not values:
        return once

    def fill(*args: Any) -> T:
        # Arrays of its own for each call, since a training step overwrites them.
        new = jax.device_put(values, may_alias=False)
        beside = [a.devices() for a in jax.tree.leaves(args) if isinstance(a, jax.Array)]
        if any(devices != new[0].devices() for devices in beside):
            return once(*args)  # XLA says where they belong
        return jax.tree.unflatten(structure, new)

    return fill


def _traced(*arrays: Any) -> bool:
    """Whether a function of these is a part of one that is traced: all that is computed inside is."""
    tracer = jax.core.Tracer
    return any(isinstance(a, tracer) for a in arrays) or isinstance(jax.device_put(np.float32(0)), tracer)


def compile_options() -> dict[str, Any] | None:
    """XLA's options for a program that runs once.

    Compiling what draws random numbers is slow on a CPU: 0.2 to 0.6 s per shape. LLVM's optimization level 1, and one
    piece instead of 32, take a third of that time; the older code for fused operations, which jaxlib 0.11 no longer
    has, takes half of the rest. Results are the same to the last bit.
    """
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_backend_optimization_level": 1, "xla_cpu_parallel_codegen_split_count": 1}
    return options | ({"xla_cpu_use_fusion_emitters": False} if jaxlib.__version__.startswith("0.10.") else {})


def _workers() -> int:
    """As many as XLA uses: `NPROC`, or the processors."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


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
