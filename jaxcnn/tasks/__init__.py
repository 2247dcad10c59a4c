"""What networks are for: a class for an image, for each of its pixels, boxes, boundaries, flow, sentences, questions.

`jaxcnn train` and `evaluate` and `predict` ask a `Task` what they should do. Naming the class of an image, `CLASSIFY`,
is what they do without one.
"""

from __future__ import annotations

from importlib import import_module

from jaxcnn.data import datasets
from jaxcnn.errors import unknown
from jaxcnn.tasks.task import Task

__all__ = ["CLASSIFY", "DATASETS", "NAMES", "Task", "find"]

CLASSIFY = "classify"
_FOLDERS = {"segment": "segmentation", "detect": "detection", "boundaries": "edges", "flow": "flow"}
_FOLDERS |= {"text": "text", "vqa": "vqa"}
NAMES = (CLASSIFY, *_FOLDERS)

DATASETS = {name: entry.about for name, entry in datasets.DATASETS.items() if entry.kind != "images"}
"""The datasets of the tasks beside `classify`."""


def find(name: str) -> Task | None:
    """The task of a name; None for `classify`.

    Raises:
      UserError: for another name.
    """
    if name not in NAMES:
        raise unknown("task", name, NAMES)
    return None if name == CLASSIFY else import_module(f"jaxcnn.tasks.{_FOLDERS[name]}.task").TASK
