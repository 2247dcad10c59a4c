# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The layers of a convolutional network
#
# A convolutional network consists of a few kinds of layers. For each of them, this notebook shows the formula, an
# example that can be checked on paper, and the library's result. The exercises of the lecture are computed, and printed
# numbers that differ from the computed ones are pointed out (the list is at the end). Every claim stands in an
# `assert`: change a number, and the notebook tells you what no longer holds.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_sample_image

import jaxcnn as cnn

DATA = "digits"  # or "mnist", "cifar10"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})


def shape(*sizes):
    """A batch of one array of these sizes that is never made: enough to count parameters and outputs."""
    return jax.ShapeDtypeStruct((1, *sizes), jnp.float32)


def row(layer, *sizes):
    """What the library says of a layer on such an input: output shape without the batch, parameters."""
    table = cnn.inspect.summary(layer, shape(*sizes))
    return table.total.output_shape[1:], table.params


def numbers(axes, grid, title, marked=(), cmap="RdBu_r"):
    """Draws a small table of numbers; the `marked` ones get a frame."""
    grid = np.asarray(grid)
    top = np.abs(grid).max()
    axes.imshow(grid, cmap=cmap, vmin=-2.2 * top, vmax=2.2 * top)
    for (i, j), value in np.ndenumerate(grid):
        axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=9)
    for i, j in marked:
        axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.5))
    axes.set(title=title, xticks=[], yticks=[])


# %% [markdown]
# ## 1. Why not a dense layer?
#
# Does a photograph of 400x290 pixels show a dog? A fully connected unit has a weight for each of its 116,000 pixels,
# three times as many in colour. Two ideas make images affordable. **Local connectivity**: a unit looks at a small
# window, its **receptive field**, but at all channels of it. **Sharing**: all units of one **feature map** have the
# same weights, each at its own place. Count the weights of one map of 286x396 units, which is what 5x5 windows give:

# %%
height, width, channels, size = 290, 400, 3, 5
units = (height - size + 1) * (width - size + 1)
each_sees_all = units * (height * width * channels + 1)  # a weight for each input and a bias, for each unit
each_sees_a_window = units * (size * size * channels + 1)
all_share_one_window = size * size * channels + 1

assert height * width == 116_000
assert height * width * channels == 348_000
assert row(cnn.conv(1, size), height, width, channels) == ((286, 396, 1), all_share_one_window)
print(f"{units:,} units, fully connected:    {each_sees_all:>14,} parameters")
print(f"{units:,} units, each its window:    {each_sees_a_window:>14,}")
print(f"{units:,} units, one set of weights: {all_share_one_window:>14,}")

# %% [markdown]
# Seen as a matrix that multiplies the input, the three differ like this (one dimension, twelve inputs; equal colours
# are equal weights, white is no connection).

# %%
draw = np.random.default_rng(3)
dense = draw.uniform(-1, 1, (10, 12))
local = np.where(np.abs(np.subtract.outer(np.arange(10), np.arange(12)) + 1) <= 1, dense, np.nan)
filter_ = np.array([0.9, -0.7, 0.35])[None, :, None]
layer = cnn.conv(1, 3, bias=False)
shared = jax.jacobian(lambda x: layer.apply({"kernel": filter_.transpose(1, 0, 2)}, {}, x[None, :, None])[0][0, :, 0])
shared = np.asarray(shared(jnp.zeros(12)))
shared = np.where(shared == 0, np.nan, shared)
distinct = [len(np.unique(matrix[~np.isnan(matrix)])) for matrix in (dense, local, shared)]
assert distinct == [120, 30, 3]

figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.6))
for panel, matrix, count, name in zip(axes, (dense, local, shared), distinct, ("dense", "local", "local and shared")):
    panel.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    panel.set(title=f"{name}: {count} weights", xlabel="input", ylabel="unit", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Sharing does not only save weights. A feature is found wherever it is: if the picture moves, the map moves with it.
# This property is **equivariance**, and a dense layer does not have it.

# %%
train, test = cnn.data.load(DATA, "train"), cnn.data.load(DATA, "test")
five = jnp.asarray(train.images[train.labels == 5][:1].mean(-1, keepdims=True) / 255.0, jnp.float32)  # grey
moved = jnp.roll(five, (2, 3), axis=(1, 2))

layer = cnn.conv(6, 5)
params, state = layer.init(jax.random.key(0), five)
here, there = (layer.apply(params, state, x)[0] for x in (five, moved))
assert jnp.allclose(here[:, :-2, :-3], there[:, 2:, 3:], atol=1e-5)
print("the map of the moved picture is the moved map")

# %% [markdown]
# ## 2. Convolution
#
# The lecture's example: a picture of 7x7 numbers and the Sobel filter, which responds where rows get darker downwards.
# The filter lies on a window, each number is multiplied by the one on top of it, and the products are added up.

# %%
image = np.array([
    [1, 3, 0, 1, 4, 3, 2],
    [2, 1, 1, 2, 5, 0, 1],
    [5, 3, 2, 2, 5, 3, 2],
    [4, 5, 6, 1, 0, 2, 3],
    [2, 1, 3, 4, 1, 5, 1],
    [2, 0, 3, 2, 6, 5, 8],
    [4, 6, 2, 1, 2, 3, 2],
])  # fmt: skip
sobel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])

for i, j, expected in ((0, 0, -6), (0, 1, -5), (0, 4, -1), (1, 0, -15), (4, 4, 2)):
    window = image[i : i + 3, j : j + 3]
    products = " + ".join(f"{pixel}*{weight}" for pixel, weight in zip(window.ravel(), sobel.ravel()))
    assert (window * sobel).sum() == expected
    print(f"row {i}, column {j}:  {products} = {expected}".replace("*-1", "*(-1)").replace("*-2", "*(-2)"))

# %% [markdown]
# This is **cross-correlation**,
#
# $$y[i, j] = \sum_{u, v} x[i + u,\, j + v]\; h[u, v],$$
#
# and it is what networks compute. **Convolution** runs through the filter the other way, $y[i, j] = \sum_{u, v} x[i -
# u,\, j - v]\, h[u, v]$, which is the same with the filter flipped in both directions. Flipping this Sobel filter
# changes its sign, and so the sign of the result.


