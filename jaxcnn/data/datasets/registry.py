"""The list of datasets. `@dataset(...)` over the function that loads one adds it, with all that is known about it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.sources import Files, Records
from jaxcnn.data.splits import check_split, parse_split
from jaxcnn.data.text import Corpus
from jaxcnn.errors import DataError, unknown

Folder = str | Path | None
Size = Sequence[int] | None

KINDS = {
    "images": "images with a class each",
    "segmentation": "images with a class for each pixel",
    "boxes": "images with a box and a class for each object",
    "keypoints": "images with the positions of points in them",
    "sentences": "sentences with a class each",
    "questions": "pictures with questions about them",
}
"""The kinds of data, in the order in which they are listed. Another kind needs no entry here: its name describes it."""

PATH, NAME = "path/to/folder", "NAME"
"""How the list shows a reader: of any folder, or of any other name."""


@dataclass(frozen=True)
class Entry:
    """A dataset that has a name, or a reader of any folder of one form.

    Attributes:
      name: its name in `jaxcnn datasets` and for `cnn.data.load`.
      about: what it is, in one line.
      kind: what its examples are, a key of `KINDS` or a new word. Tasks ask for one kind.
      load: `(split, data_dir, size) -> data`, see `dataset`.
      splits: their names; empty where only the files say which there are.
      size: (height, width) to which images are resized by default; None for their own size.
      classes: the names of the classes in the order of the labels, where they are the same for all copies of the data.
      augment: the usual augmentation, as for `jaxcnn train --augment`.
      source: `(split, data_dir, size) -> Files | Records` for `cnn.data.stream`, where `load` gives something else.
    """

    name: str
    about: str
    kind: str
    load: Callable[..., Any]
    splits: tuple[str, ...] = ("train", "test")
    size: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()
    augment: str = "none"
    source: Callable[..., Any] | None = None

    @property
    def validation(self) -> bool:
        """Whether the set has a validation split."""
        return "validation" in self.splits


DATASETS: dict[str, Entry] = {}
"""All datasets that have a name."""

READERS: dict[tuple[str, str], Entry] = {}
"""The readers of folders and of other names, by kind and by `PATH` or `NAME`."""


def dataset(
    name: str,
    *,
    about: str,
    kind: str = "images",
    splits: tuple[str, ...] = ("train", "test"),
    size: tuple[int, int] | None = None,
    classes: tuple[str, ...] = (),
    augment: str = "none",
    source: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates the function that loads a dataset, and adds the dataset to `DATASETS`.

    The function is `load(split, data_dir, size)`: the name of a split without a slice, the folder of prepared data or
    None, and (height, width) or None. It returns one of

    - a `Dataset` or `Examples` of the split;
    - `Files` or `Records` of the split: `cnn.data.load` decodes them, `cnn.data.stream` reads them batch by batch;
    - a `Corpus` of all sentences, which is divided into the splits.

    Slices, a split that does not exist and the default size are handled by the caller:

        @dataset("squares", about="100 grey squares", classes=("small", "large"))
        def squares(split, data_dir, size):
            ...
            return Dataset(images, labels, ("small", "large"), "squares")

    Args:
      name, about, kind, splits, size, classes, augment, source: see `Entry`.
    """

    def decorate(load: Callable[..., Any]) -> Callable[..., Any]:
        DATASETS[name] = Entry(name, about, kind, load, splits, size, classes, augment, source)
        return load

    return decorate


