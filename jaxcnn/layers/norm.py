"""Batch, layer and group normalization, and AlexNet's local response normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import EvaluationOnly, Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, batch_axis, count, floating, stateless


@layer
def batch_norm(
    momentum: float = 0.9,
    eps: float = 1e-5,
    *,
    axis_name: str | Sequence[str] | None = None,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Batch normalization: y = (x - mean) / sqrt(var + eps) * scale + bias, per channel.

    In training, mean and var are those of the batch, over all axes but the last, and the running statistics are
    updated: running = momentum * running + (1 - momentum) * batch. The running variance uses the unbiased estimate,
    var * M / (M - 1), as in PyTorch. An evaluation uses the running statistics.

    Args:
      momentum: the weight of the old running statistics. PyTorch's `momentum=0.1` is 0.9 here.
      eps: added to the variance.
      axis_name: the mapped axis (`pmap`, `shard_map`, `vmap`) over which devices share statistics;
        `jaxcnn.synchronized` sets it for all batch norms of a network. It is not needed under `jit` with a sharded
        batch, where statistics are those of the whole batch.
      scale, bias: whether to multiply by a scale and add a bias.
      scale_init, bias_init: as in `jax.nn.initializers`.

    Variables: params `scale`, `bias`; state `mean`, `var` in float32; all `(C,)`.

    Returns:
      A Layer `(..., C) -> (..., C)` in the input's dtype; statistics are computed in float32 at least.

    Raises:
      LayerError: when the number of channels is not the one that the layer was initialized with, or for integer input;
        in training, for a single value per channel, which equals its mean; for a momentum outside 0 to 1, or an eps
        below 0.

    Source: Ioffe and Szegedy, Batch normalization (2015), algorithms 1 and 2.
    """

    if not 0 <= momentum <= 1:
        raise LayerError(f"momentum={momentum!r}: expected the weight of the old statistics, 0 to 1")
    _not_negative(eps)

    def init(key: jax.Array, x: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        shape = _channels(x)
        params = _affine(key, shape, scale, bias, scale_init, bias_init)
        return params, {"mean": jnp.zeros(shape, jnp.float32), "var": jnp.ones(shape, jnp.float32)}

    def apply(
        params: dict[str, jax.Array],
        state: dict[str, jax.Array],
        x: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, var = state["mean"], state["var"]
        if _channels(x) != mean.shape:
            raise LayerError(f"made for {mean.size} channels, got {x.shape[-1]} in {x.shape}")
        if not train:
            return ops.batch_normalize(x, mean, var, params.get("scale"), params.get("bias"), eps), state
        y, batch_mean, batch_var, number = ops.batch_norm(
            x, params.get("scale"), params.get("bias"), eps, axis_name or batch_axis()
        )
        if number < 2:
            raise EvaluationOnly(
                f"one value per channel in {x.shape}: in training it equals the batch's mean, and the output is "
                "constant; use a larger batch, or layer_norm"
            )
        unbiased = batch_var * (number / (number - 1))
        state = {
            "mean": (momentum * mean + (1 - momentum) * batch_mean).astype(mean.dtype),
            "var": (momentum * var + (1 - momentum) * unbiased).astype(var.dtype),
        }
        return y, state

    return Layer(init, apply)


@layer
def layer_norm(
    eps: float = 1e-5,
    *,
    axes: int | Sequence[int] = -1,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Layer normalization: each example is normalized by the mean and variance of its values over `axes`.

    Args:
      axes: the axes that are normalized together: the channels of each pixel (-1), or the whole image `(-3, -2, -1)`.
      eps, scale, bias, scale_init, bias_init: as in `batch_norm`.

    Variables: params `scale`, `bias`, whose shape is that of the normalized axes.

    Returns:
      A Layer whose output has the input's shape and dtype.

    Raises:
      LayerError: for axes that do not exist, when each group has only one value, or for an eps below 0.

    Source: Ba, Kiros and Hinton, Layer normalization (2016).
    """
    wanted = (axes,) if isinstance(axes, int) else tuple(axes)
    _not_negative(eps)

    def shape_of(x: Any) -> tuple[int, ...]:
        floating(x)
        ndim = len(x.shape)
        if any(not -ndim <= a < ndim for a in wanted):
            raise LayerError(f"axes={axes} do not all exist in {tuple(x.shape)}")
        inside = {a % ndim for a in wanted}
        return tuple(x.shape[a] if a in inside else 1 for a in range(min(inside), ndim))

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        return _affine(key, shape_of(x), scale, bias, scale_init, bias_init)

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        shape = shape_of(x)
        for variable in params.values():
            if variable.shape != shape:
                raise LayerError(f"made for {variable.shape}, got {shape} in {x.shape}")
        reduced = tuple(a % x.ndim for a in wanted)
        _several(math.prod(x.shape[a] for a in reduced), x)
        return ops.layer_norm(x, params.get("scale"), params.get("bias"), eps, reduced)

    return stateless(init, apply)


@layer
def group_norm(
    groups: int = 32,
    eps: float = 1e-5,
    *,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Group normalization: each group of channels of each example is normalized by its mean and variance.

    Args:
      groups: the number of groups; 1 normalizes the whole image, one per channel is instance normalization.
      eps, scale, bias, scale_init, bias_init: as in `batch_norm`.

    Variables: params `scale`, `bias` `(C,)`.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *spatial, C)`.

    Raises:
      LayerError: when the channels cannot be divided into the groups, or a group has one value; for an eps below 0.

    Source: Wu and He, Group normalization (2018).
    """
    groups = count(groups, "groups")
    _not_negative(eps)

    def check(x: Any) -> tuple[int, ...]:
        shape = _channels(x)
        if shape[0] % groups:
            raise LayerError(f"{shape[0]} channels cannot be divided into groups={groups}")
        return shape

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        return _affine(key, check(x), scale, bias, scale_init, bias_init)

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        (channels,) = check(x)
        for variable in params.values():
            if variable.shape != (channels,):
                raise LayerError(f"made for {variable.size} channels, got {channels} in {x.shape}")
        _several(math.prod(x.shape[1:]) // groups, x)
        grouped = ops.wide(x).reshape(*x.shape[:-1], groups, channels // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean, var, _ = ops.batch_statistics(grouped, axes)
        mean, var = jnp.expand_dims(mean, axes), jnp.expand_dims(var, axes)
        scale_, bias_ = _split(params.get("scale"), groups), _split(params.get("bias"), groups)
        y = ops.normalize(grouped, mean, var, scale_, bias_, eps)
        return ops.rounded(y, x.dtype).reshape(x.shape)

    return stateless(init, apply)


@layer
def local_response_norm(size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Layer:
    """Local response normalization across channels: y_c = x_c / (k + alpha * sum over `size` neighbours of x_d^2)^beta.

    No variables. PyTorch divides alpha by `size` and has k = 1; see `jaxcnn.ops.local_response_norm`.

    Source: Krizhevsky et al. (2012), section 3.3, whose constants are the defaults.
    """
    size = count(size, "size")

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        floating(x)
        return ops.local_response_norm(x, size, alpha, beta, k)

    return stateless(lambda key, x: {}, apply)


def _channels(x: Any) -> tuple[int, ...]:
    if len(x.shape) < 2:
        raise LayerError(f"expected (N, ..., C), got {tuple(x.shape)}")
    floating(x)
    return (x.shape[-1],)


def _several(values: int, x: Any) -> None:
    """Checks that at least two values are normalized together; a single one would always become 0."""
    if values < 2:
        raise LayerError(f"only one value is normalized at a time in {tuple(x.shape)}: the output would be the bias")


def _not_negative(eps: float) -> None:
    if not eps >= 0:
        raise LayerError(f"eps={eps!r}: expected a number of at least 0, which is added to the variance")


def _affine(
    key: jax.Array, shape: tuple[int, ...], scale: bool, bias: bool, scale_init: Initializer, bias_init: Initializer
) -> dict[str, jax.Array]:
    scale_key, bias_key = jax.random.split(key)
    params = {}
    if scale:
        params["scale"] = scale_init(scale_key, shape)
    if bias:
        params["bias"] = bias_init(bias_key, shape)
    return params


def _split(variable: jax.Array | None, groups: int) -> jax.Array | None:
    return None if variable is None else variable.reshape(groups, len(variable) // groups)