# %%
def pixels(x):
    """A picture of numbers as a batch of one image with one channel."""
    return jnp.asarray(x, jnp.float32)[None, :, :, None]


kernel = jnp.asarray(sobel, jnp.float32)[:, :, None, None]  # height, width, input channels, filters
correlation = cnn.ops.conv(pixels(image), kernel)[0, :, :, 0]
convolution = cnn.ops.convolve(pixels(image), kernel)[0, :, :, 0]

by_the_formula = [[(image[i : i + 3, j : j + 3] * sobel).sum() for j in range(5)] for i in range(5)]
assert (correlation == jnp.array(by_the_formula)).all()
assert (convolution == cnn.ops.conv(pixels(image), kernel[::-1, ::-1])[0, :, :, 0]).all()
assert (convolution == jax.scipy.signal.convolve2d(jnp.array(image), jnp.array(sobel), mode="valid")).all()
assert (convolution == -correlation).all()

figure, axes = plt.subplots(1, 4, figsize=(12, 3), width_ratios=(7, 3, 5, 5))
numbers(axes[0], image, "input", [(2, 3)])
numbers(axes[1], sobel, "filter")
numbers(axes[2], correlation, "cross-correlation")
numbers(axes[3], convolution, "convolution", [(1, 3), (1, 4)])
plt.show()

# %% [markdown]
# The frames mark three slips of the slides. The first table of the input prints a 3 where the later ones have a 2, and
# the results are those of the 2. And in the second row of the convolution, the last two numbers are printed as 9 and
# -1, the cross-correlation's, instead of -9 and 1.

# %%
printed = image.copy()
printed[2, 3] = 3
with_a_3 = cnn.ops.conv(pixels(printed), kernel)[0, :, :, 0]
assert correlation[0].tolist() == [-6, -5, -5, -3, -1]
assert with_a_3[0].tolist() == [-6, -6, -7, -4, -1]
assert convolution[1].tolist() == [15, 13, -2, -9, 1]
print("first row with the 2:", correlation[0].astype(int), "as in the lecture")
print("first row with the 3:", with_a_3[0].astype(int))


# %% [markdown]
# **Sizes.** A filter of $F$ pixels finds $N - F + 1$ places among $N$. Steps of $S$ pixels, the **stride**, leave out
# places; $P$ zeros on each side, **padding**, add some:
#
# $$\frac{N - F + 2P}{S} + 1 .$$
#
# With stride 1 and $P = (F - 1)/2$ the size stays.


# %%
def out_size(n, f, s=1, p=0):
    return (n - f + 2 * p) / s + 1


print("  N  F  S  P   output")
for n, f, s, p, expected in (
    (7, 3, 1, 0, 5), (7, 3, 1, 1, 7), (7, 3, 2, 0, 3), (32, 5, 1, 0, 28), (32, 5, 1, 2, 32), (63, 7, 2, 0, 29),
):  # fmt: skip
    output, _ = row(cnn.conv(1, f, s, p), n, n, 1)
    assert out_size(n, f, s, p) == expected
    assert output == (expected, expected, 1)
    print(f"{n:3}{f:3}{s:3}{p:3}   {expected}x{expected}")
for f in (1, 3, 5, 7, 9, 11):
    assert row(cnn.conv(1, f, padding=(f - 1) // 2), 20, 20, 1)[0] == (20, 20, 1)

figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.3))
for panel, (stride, padding) in zip(axes, ((1, 0), (1, 1), (2, 0))):
    padded = np.pad(np.ones((7, 7)), padding)
    panel.pcolormesh(padded, cmap="Blues", vmin=0, vmax=3, edgecolors="white", linewidth=1.5)
    centres = np.arange(1.5, len(padded) - 1, stride)
    panel.plot(*(c.ravel() for c in np.meshgrid(centres, centres)), "o", color=ORANGE, markersize=6)
    for corner in (0, stride):
        panel.add_patch(plt.Rectangle((corner, 0), 3, 3, fill=False, edgecolor=ORANGE, linewidth=2))
    panel.set(title=f"S = {stride}, P = {padding}: {len(centres)}x{len(centres)}", aspect="equal")
    panel.invert_yaxis()
    panel.axis("off")
plt.show()

# %% [markdown]
# **Volumes.** An image has channels, and a filter always extends over all of them. On 32x32x3, a 5x5 filter has
# $5 \cdot 5 \cdot 3 = 75$ weights; each output is a dot product of 75 numbers, plus the bias, $w^T x + b$. One filter
# gives one map of 28x28. Six give six, stacked to a new volume of 28x28x6, the next layer's input. In general, from
# $W_1 \times H_1 \times D_1$, with $K$ filters:
#
# $$W_2 = \frac{W_1 - F + 2P}{S} + 1, \quad H_2 = \frac{H_1 - F + 2P}{S} + 1, \quad D_2 = K, \qquad
# F \cdot F \cdot D_1 \cdot K \text{ weights}, \quad K \text{ biases}.$$

# %%
volume = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
layer = cnn.conv(6, 5, bias_init=jax.nn.initializers.normal(1.0))
params, state = layer.init(jax.random.key(2), volume)
maps, _ = layer.apply(params, state, volume)
w, b = params["kernel"], params["bias"]
assert maps.shape == (1, 28, 28, 6)
assert w[..., 0].size == 75

one = jnp.vdot(volume[0, 9:14, 17:22], w[..., 4]) + b[4]
print(f"map 4 at (9, 17): {maps[0, 9, 17, 4]:.4f}; dot product of 75 numbers and the bias: {one:.4f}")
assert jnp.allclose(one, maps[0, 9, 17, 4], atol=1e-4)

# Map d is the valid correlation with filter d, summed over the channels, moved by bias d.
d = 2
by_channel = sum(jax.scipy.signal.correlate2d(volume[0, ..., c], w[..., c, d], mode="valid") for c in range(3))
assert jnp.allclose(maps[0, ..., d], by_channel + b[d], atol=1e-4)
print(cnn.inspect.summary(cnn.serial(conv1=cnn.conv(6, 5), act1=cnn.relu, conv2=cnn.conv(10, 5)), volume))

