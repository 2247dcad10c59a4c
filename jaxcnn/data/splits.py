"""Splits of datasets by name, slices of them, and the fixed division of a set that has one split only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from jaxcnn.errors import DataError

TESTS = ("test", "validation", "val")
"""The names of test splits: where `test` is asked for, the first of these that exists is read."""


def parse_split(split: str) -> tuple[str, Callable[[int], slice] | None]:
    """The name of a split, and its slice as a function of the number of examples; None without a slice.

    `train[:90%]` gives `"train"` and a function that maps 200 to `slice(None, 180)`. Percentages are rounded down.

    Raises:
      DataError: for anything but a name, or a name with a slice of two bounds.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[((?:-?\d+%?)?):((?:-?\d+%?)?)\])?", split)
    if not match:
        raise DataError(f"split {split!r}: expected a name, or a name with a slice such as train[:1000] or train[90%:]")
    name, *bounds = match.groups()
    if bounds[0] is None:
        return name, None

    def of(count: int) -> slice:
        return slice(
            *(None if not b else int(b[:-1]) * count // 100 if b.endswith("%") else int(b) for b in bounds),
        )

    return name, of


def check_split(name: str, split: str, splits: Sequence[str]) -> None:
    """Checks that the dataset `name` has this split.

    Raises:
      DataError: when it is not among `splits`.
    """
    if split not in splits:
        known = " and ".join(filter(None, [", ".join(splits[:-1]), *splits[-1:]]))
        raise DataError(f"{name} has the splits {known}, not {split!r}")


def divided(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """The fixed division of a set with one split, as a mask `(N,)`: every fifth example of a class is a test example.

    Raises:
      DataError: for a split other than `train` and `test`.
    """
    check_split(name, split, ("train", "test"))
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test if split == "test" else ~test
