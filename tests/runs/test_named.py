"""Named recipes: each can be used, the command lists them, and options override their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcnn import cli, models
from jaxcnn.cli.options import Train
from jaxcnn.cli.resume import recipe_of
from jaxcnn.data.datasets import listed
from jaxcnn.errors import UserError
from jaxcnn.runs.named import named_recipe, recipes
from jaxcnn.train.train import check, task_of


@pytest.mark.parametrize("name", recipes())
def test_a_named_recipe_can_be_used_and_says_what_was_measured(name: str) -> None:
    entry = recipes()[name]
    recipe = entry.recipe
    assert recipe.model in models.MODELS
    assert recipe.data in [each.name for each in listed()]
    assert entry.about
    assert set(entry.measured) == {"figure", "time", "machine"}
    assert all(entry.measured.values())
    check(task_of(recipe).completed(recipe))


def test_settings_of_a_named_recipe_can_be_changed() -> None:
    changed = named_recipe("lenet5-mnist").over(seed=3, data="digits")
    assert (changed.model, changed.epochs, changed.seed, changed.data) == ("lenet5", 20, 3, "digits")


def test_options_override_a_named_recipe() -> None:
    given = Train(recipe="lenet5-mnist", model="mlp", lr=0.5, given=frozenset({"recipe", "model", "lr"}))
    recipe = recipe_of(given)
    assert (recipe.model, recipe.data, recipe.lr, recipe.epochs) == ("mlp", "mnist", 0.5, 20)


def test_an_unknown_recipe_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--recipe", "lenet5-digts"])
    assert end.value.code == 1
    assert "unknown recipe 'lenet5-digts': did you mean lenet5-digits" in capsys.readouterr().err
    with pytest.raises(UserError, match="--recipe and --config both"):
        recipe_of(Train(recipe="lenet5-digits", config=Path("x.toml")))


def test_the_command_lists_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["recipes"])
    said = capsys.readouterr().out
    for entry in recipes().values():
        assert f"{entry.name}: {entry.about}" in said
        assert entry.measured["figure"] in said
