"""Optical flow: images warped by known flows, the end-point error, pictures and .flo files.

A flow `(N, H, W, 2)` says for each pixel of a first image where it is in a second one: (dx, dy) in pixels, columns and
rows, with second(x + dx, y + dy) = first(x, y). NaN marks an unknown flow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.atomic import put
from jaxcnn.data.augment import Joint
from jaxcnn.data.dataset import Examples
from jaxcnn.declared import per_example
from jaxcnn.errors import DataError, UserError
from jaxcnn.files import regular
from jaxcnn.losses import Loss
from jaxcnn.ops.precision import wide

Array = jax.Array

WEIGHTS = (0.005, 0.01, 0.02, 0.08, 0.32)
"""Weights of the losses at FlowNet's five scales, finest first, from its authors' training."""


# --- loss and measure --------------------------------------------------------------------------------------------


@per_example
def end_point_error(outputs: Any, labels: Array) -> Array:
    """The mean length of the difference of two flows, in pixels: `(N, H, W, 2)` twice to `(N,)`.

    Where the label is not finite the flow is unknown and the pixel does not count; without any known pixel it is 0. Of
    several outputs at several scales, the first is enlarged to the label's size by repeating its pixels.

    Source: Baker et al., A database and evaluation methodology for optical flow (2011), section 4.1.
    """
    if isinstance(outputs, (tuple, list)):
        factor = _FINEST
        outputs = jnp.repeat(jnp.repeat(outputs[0], factor, 1), factor, 2)[:, : labels.shape[1], : labels.shape[2]]
    total, known = _errors(outputs, labels)
    return total / jnp.maximum(known, 1)


_FINEST = 4  # pixels of the image for one of FlowNet's finest flow


def multi_scale(weights: Sequence[float] = WEIGHTS) -> Loss:
    """FlowNet's loss: the end-point errors at all its scales, summed over each scale's pixels, weighted and added.

    l = sum over scales s of w_s sum over pixels of |o_s - y_s|

    y_s is the mean of the known flow in each block of 4, 8, ..., 64 pixels, whose value stays in pixels of the image; a
    block without any is left out. Of an evaluation, whose output is one flow of the label's size, it is the
    `end_point_error`.

    Args:
      weights: w_s, finest first, one for each output.

    Returns:
      `loss(outputs, labels) -> (N,)` of a tuple of flows and labels `(N, H, W, 2)`.

    Source: Fischer et al., FlowNet (2015), section 5.1; the weights are in the authors' published training files.
    """

    @per_example
    def loss(outputs: Any, labels: Array) -> Array:
        if not isinstance(outputs, (tuple, list)):
            return end_point_error(outputs, labels)
        if len(outputs) != len(weights):
            raise UserError(f"multi_scale has {len(weights)} weights for {len(outputs)} outputs")
        scaled = (_reduced(labels, _FINEST << k, output.shape[1:3]) for k, output in enumerate(outputs))
        errors = [_errors(output, label)[0] for output, label in zip(outputs, scaled, strict=True)]
        return jnp.asarray(sum(w * error for w, error in zip(weights, errors, strict=True)))

    return loss


def _errors(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Each image's sum of end-point errors over the known pixels, and their number."""
    if outputs.ndim != 4 or outputs.shape != labels.shape or outputs.shape[-1] != 2:
        raise UserError(f"flows {outputs.shape} and labels {labels.shape} should both be (N, H, W, 2)")
    outputs, labels = wide(outputs), wide(labels)
    known = jnp.isfinite(labels).all(-1)
    difference = jnp.where(known[..., None], outputs - jnp.where(known[..., None], labels, 0), 0)
    return _length(difference).sum((1, 2)), known.sum((1, 2))


