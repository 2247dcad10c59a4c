"""The command line: what each command prints and writes, and one line on stderr for whatever cannot be used."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

import jaxcnn
from jaxcnn import cli, data, models, train
from jaxcnn.inspect import summary
from jaxcnn.ops import cpu
from jaxcnn.signals import stopped_by_sigterm
from jaxcnn.train.stopping import asked_to_stop

OWN = """
import jaxcnn as cnn

def tiny(classes):
    return cnn.serial(flat=cnn.flatten, head=cnn.dense(classes))

def wide(classes):
    return cnn.serial(conv1=cnn.conv(4, 9), flat=cnn.flatten, head=cnn.dense(classes))
"""
COMMANDS = (
    "train",
    "sweep",
    "evaluate",
    "predict",
    "summary",
    "runs",
    "explore",
    "export",
    "weights",
    "models",
    "datasets",
)


@pytest.fixture
def run(capsys):
    """Runs a command in this process: (exit status, stdout, stderr)."""

    def call(*args) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main([str(arg) for arg in args])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


def command(*args, **options) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcnn.cli", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def picture(folder: Path, label: int, number: int) -> None:
    """A bright column whose place is the class, in an image of 6x6 pixels."""
    pixels = np.random.default_rng([label, number]).integers(0, 90, (6, 6)).astype(np.uint8)
    pixels[:, 2 * label] += 120
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """A folder of images by class, and a file with models of one's own."""
    folder = tmp_path_factory.mktemp("columns")
    (folder / "mine.py").write_text(OWN)
    for label, name in enumerate(("left", "middle", "right")):
        for number in range(20):
            picture(folder / "data" / name, label, number)
    return folder


