"""The examples as points: the outputs of one layer, seen along their two first principal components.

The images are computed one after the other, as they are asked for. The components come from the products of all pairs
of outputs: a matrix with a row for each image, however large the layer is.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np

from jaxcnn.explore.maps import reduced
from jaxcnn.explore.network import Network
from jaxcnn.explore.target import Data

MOST_IMAGES = 500
MOST_NUMBERS = 16_384  # of one output: maps of more are averaged first


def components(products: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Principal component analysis by the products of the examples.

    With `X` the centred examples and `X X' = U L U'`, the coordinates along the first two components are the first two
    columns of `U sqrt(L)`. The largest coordinate of each is positive, so that the picture does not depend on the sign.

    Args:
      products: `(n, n)`, the inner product of each example with each, before centring; n at least 1.

    Returns:
      The coordinates `(n, 2)`, and the share of the variance along each of the two, from 0 to 1.

    Source: Gower, "Some distance properties of latent root and vector methods used in multivariate analysis",
    Biometrika, 1966.
    """
    means = products.mean(0)
    centred = products - means - means[:, None] + products.mean()
    values, vectors = np.linalg.eigh(centred)
    largest = np.maximum(values[::-1][:2], 0)
    found = np.zeros((len(products), 2))
    found[:, : len(largest)] = vectors[:, ::-1][:, :2] * np.sqrt(largest)
    at = np.abs(found).argmax(0)
    found *= np.where(found[at, [0, 1]] < 0, -1, 1)
    total = max(float(np.trace(centred)), 1e-30)
    first, second = (float(value) / total for value in (*largest, 0.0)[:2])
    return found, (first, second)


class Points:
    """The points of the examples, for one layer at a time.

    Attributes:
      layer: whose outputs they are.
    """

    def __init__(self, network: Network, data: Data):
        self.network, self.data = network, data
        self.total = min(len(data), MOST_IMAGES)
        self.layer = ""
        self._lock = threading.Lock()
        self._done, self._by = 0, 1
        self._rows: list[np.ndarray] = []
        self._products = np.zeros((0, 0))
        self._said: list[tuple[int, float]] = []

    def more(self, layer: str, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
        """Computes further images for some time, at least one, and returns the points of all that are done.

        Args:
          layer: the name of a layer.
          seconds: after which it stops; the next call continues from there.

        Returns:
          A record: how many of the `total` are `done`; the share of the `variance` along each axis; by how much maps
          were `reduced`; and of each image its label, the class that the network `said`, and how `sure` it was, from 0
          to 1. And the points, `(done, 2)`, float32.

        Raises:
          UserError: when the layer has no output to show.
        """
        with self._lock:
            if layer != self.layer:
                self._start(layer)
            begun, new = time.perf_counter(), self._done
            while new < self.total:
                self._add(new)
                new += 1
                if time.perf_counter() - begun > seconds:
                    break
            self._multiply(new)
            found, variance = components(self._products[:new, :new])
            record = {
                "layer": layer,
                "done": new,
                "total": self.total,
                "variance": list(variance),
                "reduced": self._by,
                "labels": np.asarray(self.data.labels[:new]).tolist(),
                "said": [name for name, _ in self._said[:new]],
                "sure": [share for _, share in self._said[:new]],
            }
            return record, found.astype(np.float32)

    def _start(self, layer: str) -> None:
        shape = self.network.at_layer(self.data.inputs[0], layer)[0].shape
        self._by = 1
        if len(shape) == 3:
            height, width, channels = shape
            while math.ceil(height / self._by) * math.ceil(width / self._by) * channels > MOST_NUMBERS and (
                self._by < max(height, width)
            ):
                self._by += 1
        self.layer, self._done, self._rows = layer, 0, []
        self._products = np.zeros((self.total, self.total))

    def _add(self, index: int) -> None:
        """The output of the layer for an example, and, the first time, what the network says of it."""
        found, output = self.network.at_layer(self.data.inputs[index], self.layer)
        if self._by > 1:
            found = np.moveaxis(reduced(np.moveaxis(found, -1, 0), self._by), 0, -1)
        self._rows.append(np.nan_to_num(found.ravel().astype(np.float64), posinf=0.0, neginf=0.0))
        if index == len(self._said):
            bars = self.network.target.head.bars(output, None)
            self._said.append((int(bars.argmax()), float(bars.max())))

    def _multiply(self, new: int) -> None:
        """The products of the examples that came with all of them. The first is subtracted, against cancellation."""
        if new == self._done:
            return
        rows = np.stack(self._rows) - self._rows[0]
        part = rows[self._done : new] @ rows.T
        self._products[self._done : new, :new] = part
        self._products[:new, self._done : new] = part.T
        self._done = new
