"""Helpers of the peers on JAX: optimizer, loss, half precision, and a jitted step that blocks until it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.peers import LEARNING_RATE, MOMENTUM

optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy over all labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def halved(half: bool, *trees: Any) -> Any:
    """Casts the float arrays of the trees to bfloat16 if `half`; otherwise returns the trees unchanged."""

    def one(x: Any) -> Any:
        return x.astype(jnp.bfloat16) if half and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, trees)


def stepper(step: Callable[..., tuple[Any, jax.Array]], state: Any, *batch: jax.Array) -> Callable[[], Any]:
    """Wraps a step `(state, *batch) -> (state, loss)` in a function without arguments that keeps the state."""

    def run() -> jax.Array:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, *batch))
        return loss

    return run


def members(module: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The layers of these classes inside a module, in the order of attribute assignment."""
    if isinstance(module, kinds):
        yield module
    elif isinstance(module, (list, tuple)):
        for item in module:
            yield from members(item, kinds)
    elif hasattr(module, "__dict__"):
        for name, value in vars(module).items():
            if not name.startswith("_"):
                yield from members(value, kinds)
