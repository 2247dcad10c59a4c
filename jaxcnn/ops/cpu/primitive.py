"""Convolution and its gradients as one JAX primitive, which oneDNN computes on a CPU.

A convolution relates three arrays: image x, kernel and result y. Each kind of the primitive computes one of them from
the other two: `output` y(x, kernel), `input` x(y, kernel), `kernel` kernel(x, y). Each kind is linear in both operands,
and its derivatives are the other two kinds, so there are gradients of any order. `input` is the transposed convolution.

In bfloat16 the kernel may be `wide`, in float32: oneDNN's layout of a kernel is another one anyway, and it is rounded
while it is copied there. Its gradient is a sum in float32, which is not rounded.

The code is chosen when a program is lowered: oneDNN's on a CPU, if it has code for these shapes; XLA's (`plain`) on all
other platforms and in an exported program.
"""

from __future__ import annotations

import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jax.sharding import PartitionSpec

from jaxcnn.ops.backend import compute, suits_cpu, switched_on, vary_alike
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.partition import divided
from jaxcnn.ops.geometry import Edges, Ints, Window

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
LOOP = 16  # the most convolutions of a `vmap` that are unrolled


convolution_p = Primitive("jaxcnn_convolution")


def available(*arrays: Any) -> bool:
    """Whether oneDNN computes the convolutions of these arrays on this machine."""
    return suits_cpu("onednn", *arrays) and library.unavailable() is None


def alone(x: Any, *types: str) -> bool:
    """Whether this package's own passes take this image: of one of these types, not empty, on the one device."""
    return x.dtype.name in types and x.size > 0 and jax.device_count() == 1 and available(x)


def conv(x: jax.Array, kernel: jax.Array, strides: Ints, pads: Edges, dilation: Ints, groups: int = 1) -> jax.Array:
    """Convolution `(N, *spatial, C), (*size, C / groups, K) -> (N, *out, K)`, as `jaxcnn.ops.conv`."""
    x, pads = padded(x, kernel.shape, strides, pads, dilation)
    wide = x.dtype != kernel.dtype
    window: Window = {"strides": strides, "pads": pads, "dilation": dilation, "groups": groups}
    return _bind(x, kernel, wide=wide, kind="output", sizes=(), **window)


def conv_transpose(
    y: jax.Array, kernel: jax.Array, sizes: Ints, strides: Ints, padding: Ints, dilation: Ints
) -> jax.Array:
    """Transposed convolution `(N, *out, K), (*size, K, C) -> (N, *sizes, C)`, as `jaxcnn.ops.conv_transpose`."""
    pads = tuple((p, p) for p in padding)
    window: Window = {"strides": strides, "pads": pads, "dilation": dilation, "groups": 1}
    return _bind(y, kernel, swapped=True, kind="input", sizes=sizes, **window)


def takes(x: Any, kernel: Any, strides: Ints, pads: Edges, dilation: Ints, groups: int = 1) -> bool:
    """Whether `conv` takes operands of these dtypes and shapes, not empty. XLA raises the errors for others."""
    return (
        (x.dtype == kernel.dtype or (x.dtype, kernel.dtype) == (jnp.bfloat16, jnp.float32))
        and x.dtype.name in library.TYPES
        and x.ndim == kernel.ndim in (3, 4, 5)
        and x.shape[-1] == kernel.shape[-2] * groups
        and kernel.shape[-1] % groups == 0
        and min(*x.shape, *kernel.shape, *_out(x.shape, kernel.shape, strides, pads, dilation)) > 0
    )


def takes_transposed(y: Any, kernel: Any, sizes: Ints, strides: Ints, padding: Ints, dilation: Ints) -> bool:
    """Whether `conv_transpose` takes these operands: the convolution of an image of `sizes` has the shape of y."""
    pads = tuple((p, p) for p in padding)
    if kernel.ndim != y.ndim or y.ndim not in (3, 4, 5) or y.shape[-1] != kernel.shape[-2] or min(sizes) <= 0:
        return False
    x = jax.ShapeDtypeStruct((y.shape[0], *sizes, kernel.shape[-1]), y.dtype)
    forward = jax.ShapeDtypeStruct((*kernel.shape[:-2], kernel.shape[-1], kernel.shape[-2]), kernel.dtype)
    return (
        min(padding) >= 0
        and _out(x.shape, forward.shape, strides, pads, dilation) == y.shape
        and takes(x, forward, strides, pads, dilation)
        and touches(sizes, kernel.shape[:-2], strides, pads, dilation)
    )


def touches(sizes: Ints, window: Ints, strides: Ints, pads: Edges, dilation: Ints) -> bool:
    """Whether every window has a tap on the image. oneDNN does not support windows that lie in the padding."""
    outs = _out((1, *sizes, 1), (*window, 1, 1), strides, pads, dilation)[1:-1]
    return all(
        any(0 <= i * s + u * d - low < w for u in range(f))
        for w, o, f, s, (low, _), d in zip(sizes, outs, window, strides, pads, dilation, strict=True)
        for i in range(o)
    )


