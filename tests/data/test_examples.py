"""Inputs and labels of any form: kept, divided, batched, augmented, learned from and measured."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import same

import jaxcnn as cnn
from jaxcnn import train
from jaxcnn.data.augment import Joint
from jaxcnn.errors import DataError, UserError
from jaxcnn.metrics import Summed

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 8, 3)).astype(np.uint8)
# A pixel's class is whether it is bright: a 1x1 convolution can learn that.
MASKS = (IMAGES.mean(-1) > 127).astype(np.int32)
PAIRS = cnn.data.Examples(
    (IMAGES, np.arange(12, dtype=np.int32)), {"boxes": RNG.random((12, 2, 4)), "count": np.arange(12)}, name="pairs"
)


def masks() -> cnn.data.Examples:
    return cnn.data.Examples(IMAGES, MASKS, ("dark", "bright"), "masks", {"words": ["a", "b"]})


def iou(outputs, labels):
    """A confusion matrix an image."""
    predicted = jax.nn.one_hot(outputs.argmax(-1), 2)
    return jnp.einsum("nhwi,nhwj->nij", jax.nn.one_hot(labels, 2), predicted)


def finish(matrix):
    hit = matrix.diagonal()
    return {"mean_iou": (hit / (matrix.sum(0) + matrix.sum(1) - hit)).mean(), "pixels": matrix.sum()}


METRICS = {"confusion": Summed(iou, finish)}


def test_trees_are_taken_divided_and_batched_together():
    part = PAIRS.take([3, 1])
    assert (len(PAIRS), len(part)) == (12, 2)
    same(part.inputs, (IMAGES[[3, 1]], np.array([3, 1], np.int32)))
    assert part.labels["count"].tolist() == [3, 1]
    rest, held = PAIRS.hold_out(0.25, seed=4)
    assert sorted([*rest.inputs[1], *held.inputs[1]]) == list(range(12))
    assert len(held) == 3
    assert held.inputs[1].tolist() == PAIRS.hold_out(0.25, seed=4)[1].inputs[1].tolist()
    for (images, number), labels in cnn.data.batches(PAIRS, 5, seed=2):
        assert images.shape == (5, 6, 8, 3)
        np.testing.assert_array_equal(images, IMAGES[number])
        np.testing.assert_array_equal(labels["count"], number)
    padded = list(cnn.data.padded_batches(PAIRS, 5))
    assert [weights.sum() for *_, weights in padded] == [5, 5, 2]
    assert padded[-1][0][1].tolist() == [10, 11, 10, 10, 10]
    assert "12 of 6x8x3 uint8, one int32" in repr(PAIRS)


def test_what_does_not_fit_together_is_named():
    with pytest.raises(DataError, match="12 in inputs/1, 11 in labels"):
        cnn.data.Examples((IMAGES, np.arange(12)), np.arange(11), name="odd")
    with pytest.raises(DataError, match="empty"):
        cnn.data.Examples(IMAGES[:0], MASKS[:0])
    with pytest.raises(DataError, match="too few to hold out"):
        PAIRS.hold_out(0.01)
    with pytest.raises(DataError, match="between 0 and 1, got 1"):
        PAIRS.hold_out(1)


def test_a_summed_measure_is_of_the_whole_set_and_not_a_mean_of_images():
    """Against NumPy: classes are rare in some images, so that the mean of the images' figures is another number."""
    data = masks()
    model = cnn.conv(2, 1)
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 6, 8, 3)))
    evaluate = train.make_evaluate(
        model, train.Objective(cnn.losses.softmax_cross_entropy, metrics=METRICS), batch_size=5
    )
    measured = evaluate(params, state, data)
    predicted = measured.outputs.argmax(-1)
    pairs = [(predicted == k, k == MASKS) for k in (0, 1)]
    each = [(found & true).sum() / (found | true).sum() for found, true in pairs]
    assert measured.metrics["mean_iou"] == pytest.approx(np.mean(each), abs=1e-12)  # sums of whole numbers, in float64
    assert measured.metrics["pixels"] == MASKS.size
    assert measured.metrics.keys() == {"loss", "mean_iou", "pixels"}
    assert evaluate(params, state, data, keep=False).outputs is None


def test_pixels_are_learned_and_the_run_says_what_it_needs_to_go_on(tmp_path):
    """A dense prediction through `fit`: chosen by mean IoU, preprocessed as images are, rebuilt from the run."""
    mirrored = []

    def mirror(images, labels, key):
        mirrored.append(True)
        flip = jax.random.bernoulli(key, 0.5, (len(images), 1, 1))
        return jnp.where(flip[..., None], images[:, :, ::-1], images), jnp.where(flip, labels[:, :, ::-1], labels)

    data = masks()
    fitted = train.fit(
        cnn.conv(2, 1),
        data,
        train.Objective(metrics=METRICS, primary="mean_iou", higher_is_better=True, augment=Joint(mirror)),
        validation=data,
        test=data,
        epochs=30,
        batch_size=4,
        optimizer=optax.adam(0.1),
        run=tmp_path / "run",
        show=False,
    )
    assert mirrored
    assert fitted.result["test_mean_iou"] > 0.95
    best = max(fitted.history, key=lambda record: (record["validation_mean_iou"], -record["validation_loss"]))
    assert fitted.result["best_epoch"] == best["epoch"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["inputs"], config["extra"]) == ([[6, 8, 3]], {"words": ["a", "b"]})
    assert (tmp_path / "run" / "curves.png").is_file()
    trained = train.Trained.load(tmp_path / "run", cnn.conv(2, 1))
    same(trained.outputs(IMAGES[:3]), fitted.outputs(IMAGES[:3]))
    assert trained.image == (6, 8, 3)


def test_several_inputs_and_labels_of_a_dict(tmp_path):
    """The second input and the labels reach network and loss as they are; only images are made floats."""

    def forward(net, images, numbers):
        assert images.dtype == jnp.float32
        return net.out(images.mean((1, 2))) + numbers[:, None].astype(jnp.float32) * 0

    def loss(outputs, labels):
        return jnp.square(outputs[:, 0] - labels["count"]) / 100

    fitted = train.fit(
        cnn.network(forward, out=cnn.dense(1)),
        PAIRS,
        loss,
        test=PAIRS,
        epochs=2,
        batch_size=6,
        run=tmp_path / "run",
        show=False,
    )
    assert np.isfinite(fitted.result["test_loss"])
    trained = train.Trained.load(tmp_path / "run", fitted.model)
    assert trained.outputs(PAIRS.inputs).shape == (12, 1)
    assert trained.image == ()


def test_labels_beyond_the_classes_are_found_before_training():
    with pytest.raises(UserError, match="the model has 2 outputs and the labels of masks go to 2"):
        train.fit(cnn.conv(2, 1), cnn.data.Examples(IMAGES, MASKS + 1, ("a", "b", "c"), "masks"), show=False)


def test_preprocess_takes_the_images_among_several_inputs():
    preprocess = cnn.data.Preprocess.of(IMAGES)
    words = np.ones((12, 3), np.int32)
    images, same_words = preprocess((IMAGES, words))
    np.testing.assert_array_equal(images, preprocess(IMAGES))
    assert same_words is words
