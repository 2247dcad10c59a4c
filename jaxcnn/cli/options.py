"""The options of `jaxcnn train`: the fields of a `Recipe` and of a `Process`, and the folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe


@dataclass(frozen=True)
class Given(Recipe):
    """A recipe by options, which override those of a named recipe or of a file."""

    model: tyro.conf.Positional[str] = "lenet5"
    """A name from `jaxcnn models`, or file.py:function for a model of your own: a function of `classes`."""
    recipe: str | None = None
    """A name from `jaxcnn recipes`: settings that reached a measured figure. Options on the command line override
    them."""
    config: Path | None = None
    """A JSON or TOML file with options of a recipe, or the config.json of a run. Options on the command line override
    it."""
    given: tyro.conf.Suppress[frozenset[str]] = field(default=frozenset(), repr=False)
    """The names of the options on the command line."""


@dataclass(frozen=True)
class Train(Process, Given):
    """Train a network and write a run folder: config, metrics, curves, confusion matrix, mistakes, checkpoints."""

    run: Path | None = None
    """The folder to write. runs/MODEL-DATA-1, -2, ... when not given."""
    resume: bool = False
    """Continue the run in --run from its last checkpoint, with its settings."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""


@dataclass(frozen=True)
class Lr(Given):
    """Look for a learning rate: one short training in which the rate grows until the loss diverges."""

    low: float = 1e-6
    """The first learning rate."""
    high: float = 10.0
    """The last learning rate; the search ends before, when the loss diverges."""
    steps: int = 200
    """The number of learning rates, a step each."""
    picture: Path | None = None
    """Draw the losses to this file, .png, .svg or .pdf."""
    json: bool = False
    """Print one JSON object, with the rates and losses."""
