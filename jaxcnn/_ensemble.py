"""Wrappers."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn import core
from jaxcnn.core import Layer, PyTree, Variables
from jaxcnn.errors import UserError


@core.layer
def ensemble(model: Layer, size: int = 5, vote: Literal["soft", "hard"] = "soft") -> Layer:
    """Several networks of one kind that start at different weights, learn the same batches, and vote.

    Variables have the names of the model's, with a first axis of `size`; all members are computed at once (`jax.vmap`).
    Member k is the network that `model.init(jax.random.split(key, size)[k], x)` makes, and, with an optimizer that
    works number by number (SGD, momentum, Adam), learns as it would alone.

    A training pass returns a tuple of the members' logits, each of which has a loss of its own:
    `fit(ensemble(model), loss=losses.every_output(losses.softmax_cross_entropy))`. An evaluation returns one output
    `(N, ..., classes)`, the logarithm of probabilities that the vote gives.

    Args:
      model: a Layer whose output is logits `(N, ..., classes)`.
      size: how many.
      vote: `"soft"`, the mean of the members' probabilities; `"hard"`, a vote each, and where votes are equal the mean
        probability decides: (votes + mean probability) / (size + 1).

    Source: Hansen and Salamon, Neural network ensembles (1990); Dietterich, Ensemble methods in machine learning (2000).
    """
    if size < 1:
        raise UserError(f"ensemble(size={size}): expected at least 1 network")
    if vote not in ("soft", "hard"):
        raise UserError(f"ensemble(vote={vote!r}): expected 'soft' or 'hard'")
    member = core.as_layer(model)

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        made = [member.init(own, *inputs) for own in jax.random.split(key, size)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        def one(params: Variables, state: Variables, key: Any) -> tuple[PyTree, Variables]:
            return member.apply(params, state, *inputs, train=train, key=key)

        keys = None if key is None else jax.random.split(key, size)
        outputs, state = jax.vmap(one, axis_size=size)(params, state, keys)
        if train:
            return tuple(outputs[k] for k in range(size)), state
        return _vote(outputs, vote), state

    return Layer(init, apply)


def _vote(logits: jax.Array, vote: str) -> jax.Array:
    """`(K, N, ..., classes)` -> the logarithm of probabilities `(N, ..., classes)`."""
    size = len(logits)
    logs = jax.nn.log_softmax(logits)
    mean = jax.nn.logsumexp(logs, axis=0) - jnp.log(size)
    if vote == "soft":
        return mean
    votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype).sum(0)
    return jnp.log((votes + jnp.exp(mean)) / (size + 1))
