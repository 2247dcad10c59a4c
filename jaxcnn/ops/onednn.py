"""Convolution on a CPU by oneDNN, which jaxlib carries and XLA does not use by itself.

jaxlib's x86-64 builds hold the runtime of a custom call, `__onednn$convolution`, whose compiler pass is left out of
the build. Emitted from here it works inside `jit`, on XLA's own threads, with nothing to install. It is no public
interface: it is used only with the versions of jaxlib in `CHECKED`, on Linux on x86-64, in float32 and, where the
processor multiplies it, bfloat16, for shapes that oneDNN is known to take, and not at all with JAXCNN_ONEDNN=0 in the
environment. Anywhere else XLA's own convolution is taken: the absence of this one costs speed only.

`conv` is a primitive of its own, with the rules for `jvp`, `grad` (of any order) and `vmap`:

- input gradient: the convolution of the output gradient with the kernel's taps reversed and its features swapped;
  at a stride, one such convolution for each phase of the output, and the phases woven together;
- kernel gradient: a convolution in three dimensions whose kernel is the output gradient, for which neither operand is
  moved (`_in_planes`), or a matrix product where the kernel is one pixel and the pixels are few;
- `vmap` over images joins the batches; over kernels, or over both, it is one convolution a network, as far as an
  ensemble goes: beyond, kernels of one image join their filters, and both are a loop.

`conv_fused` is the convolution with the bias, residual sum and ReLU that follow it, for inference
(`jaxcnn.ops.fusion`).

Under `jit` with a batch sharded over several CPU devices the compiler gathers it for the call: right, but not faster.
`experiments/lenet_flax.py` measures a training step with it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jaxcnn.ops.backend import compute, stored, suits_cpu, vary_alike
from jaxcnn.ops.geometry import Edges
from jaxcnn.ops.precision import spread

_RUNTIME = "__onednn$"
CHECKED = frozenset({"0.10.2", "0.12.0.1"})
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
_NARROW = 16  # places of a kernel gradient's row below which two pixels are folded into one
_MANY = 4096  # pixels of a batch from which on a pointwise convolution's kernel gradient is no matrix product
_BOUND = 16  # images at most that are the features of one plane, in bfloat16
_GROUPS = 8  # groups of channels up to which each has a kernel gradient of its own
_LOOP = 16  # networks of an ensemble up to which a batched convolution is unrolled


def available(*arrays: Any) -> bool:
    """Whether oneDNN's convolution may be called here, for these arrays."""
    return (
        os.environ.get("JAXCNN_ONEDNN", "1") != "0"
        and jaxlib.__version__ in CHECKED
        and platform.system() == "Linux"
        and platform.machine() == "x86_64"
        and suits_cpu("onednn", *arrays)
    )


@functools.cache
def computes(dtype: str) -> bool:
    """Whether the processor has instructions for products in this type; oneDNN ends the process where it has not."""
    if dtype != "bfloat16":
        return dtype == "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def suits(x: Any, kernel: Any, strides: Any, pads: Any, dilation: Any, groups: int = 1) -> bool:
    """Whether oneDNN takes these arrays, and quickly: float32 or bfloat16, nothing empty, no negative padding.

    What oneDNN rejects ends the process, so everything else is left to XLA, and to its errors. One case it gets wrong:
    of a single channel at strides like (1, 2), a result one pixel wide has rows that were never written.
    """
    out = _out_shape(x, kernel, strides, pads, dilation)
    return (
        x.dtype == kernel.dtype
        and computes(x.dtype.name)
        and x.ndim == kernel.ndim in (4, 5)
        and x.shape[-1] == kernel.shape[-2] * groups
        and kernel.shape[-1] % groups == 0
        and all(p >= 0 for pair in pads for p in pair)
        and min(*x.shape, *kernel.shape, *out) > 0
        and not (kernel.shape[-2] == 1 and 1 in out[1:-1] and max(strides) > 1)
    )


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    pads: Edges,
    dilation: tuple[int, ...],
    groups: int = 1,
    transposed: bool = False,
) -> jax.Array:
    """Convolution `(N, *spatial, C), (*size, C / groups, K) -> (N, *out, K)`, as `jaxcnn.ops.conv`.

    transposed says that the kernel lies in memory as `(*size, K, C)`, so that it is not moved; the result is the same.
    """
    x, kernel = vary_alike(x, kernel)
    if 0 in (*x.shape, *kernel.shape):  # sums of nothing, as in the gradient of a window that saw only padding
        return jnp.zeros(_out_shape(x, kernel, strides, pads, dilation), x.dtype)
    settings: dict[str, Any] = {"strides": strides, "pads": pads, "dilation": dilation, "groups": groups}
    return conv_p.bind(x, kernel, **settings, transposed=transposed)


