"""What the experiments share: a table, and one line for a mistake of the user's."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import tyro

from jaxcnn.errors import UserError


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, its columns aligned."""
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores, Python {platform.python_version()}"


def main(experiment: Callable[..., None]) -> None:
    """Runs an experiment with options from the command line."""
    try:
        tyro.cli(experiment)
    except UserError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
