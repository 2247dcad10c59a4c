"""Ensembles: K networks trained at once are the K networks trained alone; votes are what they are said to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as cnn
from jaxcnn import losses, train
from jaxcnn.errors import UserError

KEY = jax.random.key(0)
DIGITS = cnn.data.load("digits", "train").take(slice(0, 96))
LOSS = losses.every_output(losses.softmax_cross_entropy)


def small(norm=True):
    layers = {"conv": cnn.conv(4, 5, 2, floor=True), **({"bn": cnn.batch_norm()} if norm else {}), "relu": cnn.relu}
    return cnn.serial(**layers, drop=cnn.dropout(0.2), flat=cnn.flatten, fc=cnn.dense(10))


def states_of(model, key, size):
    return [model.init(k, jnp.zeros((1, 32, 32, 1))) for k in jax.random.split(key, size)]


def test_each_member_learns_as_it_would_alone():
    """Three steps with batch norm, dropout and momentum, against the members trained one by one with their own keys."""
    # Not Adam: the bias in front of a batch norm has a gradient of 0, whose rounding Adam would make steps of 1e-3 of.
    model, optimizer = small(), optax.sgd(0.05, momentum=0.9)
    x, y = jnp.asarray(DIGITS.images[:32]) / 255, jnp.asarray(DIGITS.labels[:32])
    many = cnn.ensemble(model, 3)
    params, state = many.init(KEY, x)
    alone = [(p, s, optimizer.init(p)) for p, s in states_of(model, KEY, 3)]
    opt_state = optimizer.init(params)

    def step_of(network, loss):
        def objective(params, state, key):
            outputs, state = network.apply(params, state, x, train=True, key=key)
            return loss(outputs, y).mean(), state

        @jax.jit
        def step(params, state, opt_state, key):
            (_, state), gradient = jax.value_and_grad(objective, has_aux=True)(params, state, key)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state

        return step

    together, single = step_of(many, LOSS), step_of(model, losses.softmax_cross_entropy)
    for number in range(3):
        key = jax.random.fold_in(KEY, number)
        params, state, opt_state = together(params, state, opt_state, key)
        alone = [single(*member, own) for member, own in zip(alone, jax.random.split(key, 3), strict=True)]
    for k, (p, s, _) in enumerate(alone):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], (params, state))
        # Sums in another order, a few 1e-7 a step of float32, through three steps.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-4), member, (p, s))


def test_the_step_itself_can_be_mapped_over_members():
    """`jax.vmap` of `create_state` and of the step, without the wrapper; every member learns, and differently."""
    model, optimizer = small(norm=False), optax.sgd(0.1)
    states = jax.vmap(lambda key: train.create_state(model, optimizer, key, DIGITS.images[:1]))(
        jax.random.split(KEY, 3)
    )
    step = jax.jit(jax.vmap(train.make_step(model, losses.softmax_cross_entropy, optimizer), in_axes=(0, None)))
    batch = (DIGITS.images[:32], DIGITS.labels[:32])
    first = None
    for _ in range(5):
        states, metrics = step(states, batch)
        first = metrics["loss"] if first is None else first
    assert metrics["loss"].shape == (3,)
    assert (metrics["loss"] < first).all()
    assert len(np.unique(np.asarray(metrics["loss"]))) == 3


def test_soft_and_hard_votes():
    logits = jnp.log(jnp.asarray([[[0.9, 0.05, 0.05]], [[0.3, 0.4, 0.3]], [[0.2, 0.5, 0.3]]]))
    table = cnn.Layer(lambda key, x: ({"logits": jnp.zeros((1, 3))}, {}), lambda p, s, x, **_: (p["logits"], s))
    soft, hard = (cnn.ensemble(table, 3, vote).apply({"logits": logits}, {}, 0.0)[0] for vote in ("soft", "hard"))
    np.testing.assert_allclose(jnp.exp(soft), [[1.4 / 3, 0.95 / 3, 0.65 / 3]], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(hard), (np.array([[1, 2, 0]]) + np.exp(soft)) / 4, rtol=1e-6)
    assert soft.argmax() == 0  # sure of itself
    assert hard.argmax() == 1  # in the minority
    tie = jnp.log(jnp.asarray([[[0.6, 0.4]], [[0.1, 0.9]]]))
    split = cnn.ensemble(table, 2, "hard").apply({"logits": tie}, {}, 0.0)[0]
    assert split.argmax() == 1


def test_an_ensemble_is_fitted_saved_and_shown_as_any_layer(tmp_path):
    model = cnn.ensemble(small(norm=False), 3)
    assert repr(model).startswith("ensemble(\n  serial(")
    fitted = train.fit(model, DIGITS, LOSS, test=DIGITS, epochs=2, batch_size=32, run=tmp_path / "run", show=False)
    single = small(norm=False).init(KEY, jnp.zeros((1, 32, 32, 1)))[0]
    assert fitted.result["params"] == 3 * sum(x.size for x in jax.tree.leaves(single))
    assert fitted.history[-1]["loss"] > fitted.result["test_loss"]  # the sum over three members, and their vote's
    assert 0 <= fitted.history[-1]["accuracy"] <= 1
    loaded = train.Trained.load(tmp_path / "run", model)
    got = loaded.probabilities(DIGITS.images[:4])
    np.testing.assert_allclose(got, fitted.probabilities(DIGITS.images[:4]), atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    assert cnn.inspect.summary(model, DIGITS.images[:1]).params == fitted.result["params"]


def test_ensemble_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="expected at least 1 network"):
        cnn.ensemble(small(), 0)
    with pytest.raises(UserError, match="expected 'soft' or 'hard'"):
        cnn.ensemble(small(), 3, "loud")
    with pytest.raises(cnn.LayerError, match="has to be called"):
        cnn.ensemble(cnn.dense, 3)


def test_every_output_adds_the_weighted_losses():
    outputs = tuple(jnp.asarray(np.random.default_rng(k).normal(size=(4, 5)), jnp.float32) for k in range(3))
    labels = jnp.asarray([0, 1, 2, 3])
    each = [losses.softmax_cross_entropy(o, labels) for o in outputs]
    got = losses.every_output(losses.softmax_cross_entropy, 0.3)(outputs, labels)
    np.testing.assert_allclose(got, each[0] + 0.3 * each[1] + 0.3 * each[2], rtol=1e-6)
    several = losses.every_output(losses.softmax_cross_entropy, [0.5, 2.0])(outputs, labels)
    np.testing.assert_allclose(several, each[0] + 0.5 * each[1] + 2 * each[2], rtol=1e-6)
    np.testing.assert_array_equal(losses.every_output(losses.l2)(outputs[0], outputs[1]), losses.l2(*outputs[:2]))
    with pytest.raises(UserError, match="gives 3 outputs in training and this loss takes one"):
        losses.softmax_cross_entropy(outputs, labels)
    with pytest.raises(UserError, match="1 weights for 2 outputs"):
        losses.every_output(losses.softmax_cross_entropy, [0.3])(outputs, labels)
