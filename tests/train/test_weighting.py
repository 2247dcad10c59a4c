"""Weights of examples and classes: the loss is sum w l / sum w over the batch, or over the set in an evaluation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as cnn
from jaxcnn import losses, train
from jaxcnn.data import Dataset, Examples, Loader, batches, padded_batches
from jaxcnn.errors import DataError, UserError
from jaxcnn.train.step import TrainState

RNG = np.random.default_rng(0)
POINTS, LABELS = RNG.normal(size=(10, 4)).astype(np.float32), RNG.integers(0, 3, 10).astype(np.int32)
WEIGHTS = np.array([0, 1, 2, 3, 0.5, 0, 1, 5, 1, 2])
DATA = Examples(POINTS, LABELS, ("a", "b", "c"), weights=WEIGHTS)
NET = cnn.serial(head=cnn.dense(3))
CLASSES = (0.5, 1.0, 4.0)


def started() -> TrainState:
    return train.create_state(NET, optax.sgd(1.0), jax.random.key(0), POINTS)


def by_hand(params: Any, weights: np.ndarray) -> jax.Array:
    each = losses.softmax_cross_entropy(NET.apply(params, {}, POINTS)[0], LABELS)
    return (each * weights).sum() / weights.sum()


@pytest.mark.parametrize("accumulate", [1, 5])
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_a_step_takes_the_weighted_mean_of_the_whole_batch(accumulate: int, classes: Any) -> None:
    loss: Any = losses.softmax_cross_entropy
    weights = WEIGHTS
    if classes:
        loss, weights = losses.class_weighted(loss, classes), WEIGHTS * np.asarray(classes)[LABELS]
    params = started().params
    expected, slope = jax.value_and_grad(by_hand)(params, weights)
    step = train.make_step(NET, loss, optax.sgd(1.0), accumulate=accumulate)
    state, measured = step(started(), (POINTS, LABELS, WEIGHTS.astype(np.float32)))
    assert float(measured["loss"]) == pytest.approx(float(expected), rel=1e-6)
    found = jax.tree.map(lambda a, b: a - b, params, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, slope)
    evaluated = train.make_evaluate(NET, loss, batch_size=4)(params, {}, DATA).metrics
    assert evaluated["loss"] == pytest.approx(float(expected), rel=1e-6)
    hits = np.asarray(NET.apply(params, {}, POINTS)[0]).argmax(-1) == LABELS
    assert evaluated["accuracy"] == pytest.approx(hits.mean())
    assert float(measured["accuracy"]) == pytest.approx(hits.mean())


def test_a_mapped_step_and_weights_of_zero() -> None:
    """Under `pmap` the weights are divided by their mean over all devices; without any weight the loss is 0."""
    mapped = train.make_step(NET, losses.softmax_cross_entropy, optax.sgd(1.0), axis_name="data")
    whole = (POINTS, LABELS, WEIGHTS.astype(np.float32))
    halves = jax.tree.map(lambda x: x.reshape(2, 5, *x.shape[1:]), whole)
    _, measured = jax.vmap(mapped, (None, 0), axis_name="data")(started(), halves)
    assert measured["loss"][0] == pytest.approx(float(by_hand(started().params, WEIGHTS)), rel=1e-6)
    step = train.make_step(NET, losses.softmax_cross_entropy, optax.sgd(1.0))
    before = started().params
    state, measured = step(started(), (POINTS, LABELS, np.zeros(10, np.float32)))
    assert measured["loss"] == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params, before))


def test_weights_follow_their_examples(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (10, 2, 2, 1), np.uint8)
    data = Dataset(images, LABELS, ("a", "b", "c"), weights=WEIGHTS)
    for part in (data.take([3, 1]), DATA.take(np.array([3, 1]))):
        assert part.weights is not None
        assert part.weights.tolist() == [3, 1]
    for one in batches(data, 4, seed=1):
        places = [int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for image in one[0]]
        assert one[2].tolist() == WEIGHTS[places].tolist()
    *_, last = padded_batches(data, 4)
    assert (last[2].tolist(), last[3].tolist()) == ([1, 1, 0, 0], [1, 2, 1, 1])
    with pytest.raises(DataError, match=r"weights float64 \(3,\), expected one number for each example, \(10,\)"):
        Dataset(images, LABELS, ("a", "b", "c"), weights=np.ones(3))
    with pytest.raises(DataError, match="weights from -1 to -1: expected finite numbers"):
        Examples(POINTS, LABELS, weights=-np.ones(10))


def test_fit_takes_weights_from_data_and_loaders(tmp_path: Path) -> None:
    """An example of weight 0 is not learned from, in memory and from a loader alike; the run knows the weights."""
    settings: dict[str, Any] = {"optimizer": optax.sgd(0.1), "epochs": 2, "batch_size": 10, "show": False}
    held = train.fit(NET, DATA, validation=DATA, run=tmp_path / "run", **settings)
    loader = Loader(lambda epoch: list(batches(DATA, 10, 0, epoch)))
    loaded = train.fit(NET, loader, validation=loader, **settings)
    others = np.where(WEIGHTS[:, None] > 0, POINTS, 100)
    zero = train.fit(NET, Examples(others, LABELS, weights=WEIGHTS), **settings)
    for other in (loaded, zero):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), other.params, held.params)
    assert loaded.history[-1]["validation_loss"] == pytest.approx(held.history[-1]["validation_loss"], rel=1e-6)
    expected = by_hand(held.state.params, WEIGHTS)
    assert held.history[-1]["validation_loss"] == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(UserError, match="the train data is not what the run began with"):
        train.fit(NET, Examples(POINTS, LABELS, DATA.classes), validation=DATA,
                  run=train.Run(tmp_path / "run", resume=True), **settings)  # fmt: skip


def test_class_weights_of_probabilities_and_of_yes_and_no() -> None:
    logits = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    soft = jax.nn.softmax(jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32))
    weighted = losses.class_weighted(losses.softmax_cross_entropy, CLASSES)
    np.testing.assert_allclose(weighted.weigh(soft), soft @ jnp.asarray(CLASSES), rtol=1e-6)
    np.testing.assert_allclose(
        weighted(logits, soft), losses.softmax_cross_entropy(logits, soft) * weighted.weigh(soft)
    )
    hard = jax.nn.one_hot(LABELS[:6], 3)
    np.testing.assert_allclose(weighted(logits, hard), weighted(logits, LABELS[:6]), rtol=1e-6)
    yes = losses.class_weighted(losses.sigmoid_cross_entropy, (1, 3))
    answers = jnp.array([0, 1, 1.0])
    np.testing.assert_allclose(yes.weigh(answers), [1, 3, 3])
    np.testing.assert_allclose(yes.weigh(answers.astype(int)), [1, 3, 3])
    pixels = jnp.array([[0, 1], [1, 1]])
    bits = jnp.asarray(RNG.normal(size=(2, 2)), jnp.float32)
    each = optax.sigmoid_binary_cross_entropy(bits, pixels)
    np.testing.assert_allclose(yes.each(bits, pixels), [(each[0, 0] + 3 * each[0, 1]) / 4, each[1].mean()], rtol=1e-6)
    np.testing.assert_allclose(yes.each(bits[..., None], pixels), yes.each(bits, pixels), rtol=1e-6)
    several = losses.class_weighted(losses.every_output(losses.softmax_cross_entropy, 0.5), CLASSES)
    np.testing.assert_allclose(several((logits, logits), LABELS[:6]), 1.5 * weighted(logits, LABELS[:6]), rtol=1e-6)
    maps, places = logits.reshape(2, 3, 3), LABELS[:6].reshape(2, 3)
    np.testing.assert_allclose(several((maps, maps), places), 1.5 * weighted(maps, places), rtol=1e-6)
    void = losses.class_weighted(cnn.segmentation.cross_entropy, CLASSES)  # type: ignore[attr-defined]
    np.testing.assert_allclose(void.weigh(jnp.array([[-1, 2], [0, 1]])), [2, 0.75])


@pytest.mark.parametrize(
    ("weights", "says"),
    [((1.0,), "a finite weight of 0 or more for each class"), ((1, -1), "0 or more"), ((0, 0), "0 or more"),
     ((1, np.nan), "finite")],
)  # fmt: skip
def test_weights_that_are_none(weights: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        losses.class_weighted(losses.softmax_cross_entropy, weights)


def test_what_weights_do_not_fit_is_said() -> None:
    weighted = losses.class_weighted(losses.softmax_cross_entropy, (1, 2))
    with pytest.raises(UserError, match="2 class weights for 3 classes"):
        train.fit(NET, DATA, weighted, epochs=1, show=False)
    with pytest.raises(UserError, match="labels 0, 2, 3 for 2 class weights"):
        weighted.weigh(np.array([0, 2, 3]))
    with pytest.raises(UserError, match=r"labels of shape \(4, 3\) for 2 class weights"):
        weighted.weigh(np.ones((4, 3), np.float32))
    with pytest.raises(UserError, match=r"labels of shape \(4, 3, 2\) for 2 class weights"):
        weighted.weigh(np.ones((4, 3, 2), np.float32))
    with pytest.raises(UserError, match=r"class_weighted\(every_output\(loss\), weights\)"):
        losses.every_output(weighted)
    with pytest.raises(UserError, match="has class weights already"):
        losses.class_weighted(weighted, (1, 2))
    with pytest.raises(UserError, match=r"got dict; cnn.data.Loader\(\.\.\., keys="):
        train.make_step(NET, partial(losses.softmax_cross_entropy), optax.sgd(1.0))(started(), {"image": 1, "label": 2})  # type: ignore[arg-type]