def _length(vectors: Array) -> Array:
    """The length of `(..., 2)`; its gradient at 0 is 0, where that of a square root is not finite."""
    square = jnp.square(vectors).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _reduced(labels: Array, factor: int, size: tuple[int, int]) -> Array:
    """The mean of the known flow in each block of `factor` pixels, NaN without any: `(N, *size, 2)`."""
    edges = [side * factor - length for side, length in zip(size, labels.shape[1:3], strict=True)]
    if min(edges) < 0:
        raise UserError(f"an output of {size[0]}x{size[1]} at 1/{factor} does not cover labels {labels.shape}")
    padded = jnp.pad(wide(labels), ((0, 0), (0, edges[0]), (0, edges[1]), (0, 0)), constant_values=jnp.nan)
    blocks = padded.reshape(-1, size[0], factor, size[1], factor, 2)
    known = jnp.isfinite(blocks).all(-1, keepdims=True)
    count = known.sum((2, 4))
    total = jnp.where(known, blocks, 0).sum((2, 4))
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


# --- images moved by known flows ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("count", "size", "largest", "grid"))
def random_flows(key: Array, count: int, size: tuple[int, int], largest: float = 8.0, grid: int = 4) -> Array:
    """Smooth random flows: an affine map about the centre and a bending, each with a random share.

    The affine part has a shift and a matrix of normal numbers; the bending interpolates normal numbers on a coarse grid
    by cubics. The sum is scaled so that its longest vector has a length uniform between 0 and `largest`.

    Args:
      key: a random key.
      count, size: N and (H, W).
      largest: in pixels.
      grid: points of the coarse grid along each axis.

    Returns:
      float32 `(N, H, W, 2)`.
    """
    if largest < 0 or grid < 1:
        raise UserError(f"largest={largest} should be at least 0 pixels and grid={grid} at least 1")
    height, width = size
    shift_key, matrix_key, grid_key, share_key, length_key = jax.random.split(key, 5)
    y, x = (jnp.linspace(-1, 1, side) if side > 1 else jnp.zeros(1) for side in size)
    places = jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None]), -1)
    matrix = jax.random.normal(matrix_key, (count, 2, 2))
    affine = jax.random.normal(shift_key, (count, 1, 1, 2)) + jnp.einsum("hwa,nab->nhwb", places, matrix)
    coarse = jax.random.normal(grid_key, (count, grid, grid, 2))
    bending = jax.image.resize(coarse, (count, height, width, 2), "cubic", antialias=False)
    flows = affine + 2 * jax.random.uniform(share_key, (count, 1, 1, 1)) * bending
    longest = jnp.maximum(_length(flows).max((1, 2), keepdims=True)[..., None], 1e-6)
    return flows * jax.random.uniform(length_key, (count, 1, 1, 1), maxval=largest) / longest


