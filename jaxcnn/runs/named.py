"""Recipes by name: settings that reached a measured figure. Each is a file in the folder recipes."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import unknown
from jaxcnn.runs.recipe import Recipe

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with a name and the figure that it reached.

    Attributes:
      name: the name.
      about: what it trains, in a line.
      settings: the fields of `Recipe` that it sets; the others have their defaults.
      measured: `figure`, on the test set; `time`, of the whole command; and the `machine`.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    measured: Mapping[str, str]

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return Recipe.of(self.settings, f"the recipe {self.name}", strict=True)

    def over(self, **settings: Any) -> Recipe:
        """The recipe with some settings changed."""
        return dataclasses.replace(self.recipe, **settings)


@functools.cache
def recipes() -> dict[str, NamedRecipe]:
    """All named recipes, by name."""
    found = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        settings = tomllib.loads(path.read_text("utf-8"))
        about, measured = settings.pop("about"), settings.pop("measured")
        found[path.stem] = NamedRecipe(path.stem, about, settings, measured)
    return found


def named_recipe(name: str) -> NamedRecipe:
    """The recipe of this name.

    Raises:
      UserError: for an unknown name.
    """
    if name not in recipes():
        raise unknown("recipe", name, recipes())
    return recipes()[name]