# %% [markdown]
# **A filter bank.** Convolution extracts features by "applying a filter bank", one map for each filter. The best known
# bank of designed filters is Leung and Malik's (2001), with 48 filters: 18 for edges and 18 for bars, the first and
# second derivatives across long Gaussians of three widths in six directions; 8 for spots, Laplacians of a Gaussian;
# and 4 Gaussians, which blur. As a layer, it is one convolution of 48 filters:


# %%
def leung_malik(size=49):
    """The bank `(size, size, 1, 48)`; all filters but the four that blur add up to 0, all absolute values to 1."""
    y, x = np.mgrid[:size, :size] - size // 2
    edges, bars, scales = [], [], np.sqrt(2) ** np.arange(1, 5)
    for s in scales[:3]:
        for angle in np.arange(6) * np.pi / 6:
            across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            long = np.exp(-((across / s) ** 2 + (along / (3 * s)) ** 2) / 2)
            edges.append(across * long)
            bars.append((1 - (across / s) ** 2) * long)
    r = x**2 + y**2
    spots = [(1 - r / (2 * s**2)) * np.exp(-r / (2 * s**2)) for s in (*scales, *3 * scales)]
    blurs = [np.exp(-r / (2 * s**2)) for s in scales]
    bank = np.stack(edges + bars + spots + blurs, axis=-1)[:, :, None]
    bank[..., :44] -= bank[..., :44].mean((0, 1))
    return bank / np.abs(bank).sum((0, 1))


bank = leung_malik()
photo = load_sample_image("china.jpg")[86:406, 150:470].mean(2).reshape(160, 2, 160, 2).mean((1, 3)) / 255  # grey
extended = jnp.asarray(np.pad(photo, 24, mode="reflect"), jnp.float32)[None, :, :, None]
layer = cnn.conv(48, 49, bias=False)
maps = layer.apply({"kernel": jnp.asarray(bank, jnp.float32)}, {}, extended)[0][0]
assert maps.shape == (160, 160, 48)
assert row(layer, 208, 208, 1) == ((160, 160, 48), 49 * 49 * 48)
assert np.allclose(bank[..., :44].sum((0, 1)), 0)
assert np.isclose(maps[100, 60, 8], (bank[:, :, 0, 8] * extended[0, 100:149, 60:109, 0]).sum(), atol=1e-4)

# Of the six edge filters of a width, the one of the edge's own direction answers most.
y, x = np.mgrid[-24:25, -24:25]
for k, angle in enumerate(np.arange(6) * np.pi / 6):
    edge = x * np.cos(angle) + y * np.sin(angle) > 0
    assert np.einsum("ij,ijk->k", edge, bank[:, :, 0, 6:12]).argmax() == k

figure, axes = plt.subplots(4, 12, figsize=(11, 3.8))
for k, panel in enumerate(axes.ravel()):
    top = np.abs(bank[..., k]).max()
    panel.imshow(bank[:, :, 0, k], cmap="RdBu_r", vmin=-top, vmax=top)
    panel.axis("off")
plt.show()

figure, axes = plt.subplots(1, 6, figsize=(12, 2.4))
shown = {"upright edges": 0, "level edges": 3, "upright bars": 18, "spots": 37, "blurred": 46}
axes[0].imshow(photo, cmap="gray", vmin=0, vmax=1)
axes[0].set_title("160x160", fontsize=10)
for panel, (name, k) in zip(axes[1:], shown.items()):
    top = float(jnp.quantile(jnp.abs(maps[..., k]), 0.99))
    grey = name == "blurred"
    panel.imshow(maps[..., k], cmap="gray" if grey else "RdBu_r", vmin=0 if grey else -top, vmax=1 if grey else top)
    panel.set_title(f"{name} (filter {k})", fontsize=10)
for panel in axes:
    panel.axis("off")
plt.show()

# %% [markdown]
# "**But filters are learned!**", the slide adds. What comes out is not so different. Without labels, and from this one
# photograph: which nine filters of 7x7 keep most of what is in its patches? The answer is its
# **principal components**, the eigenvectors of the patches' covariance. The first is a mean; then come edges in two
# directions, then bars and corners. (Filters learned from labels: section 9.)

# %%
patches = np.lib.stride_tricks.sliding_window_view(photo, (7, 7)).reshape(-1, 49)
variance, vectors = np.linalg.eigh(np.cov(patches.T))
learned, kept = vectors[:, ::-1][:, :9], variance[::-1][:9].sum() / variance.sum()
y, x = (grid.ravel() / np.sqrt((grid**2).sum()) for grid in np.mgrid[-3:4, -3:4])  # brighter downwards, rightwards
print(f"nine filters instead of 49 pixels keep {100 * kept:.0f} % of the patches' variance")
assert (learned[:, 0] > 0).all() or (learned[:, 0] < 0).all()
for k in (1, 2):
    assert np.hypot(learned[:, k] @ x, learned[:, k] @ y) > 0.8  # an edge, in some direction
assert kept > 0.8

figure, axes = plt.subplots(1, 9, figsize=(9, 1.2))
for k, panel in enumerate(axes):
    panel.imshow(learned[:, k].reshape(7, 7), cmap="RdBu_r", vmin=-0.35, vmax=0.35)
    panel.axis("off")
plt.show()

# %% [markdown]
# **1x1 convolution.** On a single channel it only multiplies by a number. On 128 channels each output is a dot product
# of 128 numbers: a dense layer, applied to every pixel by itself. It is used to reduce the number of maps, for instance
# before an expensive layer, as in GoogLeNet:

# %%
deep = jax.random.normal(jax.random.key(3), (1, 14, 14, 128))
one_by_one = cnn.conv(32, 1)
params, state = one_by_one.init(jax.random.key(4), deep)
fewer, _ = one_by_one.apply(params, state, deep)
assert fewer.shape == (1, 14, 14, 32)
assert jnp.allclose(fewer, deep @ params["kernel"][0, 0] + params["bias"], atol=1e-4)

