"""Frozen layers."""

from __future__ import annotations

from typing import Any

import jax

from jaxcnn.core import Call, Layer, LayerError, Path, PyTree, Variables, get, leaves, map_at, network, put
from jaxcnn.errors import UserError
from jaxcnn.transforms.wrapped import wrapped


def freeze(model: Layer, *prefixes: str) -> Layer:
    """The model with some layers frozen: training does not change their parameters and running statistics.

    A frozen layer keeps its parameters in `state`, as `{"frozen": {...}}`, not in `params`. So no gradient is computed
    for them, the optimizer has no memory for them, and weight decay and penalties leave them out. In a training pass,
    too, a frozen layer runs in evaluation mode: batch normalization uses its running statistics, and dropout drops
    nothing.

    Args:
      model: a network with named layers.
      prefixes: paths of layers, `"conv1"` or `"layer4/block1"`; a path includes all layers inside. Without paths, the
        whole model is frozen.

    Returns:
      A Layer with the paths and initial weights of `model`. `cnn.weights.load` works as usual, and `cnn.weights.adapt`
      converts variables of `model` for it, and back.

    Raises:
      UserError: for a path that the model does not have; the message suggests the nearest ones.

    Example:
      >>> model = cnn.freeze(cnn.models.resnet18(classes=3), "conv1", "bn1", "layer1", "layer2")
      >>> params, state = cnn.weights.load(model, "resnet18.pth", fresh="fc")
    """
    if prefixes:
        return map_at(model, prefixes, freeze, freeze)
    if not isinstance(model, Layer):
        raise LayerError(f"freeze takes a Layer first, got {model!r}")
    if model.inner is not None and model.wrap is not None:
        frozen = model.wrap(freeze(model.inner))
    elif model.forward is not None:
        frozen = network(model.forward, **{name: freeze(inner) for name, inner in model.sublayers.items()})
    else:
        return _leaf(model)
    return _evaluated(frozen).replace(call=Call(freeze, (model,)), kind="freeze", base=model)


def _evaluated(model: Layer) -> Layer:
    """The model, which runs in evaluation mode also in a training pass."""

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        return model.apply(params, state, *inputs)

    if model.wrap is _evaluated:
        return model
    return wrapped(model, _evaluated, apply, Call(_evaluated, (model,)))


def _leaf(leaf: Layer) -> Layer:
    if is_frozen(leaf) or leaf.is_function:
        return leaf

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        params, state = leaf.init(key, *inputs)
        return {}, _moved(params, state)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        if params:
            raise LayerError(
                f"the layer is frozen, so its {', '.join(params)} should be in `state`: "
                "cnn.weights.adapt(model, params, state) moves them"
            )
        kept, own = split(state)
        return leaf.apply(kept, own, *inputs)[0], state

    return Layer(init, apply, Call(freeze, (leaf,)), leaf.kind, base=leaf)


def is_frozen(leaf: Layer) -> bool:
    """Whether a leaf keeps its parameters in its state."""
    layer: Layer | None = leaf
    while layer is not None:
        if layer.call is not None and layer.call.maker is freeze:
            return True
        layer = layer.base
    return False


# --- the variables of frozen layers ------------------------------------------------------------------------------


def _moved(params: Variables, state: Variables) -> Variables:
    return {"frozen": params, **state} if params else state


def split(state: Variables) -> tuple[Variables, Variables]:
    """The parameters in the state of a frozen leaf, and the rest of the state."""
    return state.get("frozen", {}), {name: value for name, value in state.items() if name != "frozen"}


def adapt(model: Layer, params: Variables, state: Variables) -> tuple[Variables, Variables]:
    """Moves variables to where this model keeps them: parameters of frozen layers in `state`, others in `params`.

    It converts the variables of a network for a network with other layers frozen, or none. Arrays are not copied.

    Args:
      model: a Layer, frozen or not.
      params, state: the variables of a model with the same layers.

    Returns:
      `(params, state)` for `model`.

    Raises:
      UserError: for variables of layers that the model does not have.

    Example:
      >>> frozen = cnn.freeze(model, "layer1", "layer2")
      >>> params, state = cnn.weights.adapt(frozen, params, state)    # and after training:
      >>> params, state = cnn.weights.adapt(model, params, state)
    """
    new_params: Variables = {}
    new_state: Variables = {}
    known = []
    for path, leaf in leaves(model):
        kept, own = split(get(state, path) or {})
        kept = kept or get(params, path) or {}
        if is_frozen(leaf):
            kept, own = {}, _moved(kept, own)
        put(new_params, path, kept)
        put(new_state, path, own)
        known.append(path)
    for tree in (params, state):
        _only(tree, known, ())
    return new_params, new_state


def _only(tree: Any, known: list[Path], at: Path) -> None:
    """Checks that each part of the tree belongs to a known layer."""
    for name in tree if at not in known else ():
        path = (*at, name)
        if not any(k[: len(path)] == path for k in known):
            raise UserError(f"there are variables for {'/'.join(path)}, which the model does not have")
        _only(tree[name], known, path)
