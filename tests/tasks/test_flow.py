"""Optical flow: correlation, warping, random flows, loss and measure, pictures and files, FlowNet, its task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same
from PIL import Image

import jaxcnn as cnn
from jaxcnn import flow
from jaxcnn.core import LayerError, as_layer
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.flownet import flownet_c, flownet_s
from jaxcnn.ops.correlation import correlation
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.flow.task import TASK

# --- correlation -------------------------------------------------------------------------------------------------


def correlation_by_loops(first, second, displacement, stride):
    n, height, width, _ = first.shape
    steps = range(-(displacement // stride) * stride, displacement + 1, stride)
    result = np.zeros((n, height, width, len(steps) ** 2))
    for y in range(height):
        for x in range(width):
            for k, (dy, dx) in enumerate((dy, dx) for dy in steps for dx in steps):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    result[:, y, x, k] = (first[:, y, x] * second[:, y + dy, x + dx]).mean(-1)
    return result


@pytest.mark.parametrize(
    ("shape", "displacement", "stride"),
    [((2, 5, 4, 3), 2, 1), ((1, 6, 7, 2), 4, 2), ((1, 6, 5, 2), 3, 2), ((1, 3, 3, 2), 0, 1), ((1, 1, 2, 1), 3, 3)],
)
def test_correlation_is_the_loop(shape, displacement, stride):
    """Also a displacement that is no multiple of the stride, none, and one that is larger than the image."""
    first, second = normal(0, *shape), normal(1, *shape)
    got = correlation(first, second, displacement, stride)
    close(got, correlation_by_loops(first.astype(np.float64), second.astype(np.float64), displacement, stride))


def test_gradient_of_correlation():
    first, second, weights = normal(0, 1, 3, 4, 2), normal(1, 1, 3, 4, 2), normal(2, 1, 3, 4, 9)
    got = jax.grad(lambda a, b: (correlation(a, b, 1) * weights).sum(), (0, 1))(first, second)
    # The correlation is linear in each of its images: its gradient is what each pixel of it alone gives.
    for index, own in enumerate(got):
        expected = np.zeros_like(own, np.float64)
        for place in np.ndindex(own.shape):
            one = np.zeros_like(own, np.float64)
            one[place] = 1
            pair = (one, second) if index == 0 else (first, one)
            expected[place] = (correlation_by_loops(*pair, 1, 1) * weights).sum()
        close(own, expected)


def test_correlation_refuses_what_does_not_belong_together():
    x = jnp.zeros((1, 3, 3, 2))
    with pytest.raises(UserError, match="two images"):
        correlation(x, x[..., :1], 1)
    for displacement, stride in ((-1, 1), (1, 0)):
        with pytest.raises(UserError, match="at least"):
            correlation(x, x, displacement, stride)


# --- warping and moving ------------------------------------------------------------------------------------------


def sampled(image, x, y):
    """The image at one real place by the definition: a weighted sum over all pixels, edges repeated."""
    height, width, _ = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    rows = np.maximum(0, 1 - np.abs(np.arange(height) - y))
    columns = np.maximum(0, 1 - np.abs(np.arange(width) - x))
    return np.einsum("y,x,yxc->c", rows, columns, image)


def test_warping_samples_bilinearly():
    images = normal(0, 2, 5, 6, 3)
    moves = 3 * normal(1, 2, 5, 6, 2)
    moves[0, 0, 0], moves[1, 2, 3] = (1e6, -1e6), (2.0, -1.0)
    expected = np.array([
        [[sampled(image, x + move[y, x, 0], y + move[y, x, 1]) for x in range(6)] for y in range(5)]
        for image, move in zip(images.astype(np.float64), moves.astype(np.float64), strict=True)
    ])  # fmt: skip
    close(flow.warp(images, moves), expected)
    same(np.asarray(flow.warp(images, np.zeros_like(moves))), images)


def test_warping_one_pixel_and_unknown_flow():
    assert float(flow.warp(np.full((1, 1, 1, 1), 7.0), np.full((1, 1, 1, 2), 0.5))[0, 0, 0, 0]) == 7
    unknown = np.zeros((1, 2, 2, 2))
    unknown[0, 0, 1, 1] = np.nan
    got = np.asarray(flow.warp(np.ones((1, 2, 2, 1)), unknown))[0, ..., 0]
    same(np.isnan(got), np.array([[False, True], [False, False]]))
    with pytest.raises(UserError, match=r"need a flow \(1, 2, 2, 2\)"):
        flow.warp(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 3, 2)))


def test_the_first_image_is_the_second_where_the_flow_leads():
    second = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    flows = flow.random_flows(jax.random.key(1), 3, (24, 32), 6.0)
    first, labels = flow.moved(second, flows)
    assert first.dtype == jnp.uint8
    known = np.isfinite(np.asarray(labels)).all(-1)
    assert 0.3 < known.mean() < 1
    again = np.asarray(flow.warp(second, labels))
    assert np.abs(again - np.asarray(first, np.float64))[known].max() <= 0.5 + 1e-3  # grey levels are whole
    exact, _ = flow.moved(second / np.float32(255), flows)
    same(np.asarray(exact)[known], np.asarray(flow.warp(second / np.float32(255), labels))[known])
    # Known is what stays inside of the second image.
    x, y = np.asarray(flows[..., 0]) + np.arange(32), np.asarray(flows[..., 1]) + np.arange(24)[:, None]
    same(known, (x >= 0) & (x <= 31) & (y >= 0) & (y <= 23))


def test_a_shift_by_whole_pixels_is_a_shift():
    second = normal(3, 1, 6, 7, 1)
    first, labels = flow.moved(second, np.broadcast_to(np.float32([2, -1]), (1, 6, 7, 2)))
    same(np.asarray(first)[:, 1:, :5], second[:, :5, 2:])  # first(x, y) = second(x + 2, y - 1)
    known = np.isfinite(np.asarray(labels)).all(-1)[0]
    assert known[1:, :5].all()
    assert not known[0].any()
    assert not known[:, 5:].any()


def test_random_flows_are_smooth_bounded_and_repeatable():
    flows = np.asarray(flow.random_flows(jax.random.key(0), 16, (40, 48), 5.0))
    assert flows.dtype == np.float32
    same(flows, np.asarray(flow.random_flows(jax.random.key(0), 16, (40, 48), 5.0)))
    assert not np.allclose(flows, flow.random_flows(jax.random.key(1), 16, (40, 48), 5.0))
    longest = np.hypot(flows[..., 0], flows[..., 1]).max((1, 2))
    assert 3 < longest.max() <= 5.001
    assert longest.min() < 2
    for axis in (1, 2):
        assert np.abs(np.diff(flows, axis=axis)).max() < 1.5  # no jumps: neighbours move alike
    assert np.asarray(flow.random_flows(jax.random.key(0), 2, (1, 1), 0.0)).tolist() == [[[[0, 0]]]] * 2
    with pytest.raises(UserError, match="largest=-1"):
        flow.random_flows(jax.random.key(0), 1, (2, 2), -1)


def test_moved_windows_are_parts_of_the_frames():
    frames = np.arange(3 * 9 * 8).reshape(3, 9, 8, 1).astype(np.uint8)
    data = flow.moved_windows(frames, (4, 5), seed=3, each=2, largest=2.0)
    first, second = data.inputs
    assert first.shape == second.shape == (6, 4, 5, 1)
    assert data.labels.shape == (6, 4, 5, 2)
    for i, window in enumerate(second):
        places = [(y, x) for y in range(6) for x in range(4) if (frames[i % 3, y : y + 4, x : x + 5] == window).all()]
        assert len(places) == 1
    same(data.labels, flow.moved_windows(frames, (4, 5), seed=3, each=2, largest=2.0).labels)
    assert flow.moved_windows(frames).inputs[1].shape == frames.shape
    with pytest.raises(DataError, match="windows of 10x5 do not lie in frames"):
        flow.moved_windows(frames, (10, 5))


def test_the_augmentation_moves_the_second_image_anew():
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    inputs = (np.zeros_like(frames), frames)
    (first, second), labels = flow.moving(4.0)(inputs, np.zeros((2, 16, 16, 2)), jax.random.key(5))
    same(np.asarray(second), frames)
    known = np.isfinite(np.asarray(labels)).all(-1)
    assert np.abs(np.asarray(flow.warp(second, labels)) - np.asarray(first, np.float64))[known].max() <= 0.501


# --- loss and measure --------------------------------------------------------------------------------------------


def labels_with_unknown(seed, *shape):
    labels = 3 * normal(seed, *shape)
    labels[np.random.default_rng(seed).random(shape[:-1]) < 0.3] = np.nan
    return labels


def test_end_point_error_is_the_mean_length_over_what_is_known():
    labels, outputs = labels_with_unknown(0, 3, 5, 4, 2), normal(1, 3, 5, 4, 2)
    length = np.hypot(*np.moveaxis(outputs.astype(np.float64) - labels, -1, 0))
    close(flow.end_point_error(outputs, jnp.asarray(labels)), np.nanmean(length, (1, 2)))
    # Of several scales the first, its pixels repeated.
    whole = labels_with_unknown(2, 1, 8, 6, 2)
    scales = (normal(3, 1, 2, 2, 2), normal(4, 1, 1, 1, 2))
    large = np.repeat(np.repeat(scales[0], 4, 1), 4, 2)[:, :8, :6]
    close(flow.end_point_error(scales, jnp.asarray(whole)), np.asarray(flow.end_point_error(large, jnp.asarray(whole))))


def test_multi_scale_loss_is_the_loop():
    labels = labels_with_unknown(0, 2, 9, 10, 2)
    labels[0, :4, :4] = np.nan  # a block without any known flow
    outputs = (normal(1, 2, 4, 4, 2), normal(2, 2, 2, 2, 2))
    weights = (0.25, 2.0)
    expected = np.zeros(2)
    for n in range(2):
        for weight, output, side in zip(weights, outputs, (4, 8), strict=True):
            for i in range(output.shape[1]):
                for j in range(output.shape[2]):
                    block = labels[n, side * i : side * (i + 1), side * j : side * (j + 1)].astype(np.float64)
                    known = block[np.isfinite(block).all(-1)]
                    if len(known):
                        expected[n] += weight * np.linalg.norm(output[n, i, j] - known.mean(0))
    loss = flow.multi_scale(weights)
    close(jax.jit(loss)(outputs, labels), expected)
    single = normal(3, 2, 9, 10, 2)
    close(loss(single, jnp.asarray(labels)), np.asarray(flow.end_point_error(single, jnp.asarray(labels))))


def test_unknown_flow_and_a_perfect_one_have_no_loss_and_a_gradient_of_0():
    unknown = jnp.full((1, 4, 4, 2), jnp.nan)
    for labels in (unknown, jnp.ones((1, 4, 4, 2)), unknown.at[0, 0, 0].set(1.0)):
        for loss, outputs in ((flow.end_point_error, jnp.ones((1, 4, 4, 2))),
                              (flow.multi_scale((1.0,)), (jnp.ones((1, 1, 1, 2)),))):  # fmt: skip
            value, slope = jax.value_and_grad(lambda o, y=labels, loss=loss: loss(o, y).sum())(outputs)
            assert value == 0
            assert all((g == 0).all() for g in jax.tree.leaves(slope))


def test_losses_refuse_what_does_not_belong_together():
    with pytest.raises(UserError, match=r"should both be \(N, H, W, 2\)"):
        flow.end_point_error(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 5, 2)))
    with pytest.raises(UserError, match="5 weights for 2 outputs"):
        flow.multi_scale()((jnp.zeros((1, 1, 1, 2)),) * 2, jnp.zeros((1, 4, 4, 2)))
    with pytest.raises(UserError, match="does not cover"):
        flow.multi_scale((1.0,))((jnp.zeros((1, 1, 1, 2)),), jnp.zeros((1, 5, 4, 2)))


# --- pictures and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "colour"),  # of the wheel's 55 places, a quarter turn is 13.75
    [((1, 0), (255, 0, 0)), ((0, 1), (255, 234, 0)), ((-1, 0), (0, 197, 255)), ((0, -1), (103, 0, 255)),
     ((0, 0), (255, 255, 255)), ((0.5, 0), (255, 128, 128)), ((4, 0), (191, 0, 0)), ((np.nan, 0), (0, 0, 0))],
)  # fmt: skip
def test_direction_is_hue_and_length_saturation(vector, colour):
    assert flow.picture(np.full((1, 1, 2), vector), 1.0)[0, 0].tolist() == list(colour)


def test_the_longest_vector_is_a_full_colour_and_the_wheel_has_all():
    assert flow.picture(np.array([[[0, 0], [3.0, 0]]]))[0].tolist() == [[255, 255, 255], [255, 0, 0]]
    assert flow.picture(np.zeros((2, 2, 2))).min() == 255
    assert flow.picture(np.full((1, 2, 2), np.nan)).max() == 0
    legend = flow.wheel(33)
    assert legend[16, 16].tolist() == [255, 255, 255]
    assert legend[16, 32].tolist() == [255, 0, 0]
    assert legend[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(UserError, match=r"one flow \(H, W, 2\)"):
        flow.picture(np.zeros((1, 2, 2, 2)))


def test_flo_files_are_middleburys(tmp_path):
    vectors = normal(0, 3, 4, 2)
    vectors[1, 2] = np.nan
    flow.write_flo(tmp_path / "a.flo", vectors)
    raw = (tmp_path / "a.flo").read_bytes()
    assert raw[:4] == b"PIEH"
    assert np.frombuffer(raw, "<i4", 2, 4).tolist() == [4, 3]
    assert np.frombuffer(raw, "<f4", 2, 12).tolist() == vectors[0, 0].tolist()
    assert len(raw) == 12 + 4 * 3 * 4 * 2
    np.testing.assert_array_equal(flow.read_flo(tmp_path / "a.flo"), vectors)
    cv2 = pytest.importorskip("cv2")
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo"))[0], vectors[0])


@pytest.mark.parametrize(
    ("raw", "says"), [(b"", "no .flo file"), (b"PIEH\1\0\0\0\1\0\0\0", "1x1, and has 12 bytes"), (b"x" * 20, "no .flo")]
)
def test_damaged_flo_files_are_refused(tmp_path, raw, says):
    (tmp_path / "a.flo").write_bytes(raw)
    with pytest.raises(DataError, match=says):
        flow.read_flo(tmp_path / "a.flo")
    with pytest.raises(DataError, match="No such file"):
        flow.read_flo(tmp_path / "b.flo")
    with pytest.raises(UserError, match="holds one flow"):
        flow.write_flo(tmp_path / "c.flo", np.zeros((2, 2)))


# --- the networks ------------------------------------------------------------------------------------------------


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_flownets_have_the_authors_size():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    for model, params in ((flownet_s(), 38_676_514), (flownet_c(), 39_175_298)):
        assert count(jax.eval_shape(model.init, jax.random.key(0), x, x)[0]) == params


@pytest.mark.parametrize("make", [flownet_s, lambda **o: flownet_c(displacement=1, stride=1, **o)], ids=["s", "c"])
def test_flows_of_an_image_of_any_size(make):
    model = make(width=2)
    first, second = normal(0, 1, 5, 70, 1), normal(1, 1, 5, 70, 1)
    params, state = model.init(jax.random.key(0), first, second)
    run = jax.jit(model.apply, static_argnames="train")
    every = jax.eval_shape(lambda: model.apply(params, state, first, second, train=True))[0]
    assert [f.shape for f in every] == [(1, 64 >> k, 128 >> k, 2) for k in (2, 3, 4, 5, 6)]
    finest, _ = run(params, state, first, second)
    assert finest.shape == (1, 5, 70, 2)
    # Brightness and contrast of a pair do not matter.
    brighter, _ = run(params, state, 3 * first + 2, 3 * second + 2)
    close(brighter, np.asarray(finest), 1e-3)
    flat, _ = run(params, state, 0 * first, 0 * second)
    assert np.isfinite(flat).all()
    with pytest.raises(LayerError, match=r"two images \(N, H, W, C\) of one shape"):
        model.apply(params, state, first, second[:, :4])


# --- the task ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Frames in the segmentation reader's form."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (tmp_path / "camvid" / split).mkdir(parents=True)
        for i in range(2):
            picture = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((24, 20))
            picture.save(tmp_path / "camvid" / split / f"{i}.png")
            Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "camvid" / split / f"{i}_label.png")
    return tmp_path


def test_the_task_reads_and_draws(folder, tmp_path):
    recipe = Recipe(data="camvid", data_dir=folder)
    data, test = (TASK.load(recipe, split) for split in ("train", "test"))
    assert data.inputs[0].shape == (2, 20, 24, 3)
    assert not np.array_equal(data.labels, test.labels)
    assert set(TASK.objective(recipe, TASK.facts(recipe, data)).metrics) == {TASK.metric.primary}
    found = normal(0, 20, 24, 2)
    model = as_layer(lambda first, second: (first[..., :2] - second[..., :2]) + found)
    trained = cnn.train.Trained(model, {}, {}, cnn.data.to_float, (), (), {})
    pair = [str(folder / "camvid" / "test" / f"{i}.png") for i in range(2)]
    (row,) = TASK.predict(trained, pair, tmp_path / "out")
    first, second = (cnn.data.read_image(f)[..., :2] / np.float64(255) for f in pair)
    close(flow.read_flo(tmp_path / "out" / "0.flo"), first - second + found)
    with Image.open(tmp_path / "out" / "0-flow.png") as drawn:
        assert drawn.size == (24, 20)
    assert row["size"] == [20, 24]
    assert "0-flow.png" in row["text"]
    with pytest.raises(UserError, match="expected pairs of files"):
        TASK.predict(trained, pair[:1], tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="of one size, they are 20x24 and 9x9"):
        TASK.predict(trained, [pair[0], str(tmp_path / "small.png")], tmp_path)
