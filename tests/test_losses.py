"""Losses and measures against their formulas in NumPy, and their gradients against those the lectures state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn import losses, metrics
from jaxcnn.errors import UserError

LOGITS = 3 * normal(0, 7, 5, dtype=np.float64)
CLASSES = np.random.default_rng(1).integers(0, 5, 7)
TARGETS = np.random.default_rng(2).dirichlet(np.ones(5), 7)
PIXELS = normal(3, 2, 3, 4, 5, dtype=np.float64)  # a score for each pixel and class
PIXEL_CLASSES = np.random.default_rng(4).integers(0, 5, (2, 3, 4))
SCORES = 2 * normal(5, 9, dtype=np.float64)
BINARY = np.random.default_rng(6).integers(0, 2, 9)
SIGNS = 2 * BINARY - 1
BOXES, TRUE_BOXES = 2 * normal(7, 6, 4, dtype=np.float64), normal(8, 6, 4, dtype=np.float64)


def softmax(o):
    p = np.exp(o - o.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def sigmoid(o):
    return 1 / (1 + np.exp(-o))


def nll(o, y):
    return -np.log(np.take_along_axis(softmax(o), y[..., None], -1))[..., 0]


def crammer_singer(o, y):
    own = np.take_along_axis(o, y[..., None], -1)
    wrong = np.where(np.arange(o.shape[-1]) == y[..., None], -np.inf, o)
    return np.maximum(0, 1 + wrong.max(-1) - own[..., 0])


def huber(d):
    return np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5)


VALUES = {
    "softmax_cross_entropy": (losses.softmax_cross_entropy, LOGITS, CLASSES, nll(LOGITS, CLASSES)),
    "softmax_cross_entropy, pixels": (
        losses.softmax_cross_entropy, PIXELS, PIXEL_CLASSES, nll(PIXELS, PIXEL_CLASSES).mean((1, 2)),
    ),
    "softmax_cross_entropy, probabilities": (
        losses.softmax_cross_entropy, LOGITS, TARGETS, -(TARGETS * np.log(softmax(LOGITS))).sum(1),
    ),
    "sigmoid_cross_entropy": (
        losses.sigmoid_cross_entropy, SCORES, BINARY,
        -BINARY * np.log(sigmoid(SCORES)) - (1 - BINARY) * np.log(sigmoid(-SCORES)),
    ),
    "sigmoid_cross_entropy, a column": (
        losses.sigmoid_cross_entropy, SCORES[:, None], BINARY,
        -BINARY * np.log(sigmoid(SCORES)) - (1 - BINARY) * np.log(sigmoid(-SCORES)),
    ),
    "hinge": (losses.hinge, SCORES, SIGNS, np.maximum(0, 1 - SIGNS * SCORES)),
    "hinge, a column": (losses.hinge, SCORES[:, None], SIGNS, np.maximum(0, 1 - SIGNS * SCORES)),
    "multiclass_hinge": (losses.multiclass_hinge, LOGITS, CLASSES, crammer_singer(LOGITS, CLASSES)),
    "l1": (losses.l1, BOXES, TRUE_BOXES, np.abs(BOXES - TRUE_BOXES).sum(1)),
    "l2": (losses.l2, BOXES, TRUE_BOXES, ((BOXES - TRUE_BOXES) ** 2).sum(1)),
    "l2, a column": (losses.l2, SCORES[:, None], BINARY, (SCORES - BINARY) ** 2),
    "smooth_l1": (losses.smooth_l1, BOXES, TRUE_BOXES, huber(BOXES - TRUE_BOXES).sum(1)),
    "zero_one": (losses.zero_one, LOGITS, CLASSES, (LOGITS.argmax(1) != CLASSES).astype(float)),
    "kl_divergence": (
        losses.kl_divergence, LOGITS, TARGETS, (TARGETS * np.log(TARGETS / softmax(LOGITS))).sum(1),
    ),
    "accuracy": (metrics.accuracy, LOGITS, CLASSES, (LOGITS.argmax(1) == CLASSES).astype(float)),
    "accuracy, probabilities": (
        metrics.accuracy, LOGITS, softmax(-LOGITS[::-1]), (LOGITS.argmax(1) == LOGITS[::-1].argmin(1)).astype(float),
    ),
    "accuracy, pixels": (
        metrics.accuracy, PIXELS, PIXEL_CLASSES, (PIXELS.argmax(-1) == PIXEL_CLASSES).mean((1, 2)),
    ),
    "error": (metrics.error, LOGITS, CLASSES, (LOGITS.argmax(1) != CLASSES).astype(float)),
    "binary_accuracy": (metrics.binary_accuracy, SCORES, BINARY, ((SCORES > 0) == BINARY).astype(float)),
    "binary_accuracy, signs": (
        metrics.binary_accuracy, SCORES[:, None], SIGNS, ((SCORES > 0) == BINARY).astype(float),
    ),
    "top 3": (
        metrics.top_k(3), LOGITS, CLASSES, (np.argsort(-LOGITS, 1)[:, :3] == CLASSES[:, None]).any(1).astype(float),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_value_is_the_formula(case):
    function, outputs, labels, expected = VALUES[case]
    o, y = jnp.asarray(outputs, jnp.float32), jnp.asarray(labels)
    assert len(set(np.round(expected, 3))) > 1, "a case whose answer is a constant shows nothing"
    close(function(o, y), expected)
    close(jax.jit(function)(o, y), expected)


def test_every_loss_and_metric_has_a_case():
    public = [n for room in (losses, metrics) for n, v in vars(room).items()
              if callable(v) and v.__module__ == room.__name__ and not n.startswith("_")]  # fmt: skip
    elsewhere = {"top_k", "l2_penalty", "confusion_matrix", "generalization_gap", "every_output", "are_probabilities"}
    elsewhere |= {"Summed", "check_classes", "name_of", "shown", "is_share"}
    elsewhere |= {"WholeSet", "Weighted", "class_weighted", "in_training", "f1", "auroc", "average_precision"}
    elsewhere |= {"nt_xent", "negative_cosine"}  # of pairs: below
    assert set(public) == {case.split(",")[0] for case in VALUES} - {"top 3"} | elsewhere


# --- the gradients of the lectures -------------------------------------------------------------------------------


def gradient(loss, outputs, labels):
    return jax.grad(lambda o: loss(o, jnp.asarray(labels)).sum())(jnp.asarray(outputs, jnp.float32))


def test_logistic_regression_gradient_is_minus_the_error_times_the_input():
    x, theta = normal(0, 9, 4, dtype=np.float64), normal(1, 4, dtype=np.float64)
    y = BINARY
    got = jax.grad(lambda t: losses.sigmoid_cross_entropy(jnp.asarray(x, jnp.float32) @ t, jnp.asarray(y)).sum())(
        jnp.asarray(theta, jnp.float32)
    )
    close(got, -((y - sigmoid(x @ theta))[:, None] * x).sum(0))


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "expected"),
    [
        (losses.softmax_cross_entropy, LOGITS, CLASSES, softmax(LOGITS) - np.eye(5)[CLASSES]),
        (losses.kl_divergence, LOGITS, TARGETS, softmax(LOGITS) - TARGETS),
        (losses.sigmoid_cross_entropy, SCORES, BINARY, sigmoid(SCORES) - BINARY),
        # Each piece, and no kink among the points.
        (losses.hinge, [2.0, 0.5, -3.0, 2.0, -0.5, -3.0], [1, 1, 1, -1, -1, -1], [0, -1, -1, 1, 1, 0]),
        (losses.multiclass_hinge, [[3.0, 1, 0], [3, 2.5, 0]], [0, 0], [[0, 0, 0], [-1, 1, 0]]),
        (losses.smooth_l1, [[-3.0, -0.25, 0.0, 0.5, 7.0]], [[0.0] * 5], [[-1, -0.25, 0, 0.5, 1]]),
        (losses.l1, [[-3.0, 0.5]], [[0.0, 0.0]], [[-1, 1]]),
        (losses.l2, [[-3.0, 0.5]], [[0.0, 1.0]], [[-6, -1]]),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)  # fmt: skip
def test_gradient_by_the_outputs(loss, outputs, labels, expected):
    close(gradient(loss, outputs, labels), np.asarray(expected))


def test_backpropagation_through_the_lectures_small_circuit():
    assert jax.grad(lambda x, y, z: (x + y) * z, (0, 1, 2))(-2.0, 5.0, -4.0) == (-4, -4, 3)


def test_activations_have_the_derivatives_of_the_lectures():
    x = jnp.linspace(-6, 6, 25)
    g = sigmoid(np.linspace(-6, 6, 25))
    close(jax.vmap(jax.grad(cnn.sigmoid))(x), g * (1 - g))
    assert [float(jax.grad(cnn.relu)(v)) for v in (-1.0, 0.0, 1.0)] == [0, 0, 1]


def test_cross_entropy_is_kl_divergence_plus_the_entropy_of_the_labels():
    cross_entropy = -(TARGETS * np.log(softmax(LOGITS))).sum(1)
    entropy = -(TARGETS * np.log(TARGETS)).sum(1)
    close(losses.kl_divergence(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS)) + entropy, cross_entropy)
    # One-hot labels have no entropy: the two are the same number.
    o, one_hot = jnp.asarray(LOGITS, jnp.float32), jnp.eye(5)[CLASSES]
    close(losses.kl_divergence(o, one_hot), np.asarray(losses.softmax_cross_entropy(o, jnp.asarray(CLASSES))))


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(size):
    o, y = jnp.array([[size, -size, 0.0]]), jnp.array([1])
    assert float(losses.softmax_cross_entropy(o, y)[0]) == pytest.approx(2 * size)
    assert float(losses.sigmoid_cross_entropy(o[:, 0], jnp.array([0]))[0]) == pytest.approx(size)
    close(gradient(losses.softmax_cross_entropy, o, y), np.array([[1.0, -1, 0]]))
    close(gradient(losses.sigmoid_cross_entropy, o[:, 0], [0]), np.array([1.0]))


def test_l2_penalty_takes_kernels_only():
    params = {"conv": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)}, "bn": {"scale": jnp.ones(4)}}
    assert float(losses.l2_penalty(params)) == 24
    assert float(losses.l2_penalty({"bn": {"scale": jnp.ones(4)}})) == 0
    close(jax.grad(losses.l2_penalty)(params)["conv"], {"kernel": np.full((2, 3), 4.0), "bias": np.zeros(3)})


# --- what cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.multiclass_hinge, losses.zero_one])
@pytest.mark.parametrize(
    ("outputs", "labels", "says"),
    [
        ((2, 3), np.array([0, 3]), "labels from 0 to 3 for 3 classes: expected 0 to 2"),
        ((2, 3), np.array([-1, 2]), "labels from -1 to 2 for 3 classes"),
        ((2, 3), np.array([0.0, 1.0]), "integer classes, got float"),
        ((2, 3), np.eye(4)[:2], "integer classes, got float"),
        ((2, 3), np.array([0, 1, 2]), "do not fit together"),
        ((2, 3), np.array([[0], [1]]), "do not fit together"),
        ((2,), np.array([0, 1]), "do not fit together"),
    ],
)
def test_labels_that_are_no_classes_are_refused(loss, outputs, labels, says):
    for y in (labels, jnp.asarray(labels)):
        with pytest.raises(UserError, match=says):
            loss(jnp.zeros(outputs), y)
        with pytest.raises(UserError, match=says):  # labels that a jitted function closes over are looked at as well
            jax.jit(lambda o, y=y: loss(o, y))(jnp.zeros(outputs))


def test_labels_closed_over_by_a_jitted_function_are_fine():
    y = jnp.array([0, 2])
    close(jax.jit(lambda o: losses.softmax_cross_entropy(o, y))(jnp.zeros((2, 3))), np.log([3.0, 3.0]))


@pytest.mark.parametrize("loss", [losses.sigmoid_cross_entropy, losses.hinge, losses.l1, losses.l2, losses.smooth_l1])
@pytest.mark.parametrize(("outputs", "labels"), [((4, 2), (4,)), ((4,), (4, 1)), ((4, 3), (4, 2)), ((4,), (3,))])
def test_shapes_that_would_broadcast_are_refused(loss, outputs, labels):
    with pytest.raises(UserError, match="same shape"):
        loss(jnp.zeros(outputs), jnp.zeros(labels))


def test_kl_divergence_refuses_targets_of_another_shape():
    with pytest.raises(UserError, match="same shape"):
        losses.kl_divergence(jnp.zeros((3, 3)), jnp.ones(3))


# --- measures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "label", "found"),  # found: in how many best ones the label is, first at 1; None for never
    [
        ([3, 1, 2], 0, 1),
        ([3, 1, 2], 2, 2),
        ([3, 1, 2], 1, 3),
        ([1, 1, 1], 0, 1),  # ties are won by the lower class
        ([1, 1, 1], 2, 3),
        ([np.inf, 0, 0], 0, 1),
        ([-np.inf, 0, 0], 0, 3),
        ([np.nan, 1, 0], 1, 2),  # as for argmax, a NaN comes first
        ([np.nan, 1, 0], 0, None),  # but it is never right
        ([np.nan] * 3, 0, None),
    ],
)
def test_top_k_counts_ties_and_nan_as_argmax_orders_them(outputs, label, found):
    o, y = jnp.array([outputs], jnp.float32), jnp.array([label])
    got = [float(metrics.top_k(k)(o, y)[0]) for k in (1, 2, 3, 5)]
    assert got == [float(found is not None and found <= k) for k in (1, 2, 3, 5)]
    if not np.isnan(outputs[label]):
        assert float(metrics.accuracy(o, y)[0]) == float(int(o.argmax()) == label)
    assert float(metrics.error(o, y)[0]) == 1 - got[0]


def test_confusion_matrix_counts_each_pair():
    got = metrics.confusion_matrix(np.array([0, 1, 1, 2, 1]), np.array([0, 1, 2, 2, 2]), 3)
    assert got.tolist() == [[1, 0, 0], [0, 1, 0], [0, 2, 1]]
    pixels = metrics.confusion_matrix(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [0, 1]]), 2)
    assert pixels.tolist() == [[1, 1], [0, 2]]
    predicted, labels = np.random.default_rng(0).integers(0, 4, (2, 100))
    matrix = metrics.confusion_matrix(predicted, labels, 4)
    assert matrix.sum() == 100
    assert np.trace(matrix) == (predicted == labels).sum()
    assert matrix.sum(1).tolist() == np.bincount(labels, minlength=4).tolist()


def test_generalization_gap_is_test_minus_training():
    assert metrics.generalization_gap(0.25, 1.0) == 0.75


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_smoothed_labels(share):
    """-sum of q log p with q = (1 - s) y + s / K, in float64; of classes and of their one-hot form."""
    outputs, labels = normal(3, 5, 4), np.array([0, 3, 1, 2, 3])
    o = outputs.astype(np.float64)
    logs = o - np.log(np.exp(o).sum(1, keepdims=True))
    q = (1 - share) * np.eye(4)[labels] + share / 4
    close(losses.softmax_cross_entropy(outputs, labels, share), -(q * logs).sum(1))
    close(losses.softmax_cross_entropy(outputs, np.eye(4, dtype=np.float32)[labels], share), -(q * logs).sum(1))
    with pytest.raises(UserError, match=r"smoothing=-0\.1: expected a number"):
        losses.softmax_cross_entropy(outputs, labels, -0.1)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_equation_1_of_simclr(temperature):
    """In float64 with loops; and finite, with finite gradients, for large embeddings and for zeros."""
    first, second = normal(0, 5, 3), normal(1, 5, 3)
    z = np.concatenate([first, second]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.exp(z @ z.T / temperature)
    each = [-np.log(scores[i, (i + 5) % 10] / (scores[i].sum() - scores[i, i])) for i in range(10)]
    close(losses.nt_xent(temperature)((first, second), None), (np.array(each[:5]) + each[5:]) / 2)
    slope = jax.grad(lambda pair: losses.nt_xent(temperature)(pair, None).mean())((0 * first, 1e4 * second))
    assert all(np.isfinite(g).all() for g in slope)
    with pytest.raises(UserError, match="expected a number above 0"):
        losses.nt_xent(0)


def test_negative_cosine_is_a_distance_on_the_sphere():
    prediction, target = normal(0, 5, 3), normal(1, 5, 3)
    p, z = (x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (prediction, target))
    close(losses.negative_cosine((prediction, target), None), ((p - z) ** 2).sum(1))
    slope = jax.grad(lambda pair: losses.negative_cosine(pair, None).mean())((prediction, target))
    assert np.abs(slope[0]).max() > 0.01
    assert np.abs(slope[1]).max() == 0
