# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Convolution and receptive fields
#
# A small filter slides over an image and takes a dot product at every place. This notebook explains this operation in
# several ways: as arithmetic, as a matrix, as an edge detector, and as a sheet of neurons that each see a window of the
# image. At the end, the same operation classifies sentences and answers questions about images. Every claim stands in
# an `assert`: change a number, and the notebook tells you what no longer holds.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_sample_image

import jaxcnn as cnn
from jaxcnn.data.datasets import clevr
from jaxcnn.data.datasets.reviews import movie_reviews
from jaxcnn.data.text import Corpus, Vocabulary, tokenize
from jaxcnn.errors import DataError
from jaxcnn.models.text_cnn import text_cnn
from jaxcnn.models.vqa import vqa_cnn
from jaxcnn.tasks.text import evidence
from jaxcnn.train import max_norm

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


def pixels(x):
    """A picture of numbers as a batch of one image with one channel."""
    return jnp.asarray(x, jnp.float32)[None, :, :, None]


def numbers(axes, grid, title):
    """Draws a small table of numbers."""
    grid = np.asarray(grid)
    top = np.abs(grid).max()
    axes.imshow(grid, cmap="RdBu_r", vmin=-2.2 * top, vmax=2.2 * top)
    for (i, j), value in np.ndenumerate(grid):
        axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=9)
    axes.set(title=title, xticks=[], yticks=[])


# %% [markdown]
# ## 1. From the dense layer to a filter
#
# Take a colour image of 32x32 pixels. To a dense layer it is a row of 3072 numbers; each of its ten units is one dot
# product of a row of $W$ (10x3072) with all of them. The layer does not know which pixels are neighbours. (The
# photograph comes with scikit-learn: "china.jpg" by danielbuechele, CC BY 2.0.)

# %%
photo = load_sample_image("china.jpg")[86:406, 150:470] / 255.0  # 320x320
small = jnp.asarray(photo.reshape(32, 10, 32, 10, 3).mean((1, 3)), jnp.float32)[None]  # 32x32

dense = cnn.serial(flat=cnn.flatten, fc=cnn.dense(10))
params, state = dense.init(jax.random.key(0), small)
scores, _ = dense.apply(params, state, small)
one_number = jnp.vdot(params["fc"]["kernel"][:, 7], small.reshape(3072)) + params["fc"]["bias"][7]
assert params["fc"]["kernel"].shape == (3072, 10)
assert jnp.allclose(scores[0, 7], one_number, atol=1e-4)
print(f"32x32x3 = {small.size} numbers -> {scores.size}, by {row(dense, 32, 32, 3)[1]:,} parameters")

# %% [markdown]
# A convolutional layer keeps the spatial structure. Its filter is small, here 5x5, but as deep as the image: 5x5x3. At
# each of the 28x28 places where it fits, it gives one number, a dot product of 75 numbers and a bias. All places
# together are an **activation map**. A second filter gives a second map; six give six, and stacked they are a new
# "image" of 28x28x6.

# %%
conv = cnn.conv(6, 5)
params, state = conv.init(jax.random.key(1), small)
maps, _ = conv.apply(params, state, small)
assert params["kernel"].shape == (5, 5, 3, 6)
assert maps.shape == (1, 28, 28, 6)

window, first = small[0, 10:15, 20:25], params["kernel"][..., 0]
assert window.size == first.size == 75
assert jnp.allclose(maps[0, 10, 20, 0], jnp.vdot(first, window) + params["bias"][0], atol=1e-4)
print(f"32x32x3 -> 28x28x6, by {row(conv, 32, 32, 3)[1]} parameters")

