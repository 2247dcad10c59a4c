"""A sweep: the figures of single trainings, runs that fail and go on, its table, and the command."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcnn import cli, train
from jaxcnn.errors import UserError
from jaxcnn.runs import groups, table
from jaxcnn.train import Recipe, Run

# The modules, whose names are those of functions in the package.
FIT, SWEEP = sys.modules["jaxcnn.train.fit"], sys.modules["jaxcnn.train.sweep"]
SMALL = Recipe("logistic", "digits", limit=60, epochs=2, batch_size=20, lr=0.01, augment="none")


def figures(result: dict[str, Any]) -> dict[str, Any]:
    # Without a folder the model is named by its code.
    return {name: value for name, value in result.items() if name not in ("seconds", "model")}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a run take longer than these trainings; the last one says that they are there."""
    monkeypatch.setattr(FIT, "pictures", lambda *_: {})
    monkeypatch.setattr(Run, "pictured", property(lambda run: (run.path / "result.json").is_file()))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[train.SweepResult, Path]:
    """Two rates, one of which diverges, with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIT, "pictures", lambda *_: {})
        return train.sweep(SMALL, {"lr": [0.01, 1e38]}, seeds=2, runs=folder, show=False), folder


def test_each_run_is_the_training_of_its_recipe(swept: Any) -> None:
    result, folder = swept
    assert [run.path.name for run in result.runs] == [f"lr={lr},seed={k}" for lr in ("0.01", "1e+38") for k in (0, 1)]
    alone = train.train(dataclasses.replace(SMALL, seed=1), show=False).result
    assert figures(json.loads((folder / "lr=0.01,seed=1/result.json").read_text())) == figures(alone)
    assert Recipe.of(result.runs[1].config).seed == 1


def test_a_run_that_diverges_is_in_the_table_with_its_reason(swept: Any) -> None:
    result, folder = swept
    assert [run.state for run in result.runs] == ["complete", "complete", "failed", "failed"]
    assert list(result.failures) == ["lr=1e+38,seed=0", "lr=1e+38,seed=1"]
    assert all(re.match("the loss is (nan|inf) at step", why) for why in result.failures.values())
    assert [run.state for run in table.ordered(table.find([folder]))] == ["complete", "complete", "failed", "failed"]
    assert re.search(r"failed .*lr=1e\+38; the loss is \S+ at step .*: the weights have diverged$",
                     table.table(result.runs), re.MULTILINE)  # fmt: skip


def test_the_table_has_means_and_standard_deviations(swept: Any) -> None:
    result, _ = swept
    good, bad = result.groups
    values = [json.loads((run.path / "metrics.jsonl").read_text().splitlines()[run.row()["best_epoch"] - 1])
              ["validation_accuracy"] for run in result.runs[:2]]  # fmt: skip
    assert good.values() == values
    assert good.mean() == pytest.approx(sum(values) / 2)
    assert good.std() == pytest.approx(abs(values[0] - values[1]) / 2**0.5)  # n - 1 in the denominator
    assert (bad.mean(), bad.std(), bad.settings) == (None, None, {"lr": 1e38})
    text = repr(result)
    assert f"{100 * good.mean():.2f} ± {100 * good.std():.2f} %" in text
    assert re.search(r"1e\+38 +0 of 2 +- +- +\d+s  failed: the loss is", text)
    assert text.endswith("mean ± standard deviation over 2 seeds")
    assert result._repr_html_().count("<tr>") == 3
    assert result.best == dataclasses.replace(SMALL, lr=0.01)


def test_the_same_call_goes_on(swept: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Complete runs stay, failed ones are tried again, one that was stopped is resumed, and values may be added."""
    _, folder = swept
    third = dataclasses.replace(SMALL, lr=0.1)

    class Stop(train.Callback):
        def epoch(self, training: Any, record: Any) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(third, Run(folder / "lr=0.1,seed=0"), callbacks=[Stop()], show=False)
    begun = []
    prepare = SWEEP.prepare
    monkeypatch.setattr(SWEEP, "prepare", lambda recipe, *rest: begun.append((recipe.lr, rest[1])) or
                        prepare(recipe, *rest))  # fmt: skip
    more = train.sweep(SMALL, {"lr": [0.01, 0.1]}, runs=folder)
    assert begun == [(0.1, True)]
    assert figures(more.runs[1].result) == figures(train.train(third, show=False).result)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["1/2", "2/2"]
    assert re.fullmatch(r"2/2  lr=0.1,seed=0  validation accuracy \S+ %  test accuracy \S+ %  \d+s", lines[1])
    begun.clear()
    train.sweep(SMALL, {"lr": [1e38]}, runs=folder, show=False)
    assert begun == [(1e38, True)]
    with pytest.raises(UserError, match=r"lr=0\.01,seed=0 was made with epochs=2, not 3: choose another folder"):
        train.sweep(dataclasses.replace(SMALL, epochs=3), {"lr": [0.01]}, runs=folder)


