"""What is minimized and measured for points in an image, all in pixels."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.ops.precision import wide


@per_example
def squared_distance(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over the points of the squared distance |p - q|^2, in pixels^2: `(N, P, 2), (N, P, 2) -> (N,)`."""
    _check(outputs, labels)
    return jnp.square(wide(outputs) - labels).sum(-1).mean(-1)


@per_example
def distance(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over the points of the distance |p - q|, in pixels: `(N, P, 2), (N, P, 2) -> (N,)`."""
    _check(outputs, labels)
    return jnp.sqrt(jnp.square(wide(outputs) - labels).sum(-1)).mean(-1)


def within(pixels: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A metric: the share of points that are at most `pixels` away (PCK), `(N, P, 2), (N, P, 2) -> (N,)`."""

    @per_example
    def near(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        _check(outputs, labels)
        return (jnp.square(wide(outputs) - labels).sum(-1) <= pixels**2).astype(jnp.float32).mean(-1)

    return near


def _check(outputs: jax.Array, labels: jax.Array) -> None:
    if outputs.shape != labels.shape or outputs.ndim != 3 or outputs.shape[-1] != 2:
        raise UserError(f"outputs {outputs.shape} and labels {labels.shape} should both be (N, points, 2)")
