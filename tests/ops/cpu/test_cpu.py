"""oneDNN's convolutions on a CPU: right for every kind, under every transformation; their absence costs speed only.

Tolerance in float32 1e-5 of the largest value: sums of up to some thousand products in another order. In bfloat16 the
sums are float32's and are rounded once to 8 bits, which is 2^-9 of a value.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import convolutions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same
from jax import lax

import jaxcnn as cnn
from jaxcnn import data, ops
from jaxcnn.ops import cpu
from jaxcnn.ops.cpu import build, fused, library, primitive

needs_engine = pytest.mark.skipif(not cpu.available(), reason=f"oneDNN is not called here: {library.unavailable()}")
BFLOAT16 = jnp.dtype(jnp.bfloat16)
WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilation": (1, 1)}


def plain(x: jax.Array, kernel: jax.Array, **window: Any) -> jax.Array:
    """XLA's own."""
    return primitive.plain(x, kernel, **{"kind": "output", "sizes": (), "groups": 1, "swapped": False} | window)


def array(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(normal(seed, *shape))  # `jnp.asarray` compiles a program for each shape


def wide(*arrays: Any) -> Any:
    return [np.asarray(a, np.float64) for a in arrays]


# --- against float64 ---------------------------------------------------------------------------------------------


def check(seeds: range, dtype: Any, tolerance: float) -> None:
    """Random convolutions, their gradients, and the transposed ones, in one program, which is quicker to compile."""
    cases = [convolutions.a_case(seed) for seed in seeds]
    arrays = []
    for seed, (x, kernel, settings) in zip(seeds, cases, strict=True):
        made = (x, kernel, convolutions.out_shape(x, kernel, settings))
        arrays.append([normal(3 * seed + i, *s).astype(dtype) for i, s in enumerate(made)])

    @jax.jit
    def ours(arrays: Any) -> Any:
        found = []
        for (x, kernel, ct), (_, _, settings) in zip(arrays, cases, strict=True):
            assert cpu.takes(x, kernel, **settings)
            y, back = jax.vjp(partial(cpu.conv, **settings), x, kernel)
            found.append((y, *back(ct)))
        return found

    for seed, (x, kernel, ct), (shape, size, settings), found in zip(seeds, arrays, cases, ours(arrays), strict=True):
        x, kernel, ct = wide(x, kernel, ct)
        expected = (
            convolutions.convolution(x, kernel, settings),
            convolutions.input_gradient(shape, kernel, ct, settings),
            convolutions.kernel_gradient(x, size, ct, settings),
        )
        for what, a, e in zip(("y", "dx", "dkernel"), found, expected, strict=True):
            assert (a.dtype, a.shape) == (dtype, e.shape)
            error = np.abs(np.asarray(a, np.float64) - e).max() / max(np.abs(e).max(), 1e-3)
            assert error < tolerance, f"{what} of case {seed}, {shape} * {size}, {settings}: off by {error:.1e}"


@needs_engine
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_every_kind_is_right(first: int) -> None:
    check(range(first, first + 20), jnp.dtype("float32"), 1e-5)


@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2000, 20))
def test_many_of_every_kind_are_right(first: int) -> None:
    check(range(first, first + 20), jnp.dtype("float32"), 1e-5)


@needs_engine
@pytest.mark.parametrize("first", [5000, 5020])
def test_bfloat16_is_right(first: int) -> None:
    """Where the processor has no instructions for it, XLA's."""
    check(range(first, first + 20), BFLOAT16, 2**-8)


@needs_engine
@pytest.mark.parametrize("first", range(5000, 5060, 10))
def test_a_kernel_in_float32_and_images_in_bfloat16(first: int) -> None:
    """The kernel is rounded: the same bits as with a rounded one. Its gradient is not rounded: 1e-5, as in float32."""
    for seed in range(first, first + 10):
        shape, size, settings = convolutions.a_case(seed)
        made = (shape, size, convolutions.out_shape(shape, size, settings))
        x, kernel, ct = (array(3 * seed + i, *s) for i, s in enumerate(made))
        x, ct, rounded = (a.astype(BFLOAT16) for a in (x, ct, kernel))
        assert cpu.takes(x, kernel, **settings)

        @jax.jit
        def both(x: Any, kernel: Any, rounded: Any, ct: Any, settings: Any = settings) -> Any:
            given = [jax.vjp(partial(cpu.conv, **settings), x, k) for k in (kernel, rounded)]
            return [(y, *back(ct)) for y, back in given]

        (y, dx, dkernel), (y_rounded, dx_rounded, _) = both(x, kernel, rounded, ct)
        assert (y.dtype, dx.dtype, dkernel.dtype) == (BFLOAT16, BFLOAT16, np.float32)
        same((y, dx), (y_rounded, dx_rounded))
        close(dkernel, convolutions.kernel_gradient(*wide(x), size, *wide(ct), settings))


