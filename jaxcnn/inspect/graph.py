"""A picture of a network's graph: a box for each layer, and the edges that the values take.

The edges come from the traced computation: a shortcut, a branch or a layer used twice is drawn because a value really
goes there. A network inside is a frame around its layers, or one box where the picture goes no deeper. What a network
computes between its layers (a sum, a concatenation, an activation) is a small node.

Each frame is laid out by itself and stands as one box in the one around it: the boxes in layers by the longest path,
long edges in lanes of their own between them, so that no edge crosses a box; the order of a layer by the mean of its
neighbours (Sugiyama, Tagawa and Toda, 1981), the places by least squares with the distances kept (isotonic regression).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from jaxcnn.atomic import put
from jaxcnn.errors import UserError
from jaxcnn.inspect.plots import Figure, plain
from jaxcnn.inspect.receptive_field import inner_jaxprs
from jaxcnn.inspect.rows import Row
from jaxcnn.inspect.trace import Call, Op, Trace
from jaxcnn.ops import cpu

SUFFIXES = (".png", ".svg", ".pdf")

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
_SIGNS = {
    "add": "+",
    "add_any": "+",
    "sub": "-",
    "mul": "\u00d7",
    "div": "/",
    "concatenate": "concat",
    "dot_general": "@",
}
_FUNCTIONS = {"tanh": "tanh", "logistic": "sigmoid"}

_SIZE = 8  # points
_GAP_X, _GAP_Y, _PAD, _TITLE = 0.22, 0.24, 0.12, 0.24  # inches
_TALL = 11.0  # a picture that is higher is set in columns
_MOST_PIXELS = 20_000


def check_suffix(path: str | Path) -> None:
    """Checks that a picture can be saved under this name.

    Raises:
      UserError: for a suffix other than .png, .svg or .pdf, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a graph is drawn as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")


def draw(trace: Trace, total: Row, depth: int | None, path: str | Path | None) -> Figure:
    """The picture of a traced network, whose rows are `total` and its children; saved under `path` when given."""
    if path is not None:
        check_suffix(path)
    graph = _Builder(trace, depth).graph(trace.root, total)
    _place(graph, columns=True)
    figure = _paint(graph, f"{total.layer}: {total.params:,} parameters, {total.macs:,} MACs")
    if path is not None:
        dpi = min(150, _MOST_PIXELS / max(figure.get_size_inches()))
        put(path, partial(figure.savefig, format=Path(path).suffix[1:].lower(), dpi=dpi))
    return figure


