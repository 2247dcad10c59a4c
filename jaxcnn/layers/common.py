"""Checks of a layer's arguments and inputs, shared by all layers, and the type of an initializer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn.core import Layer, LayerError

Initializer: TypeAlias = Callable[..., jax.Array]
"""`(key, shape) -> array`, such as those of `jax.nn.initializers`."""


AxisName: TypeAlias = str | tuple[str, ...]

_batch_axis: ContextVar[AxisName | None] = ContextVar("batch_axis", default=None)


def batch_axis() -> AxisName | None:
    """The mapped axis along which the batch is split, inside `jaxcnn.synchronized`; otherwise None."""
    return _batch_axis.get()


@contextmanager
def spread_over(axis_name: AxisName | None) -> Iterator[None]:
    """A context in which `batch_axis()` is `axis_name`: the layers get one part of the batch each."""
    token = _batch_axis.set(axis_name)
    try:
        yield
    finally:
        _batch_axis.reset(token)


def stateless(init: Callable[..., dict[str, jax.Array]], apply: Callable[..., Any]) -> Layer:
    """A Layer made of `init(key, *inputs) -> params` and `apply(params, *inputs)`, without state, train and key."""

    def init_both(key: jax.Array, *inputs: Any) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        return init(key, *inputs), {}

    def apply_both(
        params: dict[str, Any],
        state: dict[str, Any],
        *inputs: Any,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        return apply(params, *inputs), state

    return Layer(init_both, apply_both)


def count(value: Any, what: str) -> int:
    """The value as an int of at least 1.

    Raises:
      LayerError: for any other value; the message names the argument, `what`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise LayerError(f"{what}={value!r}: expected an integer of at least 1")
    return int(value)


def images(x: Any, ndim: int | None = None) -> None:
    """Checks that x is floating point `(N, *spatial, C)`, with `ndim` spatial dimensions if given."""
    shape = tuple(x.shape)
    form = {1: "(N, W, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}
    if ndim is None:
        if len(shape) - 2 not in form:
            raise LayerError(f"expected images (N, H, W, C), or 1 or 3 spatial dimensions; got {shape}")
    elif len(shape) != ndim + 2:
        hint = ": a batch of one is images[None]" if len(shape) == ndim + 1 else ""
        raise LayerError(f"expected {form[ndim]}, got {shape}{hint}")
    floating(x)


def floating(x: Any) -> None:
    """Checks that x has a floating-point (or complex) dtype."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise LayerError(
            f"expected floating-point input, got {x.dtype} of shape {tuple(x.shape)}; scale images first: "
            "images.astype('float32') / 255"
        )


def by(sizes: Sequence[int]) -> str:
    """Sizes as text: `5x5` for `(5, 5)`."""
    return "x".join(str(s) for s in sizes)
