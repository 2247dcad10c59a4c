"""The recipes of a sweep: all combinations of some settings' values, or random ones."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UserError, unknown
from jaxcnn.runs.recipe import Recipe

Over = Mapping[str, Any]
"""Settings by name, with a sequence of values each, or their text: `"0.001,0.01"`, `"1e-4..1e-1"`."""
_LONGEST = 150  # characters of a run's name
_DIGITS = 3  # of a random number
_TRIES = 20  # draws for each random combination: a choice among few values has repetitions


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, to be drawn log-uniformly for `low` above 0, and uniformly for 0."""

    low: float
    high: float
    whole: bool

    def draw(self, random: np.random.Generator) -> float:
        """A number of the range, to three significant digits; whole if the setting is."""
        if self.low > 0:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        short = min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)
        return round(value) if self.whole else short


def recipes(
    recipe: Recipe, over: Over | None = None, *, seeds: int = 1, folds: int | None = None, random: int | None = None
) -> dict[str, Recipe]:
    """The recipes of a sweep by the names of their runs, for instance `lr=0.01,optimizer=adam,seed=0`.

    Args:
      recipe: the settings that all share.
      over: the values of those that vary. The grid has every combination; the last setting varies fastest.
      seeds: for each combination, this number of seeds from the recipe's on.
      folds: for each of these, this number of folds of a cross-validation.
      random: this number of random combinations instead of all. They follow from the recipe's seed; a larger number
        adds to those of a smaller one.

    Raises:
      UserError: for an unknown setting, a value that it cannot have, or a number below 1.
    """
    axes = {name: _values(recipe, name, values) for name, values in (over or {}).items()}
    for name, count in (("seeds", seeds), ("folds", folds), ("random", random)):
        if count is not None and count < (2 if name == "folds" else 1):
            raise UserError(f"{name}={count}: expected at least {2 if name == 'folds' else 1}")
    for name, given in (("seed", seeds > 1), ("fold", folds is not None)):
        if given and name in axes:
            raise UserError(f"{name} is varied twice: by {name}s={seeds if name == 'seed' else folds} and over {name}")
    chosen = _grid(axes) if random is None else _drawn(axes, random, recipe.seed)
    if "seed" not in axes:
        chosen = [{**each, "seed": recipe.seed + k} for each in chosen for k in range(seeds)]
    if folds is not None:
        chosen = [{**each, "fold": f"{k}/{folds}"} for each in chosen for k in range(1, folds + 1)]
    found: dict[str, Recipe] = {}
    for each in chosen:
        found.setdefault(name_of(each), dataclasses.replace(recipe, **each))
    return found


def name_of(settings: Mapping[str, Any]) -> str:
    """A name for a run of these settings that is a name of a folder, too."""
    whole = ",".join(f"{name}={_text(value)}" for name, value in settings.items())
    plain = re.sub(r"[^A-Za-z0-9_.+=,-]+", "_", whole)
    exact = re.sub(r"(fold=[0-9]+)/", r"\1_", whole)
    if plain == exact and len(plain) <= _LONGEST:
        return plain
    return f"{plain[:_LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _grid(axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations."""
    for name, values in axes.items():
        if isinstance(values, Range):
            raise UserError(f"{name}={values.low:g}..{values.high:g} is a range: say how many to draw, --random 20")
    return [dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values())]


def _drawn(axes: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """Random combinations, each once."""
    if not axes:
        raise UserError("--random draws the values of --over, which names no setting")

    once: dict[str, dict[str, Any]] = {}
    for k in range(_TRIES * count):
        random = np.random.default_rng([seed, k])
        each = {
            name: values.draw(random) if isinstance(values, Range) else values[random.integers(len(values))]
            for name, values in axes.items()
        }
        once.setdefault(name_of(each), each)
        if len(once) == count:
            break
    return list(once.values())


def _values(recipe: Recipe, name: str, given: Any) -> list[Any] | Range:
    """The values of a setting, checked."""
    kinds = _kinds(name)
    if isinstance(given, str):
        found = _parsed(name, given, kinds)
    elif isinstance(given, (Sequence, np.ndarray)):
        found = [value.item() if isinstance(value, np.generic) else value for value in given]
    else:
        raise UserError(f"{name}: expected a sequence of values, or text such as '0.001,0.01', got {given!r}")
    if isinstance(found, Range):
        return found
    if not found:
        raise UserError(f"{name}: expected at least one value")
    for value in found:
        dataclasses.replace(recipe, **{name: value})  # checks its type
    return found


def _kinds(name: str) -> list[Any]:
    """The types that a setting may have.

    Raises:
      UserError: if there is no such setting.
    """
    hints = typing.get_type_hints(Recipe)
    if name not in hints:
        raise unknown("setting", name, hints)
    hint = hints[name]
    return [hint] if typing.get_origin(hint) is None else list(typing.get_args(hint))


def _parsed(name: str, text: str, kinds: Sequence[Any]) -> list[Any] | Range:
    """The values in a text: between `|` where there is one, else between commas; or a range, LOW..HIGH."""
    number = int in kinds or float in kinds
    if number and (found := re.fullmatch(r"(.+?)\.\.(.+)", text)):
        low, high = (_number(name, part, float) for part in found.groups())
        if not 0 <= low < high < math.inf:
            raise UserError(f"{name}={text}: expected LOW..HIGH, from 0 or above to a larger number")
        return Range(low, high, int in kinds and float not in kinds)
    parts = [part.strip() for part in text.split("|" if "|" in text else ",")]
    return [_value(name, part, kinds) for part in parts if part]


def _value(name: str, text: str, kinds: Sequence[Any]) -> Any:
    """One value in its type."""
    if text.lower() == "none" and type(None) in kinds and str not in kinds:
        return None
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{name}={text}: expected true or false")
        return text.lower() == "true"
    if int in kinds or float in kinds:
        return _number(name, text, float if float in kinds else int)
    return Path(text) if Path in kinds else text


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name}={text}: expected {what}") from None
