"""Every command and code block of the README and of the pages of `notebooks` and `experiments` runs."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from jaxcnn.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, *((ROOT / folder / "README.md").read_text() for folder in ("notebooks", "experiments"))]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", "\n".join(PAGES), re.DOTALL)

# What is long in earnest runs here on the embedded digits for an epoch: options given twice take the later value.
SHORT = {
    "jaxcnn train": "--epochs 1 --data digits",
    "jaxcnn sweep": "--epochs 1 --data digits --limit 60 --batch-size 20 --seeds 1",
    "experiments.five_or_not": "--data digits --epochs 2",
    "experiments.cifar10": "--data digits --epochs 2 --examples 64 --batch-size 32 --widths 4 4 4",
    "experiments.mlp_mnist": "--data digits --epochs 1",
    "experiments.lenet_mnist": "--data digits --epochs 1 --seeds 1",
    "experiments.builder": "--data digits --epochs 1 --examples 256",
    "experiments.lenet_flax": "--data digits --epochs 1 --seeds 1 --repeats 2",
    "experiments.depth": "--data digits --examples 64 --epochs 1 --depths 8",
    "experiments.regularization": "--data digits --examples 100 --epochs 1 --seeds 1 --width 4",
    "experiments.optimizers": "--data digits --examples 256 --epochs 1 --seeds 1",
    "experiments.initialization": "--data digits --examples 256 --epochs 1 --seeds 1 --depth 3",
    "experiments.startup": "--models resnet14 --batch-size 1 --repeats 1",
    "experiments.speed": "--quick --models lenet5 --peers flax_linen",
    "experiments.picture": "",
    "experiments.survive": "--data digits --kills 1 --damages 0 --examples 128",
    "experiments.devices": "--data digits --steps 1 --batch 4 --examples 8 --turns 1 --most 1",
    "experiments.imagenet_sample": "--data digits --per-class 2 --val-per-class 1",
    "experiments.streaming": "--batch-size 4 --turns 1",
    "experiments.imagenet": "--model resnet20 --size 16 --batch-size 4 --epochs 1",
    "experiments.to_accuracy": "--data digits --epochs 1 --seeds 1 --libraries jaxcnn flax",
    "experiments.fcn_camvid": "--epochs 1 --width 4 --crop 32 32 --strides 8",
    "experiments.hed_camvid": "--epochs 1 --width 1",
    "experiments.flownet": "--epochs 1 --width 1 --window 32 32",
    "experiments.detection_bccd": "--epochs 1 --rcnn-epochs 1 --scale 0.3 --width 2 --regions 20 --timed 1",
    "experiments.text_cnn": "--epochs 1 --parts 2 --embedding 8 --features 4",
    "experiments.vqa": "--scenes 8 --test-scenes 8 --epochs 1 --blank-epochs 1",
    "experiments.simclr": "--data digits --examples 64 --epochs 1 --width 2 --labels 20 --tuning-steps 1",
    "experiments.vae": "--data digits --examples 64 --epochs 1 --width 2",
    "experiments.seeing_inside": "--data digits --examples 100 --epochs 1 --images 10 --search 20 --width 4",
}
# Those that start processes, or divide the processor before JAX is there.
APART = {f"experiments.{name}" for name in ("devices", "survive", "speed", "startup", "to_accuracy", "streaming")}
# What the commands that do not run on the digits are given, on the made-up data of `tiny`.
TASKS = {
    "fcn8s": "--epochs 1 --batch-size 2 --options backbone=resnet18,width=4",
    "fast_rcnn": "--epochs 1 --batch-size 2",
    "text_cnn": "--epochs 1 --options embedding=8,features=4",
}


def commands() -> list[str]:
    """The lines of the shell blocks, each once; other tests have the virtual environment, reference and website."""
    lines = [line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    others = ("venv", " pdoc ", "notebooks/website")
    return [line for line in dict.fromkeys(lines) if line and not any(other in line for other in others)]


@pytest.fixture(autouse=True)
def made_up_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands find their data."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("JAXCNN_DATA_DIR", str(tiny.make(folder)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder


EXPERIMENTS = [line for line in commands() if "experiments." in line and "picture runs" not in line]


def test_the_readme_has_its_two_commands() -> None:
    marked = re.findall(r"<!-- (main|test) command -->\s*```sh\n(.*?)```\s*<!-- end -->", README, re.DOTALL)
    assert [name for name, _ in marked] == ["main", "test"]
    for _, text in marked:
        assert len(text.strip().splitlines()) == 1
        assert text.startswith("python3 -m venv ")


@pytest.mark.slow
def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, from first to last, as somebody types them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "readme"}
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text, "README.md", "exec"), namespace)


@pytest.mark.slow
def test_commands(
    tmp_path: Path, made_up_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one folder, from first to last; files that a command needs are the ones the README shows."""
    monkeypatch.chdir(tmp_path)
    pictures = {"road.jpg": "camvid/test/0.jpg", "cells.jpg": "bccd/JPEGImages/cells_000.jpg"}
    for name, source in pictures.items():
        (tmp_path / name).write_bytes((made_up_data / source).read_bytes())
    for name, text in re.findall(r"`(\w+\.py)`[^`]*```python\n(.*?)```", "\n".join(PAGES), re.DOTALL):
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/digit.png").write_bytes((ROOT / "notebooks/digit.png").read_bytes())
    lines = [line for line in commands() if line not in EXPERIMENTS]
    assert any(line.startswith("jaxcnn train") for line in lines)
    for line in lines:
        if line.startswith("jaxcnn "):
            words = shlex.split(line)[1:]
            if words[0] == "train" and "--resume" not in words:
                words += TASKS.get(words[1], SHORT["jaxcnn train"]).split()
            if words[0] == "sweep":
                words += SHORT["jaxcnn sweep"].split()
            if words[0] == "predict" and words[-1].endswith("digit.png"):
                _digit(Path(words[-1]))
            with contextlib.suppress(SystemExit):  # of --help, with 0; of an error there would be no output
                main(words)
            assert capsys.readouterr().out
        else:
            _experiment(line, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("line", EXPERIMENTS)
def test_experiments(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, so that they run beside each other."""
    monkeypatch.chdir(tmp_path)
    _experiment(line, monkeypatch)


def _experiment(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], f"not a command that this test knows how to run: {line}"
    if "./sample" in words:  # of the command before
        _run(["-m", "experiments.imagenet_sample", "--out", "sample"], monkeypatch)
    _run(words[1:], monkeypatch)
    if "--picture" in words:
        assert Path(words[words.index("--picture") + 1]).is_file()


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, options = words[1], [*words[2:], *SHORT[words[1]].split()]
    if name not in APART:  # in this process, which has imported JAX already
        monkeypatch.syspath_prepend(ROOT)
        monkeypatch.setattr(sys, "argv", [name, *options])
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test may have imported it
        runpy.run_module(name, run_name="__main__")
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", name, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _digit(path: Path) -> None:
    from PIL import Image

    import jaxcnn as cnn

    Image.fromarray(cnn.data.load("digits", "test").images[0, ..., 0]).save(path)


@pytest.mark.slow
def test_the_main_command_on_a_fresh_clone(tmp_path: Path) -> None:
    """Pasted as it stands: ends with a trained LeNet-5 of at least 98 % on the digits' test set.

    CI has run it, in its own clean checkout, before the tests.
    """
    clone, printed = ROOT, os.environ.get("JAXCNN_MAIN_COMMAND")
    if printed:
        output = Path(printed).read_text()
    else:
        clone = tmp_path / "jaxcnn"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        command = re.search(r"<!-- main command -->\s*```sh\n(.*?)```", README, re.DOTALL)
        assert command
        done = subprocess.run(["bash", "-c", command[1]], cwd=clone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        output = done.stdout
    accuracy = re.search(r"test accuracy ([\d.]+) %", output)
    assert accuracy
    assert float(accuracy[1]) >= 98
    assert (clone / "runs/lenet5-digits-1/result.json").is_file()
