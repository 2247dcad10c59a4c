"""The options of `jaxcnn train`: the fields of a `Recipe` and of a `Process`, and the folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe


@dataclass(frozen=True)
class Train(Process, Recipe):
    """Train a network and write a run folder: config, metrics, curves, confusion matrix, mistakes, checkpoints."""

    model: tyro.conf.Positional[str] = "lenet5"
    """A name from `jaxcnn models`, or file.py:function for a model of your own: a function of `classes`."""
    recipe: str | None = None
    """A name from `jaxcnn recipes`: settings that reached a measured figure. Options on the command line override
    them."""
    config: Path | None = None
    """A JSON or TOML file with any of these options, or the config.json of a run. Options on the command line override
    it."""
    run: Path | None = None
    """The folder to write. runs/MODEL-DATA-1, -2, ... when not given."""
    resume: bool = False
    """Continue the run in --run from its last checkpoint, with its settings."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""
    given: tyro.conf.Suppress[frozenset[str]] = field(default=frozenset(), repr=False)
    """The names of the options on the command line."""
