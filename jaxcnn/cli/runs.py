"""`jaxcnn runs`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError


@dataclass
class Runs:
    """List and compare runs: metrics, state, and the settings that differ."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, or folders that contain some."""
    sort: str = "name"
    """name, model, data, state, epochs, validation, test or time; metrics from the best to the worst."""
    group: bool = False
    """A line for each combination of settings, the best one first: mean and standard deviation over seeds and folds."""
    draw: Path | None = None
    """Also draw the curves of all runs to this file, .png, .svg or .pdf."""
    picture: Path | None = None
    """Also draw the metric against each setting that differs between the runs to this file, .png, .svg or .pdf."""
    json: bool = False
    """Print one JSON list."""


def run_runs(given: Runs) -> None:
    from jaxcnn.inspect.graph import check_suffix, write
    from jaxcnn.runs import groups
    from jaxcnn.runs import table as runs

    for path in (given.draw, given.picture):
        if path is not None:
            check_suffix(path)
    found = runs.ordered(runs.find(given.paths), given.sort)
    if given.draw is not None:
        from jaxcnn.inspect import plots

        histories = {str(run.path): run.history for run in found if run.history}
        chosen = {run.primary for run in found if run.history}
        primary = dataclasses.asdict(chosen.pop()) if len(chosen) == 1 else {}
        if not histories:
            raise UserError("none of these runs has come to the end of an epoch: there are no curves to draw")
        write(plots.compare(histories, **primary), given.draw)
    if given.picture is not None:
        write(groups.drawn(found), given.picture)
    names = runs.differing(found)
    rows = [{**run.row(), "settings": {name: run.config.get(name) for name in names}} for run in found]
    say(json.dumps(rows) if given.json else groups.group_table(found) if given.group else runs.table(found))
