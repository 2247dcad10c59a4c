"""A table of a network's layers, measured from the computation itself.

The network is traced once, abstractly. Multiply-accumulates are counted in the traced operations, and the receptive
field of each output is followed through them, so that the figures hold for any Layer, a user's own included; nothing
is typed in layer by layer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import jax

from jaxcnn.core import Layer, Watcher, structs_of, watch
from jaxcnn.inspect.receptive_field import fields, inner_jaxprs
from jaxcnn.ops import onednn


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
      name: its path, `conv1` or `block1/conv2`.
      layer: the code that makes it.
      output_shape: of its output (the first array of it), with the batch.
      params: the numbers it learns; 0 for a second use of the same layer.
      macs: multiply-accumulates of matrix products and convolutions in one forward pass of the batch.
      activation_bytes: the size of its output.
      receptive_field: how many pixels of the input one output value depends on, along each side (one number where the
        sides are equal); None where the input has no spatial axes, or none is left to follow.
    """

    name: str
    layer: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int
    receptive_field: int | tuple[int, ...] | None


@dataclass(frozen=True)
class Summary:
    """The rows, and the totals of the whole network. `print` shows the table."""

    layers: tuple[Row, ...]
    params: int
    macs: int

    def to_json(self) -> str:
        rows = [{k: v for k, v in asdict(row).items() if k != "layer"} for row in self.layers]
        return json.dumps({"layers": rows, "params": self.params, "macs": self.macs})

    def __str__(self) -> str:
        header = ("layer", "", "output", "parameters", "MACs", "memory", "receptive field")
        table = [header]
        for r in self.layers:
            table.append(
                (r.name, r.layer, "x".join(map(str, r.output_shape[1:])) or "-", f"{r.params:,}" if r.params else "",
                 f"{r.macs:,}" if r.macs else "", _bytes(r.activation_bytes), _field(r.receptive_field))
            )  # fmt: skip
        table.append(("total", "", "", f"{self.params:,}", f"{self.macs:,}", "", ""))
        widths = [max(len(row[i]) for row in table) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in table
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:-1]), rule, lines[-1].rstrip()])


def summary(model: Layer, *inputs: Any, train: bool = False) -> Summary:
    """A table of the layers of any model.

    Args:
      model: a Layer.
      *inputs: arrays or `jax.ShapeDtypeStruct`s, with a batch axis. Nothing is computed on them. Figures are for the
        batch given: use one of 1.
      train: whether the pass is a training pass (auxiliary heads and the like).

    Returns:
      A `Summary`, with a row for each leaf layer in the order of computation.

    Raises:
      LayerError: where the model cannot take these inputs, with the layer where it fails.
    """
    structs = structs_of(inputs)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, *structs)
    calls: list[tuple[tuple[str, ...], Layer, tuple[Any, ...]]] = []
    outputs: list[Any] = []

    class Record(Watcher):
        def called(self, layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
            if not layer.sublayers:
                calls.append((self.path, layer, structs_of(inputs)))
                outputs.append(output)

    def run(params: Any, state: Any, key: Any, *xs: Any) -> list[Any]:
        with watch(Record()):
            output, _ = model.apply(params, state, *xs, train=train, key=key)
        if not calls:  # the model is itself a leaf
            calls.append(((), model, structs))
            outputs.append(output)
        return outputs

    traced, shapes = jax.make_jaxpr(run, return_shape=True)(params, state, key, *structs)
    reached = fields(traced, len(jax.tree.leaves((params, state, key))), structs)
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    at = 0
    for (path, layer, xs), out in zip(calls, shapes, strict=True):
        arrays = jax.tree.leaves(out)
        field, at = reached[at] if arrays else None, at + len(arrays)
        own, own_state = _at(params, path), _at(state, path)
        apply = functools.partial(layer.apply, train=train)
        inner = jax.make_jaxpr(lambda p, s, k, *x, apply=apply: apply(p, s, *x, key=k))(own, own_state, key, *xs)
        rows.append(
            Row(
                "/".join(path) or (layer.source.name if layer.source else "layer"),
                _brief(layer),
                tuple(arrays[0].shape) if arrays else (),
                0 if path in seen else _size(own),
                macs(inner.jaxpr),
                sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays),
                None if field is None else field.size,
            )
        )
        seen.add(path)
    return Summary(tuple(rows), _size(params), macs(traced.jaxpr))


def macs(jaxpr: Any) -> int:
    """The multiply-accumulates of all matrix products and convolutions in a traced function."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
        elif eqn.primitive.name in ("conv_general_dilated", onednn.conv_p.name):
            kernel = eqn.invars[1].aval.shape
            dims = eqn.params.get("dimension_numbers")
            out_features = kernel[-1 if dims is None else dims.rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_features
        else:
            times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            total += times * sum(macs(inner) for inner in inner_jaxprs(eqn))
    return total


def _brief(layer: Layer) -> str:
    """The code that makes a layer on one line, without its initializers."""
    source = layer.source
    if source is not None:
        kwargs = {name: value for name, value in source.kwargs.items() if not name.endswith("_init")}
        return " ".join(str(dataclasses.replace(source, kwargs=kwargs)).split())
    return repr(layer)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _size(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _bytes(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    power = 1 if count < 1024**2 else 2 if count < 1024**3 else 3
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _field(field: int | tuple[int, ...] | None) -> str:
    if field is None:
        return ""
    return f"{field}x{field}" if isinstance(field, int) else "x".join(map(str, field))
