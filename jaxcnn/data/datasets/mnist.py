"""MNIST: from the four IDX files of its authors, or from tensorflow-datasets."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets.registry import Folder, Size, data_root, dataset
from jaxcnn.data.datasets.tfds import prepared
from jaxcnn.data.sources import Records
from jaxcnn.errors import DataError
from jaxcnn.files import regular

_MOST_BYTES = 8 << 30
_CHUNK = 1 << 20
_MOST_AXES = 8
_CLASSES = tuple("0123456789")


@dataset(
    "mnist",
    about="70,000 handwritten digits, 28x28 (LeCun et al. 1998): IDX files or tensorflow-datasets",
    classes=_CLASSES,
    augment="affine",
    source=partial(prepared, "mnist"),
)
def mnist(split: str, data_dir: Folder = None, size: Size = None) -> Dataset | Records:
    """60,000 training and 10,000 test images `(N, 28, 28, 1)`.

    The IDX files are looked for in the folder of prepared data, and in its folders `mnist-idx` and `mnist`; where there
    are none, the set is read as tensorflow-datasets prepared it.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition (1998).
    """
    folder = _idx_folder(data_root(data_dir))
    return _idx(folder, split) if folder else prepared("mnist", split, data_dir, size)


_IDX_FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}


def _idx_file(folder: Path, stem: str) -> Path | None:
    dims = 3 if stem.endswith("images") else 1
    for dot in ("-", "."):
        for end in (".gz", ""):
            path = folder / f"{stem}{dot}idx{dims}-ubyte{end}"
            if path.is_file():
                return path
    return None


def _idx_folder(root: Path | None) -> Path | None:
    """The folder with the IDX files, if there is one."""
    for folder in () if root is None else (root, root / "mnist-idx", root / "mnist"):
        if _idx_file(folder, _IDX_FILES["train"][0]) or _idx_file(folder, _IDX_FILES["test"][0]):
            return folder
    return None


def _idx(folder: Path, split: str) -> Dataset:
    arrays = []
    for stem in _IDX_FILES[split]:
        path = _idx_file(folder, stem)
        if path is None:
            raise DataError(f"mnist: {folder} has no {stem}-idx?-ubyte.gz; all four IDX files are needed")
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(f"mnist: {folder} holds images {images.shape} and labels {labels.shape}; expected 3 and 1 axes")
    return Dataset(images[..., None], labels.astype(np.int32), _CLASSES, "mnist")


def read_idx(path: str | Path) -> np.ndarray:
    """A file in MNIST's IDX format, with or without gzip, as a uint8 array.

    The format: two bytes 0, a byte for the type (8, unsigned bytes), a byte for the number of axes, the length of each
    axis as a big-endian 32-bit integer, then the values.

    Raises:
      DataError: when the file ends in .gz and is not gzip, is cut short, has extra bytes, or is of another format.
    """
    path = Path(path)
    try:
        size = regular(path).stat().st_size
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if path.suffix == ".gz" and not packed:
            raise DataError(f"{path} is not a gzip file, although its name ends in .gz; download it again")
        with gzip.open(path) if packed else open(path, "rb") as file:
            # gzip compresses by a factor of at most 1032.
            return _read_idx(file, size * 1032 if packed else size, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut short or damaged ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_idx(file: BinaryIO | gzip.GzipFile, most: int, path: Path) -> np.ndarray:
    """The values of an IDX file of at most `most` bytes. One byte more than its header says is read at most."""
    begin = file.read(4)
    if len(begin) < 4 or begin[:2] != b"\0\0" or begin[2] != 8:
        raise DataError(f"{path} is not an IDX file of bytes: it begins with {begin.hex() or 'nothing'}, not 0000080x")
    axes = begin[3]
    if not 1 <= axes <= _MOST_AXES:
        raise DataError(f"{path} is not an IDX file of images or labels: its header says {axes} axes")
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        raise DataError(f"{path} is cut short: {4 + len(header)} bytes, the header alone has {4 + 4 * axes}")
    shape = struct.unpack(f">{axes}I", header)
    count = math.prod(shape)
    if not count:
        raise DataError(f"{path}: the dataset is empty, its header says {shape}")
    if count > _MOST_BYTES:
        raise DataError(f"{path}: its header says {shape}, {count >> 30:,} GiB; the most is {_MOST_BYTES >> 30} GiB")
    before, expected = 4 + 4 * axes, f"{4 + 4 * axes + count:,} expected for {shape}"
    if before + count > most:
        raise DataError(f"{path} is cut short or damaged: {most:,} bytes at most, {expected}")
    values = np.empty(count, np.uint8)
    done = 0
    while done < count and (part := file.read(min(_CHUNK, count - done))):
        values[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done < count:
        raise DataError(f"{path} is cut short or damaged: {before + done:,} bytes, {expected}")
    if file.read(1):
        raise DataError(f"{path} is cut short or damaged: {before + done + 1:,} bytes or more, {expected}")
    return values.reshape(shape)
