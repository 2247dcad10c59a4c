"""A box and a class for each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.augment import compose
from jaxcnn.data.dataset import Examples
from jaxcnn.data.images import read_image
from jaxcnn.data.proposals import cache_folder, selective_search, with_regions
from jaxcnn.format import printable
from jaxcnn.ops.boxes import area
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.detection import objective as detection
from jaxcnn.tasks.files import stems, write_image
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data, Facts, Row, Task

_REGIONS = 800
_SURE = 0.5  # the lowest probability of a drawn object


def _evaluate(trained: TrainedModel, data: Examples) -> Mapping[str, float]:
    """The mean average precision, and the average precision of each class."""
    detect = detection.make_detect(trained.model, trained.preprocess)
    found = detect(trained.params, trained.model_state, data)
    return detection.mean_average_precision(found, data.labels, trained.classes)


def _predict(trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
    """Writes `NAME-boxes.png` for each image. Images are resized to the size of the training images."""
    detect = detection.make_detect(trained.model, trained.preprocess, batch_size=1)
    height, width, channels = trained.config["inputs"][0]
    rows = []
    for name, file in zip(stems(given), given, strict=True):
        whole = read_image(file, channels)
        image = whole if whole.shape[:2] == (height, width) else read_image(file, channels, (height, width))
        regions = selective_search(image[None], most=_REGIONS)
        asked = with_regions(Examples(image[None], np.zeros(1)), regions)
        boxes, scores, classes = (array[0] for array in detect(trained.params, trained.model_state, asked))
        sure = scores >= _SURE
        scale = np.tile([whole.shape[1] / width, whole.shape[0] / height], 2)
        boxes, scores, classes = boxes[sure] * scale, scores[sure], classes[sure]
        picture = out / f"{name}-boxes.png"
        zoom = max(1, round(640 / whole.shape[1]))
        drawn = detection.draw_boxes(whole, boxes, classes, trained.classes, scores, zoom)
        write_image(picture, drawn)
        found = [
            {"class": trained.classes[k], "score": round(float(s), 4), "box": [round(float(v), 1) for v in b]}
            for k, s, b in zip(classes, scores, boxes, strict=True)
        ]
        counts = ", ".join(
            f"{n} {trained.classes[k]}" for k, n in zip(*np.unique(classes, return_counts=True), strict=True)
        )
        searched = int((np.asarray(area(regions[0])) > 0).sum())
        rows.append({
            "image": str(file),
            "objects": found,
            "picture": str(picture),
            "text": f"{printable(file)}: {printable(counts or 'nothing')} (of {searched} regions) -> "
                    f"{printable(picture)}",
        })  # fmt: skip
    return rows


class Detection(Task):
    """A box and a class for each object, among regions that selective search proposes."""

    name = "detection"
    about = "a box and a class for each object"
    kind = "boxes"
    defaults = Recipe(data="bccd", batch_size=2, epochs=14)
    metric = Primary("map", True)
    chooses = False  # it needs the detections in all images of a dataset

    def load(self, recipe: Recipe, split: str) -> Data:
        found = super().load(recipe, split)
        return with_regions(found, selective_search(found.inputs, most=_REGIONS, cache=cache_folder()))

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        augment = compose(detection.flip_boxes(), detection.sample_regions(positive=0.4, background=(0.0, 0.5)))
        return self.chosen(recipe, Objective(detection.multi_task(), metrics={}, augment=augment, evaluate=_evaluate))

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        return _predict(trained, given, out)


TASK = Detection()
