"""Augmentations against what their formulas say, pixel by pixel where that is possible."""

from __future__ import annotations

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import data
from jaxcnn.errors import UserError

KEY = jax.random.key(0)
PHOTOS = np.random.default_rng(0).integers(0, 256, (64, 12, 10, 3)).astype(np.uint8)
EVERY = {
    "flip": data.flip,
    "crop": data.crop(padding=2),
    "translate": data.translate(3),
    "rotate": data.rotate(20),
    "scale": data.scale(),
    "affine": data.affine(),
    "colour": data.colour(hue=0.1),
    "cutout": data.cutout(4),
    "resized_crop": data.resized_crop(),
    "sometimes": data.sometimes(data.flip, 0.5),
    "composed": data.compose(data.flip, data.crop(padding=2), data.cutout(4)),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_augmentation_is_a_jitted_pure_function_that_keeps_shape_and_dtype(name):
    augment = EVERY[name]
    for channels, dtype in ((3, np.uint8), (1, np.float32), (4, jnp.bfloat16)):
        images = np.random.default_rng(1).integers(0, 256, (8, 12, 10, channels))
        x = jnp.asarray(images if dtype == np.uint8 else images / 255, dtype)
        got = jax.jit(augment)(x, KEY)
        assert (got.shape, got.dtype) == (x.shape, x.dtype)
        assert np.isfinite(np.asarray(got, np.float32)).all()
    compiled = jax.jit(augment)
    same, again, other = (np.asarray(compiled(jnp.asarray(PHOTOS), jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()
    # An image's own random numbers: equal images come out different.
    copies = np.asarray(compiled(jnp.asarray(np.repeat(PHOTOS[:1], 64, 0)), KEY))
    assert len(np.unique(copies.reshape(64, -1), axis=0)) > 1


def windows(padded, size):
    height, width = size
    rows, columns = padded.shape[0] - height + 1, padded.shape[1] - width + 1
    return {padded[r : r + height, c : c + width].tobytes(): (r, c) for r in range(rows) for c in range(columns)}


@pytest.mark.parametrize(("size", "padding"), [(None, 2), (7, 0), ((5, 8), 1), ((12, 10), 0)])
def test_crop_is_a_window_of_the_padded_image_and_reaches_every_place(size, padding):
    out = (size, size) if isinstance(size, int) else size or PHOTOS.shape[1:3]
    seen = set()
    for seed in range(12):
        got = np.asarray(data.crop(size, padding)(jnp.asarray(PHOTOS), jax.random.key(seed)))
        assert got.shape == (64, *out, 3)
        for image, photo in zip(got, PHOTOS, strict=True):
            places = windows(np.pad(photo, ((padding, padding), (padding, padding), (0, 0))), out)
            assert image.tobytes() in places
            seen.add(places[image.tobytes()])
    assert len(seen) == (12 + 2 * padding - out[0] + 1) * (10 + 2 * padding - out[1] + 1)


def test_translate_moves_by_whole_pixels_and_fills_with_zeros():
    image = np.zeros((200, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 7
    got = np.asarray(data.translate(2)(jnp.asarray(image), KEY))
    assert (got.sum((1, 2, 3)) == 7).all()
    place = np.argwhere(got[..., 0])[:, 1:] - 4
    assert sorted(map(tuple, np.unique(place, axis=0))) == [(a, b) for a in range(-2, 3) for b in range(-2, 3)]


def test_crop_says_what_does_not_fit():
    with pytest.raises(UserError, match="a window of 16x16 does not fit in images of 12x10 with padding 2"):
        data.crop(16, 2)(jnp.asarray(PHOTOS), KEY)
    with pytest.raises(UserError, match=r"crop\(padding=-1\): expected 0 or more"):
        data.crop(padding=-1)


def test_rotate_turns_by_angles_up_to_the_limit():
    """The angle of a dot's place seen from the centre: bilinear sampling keeps its centre of mass to a twentieth."""
    image = np.zeros((300, 41, 41, 1), np.float32)
    image[:, 20, 34:37] = 1 / 9
    image[:, 19, 34:37] = image[:, 21, 34:37] = 1 / 9
    got = np.asarray(data.rotate(30)(jnp.asarray(image), KEY))[..., 0]
    mass = got.sum((1, 2))
    y = (got * np.arange(41)[:, None]).sum((1, 2)) / mass - 20
    x = (got * np.arange(41)).sum((1, 2)) / mass - 20
    angle = np.degrees(np.arctan2(y, x))
    np.testing.assert_allclose(np.hypot(x, y), 15, atol=0.1)
    assert -30.5 < angle.min() < -27
    assert 27 < angle.max() < 30.5


def test_scale_enlarges_by_factors_between_the_limits():
    """The width of a bell of deviation 4, which bilinear sampling shows to a hundredth."""
    place = np.arange(61) - 30
    bell = np.exp(-(place**2) / 32)
    image = np.broadcast_to((bell[:, None] * bell)[None, ..., None], (300, 61, 61, 1)).astype(np.float32)
    got = np.asarray(data.scale(0.5, 2.0)(jnp.asarray(image), KEY))[..., 0]
    rows = got.sum(2)
    factor = np.sqrt((rows * place**2).sum(1) / rows.sum(1)) / 4
    assert 0.49 < factor.min() < 0.55
    assert 1.8 < factor.max() < 2.01
    assert 0.4 < (factor < 1).mean() < 0.6  # the logarithm is uniform
    with pytest.raises(UserError, match="0 < low <= high"):
        data.scale(1.2, 0.8)


def drawn(monkeypatch, augment, u, images=PHOTOS):
    """The images augmented with the four random numbers of `colour` given."""
    values = jnp.asarray(u, jnp.float32).reshape(4, 1, 1, 1, 1) * jnp.ones((4, len(images), 1, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "uniform", lambda *_, **__: values)
        return np.asarray(augment(jnp.asarray(images), KEY))


def test_colour_against_its_formulas_in_float64(monkeypatch):
    x = PHOTOS.astype(np.float64)
    luma = np.array([0.299, 0.587, 0.114])

    def grey(x):
        return (x @ luma)[..., None]

    def close(got, expected):  # rounded to whole numbers, at most one apart where float32 falls on the other side
        assert np.abs(got.astype(float) - np.clip(expected, 0, 255)).max() <= 0.51

    close(drawn(monkeypatch, data.colour(0.5, 0, 0), [0.6, 9, 9, 9]), x * 1.3)
    mean = grey(x).mean((1, 2), keepdims=True)
    close(drawn(monkeypatch, data.colour(0, 0.5, 0), [9, -0.4, 9, 9]), mean + (x - mean) * 0.8)
    close(drawn(monkeypatch, data.colour(0, 0, 0.5), [9, 9, -2, 9]), grey(x))  # saturation 0: no colour
    np.testing.assert_array_equal(drawn(monkeypatch, data.colour(0.4, 0.4, 0.4, 0.2), [0, 0, 0, 0]), PHOTOS)
    # A third of a turn about the grey axis exchanges the channels, which exchanges the hue of HSV likewise.
    turned = drawn(monkeypatch, data.colour(0, 0, 0, 1 / 3), [0, 0, 0, 1])
    np.testing.assert_allclose(turned.astype(int), np.roll(PHOTOS, 1, -1).astype(int), atol=1)
    first, second = (colorsys.rgb_to_hsv(*(p / 255)) for p in (PHOTOS[0, 0, 0], turned[0, 0, 0]))
    assert (second[0] - first[0]) % 1 == pytest.approx(1 / 3, abs=0.01)


def test_colour_leaves_the_saturation_of_grey_images_and_refuses_negative_amounts(monkeypatch):
    grey = PHOTOS[..., :1]
    np.testing.assert_array_equal(drawn(monkeypatch, data.colour(0, 0, 0.9, 0.5), [1, 1, 1, 1], grey), grey)
    with pytest.raises(UserError, match=r"colour\(hue=-1\): expected 0 or more"):
        data.colour(hue=-1)


def test_cutout_changes_one_square_to_the_mean():
    got = np.asarray(data.cutout(4)(jnp.asarray(PHOTOS), KEY)).astype(int)
    mean = PHOTOS.mean((1, 2), keepdims=True).round().astype(int)
    for image, photo, value in zip(got, PHOTOS, mean, strict=True):
        changed = (image != photo).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        square = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert max(square.shape[:2]) <= 4
        assert (np.abs(square - value) <= 1).all()
    sizes = [(image != photo).any(-1).sum() for image, photo in zip(got, PHOTOS, strict=True)]
    assert max(sizes) == 16  # a whole square, where it does not hang over the edge
    black = np.asarray(data.cutout(4, fill=0)(jnp.asarray(PHOTOS + 1 * (PHOTOS == 0)), KEY))
    assert ((black == 0).all(-1).sum((1, 2)) > 0).all()
    with pytest.raises(UserError, match=r"cutout\(0\): expected at least 1 pixel"):
        data.cutout(0)


def test_mixup_mixes_images_and_labels_by_the_same_share():
    """Each image holds its own number in one channel of its own, so that the shares can be read off."""
    images = np.eye(32, dtype=np.float32)[:, None, None, :] * np.ones((32, 3, 3, 32), np.float32)
    labels = np.arange(32) % 10
    mixed, probabilities = jax.jit(data.mixup(10, alpha=1.0))(images, labels, KEY)
    share = np.asarray(mixed)[:, 0, 0, :]
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)
    assert ((share > 1e-6).sum(1) <= 2).all()
    np.testing.assert_allclose(probabilities, share @ np.eye(10)[labels], atol=1e-6)
    own = np.diagonal(share)
    assert own.min() < 0.2
    assert own.max() > 0.8
    # A second mixing takes the probabilities that the first one made.
    _, twice = data.mixup(10)(mixed, probabilities, jax.random.key(1))
    np.testing.assert_allclose(twice.sum(1), 1, rtol=1e-5)
    with pytest.raises(UserError, match=r"mixup\(alpha=0\): expected a number above 0"):
        data.mixup(10, alpha=0)
    with pytest.raises(
        UserError, match=r"mixup\(0.2\): expected the number of classes first, as in mixup\(10, alpha=0.2\)"
    ):
        data.mixup(0.2)


def test_mixup_keeps_bytes_as_bytes():
    images, _ = data.mixup(10, alpha=1.0)(jnp.asarray(PHOTOS), jnp.zeros(64, jnp.int32), KEY)
    assert images.dtype == jnp.uint8
    assert (np.asarray(images) != PHOTOS).any()


def test_compose_gives_each_its_own_key_and_carries_labels():
    both = data.compose(data.flip, data.crop(padding=1))
    one = data.crop(padding=1)(data.flip(jnp.asarray(PHOTOS), jax.random.fold_in(KEY, 0)), jax.random.fold_in(KEY, 1))
    np.testing.assert_array_equal(both(jnp.asarray(PHOTOS), KEY), one)
    mixing = data.compose(data.flip, data.mixup(10))
    images, labels = jax.jit(mixing)(PHOTOS, np.arange(64) % 10, KEY)
    assert images.shape == PHOTOS.shape
    assert labels.shape == (64, 10)
    np.testing.assert_array_equal(data.compose()(jnp.asarray(PHOTOS), KEY), PHOTOS)


def test_a_resized_crop_is_a_window_of_the_image():
    """An image of its own coordinates shows where the window is: bilinear sampling is exact for it."""
    rows, columns = np.mgrid[:20, :30].astype(np.float32)
    images = jnp.tile(jnp.stack([rows, columns], -1)[None], (256, 1, 1, 1))
    found = np.asarray(data.resized_crop((0.2, 0.6), (0.5, 2.0))(images, KEY), np.float64)
    first, last = found[:, 0, 0], found[:, -1, -1]
    assert first.min() > -1e-4
    assert (last < np.array([19, 29]) + 1e-4).all()
    for axis, channel in ((1, 0), (2, 1)):
        steps = np.diff(found[..., channel], axis=axis)
        np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1, :1], steps.shape), atol=1e-4)
    height, width = ((last - first) / np.array([19, 29])).T
    area, ratio = height * width, width / height
    free = np.maximum(height, width) < 0.999  # a side that would be longer than the image's is as long
    assert 0.5 < free.mean() < 1
    assert 0.2 - 1e-4 < area[free].min() < 0.25
    assert 0.5 < area[free].max() < 0.6 + 1e-4
    assert 0.5 - 1e-4 < ratio.min() < 0.7
    assert 1.4 < ratio.max() < 2 + 1e-4
    whole = data.resized_crop((1.0, 1.0), (1.0, 1.0))(jnp.asarray(PHOTOS), KEY)
    np.testing.assert_array_equal(whole, PHOTOS)
    with pytest.raises(UserError, match=r"resized_crop\(\(0, 1\)"):
        data.resized_crop((0, 1))


def test_views_are_copies_with_keys_of_their_own():
    one, two, three = data.views(data.crop(padding=2), 3)(jnp.asarray(PHOTOS), KEY)
    for view, key in zip((one, two, three), jax.random.split(KEY, 3), strict=True):
        np.testing.assert_array_equal(view, data.crop(padding=2)(jnp.asarray(PHOTOS), key))
    assert (np.asarray(one) != np.asarray(two)).any()
    with pytest.raises(UserError, match="expected 1 or more"):
        data.views(data.flip, 0)


def test_noise_is_one_more_input():
    """4096 numbers of a standard normal: the mean is below 4 of its standard errors, 1 / 64."""
    images, z = data.noise(64)(PHOTOS, KEY)
    assert images is PHOTOS
    assert (z.shape, z.dtype) == ((64, 64), jnp.float32)
    assert abs(float(z.mean())) < 4 / 64
    assert abs(float(z.std()) - 1) < 4 / 64
    assert len(data.noise(2)((PHOTOS, PHOTOS), KEY)) == 3
    with pytest.raises(UserError, match="expected at least 1 number"):
        data.noise(0)


def test_sometimes_changes_some_images():
    """Of 64 images 16 are expected; 4 standard deviations are 14."""
    found = np.asarray(data.sometimes(lambda images, key: 255 - images, 0.25)(jnp.asarray(PHOTOS), KEY))
    changed = (found != PHOTOS).any((1, 2, 3))
    assert 2 <= changed.sum() <= 30
    np.testing.assert_array_equal(found[changed], 255 - PHOTOS[changed])
    with pytest.raises(UserError, match="a number from 0 to 1"):
        data.sometimes(data.flip, 2)
    with pytest.raises(UserError, match="got PairedTransform"):
        data.sometimes(data.mixup(10), 0.5)
