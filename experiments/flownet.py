"""Optical flow on real frames warped by known flows: FlowNetS, zero flow and Farneback's method."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, save, table
from jaxcnn import flow
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.inspect.plots import Figure
from jaxcnn.models.flownet import flownet_c, flownet_s

_GREY = np.array([0.299, 0.587, 0.114])


def flownet(
    data_dir: Path | None = None, examples: int | None = None, window: tuple[int, int] = (128, 128),
    largest: float = 8.0, width: int = 16, epochs: int = 40, batch_size: int = 8, lr: float = 1e-3,
    correlation: bool = False, seed: int = 0, picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains FlowNetS on windows of CamVid's training frames and evaluates it on windows of the test frames.

    Each pair is a real frame and the same frame warped by a smooth random flow. Each step draws new flows; the test
    flows have a separate seed.

    Args:
      data_dir: where the folder camvid lies.
      examples: number of frames of each split; all when not given.
      window: height and width of the windows cropped from the frames.
      largest: the largest displacement in pixels.
      width: filters of the first convolution; the paper's network has 64.
      epochs: passes over the training windows.
      batch_size: pairs a step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      correlation: also train FlowNetC.
      seed: of weights, order and flows.
      picture: file for some test pairs with their flows drawn in colour.
      full: width 64 and 600 epochs, both networks (needs an accelerator).
    """
    if full:
        width, epochs, correlation = 64, 600, True
    train, test = (
        flow.moved_windows(
            load_segmentation("camvid", split, data_dir).take(slice(examples)).inputs, window,
            seed=first, largest=largest, name=f"CamVid {split}, moved",
        )
        for split, first in (("train", seed), ("test", seed + 1_000_000))
    )  # fmt: skip
    rows, drawn = [], {}
    for name, method in _methods().items():
        began = time.monotonic()
        found = method(test)
        rows.append(_row(name, found, test.labels, 0, time.monotonic() - began))
        drawn[name] = found
    networks = {"FlowNetS": flownet_s(width=width)}
    if correlation:
        networks["FlowNetC"] = flownet_c(width=width, displacement=4, stride=1)  # 32 pixels, for small motions
    for name, model in networks.items():
        steps = epochs * (len(train) // min(batch_size, len(train)))
        fitted = cnn.train.fit(
            model,
            train,
            cnn.train.Objective(
                flow.multi_scale(),
                metrics={"end_point_error": flow.end_point_error},
                augment=flow.moving(largest),
                preprocess=cnn.data.to_float,
            ),
            test=test,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps),
            show=False,
        )
        assert fitted.test is not None
        drawn[name] = fitted.test.outputs
        rows.append(_row(name, drawn[name], test.labels, fitted.result["params"], fitted.result["seconds"]))
    print(f"\nCamVid, windows of {window[0]}x{window[1]}, motions up to {largest:g} pixels, {len(train)} training "
          f"windows, {len(test)} test windows, {epochs} epochs, width {width} ({machine()})")  # fmt: skip
    print(table(["flow", "end-point error", "of no motion's", "parameters", "seconds"], rows))
    if picture is not None:
        _draw(picture, test, drawn)


def _methods() -> dict[str, Callable[[Any], np.ndarray]]:
    """The methods without learning: zero flow and, with OpenCV, Farneback's."""
    methods: dict[str, Callable[[Any], np.ndarray]] = {"no motion": lambda data: np.zeros_like(data.labels)}
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: no row for Farneback's method (pip install opencv-python-headless)")
        return methods

    def farneback(data: Any) -> np.ndarray:
        """Farneback, Two-frame motion estimation based on polynomial expansion (2003), with OpenCV's usual settings."""
        pairs = zip(*[(images @ _GREY).round().astype(np.uint8) for images in data.inputs], strict=True)
        found = [
            cv2.calcOpticalFlowFarneback(a, b, np.zeros((*a.shape, 2)), 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairs
        ]
        return np.stack(found)

    return {**methods, "Farneback (OpenCV)": farneback}


def _row(name: str, found: np.ndarray, labels: np.ndarray, params: int, seconds: float) -> list[str]:
    error, still = (float(flow.end_point_error(f, jnp.asarray(labels)).mean()) for f in (found, 0 * found))
    row = [name, f"{error:.3f}", f"{error / still:.2f}", f"{params:,}", f"{seconds:.0f}"]
    print("  ".join(row), flush=True)
    return row


def _draw(path: Path, test: Any, drawn: dict[str, np.ndarray]) -> None:
    """Draws four test pairs, the true flow, each method's flow and the colour wheel."""
    index = np.linspace(0, len(test) - 1, min(4, len(test))).astype(int)
    some = test.take(index)
    methods = {name: found[index] for name, found in drawn.items() if name != "no motion"}
    columns = ["first image", "second image", "true flow", *methods]
    figure = Figure(figsize=(1.9 * len(columns) + 1.3, 1.9 * len(some) + 0.3), layout="constrained")
    grid = figure.subplots(len(some), len(columns), squeeze=False)
    for row, axes_row in enumerate(grid):
        true = some.labels[row]
        longest = float(np.nanmax(np.hypot(true[..., 0], true[..., 1])))
        flows = [true, *[found[row] for found in methods.values()]]
        pictures = [*[images[row] for images in some.inputs], *[flow.picture(f, longest) for f in flows]]
        for axes, shown, title in zip(axes_row, pictures, columns, strict=True):
            axes.imshow(shown)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(title, fontsize=10)
            if title in methods:
                error = float(flow.end_point_error(methods[title][row][None], jnp.asarray(true[None]))[0])
                axes.set_xlabel(f"{error:.2f} pixels off", fontsize=8)
        axes_row[2].set_xlabel(f"up to {longest:.1f} pixels", fontsize=8)
    legend = grid[0, -1].inset_axes((1.12, 0.1, 0.8, 0.8))
    legend.imshow(flow.wheel(128))
    legend.set_axis_off()
    legend.set_title("direction,\nlength", fontsize=8)
    note = "dark: longer\nthan the truth\nblack: leaves\nthe image"
    legend.text(0.5, -0.08, note, transform=legend.transAxes, ha="center", va="top", fontsize=7)
    save(figure, path, 120)


if __name__ == "__main__":
    main(flownet)
