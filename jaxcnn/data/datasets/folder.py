"""Folders of images by class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.datasets.registry import PATH, Folder, Size, reader
from jaxcnn.data.datasets.tfds import records
from jaxcnn.data.images import ENDINGS
from jaxcnn.data.sources import Files, Records
from jaxcnn.data.splits import TESTS, check_split, divided
from jaxcnn.errors import DataError
from jaxcnn.files import below, hidden, normal
from jaxcnn.format import printable


@reader(PATH, about="a folder of images by class name, itself or its train and test folders", kind="images")
def folder(name: str, split: str, data_dir: Folder = None, size: Size = None) -> Files | Records:
    """The image files under `folder/CLASS`, or under `folder/SPLIT/CLASS`; or a set that tensorflow-datasets prepared.

    Raises:
      DataError: when the folder does not exist, has no classes or no images, or lacks the split.
    """
    path = Path(name).expanduser()
    if (path / "dataset_info.json").is_file():
        return records(name, split, path.parent, path)
    return _files(path, split)


def _files(root: Path, split: str) -> Files:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    inner = _folders(root)
    own_splits = "train" in inner and not inner.keys().isdisjoint(TESTS)
    if own_splits and split == "test":
        split = next(test for test in TESTS if test in inner)
    if own_splits:
        check_split(str(root), split, sorted(inner))
    top = root / inner[split] if own_splits else root
    # The training folder defines the classes: one may be missing in the test folder.
    first = root / "train" if own_splits else root
    classes = sorted(found := _folders(first))
    if not classes:
        raise DataError(f"{first} has no folders in it; expected one for each class, with its images inside")
    training, training_labels = paths, labels = _image_files(first, classes, found)
    if missing := [name for k, name in enumerate(classes) if not (training_labels == k).any()]:
        warnings.warn(
            f"{first} has no image in {len(missing)} of its {len(classes)} folders: {_some(missing)}. They are "
            f"classes without training examples (looked for {', '.join(sorted(ENDINGS))})",
            stacklevel=2,
        )
    if first != top:
        found = _folders(top)
        if extra := found.keys() - set(classes):
            raise DataError(f"{top} has classes that {first} lacks: {', '.join(sorted(extra))}")
        paths, labels = _image_files(top, classes, found)
    # It also defines channels and size of the images, so that the test images are read like the training images.
    sample = tuple(first / os.fsdecode(path) for path in training[:: max(1, len(training) // 50)])
    files = Files(str(root), tuple(classes), top, paths, labels, sample)
    if own_splits:
        return files
    files = files.take(divided(labels, split, str(root)))
    if not len(files):
        raise DataError(f"{root}: too few images for a {split} split; every fifth of a class is a test image")
    return files


def _folders(top: Path) -> dict[str, str]:
    """The names on disk of the folders in a folder, by their names in Unicode's normal form C."""
    found: dict[str, str] = {}
    for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
        if hidden(entry.name) or not entry.is_dir():
            continue
        if entry.is_symlink() and Path(entry.path).resolve() in (top.resolve(), *top.resolve().parents):
            warnings.warn(f"{printable(entry.path)} links to a folder above it and is left out", stacklevel=3)
            continue
        if (other := found.setdefault(normal(entry.name), entry.name)) != entry.name:
            raise DataError(
                f"{top}: the folders {other!a} and {entry.name!a} have the same name in two Unicode forms: merge them"
            )
    return found


def _image_files(top: Path, classes: Sequence[str], folders: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The image files under the folder of each class, as paths relative to `top`, and their labels."""
    of_class: list[list[bytes]] = []
    lost: list[str] = []
    places: dict[Path, str] = {}
    for name in classes:
        if name in folders and (other := places.setdefault((top / folders[name]).resolve(), name)) != name:
            raise DataError(f"{top}: the classes {other} and {name} are the same folder by a link: remove one of them")
        files, links = below(top / folders[name]) if name in folders else ([], [])
        of_class.append([os.fsencode(path.relative_to(top)) for path in files if path.suffix.lower() in ENDINGS])
        lost += [str(path.relative_to(top)) for path in links]
    if lost:
        warnings.warn(
            f"{printable(top)}: {len(lost)} broken links and links to folders are left out: {_some(lost)}",
            stacklevel=3,
        )
    if not any(of_class):
        raise DataError(f"{top} holds no images: the dataset is empty (looked for {', '.join(sorted(ENDINGS))})")
    paths = np.concatenate([np.array(files, bytes) for files in of_class])
    return paths, np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in of_class])


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"
