"""A network's computation, traced once: its calls by path, and its values up to a layer or from a layer on.

The network is traced with marks around each call of a named sublayer (`jaxcnn.inspect.outline`). So this needs nothing
of the network but names for its layers: it works for a user's own functions, and inside `remat`, `freeze`,
`mixed_precision` and `ensemble` (whose layers give their outputs with a first axis of members).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, PyTree, Watcher, numbered, shapes_of, structs_of, unwrap, watch
from jaxcnn.errors import UserError, unknown
from jaxcnn.inspect import outline, rules
from jaxcnn.inspect.outline import Call, Met, Outline
from jaxcnn.inspect.rules import Rule
from jaxcnn.ops.backend import general_form
from jaxcnn.ops.jaxpr import Line, every, inner
from jaxcnn.transforms import synchronized

_traces = itertools.count()


def program(
    model: Layer, params: Any, state: Any, *inputs: Any, train: bool = False, key: jax.Array | None = None
) -> Program:
    """The computation of a network on these inputs; nothing is computed yet.

    Args:
      model, params, state, *inputs: the network and what it is called with: arrays, or `jax.ShapeDtypeStruct`s where
        no values are wanted.
      train, key: as in `Layer.apply`.

    Raises:
      LayerError: where the model cannot take these inputs.

    Example:
      >>> program = cnn.inspect.program(model, params, state, images)
      >>> list(program.calls)                                                # ["conv1", "relu1", ...]
      >>> maps = program.run(until="conv2")                                  # the output of conv2
      >>> scores = program.run(from_="conv2", on=maps.at[..., 3].set(0))     # the network without its map 3
    """
    return Program(model, params, state, inputs, train=train, key=key)


class Program:
    """A network traced on given inputs, as `program` gives it.

    Attributes:
      line: all its equations in one line, with a mark before and after each call.
      marks: where in the line the mark after each call stands, by the layer's name, calls in loops excepted.
    """

    def __init__(
        self,
        model: Layer,
        params: Any,
        state: Any,
        inputs: Sequence[Any],
        *,
        train: bool = False,
        key: Any = None,
        general: bool = False,
    ):
        """`general` traces operations as XLA's own, whatever the machine, and leaves the axes of `vmap` in place."""
        self._met: list[Met] = []
        self._model, self._given = model, (params, state, key, inputs)

        def run(params: Any, state: Any, key: Any, inputs: Any) -> Any:
            with watch(_Marker(self._met, model, front=not general)):
                return model.apply(params, state, *inputs, train=train, key=key)[0]

        # JAX caches what it traces by the axes in scope, among other things. Under an axis of its own a marked trace
        # takes no other from the cache, and leaves none there that another one takes.
        apart = [(f"jaxcnn program {next(_traces)}", 1)]
        with general_form() if general else nullcontext():
            self._traced, shape = jax.make_jaxpr(run, axis_env=apart, return_shape=True)(params, state, key, inputs)
        self._structure = jax.tree.structure(shape)

    # --- calls

    @functools.cached_property
    def outline(self) -> Outline:
        """The calls within calls, each with its operations."""
        root, line, ops = outline.read(self._traced, self._met, self._model)
        structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self._traced.in_avals]
        params, state, _, inputs = jax.tree.unflatten(jax.tree.structure(self._given), structs)
        variables = line.inputs[: len(jax.tree.leaves((params, state)))]
        given = tuple(line.inputs[len(line.inputs) - len(jax.tree.leaves(inputs)) :])
        outputs = tuple(line.outputs)
        root.inputs, root.outputs = given, outputs
        weights = tuple(variables[: len(jax.tree.leaves(params))])
        present, kept = frozenset([*variables, *line.constants]), frozenset(line.kept)
        return Outline(root, line.values, ops, params, state, weights, given, outputs, present, kept)

    @functools.cached_property
    def calls(self) -> dict[str, Call]:
        """The calls of layers by the names that `activations` gives them, in the order in which they end."""
        return self.outline.calls()

    @functools.cached_property
    def line(self) -> Line:
        return Line.of(self._traced, rules.opened)

    @functools.cached_property
    def _ends(self) -> tuple[dict[str, int], set[str]]:
        """Where the marks after calls stand, and the names of the calls inside loops."""
        found: list[tuple[tuple[str, ...], int | None]] = []
        for at, step in enumerate(self.line.steps):
            for eqn in (step.eqn, *(e for body in inner(step.eqn) for e in every(body))):
                if outline.ends_a_call(eqn):
                    found.append((self._met[eqn.params["call"]].path, at if eqn is step.eqn else None))
        names = numbered(path for path, _ in found)
        ends = {name: at for name, (_, at) in zip(names, found, strict=True) if at is not None}
        return ends, set(names) - set(ends)

    @property
    def marks(self) -> dict[str, int]:
        return self._ends[0]

    def find(self, layer: str) -> int:
        """Where in the line the mark after a layer's call stands.

        Raises:
          UserError: for a layer that the network does not have or does not call, with the nearest that it does.
        """
        marks, looped = self._ends
        if layer in marks:
            return marks[layer]
        if layer in looped:
            raise UserError(f"layer {layer!r} is inside a loop (scan, while or cond): it has no output of its own")
        if not marks:
            raise UserError(f"layer {layer!r}: the network has no named layers inside")
        raise unknown("layer", layer, marks)

    def shape(self, layer: str) -> PyTree:
        """The shape and dtype of a layer's output."""
        step, (_, tree), count = self._mark(layer)
        structs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in step.eqn.invars[count:]]
        return jax.tree.unflatten(tree, structs)

    def _mark(self, layer: str) -> tuple[Any, tuple[Any, Any], int]:
        """The mark after a layer's call, the structures of its inputs and output, and how many arrays go in."""
        step = self.line.steps[self.find(layer)]
        return step, self._met[step.eqn.params["call"]].trees, step.eqn.params["inputs"]

    def maps(self, rank: int) -> str | None:
        """The last layer, pools aside, that gives an array of this rank with more than one place, or None."""
        found = None
        for name, at in self.marks.items():
            shapes = [s.shape for s in jax.tree.leaves(self.shape(name))]
            if len(shapes) == 1 and len(shapes[0]) == rank and np.prod(shapes[0][1:-1]) > 1:
                kind = self._met[self.line.steps[at].eqn.params["call"]].layer.kind
                found = found if found and "pool" in kind else name
        return found

    @property
    def relus(self) -> int:
        """How many ReLUs the network calls. Without one, the three rules are one and the same gradient."""
        return rules.count(self.line)

    # --- values

    def run(
        self, *, until: str | None = None, from_: str | None = None, on: PyTree = None, rule: Rule = "plain"
    ) -> Any:
        """The output of a layer or of the network, on the inputs or from another layer's output on.

        Args:
          until: the layer whose output is returned, by its name in `calls`; None for the network's.
          from_, on: a layer, and what replaces its output. What the network computes beside it (a shortcut) stays.
          rule: how ReLUs pass gradients back.

        Raises:
          UserError: for an unknown layer or rule, with the nearest; an `on` that has not the shape of the layer's
            output; an `until` that comes before `from_`; a program that was traced on shapes.
        """
        if from_ is None:
            return self.output(self.known(until, rule), until)
        return self.rest(from_, self.known(from_, rule), until, rule)(on)

    def known(self, until: str | None = None, rule: Rule = "plain") -> dict[int, Any]:
        """The values, by number, of all that is computed until a layer has its output; None: until the end."""
        leaves = jax.tree.leaves(self._given)
        if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
            raise UserError("the program was traced on shapes and has no values: give inspect.program the arrays")
        stop = len(self.line.steps) if until is None else self.find(until)
        return rules.run(self.line, self.line.known(leaves), self.line.steps[:stop], rule)

    def output(self, known: Mapping[int, Any], layer: str | None = None) -> PyTree:
        """The output of a layer, or of the network, once its values are known."""
        if layer is not None:
            return self.values(layer, known)[1]
        return jax.tree.unflatten(self._structure, self.line.read(self.line.results, self.line.outputs, known))

    def values(self, layer: str, known: Mapping[int, Any]) -> tuple[PyTree, PyTree]:
        """The inputs of a layer, a tuple, and its output."""
        step, (ins, out), count = self._mark(layer)
        arrays = self.line.read(step.eqn.invars, step.inputs, known)
        return jax.tree.unflatten(ins, arrays[:count]), jax.tree.unflatten(out, arrays[count:])

    def rest(
        self, layer: str, known: Mapping[int, Any], until: str | None = None, rule: Rule = "plain"
    ) -> Callable[[PyTree], PyTree]:
        """The network from a layer on, as a function of the layer's output; `known` are the values before."""
        begin, stop = self.find(layer), len(self.line.steps) if until is None else self.find(until)
        if stop < begin:
            raise UserError(f"until={until!r}: the layer is called before from_={layer!r}")
        numbers = self.line.steps[begin].inputs[self._mark(layer)[2] :]
        expected = self.shape(layer)

        def run(value: PyTree) -> PyTree:
            if jax.tree.map(jnp.shape, value) != jax.tree.map(jnp.shape, expected):
                got = jax.tree.map(jnp.shape, value)
                raise UserError(f"the output of {layer!r} is {jax.tree.map(jnp.shape, expected)}, got {got}")
            replaced = {i: x for i, x in zip(numbers, jax.tree.leaves(value), strict=True) if i is not None}
            return self.output(rules.run(self.line, {**known, **replaced}, self.line.steps[begin:stop], rule), until)

        return run