@needs_engine
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_taps_that_no_window_uses(dtype: str) -> None:
    """Their gradient is 0. oneDNN's, in bfloat16, is what earlier calls have left in the memory."""
    used, tolerance = jnp.dtype(dtype), 1e-5 if dtype == "float32" else 2**-8
    x, ct = (array(seed, 40, 30, 30, 16).astype(used) for seed in (0, 1))
    before = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    for seed in (9, 51, 150, 368):
        shape, size, settings = convolutions.a_case(seed)
        jax.vjp(lambda k: cpu.conv(x, k, **before), array(2, 3, 3, 16, 16).astype(used))[1](ct)
        image, kernel = array(seed, *shape).astype(used), array(seed + 1, *size).astype(used)
        y, back = jax.vjp(partial(cpu.conv, image, **settings), kernel)
        given = array(seed + 2, *y.shape).astype(used)
        (found,) = back(given)
        expected = convolutions.kernel_gradient(*wide(image), size, *wide(given), settings)
        assert (expected == 0).any()
        close(found.astype(np.float32), expected, tolerance)


@needs_engine
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_transposed_convolutions_are_right(ndim: int, seed: int) -> None:
    """And their gradients: by x it is the convolution, by the kernel the convolution's."""
    rng = np.random.default_rng(100 * ndim + seed)
    stride, dilation, size = (tuple(int(v) for v in rng.integers(1, 4, ndim)) for _ in range(3))
    padding = tuple(int(rng.integers(0, d * (f - 1) + 1)) for d, f in zip(dilation, size, strict=True))
    extra = tuple(int(rng.integers(0, s)) for s in stride)
    x = array(seed, 2, *(int(v) for v in rng.integers(3, 7, ndim)), 5)
    kernel = array(seed + 1, *size, 5, 7)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    y, back = jax.vjp(jax.jit(partial(ops.conv_transpose, **settings)), x, kernel)
    ct = array(seed + 2, *y.shape)
    settings = {"strides": stride, "pads": tuple((p, p) for p in padding), "dilation": dilation, "groups": 1}
    turned = np.asarray(kernel, np.float64).swapaxes(-1, -2)
    close(y, convolutions.input_gradient(y.shape, turned, wide(x)[0], settings))
    expected = convolutions.convolution(wide(ct)[0], turned, settings)
    by_kernel = convolutions.kernel_gradient(wide(ct)[0], turned.shape, wide(x)[0], settings).swapaxes(-1, -2)
    close(back(ct), (expected, by_kernel))


@needs_engine
@pytest.mark.parametrize("activation", fused.ACTIVATIONS)
def test_what_follows_is_right(activation: str) -> None:
    """Bias and residual, each with and without. GELU by erf is oneDNN's approximation of it, good to 1e-6."""
    for seed in (0, 3, 6, 9):
        shape, size, settings = convolutions.a_case(seed, 2)
        x, kernel, bias = array(seed, *shape), array(seed + 1, *size), array(seed + 2, size[-1])
        residual = array(seed + 3, *convolutions.out_shape(shape, size, settings))
        y = convolutions.convolution(*wide(x, kernel), settings)
        given = [(b, r) for b in (bias, None) for r in (residual, None)]
        found = jax.jit(
            lambda x, kernel, settings=settings, given=given: [
                cpu.conv_fused(
                    *(x, kernel) if b is None else (x, kernel, b),
                    affine=fused.NOTHING if b is None else fused.SHIFT,
                    residual=r,
                    activation=activation,
                    **settings,
                )
                for b, r in given
            ]
        )(x, kernel)
        for one, operands in zip(found, given, strict=True):
            total = y + sum(wide(o)[0] for o in operands if o is not None)
            with jax.enable_x64(True):
                expected = np.asarray(fused.ACTIVATIONS[activation](jnp.asarray(total)))
            close(one, expected)


EVERY_STEP = cpu.Affine(
    (
        ("constant", 0, 0), ("constant", 1, 0),  # registers 2 and 3, after the two vectors
        ("add", 1, 2), ("sqrt", 4, 0), ("div", 0, 5), ("rsqrt", 4, 0), ("neg", 7, 0), ("sub", 8, 3), ("mul", 9, 0),
    ),
    (0.5, 2.0), factor=6, shift=10,
)  # fmt: skip


