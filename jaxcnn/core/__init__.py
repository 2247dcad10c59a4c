"""A layer is a pair of pure functions; everything else is composition.

`init(key, *inputs) -> (params, state)` makes the variables of a layer from the shapes of its inputs, and
`apply(params, state, *inputs, train=False, key=None) -> (output, state)` computes with them. `params` is what
gradients are taken of; `state` is what the forward pass itself updates (running statistics). Both are nested dicts
named as the code names the layers, so `jax.grad`, `jax.vmap`, `jax.jit` and Optax work on them as they are.

- `layer`: `Layer`, the decorator `layer`, plain functions as layers.
- `network`: a layer of one function over named sublayers.
- `compose`: `serial`, `parallel`, `residual`, which are short uses of it.
- `tree`: the layers of a network by path, and `map_leaves`.
- `watch`: what sees every call of a layer.
- `cache`: compiled `init` functions.
"""

from jaxcnn.core.compose import concat, identity, parallel, residual, serial
from jaxcnn.core.layer import Call, Layer, LayerError, PyTree, Variables, as_layer, layer
from jaxcnn.core.network import Net, fold_in, network, structs_of
from jaxcnn.core.tree import Path, get, leaves, map_at, map_leaves, put, sublayer, unwrap
from jaxcnn.core.watch import Record, Watcher, numbered, watch

COMPOSITIONS = (network, serial, parallel, residual)
"""The functions that make a network of layers that they are given."""

__all__ = [
    "COMPOSITIONS",
    "Call",
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
    "fold_in",
    "get",
    "identity",
    "layer",
    "leaves",
    "map_at",
    "map_leaves",
    "network",
    "numbered",
    "parallel",
    "put",
    "residual",
    "serial",
    "structs_of",
    "sublayer",
    "unwrap",
    "watch",
]
