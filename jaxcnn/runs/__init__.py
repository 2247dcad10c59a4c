"""The folder of a run: recipe, files, checkpoints, lock, the trained model, and the table of runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn.runs.folder import Run
    from jaxcnn.runs.table import find
    from jaxcnn.runs.trained import Trained, TrainedModel

__all__ = ["Run", "Trained", "TrainedModel", "find"]

_FILES = {"Run": "folder", "Trained": "trained", "TrainedModel": "trained", "find": "table"}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line needs only the recipe, and importing the rest takes half a second.
    if name in _FILES:
        return getattr(import_module(f"jaxcnn.runs.{_FILES[name]}"), name)
    raise AttributeError(f"module 'jaxcnn.runs' has no attribute {name!r}")