conv_p = Primitive("jaxcnn_conv")


def _out_shape(x: Any, kernel: Any, strides: Any, pads: Any, dilation: Any) -> tuple[int, ...]:
    spatial = (
        (w + lo + hi - d * (f - 1) - 1) // s + 1
        for w, f, s, (lo, hi), d in zip(x.shape[1:-1], kernel.shape, strides, pads, dilation, strict=False)
    )
    return (x.shape[0], *spatial, kernel.shape[-1])


def _abstract(x: Any, kernel: Any, *, strides: Any, pads: Any, dilation: Any, **settings: Any) -> Any:
    return x.update(shape=_out_shape(x, kernel, strides, pads, dilation), weak_type=False)


def _plain(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Any,
    pads: Any,
    dilation: Any,
    groups: int = 1,
    **hints: Any,
) -> jax.Array:
    numbers = _LAYOUTS[x.ndim - 2]
    return lax.conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=numbers, feature_group_count=groups
    )


def _onednn(x: jax.Array, kernel: jax.Array, *, transposed: bool, **window: Any) -> jax.Array:
    if not available() or not suits(x, kernel, **window):
        return _plain(x, kernel, **window)
    return _call(x, kernel, transposed=transposed, **window)


def _touches(x: Any, kernel: Any, strides: Any, pads: Any, dilation: Any) -> bool:
    """Whether every window has a tap on the image. Where none has, oneDNN crashes on what is to be done behind it."""
    sizes, outs = x.shape[1:-1], _out_shape(x, kernel, strides, pads, dilation)[1:-1]
    return all(
        any(0 <= i * s + u * d - lo < w for u in range(f))
        for w, o, f, s, (lo, _), d in zip(sizes, outs, kernel.shape, strides, pads, dilation, strict=False)
        for i in range(o)
    )


def _call(
    x: jax.Array,
    kernel: jax.Array,
    *operands: jax.Array,
    fusions: Sequence[str] = (),
    strides: Any,
    pads: Any,
    dilation: Any,
    groups: int = 1,
    transposed: bool = False,
) -> jax.Array:
    """The custom call, with operations on the result that oneDNN does before it is written, and their operands."""
    ndim = x.ndim
    data = {"batch_dim": "0", "feature_dim": str(ndim - 1), "spatial_dims": _text(range(1, ndim - 1))}
    config = {
        "dims": str(ndim),
        "feature_groups": str(groups),
        "input": {"dims": str(ndim), "data": data},
        "output": {"dims": str(ndim), "data": data},
        "kernel": {
            "dims": str(ndim),
            "filter": {
                "input_feature_dim": str(ndim - 2),
                "output_feature_dim": str(ndim - 1),
                "spatial_dims": _text(range(ndim - 2)),
            },
        },
        "window": {
            "size": _text(kernel.shape[:-2]),
            "pad_left": _text(lo for lo, _ in pads),
            "pad_right": _text(hi for _, hi in pads),
            "strides": _text(strides),
            "window_dilations": _text(dilation),
        },
        **({"fusions": {"ops": list(fusions)}} if fusions else {}),
    }
    layouts = [
        (*range(ndim - 2), ndim - 1, ndim - 2) if transposed and i == 1 else tuple(range(a.ndim))
        for i, a in enumerate((x, kernel, *operands))
    ]
    out = jax.ShapeDtypeStruct(_out_shape(x, kernel, strides, pads, dilation), x.dtype)
    return runtime("convolution", out, {"onednn_conv_config": config}, layouts)(x, kernel, *operands)


