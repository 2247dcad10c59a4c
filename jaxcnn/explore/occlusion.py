"""Occlusion in parts, for a page that shows what there is and asks again."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.inspect.program import program
from jaxcnn.inspect.saliency import link_of
from jaxcnn.inspect.summary import Summary
from jaxcnn.ops import fuse

_MACS = 4e11  # of one occlusion: some seconds on two cores
_BYTES = 256 << 20  # of the activations of one batch of it


class Occlusion:
    """`inspect.occlusion` of one image at a time, which continues where it stopped.

    Args:
      model, params, state: the network and its variables.
      shape: of the network's input, (height, width, channels).
      table: the network's summary.
      link: the function that makes probabilities of outputs; None for that of `inspect.occlusion`.
    """

    def __init__(
        self,
        model: Layer,
        params: Any,
        state: Any,
        shape: tuple[int, ...],
        table: Summary,
        link: Callable[[Any], Any] | None,
    ):
        self.model, self.params, self.state = model, params, state
        self.shape, self.table, self.link = shape, table, link
        self._covered: tuple[Any, np.ndarray, float] | None = None

    def more(
        self, number: int, given: Any, output: np.ndarray, unit: Any, seconds: float, effort: float
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Computes further places for some time: first a coarse grid over the whole image, then finer ones.

        Args:
          number, given, output: of the forward pass.
          unit: whose probability it is about.
          seconds: after which it stops.
          effort: below 1, the square is moved further, which takes less time.

        Returns:
          The probability that is lost where the square covers, `(h, w)`, and a record of the square and the places.
        """
        size, stride, batch = self._square(effort)
        index = int(np.ravel_multi_index(unit, output.shape)) if isinstance(unit, tuple) else unit
        key = number, index, stride
        rows, columns = (-(-(n - size) // stride) + 1 for n in self.shape[:2])
        if self._covered is None or self._covered[0] != key:
            nowhere = np.full((batch, 2), 1 << 20)
            whole = float(self._cover(given, nowhere, index, size)[0])
            self._covered = key, np.full((rows, columns), np.nan), whole
        _, known, whole = self._covered
        coarse = [min((i & -i) or 8, (j & -j) or 8, 8) for i, j in np.ndindex(known.shape)]
        order = [k for k in np.argsort([-c for c in coarse], kind="stable") if np.isnan(known.flat[k])]
        begun = time.perf_counter()
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            corners = np.resize(np.stack(np.divmod(chosen, columns), -1) * stride, (batch, 2))
            known.flat[chosen] = self._cover(given, corners, index, size)[: len(chosen)]
            if time.perf_counter() - begun > seconds:
                break
        total, count = np.zeros(self.shape[:2]), np.zeros(self.shape[:2])
        for i, j in np.argwhere(~np.isnan(known)):
            here = slice(i * stride, i * stride + size), slice(j * stride, j * stride + size)
            total[here] += whole - known[i, j]
            count[here] += 1
        about = {"square": size, "stride": stride, "whole": whole, "lowest": float(np.nanmin(known))}
        about |= {"done": int((~np.isnan(known)).sum()), "places": known.size}
        return total / np.maximum(count, 1), about

    def _cover(self, given: Any, corners: np.ndarray, index: int, size: int) -> np.ndarray:
        """The probability with a grey square at each of the corners `(places, 2)`; far outside, it covers nothing."""
        return np.asarray(self._covering(self.params, self.state, given, jnp.asarray(corners), index, size))

    @functools.cached_property
    def _covering(self) -> Any:
        def run(params: Any, state: Any, given: jax.Array, corners: jax.Array, index: Any, size: Any) -> jax.Array:
            link = self.link or link_of(program(self.model, params, state, given))
            y, x = (jnp.arange(n)[None] - corners[:, axis, None] for axis, n in enumerate(self.shape[:2]))
            inside = ((y >= 0) & (y < size))[:, :, None] & ((x >= 0) & (x < size))[:, None, :]
            covered = jnp.where(inside[..., None], jnp.zeros((), given.dtype), given)
            outputs = link(fuse(lambda *args: self.model.apply(*args)[0])(params, state, covered))
            return outputs.reshape(len(corners), -1)[:, index].astype(jnp.float32)

        return jax.jit(run)

    def _square(self, effort: float) -> tuple[int, int, int]:
        """Size and stride of a square whose occlusion takes seconds, and the number of places computed at once."""
        height, width = self.shape[:2]
        most = effort * _MACS / max(1, self.table.macs)
        side = min(max(int(math.sqrt(most)), 7 if effort == 1 else 4), 32)
        stride = max(1, math.ceil(min(height, width) / side))
        size = min(max(2 * stride, round(min(height, width) / 6)), height, width)
        batch = max(1, min(32, _BYTES // max(1, self.table.total.activation_bytes)))
        return size, stride, batch
