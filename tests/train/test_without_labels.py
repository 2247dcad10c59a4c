"""Objectives without labels: of two views of an image, of all images of a batch, of several networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as cnn
from jaxcnn import data, losses, train
from jaxcnn.core import fold_in
from jaxcnn.data import Examples, PairedTransform
from jaxcnn.errors import UserError
from jaxcnn.transforms import constant

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(10, 4)).astype(np.float32)
UNLABELLED = Examples(POINTS, name="points")


def jitter(points: jax.Array, key: jax.Array) -> jax.Array:
    return points + 0.1 * jax.random.normal(key, points.shape)


def siamese() -> cnn.Layer:
    return cnn.network(lambda net, a, b: (net.encoder(a), net.encoder(b)), encoder=cnn.serial(embed=cnn.dense(3)))


SIMCLR = train.Objective(losses.nt_xent(0.5), views=data.views(jitter))


def by_hand(first: np.ndarray, second: np.ndarray, temperature: float = 0.5) -> np.ndarray:
    """Equation 1 of Chen et al. (2020), in float64 with loops."""
    z = [v / np.linalg.norm(v) for v in np.concatenate([first, second]).astype(np.float64)]
    n, found = len(first), []
    for i in range(n):
        pair = 0.0
        for a, b in ((i, i + n), (i + n, i)):
            others = sum(np.exp(z[a] @ z[k] / temperature) for k in range(2 * n) if k != a)
            pair -= np.log(np.exp(z[a] @ z[b] / temperature) / others)
        found.append(pair / 2)
    return np.array(found)


# --- data ----------------------------------------------------------------------------------------------------------


def test_examples_need_no_labels() -> None:
    assert repr(UNLABELLED) == "Examples('points', 10 of 4 float32 without labels)"
    first, second = UNLABELLED.hold_out(0.3)
    assert (len(first), len(second), first.labels) == (7, 3, None)
    inputs, labels = next(data.batches(UNLABELLED, 4))
    assert inputs.shape == (4, 4)
    assert labels is None
    with pytest.raises(
        UserError, match="points: the data have no labels, and this loss compares the outputs with them"
    ):
        train.fit(cnn.serial(head=cnn.dense(3)), UNLABELLED, losses.softmax_cross_entropy, show=False)


# --- two views -----------------------------------------------------------------------------------------------------


def test_a_step_compares_all_views_of_a_batch() -> None:
    """Loss and update of a step, beside equation 1 of the same views. Float32 against float64: 1e-5."""
    model, optimizer = siamese(), optax.sgd(0.1)
    state = train.create_state(model, optimizer, jax.random.key(0), (POINTS, POINTS))
    params, key = jax.tree.map(np.array, state.params), state.key
    augment_key, _ = jax.random.split(jax.random.fold_in(key, 0))
    keys = jax.random.split(fold_in(augment_key, "views"), 2)
    a, b = (jitter(POINTS, key) for key in keys)

    def loss(params: Any) -> jax.Array:
        outputs, _ = model.apply(params, {}, a, b)
        return losses.nt_xent(0.5)(outputs, None).mean()

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    outputs = [np.asarray(x) for x in model.apply(params, {}, a, b)[0]]
    new, measured = train.make_step(model, SIMCLR, optimizer)(state, (POINTS, None))
    assert list(measured) == ["loss"]
    assert float(measured["loss"]) == pytest.approx(by_hand(*outputs).mean(), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), new.params, expected)


@pytest.mark.parametrize("size", [4, 10, 16])
def test_an_evaluation_compares_the_examples_and_no_copies(size: int) -> None:
    """Ten examples in batches of 4, 10 and 16: the last one is never filled up. Float32 against float64: 1e-5.

    Example k has the views of the key fold_in(key(0), k), whatever the batch.
    """
    model = siamese()
    params, state = model.init(jax.random.key(0), POINTS, POINTS)
    seen = []
    for k, point in enumerate(POINTS):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), k), 2)
        seen.append([jitter(point[None], key)[0] for key in keys])
    a, b = (np.stack(views) for views in zip(*seen, strict=True))
    first, second = (np.asarray(x) for x in model.apply(params, state, a, b)[0])
    parts = [by_hand(first[i : i + size], second[i : i + size]) for i in range(0, 10, size)]
    evaluate = train.make_evaluate(model, SIMCLR, batch_size=size)
    found = evaluate(params, state, UNLABELLED)
    assert found.metrics["loss"] == pytest.approx(np.concatenate(parts).mean(), rel=1e-5)
    np.testing.assert_allclose(found.outputs[0], first, rtol=1e-5, atol=1e-6)
    assert evaluate(params, state, UNLABELLED).metrics == found.metrics


class Fails(train.Callback):
    def step(self, training: train.Training) -> None:
        if training.epoch == 4:
            raise ZeroDivisionError


def test_fit_learns_from_views_and_goes_on(tmp_path: Path) -> None:
    """In parts, too, and from a folder: the epochs of an interrupted run are those of one that was not."""
    settings = {"validation": UNLABELLED, "batch_size": 4, "accumulate": 2, "optimizer": optax.sgd(0.2), "show": False}
    whole = train.fit(siamese(), UNLABELLED, SIMCLR, epochs=6, **settings)
    losses = [record["validation_loss"] for record in whole.history]
    assert min(losses) < losses[0]
    assert whole.result["best_epoch"] == 1 + int(np.argmin(losses))
    with pytest.raises(ZeroDivisionError):
        train.fit(siamese(), UNLABELLED, SIMCLR, epochs=6, run=tmp_path / "run", callbacks=[Fails()], **settings)
    resumed = train.fit(
        siamese(), UNLABELLED, SIMCLR, epochs=6, run=train.Run(tmp_path / "run", resume=True), **settings
    )
    assert [record["validation_loss"] for record in resumed.history] == losses


def test_views_may_make_the_labels() -> None:
    """Points turned by a multiple of 90 degrees; the network says by which (Gidaris et al. 2018)."""

    def turned(points: jax.Array, labels: None, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        turns = jax.random.randint(key, (len(points),), 0, 4)
        quarter = jnp.array([[0, 1], [-1, 0]], jnp.float32)
        turn = jnp.stack([jnp.linalg.matrix_power(quarter, k) for k in range(4)])
        return jnp.einsum("nij,nj->ni", turn[turns], points[:, :2]), turns

    objective = train.Objective(losses.softmax_cross_entropy, views=PairedTransform(turned))
    points = Examples(np.tile(np.array([[3, 0.5]], np.float32), (64, 1)))
    found = train.fit(
        cnn.serial(head=cnn.dense(4)), points, objective, validation=points, epochs=40, batch_size=32,
        optimizer=optax.adam(0.1), show=False,
    )  # fmt: skip
    assert found.history[0]["validation_accuracy"] < found.result["validation_accuracy"] == 1


def test_what_cannot_make_views_is_refused() -> None:
    with pytest.raises(UserError, match="views: expected a function, got tuple"):
        train.Objective(views=(jitter, jitter))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"views: expected an augmentation .* got PairedTransform"):
        data.views(data.mixup(10))
    for given in (jnp.ones((4, 3)), (jnp.ones((4, 3)),) * 3, (jnp.ones((4, 3)), jnp.ones((4, 2)))):
        with pytest.raises(UserError, match="compares two embeddings"):
            losses.nt_xent()(given, None)


# --- several networks ----------------------------------------------------------------------------------------------


def adversaries() -> cnn.Layer:
    """A generator of points and a critic of them, as one Layer."""

    def forward(net: Any, real: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
        made = net.generator(z)
        return {
            "real": net.critic(real)[:, 0],
            "made": net.critic(jax.lax.stop_gradient(made))[:, 0],
            "fooled": constant(net.critic)(made)[:, 0],
        }

    return cnn.network(
        forward,
        generator=cnn.serial(out=cnn.dense(4)),
        critic=cnn.serial(hidden=cnn.dense(8), act=cnn.relu, out=cnn.dense(1)),
    )


def critic_loss(outputs: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.softplus(-outputs["real"]) + jax.nn.softplus(outputs["made"])


def generator_loss(outputs: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.softplus(-outputs["fooled"])


def test_one_step_updates_two_networks_each_by_its_loss() -> None:
    """The gradient of the sum is, for each network, that of its own loss in a network without `constant`."""
    model = adversaries()
    optimizer = optax.multi_transform(
        {"generator": optax.sgd(0.5), "critic": optax.sgd(0.1)},
        lambda params: {name: jax.tree.map(lambda _: name, inner) for name, inner in params.items()},  # noqa: B023
    )
    objective = train.Objective(
        lambda outputs, _: critic_loss(outputs) + generator_loss(outputs), views=data.noise(2), metrics={}
    )
    z = np.zeros((1, 2), np.float32)
    state = train.create_state(model, optimizer, jax.random.key(0), (POINTS, z))
    params = jax.tree.map(np.array, state.params)
    augment_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    z = jax.random.normal(fold_in(augment_key, "views"), (10, 2))
    new, _ = train.make_step(model, objective, optimizer)(state, (POINTS, None))

    generator, critic = model.sublayers["generator"], model.sublayers["critic"]

    def of_generator(own: Any) -> jax.Array:
        made, _ = generator.apply(own, {}, z)
        return jax.nn.softplus(-critic.apply(params["critic"], {}, made)[0]).mean()

    def of_critic(own: Any) -> jax.Array:
        made, _ = generator.apply(params["generator"], {}, z)
        judged = [critic.apply(own, {}, x)[0] for x in (POINTS, made)]
        return (jax.nn.softplus(-judged[0]) + jax.nn.softplus(judged[1])).mean()

    for name, rate, loss in (("generator", 0.5, of_generator), ("critic", 0.1, of_critic)):
        slope = jax.grad(loss)(params[name])
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slope)) > 1e-3
        expected = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params[name], slope)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), new.params[name], expected)


def test_constant_takes_a_sublayer() -> None:
    with pytest.raises(cnn.LayerError, match="constant takes a sublayer in a network's function"):
        constant(jnp.tanh)
