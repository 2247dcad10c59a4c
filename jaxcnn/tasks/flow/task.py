"""Where each pixel of an image is in a second one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.images import read_image
from jaxcnn.data.preprocess import inputs_of
from jaxcnn.data.splits import parse_split
from jaxcnn.errors import UserError
from jaxcnn.format import printable
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.files import stems, write_image
from jaxcnn.tasks.flow import objective as flow
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data, Facts, Row, Task

_SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


def _predict(trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
    """Writes `NAME-flow.png`, in Middlebury's colours, and `NAME.flo` for each pair; NAME is the first image's."""
    if not given or len(given) % 2:
        raise UserError(f"flow is between two images: expected pairs of files, FIRST SECOND ..., got {len(given)}")

    @jax.jit
    def flow_of(params: Any, images: Any) -> Any:
        return trained.model.apply(params, trained.model_state, *inputs_of(trained.preprocess, images))[0]

    rows = []
    for name, file, other in zip(stems(given[::2]), given[::2], given[1::2], strict=True):
        first, second = read_image(file, 3), read_image(other, 3)
        if first.shape != second.shape:
            sizes = " and ".join(f"{image.shape[0]}x{image.shape[1]}" for image in (first, second))
            raise UserError(f"{file} and {other} should be of one size, they are {sizes}")
        found = np.asarray(flow_of(trained.params, (first[None], second[None])))[0]
        length = np.hypot(found[..., 0], found[..., 1])
        drawn, numbers = out / f"{name}-flow.png", out / f"{name}.flo"
        write_image(drawn, flow.picture(found))
        flow.write_flo(numbers, found)
        mean = found.mean((0, 1))
        rows.append({
            "first": str(file),
            "second": str(other),
            "size": list(found.shape[:2]),
            "mean": [round(float(v), 4) for v in mean],
            "mean_length": round(float(length.mean()), 4),
            "largest": round(float(length.max()), 4),
            "picture": str(drawn),
            "flow": str(numbers),
            "text": f"{printable(file)} to {printable(other)}: {length.mean():.2f} pixels on average, at most "
                    f"{length.max():.2f}; together "
                    f"({mean[0]:+.2f}, {mean[1]:+.2f}) -> {printable(drawn)}, {printable(numbers.name)}",
        })  # fmt: skip
    return rows


class Flow(Task):
    """The optical flow between two images, learned from frames that are moved by a random smooth flow."""

    name = "flow"
    about = "the optical flow between two images"
    kind = "segmentation"
    unit = "image pairs"
    defaults = Recipe(data="camvid", batch_size=8, epochs=40)
    metric = Primary("end_point_error", False)

    def load(self, recipe: Recipe, split: str) -> Data:
        frames = super().load(recipe, split)
        return flow.moved_windows(frames.inputs, seed=_SEEDS[parse_split(split)[0]], name=frames.name)

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        return self.chosen(
            recipe,
            Objective(flow.multi_scale(), metrics={"end_point_error": flow.end_point_error}, augment=flow.moving()),
        )

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        return _predict(trained, given, out)


TASK = Flow()
