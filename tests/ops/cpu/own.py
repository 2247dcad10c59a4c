"""What the tests of this package's own codes for convolutions share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from convolutions import error, exact
from helpers import close, same

from jaxcnn.ops.cpu import library, primitive

KINDS = ("output", "input", "kernel")


def code(a: np.ndarray, b: np.ndarray, params: dict[str, Any], **own: bool) -> str:
    """The name of the code for two operands of the primitive, with this package's own ones that are allowed."""
    shapes = primitive.shapes(a.shape, b.shape, **params)
    settings = {name: params[name] for name in ("strides", "pads", "dilation", "groups", "swapped")}
    return library.implementation(params["kind"], a.dtype.name, **shapes, **settings, **own)  # type: ignore[arg-type]


def run(a: np.ndarray, b: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    return np.asarray(jax.jit(lambda a, b: primitive._bind(a, b, **params))(a, b))


def is_the_convolution(a: np.ndarray, b: np.ndarray, params: dict[str, Any], own: str) -> None:
    """By this code, beside float64, and the same bits twice."""
    assert code(a, b, params, **{own: True}) == own
    result = run(a, b, params)
    assert error(result, exact(a, b, params)) < 3e-6
    same(run(a, b, params), result)


def any_number_of_threads(script: str, folder: Path, threads: tuple[int, ...], images: int) -> None:
    """A script saves arrays: the first `images` are equal to the last bit, the others, other sums, to 1e-5."""
    found = []
    for count in threads:
        file = folder / f"{count}.npz"
        environment = os.environ | {"OMP_NUM_THREADS": str(count)}
        subprocess.run([sys.executable, "-c", script, str(file)], check=True, env=environment)
        found.append(list(np.load(file).values()))
    for others in found[1:]:
        same(others[:images], found[0][:images])
        close(others[images:], found[0][images:])
