# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Case studies: from LeNet-5 to ResNet
#
# This notebook analyses five networks: the input and output of each layer, its number of weights, its operations, and
# its receptive field. The tables of the lecture are computed again from the networks, row by row. The second part is
# about training: losses, the gradient of each kind of layer, and three optimizers.
#
# Counting needs shapes only, so no large network is created here: the 138 million weights of VGG-16 take a fraction of
# a second and no memory. Every claim is checked by an `assert`. Printed numbers that differ from the computed ones are
# pointed out, and the list is at the end.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxcnn as cnn
from jaxcnn.models.googlenet import TABLE_1, conv_relu, inception

DATA = "digits"  # or "mnist", "cifar10"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})


@functools.cache
def table(name):
    """The layers of a network of the library, for one image of the size that it was made for."""
    entry = cnn.models.MODELS[name]
    return cnn.inspect.summary(entry.make(), entry.input)


@functools.cache
def kernels(name):
    """The shapes of a network's kernels, `{path: (height, width, inputs, filters) or (inputs, units)}`."""
    entry = cnn.models.MODELS[name]
    image = jax.ShapeDtypeStruct((1, *entry.input), jnp.float32)
    params, _ = jax.eval_shape(entry.make().init, jax.random.key(0), image)
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *names, last = (part.key for part in path)
        if last == "kernel":
            shapes["/".join(names)] = leaf.shape
    return shapes


def weights(name):
    """The weights of a network, its biases aside, as the slides count them: `{path of the kernel: how many}`."""
    return {path: math.prod(shape) for path, shape in kernels(name).items()}


def volume(shape):
    return "x".join(map(str, shape))


# %% [markdown]
# ## 1. Functions of functions
#
# An image goes in, a word comes out: "dog" or not, $y \in \{+1, -1\}$. (Or the depth of each pixel, a motion, boxes
# around objects: other outputs, the same idea.) The form of such a function $f(x)$ is unknown, so we compose very
# simple functions. A **linear score** is $f = W x$. Two of them with a nonlinear function between them form a network
# of two layers:
#
# $$f = f_2(f_1(x)) = W_2 \max(0, W_1 x).$$
#
# Such a network can do more than linear functions, for instance detect that two switches differ. With $W_1 =
# \begin{pmatrix} 1 & -1 \\ -1 & 1 \end{pmatrix}$ and $W_2 = (1 \;\; 1)$ the network computes $\max(0, x_1 - x_2) +
# \max(0, x_2 - x_1) = |x_1 - x_2|$. Without the nonlinear function it is $W_2 W_1 x$, one matrix, here $(0 \;\; 0)$.

# %%
W1, W2 = jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([[1.0, 1.0]])
switches = jnp.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])

two_layers = cnn.serial(fc1=cnn.dense(2, bias=False), act=cnn.relu, fc2=cnn.dense(1, bias=False))
params = {"fc1": {"kernel": W1.T}, "fc2": {"kernel": W2.T}}  # the library multiplies rows: y = x W, with W as W^T here
f = two_layers.apply(params, {}, switches)[0][:, 0]
assert f.tolist() == [0, 0, 1, 1]
assert (W2 @ W1 == 0).all()
for x, value in zip(switches.astype(int).tolist(), f):
    assert value == (W2 @ jnp.maximum(0, W1 @ jnp.array(x)))[0] == abs(x[0] - x[1])
    print(f"x = {x}:  f = {value:.0f},  y = {int(jnp.sign(2 * value - 1)):+d}")

# %% [markdown]
# The nonlinear function is called the **activation function**. The [notebook on layers](02_layers.ipynb) draws sigmoid,
# tanh, ReLU, leaky ReLU, maxout and ELU with their slopes. Two remarks on the lecture's list: the two ways to write
# tanh are one function, and maxout contains ReLU and the leaky ReLU with slope 0.1.

# %%
z = jnp.linspace(-4, 4, 81)[:, None]
assert jnp.allclose(cnn.tanh(z), (jnp.exp(2 * z) - 1) / (jnp.exp(2 * z) + 1), atol=1e-6)

maxout = cnn.maxout(1)
for second, same in ((0.0, cnn.relu(z)), (0.1, cnn.leaky_relu(0.1).apply({}, {}, z)[0])):
    lines = {"kernel": jnp.array([[[1.0]], [[second]]]), "bias": jnp.zeros((2, 1))}  # max(x, second * x)
    assert jnp.allclose(maxout.apply(lines, {}, z)[0], same)
assert jnp.allclose(cnn.leaky_relu(0.1).apply({}, {}, z)[0], jnp.maximum(0.1 * z, z))
print("max(x, 0) is ReLU, max(x, 0.1 x) the leaky one")

# %% [markdown]
# ## 2. From a dense layer to a filter
#
# In a fully connected layer, $y = W x$ with $x: n \times 1$, $W: m \times n$, $y: m \times 1$. A grey image of 640x480
# has $n = 307{,}200$ numbers, and each output needs as many weights.

# %%
height, width = 480, 640
n = height * width
assert n == 307_200
for m in (1, 1000, n):
    assert cnn.inspect.summary(cnn.serial(cnn.flatten, cnn.dense(m, bias=False)), (height, width, 1)).params == m * n
    print(f"dense, {m:>7,} outputs: {m * n:>14,} weights, {4 * m * n / 2**30:>9.3f} GiB")
one_filter = cnn.inspect.summary(cnn.conv(1, 5, padding=2, bias=False), (height, width, 1))
assert one_filter.params == 25
assert one_filter.total.output_shape[1:] == (height, width, 1)
print(f"a 5x5 filter, {n:,} outputs: {one_filter.params} weights")

# %% [markdown]
# A filter shares its weights among all places of the image. People designed such filters long before networks had them.
# The **Gaussian** blurs:
#
# $$g(x, y) = \frac{1}{2\pi\sigma^2}\, e^{-\frac{x^2 + y^2}{2\sigma^2}} .$$
#
# For $\sigma = 1$ the middle weight is $1/2\pi = 0.159$, its four neighbours have $e^{-1/2}$ of it, 0.097, and 5x5 of
# them are 0.98 together; what is cut off is missing to 1.

# %%
sigma = 1.0
offset = jnp.arange(-2, 3)
gaussian = jnp.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
assert round(float(gaussian[2, 2]), 3) == 0.159
assert round(float(gaussian[2, 1]), 3) == 0.097
assert round(float(gaussian.sum()), 2) == 0.98

train, test = cnn.data.load(DATA, "train"), cnn.data.load(DATA, "test")
example = jnp.asarray(train.images[train.labels == 5][:1].mean(-1, keepdims=True) / 255.0, jnp.float32)
blur = functools.partial(cnn.ops.conv, kernel=gaussian[:, :, None, None], padding=2)
blurred = blur(example)

# %% [markdown]
# A network **learns the weights**. Suppose that we do not know the formula, but have images and their blurred versions.
# We start with random weights, compare the outputs with the blurred images, and use gradient descent:

# %%
noise = jax.random.normal(jax.random.key(0), (8, 32, 32, 1))
target = blur(noise)
layer = cnn.conv(1, 5, padding=2, bias=False)
params, state = layer.init(jax.random.key(1), noise)


@jax.jit
def descend(params):
    def cost(params):
        return jnp.mean((layer.apply(params, state, noise)[0] - target) ** 2)

    return jax.tree.map(lambda w, g: w - 0.3 * g, params, jax.grad(cost)(params))


learned = [params["kernel"][..., 0, 0]]
for _ in range(40):
    params = descend(params)
    learned.append(params["kernel"][..., 0, 0])
assert jnp.abs(learned[-1] - gaussian).max() < 1e-3
print(f"largest difference from the Gaussian: {jnp.abs(learned[-1] - gaussian).max():.0e}")

figure, axes = plt.subplots(1, 6, figsize=(12, 2.3))
for panel, picture, title in zip(axes, (example[0, ..., 0], blurred[0, ..., 0]), ("an image", "blurred")):
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
    panel.set_title(title, fontsize=10)
shown = [(learned[0], "random weights"), (learned[4], "4 steps"), (learned[40], "40 steps"), (gaussian, "the Gaussian")]
for panel, (kernel, title) in zip(axes[2:], shown):
    panel.imshow(kernel, cmap="RdBu_r", vmin=-0.35, vmax=0.35)
    panel.set_title(title, fontsize=10)
for panel in axes:
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 3. The arithmetic of volumes
#
# A filter as deep as its input slides over it, each dot product is one output, each filter one map. $F$ pixels at
# stride $S$ with padding $P$ find $(N - F + 2P)/S + 1$ places among $N$. The notebook on layers goes through it step
# by step; here are the lecture's cases in one table.

