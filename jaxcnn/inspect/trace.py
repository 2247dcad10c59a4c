"""One trace of a network in which every layer can be found again.

The network is traced once, abstractly, with a mark before and behind each call of a sublayer. The marks are operations
that compute nothing; between two of them stands what the layer computes, and they name its inputs and its output. What
JAX keeps apart in functions of their own (`jit`, `checkpoint`, loops) is laid out in one line as far as layers are
inside, so that all figures of the summary, and its graph, come from one list of operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend import core as jex
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.core import Layer, Watcher, structs_of, unwrap, watch
from jaxcnn.inspect.receptive_field import LOOPS, Field, anywhere, inner_jaxprs, through
from jaxcnn.ops.backend import general_form
from jaxcnn.transforms import synchronized

# JAX caches what it traces by the axes in scope, among other things. Under an axis of its own a marked trace neither
# takes an unmarked one from the cache nor leaves a marked one there.
_APART = [("jaxcnn summary", 1)]
# JAX's names for `jax.checkpoint`.
_AGAIN = frozenset({"remat", "remat2", "checkpoint"})

_mark = Primitive("jaxcnn_mark")
_mark.multiple_results = True
_mark.def_impl(lambda *arrays, **params: [])
_mark.def_abstract_eval(lambda *arrays, **params: [])
ad.primitive_jvps[_mark] = lambda primals, tangents, **params: (_mark.bind(*primals, **params), [])
batching.primitive_batchers[_mark] = lambda arrays, dims, **params: (_mark.bind(*arrays, **params), [])
mlir.register_lowering(_mark, lambda context, *arrays, **params: [])


@dataclass(eq=False)
class Op:
    """One operation.

    Attributes:
      eqn: JAX's equation; None at the border of a loop, where values go in or out and nothing is computed.
      inputs, outputs: numbers of values in `Trace.values`; None for a constant that stands in the code.
      times: how often it runs.
      again: whether the backward pass computes it once more (`jax.checkpoint`).
    """

    eqn: Any
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    times: int = 1
    again: bool = False


@dataclass(eq=False)
class Call:
    """One call of a layer: its path, the layer, its values, and what happens in it in the order of computation."""

    path: tuple[str, ...]
    layer: Layer
    inputs: tuple[int | None, ...] = ()
    outputs: tuple[int | None, ...] = ()
    steps: list[Op | Call] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [step for step in self.steps if isinstance(step, Call)]

    @property
    def own(self) -> list[Op]:
        """What the layer itself computes, outside the layers in it."""
        return [step for step in self.steps if isinstance(step, Op)]

    @property
    def nothing(self) -> bool:
        """Whether it is a plain function that gave back its input as it is."""
        return self.layer.is_function and not self.steps and self.inputs == self.outputs

    def ops(self) -> Iterator[Op]:
        """All operations, those of the layers inside included."""
        for step in self.steps:
            if isinstance(step, Op):
                yield step
            else:
                yield from step.ops()


@dataclass(eq=False)
class Trace:
    """A traced network.

    Attributes:
      root: the call of the network itself.
      values: the shape and dtype of each value.
      ops: all operations in order, each with the call that it belongs to.
      params, state: the shapes of the variables.
      weights, inputs, outputs: the values that are parameters, that are given, that are returned.
      present: the values that are there whatever is computed: variables, and constants that stand in the code.
      kept: the values that go into a part that is computed again in the backward pass.
    """

    root: Call
    values: list[Any]
    ops: list[tuple[Op, Call]]
    params: Any
    state: Any
    weights: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    present: frozenset[int]
    kept: frozenset[int]


def trace(model: Layer, *inputs: Any, train: bool = False) -> Trace:
    """The computation of a model on inputs of these shapes.

    Raises:
      LayerError: where the model cannot take them.
    """
    structs = structs_of(inputs)
    model = unwrap(model, synchronized)  # there is no mapped axis here
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, *structs)
    met: list[Call] = []

    class Mark(Watcher):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[tuple[int, list[list[Any]]]] = []

        def enter(self, name: str) -> None:
            super().enter(name)
            self.open.append((len(met), []))
            _mark.bind(call=len(met), inputs=None)
            met.append(Call(self.path, model))

        def called(self, layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
            number, arrays = self.open[-1]
            met[number].layer = layer
            arrays += [_arrays(inputs), _arrays(output)]

        def exit(self) -> None:
            super().exit()
            number, arrays = self.open.pop()
            if arrays:
                _mark.bind(*arrays[0], *arrays[1], call=number, inputs=len(arrays[0]))
            else:  # it was left by an error, which the network may catch
                _mark.bind(call=number, inputs=-1)

    def run(params: Any, state: Any, key: Any, *xs: Any) -> Any:
        with watch(Mark()):
            return model.apply(params, state, *xs, train=train, key=key)[0]

    with general_form():
        traced = jax.make_jaxpr(run, axis_env=_APART)(params, state, key, *structs)
    reader = _Reader(met, Call((), model))
    start = [reader.value(var.aval) for var in traced.jaxpr.invars]
    weights = tuple(start[: len(jax.tree.leaves(params))])
    variables = start[: len(jax.tree.leaves((params, state)))]
    given = tuple(start[len(start) - len(jax.tree.leaves(structs)) :])
    outputs = tuple(reader.read(traced.jaxpr, start))
    root = reader.inside[0]
    root.inputs, root.outputs = given, outputs
    present, kept = frozenset(variables + reader.constants), frozenset(reader.kept)
    return Trace(root, reader.values, reader.ops, params, state, weights, given, outputs, present, kept)


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]


class _Reader:
    """Lays a traced function out as one list of operations, each in the call of the layer that it stands in."""

    def __init__(self, met: Sequence[Call], root: Call):
        self.met = met
        self.values: list[Any] = []
        self.constants: list[int] = []
        self.kept: list[int] = []
        self.ops: list[tuple[Op, Call]] = []
        self.inside = [root]

    def value(self, aval: Any) -> int:
        self.values.append(aval)
        return len(self.values) - 1

    def add(self, op: Op) -> None:
        self.inside[-1].steps.append(op)
        self.ops.append((op, self.inside[-1]))

    def read(self, jaxpr: Any, start: Sequence[int], times: int = 1, again: bool = False) -> list[int | None]:
        known = dict(zip(jaxpr.invars, start, strict=True))
        constants = {var: self.value(var.aval) for var in jaxpr.constvars}
        known |= constants
        self.constants += constants.values()

        def get(var: Any) -> int | None:
            return None if isinstance(var, jex.Literal) else known[var]

        for eqn in jaxpr.eqns:
            ins = tuple(get(var) for var in eqn.invars)
            if eqn.primitive is _mark:
                self.mark(ins, **eqn.params)
                continue
            inner = list(inner_jaxprs(eqn)) if _marked(eqn) else []
            if not inner:
                outs = [self.value(var.aval) for var in eqn.outvars]
                self.add(Op(eqn, ins, tuple(outs), times, again))
            elif plain_call(eqn, inner):
                given = [self.value(v.aval) if i is None else i for v, i in zip(eqn.invars, ins, strict=True)]
                if eqn.primitive.name in _AGAIN:
                    self.kept += given
                found = self.read(inner[0], given, times, again or eqn.primitive.name in _AGAIN)
                outs = [self.value(v.aval) if i is None else i for v, i in zip(eqn.outvars, found, strict=True)]
            else:
                ends: list[int | None] = []
                for body in inner:
                    given = [self.value(var.aval) for var in body.invars]
                    self.add(Op(None, ins, tuple(given)))
                    ends += self.read(body, given, times * runs(eqn), again)
                outs = [self.value(var.aval) for var in eqn.outvars]
                self.add(Op(None, tuple(ends), tuple(outs)))
            known |= dict(zip(eqn.outvars, outs, strict=True))
        return [get(var) for var in jaxpr.outvars]

    def mark(self, arrays: tuple[int | None, ...], call: int, inputs: int | None) -> None:
        if inputs is None:
            begun = Call(self.met[call].path, self.met[call].layer)
            self.inside[-1].steps.append(begun)
            self.inside.append(begun)
            return
        ended = self.inside.pop()
        if inputs < 0:
            self.inside[-1].steps.remove(ended)
        else:
            ended.inputs, ended.outputs = arrays[:inputs], arrays[inputs:]


def runs(eqn: Any) -> int:
    """How often what is inside an operation runs. Of a `while` nobody knows, and it counts once."""
    return eqn.params["length"] if eqn.primitive.name == "scan" else 1


def plain_call(eqn: Any, inner: Sequence[Any]) -> bool:
    """Whether an operation is one function, `inner`, called once on its operands."""
    return (
        eqn.primitive.name not in LOOPS
        and len(inner) == 1
        and len(inner[0].invars) == len(eqn.invars)
        and len(inner[0].outvars) == len(eqn.outvars)
    )


def _marked(eqn: Any) -> bool:
    return any(e.primitive is _mark or _marked(e) for jaxpr in inner_jaxprs(eqn) for e in jaxpr.eqns)


def fields_of(traced: Trace, ops: Iterable[Op], start: Mapping[int, Field]) -> dict[int, Field]:
    """The receptive fields, in the values of `start`, of what these operations give, by the number of the value."""
    found: dict[int, Field | None] = dict(start)
    for op in ops:
        ins = [None if i is None else found.get(i) for i in op.inputs]
        if all(f is None for f in ins):
            continue
        if op.eqn is None:
            shapes = [() if i is None else traced.values[i].shape for i in op.inputs]
            found |= dict.fromkeys(op.outputs, anywhere(ins, shapes))
        else:
            found |= dict(zip(op.outputs, through(op.eqn, ins), strict=True))
    return {i: f for i, f in found.items() if f is not None}
