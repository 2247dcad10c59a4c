"""What is said before anything is trained or measured: labels a loss has no use for, images of other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import fit

import jaxcnn as cnn
from jaxcnn import boundaries, data, detection, losses, metrics, segmentation, train
from jaxcnn.data import Examples, Preprocess
from jaxcnn.errors import UserError

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(10, 4)).astype(np.float32)
CLASSES = np.arange(10, dtype=np.int32) % 3


def embedding() -> tuple[cnn.Layer, Any, Any]:
    model = cnn.serial(embed=cnn.dense(3))
    return (model, *model.init(jax.random.key(0), POINTS))


# --- the last batch ------------------------------------------------------------------------------------------------


def contrastive(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Each example against all others of its batch (Hadsell et al. 2006)."""
    apart = jnp.square(outputs[:, None] - outputs[None]).sum(-1)
    alike = labels[:, None] == labels[None]
    each = jnp.where(alike, apart, jnp.square(jnp.maximum(0, 1 - jnp.sqrt(apart + 1e-12))))
    return each.sum(1) / (len(outputs) - 1)


def by_hand(outputs: np.ndarray, labels: np.ndarray, size: int) -> float:
    """The same in float64 with loops."""
    total = 0.0
    for first in range(0, len(outputs), size):
        o, y = outputs[first : first + size].astype(np.float64), labels[first : first + size]
        for i in range(len(o)):
            others = 0.0
            for j in range(len(o)):
                apart = float(((o[i] - o[j]) ** 2).sum())
                others += apart if y[i] == y[j] else max(0, 1 - (apart + 1e-12) ** 0.5) ** 2
            total += others / (len(o) - 1)
    return total / len(outputs)


@pytest.mark.parametrize("size", [4, 10, 16])
def test_examples_that_are_compared_never_meet_copies(size: int) -> None:
    """Ten examples in batches of 4, 10 and 16. Float32 against float64: 1e-6 of the value."""
    model, params, state = embedding()
    outputs = np.asarray(model.apply(params, state, POINTS)[0])
    spread = {"spread": lambda o, y: jnp.abs(o - o.mean(0)).sum(1)}
    evaluate = train.make_evaluate(model, train.Objective(contrastive, metrics=spread), batch_size=size)
    found = evaluate(params, state, Examples(POINTS, CLASSES))
    assert found.metrics["loss"] == pytest.approx(by_hand(outputs, CLASSES, size), rel=1e-6)
    parts = [outputs[i : i + size].astype(np.float64) for i in range(0, 10, size)]
    expected = np.concatenate([np.abs(o - o.mean(0)).sum(1) for o in parts]).mean()
    assert found.metrics["spread"] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found.outputs, outputs, rtol=1e-6)


def test_a_metric_across_examples_is_enough() -> None:
    model, params, state = embedding()
    shifted = train.make_evaluate(
        model,
        train.Objective(losses.softmax_cross_entropy, metrics={"shift": lambda o, y: o[:, 0] - o[:, 0].mean() + y}),
        batch_size=8,
    )
    found = shifted(params, state, Examples(POINTS, CLASSES)).metrics["shift"]
    assert found == pytest.approx(CLASSES.mean(), abs=1e-6)  # each batch's deviations have the sum 0


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (losses.softmax_cross_entropy, [4]),
        (lambda o, y: losses.softmax_cross_entropy(o, y, smoothing=0.1), [4]),
        (losses.every_output(losses.multiclass_hinge), [4]),
        (losses.per_example(lambda o, y: o[:, 0] * y), [4]),
        (lambda o, y: o[:, 0] * y, [4, 2]),
        (lambda o, y: losses.softmax_cross_entropy(o - o.mean(0), y), [4, 2]),
        (lambda o, y: losses.softmax_cross_entropy(o, y) / len(o), [4, 2]),
    ],
)
def test_only_what_is_not_known_to_look_at_one_example_is_compiled_again(loss: Any, shapes: list[int]) -> None:
    traced: list[int] = []

    def preprocess(points: Any) -> Any:
        traced.append(len(points))
        return points

    model, params, state = embedding()
    evaluate = train.make_evaluate(model, train.Objective(loss, preprocess=preprocess), batch_size=4)
    for _ in range(2):
        evaluate(params, state, Examples(POINTS, CLASSES))
    assert traced == shapes


def test_a_loss_of_the_whole_batch_is_refused_in_an_evaluation() -> None:
    model, params, state = embedding()
    evaluate = train.make_evaluate(model, lambda o, y: losses.softmax_cross_entropy(o, y).mean())
    with pytest.raises(UserError, match="the loss gave one number for the batch"):
        evaluate(params, state, Examples(POINTS, CLASSES))


