"""Mixed precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core import Call, Layer, PyTree, Variables, as_layer, map_leaves, network, sublayer
from jaxcnn.errors import UserError
from jaxcnn.layers.conv import conv
from jaxcnn.transforms.freeze import split

NORMALIZATIONS = ("batch_norm", "layer_norm", "group_norm")
"""Kinds of layers that keep their variables in float32."""


def mixed_precision(model: Layer, dtype: Any = jnp.bfloat16, *, keep: Sequence[str] = ()) -> Layer:
    """The model computed in half precision, with its parameters in float32.

    In each pass, a layer with parameters converts them and its floating-point inputs to `dtype`, so it computes in
    `dtype`; sums inside are float32. Gradients and the optimizer's state are float32. Normalization layers keep their
    scale, bias and running statistics in float32, and compute batch statistics in float32. A layer without parameters
    computes in the dtype of its inputs, so box coordinates stay float32. The outputs, and so the loss, are float32.

    Args:
      dtype: `jnp.bfloat16`, which has the range of float32, or `jnp.float16`, whose gradients may underflow;
        `Objective(loss_scale=True)` and `train.create_state(..., loss_scale=True)` prevent this by scaling the loss.
      keep: paths of layers that compute in float32, as in `freeze`: your own normalization layer, for instance.

    Raises:
      UserError: for another dtype, or a path that the model does not have.

    Source: Micikevicius et al., Mixed precision training (2018).
    """
    model, dtype = as_layer(model), jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"mixed_precision(dtype={dtype}): expected bfloat16 or float16")

    for path in keep:
        sublayer(model, path)
    options: dict[str, Any] = {"keep": tuple(keep)} if keep else {}
    if model.inner is not None and model.wrap is not None:
        made = model.wrap(mixed_precision(model.inner, dtype, **options))
    else:
        made = _float32_outputs(half_precision(model, dtype, **options), dtype)
    return made.replace(call=Call(mixed_precision, (model, dtype.name), options), kind="mixed_precision", base=model)


def half_precision(model: Layer, dtype: Any = jnp.bfloat16, *, keep: tuple[str, ...] = ()) -> Layer:
    """`mixed_precision` whose outputs have `dtype`."""
    dtype = jnp.dtype(dtype)
    options = {"keep": keep} if keep else {}

    def half(path: str, leaf: Layer) -> Layer:
        if leaf.is_function:
            return leaf
        if any(f"{path}/".startswith(f"{kept}/") for kept in keep):
            return _computed_in(leaf, jnp.float32, Call(half_precision, (leaf, "float32")))
        if leaf.kind in NORMALIZATIONS:
            return leaf
        return _computed_in(leaf, dtype, Call(half_precision, (leaf, dtype.name)))

    return map_leaves(model, half, call=lambda layer: Call(half_precision, (layer, dtype.name), options))


def _rounded(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _computed_in(leaf: Layer, dtype: Any, call: Call) -> Layer:
    """The leaf with its parameters and inputs converted to `dtype`, if it has parameters.

    A convolution rounds its own kernel, which takes less time on a CPU than a copy of it.
    """
    made = leaf.call
    rounding = conv(*made.args, **{"dtype": dtype, **made.kwargs}) if made is not None and made.maker is conv else None

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        frozen, own = split(state)
        if not params and not frozen:
            return leaf.apply(params, state, *inputs, train=train, key=key)
        given = {**own, "frozen": _rounded(frozen, dtype)} if frozen else state
        if rounding is not None and not frozen:
            return rounding.apply(params, state, *_rounded(inputs, dtype), train=train, key=key)
        outputs, new = leaf.apply(_rounded(params, dtype), given, *_rounded(inputs, dtype), train=train, key=key)
        return outputs, {**new, "frozen": frozen} if frozen else new

    return Layer(leaf.init, apply, call, leaf.kind, base=leaf)


def _float32_outputs(model: Layer, dtype: Any) -> Layer:
    """The model with its half-precision outputs converted to float32."""

    def float32(outputs: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == dtype else x, outputs)

    if model.forward is not None:
        forward = model.forward
        return network(lambda net, *inputs: float32(forward(net, *inputs)), **model.sublayers)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        outputs, state = model.apply(params, state, *inputs, train=train, key=key)
        return float32(outputs), state

    return Layer(model.init, apply, base=model)