straight = cnn.conv(32, 5, padding=2)
squeezed = cnn.serial(reduce=cnn.conv(16, 1), act=cnn.relu, conv=cnn.conv(32, 5, padding=2))
for name, layer in (("5x5 on 192 maps", straight), ("1x1 to 16 maps, then 5x5", squeezed)):
    table = cnn.inspect.summary(layer, shape(28, 28, 192))
    print(f"{name:25} {table.params:>8,} parameters {table.macs:>12,} multiplications")
assert row(straight, 28, 28, 192) == ((28, 28, 32), 153_632)
assert row(squeezed, 28, 28, 192) == ((28, 28, 32), 3_088 + 12_832)

# %% [markdown]
# **3-D convolution.** A film or a scan has a third axis along which neighbours belong together, and the filter moves
# along that, too. Here, a digit slides to the right, one pixel a frame. A filter that takes the next frame one pixel
# further right and subtracts the present one is blind to exactly that motion, and to no other.

# %%
still = jnp.pad(five[0], ((0, 0), (8, 8), (0, 0)))


def film(step):
    """Eight frames `(1, 8, H, W, 1)` of the digit, moving by `step` pixels a frame."""
    return jnp.stack([jnp.roll(still, step * t, axis=1) for t in range(8)])[None]


motion = jnp.zeros((2, 1, 2, 1, 1)).at[1, 0, 1].set(1).at[0, 0, 0].set(-1)  # time, height, width, channel, filter
answer = {step: cnn.ops.conv(film(step), motion)[0, ..., 0] for step in (1, 0, -1)}
print("strongest answer:", {step: round(float(jnp.abs(y).max()), 2) for step, y in answer.items()})
assert jnp.abs(answer[1]).max() < 1e-5
assert min(jnp.abs(answer[0]).max(), jnp.abs(answer[-1]).max()) > 0.2
assert row(cnn.conv(4, 3), 8, 32, 32, 1) == ((6, 30, 30, 4), 3 * 3 * 3 * 4 + 4)

figure, axes = plt.subplots(2, 4, figsize=(9.5, 3.2))
for line, (step, name) in zip(axes, ((1, "to the right"), (-1, "to the left"))):
    for panel, t in zip(line, (0, 6)):
        panel.imshow(film(step)[0, t, ..., 0], cmap="gray")
        panel.set_title(f"{name}, frame {t}", fontsize=9)
    for panel, t in zip(line[2:], (0, 6)):
        panel.imshow(answer[step][t], cmap="RdBu_r", vmin=-1, vmax=1)
        panel.set_title(f"answer to frames {t} and {t + 1}", fontsize=9)
for panel in axes.ravel():
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 3. The exercises
#
# First the one worked out on the slides: 32x32x3, ten 5x5 filters, stride 1, padding 2. How large is the output, how
# many parameters are there? Then the six with four answers each:
#
# 1. 100 units, each connected to every number of a 300x300 colour image: how many parameters, with the biases?
# 2. 100 filters of 5x5 on that image instead: how many?
# 3. 32 filters of 7x7 at stride 2 without padding on 63x63x16: which output?
# 4. The same filters at stride 1: which padding keeps 63x63?
# 5. Max pooling of 2x2 windows at stride 2 on 32x32x16: which output?
# 6. 15x15x8 padded with $P = 2$: which volume?

# %%
assert row(cnn.conv(10, 5, stride=1, padding=2), 32, 32, 3) == ((32, 32, 10), (5 * 5 * 3 + 1) * 10)
print("worked out: 32x32x10,", row(cnn.conv(10, 5, stride=1, padding=2), 32, 32, 3)[1], "parameters")

keeps = [p for p in range(10) if row(cnn.conv(32, 7, padding=p), 63, 63, 16)[0] == (63, 63, 32)]
padded = jnp.pad(jnp.zeros((15, 15, 8)), ((2, 2), (2, 2), (0, 0)))
computed = [
    row(cnn.serial(cnn.flatten, cnn.dense(100)), 300, 300, 3)[1],
    row(cnn.conv(100, 5), 300, 300, 3)[1],
    row(cnn.conv(32, 7, stride=2), 63, 63, 16)[0],
    keeps[0],
    row(cnn.max_pool(2, stride=2), 32, 32, 16)[0],
    padded.shape,
]
choices = [
    {"a": 9_000_001, "b": 9_000_100, "c": 27_000_001, "d": 27_000_100},
    {"a": 2501, "b": 2600, "c": 7500, "d": 7600},
    {"a": (16, 16, 32), "b": (29, 29, 16), "c": (29, 29, 32), "d": (16, 16, 16)},
    {"a": 1, "b": 2, "c": 3, "d": 7},
    {"a": (32, 32, 8), "b": (15, 15, 16), "c": (16, 16, 16), "d": (116, 16, 8)},
    {"a": (19, 19, 12), "b": (17, 17, 10), "c": (19, 19, 8), "d": (17, 17, 8)},
]
solutions = "ddcccc"
assert len(keeps) == 1
for number, (value, offered, solution) in enumerate(zip(computed, choices, solutions), 1):
    letter = next(letter for letter, choice in offered.items() if choice == value)
    assert letter == solution
    print(f"{number}. {letter})", "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}")

# %% [markdown]
# All six agree with the printed solutions. Two wrong choices are instructive. 2 c) forgets the biases. 3 b) forgets
# that the depth of the output is the number of filters, whatever the depth of the input.
#
# ## 4. Activations
#
# Without a nonlinear function between them, two linear layers would be equal to one. The usual choices:
#
# | | $g(x)$ | $g'(x)$ |
# | --- | --- | --- |
# | sigmoid | $1/(1 + e^{-x})$ | $g\,(1 - g)$, at most 1/4 |
# | tanh | $(e^x - e^{-x})/(e^x + e^{-x})$ | $1 - g^2$, at most 1 |
# | ReLU | $\max(0, x)$ | 0 or 1; at 0 we take 0 |
# | leaky ReLU, PReLU | $\max(\alpha x, x)$; 0.01 or learned | $\alpha$ or 1 |
# | maxout | $\max(w_1^T x + b_1,\; w_2^T x + b_2)$ | that of the larger one |
# | ELU | $x$ for $x > 0$, else $\alpha\,(e^x - 1)$ | 1, or $g + \alpha$ |
#
# The first two are smooth, and flat far out, where no gradient passes. The others are straight for positive $x$.