# --- labels --------------------------------------------------------------------------------------------------------

PIXELS = RNG.normal(size=(6, 5, 5, 2)).astype(np.float32)
VOID = np.where(RNG.random((6, 5, 5)) < 0.2, -1, RNG.integers(0, 3, (6, 5, 5))).astype(np.int32)
BINARY = (np.arange(10) % 2).astype(np.int32)
WRONG = {
    "void pixels": (cnn.conv(3, 1), PIXELS, VOID, losses.softmax_cross_entropy, "labels from -1 to 2 for 3 classes"),
    "through a function": (
        cnn.conv(3, 1), PIXELS, VOID, lambda o, y: losses.softmax_cross_entropy(o, y, 0.1), "labels from -1 to 2",
    ),
    "through several outputs": (
        cnn.conv(3, 1), PIXELS, VOID, losses.every_output(losses.softmax_cross_entropy), "labels from -1 to 2",
    ),
    "optax": (
        cnn.dense(3), POINTS, CLASSES - 1, optax.softmax_cross_entropy_with_integer_labels, "labels from -1 to 1",
    ),
    "counted from 1": (cnn.dense(3), POINTS, CLASSES + 1, losses.softmax_cross_entropy, "labels from 1 to 3 for 3"),
    "segmentation": (cnn.conv(2, 1), PIXELS, VOID, segmentation.cross_entropy, "labels from -1 to 2 for 2 classes"),
    "hinge": (cnn.dense(1), POINTS, BINARY, losses.hinge, "labels 0, 1: expected -1 or 1"),
    "sigmoid": (cnn.dense(1), POINTS, 2 * BINARY - 1, losses.sigmoid_cross_entropy, "labels -1, 1: expected 0 or 1"),
    "probabilities": (
        cnn.dense(2), POINTS, np.full((10, 2), 0.7, np.float32), losses.softmax_cross_entropy, "expected probabilities",
    ),
    "divergence": (
        cnn.dense(2), POINTS, np.full((10, 2), -0.5, np.float32), losses.kl_divergence, "expected probabilities",
    ),
    "boundaries": (
        cnn.serial(c=cnn.conv(1, 1), flat=lambda x: x[..., 0]), PIXELS, VOID,
        boundaries.class_balanced_cross_entropy, "boundary labels from -1 to 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_a_loss_has_no_use_for_are_refused_before_training(case: str, tmp_path: Path) -> None:
    model, inputs, labels, loss, says = WRONG[case]
    given = Examples(inputs, labels, name="given")
    settings: dict[str, Any] = {"loss": loss, "epochs": 1, "show": False, "metrics": {}}
    with pytest.raises(UserError, match=f"given: .*{says}"):
        fit(model, given, run=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    params, state = model.init(jax.random.key(0), inputs)
    with pytest.raises(UserError, match=f"given: .*{says}"):
        train.make_evaluate(model, train.Objective(loss, metrics={}), batch_size=4)(params, state, given)


def test_validation_and_test_are_looked_at_too(tmp_path: Path) -> None:
    right = Examples(POINTS, CLASSES, ("a", "b", "c"))
    for name in ("validation", "test"):
        wrong = Examples(POINTS, CLASSES - 1, name=name)
        with pytest.raises(UserError, match=f"{name}: labels from -1 to 1"):
            fit(cnn.dense(3), right, epochs=1, show=False, **{name: wrong})


def test_labels_that_a_loss_declares_or_knows_are_taken() -> None:
    """Void pixels, signs, truth values; and a loss of one's own that leaves -1 out."""

    def own(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(labels, 0))
        return jnp.where(labels < 0, 0, each).mean((1, 2))

    for model, inputs, labels, loss in (
        (cnn.conv(3, 1), PIXELS, VOID, segmentation.cross_entropy),
        (cnn.conv(3, 1), PIXELS, VOID, own),
        (cnn.dense(1), POINTS, 2 * BINARY - 1, losses.hinge),
        (cnn.dense(1), POINTS, BINARY.astype(bool), losses.sigmoid_cross_entropy),
        (cnn.dense(3), POINTS, np.eye(3, dtype=np.float32)[CLASSES], losses.kl_divergence),
    ):
        given = Examples(inputs, labels)
        found = fit(model, given, test=given, loss=loss, epochs=1, batch_size=5, show=False)
        assert np.isfinite(found.result["test_loss"])
        assert not any("accuracy" in name for name in found.result)  # -1 is none of the classes


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "says"),
    [
        (losses.hinge, (4,), [0, 1, 0, 1], "labels 0, 1: expected -1 or 1; convert labels 0 and 1 by 2 \\* labels - 1"),
        (losses.hinge, (4, 1), [-1, 1, 2, 1], "labels -1, 1, 2: expected -1 or 1"),
        (losses.sigmoid_cross_entropy, (4,), [-1, 1, 1, -1], "labels -1, 1: expected 0 or 1"),
        (losses.sigmoid_cross_entropy, (4,), [0.0, 2.0, 5.0, 7.0], "labels from 0 to 7: expected 0 or 1"),
        (losses.sigmoid_cross_entropy, (2,), [0.0, np.nan], "expected 0 or 1"),
        (losses.softmax_cross_entropy, (1, 3), [[0.5, 0.5, 0.5]], "sums over the classes are 1.5"),
        (losses.kl_divergence, (1, 3), [[1.5, -0.5, 0.0]], "expected probabilities"),
        (boundaries.class_balanced_cross_entropy, (1, 2, 2), [[[0, 1], [255, 1]]], "from 0 to 255: expected 1, 0, or"),
    ],
)
def test_losses_look_at_labels_that_they_see(loss: Any, outputs: tuple[int, ...], labels: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        loss(jnp.zeros(outputs), jnp.asarray(labels))


def test_objects_of_no_class_are_refused() -> None:
    from jaxcnn.models.fast_rcnn import Regions

    outputs = Regions(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 3, 4)), jnp.ones((1, 2, 4)))
    labels = {"boxes": np.ones((1, 2, 4), np.float32), "classes": np.array([[-1, 3]], np.int32)}
    with pytest.raises(UserError, match="objects of classes from -1 to 3 for 3 classes: expected 0 to 2, or -1"):
        detection.multi_task()(outputs, labels)