# %%
cases = [
    ((7, 7, 1), cnn.conv(1, 3), (5, 5, 1), 10),
    ((7, 7, 1), cnn.conv(1, 3, 2), (3, 3, 1), 10),
    ((7, 7, 1), cnn.conv(1, 3, padding=1), (7, 7, 1), 10),
    ((32, 32, 3), cnn.conv(1, 5), (28, 28, 1), 76),
    ((32, 32, 3), cnn.conv(6, 5), (28, 28, 6), 456),
    ((28, 28, 6), cnn.max_pool(2), (14, 14, 6), 0),
]
for before, layer, after, parameters in cases:
    row = cnn.inspect.summary(layer, before).total
    assert row.output_shape[1:] == after
    assert row.params == parameters
    print(f"{volume(before):>8}  {layer!r:24} -> {volume(after):8} {parameters:>4} parameters")
for f in (1, 3, 5, 7):  # padding by (F - 1)/2 keeps the size
    assert cnn.inspect.summary(cnn.conv(1, f, padding=(f - 1) // 2), (32, 32, 3)).total.output_shape == (1, 32, 32, 1)
try:
    cnn.inspect.summary(cnn.conv(1, 3, 3), (7, 7, 1))
except cnn.LayerError as error:
    print("     7x7 ", error)
assert round((7 - 3) / 3 + 1, 2) == 2.33

# %% [markdown]
# ## 4. LeNet-5 (1998)
#
# 5x5 filters at stride 1, pooling of 2x2 at stride 2, and the pattern CONV-POOL-CONV-POOL-CONV-FC. (One slide dates the
# network 1980; the paper is LeCun, Bottou, Bengio and Haffner, 1998.) This is the paper's own form:

# %%
print(table("lenet5_1998"))
kinds = {"conv": "CONV", "connected": "CONV", "subsample": "POOL", "dense": "FC", "rbf": "distance to each digit"}
pattern = [kinds[kind] for row in table("lenet5_1998").layers if (kind := row.layer.split("(")[0]) in kinds]
print("-".join(pattern[:-1]), "and then the", pattern[-1])
assert "-".join(pattern[:-1]) == "CONV-POOL-CONV-POOL-CONV-FC"

# %% [markdown]
# The third convolution, C5, has filters of 5x5 on maps of 5x5. There is one place for each filter, so it is equal to a
# dense layer. Today's form writes it as one, lets each map of C3 see all six maps of S2, leaves out the weights of the
# pooling, and ends in ten dense outputs instead of fixed pictures of the digits. The difference in parameters is just
# that:

# %%
paper, modern = table("lenet5_1998"), table("lenet5")
assert paper["c5"].params == modern["fc1"].params == 5 * 5 * 16 * 120 + 120
more = {
    "C3 sees all maps": modern["conv2"].params - paper["c3"].params,
    "pooling without weights": -paper["s2"].params - paper["s4"].params,
    "ten dense outputs": modern["head"].params,
}
print(f"{paper.params:,}", *(f"{count:+} ({why})" for why, count in more.items()), f"= {modern.params:,}")
assert list(more.values()) == [900, -44, 850]
assert paper.params + sum(more.values()) == modern.params == 61_706

# %% [markdown]
# Section 12 trains it. Its filters and maps, its mistakes, and its result on MNIST are in the [first
# notebook](00_is_this_digit_a_five.ipynb).
#
# ## 5. AlexNet (2012)
#
# The lecture asks four questions. The input is 227x227x3.
#
# 1. CONV1 has 96 filters of 11x11 at stride 4. Which volume comes out? $(227 - 11)/4 + 1 = 55$, so 55x55x96.
# 2. How many parameters has it? $11 \cdot 11 \cdot 3 \cdot 96 = 34{,}848 \approx 35$ K weights, and 96 biases.
# 3. POOL1 has windows of 3x3 at stride 2. Which volume? $(55 - 3)/2 + 1 = 27$, so 27x27x96.
# 4. How many parameters has it? None: it takes a maximum, and nothing is learned.

# %%
lecture = table("alexnet_single")
assert lecture["conv1"].output_shape[1:] == (55, 55, 96)
assert weights("alexnet_single")["conv1"] == 11 * 11 * 3 * 96 == 34_848
assert lecture["conv1"].params == 34_848 + 96
assert lecture["pool1"].output_shape[1:] == (27, 27, 96)
assert lecture["pool1"].params == 0

try:
    cnn.inspect.summary(cnn.models.alexnet_single(), (224, 224, 3))
except cnn.LayerError as error:
    print("the paper says 224x224:", error)

# %% [markdown]
# The whole table, volume by volume: on the left as the slide has it, on the right what the library counts.

# %%
slide = [
    ("conv1", (55, 55, 96), "conv(96, 11, 4)"),
    ("pool1", (27, 27, 96), "max_pool(3, 2)"),
    ("norm1", (27, 27, 96), "local_response_norm()"),
    ("conv2", (27, 27, 256), "conv(256, 5, padding=2)"),
    ("pool2", (13, 13, 256), "max_pool(3, 2)"),
    ("norm2", (13, 13, 256), "local_response_norm()"),
    ("conv3", (13, 13, 384), "conv(384, 3, padding=1)"),
    ("conv4", (13, 13, 384), "conv(384, 3, padding=1)"),
    ("conv5", (13, 13, 256), "conv(256, 3, padding=1)"),
    ("pool3", (6, 6, 256), "max_pool(3, 2)"),
    ("fc6", (4096,), "dense(4096)"),
    ("fc7", (4096,), "dense(4096)"),
    ("fc8", (1000,), "dense(1000)"),
]
print("layer  on the slide              volume         parameters     share  multiplications  share")
for name, output, code in slide:
    row = lecture[name]
    assert row.output_shape[1:] == output
    assert row.layer == code
    parts = f"{100 * row.params / lecture.params:5.1f} %", f"{100 * row.macs / lecture.macs:5.1f} %"
    print(f"{name:6} {code:25} {volume(output):10} {row.params:>14,}  {parts[0]}  {row.macs:>15,}  {parts[1]}")
assert [row.name for row in lecture.layers if not row.name.startswith(("relu", "drop", "flat"))] == [
    s[0] for s in slide
]
assert 0.93 < sum(lecture[name].params for name in ("fc6", "fc7", "fc8")) / lecture.params < 0.95
assert sum(lecture[f"conv{i}"].macs for i in range(1, 6)) / lecture.macs > 0.9
print(f"total {lecture.params:,} parameters, {lecture.macs:,} multiplications")

# %% [markdown]
# The dense layers have 94 % of the parameters, the convolutions do 95 % of the work.
#
# Three networks go by the name of AlexNet. The slide's is "simplified": every filter sees all maps. The paper's was
# spread over two GPUs: filters of the second, fourth and fifth convolution see the maps of their own half only, which
# halves their weights. And torchvision has the form of a later paper, with fewer filters in the first convolutions.

# %%
for name, expected in (("alexnet_single", 62_378_344), ("alexnet_2012", 60_965_224), ("alexnet", 61_100_840)):
    assert table(name).params == expected
    print(f"{name:14} {expected:>12,} parameters {table(name).macs:>15,} multiplications")
saved = 5 * 5 * 48 * 256 + 3 * 3 * 192 * 384 + 3 * 3 * 192 * 256
print(f"two groups save {saved:,} weights")
assert table("alexnet_single").params - saved == table("alexnet_2012").params

# %% [markdown]
# **NORM** is local response normalization. A value is divided by what the five maps around its own have at the same
# place:
#
# $$b_i = \frac{a_i}{\bigl(k + \alpha \sum_{j=i-2}^{i+2} a_j^2\bigr)^{\beta}}, \qquad
# k = 2,\; \alpha = 10^{-4},\; \beta = 0.75 .$$
#
# To see it on paper, take three maps with values 3, 4, 0 at a pixel, three neighbours, $k = 0$, $\alpha = 1$,
# $\beta = \frac12$: 3 and 4 are divided by $\sqrt{9 + 16} = 5$.

# %%
pixel = jnp.array([3.0, 4.0, 0.0])[None, None, None]
assert jnp.allclose(cnn.ops.local_response_norm(pixel, size=3, alpha=1.0, beta=0.5, k=0.0), jnp.array([0.6, 0.8, 0.0]))

a = cnn.relu(40 * jax.random.normal(jax.random.key(2), (1, 55, 55, 96)))
around = sum(jnp.pad(a**2, ((0, 0),) * 3 + ((2, 2),))[..., i : i + 96] for i in range(5))
by_the_formula = a / (2 + 1e-4 * around) ** 0.75
norm_first = cnn.ops.local_response_norm(a, size=5, alpha=1e-4, beta=0.75, k=2.0)
assert jnp.allclose(norm_first, by_the_formula, rtol=1e-4)

norm_first = cnn.ops.max_pool(norm_first, 3, 2)
pool_first = cnn.ops.local_response_norm(cnn.ops.max_pool(a, 3, 2), size=5, alpha=1e-4, beta=0.75, k=2.0)
apart = jnp.linalg.norm(norm_first - pool_first) / jnp.linalg.norm(norm_first)
assert apart > 0.01
print(f"NORM then POOL and POOL then NORM differ by {100 * apart:.0f} % of their length")
print(f"values to normalize: {55 * 55 * 96:,} in front of the pooling, {27 * 27 * 96:,} behind it")
order = [row.name for row in table("alexnet_2012").layers if row.name in ("norm1", "pool1")]
assert order == ["norm1", "pool1"]

# %% [markdown]
# The order matters. On the slide, POOL1 comes before NORM1; in the paper (section 3.5) the normalization follows the
# convolution, and the pooling follows that. `alexnet_2012` is built so. The slide's order needs a quarter of the
# operations.
#
# ## 6. VGG (2014)
#
# VGG has only 3x3 convolutions at stride 1, padding 1, and 2x2 pooling at stride 2. Why are small filters enough? Two
# of them, one after the other, see 5x5 pixels, three see 7x7, and they have fewer weights and more activations:

# %%
C = 64
for depth, size in ((2, 5), (3, 7)):
    small = cnn.serial(*[cnn.conv(C, 3, padding=1, bias=False) for _ in range(depth)])
    large = cnn.conv(C, size, padding=size // 2, bias=False)
    a, b = (cnn.inspect.summary(layer, (32, 32, C)) for layer in (small, large))
    assert a.total.receptive_field == b.total.receptive_field == size
    assert (a.params, b.params) == (depth * 9 * C**2, size**2 * C**2)
    print(f"{depth} of 3x3: {a.params:>7,} weights; one of {size}x{size}: {b.params:>7,}; both see {size}x{size}")

# %% [markdown]
# The slide's table of VGG-16. "Memory" is the number of values that a layer puts out, "params" its weights without the
# biases. Each row is checked: the volume and the weights exactly, the memory to the digits that are printed.

# %%
slide = [
    ("conv1_1", (224, 224, 64), 3.2e6, 3 * 3 * 3 * 64, 1_728),
    ("conv1_2", (224, 224, 64), 3.2e6, 3 * 3 * 64 * 64, 36_864),
    ("pool1", (112, 112, 64), 800e3, 0, 0),
    ("conv2_1", (112, 112, 128), 1.6e6, 3 * 3 * 64 * 128, 73_728),
    ("conv2_2", (112, 112, 128), 1.6e6, 3 * 3 * 128 * 128, 147_456),
    ("pool2", (56, 56, 128), 400e3, 0, 0),
    ("conv3_1", (56, 56, 256), 800e3, 3 * 3 * 128 * 256, 294_912),
    ("conv3_2", (56, 56, 256), 800e3, 3 * 3 * 256 * 256, 589_824),
    ("conv3_3", (56, 56, 256), 800e3, 3 * 3 * 256 * 256, 589_824),
    ("pool3", (28, 28, 256), 200e3, 0, 0),
    ("conv4_1", (28, 28, 512), 400e3, 3 * 3 * 256 * 512, 1_179_648),
    ("conv4_2", (28, 28, 512), 400e3, 3 * 3 * 512 * 512, 2_359_296),
    ("conv4_3", (28, 28, 512), 400e3, 3 * 3 * 512 * 512, 2_359_296),
    ("pool4", (14, 14, 512), 100e3, 0, 0),
    ("conv5_1", (14, 14, 512), 100e3, 3 * 3 * 512 * 512, 2_359_296),
    ("conv5_2", (14, 14, 512), 100e3, 3 * 3 * 512 * 512, 2_359_296),
    ("conv5_3", (14, 14, 512), 100e3, 3 * 3 * 512 * 512, 2_359_296),
    ("pool5", (7, 7, 512), 25e3, 0, 0),
    ("fc6", (4096,), 4096, 7 * 7 * 512 * 4096, 102_760_448),
    ("fc7", (4096,), 4096, 4096 * 4096, 16_777_216),
    ("fc8", (1000,), 1000, 4096 * 1000, 4_096_000),
]
vgg16 = table("vgg16")
assert math.isclose(224 * 224 * 3, 150e3, rel_tol=0.005)
print("layer    volume             memory   the slide's       params")
memory, kept = {}, {}
for name, output, rounded, product, printed in slide:
    memory[name], kept[name] = math.prod(vgg16[name].output_shape), weights("vgg16").get(name, 0)
    assert vgg16[name].output_shape[1:] == output
    assert vgg16[name].activation_bytes == 4 * memory[name]
    assert math.isclose(memory[name], rounded, rel_tol=0.005)  # 800K stands for 802,816
    assert kept[name] == product == printed
    code = f"{rounded / 1e6:g}M" if rounded >= 1e6 else f"{rounded / 1e3:g}K" if rounded > 5000 else f"{rounded}"
    print(f"{name:8} {volume(output):12} {memory[name]:>12,}  {code:>12} {kept[name]:>12,}")
codes = {row.layer for row in vgg16.layers if row.name.startswith(("conv", "pool"))}
assert all(code.endswith(", 3, padding=1)") or code == "max_pool(2)" for code in codes)

values, total = 224 * 224 * 3 + sum(memory.values()), sum(kept.values())
biases = vgg16.params - total
print(f"in all, with the image: {values:,} values ({4 * values / 2**20:.0f} MiB in float32) for one image")
print(f"                        {total:,} weights and {biases:,} biases, {vgg16.params:,} parameters")
assert vgg16.params == 138_357_544
assert table("vgg19").params == 143_667_240

# %% [markdown]
# The memory sits in the first layers, where the maps are large; the parameters sit in the last ones. The first two
# convolutions hold more than 40 % of all values, and fc6 alone has 74 % of the weights.

# %%
figure, axes = plt.subplots(2, 1, figsize=(9.5, 4), sharex=True)
for panel, counts, name, color in ((axes[0], memory, "values, M", BLUE), (axes[1], kept, "weights, M", ORANGE)):
    panel.bar(list(counts), [count / 1e6 for count in counts.values()], color=color)
    panel.set_ylabel(name)
    panel.spines[["top", "right"]].set_visible(False)
axes[1].tick_params(axis="x", rotation=60)
plt.show()
assert (memory["conv1_1"] + memory["conv1_2"]) / values > 0.4
assert round(kept["fc6"] / total, 2) == 0.74

# %% [markdown]
# Published results: the top-5 error of ILSVRC fell from 11.2 % (the best of 2013) to VGG's 7.3 % in 2014.
#
# ## 7. GoogLeNet (2014)
#
# Which filter size is right, 1x1, 3x3 or 5x5? An **Inception module** applies all of them and pooling, and concatenates
# the maps. Without further measures, this is expensive, and each module makes the volume deeper, since the pooling
# branch keeps all maps. So 1x1 convolutions reduce the number of maps before the large filters and after the pooling.
# Module 3a both ways:

# %%
ones, reduce3, threes, reduce5, fives, projected = TABLE_1["3a"]
plain = cnn.parallel(
    branch1=conv_relu(ones, 1),
    branch2=conv_relu(threes, 3),
    branch3=conv_relu(fives, 5),
    branch4=cnn.max_pool(3, 1, padding=1),
    join=cnn.concat,
)
thinned = cnn.parallel(
    branch1=conv_relu(ones, 1),
    branch2=cnn.serial(reduce=conv_relu(reduce3, 1), conv=conv_relu(threes, 3)),
    branch3=cnn.serial(reduce=conv_relu(reduce5, 1), conv=conv_relu(fives, 5)),
    branch4=cnn.serial(pool=cnn.max_pool(3, 1, padding=1), project=conv_relu(projected, 1)),
    join=cnn.concat,
)
for name, module in (("all filters on all maps", plain), ("behind 1x1 convolutions", thinned)):
    counted = cnn.inspect.summary(module, (28, 28, 192))
    output = volume(counted.total.output_shape[1:])
    print(f"{name}: 28x28x192 -> {output}, {counted.params:>7,} parameters, {counted.macs:>11,} multiplications")
assert cnn.inspect.summary(plain, (28, 28, 192)).total.output_shape[-1] == 64 + 128 + 32 + 192
assert counted.total.output_shape[-1] == 64 + 128 + 32 + 32 == 256
library = cnn.inspect.summary(inception(conv_relu, 5, *TABLE_1["3a"]), (28, 28, 192))
assert (counted.params, counted.macs) == (library.params, library.macs)
counted.draw()

# %% [markdown]
# The table of the paper, which the slide shows. Its "params" are weights in units of 1024: the second row has
# $64 \cdot 64 + 3 \cdot 3 \cdot 64 \cdot 192 = 114{,}688 = 112 \cdot 1024$. Its "ops" are multiplications in millions.
# A star marks what is more than 1 % off the row's own filters, a tilde what is less off, but more than
# rounding explains.

# %%
slide = [
    ("conv1", "7x7/2", (112, 112, 64), 2.7, 34),
    ("maxpool1", "3x3/2", (56, 56, 64), 0, 0),
    ("conv2+conv3", "3x3/1", (56, 56, 192), 112, 360),
    ("maxpool2", "3x3/2", (28, 28, 192), 0, 0),
    ("inception3a", "", (28, 28, 256), 159, 128),
    ("inception3b", "", (28, 28, 480), 380, 304),
    ("maxpool3", "3x3/2", (14, 14, 480), 0, 0),
    ("inception4a", "", (14, 14, 512), 364, 73),
    ("inception4b", "", (14, 14, 512), 437, 88),
    ("inception4c", "", (14, 14, 512), 463, 100),
    ("inception4d", "", (14, 14, 528), 580, 119),
    ("inception4e", "", (14, 14, 832), 840, 170),
    ("maxpool4", "3x3/2", (7, 7, 832), 0, 0),
    ("inception5a", "", (7, 7, 832), 1072, 54),
    ("inception5b", "", (7, 7, 1024), 1388, 71),
    ("avgpool", "7x7/1", (1024,), 0, 0),
    ("drop", "40 %", (1024,), 0, 0),
    ("fc", "", (1000,), 1000, 1),
]
googlenet = table("googlenet_2014")
print("layer               output        params K  counted     ops M  counted")
off = []
for name, filters, output, printed, ops in slide:
    parts = name.split("+")
    assert googlenet[parts[-1]].output_shape[1:] == output
    count = sum(w for path, w in weights("googlenet_2014").items() if path.split("/")[0] in parts) / 1024
    work = sum(googlenet[part].macs for part in parts) / 1e6
    marks = ["", ""]
    for i, (told, found) in enumerate(((printed, count), (ops, work))):
        if abs(told - found) > max(0.01 * found, 0.5 if i else 0.0):
            marks[i] = "*"
            off.append((name, ("params", "ops")[i]))
        elif abs(told - found) >= 1:
            marks[i] = "~"
    counts = f"{printed:>8}  {count:>8.1f}{marks[0]:1} {ops:>8}  {work:>8.1f}{marks[1]}"
    print(f"{name:12} {filters:6} {volume(output):12} {counts}")
print("sum" + " " * 29, f"{sum(row[3] for row in slide):>8.1f}  {sum(weights('googlenet_2014').values()) / 1024:>8.1f}",
      f"{sum(row[4] for row in slide):>9}  {googlenet.macs / 1e6:>8.1f}")  # fmt: skip
assert off == [
    ("conv1", "params"), ("conv1", "ops"), ("inception4c", "params"), ("inception4d", "params"),
    ("inception5a", "params"), ("inception5a", "ops"), ("inception5b", "params"),
]  # fmt: skip

# %% [markdown]
# Seven entries are off. In the first row, $7 \cdot 7 \cdot 3 \cdot 64 = 9{,}408$ weights at $112 \cdot 112$ places are
# 118 million multiplications; the printed 2.7K and 34M would both be right for $2 \cdot 7 \cdot 3 \cdot 64 = 2{,}688$
# weights. For 4c, 4d and 5b the table contradicts itself: divide its ops by the $14 \cdot 14$ or $7 \cdot 7$ places,
# and the weights of the filters come out, not those that are printed. In 5a both columns belong to more weights than
# its filters have. (Four more rows, with a tilde, differ by 1 to 7 of the 1024s.)

# %%
assert weights("googlenet_2014")["conv1/conv"] == 7 * 7 * 3 * 64 == 9_408
assert round(9_408 * 112**2 / 1e6) == 118
assert round(2_688 * 112**2 / 1e6) == 34
for name, places, ops, printed in (("4c", 14**2, 100, 463), ("4d", 14**2, 119, 580), ("5b", 7**2, 71, 1388)):
    by_ops = ops * 1e6 / places / 1024
    found = sum(w for path, w in weights("googlenet_2014").items() if path.startswith(f"inception{name}")) / 1024
    assert abs(by_ops - found) < 0.01 * found < abs(printed - found)
    print(f"{name}: printed {printed}K, by its ops {by_ops:.0f}K, by its filters {found:.0f}K")
assert math.isclose(54e6 / 7**2 / 1024, 1072, rel_tol=0.005)

# %% [markdown]
# The slide's three claims: only 5 million parameters; 12 times less than AlexNet; twice its work. And "removes FC
# layers completely".

# %%
alexnet = table("alexnet_2012")
without_fc = googlenet.params - googlenet["fc"].params
print(f"parameters: {googlenet.params:,} (torchvision's form {table('googlenet').params:,}), {without_fc:,} without fc")
print(f"AlexNet has {alexnet.params / googlenet.params:.1f} times as many, and 12.2 times 5 million")
print(f"work: {googlenet.macs / alexnet.macs:.1f} times AlexNet's")
assert (googlenet.params, table("googlenet").params) == (6_998_552, 6_624_904)
assert 1024 * sum(row[3] for row in slide) > 6.9e6  # the column's own sum
assert without_fc > 5.9e6
assert round(alexnet.params / googlenet.params, 1) == 8.7
assert round(alexnet.params / 5e6, 1) == 12.2
assert round(googlenet.macs / alexnet.macs, 1) == 2.2
assert weights("googlenet_2014")["fc"] == 1000 * 1024

# %% [markdown]
# Twice the work is right. The parameters are 7 million, by the table's own column too, and AlexNet has 9 times as many,
# not 12. One dense layer is left, of a million weights; the average over 7x7 pixels in front of it replaces the large
# ones. (Published top-5 error: 6.67 %, against AlexNet's 16.4 %.)
#
# ## 8. ResNet (2015)
#
# Additional layers should never increase the error, since they could compute the identity. But the identity is hard to
# learn for a plain network of many layers. A **residual block** starts from it: it adds the output of its layers to its
# input,
#
# $$y = x + F(x), \qquad \frac{\partial y}{\partial x} = I + \frac{\partial F}{\partial x} .$$
#
# In the backward pass, the gradient has a path around $F$ that does not shrink it. In a chain of $L$ blocks the slope
# is a product of $1 + f'$ instead of one of $f'$:

# %%
w, L = 0.5, 30


def chain(x, shortcut):
    for _ in range(L):
        x = jnp.tanh(w * x) + (x if shortcut else 0.0)
    return x


x, slope = 0.1, {False: 1.0, True: 1.0}
for shortcut in slope:
    at = x
    for _ in range(L):
        slope[shortcut] *= w * (1 - math.tanh(w * at) ** 2) + shortcut
        at = math.tanh(w * at) + shortcut * at
    assert math.isclose(slope[shortcut], jax.grad(chain)(x, shortcut), rel_tol=1e-4)
print(f"slope through {L} layers: {slope[False]:.0e} without shortcuts, {slope[True]:.1f} with them")
assert slope[False] < 1e-8
assert slope[True] > 1

body = cnn.serial(fc1=cnn.dense(4), act=cnn.tanh, fc2=cnn.dense(4))
block = cnn.residual(body)
params, state = block.init(jax.random.key(0), jnp.zeros((1, 4)))
point = jax.random.normal(jax.random.key(1), (4,))
J = jax.jacobian(lambda v: block.apply(params, state, v[None])[0][0])(point)
J_F = jax.jacobian(lambda v: body.apply(params["body"], state, v[None])[0][0])(point)
assert jnp.allclose(J, jnp.eye(4) + J_F, atol=1e-6)

# %% [markdown]
# A block of ResNet-18: two 3x3 convolutions with batch normalization, the shortcut around them, ReLU. If the scale of
# the last normalization starts at zero (`zero_init_residual=True`), $F = 0$, and the block begins as its shortcut.

# %%
model = cnn.models.resnet18(zero_init_residual=True)
block = model.sublayers["layer1"].sublayers["block2"]
maps = cnn.relu(jax.random.normal(jax.random.key(3), (2, 8, 8, 64)))
params, state = block.init(jax.random.key(4), maps)
assert (block.apply(params, state, maps, train=True)[0] == maps).all()
cnn.inspect.draw_graph(block, (56, 56, 64))

# %% [markdown]
# What a trained plain and a trained residual network of 8 to 20 layers do on CIFAR-10 is in the README ("Results"):
# with more layers the training error of the plain network grows, and that of the residual network falls.
#
# The family. Its depth is counted here: layers with weights on the longest way, shortcuts aside.

# %%


def depth(name):
    """Convolutions and dense layers on the longest way; of parallel branches only the one with the 3x3."""
    beside = {"shortcut", "branch1", "branch3", "branch4"}
    return sum(
        row.layer.startswith(("conv(", "dense(")) and not beside & set(row.name.split("/"))
        for row in table(name).layers
    )


family = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "resnet152": 60_192_808,
}  # fmt: skip
print("            layers   parameters  multiplications")
for name, expected in family.items():
    assert table(name).params == expected
    assert depth(name) == int(name.removeprefix("resnet"))
    print(f"{name:11} {depth(name):>6} {expected:>12,} {table(name).macs:>16,}")
vgg19, deepest = table("vgg19"), table("resnet152")
assert depth("resnet152") / depth("vgg19") == 8
print(f"VGG-19      {depth('vgg19'):>6} {vgg19.params:>12,} {vgg19.macs:>16,}")
less_work, fewer = deepest.macs / vgg19.macs, deepest.params / vgg19.params
print(f"ResNet-152 beside VGG-19: {less_work:.2f} of the work, {fewer:.2f} of the parameters")
assert deepest.macs < 0.6 * vgg19.macs
assert deepest.macs < 0.75 * table("vgg16").macs

# %% [markdown]
# "At runtime faster than a VGGNet, even though it has 8x more layers": the multiplications agree, 11.5 against 19.6
# billion. Its first layers bring the image to a quarter of its side at once, the bottlenecks compute their 3x3
# on a quarter of the maps, and there are no large dense layers. (Training took the authors two to three weeks on eight
# GPUs, says the slide.)
#
# ## 9. All of them
#
# **The revolution of depth.** Top-5 errors of the winners of ILSVRC (and of VGG, second in 2014), as published. They
# belong to whole entries: AlexNet's was the vote of five networks, VGG's and GoogLeNet's of seven, ResNet's of six.
# (The best of 2013 had 11.7 %, and the 11.2 % that the slide on VGG names with images from outside.) The cost of a
# single network is computed here.

# %%
published = [  # year, entry, model, top-5 error in per cent
    (2010, "shallow", None, 28.2),
    (2011, "shallow", None, 25.8),
    (2012, "AlexNet", "alexnet_2012", 16.4),
    (2013, "8 layers, tuned", None, 11.7),
    (2014, "VGG-19", "vgg19", 7.3),
    (2014, "GoogLeNet", "googlenet_2014", 6.7),
    (2015, "ResNet-152", "resnet152", 3.57),
]
layers = [0 if name == "shallow" else depth(model) if model else 8 for _, name, model, _ in published]
assert layers == [0, 0, 8, 8, 19, 22, 152]

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8))
left.bar(range(len(published)), [error for *_, error in published], color=BLUE)
for i, (_, _, _, error) in enumerate(published):
    left.text(i, error + 0.6, f"{error:g} %", ha="center", fontsize=9, zorder=9)
