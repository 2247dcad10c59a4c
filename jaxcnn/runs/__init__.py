"""The folder of a run: its recipe, its files, its checkpoints, its lock, and what can be asked of it afterwards."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcnn.runs.folder import Run
    from jaxcnn.runs.table import find
    from jaxcnn.runs.trained import Trained

__all__ = ["Run", "Trained", "find"]

_FILES = {"Run": "folder", "Trained": "trained", "find": "table"}


def __getattr__(name: str) -> Any:
    # On first use: the command line needs only the recipe, and would wait half a second for the rest.
    if name in _FILES:
        return getattr(import_module(f"jaxcnn.runs.{_FILES[name]}"), name)
    raise AttributeError(f"module 'jaxcnn.runs' has no attribute {name!r}")