# %%
x = jnp.linspace(-4, 4, 161)[:, None]
sigmoid, tanh = 1 / (1 + jnp.exp(-x)), (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x))
lines = {"kernel": jnp.array([[[1.0]], [[-0.5]]]), "bias": jnp.array([[0.0], [1.0]])}  # x and 1 - x/2
table = {  # name: layer, its variables or None for those it begins with, value and slope by the formula
    "sigmoid": (cnn.sigmoid, None, sigmoid, sigmoid * (1 - sigmoid)),
    "tanh": (cnn.tanh, None, tanh, 1 - tanh**2),
    "ReLU": (cnn.relu, None, jnp.maximum(0, x), x > 0),
    "leaky ReLU, 0.01": (cnn.leaky_relu(0.01), None, jnp.maximum(0.01 * x, x), jnp.where(x >= 0, 1, 0.01)),
    "PReLU, begins at 0.25": (cnn.prelu(0.25), None, jnp.maximum(0.25 * x, x), jnp.where(x >= 0, 1, 0.25)),
    "maxout of two lines": (cnn.maxout(1), lines, jnp.maximum(x, 1 - x / 2), jnp.where(x > 2 / 3, 1, -0.5)),
    "ELU, alpha = 1": (cnn.elu(1.0), None, jnp.where(x > 0, x, jnp.exp(x) - 1), jnp.where(x > 0, 1, jnp.exp(x))),
    "ELU, alpha = 2": (
        cnn.elu(2.0),
        None,
        jnp.where(x > 0, x, 2 * jnp.exp(x) - 2),
        jnp.where(x > 0, 1, 2 * jnp.exp(x)),
    ),
}
figure, axes = plt.subplots(2, 4, figsize=(12, 4.6), sharex=True, sharey=True)
for panel, (name, (activation, variables, value, slope)) in zip(axes.ravel(), table.items()):
    layer = cnn.serial(act=activation)  # a plain function, or a layer with weights
    params, state = layer.init(jax.random.key(0), x)
    params = params if variables is None else {"act": variables}
    y, dy = jax.jvp(lambda x, layer=layer, v=(params, state): layer.apply(*v, x)[0], (x,), (jnp.ones_like(x),))
    assert jnp.allclose(y, value, atol=1e-5), name
    assert jnp.allclose(dy, slope, atol=1e-5), name
    panel.plot(x, y, color=BLUE, label="value")
    panel.plot(x, dy, color=ORANGE, linewidth=1.2, label="slope")
    panel.axhline(0, color="0.85", zorder=0)
    panel.set(title=name, ylim=(-2.2, 4.1))
for panel in axes[1]:
    panel.set(xlabel="x")
axes[0, 0].legend(frameon=False)
plt.show()

assert jax.grad(cnn.relu)(0.0) == 0
assert jax.grad(cnn.sigmoid)(0.0) == 0.25
assert jnp.allclose(cnn.tanh(x), 2 * cnn.sigmoid(2 * x) - 1, atol=1e-6)  # tanh is a stretched sigmoid

# %% [markdown]
# One caution: $\max(\alpha x, x)$ is the leaky ReLU only while $\alpha \le 1$. A PReLU may learn more than that, so the
# library takes $x$ above 0 and $\alpha x$ below it.
#
# The effect of a ReLU on the output of an edge filter: negative values (darker than the grey of 0) disappear.

# %%
assert jnp.maximum(2 * 1.0, 1.0) == 2
assert cnn.leaky_relu(2.0).apply({}, {}, jnp.ones(1))[0][0] == 1

edges = cnn.ops.conv(five, kernel)[0, :, :, 0]
top = float(jnp.abs(edges).max())
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6))
for panel, picture, name, low in zip(
    axes, (five[0, ..., 0], edges, cnn.relu(edges)), ("a five", "edges", "after ReLU"), (0, -top, 0)
):
    panel.imshow(picture, cmap="gray", vmin=low, vmax=1 if picture.shape[0] == five.shape[1] else top)
    panel.set_title(name, fontsize=10)
    panel.axis("off")
plt.show()
assert cnn.relu(edges).min() == 0
assert (edges < 0).any()

# %% [markdown]
# ## 5. Pooling
#
# Pooling makes each map smaller by itself: one number for each window, the largest or the mean (or the sum). It has no
# parameters, and the sizes follow the rule of section 2, $(W - F)/S + 1$; the depth stays.

# %%
board = np.array([[4, 1, 5, 2, 2, 6], [1, 2, 9, 0, 2, 4], [2, 2, 6, 4, 0, 2], [3, 1, 0, 3, 3, 1]])
pooled = {
    "maximum": cnn.ops.max_pool(pixels(board), 2, 2)[0, :, :, 0],
    "mean": cnn.ops.avg_pool(pixels(board), 2, 2)[0, :, :, 0],
    "sum": cnn.ops.sum_pool(pixels(board), 2, 2)[0, :, :, 0],
}
assert pooled["maximum"].tolist() == [[4, 9, 6], [3, 6, 3]]
assert pooled["mean"].tolist() == [[2, 4, 3.5], [2, 3.25, 1.5]]
assert (pooled["sum"] == 4 * pooled["mean"]).all()

figure, axes = plt.subplots(1, 4, figsize=(11, 2.3), width_ratios=(6, 3, 3, 3))
numbers(axes[0], board, "one map, 2x2 windows at stride 2")
for line in (1.5, 3.5):
    axes[0].axvline(line, color="black", linewidth=1)
axes[0].axhline(1.5, color="black", linewidth=1)
for panel, (name, grid) in zip(axes[1:], pooled.items()):
    numbers(panel, grid, name, [(1, 2)] if name == "mean" else [])
plt.show()

output, parameters = row(cnn.max_pool(2), 290, 400, 64)
assert output == (145, 200, 64)
assert parameters == 0
print(f"400x290x64, pooled: {output[1]}x{output[0]}x{output[2]}, {parameters} parameters")