figure, axes = plt.subplots(1, 7, figsize=(12, 2))
axes[0].imshow(small[0])
axes[0].add_patch(plt.Rectangle((19.5, 9.5), 5, 5, fill=False, edgecolor=ORANGE, linewidth=2))
axes[0].set_title("32x32x3", fontsize=10)
for k, panel in enumerate(axes[1:]):
    panel.imshow(maps[0, ..., k], cmap="gray")
    panel.add_patch(plt.Rectangle((19.5, 9.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2))
    panel.set_title(f"map {k}", fontsize=10)
for panel in axes:
    panel.axis("off")
plt.show()

# %% [markdown]
# A convolutional network is a sequence of such layers with activation functions between them, each layer working on
# the maps of the one before: 32x32x3, 28x28x6, 24x24x10, ... The usual activations:
#
# $$\text{sigmoid } \sigma(x) = \frac{1}{1 + e^{-x}}, \qquad \tanh(x), \qquad \text{ReLU } \max(0, x).$$

# %%
net = cnn.serial(conv1=cnn.conv(6, 5), act1=cnn.relu, conv2=cnn.conv(10, 5), act2=cnn.relu)
print(cnn.inspect.summary(net, small))

x = jnp.linspace(-5, 5, 201)
assert jnp.allclose(cnn.sigmoid(x), 1 / (1 + jnp.exp(-x)), atol=1e-6)
assert jnp.allclose(cnn.tanh(x), jnp.sinh(x) / jnp.cosh(x), atol=1e-6)
assert (cnn.relu(x) == jnp.maximum(0, x)).all()

figure, axes = plt.subplots(figsize=(4.6, 2.6))
for activation, color in ((cnn.sigmoid, BLUE), (cnn.tanh, GREEN), (cnn.relu, ORANGE)):
    axes.plot(x, activation(x), color=color, label=activation.__name__)
axes.set(ylim=(-1.2, 2.5), xlabel="x", ylabel="activation")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 2. Convolution as a matrix
#
# The convolution is linear in its input, so there is a matrix $W$ with $y = W x$, $x$ being the image as one long
# vector. Take 5x5 pixels and a 3x3 filter (the picture's numbers are those of Dumoulin and Visin's guide, 2016). Nine
# outputs and 25 inputs make a 9x25 matrix: each row holds the same nine weights, moved to its window. This is a dense
# layer with two constraints: most weights are zero, and the others are shared by all places.

# %%
kernel = np.array([[0, 1, 2], [2, 2, 0], [0, 1, 2]])
picture = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])


def slide(x):
    return cnn.ops.conv(x.reshape(1, 5, 5, 1), jnp.asarray(kernel, jnp.float32)[:, :, None, None]).reshape(9)


x = jnp.asarray(picture, jnp.float32).reshape(25)
y, W = slide(x), jax.jacobian(slide)(x)
by_hand = [(picture[i : i + 3, j : j + 3] * kernel).sum() for i in range(3) for j in range(3)]
assert y.tolist() == by_hand
assert W.shape == (9, 25)
assert (W @ x == y).all()
assert (W != 0).sum() == 9 * np.count_nonzero(kernel)  # each row: the filter, whose own zeros are three

figure, axes = plt.subplots(1, 4, figsize=(12, 2.7), width_ratios=(5, 3, 3, 12))
numbers(axes[0], picture, "x")
numbers(axes[1], kernel, "filter")
numbers(axes[2], y.reshape(3, 3), "y")
axes[3].imshow(W, cmap="Blues")
axes[3].set(title="W: 9 outputs, 25 inputs, 9 weights", xlabel="input", ylabel="output", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 3. The flip
#
# What networks call convolution, $y[i, j] = \sum_{u,v} x[i + u, j + v]\, h[u, v]$, is **cross-correlation**. In
# mathematics, **convolution** runs through the filter backwards: it is flipped in both directions, $(x * h)[i, j] =
# \sum_{u,v} x[i - u, j - v]\, h[u, v]$. A single bright pixel shows the difference. Convolution copies the filter to
# that pixel, cross-correlation copies the filter rotated by 180 degrees.

# %%
impulse = np.zeros((5, 5))
impulse[2, 2] = 1
nine = np.arange(1, 10).reshape(3, 3)
h = jnp.asarray(nine, jnp.float32)[:, :, None, None]
correlation, convolution = (op(pixels(impulse), h)[0, ..., 0] for op in (cnn.ops.conv, cnn.ops.convolve))
assert (convolution == nine).all()
assert (correlation == nine[::-1, ::-1]).all()
assert (cnn.ops.convolve(pixels(picture), h) == cnn.ops.conv(pixels(picture), h[::-1, ::-1])).all()

figure, axes = plt.subplots(1, 4, figsize=(9, 2.4), width_ratios=(5, 3, 3, 3))
for panel, grid, title in zip(
    axes, (impulse, nine, correlation, convolution), ("x", "filter h", "cross-correlation", "convolution")
):
    numbers(panel, grid, title)
plt.show()

# %% [markdown]
# Why flip? Because then the order does not matter: $x * h = h * x$ and $(x * g) * h = x * (g * h)$, as for the
# coefficients when polynomials are multiplied. Two filters in a row are one filter, which can be computed beforehand.
# Cross-correlation has no such rule. For a network that learns its filters, the choice makes no difference: it learns
# the flipped filters.


# %%
def full(op, a, b):
    """`op` of two sequences with all places where they overlap at all."""
    a, b = (jnp.asarray(s, jnp.float32) for s in (a, b))
    return op(a[None, :, None], b[:, None, None], 1, ((len(b) - 1, len(b) - 1),))[0, :, 0]


a, b, c = [1, 2, 3], [4, 5, 0, -1], [2, 1]  # 1 + 2x + 3x^2, and so on
flipped, plain = cnn.ops.convolve, cnn.ops.conv
assert full(flipped, a, b).tolist() == np.polynomial.polynomial.polymul(a, b).tolist() == [4, 13, 22, 14, -2, -3]
assert (full(flipped, a, b) == full(flipped, b, a)).all()
assert (full(flipped, full(flipped, a, b), c) == full(flipped, a, full(flipped, b, c))).all()
assert (full(plain, a, b) != full(plain, b, a)).any()
print("(1 + 2x + 3x²)(4 + 5x - x³): coefficients", full(flipped, a, b).astype(int))

# %% [markdown]
# ## 4. What filters see
#
# Before filters were learned, they were designed by hand. A few weights are enough for many tasks. All of these are 3x3
# or 5x5:

# %%
grey = jnp.asarray(photo.mean(2).reshape(160, 2, 160, 2).mean((1, 3)), jnp.float32)  # 160x160
sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
bank = {
    "mean of 5x5": np.full((5, 5), 1 / 25),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "edges, left to right": sobel,
    "edges, top to bottom": sobel.T,
}
seen = {}
for name, weights in bank.items():
    h = jnp.asarray(weights, jnp.float32)[:, :, None, None]
    seen[name] = cnn.ops.conv(pixels(grey), h, padding="SAME")[0, 1:-1, 1:-1, 0]
seen["strength of the edge"] = jnp.hypot(seen["edges, left to right"], seen["edges, top to bottom"])

assert jnp.allclose(seen["mean of 5x5"][5, 5], grey[4:9, 4:9].mean(), atol=1e-5)
for edges in ("edges, left to right", "edges, top to bottom"):
    assert bank[edges].sum() == 0  # nothing to see where the image is even
figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.8))
for panel, (name, result) in zip(axes.ravel(), {"160x160": grey, **seen}.items()):
    if name.startswith("edges"):
        panel.imshow(result, cmap="RdBu_r", vmin=-2, vmax=2)
    else:
        panel.imshow(result, cmap="gray", vmin=0, vmax=2 if "strength" in name else 1)
    panel.set_title(name, fontsize=10)
    panel.axis("off")