# --- the graph ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    """A box, a small node, a frame (with a graph inside), a port of a frame, or a place that a long edge goes through.

    `x` is the middle, `y` the upper edge, from the frame's upper left corner and downwards; `into` and `out_of` say how
    far from the middle edges arrive and leave.
    """

    kind: str
    texts: tuple[tuple[str, ...], ...] = ()
    inner: _Graph | None = None
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    into: float = 0.0
    out_of: float = 0.0

    @property
    def thin(self) -> bool:
        return self.kind in ("lane", "port")


@dataclass(eq=False)
class _Graph:
    """The nodes in the order of computation and what joins them; of a frame, its ports are the first and the last."""

    nodes: list[_Node] = field(default_factory=list)
    edges: dict[tuple[_Node, _Node], None] = field(default_factory=dict)  # in order, each once
    lines: list[tuple[list[tuple[float, float]], bool]] = field(default_factory=list)  # points; whether with an arrow
    width: float = 0.0
    height: float = 0.0

    def add(self, node: _Node) -> _Node:
        self.nodes.append(node)
        return node

    def join(self, sources: Sequence[_Node], node: _Node) -> None:
        self.edges |= {(source, node): None for source in sources if source is not node}


class _Builder:
    """Makes the graph of a traced network down to a depth."""

    def __init__(self, trace: Trace, depth: int | None):
        self.trace, self.depth = trace, depth
        self.data = set(trace.inputs)  # the values that depend on an input
        for op, _ in trace.ops:
            if not self.data.isdisjoint(op.inputs):
                self.data.update(op.outputs)

    def graph(self, call: Call, row: Row, level: int = 1) -> _Graph:
        graph = _Graph()
        values = self.trace.values
        source: dict[int, _Node] = {}
        entrance = _Node("port")
        if level == 1:
            for i in call.inputs:
                if i is not None:
                    source[i] = graph.add(_Node("plain", (("input", _shape(values[i].shape)),)))
            entrance = next(iter(source.values()), entrance)
        else:
            graph.add(entrance)

        def sources(numbers: Sequence[int | None]) -> list[_Node]:
            return list(dict.fromkeys(source.get(i, entrance) for i in numbers if i in self.data))

        if not call.calls:  # a leaf by itself
            node = graph.add(self.node(call, row, level))
            graph.join(sources(call.inputs), node)
            source |= {i: node for i in call.outputs if i is not None}
        rows = iter(row.children)
        for step in call.steps if call.calls else []:
            if isinstance(step, Call):
                if step.nothing:
                    continue
                node = graph.add(self.node(step, next(rows), level))
                graph.join(sources(step.inputs), node)
                source |= {i: node for i in step.outputs if i is not None}
                continue
            froms = sources(step.inputs)
            name = _name(step, len(froms))
            if name and froms:
                node = graph.add(_Node("plain" if len(froms) > 1 else "activation", ((name,),)))
                graph.join(froms, node)
                froms = [node]
            if froms:
                source |= dict.fromkeys(step.outputs, froms[0])
        ends = sources(call.outputs)
        if level == 1:
            for i in dict.fromkeys(i for i in call.outputs if i is not None):
                graph.join(sources([i]), graph.add(_Node("plain", (("output", _shape(values[i].shape)),))))
        else:
            graph.join(ends, graph.add(_Node("port")))
        _prune(graph)
        return graph

    def node(self, call: Call, row: Row, level: int) -> _Node:
        inside = bool(call.calls)
        name = row.name.rsplit("/", 1)[-1]
        code = "" if row.layer == name else row.layer if len(row.layer) <= 40 else row.layer[:39] + "…"
        if inside and (self.depth is None or level < self.depth):
            return _Node("frame", ((name, code),), self.graph(call, row, level + 1))
        count = "shared" if row.shared else f"{row.params:,}" if row.params else ""
        return _Node("network" if inside else _kind(call, row), ((name, code), (_shape(row.output_shape), count)))


def _prune(graph: _Graph) -> None:
    """Without small nodes that lead nowhere: what becomes of them is state, or is not used."""
    while True:
        leading = {a for a, _ in graph.edges}
        dead = [n for n in graph.nodes if len(n.texts) == 1 and len(n.texts[0]) == 1 and n not in leading]
        if not dead:
            return
        graph.nodes = [n for n in graph.nodes if n not in dead]
        graph.edges = {edge: None for edge in graph.edges if edge[1] not in dead}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


def _name(op: Op, sources: int) -> str:
    """What a network's own operation is called in the picture; nothing for one that only moves or scales a value."""
    if op.eqn is None:
        return "loop" if sources > 1 else ""
    name = op.eqn.primitive.name
    called = [str(n) for n in _called(op.eqn) if not str(n).startswith("_")]
    functions = [n for n in called if hasattr(jax.nn, n)]
    if sources > 1:
        return _SIGNS.get(name) or next(iter(called), name)
    return _FUNCTIONS.get(name) or next(iter(functions), "")


def _called(eqn: Any) -> Iterator[Any]:
    if "name" in eqn.params:
        yield eqn.params["name"]
    for jaxpr in inner_jaxprs(eqn):
        for inner in jaxpr.eqns:
            yield from _called(inner)