# %% [markdown]
# The frame marks another slip: the slides have 1.25 as the mean of 0, 2, 3 and 1, whose sum is 6.
#
# **For and against.** The next layer has fewer inputs, and a shift by a pixel changes less. But the exact position is
# lost, and two different pictures may have the same pooled map.

# %%
rng = np.random.default_rng(0)
some = jnp.asarray(train.images[rng.permutation(len(train))[:200]].mean(-1, keepdims=True) / 255.0, jnp.float32)
one_pixel = jnp.roll(some, 1, axis=2)
print("how much a shift by one pixel changes the edges of digits:")
changes = []
for size in (1, 2, 4, 8):
    a, b = (cnn.ops.max_pool(cnn.relu(cnn.ops.conv(x, kernel, padding=1)), size) for x in (some, one_pixel))
    changes.append(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)))
    print(f"  max pooling {size}x{size}: {100 * changes[-1]:.0f} %")
assert changes == sorted(changes, reverse=True)

left, right = np.zeros((2, 4, 4))
left[0, 0] = right[1, 1] = 9
assert (cnn.ops.max_pool(pixels(left), 2) == cnn.ops.max_pool(pixels(right), 2)).all()

# %% [markdown]
# ## 6. The dense layer, and softmax
#
# The last layers are dense: each unit is connected to all inputs, $y = x W + b$. For classes, the last one has an
# output each, and the **softmax** makes probabilities of them, $p_k = e^{z_k} / \sum_j e^{z_j}$: positive, and 1
# together.

# %%
features = jax.random.normal(jax.random.key(5), (2, 400))
layer = cnn.dense(10)
params, state = layer.init(jax.random.key(6), features)
scores, _ = layer.apply(params, state, features)
assert jnp.allclose(scores, features @ params["kernel"] + params["bias"], atol=1e-5)
p = cnn.softmax(scores)
assert jnp.allclose(p, jnp.exp(scores) / jnp.exp(scores).sum(1, keepdims=True))
assert jnp.allclose(p.sum(1), 1)
print("probabilities:", "  ".join(f"{probability:.3f}" for probability in p[0]))

# The same layer is a convolution whose filter is as large as its input.
as_filter = cnn.ops.conv(features.reshape(2, 5, 5, 16), params["kernel"].reshape(5, 5, 16, 10))
assert jnp.allclose(as_filter[:, 0, 0] + params["bias"], scores, atol=1e-4)

# %% [markdown]
# ## 7. Batch normalization
#
# During training, the inputs of the inner layers keep changing and may drift to where the activation is flat. **Batch
# normalization** fixes the mean and the variance of each channel, over all pixels of all images of the mini-batch, and
# then applies a learned scale and shift:
#
# $$\hat x^{(k)} = \frac{x^{(k)} - \mathrm E[x^{(k)}]}{\sqrt{\mathrm{var}(x^{(k)}) + \varepsilon}}, \qquad
# y^{(k)} = \gamma^{(k)} \hat x^{(k)} + \beta^{(k)} .$$
#
# (The slides leave out $\varepsilon$, a small number that matters for a channel that is constant.)

# %%
x = 5 * jax.random.normal(jax.random.key(7), (32, 8, 8, 3)) * jnp.array([1, 2, 3]) + jnp.array([-4, 0, 9])
norm = cnn.batch_norm(eps=1e-5)
params, state = norm.init(jax.random.key(0), x)
y, after = norm.apply(params, state, x, train=True)

mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
assert jnp.allclose(y, (x - mean) / jnp.sqrt(variance + 1e-5), atol=1e-4)
assert jnp.allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
assert jnp.allclose(y.var((0, 1, 2)), 1, atol=1e-4)
for k in range(3):
    left, right = (f"mean {z[..., k].mean():z5.2f}, deviation {z[..., k].std():5.2f}" for z in (x, y))
    print(f"channel {k}: {left}  ->  {right}")

# With gamma the deviation and beta the mean, it does nothing: a network can learn to go without it.
undone, _ = norm.apply({"scale": jnp.sqrt(variance + 1e-5), "bias": mean}, state, x, train=True)
assert jnp.allclose(undone, x, atol=1e-3)

# Each step moves the running statistics, which a trained network uses: one image's answer needs no other images.
assert jnp.allclose(after["mean"], 0.9 * state["mean"] + 0.1 * mean, atol=1e-5)
alone, _ = norm.apply(params, after, x[:1])
together, _ = norm.apply(params, after, x)
assert jnp.allclose(alone[0], together[0], atol=1e-5)

# %% [markdown]
# Does it help? Take a network that is hard to train: six layers of sigmoids, whose slope of at most 1/4 shrinks the
# gradient layer by layer. The same network, data and optimizer, without and with batch normalization:


# %%
def six_layers(normalized):
    layers = {"flat": cnn.flatten}
    for k in range(1, 7):
        layers[f"fc{k}"] = cnn.dense(50)
        if normalized:
            layers[f"bn{k}"] = cnn.batch_norm()
        layers[f"act{k}"] = cnn.sigmoid
    return cnn.serial(**layers, head=cnn.dense(10))


learn = train if DATA == "digits" else train.hold_out(0.05)[1]  # a few thousand images are enough to see it
histories = {}
for name, normalized in (("without", False), ("with batch norm", True)):
    fitted = cnn.train.fit(six_layers(normalized), learn, epochs=12, batch_size=32, show=False)
    histories[name] = [record["loss"] for record in fitted.history]

figure, axes = plt.subplots(figsize=(5.5, 2.8))
for (name, losses), color in zip(histories.items(), (BLUE, ORANGE)):
    axes.plot(range(1, 13), losses, ".-", color=color, label=name)
axes.axhline(math.log(10), color="0.6", linestyle=":", label="guessing, log 10")
axes.set(xlabel="epoch", ylabel="training loss", title="six layers of sigmoids", ylim=(0, 2.6))
axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.86))
plt.show()
print("last losses:", {name: round(losses[-1], 2) for name, losses in histories.items()})
assert histories["with batch norm"][-1] < (0.9 if DATA == "cifar10" else 0.5) * histories["without"][-1]

# %% [markdown]
# There are other normalizations. They differ in which numbers share a mean and a variance: those of one pixel (layer
# norm, as here), of a group of maps of one image (group norm), or neighbours across the maps, without a mean (AlexNet's
# local response normalization). None of these looks at other images.

