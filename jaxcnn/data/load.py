"""Datasets by name: in memory, or as a source to stream from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets.registry import lookup, read
from jaxcnn.data.images import read_image
from jaxcnn.data.sources import Files, Records
from jaxcnn.errors import DataError

__all__ = ["find", "load"]

_MOST_BYTES = 8 << 30


def load(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    size: Sequence[int] | None = None,
    kind: str | None = None,
) -> Any:
    """A dataset that fits in memory: a `Dataset` of labelled images, or `Examples` for data of any other kind.

    Args:
      name: a name that `jaxcnn datasets` lists; another image classification set of tensorflow-datasets; or the path of
        a folder. Images lie in `folder/CLASS/IMAGE`, or in `folder/train/CLASS/IMAGE` beside `test`, `validation` or
        `val`; the folder of a prepared set has a file `dataset_info.json`. Hidden files and folders are left out, and
        so are links to folders below a class's, with a warning; class names are in Unicode's normal form C.
      split: `train` or `test`, or another one that the set has; with a slice as in `train[:1000]` or `train[90%:]`. A
        set with one split only is divided: every fifth example of a class is a test example. A set without `test` gives
        its `validation` or `val`.
      data_dir: the folder of prepared data; `JAXCNN_DATA_DIR` when not given, then `~/tensorflow_datasets`. What comes
        with the package, and paths, need none.
      size: (height, width) to which images are resized. When not given, the dataset's default; for images that differ
        in size their median, at most 256.
      kind: the kind of data that is needed, a key of `jaxcnn.data.datasets.KINDS`: another kind is an error, and a path
        is read in the form of this kind. When not given, a name may be of any kind, and a path is read as images.

    Raises:
      DataError: when the data is not there (with what to do), is damaged, is of another kind, or has no example.
    """
    found = read(name, split, data_dir, size, kind)
    if isinstance(found, (Files, Records)):
        return _decoded(found, lookup(name, kind).size if size is None else size)
    return found


def find(name: str, split: str = "train", data_dir: str | Path | None = None) -> Files | Records:
    """The labelled images of a split as they lie in files, to be read one by one.

    Args:
      name, split, data_dir: as for `load`.

    Raises:
      DataError: when the data is not there (with what to do), cannot be opened, comes in memory, or has no example.
    """
    found = read(name, split, data_dir, kind="images", source=True)
    if not isinstance(found, (Files, Records)):
        raise DataError(f"{name} cannot be streamed, its images fit in memory: jaxcnn.data.load({name!r})")
    return found


def _decoded(source: Files | Records, size: Sequence[int] | None) -> Dataset:
    """All images of a source."""
    channels, examples = source.channels(), list(source)
    if size is None:
        size = _typical(source.shapes()) if isinstance(source, Files) else source.size

    def read(i: int, to: tuple[int, int] | None) -> np.ndarray:
        file, _, where = examples[i]
        return read_image(file, channels, to, where)

    images = _stack(read, len(examples), size, source.name)
    return Dataset(images, np.array([label for _, label, _ in examples], np.int32), source.classes, source.name)


def _typical(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The median height and width, at most 256."""
    return [int(v) for v in np.minimum(np.median([shape[:2] for shape in shapes], axis=0), 256)]


def _stack(
    read: Callable[[int, tuple[int, int] | None], np.ndarray], count: int, size: Sequence[int] | None, name: str
) -> np.ndarray:
    """Reads `count` images into one array; where no size is given, that of the images' median."""
    if size is None:
        size = _typical([read(i, None).shape for i in range(0, count, max(1, count // 50))])
    height, width = int(size[0]), int(size[1])
    first = read(0, (height, width))
    needed = first.nbytes * count
    if needed > _MOST_BYTES:
        raise DataError(f"{name}: {count:,} images of {height}x{width} take {needed >> 30} GiB; choose a smaller size")
    images = np.empty((count, *first.shape), np.uint8)
    for i in range(count):
        images[i] = read(i, (height, width))
    return images
