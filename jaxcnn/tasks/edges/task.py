"""The task of edges: the boundaries between things, for each pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.format import printable
from jaxcnn.losses import every_output
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.edges import objective as boundaries
from jaxcnn.tasks.files import outputs_at_own_size, write_image
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.segmentation.objective import flip
from jaxcnn.tasks.task import Data, Facts, Row, Task


def _predict(trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
    """Writes `NAME-boundaries.png` for each image: the darker a pixel, the more probable a boundary."""

    def scores_of(logits: Any) -> Any:
        return jax.nn.sigmoid(logits[0] if isinstance(logits, tuple) else logits)

    rows = []
    for file, name, note, image, scores in outputs_at_own_size(trained, given, scores_of):
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


class Edges(Task):
    """The edges between the things in an image, learned from maps of their classes."""

    name = "edges"
    about = "the boundaries between things"
    kind = "segmentation"
    defaults = Recipe(data="camvid", batch_size=4, epochs=16)
    metric = Primary("f", True)

    def load(self, recipe: Recipe, split: str) -> Data:
        found = super().load(recipe, split)
        return dataclasses.replace(found, labels=boundaries.between(found.labels), classes=())

    def model_options(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        return {"norm": True}  # without it, a VGG-16 hardly learns from random weights

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        return self.chosen(
            recipe,
            Objective(
                every_output(boundaries.class_balanced_cross_entropy),
                metrics={"boundaries": boundaries.boundary_f()},
                augment=flip,
            ),
        )

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        return _predict(trained, given, out)


TASK = Edges()
