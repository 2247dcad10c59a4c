"""Edges between CamVid's classes: HED, trained from random weights, and Sobel's filter, by the same metric."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, save, table
from jaxcnn import boundaries
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.inspect.plots import Figure
from jaxcnn.models.hed import hed
from jaxcnn.tasks.segmentation.objective import flip

_FINE = boundaries.spaced(999)  # thresholds for Sobel's filter: most of its values are small
_FEW = {"Sobel": np.arange(1, 25) / 100, "HED": boundaries.spaced(19)}  # for the slow one-to-one matching


def hed_camvid(
    data_dir: Path | None = None, examples: int | None = None, size: tuple[int, int] | None = None, width: int = 16,
    epochs: int = 16, batch_size: int = 4, lr: float = 2e-3, distance: float | None = None, seed: int = 0,
    picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains HED on CamVid's training split and evaluates it and Sobel's filter on the test split.

    The metric is F at the best threshold, computed in two ways: a pixel may match any close enough pixel, or each pixel
    matches at most one, as in the BSDS benchmark.

    True edges separate two of the 11 classes; edges to void are ignored. Sobel's filter uses the smoothing that is best
    on the training images.

    Args:
      data_dir: where the folder camvid lies.
      examples: number of images of each split; all when not given.
      size: height and width to which the images are resized; the original size when not given.
      width: filters of HED's first stage; the paper's network has 64.
      epochs: passes over the training images, which are mirrored at random.
      batch_size: images a step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      distance: the largest error of an edge's position, in pixels; 0.0075 of the diagonal when not given.
      seed: of weights and order.
      picture: file for some test images with the edges of HED and Sobel's filter.
      full: width 64 and 60 epochs (needs an accelerator).
    """
    if full:
        width, epochs = 64, 60
    train, val, test = (_boundaries(split, data_dir, examples, size) for split in ("train", "validation", "test"))
    rows = []
    smoothings = (0.0, 1.0, 2.0)
    figures = {s: _sobel(train.take(slice(100)), s, distance) for s in smoothings}
    best = max(smoothings, key=lambda s: figures[s]["f"])
    for sigma in sorted({0.0, best}):
        began = time.monotonic()
        name = f"Sobel, smoothed by {sigma:g} pixels" if sigma else "Sobel"
        found = _sobel(test, sigma, distance)
        scores = jax.jit(boundaries.sobel, static_argnums=1)(test.inputs, sigma)
        alone = _one_to_one(scores, test.labels, distance, _FEW["Sobel"])
        rows.append(_row(name, found, alone, 0, time.monotonic() - began))

    fitted = cnn.train.fit(
        hed(width=width, norm=True),
        train,
        cnn.train.Objective(
            cnn.losses.every_output(boundaries.class_balanced_cross_entropy),
            metrics={"boundaries": boundaries.boundary_f(distance)},
            primary="f",
            higher_is_better=True,
            augment=flip,
        ),
        validation=val,
        test=test,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cnn.train.make_optimizer("adam", lr, "cosine", epochs * (len(train) // min(batch_size, len(train)))),
        seed=seed,
        show=False,
    )
    found = {name.removeprefix("test_"): value for name, value in fitted.result.items() if name.startswith("test_")}
    assert fitted.test is not None
    scores = jax.nn.sigmoid(fitted.test.outputs)
    alone = _one_to_one(scores, test.labels, distance, _FEW["HED"])
    rows.append(_row(f"HED, width {width}", found, alone, fitted.result["params"], fitted.result["seconds"]))
    off = distance if distance is not None else 0.0075 * float(np.hypot(*test.labels.shape[1:]))
    print(f"\nCamVid {test.labels.shape[1]}x{test.labels.shape[2]}, {len(train)} training images, {len(test)} "
          f"test images, {epochs} epochs, at most {off:.2f} pixels off ({machine()})")  # fmt: skip
    header = ["F", "precision", "recall", "one to one: F", "precision", "recall", "parameters", "seconds"]
    print(table(["boundaries", *header], rows))
    if picture is not None:
        _draw(picture, test, best, np.asarray(scores))


def _boundaries(split: str, data_dir: Path | None, examples: int | None, size: tuple[int, int] | None) -> Any:
    data = load_segmentation("camvid", split, data_dir, size).take(slice(examples))
    return cnn.data.Examples(data.inputs, boundaries.between(data.labels), name=f"CamVid {split}")


def _sobel(data: Any, sigma: float, distance: float | None) -> dict[str, float]:
    """Dataset-level F, precision and recall of Sobel's filter."""

    @jax.jit
    def counts(images: Any, labels: Any, weights: Any) -> Any:
        found = boundaries.matches(boundaries.sobel(images, sigma), labels, distance, _FINE)
        return jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), found)

    parts = [jax.tree.map(np.float64, counts(*batch)) for batch in cnn.data.padded_batches(data, 16)]
    total = jax.tree.map(lambda *each: np.sum(each, 0), *parts)
    return {name: float(value) for name, value in boundaries.best(total, _FINE).items()}


def _one_to_one(scores: Any, labels: np.ndarray, distance: float | None, thresholds: np.ndarray) -> dict[str, float]:
    """Dataset-level F, precision and recall with one-to-one matching, as in the BSDS benchmark."""
    counts = boundaries.one_to_one(np.asarray(scores), labels, distance, thresholds)
    total = jax.tree.map(lambda x: x.sum(0, dtype=np.float64), counts)
    return {name: float(value) for name, value in boundaries.best(total, thresholds).items()}


def _row(name: str, found: dict[str, float], alone: dict[str, float], params: int, seconds: float) -> list[str]:
    figures = [f"{each[key]:.3f}" for each in (found, alone) for key in ("f", "precision", "recall")]
    row = [name, *figures, f"{params:,}", f"{seconds:.0f}"]
    print("  ".join(row), flush=True)
    return row


def _draw(path: Path, test: Any, sigma: float, scores: np.ndarray) -> None:
    """Draws four test images with their true edges, Sobel's and HED's."""
    index = np.linspace(0, len(test) - 1, min(4, len(test))).astype(int)
    some = test.take(index)
    drawn = boundaries.sobel(some.inputs, sigma)
    columns = {
        "image": list(some.inputs),
        "edges of the labels\n(grey: ignored)": [boundaries.picture(y) for y in some.labels],
        "Sobel": [boundaries.picture(s / s.max()) for s in drawn],
        "HED": [boundaries.picture(p) for p in scores[index]],
    }
    height, width = some.labels.shape[1:]
    figure = Figure(figsize=(11, 11 / 4 * height / width * len(some) + 0.3), layout="constrained")
    for row, axes_row in enumerate(figure.subplots(len(some), 4, squeeze=False)):
        for axes, (title, pictures) in zip(axes_row, columns.items(), strict=True):
            axes.imshow(pictures[row], cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
    save(figure, path, 120)


if __name__ == "__main__":
    main(hed_camvid)
