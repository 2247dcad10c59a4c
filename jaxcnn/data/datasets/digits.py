"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

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
    images, labels = _enlarged()
    part = divided(labels, split, "digits")
    return Dataset(images[part], labels[part], CLASSES, "digits")


@functools.cache
def _enlarged() -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    small, labels = _original()
    small = np.round(small * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(d).resize((32, 32), Image.Resampling.BICUBIC)) for d in small])
    return images[..., None], labels.astype(np.int32)


def _original() -> tuple[np.ndarray, np.ndarray]:
    """The images `(N, 8, 8)`, from 0 to 16, and their classes.

    They are read from scikit-learn's file where it is found, for to import the package takes a second.
    """
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file is not None and file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :64].reshape(-1, 8, 8), rows[:, 64]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
