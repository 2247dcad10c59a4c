"""Tasks: classification, segmentation, detection, edges, flow, keypoints, sentences, questions about images.

Each task is a folder here: its `task.py` defines a `Task` called `TASK`, its `objective.py` losses and metrics.
`jaxcnn train`, `evaluate` and `predict` call the methods of the task. A new folder is a new task.
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
"""Former names of tasks, which still work."""


def find(name: str) -> Task:
    """The task of this name.

    Raises:
      UserError: if there is none.
    """
    found = ALIASES.get(name, name)
    if found not in NAMES:
        raise unknown("task", name, [*NAMES, *ALIASES])
    task: Task = import_module(f"jaxcnn.tasks.{found}.task").TASK
    return task