left.set_xticks(range(len(published)), [f"{name}\n{year}" for year, name, *_ in published], fontsize=7)
left.set(ylabel="top-5 error, %, published", ylim=(0, 33), title="error and depth")
twin = left.twinx()
twin.plot(range(len(published)), layers, "o-", color=ORANGE)
twin.set(ylim=(0, 165))
twin.set_ylabel("layers with weights", color=ORANGE)

print("                parameters  multiplications  top-5 error (published)")
for _, name, model, error in published:
    if model is None:
        continue
    macs, params = table(model).macs, table(model).params
    print(f"{name:11} {params:>15,} {macs:>16,}  {error:>6} %")
    right.scatter(macs / 1e9, params / 1e6, s=60 * error, color=BLUE, alpha=0.6, edgecolors="black")
    right.annotate(f"{name}\n{error:g} %", (macs / 1e9, params / 1e6), (20, -4), textcoords="offset points", fontsize=9)
right.set(xlabel="multiplications for an image, billion", ylabel="parameters, million", title="area: top-5 error")
right.set(xlim=(-1, 25), ylim=(-12, 175))
plt.show()

# %% [markdown]
# Neither axis alone explains the error. The best network has fewer parameters and less work than VGG; it is deeper.
#
# **What a unit sees.** The receptive field grows with depth, faster behind each stride. Followed through the layers
# along the branch with the largest filters, up to the last maps:

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.6))
lines = {
    "alexnet_2012": (BLUE, "-", 195), "vgg16": (ORANGE, "-", 212),
    "googlenet_2014": (GREEN, "-", 715), "resnet50": ("0.4", "--", 427),
}  # fmt: skip
for name, (color, style, known) in lines.items():
    rows = [row for row in table(name).layers if len(row.output_shape) == 4]
    rows = [row for row in rows if row.layer.startswith(("conv(", "max_pool("))]
    field = np.maximum.accumulate([row.receptive_field for row in rows])
    assert field[-1] == known
    print(
        f"{name:15} a unit of the last maps sees {field[-1]}x{field[-1]} pixels of {cnn.models.MODELS[name].input[0]}"
    )
    axes.plot(np.linspace(0, 1, len(field)), field, style, color=color, label=name)
