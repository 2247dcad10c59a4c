"""Sets that tensorflow-datasets prepared as array_record. They are read without TensorFlow."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.datasets.registry import (
    DATASETS,
    NAME,
    Folder,
    Size,
    data_root,
    dataset,
    not_found,
    reader,
    unknown_dataset,
)
from jaxcnn.data.sources import Records, one_line
from jaxcnn.data.splits import TESTS, check_split, divided
from jaxcnn.errors import DataError


@dataset(
    "cifar10",
    about="60,000 colour images of 10 classes, 32x32 (Krizhevsky 2009): tensorflow-datasets",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    augment="flip,crop",
)
def cifar10(split: str, data_dir: Folder = None, size: Size = None) -> Records:
    """50,000 training and 10,000 test images.

    Source: Krizhevsky, Learning multiple layers of features from tiny images (2009), chapter 3.
    """
    return prepared("cifar10", split, data_dir)


@reader(NAME, about="any other image classification set that tensorflow-datasets prepared", kind="images")
def prepared(name: str, split: str, data_dir: Folder = None, size: Size = None) -> Records:
    """The records of a prepared set in the folder of prepared data, or in its folder `tfds`.

    Raises:
      DataError: when it is not there (with what to do), cannot be opened, or lacks the split.
    """
    root = data_root(data_dir)
    for folder in () if root is None else (root, root / "tfds"):
        # The name is no part of the pattern: it may contain brackets or asterisks.
        if any((folder / name).glob("**/dataset_info.json")):
            return records(name, split, folder)
    if name not in DATASETS:
        known = {e.name for e in DATASETS.values() if e.kind == "images"}
        known |= set(_import_tfds().list_builders(with_community_datasets=False))
        if name not in known:
            raise unknown_dataset(name, known)
    how = _how_to_prepare(name, root or Path("~/tensorflow_datasets"))
    raise not_found(name, root, how, "Without any data: --data digits")


def _how_to_prepare(name: str, target: Path) -> str:
    idx = ", or put the four IDX files of MNIST into the data folder" if name == "mnist" else ""
    return (
        "Prepare it once, which needs TensorFlow and a download: "
        f"pip install tensorflow && python -c \"import tensorflow_datasets as tfds; tfds.data_source('{name}', "
        f"data_dir='{target}')\"{idx}"
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


def records(name: str, split: str, data_dir: Path, folder: Path | None = None) -> Records:
    """The records of a set by its name in `data_dir`, or of the set that was prepared in `folder`.

    A set with one split is divided, see `divided`; one without `test` gives its `validation` or `val`.

    Raises:
      DataError: when it cannot be opened or read, is no set of labelled images, or lacks the split.
    """
    tfds = _import_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        try:
            if folder is None:
                builder = tfds.builder(name, data_dir=str(data_dir))
            else:
                builder = tfds.builder_from_directory(str(folder))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be opened: {one_line(error)}") from error
        features = builder.info.features
        image = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
        label = next((k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
        if image is None or label is None:
            raise DataError(f"{name} is no image classification set: its features are {', '.join(features)}")
        splits = list(builder.info.splits)
        wanted = next((test for test in TESTS if test in splits), split) if split == "test" else split
        divide = split in ("train", "test") and (splits == ["train"] or (len(splits) == 1 and wanted not in splits))
        if divide:
            wanted = splits[0]
        check_split(name, wanted, splits)
        try:
            found = builder.as_data_source(split=wanted, decoders={image: tfds.decode.SkipDecoding()})
            index = np.arange(len(found))
        except Exception as error:
            raise DataError(f"{name} in {data_dir} cannot be read: {one_line(error)}") from error
    height, width, channels = features[image].shape
    classes = tuple(features[label].names)
    if all(c.isdigit() for c in classes):  # the folder has no file of names
        classes = DATASETS[builder.info.name].classes if builder.info.name in DATASETS else classes
    shape = height, width, channels if channels in (1, 3) else 3
    source = Records(name, classes, split, found, (image, label), index, shape)
    return source.take(divided(np.array([label for _, label, _ in source]), split, name)) if divide else source
