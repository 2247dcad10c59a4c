"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets.registry import Folder, Size, dataset
from jaxcnn.data.splits import divided

CLASSES = tuple("0123456789")


@dataset(
    "digits",
    about="1,797 handwritten digits, 8x8 scaled to 32x32, with the package (scikit-learn; UCI)",
    classes=CLASSES,
    augment="affine",
)
def digits(split: str, data_dir: Folder = None, size: Size = None) -> Dataset:
    """1,442 training and 355 test images, uint8 `(N, 32, 32, 1)`: the 8x8 originals, enlarged bicubically.

    The size is fixed, and no folder is needed.

    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits (UCI, 1998), its test set.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = divided(bunch.target, split, "digits")
    small = np.round(bunch.images[part] * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(d).resize((32, 32), Image.Resampling.BICUBIC)) for d in small])
    return Dataset(images[..., None], bunch.target[part].astype(np.int32), CLASSES, "digits")
