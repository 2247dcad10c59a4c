"""`jaxcnn sweep`."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxcnn.cli.common import fail, say, shown
from jaxcnn.cli.options import Given
from jaxcnn.cli.resume import process_of, recipe_of
from jaxcnn.cli.train import run_name
from jaxcnn.errors import Interrupted, UserError
from jaxcnn.runs.process import Process
from jaxcnn.signals import status_of


@dataclass(frozen=True)
class Sweep(Process, Given):
    """Train a network with each combination of values of some settings, and compare the runs. The same command goes on
    with a sweep that was stopped."""

    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A setting and its values, lr=0.001,0.01; once for each setting that varies. Any option of a recipe may vary.
    Values that have commas themselves stand between bars: "augment=affine|flip,crop". With --random, lr=1e-4..1e-1 is a
    range, drawn log-uniformly; from 0 it is drawn uniformly."""
    seeds: int = 1
    """The number of seeds for each combination, from --seed on."""
    folds: int | None = None
    """Cross-validation: train each combination once for each of this number of folds, see --fold."""
    random: int | None = None
    """Train this number of random combinations instead of all."""
    runs: Path | None = None
    """The folder of the runs. runs/sweep-MODEL-DATA when not given."""
    draw: Path | None = None
    """Also draw the metric against each setting that varies to this file, .png, .svg or .pdf."""


def run_sweep(given: Sweep) -> int:
    from jaxcnn.inspect.graph import check_suffix, write
    from jaxcnn.train.sweep import outcome, sweep
    from jaxcnn.train.train import task_of

    process = process_of(given)
    if process.several or process.processes is not None or process.process is not None:
        raise UserError("a sweep trains in one process: start the command in each; they share the runs of a folder")
    if given.draw is not None:
        check_suffix(given.draw)
    recipe = recipe_of(given)
    over = _over(given.over)
    data = recipe.data or task_of(recipe).defaults.data
    folder = given.runs or Path("runs") / f"sweep-{run_name(dataclasses.replace(recipe, data=data))}"
    try:
        result = sweep(
            recipe, over, seeds=given.seeds, folds=given.folds, random=given.random, runs=folder, process=process
        )
    except KeyboardInterrupt as stop:
        text = f"{str(stop) or 'interrupted'}; the same command goes on with the runs in {shown(folder.absolute())}"
        raise Interrupted(text, status_of(stop) - 128) from None
    if given.draw is not None:
        write(result.draw(), given.draw)
    say(f"\n{result}\n\n{outcome(result)}; jaxcnn runs {shlex.quote(str(folder))}")
    if result.failures:
        count = len(result.failures)
        name, reason = next(iter(result.failures.items()))
        return fail(f"{count} of {len(result.runs)} runs failed; the first one, {name}: {reason}")
    return 0


def _over(given: tuple[str, ...]) -> dict[str, str]:
    """The settings that vary, and the text of their values."""
    found: dict[str, str] = {}
    for text in given:
        name, equal, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equal or not values.strip():
            raise UserError(f"--over {text}: expected NAME=VALUE,VALUE, for instance lr=0.001,0.01")
        if name in found:
            raise UserError(f"--over {name} is given twice; its values stand in one: {name}={found[name]},{values}")
        found[name] = values
    return found
