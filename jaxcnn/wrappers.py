"""Layers of layers: what takes a network and gives the same one, used in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.core import Layer, LayerError, PyTree, Source, Variables, _Function, as_layer, layer, network
from jaxcnn.errors import UserError, unknown
from jaxcnn.layers.common import AxisName, spread_over

Path = tuple[str, ...]


def freeze(model: Layer, *prefixes: str) -> Layer:
    """The model with some of its layers as they are: their parameters do not learn, their statistics stay.

    A frozen layer keeps its parameters in `state`, as `{"frozen": {...}}` beside its own, not in `params`: no gradient
    is computed for them, the optimizer has no memory for them, and no weight decay or penalty reaches them. It is run
    in evaluation mode also in training: batch normalization uses its running statistics, dropout drops nothing.

    Args:
      model: a network, its layers named.
      prefixes: paths of layers, `"conv1"` or `"layer4/block1"`; a path stands for all that is inside. None: the whole
        model.

    Returns:
      A Layer whose paths and first weights are those of `model`. `cnn.weights.load` fills it as it does any other, and
      `cnn.weights.adapt` brings variables from `model` to it and back.

    Raises:
      UserError: for a path that the model does not have, with the nearest ones that it has.

    Example:
      >>> model = cnn.freeze(cnn.models.resnet18(classes=3), "conv1", "bn1", "layer1", "layer2")
      >>> params, state = cnn.weights.load(model, "resnet18.pth", fresh="fc")
    """
    _check_paths(model, prefixes, "freeze")
    return _inside(model, prefixes, _evaluated, "freeze") if prefixes else _evaluated(model)


def _check_paths(model: Layer, prefixes: tuple[str, ...], verb: str) -> None:
    if not isinstance(model, Layer):
        raise LayerError(f"{verb} takes a Layer first, got {model!r}")
    for prefix in prefixes:
        if not isinstance(prefix, str):
            raise LayerError(f"{verb} takes paths of layers after the model, got {prefix!r}")
        sublayer(model, prefix)


@dataclass(frozen=True)
class _Frozen(Source):
    """How a frozen leaf was made: as `leaf` was, so that those alike share their compiled `init`."""

    leaf: Layer | None = None

    def __str__(self) -> str:
        return f"freeze({self.leaf!r})"


@dataclass(frozen=True)
class _Maker:
    """`freeze` of what another function makes; equal where that function is."""

    make: Callable[..., Layer]

    def __call__(self, *args: Any, **kwargs: Any) -> Layer:
        return freeze(self.make(*args, **kwargs))


def _inside(model: Layer, prefixes: tuple[str, ...], wrap: Callable[[Layer], Layer], verb: str) -> Layer:
    """The network with the sublayers at these paths wrapped."""
    if model._forward is None:
        raise LayerError(f"{model!r} is in one piece: it can be wrapped by {verb} as a whole only")
    sublayers = {}
    for name, inner in model.sublayers.items():
        below = tuple(p.removeprefix(f"{name}/") for p in prefixes if p.startswith(f"{name}/"))
        sublayers[name] = wrap(inner) if name in prefixes else _inside(inner, below, wrap, verb) if below else inner
    made = network(model._forward, **sublayers)
    return Layer(made.init, made.apply, Source(verb, (model, *prefixes)), made.sublayers, made._forward)


def _evaluated(model: Layer) -> Layer:
    """The model frozen to the last leaf, and always in evaluation mode."""
    if model._forward is None:
        return _leaf(model)
    made = network(model._forward, **{name: _evaluated(inner) for name, inner in model.sublayers.items()})

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        return made.apply(params, state, *inputs)

    return Layer(made.init, apply, Source("freeze", (model,)), made.sublayers, model._forward)


def _leaf(leaf: Layer) -> Layer:
    source = leaf.source
    if isinstance(source, (_Frozen, _Function)):
        return leaf

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        params, state = leaf.init(key, *inputs)
        return {}, _moved(params, state)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        if params:
            raise LayerError(
                f"the layer is frozen, and its {', '.join(params)} should be in `state`: "
                "cnn.weights.adapt(model, params, state) moves them"
            )
        kept, own = split(state)
        return leaf.apply(kept, own, *inputs)[0], state

    if source is None:
        return Layer(init, apply, _Frozen("", leaf=leaf))
    maker = _Maker(source.maker) if source.maker else None
    return Layer(init, apply, _Frozen(source.name, source.args, source.kwargs, maker, leaf))


# --- the variables of frozen layers ------------------------------------------------------------------------------


def _moved(params: Variables, state: Variables) -> Variables:
    return {"frozen": params, **state} if params else state


def split(state: Variables) -> tuple[Variables, Variables]:
    """The parameters in the state of a frozen leaf, and the rest of it."""
    return state.get("frozen", {}), {name: value for name, value in state.items() if name != "frozen"}


def thawed(leaf: Layer) -> Layer:
    """The leaf as it was before it was frozen."""
    return leaf.source.leaf if isinstance(leaf.source, _Frozen) and leaf.source.leaf is not None else leaf


def adapt(model: Layer, params: Variables, state: Variables) -> tuple[Variables, Variables]:
    """The same variables where this model keeps them: those of frozen layers in `state`, all others in `params`.

    From a network to the frozen form of it, back, and from one choice of frozen layers to another. Nothing is copied.

    Args:
      model: a Layer, by `freeze` or not.
      params, state: variables of a model with the same layers, whichever of them were frozen.

    Raises:
      UserError: for variables of layers that the model does not have.

    Example:
      >>> frozen = cnn.freeze(model, "layer1", "layer2")
      >>> params, state = cnn.weights.adapt(frozen, params, state)    # and after the training
      >>> params, state = cnn.weights.adapt(model, params, state)
    """
    new_params: Variables = {}
    new_state: Variables = {}
    known = []
    for path, leaf in leaves(model):
        kept, own = split(get(state, path) or {})
        kept = kept or get(params, path) or {}
        if thawed(leaf) is not leaf:
            kept, own = {}, _moved(kept, own)
        put(new_params, path, kept)
        put(new_state, path, own)
        known.append(path)
    for tree in (params, state):
        _only(tree, known, ())
    return new_params, new_state


def _only(tree: Any, known: list[Path], at: Path) -> None:
    """Raises for a part of the tree that belongs to none of the layers."""
    for name in tree if at not in known else ():
        path = (*at, name)
        if not any(k[: len(path)] == path for k in known):
            raise UserError(f"there are variables for {'/'.join(path)}, which the model does not have")
        _only(tree[name], known, path)


def leaves(model: Layer, at: Path = ()) -> Iterator[tuple[Path, Layer]]:
    """The layers that are in one piece, with their paths, in the order of the code."""
    if model._forward is None:
        yield at, model
    else:
        for name, inner in model.sublayers.items():
            yield from leaves(inner, (*at, name))


def sublayer(model: Layer, path: str) -> Layer:
    """The layer at a path, `"layer1/block2"`.

    Raises:
      UserError: when there is none, with the nearest that there are.
    """
    done: list[str] = []
    for name in path.split("/"):
        if done and not model.sublayers:
            raise UserError(f"unknown layer {path!r}: {'/'.join(done)} is in one piece")
        if name not in model.sublayers:
            raise unknown("layer", path, ["/".join([*done, n]) for n in model.sublayers])
        model = model.sublayers[name]
        done.append(name)
    return model


def get(tree: Any, path: Path) -> Any:
    """What is at a path of nested dicts, or None."""
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return None
        tree = tree[name]
    return tree


def put(tree: Variables, path: Path, value: Any) -> None:
    """Puts a value at a path of nested dicts; an empty dict leaves no entry."""
    if isinstance(value, dict) and not value:
        return
    if not path:
        tree.update(value)
        return
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


# --- several networks at once ------------------------------------------------------------------------------------


@layer
def ensemble(model: Layer, size: int = 5, vote: Literal["soft", "hard"] = "soft") -> Layer:
    """Several networks of one kind that start at different weights, learn the same batches, and vote.

    Variables have the names of the model's, with a first axis of `size`; all members are computed at once (`jax.vmap`).
    Member k is the network that `model.init(jax.random.split(key, size)[k], x)` makes, and, with an optimizer that
    works number by number (SGD, momentum, Adam), learns as it would alone.

    A training pass returns a tuple of the members' logits, each of which has a loss of its own:
    `fit(ensemble(model), loss=losses.every_output(losses.softmax_cross_entropy))`. An evaluation returns one output
    `(N, ..., classes)`, the logarithm of probabilities that the vote gives.

    Args:
      model: a Layer whose output is logits `(N, ..., classes)`.
      size: how many.
      vote: `"soft"`, the mean of the members' probabilities; `"hard"`, a vote each, and where votes are equal the mean
        probability decides: (votes + mean probability) / (size + 1).

    Source: Hansen and Salamon, Neural network ensembles (1990).
    """
    if size < 1:
        raise UserError(f"ensemble(size={size}): expected at least 1 network")
    if vote not in ("soft", "hard"):
        raise UserError(f"ensemble(vote={vote!r}): expected 'soft' or 'hard'")
    member = as_layer(model)

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        made = [member.init(own, *inputs) for own in jax.random.split(key, size)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        def one(params: Variables, state: Variables, key: Any) -> tuple[PyTree, Variables]:
            return member.apply(params, state, *inputs, train=train, key=key)

        keys = None if key is None else jax.random.split(key, size)
        outputs, state = jax.vmap(one, axis_size=size)(params, state, keys)
        if train:
            return tuple(outputs[k] for k in range(size)), state
        return _vote(outputs, vote), state

    return Layer(init, apply)


def _vote(logits: jax.Array, vote: str) -> jax.Array:
    """`(K, N, ..., classes)` -> the logarithm of probabilities `(N, ..., classes)`."""
    size = len(logits)
    logs = jax.nn.log_softmax(logits)
    mean = jax.nn.logsumexp(logs, axis=0) - jnp.log(size)
    if vote == "soft":
        return mean
    votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype).sum(0)
    return jnp.log((votes + jnp.exp(mean)) / (size + 1))


# --- how it is computed ------------------------------------------------------------------------------------------


def mixed_precision(model: Layer, dtype: Any = jnp.bfloat16) -> Layer:
    """The model computed in half precision, its parameters in float32.

    Inputs, and the kernels and biases of layers that have a kernel, are rounded to `dtype` in each pass, and with them
    all that is computed of them; gradients arrive in float32, and so the optimizer works in float32. Normalization
    keeps its scale, bias and running statistics in float32, and computes its batch statistics in float32. Outputs are
    float32, so that the loss is, too.

    Args:
      dtype: `jnp.bfloat16`, which has float32's range, or `jnp.float16`, whose gradients may underflow:
        `train.create_state(..., loss_scale=True)` scales the loss.

    Source: Micikevicius et al., Mixed precision training (2018).
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"mixed_precision(dtype={dtype}): expected bfloat16 or float16")

    def rounded(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def of_layers(tree: Variables) -> Variables:
        if "scale" in tree and not isinstance(tree["scale"], dict):
            return tree  # a normalization's
        return {name: (of_layers if isinstance(inner, dict) else rounded)(inner) for name, inner in tree.items()}

    def of_frozen(tree: Variables) -> Variables:
        return {
            name: inner if not isinstance(inner, dict) else (of_layers if name == "frozen" else of_frozen)(inner)
            for name, inner in tree.items()
        }

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        given = of_frozen(state)
        outputs, new = model.apply(of_layers(params), given, *rounded(inputs), train=train, key=key)
        outputs = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == dtype else x, outputs)
        # What was rounded for this pass is returned as it was.
        return outputs, jax.tree.map(lambda x, g, s: x if g.dtype == s.dtype else s, new, given, state)

    return Layer(model.init, apply, Source("mixed_precision", (model, dtype.name)), model.sublayers)


