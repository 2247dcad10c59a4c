"""Ensembles of networks."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.core import Call, Layer, PyTree, Variables, as_layer, layer
from jaxcnn.errors import UserError
from jaxcnn.transforms.wrapped import wrapped


@layer
def ensemble(model: Layer, size: int = 5, vote: Literal["soft", "hard"] = "soft") -> Layer:
    """Several copies of a network with different initial weights, which train on the same batches and vote.

    The variables have the same names as the model's, with a first axis of length `size`; `jax.vmap` computes all
    members at once. Member k starts as `model.init(jax.random.split(key, size)[k], x)`. With an elementwise optimizer
    (SGD, momentum, Adam), it learns exactly what it would learn alone.

    A training pass returns a tuple with the logits of each member, for a loss per member:
    `fit(ensemble(model), data, losses.every_output(losses.softmax_cross_entropy))`. An evaluation returns one output
    `(N, ..., classes)`: the logarithm of the probabilities that the vote gives.

    Args:
      model: a Layer whose output is logits `(N, ..., classes)`.
      size: the number of members.
      vote: `"soft"` for the mean of the members' probabilities; `"hard"` for one vote per member, where the mean
        probability decides a tie: (votes + mean probability) / (size + 1).

    Source: Hansen and Salamon, Neural network ensembles (1990).
    """
    if size < 1:
        raise UserError(f"ensemble(size={size}): expected at least 1 network")
    if vote not in ("soft", "hard"):
        raise UserError(f"ensemble(vote={vote!r}): expected 'soft' or 'hard'")
    member = as_layer(model)

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

    again = functools.partial(ensemble, size=size, vote=vote)
    return wrapped(member, again, apply, Call(ensemble, (member,), {"size": size, "vote": vote}), init)


def members(model: Layer) -> int | None:
    """The number of members of an ensemble, which may be inside wrappers; None for a single network."""
    found: Layer | None = model
    while found is not None:
        if isinstance(found.wrap, functools.partial) and found.wrap.func is ensemble:
            return int(found.wrap.keywords["size"])
        found = found.inner
    return None


def member(model: Layer) -> Layer:
    """A single network of an ensemble, in the same wrappers as the ensemble; another model is returned itself."""
    if model.inner is None or model.wrap is None:
        return model
    if isinstance(model.wrap, functools.partial) and model.wrap.func is ensemble:
        return model.inner
    return model.wrap(member(model.inner))


def _vote(logits: jax.Array, vote: str) -> jax.Array:
    """Logits `(K, N, ..., classes)` -> the logarithm of the voted probabilities `(N, ..., classes)`."""
    size = len(logits)
    logs = jax.nn.log_softmax(logits)
    mean = jax.nn.logsumexp(logs, axis=0) - jnp.log(size)
    if vote == "soft":
        return mean
    votes = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=logits.dtype).sum(0)
    return jnp.log((votes + jnp.exp(mean)) / (size + 1))
