"""The folder of a run: its recipe, its files, its checkpoints, its lock, and what can be asked of it afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.runs.folder import Run
from jaxcnn.runs.recipe import Recipe

if TYPE_CHECKING:
    from jaxcnn.runs.table import Listed

__all__ = ["Recipe", "Run", "find"]


def find(paths: Iterable[str | Path]) -> list[Listed]:
    """The runs at these paths: each is a run, or a folder with runs below it. Other folders are ignored.

    Raises:
      UserError: for a path that does not exist, or has no run.
    """
    from jaxcnn.runs import table  # on first use, as below: the command line would wait for it

    return table.find(paths)


def __getattr__(name: str) -> Any:
    if name == "Trained":  # that of `cnn.train`, which needs all models
        from jaxcnn.runs.trained import Trained

        return Trained
    raise AttributeError(f"module 'jaxcnn.runs' has no attribute {name!r}")
