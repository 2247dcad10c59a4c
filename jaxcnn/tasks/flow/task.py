"""Where each pixel of an image is in a second one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.data.images import read_image
from jaxcnn.data.preprocess import inputs_of
from jaxcnn.errors import UserError
from jaxcnn.format import printable
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks.files import stems, write_image
from jaxcnn.tasks.flow import objective as flow
from jaxcnn.tasks.task import Row, Task

_SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


def _load(name: str, split: str, data_dir: Path | None, size: tuple[int, int] | None) -> Examples:
    """The frames, each with the same frame moved by a random smooth flow."""
    frames = load_segmentation(name, split, data_dir, size)
    return flow.moved_windows(frames.inputs, seed=_SEEDS[split], name=frames.name)


def _settings(data: Examples) -> Mapping[str, Any]:
    return {
        "loss": flow.multi_scale(),
        "metrics": {"end_point_error": flow.end_point_error},
        "augment": flow.moving(),
    }


def _predict(trained: Trained, given: Sequence[str], out: Path) -> list[Row]:
    """For each pair of images `NAME-flow.png`, in Middlebury's colours, and `NAME.flo`, NAME being the first's."""
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


TASK = Task(
    name="flow",
    about="the optical flow between two images",
    data="camvid",
    load=_load,
    settings=_settings,
    predict=_predict,
    figure="end_point_error",
    better="low",
    validation=True,
    what="pairs of images",
    batch_size=8,
    epochs=40,
)
"""Optical flow: networks that give `(N, H, W, 2)` for two images, as `flownet_s` does."""