@jax.jit
def warp(images: Array | np.ndarray, flow: Array | np.ndarray) -> Array:
    """The images at x + flow(x), bilinearly: float32 `(N, H, W, C)`. Warping the second image gives the first.

    Outside of the image it goes on with its last pixels; where the flow is unknown, the result is NaN.

    Args:
      images: `(N, H, W, C)`.
      flow: `(N, H, W, 2)`.
    """
    images, flow = jnp.asarray(images, jnp.float32), jnp.asarray(flow, jnp.float32)
    n, height, width, channels = images.shape
    if flow.shape != (n, height, width, 2):
        raise UserError(f"images {images.shape} need a flow ({n}, {height}, {width}, 2), got {flow.shape}")
    known = jnp.isfinite(flow).all(-1, keepdims=True)
    to = _targets(jnp.where(known, flow, 0))
    x, y = jnp.clip(to[..., 0], 0, width - 1), jnp.clip(to[..., 1], 0, height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    columns = [left.astype(jnp.int32), jnp.minimum(left.astype(jnp.int32) + 1, width - 1)]
    rows = [top.astype(jnp.int32), jnp.minimum(top.astype(jnp.int32) + 1, height - 1)]
    flat = images.reshape(n, height * width, channels)

    def pixels(row: Array, column: Array) -> Array:
        place = (row * width + column).reshape(n, -1, 1)
        return jnp.take_along_axis(flat, place, 1, mode="clip").reshape(images.shape)

    dx, dy = (x - left)[..., None], (y - top)[..., None]
    upper = pixels(rows[0], columns[0]) * (1 - dx) + pixels(rows[0], columns[1]) * dx
    lower = pixels(rows[1], columns[0]) * (1 - dx) + pixels(rows[1], columns[1]) * dx
    return jnp.where(known, upper * (1 - dy) + lower * dy, jnp.nan)


def _targets(flow: Array) -> Array:
    """x + flow(x), as (column, row)."""
    height, width = flow.shape[1:3]
    places = jnp.stack(jnp.broadcast_arrays(jnp.arange(width)[None, :], jnp.arange(height)[:, None]), -1)
    return flow + places[None].astype(flow.dtype)


def moved(second: Array | np.ndarray, flow: Array | np.ndarray) -> tuple[Array, Array]:
    """A first image that a flow takes to a given second one: `first, flow`.

    The second image is taken at x + flow(x) for each pixel x of the first, so that second(x + flow(x)) = first(x) holds
    by construction, but for rounding to whole grey levels when the images are uint8. Where x + flow(x) lies outside of
    the second image, the first has its nearest pixel and the flow becomes unknown, NaN.

    Args:
      second: images `(N, H, W, C)`, uint8 or floating point.
      flow: `(N, H, W, 2)`.
    """
    second, flow = jnp.asarray(second), jnp.asarray(flow, jnp.float32)
    first = warp(second, flow)
    to = _targets(flow)
    last = jnp.array([flow.shape[2] - 1, flow.shape[1] - 1], to.dtype).reshape(1, 1, 1, 2)
    inside = ((to >= 0) & (to <= last)).all(-1, keepdims=True)
    if second.dtype == jnp.uint8:
        first = jnp.round(first).astype(jnp.uint8)
    return first, jnp.where(inside, flow, jnp.nan)


def moving(largest: float = 8.0, grid: int = 4) -> Joint:
    """An augmentation: each pair's second image stays, and a new random flow makes a new first image and label.

    So each step trains on new motions. Arguments as in `random_flows`.
    """

    def both(inputs: tuple[Array, Array], labels: Array, key: Array) -> tuple[tuple[Array, Array], Array]:
        second = inputs[1]
        first, flow = _move(second, key, largest, grid)
        return (first, second), flow

    return Joint(both)


def moved_windows(
    frames: np.ndarray, size: tuple[int, int] | None = None, *, seed: int = 0, largest: float = 8.0, grid: int = 4,
    each: int = 1, name: str = "moved",
) -> Examples:  # fmt: skip
    """Pairs of images with the flow between them, of still images: windows of them, moved by random smooth flows.

    Args:
      frames: uint8 `(N, H, W, C)`.
      size: (height, width) of the windows, whose places are random; whole frames when not given.
      seed: of the windows and flows. The same seed gives the same pairs.
      largest, grid: as in `random_flows`.
      each: pairs of each frame.
      name: of the result.

    Returns:
      `Examples` of inputs (first, second), uint8 `(N each, *size, C)`, and labels `(N each, *size, 2)`.

    Raises:
      DataError: for windows larger than the frames.
    """
    height, width = size or frames.shape[1:3]
    rows, columns = frames.shape[1] - height, frames.shape[2] - width
    if min(rows, columns) < 0 or min(height, width) < 1:
        raise DataError(f"{name}: windows of {height}x{width} do not lie in frames {frames.shape}")
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed), -(-len(frames) * each // _CHUNK))
    parts = []
    source = np.tile(np.arange(len(frames)), each)
    for first, key in zip(range(0, len(source), _CHUNK), keys, strict=True):
        own = source[first : first + _CHUNK]
        tops, lefts = rng.integers(0, rows + 1, len(own)), rng.integers(0, columns + 1, len(own))
        second = np.stack([frames[i, t : t + height, c : c + width] for i, t, c in zip(own, tops, lefts, strict=True)])
        filled = np.resize(second, (_CHUNK, *second.shape[1:]))  # one shape, compiled once
        made, flow = _make(filled, key, largest, grid)
        parts.append((np.asarray(made)[: len(own)], second, np.asarray(flow)[: len(own)]))
    made, second, flow = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Examples((made, second), flow, name=name)


_CHUNK = 32  # pairs made at a time


def _move(second: Array, key: Array, largest: float, grid: int) -> tuple[Array, Array]:
    count, height, width, _ = second.shape
    return moved(second, random_flows(key, count, (height, width), largest, grid))


_make = jax.jit(_move, static_argnames=("largest", "grid"))


# --- pictures and files ------------------------------------------------------------------------------------------

# Where along Middlebury's wheel of 55 colours the pure ones are: red, yellow, green, cyan, blue, magenta, red.
_KNOTS = (0, 15, 21, 25, 36, 49, 55)
_COLOURS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))


