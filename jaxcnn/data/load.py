"""Datasets by name."""

from __future__ import annotations

import gzip
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.images import ENDINGS, read_image
from jaxcnn.errors import DataError, unknown

DATASETS: dict[str, str] = {
    "digits": "1,797 handwritten digits, 8x8 scaled to 32x32, with the package (scikit-learn; UCI)",
    "mnist": "70,000 handwritten digits, 28x28 (LeCun et al. 1998): IDX files or tensorflow-datasets",
    "cifar10": "60,000 colour images of 10 classes, 32x32 (Krizhevsky 2009): tensorflow-datasets",
    "NAME": "any other image classification set of tensorflow-datasets that was prepared as array_record",
    "path/to/folder": "a folder of images by class name, itself or its train and test folders",
}

_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
_MOST_BYTES = 8 << 30


def load(
    name: str, split: str = "train", data_dir: str | Path | None = None, size: Sequence[int] | None = None
) -> Dataset:
    """A dataset that fits in memory.

    Args:
      name: `digits` (with the package), `mnist`, `cifar10`, another image classification set of tensorflow-datasets,
        or the path of a folder: `folder/CLASS/IMAGE`, or `folder/train/CLASS/IMAGE` and `folder/test/CLASS/IMAGE`.
      split: `train` or `test`, or another one the set has; with a slice as in `train[:1000]` or `train[90%:]`. A set
        with one split only is divided, every fifth example of a class being the test's. A set without `test` gives
        its `validation`.
      data_dir: where prepared data lies (the folder, or its `tfds` and `mnist-idx` folders); `JAXCNN_DATA_DIR` when
        not given, then `~/tensorflow_datasets`. `digits` and folders of images need none.
      size: (height, width) for sets whose images differ in size; their median, at most 256, when not given.

    Raises:
      DataError: when the data is not there (with what to do), is damaged, or holds no example.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[((?:-?\d+%?)?):((?:-?\d+%?)?)\])?", split)
    if not match:
        raise DataError(f"split {split!r}: expected a name, or a name with a slice such as train[:1000] or train[90%:]")
    base, low, high = match.groups()
    if name == "digits":
        data = _digits(base)
    elif os.sep in name or name.startswith((".", "~")) or (Path(name).is_dir() and name not in DATASETS):
        data = _folder(Path(name).expanduser(), base, size)
    else:
        data = _prepared(name, base, data_dir, size)
    if low is None:
        return data
    bounds = [
        None if not b else int(b[:-1]) * len(data) // 100 if b.endswith("%") else int(b) for b in (low, high or "")
    ]
    return data.take(slice(*bounds))


def _divided(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """The fixed division of a set with one split: of each class, every fifth example is the test's."""
    if split not in ("train", "test"):
        raise DataError(f"{name} has the splits train and test, not {split!r}")
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test if split == "test" else ~test


# --- digits ------------------------------------------------------------------------------------------------------


def _digits(split: str) -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = _divided(bunch.target, split, "digits")
    small = np.round(bunch.images[part] * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(d).resize((32, 32), Image.Resampling.BICUBIC)) for d in small])
    return Dataset(images[..., None], bunch.target[part].astype(np.int32), tuple("0123456789"), "digits")


# --- prepared data -----------------------------------------------------------------------------------------------


def _prepared(name: str, split: str, data_dir: str | Path | None, size: Sequence[int] | None) -> Dataset:
    given = data_dir if data_dir is not None else os.environ.get("JAXCNN_DATA_DIR")
    own = Path("~/tensorflow_datasets").expanduser()  # where tensorflow-datasets itself prepares
    root = Path(given).expanduser() if given else own if own.is_dir() else None
    if root is not None and not root.is_dir():
        source = "--data-dir" if data_dir is not None else "JAXCNN_DATA_DIR"
        raise DataError(f"the data directory {root} ({source}) is not there")
    if name == "mnist" and root is not None:
        for folder in (root, root / "mnist-idx", root / "mnist"):
            if _idx_file(folder, _IDX_FILES["train"][0]) or _idx_file(folder, _IDX_FILES["test"][0]):
                return _idx(folder, split)
    if root is not None:
        for folder in (root, root / "tfds"):
            if any(folder.glob(f"{name}/**/dataset_info.json")):
                return _tfds(name, split, folder, size)
    raise DataError(_not_prepared(name, root))


def _not_prepared(name: str, root: Path | None) -> str:
    target = root or Path("~/tensorflow_datasets")
    where = f"under {root}" if root else "(no --data-dir was given and JAXCNN_DATA_DIR is not set)"
    if name not in DATASETS:
        tfds = _import_tfds()
        known = {*DATASETS, *tfds.list_builders(with_community_datasets=False)} - {"NAME", "path/to/folder"}
        if name not in known:
            return f"{unknown('dataset', name, known)}; a folder of images is given with a slash: ./{name}"
    idx = ", or put the four IDX files of MNIST there" if name == "mnist" else ""
    return (
        f"the dataset {name} is not prepared {where}. Prepare it once, which needs TensorFlow and a download: "
        f"pip install tensorflow && python -c \"import tensorflow_datasets as tfds; tfds.data_source('{name}', "
        f"data_dir='{target}')\"; then pass --data-dir {target}{idx}. Without any data: --data digits"
    )