class _Marker(Watcher):
    """Writes a mark before and after each call into the trace."""

    def __init__(self, met: list[Met], model: Layer, front: bool):
        super().__init__()
        self.met, self.model, self.front = met, model, front
        self.open: list[tuple[int, list[list[Any]]]] = []

    def enter(self, name: str) -> None:
        super().enter(name)
        self.open.append((len(self.met), []))
        outline.mark.bind(call=len(self.met), inputs=None, front=self.front)
        self.met.append(Met(self.path, self.model))

    def replaced(self, output: PyTree) -> PyTree:
        return jax.tree.map(lambda x: outline.output.bind(x, front=self.front) if hasattr(x, "dtype") else x, output)

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        number, arrays = self.open[-1]
        only = [jax.tree.map(lambda x: x if hasattr(x, "dtype") else None, tree) for tree in (inputs, output)]
        (ins, ins_tree), (outs, out_tree) = map(jax.tree.flatten, only)
        self.met[number].layer, self.met[number].trees = layer, (ins_tree, out_tree)
        arrays += [ins, outs]

    def exit(self) -> None:
        super().exit()
        number, arrays = self.open.pop()
        if arrays:
            outline.mark.bind(*arrays[0], *arrays[1], call=number, inputs=len(arrays[0]), front=self.front)
        else:  # it was left by an error, which the network may catch
            outline.mark.bind(call=number, inputs=-1, front=self.front)


