"""`jaxcnn summary`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError
from jaxcnn.runs.recipe import numbers


@dataclass
class Summary:
    """Show a network's layers: output shape, parameters, operations forward and backward, memory, receptive field."""

    model: tyro.conf.Positional[str]
    """A name from `jaxcnn models`, or file.py:function."""
    input: str | None = None
    """Height,width,channels, for instance 32,32,3. The size the model was designed for when not given."""
    classes: int | None = None
    """The number of classes. What the model was designed for when not given, 10 or 1000."""
    depth: int | None = None
    """How many levels of nested networks to show; 1 shows only the top level. All when not given."""
    train: bool = False
    """Show the forward pass of training, with batch statistics and auxiliary heads, instead of that of evaluation."""
    draw: Path | None = None
    """Also draw the graph to this file, .png, .svg or .pdf."""
    markdown: bool = False
    """Print the table in Markdown."""
    json: bool = False
    """Print one JSON object, which holds all levels."""


def run_summary(given: Summary) -> None:
    from jaxcnn import inspect, models
    from jaxcnn.inspect.graph import check_suffix

    if given.json and given.markdown:
        raise UserError("--json and --markdown are two forms of one table: choose one")
    if given.depth is not None and given.depth < 1:
        raise UserError(f"--depth {given.depth} should be at least 1")
    if given.draw is not None:
        check_suffix(given.draw)
    entry = models.MODELS.get(given.model)
    classes = given.classes if given.classes is not None else entry.classes if entry else 10
    model = models.make(given.model, classes)
    if given.input is None and entry is None:
        raise UserError("--input is needed for a model of your own: height,width,channels")
    shape: tuple[int, ...] | None = None
    if given.input is not None:
        count = len(entry.input) if entry else 3
        shape = numbers(given.input, count)
        if shape is None:
            form = "height,width,channels, for instance 32,32,3" if count == 3 else "a number of words"
            raise UserError(f"--input {given.input}: expected {form}")
    example: tuple[Any, ...] = entry.example(shape) if entry else (shape,)
    table = inspect.summary(model, *example, train=given.train, depth=given.depth)
    if given.draw is not None:
        table.draw(given.draw)
    say(table.to_json() if given.json else table.to_markdown() if given.markdown else table)
