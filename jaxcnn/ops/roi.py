"""Pooling of regions of a feature map to a fixed size: RoI max pooling (Fast R-CNN) and RoI align (Mask R-CNN).

The bounds of a bin are known only when the program runs, so its maximum is looked up in a sparse table. In one
dimension, entry i of level k is the maximum of the 2^k values from i on. Two entries, which may overlap, cover any
range of n values: those of the largest 2^k <= n. In two dimensions, four entries cover a bin of any size. The table of
an H x W x C map has about log2(H) log2(W) H W C entries.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.ops.backend import stored
from jaxcnn.ops.geometry import Size, per_dim
from jaxcnn.ops.precision import rounded, wide, wide_dtype

_FAR = 1 << 16  # coordinates are clipped to this many pixels of the map, so that bounds fit in int32


def roi_max_pool(features: jax.Array, boxes: jax.Array, size: Size, scale: float = 1.0) -> jax.Array:
    """RoI max pooling: each region is divided into P x P bins, and the output is the maximum of each bin.

    The edges of a box are multiplied by `scale` and rounded (half away from zero) to rows y1, y2 and columns x1, x2 of
    the map. Both ends are included, so the region has h = max(y2 - y1 + 1, 1) rows. Bin i of P has the rows from
    y1 + floor(i h / P) up to, but not including, y1 + ceil((i + 1) h / P), as far as they are on the map; columns
    likewise. A bin without pixels is 0. Caffe's and torchvision's `roi_pool` have the same bounds, but compute them in
    float32; here they are integers.

    The gradient goes to the first pixel, in row-major order, that has the maximum. The boxes have no gradient.

    Args:
      features: `(N, H, W, C)`, floating point.
      boxes: `(N, R, 4)`, in pixels of the image; converted to float32.
      size: P, the number of bins along each dimension.
      scale: pixels of the map per pixel of the image: 1/16 for a map of stride 16.

    Returns:
      `(N, R, P, P, C)`.

    Raises:
      UserError: for shapes that do not fit together.

    Source: Girshick, Fast R-CNN (2015), section 2.1.
    """
    pooled = _checked(features, boxes, size)
    if not boxes.shape[1]:
        return jnp.zeros((*boxes.shape[:2], *pooled, features.shape[-1]), features.dtype)
    bounds = _bounds(jax.lax.stop_gradient(boxes), scale, pooled, features.shape[1:3])
    # Regions inside the image need a table of a third of the size. The full table is used only for larger regions.
    largest = [-(-(length + 1) // bins) + 1 for length, bins in zip(features.shape[1:3], pooled, strict=True)]
    levels = tuple(_levels(min(most, length)) for most, length in zip(largest, features.shape[1:3], strict=True))
    every = tuple(_levels(length) for length in features.shape[1:3])
    if levels == every:
        return _pool(levels, features, bounds)
    fit = [((end - begin) < 2 * sizes[-1]).all() for (begin, end), sizes in zip(bounds, levels, strict=True)]
    return jax.lax.cond(
        fit[0] & fit[1], functools.partial(_pool, levels), functools.partial(_pool, every), features, bounds
    )


Levels = tuple[tuple[int, ...], tuple[int, ...]]
"""The numbers of rows, and of columns, that an entry of each level of a table covers: 1, 2, 4, ..."""
Bounds = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""For rows and for columns: the first index of each bin and the first one after it, `(N, R, P)` each."""


