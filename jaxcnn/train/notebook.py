"""The progress of training in a notebook: one output that redraws itself, with a curve that grows."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jaxcnn.format import plural, printable
from jaxcnn.metrics import name_of
from jaxcnn.runs.primary import Primary

_EVERY = 0.5  # seconds between two drawings
_MOST_POINTS = 60  # of a curve
_MOST_LINES = 10  # epochs in the plain text of the output
_WIDTH, _HEIGHT, _LEFT, _BELOW = 260, 120, 44, 16  # of a curve, in pixels
_COLORS = {"training": "#3b6fb6", "validation": "#d9822b"}
_LOG = 20  # as in `plots.curves`: the ratio from which an axis is logarithmic


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which can redraw an output."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None) is not None


class Page:
    """The output of a training in a notebook.

    It is drawn at most twice a second, however short the epochs are. What is stored with the notebook is the last
    drawing: the figures of the last epoch and the curve, a few kilobytes, without rates and times left.
    """

    def __init__(self, epochs: int, primary: Primary):
        self.epochs, self.primary = epochs, primary
        self.history: list[Mapping[str, Any]] = []
        self._lines: list[str] = []
        self._notes: list[str] = []
        self._handle: Any = None
        self._drawn = -math.inf

    def note(self, text: str) -> None:
        """Adds a line below the figures."""
        self._notes.append(text)

    def epoch(self, record: Mapping[str, Any], figures: str, pace: str) -> None:
        """Shows an epoch's record.

        Args:
          figures: its line of text, without rates.
          pace: examples per second and the time left.
        """
        self.history.append(record)
        self._lines.append(figures)
        self.update(1.0, "  ".join(filter(None, [figures, pace])))

    def update(self, share: float, text: str) -> None:
        """Shows the share of the current epoch that is done, and a line of text, unless that was done just now."""
        if time.monotonic() - self._drawn < _EVERY:
            return
        width = round(100 * share)
        bar = (
            '<div style="width:20em;height:.5em;background:#8884;display:inline-block;margin-right:1em">'
            f'<div style="width:{width}%;height:100%;background:{_COLORS["training"]}"></div></div>'
        )
        self._draw(bar + escape(printable(text)), text)

    def end(self, finished: bool) -> None:
        """Shows what stays: the last epoch, the notes and the curve."""
        last = self._lines[-1] if self._lines else ""
        if not finished:
            last = f"stopped after {last}" if last else "stopped in the first epoch"
        count = len(self.history)
        hidden = count - _MOST_LINES
        lines = [f"({hidden} {plural(hidden, 'epoch')} before)"] if hidden > 0 else []
        self._draw(escape(printable(last)), "\n".join([*lines, *self._lines[-_MOST_LINES:]]))

    def _draw(self, html: str, text: str) -> None:
        self._drawn = time.monotonic()
        notes = "".join(f"<div>{escape(printable(note))}</div>" for note in self._notes)
        page = {
            "text/html": f"<div>{html}</div>{notes}{curves(self.history, self.primary)}",
            "text/plain": "\n".join(filter(None, [text, *self._notes])) or "compiling",
        }
        if self._handle is None:
            from IPython.display import display

            self._handle = display(page, raw=True, display_id=True)
        else:
            self._handle.update(page, raw=True)


def curves(history: Sequence[Mapping[str, Any]], primary: Primary) -> str:
    """Loss and primary metric by epoch as inline SVG, at most a few kilobytes; empty for fewer than two epochs."""
    if len(history) < 2:
        return ""
    names = ["loss", *([primary.primary] if primary.primary != "loss" else [])]
    panels = [panel for name in names if (panel := _panel(history, name, 100.0 if name != "loss" and primary.is_share
                                                          else 1.0))]  # fmt: skip
    width = sum(_WIDTH for _ in panels)
    moved = "".join(f'<g transform="translate({k * _WIDTH},0)">{panel}</g>' for k, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" font-size="10" '
        f'font-family="sans-serif" fill="currentColor">{moved}</svg>'
    )


def _panel(history: Sequence[Mapping[str, Any]], name: str, scale: float) -> str:
    """The curve of one metric; empty if no value of it is finite."""
    step = -(-len(history) // _MOST_POINTS)
    kept = [*history[:-1:step], history[-1]]
    lines = {}
    for title, key in (("training", name), ("validation", f"validation_{name}")):
        points = [(record["epoch"], scale * record[key]) for record in kept if key in record]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        if points:
            lines[title] = points
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return ""
    log = min(values) > 0 and max(values) > _LOG * min(values)
    low, high = (math.log(edge(values)) if log else edge(values) for edge in (min, max))
    first, last = kept[0]["epoch"], kept[-1]["epoch"]
    right, bottom, top = _WIDTH - 12, _HEIGHT - _BELOW, 18

    def place(epoch: float, value: float) -> str:
        x = _LEFT + (right - _LEFT) * (epoch - first) / max(last - first, 1)
        height = ((math.log(value) if log else value) - low) / (high - low) if high > low else 0.5
        return f"{x:.0f},{bottom - (bottom - top) * height:.0f}"

    drawn = "".join(
        f'<polyline fill="none" stroke="{_COLORS[title]}" stroke-width="1.5" '
        f'points="{" ".join(place(*point) for point in points)}"/>'
        for title, points in lines.items()
    )
    unit = " (%)" if scale != 1 else ""
    title = f"{name_of(name)}{unit}{', logarithmic' if log else ''}"
    keys = "".join(f'<tspan fill="{_COLORS[title]}" dx="6">{title}</tspan>' for title in lines)
    frame = f'<path d="M{_LEFT},{top}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".4"/>'
    edges = [(_LEFT - 4, top + 4, max(values), "end"), (_LEFT - 4, bottom, min(values), "end")]
    numbers = "".join(f'<text x="{x}" y="{y}" text-anchor="{at}">{value:.3g}</text>' for x, y, value, at in edges)
    epochs = "".join(
        f'<text x="{x}" y="{_HEIGHT - 3}" text-anchor="{at}">{epoch}</text>'
        for x, epoch, at in ((_LEFT, f"epoch {first}", "start"), (right, str(last), "end"))
    )
    return f'<text x="{_LEFT}" y="11">{escape(printable(title))}{keys}</text>{frame}{numbers}{epochs}{drawn}'
