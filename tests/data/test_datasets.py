"""The registry of datasets: a dataset is one file, and everything else follows from what it says there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxcnn import cli, data
from jaxcnn.data import datasets
from jaxcnn.data.datasets import DATASETS, KINDS, READERS, registry
from jaxcnn.data.datasets.corners import INK
from jaxcnn.errors import DataError, UserError

SQUARES = """
import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.data.datasets.registry import dataset


@dataset("squares", about="20 grey squares", splits=("train", "validation", "test"), size=(6, 6), augment="flip")
def squares(split, data_dir, size):
    count = {"train": 20, "validation": 4, "test": 4}[split]
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, *size, 1), np.uint8)
    return Dataset(images, np.arange(count) % 2, ("even", "odd"), "squares")
"""


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[registry.Entry]:
    """A new file in the folder of datasets, and nothing else."""
    (tmp_path / "squares.py").write_text(SQUARES)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    datasets.discover()
    yield DATASETS["squares"]
    del DATASETS["squares"]
    del sys.modules["jaxcnn.data.datasets.squares"], datasets.squares


def test_a_dataset_is_one_file(squares: registry.Entry, capsys: pytest.CaptureFixture[str]) -> None:
    found = data.load("squares")
    assert repr(found) == "Dataset('squares', 20 images 6x6x1 uint8, 2 classes)"
    assert data.load("squares", "train[5:8]", size=(3, 4)).images[:, 2, 3, 0].tolist() == [5, 6, 7]
    assert len(data.load("squares", "validation")) == 4
    assert squares.validation
    with pytest.raises(DataError, match="squares has the splits train, validation and test, not 'dev'"):
        data.load("squares", "dev")
    with pytest.raises(DataError, match="squares cannot be streamed, its images fit in memory"):
        data.stream("squares")
    with pytest.raises(DataError, match="unknown dataset 'sqares': did you mean squares"):
        data.load("sqares")
    cli.main(["datasets"])
    assert ["squares", "images", "20", "grey", "squares"] in [x.split() for x in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("squares")
def test_a_dataset_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as error:
        data.load("squares", kind="boxes")
    assert str(error.value) == (
        "squares has images with a class each; expected images with a box and a class for each object: choose bccd "
        "or path/to/folder"
    )
    with pytest.raises(DataError, match=r"^camvid has images with a class for each pixel; expected images with a cl"):
        data.stream("camvid")
    with pytest.raises(DataError, match="expected points: choose another dataset"):
        data.load("squares", kind="points")
    with pytest.raises(SystemExit):
        cli.main(["train", "fcn8s", "--data", "squares"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "squares has images with a class each; expected images with a class for each pixel: choose camvid" in err


def test_every_dataset_says_what_it_is() -> None:
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert entry.kind in KINDS
        assert {"train", "test"} <= set(entry.splits)
        assert not registry.is_path(name)
    assert all(kind in KINDS for kind, _ in READERS)
    kinds = [entry.kind for entry in registry.listed()]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    assert len(kinds) == len(DATASETS) + len(READERS)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "camvid", "bccd", "rt-polarity"])
def test_missing_data_is_said_in_one_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXCNN_DATA_DIR", raising=False)
    begin, end = f"the dataset {name} was not found", "; then pass the data folder with --data-dir or JAXCNN_DATA_DIR"
    with pytest.raises(DataError) as nowhere:
        data.load(name)
    assert str(nowhere.value).startswith(f"{begin} (no --data-dir was given and JAXCNN_DATA_DIR is not set). P")
    assert end in str(nowhere.value)
    with pytest.raises(DataError) as empty:
        data.load(name, data_dir=tmp_path)
    assert str(empty.value).startswith(f"{begin} under {tmp_path}. P")
    assert end in str(empty.value)
    with pytest.raises(DataError, match=r"the data directory .*gone \(--data-dir\) does not exist"):
        data.load(name, data_dir=tmp_path / "gone")


def test_the_kind_says_how_a_folder_is_read(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / f"{name}.txt").write_text("one\ntwo words\nthree\nfour\nfive\n")
    found = data.load(str(tmp_path), "train[:3]", kind="sentences")
    assert found.classes == ("bad", "good")
    assert len(found) == 3
    assert len(data.load_text(str(tmp_path))) == 10
    for kind, says in {
        "images": "has no folders in it; expected one for each class",
        "segmentation": "classes.txt is missing",
        "boxes": "is no folder of Pascal VOC's form|it has no ImageSets/Main",
        "keypoints": "no folder can be read as images with the positions of points in them",
    }.items():
        with pytest.raises(DataError, match=says):
            data.load(str(tmp_path), kind=kind)


def test_sets_of_every_kind_load_by_name(data_dir: Path) -> None:
    reviews = data.load("rt-polarity", "test[:10]", data_dir)
    assert (len(reviews), reviews.classes) == (10, ("negative", "positive"))
    cells = data.load("bccd", "train[:2]", data_dir)
    assert (cells.inputs.shape, cells.classes) == ((2, 240, 320, 3), DATASETS["bccd"].classes)
    road = data.load("camvid", "validation[:3]", data_dir, (24, 32))
    assert (road.inputs.shape, road.labels.shape) == ((3, 24, 32, 3), (3, 24, 32))
    assert data.load("cifar10", "test[:2]", data_dir).classes == DATASETS["cifar10"].classes
    assert len(data.stream("mnist", "test[:50]", data_dir)) == 50


def test_digit_corners_are_the_corners_of_the_ink() -> None:
    train, test = (data.load("digit-corners", split, kind="keypoints") for split in ("train", "test"))
    assert repr(train) == "Examples('digit-corners', 1,442 of 32x32x1 uint8 to 4x2 float32, 4 classes)"
    assert len(test) == 355
    for part, split in ((train, "train"), (test, "test")):
        np.testing.assert_array_equal(part.inputs, data.load("digit-corners", split).inputs)  # the same each time
        originals = data.load("digits", split).images
        for image, corners, original in zip(part.inputs[..., 0], part.labels, originals[..., 0], strict=True):
            (left, top), (right, bottom) = corners[0].astype(int), corners[2].astype(int)
            np.testing.assert_array_equal(corners, [(left, top), (right, top), (right, bottom), (left, bottom)])
            ink = image >= INK
            # Nothing outside the box, and something in its first and last row and column.
            assert ink.sum() == ink[top:bottom, left:right].sum()
            for edge in (ink[top], ink[bottom - 1], ink[:, left], ink[:, right - 1]):
                assert edge.any()
            # The whole digit is there: its brightness is that of the original, times the scaling from 32 to the side.
            side = 32 * (image.sum() / original.sum()) ** 0.5
            assert 17.5 < side < 26.5
            assert bottom - top <= round(side) + 1
        assert (part.labels.std(0) > 1).all()  # no constant is near
    with pytest.raises(UserError, match="are 32x32, they cannot be"):
        data.load("digit-corners", size=(16, 16))