def _kind(call: Call, row: Row) -> str:
    """What a layer is by what it computes, so that it holds for a layer of one's own, too."""
    names = {name for op in call.ops() if op.eqn is not None for name in _primitives(op.eqn)}
    if names & {"conv_general_dilated", cpu.convolution_p.name}:
        return "convolution"
    if "dot_general" in names:
        return "dense"
    if not row.flops or any(n.startswith("random_") for n in names):  # dropout
        return "other"
    if names & {"rsqrt", "sqrt", "pow"}:
        return "normalization"
    return "pooling" if any(n.startswith("reduce_") and n != "reduce_precision" for n in names) else "activation"


def _primitives(eqn: Any) -> Iterator[str]:
    yield eqn.primitive.name
    for jaxpr in inner_jaxprs(eqn):
        for inner in jaxpr.eqns:
            yield from _primitives(inner)


# --- the layout --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _text_width(text: str, bold: bool = False) -> float:
    """In inches."""
    if not text:
        return 0.0
    shape = TextPath((0, 0), plain(text), _SIZE, prop=FontProperties(weight="bold" if bold else "normal"))
    return float(shape.get_extents().width) / 72


def _line_width(line: Sequence[str], bold: bool) -> float:
    return sum(_text_width(t, bold and i == 0) for i, t in enumerate(line)) + 0.14 * (sum(map(bool, line)) - 1)


def _measure(node: _Node) -> None:
    if node.inner is not None:
        _place(node.inner)
        first, last = node.inner.nodes[0], node.inner.nodes[-1]
        node.width = max(node.inner.width, _line_width(node.texts[0], True)) + 2 * _PAD
        node.height = _TITLE + node.inner.height
        shift = (node.width - node.inner.width) / 2
        node.into, node.out_of = first.x + shift - node.width / 2, last.x + shift - node.width / 2
    elif node.thin:
        node.width = node.height = 0.0
    else:
        widest = max(_line_width(line, i == 0 and len(node.texts) > 1) for i, line in enumerate(node.texts))
        small = len(node.texts) == 1
        node.height = 0.22 if small else 0.42
        node.width = max(widest + (0.14 if small and len(node.texts[0]) == 1 else 0.24), node.height)


def _place(graph: _Graph, columns: bool = False) -> None:
    """Gives every node its place, and every edge its points."""
    for node in graph.nodes:
        _measure(node)
    rank = _ranks(graph)
    layers: list[list[_Node]] = [[] for _ in range(max(rank.values()) + 1)]
    for node in graph.nodes:
        layers[rank[node]].append(node)
    chains: list[list[_Node]] = []
    for a, b in graph.edges:
        lanes = [_Node("lane") for _ in range(rank[a] + 1, rank[b])]
        for level, lane in enumerate(lanes, rank[a] + 1):
            layers[level].append(lane)
        chains.append([a, *lanes, b])
    links = [link for chain in chains for link in pairwise(chain)]
    _order(layers, links)
    _across(layers, links)

    level_of = {node: level for level, layer in enumerate(layers) for node in layer}
    gaps = [_GAP_Y] * len(layers)
    for a, b in links:  # wide curves need height, too
        aside = abs(a.x + a.out_of - b.x - b.into)
        gaps[level_of[a]] = max(gaps[level_of[a]], _GAP_Y + min(0.08 * aside, 0.4))
    tops, bottoms, y = [], [], 0.0
    for layer, gap in zip(layers, gaps, strict=True):
        tops.append(y)
        bottoms.append(y + max(node.height for node in layer))
        y = bottoms[-1] + gap
    for top, layer in zip(tops, layers, strict=True):
        for node in layer:
            node.y = top
    moved, joints = _columns(layers, links, tops, bottoms) if columns else ([(0, 0.0)] * len(layers), {})
    # In its own layer an edge goes straight down, past whatever is higher there; it turns between two layers.
    for chain in chains:
        points: list[tuple[float, float]] = []
        for i, node in enumerate(chain):
            level = level_of[node]
            dy = moved[level][1]
            if i > 0 and (level - 1) in joints and moved[level - 1] != moved[level]:
                points += joints[level - 1]
            x_in, x_out = node.x + node.into, node.x + node.out_of
            top, bottom = tops[level] - dy, bottoms[level] - dy
            if i > 0:
                points += [(x_in, top), (x_in, node.y)] if not node.thin else [(x_in, top)]
            if i < len(chain) - 1:
                points += [(x_out, node.y + node.height), (x_out, bottom)]
        graph.lines.append((points, chain[-1].kind != "port"))
    _trim(graph)


