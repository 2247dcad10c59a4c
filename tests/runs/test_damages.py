"""Whatever happens to the files of a run: the right answer, or one sentence."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli, train

Damage = tuple[str, str, Callable[[Path], None]]
"""Which run is damaged ("whole", or "begun"), how it is called, and what does it to a copy."""


# --- the damages -------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(path.name)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    """As for a user who may not read it: no permission counts for the superuser, who runs some tests."""
    path.unlink()
    path.symlink_to("/proc/self/mem")  # it opens, and reading it fails


WAYS: dict[str, Callable[[Path], Any]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)),
    "a bit": flipped,
    "renamed": lambda path: path.rename(path.with_name(f"{path.name}.old")),
    "a folder": a_folder,
    "a loop": a_loop,
    "a pipe": a_pipe,
    "unreadable": unreadable,
}
TEXTS = {
    "a list": "[1, 2]", "null": "null", "a number": "7", "text": '"config"', "nothing": "{}", "true": "true",
    "nested": "[" * 50_000, "nested objects": '{"a":' * 50_000, "huge": '{"epoch": 1' + "0" * 5000 + "}",
    "large": '{"epoch": 1' + "0" * 400 + ', "epochs": 1e999}', "NaN": '{"epoch": NaN, "model": NaN}',
    "nested less": "[" * 900 + "]" * 900, "an object nested": '{"model":' * 980 + "1" + "}" * 980,
    "no UTF-8": "\udcff{}",
}  # fmt: skip
VALUES: list[Any] = ["many", -1, None, [1], {"a": [[]]}, 10**30, 0.5]
CONFIG = ["model", "task", "options", "data", "data_dir", "size", "stream", "epochs", "batch_size", "optimizer", "lr",
          "schedule", "warmup", "clip", "augment", "fresh", "freeze", "validation", "patience", "precision", "ema",
          "accumulate", "seed", "weights", "remat", "classes", "id", "examples", "model_options"]  # fmt: skip
RESULT = ["test_accuracy", "test_loss", "best_epoch", "epochs", "seconds", "validation_accuracy", "model"]


def field(file: str, name: str, value: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        found = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**found, name: value}))

    return change


def step(run: Path, which: int) -> Path:
    return run / "checkpoints" / str(train.Run.open(run).checkpoints.steps()[which])


def damages() -> Iterator[Damage]:
    def at(name: str, way: Callable[[Path], Any]) -> Callable[[Path], None]:
        return lambda run: way(run / name)

    def in_step(which: int, name: str, way: Callable[[Path], Any]) -> Callable[[Path], None]:
        return lambda run: way(step(run, which) / name)

    def in_both(name: str, way: Callable[[Path], Any]) -> Callable[[Path], None]:
        return lambda run: collections.deque(map(way, (step(run, which) / name for which in (0, 1))), 0) and None

    def text(name: str, text: str) -> Callable[[Path], None]:
        return lambda run: (run / name).write_text(text, errors="surrogateescape") and None

    for file in ("config.json", "metrics.jsonl", "result.json", "curves.png", "confusion.png", "mistakes.png"):
        for way, do in WAYS.items():
            yield "whole", f"{file} {way}", at(file, do)
    for file in ("arrays.safetensors", "progress.json", "manifest.json"):
        for way, do in WAYS.items():
            yield "whole", f"newest {file} {way}", in_step(-1, file, do)
            yield "whole", f"both {file} {way}", in_both(file, do)
    for file in ("config.json", "metrics.jsonl", "result.json"):
        for kind, content in TEXTS.items():
            yield "whole", f"{file} is {kind}", text(file, content)
    for kind, content in TEXTS.items():
        yield "whole", f"manifest.json is {kind}", lambda run, c=content: text("manifest.json", c)(step(run, -1))
        yield "begun", f"config.json is {kind}", text("config.json", content)
        yield "whole", f"lock is {kind}", text("lock", content)
    for name in ("0038", "\u0663\u0668", "x", " 9", "-3", "9" * 30):
        yield (
            "whole",
            f"a checkpoint is called {name}",
            lambda run, n=name: step(run, -1).rename(run / "checkpoints" / n) and None,
        )
    yield "whole", "a file is called like a checkpoint", lambda run: (run / "checkpoints/999").write_text("x") and None
    yield "whole", "checkpoints exchanged", exchanged
    yield "whole", "checkpoints deleted", lambda run: shutil.rmtree(run / "checkpoints")
    yield "whole", "checkpoints a loop", at("checkpoints", a_loop)
    yield "whole", "checkpoints a file", lambda run: (
        shutil.rmtree(run / "checkpoints"), (run / "checkpoints").write_text("x"))[0]  # fmt: skip
    yield "whole", "a checkpoint is a loop", lambda run: a_loop(step(run, -1))
    yield "whole", "a checkpoint is empty", lambda run: (
        shutil.rmtree(step(run, -1)), (run / "checkpoints/999").mkdir())[0]  # fmt: skip
    yield "whole", "lock is a folder", lambda run: (run / "lock").mkdir()
    yield "whole", "lock is a loop", lambda run: (run / "lock").symlink_to("lock")
    for k, name in enumerate(CONFIG):
        for value in (VALUES[k % len(VALUES)], VALUES[(k + 3) % len(VALUES)]):
            yield "begun", f"{name}={json.dumps(value)}", field("config.json", name, value)
    for k, name in enumerate(RESULT):
        for value in (VALUES[k % len(VALUES)], VALUES[(k + 2) % len(VALUES)]):
            yield "whole", f"result {name}={json.dumps(value)}", field("result.json", name, value)


def exchanged(run: Path) -> None:
    first, last, aside = step(run, 0), step(run, -1), run / "checkpoints/aside"
    for one, other in ((first, aside), (last, first), (aside, last)):
        one.rename(other)


ALL = list(damages())


# --- what is asked ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a run that is complete, and one that was killed before its first checkpoint."""
    folder = tmp_path_factory.mktemp("damages")
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / f"images/{label}").mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 100, (6, 6)).astype(np.uint8)
            pixels[:, 3 * label] += 120
            Image.fromarray(pixels).save(folder / f"images/{label}/{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save = train.Run.save
        patch.setattr(train.Run, "save", lambda run, *what: (save(run, *what), run.checkpoints.wait())[0])
        cli.main(["train", "logistic", "--data", "./images", "--epochs", "2", "--batch-size", "8", "--run", "whole"])
    (folder / "begun").mkdir()
    shutil.copy(folder / "whole/config.json", folder / "begun")
    return folder


COMMANDS = {
    "evaluate": "evaluate {run} --json",
    "predict": "predict {run} images/1/3.png --json",
    "resume": "train --resume --run {run}",
    "export": "export {run} --out {out} --json",
    "explore": "explore {run} --export {out}.html",
    "runs": "runs {run} --json",
    "draw": "runs {run} --draw {out}.png --sort test",
}


class Asker:
    """Asks damaged copies of the runs."""

    def __init__(self, folder: Path, work: Path, capsys: pytest.CaptureFixture):
        self.folder, self.work, self.capsys = folder, work, capsys
        self.counts: collections.Counter[str] = collections.Counter()
        asked = {name: self.ask(name, folder / "whole")[1] for name in ("evaluate", "predict")}
        self.expected = {name: out.replace(str(folder / "whole"), "RUN") for name, out in asked.items()}
        self.result = self.figures(folder / "whole")

    def figures(self, run: Path) -> dict[str, Any]:
        found = json.loads((run / "result.json").read_text())
        return {name: value for name, value in found.items() if name != "seconds"}

    def ask(self, name: str, run: Path) -> tuple[int, str, str]:
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        words = COMMANDS[name].split()
        self.capsys.readouterr()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                cli.main([word.format(run=run, out=out) for word in words])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *self.capsys.readouterr()

    def check(self, damage: Damage, names: list[str]) -> list[str]:
        """What is wrong with the answers."""
        kind, called, do = damage
        wrong = []
        for name in names:
            run = self.work / "run"
            shutil.copytree(self.folder / kind, run, symlinks=True)
            do(run)
            try:
                problem = self.problem(name, run, kind == "whole" and not called.startswith("result "))
            except BaseException as error:
                problem = repr(error)[:300]
            if problem:
                wrong.append(f"{name} of a run, {called}: {problem}")
            shutil.rmtree(run)
        return wrong

    def problem(self, name: str, run: Path, whole: bool) -> str | None:
        status, out, err = self.ask(name, run)
        lines = [line for line in err.splitlines() if not line.startswith("jaxcnn: warning: ")]
        if status:
            self.counts["one sentence"] += 1
            right = (
                status == 1 and (not out or name == "resume") and len(lines) == 1 and lines[0].startswith("jaxcnn: ")
            )
            return None if right and not re.search(r"\w+Error\b", lines[0]) else f"status {status}: {out}{err}"
        told = "is used" in err  # an earlier checkpoint, of another epoch
        self.counts["the right answer, with a warning" if told else "the right answer"] += 1
        if lines:
            return err
        if name in self.expected and not told:
            found, expected = (json.loads(text.replace(str(run), "RUN")) for text in (out, self.expected[name]))
            return None if found == expected else f"{found}, expected {expected}"
        if name == "resume" and whole and self.figures(run) != self.result:
            return f"{self.figures(run)}, expected {self.result}"
        return None


@pytest.fixture
def asker(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.chdir(made)
    return Asker(made, tmp_path, capsys)


def names(number: int, damage: Damage) -> list[str]:
    """The commands that a damaged run is asked by: one in turn, and another that only reads what is written down."""
    if damage[0] == "begun":
        return ["resume", ("runs", "evaluate")[number % 2]]
    return [("evaluate", "resume", "predict", "export", "explore")[number % 5], ("runs", "draw")[number % 2]]


def test_some_damages(asker: Asker) -> None:
    assert len(ALL) >= 150
    assert [asker.check(ALL[n], names(n, ALL[n])[:1]) for n in range(0, len(ALL), 23)] == [[]] * len(ALL[::23])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_every_damage_is_the_right_answer_or_one_sentence(part: int, asker: Asker) -> None:
    numbers = range(part, len(ALL), 6)
    wrong = [text for n in numbers for text in asker.check(ALL[n], names(n, ALL[n]))]
    with asker.capsys.disabled():
        print(f"\n{len(numbers)} damages: {dict(asker.counts)}")
    assert not wrong, "\n".join(wrong)
