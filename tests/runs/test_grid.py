"""The recipes of a sweep: every combination, or random ones, with names that are names of folders."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from jaxcnn.errors import UserError
from jaxcnn.runs.grid import name_of, recipes
from jaxcnn.runs.recipe import Recipe

BASE = Recipe("mlp", "digits", seed=5)


def test_a_grid_has_every_combination_and_all_else_is_shared() -> None:
    found = recipes(BASE, {"lr": [0.001, 0.01], "optimizer": "adam, momentum"}, seeds=2, folds=3)
    expected = list(itertools.product([0.001, 0.01], ["adam", "momentum"], [5, 6], ["1/3", "2/3", "3/3"]))
    assert [(r.lr, r.optimizer, r.seed, r.fold) for r in found.values()] == expected
    assert list(found)[:2] == ["lr=0.001,optimizer=adam,seed=5,fold=1_3", "lr=0.001,optimizer=adam,seed=5,fold=2_3"]
    assert {r.model for r in found.values()} == {"mlp"}
    assert list(recipes(BASE)) == ["seed=5"]
    assert [r.seed for r in recipes(BASE, {"seed": (1, 2)}).values()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("lr", "1e-3,0.1", [0.001, 0.1]),
        ("clip", "none,1", [None, 1.0]),
        ("batch_size", "32,64", [32, 64]),
        ("batch_size", np.array([32, 64]), [32, 64]),
        ("remat", "true,False", [True, False]),
        ("precision", "float32,bfloat16", ["float32", "bfloat16"]),
        ("augment", "affine|flip,crop", ["affine", "flip,crop"]),
        ("options", "hidden=8,hidden=16", ["hidden=8", "hidden=16"]),
        ("freeze", [None, ("fc1", "fc2")], [None, "fc1,fc2"]),
    ],
)
def test_values_have_the_type_of_their_setting(name: str, given: Any, expected: list[Any]) -> None:
    found = [getattr(r, name) for r in recipes(BASE, {name: given}).values()]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_random_combinations_are_spread_over_the_logarithm() -> None:
    """A log-uniform range of four magnitudes has a quarter of its draws in each: 100 of 400, within 4.6 sigma (8.7)."""
    found = list(recipes(BASE, {"lr": "1e-5..1e-1", "optimizer": "adam,sgd"}, random=400).values())
    assert len(found) == 400
    counts = np.histogram(np.log10([r.lr for r in found]), [-5, -4, -3, -2, -1])[0]
    assert counts.sum() == 400
    assert np.abs(counts - 100).max() < 40
    assert abs(sum(r.optimizer == "adam" for r in found) - 200) < 46
    assert all(float(f"{r.lr:.3g}") == r.lr for r in found)
    fewer = recipes(BASE, {"lr": "1e-5..1e-1", "optimizer": "adam,sgd"}, random=20)
    assert list(fewer.values()) == found[:20]  # more draws add to fewer


def test_a_range_from_zero_is_uniform_and_whole_numbers_stay_whole() -> None:
    drawn = recipes(BASE, {"warmup": "0..4", "batch_size": "16..256"}, random=100).values()
    assert abs(np.mean([r.warmup for r in drawn]) - 2) < 4 * 4 / np.sqrt(12 * 100)  # four standard errors
    assert {type(r.batch_size) for r in drawn} == {int}
    assert 16 <= min(r.batch_size for r in drawn) <= max(r.batch_size for r in drawn) <= 256
    # A choice of few values has no more than these.
    assert len(recipes(BASE, {"optimizer": ["adam", "sgd"]}, random=50)) == 2


def test_names_differ_where_the_settings_do() -> None:
    assert name_of({"data": "./my data/a", "clip": None, "remat": True}).startswith("data=._my_data_a,clip=none,remat=")
    assert name_of({"data": "a/b"}) != name_of({"data": "a_b"})
    assert name_of({"options": "x" * 500}) != name_of({"options": "x" * 501})
    assert len(name_of({"options": "x" * 500})) < 200


@pytest.mark.parametrize(
    ("over", "more", "says"),
    [
        ({"rate": "1"}, {}, "unknown setting 'rate'"),
        ({"lr": "fast"}, {}, "lr=fast: expected a number"),
        ({"epochs": "1.5"}, {}, "epochs=1.5: expected a whole number"),
        ({"remat": "yes"}, {}, "remat=yes: expected true or false"),
        ({"lr": []}, {}, "lr: expected at least one value"),
        ({"lr": 0.1}, {}, "lr: expected a sequence of values, or text such as"),
        ({"lr": [0.1, "adam"]}, {}, 'lr is "adam", expected'),
        ({"lr": "1e-4..1e-1"}, {}, r"lr=0.0001..0.1 is a range: say how many to draw, --random 20"),
        ({"lr": "1e-1..1e-4"}, {"random": 2}, "expected LOW..HIGH"),
        ({}, {"random": 2}, "names no setting"),
        ({"lr": "1"}, {"seeds": 0}, "seeds=0: expected at least 1"),
        ({"lr": "1"}, {"folds": 1}, "folds=1: expected at least 2"),
        ({"seed": "1,2"}, {"seeds": 2}, "seed is varied twice"),
        ({"fold": "1/2"}, {"folds": 2}, "fold is varied twice"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(over: dict[str, Any], more: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipes(BASE, over, **more)
