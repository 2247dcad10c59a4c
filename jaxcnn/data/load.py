"""Datasets by name."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.images import read_image
from jaxcnn.data.sources import DATASETS, Files, Records, data_root, divided, find, is_path, parse_split
from jaxcnn.errors import DataError
from jaxcnn.files import regular

__all__ = ["DATASETS", "load", "read_idx"]

_MOST_BYTES = 8 << 30
_CHUNK = 1 << 20
_MOST_AXES = 8


def load(
    name: str, split: str = "train", data_dir: str | Path | None = None, size: Sequence[int] | None = None
) -> Dataset:
    """A dataset that fits in memory.

    Args:
      name: `digits` (with the package), `mnist`, `cifar10`, another image classification set of tensorflow-datasets,
        or the path of a folder: `folder/CLASS/IMAGE`, or `folder/train/CLASS/IMAGE` beside `test`, `validation` or
        `val`; or of a prepared set's folder, the one with `dataset_info.json`. Hidden files and folders are left out,
        links to folders below a class's, too, with a warning; class names are in Unicode's normal form C.
      split: `train` or `test`, or another one the set has; with a slice as in `train[:1000]` or `train[90%:]`. A set
        with one split only is divided, every fifth example of a class being the test's. A set without `test` gives
        its `validation` or `val`.
      data_dir: where prepared data lies (the folder, or its `tfds` and `mnist-idx` folders); `JAXCNN_DATA_DIR` when
        not given, then `~/tensorflow_datasets`. `digits` and folders of images need none.
      size: (height, width) for sets whose images differ in size; their median, at most 256, when not given.

    Raises:
      DataError: when the data is not there (with what to do), is damaged, or holds no example.
    """
    base, part = parse_split(split)
    if name == "digits":
        data = _digits(base)
    elif name == "mnist" and not is_path(name) and (folder := _idx_folder(data_root(data_dir))):
        data = _idx(folder, base)
    else:
        return _decoded(find(name, split, data_dir), size)
    return data if part is None else data.take(part(len(data)))


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


# --- digits ------------------------------------------------------------------------------------------------------


def _digits(split: str) -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = divided(bunch.target, split, "digits")
    small = np.round(bunch.images[part] * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(d).resize((32, 32), Image.Resampling.BICUBIC)) for d in small])
    return Dataset(images[..., None], bunch.target[part].astype(np.int32), tuple("0123456789"), "digits")


# --- MNIST's own files -------------------------------------------------------------------------------------------

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
    """The folder with MNIST's own files, if there is one."""
    for folder in () if root is None else (root, root / "mnist-idx", root / "mnist"):
        if _idx_file(folder, _IDX_FILES["train"][0]) or _idx_file(folder, _IDX_FILES["test"][0]):
            return folder
    return None


def _idx(folder: Path, split: str) -> Dataset:
    if split not in _IDX_FILES:
        raise DataError(f"mnist has the splits train and test, not {split!r}")
    arrays = []
    for stem in _IDX_FILES[split]:
        path = _idx_file(folder, stem)
        if path is None:
            raise DataError(f"mnist: {folder} has no {stem}-idx?-ubyte.gz; all four IDX files are needed")
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(f"mnist: {folder} holds images {images.shape} and labels {labels.shape}; expected 3 and 1 axes")
    return Dataset(images[..., None], labels.astype(np.int32), tuple("0123456789"), "mnist")


def read_idx(path: str | Path) -> np.ndarray:
    """A file in MNIST's IDX format, gzip or not, as a uint8 array.

    The format: two bytes 0, a byte for the type (8, unsigned bytes), a byte for the number of axes, each axis as a
    big-endian 32-bit integer, then the values.

    Raises:
      DataError: when it is not gzip although so named, is cut short, has bytes left over, or is of another format.
    """
    path = Path(path)
    try:
        size = regular(path).stat().st_size
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if path.suffix == ".gz" and not packed:
            raise DataError(f"{path} is no gzip file, though its name says so; download it again")
        with gzip.open(path) if packed else open(path, "rb") as file:
            # gzip makes at most 1032 bytes of one.
            return _read_idx(file, size * 1032 if packed else size, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut short or damaged ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_idx(file: BinaryIO | gzip.GzipFile, most: int, path: Path) -> np.ndarray:
    """The values of an IDX file of at most so many bytes. It is read as far as its header says, and one byte more."""
    begin = file.read(4)
    if len(begin) < 4 or begin[:2] != b"\0\0" or begin[2] != 8:
        raise DataError(f"{path} is no IDX file of bytes: it begins with {begin.hex() or 'nothing'}, not 0000080x")
    axes = begin[3]
    if not 1 <= axes <= _MOST_AXES:
        raise DataError(f"{path} is no IDX file of images or labels: its header says {axes} axes")
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


# --- an array of images ------------------------------------------------------------------------------------------


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
