"""The folder of a run: recipe, files, checkpoints, lock, the trained model, and the table of runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.runs.folder import Run
from jaxcnn.runs.recipe import Recipe

if TYPE_CHECKING:
    from jaxcnn.runs.table import RunSummary

__all__ = ["Recipe", "Run", "find"]


def find(paths: Iterable[str | Path]) -> list[RunSummary]:
    """The runs at these paths: each is a run, or a folder with runs below it. Other folders are ignored.

    Raises:
      UserError: for a path that does not exist, or has no run.
    """
    from jaxcnn.runs import table  # on first use, as below: the command line starts faster without it

    return table.find(paths)


def __getattr__(name: str) -> Any:
    if name in ("Trained", "TrainedModel"):  # that of `cnn.train`, which needs all models
        from jaxcnn.runs.trained import TrainedModel

        return TrainedModel
    raise AttributeError(f"module 'jaxcnn.runs' has no attribute {name!r}")