def _import_tfds() -> Any:
    """tensorflow-datasets, imported late (it is slow) and without its warnings and its advice to install OpenCV."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import tensorflow_datasets
        except ImportError as error:
            raise DataError(
                f"tensorflow-datasets cannot be imported ({error}): pip install tensorflow-datasets importlib_resources"
            ) from error
    return tensorflow_datasets


def _tfds(name: str, split: str, data_dir: Path, size: Sequence[int] | None) -> Dataset:
    tfds = _import_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        try:
            builder = tfds.builder(name, data_dir=str(data_dir))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be opened: {_one_line(error)}") from error
        features = builder.info.features
        image_key = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
        label_key = next((k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
        if image_key is None or label_key is None:
            raise DataError(f"{name} is no image classification set: its features are {', '.join(features)}")
        splits = list(builder.info.splits)
        wanted = "validation" if split == "test" and "test" not in splits and "validation" in splits else split
        divide = split in ("train", "test") and (splits == ["train"] or (len(splits) == 1 and wanted not in splits))
        if divide:
            wanted = splits[0]
        if wanted not in splits:
            raise DataError(f"{name} has the splits {', '.join(splits)}, not {split!r}")
        try:
            source = builder.as_data_source(split=wanted, decoders={image_key: tfds.decode.SkipDecoding()})
            examples: list[dict[str, Any]] = []
            for first in range(0, len(source), 1000):
                examples += source.__getitems__(list(range(first, min(first + 1000, len(source)))))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be read: {_one_line(error)}") from error
        shape = features[image_key].shape
        channels = shape[-1] if shape[-1] in (1, 3) else 3
        names = tuple(features[label_key].names)
        if all(n.isdigit() for n in names):  # the folder has no file of names
            names = _NAMES.get(name, names)
    labels = np.array([e[label_key] for e in examples], np.int32)
    if divide:
        part = _divided(labels, split, name)
        examples, labels = [e for e, inside in zip(examples, part, strict=True) if inside], labels[part]
    if not examples:
        raise DataError(f"{name}: the split {split} is empty")
    fixed = tuple(shape[:2]) if None not in shape[:2] else None

    def read(i: int, to: tuple[int, int] | None) -> np.ndarray:
        return read_image(examples[i][image_key], channels, to, f"{name} {split} example {i}")

    return Dataset(_stack(read, len(examples), size or fixed, name), labels, names, name)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


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
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" or raw[:2] == b"\x1f\x8b" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        if raw[:2] != b"\x1f\x8b":
            raise DataError(f"{path} is no gzip file, though its name says so; download it again") from None
        raise DataError(f"{path} is cut short or damaged ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise DataError(f"{path} is no IDX file of bytes: it begins with {data[:4].hex() or 'nothing'}, not 0000080x")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise DataError(f"{path} is cut short: {len(data)} bytes, the header alone has {header}")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise DataError(f"{path} is cut short or damaged: {len(data):,} bytes, {expected:,} expected for {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


# --- a folder of images ------------------------------------------------------------------------------------------


def _folder(root: Path, split: str, size: Sequence[int] | None) -> Dataset:
    if not root.is_dir():
        raise DataError(f"the folder {root} is not there")
    inner = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    divided = not {"train", "test"} <= set(inner)
    if not divided and split not in inner:
        raise DataError(f"{root} has the splits {', '.join(inner)}, not {split!r}")
    top = root if divided else root / split
    # The training folder says what the classes are: a class may be missing in the test folder.
    first = root if divided else root / "train"
    classes = sorted(p.name for p in first.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{first} has no folders in it; expected one for each class, with its images inside")
    extra = {p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes)
    if extra:
        raise DataError(f"{top} has classes that {first} lacks: {', '.join(sorted(extra))}")
    files = _image_files(top, classes)
    # It also says whether images are grey or in colour, and their size: what a run learned with, it is measured with.
    training = files if divided else _image_files(first, classes)
    sample = [read_image(path) for path, _ in training[:: max(1, len(training) // 50)]]
    channels = max(image.shape[-1] for image in sample)
    size = size or _typical([image.shape for image in sample])
    labels = np.array([label for _, label in files], np.int32)
    if divided:
        part = _divided(labels, split, str(root))
        files, labels = [f for f, inside in zip(files, part, strict=True) if inside], labels[part]
        if not files:
            raise DataError(f"{root}: too few images for a {split} split; every fifth of a class is the test's")

    def read(i: int, to: tuple[int, int] | None) -> np.ndarray:
        return read_image(files[i][0], channels, to)

    return Dataset(_stack(read, len(files), size, str(root)), labels, tuple(classes), str(root))


def _image_files(top: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """The image files under each class's folder, with the class's number."""
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((top / name).rglob("*"))
        if path.suffix.lower() in ENDINGS and path.is_file()
    ]
    if not files:
        raise DataError(f"{top} holds no images: the dataset is empty (looked for {', '.join(sorted(ENDINGS))})")
    return files


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
