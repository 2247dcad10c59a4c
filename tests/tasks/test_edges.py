"""HED and what belongs to it: boundaries, loss, matching, thinning, Sobel, against loops, SciPy and OpenCV."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same
from PIL import Image

import jaxcnn as cnn
from jaxcnn import boundaries
from jaxcnn.core import as_layer
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.hed import hed
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.edges.task import TASK

LABELS = np.random.default_rng(0).integers(-1, 3, (2, 6, 7)).astype(np.int32)


# --- boundaries of labels ----------------------------------------------------------------------------------------


def between_by_loops(labels):
    result = np.zeros(labels.shape, np.int32)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):

            def at(dy, dx, y=y, x=x):
                inside = 0 <= y + dy < height and 0 <= x + dx < width
                return labels[y + dy, x + dx] if inside else labels[y, x]

            ends = [at(0, 1), at(1, 0)]
            around = [*ends, at(0, -1), at(-1, 0), at(0, 0)]
            if at(0, 0) != -1 and any(other not in (-1, at(0, 0)) for other in ends):
                result[y, x] = 1
            elif -1 in around:
                result[y, x] = -1
    return result


def test_boundaries_are_where_the_label_changes():
    same(boundaries.between(LABELS), np.stack([between_by_loops(y) for y in LABELS]))
    halves = np.repeat([[0, 0, 0, 1, 1]], 3, 0)
    same(boundaries.between(halves), np.repeat(np.int32([[0, 0, 1, 0, 0]]), 3, 0))
    beside_void = np.array([[0, 0, 0, -1, 1, 1, 1]])
    same(boundaries.between(beside_void), np.int32([[0, 0, -1, -1, -1, 0, 0]]))


@pytest.mark.parametrize(("labels", "expected"), [(np.zeros((3, 4), int), 0), (np.full((3, 4), -1), -1)])
def test_one_class_has_no_boundary_and_void_is_ignored(labels, expected):
    assert (boundaries.between(labels) == expected).all()
    assert (boundaries.between(labels[:1, :1]) == expected).all()


def test_label_maps_of_another_form_are_refused():
    with pytest.raises(UserError, match=r"integer label maps \(\.\.\., H, W\), got float64"):
        boundaries.between(np.zeros((3, 3)))
    with pytest.raises(UserError, match=r"got int64 of shape \(3,\)"):
        boundaries.between(np.zeros(3, np.int64))


# --- the loss ----------------------------------------------------------------------------------------------------

TRUTH = np.random.default_rng(1).integers(-1, 2, (3, 5, 4))
LOGITS = 2 * normal(2, 3, 5, 4)
LOSS = boundaries.class_balanced_cross_entropy


def test_class_balanced_loss_is_equation_2():
    expected = []
    for o, y in zip(LOGITS.astype(np.float64), TRUTH, strict=True):
        p = 1 / (1 + np.exp(-o))
        positive, negative = y == 1, y == 0
        count = positive.sum() + negative.sum()
        beta = negative.sum() / count
        total = -beta * np.log(p[positive]).sum() - (1 - beta) * np.log(1 - p[negative]).sum()
        expected.append(total / count)
    close(jax.jit(LOSS)(LOGITS, TRUTH), np.array(expected))
    deep = cnn.losses.every_output(LOSS)((LOGITS, LOGITS, -LOGITS), TRUTH)
    close(deep, 2 * np.array(expected) + np.asarray(LOSS(-LOGITS, TRUTH)))


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_an_image_of_one_kind_has_no_loss_and_no_gradient(value):
    labels = jnp.full((1, 3, 3), value)
    for size in (1.0, 1e6):
        loss, slope = jax.value_and_grad(lambda o: LOSS(o, labels).sum())(jnp.full((1, 3, 3), size))
        assert loss == 0
        assert (slope == 0).all()


def test_extreme_logits_have_a_finite_loss():
    labels = jnp.array([[[1, 0]]])
    loss, slope = jax.value_and_grad(lambda o: LOSS(o, labels).sum())(jnp.array([[[-1e30, 1e30]]]))
    assert float(loss) == pytest.approx(0.5e30)
    close(slope, np.array([[[-0.25, 0.25]]]))


def test_the_loss_refuses_what_does_not_belong_together():
    with pytest.raises(UserError, match=r"should both be \(N, H, W\)"):
        LOSS(jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 4)))
    with pytest.raises(UserError, match="every_output"):
        LOSS((jnp.zeros((2, 3, 3)),) * 2, jnp.zeros((2, 3, 3)))


# --- matching ----------------------------------------------------------------------------------------------------


def lines(seed, *shape):
    """Scores of which some are 0, and truth with ignored pixels; not thin, so thinning has something to do."""
    rng = np.random.default_rng(seed)
    scores = rng.random(shape, np.float32) * (rng.random(shape) < 0.7)
    labels = rng.choice([0, 1, -1], shape, p=[0.8, 0.15, 0.05])
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.25])
def test_counts_are_those_of_scipys_distances(distance):
    ndimage = pytest.importorskip("scipy.ndimage")
    scores, labels = lines(3, 2, 17, 23)
    thresholds = np.float32([0.1, 0.5, 0.9])
    counts = boundaries.matches(scores, labels, distance, thresholds)
    thinned = np.where(labels == -1, 0, np.asarray(boundaries.thin(scores)))
    for n in range(2):
        true = labels[n] == 1
        to_truth = ndimage.distance_transform_edt(~true)
        assert counts["boundary"][n] == true.sum()
        for k, threshold in enumerate(thresholds):
            drawn = thinned[n] >= threshold
            to_drawn = ndimage.distance_transform_edt(~drawn)
            got = [float(counts[name][n, k]) for name in ("predicted", "right", "found")]
            assert got == [drawn.sum(), (drawn & (to_truth <= distance)).sum(), (true & (to_drawn <= distance)).sum()]


def test_one_to_one_is_the_largest_assignment():
    optimize = pytest.importorskip("scipy.optimize")
    scores, labels = lines(4, 2, 9, 11)
    thresholds = (0.2, 0.6)
    counts = boundaries.one_to_one(scores, labels, 1.5, thresholds)
    kind = boundaries.matches(jnp.asarray(scores), jnp.asarray(labels), 1.5, thresholds)
    same(counts["predicted"], np.asarray(kind["predicted"]))
    same(counts["boundary"], np.asarray(kind["boundary"]))
    thinned = np.where(labels == -1, 0, np.asarray(boundaries.thin(scores)))
    for n in range(2):
        for k, threshold in enumerate(thresholds):
            drawn, true = np.argwhere(thinned[n] >= threshold), np.argwhere(labels[n] == 1)
            near = np.hypot(*np.moveaxis(drawn[:, None] - true[None], -1, 0)) <= 1.5
            rows, columns = optimize.linear_sum_assignment(~near)
            assert counts["right"][n, k] == counts["found"][n, k] == near[rows, columns].sum()
            assert counts["right"][n, k] < kind["right"][n, k], "an example that shows no difference"


def test_a_perfect_and_a_shifted_line():
    labels = np.zeros((1, 12, 12), int)
    labels[0, :, 5] = 1
    for shift, distance, f in ((0, 2, 1), (2, 2, 1), (2, 1.9, 0), (3, 2, 0)):
        scores = jnp.asarray(np.roll(labels, shift, 2) * 0.75, jnp.float32)
        counts = boundaries.matches(scores, jnp.asarray(labels), distance, (0.5,))
        found = boundaries.best(jax.tree.map(lambda x: x.sum(0), counts), (0.5,))
        assert float(found["f"]) == f
        pairs = boundaries.one_to_one(scores, labels, distance, (0.5,))
        assert pairs["right"][0, 0] == 12 * f


def test_the_default_distance_is_the_benchmarks():
    labels = np.zeros((1, 30, 40), int)  # a diagonal of 50: 0.375 pixels
    labels[0, :, 20] = 1
    scores = jnp.asarray(np.roll(labels, 1, 2), jnp.float32)
    assert boundaries.matches(scores, labels, None, (0.5,))["right"].sum() == 0
    assert boundaries.matches(scores, labels, 1.0, (0.5,))["right"].sum() == 30


@pytest.mark.parametrize(
    ("score", "label", "expected"),  # f, precision, recall
    [(0.0, 0, (1, 1, 1)), (0.0, 1, (0, 1, 0)), (0.9, 0, (0, 0, 1)), (np.nan, 1, (0, 1, 0)), (0.9, -1, (1, 1, 1))],
)
def test_nothing_drawn_and_nothing_there(score, label, expected):
    """A line where there is none, none where there is one, neither, and all ignored."""
    scores, labels = np.zeros((1, 12, 12), np.float32), np.zeros((1, 12, 12), int)
    scores[0, :, 3], labels[0, :, 3] = score, label
    counts = boundaries.matches(jnp.asarray(scores), jnp.asarray(labels), 2, (0.5,))
    found = boundaries.best(jax.tree.map(lambda x: x.sum(0), counts), (0.5,))
    assert tuple(float(found[name]) for name in ("f", "precision", "recall")) == expected


def test_the_best_threshold_is_that_of_the_sum_over_images():
    scores, labels = lines(5, 4, 16, 16)
    logits = np.log(np.clip(scores, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(scores, 1e-6, 1 - 1e-6))
    metric = boundaries.boundary_f(1.0, thresholds=9)
    parts = [metric.each((jnp.asarray(logits[i : i + 2]),) * 2, jnp.asarray(labels[i : i + 2])) for i in (0, 2)]
    total = jax.tree.map(lambda a, b: np.float64(a).sum(0) + np.float64(b).sum(0), *parts)
    precision = total["right"] / total["predicted"]
    recall = total["found"] / total["boundary"]
    f = 2 * precision * recall / (precision + recall)
    got = metric.named("boundaries", total)
    k = f.argmax()
    assert set(got) == {"f", "precision", "recall", "threshold"}
    close([float(got[n]) for n in got], [float(v) for v in (f[k], precision[k], recall[k], (k + 1) / 10)])


def test_a_distance_below_0_is_refused():
    for count in (boundaries.matches, boundaries.one_to_one):
        with pytest.raises(UserError, match="distance=-1: expected 0"):
            count(jnp.zeros((1, 3, 3)), np.zeros((1, 3, 3), int), -1)


# --- thinning and Sobel ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0.0, 90.0, 45.0, 135.0, 20.0])
def test_a_thick_line_becomes_a_thin_one_in_its_middle(turn):
    y, x = np.mgrid[-15:16, -15:16]
    angle = np.deg2rad(turn)
    across = x * np.cos(angle) + y * np.sin(angle)
    ridge = np.exp(-0.5 * (across / 2) ** 2).astype(np.float32)[None]
    thinned = np.asarray(boundaries.thin(ridge))[0]
    inner = np.hypot(x, y) < 12
    assert set(np.unique(thinned[inner & (thinned > 0)] == ridge[0][inner & (thinned > 0)])) == {True}
    assert np.abs(across[inner & (thinned > 0)]).max() <= 0.75
    expected = 23 * max(abs(np.cos(angle)), abs(np.sin(angle)))  # one pixel in each row, or column
    assert 0.9 * expected <= (inner & (thinned > 0)).sum() <= 1.3 * expected


def test_thinning_keeps_one_of_two_equal_neighbours_and_nothing_of_a_plain():
    two = np.zeros((1, 9, 10), np.float32)
    two[0, :, 4:6] = 0.5
    assert (np.asarray(boundaries.thin(two)) > 0).sum(2).tolist() == [[1] * 9]
    assert (np.asarray(boundaries.thin(np.full((1, 5, 5), 0.5, np.float32)))[0, 1:-1, 1:-1] == 0).all()
    assert boundaries.thin(jnp.zeros((2, 1, 1))).shape == (2, 1, 1)


def test_sobel_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    images = np.random.default_rng(6).integers(0, 256, (2, 7, 9, 3), np.uint8)
    x = images.astype(np.float64) / 255

    def lengths(x):
        planes = np.moveaxis(x, -1, 1)
        each = [[[ndimage.sobel(p, axis, mode="nearest") for p in image] for image in planes] for axis in (0, 1)]
        return np.hypot(*np.array(each)).max(1) / np.sqrt(32)

    expected = lengths(x)
    close(boundaries.sobel(images), expected)
    close(boundaries.sobel(x.astype(np.float32)), expected)
    smooth = ndimage.gaussian_filter(x, (0, 1.5, 1.5, 0), mode="nearest", radius=(0, 5, 5, 0))
    close(boundaries.sobel(images, 1.5), lengths(smooth))
    with pytest.raises(UserError, match="sigma=-1"):
        boundaries.sobel(images, -1)


def test_sobel_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(7).random((6, 8), np.float32)
    across, down = (
        cv2.Sobel(image, cv2.CV_64F, *d, ksize=3, borderType=cv2.BORDER_REPLICATE) for d in ((1, 0), (0, 1))
    )
    close(boundaries.sobel(image[None, ..., None])[0], np.hypot(across, down) / np.sqrt(32))


def test_the_strongest_edge_there_is_has_1_at_most():
    corner = np.zeros((1, 4, 4, 1), np.uint8)
    corner[0, :2, :2] = 255
    assert 0.5 < float(boundaries.sobel(corner).max()) <= 1
    assert float(boundaries.sobel(np.full((1, 1, 1, 1), 9, np.uint8)).max()) == 0


def test_picture_is_dark_on_white():
    got = boundaries.picture(np.float32([[0, 1, 0.5, -1, 2]]))
    assert got.dtype == np.uint8
    assert got.tolist() == [[255, 0, 128, 224, 0]]


# --- the network -------------------------------------------------------------------------------------------------


def test_hed_has_the_papers_size_and_vggs_names():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, _ = jax.eval_shape(hed().init, jax.random.key(0), image)
    assert sum(x.size for x in jax.tree.leaves(params)) == 14_716_171
    trunk, _ = jax.eval_shape(cnn.models.vgg16().init, jax.random.key(0), image)
    shared = {name: variables for name, variables in trunk.items() if name.startswith("conv")}
    assert len(shared) == 13
    assert {name: params[name] for name in shared} == shared


@pytest.mark.parametrize("size", [(1, 1), (33, 18)])
def test_hed_answers_for_each_pixel_of_an_image_of_any_size(size):
    model = hed(width=2, sides=True)
    x = normal(8, 1, *size, 3)
    params, state = model.init(jax.random.key(0), x)
    params["side2"]["bias"] += 3.0  # before training all sides are 0
    outputs, _ = jax.jit(model.apply)(params, state, x)
    assert [o.shape for o in outputs] == [(1, *size)] * 6
    close(outputs[0], np.mean([np.asarray(o) for o in outputs[1:]], 0))  # the weights start at 1/5
    close(outputs[2], np.full((1, *size), 3.0))
    plain = hed(width=2)
    assert jax.eval_shape(plain.apply, params, state, x)[0].shape == (1, *size)
    assert len(jax.eval_shape(lambda: plain.apply(params, state, x, train=True))[0]) == 6


def test_a_side_output_lies_where_its_stage_looks():
    """A dot at one place: each stage's answer is strongest about there, not half a window away."""
    model = hed(width=1, sides=True)
    x = np.zeros((1, 64, 64, 1), np.float32)
    x[0, 40:44, 24:28] = 1.0
    params, state = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda w: jnp.full_like(w, 1 / w[..., 0].size) if w.ndim == 4 else w, params)
    for side in jax.jit(model.apply)(params, state, x)[0][1:4]:
        weights = np.asarray(side)[0] - np.asarray(side).min()
        middle = [np.average(np.arange(64), weights=weights.sum(axis)) for axis in (1, 0)]
        assert np.abs(np.array(middle) - (41.5, 25.5)).max() < 0.5


