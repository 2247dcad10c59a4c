"""Whether a boundary between two things runs through each pixel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.format import printable
from jaxcnn.losses import every_output
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks.edges import objective as boundaries
from jaxcnn.tasks.files import read, stems, write_image
from jaxcnn.tasks.segmentation.objective import flip
from jaxcnn.tasks.task import Row, Task


def _load(name: str, split: str, data_dir: Path | None, size: tuple[int, int] | None) -> Examples:
    data = load_segmentation(name, split, data_dir, size)
    return dataclasses.replace(data, labels=boundaries.between(data.labels), classes=())


def _settings(data: Examples) -> Mapping[str, Any]:
    return {
        "loss": every_output(boundaries.class_balanced_cross_entropy),
        "metrics": {"boundaries": boundaries.boundary_f()},
        "augment": flip,
    }


def _options(data: Examples) -> Mapping[str, Any]:
    return {"norm": True}  # a VGG-16 hardly learns from random weights without


def _predict(trained: Trained, given: Sequence[str], out: Path) -> list[Row]:
    """For each image `NAME-boundaries.png`: the darker a pixel, the likelier a boundary runs through it."""

    @functools.partial(jax.jit, static_argnums=2)
    def scores_of(params: Any, images: Any, preprocess: Any) -> Any:
        logits = trained.model.apply(params, trained.model_state, preprocess(images))[0]
        return jax.nn.sigmoid(logits[0] if isinstance(logits, tuple) else logits)

    rows = []
    for name, file in zip(stems(given), given, strict=True):
        image, preprocess, note = read(trained, file)
        scores = scores_of(trained.params, image[None], preprocess)
        share = float((boundaries.thin(scores) >= 0.5).mean())
        drawn = out / f"{name}-boundaries.png"
        write_image(drawn, boundaries.picture(scores[0]))
        rows.append({
            "image": str(file),
            "size": list(image.shape[:2]),
            "share": round(share, 6),
            "boundaries": str(drawn),
            "text": f"{printable(file)}{note}: boundaries through {100 * share:.1f} % of the pixels -> "
                    f"{printable(drawn)}",
        })  # fmt: skip
    return rows


TASK = Task(
    name="boundaries",
    about="the boundaries between things",
    data="camvid",
    load=_load,
    settings=_settings,
    options=_options,
    predict=_predict,
    figure="f",
    validation=True,
    batch_size=4,
    epochs=16,
)
"""Boundary detection: networks that give a logit for each pixel, `(N, H, W)`, as `hed` does."""
