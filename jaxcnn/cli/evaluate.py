"""`jaxcnn evaluate`."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli.common import say, size_of
from jaxcnn.errors import UserError
from jaxcnn.format import padded, printable, width


@dataclass
class Evaluate:
    """Measure a run's best checkpoint: accuracy, top-5 accuracy and loss, or what its task is measured by."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    data: str | None = None
    """Another dataset than the run's."""
    data_dir: Path | None = None
    """Where prepared datasets lie. JAXCNN_DATA_DIR when not given."""
    split: str = "test"
    """The part of the dataset."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""
    json: bool = False
    """Print one JSON object."""


def run_evaluate(given: Evaluate) -> None:
    from jaxcnn import tasks, train
    from jaxcnn.metrics import name_of, shown

    trained = train.Trained.load(given.run, trust=given.trust)
    name = given.data or trained.config["data"]
    where = given.data_dir or trained.config.get("data_dir")
    task = tasks.find(trained.config.get("task", tasks.CLASSIFY))
    found, figures = (_measured if task is None else functools.partial(_measured_by, task))(given, trained, name, where)
    record = {"run": str(given.run), "data": name, "split": given.split, "examples": len(found), **figures}
    if given.json:
        say(json.dumps(record))
    else:
        say(f"{given.run} on {name} {given.split}, {len(found):,} {task.what if task else 'images'}")
        lines = [(printable(name_of(measure)), shown(measure, value)) for measure, value in figures.items()]
        widest = max(width(name) for name, _ in lines)
        say("\n".join(f"{padded(name, widest)}  {value}" for name, value in lines))


def _measured(given: Evaluate, trained: Any, name: str, where: Any) -> tuple[Any, dict[str, float]]:
    """Images with a class each, and what the network does on them."""
    from jaxcnn import data, train
    from jaxcnn.losses import softmax_cross_entropy
    from jaxcnn.metrics import accuracy, top_k

    height, width, channels = trained.image
    found: Any
    if trained.config.get("stream"):
        found = data.stream(name, given.split, where, size=(height, width), damaged=trained.config["damaged"])
    else:
        found = data.load(name, given.split, where, (height, width))
    if len(found.classes) != len(trained.classes) or found.image[-1] != channels:
        raise UserError(
            f"{name} has {len(found.classes)} classes and {found.image[-1]} channels; "
            f"the run has {len(trained.classes)} and {channels}"
        )
    measures = {"accuracy": accuracy, **({"top5": top_k(5)} if len(trained.classes) > 5 else {})}
    evaluate = train.make_evaluate(
        trained.model, train.Objective(softmax_cross_entropy, metrics=measures, preprocess=trained.preprocess)
    )
    return found, evaluate(trained.params, trained.model_state, found).metrics


def _measured_by(task: Any, given: Evaluate, trained: Any, name: str, where: Any) -> tuple[Any, dict[str, float]]:
    """The data of another task, and what the network does on them."""
    from jaxcnn import losses, train

    size = size_of(trained.config.get("size"))
    found = task.load(name, given.split, where, size)
    if len(found.classes) != len(trained.classes):
        raise UserError(f"{name} has {len(found.classes)} classes; the run has {len(trained.classes)}")
    if task.adapt is not None:
        found = task.adapt(found, trained)
    # The loss may be weighed by what the run learned from.
    learned = task.load(trained.config["data"], "train", trained.config.get("data_dir") or where, size)
    settings = task.settings(learned)
    loss = settings.get("loss", losses.softmax_cross_entropy)
    evaluate = train.make_evaluate(
        trained.model,
        train.Objective(loss, metrics=settings.get("metrics"), preprocess=trained.preprocess),
        batch_size=trained.config["batch_size"],
    )
    figures = evaluate(trained.params, trained.model_state, found, keep=False).metrics
    if task.evaluate is not None:
        figures = {**task.evaluate(trained, found), **figures}
    return found, figures
