# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How the CPU fast paths work
#
# On a CPU, this library trains 1.9 to 2.8 times as fast as the fastest other library on JAX (measured with seven
# networks; the README has the table). It computes the same sums in a form that reads memory in order, computes nothing
# twice, and uses the fastest available code for products. This guide explains each form, shows why it is equivalent,
# and checks it against `jax.lax`.
#
# The checks allow $10^{-5}$ of the largest value: float32 has seven digits, and sums of some hundred products in
# another order differ in the last one or two. Times are printed as ratios and never checked; on a shared machine they
# move by a fifth and more from run to run.

# %%
import collections
import functools
import glob
import gzip
import json
import os
import re
import tempfile
import time
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxcnn as cnn
from jaxcnn.ops import cpu
from jaxcnn.ops.backend import FORMS

jax.config.update("jax_platforms", "cpu")  # also where there is a GPU
jax.config.update("jax_pprint_use_color", False)
draw = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(draw.normal(size=shape), jnp.float32)


def close(a, b, tolerance=1e-5):
    """Whether two trees of arrays differ by less than the tolerance, as a share of each array's largest number."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return all(np.abs(x - y).max() <= tolerance * np.abs(y).max() for x, y in pairs)


for name, what in FORMS.items():
    print(f"{name:9} {what}")
print(cpu.about())

# %% [markdown]
# Each form has a name, and `JAXCNN_PLAIN` in the environment switches off those that it lists, or `all`. It is read
# when a function is traced, so that one process can compile both programs, once what JAX remembers of earlier traces is
# cleared. The functions below do that, and list what a compiled program consists of.


# %%
@contextmanager
def without(*forms):
    os.environ["JAXCNN_PLAIN"] = ",".join(forms)
    jax.clear_caches()
    try:
        yield
    finally:
        del os.environ["JAXCNN_PLAIN"]
        jax.clear_caches()


def program(function, *args, off=()):
    """The compiled program of a function, with some forms switched off."""
    with without(*off):
        return jax.jit(lambda *a: function(*a)).lower(*args).compile()


def operations(compiled):
    """How often each of XLA's operations stands in the program, and each library call."""
    text = compiled.as_text()
    found = re.findall(r"= [^=]*? ([a-z][a-z-]+)\(", re.sub(r"metadata=\{[^}]*\}", "", text))
    calls = re.findall(r'custom_call_target="([^"]+)"', text)
    return collections.Counter([name for name in found if name != "custom-call"] + calls)


# %% [markdown]
# ## 1. A convolution is a matrix product
#
# Take a 3x3 image, `1 2 3 / 4 5 6 / 7 8 9`, and a 2x2 filter, `1 0 / 0 -1`. Four windows, each written as a row of four
# numbers, times the filter written as a column:
#
# $$\begin{pmatrix}1&2&4&5\\2&3&5&6\\4&5&7&8\\5&6&8&9\end{pmatrix}
# \begin{pmatrix}1\\0\\0\\-1\end{pmatrix} = \begin{pmatrix}-4\\-4\\-4\\-4\end{pmatrix}.$$
#
# With $C$ channels a row has $F \cdot F \cdot C$ numbers, and with $K$ filters there are $K$ columns. This is
# **im2col**: all windows side by side, then one matrix product, for which every machine has excellent code.


# %%
def im2col(x, size):
    """All windows of images (N, H, W, C): a row of size * size * C numbers for each place."""
    n, h, w, c = x.shape
    places = (n, h - size + 1, w - size + 1)
    taps = [x[:, u : u + places[1], v : v + places[2]] for u in range(size) for v in range(size)]
    return np.concatenate(taps, axis=-1).reshape(-1, size * size * c), places