axes.axhline(224, color="0.8", zorder=0)
axes.text(0.01, 232, "the image", fontsize=8, color="0.5")
axes.set(
    xlabel="way through convolutions and pooling (0 first, 1 last)", ylabel="receptive field, pixels", yscale="log"
)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# A convolution of $F$ pixels adds $(F - 1)$ times the product of all strides before it. AlexNet and VGG-16 end just
# below the size of the image, the deeper ones far above it.
#
# **Smaller filters, deeper networks, fewer dense layers:** so the first lecture sums up the trend. Counted in the
# networks of the library, with a few that came later. "Filters" says how many convolutions there are of each size,
# "field" what a unit of the last maps sees, "dense" the share of the parameters in dense layers, "pools" the number of
# pooling layers.

# %%
later = {"lenet5": 1998, "alexnet_2012": 2012, "vgg16": 2014, "googlenet_2014": 2014, "resnet50": 2015,
         "mobilenet_v2": 2018, "convnext_tiny": 2022}  # fmt: skip
trend = {}
print("network          year  field  filters                                    dense  pools    parameters")
for name, year in later.items():
    rows = table(name).layers
    maps = [row for row in rows if len(row.output_shape) == 4 and row.layer.startswith(("conv(", "dense("))]
    sides = [kernels(name)[row.name][0] if row.layer.startswith("conv(") else 1 for row in maps]  # dense by pixel: 1x1
    field = max(row.receptive_field for row in rows if row in maps or row.layer.startswith(("max_pool(", "avg_pool(")))
    total = table(name).params
    dense = sum(row.params for row in rows if row.layer.startswith("dense(") and row not in maps) / total
    trend[name] = {"mean": np.mean(sides), "median": np.median(sides), "dense": dense, "field": field}
    counts = ", ".join(f"{sides.count(f)} of {f}x{f}" for f in sorted(set(sides), reverse=True))
    pools = sum("pool" in row.layer and "adaptive" not in row.layer for row in rows)
    print(f"{name:15} {year:>5} {field:>6}  {counts:42} {100 * dense:>3.0f} % {pools:>6} {total:>13,}")
