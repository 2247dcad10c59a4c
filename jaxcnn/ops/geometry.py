"""Sizes of sliding windows: the arithmetic that convolution and pooling share.

A window of size F, dilated by D, covers E = D (F - 1) + 1 pixels. On W pixels with padding P before and Q after them,
it has floor((W + P + Q - E) / S) + 1 positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
from jax import lax

Padding: TypeAlias = int | Sequence[int] | Sequence[tuple[int, int]] | Literal["SAME", "VALID"]
Size: TypeAlias = int | Sequence[int]
Ints: TypeAlias = tuple[int, ...]
Edges: TypeAlias = tuple[tuple[int, int], ...]


class Window(TypedDict):
    """How a window moves over an image; each tuple has one entry per spatial dimension.

    Attributes:
      strides: the steps of the window.
      pads: the pixels added before and after.
      dilation: the distance between the window's taps.
      groups: the number of groups of channels; 1 by default.
    """

    strides: Ints
    pads: Edges
    dilation: Ints
    groups: NotRequired[int]


def per_dim(value: Size, ndim: int, what: str, least: int = 1) -> tuple[int, ...]:
    """One integer per spatial dimension; a single integer is repeated.

    Raises:
      ValueError: for another number of integers, a value that is not an integer, or one below `least`.
    """
    many = isinstance(value, Iterable) and not _is_int(value)
    values: tuple[Any, ...] = tuple(value) if many else (value,) * ndim  # type: ignore[arg-type]
    if len(values) != ndim:
        raise ValueError(f"{what}={value!r} has {len(values)} numbers for {ndim} spatial dimensions")
    if not all(_is_int(v) and v >= least for v in values):
        raise ValueError(f"{what}={value!r}: expected integers of at least {least}")
    return tuple(int(v) for v in values)


def pads(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The pixels added before and after each dimension.

    Args:
      padding: an integer for every side, one integer per dimension, pairs (before, after), `"VALID"` (none), or
        `"SAME"` (the least that gives an output of ceil(W / S); an odd pixel is added after).
    """
    if isinstance(padding, str):
        kind = padding.upper()
        if kind == "VALID":
            return ((0, 0),) * len(sizes)
        if kind == "SAME":
            totals = [
                max((-(-w // s) - 1) * s + extent(f, d) - w, 0)
                for w, f, s, d in zip(sizes, window, stride, dilation, strict=True)
            ]
            return tuple((t // 2, t - t // 2) for t in totals)
    elif not isinstance(padding, Iterable) or all(_is_int(p) for p in padding):
        return tuple((p, p) for p in per_dim(padding, len(sizes), "padding", 0))  # type: ignore[arg-type]
    elif len(padding) == len(sizes) and all(
        isinstance(p, Sequence) and len(p) == 2 and all(_is_int(q) and q >= 0 for q in p) for p in padding
    ):
        return tuple((int(p[0]), int(p[1])) for p in padding)  # type: ignore[index]
    raise ValueError(
        f"padding={padding!r}: expected an integer of at least 0, one per dimension, {len(sizes)} pairs (before, "
        'after), "SAME" or "VALID"'
    )


def extent(size: int, dilation: int) -> int:
    """The pixels that a dilated window covers: D (F - 1) + 1."""
    return dilation * (size - 1) + 1


def out_size(size: int, window: int, stride: int, pad: tuple[int, int] = (0, 0), ceil: bool = False) -> int:
    """The number of positions of a window of `window` pixels: floor or ceil of (W + P + Q - F) / S, plus 1.

    With `ceil`, a last window that would start after the last pixel is left out, as in PyTorch.
    """
    span = size + sum(pad) - window
    if not ceil:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad[0] else count


def taps(
    x: jax.Array, window: Ints, strides: Ints, edges: Edges, dilations: Ints | None = None, fill: float = 0
) -> Iterator[jax.Array]:
    """For each tap of the window, in row-major order, the pixels under it: `(N, *out, C)` each.

    x is `(N, *spatial, C)`; `fill` is the value of the padding, `edges`.
    """
    dilations = dilations or (1,) * len(window)
    if any(any(edge) for edge in edges):
        x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in edges), (0, 0, 0)])
    sizes = zip(x.shape[1:-1], window, strides, dilations, strict=True)
    places = [out_size(w, extent(f, d), s) for w, f, s, d in sizes]
    for tap in itertools.product(*map(range, window)):
        first = [u * d for u, d in zip(tap, dilations, strict=True)]
        last = [i + (o - 1) * s + 1 for i, o, s in zip(first, places, strides, strict=True)]
        yield lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
