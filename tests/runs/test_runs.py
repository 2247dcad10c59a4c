"""Runs listed and compared: what is read of their folders, however much of it is there, and what is said of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxcnn as cnn
from jaxcnn import cli, data, train
from jaxcnn.errors import UserError
from jaxcnn.inspect import plots
from jaxcnn.runs import table as runs

CONFIG = {"model": "mlp", "data": "digits", "epochs": 3, "classes": ["0", "1"], "lr": None, "seed": 0, "freeze": None}


def history(*accuracies: float, seconds: float = 2.0, **more: float) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "step": 10 * i, "loss": 2 / i, "accuracy": 0.5, "validation_loss": 1 - a, "validation_accuracy": a,
         "seconds": i * seconds, **more}
        for i, a in enumerate(accuracies, 1)
    ]  # fmt: skip


def write(
    folder: Path, records: list[dict[str, Any]] | None = None, result: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A run's folder as `fit` leaves it, an hour ago."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    if records:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs, complete, interrupted and at its beginning, and what is none."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs/mlp-10", history(0.7, 0.9, 0.8), {"test_accuracy": 0.875, "test_loss": 0.5, "seconds": 61.5})
    write(tmp_path / "runs/mlp-9", history(0.6, 0.95), lr=0.01, freeze="fc1")
    write(tmp_path / "runs/sweep/cifar", data="/somewhere/my images", model="/somewhere/nets.py:net", epochs=20, seed=7)
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "runs/notes/readme.txt").write_text("mine")
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/config.json").write_text('{"architectures": []}')
    write(tmp_path / "runs/.hidden/run")
    return tmp_path / "runs"


@pytest.fixture
def command(capsys: pytest.CaptureFixture) -> Any:
    """`jaxcnn runs` in this process: (exit status, stdout, stderr)."""

    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main(["runs", *map(str, args)])
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def test_the_table(folder: Path, command: Any) -> None:
    expected = """\