@needs_engine
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("image", "size", "groups", "code"),
    [
        ((2, 9, 3), (3, 3, 8), 1, ""),
        ((2, 9, 8, 3), (3, 3, 3, 8), 1, "direct"),
        ((2, 9, 8, 16), (1, 1, 16, 48), 1, ""),
        ((2, 9, 8, 17), (2, 3, 17, 33), 1, ""),
        ((4, 20, 20, 32), (3, 3, 32, 80), 1, "winograd"),
        ((4, 32, 32, 32), (5, 5, 32, 96), 1, "winograd"),
        ((2, 9, 8, 12), (3, 3, 3, 16), 4, ""),
        ((2, 9, 8, 16), (3, 3, 1, 16), 16, ""),
        ((2, 5, 5, 5, 16), (2, 2, 2, 16, 70), 1, ""),
    ],
    ids=str,
)
def test_a_factor_is_right(image: Any, size: Any, groups: int, code: str, dtype: str) -> None:
    """y = relu(conv(x, kernel) factor + shift) beside float64: in bfloat16, kernel and result are rounded to 8 bits."""
    x, kernel = array(0, *image).astype(dtype), array(1, *size)
    vectors = [array(2, size[-1]), jnp.abs(array(3, size[-1]))]
    ndim = len(size) - 2
    window = {"strides": (1,) * ndim, "pads": ((0, 0),) * ndim, "dilation": (1,) * ndim, "groups": groups}
    shapes = image, size, convolutions.out_shape(image, size, window)
    own = {"bias": True, "activation": "relu", "direct": True, "winograd": True, "wide": dtype == "bfloat16"}
    used = library.implementation("output", dtype, *shapes, **window, **own)
    assert used == code if code and dtype == "float32" else used not in ("direct", "winograd")
    run = partial(cpu.conv_fused, affine=EVERY_STEP, activation="relu", **window)
    scale, variance = wide(*vectors)
    factor, shift = scale / np.sqrt(variance + 0.5), (-1 / np.sqrt(variance + 0.5) - 2) * scale
    expected = np.maximum(convolutions.convolution(*wide(x, kernel), window) * factor + shift, 0)
    for function in (run, fused_plain(run)):
        found = wide(jax.jit(function)(x, kernel, *vectors))[0]
        close(found, expected.astype(np.float32), 1e-5 if dtype == "float32" else 2**-7)


def fused_plain(run: Any) -> Any:
    """The same by XLA's operations."""
    return lambda *arrays: fused.plain(*arrays, **run.keywords, residual=False, wide=arrays[0].dtype != arrays[1].dtype)


