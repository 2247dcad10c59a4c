"""Metrics of a whole dataset: against scikit-learn, in evaluations and as the metric that chooses the best epoch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as theirs

import jaxcnn as cnn
from jaxcnn import metrics, train
from jaxcnn.data import Examples
from jaxcnn.devices import DataParallel
from jaxcnn.errors import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 50).astype(np.int32)
LABELS[LABELS == 3] = 2  # a class without labels
# Rounded, so that some scores are equal.
LOGITS = np.round(RNG.normal(size=(50, 4)) + 1.5 * np.eye(4)[LABELS], 1).astype(np.float32)
YES = (RNG.random(50) < 0.3).astype(np.int32)
PASS = cnn.Layer(lambda key, x: ({}, {}), lambda params, state, x, **_: (x, state))


def measured(metric: Any, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """In padded batches of 16 of a set of 50."""
    objective = train.Objective(lambda o, y: jnp.zeros(len(o)), {"m": metric})
    found = train.make_evaluate(PASS, objective, batch_size=16)({}, {}, Examples(outputs, labels), keep=False).metrics
    return {name: value for name, value in found.items() if name != "loss"}


def softmax(x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(x))


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1_is_scikit_learn_s(average: Any) -> None:
    found = measured(metrics.f1(average), LOGITS, LABELS)
    expected = theirs.f1_score(LABELS, LOGITS.argmax(1), average=average)
    assert found == {"m": pytest.approx(expected, abs=1e-12)}


def test_f1_of_each_class_of_two_and_of_pixels() -> None:
    expected = theirs.f1_score(LABELS, LOGITS.argmax(1), average=None, labels=range(4), zero_division=0)
    found = measured(metrics.f1("none", "abcd"), LOGITS, LABELS)
    assert found == {f"f1_{name}": pytest.approx(value) for name, value in zip("abcd", expected, strict=True)}
    assert found["f1_d"] == 0
    assert "f1_3" in measured(metrics.f1("none"), LOGITS, LABELS)
    binary = theirs.f1_score(YES, LOGITS[:, 0] > 0)
    for logits in (LOGITS[:, 0], LOGITS[:, :1]):
        assert measured(metrics.f1(), logits, YES) == {"m": pytest.approx(binary)}
    pixels = LABELS.reshape(10, 5).copy()
    pixels[:, 0] = -1
    there = pixels.ravel() >= 0
    expected = theirs.f1_score(LABELS[there], LOGITS.argmax(1)[there], average="macro")
    assert measured(metrics.f1(), LOGITS.reshape(10, 5, 4), pixels) == {"m": pytest.approx(expected)}
    with pytest.raises(UserError, match="f1: 2 names of classes for 4 classes"):
        measured(metrics.f1("none", "ab"), LOGITS, LABELS)
    with pytest.raises(UserError, match="expected 'macro', 'micro', 'weighted' or 'none'"):
        metrics.f1("binary")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "of_sklearn"),
    [(metrics.auroc(), theirs.roc_auc_score), (metrics.average_precision(), theirs.average_precision_score)],
    ids=["auroc", "average precision"],
)
def test_areas_are_scikit_learn_s(ours: Any, of_sklearn: Any) -> None:
    """Scores in float32, sums in float64; equal scores are among them."""
    assert len(np.unique(LOGITS[:, 0])) < 40
    for logits in (LOGITS[:, 0], LOGITS[:, :1], np.stack([-LOGITS[:, 0] / 2, LOGITS[:, 0] / 2], 1)):
        expected = of_sklearn(YES, logits.reshape(50, -1)[:, -1])
        assert measured(ours, logits, YES) == {"m": pytest.approx(expected, abs=1e-6)}
    several = (LOGITS + RNG.normal(size=LOGITS.shape) > 0.5).astype(np.int32)
    assert measured(ours, LOGITS, several) == {
        "m": pytest.approx(of_sklearn(several, LOGITS, average="macro"), abs=1e-6)
    }
    each = [of_sklearn(k == LABELS, softmax(LOGITS)[:, k]) for k in range(3)]  # the last class does not occur
    assert measured(ours, LOGITS, LABELS) == {"m": pytest.approx(np.mean(each), abs=1e-6)}
    assert np.isnan(measured(ours, LOGITS[:, 0], np.ones(50, np.int32))["m"])
    with pytest.raises(UserError, match=r"expected \(N, K\) and \(N,\)"):
        measured(ours, LOGITS.reshape(10, 5, 4), LABELS.reshape(10, 5))


def test_the_mean_over_classes_is_scikit_learn_s() -> None:
    scores, labels = LOGITS[:, :3], np.clip(LABELS, 0, 2)
    expected = theirs.roc_auc_score(labels, softmax(scores), multi_class="ovr", average="macro")
    assert measured(metrics.auroc(), scores, labels) == {"m": pytest.approx(expected, abs=1e-6)}


def test_a_metric_of_the_whole_set_sees_each_example_once_in_order() -> None:
    seen: list[Any] = []

    def both(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        seen.append((outputs, labels))
        return {"low": outputs.min(), "high": outputs.max()}

    whole = metrics.WholeSet(both, lambda outputs, labels: (outputs[:, 1], labels), ("low", "high"))
    found = measured(whole, LOGITS, LABELS)
    assert found == {"low": pytest.approx(LOGITS[:, 1].min()), "high": pytest.approx(LOGITS[:, 1].max())}
    np.testing.assert_array_equal(seen[0][0], LOGITS[:, 1])
    np.testing.assert_array_equal(seen[0][1], LABELS)


def test_it_chooses_the_best_epoch() -> None:
    """Ascent after descent: the middle epoch is the best by AUROC, which no step measures."""
    x = RNG.normal(size=(40, 2)).astype(np.float32)
    data = Examples(x, (x[:, 0] > 0).astype(np.int32))
    rate = optax.sgd(lambda count: jnp.where(count < 4, 0.5, -2.0))
    objective = train.Objective(
        metrics={"auroc": metrics.auroc(), "f1": metrics.f1()}, primary="auroc", higher_is_better=True
    )
    found = train.fit(
        cnn.serial(head=cnn.dense(2)), data, objective, validation=data, test=data, epochs=4, batch_size=20,
        optimizer=rate, show=False,
    )  # fmt: skip
    values = [record["validation_auroc"] for record in found.history]
    assert found.result["best_epoch"] == 1 + int(np.argmax(values))
    assert max(values) > values[-1]
    assert "auroc" not in found.history[0]
    assert found.history[0]["f1"] > 0
    assert found.result["test_auroc"] == max(values)
    assert found.test is not None
    expected = theirs.roc_auc_score(data.labels, found.test.outputs[:, 1] - found.test.outputs[:, 0])
    assert found.result["test_auroc"] == pytest.approx(expected, abs=1e-6)
    one = DataParallel(1)
    evaluate = train.make_evaluate(found.model, objective, batch_size=16, devices=one)
    assert evaluate(*one.whole((found.params, {})), data).metrics["auroc"] == max(values)
