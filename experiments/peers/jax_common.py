"""What the peers on JAX share: the optimizer, the loss, half precision, and a jitted step as a function that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.peers import LEARNING_RATE, MOMENTUM

optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy, the mean over all labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def halved(half: bool, *trees: Any) -> Any:
    """With `half`, the trees with their float arrays in bfloat16; else as they are."""

    def one(x: Any) -> Any:
        return x.astype(jnp.bfloat16) if half and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, trees)


def stepper(step: Callable[..., tuple[Any, jax.Array]], state: Any, *batch: jax.Array) -> Callable[[], Any]:
    """The step `(state, *batch) -> (state, loss)` as a function of nothing, which keeps the state and waits for it."""

    def run() -> jax.Array:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, *batch))
        return loss

    return run


def members(module: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The layers of these classes inside a module, in the order in which its attributes were assigned."""
    if isinstance(module, kinds):
        yield module
    elif isinstance(module, (list, tuple)):
        for item in module:
            yield from members(item, kinds)
    elif hasattr(module, "__dict__"):
        for name, value in vars(module).items():
            if not name.startswith("_"):
                yield from members(value, kinds)
