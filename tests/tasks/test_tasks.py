"""`jaxcnn train`, `evaluate` and `predict` for networks that do not name the class of an image."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from helpers import close
from PIL import Image

from jaxcnn import cli, models, tasks
from jaxcnn.data import datasets
from jaxcnn.data.datasets import clevr
from jaxcnn.errors import UserError
from jaxcnn.explore import target
from jaxcnn.explore.answers import message
from jaxcnn.explore.messages import unpack
from jaxcnn.explore.network import Network
from jaxcnn.train import TrainedModel

SMALL = "--epochs 1 --batch-size 2"

# model: options of train, the figure of a result, what predict is given, the pictures or numbers that it writes.
TASKS: dict[str, tuple[str, str, list[str], list[str]]] = {
    "fcn8s": ("--options backbone=resnet18,width=4", "mean_iou", ["{image}"], ["{name}-mask.png", "{name}-labels.png"]),
    "hed": ("--options width=2,norm=true", "f", ["{image}"], ["{name}-boundaries.png"]),
    "flownet_s": ("--options width=2 --size 64,64", "end_point_error", ["{image}", "{image}"],
                  ["{name}-flow.png", "{name}.flo"]),
    "fast_rcnn": ("--size 96,128", "map", ["{cells}"], ["{cells_name}-boxes.png"]),
    "keypoint_net": ("--options width=2 --limit 40", "distance", ["{image}"], ["{name}-points.png"]),
    "text_cnn": ("--options embedding=8,features=4", "accuracy", ["a fine film", "a poor film"], []),
    "vqa_cnn": ("--options features=4,units=8", "accuracy", ["scene:7", "what shape is the red object?"],
                ["scene7.png"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clevr, "SPLITS", {name: (seed, 4) for name, (seed, _) in clevr.SPLITS.items()})


def test_every_task_is_here() -> None:
    """Each model of a task has one, each task a model, and data that are known by name."""
    named = {entry.task for entry in models.MODELS.values()}
    assert named == set(tasks.NAMES)
    assert {models.MODELS[name].task for name in TASKS} == named - {tasks.CLASSIFY}
    for name in named - {tasks.CLASSIFY}:
        task = tasks.find(name)
        assert task.name == name
        assert datasets.DATASETS[task.defaults.data].kind == task.kind
    for before, name in tasks.ALIASES.items():
        assert tasks.find(before) is tasks.find(name)
    with pytest.raises(UserError, match="unknown task 'segments': did you mean segment"):
        tasks.find("segments")


@pytest.mark.parametrize("model", TASKS)
@pytest.mark.usefixtures("few_scenes")
def test_a_run_from_training_to_prediction(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if models.MODELS[model].task == "detection":
        pytest.importorskip("cv2")
    options, figure, given, written = TASKS[model]
    cli.main(["train", model, *options.split(), *SMALL.split(), "--data-dir", str(data), "--run", "run"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(Path("run/result.json").read_text())
    assert result["model"] == model
    assert np.isfinite(result[f"test_{figure}"])
    assert lines[-2].startswith("test ")
    assert Path("run/curves.png").is_file()

    cli.main(["evaluate", "run", "--json"])
    measured = json.loads(capsys.readouterr().out)
    for name in (figure, "loss"):
        assert measured[name] == pytest.approx(result[f"test_{name}"], rel=1e-6)  # the same program on the same data
    cli.main(["evaluate", "run"])
    assert len(capsys.readouterr().out.splitlines()) > 2

    image, cells = data / "camvid/test/0.jpg", next((data / "bccd/JPEGImages").iterdir())
    names = {"image": image, "name": image.stem, "cells": cells, "cells_name": cells.stem}
    cli.main(["predict", "run", *[part.format(**names) for part in given], "--out", "out", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["text"] for row in rows)
    for file in written:
        path = Path("out") / file.format(**names)
        assert path.is_file(), sorted(Path("out").iterdir())
        if path.suffix == ".png":
            Image.open(path).verify()

    cli.main(["train", "--run", "run", "--resume"])
    assert "is complete: test" in capsys.readouterr().out

    if models.MODELS[model].task not in ("segmentation", "edges"):
        with pytest.raises(UserError, match=r"given one image and nothing else|one number for each class"):
            target.of_run("run")
        return
    explored = target.of_run("run")
    assert explored.about()["measure"] == figure
    record, sent = unpack(message(Network(explored), Network(explored).see(explored.examples().inputs[0]), []))
    assert record["pictures"] == ["said"]
    assert len(sent) == record["image"] + np.prod(explored.head.size)


@pytest.mark.parametrize(
    "model",
    ["fcn8s", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fast_rcnn", "flownet_s", "keypoint_net"))],
)
def test_a_run_begins_from_another(model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate near 0 it keeps what it began with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if models.MODELS[model].task == "detection":
        pytest.importorskip("cv2")
    given = ["train", model, *TASKS[model][0].split(), *SMALL.split(), "--data-dir", str(data), "--run"]
    cli.main([*given, "first"])
    more = ["--weights", "first", "--lr", "1e-12", "--schedule", "constant", "--seed", "1"]
    cli.main([*given, "second", *more])
    first, second = (TrainedModel.load(name).params for name in ("first", "second"))
    close(second, first, 1e-6)
    last = {"fcn8s": "score", "flownet_s": "flow2", "fast_rcnn": "head", "keypoint_net": "maps"}[model]
    cli.main([*given, "third", *more, "--fresh", last])
    third = TrainedModel.load("third").params
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), third, first)
    assert {name for name, by in moved.items() if max(jax.tree.leaves(by)) > 1e-6} == {last}


def test_weights_that_a_task_cannot_begin_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "vgg16.safetensors"
    published.write_bytes(b"")
    for model, says in (("fcn8s", "begins with the weights of a run of jaxcnn"), ("text_cnn", "own vocabulary")):
        with pytest.raises(SystemExit):
            cli.main(["train", model, "--data-dir", str(data), "--weights", str(published)])
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train fcn8s --data-dir {empty}", "camvid"),
        ("train fcn8s --stream", "--stream is for networks that name the class of an image; fcn8s does not"),
        ("train fcn8s --augment flip", "--augment flip: for a class for each pixel, choose auto or none"),
        ("train fcn8s --options width", "--options width: expected NAME=VALUE"),
        ("train fcn8s --options depth=3 --data-dir {data}", "unexpected keyword argument 'depth'"),
        ("train fcn8s --size 48", "--size 48: expected height,width"),
        ("train lenet5 --data camvid", "camvid is for other networks than lenet5"),
        ("train lenet5 --task sgment", "unknown task 'sgment': did you mean segment"),
        ("train flownet_s --data ./nowhere", "nowhere"),
        ("train vqa_cnn --data clever", "clever"),
    ],
)
def test_bad_input_is_one_line(
    words: str, says: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXCNN_DATA_DIR", raising=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(words.format(empty=tmp_path / "empty", data=data).split())
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (1, "")
    assert err.count("\n") == 1
    assert says in err
    assert not Path("runs").exists()


def test_a_network_of_ones_own_for_a_task(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("import jaxcnn as cnn\n\n\ndef pixels(classes):\n    return cnn.conv(classes, 1)\n")
    words = "train nets.py:pixels --task segment --epochs 1 --batch-size 2 --run run --data-dir"
    cli.main([*words.split(), str(data)])
    assert "mean IoU" in capsys.readouterr().out
    cli.main(["predict", "run", str(data / "camvid/test/0.jpg")])
    assert "0-mask.png" in capsys.readouterr().out
    assert Path("run/predictions/0-mask.png").is_file()
    with pytest.raises(SystemExit):
        cli.main(["export", "run"])
    assert "export writes networks that name the class of an image" in capsys.readouterr().err


def test_scenes_are_the_same_each_time() -> None:
    one, other = (clevr.sort_of_clevr(2, 5, name="sort-of-clevr") for _ in range(2))
    np.testing.assert_array_equal(one.inputs[0], other.inputs[0])
