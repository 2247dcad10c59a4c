"""Convolutions of every kind, and their values in float64, tap by tap: an oracle with no code of ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import default_rng

Settings = dict[str, Any]


def a_case(seed: int, ndim: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...], Settings]:
    """Shapes of an image and a kernel, and settings: all kinds, small and odd ones among them."""
    rng = default_rng(seed)
    n = int(rng.choice([1, 2, 2, 2, 3], 1)[0]) if ndim is None else ndim

    def some(options: list[int]) -> tuple[int, ...]:
        return tuple(int(v) for v in rng.choice(options, n))

    strides, dilation, size = some([1, 1, 2, 3]), some([1, 1, 1, 2, 3]), some([1, 2, 3, 3, 5])
    low, high = (rng.integers(-1, 4, n) if rng.random() < 0.5 else rng.integers(0, 2, n) for _ in range(2))
    pads = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
    least = [max(1, d * (f - 1) + 1 - sum(p)) for d, f, p in zip(dilation, size, pads, strict=True)]
    most = {1: 40, 2: 15, 3: 7}[n]
    spatial = tuple(int(rng.integers(low, max(low, most) + 1)) for low in least)
    batch = int(rng.choice([1, 2, 5]))
    kind = rng.choice(["dense", "dense", "grouped", "depthwise"])
    if kind == "dense":
        groups, c, k = 1, int(rng.choice([1, 3, 8, 17, 32])), int(rng.choice([1, 4, 16, 19, 64]))
    elif kind == "grouped":
        groups = int(rng.choice([2, 3, 8]))
        c, k = groups * int(rng.choice([1, 2, 4, 8, 16])), groups * int(rng.choice([1, 3, 4, 16]))
    else:
        groups = c = int(rng.choice([1, 2, 7, 16, 24]))
        k = c * int(rng.choice([1, 1, 2]))
    settings = {"strides": strides, "pads": pads, "dilation": dilation, "groups": groups}
    return (batch, *spatial, c), (*size, c // groups, k), settings


def out_shape(x: tuple[int, ...], kernel: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    spatial = (
        (w + sum(p) - d * (f - 1) - 1) // s + 1
        for w, f, s, p, d in zip(
            x[1:-1], kernel, settings["strides"], settings["pads"], settings["dilation"], strict=False
        )
    )
    return (x[0], *spatial, kernel[-1])


def _taps(x: tuple[int, ...], kernel: tuple[int, ...], settings: Settings) -> Iterator[tuple[Any, Any, Any]]:
    """For each tap: its place in the kernel, where its pixels are in the image, and where its products go."""
    outs = out_shape(x, kernel, settings)[1:-1]
    for tap in itertools.product(*map(range, kernel[:-2])):
        inside, goes = [], []
        for u, w, o, s, (low, _), d in zip(
            tap, x[1:-1], outs, settings["strides"], settings["pads"], settings["dilation"], strict=True
        ):
            places = [i for i in range(o) if 0 <= i * s + u * d - low < w]
            first, last = (places[0], places[-1]) if places else (0, -1)
            goes.append(slice(first, last + 1))
            inside.append(slice(first * s + u * d - low, last * s + u * d - low + 1, s) if places else slice(0, 0))
        yield tap, (slice(None), *inside), (slice(None), *goes)


def _by_group(x: Any, groups: int) -> Any:
    """The groups in front, so that `@` is a product of matrices for each: (..., C) -> (groups, ..., C / groups)."""
    return np.moveaxis(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), -2, 0)


def _matrix(x: Any) -> Any:
    """The pixels of all images as rows: (groups, ..., C) -> (groups, pixels, C)."""
    return x.reshape(len(x), -1, x.shape[-1])


def convolution(x: Any, kernel: Any, settings: Settings) -> np.ndarray:
    """y(x, kernel) in float64."""
    groups = settings["groups"]
    y = np.zeros(out_shape(x.shape, kernel.shape, settings))
    images, grouped, weights = (_by_group(a, groups) for a in (x, y, kernel))
    for tap, inside, goes in _taps(x.shape, kernel.shape, settings):
        read, sums = images[:, *inside], grouped[:, *goes]
        sums += (_matrix(read) @ weights[:, *tap]).reshape(sums.shape)
    return y


def input_gradient(x: tuple[int, ...], kernel: Any, ct: Any, settings: Settings) -> np.ndarray:
    """The gradient by the image, whose shape x is, in float64."""
    groups = settings["groups"]
    out = np.zeros(x)
    grouped, weights, ct = (_by_group(a, groups) for a in (out, kernel, ct))
    for tap, inside, goes in _taps(x, kernel.shape, settings):
        read, sums = ct[:, *goes], grouped[:, *inside]
        sums += (_matrix(read) @ weights[:, *tap].swapaxes(-1, -2)).reshape(sums.shape)
    return out


def kernel_gradient(x: Any, kernel: tuple[int, ...], ct: Any, settings: Settings) -> np.ndarray:
    """The gradient by the kernel, whose shape `kernel` is, in float64."""
    groups = settings["groups"]
    out = np.zeros(kernel)
    images, weights, ct = (_by_group(a, groups) for a in (x, out, ct))
    for tap, inside, goes in _taps(x.shape, kernel, settings):
        a, b = _matrix(images[:, *inside]), _matrix(ct[:, *goes])
        weights[:, *tap] = a.swapaxes(-1, -2) @ b
    return out


def exact(a: Any, b: Any, settings: Settings) -> np.ndarray:
    """The result of a `jaxcnn.ops.cpu.primitive` for its two operands, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    groups, sizes = settings["groups"], settings["sizes"]
    turned = (lambda kernel: kernel.swapaxes(-1, -2)) if settings["swapped"] else (lambda kernel: kernel)
    if settings["kind"] == "output":
        return convolution(a, turned(b), settings)
    if settings["kind"] == "input":
        kernel = turned(b)
        return input_gradient((len(a), *sizes, kernel.shape[-2] * groups), kernel, a, settings)
    return turned(kernel_gradient(a, (*sizes, a.shape[-1] // groups, b.shape[-1]), b, settings))


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of the difference, to that of the expected array."""
    assert actual.shape == expected.shape
    return float(np.sqrt(np.square(actual - expected).mean() / np.square(expected).mean()))
