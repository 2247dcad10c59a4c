"""The graph of the network for the page: boxes and lines with their places, in inches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxcnn.inspect.graph import layout
from jaxcnn.inspect.graph_layout import PAD, SIZE, TITLE, Graph
from jaxcnn.inspect.outline import Outline
from jaxcnn.inspect.rows import Row


def graph(outline: Outline, total: Row, names: Mapping[int, str], depth: int | None) -> dict[str, Any]:
    """The graph of a traced network, down to a depth.

    Args:
      outline, total: the network and its table.
      names: the layers' names on the page, by the `id` of their rows.
      depth: networks inside networks are drawn down to this depth; None for all.

    Returns:
      JSON: the size, the letters' `font`, `pad` and `title` of frames, all in inches. `boxes`, a frame before the boxes
      in it: `kind`, `name` (of a layer), `texts`, and `place`, which is left, top, width, height. `lines`: `points` and
      whether there is an `arrow` at the end.
    """
    found = layout(outline, total, depth)
    record: dict[str, Any] = {"width": found.width, "height": found.height, "font": SIZE / 72, "pad": PAD,
                              "title": TITLE, "boxes": [], "lines": []}  # fmt: skip
    _collect(found, 0.0, 0.0, names, record)
    return record


def _collect(found: Graph, x0: float, y0: float, names: Mapping[int, str], record: dict[str, Any]) -> None:
    for node in found.nodes:
        left, top = x0 + node.x - node.width / 2, y0 + node.y
        if node.thin:
            continue
        record["boxes"].append({
            "kind": node.kind,
            "name": None if node.row is None else names.get(id(node.row)),
            "texts": [[text for text in line if text] for line in node.texts],
            "place": _rounded(left, top, node.width, node.height),
        })  # fmt: skip
        if node.inner is not None:
            _collect(node.inner, left + (node.width - node.inner.width) / 2, top + TITLE, names, record)
    for points, arrow in found.lines:
        record["lines"].append({"points": [_rounded(x0 + x, y0 + y) for x, y in points], "arrow": arrow})


def _rounded(*numbers: float) -> list[float]:
    return [round(float(n), 4) for n in numbers]
