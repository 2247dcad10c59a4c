"""`jaxcnn evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxcnn.cli.common import say
from jaxcnn.format import padded, printable, width


@dataclass
class Evaluate:
    """Evaluate a run's best checkpoint: accuracy, top-5 accuracy and loss, or the metrics of its task."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    data: str | None = None
    """The dataset. The run's when not given."""
    data_dir: Path | None = None
    """The folder of prepared datasets. JAXCNN_DATA_DIR when not given."""
    split: str = "test"
    """The split of the dataset: train, validation or test."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""
    json: bool = False
    """Print one JSON object."""


def run_evaluate(given: Evaluate) -> None:
    from jaxcnn import tasks, train
    from jaxcnn.metrics import name_of, shown

    trained = train.TrainedModel.load(given.run, trust=given.trust)
    name = given.data or trained.config["data"]
    where = given.data_dir or trained.config.get("data_dir")
    task = tasks.find(trained.config.get("task") or tasks.CLASSIFY)
    found = task.load_for(trained, name, given.split, None if where is None else Path(where))
    figures = train.evaluate(trained, found)
    record = {"run": str(given.run), "data": name, "split": given.split, "examples": len(found), **figures}
    if given.json:
        say(json.dumps(record))
        return
    say(f"{given.run} on {name} {given.split}, {len(found):,} {task.unit}")
    lines = [(printable(name_of(metric)), shown(metric, value)) for metric, value in figures.items()]
    widest = max(width(name) for name, _ in lines)
    say("\n".join(f"{padded(name, widest)}  {value}" for name, value in lines))