@needs_engine
@pytest.mark.parametrize("size", [(3,), (1, 1), (3, 2), (2, 1, 3)], ids=str)
@pytest.mark.parametrize(("channels", "filters"), [(3, 64), (16, 48), (17, 33), (70, 16), (64, 130)])
def test_kernels_in_blocks(size: tuple[int, ...], channels: int, filters: int) -> None:
    """Whole blocks and the rest of one, of channels and of filters: outputs and gradients against XLA's own.

    Both compute in float32, in another order: 1e-5 of the largest value.
    """
    x, k = jnp.asarray(normal(0, 2, *(5,) * len(size), channels)), jnp.asarray(normal(1, *size, channels, filters))

    @partial(jax.jit, static_argnums=0)
    def found(conv: Any, x: jax.Array, k: jax.Array) -> Any:
        y, back = jax.vjp(conv, x, k)
        return y, back(normal(2, *y.shape))

    letters = "DHW"[-len(size) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    plain = partial(
        lax.conv_general_dilated, window_strides=(1,) * len(size), padding="VALID", dimension_numbers=layout
    )
    close(found(ops.conv, x, k), found(plain, x, k))


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS = """
import resource, jax, jax.numpy as jnp
from jaxcnn import ops
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x, k = jnp.ones((1, 730, 730, 16)), jnp.ones((3, 3, 16, 16))
run = jax.jit(lambda x: jnp.sum(ops.conv(ops.conv(x, k), k)))  # intermediate arrays of 32 MiB
run(x).block_until_ready()
before = faults()
for _ in range(4):
    run(x).block_until_ready()
print((faults() - before) // 4)
"""


@needs_engine
@pytest.mark.skipif(not PAGES.exists() or "[madvise]" not in PAGES.read_text(), reason="no huge pages on advice")
def test_memory_comes_in_huge_pages() -> None:
    def faults(plain: str) -> int:
        environment = {**os.environ, "JAXCNN_PLAIN": plain}
        return int(subprocess.run([sys.executable, "-c", FAULTS], env=environment, text=True, capture_output=True,
                                  check=True).stdout)  # fmt: skip

    assert faults("") < faults("pages") / 3


KEPT = """
import ctypes, jax, jax.numpy as jnp
from jaxcnn import ops
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def resident():  # MiB
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))
x = jnp.ones((1, 8, 8, 8))
run = jax.jit(lambda x: ops.conv(x, x[0, :3, :3, :, None] * jnp.ones((3, 3, 8, 8)))).lower(x).compile()
blocks = [libc.malloc(100_000) for _ in range(2000)]  # 191 MiB
for block in blocks:
    libc.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)  # the last one keeps the heap from shrinking
before = resident()
run(x).block_until_ready()
print(before - resident())
"""


@needs_engine
def test_what_compiling_has_left_is_given_back() -> None:
    """Where the C library has that call, GNU's."""
    done = subprocess.run([sys.executable, "-c", KEPT], text=True, capture_output=True, check=True)
    assert int(done.stdout) > 100


@needs_engine
def test_windows_wholly_in_the_padding() -> None:
    """The two taps of each window are beside the only column: sums of nothing, and then the bias."""
    x, kernel = array(0, 1, 5, 1, 8), array(1, 3, 2, 8, 8)
    window = {"strides": (2, 2), "pads": ((0, 0), (1, 3)), "dilation": (1, 2)}
    y = cpu.conv_fused(x, kernel, jnp.arange(8.0), affine=fused.SHIFT, activation="relu", **window)
    same(y, jnp.broadcast_to(jnp.arange(8.0), (1, 2, 2, 8)))
    gradients = jax.grad(lambda x, k: cpu.conv(x, k, **window).sum(), (0, 1))(x, kernel)
    same(gradients, (jnp.zeros_like(x), jnp.zeros_like(kernel)))


@needs_engine
def test_the_same_bits_twice() -> None:
    x, kernel, ct = array(0, 4, 20, 20, 16), array(1, 3, 3, 16, 32), array(2, 4, 20, 20, 32)
    every = jax.jit(
        lambda x, kernel, ct: (lambda y, back: (y, back(ct)))(*jax.vjp(partial(cpu.conv, **WINDOW), x, kernel))
    )
    first = jax.device_get(every(x, kernel, ct))
    for _ in range(5):
        same(every(x, kernel, ct), first)


# --- transformations ---------------------------------------------------------------------------------------------


@needs_engine
@pytest.mark.parametrize("groups", [1, 2])
def test_forward_mode_and_second_derivatives(groups: int) -> None:
    window = {"strides": (2, 1), "pads": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": groups}
    x, kernel, dx, dk = (array(i, *s) for i, s in enumerate([(2, 7, 8, 4), (3, 2, 4 // groups, 6)] * 2))

    def both(f: Any) -> Any:
        f = partial(f, **window)

        def penalty(x: jax.Array, kernel: jax.Array) -> jax.Array:
            gradient = jax.grad(lambda x, k: jnp.sum(jnp.tanh(f(x, k))), argnums=(0, 1))(x, kernel)
            return sum(jnp.sum(g**2) for g in gradient)

        return jax.jvp(f, (x, kernel), (dx, dk)), jax.jit(jax.grad(penalty, argnums=(0, 1)))(x, kernel)

    close(both(cpu.conv), both(plain))


@needs_engine
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("in_axes", "networks"),
    [((0, None), 3), ((None, 0), 3), ((0, 0), 3), ((0, 0), 17), ((None, 1), 17), ((3, 1), 2)],
)
def test_vmap(in_axes: tuple[int | None, int | None], networks: int, groups: int) -> None:
    """Of the values and of the gradients, whose primitives are batched as well."""
    window = {"strides": (2, 1), "pads": ((1, 1), (0, 2)), "dilation": (1, 1), "groups": groups}
    shapes = (2, 7, 6, 4), (3, 3, 4 // groups, 6)
    x, kernel = (
        array(i, *s) if axis is None else jnp.moveaxis(array(i, networks, *s), 0, axis)
        for i, (s, axis) in enumerate(zip(shapes, in_axes, strict=True))
    )

    def both(f: Any) -> Any:
        f = partial(f, **window)
        one = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))
        return jax.jit(jax.vmap(f, in_axes))(x, kernel), jax.jit(jax.vmap(one, in_axes))(x, kernel)

    close(both(cpu.conv), both(plain))


@needs_engine
@pytest.mark.parametrize(("in_axes", "networks"), [((0, None), 3), ((None, 0), 3), ((None, 0), 17), ((0, 0), 3)])
def test_vmap_of_transposed_convolutions(in_axes: Any, networks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = (
        array(i, *([] if axis is None else [networks]), *s)
        for i, (s, axis) in enumerate(zip([(2, 4, 5, 3), (3, 2, 3, 4)], in_axes, strict=True))
    )

    def both() -> Any:
        jax.clear_caches()
        one = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(ops.conv_transpose(x, k, 2))), (0, 1))
        return jax.jit(jax.vmap(one, in_axes))(x, kernel)

    ours = both()
    monkeypatch.setenv("JAXCNN_PLAIN", "onednn")
    close(ours, both())


@needs_engine
def test_remat_and_scan() -> None:
    kernel = array(1, 3, 3, 4, 4) / 6

    def both(f: Any) -> Any:
        step = jax.checkpoint(lambda x, k: jnp.tanh(f(x, k, **WINDOW)))

        def steps(kernel: jax.Array) -> jax.Array:
            return lax.scan(lambda x, _: (step(x, kernel), None), array(0, 2, 8, 8, 4), length=3)[0].sum()

        return jax.jit(jax.value_and_grad(steps))(kernel)

    close(both(cpu.conv), both(plain))


PARALLEL = """
import jax, jax.numpy as jnp, numpy as np, jaxcnn as cnn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxcnn.ops import cpu
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
both = jax.make_mesh((2, 1), ("d", "e"), axis_types=(AxisType.Auto,) * 2)
rng = np.random.default_rng(0)
x, k, b = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((4, 8, 8, 3), (3, 3, 3, 4), (4,)))
loss = lambda k, x: (cnn.ops.conv(x, k) ** 2).mean()
expected = jax.device_get(jax.grad(loss, (0, 1))(k, x))
divided = jax.device_put(x, NamedSharding(mesh, P("d")))

step = jax.jit(jax.grad(loss, (0, 1)))
jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5), step(k, divided), expected)
program = step.lower(k, divided).compile().as_text()
assert "all-gather" not in program, "the batch is gathered"
if cpu.available():
    calls = [line for line in program.splitlines() if 'custom_call_target="jaxcnn_convolution"' in line]
    assert len(calls) == 3, program
    assert not [line for line in calls if "f32[4,8,8,3]" in line], "a device computes the whole batch"
    assert program.count(" all-reduce(") == 1, "the kernel gradients are added up, once"

explicit = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
for dtype in (x.dtype, jnp.bfloat16):  # with a kernel that stays in float32
    given = lambda k, x: (cnn.ops.conv(x, k, dtype=dtype).astype(jnp.float32) ** 2).mean()
    spread = jax.device_put(x.astype(dtype), NamedSharding(explicit, P("d")))
    placed = jax.device_put(k, NamedSharding(explicit, P()))
    found, alone = jax.jit(jax.grad(given))(placed, spread), jax.grad(given)(k, x.astype(dtype))
    np.testing.assert_allclose(found, alone, atol=1e-5)

pooled = lambda x: (cnn.ops.max_pool(x, 3, 2) ** 2).mean() + (cnn.ops.max_pool(x, 2) ** 2).mean()
spread = jax.device_put(x, NamedSharding(explicit, P("d")))
np.testing.assert_allclose(jax.jit(jax.grad(pooled))(spread), jax.grad(pooled)(x), atol=1e-6)

plain = lambda x, k, b: jax.nn.relu(cnn.ops.conv(x, k) * b + b)
fused = cnn.ops.fuse(plain)
np.testing.assert_allclose(jax.jit(fused)(divided, k, b), plain(x, k, b), atol=1e-5)
transposed = lambda x, k: cnn.ops.conv_transpose(x, k, 2)
np.testing.assert_allclose(jax.jit(transposed)(divided, k), transposed(x, k), atol=1e-5)

mean = lambda k, x: jax.lax.pmean(loss(k, x), "d")
for on, axes in ((mesh, {"d"}), (both, {"d"}), (both, {"d", "e"})):
    mapped = jax.shard_map(jax.grad(mean), mesh=on, in_specs=(P(), P("d")), out_specs=P(), axis_names=axes)
    np.testing.assert_allclose(jax.jit(mapped)(k, x), expected[0], atol=1e-5)
pieces = jax.pmap(lambda x: jax.lax.pmean(jax.grad(loss)(k, x), "d"), "d")(x.reshape(2, 2, *x.shape[1:]))
np.testing.assert_allclose(pieces[0], expected[0], atol=1e-5)
"""


def run(script: str, *arguments: str, **environment: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [*arguments, sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_several_devices() -> None:
    """Each device computes its part: a batch that `jit` divides, `shard_map` over all and some axes, `pmap`."""
    run(PARALLEL, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="2")


def test_the_portable_form_is_exported() -> None:
    x, kernel = array(0, 2, 8, 8, 3), array(1, 3, 3, 3, 4)
    loss = jax.jit(jax.grad(lambda x, k: jnp.sum(ops.conv(x, k) ** 2) + jnp.sum(ops.conv_transpose(x, k, 2)), (0, 1)))
    exported = jax.export.export(loss)(x, kernel)
    assert "custom_call" not in exported.mlir_module()
    close(jax.export.deserialize(exported.serialize()).call(x, kernel), loss(x, kernel))
    (n,) = jax.export.symbolic_shape("n")
    sizes = jax.ShapeDtypeStruct((n, 8, 8, 3), x.dtype), jax.ShapeDtypeStruct(kernel.shape, x.dtype)
    close(jax.export.export(jax.jit(ops.conv))(*sizes).call(x, kernel), ops.conv(x, kernel))


# --- where it is used --------------------------------------------------------------------------------------------


def uses(function: Any, *args: Any) -> bool:
    """Whether the engine's primitive is in the program. A new function each time: JAX remembers what it traced."""
    return "jaxcnn_convolution" in str(jax.make_jaxpr(lambda *a: function(*a))(*args))


@needs_engine
def test_where_it_is_used_and_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = array(0, 2, 8, 8, 4), array(1, 3, 3, 4, 8)
    for dtype, expected in (("float32", True), ("bfloat16", True), ("float16", False), ("int8", False)):
        assert uses(ops.conv, x.astype(dtype), kernel.astype(dtype)) == expected
    assert uses(ops.conv, x[:, 0], kernel[0])
    assert uses(partial(ops.conv, groups=2), x, kernel[:, :, :2])
    assert uses(partial(ops.conv_transpose, output_padding=1, stride=2), x, kernel)
    assert not uses(ops.conv, x[:0], kernel)
    assert not uses(ops.conv, x[..., :0], kernel[:, :, :0])
    with monkeypatch.context() as patch:
        patch.setenv("JAXCNN_PLAIN", "onednn")
        assert not uses(ops.conv, x, kernel)
    with monkeypatch.context() as patch:
        patch.setattr(library, "_loaded", lambda: "a reason")
        assert library.unavailable() == "a reason"
        assert not uses(ops.conv, x, kernel)
    with jax.enable_x64(True):
        assert not uses(ops.conv, x.astype("float64"), kernel.astype("float64"))


@needs_engine
def test_what_onednn_has_only_slow_code_for_is_xlas(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = array(0, 2, 8, 8, 4), array(1, 3, 3, 4, 8)
    function = partial(cpu.conv, **WINDOW)
    expected = jax.jit(function)(x, kernel)
    for code in ("", "ref:any"):
        monkeypatch.setattr(library, "implementation", lambda *a, code=code, **k: code)
        lowered = jax.jit(lambda x, k: function(x, k)).lower(x, kernel)
        assert "@jaxcnn_convolution" not in lowered.as_text()
        close(lowered.compile()(x, kernel), expected)


def test_a_network_trains_alike_with_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = cnn.models.lenet5(), array(0, 4, 32, 32, 1)
    params, state = model.init(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(model.apply(params, state, x)[0], jnp.arange(4)).mean()

    ours = jax.value_and_grad(loss)(params)
    monkeypatch.setenv("JAXCNN_PLAIN", "onednn")
    close(jax.value_and_grad(lambda p: loss(p))(params), ours)


@needs_engine
@pytest.mark.parametrize("own", [False, True])
def test_a_refused_description_is_an_error(own: bool) -> None:
    """Of a call made by hand: the process goes on."""
    x, kernel = array(0, 2, 8, 8, 32), array(1, 3, 3, 32, 64)
    numbers = {name: np.array(value) for name, value in (("strides", (1, 1)), ("dilation", (1, 1)))}
    attributes = {
        "kind": np.int64(0),
        "groups": np.int64(1),
        "swapped": False,
        "direct": own,
        "winograd": own,
        **numbers,
    }
    pads = {"low": np.zeros(2, np.int64), "high": np.zeros(2, np.int64)}

    def call(out: tuple[int, ...], *operands: jax.Array, **changed: Any) -> jax.Array:
        result = jax.ShapeDtypeStruct(out, operands[0].dtype)
        settings = attributes | pads | changed
        return jax.jit(lambda *a: jax.ffi.ffi_call(library.CONVOLUTION, result)(*a, **settings))(*operands)

    right = (2, 6, 6, 64)
    assert call(right, x, kernel).shape == right
    for expected, arguments, changed in (
        ("refused", ((2, 7, 6, 64), x, kernel), {}),
        ("refused", ((1, 6, 6, 64), x, kernel), {}),
        ("refused", (right, x, kernel[:, :, :16]), {}),
        ("refused", (right, x, kernel), {"strides": np.array([0, 1])}),
        ("refused", (right, x, kernel), {"low": np.zeros(1, np.int64)}),
        ("refused", ((2, 6, 64), x[:, 0], kernel), {}),
        ("number of arguments", (right, x, kernel, x), {}),
        ("unknown kind", (right, x, kernel), {"kind": np.int64(7)}),
        ("other types", (right, x.astype(jnp.float16), kernel.astype(jnp.float16)), {}),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=expected):
            call(*arguments, **changed).block_until_ready()
    close(call(right, x, kernel), plain(x, kernel, **WINDOW | {"pads": ((0, 0), (0, 0))}))


@needs_engine
def test_a_refused_fused_call_is_an_error() -> None:
    """Of a call made by hand."""
    x, kernel, vector = array(0, 2, 8, 8, 32), array(1, 3, 3, 32, 64), array(2, 64)
    window = {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    attributes = {**primitive.attributes(**window), **fused.SHIFT.attributes(), "residual": False, "activation": ""}

    def call(*operands: jax.Array, **changed: Any) -> jax.Array:
        result = jax.ShapeDtypeStruct((2, 6, 6, 64), jnp.float32)
        settings = attributes | changed
        return jax.jit(lambda *a: jax.ffi.ffi_call(library.CONVOLUTION_FUSED, result)(*a, **settings))(*operands)

    def code(*numbers: int) -> dict[str, Any]:
        return {"code": np.array(numbers, np.int64)}

    right = (x, kernel, vector)
    close(call(*right), plain(x, kernel, **window) + vector)
    for expected, operands, changed in (
        ("refused", right, {"activation": "sine"}),
        ("does not fit", (x, kernel, vector[:32]), {}),
        ("does not fit", (x, kernel, vector.astype(jnp.bfloat16)), {}),
        ("does not fit", right, {"residual": True}),
        ("too few arrays", (x, kernel), {"residual": True}),
        ("no register", (x, kernel), {}),
        ("no register", right, {"factor": np.int64(1)}),
        ("no register", right, code(1, 0, 7)),
        ("no register", right, code(0, 0, 0)),
        ("no operation", right, code(99, 0, 0)),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=expected):
            call(*operands, **changed).block_until_ready()


def test_a_filter_larger_than_the_image_is_an_error_in_python() -> None:
    layer = cnn.conv(2, 5)
    params, state = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(cnn.LayerError, match="5x5 filter"):
        layer.apply(params, state, jnp.zeros((1, 3, 3, 1)))
    x, kernel = jnp.zeros((1, 3, 3, 1)), jnp.zeros((5, 5, 1, 2))
    assert not cpu.takes(x, kernel, **WINDOW | {"pads": ((0, 0), (0, 0))})
    assert not cpu.takes(x, jnp.zeros((3, 3, 2, 2)), **WINDOW)


# --- the library -------------------------------------------------------------------------------------------------


def test_why_it_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of its conditions missing, in one line that says what to do."""
    load = library._loaded.__wrapped__
    if not build.supported():
        pytest.skip("there is no oneDNN package for this platform")
    with monkeypatch.context() as patch:
        patch.setattr(library, "supported", lambda: False)
        assert "on Linux on x86-64 only" in load()
    with monkeypatch.context() as patch:
        patch.setattr(library, "LIBRARY", tmp_path / "nothing.so")
        assert "without a C++ compiler: install g++" in load()
    library_file = tmp_path / "libjaxcnn_cpu.so"
    library_file.write_bytes(b"not a library")
    monkeypatch.setattr(library, "LIBRARY", library_file)
    with monkeypatch.context() as patch:
        patch.setattr(library, "_places", lambda: iter(()))
        assert "pip install onednn-cpu-gomp" in load()
    monkeypatch.setattr(library, "_places", lambda: iter([library_file]))
    assert "it cannot be loaded" in load()

    def no_openmp(path: str) -> Any:
        raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", no_openmp)
    assert "install libgomp1" in load()


def test_the_first_training_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Once in a process, and nowhere where oneDNN is used."""
    if jax.default_backend() != "cpu":
        pytest.skip("on an accelerator it does not matter")
    images = data.Dataset(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32), ("a", "b"))

    def said() -> int:
        cnn.train.fit(cnn.serial(cnn.conv(2, 3), cnn.global_avg_pool, cnn.dense(2)), images, epochs=1, batch_size=4)
        captured = capsys.readouterr()
        return (captured.out + captured.err).count("XLA's, several times slower than oneDNN's: install this")

    monkeypatch.setattr(library, "_noticed", [])
    if cpu.available():
        assert said() == 0
    monkeypatch.setattr(library, "_loaded", lambda: "install this")
    assert [said(), said()] == [1, 0]


@needs_engine
def test_a_library_of_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "fingerprint", lambda: "0" * 16)
    assert "install jaxcnn again" in library._loaded.__wrapped__()


@needs_engine
def test_a_library_that_jaxlib_refuses_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError("the handler's API version (0.5) is incompatible\nand more")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refused)
    assert library._loaded.__wrapped__().endswith(
        "refuses its library: install jaxcnn again (the handler's API version (0.5) is incompatible)"
    )


def test_headers_that_older_jaxlibs_refuse_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "libjaxcnn_cpu.so")
    monkeypatch.setattr(build, "supported", lambda: True)
    monkeypatch.setenv("CXX", "a-compiler")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.12.0")
    with pytest.raises(build.CannotBuild, match=r"jaxlib 0\.10 are needed, and jaxlib 0\.12\.0 is installed"):
        build.build()


def test_nothing_is_built_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "libjaxcnn_cpu.so")
    monkeypatch.setattr(build, "supported", lambda: True)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match=r"no C\+\+ compiler"):
        build.build()
    assert not list(tmp_path.iterdir())


@needs_engine
def test_how_many_threads() -> None:
    """OMP_NUM_THREADS, NPROC, the processors that the process may use."""
    script = "from jaxcnn.ops.cpu import library; print(library.threads())"
    here = len(os.sched_getaffinity(0))
    kept = dict.fromkeys(("OMP_NUM_THREADS", "NPROC"), "")
    assert int(run(script, **kept)) <= here
    assert int(run(script, **kept | {"NPROC": "1"})) == 1
    assert int(run(script, **kept | {"OMP_NUM_THREADS": "3", "NPROC": "1"})) == 3
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert int(run(one + script, **kept)) == 1


@needs_engine
def test_several_threads_of_python() -> None:
    x, kernel = array(0, 2, 12, 12, 8), array(1, 3, 3, 8, 8)
    function = jax.jit(jax.value_and_grad(lambda k, x: jnp.sum(cpu.conv(x, k, **WINDOW) ** 2)))
    expected = [jax.device_get(function(kernel, x + i)) for i in range(4)]
    found: list[Any] = [None] * 4

    def work(i: int) -> None:
        for _ in range(20):
            found[i] = jax.device_get(function(kernel, x + i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(found, expected)


FORK = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import jax, jax.numpy as jnp, numpy as np
from jaxcnn.ops import cpu
from jaxcnn.ops.cpu import library
x, k = jnp.ones((2, 16, 16, 8)), jnp.ones((3, 3, 8, 16))
function = jax.jit(lambda x, k: cpu.conv(x, k, (1, 1), ((1, 1), (1, 1)), (1, 1)))
expected = np.asarray(function(x, k))
child = os.fork()
if child == 0:
    signal.alarm(60)
    right = (np.asarray(function(x, k)) == expected).all() and library.threads() == 1
    os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
assert (np.asarray(function(x, k)) == expected).all() and library.threads() == 2
"""


@needs_engine
def test_a_forked_process_computes() -> None:
    """What was compiled before: XLA itself has no threads there to compile with."""
    run(FORK, OMP_NUM_THREADS="2")


CACHED = """
import os, warnings, jax, jax.numpy as jnp, jaxcnn as cnn
warnings.simplefilter("error")
folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
before = set(os.listdir(folder))
program = jax.jit(jax.grad(lambda x, k: (cnn.ops.conv(x, k) ** 2).sum(), (0, 1)))
lowered = program.lower(x, k)
assert "@jaxcnn_convolution" in lowered.as_text()
print(float(program(x, k)[1].sum()), len([f for f in set(os.listdir(folder)) - before if f.endswith("-cache")]))
"""


@needs_engine
def test_a_program_is_kept_in_the_compilation_cache(tmp_path: Path) -> None:
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    first, written = run(CACHED, **settings).split()
    second, again = run(CACHED, **settings).split()
    assert first == second
    assert int(written) > 0
    assert int(again) == 0


SPINS = """
import os
from jaxcnn.ops.cpu import library
assert library.unavailable() is None
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@needs_engine
def test_the_environment_is_left_as_it_was() -> None:
    assert run(SPINS).strip() == os.environ.get("GOMP_SPINCOUNT", "None")
    assert run(SPINS, GOMP_SPINCOUNT="17").strip() == "17"
