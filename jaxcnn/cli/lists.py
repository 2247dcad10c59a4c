"""`jaxcnn models` and `jaxcnn datasets`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxcnn.cli.common import say


@dataclass
class Models:
    """List the networks."""


def run_models(given: Models) -> None:
    from jaxcnn.models import MODELS

    width = max(map(len, MODELS))
    for name, entry in MODELS.items():
        say(f"{name:{width}s}  {'x'.join(map(str, entry.input)):9s}  {entry.about}")


@dataclass
class Datasets:
    """List the datasets."""


def run_datasets(given: Datasets) -> None:
    from jaxcnn import data, tasks

    every = {**data.DATASETS, **tasks.DATASETS}
    width = max(map(len, every))
    for name, about in every.items():
        say(f"{name:{width}s}  {about}")
