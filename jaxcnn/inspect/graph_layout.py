"""Where the boxes and edges of a graph lie in its picture.

Each frame is laid out by itself and is one box in the frame around it: the boxes in layers by the longest path, long
edges in lanes of their own between them, so that no edge crosses a box; the order of a layer by the mean of its
neighbours (Sugiyama, Tagawa and Toda, 1981), the places by least squares with the distances kept (isotonic regression).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from jaxcnn.inspect.plots import plain
from jaxcnn.inspect.rows import Row

SIZE = 8  # points
PAD, TITLE = 0.12, 0.24  # inches
_GAP_X, _GAP_Y = 0.22, 0.24
_TALL = 11.0  # a picture that is higher is set in columns


@dataclass(eq=False)
class Node:
    """A box, a small node, a frame (with a graph inside), a port of a frame, or a place that a long edge goes through.

    `x` is the middle, `y` the upper edge, from the frame's upper left corner and downwards; `into` and `out_of` say how
    far from the middle edges arrive and leave. `row` is the layer's, of a box or frame of a layer.
    """

    kind: str
    texts: tuple[tuple[str, ...], ...] = ()
    inner: Graph | None = None
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    into: float = 0.0
    out_of: float = 0.0
    row: Row | None = None

    @property
    def thin(self) -> bool:
        return self.kind in ("lane", "port")


@dataclass(eq=False)
class Graph:
    """The nodes in the order of computation and what joins them; of a frame, its ports are the first and the last."""

    nodes: list[Node] = field(default_factory=list)
    edges: dict[tuple[Node, Node], None] = field(default_factory=dict)  # in order, each once
    lines: list[tuple[list[tuple[float, float]], bool]] = field(default_factory=list)  # points; whether with an arrow
    width: float = 0.0
    height: float = 0.0

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def join(self, sources: Sequence[Node], node: Node) -> None:
        self.edges |= {(source, node): None for source in sources if source is not node}


@functools.lru_cache(maxsize=4096)
def text_width(text: str, bold: bool = False) -> float:
    """In inches."""
    if not text:
        return 0.0
    shape = TextPath((0, 0), plain(text), SIZE, prop=FontProperties(weight="bold" if bold else "normal"))
    return float(shape.get_extents().width) / 72


def _line_width(line: Sequence[str], bold: bool) -> float:
    return sum(text_width(t, bold and i == 0) for i, t in enumerate(line)) + 0.14 * (sum(map(bool, line)) - 1)


def _measure(node: Node) -> None:
    if node.inner is not None:
        place(node.inner)
        first, last = node.inner.nodes[0], node.inner.nodes[-1]
        node.width = max(node.inner.width, _line_width(node.texts[0], True)) + 2 * PAD
        node.height = TITLE + node.inner.height
        shift = (node.width - node.inner.width) / 2
        node.into, node.out_of = first.x + shift - node.width / 2, last.x + shift - node.width / 2
    elif node.thin:
        node.width = node.height = 0.0
    else:
        widest = max(_line_width(line, i == 0 and len(node.texts) > 1) for i, line in enumerate(node.texts))
        small = len(node.texts) == 1
        node.height = 0.22 if small else 0.42
        node.width = max(widest + (0.14 if small and len(node.texts[0]) == 1 else 0.24), node.height)


def place(graph: Graph, columns: bool = False) -> None:
    """Gives every node its place, and every edge its points."""
    for node in graph.nodes:
        _measure(node)
    rank = _ranks(graph)
    layers: list[list[Node]] = [[] for _ in range(max(rank.values()) + 1)]
    for node in graph.nodes:
        layers[rank[node]].append(node)
    chains: list[list[Node]] = []
    for a, b in graph.edges:
        lanes = [Node("lane") for _ in range(rank[a] + 1, rank[b])]
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


def _trim(graph: Graph) -> None:
    """Moves everything to the upper left corner, and says how large it is."""
    turns = [point for points, _ in graph.lines for point in points]
    xs = [x for n in graph.nodes for x in (n.x - n.width / 2, n.x + n.width / 2)] + [x for x, _ in turns]
    ys = [y for n in graph.nodes for y in (n.y, n.y + n.height)] + [y for _, y in turns]
    left, top = min(xs), min(ys)
    for node in graph.nodes:
        node.x, node.y = node.x - left, node.y - top
    graph.lines = [([(x - left, y - top) for x, y in points], arrow) for points, arrow in graph.lines]
    graph.width, graph.height = max(xs) - left, max(ys) - top


def _ranks(graph: Graph) -> dict[Node, int]:
    before: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for a, b in graph.edges:
        before[b].append(a)
    rank: dict[Node, int] = {}
    for node in graph.nodes:  # in the order of computation: what comes before a node is there already
        rank[node] = max((rank[a] + 1 for a in before[node]), default=0)
    if graph.nodes[-1].kind == "port":  # the exit stands below everything
        rank[graph.nodes[-1]] = max([rank[node] + 1 for node in graph.nodes[:-1]])
    return rank


def _order(layers: list[list[Node]], links: Sequence[tuple[Node, Node]]) -> None:
    """Orders each layer by the mean of its neighbours' places, down and up; the order with least crossings stays."""
    above: dict[Node, list[Node]] = {}
    below: dict[Node, list[Node]] = {}
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


def _across(layers: list[list[Node]], links: Sequence[tuple[Node, Node]]) -> None:
    """Places the nodes of each layer from left to right, as near below and above their neighbours as there is room."""
    above: dict[Node, list[tuple[Node, float]]] = {}
    below: dict[Node, list[tuple[Node, float]]] = {}
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
    layers: list[list[Node]],
    links: Sequence[tuple[Node, Node]],
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
