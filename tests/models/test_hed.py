"""HED with side outputs resized to the image, and the images that its published weights expect."""

import jax
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn.errors import UserError


def outputs(shape, **options):
    model = cnn.models.hed(width=1, sides=True, **options)
    params, state = model.init(jax.random.key(0), np.zeros((1, *shape, 3), np.float32))
    # The convolutions of side outputs start at zero.
    params = {k: {"kernel": v["kernel"] + (k[:4] == "side"), "bias": v["bias"] + 0.5} for k, v in params.items()}
    return model.apply(params, state, normal(0, 1, *shape, 3))[0]


def test_whole_is_the_same_for_multiples_of_16():
    for one, other in zip(outputs((32, 48)), outputs((32, 48), whole=True), strict=True):
        close(one, other, 1e-5)


def test_whole_ends_with_the_image():
    """A map of 3x3 over 33x33 pixels: beyond the centre of its last pixel, all values are equal. `whole` puts that
    centre at (2 + 1/2) 33 / 3 - 1/2 = 27; upsampling by 16 puts it at 39.5, outside the image."""
    cropped, whole = outputs((33, 33))[-1], outputs((33, 33), whole=True)[-1]
    assert cropped.shape == whole.shape == (1, 33, 33)
    assert np.ptp(np.asarray(whole)[0, 27:, 27:]) == 0
    assert np.ptp(np.asarray(cropped)[0, 27:, 27:]) > 0


def test_the_images_of_the_published_weights():
    """From 0 to 255 less the mean of blue, green and red, which loading has turned into red, green and blue."""
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), np.uint8)
    model = cnn.models.hed()
    close(cnn.weights.preprocess(model, size=(5, 7))(image), image - np.array([122.67892, 116.66877, 104.00699]), 1e-5)
    with pytest.raises(UserError, match=r"hed takes images of any size: pass size=\(height, width\)"):
        cnn.weights.preprocess(model)
    with pytest.raises(UserError, match=r"size=\(5,\): expected a height and a width"):
        cnn.weights.preprocess(model, size=(5,))