def train_columns(columns: Path, where: Path, *more) -> list:
    return ["train", f"{columns}/mine.py:tiny", "--data", f"{columns}/data", "--epochs", 3, "--batch-size", 8, "--lr",
            0.05, "--run", where, *more]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of mlp on the digits."""
    path = tmp_path_factory.mktemp("digits") / "run"
    cli.main(["train", "mlp", "--epochs", "3", "--run", str(path)])
    return path


# --- what there is -----------------------------------------------------------------------------------------------


def test_version(run):
    text = f"jaxcnn {jaxcnn.__version__}\n{cpu.about()}\n"
    assert run("--version") == (0, text, "")
    process = command("--version")
    assert process.communicate() == (text, "")
    as_module = subprocess.run([sys.executable, "-m", "jaxcnn", "--version"], capture_output=True, text=True)
    assert (as_module.stdout, as_module.stderr) == (text, "")
    assert process.returncode == 0


def test_help_names_every_command(run):
    for args in ([], ["--help"], ["-h"]):
        status, out, err = run(*args)
        assert (status, err) == (0, "")
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_gives_every_option_and_its_default(run, name):
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "")
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())
    for field in cli.COMMANDS[name][0].__dataclass_fields__.values():
        if "Positional" not in str(field.type) and "Suppress" not in str(field.type):
            assert f"--{field.name.replace('_', '-')}" in text
            assert field.default in (None, ()) or f"(default: {field.default})" in text
    if name == "train":
        assert "(default: lenet5)" in text


def test_models_and_datasets_are_a_line_each(run):
    status, out, err = run("models")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["name", *models.MODELS]
    found = next(line for line in out.splitlines() if line.startswith("lenet5 ")).split()
    assert found[:5] == ["lenet5", "32x32x1", "61,706", "0.4", "LeNet-5,"]
    found = next(line for line in out.splitlines() if line.startswith("resnet18 ")).split()
    assert found[:7] == ["resnet18", "224x224x3", "11,689,512", "1,814.1", "69.8", "%", "yes"]
    status, out, err = run("datasets")
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [[e.name, e.kind] for e in data.datasets.listed()]
    assert {line.split()[0] for line in out.splitlines()} >= {*data.DATASETS, "camvid", "digit-corners"}


@pytest.mark.parametrize(("word", "some", "none"), [("UNET", "unet_resnet18", "lenet5"), ("edges", "hed", "unet")])
def test_models_with_a_word(run, word, some, none):
    status, out, err = run("models", word, "--json")
    assert (status, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert some in rows
    assert none not in rows
    assert set(rows[some]) == {
        "name", "task", "about", "input", "classes", "parameters", "macs", "top1", "weights",
    }  # fmt: skip


def test_summary_as_a_table_and_as_json(run, columns):
    status, out, err = run("summary", "lenet5")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2].split()[:3] == ["total", "61,706", "416,520"]
    found = json.loads(run("summary", "lenet5", "--json")[1])
    assert set(found) >= {"layers", "params", "macs"}
    keys = {"name", "output_shape", "params", "macs", "activation_bytes", "receptive_field"}
    assert all(set(row) >= keys for row in found["layers"])
    assert (found["params"], found["macs"]) == (61_706, 416_520)
    assert found == json.loads(summary(models.lenet5(), np.zeros((1, 32, 32, 1), np.float32)).to_json())
    other = json.loads(run("summary", "mlp", "--input", "4,5,3", "--classes", 7, "--json")[1])
    assert other["params"] == 61 * 128 + 129 * 7
    own = json.loads(run("summary", f"{columns}/mine.py:tiny", "--input", "6x6x1", "--json")[1])
    assert own["params"] == 370


def test_summary_by_depth_in_markdown_of_the_training_pass_and_as_a_picture(run, tmp_path):
    lines = run("summary", "resnet20", "--depth", 1)[1].splitlines()
    assert [line.split()[0] for line in lines[2:9]] == [
        "conv1",
        "bn1",
        "relu1",
        "layer1",
        "layer2",
        "layer3",
        "avgpool",
    ]
    assert run("summary", "resnet20", "--depth", 1, "--json")[1] == run("summary", "resnet20", "--json")[1]
    assert run("summary", "lenet5", "--markdown")[1].startswith("| layer |  | output | parameters |")
    evaluated, trained = (json.loads(run("summary", "resnet20", "--json", *more)[1]) for more in ([], ["--train"]))
    assert evaluated["macs"] == trained["macs"]
    assert evaluated["flops"] < trained["flops"]  # batch statistics
    for name in ("net.png", "net.svg", "net.pdf"):
        status, out, err = run("summary", "lenet5", "--draw", tmp_path / name)
        assert (status, err) == (0, "")
        assert out.startswith("layer")
        assert (tmp_path / name).stat().st_size > 5000


# --- training ----------------------------------------------------------------------------------------------------


def test_train_writes_a_run(digits, run):
    expected = "checkpoints config.json confusion.png curves.png metrics.jsonl mistakes.png result.json"
    assert sorted(path.name for path in digits.iterdir()) == expected.split()
    result = json.loads((digits / "result.json").read_text())
    assert set(result) >= {"test_accuracy", "test_loss", "seconds"}
    expected = {"model": "mlp", "data": "digits", "seed": 0, "epochs": 3, "steps": 30, "params": 1025 * 128 + 1290}
    assert result.items() >= expected.items()
    assert result["test_accuracy"] > 0.8  # a guess has 0.1
    assert len((digits / "metrics.jsonl").read_text().splitlines()) == 3
    config = json.loads((digits / "config.json").read_text())
    asked = {"model": "mlp", "data": "digits", "epochs": 3, "batch_size": 128, "optimizer": "adam", "augment": "affine"}
    assert config.items() >= asked.items()
    assert config["version"] == jaxcnn.__version__


def test_train_says_what_it_does_and_finds_a_name_for_the_run(run, columns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [arg for arg in train_columns(columns, "")[:-2] if arg != ""]
    status, out, err = run(*args)
    assert (status, err) == (0, "")
    first, *epochs, outcome, where = out.splitlines()
    assert "42 images to train on, 6 to validate, 12 to test; 3 epochs of 5 steps" in first
    assert len(epochs) == 3
    for number, line in enumerate(epochs, 1):
        figures = r"loss [\d.]+  accuracy [\d.]+ %"
        left = r"[\d,.]+ images/s" + r"  \d+s left" * (number < 3)
        assert re.fullmatch(rf"epoch {number}/3  {figures}  validation {figures}  {left}", line)
    result = json.loads(Path("runs/tiny-data-1/result.json").read_text())
    accuracy, loss = result["test_accuracy"], result["test_loss"]
    assert outcome.startswith(f"test accuracy {100 * accuracy:.2f} %, loss {loss:.4f}, at epoch ")
    assert where == "runs/tiny-data-1: curves.png, confusion.png, mistakes.png, result.json, checkpoints"
    assert result["test_accuracy"] == 1
    # The same again: another folder, and the same figures to the last digit.
    assert run(*args)[0] == 0
    again = json.loads(Path("runs/tiny-data-2/result.json").read_text())
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in result.items() if k != "seconds"}


def test_resume_goes_on_as_if_nothing_had_happened(run, columns, tmp_path, monkeypatch):
    monkeypatch.chdir(columns)  # code is executed where it lies below the current folder
    assert run(*train_columns(columns, tmp_path / "whole"))[0] == 0
    whole = data.batches

    def until(data, size, seed, epoch, *where):
        if epoch == 3:
            raise KeyboardInterrupt
        return whole(data, size, seed, epoch, *where)

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr("jaxcnn.train.training.batches", until)
        status, _, err = run(*train_columns(columns, part))
    assert status == 130
    assert err == f"jaxcnn: interrupted; go on with: jaxcnn train --run {part} --resume\n"
    assert not (part / "result.json").exists()
    status, out, err = run("train", "--run", part, "--resume")  # its settings are the run's
    assert (status, err) == (0, "")
    assert "epoch 3/3" in out
    assert "epoch 1/3" not in out
    results = [json.loads((path / "result.json").read_text()) for path in (tmp_path / "whole", part)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    status, out, err = run("train", "--run", part, "--resume")
    assert (status, err) == (0, "")
    assert out.startswith(f"{part} is complete: test accuracy 100.00 %")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seed", 1], "was made with --seed 0, not 1; start another run for that"),
        (["mlp"], "was made with model .*mine.py:tiny, not mlp"),
        (["--batch-size", 16], "was made with --batch-size 8, not 16"),
    ],
)
def test_resume_with_other_settings_is_refused(run, columns, tmp_path, args, says):
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    config = {"model": f"{columns}/mine.py:tiny", "data": f"{columns}/data", "seed": 0, "batch_size": 8, "epochs": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, out, err = run("train", *args, "--run", tmp_path, "--resume")
    assert (status, out) == (1, "")
    assert re.search(says, err)


# --- asking a run ------------------------------------------------------------------------------------------------


def test_evaluate_repeats_the_figures_of_the_run(digits, run):
    status, out, err = run("evaluate", digits, "--json")
    assert (status, err) == (0, "")
    found, result = json.loads(out), json.loads((digits / "result.json").read_text())
    assert set(found) == {"run", "data", "split", "examples", "accuracy", "top5", "loss"}
    assert (found["data"], found["split"], found["examples"]) == ("digits", "test", 355)
    assert found["accuracy"] == result["test_accuracy"]
    assert found["loss"] == pytest.approx(result["test_loss"], rel=1e-6)
    assert found["accuracy"] <= found["top5"] <= 1
    _, out, _ = run("evaluate", digits)
    assert re.search(rf"accuracy +{100 * found['accuracy']:.2f} %", out)
    assert re.search(rf"loss +{found['loss']:.4f}", out)
    whole = json.loads(run("evaluate", digits, "--split", "train[:50]", "--json")[1])
    assert (whole["split"], whole["examples"]) == ("train[:50]", 50)


def test_evaluate_on_another_dataset(digits, run, data_dir):
    """Digits and MNIST have the same classes; 28x28 get a border."""
    found = json.loads(run("evaluate", digits, "--data", "mnist", "--data-dir", data_dir, "--json")[1])
    assert (found["data"], found["examples"]) == ("mnist", 10_000)
    # A guess: these digits fill the picture and MNIST's do not, and a dense layer takes each pixel by itself.
    assert 0.02 < found["accuracy"] < 0.5


@pytest.fixture(scope="module")
def pages(digits, tmp_path_factory):
    """Test images that the run is sure of, as files of all kinds; with their classes."""
    folder, test = tmp_path_factory.mktemp("pages"), data.load("digits", "test")
    trained = train.Trained.load(digits)
    sure = np.argsort(-trained.probabilities(test.images)[np.arange(len(test)), test.labels])[:6]
    written = {}
    for index, (name, change) in zip(
        sure,
        {
            "grey.png": lambda p: p,
            "large.png": lambda p: p.resize((300, 300), Image.Resampling.BICUBIC),
            "colour.jpg": lambda p: p.resize((100, 100)).convert("RGB"),
            "deep.png": lambda p: Image.fromarray(257 * np.asarray(p, np.uint16)),
            "palette.gif": lambda p: p.convert("P"),
            "ink on paper.png": lambda p: Image.merge("LA", [Image.new("L", p.size, 0), p]),  # black, see-through
        }.items(),
        strict=True,
    ):
        change(Image.fromarray(test.images[index, ..., 0])).save(folder / name)
        written[folder / name] = str(test.labels[index])
    return written


def test_predict_images_of_any_size_and_mode(digits, run, pages):
    dark = [path for path in pages if path.name != "ink on paper.png"]
    status, out, err = run("predict", digits, *dark, "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [row["image"] for row in rows] == [str(path) for path in dark]
    assert [row["class"] for row in rows] == [pages[path] for path in dark]
    for row in rows:
        assert set(row) == {"image", "class", "probability", "probabilities"}
        assert list(row["probabilities"]) == list("0123456789")
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == row["probabilities"][row["class"]] == max(row["probabilities"].values())
    _, out, _ = run("predict", digits, dark[0])
    assert out == f"{dark[0]}  {pages[dark[0]]}  {100 * rows[0]['probability']:.1f} %\n"


def test_predict_dark_on_light(digits, run, pages, tmp_path):
    ink = next(path for path in pages if path.name == "ink on paper.png")
    (row,) = json.loads(run("predict", digits, ink, "--invert", "--json")[1])
    assert row["class"] == pages[ink]
    grey = next(iter(pages))
    with Image.open(grey) as opened:
        ImageOps.invert(opened).save(tmp_path / "inverted.png")
    rows = [json.loads(run("predict", digits, *args, "--json")[1])[0]
            for args in ((grey,), (tmp_path / "inverted.png", "--invert"), (tmp_path / "inverted.png",))]  # fmt: skip
    assert rows[0]["probabilities"] == rows[1]["probabilities"] != rows[2]["probabilities"]


def test_a_run_of_ones_own_model_can_be_asked(run, columns, tmp_path, monkeypatch):
    monkeypatch.chdir(columns)
    assert run(*train_columns(columns, tmp_path / "run"))[0] == 0
    found = json.loads(run("evaluate", tmp_path / "run", "--json")[1])
    assert (found["accuracy"], found["examples"]) == (1, 12)
    assert "top5" not in found  # of three classes
    (row,) = json.loads(run("predict", tmp_path / "run", columns / "data/middle/3.png", "--json")[1])
    assert row["class"] == "middle"
    status, _, err = run("evaluate", tmp_path / "run", "--data", "digits")
    assert status == 1
    assert "digits has 10 classes and 1 channels; the run has 3 and 1" in err


# --- bad input ---------------------------------------------------------------------------------------------------

RUN, OK = "{digits}", "{ok}"
BAD = [  # arguments, exit status, what stderr says
    (["tran"], 2, "unknown command 'tran': did you mean train"),
    (["zzz"], 2, "unknown command 'zzz': there are datasets, evaluate, explore, export, lr, models, "),
    (["--verbose"], 2, "--verbose"),
    (["train", "--epoch", "3"], 2, "unknown option '--epoch': did you mean --epochs"),
    (["train", "--optimiser=sgd"], 2, "unknown option '--optimiser': did you mean --optimizer"),
    (["models", "--jso"], 2, "unknown option '--jso': did you mean --json"),
    (["models", "zzz"], 1, "no network has 'zzz' in its name, task or description"),
    (["datasets", "--json"], 2, "unknown option '--json': there are --help"),
    (["weights"], 2, "see jaxcnn weights --help"),
    (["weights", "gone.pth"], 1, "gone.pth: there is no such file"),
    (["train", "lenet5", "mlp"], 2, "mlp.*see jaxcnn train --help"),
    (["train", "--epochs", "many"], 2, "--epochs.*see jaxcnn train --help"),
    (["train", "--epochs"], 2, "--epochs"),
    (["evaluate"], 2, "The folder of a run"),
    (["summary"], 2, "see jaxcnn summary --help"),
    (["train", "lenet"], 1, "unknown model 'lenet': did you mean lenet5"),
    (["summary", "LeNet5"], 1, "unknown model 'LeNet5': did you mean lenet5"),
    (["train", "gone.py:tiny"], 1, "there is no file gone.py; expected a name, or file.py:function"),
    (["train", "my_net.py"], 1, "my_net.py: expected file.py:function, the function that returns the network"),
    (["summary", "{mine}:tinny", "--input", "6,6,1"], 1, "has no function tinny; it has tiny, wide"),
    (["summary", "{mine}:tiny"], 1, "--input is needed for a model of your own: height,width,channels"),
    (["summary", "lenet5", "--input", "32,32"], 1, "--input 32,32: expected height,width,channels"),
    (["summary", "lenet5", "--input", "0,32,1"], 1, "expected height,width,channels"),
    (["summary", "lenet5", "--input", "8,8,1"], 1, "conv2: 5x5 filter.* on 2x2"),
    (["summary", "mlp", "--classes", "0"], 1, "expected an integer of at least 1"),
    (["summary", "mlp", "--depth", "0"], 1, "--depth 0 should be at least 1"),
    (["summary", "LeNet5", "--draw", "net.gif"], 1, "net.gif: a graph is drawn as .png, .svg or .pdf"),
    (["summary", "mlp", "--draw", "no/such/net.png"], 1, "no/such/net.png: there is no folder no/such"),
    (["summary", "mlp", "--json", "--markdown"], 1, "--json and --markdown are two forms of one table: choose one"),
    (["train", "--optimizer", "adamm"], 1, "unknown optimizer 'adamm': did you mean adam"),
    (["train", "--optimizer", "muon", "--ensemble", "2"], 1, "muon takes a kernel as one matrix"),
    (["train", "--label-smoothing", "1"], 1, "--label-smoothing is a share from 0 to below 1, got 1.0"),
    (["train", "fcn8s", "--label-smoothing", "0.1"], 1, "--label-smoothing is for networks that name the class of an"),
    (["lr", "--picture", "lr.jpg"], 1, "lr.jpg: a graph is drawn as .png, .svg or .pdf"),
    (["train", "--schedule", "cosin"], 1, "unknown schedule 'cosin': did you mean cosine"),
    (["train", "--augment", "afine"], 1, "unknown augmentation 'afine': did you mean affine"),
    (["train", "--lr", "0"], 1, "learning rate should be above 0"),
    (["train", "--lr", "nan"], 1, "learning rate should be above 0"),
    (["train", "--weight-decay=-1"], 1, "weight decay should be 0 or more"),
    (["train", "--epochs", "0"], 1, "--epochs 0 should be at least 1"),
    (["train", "--batch-size", "0"], 1, "--batch-size 0 .* should be at least 1"),
    (["train", "--validation", "1"], 1, "--validation is a share from 0 to below 1"),
    (["train", "--seed=-1"], 1, "seed=-1 should be from 0"),
    (["train", "--patience", "0"], 1, "patience=0 should be at least 1"),
    (["train", "--patience", "2", "--validation", "0"], 1, "early stopping needs validation data"),
    (["train", "--data", "./nothere"], 1, "there is no folder nothere"),
    (["train", "--data", "./empty"], 1, "empty has no folders in it; expected one for each class"),
    (["train", "--data", "./blank"], 1, "blank holds no images: the dataset is empty"),
    (["train", "--data", "mnist"], 1, "mnist was not found .*JAXCNN_DATA_DIR is not set.*pip install tensorflow"),
    (["train", "--data", "mnist", "--data-dir", "empty"], 1, "mnist was not found under empty.*four IDX files"),
    (["train", "--data", "mnist", "--data-dir", "gone"], 1, r"the data directory gone \(--data-dir\) does not exist"),
    (["train", "--data", "mnits"], 1, "unknown dataset 'mnits': did you mean mnist"),
    (["train", "{mine}:wide", "--data", "{columns}"], 1, "conv1: 9x9 filter"),
    (["train", "--run", "full"], 1, "the run folder full is there and not empty; .* go on with --resume"),
    (["train", "--run", "notes.txt"], 1, "the run folder notes.txt is there and not empty"),
    (["train", "--resume"], 1, "--resume goes on with a run: say which, --run FOLDER"),
    (["train", "--resume", "--run", "gone"], 1, "the run folder gone is not there"),
    (["train", "--resume", "--run", "full"], 1, "full is no run of jaxcnn: it has no config.json"),
    (["evaluate", "gone"], 1, "the run folder gone is not there"),
    (["evaluate", "full"], 1, "full is no run of jaxcnn"),
    (["evaluate", RUN, "--split", "dev"], 1, "digits has the splits train and test, not 'dev'"),
    (["evaluate", RUN, "--data", "mnist", "--data-dir", "empty"], 1, "mnist was not found under empty"),
    (["evaluate", RUN, "--data", "{columns}"], 1, "has 3 classes and 1 channels; the run has 10 and 1"),
    (["predict", RUN], 1, "predict needs at least one image file"),
    (["predict", "gone", OK], 1, "the run folder gone is not there"),
    (["predict", RUN, "gone.png"], 1, "gone.png: there is no such file"),
    (["predict", RUN, OK, "notes.txt"], 1, "notes.txt is no image that can be read"),
    (["predict", RUN, "empty"], 1, "empty is a folder; expected an image file"),
    (["predict", RUN, "nothing.png"], 1, "nothing.png is no image"),
    (["predict", RUN, OK, "cut.png"], 1, "cut.png: the image is damaged"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)), ids=[" ".join(args) for args, *_ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing_behind(number, run, digits, columns, tmp_path, monkeypatch):
    args, expected, says = BAD[number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXCNN_DATA_DIR", raising=False)
    for folder in ("empty", "blank/cat", "full"):
        Path(folder).mkdir(parents=True)
    for name in ("notes.txt", "full/notes.txt"):
        Path(name).write_text("mine")
    Path("nothing.png").touch()
    ok = columns / "data/left/0.png"
    Path("cut.png").write_bytes(ok.read_bytes()[:60])
    before = sorted(Path().rglob("*"))
    names = {"digits": digits, "ok": ok, "mine": columns / "mine.py", "columns": columns / "data"}
    status, out, err = run(*(arg.format(**names) for arg in args))
    assert status == expected
    assert out.count("\n") <= 1  # what was about to be done
    assert err.count("\n") == 1
    assert err.startswith("jaxcnn: ")
    assert re.search(says, err), err
    assert sorted(Path().rglob("*")) == before


def test_training_that_diverges_says_at_which_step(run, columns, tmp_path):
    args = train_columns(columns, tmp_path / "run", "--optimizer", "sgd", "--schedule", "constant")
    args[args.index("--lr") + 1] = 1e38
    status, _, err = run(*args)
    assert status == 1
    assert re.fullmatch(r"jaxcnn: the loss is (nan|inf) at step \d+ \(epoch 1\).*Try a smaller learning rate.*\n", err)
    assert not (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--parallel", "jit"), ("--seed", "0"), ("--optimizer", "adam"), ("--precision", "float32"),
        ("--accumulate", "1"), ("--augment", "auto"), ("--validation", "0.1"), ("--schedule", "cosine"),
        ("--batch-size", "16"), ("--ema", "0.5"), ("--weight-decay", "0"), ("--warmup", "0"), ("--ensemble", "0"),
    ],
)  # fmt: skip
def test_resume_refuses_another_value_even_the_default(option, value, run, changed, monkeypatch):
    """What decides the figures is the run's; the value that an option has by default may be asked for, too."""
    monkeypatch.setattr(train, "fit", None)
    name = option[2:].replace("-", "_")
    was = json.loads((changed / "config.json").read_text())[name]
    said = f"jaxcnn: {changed} was made with {option} {was}, not"
    for given in ([option, value], [f"{option}={value}"]):
        status, _, err = run("train", "--resume", "--run", changed, *given)
        assert status == 1
        assert err.startswith(said)
    assert run("train", "lenet5", "--resume", "--run", changed)[0] == 1