means = [trend[name]["mean"] for name in ("lenet5", "vgg16", "googlenet_2014", "resnet50", "mobilenet_v2")]
assert means == sorted(means, reverse=True)
assert trend["alexnet_2012"]["mean"] == (11 + 5 + 3 + 3 + 3) / 5 == 5
assert trend["vgg16"]["mean"] == 3
assert trend["resnet50"]["median"] == 1
assert trend["alexnet_2012"]["dense"] > 0.9 > 0.15 > trend["googlenet_2014"]["dense"] > trend["resnet50"]["dense"]
assert trend["resnet50"]["field"] > 2 * trend["alexnet_2012"]["field"]
assert trend["convnext_tiny"]["mean"] > trend["resnet50"]["mean"]

# %% [markdown]
# The mean size falls from 5 to 3 and then below 2, where most convolutions are 1x1. In spite of it the fields grow: by
# depth and stride, not by large filters. One dense layer is left (a third of MobileNetV2, which has little else). The
# trend has an end, though. ConvNeXt (2022) goes back to filters of 7x7, one for each map (depthwise), so that they cost
# little.
#
# ## 10. Losses
#
# A loss compares the outputs with the truth. In the library it gives one number for each example.
#
# **Cross-entropy**, $L_{CE} = -\sum_i t_i \log \sigma(y)_i$, with the logits $y$, the softmax $\sigma$, and $t_i = 1$
# for the true class, 0 for the others. Its gradient by the logits is $\sigma(y) - t$. For the logits $(2, 1, 0)$ and
# class 0: $\sigma(y)_0 = e^2/(e^2 + e + 1) = 0.665$, and $-\log 0.665 = 0.408$.
#
# **Hinge loss** for two classes, $t \in \{-1, +1\}$ and the score $y$, positive for $+1$: $L = \max(0, 1 - t y)$. A
# correct sign is not enough; the margin has to be 1. For $t = +1$ and the scores 2, 0.5 and -1: 0, 0.5 and 2. The
# gradient by $y$ is $-t$ within the margin, 0 beyond it.
#
# **For many classes**, the score of the true one should be above the most wrong one by 1:
# $\ell = \max(0, 1 + \max_{y \ne t} w_y x - w_t x)$. For the scores $(3.2, 5.1, -1.7)$ and class 0:
# $1 + 5.1 - 3.2 = 2.9$.


