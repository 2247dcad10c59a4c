"""One unit of a network: its window in the image, its window in the layer's input, its weights and its sum.

Windows come from the traced computation (`jaxcnn.inspect.receptive_field`), so they hold for any Layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, get
from jaxcnn.errors import UserError, unknown
from jaxcnn.inspect.outline import Call, Outline
from jaxcnn.inspect.program import outline_of, program
from jaxcnn.inspect.receptive_field import Field, image
from jaxcnn.inspect.unit import image_of
from jaxcnn.transforms import split


@dataclass(frozen=True)
class Window:
    """A box of pixels: rows `top` to below `bottom`, columns `left` to below `right`; it may reach over the edge."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def clipped(self, height: int, width: int) -> Window:
        """The part of it on an image of this size; empty where it lies outside."""

        def within(value: int, end: int) -> int:
            return min(max(value, 0), end)

        return Window(
            within(self.top, height), within(self.left, width), within(self.bottom, height), within(self.right, width)
        )

    def cut(self, picture: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Its pixels of a picture `(H, W, C)`; `fill` where it reaches over the edge."""
        picture = np.asarray(picture)
        result = np.full((*self.size, *picture.shape[2:]), fill, picture.dtype)
        part = self.clipped(*picture.shape[:2])
        place = (
            slice(part.top - self.top, part.bottom - self.top),
            slice(part.left - self.left, part.right - self.left),
        )
        if part.top < part.bottom and part.left < part.right:
            result[place] = picture[part.top : part.bottom, part.left : part.right]
        return result


@dataclass(frozen=True, eq=False)
class UnitReport:
    """One unit of a layer for one image, and the numbers that it was computed from.

    Attributes:
      layer, place: the layer's name and the unit's coordinates: (y, x, channel), or (unit,) of a dense layer.
      value: its activation.
      field: its receptive field in the image, a `Window`; `pixels`, the image there, `(h, w, C)`.
      window: its receptive field in the input of its layer, a `Window`; None where that has no height and width.
      inputs: the numbers there, `(h, w, C)`, or the whole input `(D,)` of a dense layer; zeros where the window reaches
        over the edge. Of a dilated convolution only those under a tap, of a grouped one only the group's channels.
      kernel, bias: of a convolution or dense layer, the weights of the unit, in the shape of `inputs`, and the bias
        (0.0 where there is none); None for layers of another kind.
    """

    layer: str
    place: tuple[int, ...]
    value: float
    field: Window
    pixels: np.ndarray
    window: Window | None
    inputs: np.ndarray
    kernel: np.ndarray | None = None
    bias: float | None = None

    @property
    def products(self) -> np.ndarray | None:
        """inputs * kernel, elementwise; None without weights."""
        return None if self.kernel is None else self.inputs * self.kernel

    @property
    def total(self) -> float | None:
        """sum(inputs * kernel) + bias, which is `value` but for rounding; None without weights."""
        return None if self.products is None else float(self.products.sum(dtype=np.float64)) + (self.bias or 0.0)


Seen = UnitReport
"""The name that `UnitReport` had before."""


def receptive_window(model: Layer, *inputs: Any, layer: str, place: Sequence[int]) -> Window:
    """The pixels of the image that a unit may depend on.

    Args:
      model: the network.
      *inputs: images `(N, H, W, C)` or their `jax.ShapeDtypeStruct`; only the shapes are read.
      layer: the layer's name, as `activations` gives it.
      place: (y, x) or (y, x, channel); (unit,) of a flattened layer. Where all units have one window, after a dense
        layer or a global pool, any place will do.

    Returns:
      A `Window`, which reaches over the image's edge where padding is seen.

    Raises:
      UserError: for an unknown layer, with the nearest names; a place outside; input without height and width.
    """
    geometry = _geometry(model, *inputs)
    at = _at(geometry.calls, layer)
    shape, field = geometry.shape(at), geometry.field(at)
    flattened = len(shape) == 1 and field is not None and any(span.axis is not None for span in field.spans)
    _check_place(at, tuple(place)[:2], layer, shape if flattened else shape[:-1])
    return _window(field, place, layer)


def see_unit(
    model: Layer, params: Any, state: Any, *inputs: Any, layer: str, place: Sequence[int], example: int = 0
) -> UnitReport:
    """One unit for one image, with its receptive field, its window, its weights, and the sum that made it.

    Args:
      model, params, state, *inputs: the network, its variables, and what it is called with, in evaluation mode.
      layer: the layer's name, as `activations` gives it.
      place: (y, x, channel), or (unit,) where the layer has no height and width.
      example: which image of the batch.

    Returns:
      A `UnitReport`. It has weights for layers that are one convolution or one matrix product with a `kernel` and
      perhaps a `bias`: `conv`, `dense`, and a user's layer of that form.

    Raises:
      UserError: as `receptive_window`.

    Example:
      >>> unit = see_unit(model, params, state, images, layer="conv1", place=(4, 7, 0))
      >>> unit.total, unit.value      # equal, but for rounding
    """
    geometry = _geometry(model, *inputs)
    at = _at(geometry.calls, layer)
    shape, place = geometry.shape(at), tuple(int(p) for p in place)
    _check_place(at, place, layer, shape)
    ins, output = _values(model, params, state, inputs, layer)
    picture = np.asarray(inputs[image_of(inputs)][example])
    field = _window(geometry.field(at), place, layer)
    value = float(np.asarray(jax.tree.leaves(output)[0])[(example, *place)])
    given = np.asarray(jax.tree.leaves(ins)[0], np.float32)[example]
    window, dilation, channels = None, (1, 1), slice(None)
    local = geometry.local(at)
    weights = geometry.weights(at)
    if local is not None and given.ndim == 3:
        window = _window(local, place, layer)
        numbers = window.cut(given)
    else:
        numbers = given
    kernel = bias = None
    if weights is not None and (stored := _variables(params, state, layer)).get("kernel") is not None:
        matrix = np.asarray(stored["kernel"], np.float32)
        if window is not None and matrix.ndim == 4:
            dilation = tuple(weights.params["rhs_dilation"])
            each, own = matrix.shape[2], matrix.shape[3] // weights.params["feature_group_count"]
            first = place[-1] // own * each
            channels = slice(first, first + each)
            numbers = numbers[:: dilation[0], :: dilation[1], channels]
        kernel = matrix[..., place[-1]].reshape(numbers.shape)
        bias = float(np.asarray(stored["bias"])[place[-1]]) if "bias" in stored else 0.0
    return UnitReport(layer, place, value, field, field.cut(picture), window, numbers, kernel, bias)


def filters(model: Layer, params: Any, state: Any, layer: str) -> np.ndarray:
    """The filters of a convolution, `(h, w, C, K)`, by the layer's name; also of a frozen one.

    Raises:
      UserError: for a layer without filters, with the nearest that have some.
    """
    kernel = _variables(params, state, layer).get("kernel")
    if kernel is not None and not isinstance(kernel, dict) and kernel.ndim >= 3:
        return np.asarray(kernel)
    found = sorted({"/".join(p) for p in _kernels(params)} | {"/".join(p[:-1]) for p in _kernels(state)})
    if not found:
        raise UserError(f"layer {layer!r}: no layer of this network has filters")
    if kernel is not None:
        raise UserError(f"layer {layer!r} has a matrix of shape {kernel.shape}, no filters; {found[0]} has some")
    raise unknown("layer with filters", layer, found)


def _kernels(tree: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _kernels(value, (*at, name))
        elif name == "kernel" and value.ndim >= 3:
            yield at


def _variables(params: Any, state: Any, layer: str) -> dict[str, Any]:
    """The parameters of a layer, frozen or not."""
    path = tuple(layer.split("#")[0].split("/"))
    own = get(state, path)
    kept = split(own)[0] if isinstance(own, dict) else {}
    found = kept or get(params, path)
    return found if isinstance(found, dict) else {}


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def _values(model: Layer, params: Any, state: Any, inputs: Any, layer: str) -> Any:
    traced = program(model, params, state, *inputs)
    return traced.values(layer, traced.known(layer))


# --- the geometry of a traced network ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Geometry:
    outline: Outline
    calls: dict[str, Call]
    fields: dict[int, Field]

    def shape(self, call: Call) -> tuple[int, ...]:
        """Of the first array that a layer puts out, without the batch."""
        return tuple(self.outline.values[_first(call.outputs)].shape[1:])

    def field(self, call: Call) -> Field | None:
        return self.fields.get(_first(call.outputs))

    def local(self, call: Call) -> Field | None:
        """The receptive field of the output in the layer's own input; None where that has no height and width."""
        source = _first(call.inputs)
        if (start := image(self.outline.values[source].shape)) is None:
            return None
        return self.outline.fields(call.ops(), {source: start}).get(_first(call.outputs))

    def weights(self, call: Call) -> Any:
        """The equation of a layer that is one convolution or product and perhaps a sum; None for other layers."""
        names = [op.eqn.primitive.name if op.eqn is not None else "loop" for op in call.ops()]
        products = [op.eqn for op, name in zip(call.ops(), names, strict=True) if name in _PRODUCTS]
        if call.calls or len(products) != 1 or not _SUMS.issuperset(name for name in names if name not in _PRODUCTS):
            return None
        (eqn,) = products
        transposed = eqn.params.get("lhs_dilation") is not None and math.prod(eqn.params["lhs_dilation"]) > 1
        return None if transposed else eqn


_PRODUCTS = ("conv_general_dilated", "dot_general")
_NAMES = "add broadcast_in_dim convert_element_type copy jaxcnn_stored pad reshape squeeze transpose"
_SUMS = frozenset(_NAMES.split())


def _geometry(model: Layer, *inputs: Any) -> _Geometry:
    at = image_of(inputs)
    if len(inputs[at].shape) != 4:
        raise UserError(f"expected images (N, H, W, C), got {inputs[at].shape}")
    leaves, structure = jax.tree.flatten(inputs)
    shapes = tuple(((1, *x.shape[1:]) if x.shape else (), jnp.dtype(x.dtype)) for x in leaves)
    return _traced(model, structure, shapes, len(jax.tree.leaves(inputs[:at])))


@functools.lru_cache(maxsize=64)
def _traced(model: Layer, structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...], at: int) -> _Geometry:
    """The geometry for inputs of these shapes, of which the array number `at` is the image."""
    outline = outline_of(model, *jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes]))
    whole = image(shapes[at][0])
    start = {outline.inputs[at]: whole} if whole else {}
    return _Geometry(outline, outline.calls(), outline.fields(outline.ops, start))