def test_a_run_of_another_process_is_left_to_it(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = swept
    other = Run(folder / "lr=1e+38,seed=1")
    other.take()
    try:
        monkeypatch.setattr(SWEEP, "prepare", lambda *_: pytest.fail("it was trained"))
        result = train.sweep(dataclasses.replace(SMALL, seed=1), {"lr": [1e38]}, runs=folder, show=False)
    finally:
        other.release()
    assert [run.state for run in result.runs] == ["running"]


def test_recipes_are_checked_before_any_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(SWEEP, "prepare", lambda *_: pytest.fail("a training began"))
    for over in ({"optimizer": "adam,adamm"}, {"model": "logistic,resnet"}, {"augment": "none,flop"}):
        with pytest.raises(UserError, match="unknown"):
            train.sweep(SMALL, over, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_folds_have_a_mean_and_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train.sweep(dataclasses.replace(SMALL, epochs=1), folds=3, show=False)
    assert [run.config["fold"] for run in result.runs] == ["1/3", "2/3", "3/3"]
    (group,) = result.groups
    assert len(group.values()) == 3
    assert group.std() == pytest.approx(np.std(group.values(), ddof=1))
    assert repr(result).endswith("mean ± standard deviation over 3 folds")
    assert "fold=2/3" in table.table(result.runs)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["logistic", "--limit", "60", "--epochs", "1", "--batch-size", "20", "--augment", "none"]
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", *options, "--over", "lr=0.01,1e38", "--over", "optimizer=sgd", "--draw", "lr.png"])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert re.search(r"^0\.01 +\d+\.\d\d % +\d+\.\d\d % +\d+s$", out, re.MULTILINE)
    assert re.search(r"^1e\+38 .*failed: the loss is", out, re.MULTILINE)
    assert "1 of 2 runs complete, 1 failed; jaxcnn runs runs/sweep-logistic-digits" in out
    assert re.fullmatch(r"jaxcnn: 1 of 2 runs failed; the first one, lr=1e\+38,\S+: the loss is .*\n", err)
    assert Path("lr.png").stat().st_size > 5000
    cli.main(["runs", "runs", "--group", "--picture", "again.png"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["lr", "validation", "accuracy", "test", "accuracy",
                                                               "time"]  # fmt: skip
    assert Path("again.png").stat().st_size > 5000
    assert [path.name for path in Path("runs/sweep-logistic-digits").iterdir() if path.name.endswith("seed=0")]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--over", "lr"], "--over lr: expected NAME=VALUE,VALUE"),
        (["--over", "lr=1", "--over", "lr=2"], "--over lr is given twice; its values stand in one: lr=1,2"),
        (["--over", "bach-size=1"], "unknown setting 'bach_size': did you mean batch_size"),
        (["--distributed"], "a sweep trains in one process"),
        (["--draw", "a.gif"], "a.gif: a graph is drawn as"),
    ],
)
def test_bad_input_is_one_line(args: list[str], says: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", "logistic", *args])
    assert end.value.code == 1
    assert re.match(f"jaxcnn: {says}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_sweep_says_how_to_go_on(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SWEEP, "prepare", stopped)
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", "logistic", "--over", "lr=0.1,0.2"])
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "jaxcnn: interrupted; the same command goes on with the runs in runs/sweep-logistic-digits\n"
    )


def test_groups_are_ordered_by_their_mean_and_incomplete_ones_last() -> None:
    def run(lr: float, seed: int, accuracy: float | None) -> table.RunSummary:
        config = {"model": "mlp", "lr": lr, "seed": seed, "primary": "accuracy", "higher_is_better": True, "id": "0"}
        if accuracy is None:
            return table.RunSummary(Path(f"{lr}-{seed}"), config, [], None, failure="It failed. Try again.")
        record = {"epoch": 1, "validation_accuracy": accuracy, "seconds": 60.0}
        return table.RunSummary(Path(f"{lr}-{seed}"), config, [record], {"test_accuracy": accuracy, "seconds": 60.0})

    found = [
        run(0.1, 0, 0.5),
        run(0.1, 1, 0.7),
        run(0.2, 0, 0.9),
        run(0.2, 1, None),
        run(0.3, 0, 0.75),
        run(0.3, 1, 0.65),
    ]
    made = groups.grouped(found)
    assert [group.settings["lr"] for group in made] == [0.3, 0.1, 0.2]
    assert [group.shown("validation") for group in made] == ["70.00 ± 7.07 %", "60.00 ± 14.14 %", "90.00 %"]
    assert made[-1].failures == ["It failed"]
    assert groups.varied(found) == ["lr"]