# %%
def value_and_gradient(loss, outputs, labels):
    outputs, labels = jnp.asarray(outputs, jnp.float32), jnp.asarray(labels)
    return loss(outputs, labels), jax.grad(lambda o: loss(o, labels).sum())(outputs)


logits, truth = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])
value, gradient = value_and_gradient(cnn.losses.softmax_cross_entropy, logits, truth)
sigma_y = jnp.exp(logits) / jnp.exp(logits).sum()
assert jnp.allclose(value, -jnp.log(sigma_y[0, 0]))
assert round(float(value[0]), 3) == 0.408
assert jnp.allclose(gradient, sigma_y - jnp.array([1.0, 0.0, 0.0]), atol=1e-6)
print("cross-entropy:    ", value.round(3), "gradient", gradient[0].round(3))

value, gradient = value_and_gradient(cnn.losses.hinge, [2.0, 0.5, -1.0], [1, 1, 1])
assert value.tolist() == [0, 0.5, 2]
assert gradient.tolist() == [0, -1, -1]
print("binary hinge:     ", value, "gradient", gradient)

scores = jnp.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])  # classes 0, 1 and 2 are the true ones
value, gradient = value_and_gradient(cnn.losses.multiclass_hinge, scores, [0, 1, 2])
assert jnp.allclose(value, jnp.array([2.9, 0.0, 6.6]), atol=1e-5)
assert gradient.tolist() == [[-1, 1, 0], [0, 0, 0], [0, 1, -1]]
print("multi-class hinge:", value.round(1), "gradient", gradient.astype(int).tolist())

every_wrong_class = jnp.maximum(0, 1 + scores[2, :2] - scores[2, 2]).sum()  # another hinge loss sums over them
assert jnp.allclose(every_wrong_class, 6.3 + 6.6, atol=1e-5)

# %% [markdown]
# For linear scores $w_k x$, the gradient by the weights is $-x$ for the true class and $+x$ for the most wrong one.
#
# **Regression.** Of the differences $d_i = y_i - \hat y_i$, sums over $i$ of
#
# $$L_1 = |d|, \qquad L_2 = d^2, \qquad
# \text{smooth } L_1 = \begin{cases} 0.5\, d^2 & |d| < 1 \\ |d| - 0.5 & \text{otherwise.} \end{cases}$$
#
# The slides call the first two the *mean* absolute and *mean* square loss and write sums: divide by $N$ for a mean.
# This $L_2$ has no $\frac12$, so that its gradient is $2d$; smooth $L_1$ has one, and its gradient is $d$, cut off at
# 1. For $d = (-3, 0.5)$: $L_1 = 3.5$, $L_2 = 9.25$, smooth $L_1 = 2.5 + 0.125$.

# %%
d = [[-3.0, 0.5]]
expected = {
    "l1": (3.5, [-1, 1]),
    "l2": (9 + 0.25, [-6, 1]),
    "smooth_l1": (2.5 + 0.125, [-1, 0.5]),
}
for name, (by_hand, slope) in expected.items():
    value, gradient = value_and_gradient(getattr(cnn.losses, name), d, jnp.zeros((1, 2)))
    assert value[0] == by_hand
    assert gradient[0].tolist() == slope
    print(f"{name:10} {value[0]:6.3f}  gradient {gradient[0]}")

# %%
m = jnp.linspace(-3, 3, 241)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.1))
ones_ = jnp.ones(len(m), int)
for loss, name, color in (
    (cnn.losses.hinge, "hinge", BLUE),
    (cnn.losses.sigmoid_cross_entropy, "cross-entropy, two classes", ORANGE),
):
    axes[0].plot(m, loss(m, ones_), color=color, label=name)
axes[0].step(m, m < 0, color="0.6", label="zero-one: wrong or not")
axes[0].set(title="a positive example", xlabel="score y", ylabel="loss")
for loss, name, color in (
    (cnn.losses.l1, "L1", BLUE), (cnn.losses.l2, "L2", ORANGE), (cnn.losses.smooth_l1, "smooth L1", GREEN),
):  # fmt: skip
    value, gradient = value_and_gradient(loss, m[:, None], jnp.zeros((len(m), 1)))
    axes[1].plot(m, value, color=color, label=name)
    axes[2].plot(m, gradient[:, 0], color=color, label=name)
    at = jnp.abs(m)
    formula = {"L1": at, "L2": at**2, "smooth L1": jnp.where(at < 1, 0.5 * at**2, at - 0.5)}[name]
    assert jnp.allclose(value, formula, atol=1e-5)
