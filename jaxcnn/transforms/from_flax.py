"""A module of Flax, linen or NNX, as a Layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core import Layer, LayerError, Variables, layer

_TRAIN, _NOT_TRAIN = ("train", "training", "is_training"), ("deterministic", "use_running_average", "eval")


@layer
def from_flax(module: Any, method: Callable[..., Any] | None = None) -> Layer:
    """A Layer that computes what a module of Flax computes, for `fit`, `network` and the transformations.

    >>> model = cnn.from_flax(LinenNet(classes=10))
    >>> model = cnn.from_flax(lambda rngs: NNXNet(10, rngs=rngs))
    >>> cnn.train.fit(model, data)

    Variables have Flax's names. Of linen, params is the collection `params`, and state holds the other collections by
    name, such as `batch_stats`. Of NNX, params are the `nnx.Param`s, state is every other variable such as
    `nnx.BatchStat`; the positions in a list are names, `"0"`, `"1"`. The random states of NNX are not kept: as with
    linen, `key` gives the random numbers of a call.

    Args:
      module: a linen module; or a function `nnx.Rngs -> nnx.Module`, or a class of NNX with the argument `rngs` alone.
      method: `(module, *inputs, train) -> output`, how the module is called. When None, a linen module is called with
        `train=`, `training=` or `is_training=train`, or `deterministic=`, `use_running_average=` or
        `eval=not train`, whichever its `__call__` takes; an NNX module is called with the inputs after `train()` or
        `eval()`.

    Variables: as described; names and shapes are the module's.

    Returns:
      A leaf: summaries and graphs do not show what is inside.

    Raises:
      LayerError: for a class of linen, an instance of NNX, or anything else; and without a key in training, for an NNX
        module that draws random numbers.
    """
    from flax import linen, nnx

    if isinstance(module, linen.Module):
        return _linen(module, method)
    if isinstance(module, nnx.Module):
        name = type(module).__name__
        raise LayerError(
            f"from_flax: an NNX module has its variables already, and a Layer makes them from a key: pass a function, "
            f"from_flax(lambda rngs: {name}(..., rngs=rngs))"
        )
    if inspect.isclass(module) and issubclass(module, linen.Module):
        raise LayerError(f"from_flax: {module.__name__} is a class; call it: from_flax({module.__name__}(...))")
    if inspect.isclass(module) and issubclass(module, nnx.Module):
        of_class: Any = module
        return _nnx(lambda rngs: of_class(rngs=rngs), method)
    if not callable(module):
        raise LayerError(
            f"from_flax: expected a linen module, or a function of nnx.Rngs that makes an NNX module, got "
            f"{type(module).__name__}"
        )
    return _nnx(module, method)


def _linen(module: Any, method: Callable[..., Any] | None) -> Layer:
    taken = inspect.signature(type(module).__call__).parameters

    def options(train: bool) -> dict[str, Any]:
        if method is not None:
            return {"method": functools.partial(method, train=train)}
        return {n: train for n in _TRAIN if n in taken} | {n: not train for n in _NOT_TRAIN if n in taken}

    def init(key: jax.Array, *inputs: Any) -> tuple[Variables, Variables]:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), inputs)

        def variables(key: jax.Array) -> Any:
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            return module.init({"params": key, "dropout": key}, *zeros, **options(False))

        # Compiled, so that the outputs, which nobody asks for, are not computed.
        made = dict(jax.jit(variables)(key))
        return made.pop("params", {}), made

    def apply(
        params: Variables, state: Variables, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, Variables]:
        rngs = None if key is None else {"params": key, "dropout": key}  # streams without a key take that of params
        variables = {"params": params, **state}
        if not (train and state):
            return module.apply(variables, *inputs, rngs=rngs, **options(train)), state
        output, changed = module.apply(variables, *inputs, rngs=rngs, mutable=list(state), **options(train))
        return output, {**state, **changed}

    return Layer(init, apply)


def _nnx(make: Callable[[Any], Any], method: Callable[..., Any] | None) -> Layer:
    from flax import nnx

    def split(module: Any) -> Any:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    @functools.cache
    def abstract() -> Any:
        """The structure, and the shapes of params, random states and other variables."""

        def made() -> Any:
            module = make(nnx.Rngs(0))
            if not isinstance(module, nnx.Module):
                got = type(module).__name__
                raise LayerError(f"from_flax: the function should return an NNX module, it returned {got}")
            return module

        return split(nnx.eval_shape(made))

    def init(key: jax.Array, *inputs: Any) -> tuple[Variables, Variables]:
        abstract()

        def variables(key: jax.Array) -> tuple[Variables, Variables]:
            _, params, _, rest = split(make(nnx.Rngs(key)))
            return _named(nnx.to_pure_dict(params)), _named(nnx.to_pure_dict(rest))

        return jax.jit(variables)(key)

    def apply(
        params: Variables, state: Variables, *inputs: Any, train: bool = False, key: Any = None
    ) -> tuple[Any, Variables]:
        structure, *shapes = abstract()
        if train and key is None and jax.tree.leaves(shapes[1]):
            raise LayerError("needs a random key in training: apply(params, state, x, train=True, key=key)")
        random = _random_states(nnx.to_pure_dict(shapes[1]), jax.random.key(0) if key is None else key)
        filled = []
        for shape, values in zip(shapes, (params, random, state), strict=True):
            variables = jax.tree.map(lambda x: x, shape)  # a copy: it is changed
            nnx.replace_by_pure_dict(variables, nnx.restore_int_paths(values))
            filled.append(variables)
        module = nnx.merge(structure, *filled)
        module.train() if train else module.eval()
        output = module(*inputs) if method is None else method(module, *inputs, train=train)
        return output, _named(nnx.to_pure_dict(split(module)[3])) if train else state

    return Layer(init, apply)


def _named(tree: Any) -> Any:
    """Nested dicts with text as keys."""
    return {str(name): _named(value) for name, value in tree.items()} if isinstance(tree, Mapping) else tree


def _random_states(shapes: Any, key: jax.Array) -> Any:
    """A different key, and a count of 0, for each random stream of an NNX module."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    leaves, structure = jax.tree.flatten(shapes)
    made = [
        jax.random.fold_in(key, number)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, made)
