"""How ReLUs pass a gradient back: the derivative, or one of two other rules, in any network that is traced."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxcnn.errors import unknown
from jaxcnn.inspect.outline import holds_marks, mark
from jaxcnn.ops.fusion import is_relu
from jaxcnn.ops.jaxpr import REMAT, Line, Step, bind

Rule = Literal["plain", "guided", "deconvolution"]
"""How a ReLU passes a gradient g back: "plain", where its input is positive; "deconvolution", where g is (Zeiler and
Fergus 2014); "guided", where both are (Springenberg et al. 2015)."""


def opened(eqn: JaxprEqn) -> bool:
    """Whether the inside of an equation is laid out in the line: of calls, but a ReLU stays in one piece.

    A function with a derivative of its own is opened only for the layers in it.
    """
    name = eqn.primitive.name
    if is_relu(eqn):
        return False
    return name == "jit" or name in REMAT or (name in ("custom_jvp_call", "custom_vjp_call") and holds_marks(eqn))


def run(line: Line, known: Mapping[int, Any], steps: list[Step], rule: Rule) -> dict[int, Any]:
    """The values that are known after these steps of a line, whose ReLUs pass gradients back by the rule.

    Raises:
      UserError: for an unknown rule, with the nearest.
    """
    if rule not in get_args(Rule):
        raise unknown("rule", str(rule), get_args(Rule))
    relu = _Relus(line) if rule != "plain" else None

    def results(step: Step, operands: list[Any]) -> list[Any] | None:
        if step.eqn.primitive is mark:
            return []
        if relu is None:
            return None
        if (k := relu.operand(step)) is not None:
            return [_relu(operands[k], rule)]
        if any(count(Line.of(body, opened)) for body in _bodies(step.eqn)):
            return bind(step.eqn, operands, _ruled(step.eqn.params, rule))
        return None

    return line.run(known, steps, results)


def count(line: Line) -> int:
    """How many ReLUs there are, those in loops included."""
    relu = _Relus(line)
    return sum(
        1 if relu.operand(step) is not None else sum(count(Line.of(body, opened)) for body in _bodies(step.eqn))
        for step in line.steps
    )


class _Relus:
    """Finds the steps of a line that are max(x, 0) of floating point, in whatever form."""

    def __init__(self, line: Line):
        self.line = line
        self.made = {i: step for step in line.steps for i in step.outputs}

    def operand(self, step: Step) -> int | None:
        """Which operand of the step is x; None for a step that is no ReLU."""
        name, ins, outs = step.eqn.primitive.name, step.inputs, step.eqn.outvars
        if not outs or not jnp.issubdtype(outs[0].aval.dtype, jnp.floating):
            return None
        if name in ("jit", "custom_jvp_call") and is_relu(step.eqn):
            return 0
        if name == "max":
            zeros = [self._is_zero(step, k) for k in (0, 1)]
            return zeros.index(False) if sum(zeros) == 1 else None
        if name == "select_n" and len(ins) == 3 and ins[0] in self.made:  # where(x > 0, x, 0) and where(x < 0, 0, x)
            asked, (off, on) = self.made[ins[0]], (1, 2)
            if asked.eqn.primitive.name in ("lt", "le"):
                off, on = on, off
            elif asked.eqn.primitive.name not in ("gt", "ge"):
                return None
            same = asked.inputs[0] is not None and asked.inputs[0] == ins[on]
            if same and self._is_zero(asked, 1) and self._is_zero(step, off):
                return on
        return None

    def _is_zero(self, step: Step, k: int) -> bool:
        """Whether an operand of a step is the number 0, perhaps repeated."""
        i = step.inputs[k]
        if i is None or i in self.line.literals:
            value = step.eqn.invars[k].val if i is None else self.line.literals[i]
            return bool(np.all(np.asarray(value) == 0))
        made = self.made.get(i)
        if made is None or made.eqn.primitive.name not in ("broadcast_in_dim", "convert_element_type", "reshape"):
            return False
        return self._is_zero(made, 0)


def _bodies(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """The functions inside a loop or a choice."""
    if eqn.primitive.name not in ("scan", "while", "cond"):
        return []
    values = [v for value in eqn.params.values() for v in (value if isinstance(value, tuple) else (value,))]
    return [v for v in values if isinstance(v, ClosedJaxpr)]


def _ruled(value: Any, rule: Rule) -> Any:
    """A loop's parameters, with the rule for the ReLUs in its functions."""
    if isinstance(value, dict):
        return {name: _ruled(v, rule) for name, v in value.items()}
    if type(value) is tuple:
        return tuple(_ruled(v, rule) for v in value)
    if not isinstance(value, ClosedJaxpr):
        return value
    line = Line.of(value, opened)

    def function(*inputs: Any) -> list[Any]:
        return line.read(line.results, line.outputs, run(line, line.known(inputs), line.steps, rule))

    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in value.in_avals))


# --- max(x, 0) with another derivative ---------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _relu(x: jax.Array, rule: Rule) -> jax.Array:
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array, rule: Rule) -> tuple[jax.Array, jax.Array]:
    y = jnp.maximum(x, 0)
    return y, y


def _relu_back(rule: Rule, y: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    g = jnp.maximum(g, 0)
    return (g if rule == "deconvolution" else jnp.where(y > 0, g, 0),)


_relu.defvjp(_relu_forward, _relu_back)
