"""`jaxcnn export`."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError


@dataclass
class Export:
    """Export a run's network to files that run without jaxcnn: the computation, the weights and a predict.py."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    out: Path | None = None
    """The folder to write; export in the run's folder when not given."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""
    json: bool = False
    """Print one JSON object."""


def run_export(given: Export) -> None:
    from jaxcnn import export, tasks, train

    out = given.out or given.run / "export"
    export.check_new(out)
    trained = train.TrainedModel.load(given.run, trust=given.trust)
    task = tasks.find(trained.config.get("task") or tasks.CLASSIFY)
    if task.name != tasks.CLASSIFY:
        raise UserError(
            f"export writes networks that name the class of an image; {given.run} is one of the task {task.name}"
        )
    result = train.Run(given.run).result or {}
    kept = ("best_epoch", "validation_accuracy", "test_accuracy")
    config = trained.config
    about: dict[str, Any] = {name: Path(config[name]).name for name in ("model", "data") if name in config}
    written = export.save(
        trained.model,
        trained.params,
        trained.model_state,
        trained.image,
        out,
        preprocess=trained.preprocess,
        classes=trained.classes,
        about=about | {name: result[name] for name in kept if name in result},
    )
    if given.json:
        say(json.dumps({"folder": str(out), **written}))
        return
    sizes = ", ".join(f"{name} ({_bytes((out / name).stat().st_size)})" for name in export.FILES)
    program = shlex.quote(str(out / "predict.py"))
    (height, width, channels), platforms = trained.image, written["platforms"]
    say(f"{out}: {sizes}")
    say(f"uint8 images (N, {height}, {width}, {channels}) to logits (N, {len(trained.classes)}), on "
          f"{', '.join(platforms[:-1])} or {platforms[-1]}; try: python {program} IMAGE")  # fmt: skip


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
