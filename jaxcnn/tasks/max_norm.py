"""A max-norm constraint on the weights of each unit, as an Optax transformation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.core import lies_in
from jaxcnn.errors import UserError


def max_norm(limit: float, *layers: str) -> optax.GradientTransformation:
    """Rescales each unit's weight vector after the update if it is too long: w' = w min(1, limit / |w|).

    w holds the weights of one unit (one filter): a kernel `(..., K)` has K of them, each over all axes but the last.
    The rule applies to the updated parameters, so it comes last: `optax.chain(optax.adam(1e-3), max_norm(3.0, "fc"))`.

    Args:
      limit: the largest norm.
      layers: paths of layers whose kernels are constrained, `"fc"` or `"layer4/conv1"`; a path includes all layers
        inside it, and may be a pattern, as in `by_path`. All kernels when none is given.

    Raises:
      UserError: if the limit is not positive, the parameters have no such path, or `update` is called without
        parameters.

    Source: Hinton et al., Improving neural networks by preventing co-adaptation (2012); Kim (2014), section 3.1, with a
    limit of 3 for the softmax layer.
    """
    if not limit > 0:
        raise UserError(f"limit={limit}: the largest norm should be above 0")

    def init(params: Any) -> optax.EmptyState:
        paths = ["/".join(names) for names in map(_names, _paths(params)) if names[-1] == "kernel"]
        for layer in layers:
            if not any(lies_in(path, layer) for path in paths):
                raise UserError(f"max_norm: there is no kernel in {layer!r}; there are {', '.join(paths) or 'none'}")
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise UserError("max_norm needs the parameters: optimizer.update(gradient, state, params)")

        def one(path: Any, change: jax.Array, w: jax.Array) -> jax.Array:
            names = _names(path)
            name = "/".join(names)
            if names[-1] != "kernel" or (layers and not any(lies_in(name, layer) for layer in layers)):
                return change
            new = w + change
            norm = jnp.sqrt(jnp.sum(jnp.square(new), tuple(range(new.ndim - 1)), keepdims=True))
            return new * (limit / jnp.maximum(norm, limit)) - w

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(init, update)


def _paths(params: Any) -> list[Any]:
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _names(path: Any) -> list[str]:
    return [str(getattr(entry, "key", entry)) for entry in path]