def remat(model: Layer, *prefixes: str, policy: Callable[..., bool] | None = None) -> Layer:
    """The model, of which the gradient computes some layers a second time instead of keeping what they computed.

    Memory for the time of one more forward pass: of a layer that is wrapped, only the input is kept. Wrap the blocks of
    a deep network, not the network as a whole, which keeps nothing less at the moment of its gradient.

    Args:
      prefixes: paths of layers, as in `freeze`; none: the whole model in one.
      policy: which values are kept all the same, one of `jax.checkpoint_policies`.

    Source: Chen et al., Training deep nets with sublinear memory cost (2016); `jax.checkpoint`.
    """
    _check_paths(model, prefixes, "remat")

    def again(inner: Layer) -> Layer:
        def apply(
            params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
        ) -> tuple[PyTree, Variables]:
            def run(params: Variables, state: Variables, key: Any, *inputs: PyTree) -> tuple[PyTree, Variables]:
                return inner.apply(params, state, *inputs, train=train, key=key)

            return jax.checkpoint(run, policy=policy)(params, state, key, *inputs)

        return Layer(inner.init, apply, Source("remat", (inner,)), inner.sublayers)

    return _inside(model, prefixes, again, "remat") if prefixes else again(model)


def synchronized(model: Layer, axis_name: AxisName) -> Layer:
    """The model where each device has a part of the batch, under `pmap`, `shard_map` or `vmap` with a named axis.

    Batch normalization takes its statistics over all parts, and dropout drops what it would drop of the whole batch: so
    the parts together compute what one device computes. `train.make_step(..., axis_name=...)` does this by itself;
    under `jit` with a sharded batch nothing is needed.
    """

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        with spread_over(axis_name):
            return model.apply(params, state, *inputs, train=train, key=key)

    return Layer(model.init, apply, Source("synchronized", (model, axis_name)), model.sublayers)
