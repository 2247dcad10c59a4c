"""A layer that wraps another one and has the same variables."""

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
      model: the layer inside, whose paths and names of variables stay.
      wrap: a function that wraps another layer in the same way; `map_leaves` uses it to rebuild the layer.
      apply: the `apply` of the new layer.
      call: the call that made the new layer.
      init: the `init` of the new layer; that of `model` by default.
    """
    inner = as_layer(model)
    return Layer(init or inner.init, apply, call, sublayers=inner.sublayers, base=inner, inner=inner, wrap=wrap)