tiny = np.arange(1.0, 10).reshape(1, 3, 3, 1)
rows, _ = im2col(tiny, 2)
assert rows.tolist() == [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
assert (rows @ [1, 0, 0, -1]).tolist() == [-4, -4, -4, -4]


def xla_conv(x, kernel, stride=1, padding=0):
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


x, kernel = normal(16, 32, 32, 16), normal(3, 3, 16, 16)
rows, places = im2col(np.asarray(x), 3)
by_product = (rows @ np.asarray(kernel).reshape(-1, 16)).reshape(*places, 16)
assert close(by_product, xla_conv(x, kernel))
print(f"the images are {x.nbytes / 2**20:.1f} MiB, their windows {rows.nbytes / 2**20:.1f} MiB")

# %% [markdown]
# Its cost is memory: nearly nine times the image must be written and read again. A processor can do tens of products in
# the time in which one number comes from memory, so the windows should never be written down: good code for
# convolutions takes a small piece of the image that fits into the processor's cache, and runs the nine products on it.
#
# ## 2. What XLA does
#
# XLA leaves `convolution` as one operation, and on a CPU (jaxlib 0.10) its runtime hands that to YNNPACK or to Eigen.
# The gradients are convolutions as well; but they are surrounded by `transpose` and `copy`.


# %%
def with_gradients(conv):
    """The gradients of a convolution by image and kernel, given that of its output."""
    return lambda x, kernel, ct: jax.vjp(conv, x, kernel)[1](ct)


ct = normal(16, 32, 32, 16)
ours = functools.partial(cnn.ops.conv, padding=1)
theirs = functools.partial(xla_conv, padding=1)

plain = program(with_gradients(ours), x, kernel, ct, off=["all"])
fast = program(with_gradients(ours), x, kernel, ct)
for name, compiled in (("XLA's own", plain), ("jaxcnn", fast)):
    listed = {op: n for op, n in operations(compiled).items() if "conv" in op or op in ("transpose", "copy", "reverse")}
    print(f"{name:10} {listed}")
expected = jax.jit(with_gradients(theirs))(x, kernel, ct)
assert close(plain(x, kernel, ct), expected)
assert close(fast(x, kernel, ct), expected)
assert operations(plain)["convolution"] == 2

# %% [markdown]
# Why does it transpose? The kernel's gradient is a convolution over the *batch*: in
#
# $$\frac{\partial L}{\partial w[u, v, c, k]} = \sum_{n, i, j} x[n, i + u, j + v, c]\; \delta[n, i, j, k]$$
#
# the summed index $n$ takes the part that channels have in the forward pass, and there it has to lie innermost in
# memory. Both images are rearranged for it, and XLA fuses that copy with the activation and normalization before it, in
# a loop that jumps through memory.
#
# ## 3. oneDNN
#
# oneDNN is a library of convolutions for CPUs, and a Python package: `onednn-cpu-gomp`. XLA lets a program call
# functions of other libraries, by its foreign function interface (`jax.ffi`), and `jaxcnn/ops/cpu` makes oneDNN's
# convolution such a function. `cnn.ops.conv` is a primitive of its own in the jaxpr, and a custom call in the program.
# What is computed stands in its attributes.

# %%
print(jax.make_jaxpr(ours)(x, kernel))
print(dict(operations(program(ours, x, kernel))))

# %% [markdown]
# oneDNN has many programs for a convolution and chooses one by the shapes and by the processor. When a program is
# lowered it is asked which: where it has none, or only its slow reference, XLA's own is taken. Where oneDNN cannot be
# called at all, nothing in this notebook has to be written differently: the same assertions hold for XLA's own.

# %%
from jaxcnn.ops.cpu import library  # noqa: E402

cases = {
    "3x3, float32": ((1, 8, 8, 4), (3, 3, 4, 8), (1, 8, 8, 8), {}),
    "1x1": ((1, 8, 8, 64), (1, 1, 64, 32), (1, 8, 8, 32), {"pads": ((0, 0), (0, 0))}),
    "depthwise": ((1, 8, 8, 64), (3, 3, 1, 64), (1, 8, 8, 64), {"groups": 64}),
    "three dimensions": ((1, 4, 8, 8, 4), (3, 3, 3, 4, 8), (1, 4, 8, 8, 8), {}),
}
if cpu.available():
    for name, (image, filters, out, settings) in cases.items():
        window = {"strides": (1,), "pads": ((1, 1),), "dilation": (1,)}
        window = {key: value * (len(image) - 2) for key, value in window.items()} | settings
        for dtype in ("float32", "bfloat16"):
            found = [library.implementation(kind, dtype, image, filters, out, **window) for kind in library.KINDS]
            print(f"{name:17} {dtype:9} {', '.join(code or 'XLA' for code in found)}")

# %% [markdown]
# ## 4. The two gradients
#
# A convolution joins three arrays, image $x$, kernel $w$ and result $y$. It is linear in $x$ and in $w$, and so its
# gradients are sums over the same triples of numbers: each of the three arrays is computed from the other two,
#
# $$y_i = \sum_u x_{si+u-p}\, w_u, \qquad dx_j = \sum_{si+u-p=j} \delta_i\, w_u, \qquad
# dw_u = \sum_i x_{si+u-p}\, \delta_i .$$
#
# oneDNN has code for all three, which takes the arrays as they lie. The three are each other's derivatives: the
# gradient of $dx$ by $w$ is again a sum of the third kind. So one primitive with three kinds, and for each the rule
# which two are its derivatives, has gradients of every order. The second kind by itself is the transposed convolution.

# %%
w, delta = np.array([1.0, 10, 100]), np.array([1.0, 2, 3])
line = jnp.arange(1.0, 7)[None, :, None]
layer = functools.partial(cnn.ops.conv, stride=2, padding=1)
taps = jnp.asarray(w, jnp.float32)[:, None, None]
by_input, by_kernel = jax.vjp(layer, line, taps)[1](jnp.asarray(delta, jnp.float32)[None, :, None])
dx, dw = np.zeros(6), np.zeros(3)
for i in range(3):
    for u in range(3):
        if 0 <= 2 * i + u - 1 < 6:
            dx[2 * i + u - 1] += delta[i] * w[u]
            dw[u] += (2 * i + u) * delta[i]  # pixel j has the value j + 1
assert dx.tolist() == by_input[0, :, 0].tolist() == [10, 102, 20, 203, 30, 300]
assert dw.tolist() == by_kernel[:, 0, 0].tolist()
print("by the input:", dx, " by the kernel:", dw)

half = normal(16, 16, 16, 16)
ours_by_2 = jax.jit(with_gradients(functools.partial(cnn.ops.conv, stride=2, padding=1)))
theirs_by_2 = jax.jit(with_gradients(functools.partial(xla_conv, stride=2, padding=1)))
assert close(ours_by_2(x, kernel, half), theirs_by_2(x, kernel, half))

if cpu.available():
    kernels_own = program(lambda x, ct: jax.vjp(lambda k: ours(x, k), kernel)[1](ct), x, ct)
    print("the kernel gradient alone:", dict(operations(kernels_own)))
    assert "transpose" not in operations(kernels_own)  # nothing is moved for it
    twice = jax.make_jaxpr(jax.grad(lambda k: (jax.grad(lambda x: (ours(x, k) ** 2).sum())(x) ** 2).sum()))(kernel)
    print("kinds in a second derivative:", sorted(re.findall(r"kind=(\w+)", str(twice))))

# %% [markdown]
# ## 5. Fewer products
#
# Two neighbouring results of a filter with three taps share two of their pixels:
#
# $$y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2, \qquad y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2.$$
#
# That takes six products, and Winograd showed that four are enough:
#
# $$\begin{aligned} m_1 &= (d_0 - d_2)\, g_0 & m_2 &= (d_1 + d_2)\, \tfrac{g_0 + g_1 + g_2}{2} \\
# m_4 &= (d_1 - d_3)\, g_2 & m_3 &= (d_2 - d_1)\, \tfrac{g_0 - g_1 + g_2}{2} \end{aligned}
# \qquad y_0 = m_1 + m_2 + m_3, \quad y_1 = m_2 - m_3 - m_4.$$
#
# The sums of $g$ are formed once for a filter, those of $d$ once for all filters, so the products are what counts. As
# matrices, $y = A^T \left[ (G g) \odot (B^T d) \right]$. Along both axes, a tile of 2x2 results comes from 4x4 pixels
# by 16 products instead of 36:
#
# $$Y = A^T \left[ (G g G^T) \odot (B^T d B) \right] A.$$
#
# With channels, the products at each of the 16 places are summed over them: a product of two matrices, the tiles of the
# image times the filters. The gradient by the image is such a convolution with the filters turned around. That by the
# kernel goes backwards through the formula: $G^T \left[ \sum (B^T d B) \odot (A\, \delta A^T) \right] G$.

# %%
B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).T
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]]).T


