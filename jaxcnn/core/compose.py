"""The most common networks: layers in sequence, in parallel, and with a residual connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core.layer import Call, Layer, LayerError, PyTree, as_layer
from jaxcnn.core.network import Net, network


def serial(*layers: Layer | Callable[..., PyTree], **named: Layer | Callable[..., PyTree]) -> Layer:
    """Layers in sequence: `serial(a, b)(x) = b(a(x))`.

    Keywords name the layers. Layers given by position are named by their kind and numbered per kind: `serial(conv(6,
    5), tanh, conv(16, 5), flatten, dense(10))` has `conv1 tanh1 conv2 flatten1 dense1`, so adding an activation does
    not rename a convolution. The first layer may take several inputs; each of the others takes the previous output.
    """
    steps = _named(layers, named)
    if not steps:
        raise LayerError("serial() needs at least one layer")
    names = tuple(steps)

    def chain(net: Net, *inputs: PyTree) -> PyTree:
        x = net[names[0]](*inputs)
        for name in names[1:]:
            x = net[name](x)
        return x

    return _called(serial, network(chain, **steps), layers, named)


def parallel(
    *layers: Layer | Callable[..., PyTree],
    join: Callable[..., PyTree] | None = None,
    **named: Layer | Callable[..., PyTree],
) -> Layer:
    """Several layers applied to the same input: `parallel(a, b)(x) = (a(x), b(x))`, or `join(a(x), b(x))`.

    `join=concat` concatenates the outputs along the channels, as an Inception module does; `join=operator.add` adds
    them. Layers are named as in `serial`.
    """
    branches = _named(layers, named)

    def fork(net: Net, *inputs: PyTree) -> PyTree:
        outputs = tuple(net[name](*inputs) for name in branches)
        return outputs if join is None else join(*outputs)

    return _called(parallel, network(fork, **branches), layers, named if join is None else {"join": join, **named})


def residual(body: Layer | Callable[..., PyTree], shortcut: Layer | Callable[..., PyTree] | None = None) -> Layer:
    """A residual connection: `body(x) + shortcut(x)`; the shortcut is the identity by default.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), section 3.2.

    Raises:
      LayerError: when body and shortcut give different shapes.
    """

    def add(net: Net, x: PyTree) -> PyTree:
        y, z = net.body(x), x if shortcut is None else net.shortcut(x)
        if jnp.shape(y) != jnp.shape(z):
            raise LayerError(
                f"the body gives {jnp.shape(y)} and the shortcut {jnp.shape(z)}: they must be equal to be added; pass "
                "shortcut=conv(features, 1, stride) to bring the input to the body's shape"
            )
        return y + z

    parts = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}
    return _called(residual, network(add, **parts), (body,), {} if shortcut is None else {"shortcut": shortcut})


def concat(*xs: jax.Array) -> jax.Array:
    """The arrays concatenated along the channels (the last axis)."""
    return jnp.concatenate(xs, axis=-1)


def identity(x: PyTree) -> PyTree:
    """x itself."""
    return x


def _called(maker: Callable[..., Layer], made: Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Layer:
    return made.replace(call=Call(maker, args, kwargs), kind=maker.__name__)


def _named(layers: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Layer | Callable[..., PyTree]]:
    counts: dict[str, int] = {}
    result: dict[str, Any] = {}
    for index, value in enumerate(layers):
        try:
            kind = as_layer(value).kind or "layer"
        except LayerError as error:
            raise error.under(f"layer {index + 1}") from None
        kind = kind.rsplit(".", 1)[-1].strip("<>_")
        counts[kind] = counts.get(kind, 0) + 1
        result[f"{kind}{counts[kind]}"] = value
    if both := [name for name in named if name in result]:
        raise LayerError(f"the name {both[0]} is given by keyword and also follows from a position")
    return {**result, **named}
