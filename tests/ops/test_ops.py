"""The arithmetic: the lectures' own numbers, and plain NumPy in float64 that follows the formulas word by word."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same, size

import jaxcnn as cnn
from jaxcnn import ops
from jaxcnn.ops import pooling
from jaxcnn.ops.geometry import extent, out_size, pads

KEY = jax.random.key(0)

# --- the lectures' numbers ---------------------------------------------------------------------------------------

IMAGE = np.array([
    [1, 3, 0, 1, 4, 3, 2],
    [2, 1, 1, 2, 5, 0, 1],
    [5, 3, 2, 2, 5, 3, 2],  # the deck prints 5 3 2 3 5 3 2, and computes with 2 in the fourth place
    [4, 5, 6, 1, 0, 2, 3],
    [2, 1, 3, 4, 1, 5, 1],
    [2, 0, 3, 2, 6, 5, 8],
    [4, 6, 2, 1, 2, 3, 2],
])  # fmt: skip
SOBEL = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
CORRELATION = np.array([
    [-6, -5, -5, -3, -1],
    [-15, -13, 2, 9, -1],
    [6, -2, -1, 4, 1],
    [15, 10, -5, -16, -17],
    [-11, 0, 6, 3, 2],
])  # fmt: skip


def image(pixels):
    """One image of one channel."""
    return jnp.asarray(pixels, jnp.float32)[None, ..., None]


@pytest.mark.parametrize(("operation", "sign"), [(ops.conv, 1), (ops.convolve, -1)], ids=["correlation", "convolution"])
def test_the_lectures_sobel_filter(operation, sign):
    # This kernel turned around is its own negative, and so is the result (the deck forgets two of the signs).
    y = operation(image(IMAGE), jnp.asarray(SOBEL, jnp.float32)[..., None, None])
    np.testing.assert_array_equal(y[0, ..., 0], sign * CORRELATION)


DEPTH_SLICE = [[4, 1, 5, 2, 2, 6], [1, 2, 9, 0, 2, 4], [2, 2, 6, 4, 0, 2], [3, 1, 0, 3, 3, 1]]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (ops.max_pool, [[4, 9, 6], [3, 6, 3]]),
        (ops.avg_pool, [[2, 4, 3.5], [2, 3.25, 1.5]]),  # the deck has 1.25 for the mean of 0 2 3 1
        (ops.sum_pool, [[8, 16, 14], [8, 13, 6]]),
    ],
)
def test_the_lectures_pooling(pool, expected):
    np.testing.assert_array_equal(pool(image(DEPTH_SLICE), 2, 2)[0, ..., 0], expected)


@pytest.mark.parametrize(
    ("layer", "before", "after", "params"),
    [
        (cnn.serial(cnn.flatten, cnn.dense(100)), (300, 300, 3), (100,), 27_000_100),
        (cnn.conv(100, 5), (300, 300, 3), (296, 296, 100), 7_600),
        (cnn.conv(10, 5, 1, 2), (32, 32, 3), (32, 32, 10), 760),
        (cnn.conv(32, 7, 2), (63, 63, 16), (29, 29, 32), 7 * 7 * 16 * 32 + 32),
        (cnn.conv(32, 7, 1, 3), (63, 63, 16), (63, 63, 32), 7 * 7 * 16 * 32 + 32),
        (cnn.conv(1, 3), (7, 7, 1), (5, 5, 1), 10),
        (cnn.conv(1, 3, 2), (7, 7, 1), (3, 3, 1), 10),
        (cnn.conv(1, 3, 1, 1), (7, 7, 1), (7, 7, 1), 10),
        (cnn.conv(32, 1), (56, 56, 64), (56, 56, 32), 64 * 32 + 32),
        (cnn.conv(32, 1, 2), (56, 56, 64), (28, 28, 32), 64 * 32 + 32),  # it sees every other pixel, and so fits
        (cnn.conv(64, 7, 2, 3), (224, 224, 3), (112, 112, 64), 9_472),  # what is left over is padding
        (cnn.conv(96, 11, 4), (227, 227, 3), (55, 55, 96), 34_944),
        (cnn.max_pool(2, 2), (32, 32, 16), (16, 16, 16), 0),
        (cnn.max_pool(2), (400, 290, 64), (200, 145, 64), 0),
        (cnn.max_pool(3, 2), (55, 55, 96), (27, 27, 96), 0),
        (cnn.avg_pool(2, ceil=True), (27, 27, 6), (14, 14, 6), 0),
    ],
    ids=repr,
)
def test_the_lectures_sizes_and_parameter_counts(layer, before, after, params):
    x = jax.ShapeDtypeStruct((1, *before), jnp.float32)
    variables = jax.eval_shape(layer.init, KEY, x)
    assert jax.eval_shape(layer.apply, *variables, x)[0].shape == (1, *after)
    assert size(variables) == params


def test_the_lectures_filter_that_does_not_fit():
    layer = cnn.conv(1, 3, 3)
    params, state = layer.init(KEY, image(IMAGE))
    with pytest.raises(cnn.LayerError, match=r"3x3 filter, stride 3 on 7x7: \(7-3\)/3\+1 = 2\.33 is no whole number"):
        layer.apply(params, state, image(IMAGE))
    assert cnn.conv(1, 3, 3, floor=True).apply(params, state, image(IMAGE))[0].shape == (1, 2, 2, 1)


@pytest.mark.parametrize(
    ("layer", "field"),
    [
        (cnn.serial(cnn.conv(1, 5)), 5),
        (cnn.serial(cnn.conv(1, 3), cnn.conv(1, 3)), 5),
        (cnn.serial(cnn.conv(1, 3, dilation=3)), 7),
        (cnn.serial(cnn.conv(1, 5), cnn.avg_pool(2), cnn.conv(1, 5)), 14),
    ],
    ids=repr,
)
def test_the_receptive_field_of_a_unit_is_where_its_gradient_lives(layer, field):
    x = jnp.ones((1, field, field, 1))
    params, state = layer.init(KEY, x)
    params = jax.tree.map(jnp.ones_like, params)
    y, backward = jax.vjp(lambda x: layer.apply(params, state, x)[0], x)
    assert y.shape == (1, 1, 1, 1)
    seen = np.flatnonzero(np.asarray(backward(jnp.ones_like(y))[0])[0, :, 0, 0])
    assert (seen.min(), seen.max()) == (0, field - 1)


# --- windows -----------------------------------------------------------------------------------------------------


def windows(x, window, stride, edges, dilation=None, fill=0.0):
    """`(place, pixels of x's window there)` for x padded with `fill`: the loop that all of this module means."""
    dilation = dilation or (1,) * len(window)
    padded = np.pad(x, [(0, 0), *edges, (0, 0)], constant_values=fill)
    spans = [extent(f, d) for f, d in zip(window, dilation, strict=True)]
    counts = [(w - e) // s + 1 for w, e, s in zip(padded.shape[1:-1], spans, stride, strict=True)]
    for place in itertools.product(*map(range, counts)):
        cut = zip(place, stride, spans, dilation, strict=True)
        yield place, padded[(slice(None), *(slice(i * s, i * s + e, d) for i, s, e, d in cut))]


def gather(places):
    """An array `(N, *places, C)` of the `(N, C)` values of each place."""
    values = dict(places)
    counts = np.max(list(values), axis=0) + 1
    stacked = np.stack([values[place] for place in itertools.product(*map(range, counts))], 1)
    return stacked.reshape(len(stacked), *counts, -1)


@pytest.mark.parametrize(
    ("size", "window", "stride", "pad", "floor", "ceil"),
    [
        (7, 3, 1, (0, 0), 5, 5),
        (7, 3, 3, (0, 0), 2, 3),
        (4, 2, 2, (0, 0), 2, 2),
        (5, 2, 2, (0, 0), 2, 3),
        (5, 2, 2, (0, 1), 3, 3),
        (5, 1, 3, (0, 0), 2, 2),  # a third window would begin at pixel 6 of 5
        (5, 1, 3, (2, 0), 3, 3),
        (5, 3, 2, (1, 1), 3, 3),
        (4, 3, 4, (1, 1), 1, 2),
        (2, 3, 1, (0, 0), 0, 0),
    ],
)
def test_out_size(size, window, stride, pad, floor, ceil):
    assert out_size(size, window, stride, pad) == floor
    assert out_size(size, window, stride, pad, ceil=True) == ceil


@pytest.mark.parametrize(
    ("padding", "size", "window", "stride", "dilation", "expected"),
    [
        (2, 7, 3, 1, 1, (2, 2)),
        ((3,), 7, 3, 1, 1, (3, 3)),
        (((0, 4),), 7, 3, 1, 1, (0, 4)),
        ("VALID", 7, 3, 1, 1, (0, 0)),
        ("SAME", 7, 3, 1, 1, (1, 1)),
        ("same", 7, 2, 1, 1, (0, 1)),
        ("SAME", 8, 3, 2, 1, (0, 1)),
        ("SAME", 7, 3, 2, 1, (1, 1)),
        ("SAME", 7, 3, 1, 2, (2, 2)),
        ("SAME", 7, 1, 2, 1, (0, 0)),
    ],
)
def test_pads(padding, size, window, stride, dilation, expected):
    assert pads(padding, (size,), (window,), (stride,), (dilation,)) == (expected,)


@pytest.mark.parametrize(
    "padding", [-1, 0.5, "HALF", (1, 2), ((1, 2), (3, 4)), ((1, -1),), ((1, 2, 3),), (None,)], ids=str
)
def test_pads_rejects_what_is_no_padding_of_one_dimension(padding):
    with pytest.raises(ValueError, match="padding="):
        pads(padding, (7,), (3,), (1,), (1,))


# --- convolution -------------------------------------------------------------------------------------------------


def random_convolution(seed):
    """Shapes and settings of a convolution in 1, 2 or 3 dimensions."""
    rng = np.random.default_rng(seed)
    ndim = seed % 3 + 1
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high, ndim))  # noqa: E731
    groups = int(rng.integers(1, 4))
    window, stride, dilation = draw(1, 4), draw(1, 4), draw(1, 3)
    edges = tuple(zip(draw(0, 3), draw(0, 3), strict=True))
    sizes = tuple(extent(f, d) + w for f, d, w in zip(window, dilation, draw(0, 5), strict=True))
    x = rng.normal(size=(2, *sizes, groups * int(rng.integers(1, 3))))
    kernel = rng.normal(size=(*window, x.shape[-1] // groups, groups * int(rng.integers(1, 3))))
    return x, kernel, stride, edges, dilation, groups


@pytest.mark.parametrize("seed", range(18))
def test_conv_is_the_sum_over_its_windows(seed):
    x, kernel, stride, edges, dilation, groups = random_convolution(seed)

    def at(pixels):
        parts = zip(np.split(pixels, groups, -1), np.split(kernel, groups, -1), strict=True)
        return np.concatenate([p.reshape(2, -1) @ k.reshape(-1, k.shape[-1]) for p, k in parts], -1)

    expected = gather((place, at(p)) for place, p in windows(x, kernel.shape[:-2], stride, edges, dilation))
    for dtype in (jnp.float32, jnp.bfloat16):
        # The wider dtype of the two arguments is that of the result.
        y = ops.conv(jnp.asarray(x, dtype), jnp.asarray(kernel, jnp.float32), stride, edges, dilation, groups)
        assert y.dtype == jnp.float32
        close(y, expected, 1e-5 if dtype == jnp.float32 else 2e-2)
    flipped = np.flip(kernel, range(kernel.ndim - 2)).astype(np.float32)
    close(ops.convolve(x.astype(np.float32), flipped, stride, edges, dilation, groups), expected)


@pytest.mark.parametrize("backend", ["cpu", "other"])
@pytest.mark.parametrize("seed", range(9))
@pytest.mark.usefixtures("x64")
def test_conv_transpose_is_the_adjoint_of_conv(seed, backend, monkeypatch):
    """<conv(x), y> = <x, conv_transpose(y)> for all x and y, on either of its two ways, to float64's precision."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernel, stride, edges, dilation, _ = random_convolution(seed)
    kernel = np.random.default_rng(seed).normal(size=(*kernel.shape[:-2], x.shape[-1], 3))
    padding = tuple(lo for lo, _ in edges)
    forward = ops.conv(x, kernel, stride, padding, dilation)
    y = normal(seed, *forward.shape, dtype=np.float64)
    # Pixels behind the last window: the convolution does not see them, the transpose has to be told of them.
    extra = tuple(
        (w + 2 * p - extent(f, d)) % s
        for w, p, f, d, s in zip(x.shape[1:-1], padding, kernel.shape, dilation, stride, strict=False)
    )
    backward = ops.conv_transpose(y, jnp.swapaxes(kernel, -1, -2), stride, padding, dilation, extra)
    assert backward.shape == x.shape
    assert float((forward * y).sum()) == pytest.approx(float((x * backward).sum()), rel=1e-12)


