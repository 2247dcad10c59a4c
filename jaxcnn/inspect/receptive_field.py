"""The receptive field of every value in a traced computation.

For each spatial axis of the input, a value of an intermediate array depends on an interval of pixels. Where the array
still has that axis, index i covers [jump i + first, jump i + last]; where it was flattened, it is a part of a longer
axis; where it is gone (averaged, multiplied by a matrix), all values cover one interval. The rules below move these
intervals through JAX's operations; an operation without a rule counts as looking at everything, so a field is never
reported too small. Padding counts as pixels.

Source: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks (Distill, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from jax import lax
from jax.extend import core as jex

from jaxcnn.ops import cpu
from jaxcnn.ops.backend import stored_p
from jaxcnn.ops.jaxpr import called


@dataclass(frozen=True)
class Span:
    """The interval of one axis of the input that an array depends on: along its own `axis`, or as a whole for None.

    Where several axes were flattened into `axis`, this one has `count` places in it, `inner` values apart. A `count` of
    0 is an axis by itself.
    """

    axis: int | None
    jump: Fraction
    first: Fraction
    last: Fraction
    inner: int = 1
    count: int = 0

    def place(self, index: int) -> int:
        """The place along this axis of the value at an index of `axis`."""
        return index // self.inner % self.count if self.count else index

    @property
    def size(self) -> int:
        # After a transposed convolution, intervals begin between pixels, and neighbours may differ by one pixel.
        phases = [Fraction(i, self.jump.denominator) for i in range(self.jump.denominator)]
        return max(math.floor(self.last + t) - math.ceil(self.first + t) + 1 for t in phases)


@dataclass(frozen=True)
class Field:
    """The part of the input that one value of an array depends on: a span for each spatial axis."""

    spans: tuple[Span, ...]

    @property
    def size(self) -> int | tuple[int, ...]:
        """The pixels along each axis; one number where they are equal."""
        return alike(span.size for span in self.spans)

    @property
    def stride(self) -> float | tuple[float, ...]:
        """The pixels between the fields of two neighbouring places; 0 where all values have the same field."""
        return alike(_number(span.jump) for span in self.spans)

    @property
    def offset(self) -> int | tuple[int, ...]:
        """The pixel where the field of the first value begins: 0 is the image's first pixel, padding is negative."""
        return alike(math.ceil(span.first) for span in self.spans)


def alike(values: Iterable[Any]) -> Any:
    """One number for all axes where they are equal, else a tuple."""
    several = tuple(values)
    return several[0] if len(set(several)) == 1 else several


def _number(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)


def image(shape: Sequence[int]) -> Field | None:
    """The field of an input image `(N, *spatial, C)` itself: each pixel sees itself. None for another rank."""
    if not 3 <= len(shape) <= 5:
        return None
    one, zero = Fraction(1), Fraction(0)
    return Field(tuple(Span(axis, one, zero, zero) for axis in range(1, len(shape) - 1)))


def through(eqn: Any, ins: Sequence[Field | None]) -> list[Field | None]:
    """The fields of an operation's outputs, from those of its inputs; None where there is no dependence."""
    if all(f is None for f in ins):
        return [None] * len(eqn.outvars)
    shapes = [v.aval.shape for v in eqn.invars]
    name = eqn.primitive.name
    rule = _pointwise if name in POINTWISE else _RULES.get(name)
    if rule is not None:
        return [rule(eqn.params, ins, shapes, eqn.outvars[0].aval.shape)] * len(eqn.outvars)
    if (body := called(eqn)) is not None:
        return _follow(body.jaxpr, ins)
    return [anywhere(ins, shapes)] * len(eqn.outvars)


def anywhere(ins: Sequence[Field | None], shapes: Sequence[Sequence[int]]) -> Field | None:
    """The field of a value that may depend on all values of these arrays."""
    return _union([_all(f, s) for f, s in zip(ins, shapes, strict=True)], shapes)


def _follow(jaxpr: Any, start: Sequence[Field | None]) -> list[Field | None]:
    known: dict[Any, Field | None] = dict(zip(jaxpr.invars, start, strict=True))

    def get(var: Any) -> Field | None:
        return None if isinstance(var, jex.Literal) else known.get(var)

    for eqn in jaxpr.eqns:
        known |= dict(zip(eqn.outvars, through(eqn, [get(v) for v in eqn.invars]), strict=True))
    return [get(v) for v in jaxpr.outvars]


