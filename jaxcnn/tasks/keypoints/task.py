"""The positions of points in an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.data.images import read_image
from jaxcnn.format import printable
from jaxcnn.inspect.plots import plain
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.files import stems, write_figure
from jaxcnn.tasks.keypoints.objective import distance, squared_distance, within
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Facts, Row, Task


class Keypoints(Task):
    """The positions of points in an image, by the squared distance in pixels."""

    name = "keypoints"
    about = "the positions of points"
    kind = "keypoints"
    defaults = Recipe(data="digit-corners", batch_size=64, epochs=30)
    metric = Primary("distance", False)

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        return self.chosen(
            recipe,
            Objective(squared_distance, metrics={"distance": distance, "within_1": within(1), "within_2": within(2)}),
        )

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        """Writes `NAME-points.png` for each image, with the points; the rows have (x, y) in pixels of the file."""
        height, width, channels = trained.config["inputs"][0]
        rows: list[Row] = []
        for name, file in zip(stems(given), given, strict=True):
            whole = read_image(file, channels)
            found = np.asarray(trained.outputs(read_image(file, channels, (height, width))[None]))[0]
            points = found * [whole.shape[1] / width, whole.shape[0] / height]
            picture = out / f"{name}-points.png"
            write_figure(picture, draw(whole, points, trained.classes))
            places = {c: [round(float(v), 2) for v in p] for c, p in zip(trained.classes, points, strict=True)}
            text = ", ".join(f"{printable(c)} ({x:.1f}, {y:.1f})" for c, (x, y) in places.items())
            rows.append({
                "image": str(file), "points": places, "picture": str(picture),
                "text": f"{printable(file)}: {text} -> {printable(picture)}",
            })  # fmt: skip
        return rows


def draw(image: np.ndarray, points: np.ndarray, names: Sequence[str]) -> Figure:
    """An image `(H, W, C)` with named points `(P, 2)` in it, (x, y) in pixels."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    height, width, channels = image.shape
    shown = image[..., 0] if channels == 1 else image
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    for k, ((x, y), name) in enumerate(zip(points, names, strict=True)):
        axes.plot(x, y, "o", color=f"C{k}", markersize=7, label=plain(name), clip_on=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


TASK = Keypoints()
