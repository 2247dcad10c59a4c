"""The cost of a traced computation: multiply-accumulates, floating-point operations, and those of its gradient.

The rules, for values of floating point; integers and what only moves data count nothing:

- a matrix product: one multiply-accumulate for each product of two numbers, two operations each;
- a convolution: for each filter weight, the fewer of the places it comes from and the places it goes to. So it costs
  its outputs times the filter, as is published for networks (padding counts as pixels); a transposed convolution costs
  its inputs times the filter, without zeros that are stuffed in between; and the gradient by either operand costs as
  much as the convolution;
- elementwise (sums, comparisons, exponentials, choices): one for each value of the result;
- a reduction: one for each value that goes in; a pooling window: one for each place of each window;
- a loop: its body, times the number of rounds, or once if that is not known; a choice: its most expensive branch.

The backward pass of an operation is counted, too: `jax.vjp` traces its gradient by those inputs that depend on a
parameter, and the same rules count it, less the operation itself. So the first layer, whose input is the image, has no
input gradient, and a frozen layer no gradient of its weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxcnn.inspect.outline import Outline
from jaxcnn.inspect.receptive_field import POINTWISE
from jaxcnn.ops import cpu
from jaxcnn.ops.backend import stored_p
from jaxcnn.ops.jaxpr import Step, bind, inner, runs

_NAMES = "convert_element_type copy copy_p imag name real reduce_precision stop_gradient"
_MOVES = frozenset(_NAMES.split()) | {stored_p.name}
_PRODUCTS = ("dot_general", "conv_general_dilated", *(p.name for p in (cpu.product_p, cpu.outer_p, cpu.convolution_p)))
_VALUE_BY_VALUE = POINTWISE - _MOVES
_NAMES = """
    argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_max reduce_min reduce_prod reduce_sum