def winograd(x, kernel):
    """A 3x3 convolution without padding of images with even sides, (N, H, W, C), tile by tile."""
    filters = np.einsum("iu,jv,uvck->ijck", G, G, kernel)
    out = np.zeros((len(x), x.shape[1] - 2, x.shape[2] - 2, kernel.shape[-1]))
    for i in range(0, out.shape[1], 2):
        for j in range(0, out.shape[2], 2):
            tile = np.einsum("ui,vj,nuvc->nijc", B, B, x[:, i : i + 4, j : j + 4])
            places = np.einsum("nijc,ijck->nijk", tile, filters)  # 16 products for each channel and filter
            out[:, i : i + 2, j : j + 2] = np.einsum("iu,jv,nijk->nuvk", A, A, places)
    return out


picture, wide = normal(2, 18, 18, 64), normal(3, 3, 64, 64)
exact = winograd(np.asarray(picture, np.float64), np.asarray(wide, np.float64))
found = {off: program(cnn.ops.conv, picture, wide, off=off)(picture, wide) for off in ((), ("winograd",))}
for off, result in found.items():
    error = np.sqrt(np.square(result - exact).mean() / np.square(exact).mean())
    print(f"{'sums of products' if off else 'Winograd':16} root mean square error {error:.1e}")
    assert error < 2e-6