def padded(x: jax.Array, kernel: Ints, strides: Ints, pads: Edges, dilation: Ints) -> tuple[jax.Array, Edges]:
    """The image and the padding to pass to oneDNN, which takes no negative padding and no windows outside the image."""
    if not touches(x.shape[1:-1], kernel[:-2], strides, pads, dilation):
        now, left = pads, ((0, 0),) * len(pads)
    else:
        now = tuple((min(low, 0), min(high, 0)) for low, high in pads)
        left = tuple((max(low, 0), max(high, 0)) for low, high in pads)
    if not any(map(any, now)):
        return x, left
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*edge, 0) for edge in now), (0, 0, 0)]), left


def _bind(a: jax.Array, b: jax.Array, *, swapped: bool = False, wide: bool = False, **params: Any) -> jax.Array:
    params |= {"swapped": swapped, "wide": wide}
    gradient = params["kind"] == "kernel"  # a sum over the batch, which both operands have
    parts = divided(_with(**params), (a, b), (True, gradient), summed=gradient)
    return convolution_p.bind(*vary_alike(a, b), parts=parts, **params)


# --- shapes ------------------------------------------------------------------------------------------------------


def _out(x: Ints, kernel: Ints, strides: Ints, pads: Edges, dilation: Ints) -> Ints:
    spatial = (
        (w + low + high - d * (f - 1) - 1) // s + 1
        for w, f, s, (low, high), d in zip(x[1:-1], kernel, strides, pads, dilation, strict=False)
    )
    return (x[0], *spatial, kernel[-1])