def _trim(graph: _Graph) -> None:
    """Moves everything to the upper left corner, and says how large it is."""
    turns = [point for points, _ in graph.lines for point in points]
    xs = [x for n in graph.nodes for x in (n.x - n.width / 2, n.x + n.width / 2)] + [x for x, _ in turns]
    ys = [y for n in graph.nodes for y in (n.y, n.y + n.height)] + [y for _, y in turns]
    left, top = min(xs), min(ys)
    for node in graph.nodes:
        node.x, node.y = node.x - left, node.y - top
    graph.lines = [([(x - left, y - top) for x, y in points], arrow) for points, arrow in graph.lines]
    graph.width, graph.height = max(xs) - left, max(ys) - top


def _ranks(graph: _Graph) -> dict[_Node, int]:
    before: dict[_Node, list[_Node]] = {node: [] for node in graph.nodes}
    for a, b in graph.edges:
        before[b].append(a)
    rank: dict[_Node, int] = {}
    for node in graph.nodes:  # in the order of computation: what comes before a node is there already
        rank[node] = max((rank[a] + 1 for a in before[node]), default=0)
    if graph.nodes[-1].kind == "port":  # the exit stands below everything
        rank[graph.nodes[-1]] = max([rank[node] + 1 for node in graph.nodes[:-1]])
    return rank


def _order(layers: list[list[_Node]], links: Sequence[tuple[_Node, _Node]]) -> None:
    """Orders each layer by the mean of its neighbours' places, down and up; the order with least crossings stays."""
    above: dict[_Node, list[_Node]] = {}
    below: dict[_Node, list[_Node]] = {}
    for a, b in links:
        above.setdefault(b, []).append(a)
        below.setdefault(a, []).append(b)
    place = {node: float(i) for layer in layers for i, node in enumerate(layer)}

    def crossings() -> int:
        total = 0
        for layer in layers[:-1]:
            ends = [(place[a], place[b]) for a in layer for b in below.get(a, [])]
            total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
        return total

    best, least = [list(layer) for layer in layers], crossings()
    for sweep in range(8):
        if least == 0:
            break
        near, order = (above, layers) if sweep % 2 == 0 else (below, layers[::-1])
        for layer in order:
            mean = {n: float(np.mean([place[m] for m in near[n]])) if near.get(n) else place[n] for n in layer}
            layer.sort(key=mean.__getitem__)
            place |= {node: float(i) for i, node in enumerate(layer)}
        if (now := crossings()) < least:
            best, least = [list(layer) for layer in layers], now
    layers[:] = best


def _across(layers: list[list[_Node]], links: Sequence[tuple[_Node, _Node]]) -> None:
    """Places the nodes of each layer from left to right, as near below and above their neighbours as there is room."""
    above: dict[_Node, list[tuple[_Node, float]]] = {}
    below: dict[_Node, list[tuple[_Node, float]]] = {}
    for a, b in links:
        above.setdefault(b, []).append((a, a.out_of - b.into))
        below.setdefault(a, []).append((b, b.into - a.out_of))
    for near in (above, below):  # what has boxes for neighbours follows them, and long edges bend
        for node, pulls in near.items():
            boxes = [pull for pull in pulls if pull[0].kind != "lane"]
            near[node] = boxes if boxes and node.kind != "lane" else pulls
    offsets = []
    for layer in layers:
        steps = [(a.width + b.width) / 2 + _GAP_X for a, b in pairwise(layer)]
        offsets.append(np.concatenate([[0.0], np.cumsum(steps)]))
        for node, x in zip(layer, offsets[-1] - offsets[-1][-1] / 2, strict=True):
            node.x = float(x)
    numbered = list(zip(layers, offsets, strict=True))
    for sweep in range(15):
        down = sweep % 2 == 0
        for layer, offset in numbered if down else numbered[::-1]:
            wanted = [
                float(np.mean([other.x + shift for other, shift in (above if down else below).get(n, [(n, 0.0)])]))
                for n in layer
            ]
            weights = [1e-6 if node.kind == "lane" else 1.0 for node in layer]  # lanes make room for boxes
            for node, x in zip(layer, _isotonic(np.array(wanted) - offset, weights) + offset, strict=True):
                node.x = float(x)


