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
    """Name the class of image files (PNG, JPEG, ... of any size and mode), with its probability; or draw the classes of
    their pixels, boxes, boundaries or flow, or read sentences: whatever the run was trained for."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files; pairs of them for flow; sentences for text; an image and questions about it for vqa."""
    out: Path | None = None
    """The folder for the pictures that other tasks than classes write; RUN/predictions when not given."""
    invert: bool = False
    """Exchange black and white first: for dark digits on white paper, where the run learned light ones on black."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""
    json: bool = False
    """Print one JSON list."""


def run_predict(given: Predict) -> None:
    from jaxcnn import tasks, train

    if not given.images:
        raise UserError("predict needs at least one image file")
    trained = train.Trained.load(given.run, trust=given.trust)
    task = tasks.find(trained.config.get("task") or tasks.CLASSIFY)
    if given.invert and task.name != tasks.CLASSIFY:
        raise UserError(f"--invert is for digits; this run is one of {task.about}")
    options = {"invert": True} if given.invert else {}
    rows = task.predict(trained, given.images, given.out or given.run / "predictions", **options)
    say(json.dumps(rows) if given.json else "\n".join(map(task.line, rows)))
