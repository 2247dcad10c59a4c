"""The folder of a run: its files, its checkpoints, its lock, and what can be asked of it afterwards."""

from jaxcnn.runs.folder import Run
from jaxcnn.runs.table import find
from jaxcnn.runs.trained import Trained

__all__ = ["Run", "Trained", "find"]
