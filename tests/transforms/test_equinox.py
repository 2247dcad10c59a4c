"""Equinox's filtered transformations around an `apply`: a Layer is a static argument."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, same

import jaxcnn as cnn
from jaxcnn import losses

eqx = pytest.importorskip("equinox", reason="Equinox is not installed")


def test_filter_jit_and_filter_grad() -> None:
    model = cnn.serial(conv=cnn.conv(2, 3), bn=cnn.batch_norm(), flat=cnn.flatten, head=cnn.dense(2))
    x = np.random.default_rng(0).normal(size=(3, 5, 5, 1)).astype(np.float32)
    params, state = model.init(jax.random.key(0), x)
    expected = jax.jit(lambda params, state, x: model.apply(params, state, x, train=True))(params, state, x)
    found = eqx.filter_jit(model.apply)(params, state, x, train=True)  # train stays a Python bool
    same(found, expected)

    traces = []

    @eqx.filter_jit
    def run(model: cnn.Layer, params: dict, x: np.ndarray) -> jax.Array:
        traces.append(model)
        return model.apply(params, state, x)[0]

    close(run(model, params, x), model.apply(params, state, x)[0])
    again = cnn.serial(conv=cnn.conv(2, 3), bn=cnn.batch_norm(), flat=cnn.flatten, head=cnn.dense(2))
    run(again, params, x)
    assert len(traces) == 1  # an equal Layer is the same static argument

    def loss(params: dict) -> jax.Array:
        return losses.softmax_cross_entropy(model.apply(params, state, x)[0], jnp.array([0, 1, 1])).mean()

    close(eqx.filter_jit(eqx.filter_grad(loss))(params), jax.jit(jax.grad(loss))(params))
