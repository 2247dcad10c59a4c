"""Lookahead for networks whose parameters stay a plain tree."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError

PyTree = Any


class LookaheadState(NamedTuple):
    """The state of `lookahead`.

    Attributes:
      inner: the state of `optax.lookahead`, with that of the fast optimizer.
      slow: the slow weights.
    """

    inner: Any
    slow: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The slow weights, which are evaluated."""
        return self.slow


def lookahead(
    optimizer: optax.GradientTransformation,
    sync_period: int = 5,
    slow_step_size: float = 0.5,
    reset_state: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lookahead: after k steps of an optimizer, its weights are pulled back to an average of where it has been.

    The optimizer moves the fast weights theta, the network's parameters. After every k-th step, the slow weights phi
    move towards them, and the fast ones continue from there: phi' = phi + alpha (theta - phi), theta' = phi'.

    This is `optax.lookahead`, whose parameters are pairs of fast and slow weights, for parameters that are a plain
    tree: the slow weights lie in the optimizer's state, and are those that are evaluated and kept (`eval_params`).

    Args:
      optimizer: the optimizer of the fast weights.
      sync_period: k.
      slow_step_size: alpha, from 0 to 1.
      reset_state: whether the optimizer's state begins anew after every k-th step.

    Returns:
      An Optax transformation. Its updates must be applied as they are, so it comes last in a chain.

    Raises:
      UserError: if `sync_period` is below 1 or `slow_step_size` is not from 0 to 1; if `update` is called without the
        parameters.

    Source: Zhang et al., Lookahead optimizer: k steps forward, 1 step back (2019), algorithm 1.
    """
    if sync_period < 1 or not 0 <= slow_step_size <= 1:
        raise UserError(
            f"sync_period={sync_period} and slow_step_size={slow_step_size}: expected at least 1 step, and a number "
            "from 0 to 1"
        )
    fast = optax.with_extra_args_support(optimizer)

    def of_pairs(**extra: Any) -> optax.GradientTransformation:
        given = optax.GradientTransformation(fast.init, functools.partial(fast.update, **extra))
        return optax.lookahead(given, sync_period, slow_step_size, reset_state)

    def init(params: PyTree) -> LookaheadState:
        pairs = optax.LookaheadParams(fast=params, slow=params)
        return LookaheadState(of_pairs().init(pairs), jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: LookaheadState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, LookaheadState]:
        if params is None:
            raise UserError("lookahead needs the parameters: optimizer.update(gradient, state, params)")
        pairs = optax.LookaheadParams(fast=params, slow=state.slow)
        changes, inner = of_pairs(**extra).update(updates, state.inner, pairs)
        return changes.fast, LookaheadState(inner, optax.apply_updates(state.slow, changes.slow))

    return optax.GradientTransformationExtraArgs(init, update)