plt.show()

# %% [markdown]
# Now we apply a layer of six 5x5 filters, designed for strokes in six directions, to a digit. The 28x28x6 numbers are
# six answers to "is there such a stroke here?", a **feature map** for each.

# %%
train = cnn.data.load(DATA, "train")
five = jnp.asarray(train.images[train.labels == 5][:1].mean(-1, keepdims=True) / 255.0, jnp.float32)  # grey
margin = (32 - five.shape[1]) // 2  # a digit of MNIST has 28x28 pixels
five = jnp.pad(five, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
i, j = np.mgrid[-2:3, -2:3]
angles = np.arange(6) * np.pi / 6
stroke = np.stack([np.exp(-((i * np.cos(t) + j * np.sin(t)) ** 2)) for t in angles], -1)
stroke = (stroke - stroke.mean((0, 1)))[:, :, None, :]  # height, width, 1 channel, 6 filters
maps = cnn.relu(cnn.ops.conv(five, jnp.asarray(stroke, jnp.float32)))
assert maps.shape == (1, 28, 28, 6)

figure, axes = plt.subplots(2, 7, figsize=(12, 3.5))
axes[0, 0].imshow(five[0, ..., 0], cmap="gray")
for k in range(6):
    axes[0, k + 1].imshow(stroke[:, :, 0, k], cmap="RdBu_r", vmin=-1, vmax=1)
    axes[1, k + 1].imshow(maps[0, ..., k], cmap="gray", vmin=0, vmax=maps.max())
for panel in axes.ravel():
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 5. How large, how many
#
# A filter of $F$ pixels in steps of $S$ (the **stride**) over $N$ pixels with $P$ zeros on each side (**padding**)
# stands in
#
# $$\frac{N + 2P - F}{S} + 1$$
#
# places. On 7x7, a 3x3 filter gives 5x5 at stride 1 and 3x3 at stride 2. At stride 3 it does not fit, and the library
# says so. With $P = (F - 1)/2$ and stride 1, the size stays.

# %%
for stride, expected in ((1, 5), (2, 3)):
    assert (7 - 3) / stride + 1 == expected
    assert row(cnn.conv(1, 3, stride), 7, 7, 1)[0] == (expected, expected, 1)
try:
    row(cnn.conv(1, 3, stride=3), 7, 7, 1)
    raise AssertionError("it fits")
except cnn.LayerError as error:
    print(error)
assert "2.33" in f"{(7 - 3) / 3 + 1:.2f}"
for f, p in ((3, 1), (5, 2), (7, 3)):
    assert p == (f - 1) / 2
    assert row(cnn.conv(1, f, padding=p), 7, 7, 1)[0] == (7, 7, 1)

figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
for panel, stride in zip(axes, (1, 2, 3)):
    panel.pcolormesh(np.ones((7, 7)), cmap="Blues", vmin=0, vmax=3, edgecolors="white", linewidth=1.5)
    starts = range(0, 5, stride)
    for corner in starts:  # the windows on the diagonal
        panel.add_patch(plt.Rectangle((corner, corner), 3, 3, fc=ORANGE, alpha=0.25))
        panel.add_patch(plt.Rectangle((corner, corner), 3, 3, fill=False, ec=ORANGE, lw=2))
    left_over = 7 - (starts[-1] + 3)
    panel.axvspan(7 - left_over, 7, color="0.3", alpha=0.4, linewidth=0)
    panel.set(title=f"stride {stride}" + (": one is left over" if left_over else ""), aspect="equal")
    panel.invert_yaxis()
    panel.axis("off")
plt.show()

# %% [markdown]
# A layer of $K$ filters turns $W_1 \times H_1 \times D_1$ into $W_2 \times H_2 \times K$, with
# $W_2 = (W_1 - F + 2P)/S + 1$, $H_2$ likewise, and $F \cdot F \cdot D_1 \cdot K$ weights and $K$ biases. The lecture's
# example: ten 5x5 filters, stride 1, padding 2, on 32x32x3.

# %%
output, parameters = row(cnn.conv(10, 5, stride=1, padding=2), 32, 32, 3)
assert output == (32, 32, 10)
assert parameters == (5 * 5 * 3 + 1) * 10 == 760
print("output", output, "parameters", parameters)

# %% [markdown]
# Usual settings are $F = 3, S = 1, P = 1$; $F = 5, S = 1, P = 2$; $F = 1, S = 1, P = 0$; and for $F = 5, S = 2$
# "whatever fits". What does fit? $(N - 5 + 2P)/2 + 1$ is whole for every $P$ when $N$ is odd, and for none when $N$ is
# even. An even size needs one more zero on one side, and `"SAME"` adds it.

# %%
for n in (32, 33):
    fits = [p for p in range(5) if (n - 5 + 2 * p) % 2 == 0]
    print(f"F = 5, S = 2 on {n} pixels fits for P =", fits or "none;", end=" ")
    same = row(cnn.conv(1, 5, 2, "SAME"), n, n, 1)[0]
    print(f'"SAME" gives {same[0]}x{same[1]}')
    assert bool(fits) == (n % 2 == 1)
    assert same == ((n + 1) // 2, (n + 1) // 2, 1)
by_sides = row(cnn.conv(1, 5, 2, ((1, 2), (1, 2))), 32, 32, 1)[0]
assert by_sides == (16, 16, 1)
for f, s, p in ((3, 1, 1), (5, 1, 2), (1, 1, 0)):
    assert row(cnn.conv(64, f, s, p), 32, 32, 3)[0] == (32, 32, 64)

# %% [markdown]
# ## 6. A sheet of neurons
#
# Seen from the output, an activation map is a sheet of 28x28 neurons. Each is connected to a small region of the image,
# its **receptive field**, and all of them share their weights. A 5x5 filter: a 5x5 receptive field. Five filters: five
# sheets, a 28x28x5 grid in which five neurons look at each place. The gradient of a neuron shows which pixels it is
# connected to: it equals the weights inside the field and 0 outside.

# %%
layer = cnn.conv(5, 5)
params, state = layer.init(jax.random.key(2), small)


def neuron(image, place=(12, 8), k=3):
    return layer.apply(params, state, image)[0][0, *place, k]


gradient = jax.jit(jax.grad(neuron))(small)[0]
assert layer.apply(params, state, small)[0].shape == (1, 28, 28, 5)
assert jnp.allclose(gradient[12:17, 8:13], params["kernel"][..., 3], atol=1e-5)
assert jnp.count_nonzero(gradient) == 5 * 5 * 3

neurons, inputs = 28 * 28 * 5, 32 * 32 * 3
connected_to_all = neurons * (inputs + 1)
own_weights = neurons * (5 * 5 * 3 + 1)
shared = 5 * (5 * 5 * 3 + 1)
assert row(layer, 32, 32, 3)[1] == shared == 380
print(f"{neurons:,} neurons, each connected to all of the image: {connected_to_all:>10,} parameters")
print(f"{neurons:,} neurons, a 5x5 field and weights of its own:  {own_weights:>10,}")
print(f"{neurons:,} neurons, the weights of a sheet shared:       {shared:>10,}")

# %% [markdown]
# ## 7. Receptive fields of stacks
#
# A neuron of the second layer sees a window of the first layer's neurons, and each of these sees a window of the image.
# Fields grow from layer to layer. With $r$ the size of the field and $j$ (the "jump") how many pixels lie between the
# fields of neighbours,
#
# $$r_l = r_{l-1} + (F_l - 1)\, j_{l-1}, \qquad j_l = j_{l-1} S_l, \qquad r_0 = j_0 = 1 .$$
#
# So two 3x3 layers see 5x5, three see 7x7, with $27\,C^2$ weights instead of $49\,C^2$ of one 7x7 layer on $C$
# channels. Strides and pooling multiply the growth of all later layers. The columns "field" and "stride" of
# `cnn.inspect.summary` are $r$ and $j$, found by following the computation itself.


# %%
def field(layers):
    """The formula, for (F, S) of each layer."""
    r, j = 1, 1
    for f, s in layers:
        r, j = r + (f - 1) * j, j * s
    return r, j


for layers in ([(5, 1)], [(3, 1)] * 2, [(3, 1)] * 3, [(7, 1)], [(3, 2)] * 3, [(7, 2), (3, 2), (3, 1), (3, 1)]):
    stack = cnn.serial(*(cnn.conv(2, f, s, "SAME") for f, s in layers))
    last = cnn.inspect.summary(stack, shape(64, 64, 3)).layers[-1]
    assert (last.receptive_field, last.receptive_stride) == field(layers)
    print("  ".join(f"{f}x{f}/{s}" for f, s in layers), f"-> sees {last.receptive_field}x{last.receptive_field}")

three = cnn.serial(*(cnn.conv(64, 3, padding=1, bias=False) for _ in range(3)))
assert row(three, 32, 32, 64)[1] == 27 * 64**2
assert row(cnn.conv(64, 7, padding=3, bias=False), 32, 32, 64)[1] == 49 * 64**2

# %% [markdown]
# In LeNet-5, layer by layer. The table says where the field of the first unit begins ("offset") and how far the next
# one's lies ("stride"), so it says where any unit looks. Flattening changes no field: number $k$ of the 400 still looks
# where its place in the last map does. Only the dense layer sees everything. Drawn on a digit: one unit of each layer,
# near the middle. The gradient of that unit by the pixels is not zero in exactly this window.

# %%
lenet = cnn.models.lenet5()
table = cnn.inspect.summary(lenet, five)
params, state = lenet.init(jax.random.key(3), five)
print(table)
flattened, of_the_map = (
    cnn.inspect.receptive_window(lenet, five, layer=name, place=place)
    for name, place in (("flat", ((1 * 5 + 3) * 16 + 7,)), ("pool2", (1, 3, 7)))
)
assert flattened == of_the_map
assert flattened.size == (16, 16)
assert cnn.inspect.receptive_window(lenet, five, layer="fc1", place=(7,)).size == (32, 32)

figure, axes = plt.subplots(1, 4, figsize=(10, 2.9))
for panel, name in zip(axes, ("conv1", "pool1", "conv2", "pool2")):
    line = next(line for line in table.layers if line.name == name)
    middle = line.output_shape[1] // 2
    size, begin = line.receptive_field, line.receptive_offset + line.receptive_stride * middle

    def unit(image, name=name, middle=middle):
        return cnn.inspect.activations(lenet, params, state, image)[name][0, middle, middle].sum()

    # Away from exact zeros of the picture, so that no product vanishes by chance.
    gradient = jnp.abs(jax.jit(jax.grad(unit))(five + 0.1))[0, ..., 0]
    rows, columns = jnp.nonzero(gradient)
    assert (rows.min(), rows.max() + 1) == (columns.min(), columns.max() + 1) == (begin, begin + size)
    panel.imshow(five[0, ..., 0], cmap="gray")
    panel.add_patch(plt.Rectangle((begin - 0.5, begin - 0.5), size, size, fill=False, ec=ORANGE, lw=2.5))
    panel.set_title(f"{name}: {size}x{size}", fontsize=10)
    panel.axis("off")
plt.show()

# %% [markdown]
# Not all pixels of the field have the same influence. Many paths lead from the middle of the field to the unit, but
# only one path from a corner. To count them, set all weights to 1: the gradient with respect to a pixel is then its
# number of paths. The deeper the stack, the more the field looks like a blurred spot (a bell curve, in the limit)
# inside its square.

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.9))
for panel, depth in zip(axes, (1, 2, 4, 12)):

    def top(image, depth=depth):
        for _ in range(depth):
            image = cnn.ops.conv(image, jnp.ones((3, 3, 1, 1)))
        return image[0, 0, 0, 0]

    size = 1 + 2 * depth
    ways = jax.jit(jax.grad(top))(jnp.ones((1, size, size, 1)))[0, ..., 0]
    assert jnp.isclose(ways.sum(), 9.0**depth)
    assert jnp.isclose(ways[0, 0], 1)
    share = ways[size // 4 : size - size // 4, size // 4 : size - size // 4].sum() / ways.sum()
    panel.imshow(jnp.pad(ways, (25 - size) // 2), cmap="magma")
    panel.add_patch(plt.Rectangle((12 - size / 2, 12 - size / 2), size, size, fill=False, ec="white", lw=1))
    panel.set_title(f"{depth} layer{'s' * (depth > 1)}: {size}x{size}", fontsize=10)
    panel.axis("off")
print(f"after 12 layers, the middle quarter of the field has {100 * share:.0f} % of the ways")
plt.show()

# %% [markdown]
# ## 8. Pooling
#
# Pooling reduces the size of each map separately. It takes the largest value, the mean or the sum of each window. The
# lecture's 4x4 example, with 2x2 windows at stride 2:

# %%
board = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])
largest, mean, total = (
    op(pixels(board), 2, 2)[0, ..., 0] for op in (cnn.ops.max_pool, cnn.ops.avg_pool, cnn.ops.sum_pool)
)
assert largest.tolist() == [[6, 8], [3, 4]]
assert (total == 4 * mean).all()
figure, axes = plt.subplots(1, 4, figsize=(8, 2.2), width_ratios=(4, 2, 2, 2))
for panel, grid, title in zip(axes, (board, largest, mean, total), ("one map", "maximum", "mean", "sum")):
    numbers(panel, grid, title)
axes[0].axhline(1.5, color="black", linewidth=1)
axes[0].axvline(1.5, color="black", linewidth=1)
plt.show()

assert row(cnn.max_pool(2), 224, 224, 64) == ((112, 112, 64), 0)
alone = jnp.concatenate([cnn.ops.max_pool(maps[..., k : k + 1], 2) for k in range(6)], -1)
assert (alone == cnn.ops.max_pool(maps, 2)).all()

# %% [markdown]
# ## 9. Reading sentences
#
# Convolution is not limited to images. Give every word of a vocabulary a vector (an **embedding**, learned like other
# weights), and a sentence of $T$ words is a $T \times d$ array, an image one word wide with $d$ channels. A filter over
# three words is a 3-gram detector that slides over the sentence. Kim (2014) takes filters of 3, 4 and 5 words, of each
# the largest answer anywhere in the sentence ("max over time"), and a dense layer:
#
# $$c_t = \mathrm{ReLU}\bigl(w \cdot [x_t, \dots, x_{t+h-1}] + b\bigr), \qquad \hat c = \max_t c_t .$$
#
# We start with a toy language in which single words are not enough: "good, not bad" and "bad, not good" have the same
# words.

# %%
GOOD, BAD = ("good", "great", "funny", "clever", "moving"), ("bad", "dull", "boring", "weak", "silly")
THINGS = ("film", "plot", "cast", "ending", "script", "music", "story", "acting")


def toy_reviews():
    """Sentences with 1 where they praise and 0 where they do not."""
    for praise, (own, other) in enumerate(((BAD, GOOD), (GOOD, BAD))):
        for thing in THINGS:
            for k, word in enumerate(own):
                opposite = other[(k + len(thing)) % 5]
                yield f"the {thing} is {word}", praise
                yield f"the {thing} is not {word}", 1 - praise
                yield f"the {thing} is {word} , not {opposite}", praise
                yield f"the {thing} is not {opposite} , but {word}", praise


texts, labels = zip(*toy_reviews())
toy = Corpus(tuple(map(tokenize, texts)), np.array(labels), ("negative", "positive"), "toy reviews")
learn, unseen = toy.hold_out(0.25)
words = Vocabulary.of(learn.sentences)
learn, unseen = learn.examples(words, 9), unseen.examples(words, 9)
print(f"{len(learn)} sentences to learn from, {len(unseen)} to test, {len(words)} words")
print(learn.inputs[0], "=", " ".join(words.decode(learn.inputs[0])))

# %%
accuracies = {}
for widths in ((1,), (3, 4, 5)):
    model = text_cnn(classes=2, vocabulary=len(words), features=20, widths=widths, embedding=16)
    optimizer = optax.chain(optax.adam(0.01), max_norm(3.0, "fc"))
    fitted = cnn.train.fit(model, learn, test=unseen, epochs=20, batch_size=24, optimizer=optimizer, show=False)
    accuracies[widths] = fitted.test.metrics["accuracy"]
    print(f"filters over {widths} words: {100 * accuracies[widths]:.0f} % of the unseen sentences right")
assert accuracies[1,] < 0.8 < 0.95 < accuracies[3, 4, 5]

# %% [markdown]
# Filters of one word know which words occur but not their order: a bag of words. Filters of three and more words know
# the order. (`max_norm` keeps the last layer's weights short, as the paper does.) What padding follows a sentence makes
# no difference, by construction. The output is a sum over filters, and each filter takes its value from one place, so
# we can find the decisive words:

# %%
short = words.encode([tokenize("the plot is dull , not funny")])
longer = np.pad(short, ((0, 0), (0, 30)))
assert jnp.allclose(fitted.outputs(short), fitted.outputs(longer), atol=1e-5)


def explain(fitted, words, text, most=3):
    """The class of a sentence, and the n-grams that parted the classes most."""
    sentence = tokenize(text)
    coded = words.encode([sentence])
    chances = fitted.probabilities(coded)[0]
    found = evidence(fitted.params, coded[0])
    added = sum(parts for _, _, parts in found) + fitted.params["fc"]["bias"]
    assert np.allclose(added, fitted.outputs(coded)[0], atol=1e-3)  # the parts are the whole
    said = [" ".join(sentence[max(place, 0) : place + width]) for place, width, _ in found[:most]]
    print(f"{('negative', 'positive')[chances.argmax()]} ({100 * chances.max():.0f} %): {text}")
    print("    decided by:", "; ".join(said))
    return chances.argmax()


assert explain(fitted, words, "the music is great, not silly") == 1
assert explain(fitted, words, "the music is silly, not great") == 0

# %% [markdown]
# What the filters look at: the sentence as the network receives it, a row for each word, and the answers of the
# sixty filters while they slide over it. Of each filter (a column) only the largest answer goes on, the outlined one
# or one of a window that reaches over an end of the sentence, which are not drawn.

# %%
sentence = tokenize("the music is silly , not great")
seen = cnn.inspect.activations(fitted.model, fitted.params, fitted.model_state, words.encode([sentence]))
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), width_ratios=(16, 20, 20, 20))
axes[0].imshow(seen["embed"][0], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
axes[0].set(title="7 words, 16 numbers each", xlabel="number", xticks=[], yticks=range(7), yticklabels=sentence)
axes[0].add_patch(plt.Rectangle((-0.45, 2.5), 15.9, 3, fill=False, edgecolor="black", linewidth=2))
for panel, width in zip(axes[1:], (3, 4, 5)):
    answers = cnn.relu(seen[f"conv{width}"][0, width - 1 : len(sentence)])  # windows that lie inside the sentence
    assert answers.shape == (len(sentence) - width + 1, 20)
    panel.imshow(answers, cmap="Blues", aspect="auto")
    panel.plot(np.arange(20), answers.argmax(0), "s", markersize=7, markerfacecolor="none", markeredgecolor=ORANGE)
    starts = [" ".join(sentence[t : t + width]) for t in range(len(answers))]
    panel.set(title=f"20 filters of {width} words", xlabel="filter", xticks=[], yticks=range(len(answers)))
    panel.set_yticklabels(starts, fontsize=7)
plt.show()

# %% [markdown]
# Real sentences: movie reviews (Pang and Lee, 2005), 5,331 of either kind. They do not come with the package. Where
# `JAXCNN_DATA_DIR` names a folder that has them, the next cell trains on 3,000 of them; otherwise it says what is
# missing, and goes on.

# %%
try:
    reviews = movie_reviews()
except DataError:
    print("the movie reviews are not here: set JAXCNN_DATA_DIR to a folder with rt-polarity.neg and rt-polarity.pos")
else:
    print(f"{len(reviews):,} sentences; 3,000 to learn from, 1,000 to test")
    order = np.random.default_rng(0).permutation(len(reviews))
    learn, unseen = reviews.take(order[:3000]), reviews.take(order[3000:4000])
    vocabulary = Vocabulary.of(learn.sentences, at_least=2)
    kim = text_cnn(classes=2, vocabulary=len(vocabulary), features=50, widths=(3, 4, 5), embedding=64)
    on_reviews = cnn.train.fit(
        kim, learn.examples(vocabulary, 50), test=unseen.examples(vocabulary, 50), epochs=4, batch_size=50, show=False,
        optimizer=optax.chain(optax.adam(1e-3), max_norm(3.0, "fc")),
    )  # fmt: skip
    print(f"{100 * on_reviews.test.metrics['accuracy']:.1f} % right")
    assert on_reviews.test.metrics["accuracy"] > 0.58
    explain(on_reviews, vocabulary, "a gripping and moving film, beautifully acted")
    explain(on_reviews, vocabulary, "it's too long, the jokes are flat and the story is a mess")

# %% [markdown]
# Trained on 3,000 sentences, the network has an accuracy of 68.4 % on 1,000 others. For all of the reviews, in ten-fold
# cross-validation, the paper reports 76.1 % with random initial vectors, as here; `python -m experiments.text_cnn`
# reproduces this experiment.
#
# ## 10. Answering questions about a picture
#
# "How many horses are in this image?" needs two networks: one for the image, and one for the words of the question.
# Their outputs are concatenated, and dense layers map them to one of the possible answers. A small world for it is
# Sort-of-CLEVR (Santoro et al., 2017), drawn from a seed: six objects, squares and circles, and questions on one of
# them ("plain") or on how others lie to it ("relational").

# %%
scenes, unseen = clevr.sort_of_clevr(1500, seed=0), clevr.sort_of_clevr(200, seed=2)
words = clevr.vocabulary()
images, questions = unseen.inputs
print(f"images {images.shape}, questions {questions.shape}, {len(words)} words, answers: {', '.join(clevr.ANSWERS)}")


def ask(scene, places, given=None):
    """A question a line with its answer; `given` are the network's."""
    lines = []
    for q in places:
        true = clevr.ANSWERS[unseen.labels[scene, q]]
        said = "" if given is None or given[scene, q] == true else f"  (network: {given[scene, q]})"
        text = " ".join(words.decode(questions[scene, q])).replace(" ?", "?").replace(" ,", ",")
        lines.append(f"{text} {true}{said}")
    return "\n".join(lines)


figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
for scene, panel in enumerate(axes):
    panel.imshow(images[scene])
    panel.set(xticks=[], yticks=[])
    panel.set_xlabel(ask(scene, (0, 1, 10, 11)), fontsize=7.5)
plt.show()

# %%
model = vqa_cnn(classes=len(clevr.ANSWERS), vocabulary=len(words), units=128)
print(cnn.inspect.summary(model, shape(75, 75, 3), jax.ShapeDtypeStruct((1, clevr.LENGTH), jnp.int32), depth=1))

# %% [markdown]
# The picture's encoder is four 3x3 convolutions at stride 2; the question's is a text CNN with filters of three words.
# `fc1_picture` and `fc1_question` are equal to one dense layer on the concatenated vectors, since a linear layer is the
# sum of its parts. A picture is encoded once for all its questions. Training takes half a minute:

# %%
result = cnn.train.fit(model, scenes, test=unseen, epochs=8, batch_size=32, show=False)
answers = result.test.outputs.argmax(-1)
assert answers.shape == unseen.labels.shape == (200, 20)

kinds = clevr.kinds_of(questions, words)
right, by_kind = answers == unseen.labels, np.zeros(answers.shape, bool)
circles = clevr.scenes(200, seed=2)[1]  # which of the six objects of each scene are circles
prevailing = np.repeat((circles.sum(1) > 3)[:, None], 20, 1).astype(int)  # 1 is the answer "circle", 0 "square"
print("             network  always the same  the shape that prevails")
for k, kind in enumerate(clevr.PLAIN + clevr.RELATIONAL):
    asked = unseen.labels[kinds == k]
    usual = np.bincount(asked).argmax()
    by_kind[kinds == k] = asked == usual
    line = f"{kind:10} {100 * right[kinds == k].mean():>7.0f} % {100 * (asked == usual).mean():>14.0f} %"
    if kind in ("shape", "nearest", "furthest"):
        line += f"{100 * (prevailing == unseen.labels)[kinds == k].mean():>22.0f} %"
    print(line)
print(f"{'all':10} {100 * right.mean():>7.0f} % {100 * by_kind.mean():>14.0f} %")
assert right.mean() > by_kind.mean() + 0.03
by_prevailing = (prevailing == unseen.labels)[kinds == clevr.PLAIN.index("shape")].mean()
assert abs(by_prevailing - 252 / 384) < 0.06

# %% [markdown]
# "Always the same" knows the kind of question and not the picture. The network is more accurate, so it does use the
# picture. But accuracy above chance can be misleading. Most questions about shapes are answered as well by whoever sees
# only whether squares or circles prevail in the picture: of six objects with random shapes, that is right for 252/384 =
# 65.6 %. After half a minute on 1,500 pictures, the network has learned hardly more. To find the object that is asked
# for takes many times that, and questions about relations compare every object with every other, which a dense layer on
# a flat vector learns badly (`jaxcnn.models.vqa` has a network with a sum over all pairs).

# %%
said = np.array(clevr.ANSWERS)[answers]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
for panel, scene in zip(axes, (3, 4, 5)):
    panel.imshow(images[scene])
    panel.set(xticks=[], yticks=[], title=f"{right[scene].sum()} of 20 right")
    panel.set_xlabel(ask(scene, (0, 1, 10, 11), said), fontsize=7.5)
plt.show()

# %% [markdown]
# ## Exercises
#
# 1. **Undo a blur.** Is there a 5x5 filter that undoes the mean of 5x5? Look at the matrix of section 2 for the mean on
#    a small image with padding, and at its smallest singular values.
# 2. **Dilation.** `cnn.conv(1, 3, dilation=2)` spreads its nine weights over 5x5 pixels. Add the dilation to the
#    formula of section 7, and check `field` against `cnn.inspect.summary` for dilations of 1, 2, 4, 8.
# 3. **A longer "not".** Add sentences such as "the film is not at all good" to the toy reviews. From how many words
#    between "not" and "good" on does the network fail, and what does the width of its filters have to do with it?