def test_the_same_command_with_resume_is_no_other_one(run, digits):
    """What `auto` stood for is in config.json."""
    assert json.loads((digits / "config.json").read_text())["augment"] == "affine"
    same = ["train", "mlp", "--epochs", "3", "--augment", "auto", "--seed", "0", "--run", digits, "--resume"]
    assert run(*same)[0] == 0


@pytest.fixture(scope="module")
def changed(columns, tmp_path_factory):
    """A run that was stopped, none of whose options are those by default."""
    path = tmp_path_factory.mktemp("changed") / "run"
    config = {
        "model": f"{columns}/mine.py:tiny", "parallel": "pmap", "seed": 1, "optimizer": "sgd", "precision": "bfloat16",
        "accumulate": 2, "augment": "affine", "validation": 0.2, "schedule": "constant", "batch_size": 8, "ema": 0.9,
        "weight_decay": 0.1, "warmup": 1.0, "ensemble": 2, "devices": 2,
    }  # fmt: skip
    made = train.Run(path)
    made.make()
    made.write("config.json", config)
    made.release()
    return path


def test_what_is_in_config_json_decides_the_figures_and_nothing_else(run, columns, tmp_path):
    """Every option is in it, and restored, or is one of the process; each new one has to be put in one of the two."""
    assert run(*train_columns(columns, tmp_path / "run"))[0] == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    free = {"run", "resume", "distributed", "coordinator", "processes", "process", "save_every", "keep", "tensorboard",
            "profile", "workers", "trust", "config", "recipe", "given"}  # fmt: skip
    options = {field.name for field in dataclasses.fields(cli.Train)}
    assert options - config.keys() == free
    assert (config["parallel"], config["devices"], config["platform"]) == ("jit", 1, jax.default_backend())