# --- pooling -----------------------------------------------------------------------------------------------------

POOLS = {"max": (ops.max_pool, np.max), "sum": (ops.sum_pool, np.sum), "avg": (ops.avg_pool, np.mean)}


@pytest.fixture(params=["slices", "reduce_window"])
def form(request, monkeypatch):
    """Both ways that pooling is computed, whatever this machine would choose."""
    monkeypatch.setattr(pooling, "_MAX_SLICES", 1000)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setenv("JAXCNN_PLAIN", "" if request.param == "slices" else "slices, maximum")
    return request.param


def random_pooling(seed):
    rng = np.random.default_rng(seed)
    ndim = seed % 3 + 1
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high, ndim))  # noqa: E731
    window, stride = draw(1, 5), draw(1, 4)
    edges = tuple((int(rng.integers(0, f)), int(rng.integers(0, f))) for f in window)
    sizes = tuple(f + w for f, w in zip(window, draw(0, 5), strict=True))
    return rng.normal(size=(2, *sizes, 3)), window, stride, edges, bool(seed // 3 % 2)


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("seed", range(6))
def test_pools_are_what_numpy_makes_of_each_window(seed, kind, form):
    x, window, stride, edges, ceil = random_pooling(seed)
    pool, reduce = POOLS[kind]
    y = pool(x.astype(np.float32), window, stride, edges, ceil=ceil)
    counts = [out_size(w, f, s, e, ceil) for w, f, s, e in zip(x.shape[1:-1], window, stride, edges, strict=True)]
    assert y.shape == (2, *counts, 3)
    # Padded behind by a whole window there is room for each; NaN is what lies outside the image.
    wide = tuple((lo, hi + f) for (lo, hi), f in zip(edges, window, strict=True))
    nan_reduce = {np.max: np.nanmax, np.sum: np.nansum, np.mean: np.nanmean}[reduce]
    axes = tuple(range(1, x.ndim - 1))
    inside = (
        (place, nan_reduce(pixels, axes))
        for place, pixels in windows(x, window, stride, wide, fill=np.nan)
        if all(i < n for i, n in zip(place, counts, strict=True))
    )
    close(y, gather(inside))


@pytest.mark.parametrize("ceil", [False, True])
def test_avg_pool_counts_padding_only_when_told_to_and_never_what_ceil_adds(ceil, form):
    x = image(np.ones((4, 4)))
    np.testing.assert_array_equal(ops.avg_pool(x, 3, 2, 1, ceil), jnp.ones((1, 3, 3, 1) if ceil else (1, 2, 2, 1)))
    share = np.array([2, 3, 1]) / np.array([3, 3, 2])  # pixels of the image, and of image and padding
    share = share if ceil else share[:2]
    close(ops.avg_pool(x, 3, 2, 1, ceil, count_padding=True)[0, ..., 0], np.outer(share, share))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("seed", range(6))
def test_both_forms_of_pooling_have_the_same_gradient(seed, kind, monkeypatch):
    x, window, stride, edges, ceil = random_pooling(seed)
    # Few different values: windows have several equal maxima.
    x = np.round(x if kind != "max" else x.clip(-1, 1)).astype(np.float32)
    results = []
    monkeypatch.setattr(pooling, "_MAX_SLICES", 1000)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for plain in ("", "slices, maximum"):
        monkeypatch.setenv("JAXCNN_PLAIN", plain)
        y, backward = jax.vjp(lambda x: POOLS[kind][0](x, window, stride, edges, ceil=ceil), x)
        results.append((y, backward(jnp.asarray(normal(seed, *y.shape)))))
    close(*results)


def test_the_first_of_equal_maxima_in_row_major_order_gets_the_gradient(form):
    x = image([[1, 7, 7, 2], [7, 0, 2, 7], [3, 3, 5, 5], [3, 3, 5, 5]])
    expected = [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    gradient = jax.grad(lambda x: ops.max_pool(x, 2).sum())(x)
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def test_max_pool_of_values_that_are_no_numbers(form):
    nan, inf = np.nan, np.inf
    x = image([[nan, 1, 2, nan], [3, 4, 5, 6], [-inf, -inf, inf, 1], [-inf, -inf, 2, nan]])
    np.testing.assert_array_equal(ops.max_pool(x, 2)[0, ..., 0], [[nan, nan], [-inf, nan]])
    # Padding never wins, not even over the lowest numbers.
    low = jnp.full((1, 3, 3, 1), -3e38)
    np.testing.assert_array_equal(ops.max_pool(low, 3, 2, 1), jnp.full((1, 2, 2, 1), -3e38))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.bfloat16])
