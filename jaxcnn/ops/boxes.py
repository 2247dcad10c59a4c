"""Boxes as arrays `(..., 4)`: x1, y1, x2, y2 in pixels, with x to the right, y down, and x2, y2 the far edges.

A pixel is a square of side 1, and the first pixel reaches from 0 to 1, so a box is x2 - x1 wide. A box with x2 <= x1 or
y2 <= y1 has area 0.

The functions compute and return coordinates in at least float32, also for integer boxes (in float64 with
`jax_enable_x64`): an area of 260 x 260 is too large for float16, one of 50,000 x 50,000 for int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.precision import wide_dtype

_MOST_GROWTH = 4.0  # of a box's log size: a factor above 54 is not a correction, and exp may overflow


def area(boxes: jax.Array) -> jax.Array:
    """Width times height, in square pixels; 0 if either is not positive: `(..., 4) -> (...)`."""
    boxes = _coordinates(boxes)
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return size[..., 0] * size[..., 1]


def iou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Intersection over union of each box of `first` with each of `second`: `(..., A, 4), (..., B, 4) -> (..., A, B)`.

    It is between 0 and 1. A box of area 0 has an IoU of 0 with every box, including itself.
    """
    a, b = _coordinates(first)[..., :, None, :], _coordinates(second)[..., None, :, :]
    corners = [jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])]
    shared = area(jnp.concatenate(corners, -1))
    union = area(a) + area(b) - shared
    return jnp.where(shared > 0, shared / jnp.where(union > 0, union, 1), 0)


def clip(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The part of each box that lies in an image of `size` (height, width)."""
    height, width = size
    boxes = _coordinates(boxes)
    most = jnp.asarray([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, lax.broadcast_to_rank(most, boxes.ndim))


def encode(boxes: jax.Array, truth: jax.Array, deviation: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """The deltas that turn `boxes` into `truth`: `(..., 4), (..., 4) -> (..., 4)`.

    tx = (Gx - Px) / Pw, ty = (Gy - Py) / Ph, tw = log(Gw / Pw), th = log(Gh / Ph), each divided by its `deviation`;
    x and y are centres, w and h sizes, P is the box and G the truth. Sizes below 0.01 pixels count as 0.01.

    Source: Girshick et al., Rich feature hierarchies for accurate object detection (2014), appendix C.
    """
    (centre, size), (goal, wanted) = _centre_size(boxes), _centre_size(truth)
    size, wanted = jnp.maximum(size, 0.01), jnp.maximum(wanted, 0.01)
    deltas = jnp.concatenate([(goal - centre) / size, jnp.log(wanted / size)], -1)
    return deltas / lax.broadcast_to_rank(jnp.asarray(deviation, deltas.dtype), deltas.ndim)


def decode(boxes: jax.Array, deltas: jax.Array, deviation: Sequence[float] = (1, 1, 1, 1)) -> jax.Array:
    """`boxes` changed by `deltas`: `(..., 4), (..., 4) -> (..., 4)`, the inverse of `encode`.

    Gx = Pw dx + Px, Gy = Ph dy + Py, Gw = Pw exp(dw), Gh = Ph exp(dh). A side grows by at most a factor of 54.
    """
    deltas = _coordinates(deltas)
    deltas = deltas * lax.broadcast_to_rank(jnp.asarray(deviation, deltas.dtype), deltas.ndim)
    centre, size = _centre_size(boxes)
    centre = centre + deltas[..., :2] * size
    half = size * jnp.exp(jnp.minimum(deltas[..., 2:], _MOST_GROWTH)) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def _centre_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    boxes = _coordinates(boxes)
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def _coordinates(boxes: jax.Array) -> jax.Array:
    """The boxes in floating point, at least float32."""
    return jnp.asarray(boxes, wide_dtype(jnp.result_type(boxes, float)))
