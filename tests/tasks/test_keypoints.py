"""Points in an image: positions, losses and metrics against NumPy in float64; a run from training to prediction."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal
from PIL import Image

import jaxcnn as cnn
from jaxcnn import cli, train
from jaxcnn.errors import UserError
from jaxcnn.models.keypoint_net import expected_positions, keypoint_net
from jaxcnn.tasks.keypoints.objective import distance, squared_distance, within


def test_positions_are_means_under_the_softmax():
    maps = normal(0, 2, 4, 6, 3).astype(np.float64)
    expected = np.zeros((2, 3, 2))
    for n in range(2):
        for k in range(3):
            p = np.exp(maps[n, :, :, k]) / np.exp(maps[n, :, :, k]).sum()
            for i in range(4):
                for j in range(6):
                    expected[n, k] += p[i, j] * np.array([30 * j / 5, 20 * i / 3])
    close(expected_positions(jnp.asarray(maps, jnp.float32), 20, 30), expected.astype(np.float32))
    certain = jnp.zeros((1, 4, 6, 1)).at[0, 3, 5, 0].set(100.0)
    close(expected_positions(certain, 20, 30), np.array([[[30.0, 20.0]]], np.float32))


def test_distances_against_loops():
    outputs, labels = 10 * normal(1, 5, 4, 2), 10 * normal(2, 5, 4, 2)
    each = np.sqrt(((outputs.astype(np.float64) - labels) ** 2).sum(-1))
    close(squared_distance(outputs, labels), (each**2).mean(1).astype(np.float32))
    close(distance(outputs, labels), each.mean(1).astype(np.float32))
    close(within(12.0)(outputs, labels), (each <= 12).mean(1).astype(np.float32))
    with pytest.raises(UserError, match=r"should both be \(N, points, 2\)"):
        squared_distance(outputs, labels[:, :3])


def test_the_gradient_moves_a_point_to_its_place():
    """By finite differences: the loss of the network's output in its last layer's bias, in float64's steps of float32.

    Tolerance 2 %: differences of float32 numbers near 100 at steps of 1e-2.
    """
    model = keypoint_net(2, width=2)
    images = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 1)), jnp.float32)
    labels = jnp.asarray([[[2.0, 3], [10, 12]]] * 2)
    params, state = model.init(jax.random.key(0), images)

    def loss(kernel):
        changed = {**params, "maps": {**params["maps"], "kernel": kernel}}
        return squared_distance(model.apply(changed, state, images, train=True)[0], labels).mean()

    kernel = params["maps"]["kernel"]
    slope = jax.grad(loss)(kernel)
    along = slope / jnp.linalg.norm(slope)
    difference = (loss(kernel + 1e-2 * along) - loss(kernel - 1e-2 * along)) / 2e-2
    assert float(jnp.vdot(slope, along)) == pytest.approx(float(difference), rel=0.02)


def test_images_of_any_size_have_points_in_their_own_pixels():
    model = keypoint_net(3, width=2)
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    found = model.apply(params, state, jnp.zeros((2, 20, 44, 1)))[0]
    assert found.shape == (2, 3, 2)
    assert (np.asarray(found) >= 0).all()
    assert (np.asarray(found) <= [44, 20]).all()


def test_a_run_from_training_to_prediction(tmp_path, monkeypatch, capsys):
    """Two epochs of a small network are better than the mean position of each corner."""
    monkeypatch.chdir(tmp_path)
    cli.main(["train", "keypoint_net", "--epochs", "2", "--options", "width=4", "--run", "run"])
    out = capsys.readouterr().out
    assert "keypoint_net on digit_corners: 1,298 images to train on, 144 to validate" in out
    result = train.Run.open("run").result
    labels = cnn.data.load("digit-corners", "test").labels
    center = cnn.data.load("digit-corners", "train").labels.mean(0)
    by_mean = np.sqrt(((labels - center) ** 2).sum(-1)).mean()
    assert result["test_distance"] < by_mean
    cli.main(["evaluate", "run", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["distance"] == pytest.approx(result["test_distance"], rel=1e-6)
    digit = cnn.data.load("digit-corners", "test[:1]")
    Image.fromarray(digit.inputs[0][..., 0]).resize((64, 64)).save("digit.png")
    cli.main(["predict", "run", "digit.png", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row["points"]) == list(digit.classes)
    assert np.abs(np.array(list(row["points"].values())) / 2 - digit.labels[0]).max() < 8
    with Image.open(row["picture"]) as picture:
        assert picture.size == (480, 480)
