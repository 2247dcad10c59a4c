"""Where labelled images lie: the files of a folder, or the records of a prepared dataset. None is decoded here.

A source knows how many examples there are and what their classes are, and gives the i-th as an image file, a label and
a name for errors. `load` decodes them all, `stream` some at a time.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.images import ENDINGS, read_image
from jaxcnn.errors import DataError, first_line, unknown
from jaxcnn.files import below, hidden, normal
from jaxcnn.format import printable

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
_TESTS = ("test", "validation", "val")
"""The names of what a network is tested on; where `test` is asked for, the first of them that is there."""

Example = tuple[Path | bytes, int, str]
"""An image file (its path, or its bytes), its label, and what to call it in an error."""


def find(name: str, split: str = "train", data_dir: str | Path | None = None) -> Files | Records:
    """The examples of a split, of a folder of images or of a set of tensorflow-datasets that was prepared.

    Args:
      name, split, data_dir: as for `load`. A path may also be that of a prepared set, of the folder in which its
        `dataset_info.json` lies.

    Raises:
      DataError: when the data is not there (with what to do), cannot be opened, or the split has no example.
    """
    base, part = parse_split(split)
    path = Path(name).expanduser()
    source: Files | Records
    if not is_path(name):
        source = _prepared(name, base, data_dir)
    elif (path / "dataset_info.json").is_file():
        source = _records(name, base, path.parent, path)
    else:
        source = _files(path, base)
    if part is not None:
        source = source.take(np.arange(len(source))[part(len(source))])
    if not len(source):
        raise DataError(f"{name}: the split {split} is empty; there is nothing to learn or to measure")
    return source


def is_path(name: str) -> bool:
    """Whether the name of a dataset is a folder's path."""
    return os.sep in name or name.startswith((".", "~")) or (Path(name).is_dir() and name not in DATASETS)


def parse_split(split: str) -> tuple[str, Callable[[int], slice] | None]:
    """`train[:90%]` as its name, and the slice of so many examples; None where there is none."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[((?:-?\d+%?)?):((?:-?\d+%?)?)\])?", split)
    if not match:
        raise DataError(f"split {split!r}: expected a name, or a name with a slice such as train[:1000] or train[90%:]")
    name, *bounds = match.groups()
    if bounds[0] is None:
        return name, None

    def of(count: int) -> slice:
        return slice(
            *(None if not b else int(b[:-1]) * count // 100 if b.endswith("%") else int(b) for b in bounds),
        )

    return name, of


def divided(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """The fixed division of a set with one split, as a mask: of each class, every fifth example is the test's."""
    if split not in ("train", "test"):
        raise DataError(f"{name} has the splits train and test, not {split!r}")
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test if split == "test" else ~test


# --- a folder of images ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Files:
    """Image files under one folder.

    Attributes:
      name: where they come from.
      classes: the names of the classes, in the order of the labels.
      top: the folder.
      paths: `(N,)`, bytes: each file's path from there. An array of a million takes 50 MB, a list of `Path` 500 MB.
      labels: `(N,)`, int32.
      sample: some fifty files of the training set, whatever the split: they say what the images are like.
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
        """(H, W, C) of the sample's images; those that are damaged are an error, or left out where they may be."""
        shapes = []
        for path in self.sample:
            try:
                shapes.append(read_image(path).shape)
            except DataError:
                if not damaged:
                    raise
        return shapes

    def channels(self, damaged: bool = False) -> int:
        """3, or 1 where no image of the sample is in colour."""
        return max((shape[-1] for shape in self.shapes(damaged)), default=3)


