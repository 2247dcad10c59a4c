"""A class for each pixel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.augment import colour, compose
from jaxcnn.format import printable
from jaxcnn.losses import every_output
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.files import outputs_at_own_size, write_figure, write_image
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.segmentation import objective as segmentation
from jaxcnn.tasks.task import Data, Facts, Row, Task


def _predict(trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
    """Writes `NAME-mask.png`, coloured classes next to the image, and `NAME-labels.png`, class numbers, for each."""
    rows = []
    for file, name, note, image, found in outputs_at_own_size(trained, given, lambda logits: logits.argmax(-1)):
        labels = np.asarray(found)[0]
        picture, numbers = out / f"{name}-mask.png", out / f"{name}-labels.png"
        masks = {"image": image[None], "classes": labels[None]}
        drawn = segmentation.figure(masks, trained.classes, image[None], 0.6)
        write_figure(picture, drawn)
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


class Segmentation(Task):
    """A class for each pixel; classes are weighted by the square root of median frequency balancing."""

    name = "segmentation"
    about = "a class for each pixel"
    kind = "segmentation"
    defaults = Recipe(data="camvid", batch_size=8, epochs=30)
    metric = Primary("mean_iou", True)

    def facts(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        weights = segmentation.median_frequency(train.labels, len(train.classes), 0.5)
        return {**super().facts(recipe, train), "class_weights": [float(weight) for weight in weights]}

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        weights = np.array(facts["class_weights"], np.float32)
        augment = compose(segmentation.flip, segmentation.scaled_crop(), colour(0.2, 0.2, 0.2))
        return self.chosen(
            recipe,
            Objective(
                every_output(functools.partial(segmentation.cross_entropy, weights=weights), 0.5),  # auxiliary heads
                metrics=segmentation.measures(),
                augment=augment,
                test_metrics=segmentation.measures(facts["classes"]),
            ),
        )

    def recorded(self, config: Mapping[str, Any]) -> Facts:
        facts = super().recorded(config)
        if "class_weights" in facts:
            return facts
        recipe = Recipe.of(config)  # a run of an earlier version: the weights are computed again
        return {**facts, **self.facts(recipe, self.load(recipe, "train"))}

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        return _predict(trained, given, out)


TASK = Segmentation()
