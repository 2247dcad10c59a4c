"""What networks are for: a class for an image, for each of its pixels, boxes, boundaries, flow, sentences, questions.

`jaxcnn train` and `evaluate` and `predict` ask a `Task` what they should do. Naming the class of an image, `CLASSIFY`,
is what they do without one.
"""

from __future__ import annotations

from importlib import import_module

from jaxcnn.errors import unknown
from jaxcnn.tasks.task import Task

__all__ = ["CLASSIFY", "DATASETS", "NAMES", "Task", "find"]

CLASSIFY = "classify"
_FOLDERS = {"segment": "segmentation", "detect": "detection", "boundaries": "edges", "flow": "flow"}
_FOLDERS |= {"text": "text", "vqa": "vqa"}
NAMES = (CLASSIFY, *_FOLDERS)

DATASETS = {
    "camvid": "701 road scenes, each pixel with a class, 240x180 (Brostow et al. 2009): for segment, boundaries, flow",
    "bccd": "364 images of blood cells with boxes, 640x480, in Pascal VOC's form: for detect",
    "rt-polarity": "10,662 sentences of movie reviews, half of them positive (Pang and Lee 2005): for text",
    "sort-of-clevr": "generated scenes with questions about them, 75x75 (Santoro et al. 2017): for vqa",
}
"""What the tasks beside `classify` are tried on; a path stands for data of one's own in the same form."""


def find(name: str) -> Task | None:
    """The task of a name; None for `classify`.

    Raises:
      UserError: for another name.
    """
    if name not in NAMES:
        raise unknown("task", name, NAMES)
    return None if name == CLASSIFY else import_module(f"jaxcnn.tasks.{_FOLDERS[name]}.task").TASK
