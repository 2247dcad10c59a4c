"""`jaxcnn predict`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError
from jaxcnn.format import printable


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
    task = tasks.find(trained.config.get("task", tasks.CLASSIFY))
    if task is not None:
        if given.invert:
            raise UserError(f"--invert is for digits; this run is one of {task.about}")
        out = given.out or given.run / "predictions"
        rows = task.predict(trained, given.images, out)
        say(json.dumps(rows) if given.json else "\n".join(row["text"] for row in rows))
        return
    rows = _named(given, trained)
    if given.json:
        say(json.dumps(rows))
        return
    for row in rows:
        say(f"{printable(row['image'])}  {printable(row['class'])}  {100 * row['probability']:.1f} %")


def _named(given: Predict, trained: Any) -> list[dict[str, Any]]:
    """The class of each image file."""
    from jaxcnn import data

    height, width, channels = trained.image
    # All files are read before anything is said: one that is damaged stops the command with its name.
    read = data.read_middle if trained.config.get("stream") else data.read_image
    pictures = [read(path, channels, (height, width)) for path in given.images]
    if given.invert:
        pictures = [255 - p for p in pictures]
    rows: list[dict[str, Any]] = []
    for path, p in zip(given.images, trained.probabilities(pictures), strict=True):
        best = int(p.argmax())
        rows.append({"image": str(path), "class": trained.classes[best], "probability": float(p[best])})
        if given.json:
            rows[-1]["probabilities"] = {c: float(v) for c, v in zip(trained.classes, p, strict=True)}
    return rows