def _files(root: Path, split: str) -> Files:
    if not root.is_dir():
        raise DataError(f"the folder {root} is not there")
    inner = _folders(root)
    own_splits = "train" in inner and not inner.keys().isdisjoint(_TESTS)
    if own_splits and split == "test":
        split = next(test for test in _TESTS if test in inner)
    if own_splits and split not in inner:
        raise DataError(f"{root} has the splits {', '.join(sorted(inner))}, not {split!r}")
    top = root / inner[split] if own_splits else root
    # The training folder says what the classes are: a class may be missing in the test folder.
    first = root / "train" if own_splits else root
    classes = sorted(found := _folders(first))
    if not classes:
        raise DataError(f"{first} has no folders in it; expected one for each class, with its images inside")
    training, training_labels = paths, labels = _image_files(first, classes, found)
    if missing := [name for k, name in enumerate(classes) if not (training_labels == k).any()]:
        warnings.warn(
            f"{first} has no image in {len(missing)} of its {len(classes)} folders: {_some(missing)}. Each is a class "
            f"all the same, which nothing is learned of (looked for {', '.join(sorted(ENDINGS))})",
            stacklevel=2,
        )
    if first != top:
        found = _folders(top)
        if extra := found.keys() - set(classes):
            raise DataError(f"{top} has classes that {first} lacks: {', '.join(sorted(extra))}")
        paths, labels = _image_files(top, classes, found)
    # It also says whether images are grey or in colour, and their size: what a run learned with, it is measured with.
    sample = tuple(first / os.fsdecode(path) for path in training[:: max(1, len(training) // 50)])
    files = Files(str(root), tuple(classes), top, paths, labels, sample)
    if own_splits:
        return files
    files = files.take(divided(labels, split, str(root)))
    if not len(files):
        raise DataError(f"{root}: too few images for a {split} split; every fifth of a class is the test's")
    return files


def _folders(top: Path) -> dict[str, str]:
    """The folders in a folder: by their names in Unicode's normal form C, what they are called on the disk."""
    found: dict[str, str] = {}
    for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
        if hidden(entry.name) or not entry.is_dir():
            continue
        if entry.is_symlink() and Path(entry.path).resolve() in (top.resolve(), *top.resolve().parents):
            warnings.warn(f"{printable(entry.path)} is a link to a folder above it, and left out", stacklevel=3)
            continue
        if (other := found.setdefault(normal(entry.name), entry.name)) != entry.name:
            raise DataError(
                f"{top}: the folders {other!a} and {entry.name!a} have one name, written in two ways: "
                "make one folder of them"
            )
    return found


def _image_files(top: Path, classes: Sequence[str], folders: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The image files under each class's folder, as paths from `top`, with the class's number."""
    of_class: list[list[bytes]] = []
    lost: list[str] = []
    places: dict[Path, str] = {}
    for name in classes:
        if name in folders and (other := places.setdefault((top / folders[name]).resolve(), name)) != name:
            raise DataError(f"{top}: the classes {other} and {name} are one folder, by a link: leave one of them")
        files, links = below(top / folders[name]) if name in folders else ([], [])
        of_class.append([os.fsencode(path.relative_to(top)) for path in files if path.suffix.lower() in ENDINGS])
        lost += [str(path.relative_to(top)) for path in links]
    if lost:
        warnings.warn(
            f"{printable(top)}: {len(lost)} links that lead nowhere, or to folders, are left out: {_some(lost)}",
            stacklevel=3,
        )
    if not any(of_class):
        raise DataError(f"{top} holds no images: the dataset is empty (looked for {', '.join(sorted(ENDINGS))})")
    paths = np.concatenate([np.array(files, bytes) for files in of_class])
    return paths, np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in of_class])


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"


# --- prepared data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Records:
    """Records of a set that tensorflow-datasets prepared, read one by one.

    Attributes:
      name: where they come from.
      classes: the names of the classes, in the order of the labels.
      split: as it was asked for.
      records: tensorflow-datasets' data source; `records[i]` is a dict with the image file's bytes and the label.
      keys: under which names they stand there.
      index: `(N,)`: the numbers of the records that belong to the split.
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
        for first in range(0, len(self), 1000):  # many at once take half the time
            yield from self._examples(self.index[first : first + 1000].tolist())

    def _examples(self, numbers: list[int]) -> list[Example]:
        where = f"{self.name} {self.split} example"
        try:
            one = len(numbers) == 1  # for which `__getitems__` would start a thread
            records = [self.records[numbers[0]]] if one else self.records.__getitems__(numbers)
        except Exception as error:
            raise DataError(f"{where} {numbers[0]} cannot be read: {_one_line(error)}") from error
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
        """(height, width) of the images; None where they differ."""
        height, width, _ = self.shape
        return None if height is None or width is None else (height, width)

    def channels(self, damaged: bool = False) -> int:
        """3, or 1 where the set's images are grey."""
        return self.shape[-1]


def data_root(data_dir: str | Path | None) -> Path | None:
    """The folder that prepared data is looked for in; None where none was named and the usual one is not there.

    Raises:
      DataError: when the folder that was named is not there.
    """
    given = data_dir if data_dir is not None else os.environ.get("JAXCNN_DATA_DIR")
    own = Path("~/tensorflow_datasets").expanduser()  # where tensorflow-datasets itself prepares
    root = Path(given).expanduser() if given else own if own.is_dir() else None
    if root is not None and not root.is_dir():
        source = "--data-dir" if data_dir is not None else "JAXCNN_DATA_DIR"
        raise DataError(f"the data directory {root} ({source}) is not there")
    return root


def _prepared(name: str, split: str, data_dir: str | Path | None) -> Records:
    root = data_root(data_dir)
    for folder in () if root is None else (root, root / "tfds"):
        # The name is no part of the pattern: it may have brackets or asterisks in it.
        if any((folder / name).glob("**/dataset_info.json")):
            return _records(name, split, folder)
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


def _records(name: str, split: str, data_dir: Path, folder: Path | None = None) -> Records:
    """A set by its name in `data_dir`, or the one that was prepared in `folder`."""
    tfds = _import_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        try:
            if folder is None:
                builder = tfds.builder(name, data_dir=str(data_dir))
            else:
                builder = tfds.builder_from_directory(str(folder))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be opened: {_one_line(error)}") from error
        features = builder.info.features
        image = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
        label = next((k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
        if image is None or label is None:
            raise DataError(f"{name} is no image classification set: its features are {', '.join(features)}")
        splits = list(builder.info.splits)
        wanted = next((test for test in _TESTS if test in splits), split) if split == "test" else split
        divide = split in ("train", "test") and (splits == ["train"] or (len(splits) == 1 and wanted not in splits))
        if divide:
            wanted = splits[0]
        if wanted not in splits:
            raise DataError(f"{name} has the splits {', '.join(splits)}, not {split!r}")
        try:
            records = builder.as_data_source(split=wanted, decoders={image: tfds.decode.SkipDecoding()})
            index = np.arange(len(records))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be read: {_one_line(error)}") from error
    height, width, channels = features[image].shape
    classes = tuple(features[label].names)
    if all(c.isdigit() for c in classes):  # the folder has no file of names
        classes = _NAMES.get(builder.info.name, classes)
    shape = height, width, channels if channels in (1, 3) else 3
    source = Records(name, classes, split, records, (image, label), index, shape)
    return source.take(divided(np.array([label for _, label, _ in source]), split, name)) if divide else source


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
