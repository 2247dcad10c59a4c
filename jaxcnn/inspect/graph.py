"""A picture of a network's graph: a box for each layer, and the edges that the values take.

The edges come from the traced computation: a shortcut, a branch or a layer used twice is drawn because a value really
goes there. A network inside is a frame around its layers, or one box where the picture goes no deeper. What a network
computes between its layers (a sum, a concatenation, an activation) is a small node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxcnn.atomic import put
from jaxcnn.errors import UserError
from jaxcnn.inspect.graph_layout import Graph, Node, place
from jaxcnn.inspect.graph_picture import paint
from jaxcnn.inspect.outline import Call, Outline
from jaxcnn.inspect.plots import Figure
from jaxcnn.inspect.rows import Row
from jaxcnn.ops import cpu
from jaxcnn.ops.jaxpr import Step, every, inner

SUFFIXES = (".png", ".svg", ".pdf")
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


def draw(outline: Outline, total: Row, depth: int | None, path: str | Path | None) -> Figure:
    """The picture of a traced network, whose rows are `total` and its children; saved under `path` when given."""
    if path is not None:
        check_suffix(path)
    graph = layout(outline, total, depth)
    figure = paint(graph, f"{total.layer}: {total.params:,} parameters, {total.macs:,} MACs")
    if path is not None:
        dpi = min(150, _MOST_PIXELS / max(figure.get_size_inches()))
        write(figure, path, dpi)
    return figure


def write(figure: Figure, path: str | Path, dpi: float = 150) -> None:
    """Writes a figure in the format of the path's suffix, completely or not at all."""
    put(path, partial(figure.savefig, format=Path(path).suffix[1:].lower(), dpi=dpi))


def layout(outline: Outline, total: Row, depth: int | None) -> Graph:
    """The graph of a traced network down to `depth` (None: all of it), with the places of its boxes and edges."""
    graph = _Builder(outline, depth).graph(outline.root, total)
    place(graph, columns=True)
    return graph


class _Builder:
    """Makes the graph of a traced network down to a depth."""

    def __init__(self, outline: Outline, depth: int | None):
        self.outline, self.depth = outline, depth
        self.data = set(outline.inputs)  # the values that depend on an input
        for op in outline.ops:
            if not self.data.isdisjoint(op.inputs):
                self.data.update(op.outputs)

    def graph(self, call: Call, row: Row, level: int = 1) -> Graph:
        graph = Graph()
        values = self.outline.values
        source: dict[int, Node] = {}
        entrance = Node("port")
        if level == 1:
            for i in call.inputs:
                if i is not None:
                    source[i] = graph.add(Node("plain", (("input", _shape(values[i].shape)),)))
            entrance = next(iter(source.values()), entrance)
        else:
            graph.add(entrance)

        def sources(numbers: Sequence[int | None]) -> list[Node]:
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
                node = graph.add(Node("plain" if len(froms) > 1 else "activation", ((name,),)))
                graph.join(froms, node)
                froms = [node]
            if froms:
                source |= dict.fromkeys(step.outputs, froms[0])
        ends = sources(call.outputs)
        if level == 1:
            for i in dict.fromkeys(i for i in call.outputs if i is not None):
                graph.join(sources([i]), graph.add(Node("plain", (("output", _shape(values[i].shape)),))))
        else:
            graph.join(ends, graph.add(Node("port")))
        _prune(graph)
        return graph

    def node(self, call: Call, row: Row, level: int) -> Node:
        inside = bool(call.calls)
        name = row.name.rsplit("/", 1)[-1]
        code = "" if row.layer == name else row.layer if len(row.layer) <= 40 else row.layer[:39] + "…"
        if inside and (self.depth is None or level < self.depth):
            return Node("frame", ((name, code),), self.graph(call, row, level + 1), row=row)
        count = "shared" if row.shared else f"{row.params:,}" if row.params else ""
        texts = ((name, code), (_shape(row.output_shape), count))
        return Node("network" if inside else _kind(call, row), texts, row=row)


def _prune(graph: Graph) -> None:
    """Removes small nodes that lead nowhere: their values become state, or are not used."""
    while True:
        leading = {a for a, _ in graph.edges}
        dead = [n for n in graph.nodes if len(n.texts) == 1 and len(n.texts[0]) == 1 and n not in leading]
        if not dead:
            return
        graph.nodes = [n for n in graph.nodes if n not in dead]
        graph.edges = {edge: None for edge in graph.edges if edge[1] not in dead}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


def _name(op: Step, sources: int) -> str:
    """The name of a network's own operation in the picture; empty for one that only moves or scales a value."""
    if op.eqn is None:
        return "loop" if sources > 1 else ""
    name = op.eqn.primitive.name
    called = [str(e.params["name"]) for e in _within(op.eqn) if "name" in e.params]
    called = [name for name in called if not name.startswith("_")]
    functions = [n for n in called if hasattr(jax.nn, n)]
    if sources > 1:
        return _SIGNS.get(name) or next(iter(called), name)
    return _FUNCTIONS.get(name) or next(iter(functions), "")


def _within(eqn: Any) -> Iterator[Any]:
    """An equation and all those inside it."""
    yield eqn
    for body in inner(eqn):
        yield from every(body)


def _kind(call: Call, row: Row) -> str:
    """The layer's kind, inferred from its operations (works for user layers)."""
    names = {eqn.primitive.name for op in call.ops() if op.eqn is not None for eqn in _within(op.eqn)}
    if names & {"conv_general_dilated", cpu.convolution_p.name}:
        return "convolution"
    if "dot_general" in names:
        return "dense"
    if not row.flops or any(n.startswith("random_") for n in names):  # dropout
        return "other"
    if names & {"rsqrt", "sqrt", "pow"}:
        return "normalization"
    return "pooling" if any(n.startswith("reduce_") and n != "reduce_precision" for n in names) else "activation"