def test_max_pool_keeps_the_dtype(dtype, form):
    lowest = jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).min
    x = jnp.full((1, 3, 3, 1), lowest, dtype).at[0, 1, 1].set(3)
    y = ops.max_pool(x, 2, 1, ((0, 1), (0, 1)))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[0, ..., 0] == 3, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(("height", "width"), [(9, 8), (3, 2), (7, 9), (1, 4), (2, 11)])
def test_adaptive_avg_pool_shares_out_the_image(height, width):
    """By PyTorch's rule: rows floor(i H / 3) to below ceil((i + 1) H / 3), written out for 3 rows and 4 columns."""
    x = normal(11, 2, height, width, 3)

    def cut(i, places, pixels):
        return slice(int(np.floor(i * pixels / places)), int(np.ceil((i + 1) * pixels / places)))

    wide = x.astype(np.float64)
    expected = [[wide[:, cut(i, 3, height), cut(j, 4, width)].mean((1, 2)) for j in range(4)] for i in range(3)]
    close(ops.adaptive_avg_pool(x, (3, 4)), np.moveaxis(np.array(expected), 2, 0))
    same(ops.adaptive_avg_pool(x, (height, width)), x)


def test_global_pools():
    x = normal(0, 2, 3, 4, 5)
    close(ops.global_avg_pool(x), x.astype(np.float64).mean((1, 2)))
    same(ops.global_max_pool(x), x.max((1, 2)))


