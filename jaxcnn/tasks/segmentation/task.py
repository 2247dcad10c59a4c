"""A class for each pixel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.atomic import put
from jaxcnn.data.augment import colour, compose
from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.format import printable
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks.files import read, stems, write_image
from jaxcnn.tasks.segmentation import objective as segmentation
from jaxcnn.tasks.task import Row, Task


def _settings(data: Examples) -> Mapping[str, Any]:
    return {
        "loss": _loss(data),
        "metrics": segmentation.measures(),
        "augment": compose(segmentation.flip, segmentation.scaled_crop(), colour(0.2, 0.2, 0.2)),
    }


def _loss(data: Examples) -> Any:
    """Cross-entropy in which a rare class counts by the square root of how rare it is."""
    weights = segmentation.median_frequency(data.labels, len(data.classes), 0.5)
    return functools.partial(segmentation.cross_entropy, weights=weights)


def _predict(trained: Trained, given: Sequence[str], out: Path) -> list[Row]:
    """For each image `NAME-mask.png`, the classes' colours beside the image, and `NAME-labels.png`, their numbers."""

    @functools.partial(jax.jit, static_argnums=2)
    def labels_of(params: Any, images: Any, preprocess: Any) -> Any:
        return trained.model.apply(params, trained.model_state, preprocess(images))[0].argmax(-1)

    rows = []
    for name, file in zip(stems(given), given, strict=True):
        image, preprocess, note = read(trained, file)
        labels = np.asarray(labels_of(trained.params, image[None], preprocess))[0]
        picture, numbers = out / f"{name}-mask.png", out / f"{name}-labels.png"
        masks = {"image": image[None], "classes": labels[None]}
        drawn = segmentation.figure(masks, trained.classes, image[None], 0.6)
        put(picture, functools.partial(drawn.savefig, format="png", dpi=120))
        write_image(numbers, labels.astype(np.uint8))
        shares = np.bincount(labels.ravel(), minlength=len(trained.classes)) / labels.size
        order = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
        most = ", ".join(f"{trained.classes[k]} {100 * shares[k]:.1f} %" for k in order[:5])
        rows.append({
            "image": str(file),
            "size": list(labels.shape),
            "shares": {trained.classes[k]: round(float(shares[k]), 6) for k in order},
            "mask": str(picture),
            "labels": str(numbers),
            "text": f"{printable(file)}{note}: {printable(most)} -> {printable(picture)}, {printable(numbers.name)}",
        })  # fmt: skip
    return rows


TASK = Task(
    name="segment",
    about="a class for each pixel",
    data="camvid",
    load=load_segmentation,
    settings=_settings,
    predict=_predict,
    figure="mean_iou",
    validation=True,
    batch_size=8,
    epochs=30,
)
"""Semantic segmentation: networks that give scores `(N, H, W, classes)`, as `fcn8s` does."""