def _at(calls: dict[str, Call], layer: str) -> Call:
    if layer not in calls:
        raise (
            unknown("layer", layer, calls) if calls else UserError(f"layer {layer!r}: the network has no named layers")
        )
    if _first(calls[layer].outputs) is None or _first(calls[layer].inputs) is None:
        raise UserError(f"layer {layer!r} has no arrays that depend on the image")
    return calls[layer]


def _first(values: Sequence[int | None]) -> Any:
    return next((v for v in values if v is not None), None)


def _check_place(call: Call, place: tuple[int, ...], layer: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (0, len(place)):
        raise UserError(f"place={place}: expected {len(shape)} coordinates of {layer}'s output (N, {_by(shape)})")
    if any(not 0 <= p < n for p, n in zip(place, shape, strict=False)):
        raise UserError(f"place={place}: {layer}'s output is (N, {_by(shape)})")


def _by(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _window(field: Field | None, place: Sequence[int], layer: str) -> Window:
    if field is None or len(field.spans) != 2:
        raise UserError(f"layer {layer!r} does not depend on the image")
    ends = []
    for span in field.spans:
        i = 0 if span.axis is None else span.place(int(place[span.axis - 1]))
        # Behind a transposed convolution, an interval may begin between pixels.
        ends.append((math.ceil(span.first + span.jump * i), math.floor(span.last + span.jump * i) + 1))
    (top, bottom), (left, right) = ends
    return Window(top, left, bottom, right)
