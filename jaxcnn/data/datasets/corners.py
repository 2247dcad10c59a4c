"""Digits with the corners of their bounding boxes: a small dataset for networks that find points."""

from __future__ import annotations

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.digits import digits
from jaxcnn.data.datasets.registry import Folder, Size, dataset
from jaxcnn.errors import UserError

INK = 64
"""A pixel of this value or more belongs to the digit; enlarging leaves faint grey around it."""

_SEEDS = {"train": 0, "test": 1}
_POINTS = ("top left", "top right", "bottom right", "bottom left")


@dataset(
    "digit-corners",
    about="1,797 handwritten digits with the four corners of each digit's bounding box, 32x32, with the package",
    kind="keypoints",
    classes=_POINTS,
)
def digit_corners(split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """Digits at random places, with the corners of the tight box around each.

    Each image of `digits` is moved by whole pixels, as far as its ink stays inside the image, at most 6 along each
    axis. The seed is fixed, so that the data are the same each time. The box is tight around the pixels of `INK` or
    more, and its far edges are excluded: a digit in the columns 3 to 12 has x from 3 to 13.

    Returns:
      Examples of images uint8 `(N, 32, 32, 1)` and labels float32 `(N, 4, 2)`: (x, y) in pixels of the corners top
      left, top right, bottom right, bottom left. `classes` names the corners.

    Raises:
      UserError: for a size other than 32x32.
    """
    if size is not None and tuple(size) != (32, 32):
        raise UserError(f"the images of digit-corners are 32x32, they cannot be {size}")
    still = digits(split).images
    rng = np.random.default_rng(_SEEDS[split])
    images = np.zeros_like(still)
    corners = np.zeros((len(still), 4, 2), np.float32)
    for image, moved, points in zip(still, images, corners, strict=True):
        box = _box(image)
        x, y = (
            rng.integers(max(-6, -first), min(6, 32 - end) + 1)
            for first, end in zip(box[:2], box[2:], strict=True)
        )  # fmt: skip
        moved[max(0, y) : 32 + y, max(0, x) : 32 + x] = image[max(0, -y) : 32 - y, max(0, -x) : 32 - x]
        x1, y1, x2, y2 = box + np.array([x, y, x, y])
        points[:] = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return Examples(images, corners, _POINTS, "digit-corners")


def _box(image: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 of the ink in an image `(H, W, 1)`, the ends excluded."""
    rows, columns = np.nonzero(image[..., 0] >= INK)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