"""
_ALL_THAT_GOES_IN = frozenset(_NAMES.split())


@dataclass(frozen=True)
class Cost:
    """The cost of one operation, times the number of its runs: forward, backward, and the bytes kept in between."""

    macs: int = 0
    flops: int = 0
    backward_flops: int = 0
    held_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.flops + other.flops,
            self.backward_flops + other.backward_flops,
            self.held_bytes + other.held_bytes,
        )


def macs(jaxpr: Any) -> int:
    """The multiply-accumulates of all matrix products and convolutions in a traced function."""
    return sum(_macs(eqn) for eqn in jaxpr.eqns)


def flops(jaxpr: Any) -> int:
    """The floating-point operations in a traced function."""
    return sum(_flops(eqn) for eqn in jaxpr.eqns)


def _macs(eqn: Any) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
    if name == cpu.product_p.name:
        return math.prod(eqn.outvars[0].aval.shape) * eqn.invars[0].aval.shape[-1]
    if name == cpu.outer_p.name:
        return math.prod(eqn.outvars[0].aval.shape) * eqn.invars[0].aval.shape[0]
    if name == cpu.convolution_p.name:
        arrays = cpu.shapes(
            *(v.aval.shape for v in eqn.invars), **{k: v for k, v in eqn.params.items() if k != "parts"}
        )
        x, kernel, y = arrays["x"], arrays["kernel"], arrays["y"]
        taps = (f * min(i, o) for f, i, o in zip(kernel[:-2], x[1:-1], y[1:-1], strict=True))
        return x[0] * kernel[-2] * kernel[-1] * math.prod(taps)
    if name == "conv_general_dilated":
        x, kernel = (v.aval.shape for v in eqn.invars)
        out = eqn.outvars[0].aval.shape
        x_spec, kernel_spec, out_spec = eqn.params["dimension_numbers"]
        stuffed = eqn.params["lhs_dilation"]
        total = out[out_spec[0]] * out[out_spec[1]] * kernel[kernel_spec[1]]
        for i, f, o, s in zip(x_spec[2:], kernel_spec[2:], out_spec[2:], stuffed, strict=True):
            # Two of the place it comes from, the tap and the place it goes to say which the third is.
            total *= math.prod(sorted((x[i], kernel[f], out[o]))[:2]) if s > 1 else kernel[f] * min(x[i], out[o])
        return total
    return _inside(eqn, macs)


def _flops(eqn: Any) -> int:
    name = eqn.primitive.name
    if name in _PRODUCTS:
        return 2 * _macs(eqn)
    if not any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in (*eqn.invars, *eqn.outvars)):
        return 0
    out = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    if name in _VALUE_BY_VALUE:
        return 2 * out if name == "one_minus_square" else out
    if name in _ALL_THAT_GOES_IN:
        taken = math.prod(eqn.invars[0].aval.shape)
        return taken if taken != out or name.startswith("cum") else 0  # an axis of length 1 adds nothing
    if name.startswith("reduce_window"):
        return out * math.prod(eqn.params["window_dimensions"])
    if name.startswith("select_and"):  # finds each window's maximum again and sends the gradient there
        smaller = min(math.prod(v.aval.shape) for v in (*eqn.invars[:2], *eqn.outvars))
        return smaller * (math.prod(eqn.params["window_dimensions"]) + 1)
    if name == "scatter-add":
        return math.prod(eqn.invars[2].aval.shape)
    return _inside(eqn, flops)


def _inside(eqn: Any, count: Any) -> int:
    each = [count(body) for body in inner(eqn)]
    return max(each, default=0) if eqn.primitive.name == "cond" else runs(eqn) * sum(each)


# --- the gradient ------------------------------------------------------------------------------------------------


def costs(outline: Outline) -> dict[Step, Cost]:
    """The cost of each operation of a network, and of its gradient by the parameters.

    A value that the gradients of several operations need is held once, and counts for the first of them.
    """
    values = outline.values
    active = [False] * len(values)  # depends on a parameter
    for i in outline.weights:
        active[i] = _differentiable(values[i])
    for op in outline.ops:
        if _depends(op, active):
            for i in op.outputs:
                active[i] = _differentiable(values[i])

    wanted = {i for i in outline.outputs if i is not None and active[i]}  # the result depends on it
    gradients: dict[Step, int] = {}
    keeps: dict[Step, tuple[list[int | None], int]] = {}
    for op in reversed(outline.ops):
        towards = {i for i in op.inputs if i is not None and active[i]}
        if not (towards and wanted.intersection(op.outputs) and _depends(op, active)):
            continue
        again = towards & wanted  # the gradients of a value that is used more than once are added up
        wanted |= towards
        if op.eqn is None:
            continue
        pulled = _pullback(_Key.of(op.eqn, tuple(i is not None and active[i] for i in op.inputs)))
        keeps[op] = [*(op.inputs[k] for k in pulled.inputs), *(op.outputs[k] for k in pulled.outputs)], pulled.bytes
        gradients[op] = pulled.flops + sum(math.prod(values[i].shape) for i in again)

    result = {}
    held = set(outline.present)
    for op in outline.ops:
        if op.eqn is None:
            result[op] = Cost()
            continue
        forward = _flops(op.eqn)
        backward = gradients.get(op, 0) + (forward if op.again and op in gradients else 0)
        kept, more = keeps.get(op, ([], 0))
        if op.again and op in gradients:  # what is computed again needs its inputs only
            kept, more = [i for i in op.inputs if i in outline.kept], 0
        new = {i for i in kept if i is not None} - held
        held |= new
        size = op.times * (more + sum(nbytes(values[i]) for i in new))
        result[op] = Cost(op.times * _macs(op.eqn), op.times * forward, op.times * backward, size)
    return result


def nbytes(aval: Any) -> int:
    """The bytes of an array of this shape and dtype."""
    return math.prod(aval.shape) * aval.dtype.itemsize


def _depends(op: Step, active: Sequence[bool]) -> bool:
    stops = op.eqn is not None and op.eqn.primitive.name == "stop_gradient"
    return not stops and any(i is not None and active[i] for i in op.inputs)


def _differentiable(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


class _Key:
    """An operation and the inputs that get a gradient; equal for equal operations on equal shapes."""

    def __init__(self, eqn: Any, towards: tuple[bool, ...], identity: Any):
        self.eqn, self.towards, self.identity = eqn, towards, identity

    @classmethod
    def of(cls, eqn: Any, towards: tuple[bool, ...]) -> _Key:
        params = tuple((name, _text(value)) for name, value in eqn.params.items())
        which = {v: i for i, v in reversed([*enumerate(eqn.invars)]) if not isinstance(v, jex.Literal)}
        places = tuple(None if isinstance(v, jex.Literal) else which[v] for v in eqn.invars)
        shapes = tuple((v.aval.shape, v.aval.dtype) for v in eqn.invars)
        return cls(eqn, towards, (eqn.primitive.name, params, places, shapes, towards))

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.identity == other.identity


def _text(value: Any) -> Any:
    """A hashable that stands for a parameter of an operation: for a function its text, equal in two traces of it."""
    if isinstance(value, (jex.ClosedJaxpr, jex.Jaxpr)):
        inner = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
        return str(value), str(getattr(inner.debug_info, "func_src_info", ""))
    if isinstance(value, (tuple, list)):
        return tuple(_text(v) for v in value)
    if callable(value) or hasattr(value, "call_wrapped"):
        return getattr(value, "__name__", type(value).__name__)
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


@dataclass(frozen=True)
class _Pullback:
    """The operations of a gradient, and its needs of the forward pass: inputs and outputs by position, other bytes."""

    flops: int
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    bytes: int = 0


@functools.lru_cache(maxsize=4096)
def _pullback(key: _Key) -> _Pullback:
    """The gradient of one operation, traced and counted."""
    eqn = key.eqn
    places = [i for i, v in enumerate(eqn.invars) if not isinstance(v, jex.Literal)]
    unique = list(dict.fromkeys(eqn.invars[i] for i in places))
    towards = [any(key.towards[i] for i in places if eqn.invars[i] is v) for v in unique]

    def alone(*ins: Any) -> list[Any]:
        known = dict(zip(unique, ins, strict=True))
        with eqn.ctx.manager:
            return bind(eqn, [v.val if isinstance(v, jex.Literal) else known[v] for v in eqn.invars])

    def both(ins: list[Any], cotangents: list[Any]) -> Any:
        def forward(*active: Any) -> list[Any]:
            given = iter(active)
            return alone(*(next(given) if t else x for x, t in zip(ins, towards, strict=True)))

        outs, back = jax.vjp(forward, *(x for x, t in zip(ins, towards, strict=True) if t))
        cts = [c if _differentiable(o) else np.zeros(o.shape, jax.dtypes.float0)
               for c, o in zip(cotangents, outs, strict=True)]  # fmt: skip
        return outs, jax.tree.leaves(back), back(cts)

    def struct(var: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)

    try:
        traced = jax.make_jaxpr(both)([struct(v) for v in unique], [struct(v) for v in eqn.outvars]).jaxpr
    except (NotImplementedError, TypeError, ValueError):
        return _Pullback(0)  # no gradient, as of a `while`: nothing is trained through it
    count = len(eqn.outvars)
    residuals = dict.fromkeys(v for v in traced.outvars[count : -sum(towards)] if not isinstance(v, jex.Literal))
    inputs = {v: eqn.invars.index(u) for v, u in zip(traced.invars, unique, strict=False)}
    outputs = {v: k for k, v in enumerate(traced.outvars[:count]) if not isinstance(v, jex.Literal)}
    others = [
        v for v in residuals if v not in inputs and v not in outputs and v not in (*traced.invars, *traced.constvars)
    ]
    return _Pullback(
        max(flops(traced) - _flops(eqn), 0),
        tuple(inputs[v] for v in residuals if v in inputs),
        tuple(outputs[v] for v in residuals if v in outputs and v not in inputs),
        sum(nbytes(v.aval) for v in others),
    )
