"""A traced network as calls within calls, each with the operations that it computes.

The trace has a mark before and after each call of a named sublayer (`jaxcnn.inspect.program`). Marks compute nothing;
what stands between two of them is what the layer computes, and the second names its inputs and its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.core import Layer, numbered
from jaxcnn.inspect.receptive_field import Field, anywhere, through
from jaxcnn.ops.jaxpr import Line, Step, every, inner

mark = Primitive("jaxcnn_mark")
"""Before a call, with `inputs=None`; after it, on its inputs and outputs, `inputs` being the number of inputs (-1 after
an error). `call` is the call's number in the trace. With `front`, an axis of `vmap` is moved to the front."""
mark.multiple_results = True
mark.def_impl(lambda *arrays, **params: [])
mark.def_abstract_eval(lambda *arrays, **params: [])
ad.primitive_jvps[mark] = lambda primals, tangents, **params: (mark.bind(*primals, **params), [])
mlir.register_lowering(mark, lambda context, *arrays, **params: [])

output = Primitive("jaxcnn_output")
"""The output of a layer as a variable of its own, also where the layer returns its input as it is."""
output.def_impl(lambda x, front: x)
output.def_abstract_eval(lambda x, front: x)
ad.deflinear2(output, lambda ct, x, front: [ct])
mlir.register_lowering(output, lambda context, x, front: [x])


def _front(x: Any, dim: int | None) -> Any:
    return x if dim is None else jnp.moveaxis(x, dim, 0)


def _mark_batch(arrays: Sequence[Any], dims: Sequence[int | None], **params: Any) -> tuple[list[Any], list[Any]]:
    moved = map(_front, arrays, dims) if params["front"] else arrays
    return mark.bind(*moved, **params), []


def _output_batch(arrays: Sequence[Any], dims: Sequence[int], front: bool) -> tuple[Any, int]:
    (x,), (dim,) = arrays, dims
    return (output.bind(_front(x, dim), front=front), 0) if front else (output.bind(x, front=front), dim)


batching.primitive_batchers[mark] = _mark_batch
batching.primitive_batchers[output] = _output_batch


@dataclass
class Met:
    """A call as the trace met it: its path, the layer, and the structures of its inputs and its output."""

    path: tuple[str, ...]
    layer: Layer
    trees: tuple[Any, Any] = (None, None)


@dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
      path, layer: which layer.
      inputs, outputs: the numbers of its values; None for a constant.
      steps: its operations and the calls in it, in the order of computation.
    """

    path: tuple[str, ...]
    layer: Layer
    inputs: tuple[int | None, ...] = ()
    outputs: tuple[int | None, ...] = ()
    steps: list[Step | Call] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [step for step in self.steps if isinstance(step, Call)]

    @property
    def own(self) -> list[Step]:
        """What the layer itself computes, outside the layers in it."""
        return [step for step in self.steps if isinstance(step, Step)]

    @property
    def nothing(self) -> bool:
        """Whether it is a plain function that returned its input as it is."""
        return self.layer.is_function and not self.steps and self.inputs == self.outputs

    def ops(self) -> Iterator[Step]:
        """All operations, those of the layers inside included."""
        for step in self.steps:
            if isinstance(step, Step):
                yield step
            else:
                yield from step.ops()

    def inside(self) -> Iterator[Call]:
        """The calls inside, in the order in which they end."""
        for call in self.calls:
            yield from call.inside()
            yield call


@dataclass(eq=False)
class Outline:
    """The calls of a traced network, and its values.

    Attributes:
      root: the call of the network itself.
      values: the shape and dtype of each value.
      ops: all operations in order.
      params, state: the shapes of the variables.
      weights, inputs, outputs: the numbers of the values that are parameters, that are given, that are returned.
      present: the values that exist whatever is computed: variables and constants.
      kept: the values that go into a part that is computed again in the backward pass.
    """

    root: Call
    values: list[Any]
    ops: list[Step]
    params: Any
    state: Any
    weights: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    present: frozenset[int]
    kept: frozenset[int]

    def calls(self) -> dict[str, Call]:
        """The calls by the names that `activations` gives them, in the order in which they end."""
        found = list(self.root.inside())
        return dict(zip(numbered(call.path for call in found), found, strict=True))

    def fields(self, ops: Iterable[Step], start: Mapping[int, Field]) -> dict[int, Field]:
        """The receptive fields of what these operations give, in the values of `start`, by the value's number."""
        found: dict[int, Field | None] = dict(start)
        for op in ops:
            ins = [None if i is None else found.get(i) for i in op.inputs]
            if all(f is None for f in ins):
                continue
            if op.eqn is None:
                shapes = [() if i is None else self.values[i].shape for i in op.inputs]
                found |= dict.fromkeys(op.outputs, anywhere(ins, shapes))
            else:
                found |= dict(zip(op.outputs, through(op.eqn, ins), strict=True))
        return {i: f for i, f in found.items() if f is not None}


def read(traced: ClosedJaxpr, met: Sequence[Met], model: Layer) -> tuple[Call, Line, list[Step]]:
    """The call of the network with all calls in it, the line that it was read from, and the operations in order.

    Calls, loops and parts that are computed again are opened as far as there are layers inside.
    """
    line = Line.of(traced, holds_marks)
    root = Call((), model)
    around, ops = [root], []
    same: dict[int, int | None] = {}

    def source(numbers: Iterable[int | None]) -> tuple[int | None, ...]:
        return tuple(i if i is None else same.get(i, i) for i in numbers)

    for step in line.steps:
        eqn, ins = step.eqn, source(step.inputs)
        if eqn is not None and eqn.primitive is mark:
            _enter_or_leave(around, ins, met, **eqn.params)
        elif eqn is not None and eqn.primitive is output:
            same[step.outputs[0]] = ins[0]
        else:
            ops.append(replace(step, inputs=ins))
            around[-1].steps.append(ops[-1])
    line.outputs = list(source(line.outputs))
    line.kept = [i for i in source(line.kept) if i is not None]
    return root, line, ops


def _enter_or_leave(
    around: list[Call], arrays: tuple[int | None, ...], met: Sequence[Met], call: int, inputs: int | None, front: bool
) -> None:
    if inputs is None:
        begun = Call(met[call].path, met[call].layer)
        around[-1].steps.append(begun)
        around.append(begun)
        return
    ended = around.pop()
    if inputs < 0:
        around[-1].steps.remove(ended)
    else:
        ended.inputs, ended.outputs = arrays[:inputs], arrays[inputs:]


def holds_marks(eqn: JaxprEqn) -> bool:
    """Whether there are layers inside an equation."""
    return any(e.primitive is mark for body in inner(eqn) for e in every(body))


def ends_a_call(eqn: JaxprEqn) -> bool:
    """Whether an equation is the mark after a call that returned."""
    return eqn.primitive is mark and eqn.params["inputs"] is not None and eqn.params["inputs"] >= 0
