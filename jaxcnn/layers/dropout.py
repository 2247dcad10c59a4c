"""Dropout, of single values and of whole branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import batch_axis


@layer
def dropout(rate: float, *, shared_axes: Sequence[int] = ()) -> Layer:
    """In training, each value is set to 0 with probability `rate`, and the others are divided by 1 - rate.

    The expected output is the input, so an evaluation uses the input unchanged. The paper and the lectures do not scale
    the training pass, and multiply the weights by 1 - rate in an evaluation, which is equivalent.

    Args:
      rate: the probability of dropping a value, 0 <= rate < 1.
      shared_axes: axes along which all values are dropped together; `(1, 2)` drops whole feature maps.

    Returns:
      A Layer whose output has the input's shape. `apply` with `train=True` needs `key`.

    Raises:
      LayerError: for a rate outside [0, 1), axes that do not exist, or in training without a key.

    Source: Srivastava et al., Dropout (2014), section 4.
    """
    _is_share(rate)

    def shared(x: jax.Array) -> set[int]:
        if any(not -x.ndim <= a < x.ndim for a in shared_axes):
            raise LayerError(f"shared_axes={tuple(shared_axes)} do not all exist in {x.shape}")
        return {a % x.ndim for a in shared_axes}

    return _dropping("dropout", rate, shared)


@layer
def drop_path(rate: float) -> Layer:
    """Stochastic depth: in training an example is set to 0 as a whole with probability `rate`, or divided by 1 - rate.

    At the end of a residual branch, it leaves an example its shortcut alone. Outside training nothing is done. The
    paper multiplies by 1 - rate there instead of dividing here, and drops a block for the whole batch.

    Args:
      rate: the probability, 0 <= rate < 1. The paper lets it grow linearly from 0 at the first block.

    Returns:
      A Layer of the input's shape, `(N, ...)`. `apply` with `train=True` needs `key`.

    Raises:
      LayerError: for a rate outside [0, 1), or in training without a key.

    Source: Huang et al., Deep networks with stochastic depth (2016), section 3. One draw an example is torchvision's
      mode "row" and timm's `drop_path`.
    """
    _is_share(rate)
    return _dropping("drop_path", rate, lambda x: set(range(1, x.ndim)))


def _is_share(rate: float) -> None:
    if not 0 <= rate < 1:
        raise LayerError(f"rate={rate!r}: expected the share to drop, 0 <= rate < 1")


def _dropping(name: str, rate: float, shared_axes: Callable[[jax.Array], set[int]]) -> Layer:
    """What `dropout` and `drop_path` have in common: one decision holds along all of the shared axes."""

    def init(key: jax.Array, *inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}

    def apply(
        params: dict[str, Any],
        state: dict[str, Any],
        x: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        if not train or rate == 0:
            return x, state
        if key is None:
            raise LayerError(
                f"{name} draws random numbers in training: pass model.apply(..., train=True, key=jax.random.key(...))"
            )
        shared = shared_axes(x)
        shape = tuple(1 if a in shared else w for a, w in enumerate(x.shape))
        keep = _draw(key, 1 - rate, shape)
        return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x)), state

    return Layer(init, apply)


def _draw(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Booleans that are true with probability `rate`. For a part of a batch, a slice of those of the whole batch."""
    axis = batch_axis()
    if axis is None or shape[0] == 1:
        return jax.random.bernoulli(key, rate, shape)
    # XLA computes only the slice: each random number depends on its position alone.
    whole = jax.random.bernoulli(key, rate, (shape[0] * lax.axis_size(axis), *shape[1:]))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axis) * shape[0], shape[0])
