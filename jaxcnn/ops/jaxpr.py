"""JAX's programs (jaxprs): the functions inside an equation, a program laid out in one line, and its evaluation.

A jaxpr is a list of equations. Each applies a primitive to variables and gives new variables. Some equations hold
jaxprs of their own: a call (`jit`, `checkpoint`, a function with a derivative of its own) runs one of them once, and a
loop or a choice (`scan`, `while`, `cond`) runs them several times or in part. No other module of the package reads
these structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

LOOPS = frozenset({"scan", "while", "cond", "shard_map"})  # what is inside runs often, or in part, or on another shape
REMAT = frozenset({"remat", "remat2", "checkpoint"})  # JAX's names for `jax.checkpoint`

Read = Callable[[Any], Any]
"""The value of a variable or literal."""


# --- inside an equation ------------------------------------------------------------------------------------------


def inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The functions inside an equation: of a call, a loop, a choice."""
    return (f.jaxpr if isinstance(f, ClosedJaxpr) else f for f in _functions(eqn))


def _functions(eqn: JaxprEqn) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                yield item


def every(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations of a program, each before those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for body in inner(eqn):
            yield from every(body)


def called(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation runs once, on its own operands; None where it does anything else."""
    functions = [] if eqn.primitive.name in LOOPS else list(_functions(eqn))
    if len(functions) != 1:
        return None
    body = functions[0] if isinstance(functions[0], ClosedJaxpr) else ClosedJaxpr(functions[0], ())
    fits = len(body.jaxpr.invars) == len(eqn.invars) and len(body.jaxpr.outvars) == len(eqn.outvars)
    return body if fits else None


def runs(eqn: JaxprEqn) -> int:
    """How often the functions inside an equation run: 1 for a `while`, whose number of rounds is not known."""
    return eqn.params["length"] if eqn.primitive.name == "scan" else 1


def makers(jaxpr: Jaxpr) -> dict[Any, JaxprEqn]:
    """The equation that gives each variable."""
    return {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}


def constants(program: ClosedJaxpr) -> list[np.ndarray] | None:
    """The results of a program that only fills arrays, as `jnp.zeros` does; None if it computes anything else."""
    if program.effects or any(getattr(v.aval, "weak_type", False) for v in program.jaxpr.outvars):
        return None
    made = makers(program.jaxpr)
    given = dict(zip(program.jaxpr.constvars, program.consts, strict=True))

    def value(v: Any) -> np.ndarray | None:
        if isinstance(v, Literal) or v in given:
            found = v.val if isinstance(v, Literal) else given[v]
            return np.asarray(found, v.aval.dtype) if np.ndim(found) == 0 else None
        if v not in made or made[v].primitive.name not in ("broadcast_in_dim", "copy", "copy_p"):
            return None
        found = value(made[v].invars[0])
        return None if found is None else np.broadcast_to(found, v.aval.shape)

    found = [value(v) for v in program.jaxpr.outvars]
    filled = [one for one in found if one is not None]
    return filled if len(filled) == len(found) else None


# --- evaluation --------------------------------------------------------------------------------------------------


def bind(eqn: JaxprEqn, operands: Sequence[Any], params: Mapping[str, Any] | None = None) -> list[Any]:
    """The results of an equation for these operands; `params` replaces its parameters."""
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params if params is None else params))
    return out if eqn.primitive.multiple_results else [out]


def evaluate(
    jaxpr: Jaxpr, values: Sequence[Any], rule: Callable[[JaxprEqn, Read], list[Any] | None] | None = None
) -> list[Any]:
    """The results of a program for the values of its constants and inputs.

    Args:
      rule: `(eqn, read) -> results` replaces equations; it returns None for an equation that is computed as it is.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        with eqn.ctx.manager:
            out = None if rule is None else rule(eqn, read)
            if out is None:
                out = bind(eqn, [read(v) for v in eqn.invars])
        known.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


# --- one line ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Step:
    """One equation of a program in a line.

    Attributes:
      eqn: JAX's equation; None at the border of a loop, where values enter or leave and nothing is computed.
      inputs, outputs: numbers of values in `Line.values`; None for a literal, which stands in the equation.
      times: how often it runs.
      again: whether the backward pass computes it once more (`jax.checkpoint`).
    """

    eqn: Any
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    times: int = 1
    again: bool = False


@dataclass(eq=False)
class Line:
    """A program whose calls are replaced by what they call.

    Attributes:
      values: the shape and dtype of each value, by its number.
      steps: the equations in order.
      inputs, outputs: the numbers of the program's; None for an output that is a literal.
      results: JAX's variables and literals that stand for the outputs.
      constants: the values of the program's constants, by number.
      literals: the values of literals that a call was given or gave, by number.
      kept: the numbers of the values that go into a part that the backward pass computes again.
    """

    values: list[Any] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int | None] = field(default_factory=list)
    results: Sequence[Any] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    literals: dict[int, Any] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, program: ClosedJaxpr, opened: Callable[[JaxprEqn], bool]) -> Line:
        """A program in a line.

        Args:
          opened: which equations are replaced by what is inside; for the others, their steps are equations as they are.
        """
        line = cls()
        line.inputs = [line._value(v) for v in program.jaxpr.invars]
        line.outputs = line._read(program.jaxpr, program.consts, line.inputs, opened, Step(None, (), ()))
        line.results = program.jaxpr.outvars
        return line

    def known(self, inputs: Iterable[Any]) -> dict[int, Any]:
        """The values, by number, that are known before the first step."""
        return {**self.constants, **self.literals, **dict(zip(self.inputs, inputs, strict=True))}

    def run(
        self, known: Mapping[int, Any], steps: Iterable[Step], rule: Callable[[Step, list[Any]], list[Any] | None]
    ) -> dict[int, Any]:
        """The values that are known after these steps.

        Args:
          known: the values before them.
          rule: `(step, operands) -> results` replaces steps; it returns None for a step that is computed as it is.
        """
        known = dict(known)
        for step in steps:
            operands = self.read(step.eqn.invars, step.inputs, known)
            with step.eqn.ctx.manager:
                out = rule(step, operands)
                if out is None:
                    out = bind(step.eqn, operands)
            known.update(zip(step.outputs, out, strict=True))
        return known

    @staticmethod
    def read(variables: Sequence[Any], numbers: Sequence[int | None], known: Mapping[int, Any]) -> list[Any]:
        """The values of these numbers, or of the literals that stand in their place."""
        return [v.val if i is None else known[i] for v, i in zip(variables, numbers, strict=True)]

    def _value(self, v: Any) -> int:
        self.values.append(v.aval)
        if isinstance(v, Literal):
            self.literals[len(self.values) - 1] = v.val
        return len(self.values) - 1

    def _read(
        self, jaxpr: Jaxpr, consts: Sequence[Any], start: Sequence[int], opened: Callable[[Any], bool], around: Step
    ) -> list[int | None]:
        """Adds a function's steps, which run as those `around` it do; returns the numbers of its results."""
        numbers = dict(zip(jaxpr.invars, start, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            numbers[var] = self._value(var)
            self.constants[numbers[var]] = value

        def get(var: Any) -> int | None:
            return None if isinstance(var, Literal) else numbers[var]

        for eqn in jaxpr.eqns:
            ins = tuple(get(v) for v in eqn.invars)
            if not opened(eqn):
                outs = [self._value(v) for v in eqn.outvars]
                self.steps.append(Step(eqn, ins, tuple(outs), around.times, around.again))
            elif (body := called(eqn)) is not None:
                outs = self._called(eqn, body, ins, opened, around)
            else:
                outs = self._loop(eqn, ins, opened, around)
            numbers |= dict(zip(eqn.outvars, outs, strict=True))
        return [get(v) for v in jaxpr.outvars]

    def _called(
        self, eqn: JaxprEqn, body: ClosedJaxpr, ins: Sequence[int | None], opened: Callable[[Any], bool], around: Step
    ) -> list[int]:
        remat = eqn.primitive.name in REMAT
        given = [self._value(v) if i is None else i for v, i in zip(eqn.invars, ins, strict=True)]
        if remat:
            self.kept += given
        inside = Step(None, (), (), around.times, around.again or remat)
        found = self._read(body.jaxpr, body.consts, given, opened, inside)
        return [self._value(v) if i is None else i for v, i in zip(body.jaxpr.outvars, found, strict=True)]

    def _loop(
        self, eqn: JaxprEqn, ins: tuple[int | None, ...], opened: Callable[[Any], bool], around: Step
    ) -> list[int]:
        ends: list[int | None] = []
        inside = Step(None, (), (), around.times * runs(eqn), around.again)
        for body in _functions(eqn):
            jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            given = [self._value(v) for v in jaxpr.invars]
            self.steps.append(Step(None, ins, tuple(given)))
            ends += self._read(jaxpr, consts, given, opened, inside)
        outs = [self._value(v) for v in eqn.outvars]
        self.steps.append(Step(None, tuple(ends), tuple(outs)))
        return outs
