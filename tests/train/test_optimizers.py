"""Optax transformations that take extra arguments: a step gives them what a loop written by hand with Optax does.

Tolerance 1e-5 of the largest value: the same float32 sums in another order; 1e-4 where a line search compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn.errors import UserError

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "value": lambda: optax.chain(
        optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=0, rtol=0.5, accumulation_size=1)
    ),
    "value alone": lambda: optax.polyak_sgd(0.5),
    "value, grad and value_fn, zoom": lambda: optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(8)),
    "value, grad and value_fn, backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8)
    ),
    "none": lambda: optax.contrib.schedule_free_sgd(0.5),
}


def problem() -> tuple[cnn.Layer, Any, tuple[jax.Array, jax.Array]]:
    model = cnn.serial(cnn.dense(3), cnn.tanh, cnn.dense(3))
    x = jnp.asarray(normal(0, 8, 4))
    return model, lambda p: 1e-2 * cnn.losses.l2_penalty(p), (x, jnp.arange(8) % 3)


def by_hand(optimizer: Any, params: Any, steps: int) -> Any:
    """The parameters and losses of a loop as Optax's documentation writes it."""
    model, penalty, (x, labels) = problem()

    def loss(params: Any) -> jax.Array:
        logits = model.apply(params, {}, x)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() + penalty(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params, losses


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_a_loop_with_optax(name: str, accumulate: int) -> None:
    model, penalty, batch = problem()
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name]())
    state = cnn.train.create_state(model, optimizer, jax.random.key(0), batch[0])
    expected = by_hand(optimizer, state.params, steps=4)
    step = cnn.train.make_step(
        model, cnn.train.Objective(cnn.losses.softmax_cross_entropy, penalty=penalty), optimizer, accumulate=accumulate
    )
    losses = []
    for _ in range(4):
        state, measured = step(state, batch)
        losses.append(float(measured["loss"]))
    assert step._cache_size() == 1
    close((state.params, losses), expected, 1e-4)
    assert losses[-1] < losses[0]


def test_a_plateau_lowers_the_rate_in_fit() -> None:
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (16, 6, 6, 1)).astype(np.uint8), rng.integers(0, 3, 16), tuple("abc"))
    optimizer = optax.chain(
        optax.sgd(1e-6), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.5, accumulation_size=1)
    )
    result = cnn.train.fit(
        cnn.serial(cnn.flatten, cnn.dense(3)), data, optimizer=optimizer, epochs=4, batch_size=8, show=False
    )
    assert (
        float(result.state.opt_state[-1].scale) == 0.125
    )  # of 8 steps the first is the best; 2, 2 and 2 more do not improve


def test_an_optimizer_that_needs_something_else() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, temperature: Any, **extra: Any) -> Any:
        return updates, state

    model, _, batch = problem()
    optimizer = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    state = cnn.train.create_state(model, optimizer, jax.random.key(0), batch[0])
    step = cnn.train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
    with pytest.raises(
        UserError, match=r"needs more than a training step gives it \(value, grad, value_fn\).*'temperature'"
    ):
        step(state, batch)