axes[1].set(title="regression losses", xlabel="difference d", ylabel="loss", ylim=(0, 4))
axes[2].set(title="their slopes", xlabel="difference d", ylabel="slope", ylim=(-3, 3))
for panel in axes:
    panel.legend(frameon=False, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The slope is the influence of an example. Suppose that one number should represent the five numbers 1, 2, 3, 4 and the
# outlier 90. With $L_2$, the influence of the outlier is proportional to its distance, and the best number is the
# mean, 20. With $L_1$, all have equal influence, and the best number is the median, 3. Smooth $L_1$ is like $L_1$ for
# large differences and has no kink at 0.

# %%
data = jnp.array([1.0, 2.0, 3.0, 4.0, 90.0])
candidates = jnp.linspace(0, 100, 10_001)
for name, best in (("l1", 3.0), ("l2", 20.0), ("smooth_l1", 3.0)):
    loss = getattr(cnn.losses, name)
    total_loss = jax.vmap(lambda c, loss=loss: loss(jnp.full((1, 5), c), data[None])[0])(candidates)
    found = candidates[total_loss.argmin()]
    assert math.isclose(found, best, abs_tol=0.011)  # the candidates lie 0.01 apart
    print(f"{name:10} {found:.2f}")

# %% [markdown]
# ## 11. Backpropagation through each kind of layer
#
# Each layer needs its **local** gradients only; the chain rule joins them,
#
# $$\frac{\partial L}{\partial W} = \frac{\partial L}{\partial \sigma(y)}\,
# \frac{\partial \sigma(y)}{\partial y}\, \frac{\partial y}{\partial W} .$$
#
# Here are the three factors for one example, a dense layer $y = W x$, the softmax $\sigma$ and cross-entropy:
# $-t/\sigma$, then $\mathrm{diag}(\sigma) - \sigma\sigma^T$, and $\partial y_k/\partial W_{kj} = x_j$. The first two
# multiply to $\sigma - t$, and all three to $(\sigma - t)\, x^T$.

# %%
x, W = jnp.array([1.0, -2.0, 0.5]), jax.random.normal(jax.random.key(5), (4, 3))
t = jnp.array([0.0, 0.0, 1.0, 0.0])
s = jax.nn.softmax(W @ x)
dL_ds, ds_dy = -t / s, jnp.diag(s) - jnp.outer(s, s)
dy_dW = jnp.einsum("ki,j->kij", jnp.eye(4), x)  # y_k by W_ij: x_j where i = k
by_factors = jnp.einsum("s,sk,kij->ij", dL_ds, ds_dy, dy_dW)
automatic = jax.grad(lambda W: cnn.losses.softmax_cross_entropy((W @ x)[None], jnp.array([2]))[0])(W)
assert jnp.allclose(by_factors, automatic, atol=1e-5)
assert jnp.allclose(by_factors, jnp.outer(s - t, x), atol=1e-5)
print("the three factors multiplied are jax.grad's gradient")

# %% [markdown]
# In what follows a layer receives $G = \partial L/\partial(\text{output})$ from the next layer and returns $\partial
# L/\partial(\text{input})$. `jax.vjp` computes exactly this.
#
# | layer | gradient by the input | by the parameters |
# | --- | --- | --- |
# | dense, $y = W x$ | $W^T G$ | $G x^T$ |
# | activation, $y = g(x)$ | $G \cdot g'(x)$, number by number | |
# | convolution (correlation) with $k$ | $G$, padded by $F - 1$, with the flipped $k$ | $x$ with $G$ |
# | max pooling | $G$ to the place of the largest value, 0 elsewhere | |
# | average pooling | $G$ divided among the window's places | |
#
# On paper: $x = \begin{pmatrix} 1&2&0 \\ 0&1&3 \\ 2&1&0 \end{pmatrix}$,
# $k = \begin{pmatrix} 1&0 \\ 0&-1 \end{pmatrix}$, $G = \begin{pmatrix} 1&0 \\ 0&2 \end{pmatrix}$. The kernel's gradient
# is $1 \cdot$ (upper left 2x2 of $x$) $+\; 2 \cdot$ (lower right 2x2) $= \begin{pmatrix} 3&8 \\ 2&1 \end{pmatrix}$. The
# input's is $k$ laid down twice, once at each output's window, times that output's $G$.


# %%
def picture(rows):
    return jnp.array(rows, jnp.float32)[None, :, :, None]


x, G = picture([[1, 2, 0], [0, 1, 3], [2, 1, 0]]), picture([[1, 0], [0, 2]])
k = jnp.array([[1.0, 0.0], [0.0, -1.0]])[:, :, None, None]
_, back = jax.vjp(cnn.ops.conv, x, k)
by_input, by_kernel = back(G)
assert by_kernel[..., 0, 0].tolist() == [[3, 8], [2, 1]]
assert by_input[0, ..., 0].tolist() == [[1, 0, 0], [0, 2 - 1, 0], [0, 0, -2]]
print("convolution, by the kernel:", by_kernel[..., 0, 0].tolist(), " by the input:", by_input[0, ..., 0].tolist())

board = picture([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])
G = picture([[10, 20], [30, 40]])
by_max = jax.vjp(lambda x: cnn.ops.max_pool(x, 2), board)[1](G)[0][0, ..., 0]
by_mean = jax.vjp(lambda x: cnn.ops.avg_pool(x, 2), board)[1](G)[0][0, ..., 0]
assert by_max.tolist() == [[0, 0, 0, 0], [0, 10, 0, 20], [30, 0, 0, 0], [0, 0, 0, 40]]
assert (by_mean == jnp.repeat(jnp.repeat(G[0, ..., 0] / 4, 2, 0), 2, 1)).all()
print("max pooling, by the input:", by_max.astype(int).tolist())

# %% [markdown]
# This holds in general, for a batch with channels and filters: both gradients of a convolution are convolutions.

# %%
keys = jax.random.split(jax.random.key(6), 6)
x, k = jax.random.normal(keys[0], (2, 9, 9, 3)), jax.random.normal(keys[1], (3, 3, 3, 5))
G = jax.random.normal(keys[2], (2, 7, 7, 5))
by_input, by_kernel = jax.vjp(cnn.ops.conv, x, k)[1](G)
swapped = cnn.ops.conv(x.transpose(3, 1, 2, 0), G.transpose(1, 2, 0, 3))  # channels are the batch, the batch is summed
assert jnp.allclose(by_kernel, swapped.transpose(1, 2, 0, 3), atol=1e-3)
flipped = k[::-1, ::-1].transpose(0, 1, 3, 2)
assert jnp.allclose(by_input, cnn.ops.conv(G, flipped, padding=2), atol=1e-3)

x, W, G = (jax.random.normal(key, size) for key, size in zip(keys[3:], ((3,), (4, 3), (4,))))
by_x, by_W = jax.vjp(lambda x, W: W @ x, x, W)[1](G)
assert jnp.allclose(by_x, W.T @ G, atol=1e-5)
assert jnp.allclose(by_W, jnp.outer(G, x), atol=1e-5)

for g, slope in ((cnn.relu, lambda x: x > 0), (cnn.tanh, lambda x: 1 - jnp.tanh(x) ** 2)):
    assert jnp.allclose(jax.vjp(g, x)[1](x)[0], x * slope(x), atol=1e-6)

# All of them in one network, against the definition of a derivative, in double precision:
net = cnn.serial(conv=cnn.conv(2, 3), act=cnn.tanh, pool=cnn.max_pool(2), flat=cnn.flatten, head=cnn.dense(3))
batch, labels = jax.random.normal(keys[0], (4, 8, 8, 1)), jnp.array([0, 1, 2, 0])
params, state = net.init(keys[1], batch)
wrong_by = cnn.inspect.gradient_check(
    lambda p: cnn.losses.softmax_cross_entropy(
        net.apply(p, state, batch.astype(p["head"]["bias"].dtype))[0], labels
    ).mean(),
    at=params,
)
assert wrong_by < 1e-5
print(f"whole network, jax.grad against finite differences: {wrong_by:.0e}")

# %% [markdown]
# ## 12. Optimization
#
# **Gradient descent**, $W \leftarrow W - \gamma\, \partial L/\partial W$. The loss grows fastest along the gradient and
# falls fastest in the opposite direction. The next cell tests 360 directions around a point:


# %%
def hill(p):
    return jnp.sin(p[0]) + 0.5 * p[1] ** 2 + 0.3 * p[0] * p[1]


point = jnp.array([0.4, -1.2])
angles = jnp.deg2rad(jnp.arange(360))
directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
rise = jax.vmap(lambda u: hill(point + 1e-2 * u) - hill(point))(directions)
gradient = jax.grad(hill)(point)
towards = math.degrees(math.atan2(gradient[1], gradient[0])) % 360
assert abs(int(rise.argmax()) - towards) < 5
assert abs(int(rise.argmin()) - (towards + 180) % 360) < 5
print(f"gradient: {towards:.0f} degrees; steepest up {rise.argmax()}, steepest down {rise.argmin()}")

# %% [markdown]
# It finds local minima only, and mini-batches make it stochastic: the first notebook shows both (section 5). The paths
# of descent with and without momentum are in the notebook on training.
#
# **Momentum** continues in the direction of the earlier steps. (The learning rate was $\gamma$ above; from here on it
# is $\eta$, and $\gamma$ is the momentum, as on the slides.)
#
# $$v_t = \gamma v_{t-1} + \eta\, \nabla_\theta J(\theta), \qquad \theta \leftarrow \theta - v_t .$$
#
# Along a constant slope $g$ the step grows to $\eta g\,(1 + \gamma + \gamma^2 + \dots) = \eta g/(1 - \gamma)$, ten
# times as much for $\gamma = 0.9$. Optax, like PyTorch, keeps the rate outside: $u_t = \gamma u_{t-1} + g$, $\theta
# \leftarrow \theta - \eta u_t$. For a constant rate $v = \eta u$, and the two are one. They differ when the rate is
# lowered: here the accumulated steps keep the old rate, in Optax they take the new one.


# %%
def bowl(p):
    return 0.5 * (p[0] ** 2 + 20 * p[1] ** 2)


def momentum_path(rates, gamma=0.9):
    theta, v, path = jnp.array([4.0, 1.0]), jnp.zeros(2), []
    for rate in rates:
        v = gamma * v + rate * jax.grad(bowl)(theta)
        theta = theta - v
        path.append(theta)
    return jnp.stack(path)


def optax_path(optimizer, steps, loss=bowl, theta=(4.0, 1.0)):
    theta, path = jnp.array(theta), []
    memory = optimizer.init(theta)
    for _ in range(steps):
        update, memory = optimizer.update(jax.grad(loss)(theta), memory)
        theta = optax.apply_updates(theta, update)
        path.append(theta)
    return jnp.stack(path)


constant, dropping = [0.02] * 12, [0.02] * 6 + [0.002] * 6
apart = {}
for name, rates in (("constant", constant), ("dropping", dropping)):
    by_optax = optax_path(optax.sgd(lambda step, rates=rates: jnp.array(rates)[step], momentum=0.9), 12)
    apart[name] = jnp.abs(by_optax - momentum_path(rates)).max(1)
    print(
        f"rate {name}: largest difference after 6 steps {apart[name][:6].max():.0e}, after 12 {apart[name].max():.0e}"
    )
assert apart["constant"].max() < 1e-5
assert apart["dropping"][:6].max() < 1e-5
assert apart["dropping"][6:].max() > 0.1

v = 0.0
for _ in range(100):
    v = 0.9 * v + 0.02 * 1.0
assert math.isclose(v, 0.02 / (1 - 0.9), rel_tol=1e-4)  # 0.9^100 is 3e-5

# %% [markdown]
# **Adam** keeps two decaying averages, of the gradients and of their squares, corrects them for having started at zero,
# and divides one by the root of the other:


# %%
def adam_step(theta, m, v, g, t, rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    theta = theta - rate * m_hat / (jnp.sqrt(v_hat) + eps)
    return theta, m, v


theta, m, v, path = jnp.array([4.0, 1.0]), jnp.zeros(2), jnp.zeros(2), []
for t in range(1, 51):
    theta, m, v = adam_step(theta, m, v, jax.grad(bowl)(theta), t, rate=0.1)
    path.append(theta)
difference = jnp.abs(jnp.stack(path) - optax_path(optax.adam(0.1), 50)).max()
assert difference < 1e-4  # float32 rounds at 2e-7 of 4, fifty times
print(f"six lines against optax.adam, 50 steps: {difference:.0e}")

# %% [markdown]
# The first step: $\hat m = g$ and $\hat v = g^2$, so $\hat m / \sqrt{\hat v} = \pm 1$. It is as long as the learning
# rate, whatever the scale of the gradient. Without the correction it would be $0.1 / \sqrt{0.001} = 3.16$ rates long.

# %%
for scale in (1e-4, 1.0, 1e4):
    theta, m, v = adam_step(0.0, 0.0, 0.0, scale, 1)
    assert math.isclose(theta, -1e-3, rel_tol=2e-4)  # eps is 1e-4 of the smallest gradient
    assert math.isclose(m / math.sqrt(v), math.sqrt(10), rel_tol=1e-6)
    print(f"gradient {scale:g}: first step {theta:.6f}, without the correction {-1e-3 * m / math.sqrt(v):.6f}")

# %% [markdown]
# Where is $\varepsilon = 10^{-8}$? The slides have it under the root, $\sqrt{\hat v + \varepsilon}$; Kingma and Ba add
# it to the root, $\sqrt{\hat v} + \varepsilon$. Under the root it counts as $10^{-4}$: gradients smaller than that no
# longer give steps of full length. Optax has both, `eps` and `eps_root`. First steps, in units of the rate:

# %%
sizes = np.logspace(-9, -1, 33)
forms = {
    r"$\sqrt{v} + \varepsilon$ (paper)": (optax.adam(1.0), lambda g: g / (g + 1e-8), BLUE),
    r"$\sqrt{v + \varepsilon}$ (slides)": (
        optax.adam(1.0, eps=0.0, eps_root=1e-8),
        lambda g: g / np.sqrt(g**2 + 1e-8),
        ORANGE,
    ),
}
figure, axes = plt.subplots(figsize=(5.5, 2.8))
for name, (optimizer, formula, color) in forms.items():
    gradients = jnp.asarray(sizes, jnp.float32)
    step = -optimizer.update(gradients, optimizer.init(gradients))[0]
    assert np.allclose(step, formula(sizes), rtol=1e-3)
    axes.loglog(sizes, step, color=color, label=name)
axes.set(xlabel="size of the gradient", ylabel="first step / rate")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# **A race.** LeNet-5 from the same first weights, on the same batches in the same order, for five epochs: gradient
# descent on mini-batches (SGD), with momentum 0.9, and Adam. Which is fastest depends on the rates, so each gets four.

# %%
learn = train if DATA == "digits" else train.hold_out(0.03)[1]
prepare = cnn.data.Preprocess.of(learn.images, (32, 32))
runs = {
    "SGD": (optax.sgd, (0.03, 0.1, 0.3, 1.0), BLUE),
    "momentum": (functools.partial(optax.sgd, momentum=0.9), (0.003, 0.01, 0.03, 0.1), ORANGE),
    "Adam": (optax.adam, (0.0003, 0.001, 0.003, 0.01), GREEN),
}
model, epochs, losses = cnn.models.lenet5(), 5, {}
for name, (make, rates, _) in runs.items():
    make = optax.inject_hyperparams(make)  # the rate is part of the state: four rates, one compiled step
    step = cnn.train.make_step(
        model, cnn.train.Objective(cnn.losses.softmax_cross_entropy, preprocess=prepare), make(learning_rate=rates[0])
    )
    for rate in rates:
        optimizer = make(learning_rate=rate)
        state = cnn.train.create_state(model, optimizer, jax.random.key(0), learn.images[:1], prepare)
        losses[name, rate] = []
        for epoch in range(epochs):
            seen = []
            for batch in cnn.data.batches(learn, 32, epoch=epoch):
                state, metrics = step(state, batch)
                seen.append(metrics["loss"])
            losses[name, rate].append(float(np.mean(seen)))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
for name, (_, rates, color) in runs.items():
    left.plot(range(1, epochs + 1), losses[name, rates[1]], ".-", color=color, label=f"{name}, {rates[1]:g}")
    right.plot(rates, [losses[name, rate][-1] for rate in rates], "o-", color=color, label=name)
left.set(
    xlabel="epoch",
    xticks=range(1, epochs + 1),
    ylabel="training loss",
    yscale="log",
    title="at the second rate of each",
)
right.set(xlabel="learning rate", xscale="log", title=f"after {epochs} epochs, by the rate")
left.legend(frameon=False)
right.legend(frameon=False)
plt.show()

print("training loss after the last epoch, by the rate:")
for name, (_, rates, _) in runs.items():
    print(f"  {name:9}", "   ".join(f"{rate:g}: {losses[name, rate][-1]:.3f}" for rate in rates))

# %% [markdown]
# At the same rate, 0.03, momentum is faster than SGD, on the digits much faster. But nearly all of the difference comes
# from the ten times longer step of the formula: with a tenth of SGD's rate, momentum gives nearly the same loss, and
# its line on the right is SGD's line, shifted by a factor of ten. (In a narrow valley, where SGD cannot take the longer
# step, momentum has a real advantage.) Adam needs much smaller rates, since its steps are as long as the rate whatever
# the gradient; at 0.01 they are too long already. This is one seed and the training loss: it shows which optimizer is
# fast, not which one generalizes.

# %%
for slow, fast in zip(runs["SGD"][1][:2], runs["momentum"][1][:2]):
    assert math.isclose(slow, 10 * fast)
    assert 0.7 < losses["momentum", fast][-1] / losses["SGD", slow][-1] < 1.4
assert losses["momentum", 0.03][-1] < 0.95 * losses["SGD", 0.03][-1]
assert losses["Adam", 0.003][-1] < losses["Adam", 0.01][-1]

# %% [markdown]
# ## Slips of the slides
#
# | where | printed | computed |
# | --- | --- | --- |
# | LeNet-5 | LeCun 1980 | 1998 |
# | AlexNet, order of layers | POOL1, NORM1 | NORM1, POOL1 in the paper |
# | GoogLeNet, first row | 2.7K weights, 34M operations | 9.2K, 118M |
# | 4c, 4d, 5a, 5b: weights | 463K, 580K, 1072K, 1388K | 497.5K, 590.5K, 1018K, 1409K |
# | 5a: operations | 54M | 51M |
# | "only 5 million params" | 5 million | 7.0 million, 6.0 million without the last layer |
# | "12X less params" than AlexNet | 12 | 8.7 |
# | "removes FC layers completely" | | one is left, 1000 x 1024 weights |
# | mean absolute, mean square loss | a sum | the sum divided by $N$ |
# | Adam | $\sqrt{\hat v + \varepsilon}$ | $\sqrt{\hat v} + \varepsilon$ in the paper |
#
# ## Exercises
#
# 1. **Without the large layers.** Build AlexNet's convolutions with `cnn.serial`, then `cnn.global_avg_pool` and one
#    dense layer. How many of the 62 million parameters remain?
# 2. **A cheaper stem.** Replace the 7x7 convolution of stride 2 at the start of a ResNet by three of 3x3, the first
#    with stride 2. What does the unit behind it see, and what does it cost? (Predict, then ask `cnn.inspect.summary`.)
# 3. **Deeper.** `cnn.models.resnet((3, 12, 48, 3), bottleneck=True)` is deeper than ResNet-152. How many layers are
#    that, by `3 * (3 + 12 + 48 + 3) + 2`, how many parameters, and does it still work less than VGG-19?
# 4. **Margins.** Train LeNet-5 on the digits with `cnn.losses.multiclass_hinge`. When does its loss stop falling,
#    and why can it be exactly 0, which cross-entropy never is?
# 5. **The race again.** Set the momentum to 0.99. By which factor do you have to divide SGD's rates now?
#
# ## What next
#
# - `jaxcnn summary resnet50 --depth 2 --draw resnet50.png` prints and draws any of these networks.
# - Published weights go into them: `cnn.weights.load(model, "resnet18.safetensors")`.
# - `jaxcnn/models/vgg.py`, `googlenet.py` and `resnet.py` are short; read them beside the papers.
# - Further reading, as in the lecture: CS231n (lectures 3 to 5), "The matrix calculus you need for deep learning", and
#   the papers of the five networks.
