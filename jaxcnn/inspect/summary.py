"""A table of a network's layers, measured from the computation itself.

The network is traced once, abstractly. Multiply-accumulates, operations and those of the gradient are counted in the
traced program (`jaxcnn.inspect.cost` has the rules), and the receptive field of each output is followed through it. So
the figures hold for any Layer, a user's own included; none is written down layer by layer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.core import COMPOSITIONS, Layer
from jaxcnn.errors import unknown
from jaxcnn.format import printable
from jaxcnn.inspect.cost import Cost, costs, macs, nbytes
from jaxcnn.inspect.graph import check_suffix, draw
from jaxcnn.inspect.outline import Call, Outline
from jaxcnn.inspect.program import outline_of
from jaxcnn.inspect.receptive_field import Field, image
from jaxcnn.inspect.rows import Row
from jaxcnn.transforms.precision import half_precision

__all__ = ["Row", "Summary", "draw_graph", "macs", "summary"]


@dataclass(frozen=True)
class Summary:
    """The table of a network.

    `print` shows it, `to_json` and `to_markdown` give it as text, `draw` as a picture of the graph.

    Attributes:
      layers: the leaves in the order of computation.
      params, macs: of the whole network; every column's total is in `total`.
      total: the row of the network, with its layers nested in `children`.
      params_bytes: the memory of the parameters.
      depth: how deep the table and the picture go: 1 shows the layers of the network itself, each with the sums of
        what is inside; None shows all.
      outline: the traced network, which `draw` draws.
    """

    layers: tuple[Row, ...]
    params: int
    macs: int
    total: Row
    params_bytes: int
    depth: int | None = None
    outline: Outline | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> Row:
        """The row of a layer, or of a network of layers, by its name: `table["conv1"].params`.

        Raises:
          UserError: when there is none of this name.
        """
        every = list(_visible(self.total, None, 1))
        for row in every:
            if row.name == name:
                return row
        raise unknown("layer", name, [row.name for row in every])

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that the table shows: networks, each before what is inside, down to `depth`."""
        return tuple(_visible(self.total, self.depth, 1)) or (self.total,)

    def to_json(self) -> str:
        """One JSON object: the leaves as `layers`, the networks among the layers as `groups`, and the totals.

        It is the same whatever the depth. Over `layers`, parameters, multiply-accumulates and the bytes of outputs add
        up to those of the whole; what a network itself computes between its layers, sums and activations, is in the
        operations of its group.
        """
        groups = [row for row in _visible(self.total, None, 1) if row.children]
        return json.dumps(
            {
                "layers": [_record(row) for row in self.layers],
                "params": self.params,
                "macs": self.macs,
                "flops": self.total.flops,
                "backward_flops": self.total.backward_flops,
                "params_bytes": self.params_bytes,
                "activation_bytes": self.total.activation_bytes,
                "held_bytes": self.total.held_bytes,
                "groups": [_record(row) for row in groups],
            }
        )

    def to_markdown(self) -> str:
        """The table in Markdown."""
        header, *body = self._table("&emsp;")
        lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *body]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{text}\n\n{self._memory()}"

    def draw(self, path: str | Path | None = None) -> Any:
        """A picture of the graph, as `jaxcnn.inspect.draw_graph`, down to `depth`."""
        if self.outline is None:
            raise ValueError("only a summary that `summary` made can be drawn")
        return draw(self.outline, self.total, self.depth, path)

    def __str__(self) -> str:
        table = self._table("  ")
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], self._memory()])

    def _repr_html_(self) -> str:
        """The table in HTML: what a notebook shows of a summary."""
        header, *body, total = self._table("\u2003")
        rows = [_cells("th", header), *(_cells("td", line) for line in body), _cells("th", total)]
        return f"<table>{''.join(rows)}</table><p>{escape(self._memory())}</p>"

    def _table(self, indent: str) -> list[list[str]]:
        header = [
            "layer",
            "",
            "output",
            "parameters",
            "MACs",
            "FLOPs",
            "backward",
            "memory",
            "field",
            "stride",
            "offset",
        ]
        rows = self.rows
        lines = [_line(row, indent * (row.depth - 1) + row.name.rsplit("/", 1)[-1]) for row in rows]
        end = _line(self.total, "total")
        end[1], end[2] = "", ""
        return [header, *lines, [*end[:8], "", "", ""]]

    def _memory(self) -> str:
        return (
            f"memory: {_bytes(self.params_bytes)} of parameters, {_bytes(self.total.activation_bytes)} of outputs; "
            f"training holds {_bytes(self.total.held_bytes)} for the backward pass"
        )