def _isotonic(values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The non-decreasing numbers nearest to `values` by weighted least squares: neighbours out of order are pooled."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        pools.append((float(value), weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (m, w, n), (v, u, k) = pools[-2:]
            pools[-2:] = [((m * w + v * u) / (w + u), w + u, n + k)]
    return np.concatenate([np.full(n, mean) for mean, _, n in pools])


def _columns(
    layers: list[list[_Node]],
    links: Sequence[tuple[_Node, _Node]],
    tops: Sequence[float],
    bottoms: Sequence[float],
) -> tuple[list[tuple[int, float]], dict[int, list[tuple[float, float]]]]:
    """Sets a high picture in columns, cut where a single edge goes on.

    Returns:
      For each layer its column and by how much it moved up, and the points by which the edge behind the last layer of a
      column reaches the next one.
    """
    stay: list[tuple[int, float]] = [(0, 0.0)] * len(layers)
    height = bottoms[-1]
    width = max(sum(n.width + _GAP_X for n in layer) for layer in layers)
    count = round(math.sqrt(1.4 * height / (width + 0.5)))
    if height <= _TALL or count < 2:
        return stay, {}
    level_of = {node: level for level, layer in enumerate(layers) for node in layer}
    through = [0] * len(layers)
    for a, _ in links:
        through[level_of[a]] += 1

    def filled(limit: float) -> list[list[int]]:
        """Columns of at most this height, each as full as can be."""
        ends = [level for level in range(len(layers)) if through[level] == 1 or level == len(layers) - 1]
        result: list[list[int]] = [[]]
        for begin, end in pairwise([-1, *ends]):
            if result[-1] and bottoms[end] - tops[result[-1][0]] > limit:
                result.append([])
            result[-1] += range(begin + 1, end + 1)
        return result

    low, high = 0.0, height  # the lowest picture of so many columns
    for _ in range(20):
        limit = (low + high) / 2
        low, high = (limit, high) if len(filled(limit)) > count else (low, limit)
    columns = filled(high)
    moved, joints, left = list(stay), {}, 0.0
    for number, levels in enumerate(columns):
        nodes = [n for level in levels for n in layers[level]]
        shift = left - min(n.x - n.width / 2 for n in nodes)
        for node in nodes:
            node.x, node.y = node.x + shift, node.y - tops[levels[0]]
        for level in levels:
            moved[level] = (number, tops[levels[0]])
        if number > 0:
            before = columns[number - 1]
            ((a, b),) = [(a, b) for a, b in links if level_of[a] == before[-1]]
            foot = bottoms[before[-1]] - tops[before[0]] + 0.16
            middle, x = left - 0.3, b.x + b.into
            joints[before[-1]] = [(a.x + a.out_of, foot), (middle, foot), (middle, -0.2), (x, -0.2)]
        left = max(n.x + n.width / 2 for n in nodes) + 0.6
    return moved, joints


# --- the picture -------------------------------------------------------------------------------------------------


def _paint(graph: _Graph, title: str) -> Figure:
    margin = 0.25
    kinds = [kind for kind in _COLOURS if kind in set(_kinds(graph))]
    legend = sum(_text_width(kind) + 0.42 for kind in kinds)
    width = max(graph.width, _text_width(title, True) * (_SIZE + 1) / _SIZE, legend) + 2 * margin
    height = graph.height + 2 * margin + 0.32 + 0.36
    # Whatever rcParams say: it has one axes, placed. (Its stubs lack "none".)
    figure = Figure(figsize=(width, height), dpi=100, layout="none")  # type: ignore[arg-type]
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(margin, margin, plain(title), fontsize=_SIZE + 1, weight="bold", va="center")
    _paint_graph(axes, graph, (width - graph.width) / 2, margin + 0.32)
    x, y = margin, height - margin
    for kind in kinds:
        inside, border = _COLOURS[kind]
        _box(axes, x, y - 0.06, 0.14, 0.12, inside, border, 0.02)
        axes.text(x + 0.2, y, plain(kind), fontsize=_SIZE, va="center_baseline")
        x += _text_width(kind) + 0.42
    return figure


def _kinds(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield node.kind
        if node.inner is not None:
            yield from _kinds(node.inner)


def _box(axes: Any, x: float, y: float, width: float, height: float, inside: str, border: str, round_: float) -> None:
    style = f"round,pad=0,rounding_size={min(round_, height / 2)}"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=inside, edgecolor=border, linewidth=0.8)
    )