def _bounds(boxes: jax.Array, scale: float, pooled: tuple[int, ...], places: tuple[int, ...]) -> Bounds:
    scaled = jnp.clip(jnp.nan_to_num(boxes.astype(jnp.float32) * scale), -_FAR, _FAR)
    x1, y1, x2, y2 = jnp.moveaxis((jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5)).astype(jnp.int32), -1, 0)

    def of(first: jax.Array, last: jax.Array, bins: int, length: int) -> tuple[jax.Array, jax.Array]:
        count = jnp.maximum(last - first + 1, 1)[..., None]
        i = jax.lax.broadcast_to_rank(jnp.arange(bins), count.ndim)
        begin = first[..., None] + i * count // bins
        end = first[..., None] - (-(i + 1) * count // bins)
        return jnp.clip(begin, 0, length), jnp.clip(end, 0, length)

    return of(y1, y2, pooled[0], places[0]), of(x1, x2, pooled[1], places[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(levels: Levels, features: jax.Array, bounds: Bounds) -> jax.Array:
    best = functools.reduce(jnp.maximum, _four(_table(features, jnp.maximum, levels), bounds, features.shape, levels))
    return jnp.where(_there(bounds), best, 0)


@_pool.defjvp
def _pool_jvp(levels: Levels, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (features, bounds), (change, _) = primals, tangents
    # The index of each value in the flattened map. With one index per element, instead of a row and a channel, the
    # gradient is a scatter that XLA does in 3 ns per element on a CPU, 50 times faster.
    places = jnp.arange(features.size, dtype=jnp.int32).reshape(features.shape)
    table = _table((jax.lax.stop_gradient(features), places), _better, levels)
    entries = [_four([entry[i] for entry in table], bounds, features.shape, levels) for i in range(2)]
    best, place = functools.reduce(_better, zip(*entries, strict=True))
    # The gradients of overlapping regions are summed in float32.
    taken = jnp.take(wide(change).ravel(), jnp.where(_there(bounds), place, 0), mode="clip")
    taken = rounded(taken, change.dtype)
    return jnp.where(_there(bounds), best, 0), jnp.where(_there(bounds), taken, 0)


def _better(a: Any, b: Any) -> Any:
    """The larger of two values with its index; of equals, the smaller index; a NaN is larger than any number."""
    (x, i), (y, j) = a, b
    second = (y > x) | ((y == x) & (j < i)) | ((y != y) & (x == x))
    return jnp.where(second, y, x), jnp.where(second, j, i)


def _levels(length: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `length`."""
    return tuple(1 << k for k in range(length.bit_length()))


def _table(x: Any, larger: Any, levels: Levels) -> list[Any]:
    """The maxima of 2^k rows and 2^l columns from each pixel on, `(N, H - 2^k + 1, W - 2^l + 1, C)`; l runs fastest."""

    def along(x: Any, axis: int) -> list[Any]:
        found = [x]
        for step in levels[axis - 1][:-1]:
            first, second = (jax.tree.map(lambda v, cut=cut: v[cut], found[-1]) for cut in _halves(axis, step))
            found.append(jax.tree.map(stored, larger(first, second)))
        return found

    return [entry for row in along(x, 1) for entry in along(row, 2)]


def _halves(axis: int, step: int) -> list[tuple[slice, ...]]:
    """The index of all but the last, and of all but the first `step` entries along an axis."""
    before = (slice(None),) * axis
    return [(*before, slice(None, -step)), (*before, slice(step, None))]


def _four(table: list[jax.Array], bounds: Bounds, shape: tuple[int, ...], levels: Levels) -> list[jax.Array]:
    """The four entries of the table that cover each bin: each `(N, R, P, P, C)`."""
    images, height, width, _ = shape
    flat = jnp.concatenate([jax.lax.collapse(entry, 0, 3) for entry in table])
    first = np.cumsum([0, *(entry.shape[1] * entry.shape[2] for entry in table[:-1])])  # for one image

    def two(begin: jax.Array, end: jax.Array, length: int, sizes: tuple[int, ...]) -> tuple[jax.Array, list[jax.Array]]:
        """The largest k with 2^k <= end - begin, and the indices of the two entries of that level."""
        reached = [(end - begin >= size).astype(jnp.int32) for size in sizes[1:]]
        level = functools.reduce(jnp.add, reached, jnp.zeros(begin.shape, jnp.int32))
        return level, [jnp.minimum(begin, length - (1 << level)), jnp.maximum(end - (1 << level), 0)]

    (tall, tops), (wide, lefts) = two(*bounds[0], height, levels[0]), two(*bounds[1], width, levels[1])
    tall, wide = tall[..., :, None], wide[..., None, :]
    start = (jnp.asarray(first, jnp.int32) * images)[tall * len(levels[1]) + wide]
    rows, columns = height + 1 - (1 << tall), width + 1 - (1 << wide)
    start += jnp.arange(images)[:, None, None, None] * rows * columns
    return [
        jnp.take(flat, start + top[..., :, None] * columns + left[..., None, :], axis=0, mode="clip")
        for top in tops
        for left in lefts
    ]


def _there(bounds: Bounds) -> jax.Array:
    """Which bins have pixels: `(N, R, P, P, 1)`."""
    rows, columns = (end > begin for begin, end in bounds)
    return (rows[..., :, None] & columns[..., None, :])[..., None]


def roi_align(
    features: jax.Array, boxes: jax.Array, size: Size, scale: float = 1.0, samples: int = 2, aligned: bool = True
) -> jax.Array:
    """RoI align: the mean of `samples` x `samples` evenly spaced bilinear samples in each bin of a region.

    Nothing is rounded: bin i of P reaches from y1 + i h / P to y1 + (i + 1) h / P, with y1 = scale y and h = y2 - y1.
    A sample interpolates the four pixels around it. Up to one pixel outside the map it has the value of the edge, and
    farther outside 0. Its weights are separable, so a region takes two matrix products.

    Args:
      features, boxes, size, scale: as in `roi_max_pool`.
      samples: the number of samples along each dimension of a bin.
      aligned: whether the value of a pixel is at its centre, half a pixel from its edge. If False, as in the first
        published version, it is at its edge, and a region is at least 1 x 1 pixel of the map.

    Returns:
      `(N, R, P, P, C)`. The boxes have a gradient, too.

    Raises:
      UserError: for shapes that do not fit together, or less than one sample.

    Source: He et al., Mask R-CNN (2017), section 3; `aligned` is torchvision's.
    """
    pooled = _checked(features, boxes, size)
    if samples < 1:
        raise UserError(f"samples={samples}: expected at least 1 along each dimension of a bin")
    dtype = wide_dtype(features.dtype)
    scaled = boxes.astype(dtype) * scale - (0.5 if aligned else 0.0)
    x1, y1, x2, y2 = jnp.moveaxis(scaled, -1, 0)

    def weights(first: jax.Array, last: jax.Array, bins: int, length: int) -> jax.Array:
        """The weight of each pixel in each bin: `(N, R, P, length)`."""
        extent = last - first if aligned else jnp.maximum(last - first, 1)
        at = (jnp.arange(bins * samples, dtype=dtype) + 0.5) / (bins * samples)
        at = first[..., None] + jax.lax.broadcast_to_rank(at, extent.ndim + 1) * extent[..., None]
        pixels = jax.lax.broadcast_to_rank(jnp.arange(length, dtype=dtype), at.ndim + 1)
        near = jnp.clip(at, 0, length - 1)[..., None] - pixels
        tent = jnp.maximum(1 - jnp.abs(near), 0)
        tent = jnp.where(((at >= -1) & (at <= length))[..., None], tent, 0)
        return tent.reshape(*first.shape, bins, samples, length).mean(-2)

    rows = weights(y1, y2, pooled[0], features.shape[1])
    columns = weights(x1, x2, pooled[1], features.shape[2])
    tall = jnp.einsum("nrph,nhwc->nrpwc", rows, wide(features))
    return rounded(jnp.einsum("nrqw,nrpwc->nrpqc", columns, tall), features.dtype)


def crop_regions(images: jax.Array, boxes: jax.Array, size: Size, context: int = 0) -> jax.Array:
    """Crops of the boxes of each image, warped to one size by bilinear interpolation.

    A box is enlarged first, so that its crop shows `context` pixels of its surroundings on each side. Pixels outside
    the image are 0, so subtract the mean of the images first.

    Args:
      images: `(N, H, W, C)`, floating point.
      boxes: `(N, R, 4)`, in pixels; converted to float32.
      size: (height, width) of the crops.
      context: the pixels of the crop, on each side, that lie outside the box.

    Returns:
      `(N, R, *size, C)`.

    Raises:
      UserError: for shapes that do not fit together, or when the context fills the crop.

    Source: Girshick et al., Rich feature hierarchies (2014), section 2.1 and appendix A (16 of 227 pixels).
    """
    lengths = _checked(images, boxes, size)
    if context < 0 or 2 * context >= min(lengths):
        raise UserError(f"context={context} pixels on each side fill the whole crop of {lengths[0]}x{lengths[1]}")
    height, width = images.shape[1:3]

    def along(first: jax.Array, last: jax.Array, count: int) -> jax.Array:
        """The positions `(N, R, count)` to sample, in pixels; 0 is the centre of the first pixel."""
        step = ((last - first) / (count - 2 * context))[..., None]
        place = jax.lax.broadcast_to_rank(jnp.arange(count, dtype=step.dtype), step.ndim)
        return first[..., None] + (place + 0.5 - context) * step - 0.5

    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(wide_dtype(images.dtype)), -1, 0)
    y, x = along(y1, y2, lengths[0]), along(x1, x2, lengths[1])

    def two(at: jax.Array, length: int) -> list[tuple[jax.Array, jax.Array]]:
        """The two neighbours along one dimension and their weights, which are 0 outside the image."""
        low = jnp.floor(at)
        pairs = [(low, 1 - (at - low)), (low + 1, at - low)]
        return [
            (jnp.clip(i, 0, length - 1).astype(jnp.int32), jnp.where((i >= 0) & (i < length), w, 0)) for i, w in pairs
        ]

    def crop(image: jax.Array, rows: Any, columns: Any) -> jax.Array:
        flat = jax.lax.collapse(image, 0, image.ndim - 1)
        parts = []
        for i, across in rows:
            for j, along in columns:
                value = jnp.take(flat, i[:, :, None] * width + j[:, None, :], axis=0, mode="clip")
                parts.append(value * (across[:, :, None] * along[:, None, :])[..., None])
        return functools.reduce(jnp.add, parts)

    return rounded(jax.vmap(crop)(wide(images), two(y, height), two(x, width)), images.dtype)


def _checked(features: jax.Array, boxes: jax.Array, size: Size) -> tuple[int, int]:
    if features.ndim != 4 or not jnp.issubdtype(features.dtype, jnp.floating):
        raise UserError(f"expected a floating point map (N, H, W, C), got {features.dtype} {features.shape}")
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[0] != features.shape[0]:
        raise UserError(f"expected boxes ({features.shape[0]}, R, 4) for {features.shape[0]} images, got {boxes.shape}")
    try:
        height, width = per_dim(size, 2, "size")
    except ValueError as error:
        raise UserError(str(error)) from None
    return height, width