@pytest.mark.parametrize("size", ["²,3", "4,³", "٣,x"])
def test_digits_that_are_no_numbers(size, run):
    assert run("train", "mlp", "--size", size)[0] == 1


# --- as a process ------------------------------------------------------------------------------------------------


def test_a_process_that_is_stopped_leaves_a_run_to_go_on_with(columns, tmp_path):
    args = train_columns(columns, tmp_path / "run")
    args[args.index("--epochs") + 1] = 100_000
    process = command(*args)
    for line in process.stdout:
        if line.startswith("epoch     20/"):
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=60)
    step = train.Run.open(tmp_path / "run").checkpoints.steps()[-1]
    assert (process.returncode, err) == (
        143,
        f"jaxcnn: stopped after step {step}, which is saved; go on with: jaxcnn train --run {tmp_path}/run --resume\n",
    )
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert step >= last["step"] >= 100


@pytest.mark.parametrize(
    ("number", "expected", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIGTERM")]
)
@pytest.mark.parametrize("where", ["data", "state", "evaluation", "pictures"])
def test_a_signal_outside_of_the_loop(number, expected, said, where, run, columns, tmp_path, monkeypatch):
    """While data is read, the network is made, the test set is measured, or the pictures are drawn."""

    def stopped(*_, **__):
        signal.raise_signal(getattr(signal, number))

    if where == "data":
        monkeypatch.setattr(data, "load", stopped)
    else:
        name = {"state": "create_state", "evaluation": "make_evaluate", "pictures": "pictures"}[where]
        monkeypatch.setitem(train.fit.__globals__, name, stopped)
    before = signal.getsignal(signal.SIGTERM)
    status, _, err = run(*train_columns(columns, tmp_path / "run"))
    assert status == expected
    assert err.startswith(f"jaxcnn: {said}")
    assert err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) is before
    if where == "evaluation":
        assert json.loads(run("runs", tmp_path / "run", "--json")[1])[0]["state"] == "stopped"