def test_measures_of_labels_outside_the_classes() -> None:
    """-1 is not the last class, and no cell of a confusion matrix."""
    outputs = jnp.asarray([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert metrics.accuracy(outputs, jnp.asarray([-1, 2, 3])).tolist() == [0, 1, 0]
    assert metrics.top_k(3)(outputs, jnp.asarray([-1, 2, 3])).tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="labels from -1 to 2: expected 0 to 2"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([-1, 2]), 3)
    with pytest.raises(UserError, match="predicted classes from 0 to 3: expected 0 to 2"):
        metrics.confusion_matrix(np.array([0, 3]), np.array([0, 2]), 3)


# --- images --------------------------------------------------------------------------------------------------------


def images(count: int = 12) -> np.ndarray:
    return RNG.integers(0, 256, (count, 6, 6, 1)).astype(np.uint8)


def test_images_of_other_values_than_were_learned_are_refused(tmp_path: Path) -> None:
    """Of 0 to 255 as floats, where a `Preprocess` makes 0 to 1 of uint8; it is said what is expected."""
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(3))
    learned = data.Dataset(images(), np.arange(12) % 3, ("a", "b", "c"))
    fitted = fit(model, learned, epochs=1, batch_size=4, show=False, run=tmp_path / "run")
    trained = train.Trained.load(tmp_path / "run", model)
    evaluate = train.make_evaluate(model, train.Objective(losses.softmax_cross_entropy, preprocess=fitted.preprocess))
    floats = learned.images.astype(np.float32)
    says = r"float32 from 0 to 25\d; expected floats from 0 to 1, or uint8 from 0 to 255"
    for ask in (
        lambda x: fitted.outputs(x), lambda x: fitted.probabilities(x), lambda x: trained.outputs(x),
        lambda x: trained.probabilities(x),
        lambda x: evaluate(fitted.params, fitted.model_state, Examples(x, learned.labels)),
        lambda x: fit(model, Examples(x, learned.labels), preprocess=fitted.preprocess, epochs=1, show=False),
        lambda x: fit(model, learned, test=Examples(x, learned.labels), epochs=1, show=False),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            ask(floats)
        with pytest.raises(UserError, match="the images are int32; expected uint8"):
            ask(learned.images.astype(np.int32))
        ask(floats / 255)


def test_values_a_little_beyond_and_values_unknown_are_taken() -> None:
    preprocess = Preprocess.of(images())
    x = images().astype(np.float32) / 255
    preprocess(x * 1.2 - 0.1)
    preprocess(jnp.where(x > 0.5, jnp.nan, x))  # what is not finite is another mistake
    jax.jit(preprocess)(255 * x)
    with pytest.raises(UserError, match="from -2"):
        preprocess((x - 0.5) * 4)
    with pytest.raises(UserError, match="int32"):
        jax.jit(preprocess)(images().astype(np.int32))
