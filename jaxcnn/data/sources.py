"""Labelled images in files: those of a folder, or the records of a prepared dataset. Nothing is decoded here.

A source knows its number of examples and their classes. Item i is an image file, a label and a name for errors.
`load` decodes all of them, `stream` some at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.images import read_image
from jaxcnn.errors import DataError, first_line

Example = tuple[Path | bytes, int, str]
"""An image file (its path, or its bytes), its label, and its name in errors."""


# --- files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Files:
    """Image files under one folder.

    Attributes:
      name: where they come from.
      classes: the names of the classes, in the order of the labels.
      top: the folder.
      paths: `(N,)`, bytes: the path of each file relative to `top`. A million take 50 MB, as a list of `Path` 500 MB.
      labels: `(N,)`, int32.
      sample: about fifty files of the training set, for every split; they determine channels and size.
    """

    name: str
    classes: tuple[str, ...]
    top: Path
    paths: np.ndarray
    labels: np.ndarray
    sample: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.top / os.fsdecode(self.paths[index])
        return path, int(self.labels[index]), str(path)

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def take(self, index: np.ndarray) -> Files:
        """The examples at `index` (integers or a mask)."""
        return replace(self, paths=self.paths[index], labels=self.labels[index])

    def shapes(self, damaged: bool = False) -> list[tuple[int, ...]]:
        """(H, W, C) of the images of the sample. Damaged ones raise a DataError, or are left out with `damaged`."""
        shapes = []
        for path in self.sample:
            try:
                shapes.append(read_image(path).shape)
            except DataError:
                if not damaged:
                    raise
        return shapes

    def channels(self, damaged: bool = False) -> int:
        """3, or 1 if no image of the sample is in colour."""
        return max((shape[-1] for shape in self.shapes(damaged)), default=3)


# --- records -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Records:
    """Records of a dataset that tensorflow-datasets prepared, read one by one.

    Attributes:
      name: where they come from.
      classes: the names of the classes, in the order of the labels.
      split: the name of the split.
      records: tensorflow-datasets' data source; `records[i]` is a dict with the image file's bytes and the label.
      keys: the names of the image and the label in a record.
      index: `(N,)`: the numbers of the records of the split.
      shape: (H, W, C) of the images; None where they differ.
    """

    name: str
    classes: tuple[str, ...]
    split: str
    records: Any
    keys: tuple[str, str]
    index: np.ndarray
    shape: tuple[int | None, int | None, int]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example:
        return self._examples([int(self.index[index])])[0]

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, len(self), 1000):  # reading many at once takes half the time
            yield from self._examples(self.index[first : first + 1000].tolist())

    def _examples(self, numbers: list[int]) -> list[Example]:
        where = f"{self.name} {self.split} example"
        try:
            one = len(numbers) == 1  # `__getitems__` would start a thread for it
            records = [self.records[numbers[0]]] if one else self.records.__getitems__(numbers)
        except Exception as error:
            raise DataError(f"{where} {numbers[0]} cannot be read: {one_line(error)}") from error
        image, label = self.keys
        return [
            (record[image], int(record[label]), f"{where} {number}")
            for number, record in zip(numbers, records, strict=True)
        ]

    def take(self, index: np.ndarray) -> Records:
        """The examples at `index` (integers or a mask)."""
        return replace(self, index=self.index[index])

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images; None if they differ."""
        height, width, _ = self.shape
        return None if height is None or width is None else (height, width)

    def channels(self, damaged: bool = False) -> int:
        """3, or 1 for grey images."""
        return self.shape[-1]


def one_line(error: Exception) -> str:
    """What an error of another library says, with its name, in one line."""
    return f"{type(error).__name__}: {first_line(error)}"