def shapes(
    a: Ints, b: Ints, *, kind: str, sizes: Ints, swapped: bool, wide: bool = False, **window: Unpack[Window]
) -> dict[str, Ints]:
    """The shapes of x, kernel and y for the shapes of two operands; the kernel's is the one that is not swapped."""
    groups = window["groups"]
    if kind == "kernel":
        return {"x": a, "kernel": (*sizes, a[-1] // groups, b[-1]), "y": b}
    kernel = (*b[:-2], b[-1], b[-2]) if swapped else b
    if kind == "input":
        return {"x": (a[0], *sizes, kernel[-2] * groups), "kernel": kernel, "y": a}
    return {"x": a, "kernel": kernel, "y": _out(a, kernel, window["strides"], window["pads"], window["dilation"])}


def result(a: Any, b: Any, *, wide: bool = False, **params: Any) -> jax.ShapeDtypeStruct:
    """The shape and the dtype of the result."""
    found = shapes(a.shape, b.shape, **params)[{"output": "y", "input": "x", "kernel": "kernel"}[params["kind"]]]
    if params["kind"] != "kernel":
        return jax.ShapeDtypeStruct(found, a.dtype)
    shape = (*found[:-2], found[-1], found[-2]) if params["swapped"] else found
    return jax.ShapeDtypeStruct(shape, jnp.float32 if wide else a.dtype)


def _abstract(a: Any, b: Any, *, parts: Any, **params: Any) -> Any:
    out = result(a, b, **params)
    # On a mesh with explicit axes, the batch alone is divided, and a kernel's gradient is a sum over it.
    axes = a.sharding.spec[:1] if params["kind"] != "kernel" else ()
    spec = PartitionSpec(*axes, *[None] * (len(out.shape) - len(axes)))
    return a.update(shape=out.shape, dtype=out.dtype, weak_type=False, sharding=a.sharding.update(spec=spec))


# --- computing ---------------------------------------------------------------------------------------------------


def plain(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    """The result by XLA's convolution."""
    kind, swapped, wide = params["kind"], params["swapped"], params.get("wide", False)
    if wide and kind != "kernel":
        b = b.astype(a.dtype)
    names = shapes(a.shape, b.shape, **params)

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel.swapaxes(-1, -2) if swapped else kernel,
            params["strides"],
            params["pads"],
            rhs_dilation=params["dilation"],
            dimension_numbers=_LAYOUTS[x.ndim - 2],
            feature_group_count=params["groups"],
        )

    if kind == "output":
        return forward(a, b)
    if kind == "input":
        (out,) = jax.linear_transpose(lambda x: forward(x, b), jax.ShapeDtypeStruct(names["x"], a.dtype))(a)
    else:
        kernel = jax.ShapeDtypeStruct(result(a, b, **params).shape, a.dtype)
        (out,) = jax.linear_transpose(lambda kernel: forward(a, kernel), kernel)(b)
        out = out.astype(jnp.float32) if wide else out
    return out


def runs(a: Any, b: Any, **params: Any) -> bool:
    """Whether oneDNN is used and has code for these shapes on this processor, other than its slow reference code."""
    code = _code(a, b, **params)
    return bool(code) and not code.startswith("ref")


def _code(a: Any, b: Any, bias: bool = False, residual: bool = False, activation: str = "", **params: Any) -> str:
    if not available(a):
        return ""
    settings = {name: value for name, value in params.items() if name not in ("kind", "sizes")}
    arrays = shapes(a.shape, b.shape, **params)
    added = {"bias": bias, "residual": residual, "activation": activation, **_own()}
    return library.implementation(params["kind"], a.dtype.name, **arrays, **settings, **added)


def _own() -> dict[str, bool]:
    """Which of this package's own codes may be used instead of oneDNN's."""
    return {form: switched_on(form) for form in ("direct", "winograd")}


def attributes(**params: Any) -> dict[str, Any]:
    """What a call says of a convolution of any kind."""
    low, high = zip(*params["pads"], strict=True)
    numbers = {"strides": params["strides"], "low": low, "high": high, "dilation": params["dilation"]}
    arrays = {name: np.array(value, np.int64) for name, value in numbers.items()}
    return {**arrays, "groups": np.int64(params["groups"]), **_own()}


def call(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    """The result by oneDNN."""
    kind = np.int64(library.KINDS.index(params["kind"]))
    run = jax.ffi.ffi_call(library.CONVOLUTION, result(a, b, **params))
    return run(a, b, kind=kind, swapped=params["swapped"], **attributes(**params))


def _onednn(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    if not runs(a, b, **params):
        return plain(a, b, **params)
    if not _better_in_float32(a, b, **params):
        return call(a, b, **params)
    wide = b.astype(jnp.float32)
    if params["wide"] and params["kind"] != "kernel":  # XLA leaves out a conversion to bfloat16 and back
        wide = lax.reduce_precision(wide, exponent_bits=8, mantissa_bits=7)
    out = call(a.astype(jnp.float32), wide, **params | {"wide": False})
    return out.astype(result(a, b, **params).dtype)


def _better_in_float32(a: Any, b: Any, **params: Any) -> bool:
    """Whether oneDNN has code for depthwise convolutions, but not for this one in bfloat16.

    The input gradient of a 3x3 depthwise convolution with stride 2 takes 16 ms in bfloat16, and 3 ms with conversions
    to float32 and back (56x56x128, batch 8); the kernel gradient of a 5x5 one 25 and 8 ms.
    """
    x, kernel = (shapes(a.shape, b.shape, **params)[name] for name in ("x", "kernel"))
    depthwise = params["groups"] > 1 and kernel[-2] == 1 and x[-1] == kernel[-1]
    return depthwise and a.dtype == jnp.bfloat16 and "dw" not in _code(a, b, **params)


@functools.lru_cache(maxsize=1024)
def _with(**params: Any) -> Any:
    return functools.partial(_onednn, **params)


# --- rules -------------------------------------------------------------------------------------------------------


def _first_gradient(ct: jax.Array, a: Any, b: jax.Array, *, parts: Any, **params: Any) -> jax.Array:
    window = {**params, "sizes": ()}
    if params["kind"] == "output":
        return _bind(ct, b, **window | {"kind": "input", "sizes": a.aval.shape[1:-1]})
    if params["kind"] == "input":
        return _bind(ct, b, **window | {"kind": "output"})
    return _bind(b, ct, **window | {"kind": "input", "sizes": a.aval.shape[1:-1]})


def _second_gradient(ct: jax.Array, a: jax.Array, b: Any, *, parts: Any, **params: Any) -> jax.Array:
    window = {**params, "sizes": ()}
    if params["kind"] == "output":
        return _bind(a, ct, **window | {"kind": "kernel", "sizes": b.aval.shape[:-2]})
    if params["kind"] == "input":
        return _bind(ct, a, **window | {"kind": "kernel", "sizes": b.aval.shape[:-2]})
    return _bind(a, ct, **window | {"kind": "output"})


def _batched(operands: Any, dims: Any, *, parts: Any, **params: Any) -> tuple[jax.Array, int]:
    (a, b), (first, second) = operands, dims
    if params["kind"] != "kernel" and second is None:  # merge the batches of the images
        a = jnp.moveaxis(a, first, 0)
        out = _bind(lax.collapse(a, 0, 2), b, **params)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0
    size = a.shape[first] if first is not None else b.shape[second]
    if params["kind"] == "output" and first is None and size > LOOP and params["groups"] == 1:
        # Merge the filters of all kernels into one kernel.
        kernels = jnp.moveaxis(b, second, -3 if params["swapped"] else -2)
        first_of_two = kernels.ndim - (3 if params["swapped"] else 2)
        out = _bind(a, lax.collapse(kernels, first_of_two, first_of_two + 2), **params)
        return out.reshape(*out.shape[:-1], size, out.shape[-1] // size), out.ndim - 1
    a = a if first is None else jnp.moveaxis(a, first, 0)
    b = b if second is None else jnp.moveaxis(b, second, 0)
    if size <= LOOP:
        pairs = ((a if first is None else a[i], b if second is None else b[i]) for i in range(size))
        return jnp.stack([_bind(*pair, **params) for pair in pairs]), 0
    a, b = (jnp.broadcast_to(v, (size, *v.shape)) if d is None else v for v, d in ((a, first), (b, second)))
    return lax.map(lambda pair: _bind(*pair, **params), (a, b)), 0


convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(convolution_p, _first_gradient, _second_gradient)
batching.primitive_batchers[convolution_p] = _batched
compute(convolution_p, plain, cpu=_onednn)