if cpu.available():
    shapes = {"x": (2, 18, 18, 64), "kernel": (3, 3, 64, 64), "y": (2, 16, 16, 64)}
    window = {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilation": (1, 1)}
    codes = [library.implementation(kind, "float32", **shapes, **window, winograd=True) for kind in library.KINDS]
    print("code for the three kinds:", codes)
    assert codes == ["winograd"] * 3

# %% [markdown]
# It is no less exact, since each result is a sum of fewer terms. (Larger tiles need fewer products still, but their
# constants are fractions such as 1/24, and cost a digit.) The C++ code of this package (`ops/cpu/src/winograd.cc`)
# works on some tens of tiles at a time, which stay in the processor's cache. It is used for 3x3 and 5x5 convolutions of
# stride 1 in float32 that have enough channels and tiles; the form is called `winograd`. A factor of 2.25 in products
# gives 1.4 to 1.8 in time for 64 channels and more. A kernel of 5x5 is the sum of four of 3x3 that begin three taps
# apart and are partly outside it: 49 products for four results instead of 100.
#
# ## 6. Few channels
#
# A processor's register holds 16 numbers, so fast code takes 16 channels at a time. LeNet-5's first layer has one
# channel and six filters. But look at how an image lies in memory, pixel by pixel, the channels of each side by side:
# the part of a window that is in one row of the image is already a row of a matrix, $G C$ numbers without a gap. The
# next window begins $C$ numbers later, and overlaps with it. So no window need be copied, and a convolution is a sum of
# $F$ matrix products, one for each row of the filter.


# %%
def by_rows(x, kernel):
    """A convolution without padding as products of matrices that lie in the image."""
    f, g, c, k = kernel.shape
    lines = x.reshape(*x.shape[:2], -1)
    windows = np.lib.stride_tricks.sliding_window_view(lines, g * c, axis=2)[:, :, ::c]
    assert np.shares_memory(windows, x)
    high = x.shape[1] - f + 1
    return sum(windows[:, u : u + high] @ kernel[u].reshape(g * c, k) for u in range(f))


digits, filters = normal(8, 32, 32, 1), normal(5, 5, 1, 6)
expected = by_rows(np.asarray(digits, np.float64), np.asarray(filters, np.float64))
for off in ((), ("direct",)):
    assert close(program(cnn.ops.conv, digits, filters, off=off)(digits, filters), expected)
if cpu.available():
    shapes = {"x": digits.shape, "kernel": filters.shape, "y": expected.shape}
    codes = [library.implementation(kind, "float32", **shapes, **window, direct=True) for kind in library.KINDS]
    print("code for the three kinds:", codes)
    assert codes == ["direct"] * 3

# %% [markdown]
# The results are held in registers: 14 windows with 8 filters each, while the numbers of the windows pass by. With 8
# filters or fewer, and in some cases with few channels, the form `direct` (`ops/cpu/src/direct.cc`) takes the place of
# oneDNN: LeNet-5's layers are 1.2 to 2.2 times as fast.

# %% [markdown]
# ## 7. Computing once
#
# XLA fuses an elementwise operation into every operation that uses it, and computes it there again. Mostly that saves
# memory traffic. Behind residual blocks it snowballs: a ReLU's value is used by the next convolution, by the sum, and
# by both their gradients, and each of them computes it from its parts. What XLA does not repeat is a `select` between
# two whole arrays, so where something should be kept (`stored`) the program says `select(x == x, x, nan)`. That is $x$,
# NaN included.


# %%
def residual(features):
    body = {"conv": cnn.conv(features, 3, padding=1, bias=False), "bn": cnn.batch_norm()}
    return cnn.network(lambda net, x: cnn.relu(x + net.bn(net.conv(x))), **body)


blocks, maps = cnn.serial(residual(4), residual(4), residual(4), cnn.conv(4, 3)), normal(2, 8, 8, 4)
params, state = blocks.init(jax.random.key(0), maps)
backward = jax.grad(lambda p, x: blocks.apply(p, state, x, train=True)[0].sum())
once, again = program(backward, params, maps), program(backward, params, maps, off=["stored"])
print(
    "maxima in a program with three ReLUs:", operations(once)["maximum"], "and", operations(again)["maximum"], "without"
)
assert not cpu.available() or operations(once)["maximum"] < operations(again)["maximum"]
assert close(once(params, maps), again(params, maps), 1e-4)  # rounding of several layers

# %% [markdown]
# ## 8. Max pooling
#
# Its gradient goes to the pixel that was the largest. XLA's `reduce_window` forgets which that was; its gradient
# compares all over again and scatters, one number at a time. Here the forward pass also notes in a byte which tap of
# the window was the largest. The gradient of a pixel is then the sum over the windows in which this pixel was the
# maximum. Of equal pixels, the first counts. Where windows overlap and there are 32 channels or more, both passes are
# C++ code of this package, which takes sixteen channels at once; elsewhere XLA compares strided slices.

# %%
board = jnp.array([[1.0, 2, 5, 5], [4, 3, 5, 0]])[None, :, :, None]
gradient = jax.grad(lambda x: cnn.ops.max_pool(x, 2).sum())(board)[0, :, :, 0]
assert gradient.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def xla_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


pooled = functools.partial(cnn.ops.max_pool, size=3, stride=2, padding=1)
deep, deep_half = (jnp.concatenate([a, -a], -1) for a in (x, half))  # 32 channels
pool_back = {}
for name, pool in (("jaxcnn", pooled), ("XLA's own", xla_max_pool)):
    pool_back[name] = program(lambda x, ct, pool=pool: jax.vjp(pool, x)[1](ct)[0], deep, deep_half)
    listed = operations(pool_back[name])
    print(f"{name:10} { {op: n for op, n in listed.items() if op in ('scatter', 'reduce-window') or 'pool' in op} }")
assert "scatter" not in operations(pool_back["jaxcnn"])
assert close(pool_back["jaxcnn"](deep, deep_half), pool_back["XLA's own"](deep, deep_half))

# %% [markdown]
# ## 9. The rest
#
# - `slices`: an average is a sum of strided slices, along one axis and then the other: $F + F$ additions instead of
#   $F \cdot F$.
# - `stuffed`: without oneDNN a transposed convolution writes zeros between the pixels and convolves; done by an
#   explicit `pad` first, it is a plain convolution for the faster code. Fixed bilinear upsampling is a product of two
#   small matrices instead.
# - `ordered`: a training step may overwrite its parameters, but XLA's order is free: it could update a kernel before
#   the gradient of the layer below has used it, and so it made a copy of every kernel when the step began. A zero that
#   depends on all gradients, and which XLA cannot know to be zero, is added to each: then no update comes too early.
# - `pages`: XLA takes the memory of a step from the system in one piece and gives it back at the end. The system clears
#   each page of 4 KiB when it is first written, a fifth of a step. The first convolution asks for pages of 2 MiB.
# - `products`: a kernel that is large for its image (FCN's fc6 is 7x7x512x4096 on a few pixels) is one matrix product,
#   and a few rows times a large matrix (AlexNet's fc6) go to oneDNN, since what counts is to read the matrix once.


# %%
def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


spread, small = normal(2, 7, 7, 3), normal(2, 2, 3, 5)
stuffed = lax.conv_general_dilated(spread, jnp.flip(small, (0, 1)), (1, 1), [(1, 1)] * 2, lhs_dilation=(2, 2),
                                   dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
assert close(cnn.ops.conv_transpose(spread, small, 2), stuffed)
assert close(cnn.ops.avg_pool(x, 2), x.reshape(16, 16, 2, 16, 2, 16).mean((2, 4)))

row, flat = struct(16, 9216), struct(9216, 4096)  # shapes only: these are never made
print("AlexNet's fc6:", [str(eqn.primitive) for eqn in jax.make_jaxpr(cnn.ops.matmul)(row, flat).eqns])
large = jax.make_jaxpr(cnn.ops.conv)(struct(1, 8, 8, 512), struct(7, 7, 512, 4096))
print(
    "FCN's fc6:    ",
    [str(eqn.primitive) for eqn in large.eqns if "product" in str(eqn.primitive) or "conv" in str(eqn.primitive)],
)

# %% [markdown]
# **Batch normalization** is written as $y = x f + (\beta - \mu f)$ with $f = \gamma / \sqrt{\sigma^2 + \epsilon}$, one
# product and one sum for each number. Its gradient needs the sums of $\delta$ and of $\delta (x - \mu)$. XLA computes
# each sum by itself, so that a training step reads the image for the mean, again for $E[(x - \mu)^2]$, and twice more
# for the gradient. $E[x^2] - \mu^2$ reads it once and loses its digits where the mean is large. The form `sums` reads
# it once, in pieces that stay in the processor's cache: a piece's mean first, then the squares of the differences from
# it. The pieces' means and squares are combined by Chan, Golub and LeVeque's formula. Another pass computes both sums
# of the gradient.

# %%
far = 1000 + normal(4096, 1)
exact = np.asarray(far, np.float64).var()
mean, var, _ = cnn.ops.batch_statistics(far, (0,))
quick = (far**2).mean() - far.mean() ** 2
print(f"variance at mean 1000: {exact:.5f}, ours {var[0]:.5f}, E[x^2] - E[x]^2 in float32 {quick:.5f}")
assert abs(var[0] - exact) < 1e-4
image = normal(8, 32, 32, 16)
mean, var, _ = cnn.ops.batch_statistics(image, (0, 1, 2))
assert close((mean, var), (image.mean((0, 1, 2)), image.var((0, 1, 2))))
norm_back = jax.grad(lambda x: (cnn.ops.batch_norm(x, None, None, 1e-5)[0] ** 3).sum())
print("calls of a gradient:", {op: n for op, n in operations(program(norm_back, image)).items() if "jaxcnn" in op})
assert close(program(norm_back, image)(image), program(norm_back, image, off=["sums"])(image), 1e-4)
y = cnn.ops.batch_normalize(x, *cnn.ops.batch_statistics(x, (0, 1, 2))[:2], None, None, 1e-5)
assert close(y, (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5))

# %% [markdown]
# ## 10. Inference: `fuse`
#
# In evaluation a batch normalization is a fixed product and sum, and a convolution takes both in:
#
# $$\mathrm{relu}\bigl((x * w)\, f + s + r\bigr) = \mathrm{relu}\bigl(x * (w f) + s + r\bigr).$$
#
# `cnn.ops.fuse` traces a function, finds such chains, and lets oneDNN do shift, residual sum and ReLU on each piece of
# the result before it is written. The network's code says nothing of it. The products that are left below are of
# kernels and vectors, no longer of images. (A NaN in front of a ReLU comes out as 0.)


# %%
def steps(function, *args):
    """How often each operation stands in the function's jaxpr, also inside of what it calls."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            inner = [p.jaxpr for p in eqn.params.values() if hasattr(p, "jaxpr")]
            yield from (name for j in inner for name in walk(j)) if inner else [str(eqn.primitive)]

    return collections.Counter(walk(jax.make_jaxpr(function)(*args).jaxpr))


net = cnn.serial(residual(16), residual(16), cnn.global_avg_pool, cnn.dense(10))
params, state = net.init(jax.random.key(0), x)


def predict(params, state, x):
    return net.apply(params, state, x)[0]


for name, function in (("as it is", predict), ("fused", cnn.ops.fuse(predict))):
    counted = steps(function, params, state, x)
    print(
        f"{name:9}",
        {op: n for op, n in counted.items() if op in ("jaxcnn_convolution", "jaxcnn_conv_fused", "add", "mul", "max")},
    )
assert close(jax.jit(cnn.ops.fuse(predict))(params, state, x), jax.jit(predict)(params, state, x))
if cpu.available():
    assert steps(cnn.ops.fuse(predict), params, state, x)["jaxcnn_conv_fused"] == 2

# %% [markdown]
# ## 11. What it brings
#
# Two programs, called in turn, so that what else the machine does falls on both; then the ratio of the medians. Above
# 1, XLA's own form takes longer. Small images and a shared machine: take one digit of it. The README has whole
# networks.


# %%
def turns(first, second, *args, repeats=40):
    """The time of `second` as a multiple of the time of `first`: medians of calls in turn."""
    times = ([], [])
    for k in range(repeats + 3):
        for compiled, kept in zip((first, second), times):
            began = time.perf_counter()
            jax.block_until_ready(compiled(*args))
            if k >= 3:
                kept.append(time.perf_counter() - began)
    return np.median(times[1]) / np.median(times[0])


lenet, digits = cnn.models.lenet5(), normal(64, 32, 32, 1)
weights, _ = lenet.init(jax.random.key(0), digits)


def lenet_gradient(weights, x):
    def loss(weights):
        return cnn.losses.softmax_cross_entropy(lenet.apply(weights, {}, x)[0], jnp.arange(64) % 10).mean()

    return jax.grad(loss)(weights)


pairs = {
    "convolution, forward": (ours, (x, kernel)),
    "convolution, both gradients": (with_gradients(ours), (x, kernel, ct)),
    "3x3 convolution, 64 channels": (cnn.ops.conv, (picture, wide)),
    "max pooling 2x2, gradient": (lambda x, ct: jax.vjp(lambda x: cnn.ops.max_pool(x, 2), x)[1](ct)[0], (x, half)),
    "LeNet-5, a gradient of 64 digits": (lenet_gradient, (weights, digits)),
}
for name, (function, args) in pairs.items():
    quick, slow = program(function, *args), program(function, *args, off=["all"])
    assert close(quick(*args), slow(*args), 1e-4)
    print(f"{name:33} XLA's own takes {turns(quick, slow, *args):.1f} times as long")

# %% [markdown]
# `python -m experiments.speed --ablation` does this with whole training steps, a process each, for each form alone.
#
# **Where the time goes.** `jax.profiler.trace(folder)` around some calls writes a profile for TensorBoard or Perfetto,
# and `jaxcnn train --profile 20` does it for 20 steps of a run, to `RUN/profile`. It is compressed JSON, so that the
# longest operations can be listed right here. (Names are those of the compiled program; `compiled.as_text()` says what
# is in them.)

# %%
compiled = program(lenet_gradient, weights, digits)
compiled(weights, digits)
folder = tempfile.mkdtemp()
with jax.profiler.trace(folder, create_perfetto_trace=False):
    for _ in range(5):
        jax.block_until_ready(compiled(weights, digits))
(written,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
with gzip.open(written) as file:
    events = json.load(file)["traceEvents"]
spent = collections.Counter()
for event in events:
    if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
        spent[event["args"]["hlo_op"]] += event["dur"] / 5
print("microseconds a call:")
for name, microseconds in spent.most_common(6):
    print(f"{microseconds:8.0f}  {name}")

# %% [markdown]
# ## 12. Limits
#
# - **Which machines.** oneDNN is called on Linux on x86-64, where a C++ compiler was there when jaxcnn was installed,
#   or a wheel was. On other CPUs the other forms are used, and convolutions are XLA's.
# - **GPU and TPU.** None of this applies there. XLA hands a GPU's convolutions to cuDNN and compiles a TPU's itself,
#   and `stored` would only cost memory. The programs are the plain ones, the results the same.
# - **bfloat16** (`cnn.mixed_precision`) goes to oneDNN where the processor multiplies it (AVX512_BF16, AMX); elsewhere
#   oneDNN says that it has no code.
# - **Threads.** A call takes all processors of the process, and one runs at a time. `OMP_NUM_THREADS` says how many.
# - **Export.** `jaxcnn export` and `jax.export` write the plain form, which runs anywhere.
# - **Several devices** under `jit`: each computes its part of the batch (`jaxcnn/ops/cpu/partition.py`).
# - **`vmap`** over images joins the batches, over kernels it is a loop of calls up to 16. **`scan`** keeps the calls;
#   XLA's own convolutions lose their canonical form inside loops and become much slower.
# - **Second derivatives, `jvp`, `remat`** work: the primitives have all their rules.
#
# Your own network needs no changes: any function of `cnn.ops` and any layer takes these forms wherever it is traced,
# also inside a Flax module. What calls `jax.lax.conv_general_dilated` itself does not.
#
# ## Exercises
#
# 1. **A stride of 3.** Write the two gradients of section 4 for $y_i = w_0 x_{3i} + w_1 x_{3i+1}$. Which numbers of
#    $dx$ are always 0?
# 2. **One form at a time.** In section 11 replace `off=["all"]` by `["onednn"]`, then by `["maximum"]`. Which form
#    counts for which of the four?
# 3. **Which kernel ran?** Start `python -c "..."` with `ONEDNN_VERBOSE=1` and one convolution in it. `brg_conv_fwd` and
#    `jit` are fast, `ref` is not; look for a shape that gives `ref`.
# 4. **Overlap.** For 3x3 windows at stride 2, how many windows contain a pixel? And at stride 1?
#
# ## What next
#
# - `jaxcnn/ops/__init__.py` lists the forms with what was tried in vain, `jaxcnn/ops/cpu` has the calls and their
#   rules.
# - `tests/ops` checks every form against XLA's own, over shapes and settings.