# --- short uses --------------------------------------------------------------------------------------------------


def outline_of(model: Layer, *inputs: Any, train: bool = False) -> Outline:
    """The calls of a model on inputs of these shapes, in XLA's own operations, so that it is the same on any machine.

    Raises:
      LayerError: where the model cannot take them.
    """
    structs = structs_of(inputs)
    model = unwrap(model, synchronized)  # there is no mapped axis here
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = shapes_of(model, key, *structs)
    return Program(model, params, state, structs, train=train, key=key, general=True).outline


def split_at(
    model: Layer, params: Any, state: Any, *inputs: Any, layer: str, rule: Rule = "plain"
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """The output of a layer, and the rest of the network as a function of it.

    Args:
      model, params, state, *inputs: the network and what it is called with, in evaluation mode.
      layer: the layer's name as `activations` gives it: `conv1`, `layer1/block1/conv2`, `conv1#2` for a second call.
      rule: how ReLUs in the rest pass gradients back.

    Returns:
      `(value, rest)`: the output of the layer, and a function `rest(value) -> outputs of the network`, to be called
      with another value, or differentiated. What the network computes beside the layer (a shortcut) stays as it was.
      Works inside `jit`.

    Raises:
      UserError: for a layer that the network does not have or does not call, with the nearest that it does.

    Example:
      >>> maps, rest = split_at(model, params, state, images, layer="conv2")
      >>> by_maps = jax.grad(lambda maps: rest(maps)[:, 3].sum())(maps)      # of the score of class 3
    """
    traced = program(model, params, state, *inputs)
    known = traced.known(layer, rule)
    return traced.output(known, layer), traced.rest(layer, known, rule=rule)


def layer_outputs(model: Layer, params: Any, state: Any, *inputs: Any) -> dict[str, Any]:
    """The shape and dtype of each named layer's output, by name in the order of computation; nothing is computed.

    Names and order are those of `activations`: a network inside comes after the layers in it.
    """
    traced = program(model, params, state, *inputs)
    return {name: traced.shape(name) for name in traced.marks}
