"""A layer is a pair of pure functions; everything else is composition.

`init(key, *inputs) -> (params, state)` makes the variables of a layer from the shapes of its inputs, and
`apply(params, state, *inputs, train=False, key=None) -> (output, state)` computes the output. `params` are the
variables that training optimizes; `state` holds the variables that the forward pass updates (running statistics). Both
are nested dicts whose keys are the names of the layers in the code, so `jax.grad`, `jax.vmap`, `jax.jit` and Optax work
on them directly.

- `layer`: `Layer`, the decorator `layer`, plain functions as layers.
- `network`: a layer made of a function and named sublayers.
- `compose`: `serial`, `parallel` and `residual`, the most common networks.
- `tree`: the layers of a network by path, and `map_leaves`.
- `watch`: observing every call of a layer.
- `cache`: compiled `init` functions.
"""

from jaxcnn.core.compose import concat, identity, parallel, residual, serial
from jaxcnn.core.layer import Call, EvaluationOnly, Layer, LayerError, PyTree, Variables, as_layer, layer
from jaxcnn.core.network import Net, constant, fold_in, network, shapes_of, structs_of
from jaxcnn.core.tree import leaves, lies_in, map_at, map_leaves, sublayer, unwrap
from jaxcnn.core.variables import Path, get, put
from jaxcnn.core.watch import Record, Watcher, numbered, watch

COMPOSITIONS = (network, serial, parallel, residual)
"""The functions that make a network of given layers."""

__all__ = [
    "COMPOSITIONS",
    "Call",
    "EvaluationOnly",
    "Layer",
    "LayerError",
    "Net",
    "Path",
    "PyTree",
    "Record",
    "Variables",
    "Watcher",
    "as_layer",
    "concat",
    "constant",
    "fold_in",
    "get",
    "identity",
    "layer",
    "leaves",
    "lies_in",
    "map_at",
    "map_leaves",
    "network",
    "numbered",
    "parallel",
    "put",
    "residual",
    "serial",
    "shapes_of",
    "structs_of",
    "sublayer",
    "unwrap",
    "watch",
]
