"""A run's folder: any name, one process, whole files, trusted code, the data that it began with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from fitting import fit as flat_fit
from helpers import same
from PIL import Image

import jaxcnn as cnn
from jaxcnn import cli, data, train
from jaxcnn.atomic import write_whole
from jaxcnn.errors import TrainingError, UserError
from jaxcnn.inspect import plots
from jaxcnn.runs import checkpoint, identity, lock, table
from jaxcnn.runs import folder as folder_module
from jaxcnn.runs.writer import RunWriter

NET = """
import jaxcnn as cnn

def net(classes):
    return cnn.serial(flat=cnn.flatten, head=cnn.dense(classes))
"""
SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 16, "show": False}


def net() -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, head=cnn.dense(3))


def examples(count: int, seed: int) -> data.Dataset:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, 6, 6, 1))
    images[np.arange(count), :, 2 * labels] += 100
    return data.Dataset(images.astype(np.uint8), labels, ("left", "middle", "right"), "bars")


DATA, TEST = examples(48, 1), examples(24, 2)


def fit(run: Any, **changes: Any) -> train.FitResult:
    return flat_fit(net(), **{"data": DATA, "validation": TEST, "test": TEST, "run": run, **SETTINGS, **changes})


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("seconds", "images_per_second")}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


def killed(*_: Any, **__: Any) -> Any:
    raise Killed


def killed_after(epochs: int, run: Path, **changes: Any) -> None:
    """A run that is killed at the beginning of an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        whole = data.batches

        def until(found: Any, size: int, seed: int, epoch: int, *where: Any) -> Any:
            return killed() if epoch > epochs else whole(found, size, seed, epoch, *where)

        patch.setattr("jaxcnn.train.training.batches", until)
        save = train.Run.save

        def at_once(folder: train.Run, *what: Any) -> None:  # else the next epoch may end before it is written
            save(folder, *what)
            folder.checkpoints.wait()

        patch.setattr(train.Run, "save", at_once)
        with pytest.raises(Killed):
            fit(run, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[train.FitResult, Path]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return fit(run), run


@pytest.fixture
def command(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """`jaxcnn` in this process: (exit status, stdout, stderr)."""

    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main([str(arg) for arg in args])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


# --- names -------------------------------------------------------------------------------------------------------


HOSTILE = ["exp [lr=0.1]", "[a-z]*", "a b  c", "100%s %d %(x)s", "*?{}", "$HOME ~ `ls`", "übung-उदाहरण-例",
           "two\nlines",
           "'quoted\"", "-rf", "#1;&|", "x" * 255, "a/b" * 20, "{0}{name}", "back\\slash", "\t"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    """What is written there is there, and is read again."""
    optimizer, example = optax.adam(0.1), jax.ShapeDtypeStruct((1, 6, 6, 1), np.uint8)
    state, other = (train.create_state(net(), optimizer, jax.random.key(seed), example) for seed in (0, 1))
    run = train.Run.new(tmp_path / name)
    run.begin({"model": "mlp", "epochs": 3})
    run.save(state, {"history": [{"epoch": 1}]})
    run.checkpoints.close()
    run.put("curves.png", b"picture")
    assert table.find([tmp_path])[0].state == "running"
    run.release()
    again = train.Run.open(tmp_path / name)
    assert (again.checkpoints.steps(), again.pictured) == ([0], True)
    restored = again.restore(other)
    assert restored is not None
    same(*(jax.device_get(x.replace(key=jax.random.key_data(x.key))) for x in (restored[0], state)))
    same(jax.device_get(again.restore_best()[0]), jax.device_get(state.params))
    (found,) = table.find([tmp_path])
    assert (found.path, found.state, found.trouble) == (tmp_path / name, "stopped", ())


def test_a_training_in_a_folder_of_a_pattern(undisturbed: Any, tmp_path: Path) -> None:
    fitted, _ = undisturbed
    run = tmp_path / "exp [lr=0.1]"
    killed_after(2, run)
    assert untimed(fit(run, resume=True).result) == untimed(fitted.result)
    same(jax.device_get(train.Trained.load(run, net()).params), jax.device_get(fitted.params))


@pytest.mark.parametrize(("name", "says"), [("x" * 256, "File name too long"), ("a\0b", "null byte")])
def test_a_name_that_no_folder_can_have(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run folder (?s:.*) cannot be (used|made): .*{says}"):
        fit(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# --- one process -------------------------------------------------------------------------------------------------


def test_a_folder_is_held_while_it_is_trained(tmp_path: Path) -> None:
    seen = []

    def look(*_: Any) -> dict[str, float]:
        (found,) = table.find([tmp_path])
        seen.append((found.state, found.process and found.process.process))
        assert f"running (process {os.getpid()})" in table.table([found])
        for other in ({"resume": True}, {}):
            with pytest.raises(UserError, match=f"being trained by process {os.getpid()} on|is there and not empty"):
                fit(tmp_path / "run", **other)
        return {}

    fit(tmp_path / "run", evaluate=look)
    assert seen == [("running", os.getpid())]
    assert table.find([tmp_path])[0].state == "complete"


def test_the_command_does_not_go_on_with_a_run_that_is_trained(tmp_path: Path, command: Any, undisturbed: Any) -> None:
    shutil.copytree(undisturbed[1], tmp_path / "run")
    run = train.Run.open(tmp_path / "run")
    run.take()
    status, out, err = command("train", "--resume", "--run", tmp_path / "run")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"run is being trained by process {os.getpid()} on " in err
    run.release()


def test_what_has_become_of_a_run_is_known(tmp_path: Path) -> None:
    killed_after(2, tmp_path / "run")  # an exception: what a clean stop leaves
    (found,) = table.find([tmp_path])
    assert (found.state, found.row()["process"]) == ("stopped", None)
    shutil.copytree(tmp_path / "run", tmp_path / "b")
    owner = {"process": 2**22 + 1, "host": "here", "boot": lock._boot(), "space": lock._space(), "flock": True}
    (tmp_path / "b/lock").write_text(json.dumps(owner))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    (tmp_path / "c/lock").write_text(json.dumps({**owner, "host": "node7", "boot": "its"}))
    assert [run.state for run in table.ordered(table.find([tmp_path]))] == ["killed", "running?", "stopped"]
    assert "running? (process 4194305 on node7)" in table.table(table.find([tmp_path / "c"]))
    long_ago = time.time() - lock.SILENT - 1
    os.utime(tmp_path / "c/lock", (long_ago, long_ago))  # it would have touched the file every minute
    (found,) = table.find([tmp_path / "c"])
    assert (found.state, found.row()["process"]) == ("killed?", None)
    fit(tmp_path / "b", resume=True)
    assert table.find([tmp_path / "b"])[0].state == "complete"


def test_a_training_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other machines see them in the time of the lock's file."""
    monkeypatch.setattr(lock, "_BEAT", -1.0)
    before = time.time() - 3600

    class Look(train.Callback):
        def step(self, training: Any) -> None:
            path = tmp_path / "run/lock"
            if training.place.position == 1:
                os.utime(path, (before, before))
                assert lock.silent(path)
            else:
                seen.append(lock.silent(path))

    seen: list[bool] = []
    fit(tmp_path / "run", callbacks=[Look()])
    assert seen
    assert not any(seen)


def test_a_run_that_fails_says_why_until_it_goes_on(tmp_path: Path) -> None:
    class Fail(train.Callback):
        def epoch(self, training: Any, record: Any) -> None:
            if training.path is not None and record["epoch"] == 2:
                raise TrainingError("it has <diverged>. Try again.\nOr not.")

    with pytest.raises(TrainingError):
        fit(tmp_path / "run", callbacks=[Fail()])
    (found,) = table.find([tmp_path])
    assert (found.state, found.failure) == ("failed", "it has <diverged>. Try again.")
    assert found.row()["trouble"] == "it has <diverged>"
    assert "; failed; epoch 1 of " in repr(found)
    fit(tmp_path / "run", resume=True)
    (found,) = table.find([tmp_path])
    assert (found.state, found.failure) == ("complete", None)


@pytest.mark.slow
def test_three_trainings_at_once_have_a_folder_each(tmp_path: Path) -> None:
    args = [sys.executable, "-m", "jaxcnn", "train", "logistic", "--epochs", "1", "--seed"]
    started = [
        subprocess.Popen([*args, str(seed)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in (0, 1, 2)
    ]
    assert [process.communicate()[1] for process in started] == ["", "", ""]
    assert [process.returncode for process in started] == [0, 0, 0]
    found = table.find([tmp_path / "runs"])
    assert sorted(run.path.name for run in found) == [f"logistic-digits-{n}" for n in (1, 2, 3)]
    assert sorted(run.config["seed"] for run in found) == [0, 1, 2]
    assert [run.state for run in found] == ["complete"] * 3
    for run in found:
        assert run.result is not None
        assert run.result["seed"] == run.config["seed"]


# --- the end of a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["confusion", "mistakes", "curves"])
def test_a_run_killed_in_its_pictures_gets_them(where: str, tmp_path: Path, undisturbed: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, where, killed)
        with pytest.raises(Killed):
            fit(tmp_path / "run")
    run = train.Run.open(tmp_path / "run")
    assert run.result is not None
    assert untimed(run.result) == untimed(undisturbed[0].result)  # it came first
    assert not run.pictured
    fit(tmp_path / "run", resume=True)
    assert run.pictured
    assert untimed(run.result) == untimed(undisturbed[0].result)
    for name in ("curves", "confusion", "mistakes"):
        with Image.open(tmp_path / f"run/{name}.png") as picture:
            picture.verify()


def test_the_command_makes_the_pictures_too(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plots, "curves", killed)
        with pytest.raises(Killed):
            cli.main(["train", "logistic", "--epochs", "1", "--run", "run"])
    for _ in range(2):
        status, out, err = command("train", "--resume", "--run", "run")
        assert (status, err) == (0, "")
        assert Path("run/curves.png").is_file()
    assert "run is complete: test accuracy" in out
    # A result that is damaged is written again.
    Path("run/result.json").write_text('{"test_accuracy": "high"}')
    status, out, err = command("train", "--resume", "--run", "run")
    assert (status, err) == (0, "")
    assert json.loads(Path("run/result.json").read_text())["epochs"] == 1


def test_figures_of_the_test_set_are_in_the_result_or_there_is_none(tmp_path: Path, undisturbed: Any) -> None:
    """A detector's mean average precision takes minutes: a run that is killed meanwhile is not complete."""
    with pytest.raises(Killed):
        fit(tmp_path / "run", evaluate=killed)
    assert not (tmp_path / "run/result.json").exists()

    def measured(trained: train.Trained, test: Any) -> dict[str, float]:
        assert (trained.image, trained.classes) == ((6, 6, 1), DATA.classes)
        assert trained.config["epochs"] == 3
        return {"map": float((np.asarray(trained.outputs(test.images)).argmax(1) == test.labels).mean())}

    again = fit(tmp_path / "run", resume=True, evaluate=measured)
    expected = {**undisturbed[0].result, "test_map": undisturbed[0].result["test_accuracy"]}
    assert untimed(again.result) == untimed(expected)
    assert train.Run.open(tmp_path / "run").result == again.result
    assert untimed(fit(None, evaluate=lambda *_: {"map": 1.0}).result)["test_map"] == 1


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json", "curves.png", "mistakes.png"])
def test_a_full_disk_leaves_no_half_of_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(part: Any, path: Any) -> None:
        if Path(path).name == name:
            raise OSError(28, "No space left on device")
        replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(TrainingError, match=rf"{name} cannot be written: the disk is full. Free some space"):
            fit(tmp_path / "run")
    assert all(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert not list(tmp_path.rglob(".*"))
    assert not (tmp_path / "run" / name).exists()
    if name != "config.json":
        fit(tmp_path / "run", resume=True)
        assert (tmp_path / "run" / name).exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 255)
    write_whole(file, "old")

    def fails(out: Any) -> None:
        out.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_whole(file, fails)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x" * 255, "old")]
    write_whole(file, lambda out: out.write(b"new"))
    assert file.read_bytes() == b"new"


# --- which run a checkpoint belongs to ---------------------------------------------------------------------------


def test_a_config_that_was_changed_is_refused(undisturbed: Any, tmp_path: Path) -> None:
    """With the classes in another order, every answer would be wrong."""
    shutil.copytree(undisturbed[1], tmp_path / "run")
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "classes": config["classes"][::-1]}))
    for use in (lambda: train.Trained.load(tmp_path / "run", net()), lambda: fit(tmp_path / "run", resume=True)):
        with pytest.raises(UserError, match=r"config.json is not what it was when the run began"):
            use()


def test_checkpoints_of_another_run_are_refused(undisturbed: Any, tmp_path: Path) -> None:
    """Even of one with the same settings, but for weights that it began with."""
    fitted, run = undisturbed
    other = fit(tmp_path / "other", variables=(fitted.params, fitted.model_state))
    assert json.loads((tmp_path / "other/config.json").read_text()) != json.loads((run / "config.json").read_text())
    assert other.result["test_loss"] != fitted.result["test_loss"]
    shutil.rmtree(tmp_path / "other/checkpoints")
    shutil.copytree(run / "checkpoints", tmp_path / "other/checkpoints")
    with pytest.raises(UserError, match="or the checkpoints are another run's"):
        train.Trained.load(tmp_path / "other", net())


@pytest.mark.parametrize("name", ["0009", "٩", "9 ", "+9", "step9", "9.0"])
def test_folders_of_other_names_are_no_checkpoints(name: str, undisturbed: Any, tmp_path: Path) -> None:
    shutil.copytree(undisturbed[1], tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    before, last = train.Run.open(tmp_path / "run").checkpoints.steps()
    assert last == 9
    (folder / "9").rename(folder / name)
    assert train.Run.open(tmp_path / "run").checkpoints.steps() == [before]
    with pytest.warns(UserWarning, match=f"is no name of a checkpoint, .* that of step {before} is used"):
        train.Trained.load(tmp_path / "run", net())
    shutil.rmtree(folder / str(before))
    with pytest.raises(UserError, match="is no name of a checkpoint, which is its step"):
        train.Trained.load(tmp_path / "run", net())
    (folder / name).rename(folder / "7")
    with pytest.raises(UserError, match=r"step 7 is damaged \(it is another step's\)"):
        train.Trained.load(tmp_path / "run", net())


# --- runs by Orbax -----------------------------------------------------------------------------------------------


def as_by_orbax(run: Path) -> None:
    """Writes the checkpoints of a run anew, as jaxcnn 0.1 did, and takes out of its files what it did not know."""
    ocp = pytest.importorskip("orbax.checkpoint")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in ("id", "examples")}))
    asked = hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    optimizer = train.make_optimizer("adam", schedule="cosine", steps=9)
    example = jax.ShapeDtypeStruct((1, 6, 6, 1), np.uint8)
    like = train.create_state(net(), optimizer, jax.random.key(0), example, ema=True)
    for folder in (run / "checkpoints").iterdir():
        tree = folder_module._plain(like)
        if checkpoint.read_some(folder, ("best",)):
            tree["best"] = {"params": like.params, "model_state": like.model_state}
        tree = checkpoint.read_like(folder, tree)
        tree["key"] = jax.random.key_data(tree["key"])
        (folder / "arrays.safetensors").unlink()
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="own")
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
            orbax.save(folder / "arrays", args=ocp.args.StandardSave(jax.device_get(tree)))
        progress = json.loads((folder / "progress.json").read_text())
        del progress["step"]
        (folder / "progress.json").write_text(json.dumps({**progress, "config": asked}))
        (folder / "manifest.json").unlink()
        (folder / "manifest.json").write_text(json.dumps(checkpoint._hashes(folder)))


@pytest.fixture(scope="module")
def by_orbax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its third epoch; beside it, as it was before Orbax wrote it."""
    run = tmp_path_factory.mktemp("orbax") / "run"
    killed_after(2, run, ema=0.9)
    shutil.copytree(run, run.with_name("before"))
    as_by_orbax(run)
    return run


def test_a_run_by_orbax_goes_on_and_is_asked(by_orbax: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(by_orbax, run)
    assert not list(run.rglob("*.safetensors"))
    whole = fit(None, ema=0.9)
    found, expected = (train.Trained.load(path, net()) for path in (run, by_orbax.with_name("before")))
    same(jax.device_get(found.params), jax.device_get(expected.params))
    again = fit(run, resume=True, ema=0.9)
    assert untimed(again.result) == untimed(whole.result)
    same(jax.device_get(again.state.opt_state), jax.device_get(whole.state.opt_state))
    assert (run / "checkpoints/9/arrays.safetensors").is_file()
    assert table.find([by_orbax])[0].state == "interrupted"


def test_without_orbax_it_is_said_what_to_install(by_orbax: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(by_orbax, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    for use in (
        lambda: train.Trained.load(tmp_path / "run", net()),
        lambda: fit(tmp_path / "run", resume=True, ema=0.9),
    ):
        with pytest.raises(UserError, match="written by Orbax, which is not installed: pip install orbax-checkpoint"):
            use()
    monkeypatch.setitem(sys.modules, "orbax", None)
    fit(tmp_path / "new")  # nothing else needs it


# --- the data ----------------------------------------------------------------------------------------------------


def changed(kind: str) -> data.Dataset:
    images, labels = DATA.images.copy(), DATA.labels.copy()
    if kind == "a pixel":
        images[7, 3, 2] ^= 1
    elif kind == "a label":
        labels[3] = (labels[3] + 1) % 3
    elif kind == "one is missing":
        images, labels = images[:-1], labels[:-1]
    elif kind == "order":
        images, labels = images[::-1], labels[::-1]
    classes = DATA.classes[::-1] if kind == "classes" else DATA.classes
    return data.Dataset(images, labels, classes, "bars")


@pytest.mark.parametrize("kind", ["a pixel", "a label", "one is missing", "order", "classes"])
@pytest.mark.parametrize("which", ["data", "validation", "test"])
def test_a_run_goes_on_with_its_own_data_alone(kind: str, which: str, undisturbed: Any, tmp_path: Path) -> None:
    shutil.copytree(undisturbed[1], tmp_path / "run")
    given = {"validation": TEST, "test": TEST, which: changed(kind)} if which == "data" else {which: changed(kind)}
    name = "train" if which == "data" else which
    with pytest.raises(UserError, match=rf"the {name} data is not what the run began with \(.*Bring the data back"):
        fit(tmp_path / "run", resume=True, **given)
    fit(tmp_path / "run", resume=True, data=changed("nothing"))


def test_a_stream_goes_on_with_its_own_files_alone(tmp_path: Path) -> None:
    for label in range(3):
        folder = tmp_path / f"images/{label}"
        folder.mkdir(parents=True)
        for image, number in zip(DATA.images[DATA.labels == label], range(10), strict=False):
            Image.fromarray(image[..., 0]).save(folder / f"{number}.png")

    def streamed() -> dict[str, Any]:
        made = data.stream(f"{tmp_path}/images", "train", size=(6, 6), workers=1)
        return {"data": made, "validation": None, "test": None, "batch_size": 4, "epochs": 2}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "epoch", killed)
        with pytest.raises(Killed):
            fit(tmp_path / "run", **streamed())
    gone, second = tmp_path / "images/1/0.png", tmp_path / "images/1/1.png"
    content, seconds = gone.read_bytes(), second.read_bytes()
    gone.unlink()
    second.unlink()
    with pytest.raises(UserError, match=r"the train data is not what the run began with \(24 examples when .* now 23"):
        fit(tmp_path / "run", resume=True, **streamed())
    second.write_bytes(seconds)
    gone.with_name("another.png").write_bytes(content)
    with pytest.raises(UserError, match=r"the train data .*\(as many examples, but others\)"):
        fit(tmp_path / "run", resume=True, **streamed())
    gone.with_name("another.png").rename(gone)
    assert fit(tmp_path / "run", resume=True, **streamed()).result["epochs"] == 2


def test_large_arrays_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_MOST", 100)
    monkeypatch.setattr(identity, "_SAMPLE", 10)
    one = identity.of_data(DATA)
    assert one == identity.of_data(changed("nothing"))
    assert one != identity.of_data(changed("order"))


# --- whose code --------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a network and its run; whatever executes code leaves a mark."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    mark = tmp_path / "executed"
    Path("net.py").write_text(f"{NET}\nopen({str(mark)!r}, 'w').close()\n")
    pixels = np.random.default_rng(0)
    for label in range(2):
        Path(f"images/{label}").mkdir(parents=True)
        for number in range(10):
            Image.fromarray(pixels.integers(0, 255, (6, 6)).astype(np.uint8)).save(f"images/{label}/{number}.png")
    cli.main(["train", "net.py:net", "--data", "./images", "--epochs", "1", "--batch-size", "4", "--run", "run"])
    mark.unlink()
    return mark


COMMANDS = ["evaluate run", "predict run images/0/0.png", "export run", "explore run --export page.html",
            "train --resume --run run"]  # fmt: skip


@pytest.mark.parametrize("case", ["outside", "changed", "in the run", "cached", "as it was"])
def test_code_of_a_run_is_executed_where_it_may_be(case: str, own: Path, command: Any) -> None:
    run = Path("run")
    (run / "curves.png").unlink()
    cwd = Path.cwd()
    if case == "outside":
        Path("deeper").mkdir()
        for path in ("run", "images"):
            Path(path).rename(f"deeper/{path}")
        os.chdir("deeper")
    elif case == "changed":
        Path("net.py").write_text(Path("net.py").read_text() + "\nimport os\n")
    elif case == "in the run":
        config = json.loads((run / "config.json").read_text())
        shutil.copy("net.py", "run/net.py")
        (run / "config.json").write_text(json.dumps({**config, "model": f"{cwd}/run/net.py:net"}))
        belongs_to_its_config(run)
    elif case == "cached":
        evil = cwd / "evil.py"
        evil.write_text("import sys\nraise SystemExit('evil')\n")
        stat = Path("net.py").stat()
        evil.write_text(evil.read_text().ljust(stat.st_size, "\n"))
        os.utime(evil, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        import py_compile

        compiled = cwd / f"__pycache__/net.{sys.implementation.cache_tag}.pyc"
        py_compile.compile(str(evil), str(compiled), doraise=True)
    why = {"outside": "lies outside the current folder", "changed": "is not what the run was trained with",
           "in the run": "came with the run"}.get(case)  # fmt: skip
    for words in COMMANDS:
        if words.startswith("train") and case != "outside":
            continue
        if words.startswith("train"):
            words += f" --data {cwd}/images"
        status, _, err = command(*words.split())
        if why is None:
            assert (status, err) == (0, ""), words
            assert own.exists()
            continue
        assert status == 1, words
        assert err.count("\n") == 1
        assert why in err
        assert "--trust" in err
        assert not own.exists()
    if why is None:
        return
    with pytest.raises(UserError, match="trust=True"):
        train.Trained.load("run")
    status, _, err = command("evaluate", "run", "--trust", "--data", f"{Path.cwd()}/images")
    assert (status, err) == (0, "")
    assert own.exists()


def belongs_to_its_config(run: Path) -> None:
    """What somebody does who makes up a run: its hashes are right."""
    for folder in (run / "checkpoints").iterdir():
        progress = json.loads((folder / "progress.json").read_text())
        progress["config"] = hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
        (folder / "progress.json").write_text(json.dumps(progress))
        (folder / "manifest.json").unlink()
        (folder / "manifest.json").write_text(json.dumps(checkpoint._hashes(folder)))


def test_a_changed_config_is_seen_before_its_code_is_executed(own: Path, command: Any) -> None:
    path = Path("run/config.json")
    Path("other.py").write_text(Path("net.py").read_text())
    path.write_text(path.read_text().replace("net.py", "other.py"))
    for words in COMMANDS:
        status, _, err = command(*words.split())
        assert (status, err.count("\n")) == (1, 1)
        assert "config.json is not what it was when the run began" in err
    assert not own.exists()


# --- permissions -------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder for all, as a user for whom permissions count."""
    from jaxcnn import explore, export, tasks, weights  # which that user may not be allowed to

    assert all((explore, export, tasks, weights))
    with tempfile.TemporaryDirectory(prefix="jaxcnn-nobody-") as folder:
        os.chmod(folder, 0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).iterdir():
                path.chmod(0o777)


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400, 0o600])
def test_a_run_that_may_not_be_read_does_not_stop_the_others(as_nobody: Path, mode: int, command: Any) -> None:
    for name in ("a", "b"):
        (as_nobody / name).mkdir()
        (as_nobody / name / "config.json").write_text('{"model": "mlp", "epochs": 1}')
    (as_nobody / "a").chmod(mode)
    if mode & 0o400:
        status, out, err = command("runs", as_nobody)
        assert "config.json cannot be read: Permission denied" in out
    else:
        with pytest.warns(UserWarning, match="cannot be read: Permission denied"):
            table.find([as_nobody])
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            status, out, err = command("runs", as_nobody)
        assert "a cannot be read: Permission denied" in err
    assert status == 0
    assert "b  mlp" in out
    for words in ("runs", "evaluate", "export", "explore", "train --resume --run"):
        status, _, err = command(*words.split(), as_nobody / "a")
        if words != "runs" or not mode & 0o400:
            assert (status, err.count("\n")) == (1, 1), words
            assert "Permission denied" in err