def picture(flow: np.ndarray | Array, largest: float | None = None) -> np.ndarray:
    """A flow `(H, W, 2)` in colours, uint8 `(H, W, 3)`: hue is the direction, saturation the length.

    No motion is white; red is to the right, yellow-green down, cyan-blue to the left, and violet up. A length of
    `largest` is a full colour, longer ones are darker, an unknown flow is black.

    Args:
      flow: in pixels.
      largest: the flow's own longest vector when not given.

    Source: Baker et al., A database and evaluation methodology for optical flow (2011), figure 4: Middlebury's wheel.
    """
    flow = np.asarray(flow, np.float64)
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise UserError(f"a picture is made of one flow (H, W, 2), got {flow.shape}")
    known = np.isfinite(flow).all(-1)
    dx, dy = np.moveaxis(np.where(known[..., None], flow, 0), -1, 0)
    length = np.hypot(dx, dy)
    full = max(float(length.max(initial=0)) if largest is None else largest, 1e-6)
    place = np.arctan2(dy, dx) / (2 * np.pi) % 1 * _KNOTS[-1]
    colour = np.stack([np.interp(place, _KNOTS, channel) for channel in zip(*_COLOURS, strict=True)], -1)
    saturation = (length / full)[..., None]
    shown = np.where(saturation <= 1, 1 - saturation * (1 - colour), 0.75 * colour)
    return np.round(255 * np.where(known[..., None], shown, 0)).astype(np.uint8)


def wheel(size: int = 64) -> np.ndarray:
    """The legend of `picture`: uint8 `(size, size, 3)`, a disc, each place in the colour of the flow that leads there.

    Outside of the disc it is white.
    """
    at = np.linspace(-1, 1, size)
    flow = np.stack(np.broadcast_arrays(at[None, :], at[:, None]), -1)
    return np.where((np.hypot(*np.moveaxis(flow, -1, 0)) <= 1)[..., None], picture(flow, 1.0), 255).astype(np.uint8)


_MAGIC = np.float32(202021.25)
_UNKNOWN = np.float32(1e10)  # any number above 1e9 is an unknown flow


def write_flo(path: str | Path, flow: np.ndarray | Array) -> None:
    """A flow `(H, W, 2)` as a file in Middlebury's format: magic number, width, height, then rows of (dx, dy)."""
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise UserError(f"a .flo file holds one flow (H, W, 2), got {flow.shape}")
    known = np.isfinite(flow).all(-1, keepdims=True)
    header = _MAGIC.astype("<f4").tobytes() + np.array([flow.shape[1], flow.shape[0]], "<i4").tobytes()
    put(path, header + np.where(known, flow, _UNKNOWN).astype("<f4").tobytes())


def read_flo(path: str | Path) -> np.ndarray:
    """The flow of a file in Middlebury's format: float32 `(H, W, 2)`, NaN where it is unknown.

    Raises:
      DataError: when the file is missing, or is no such file.
    """
    try:
        raw = regular(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) < 12 or np.frombuffer(raw, "<f4", 1)[0] != _MAGIC:
        raise DataError(f"{path} is no .flo file: it does not begin with the number {_MAGIC}")
    width, height = (int(side) for side in np.frombuffer(raw, "<i4", 2, 4))
    if min(width, height) < 1 or len(raw) != 12 + 8 * width * height:
        raise DataError(f"{path} should hold a flow of {width}x{height}, and has {len(raw)} bytes")
    flow = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    return np.where(np.abs(flow).max(-1, keepdims=True) > 1e9, np.nan, flow)