def _whole(span: Span, shape: Sequence[int]) -> Span:
    """The interval of an axis that the values of an array depend on together."""
    if span.axis is None:
        return span
    return Span(None, Fraction(0), span.first, span.last + span.jump * ((span.count or shape[span.axis]) - 1))


def _all(field: Field | None, shape: Sequence[int]) -> Field | None:
    return field and Field(tuple(_whole(s, shape) for s in field.spans))


def _union(ins: Sequence[Field | None], shapes: Sequence[Sequence[int]]) -> Field | None:
    present = [(f, s) for f, s in zip(ins, shapes, strict=True) if f is not None]
    if not present:
        return None
    spans = []
    for index in range(len(present[0][0].spans)):
        each = [f.spans[index] for f, _ in present]
        if len({(s.axis, s.jump, s.inner, s.count) for s in each}) > 1:
            each = [_whole(s, shape) for s, (_, shape) in zip(each, present, strict=True)]
        spans.append(replace(each[0], first=min(s.first for s in each), last=max(s.last for s in each)))
    return Field(tuple(spans))


def _moved(field: Field, shape: Sequence[int], where: dict[int, int]) -> Field:
    """The field of an array whose axes moved to `where`; an axis that is gone counts as a whole."""
    return Field(
        tuple(
            replace(s, axis=where[s.axis]) if s.axis in where else _whole(s, shape) if s.axis is not None else s
            for s in field.spans
        )
    )


def _slide(span: Span, axis: int, stride: int, reach: tuple[int, int], stuffing: int = 1) -> Span:
    """The span of a window: output i covers the indices [stride i + reach[0], stride i + reach[1]] / stuffing."""
    if span.count:  # part of a flattened axis: followed only where nothing moves
        return replace(span, axis=axis) if (stride, reach, stuffing) == (1, (0, 0), 1) else _whole(span, ())
    jump, (low, high) = span.jump / stuffing, reach
    return Span(axis, jump * stride, span.first + jump * low, span.last + jump * high)