def _paint_graph(axes: Any, graph: _Graph, x0: float, y0: float) -> None:
    for node in graph.nodes:
        left, top = x0 + node.x - node.width / 2, y0 + node.y
        if node.inner is not None:
            _box(axes, left, top, node.width, node.height, *_FRAME, 0.08)
            _texts(axes, node.texts[0], left + _PAD, left + node.width - _PAD, top + _TITLE / 2, True)
            axes.plot([left, left + node.width], [top + _TITLE] * 2, color=_FRAME[1], linewidth=0.8)
            shift = (node.width - node.inner.width) / 2
            _paint_graph(axes, node.inner, left + shift, top + _TITLE)
        elif not node.thin:
            colours = _COLOURS.get(node.kind, _PLAIN)
            small = len(node.texts) == 1
            _box(axes, left, top, node.width, node.height, *colours, 0.2 if small else 0.05)
            if small and len(node.texts[0]) == 1:
                axes.text(x0 + node.x, top + node.height / 2, plain(node.texts[0][0]), fontsize=_SIZE,
                          ha="center", va="center_baseline")  # fmt: skip
                continue
            for i, line in enumerate(node.texts):
                y = top + (i + 0.5) * node.height / len(node.texts) + (0.02 if i == 0 and not small else 0)
                _texts(axes, line, left + 0.08, left + node.width - 0.08, y, i == 0)
    for points, arrow in graph.lines:
        _line(axes, [(x0 + x, y0 + y) for x, y in points], arrow)


def _texts(axes: Any, line: Sequence[str], left: float, right: float, y: float, bold: bool) -> None:
    first, *rest = line
    axes.text(left, y, plain(first), fontsize=_SIZE, weight="bold" if bold else "normal", va="center_baseline")
    if rest:
        axes.text(right, y, plain(rest[0]), fontsize=_SIZE, color="#444444", ha="right", va="center_baseline")


def _line(axes: Any, points: list[tuple[float, float]], arrow: bool) -> None:
    """Straight on where it goes up, down or across, and an S between lanes."""
    points = [points[0], *(b for a, b in pairwise(points) if math.dist(a, b) > 1e-6)]
    if len(points) < 2:
        return
    vertices, codes = [points[0]], [Outline.MOVETO]
    for (x, y), (u, v) in pairwise(points):
        if abs(x - u) < 1e-6 or abs(y - v) < 1e-6:
            vertices.append((u, v))
            codes.append(Outline.LINETO)
        else:
            half = (y + v) / 2
            vertices += [(x, half), (u, half), (u, v)]
            codes += [Outline.CURVE4] * 3
    axes.add_patch(
        PathPatch(Outline(vertices, codes), fill=False, edgecolor=_LINE, linewidth=0.9, joinstyle="round", zorder=1.5)
    )
    if arrow:
        x, y = points[-1]
        head = [(x, y), (x - 0.035, y - 0.075), (x + 0.035, y - 0.075)]
        axes.add_patch(Polygon(head, closed=True, facecolor=_LINE, edgecolor="none", zorder=1.6))