# --- normalization -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 5, 20])
def test_local_response_norm(width):
    x = 3 * normal(1, 2, 3, 3, 8)
    expected = np.empty(x.shape)
    for c in range(8):
        first = c - width // 2
        neighbours = x[..., max(first, 0) : max(first + width, 0)].astype(np.float64)
        expected[..., c] = x[..., c] / (2 + 0.1 * (neighbours**2).sum(-1)) ** 0.75
    close(ops.local_response_norm(x, width, alpha=0.1), expected)


def test_batch_norm_in_training_and_its_running_statistics():
    layer = cnn.batch_norm(momentum=0.8, eps=1e-3)
    x = normal(2, 6, 3, 3, 4) * 5 + 100
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    scale, bias = normal(3, 4), normal(4, 4)
    state = layer.init(KEY, x)[1]
    y, state = layer.apply({"scale": scale, "bias": bias}, state, x, train=True)
    # The mean is 20 deviations away from 0: of float32's digits that many times fewer are left.
    close(y, (wide - mean) / np.sqrt(var + 1e-3) * scale + bias, 1e-4)
    unbiased = wide.reshape(-1, 4).var(0, ddof=1)
    close(state, {"mean": 0.2 * mean, "var": 0.8 * 1 + 0.2 * unbiased})
    _, state = layer.apply({"scale": scale, "bias": bias}, state, x, train=True)
    close(state, {"mean": 0.36 * mean, "var": 0.64 + 0.36 * unbiased})
    y, kept = layer.apply({"scale": scale, "bias": bias}, state, x)
    close(y, (wide - 0.36 * mean) / np.sqrt(0.64 + 0.36 * unbiased + 1e-3) * scale + bias)
    same(kept, state)


