"""The parameters to evaluate, of optimizers that train others: averages, slow weights, unperturbed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def eval_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The parameters to evaluate and to keep, given the optimizer's state and the parameters that it trains.

    They are `params` themselves, unless a part of the state says otherwise:

    - `optax.contrib.schedule_free`: the average x = (y - (1 - b1) z) / b1 of the trained parameters y.
    - `optax.contrib.sam`, transparent: the weights before the adversarial step, in the steps after one.
    - A state with a method `eval_params(params) -> params`, such as that of `lookahead`, or of an optimizer of yours.

    Such a state may lie inside others, as in `optax.chain`, `optax.masked` and `by_path`; parameters that a mask hides
    from it stay. Batch statistics are not recomputed: they are those of the trained parameters.

    Returns:
      A tree like `params`.

    Source: Defazio et al., The road less scheduled (2024); Foret et al., Sharpness-aware minimization (2021), for SAM.
    """
    for state in _found(opt_state):
        params = _rule(state)(params)
    return params


def averages(opt_state: PyTree) -> bool:
    """Whether the parameters to evaluate may differ from the trained ones."""
    return bool(_found(opt_state))


def compiled(opt_state: PyTree, params: PyTree) -> PyTree:
    """`eval_params` as one program, since a network has hundreds of arrays; `params` itself if nothing is averaged."""
    return _compiled(opt_state, params) if averages(opt_state) else params


def _found(opt_state: PyTree) -> list[Any]:
    """The outermost states with parameters of their own to evaluate."""
    return [state for state in jax.tree.leaves(opt_state, is_leaf=_is_known) if _is_known(state)]


def _is_known(state: Any) -> bool:
    if isinstance(state, optax.contrib.SAMState):
        return state.cache is not None or averages(state.opt_state)
    return isinstance(state, optax.contrib.ScheduleFreeState) or callable(getattr(state, "eval_params", None))


def _rule(state: Any) -> Callable[[PyTree], PyTree]:
    """The function that gives the parameters to evaluate, from those that are trained."""
    if isinstance(state, optax.contrib.SAMState):
        return lambda params: _before_adversary(state, params)
    if isinstance(state, optax.contrib.ScheduleFreeState):
        b1 = state.b1
        return lambda params: _merged(lambda z, y: ((y - (1 - b1) * z) / b1).astype(y.dtype), state.z, params)
    return lambda params: _merged(lambda own, _: own, state.eval_params(params), params)


def _before_adversary(state: optax.contrib.SAMState, params: PyTree) -> PyTree:
    if state.cache is not None:
        synchronized = state.steps_since_sync == 0
        params = _merged(lambda kept, p: jnp.where(synchronized, p, kept), state.cache, params)
    return eval_params(state.opt_state, params)


def _merged(function: Callable[[Any, Any], Any], own: PyTree, params: PyTree) -> PyTree:
    """`function(own, params)` of each leaf; the parameter itself where the state's tree is masked."""

    def masked(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda o, p: p if masked(o) else function(o, p), own, params, is_leaf=masked)


_compiled = jax.jit(eval_params)
