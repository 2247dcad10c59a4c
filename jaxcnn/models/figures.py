"""Figures of the registered models, kept in a file because tracing all of them takes minutes."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("figures.json")
"""Made by `python tests/models/figures_table.py`, and checked by `tests/models/test_figures.py`."""


@dataclass(frozen=True)
class Figures:
    """Figures of a model as it was designed: `MODELS[name].classes` classes, one example of `MODELS[name].input`.

    None stands for what is not known.

    Attributes:
      parameters: the number of parameters, without running statistics.
      macs: the multiply-accumulates of matrix products and convolutions in an evaluation of one example.
      top1: the ImageNet top-1 accuracy in percent of torchvision's first published weights (`IMAGENET1K_V1`, where they
        exist), as torchvision reports it for a single central crop; None where it publishes none.
    """

    parameters: int | None = None
    macs: int | None = None
    top1: float | None = None


@functools.cache
def figures() -> dict[str, Figures]:
    """The figures of all registered models by name."""
    return {name: Figures(**row) for name, row in json.loads(FILE.read_text("utf-8")).items()}
