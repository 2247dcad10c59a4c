"""Draws an image, a trained network's feature maps and the class probabilities, as in the README."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import jaxcnn as cnn
from experiments.common import main
from jaxcnn.errors import UserError
from jaxcnn.inspect.plots import Figure, plain


def picture(
    run: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    example: int = 0,
    data_dir: Path | None = None,
) -> None:
    """Draws the feature maps and the probabilities for one test image.

    Args:
      run: the folder of a run.
      out: the PNG file to write.
      example: index of the test image.
      data_dir: the folder of prepared datasets.
    """
    trained = cnn.train.Trained.load(run)
    data = cnn.data.load(trained.config["data"], "test", data_dir)
    if not 0 <= example < len(data):
        raise UserError(f"example {example}: there are {len(data)} test images, 0 to {len(data) - 1}")
    image = data.images[example : example + 1]
    seen = cnn.inspect.activations(trained.model, trained.params, trained.model_state, trained.preprocess(image))
    maps = {name: np.asarray(x[0]) for name, x in seen.items() if x.ndim == 4}
    # Maps after an activation or a pool, which are the next layer's inputs.
    shown = {n: m for n, m in maps.items() if not n.split("/")[-1].startswith("conv")}
    draw(image[0], shown, trained.probabilities(image)[0], trained.classes).savefig(out, dpi=110)
    print(f"{out}: example {example}, a {data.classes[data.labels[example]]}")


def draw(image: np.ndarray, maps: dict[str, np.ndarray], probabilities: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draws the image on the left, a block of maps for each layer, and bars of probabilities on the right."""
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    grid: Any = figure.subfigures(1, len(maps) + 2, width_ratios=[1.1, *[1.5] * len(maps), 1.1])
    columns = list(grid)
    axes = columns[0].subplots()
    axes.imshow(image.squeeze(), cmap="gray")
    axes.axis("off")
    columns[0].suptitle(f"{image.shape[0]}x{image.shape[1]}", fontsize=9)
    for column, (name, layer) in zip(columns[1:-1], maps.items(), strict=True):
        count = layer.shape[-1]
        side = int(np.ceil(np.sqrt(count)))
        rows = -(-count // side)
        top = np.abs(layer).max()
        for i, axes in enumerate(column.subplots(rows, side, squeeze=False).ravel()):
            axes.axis("off")
            if i < count:
                axes.imshow(layer[..., i], cmap="RdBu_r", vmin=-top, vmax=top)
        column.suptitle(f"{name}  {'x'.join(map(str, layer.shape))}", fontsize=9)
    axes = columns[-1].subplots()
    best = probabilities.argmax()
    colors = ["#d9822b" if i == best else "#9db4d3" for i in range(len(classes))]
    axes.barh(range(len(classes)), probabilities, color=colors)
    axes.set_yticks(range(len(classes)), [plain(name, 40) for name in classes], fontsize=8)
    axes.set(xlim=(0, 1), xticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    columns[-1].suptitle(f"{plain(classes[best], 40)}: {100 * probabilities[best]:.1f} %", fontsize=9)
    return figure


if __name__ == "__main__":
    main(picture)
