"""Paints a graph whose boxes and edges have their places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

from jaxcnn.inspect.graph_layout import PAD, SIZE, TITLE, Graph, text_width
from jaxcnn.inspect.plots import Figure, placed, plain

# Kinds of layers by what they compute: the colour inside and that of the border.
_COLOURS = {
    "convolution": ("#d6e4f5", "#3b6fb6"),
    "pooling": ("#d9eed6", "#4c9a4a"),
    "dense": ("#fce6cc", "#d9822b"),
    "normalization": ("#e9e0f3", "#7e5aa6"),
    "activation": ("#fcf3c4", "#b59a1c"),
    "network": ("#d8eeee", "#3d8b8b"),
    "other": ("#eeeeee", "#8a8a8a"),
}
_PLAIN, _FRAME, _LINE = ("#ffffff", "#555555"), ("#f7f8fa", "#c3c8d0"), "#555555"


def paint(graph: Graph, title: str) -> Figure:
    margin = 0.25
    kinds = [kind for kind in _COLOURS if kind in set(_kinds(graph))]
    legend = sum(text_width(kind) + 0.42 for kind in kinds)
    width = max(graph.width, text_width(title, True) * (SIZE + 1) / SIZE, legend) + 2 * margin
    height = graph.height + 2 * margin + 0.32 + 0.36
    figure = placed(width, height, dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(margin, margin, plain(title), fontsize=SIZE + 1, weight="bold", va="center")
    _paint_graph(axes, graph, (width - graph.width) / 2, margin + 0.32)
    x, y = margin, height - margin
    for kind in kinds:
        inside, border = _COLOURS[kind]
        _box(axes, x, y - 0.06, 0.14, 0.12, inside, border, 0.02)
        axes.text(x + 0.2, y, plain(kind), fontsize=SIZE, va="center_baseline")
        x += text_width(kind) + 0.42
    return figure


def _kinds(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield node.kind
        if node.inner is not None:
            yield from _kinds(node.inner)


def _box(axes: Any, x: float, y: float, width: float, height: float, inside: str, border: str, round_: float) -> None:
    style = f"round,pad=0,rounding_size={min(round_, height / 2)}"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=inside, edgecolor=border, linewidth=0.8)
    )


def _paint_graph(axes: Any, graph: Graph, x0: float, y0: float) -> None:
    for node in graph.nodes:
        left, top = x0 + node.x - node.width / 2, y0 + node.y
        if node.inner is not None:
            _box(axes, left, top, node.width, node.height, *_FRAME, 0.08)
            _texts(axes, node.texts[0], left + PAD, left + node.width - PAD, top + TITLE / 2, True)
            axes.plot([left, left + node.width], [top + TITLE] * 2, color=_FRAME[1], linewidth=0.8)
            shift = (node.width - node.inner.width) / 2
            _paint_graph(axes, node.inner, left + shift, top + TITLE)
        elif not node.thin:
            colours = _COLOURS.get(node.kind, _PLAIN)
            small = len(node.texts) == 1
            _box(axes, left, top, node.width, node.height, *colours, 0.2 if small else 0.05)
            if small and len(node.texts[0]) == 1:
                axes.text(x0 + node.x, top + node.height / 2, plain(node.texts[0][0]), fontsize=SIZE,
                          ha="center", va="center_baseline")  # fmt: skip
                continue
            for i, line in enumerate(node.texts):
                y = top + (i + 0.5) * node.height / len(node.texts) + (0.02 if i == 0 and not small else 0)
                _texts(axes, line, left + 0.08, left + node.width - 0.08, y, i == 0)
    for points, arrow in graph.lines:
        _line(axes, [(x0 + x, y0 + y) for x, y in points], arrow)


def _texts(axes: Any, line: Sequence[str], left: float, right: float, y: float, bold: bool) -> None:
    first, *rest = line
    axes.text(left, y, plain(first), fontsize=SIZE, weight="bold" if bold else "normal", va="center_baseline")
    if rest:
        axes.text(right, y, plain(rest[0]), fontsize=SIZE, color="#444444", ha="right", va="center_baseline")


def _line(axes: Any, points: list[tuple[float, float]], arrow: bool) -> None:
    """Straight on where it goes up, down or across, and an S between lanes."""
    points = [points[0], *(b for a, b in pairwise(points) if math.dist(a, b) > 1e-6)]
    if len(points) < 2:
        return
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x, y), (u, v) in pairwise(points):
        if abs(x - u) < 1e-6 or abs(y - v) < 1e-6:
            vertices.append((u, v))
            codes.append(Curve.LINETO)
        else:
            half = (y + v) / 2
            vertices += [(x, half), (u, half), (u, v)]
            codes += [Curve.CURVE4] * 3
    axes.add_patch(
        PathPatch(Curve(vertices, codes), fill=False, edgecolor=_LINE, linewidth=0.9, joinstyle="round", zorder=1.5)
    )
    if arrow:
        x, y = points[-1]
        head = [(x, y), (x - 0.035, y - 0.075), (x + 0.035, y - 0.075)]
        axes.add_patch(Polygon(head, closed=True, facecolor=_LINE, edgecolor="none", zorder=1.6))
