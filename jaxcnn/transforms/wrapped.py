"""A layer around another one, with the same variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxcnn.core import Call, Layer, as_layer


def wrapped(
    model: Layer | Callable[..., Any],
    wrap: Callable[[Layer], Layer],
    apply: Callable[..., Any],
    call: Call,
    init: Callable[..., Any] | None = None,
) -> Layer:
    """A layer that runs `model` in another way.

    Args:
      model: the layer inside. Paths, and names of variables, are its own.
      wrap: wraps another layer in the same way; `map_leaves` rebuilds the layer with it.
      apply: the `apply` of the new layer.
      call: how it was made.
      init: its `init`, where that is not the one of `model`.
    """
    inner = as_layer(model)
    return Layer(init or inner.init, apply, call, sublayers=inner.sublayers, base=inner, inner=inner, wrap=wrap)
