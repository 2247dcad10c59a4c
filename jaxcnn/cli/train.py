"""`jaxcnn train`."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.common import say, shown
from jaxcnn.cli.options import Train
from jaxcnn.cli.resume import process_of, recipe_of, resumed, same_in_all
from jaxcnn.errors import Interrupted, UserError
from jaxcnn.format import duration, plural
from jaxcnn.runs.recipe import Recipe
from jaxcnn.signals import status_of

if TYPE_CHECKING:
    from jaxcnn.tasks.task import Task

_LONGEST = 80  # characters of the model's and the data's name in a run's name
_PICTURES = ("curves.png", "confusion.png", "mistakes.png")


def run_train(given: Train) -> None:
    from jaxcnn import devices
    from jaxcnn.runs.writer import look
    from jaxcnn.train import Run
    from jaxcnn.train.train import prepare, task_of

    process = process_of(given)
    process.join()
    if process.several:
        devices.agree(same_in_all(given))
    folder: Any = None
    if given.resume:
        recipe, process, folder = resumed(given)
    else:
        recipe = recipe_of(given)
        if given.run is not None:
            folder = Run(given.run, **process.written())
            look(folder)  # before the data are loaded
    task = task_of(recipe)
    if given.resume and (outcome := devices.from_first(lambda: _complete(folder, task))) is not None:
        say(f"{folder.path} is complete: {outcome}")
        return
    work = prepare(recipe, process, given.resume)
    name = run_name(work.recipe)
    if folder is None:
        folder = Run.numbered(Path("runs") / name, **process.written())
    if devices.first_process():
        on = f" on {work.devices.size} devices" if work.devices else ""
        parts = f"{len(work.train):,} {task.unit} to train on, {len(work.val or []):,} to validate"
        epochs, steps = work.epochs, work.steps_per_epoch
        length = f"{epochs} {plural(epochs, 'epoch')} of {steps} {plural(steps, 'step')}{on}"
        say(f"{name.replace('-', ' on ')}: {parts}, {len(work.test):,} to test; {length}", flush=True)
    try:
        fitted = work.fit(folder)
    except KeyboardInterrupt as stop:
        there = f"go on with: jaxcnn train --run {shlex.quote(shown(folder.path))} --resume"
        if not folder.checkpoints.steps():
            there = f"nothing was saved yet to go on with in {shown(folder.path)}"
        raise Interrupted(f"{str(stop) or 'interrupted'}; {there}", status_of(stop) - 128) from None
    if devices.first_process():
        say(_outcome(fitted.result, task))
        pictures = [name for name in _PICTURES if (folder.path / name).exists()]
        say(f"{shown(folder.path)}: {', '.join(pictures)}, result.json, checkpoints")


def run_name(recipe: Recipe) -> str:
    """The name of a run: model and data, in letters that every folder may have."""

    def short(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]+", "_", Path(text.split(":")[-1]).name)[:_LONGEST]

    return f"{short(recipe.model)}-{short(str(recipe.data))}"


def _complete(folder: Any, task: Task) -> str | None:
    """The outcome of a complete run; None for a run to be continued, also if only its pictures are missing or its
    result is damaged."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        if folder.pictured and folder.result is not None:
            return _outcome(folder.result, task)
    return None


def _outcome(result: dict[str, Any], task: Task) -> str:
    from jaxcnn.metrics import name_of, shown

    name = task.metric.primary
    text = f"test {name_of(name)} {shown(name, result[f'test_{name}'])}, loss {result['test_loss']:.4f}"
    took = f"; {duration(result['seconds'])}" if "seconds" in result else ""
    return f"{text}, at epoch {result['best_epoch']} of {result['epochs']}{took}"