# --- the task ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Six frames: a bright rectangle of class 1 on class 0, in the segmentation reader's form."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1), ("test", 1)):
        (tmp_path / "camvid" / split).mkdir(parents=True)
        for i in range(count):
            label = np.zeros((20, 24), np.uint8)
            top, left = rng.integers(2, 8, 2)
            label[top : top + 9, left : left + 10] = 1
            image = np.where(label[..., None] == 1, 200, 60) + rng.integers(-20, 20, (20, 24, 3))
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "camvid" / split / f"{i}.png")
            Image.fromarray(label).save(tmp_path / "camvid" / split / f"{i}_label.png")
    return tmp_path


def test_the_task_reads_and_draws(folder, tmp_path):
    data = TASK.load(Recipe(data="camvid", data_dir=folder), "train")
    assert data.labels.shape == (4, 20, 24)
    assert set(np.unique(data.labels)) == {0, 1}
    test = TASK.load(Recipe(data="camvid", data_dir=folder, size=(16, 16)), "test")
    assert test.inputs.shape == (1, 16, 16, 3)
    assert set(TASK.objective(Recipe(), TASK.facts(Recipe(), data)).metrics) == {"boundaries"}
    model = as_layer(lambda x: x[..., 0] * 2)  # the redder, the likelier
    trained = cnn.train.Trained(model, {}, {}, cnn.data.Preprocess.of(data.inputs), (20, 24, 3), (), {})
    images = sorted(str(f) for f in (folder / "camvid" / "test").glob("?.png"))
    rows = TASK.predict(trained, images, tmp_path / "out")
    drawn = cnn.data.read_image(tmp_path / "out" / "0-boundaries.png")[..., 0]
    scores = jax.nn.sigmoid(trained.outputs(cnn.data.read_image(images[0])[None]))[0]
    assert np.abs(drawn.astype(int) - boundaries.picture(scores).astype(int)).max() <= 1
    assert rows[0]["size"] == [20, 24]
    assert "0-boundaries.png" in rows[0]["text"]
    with pytest.raises(DataError, match="there is no such file"):
        TASK.predict(trained, ["absent.png"], tmp_path)
