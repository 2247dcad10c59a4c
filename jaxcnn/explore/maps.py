"""The maps of a layer as bytes that the page draws."""

from __future__ import annotations

from typing import Any

import numpy as np


def stacked(output: np.ndarray) -> np.ndarray:
    """A layer's output as maps `(h, w, channels)`: a vector is one map of one row, `(T, C)` are maps of one column."""
    if output.ndim == 3:
        return output
    if output.ndim == 2:
        return output[:, None]
    return output.reshape(1, -1, 1)


def packed(maps: np.ndarray, first: int, count: int, side: int) -> tuple[dict[str, Any], bytes]:
    """Some maps `(h, w, channels)` as bytes, each from its own smallest to its own largest value.

    Args:
      maps: the layer's.
      first, count: which of them.
      side: the most pixels of a side; larger maps are reduced by averaging.

    Returns:
      A record: `size` (h, w) of what is sent, `low` and `high` of each, and of all of them; and `count * h * w` bytes,
      0 for `low` and 255 for `high`.
    """
    chosen = np.moveaxis(maps[..., first : first + count], -1, 0).astype(np.float32)
    finite = np.nan_to_num(chosen, nan=0.0, posinf=3e38, neginf=-3e38)
    low, high = finite.min((1, 2)), finite.max((1, 2))
    small = reduced(finite, -(-max(finite.shape[1:]) // side)) if finite.shape[1] > 1 else finite
    span = np.where(high > low, high - low, 1).astype(np.float64)
    values = (small - low[:, None, None]) * (255 / span)[:, None, None]
    record = {
        "first": first,
        "size": list(small.shape[1:]),
        "low": [float(v) for v in low],
        "high": [float(v) for v in high],
        "finite": bool(np.isfinite(chosen).all()),
    }
    return record, np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()


def reduced(maps: np.ndarray, by: int) -> np.ndarray:
    """Maps `(count, h, w)` as the means of squares of `by` pixels."""
    if by <= 1:
        return maps
    count, height, width = maps.shape
    rows, columns = -(-height // by), -(-width // by)
    full = np.pad(maps, ((0, 0), (0, rows * by - height), (0, columns * by - width)), "edge")
    return full.reshape(count, rows, by, columns, by).mean((2, 4))
