"""`jaxcnn predict`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError


@dataclass
class Predict:
    """Classify image files (PNG, JPEG, ... of any size and mode), with probabilities; or draw the classes of their
    pixels, boxes, boundaries or flow, or classify sentences: the run's task decides."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files; pairs of them for flow; sentences for text; an image and questions about it for vqa."""
    out: Path | None = None
    """The folder for the pictures that all tasks but classification write; RUN/predictions when not given."""
    invert: bool = False
    """Exchange black and white first: for dark digits on white paper, if the run was trained on light ones on black."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""
    json: bool = False
    """Print one JSON list."""


def run_predict(given: Predict) -> None:
    from jaxcnn import tasks, train

    if not given.images:
        raise UserError("predict needs at least one image file")
    trained = train.TrainedModel.load(given.run, trust=given.trust)
    task = tasks.find(trained.config.get("task") or tasks.CLASSIFY)
    if given.invert and task.name != tasks.CLASSIFY:
        raise UserError(f"--invert is for digits; this run is one of {task.about}")
    options = {"invert": True} if given.invert else {}
    rows = task.predict(trained, given.images, given.out or given.run / "predictions", **options)
    say(json.dumps(rows) if given.json else "\n".join(map(task.line, rows)))