def summary(model: Layer, *inputs: Any, train: bool = False, depth: int | None = None) -> Summary:
    """A table of the layers of any model.

    Args:
      model: a Layer.
      *inputs: arrays or `jax.ShapeDtypeStruct`s, with a batch axis; or `(height, width, channels)` for one image of
        floats. Nothing is computed on them. Figures are for the batch given: use one of 1.
      train: whether the pass is a training pass (auxiliary heads, batch statistics and the like). Batch normalization
        then looks at all pixels of an image, and so does what comes after it.
      depth: how many levels of networks the table shows; all of them when not given. `layers` and the JSON hold all.

    Returns:
      A `Summary`, with a row for each layer in the order of computation. A plain function that gives back its input as
      it is has no row.

    Raises:
      LayerError: where the model cannot take these inputs, with the layer where it fails.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth={depth}: expected 1 or more levels, or None for all")
    outline = outline_of(model, *map(_one_image, inputs), train=train)
    rows = _Rows(outline)
    total = rows.row(outline.root)
    if not total.children:
        total = dataclasses.replace(total, name=_kind(model))
    leaves = tuple(row for row in _visible(total, None, 1) if not row.children) or (total,)
    size = sum(nbytes(x) for x in jax.tree.leaves(outline.params))
    return Summary(leaves, total.params, total.macs, total, size, depth, outline)


def _one_image(x: Any) -> Any:
    """A shape as a batch of one array of that shape; anything else as it is."""
    if isinstance(x, tuple) and x and all(isinstance(side, int) for side in x):
        return jax.ShapeDtypeStruct((1, *x), np.float32)
    return x


def draw_graph(
    model: Layer, *inputs: Any, path: str | Path | None = None, depth: int | None = None, train: bool = False
) -> Any:
    """A picture of the graph of any model: its layers as boxes, coloured by kind, and the edges that values take.

    A box has the layer's name, the code that makes it, the shape of its output without the batch, and its parameters.

    Args:
      model, *inputs, train: as in `summary`.
      path: where to save it, as .png, .svg or .pdf. Not saved when not given.
      depth: how many levels of networks are opened; below, a network is one box. All when not given.

    Returns:
      The `matplotlib.figure.Figure`.

    Raises:
      LayerError: where the model cannot take these inputs.
      UserError: for another suffix, or a folder that does not exist, before anything is computed.
    """
    if path is not None:
        check_suffix(path)
    return summary(model, *inputs, train=train, depth=depth).draw(path)


class _Rows:
    """Makes the rows of a traced network's calls."""

    def __init__(self, outline: Outline):
        self.outline = outline
        self.costs = costs(outline)
        self.fields = _fields(outline)
        self.seen: set[tuple[str, ...]] = set()

    def row(self, call: Call) -> Row:
        shared = call.path in self.seen
        self.seen.add(call.path)
        children = [self.row(inner) for inner in call.calls if not inner.nothing]
        own = sum((self.costs[op] for op in call.own), Cost())
        if children and own.macs:  # products between the layers, in the network's own function
            children.append(self._own(call, own))
        arrays = [i for i in call.outputs if i is not None]
        shape = tuple(self.outline.values[arrays[0]].shape) if arrays else ()
        seen = self.fields.get(arrays[0]) if arrays else None
        size = sum(nbytes(self.outline.values[i]) for i in arrays)
        cost = sum((self.costs[op] for op in call.ops()), Cost())
        return Row(
            "/".join(call.path),
            brief(call.layer),
            shape,
            0 if shared else _size(_at(self.outline.params, call.path)),
            cost.macs,
            sum(child.activation_bytes for child in children) if children else size,
            None if seen is None else seen.size,
            None if seen is None else seen.stride,
            None if seen is None else seen.offset,
            cost.flops,
            cost.backward_flops,
            cost.held_bytes,
            shared,
            tuple(children),
        )

    def _own(self, call: Call, cost: Cost) -> Row:
        name = "/".join((*call.path, "(itself)"))
        figures = (cost.macs, 0, None, None, None, cost.flops, cost.backward_flops, cost.held_bytes)
        return Row(name, "its own products", (), 0, *figures)