def runtime(name: str, out: jax.ShapeDtypeStruct, config: Any, layouts: Sequence[Sequence[int]]) -> Any:
    """The custom call of this name as a function of arrays that lie in memory as `layouts` say."""
    _keep_out_of_the_cache()
    return jax.ffi.ffi_call(
        _RUNTIME + name,
        out,
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
        input_layouts=layouts,
    )


@functools.cache
def _keep_out_of_the_cache() -> None:
    """From now on JAX's compilation cache passes over programs that call oneDNN, and keeps all others.

    XLA cannot write such a program down. When it tries it mostly finds that out (std::bad_alloc), but now and then it
    ends the process. JAX has no public way to leave a program out; in the versions of `CHECKED` this is where one is
    written.
    """
    from jax._src import compilation_cache

    write = compilation_cache.put_executable_and_time

    def put(key: str, name: str, executable: Any, *rest: Any) -> None:
        if not any(_RUNTIME in module.to_string() for module in executable.hlo_modules()):
            write(key, name, executable, *rest)

    compilation_cache.put_executable_and_time = put  # type: ignore[assignment]


def _text(numbers: Any) -> list[str]:
    return [str(int(n)) for n in numbers]


# --- with what follows it, in inference --------------------------------------------------------------------------


def conv_fused(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None = None,
    *,
    relu: bool,
    strides: tuple[int, ...],
    pads: Edges,
    dilation: tuple[int, ...],
) -> jax.Array:
    """conv(x, kernel) + bias + residual, and the ReLU of that, in one pass over the memory.

    bias is `(K,)`, residual of the output's shape. It has a rule for `vmap` and none for gradients, which
    `jaxcnn.ops.fusion` takes of the program before. A NaN does not pass oneDNN's ReLU: it becomes 0.
    """
    operands = (x, kernel, bias) if residual is None else (x, kernel, bias, residual)
    return conv_fused_p.bind(*vary_alike(*operands), relu=relu, strides=strides, pads=pads, dilation=dilation)


conv_fused_p = Primitive("jaxcnn_conv_fused")


def _fused_abstract(x: Any, kernel: Any, *operands: Any, relu: bool, **window: Any) -> Any:
    return _abstract(x, kernel, **window)


def _fused_plain(x: jax.Array, kernel: jax.Array, *operands: jax.Array, relu: bool, **window: Any) -> jax.Array:
    y = conv(x, kernel, **window)
    y = sum((spread(operand, y) for operand in operands), y)
    return jax.nn.relu(y) if relu else y


def _fused_onednn(x: jax.Array, kernel: jax.Array, *operands: jax.Array, relu: bool, **window: Any) -> jax.Array:
    if not available() or not suits(x, kernel, **window) or not _touches(x, kernel, **window):
        return _fused_plain(x, kernel, *operands, relu=relu, **window)
    # SUM is no choice for the residual: it adds what the result's memory held before.
    fusions = ["BIAS", "BINARY_ADD"][: len(operands)] + ["RELU"] * relu
    return _call(x, kernel, *operands, fusions=fusions, **window)


# --- gradients ---------------------------------------------------------------------------------------------------


def _crop(x: jax.Array, pads: Sequence[tuple[int, int]]) -> tuple[jax.Array, Edges]:
    """oneDNN takes no negative padding: what is to be cut off is cut here."""
    if all(p >= 0 for pair in pads for p in pair):
        return x, tuple(pads)
    config = [(0, 0, 0), *((min(lo, 0), min(hi, 0), 0) for lo, hi in pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config), tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads)