run              model        data       state        epochs  best  validation     test  time  differs in
runs/mlp-9       mlp          digits     interrupted     2/3     2     95.00 %        -    4s  lr=0.01 seed=0 freeze=fc1
runs/mlp-10      mlp          digits     complete        3/3     2     90.00 %  87.50 %  1m02s  lr=- seed=0 freeze=-
runs/sweep/cifar nets.py:net  my images  interrupted    0/20     -           -        -      -  lr=- seed=7 freeze=-
"""
    status, out, err = command()
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [line.split() for line in expected.splitlines()]
    ends = {re.match(r".*\d/\d+ ", line).end() for line in out.splitlines()[1:]}
    assert len(ends) == 1  # numbers stand one below the other
    assert command("runs/mlp-10")[1].splitlines()[0].split()[-1] == "time"  # one run differs in nothing


def test_json_has_the_same_and_more(folder: Path, command: Any) -> None:
    rows = json.loads(command("--json")[1])
    assert [row["run"] for row in rows] == ["runs/mlp-9", "runs/mlp-10", "runs/sweep/cifar"]
    assert rows[1] == {
        "run": "runs/mlp-10", "state": "complete", "process": None, "host": None,
        "model": "mlp", "data": "digits", "epochs": 3, "planned_epochs": 3,
        "best_epoch": 2, "validation_accuracy": 0.9, "validation_loss": pytest.approx(0.1), "test_accuracy": 0.875,
        "test_loss": 0.5, "measure": "accuracy", "validation": 0.9, "test": 0.875,
        "seconds": 61.5, "trouble": None, "settings": {"lr": None, "seed": 0, "freeze": None},
    }  # fmt: skip
    assert rows[2]["model"] == "/somewhere/nets.py:net"
    assert (rows[2]["epochs"], rows[2]["best_epoch"], rows[2]["seconds"]) == (0, None, None)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("name", ["mlp-9", "mlp-10", "cifar"]),
        ("model", ["cifar", "mlp-9", "mlp-10"]),
        ("data", ["cifar", "mlp-9", "mlp-10"]),
        ("state", ["mlp-10", "mlp-9", "cifar"]),
        ("epochs", ["cifar", "mlp-9", "mlp-10"]),
        ("validation", ["mlp-9", "mlp-10", "cifar"]),
        ("test", ["mlp-10", "mlp-9", "cifar"]),
        ("time", ["mlp-9", "mlp-10", "cifar"]),
    ],
)
def test_sorted_by_a_key_and_then_by_name(folder: Path, command: Any, key: str, expected: list[str]) -> None:
    rows = json.loads(command("--sort", key, "--json")[1])
    assert [Path(row["run"]).name for row in rows] == expected
    assert sorted(runs.KEYS) == sorted(["name", "model", "data", "state", "epochs", "validation", "test", "time"])


def test_several_paths_and_no_run_twice(folder: Path, command: Any) -> None:
    rows = json.loads(command("runs/mlp-10", folder / "sweep", "runs/mlp-10/", "--json")[1])
    assert [row["run"] for row in rows] == [str(folder / "sweep/cifar"), "runs/mlp-10"]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "{", "config.json cannot be read: Expecting property name"),
        ("config.json", b"\xff\xfe\x00", "config.json cannot be read: .*decode"),
        ("result.json", "", "result.json cannot be read: Expecting value"),
        ("result.json", "[1]", "result.json is no object"),
        ("metrics.jsonl", '{"epoch": 1, "loss": 2.0}\n{"epo', "line 2 of metrics.jsonl cannot be read"),
        ("metrics.jsonl", '7\n{"epoch": "one"}\n{"loss": 1}', "line 1 of metrics.jsonl .*line 2 .*line 3 "),
        ("metrics.jsonl", '{"epoch": 1, "loss": 1' + "0" * 400 + "}", "line 1 of metrics.jsonl cannot be read"),
        ("metrics.jsonl", '{"epoch": 1, "loss": ' + "[" * 20000, "line 1 of metrics.jsonl cannot be read"),
        ("config.json", "[" * 20000, "config.json cannot be read: it is nested too deeply"),
        ("config.json", '{"a": 1' + "0" * 9999 + "}", "config.json cannot be read: Exceeds the limit"),
        ("result.json", "null", "result.json is no object"),
        ("metrics.jsonl", b"\xff\xfe\x00", "metrics.jsonl cannot be read: .*decode"),
    ],
)
def test_what_is_damaged_is_said_on_its_line(
    folder: Path, command: Any, file: str, content: str | bytes, says: str
) -> None:
    (folder / "mlp-10" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = command("--draw", "curves.png")
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if re.search(says, line)]
    assert line.startswith("runs/mlp-10 ")
    rows = json.loads(command("--json")[1])
    assert [bool(row["trouble"]) for row in rows] == [False, True, False]
    assert rows[1]["state"] == "complete"


def test_what_is_not_finite_is_not_known(folder: Path, command: Any) -> None:
    write(
        folder / "wild", history(0.5, validation_loss=float("nan")), {"test_accuracy": 0.1, "test_loss": float("inf")}
    )
    (row,) = json.loads(command("runs/wild", "--json")[1])
    assert (row["validation_loss"], row["test_loss"], row["test_accuracy"]) == (None, None, 0.1)
    write(folder / "odd", history(0.5), {"test_accuracy": "high"}, model=5, epochs="many", data=None)
    assert re.search(r"odd +5 +- +complete +1/many +1 +50.00 % +- +-$", command("runs/odd")[1].splitlines()[1])


def test_a_training_of_fit(tmp_path: Path, command: Any) -> None:
    """Of a model without a name, whose code is its name, and without validation."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 6, 6, 1)).astype(np.uint8)
    noise = data.Dataset(images, np.arange(32) % 3, ("a", "b", "c"), "noise")
    layers = {f"long_name_of_a_layer_{i}": cnn.dense(9) for i in range(9)}
    model = cnn.serial(flat=cnn.flatten, **layers, head=cnn.dense(3))
    for seed in (1, 2):
        train.fit(model, noise, test=noise, epochs=2, batch_size=16, seed=seed, run=tmp_path / f"{seed}", show=False)
    lines = command(tmp_path)[1].splitlines()
    assert [line.split()[1:4] for line in lines[1:]] == [["serial", "noise", "complete"]] * 2
    assert [line.split()[-1] for line in lines[1:]] == ["seed=1", "seed=2"]
    for line in lines[1:]:
        assert re.search(r"complete +2/2 +2 +- +\d+\.\d\d % +\d+s ", line)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["gone"], "the folder gone is not there"),
        (["runs/notes"], "runs/notes has no run in it"),
        (["runs/other"], "runs/other has no run in it"),
        (["runs", "runs/notes/readme.txt"], "the folder runs/notes/readme.txt is not there"),
        (["--sort", "accuracy"], "unknown key 'accuracy'"),
        (["--sort", "validaton"], "unknown key 'validaton': did you mean validation"),
        (["--draw", "curves.gif"], "curves.gif: a graph is drawn as .png, .svg or .pdf"),
        (["--draw", "gone/curves.png"], "gone/curves.png: there is no folder gone"),
        (["runs/sweep", "--draw", "curves.png"], "none of these runs has come to the end of an epoch"),
    ],
)
def test_bad_input_is_one_line(folder: Path, command: Any, args: list[str], says: str) -> None:
    status, out, err = command(*args)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.match(f"jaxcnn: {says}", err)
    assert not Path("curves.png").exists()


def test_without_any_run_it_is_said_where_they_come_from(tmp_path: Path, monkeypatch: Any, command: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert command() == (1, "", "jaxcnn: the folder runs is not there; expected a run, or a folder of runs\n")
    with pytest.raises(UserError, match=r"no run in it; `jaxcnn train` makes them"):
        runs.find([tmp_path])


# --- curves ------------------------------------------------------------------------------------------------------


def test_the_curves_of_all_runs_in_one_picture(folder: Path, command: Any) -> None:
    status, out, err = command("--draw", "curves.png")
    assert (status, err) == (0, "")
    assert out.startswith("run ")
    with Image.open("curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_a_colour_for_each_run_and_a_line_for_each_measure() -> None:
    short = [{"epoch": 1, "loss": 3.0}]
    figure = plots.compare({"a": history(0.5, 0.75), "b": history(0.25, 0.5, 0.5), "none": [], "short": short})
    loss, error = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "error (%)"]
    lines = {(line.get_color(), line.get_linestyle()): line for line in error.get_lines()}
    assert len(lines) == 4
    assert len({color for color, _ in lines}) == 2
    first = lines[error.get_lines()[0].get_color(), "-"]
    assert (first.get_xdata().tolist(), first.get_ydata().tolist()) == ([1, 2], [50, 25])
    assert len(loss.get_lines()) == 5
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "short", "validation", "training"]


@pytest.mark.parametrize("count", [1, 10, 11, 20, 21, 40])
def test_as_many_colours_as_runs(count: int) -> None:
    figure = plots.compare({str(k): history(0.5, 0.75) for k in range(count)})
    assert len({tuple(np.ravel(line.get_color())) for line in figure.axes[0].get_lines()}) == count
