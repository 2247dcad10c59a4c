"""Helpers of the experiments: data, tables, figures, and the command line."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import jaxcnn as cnn
from jaxcnn.cli.parse import BadOption, parse
from jaxcnn.errors import UserError
from jaxcnn.format import printable
from jaxcnn.processors import cores


def images(
    data: str, data_dir: Path | None, examples: int | None = None, size: int | None = None
) -> tuple[cnn.data.Dataset, cnn.data.Dataset]:
    """Loads the first `examples` training images and all test images, shrunk to `size` by averaging blocks."""
    train = cnn.data.load(data, "train" if examples is None else f"train[:{examples}]", data_dir)
    test = cnn.data.load(data, "test", data_dir)
    return _shrunk(train, size), _shrunk(test, size)


def _shrunk(data: cnn.data.Dataset, size: int | None) -> cnn.data.Dataset:
    n, height, width, channels = data.images.shape
    if size is None or size == height == width:
        return data
    if height % size or width % size:
        raise UserError(f"--size {size}: {data.name}'s images of {height}x{width} can be shrunk by a whole factor only")
    blocks = data.images.reshape(n, size, height // size, size, width // size, channels)
    return dataclasses.replace(data, images=blocks.mean((2, 4)).round().astype(np.uint8))


@dataclass(frozen=True)
class Panel:
    """One plot of a figure. `lines` maps a name to its x and y values."""

    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x: str
    y: str
    log: bool = False


def draw(path: Path, panels: Sequence[Panel], styles: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Draws panels side by side. A line has the same colour in all panels; the first panel has the legend."""
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for index, (axes, panel) in enumerate(zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True)):
        for name, (x, y) in panel.lines.items():
            style = {"color": f"C{names.index(name)}", **(styles or {}).get(name, {})}
            axes.plot(x, y, label=name, marker="o" if len(x) < 30 else None, markersize=3, linewidth=1.4, **style)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        if panel.log:
            axes.set_yscale("log")
        if panel.x.startswith("epoch"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if index == 0:
            axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Saves a figure and prints its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    print(f"saved: {path}")


def percent(values: float | Sequence[float]) -> str:
    """A fraction as a percentage; for several, the mean and the range in brackets."""
    several = [100 * float(v) for v in np.atleast_1d(values)]
    mean = f"{np.mean(several):.2f} %"
    return mean if len(several) == 1 else f"{mean} ({min(several):.2f} to {max(several):.2f})"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """The hardware and the versions that the results were measured with."""
    return f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores()} cores, Python {platform.python_version()}"


def main(experiment: Callable[..., None]) -> None:
    """Runs an experiment with options from the command line. Errors in options or data are printed as one line."""
    name = Path(sys.argv[0]).stem
    command = f"python -m experiments.{name}"
    try:
        run = parse(experiment, command, sys.argv[1:])
    except BadOption as error:
        _end(f"{name}: {error}; see {command} --help", 2)
    try:
        run()
    except UserError as error:
        _end(f"{name}: {error}", 1)


def _end(message: str, status: int) -> NoReturn:
    print(printable(message), file=sys.stderr)
    sys.exit(status)