def test_batch_norm_of_a_large_mean_and_a_small_deviation():
    # E[x^2] - E[x]^2 would have no digit left: 1e8 against 1e-2 in float32.
    x = (1e4 + 0.1 * normal(5, 4096, 1)).astype(np.float32)
    layer = cnn.batch_norm()
    y, _ = layer.apply(*layer.init(KEY, x), x, train=True)
    wide = x.astype(np.float64)
    close(y, (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), 2e-2)  # x itself is given in steps of 1e-3


def test_batch_norm_takes_statistics_in_float32_from_half_precision():
    x = jnp.asarray(normal(6, 4096, 2) + 3, jnp.bfloat16)
    layer = cnn.batch_norm(momentum=0.0)
    _, state = layer.apply(*layer.init(KEY, x), x, train=True)
    wide = np.asarray(x, np.float64)
    close(state, {"mean": wide.mean(0), "var": wide.var(0, ddof=1)})


@pytest.mark.parametrize("axes", ["i", ("i", "j")], ids=str)
def test_batch_norm_shares_statistics_over_mapped_axes(axes):
    """Output, running statistics and gradients on the parts are those of the whole batch."""
    x, weight = normal(7, 3, 2, 4, 5), normal(8, 3, 2, 4, 5)
    params = {"scale": normal(9, 5), "bias": normal(10, 5)}
    state = {"mean": np.zeros(5, np.float32), "var": np.ones(5, np.float32)}

    @functools.partial(jax.jit, static_argnums=(2, 3))
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(params, x, axis_name, names):
        def apply(x):
            return cnn.batch_norm(axis_name=axis_name).apply(params, state, x, train=True)

        for name in reversed(names):
            apply = jax.vmap(apply, axis_name=name)
        y, new_state = apply(x)
        each = jax.tree.map(lambda s: jnp.broadcast_to(s, (*x.shape[: len(axes)], 5)), new_state)
        return (y * weight).sum(), (y, each)

    close(run(params, x, axes, axes), run(params, x, None, ()))
