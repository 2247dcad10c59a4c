"""Kernels that are normalized before they are used. The variables stay what they are.

Both act on leaves with a `kernel`, and go together with `freeze`, `mixed_precision` and the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn import ops
from jaxcnn.core import Call, Layer, LayerError, PyTree, Variables, fold_in, map_at, map_leaves
from jaxcnn.transforms.freeze import split

CONVOLUTIONS = ("conv",)
WITH_KERNELS = ("conv", "conv_transpose", "dense")


def weight_standardization(model: Layer, *prefixes: str, eps: float = 1e-5) -> Layer:
    """The model whose convolutions compute with standardized kernels.

    kernel' = (kernel - mean) / sqrt(var + eps), the mean and variance of each filter over its own F F C / groups
    weights. The gradient goes through them. With `group_norm` and small batches it is what batch normalization is to
    the activations.

    Args:
      model: a network; its convolutions (`conv`) change, all other layers stay.
      prefixes: paths of layers, as in `freeze`: those convolutions only.
      eps: added to the variance.

    Variables: those of the model.

    Raises:
      LayerError: for what is no network, or one without such convolutions; for an eps below 0.
      UserError: for a path that the model does not have.

    Source: Qiao, Wang, Liu, Shen and Yuille, Micro-batch training with batch-channel normalization and weight
      standardization (2019), equations 5 to 7.
    """
    if not eps >= 0:
        raise LayerError(f"eps={eps!r}: expected what is added to the variance, 0 or more")

    def standardized(kernel: jax.Array) -> jax.Array:
        values = ops.wide(kernel)
        axes = tuple(range(kernel.ndim - 1))
        mean = values.mean(axes, keepdims=True)
        var = jnp.square(values - mean).mean(axes, keepdims=True)
        return ops.rounded((values - mean) * lax.rsqrt(var + eps), kernel.dtype)

    def change(leaf: Layer) -> Layer:
        def apply(
            params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
        ) -> tuple[PyTree, Variables]:
            given, kept = _with_kernel(params, state, standardized)
            output, new = leaf.apply(*given, *inputs, train=train, key=key)
            return output, _kept(new, kept)

        return Layer(leaf.init, apply, Call(weight_standardization, (leaf,), options), leaf.kind, base=leaf)

    options: dict[str, Any] = {} if eps == 1e-5 else {"eps": eps}
    return _changed(model, prefixes, CONVOLUTIONS, change, weight_standardization, options)


def spectral_norm(model: Layer, *prefixes: str, iterations: int = 1, eps: float = 1e-12) -> Layer:
    """The model whose layers are divided by their spectral norm: none enlarges a difference of its inputs.

    kernel' = kernel / sigma, sigma = v^T W u the largest singular value of W, the kernel as a matrix (F F C, K). It is
    followed by the power method: in each training pass v = W u / |W u| and u = W^T v / |W^T v|, from where the pass
    before left them. The gradient takes u and v as they are.

    Args:
      model: a network; its layers with a kernel (`conv`, `conv_transpose`, `dense`) change.
      prefixes: paths of layers, as in `freeze`: those layers only.
      iterations: of the power method in a training pass. Evaluation makes none.
      eps: the least that |W u| and |W^T v| are divided by.

    Variables: those of the model, and for each such layer, in state, `u` `(K,)` and `v` `(F F C,)` in float32, which
      begin at random and are brought near by 15 iterations.

    Raises:
      LayerError: for what is no network, or one without such layers; for less than one iteration.
      UserError: for a path that the model does not have.

    Source: Miyato, Kataoka, Koyama and Yoshida, Spectral normalization for generative adversarial networks (2018),
      section 2.1 and algorithm 1. Of a convolution it is the norm of the kernel as a matrix, not of the whole map.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise LayerError(f"iterations={iterations!r}: expected an integer of at least 1")

    def followed(kernel: jax.Array, u: jax.Array, v: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        matrix = lax.stop_gradient(ops.wide(kernel).reshape(-1, kernel.shape[-1]))
        for _ in range(count):
            v = _unit(matrix @ u, eps)
            u = _unit(matrix.T @ v, eps)
        return u.astype(jnp.float32), v.astype(jnp.float32)

    def change(leaf: Layer) -> Layer:
        def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
            params, state = leaf.init(key, *inputs)
            kernel = (params or split(state)[0])["kernel"]
            u = _unit(jax.random.normal(fold_in(key, "u"), kernel.shape[-1:]), eps)
            u, v = followed(kernel, u, jnp.zeros(kernel.size // kernel.shape[-1]), 15)
            return params, {**state, "u": u, "v": v}

        def apply(
            params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
        ) -> tuple[PyTree, Variables]:
            u, v = state["u"], state["v"]
            frozen, _ = split(state)
            if train and not frozen:
                u, v = followed(params["kernel"], u, v, iterations)

            def divided(kernel: jax.Array) -> jax.Array:
                values = ops.wide(kernel)
                sigma = v @ values.reshape(-1, kernel.shape[-1]) @ u
                return ops.rounded(values / sigma, kernel.dtype)

            own = {name: value for name, value in state.items() if name not in ("u", "v")}
            given, kept = _with_kernel(params, own, divided)
            output, new = leaf.apply(*given, *inputs, train=train, key=key)
            return output, {**_kept(new, kept), "u": u, "v": v}

        return Layer(init, apply, Call(spectral_norm, (leaf,), options), leaf.kind, base=leaf)

    options: dict[str, Any] = {} if iterations == 1 else {"iterations": iterations}
    options |= {} if eps == 1e-12 else {"eps": eps}
    return _changed(model, prefixes, WITH_KERNELS, change, spectral_norm, options)


def _unit(x: jax.Array, eps: float) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), eps)


def _with_kernel(
    params: Variables, state: Variables, change: Callable[[jax.Array], jax.Array]
) -> tuple[tuple[Variables, Variables], Variables]:
    """`(params, state)` with the kernel changed, and the frozen parameters as they were."""
    frozen, own = split(state)
    if frozen:
        return (params, {**own, "frozen": {**frozen, "kernel": change(frozen["kernel"])}}), frozen
    return ({**params, "kernel": change(params["kernel"])}, state), {}


def _kept(state: Variables, frozen: Variables) -> Variables:
    return {**state, "frozen": frozen} if frozen else state


def _changed(
    model: Layer,
    prefixes: tuple[str, ...],
    kinds: tuple[str, ...],
    change: Callable[[Layer], Layer],
    maker: Callable[..., Layer],
    options: dict[str, Any],
) -> Layer:
    """The model with its leaves of these kinds changed, at these paths or everywhere."""
    if not isinstance(model, Layer):
        raise LayerError(f"{maker.__name__} takes a Layer first, got {model!r}")
    if prefixes:
        made = map_at(model, prefixes, lambda inner: _changed(inner, (), kinds, change, maker, options), maker)
        return made.replace(call=Call(maker, (model, *prefixes), options))
    made = map_leaves(
        model,
        lambda path, leaf: change(leaf) if leaf.kind in kinds else leaf,
        call=lambda layer: Call(maker, (layer,), options),
    )
    if made is model:
        raise LayerError(f"{maker.__name__}: {model.kind} has no layer of the kind {' or '.join(kinds)}")
    return made