def reader(
    form: str, *, about: str, kind: str, splits: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates the function that reads any folder (`PATH`), or any set that is not listed (`NAME`), of a kind.

    The function is `load(name, split, data_dir, size)`, and returns what the function of a `dataset` does.
    """

    def decorate(load: Callable[..., Any]) -> Callable[..., Any]:
        READERS[kind, form] = Entry(form, about, kind, load, splits)
        return load

    return decorate


def listed() -> list[Entry]:
    """All datasets and readers, kind by kind, the readers last."""
    entries = [*DATASETS.values(), *READERS.values()]
    kinds = list(dict.fromkeys([*KINDS, *(entry.kind for entry in entries)]))
    return sorted(entries, key=lambda entry: (kinds.index(entry.kind), entry.name in (PATH, NAME)))


def lookup(name: str, kind: str | None = None) -> Entry:
    """The dataset of a name, or the reader of a path.

    Args:
      name: a name in `DATASETS`, the path of a folder, or a name that a reader of this kind knows.
      kind: the kind of data that is needed. When not given, a name may be of any kind, and a path is read as images.

    Raises:
      DataError: for a dataset of another kind, or an unknown name.
    """
    path = is_path(name)
    if not path and name in DATASETS:
        entry = DATASETS[name]
        if kind not in (None, entry.kind):
            usable = [e.name for e in listed() if e.kind == kind]
            raise DataError(
                f"{name} has {KINDS.get(entry.kind, entry.kind)}; expected {KINDS.get(str(kind), kind)}: choose "
                f"{' or '.join(usable) or 'another dataset'}"
            )
        return entry
    found = READERS.get((kind or "images", PATH if path else NAME))
    if found is None:
        if path:
            raise DataError(f"{name}: no folder can be read as {KINDS.get(str(kind), kind)}; give a dataset's name")
        raise unknown_dataset(name, (e.name for e in DATASETS.values() if e.kind == kind))
    return dataclasses.replace(found, name=name, load=functools.partial(found.load, name))


def read(
    name: str, split: str = "train", data_dir: Folder = None, size: Size = None, kind: str | None = None,
    source: bool = False,
) -> Any:  # fmt: skip
    """The data of a split, sliced, as the dataset's function returns it: images in files are not decoded.

    Args:
      name, split, data_dir, size, kind: as for `cnn.data.load`.
      source: whether `Files` or `Records` are preferred to images in memory, where the dataset has both.

    Raises:
      DataError: for an unknown dataset or split, one of another kind, or an empty slice.
    """
    base, part = parse_split(split)
    entry = lookup(name, kind)
    if entry.splits:
        check_split(name, base, entry.splits)
    function = entry.source if source and entry.source else entry.load
    found = function(base, data_dir, entry.size if size is None else size)
    if isinstance(found, Corpus):
        found = found.split(base)
    if part is not None:
        index = part(len(found))
        found = found.take(np.arange(len(found))[index] if isinstance(found, (Files, Records)) else index)
    if not len(found):
        raise DataError(f"{name}: the split {split} is empty; it has no example to train on or to measure")
    return found


# --- where data lies ---------------------------------------------------------------------------------------------


def is_path(name: str) -> bool:
    """Whether the name of a dataset is the path of a folder."""
    return os.sep in name or name.startswith((".", "~")) or (name not in DATASETS and Path(name).is_dir())


def data_root(data_dir: Folder) -> Path | None:
    """The folder of prepared data: `data_dir`, else `JAXCNN_DATA_DIR`, else `~/tensorflow_datasets` if it exists.

    Raises:
      DataError: when the folder that was named does not exist.
    """
    given = data_dir if data_dir is not None else os.environ.get("JAXCNN_DATA_DIR")
    usual = Path("~/tensorflow_datasets").expanduser()  # where tensorflow-datasets itself prepares
    root = Path(given).expanduser() if given else usual if usual.is_dir() else None
    if root is not None and not root.is_dir():
        source = "--data-dir" if data_dir is not None else "JAXCNN_DATA_DIR"
        raise DataError(f"the data directory {root} ({source}) does not exist")
    return root


def data_folder(name: str, data_dir: Folder, how: str) -> Path:
    """The folder called `name` in the folder of prepared data.

    Args:
      how: what to do where it is missing, a sentence without its full stop.

    Raises:
      DataError: when it is missing.
    """
    root = data_root(data_dir)
    if root is None or not (root / name).is_dir():
        raise not_found(name, root, how)
    return root / name


def not_found(name: str, root: Path | None, how: str, instead: str = "") -> DataError:
    """An error for a dataset that is not in the folder of prepared data, with what to do, or to use instead."""
    where = f"under {root}" if root else "(no --data-dir was given and JAXCNN_DATA_DIR is not set)"
    return DataError(
        f"the dataset {name} was not found {where}. {how}; then pass the data folder with --data-dir or JAXCNN_DATA_DIR"
        f"{'. ' if instead else ''}{instead}"
    )


def unknown_dataset(name: str, known: Iterable[str]) -> DataError:
    """An error for a name that no dataset has, with the nearest ones."""
    return DataError(f"{unknown('dataset', name, known)}; a path to a folder needs a slash: ./{name}")
