"""A metric against settings: the picture of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from jaxcnn.errors import UserError
from jaxcnn.format import printable, shortened
from jaxcnn.inspect.plots import Figure, distinct, plain, text_width

_MOST_LINES = 8  # values of the other setting that have a line each
_MOST_TICKS = 8  # numbers that are labelled one by one
_LOG = 5  # the ratio from which positive numbers have a logarithmic axis
_LONGEST = 24  # characters of a value
_PANEL, _HEIGHT = 3.0, 0.18  # inches: the least distance between the outermost values of a panel; a line of text
_COLOR, _FAILED = "#3b6fb6", "#c0392b"

Point = tuple[Mapping[str, Any], Sequence[float | None]]


def by_setting(points: Sequence[Point], label: str) -> Figure:
    """A metric against each setting that varies: a panel for each, with the values, their mean and their spread.

    Small dots are the values of single runs, large ones their mean, and bars reach one sample standard deviation up and
    down. With one or two settings, lines join the means; with two, each value of the other setting has its colour. With
    more, as after a random search, the points differ in the other settings, too. Crosses on the lower edge are runs
    that failed. Positive numbers that differ by a factor of 5 or more are on a logarithmic axis.

    Args:
      points: for each combination of settings, the settings and the metric of each of its runs, None for a failed one.
      label: the metric's name, for the axis.

    Raises:
      UserError: if no setting varies, or no run has a value.
    """
    names = [name for name in (points[0][0] if points else ()) if len({_key(at[name]) for at, _ in points}) > 1]
    if not names:
        raise UserError("no setting differs between these runs (but for seed and fold): there is nothing to draw")
    if not any(value is not None for _, values in points for value in values):
        raise UserError("none of these runs has the metric: there is nothing to draw")
    most = 4
    columns = min(most, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.6, 4.2 * columns), 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid, names, strict=False):
        others = [other for other in names if other != name]
        _panel(axes, points, name, others)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(plain(label))
    return figure


def _panel(axes: Any, points: Sequence[Point], name: str, others: Sequence[str]) -> None:
    """The metric against one setting."""
    place = _axis(axes, name, [at[name] for at, _ in points])
    lines: dict[str, list[Point]] = {}
    for at, values in points:
        lines.setdefault(_key([at[other] for other in others]), []).append((at, values))
    joined = len(others) < 2 and len(lines) <= _MOST_LINES
    colors = distinct(len(lines)) if joined and len(lines) > 1 else [_COLOR] * len(lines)
    legend = []
    for color, line in zip(colors, lines.values(), strict=True):
        line = sorted(line, key=lambda point: place(point[0][name]))
        known = [(place(at[name]), [v for v in values if v is not None]) for at, values in line]
        known = [(x, values) for x, values in known if values]
        xs, means = [x for x, _ in known], [float(np.mean(values)) for _, values in known]
        spread = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for _, values in known]
        style = "-" if joined else ""
        axes.errorbar(xs, means, spread if any(spread) else None, fmt="o" + style, color=color, markersize=5, capsize=3,
                      linewidth=1.4, zorder=3)  # fmt: skip
        single = [(x, value) for x, values in known if len(values) > 1 for value in values]
        if single:
            axes.plot(*zip(*single, strict=True), ".", color=color, alpha=0.5, markersize=5, zorder=2)
        failed = [place(at[name]) for at, values in line if None in values]
        if failed:
            axes.plot(failed, [0.03] * len(failed), "x", color=_FAILED, transform=axes.get_xaxis_transform(), zorder=4)
        if joined and others and len(lines) > 1:
            title = f"{others[0]} {_shown(line[0][0][others[0]])}"
            legend.append(Line2D([], [], color=color, marker="o", markersize=5, label=plain(title)))
    if any(None in values for _, values in points):
        legend.append(Line2D([], [], color=_FAILED, marker="x", linestyle="", label="failed"))
    if legend:
        axes.legend(handles=legend, frameon=False, fontsize=8)
    axes.set_xlabel(plain(name))
    axes.grid(alpha=0.3)


def _axis(axes: Any, name: str, values: Sequence[Any]) -> Any:
    """Prepares the axis of a setting; a function from its values to their places."""
    found = {_key(value): value for value in values}
    numbers = sorted(value for value in found.values() if _is_number(value))
    if len(numbers) < len(found) or not _spread(numbers):
        # Words, truth values, what is not given, and numbers of which a scale would hide some: equal distances.
        ordered = sorted(found.values(), key=lambda value: (not _is_number(value), value if _is_number(value) else 0))
        places = {_key(value): k for k, value in enumerate(ordered)}
        labels = [plain(_shown(value)) for value in ordered]
        long = max(map(len, labels)) * len(labels) > 36
        axes.set_xticks(range(len(ordered)), labels, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.5, len(ordered) - 0.5)
        return lambda value: places[_key(value)]
    if numbers[0] > 0 and numbers[-1] >= _LOG * numbers[0]:
        axes.set_xscale("log")
        axes.margins(x=0.12)
    log = axes.get_xscale() == "log"
    labels = [f"{number:g}" for number in numbers]
    places_of = np.log(numbers) if log else np.asarray(numbers, float)
    gap = _PANEL * np.diff(places_of).min() / np.ptp(places_of)  # inches between the nearest two
    if len(numbers) <= _MOST_TICKS and gap > _HEIGHT:
        close = gap < max(text_width(label, 10) for label in labels) + 0.1
        axes.set_xticks(numbers, labels, rotation=45 if close else 0)
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif log and numbers[-1] < 1000 and numbers[0] > 1e-3:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return float


def _spread(numbers: Sequence[float]) -> bool:
    """Whether numbers are well apart on a linear or logarithmic axis: not 0 among numbers of several magnitudes."""
    positive = [number for number in numbers if number > 0]
    return bool(numbers) and (len(positive) == len(numbers) or numbers[-1] < 2 * _LOG * min(positive, default=0.0))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _key(value: Any) -> str:
    return json.dumps(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = f"{value:g}" if isinstance(value, float) else str(value).rstrip("/").rpartition("/")[2]
    return shortened(printable(text), _LONGEST)
