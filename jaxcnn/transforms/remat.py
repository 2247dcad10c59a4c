"""Rematerialization: less memory for the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.core import Call, Layer, LayerError, PyTree, Variables, map_at
from jaxcnn.transforms.wrapped import wrapped


def remat(model: Layer, *prefixes: str, policy: Callable[..., bool] | None = None) -> Layer:
    """The model, whose gradient recomputes some layers instead of keeping their intermediate values.

    This saves memory and costs up to one more forward pass. Only the input of a wrapped layer is kept. Wrap the blocks
    of a deep network separately: wrapping the whole network at once saves nothing, because its gradient recomputes and
    keeps all values together.

    Args:
      prefixes: paths of layers, as in `freeze`; without paths, the whole model is wrapped at once.
      policy: which values are kept nevertheless, one of `jax.checkpoint_policies`.

    Source: Chen et al., Training deep nets with sublinear memory cost (2016); `jax.checkpoint`.
    """
    again = functools.partial(remat, policy=policy)
    if prefixes:
        return map_at(model, prefixes, again, remat)
    if not isinstance(model, Layer):
        raise LayerError(f"remat takes a Layer first, got {model!r}")

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        def run(params: Variables, state: Variables, key: Any, *inputs: PyTree) -> tuple[PyTree, Variables]:
            return model.apply(params, state, *inputs, train=train, key=key)

        return jax.checkpoint(run, policy=policy)(params, state, key, *inputs)

    return wrapped(model, again, apply, Call(remat, (model,), {"policy": policy} if policy else {}))
