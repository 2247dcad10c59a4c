"""Examples as pictures: as a training sees them, and those that a network is mistaken about."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from jaxcnn import data, inspect
from jaxcnn.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(6) % 3
SOME = data.Dataset(IMAGES, LABELS, ("a", "$b", "c"))


def shown(figure) -> list[tuple[str, np.ndarray]]:
    """The title and the pixels of each image, as colours from 0 to 1."""
    (axes,) = figure.axes
    pictures = [np.asarray(image.get_array()) for image in axes.images]
    return list(zip([text.get_text() for text in axes.texts] or [""] * len(pictures), pictures, strict=True))


def test_each_example_is_shown_once_with_its_class():
    found = shown(inspect.show_batch(SOME, n=100))
    assert len(found) == 6
    for title, picture in found:
        (k,) = [k for k in range(6) if np.allclose(picture[..., 0], IMAGES[k, ..., 0] / 255)]
        assert title == ("a", r"\$b", "c")[LABELS[k]]
    first = [title for title, _ in shown(inspect.show_batch(SOME, n=4))]
    assert len(first) == 4
    assert first == [title for title, _ in shown(inspect.show_batch(SOME, n=4))]


def test_augmentation_and_preprocessing_are_applied():
    mirrored = data.PairedTransform(lambda images, labels, key: (images[:, :, ::-1], (labels + 1) % 3))
    plain = shown(inspect.show_batch(SOME, n=6))
    changed = shown(inspect.show_batch(SOME, mirrored, n=6))
    for (title, picture), (other, flipped) in zip(plain, changed, strict=True):
        np.testing.assert_allclose(flipped, picture[:, ::-1])
        assert ("a", r"\$b", "c").index(other) == (("a", r"\$b", "c").index(title) + 1) % 3
    scaled = shown(inspect.show_batch(SOME, preprocess=lambda images: 3.0 * images - 7.0, n=6))
    for (_, picture), (_, stretched) in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(stretched, (picture - picture.min()) / np.ptp(picture), atol=1e-5)


def test_mixed_labels_have_the_two_largest_shares():
    def mixed(images, labels, key):
        shares = np.tile([0.7, 0.3, 0.0], (len(labels), 1))
        shares[0] = 0, 0, 1
        return images, shares

    titles = [title for title, _ in shown(inspect.show_batch(SOME, data.PairedTransform(mixed), n=3))]
    assert titles == ["c", "a 70 %\n" r"\$b 30 %", "a 70 %\n" r"\$b 30 %"]
    assert len(shown(inspect.show_batch(SOME, data.mixup(3), n=3))) == 3


def test_masks_and_boxes_are_laid_over_the_images():
    pixels = IMAGES[..., 0].astype(np.int32)
    masks = np.where(pixels > 200, -1, pixels % 2)
    figure = inspect.show_batch(data.Examples(IMAGES, masks, ("dark", "light")), n=6)
    (axes,) = figure.axes
    assert len(axes.images) == 12
    for image, mask in zip(axes.images[:6], axes.images[6:], strict=True):
        (k,) = [k for k in range(6) if np.allclose(np.asarray(image.get_array())[..., 0], IMAGES[k, ..., 0] / 255)]
        np.testing.assert_array_equal(mask.get_array().filled(-1), masks[k])
        assert mask.get_extent() == image.get_extent()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dark", "light"]
    boxes = np.tile(np.asarray([[1, 2, 4, 7], [0, 0, 0, 0]], np.float32), (6, 1, 1))
    labels = {"boxes": boxes, "classes": np.tile(np.asarray([1, -1], np.int32), (6, 1))}
    figure = inspect.show_batch(data.Examples(IMAGES, labels, ("x", "y")), n=2)
    (axes,) = figure.axes
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    for image, frame in zip(axes.images, frames, strict=True):
        left, right, bottom, top = image.get_extent()
        np.testing.assert_allclose([right - left, top - bottom], [right - left] * 2)  # pixels are square
        found = np.asarray(frame.get_bbox().extents)
        found = [found[0] - left, top - found[3], found[2] - left, top - found[1]]
        np.testing.assert_allclose(np.asarray(found) * 8 / (right - left), [1, 2, 4, 7])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["y"]
    smaller = inspect.show_batch(data.Examples(IMAGES, masks), preprocess=lambda x: x[:, 2:, 2:] / 255, n=2)
    assert len(shown(smaller)) == 2  # without the masks, which are larger


def test_what_cannot_be_shown():
    with pytest.raises(UserError, match=r"expected images \(N, H, W, 1 or 3\) among the inputs, got \(2, 5\)"):
        inspect.show_batch(data.Examples(np.zeros((4, 5), np.int32), np.zeros(4, np.int32)), n=2)
    with pytest.raises(UserError, match="n=0: expected at least 1 example"):
        inspect.show_batch(SOME, n=0)


def test_mistakes_of_a_network():
    sure = np.asarray([0.9, 0.8, 0.7, 0.95, 0.6, 0.99])
    said = np.asarray([0, 2, 2, 1, 1, 2])  # two mistakes: the second and the fourth
    outputs = np.full((6, 3), 0.0) + ((1 - sure) / 2)[:, None]
    outputs[np.arange(6), said] = sure
    places = {image.tobytes(): k for k, image in enumerate(IMAGES)}
    network = SimpleNamespace(probabilities=lambda images: outputs[[places[image.tobytes()] for image in images]])
    found = shown(inspect.mistakes(network, SOME))
    assert [title for title, _ in found] == [r"a → \$b  95 %", r"\$b → c  80 %"]
    assert len(shown(inspect.mistakes(network, SOME, most=1))) == 1
    with pytest.raises(UserError, match="expected a Dataset, images with a class each, got Examples"):
        inspect.mistakes(network, data.Examples(IMAGES, LABELS))
    with pytest.raises(UserError, match=r"has 4 classes; the network's outputs are \(3,\)"):
        inspect.mistakes(network, data.Dataset(IMAGES, LABELS, ("a", "b", "c", "d")))


def test_names_that_begin_alike_keep_their_ends():
    names = tuple(f"a class with a long name that ends in its number {k:03d}" for k in range(4))
    some = data.Dataset(IMAGES, LABELS, names)
    network = SimpleNamespace(probabilities=lambda images: np.asarray(jax.nn.one_hot((LABELS + 1) % 4, 4)))
    titles = {title for title, _ in shown(inspect.mistakes(network, some))}
    assert len(titles) == 3
    assert all("…" in title and title.split("\n")[0].endswith(("000", "001", "002")) for title in titles)
