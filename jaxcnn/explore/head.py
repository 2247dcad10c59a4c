"""Heads: how the page shows a network's output. Bars with names, and a picture where there is an output for each pixel.

The shape of the output decides which head it is. A pixel may be chosen: the bars are then those of this pixel, and
overlays explain it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.inspect.unit import Unit
from jaxcnn.tasks.edges import objective as boundaries
from jaxcnn.tasks.segmentation import objective as segmentation

Pixel = tuple[int, int]
VOID = 255
"""The byte of a pixel that has no label."""


class Head:
    """How the page shows a network's output `(1, ...)`; the methods take it without the 1.

    Attributes:
      kind: "class", "pixels" or "score".
      names: of the bars.
      size: (height, width) of the picture; None for none.
      palette: the colour of each byte of it, `(256, 3)`, uint8.
      probability: the function that makes probabilities of outputs, as in `inspect.occlusion`; None for its default.
    """

    kind: str
    names: tuple[str, ...]
    size: tuple[int, int] | None = None
    palette: np.ndarray | None = None
    probability: Callable[[Any], Any] | None = None

    def bars(self, output: np.ndarray, pixel: Pixel | None) -> np.ndarray:
        """A number from 0 to 1 for each name."""
        raise NotImplementedError

    def picture(self, output: np.ndarray) -> np.ndarray | None:
        """A byte for each pixel; None for an output of the whole image."""
        return None

    def labelled(self, label: Any) -> np.ndarray | None:
        """The correct picture, by an example's label; None where there is none."""
        return None

    def unit(self, output: np.ndarray, name: int, pixel: Pixel | None) -> Unit:
        """The unit of the output that overlays explain: a name's, at the pixel or where it is largest."""
        raise NotImplementedError


def of(shape: tuple[int, ...] | None, classes: Sequence[str]) -> Head:
    """The head of a network whose output for one image has this shape, `(1, ...)`; None for several outputs.

    Raises:
      UserError: for an output of another form.
    """
    classes = tuple(classes)
    if shape == (1, len(classes)):
        return Class(classes)
    if shape is not None and len(shape) == 4 and shape[-1] == len(classes) > 1:
        return Pixels(classes, shape[1:3])
    if shape is not None and (len(shape) == 3 or (len(shape) == 4 and shape[-1] == 1)) and len(classes) < 2:
        return Score(classes or ("boundary",), shape[1:3])
    raise UserError(
        f"explore looks into networks that give one number for each class, of an image or of each of its pixels: "
        f"expected an output (1, {len(classes)}) or (1, height, width, {len(classes)}) for one image, got {shape}"
    )


class Class(Head):
    """Logits `(classes,)`: the class of the image."""

    kind = "class"

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def bars(self, output: np.ndarray, pixel: Pixel | None) -> np.ndarray:
        return np.asarray(jax.nn.softmax(output))

    def unit(self, output: np.ndarray, name: int, pixel: Pixel | None) -> Unit:
        return name


class Pixels(Head):
    """Logits `(H, W, classes)`: the class of each pixel. Without a pixel, a bar is the class's share of the pixels."""

    kind, size = "pixels", (0, 0)

    def __init__(self, names: tuple[str, ...], size: tuple[int, int]):
        if len(names) > VOID:
            raise UserError(f"explore shows up to {VOID} classes of pixels, the network has {len(names)}")
        self.names, self.size = names, size
        colours = segmentation.palette(names)
        self.palette = np.zeros((256, 3), np.uint8)
        self.palette[: len(colours)] = colours

    def bars(self, output: np.ndarray, pixel: Pixel | None) -> np.ndarray:
        if pixel is not None:
            return np.asarray(jax.nn.softmax(output[pixel]))
        return np.bincount(self.picture(output).ravel(), minlength=len(self.names)) / math.prod(self.size)

    def picture(self, output: np.ndarray) -> np.ndarray:
        return output.argmax(-1).astype(np.uint8)

    def labelled(self, label: Any) -> np.ndarray | None:
        return np.where(label < 0, VOID, label).astype(np.uint8) if np.shape(label) == self.size else None

    def unit(self, output: np.ndarray, name: int, pixel: Pixel | None) -> Unit:
        if pixel is None:
            pixel = _largest(np.asarray(jax.nn.softmax(output))[..., name])
        return (*pixel, name)


class Score(Head):
    """Logits `(H, W)` or `(H, W, 1)`: yes or no for each pixel. Without a pixel, the bar is the share of yes."""

    kind, size = "score", (0, 0)

    def __init__(self, names: tuple[str, ...], size: tuple[int, int]):
        self.names, self.size = names, size
        self.palette = np.repeat(boundaries.picture(np.arange(256)[None] / (VOID - 1))[0][:, None], 3, 1)
        self.palette[VOID] = 112, 128, 160
        self.probability = jax.nn.sigmoid

    def bars(self, output: np.ndarray, pixel: Pixel | None) -> np.ndarray:
        p = np.asarray(jax.nn.sigmoid(output)).reshape(self.size)
        return np.array([(p >= 0.5).mean() if pixel is None else p[pixel]])

    def picture(self, output: np.ndarray) -> np.ndarray:
        return np.rint((VOID - 1) * np.asarray(jax.nn.sigmoid(output)).reshape(self.size)).astype(np.uint8)

    def labelled(self, label: Any) -> np.ndarray | None:
        if np.shape(label) != self.size:
            return None
        return np.where(label < 0, VOID, np.where(label > 0, VOID - 1, 0)).astype(np.uint8)

    def unit(self, output: np.ndarray, name: int, pixel: Pixel | None) -> Unit:
        pixel = _largest(output.reshape(self.size)) if pixel is None else pixel
        return (*pixel, *(0 for _ in output.shape[2:]))


def _largest(values: np.ndarray) -> Pixel:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)