def _pointwise(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    # An axis of length 1 may be repeated along the output's, whose values then all have the field of its only value.
    def stretched(span: Span, shape: Sequence[int]) -> Span:
        return span if span.axis is None or shape[span.axis] == out[span.axis] else _whole(span, shape)

    each = [f and Field(tuple(stretched(s, shape) for s in f.spans)) for f, shape in zip(ins, shapes, strict=True)]
    return _union(each, shapes)


def _conv(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    if ins[1] is not None:
        return _union([_all(f, s) for f, s in zip(ins, shapes, strict=True)], shapes)
    dims = params["dimension_numbers"]
    spans = []
    for span in ins[0].spans:
        if span.axis in dims.lhs_spec[2:]:
            d = dims.lhs_spec.index(span.axis) - 2
            width = params["rhs_dilation"][d] * (shapes[1][dims.rhs_spec[d + 2]] - 1)
            low = -params["padding"][d][0]
            span = _slide(
                span, dims.out_spec[d + 2], params["window_strides"][d], (low, low + width), params["lhs_dilation"][d]
            )
        elif span.axis is not None and span.axis == dims.lhs_spec[0]:
            span = replace(span, axis=dims.out_spec[0])
        else:
            span = _whole(span, shapes[0])
        spans.append(span)
    return Field(tuple(spans))


def _cpu_conv(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    """The same for `jaxcnn.ops.cpu`'s primitive, by the names of XLA's."""
    if params["kind"] == "kernel":
        return _union([f and _all(f, s) for f, s in zip(ins, shapes, strict=True)], shapes)
    ndim = len(out)
    same, ones = (0, ndim - 1, *range(1, ndim - 1)), (1,) * (ndim - 2)
    transposed = params["kind"] == "input"
    window = zip(shapes[1][:-2], params["pads"], params["dilation"], strict=True)
    general = {
        "dimension_numbers": lax.ConvDimensionNumbers(same, (ndim - 1, ndim - 2, *range(ndim - 2)), same),
        "window_strides": ones if transposed else params["strides"],
        "padding": [(d * (f - 1) - low, None) for f, (low, _), d in window] if transposed else params["pads"],
        "lhs_dilation": params["strides"] if transposed else ones,
        "rhs_dilation": params["dilation"],
    }
    return _conv(general, ins, shapes, out)


def _window(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    def slide(span: Span) -> Span:
        a = span.axis
        if a is None:
            return span
        low = -params["padding"][a][0]
        width = params["window_dilation"][a] * (params["window_dimensions"][a] - 1)
        return _slide(span, a, params["window_strides"][a], (low, low + width), params["base_dilation"][a])

    return Field(tuple(slide(s) for s in ins[0].spans))


def _slice(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    strides = params["strides"] or (1,) * len(out)
    start = params["start_indices"]
    return Field(
        tuple(
            s if s.axis is None else _slide(s, s.axis, strides[s.axis], (start[s.axis], start[s.axis]))
            for s in ins[0].spans
        )
    )


def _pad(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    def shift(s: Span) -> Span:
        if s.axis is None:
            return s
        low, _, interior = params["padding_config"][s.axis]
        return _slide(s, s.axis, 1, (-low, -low), interior + 1)

    return ins[0] and Field(tuple(shift(s) for s in ins[0].spans))


def _transpose(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    return _moved(ins[0], shapes[0], {a: i for i, a in enumerate(params["permutation"])})


def _broadcast(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    dims = params["broadcast_dimensions"]
    return _moved(ins[0], shapes[0], {i: d for i, d in enumerate(dims) if out[d] == shapes[0][i]})


def _reshape(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    # Counted in elements, an axis lies between `sizes[a]` and `sizes[a + 1]`. It is kept, or becomes a part of one that
    # begins and ends where some axes of the input do.
    sizes, wanted = ([math.prod(shape[:a]) for a in range(len(shape) + 1)] for shape in (shapes[0], out))

    def moved(span: Span) -> Span:
        a = span.axis
        if a is None or shapes[0][a] < 2:
            return _whole(span, shapes[0])
        for b, (begin, end) in enumerate(pairwise(wanted)):
            if begin in sizes and end in sizes and begin <= sizes[a] and sizes[a + 1] <= end:
                if (begin, end) == (sizes[a], sizes[a + 1]):
                    return replace(span, axis=b)
                if b == 0:  # into the batch
                    break
                inner, count = end // sizes[a + 1], span.count or shapes[0][a]
                return replace(span, axis=b, inner=span.inner * inner, count=count)
        return _whole(span, shapes[0])

    return Field(tuple(moved(span) for span in ins[0].spans))


def _squeeze(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    return _reduced(params["dimensions"], ins, shapes)


def _reduce(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    return _reduced(params["axes"], ins, shapes)


def _reduced(gone: Sequence[int], ins: Any, shapes: Any) -> Field | None:
    kept = [a for a in range(len(shapes[0])) if a not in gone]
    return _moved(ins[0], shapes[0], {a: i for i, a in enumerate(kept)})


def _dot(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    (contract, batch) = params["dimension_numbers"]
    results = []
    for side in (0, 1):
        if ins[side] is None:
            continue
        free = [a for a in range(len(shapes[side])) if a not in contract[side] and a not in batch[side]]
        before = len(batch[0]) + (0 if side == 0 else len(shapes[0]) - len(contract[0]) - len(batch[0]))
        where = {a: i for i, a in enumerate(batch[side])} | {a: before + i for i, a in enumerate(free)}
        results.append(_moved(ins[side], shapes[side], where))
    return _union(results, [out] * len(results))


def _matmul(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    """The same for `jaxcnn.ops.cpu`'s primitive: all axes but the last stay where they are."""
    rows = ins[0] and _moved(ins[0], shapes[0], {a: a for a in range(len(out) - 1)})
    return _union([rows, _all(ins[1], shapes[1])], [out, shapes[1]])


def _concatenate(params: Any, ins: Any, shapes: Any, out: Any) -> Field | None:
    along = params["dimension"]
    whole = [
        f and Field(tuple(_whole(s, shape) if s.axis == along else s for s in f.spans))
        for f, shape in zip(ins, shapes, strict=True)
    ]
    return _union(whole, shapes)


_RULES = {
    "conv_general_dilated": _conv,
    cpu.convolution_p.name: _cpu_conv,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "slice": _slice,
    "pad": _pad,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "reduce_sum": _reduce,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "reduce_and": _reduce,
    "reduce_or": _reduce,
    "argmax": _reduce,
    "argmin": _reduce,
    "dot_general": _dot,
    cpu.product_p.name: _matmul,
    "concatenate": _concatenate,
}

_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic
    lt max min mul name ne neg nextafter not one_minus_square or pow real reduce_precision rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
POINTWISE = frozenset(_NAMES.split()) | {stored_p.name}
