"""A set of labelled images that fits in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxcnn.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory.

    Attributes:
      images: `(N, H, W, C)`, uint8.
      labels: `(N,)`, int32, from 0 to `len(classes) - 1`.
      classes: the names of the classes, in the order of the labels.
      name: where they come from.

    Raises:
      DataError: for arrays that do not fit together, labels outside the classes, or no example at all.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "data"

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim != 4:
            raise DataError(f"{self.name}: images should be (N, H, W, C), got {images.shape}")
        if labels.shape != images.shape[:1]:
            raise DataError(f"{self.name}: {len(images)} images and labels of shape {labels.shape}")
        if not len(images):
            raise DataError(f"{self.name}: the dataset is empty; there is nothing to learn or to measure")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{self.name}: labels should be integers, got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name}: labels from {low} to {high} for {len(self.classes)} classes: "
                f"expected 0 to {len(self.classes) - 1}"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int32))
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of an image, (height, width, channels)."""
        return self.images.shape[1:]

    def __repr__(self) -> str:
        n, h, w, c = self.images.shape
        return f"Dataset({self.name!r}, {n:,} images {h}x{w}x{c} {self.images.dtype}, {len(self.classes)} classes)"

    def take(self, index: np.ndarray | Sequence[int] | slice) -> Dataset:
        """The examples at `index` (integers, a mask or a slice)."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def hold_out(self, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two parts: all but a random `share` (0 < share < 1) of each class, and that share.

        The same seed gives the same parts.
        """
        if not 0 < share < 1:
            raise DataError(f"the share to hold out should be between 0 and 1, got {share}")
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self), bool)
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            held[rng.permutation(members)[: round(share * len(members))]] = True
        if held.all() or not held.any():
            raise DataError(f"{self.name}: {len(self)} images are too few to hold out a share of {share}")
        return self.take(~held), self.take(held)
