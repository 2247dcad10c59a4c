"""Digits with the corners of their bounding boxes: a small dataset for networks that find points."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.digits import digits
from jaxcnn.data.datasets.registry import Folder, Size, dataset
from jaxcnn.errors import UserError

INK = 64
"""A pixel of this value or more belongs to the digit; scaling leaves faint grey around it."""

_SEEDS = {"train": 0, "test": 1}
_POINTS = ("top left", "top right", "bottom right", "bottom left")


@dataset(
    "digit-corners",
    about="the digits at random places, 32x32, with the corners of their bounding boxes, with the package",
    kind="keypoints",
    classes=_POINTS,
)
def digit_corners(split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """Digits of random size at random places, with the corners of the tight box around each.

    Each image of `digits` is scaled from 32x32 to a square of 18 to 26 pixels, which is put anywhere in a black image.
    The seed is fixed, so that the data are the same each time. The box is tight around the pixels of `INK` or more. Its
    far edges are excluded: a digit in the columns 3 to 12 has x from 3 to 13.

    Returns:
      Examples of images uint8 `(N, 32, 32, 1)` and labels float32 `(N, 4, 2)`: (x, y) in pixels of the corners top
      left, top right, bottom right, bottom left. `classes` names the corners.

    Raises:
      UserError: for a size other than 32x32.
    """
    if size is not None and tuple(size) != (32, 32):
        raise UserError(f"the images of digit-corners are 32x32, they cannot be {size}")
    originals = digits(split).images[..., 0]
    rng = np.random.default_rng(_SEEDS[split])
    images = np.zeros((*originals.shape, 1), np.uint8)
    corners = np.zeros((len(originals), 4, 2), np.float32)
    for original, image, points in zip(originals, images, corners, strict=True):
        side = int(rng.integers(18, 27))
        x, y = rng.integers(0, 32 - side + 1, 2)
        scaled = Image.fromarray(original).resize((side, side), Image.Resampling.BICUBIC)
        image[y : y + side, x : x + side, 0] = np.asarray(scaled)
        x1, y1, x2, y2 = _box(image)
        points[:] = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return Examples(images, corners, _POINTS, "digit-corners")


def _box(image: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 of the ink in an image `(H, W, 1)`, the ends excluded."""
    rows, columns = np.nonzero(image[..., 0] >= INK)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
