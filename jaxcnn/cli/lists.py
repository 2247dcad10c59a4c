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
    from jaxcnn.data.datasets import listed

    entries = listed()
    names, kinds = (max(len(getattr(entry, field)) for entry in entries) for field in ("name", "kind"))
    for entry in entries:
        say(f"{entry.name:{names}s}  {entry.kind:{kinds}s}  {entry.about}")