def _fields(outline: Outline) -> dict[int, Field]:
    """The receptive field of each value that depends on the image: the first input of rank 3 to 5."""
    starts = ((i, image(outline.values[i].shape)) for i in outline.inputs)
    first = next(((i, start) for i, start in starts if start is not None), None)
    return outline.fields(outline.ops, dict([first] if first else []))


def _visible(row: Row, depth: int | None, level: int) -> Iterator[Row]:
    for child in row.children:
        yield child
        if depth is None or level < depth:
            yield from _visible(child, depth, level + 1)


def _kind(layer: Layer) -> str:
    return layer.kind or "layer"


def brief(layer: Layer) -> str:
    """The code that makes a layer on one line, without its initializers; of a plain composition, its name alone."""
    composed = layer.base is not None or layer.call is None or layer.call.maker in COMPOSITIONS
    if layer.kind and layer.sublayers and composed:
        return layer.kind
    while layer.call is not None and layer.call.maker is half_precision:
        layer = layer.call.args[0]
    call = layer.call
    if call is None:
        return repr(layer)
    kwargs = {
        name: value
        for name, value in call.kwargs.items()
        if not (name.endswith("_init") or "initializers" in str(getattr(value, "__module__", "")))
    }
    return " ".join(str(dataclasses.replace(call, kwargs=kwargs)).split())


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return tree


def _size(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# --- as text -----------------------------------------------------------------------------------------------------

_LONGEST = 44


def _record(row: Row) -> dict[str, Any]:
    hidden = {"layer", "children"}
    record = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name not in hidden}
    return {**record, "depth": row.depth, "code": row.layer}


def _line(row: Row, name: str) -> list[str]:
    code = row.layer if len(row.layer) <= _LONGEST else row.layer[: _LONGEST - 1] + "…"
    sizes = [
        _number(row.params) if not row.shared else "shared",
        _number(row.macs),
        _short(row.flops),
        _short(row.backward_flops),
        _bytes(row.activation_bytes) if row.output_shape else "",
    ]
    shape = "x".join(map(str, row.output_shape[1:])) or ("-" if row.output_shape else "")
    places = [_sides(row.receptive_field, "x"), _sides(row.receptive_stride), _sides(row.receptive_offset)]
    return [name, code, shape, *sizes, *places]


def _cells(tag: str, line: Sequence[str]) -> str:
    """A row in HTML: text to the left, numbers to the right."""
    style = ("text-align: left; white-space: nowrap", "text-align: right; white-space: nowrap")
    cells = [f'<{tag} style="{style[i > 2]}">{escape(printable(cell))}</{tag}>' for i, cell in enumerate(line)]
    return f"<tr>{''.join(cells)}</tr>"


def _number(count: int) -> str:
    return f"{count:,}" if count else ""


def _short(count: int) -> str:
    """`1,234`, `12.3 K`, `12.3 M`, `12.3 G`: three digits are enough for operations."""
    if count < 10_000:
        return _number(count)
    power = next(p for p in (1, 2, 3, 4) if count < 999.95 * 1000**p or p == 4)
    return f"{count / 1000**power:,.1f} {'KMGT'[power - 1]}"


def _bytes(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    power = 1 if count < 1024**2 else 2 if count < 1024**3 else 3
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _sides(value: Any, alone: str = "") -> str:
    """`3` for all sides alike, `3x5` for others; `3x3` where it is the size of a window."""
    if value is None:
        return ""
    several = value if isinstance(value, tuple) else (value, value) if alone else (value,)
    return ("x" if alone else ",").join(f"{v:g}" for v in several)
