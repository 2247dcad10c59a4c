"""Reads the image files to predict, at their size; names and writes the output files."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jaxcnn.atomic import put
from jaxcnn.data.images import read_image
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.runs.trained import TrainedModel

_LONGEST = 200  # bytes of a name; file systems allow 255
_LARGEST = 1500  # pixels of a side; the scores for a photo of 12 million pixels would take gigabytes


def stems(given: Sequence[str]) -> list[str]:
    """The name of each file without folder and extension; repeated names get a number at the end.

    Long names are cut, to leave room for an ending such as `-boundaries.png`.
    """
    names: list[str] = []
    for file in given:
        stem = os.fsdecode(os.fsencode(Path(file).stem)[:_LONGEST])
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def read(trained: TrainedModel, file: str) -> tuple[np.ndarray, Callable[[Any], Any], str]:
    """Reads an image for a network that takes any size: `(H, W, C)` uint8, its preprocessing, and a note on its size.

    The image keeps its size, unless a side is longer than 1500 pixels; the note says whether it was shrunk.
    """
    image = read_image(file, trained.image[-1])
    whole = image.shape[:2]
    note = ""
    if max(whole) > _LARGEST:
        size = (max(1, round(whole[0] * _LARGEST / max(whole))), max(1, round(whole[1] * _LARGEST / max(whole))))
        image = read_image(file, image.shape[-1], size)
        note = f" (shrunk from {whole[0]}x{whole[1]} to {size[0]}x{size[1]})"
    preprocess = trained.preprocess
    if isinstance(preprocess, Preprocess):
        preprocess = dataclasses.replace(preprocess, size=image.shape[:2], resize=())
    return image, preprocess, note


def outputs_at_own_size(
    trained: TrainedModel, given: Sequence[str], finish: Callable[[Any], Any]
) -> Iterator[tuple[str, str, str, np.ndarray, Any]]:
    """Runs a network that takes any size on image files, one at a time; each file keeps its size (see `read`).

    Args:
      finish: computed from the network's outputs, in the same compiled program.

    Yields:
      The file, its name for output files (`stems`), the note on its size, the image, and `finish(outputs)` for it
      (a batch of one).
    """

    @functools.partial(jax.jit, static_argnums=2)
    def run(params: Any, images: Any, preprocess: Any) -> Any:
        return finish(trained.model.apply(params, trained.model_state, preprocess(images))[0])

    for file, name in zip(given, stems(given), strict=True):
        image, preprocess, note = read(trained, file)
        yield file, name, note, image, run(trained.params, image[None], preprocess)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a Matplotlib figure as a PNG file of 120 dots per inch, completely or not at all."""
    put(path, functools.partial(figure.savefig, format="png", dpi=120))


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 pixels `(H, W)` or `(H, W, C)` as a PNG file, completely or not at all.

    Raises:
      UserError: if it cannot be written.
    """
    put(path, functools.partial(Image.fromarray(pixels).save, format="png"))