def _input_gradient(
    ct: jax.Array, x: Any, kernel: jax.Array, *, strides: Any, pads: Any, dilation: Any, groups: int, transposed: bool
) -> jax.Array:
    ct = stored(ct)  # both gradients use it
    sizes = x.aval.shape[1:-1]
    ndim = len(sizes)
    ones = (1,) * ndim
    kinds = (groups, not transposed and groups == 1)
    if any(s > 1 for s in strides) and all(d == 1 for d in dilation):
        return _by_phase(ct, kernel, sizes, strides, pads, *kinds)
    back = _turned(kernel, groups)
    if all(s == 1 for s in strides):
        cropped, edges = _crop(ct, _transposed_pads(sizes, ct.shape[1:-1], kernel.shape, pads, dilation))
        return conv(cropped, back, ones, edges, dilation, *kinds)
    stuffed = lax.pad(ct, jnp.zeros((), ct.dtype), [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)])
    cropped, edges = _crop(stuffed, _transposed_pads(sizes, stuffed.shape[1:-1], kernel.shape, pads, dilation))
    return conv(cropped, back, ones, edges, dilation, *kinds)


def _turned(kernel: jax.Array, groups: int) -> jax.Array:
    """The kernel with its taps reversed and, in each group, its features swapped: `(*size, K / groups, C)`."""
    kernel = jnp.flip(kernel, range(kernel.ndim - 2))
    if groups > 1:
        kernel = kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups).swapaxes(-1, -3)
        return lax.collapse(kernel, kernel.ndim - 2)
    return kernel.swapaxes(-1, -2)


def _transposed_pads(sizes: Any, outs: Any, window: Any, pads: Any, dilation: Any) -> list[tuple[int, int]]:
    return [
        (d * (f - 1) - lo, w - o + lo) for w, o, f, (lo, _), d in zip(sizes, outs, window, pads, dilation, strict=False)
    ]