# %%
for name, layer, axes_ in (
    ("layer norm", cnn.layer_norm(), -1),
    ("group norm, one group", cnn.group_norm(1), (1, 2, 3)),
    ("group norm, a group each", cnn.group_norm(3), (1, 2)),
):
    params, state = layer.init(jax.random.key(0), x)
    y, _ = layer.apply(params, state, x, train=True)
    assert jnp.allclose(y.mean(axes_), 0, atol=1e-4), name
    assert jnp.allclose(y.var(axes_), 1, atol=1e-2), name
    alone, _ = layer.apply(params, state, x[:1], train=True)
    assert jnp.allclose(alone, y[:1], atol=1e-4), name
    print(f"{name}: {y[0].size // math.prod(y.mean(axes_).shape[1:] or (1,))} numbers share a mean")

neighbours = cnn.ops.local_response_norm(x, size=3, alpha=1e-4, beta=0.75, k=2.0)
middle = x[..., 1] / (2 + 1e-4 * (x**2).sum(-1)) ** 0.75
assert jnp.allclose(neighbours[..., 1], middle, atol=1e-4)

# %% [markdown]
# ## 8. The exercise network
#
# A colour image of 32x32; Conv1: 8 filters of 5x5, stride 1, no padding; Pool1: 2x2 at stride 2; Conv2: 16 filters of
# 5x5; Pool2; dense layers of 120, 84 and 10. Compute the volumes and the parameters, first by hand, then with the
# library:

# %%
by_hand = {
    "conv1": ((28, 28, 8), (5 * 5 * 3 + 1) * 8),
    "pool1": ((14, 14, 8), 0),
    "conv2": ((10, 10, 16), (5 * 5 * 8 + 1) * 16),
    "pool2": ((5, 5, 16), 0),
    "fc1": ((120,), 5 * 5 * 16 * 120 + 120),
    "fc2": ((84,), 120 * 84 + 84),
    "out": ((10,), 84 * 10 + 10),
}
lecture = cnn.inspect.summary(cnn.models.lecture_cnn(), shape(32, 32, 3))
measured = {line.name: (line.output_shape[1:], line.params) for line in lecture.layers if line.name in by_hand}
assert measured == by_hand
assert [count for _, count in measured.values()] == [608, 0, 3216, 0, 48_120, 10_164, 850]
assert lecture.params == 62_958
print(lecture)

# %% [markdown]
# The solution's last row reads $84 \cdot 10 + 84 = 84$. The output has ten units and so ten biases:
# $84 \cdot 10 + 10 = 850$, and 62,958 parameters in all. (Nor is $84 \cdot 10 + 84$ equal to 84.) Three quarters of
# them sit in the first dense layer.
#
# ## 9. LeNet-5
#
# The network of LeCun et al. (1998) reads digits. 5x5 filters at stride 1, a sigmoid or tanh, means of 2x2 windows at
# stride 2, twice, then dense layers. Digits of 28x28 get a border of two pixels, so that a stroke at the edge can still
# be seen in the middle of a filter.

# %%
lenet = cnn.models.lenet5(classes=10)
table = cnn.inspect.summary(lenet, shape(32, 32, 1))
assert table.params == 61_706
print(table)

# %% [markdown]
# That is the form in which it is taught. In the paper, the subsampling layers have weights, and each map of the second
# convolution sees only some of the first six (`cnn.models.lenet5_1998`, 60,000 parameters). The third layer is a
# convolution there, too: its filters are as large as its input, so that it is dense (see section 6). "CONV-POOL-CONV-
# POOL-FC-FC" counts it in neither way; here there are three dense layers, the one of the ten outputs included.
#
# **Training.** The cost is the mean of the losses, $J = \frac1N \sum_i L(y^{(i)}, \hat y^{(i)})$, and gradient descent
# lowers it, the gradient coming from backpropagation as in any network. First we take one step by hand, then we train
# with one line:

# %%
assert cnn.inspect.summary(cnn.models.lenet5_1998(), shape(32, 32, 1)).params == 60_000

prepare = cnn.data.Preprocess.of(train.images, (32, 32))
batch, labels = prepare(train.images[:64]), train.labels[:64]
params, state = lenet.init(jax.random.key(0), batch)


def cost(params):
    outputs, _ = lenet.apply(params, state, batch, train=True)
    return cnn.losses.softmax_cross_entropy(outputs, labels).mean()


before, gradient = jax.value_and_grad(cost)(params)
after = cost(optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, gradient)))
print(f"the cost of 64 digits: {before:.3f}, after one step of gradient descent {after:.3f}")
assert after < before

settings = {"epochs": 15, "batch_size": 32} if DATA == "digits" else {"epochs": 4, "batch_size": 128}
result = cnn.train.fit(lenet, train, cnn.train.Objective(preprocess=prepare), test=test, show=False, **settings)
print(f"{len(train):,} training and {len(test):,} test images")
print(f"test accuracy {100 * result.test.metrics['accuracy']:.1f} %")
assert result.test.metrics["accuracy"] > (0.4 if DATA == "cifar10" else 0.95)

# %% [markdown]
# On MNIST, 60,000 training and 10,000 test digits, the paper reports 0.95 % of the test digits wrong; this network,
# after 20 epochs, has 0.87 % (the median of five seeds; see the README).
#
# **The outputs of its layers for a five.** Each row is a layer's output, all its maps side by side. Convolution and
# pooling keep the picture's plan; the dense layers turn it into ten probabilities.

# %%
seen = cnn.inspect.activations(lenet, result.params, result.model_state, prepare(train.images[train.labels == 5][:1]))
rows = [("act1", "28x28x6"), ("pool1", "14x14x6"), ("act2", "10x10x16"), ("pool2", "5x5x16")]
assert ["x".join(map(str, seen[name].shape[1:])) for name, _ in rows] == [size for _, size in rows]