@pytest.mark.parametrize("args", [("evaluate", "{run}"), ("predict", "{run}", "{run}/curves.png"), ("export", "{run}")])
def test_sigterm_ends_every_command_with_143(args, run, digits, monkeypatch):
    monkeypatch.setattr(train.Trained, "load", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert run(*(arg.format(run=digits) for arg in args)) == (143, "", "jaxcnn: stopped by SIGTERM\n")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_was_stopped_says_so_until_it_goes_on(run, columns, tmp_path, monkeypatch, number, expected):
    args = train_columns(columns, tmp_path / "run")
    with monkeypatch.context() as patch:
        whole = data.batches
        patch.setattr(
            "jaxcnn.train.training.batches",
            lambda *given: signal.raise_signal(number) or whole(*given) if given[3] == 2 else whole(*given),
        )  # fmt: skip
        status, _, err = run(*args)
    assert (status, "which is saved; go on with" in err) == (expected, True)
    assert json.loads(run("runs", tmp_path / "run", "--json")[1])[0]["state"] == "stopped"
    assert not (tmp_path / "run/lock").exists()
    assert run("train", "--resume", "--trust", "--run", tmp_path / "run")[0] == 0
    assert json.loads(run("runs", tmp_path / "run", "--json")[1])[0]["state"] == "complete"


def test_signals_that_are_ignored_stay_ignored(monkeypatch):
    """As a shell's background job ignores Ctrl-C; and what was not set by Python cannot be set again."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with asked_to_stop(train.Run("unused")) as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None
        monkeypatch.setattr(signal, "getsignal", lambda number: None)
        with asked_to_stop(train.Run("unused")), stopped_by_sigterm():
            pass
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "lenet"], "unknown model 'lenet'"),
        (["evaluate", "damaged"], "step .* is damaged .*: there is nothing to go on from"),
    ],
)
def test_a_process_that_fails_writes_one_line(args, says, digits, tmp_path):
    """Nothing else: no warnings of libraries, no traces of threads."""
    shutil.copytree(digits, tmp_path / "damaged")
    for path in (tmp_path / "damaged/checkpoints").glob("*/arrays.safetensors"):
        os.truncate(path, 100)
    process = command(*args, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1, err
    assert re.match(f"jaxcnn: .*{says}", err)


# --- what training can begin with and add ------------------------------------------------------------------------


def test_train_an_ensemble_with_augmentations_and_go_on_with_it(run, tmp_path):
    options = ["mlp", "--epochs", "1", "--ensemble", "3", "--augment", "flip,crop,mixup", "--run", tmp_path / "run"]
    status, _, stderr = run("train", *options)
    assert (status, stderr) == (0, "")
    single = sum(np.prod(s) for s in ((1024, 128), (128,), (128, 10), (10,)))
    assert json.loads((tmp_path / "run/result.json").read_text())["params"] == 3 * single
    Image.fromarray(data.load("digits", "test").images[0, ..., 0]).save(tmp_path / "digit.png")
    status, stdout, _ = run("predict", tmp_path / "run", tmp_path / "digit.png", "--json")
    (row,) = json.loads(stdout)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert run("train", "--resume", "--run", tmp_path / "run")[0] == 0


def test_train_from_weights_with_frozen_layers_and_another_head(run, tmp_path, monkeypatch):
    """A small ResNet's weights for 7 classes begin a network for 10 whose first stage stays as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "import jaxcnn as cnn\n\n"
        "def net(classes):\n"
        "    return cnn.models.resnet((1, 1, 1, 1), classes, width=8, stem='cifar')\n"
    )
    source = jaxcnn.models.resnet((1, 1, 1, 1), 7, width=8, stem="cifar")
    params, state = source.init(jax.random.key(1), np.zeros((1, 224, 224, 3), np.float32))
    jaxcnn.weights.save(source, params, state, tmp_path / "seven.safetensors")
    for split in ("train", "test"):
        for label in range(3):
            folder = tmp_path / "images" / split / str(label)
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng([label, number]).integers(0, 255, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.setattr(jaxcnn.weights, "preprocess", lambda model: data.Preprocess((16, 16), (0.5,) * 3, (0.5,) * 3))
    given = [f"{tmp_path}/nets.py:net", "--data", tmp_path / "images", "--weights", tmp_path / "seven.safetensors"]
    given += ["--validation", "0", "--batch-size", "4"]
    status, _, stderr = run("train", *given, "--epochs", "2", "--freeze", "conv1,bn1,layer1", "--run", tmp_path / "run")
    assert (status, stderr) == (0, "")
    trained = train.Trained.load(tmp_path / "run")
    np.testing.assert_array_equal(trained.model_state["conv1"]["frozen"]["kernel"], params["conv1"]["kernel"])
    assert "conv1" not in trained.params
    assert trained.params["fc"]["kernel"].shape == (64, 3)
    changed = np.abs(
        trained.params["layer4"]["block1"]["conv1"]["kernel"] - params["layer4"]["block1"]["conv1"]["kernel"]
    )
    assert 0 < changed.max() < 0.5
    # --size is what the network gets; without it, what the published weights were trained on.
    status, _, _ = run("train", *given, "--size", "12,12", "--epochs", "1", "--run", tmp_path / "small")
    assert status == 0
    assert train.Trained.load(tmp_path / "small").preprocess == data.Preprocess((12, 12), (0.5,) * 3, (0.5,) * 3)
    status, _, stderr = run("train", *given, "--fresh", "none", "--epochs", "1")
    assert status == 1
    assert stderr.count("\n") == 1
    assert "does not fit" in stderr
    status, _, stderr = run("train", "mlp", "--ensemble", "2", "--weights", tmp_path / "seven.safetensors")
    assert (status, "takes no --weights" in stderr) == (1, True)
    status, _, stderr = run("train", "mlp", "--freeze", "fc7")
    assert (status, stderr) == (1, "jaxcnn: unknown layer 'fc7': did you mean fc1?\n")