def _by_phase(
    ct: jax.Array, kernel: jax.Array, sizes: Any, strides: Any, pads: Any, groups: int, transposed: bool
) -> jax.Array:
    """dx[s i + r] = sum over the taps u = (r + p) mod s, + s, ...: of ct[i + (r + p - u) / s] kernel[u]."""
    ndim, channels = len(sizes), kernel.shape[-2] * groups
    longest = [-(-w // s) for w, s in zip(sizes, strides, strict=True)]
    pieces = []
    for phase in itertools.product(*(range(s) for s in strides)):
        part, edges, empty = kernel, [], False
        for axis, (r, s, (lo, _), length) in enumerate(zip(phase, strides, pads, longest, strict=True)):
            first = (r + lo) % s
            taps = len(range(first, kernel.shape[axis], s))
            empty = empty or taps == 0
            part = lax.slice_in_dim(part, min(first, kernel.shape[axis]), None, s, axis)
            # ct's index for i = 0 and the first tap, which is the last one of the reversed kernel.
            shift = (r + lo - first) // s
            edges.append((taps - 1 - shift, length + shift - ct.shape[axis + 1]))
        if empty:
            pieces.append(jnp.zeros((ct.shape[0], *longest, channels), ct.dtype))
            continue
        cropped, padded = _crop(ct, edges)
        pieces.append(conv(cropped, _turned(part, groups), (1,) * ndim, padded, (1,) * ndim, groups, transposed))
    woven = jnp.stack(pieces).reshape(*strides, ct.shape[0], *longest, channels)
    order = [ndim]
    for axis in range(ndim):
        order += [ndim + 1 + axis, axis]
    whole = woven.transpose(*order, 2 * ndim + 1).reshape(
        ct.shape[0], *(n * s for n, s in zip(longest, strides, strict=True)), channels
    )
    return lax.slice(whole, (0,) * whole.ndim, (ct.shape[0], *sizes, channels))


def _kernel_gradient(
    ct: jax.Array, x: jax.Array, kernel: Any, *, strides: Any, pads: Any, dilation: Any, groups: int, transposed: bool
) -> jax.Array:
    """dkernel[u, v, c, k] = sum over n, i, j of x[n, S i + D u - P, S j + D v - P, c] ct[n, i, j, k]."""
    return _kernel_of_shape(stored(ct), x, kernel.aval.shape, strides, pads, dilation, groups)


def _kernel_of_shape(
    ct: jax.Array, x: jax.Array, shape: tuple[int, ...], strides: Any, pads: Any, dilation: Any, groups: int
) -> jax.Array:
    if 1 < groups <= _GROUPS:
        one = (*shape[:-1], shape[-1] // groups)
        pairs = zip(jnp.split(ct, groups, -1), jnp.split(x, groups, -1), strict=True)
        return jnp.concatenate([_kernel_of_shape(*pair, one, strides, pads, dilation, 1) for pair in pairs], -1)
    if groups > 1 or not suits_cpu("planes"):
        plain = functools.partial(_plain, strides=strides, pads=pads, dilation=dilation, groups=groups)
        return jax.linear_transpose(lambda k: plain(x, k), jnp.zeros(shape, x.dtype))(ct)[0]
    if x.ndim != 4:
        return _by_batch(ct, x, shape, strides, pads, dilation)
    height, width, channels, _ = shape
    if height == width == 1 and not any(map(any, pads)):
        return _pointwise(ct, lax.slice(x, (0,) * 4, x.shape, (1, *strides, 1)))[None, None]
    # Of a narrow result, two pixels of ct are taken as one of twice the features: the result is wider by a stride.
    fold = 2 if width * channels < _NARROW and ct.shape[2] % 2 == 0 else 1
    reach = dilation[1] * (width - 1) + 1
    out = _in_planes(ct, x, (height, reach + strides[1] * (fold - 1)), fold, strides, pads, dilation[0])
    out = out.reshape(*out.shape[:2], channels, fold, ct.shape[-1])
    parts = [out[:, i * strides[1] : i * strides[1] + reach : dilation[1], :, i] for i in range(fold)]
    return functools.reduce(lax.add, parts)


def _in_planes(
    ct: jax.Array, x: jax.Array, window: tuple[int, int], fold: int, strides: Any, pads: Any, dilation: int
) -> jax.Array:
    """The kernel gradient `(*window, C fold K)` as a convolution in three dimensions, for which nothing is moved.

    The images are planes of one volume `(1, N, H, W C, 1)`, and ct is a kernel `(N, Ho, Wo, 1, K)` that covers all
    planes at once. The channels are C places in the width: to ct's next pixel it is S C places, and a place of the
    result is one (v, c).

    In bfloat16 the processor multiplies pairs, or more, of input features: several images are one plane of as many
    features, `(1, N / B, H, W C, B)`, and are moved for that.
    """
    n, rows, columns, features = ct.shape
    # How far the taps reach: exactly as many places are left for ct to stand in.
    ends = ((rows - 1) * strides[0] + dilation * (window[0] - 1), (columns - fold) * strides[1] + window[1] - 1)
    x, (vertical, (left, right)) = _crop(
        x, [(lo, end + 1 - w - lo) for w, end, (lo, _) in zip(x.shape[1:-1], ends, pads, strict=True)]
    )
    _, height, width, channels = x.shape
    bound = math.gcd(n, _BOUND) if x.dtype == jnp.bfloat16 else 1
    out = conv(
        x.reshape(1, n // bound, bound, height, width * channels).transpose(0, 1, 3, 4, 2),
        ct.reshape(n // bound, bound, rows, columns // fold, fold * features).transpose(0, 2, 3, 1, 4),
        (1, dilation, 1),
        ((0, 0), vertical, (left * channels, right * channels)),
        (1, strides[0], strides[1] * channels * fold),
    )
    return out.reshape(*window, channels * fold * features)


def _pointwise(ct: jax.Array, x: jax.Array) -> jax.Array:
    """The kernel gradient `(C, K)` where each pixel of ct has seen the one of x at its place."""
    if math.prod(ct.shape[:-1]) < _MANY:
        return jnp.einsum("nijc,nijk->ck", x, ct)
    if x.shape[-1] < ct.shape[-1]:  # the wide one is better as the image
        return _pointwise(x, ct).T
    return _in_planes(ct, x, (1, 1), 1, (1, 1), ((0, 0),) * 2, 1).reshape(x.shape[-1], ct.shape[-1])


def _by_batch(ct: jax.Array, x: jax.Array, shape: Any, strides: Any, pads: Any, dilation: Any) -> jax.Array:
    """The kernel gradient in any number of dimensions: the batch takes the place of the input features.

    ct is the kernel, and the channels are the batch. Both operands are moved in memory.
    """
    space = range(1, x.ndim - 1)
    edges = [
        (lo, d * (f - 1) + s * (o - 1) + 1 - w - lo)
        for w, o, f, s, (lo, _), d in zip(x.shape[1:-1], ct.shape[1:-1], shape, strides, pads, dilation, strict=False)
    ]
    x, edges_ = _crop(x, edges)
    out = conv(x.transpose(-1, *space, 0), ct.transpose(*space, 0, -1), dilation, edges_, strides)
    return out.transpose(*space, 0, -1)


# --- rules -------------------------------------------------------------------------------------------------------


def _batched(args: Any, dims: Any, **params: Any) -> tuple[jax.Array, int]:
    (x, kernel), (x_dim, kernel_dim) = args, dims
    if kernel_dim is None:
        x = jnp.moveaxis(x, x_dim, 0)
        out = conv(lax.collapse(x, 0, 2), kernel, **params)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    if x_dim is None and kernel.shape[kernel_dim] <= _LOOP:
        kernel = jnp.moveaxis(kernel, kernel_dim, 0)
        return jnp.stack([conv(x, k, **params) for k in kernel]), 0
    if x_dim is None and params["groups"] == 1:
        kernel = jnp.moveaxis(kernel, kernel_dim, -2)
        out = conv(x, lax.collapse(kernel, kernel.ndim - 2), **params)
        return out.reshape(*out.shape[:-1], *kernel.shape[-2:]), out.ndim - 1
    kernel = jnp.moveaxis(kernel, kernel_dim, 0)
    x = jnp.broadcast_to(x, (len(kernel), *x.shape)) if x_dim is None else jnp.moveaxis(x, x_dim, 0)
    if len(x) <= _LOOP:
        return jnp.stack([conv(a, b, **params) for a, b in zip(x, kernel, strict=True)]), 0
    return lax.map(lambda pair: conv(*pair, **params), (x, kernel)), 0


def _fused_batched(args: Any, dims: Any, **params: Any) -> tuple[jax.Array, int]:
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    first = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)]
    if dims[1] is dims[2] is None:
        x, kernel, bias, *residual = first
        images = [
            lax.collapse(jnp.broadcast_to(a, (size, *a.shape)) if d is None else a, 0, 2)
            for a, d in zip((x, *residual), (dims[0], *dims[3:]), strict=True)
        ]
        out = conv_fused(images[0], kernel, bias, *images[1:], **params)
        return out.reshape(size, len(out) // size, *out.shape[1:]), 0
    if size <= _LOOP:
        each = ([a if d is None else a[i] for a, d in zip(first, dims, strict=True)] for i in range(size))
        return jnp.stack([conv_fused(*one, **params) for one in each]), 0
    plain = functools.partial(_fused_plain, **params)
    return jax.vmap(plain, [None if d is None else 0 for d in dims])(*first), 0


conv_p.def_abstract_eval(_abstract)
ad.defbilinear(conv_p, _input_gradient, _kernel_gradient)
batching.primitive_batchers[conv_p] = _batched
compute(conv_p, _plain, cpu=_onednn)

conv_fused_p.def_abstract_eval(_fused_abstract)
batching.primitive_batchers[conv_fused_p] = _fused_batched
compute(conv_fused_p, _fused_plain, cpu=_fused_onednn)
