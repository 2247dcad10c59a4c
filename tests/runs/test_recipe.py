"""A recipe: the same figures from `train`, from the command line, and from a file; what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxcnn import cli, train
from jaxcnn.errors import UserError
from jaxcnn.train import Recipe

SMALL = Recipe("mlp", "digits", options="hidden=8", limit=200, epochs=2, batch_size=50, lr=0.01, seed=3)
OPTIONS = [
    "--options",
    "hidden=8",
    "--limit",
    "200",
    "--epochs",
    "2",
    "--batch-size",
    "50",
    "--lr",
    "0.01",
    "--seed",
    "3",
]


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seconds"}


def result_of(run: Path) -> dict[str, Any]:
    return untimed(json.loads((run / "result.json").read_text()))


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("recipe") / "run"
    cli.main(["train", "mlp", "--data", "digits", *OPTIONS, "--run", str(run)])
    return run


def test_train_is_what_the_command_does(commanded: Path, tmp_path: Path) -> None:
    fitted = train.train(SMALL, tmp_path / "run", show=False)
    assert untimed(fitted.result) == result_of(commanded)
    assert result_of(tmp_path / "run") == result_of(commanded)
    configs = [json.loads((run / "config.json").read_text()) for run in (commanded, tmp_path / "run")]
    assert {**configs[0], "id": ""} == {**configs[1], "id": ""}


def test_a_recipe_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = train.train(dataclasses.replace(SMALL, epochs=1), show=False).result
    assert np.isfinite(result["test_loss"])
    assert not list(tmp_path.iterdir())


def test_config_json_is_the_recipe(commanded: Path) -> None:
    config = json.loads((commanded / "config.json").read_text())
    found = Recipe.of(config)
    assert dataclasses.replace(found, task=None, augment="auto", weight_decay=None) == SMALL
    assert (found.task, found.augment, found.weight_decay) == ("classification", "affine", 0.0)
    assert config["facts"]["classes"] == list("0123456789")
    assert config["facts"]["image"] == config["image"] == [32, 32, 1]
    for name in ("devices", "workers", "save_every", "run"):
        assert name not in {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("form", ["config.json", "recipe.json", "recipe.toml"])
def test_a_file_is_the_recipe_and_options_override_it(form: str, commanded: Path, tmp_path: Path) -> None:
    path = tmp_path / form
    if form == "config.json":
        path = commanded / "config.json"
    elif form == "recipe.json":
        path.write_text(json.dumps({
            "model": "mlp", "data": "digits", "options": {"hidden": 8}, "limit": 200, "epochs": 2, "batch_size": 50,
            "lr": 0.01, "seed": 3,
        }))  # fmt: skip
    else:
        path.write_text(
            'model = "mlp"\nlimit = 200\nepochs = 2\nbatch_size = 50\nlr = 0.01\nseed = 3\n[options]\nhidden = 8\n'
        )
    cli.main(["train", "--config", str(path), "--run", str(tmp_path / "same")])
    assert result_of(tmp_path / "same") == result_of(commanded)
    cli.main(["train", "--config", str(path), "--seed", "4", "--epochs", "1", "--run", str(tmp_path / "other")])
    config = json.loads((tmp_path / "other/config.json").read_text())
    assert (config["seed"], config["epochs"], config["lr"], config["model"]) == (4, 1, 0.01, "mlp")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"modle": "mlp"}', "unknown option 'modle': did you mean model"),
        ('{"epochs": "ten"}', 'epochs is "ten", expected int | None'),
        ("[1]", "should hold an object of options"),
        ("{", "cannot be read"),
        ('{"precision": "float8"}', 'precision is "float8"'),
    ],
)
def test_what_is_no_recipe_is_said(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--config", str(tmp_path / "r.json"), "--run", str(tmp_path / "run")])
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_values_of_other_types_are_refused() -> None:
    with pytest.raises(UserError, match=r"epochs is 1\.5, expected int"):
        Recipe(epochs=1.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--size 5: expected height,width"):
        _ = Recipe(size="5").shape
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        _ = Recipe(options="width").model_options


def test_lists_and_tables_stand_for_words() -> None:
    found = Recipe.of({"augment": ["flip", "crop"], "size": [20, 30], "options": {"width": 2, "norm": True, "a": "b"}})
    assert (found.augment, found.shape) == ("flip,crop", (20, 30))
    assert found.model_options == {"width": 2, "norm": True, "a": "b"}
    assert Recipe.of({"augment": [], "freeze": []}) == Recipe(augment="none")


def test_a_resumed_recipe_goes_on(commanded: Path, tmp_path: Path) -> None:
    """A run that is stopped after its first epoch, by a callback that kills it, ends with the figures of the whole."""

    class Killed(Exception):
        pass

    class Kills(train.Callback):
        def step(self, training: train.Training) -> None:
            if training.epoch == 2:
                raise Killed

    with pytest.raises(Killed):
        train.train(SMALL, tmp_path / "run", callbacks=[Kills()], show=False)
    config = train.Run.open(tmp_path / "run").config
    train.train(Recipe.of(config), train.Run(tmp_path / "run", resume=True), show=False)
    assert result_of(tmp_path / "run") == result_of(commanded)
