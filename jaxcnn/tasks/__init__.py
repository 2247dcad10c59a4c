"""What networks are for: a class for an image or each of its pixels, boxes, edges, flow, sentences, questions.

A task is a folder here: its `task.py` has a `Task` called `TASK`, and its `objective.py` what it minimizes and
measures. `jaxcnn train`, `evaluate` and `predict` ask the task what they should do; a new folder is a new task.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from jaxcnn.errors import unknown
from jaxcnn.runs.recipe import Recipe
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Task

__all__ = ["CLASSIFY", "NAMES", "Objective", "Recipe", "Task", "find"]

CLASSIFY = "classification"
NAMES = (CLASSIFY, *sorted(m.name for m in iter_modules(__path__) if m.ispkg and m.name != CLASSIFY))
"""The names of the tasks."""
ALIASES = {"classify": CLASSIFY, "segment": "segmentation", "detect": "detection", "boundaries": "edges"}
"""Names that tasks had before; they go on working."""


def find(name: str) -> Task:
    """The task of a name.

    Raises:
      UserError: for another name.
    """
    found = ALIASES.get(name, name)
    if found not in NAMES:
        raise unknown("task", name, [*NAMES, *ALIASES])
    task: Task = import_module(f"jaxcnn.tasks.{found}.task").TASK
    return task