figure, axes = plt.subplots(6, 1, figsize=(9.5, 5.6), height_ratios=(28, 28, 18, 11, 9, 20))
axes[0].imshow(prepare(train.images[train.labels == 5][:1])[0, :, :, 0], cmap="gray")
axes[0].set_ylabel("image\n32x32", rotation=0, ha="right", va="center", fontsize=9)
for panel, (name, size) in zip(axes[1:], rows):
    maps = seen[name][0]
    gap = max(1, len(maps) // 6)
    strip = jnp.pad(maps, ((0, 0), (0, gap), (0, 0)), constant_values=1).transpose(0, 2, 1).reshape(len(maps), -1)
    panel.imshow(strip[:, :-gap], cmap="gray", vmin=-1, vmax=1)
    panel.set_ylabel(f"{name}\n{size}", rotation=0, ha="right", va="center", fontsize=9)
for panel in axes[:5]:
    panel.set(anchor="W", xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
axes = axes[5]
axes.bar(range(10), cnn.softmax(seen["head"][0]), color=BLUE)
axes.set(xticks=range(10), yticks=[0, 1], ylim=(0, 1), xlabel="class", ylabel="probability")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
assert DATA == "cifar10" or seen["head"][0].argmax() == 5  # photographs are harder

# %% [markdown]
# None of these filters was designed. The older method was to describe an image by designed features (histograms of
# edges, for instance) and to train a classifier on them. Here the features are learned together with the classifier,
# **end to end**. How much does this help on these digits? We keep the random convolutions and train only the dense
# layers:

# %%
frozen = cnn.freeze(cnn.models.lenet5(classes=10), "conv1", "conv2")
half = cnn.train.fit(frozen, train, cnn.train.Objective(preprocess=prepare), test=test, show=False, **settings)
for name, one in (("all layers trained", result), ("convolutions left at random", half)):
    measured = one.test.metrics
    print(f"{name:28} test accuracy {100 * measured['accuracy']:.1f} %, loss {measured['loss']:.3f}")

# %% [markdown]
# On small clean digits, random filters work well, since the dense layers learn to use them; on photographs they do not.
#
# ## 10. The architectures
#
# ImageNet's challenge has 1.2 million training images of 1000 classes. It counts the **top-5 error**: an answer is five
# classes in order, and wrong if the true one is not among them.

# %%
scores = jnp.array([[9.0, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3]])
truth = jnp.array([0, 4, 5])  # its first answer, its fifth, its sixth
top1, top5 = 1 - cnn.metrics.accuracy(scores, truth), 1 - cnn.metrics.top_k(5)(scores, truth)
assert top1.tolist() == [0, 1, 1]
assert top5.tolist() == [0, 0, 1]

print(cnn.inspect.summary(cnn.models.alexnet_2012(), shape(227, 227, 3), depth=1))

# %% [markdown]
# That was AlexNet (2012), as in the paper. After it came VGG (2014), which has nothing but 3x3 filters; GoogLeNet
# (2014), blocks of parallel filters behind 1x1 convolutions; and ResNet (2015), whose blocks add their output to their
# input. The table is computed from the networks themselves. "Deep" counts the layers with weights on the longest way
# through.

# %%
architectures = {  # year, model, size of image, depth, parameters
    "LeNet-5": (1998, cnn.models.lenet5(), (32, 32, 1), 5, 61_706),
    "AlexNet": (2012, cnn.models.alexnet_2012(), (227, 227, 3), 8, 60_965_224),
    "VGG-16": (2014, cnn.models.vgg16(), (224, 224, 3), 16, 138_357_544),
    "VGG-19": (2014, cnn.models.vgg19(), (224, 224, 3), 19, 143_667_240),
    "GoogLeNet": (2014, cnn.models.googlenet_2014(), (224, 224, 3), 22, 6_998_552),
    "ResNet-50": (2015, cnn.models.resnet50(), (224, 224, 3), 50, 25_557_032),
    "ResNet-152": (2015, cnn.models.resnet152(), (224, 224, 3), 152, 60_192_808),
}
print("                year   deep    parameters  multiplications")
points = {}
for name, (year, model, size, depth, expected) in architectures.items():
    table = cnn.inspect.summary(model, shape(*size))
    points[name] = (table.macs, table.params)
    assert table.params == expected, name
    print(f"{name:14} {year:>5} {depth:>6} {table.params:>13,} {table.macs:>16,}")

figure, axes = plt.subplots(figsize=(6.5, 3.4))
for name, (macs, parameters) in points.items():
    axes.loglog(macs, parameters, "o", color=BLUE, markersize=8)
    place = {"VGG-16": (-46, 4), "ResNet-152": (8, -4)}.get(name, (7, 4))
    axes.annotate(name, (macs, parameters), place, textcoords="offset points", fontsize=9)
axes.set(xlabel="multiplications for an image", ylabel="parameters", xlim=(2e5, 2e11), ylim=(3e4, 5e8))
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Parameters and work are different things: GoogLeNet has a ninth of AlexNet's parameters and does twice its work, since
# most of AlexNet's sit in dense layers, which use each weight once an image.
#
# ## Slips of the slides
#
# | where | printed | computed |
# | --- | --- | --- |
# | the 7x7 input, third row, fourth number | 3 in the first tables, 2 later | 2 gives the printed results |
# | convolution with the Sobel filter, second row | 15, 13, -2, 9, -1 | 15, 13, -2, -9, 1 |
# | average pooling, last number | 1.25 | 1.5 |
# | parameters of the exercise network's last layer | $84 \cdot 10 + 84 = 84$ | $84 \cdot 10 + 10 = 850$ |
# | PReLU as $\max(\alpha x, x)$ | for every $\alpha$ | for $\alpha \le 1$ |
#
# ## Exercises
#
# 1. **Another answer.** In section 3, change the stride of exercise 3 to 3, and the input of exercise 5 to 33x33x16.
#    Predict what the library says before you run it.
# 2. **Without padding.** How many 3x3 convolutions can follow each other on 32x32, and what is left of the image?
# 3. **Where the parameters are.** Build the exercise network with `cnn.serial`, with `cnn.global_avg_pool` in the place
#    of `cnn.flatten`. How many parameters remain, and how much accuracy on the digits?
# 4. **Batch size 1.** What does batch normalization do to a dense layer's output when the batch is a single example?
#    Try it, and explain why it is not so bad behind a convolution.
