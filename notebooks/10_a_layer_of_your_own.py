# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A layer of your own
#
# What if a network needs a layer that the library does not have? A layer is a pair of pure functions, and the library's
# layers are written in the same way as yours. There are four ways. Use the first that is sufficient:
#
# | what the layer has | what to write |
# | --- | --- |
# | nothing that is learned | a function of arrays |
# | other layers inside | `cnn.network(forward, name=layer, ...)`, or `serial`, `parallel`, `residual` |
# | parameters of its own | `cnn.Layer(init, apply)` |
# | statistics that it keeps, or random numbers | the same; `apply` uses `state`, `train`, `key` |
#
# A network of such layers is then trained here and from the command line, saved and loaded. At the end, ConvNeXt and
# MobileNetV2 are written from the same pieces, each in 25 lines.

# %%
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

import jaxcnn as cnn

DATA = "digits"  # or "mnist", "cifar10"

key = jax.random.key(0)
images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


def count(tree):
    """How many numbers there are in nested dicts."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# %% [markdown]
# ## 1. A function is a layer
#
# Wherever a layer is expected, a function `array -> array` will do. A convolution cannot know where in the image it is.
# **CoordConv** (Liu et al. 2018) tells it: two more channels hold the row and the column, from -1 to 1.


# %%
def coordinates(x):
    """(N, H, W, C) -> (N, H, W, C + 2): each pixel's row and column behind its channels."""
    n, height, width, _ = x.shape
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    places = np.broadcast_to(np.stack([rows, columns], axis=-1), (n, height, width, 2))
    return cnn.concat(x, jnp.asarray(places, x.dtype))


print(coordinates(jnp.zeros((1, 3, 3, 1)))[0, :, :, 1:].tolist())

place_aware = cnn.serial(where=coordinates, conv=cnn.conv(8, 3, padding=1))
params, state = place_aware.init(key, images)
assert params["conv"]["kernel"].shape == (3, 3, 3 + 2, 8)
assert "where" not in params  # a function has no variables, and leaves no entry
print(place_aware)

# %% [markdown]
# ## 2. Composition
#
# Most new layers combine existing ones. `serial` applies them in sequence, `parallel` side by side, and `residual` adds
# the input. A 3x3 convolution of $C$ channels to $K$ has $9CK$ weights. The **depthwise-separable** one first filters
# each channel by itself and then mixes them, with $9C + CK$ weights.
#
# Two habits are worth taking on. Name the sublayers, since the names are the keys of the parameters. And put
# `@cnn.layer` over a function that makes a layer: the layer then prints as the call that made it.


# %%
@cnn.layer
def separable(channels, features, size=3, stride=1):
    """A depthwise convolution, then 1x1: (N, H, W, channels) -> (N, H / stride, W / stride, features)."""
    return cnn.serial(
        depthwise=cnn.conv(channels, size, stride, size // 2, groups=channels, bias=False),
        pointwise=cnn.conv(features, 1, bias=False),
    )


layer = separable(64, 128)
params, _ = layer.init(key, jax.ShapeDtypeStruct((1, 32, 32, 64), jnp.float32))  # a shape is enough
assert count(params) == 9 * 64 + 64 * 128 == 8_768
print(layer, f"has {count(params):,} weights, the ordinary convolution {9 * 64 * 128:,}")

# %% [markdown]
# Any other graph is an ordinary function over named sublayers. **Squeeze-and-excitation** (Hu et al. 2018) lets a
# network weight its channels by the content of the whole image:
#
# $$s = \sigma\bigl(W_2\, \mathrm{relu}(W_1\, \mathrm{mean}(x))\bigr) \in (0, 1)^C, \qquad y_c = s_c\, x_c .$$


# %%
@cnn.layer
def squeeze_excite(channels, reduction=4):
    def forward(net, x):
        s = cnn.relu(net.squeeze(cnn.global_avg_pool(x)))
        s = cnn.sigmoid(net.excite(s))
        return x * s[:, None, None, :]

    return cnn.network(forward, squeeze=cnn.dense(channels // reduction), excite=cnn.dense(channels))


x = jax.random.normal(key, (2, 8, 8, 16))
layer = squeeze_excite(16)
params, state = layer.init(key, x)
y, _ = layer.apply(params, state, x)
hidden = np.maximum(np.mean(x, (1, 2)) @ params["squeeze"]["kernel"] + params["squeeze"]["bias"], 0)
s = 1 / (1 + np.exp(-(hidden @ params["excite"]["kernel"] + params["excite"]["bias"])))
assert np.allclose(y, x * s[:, None, None, :], atol=1e-5)
assert count(params) == (16 * 4 + 4) + (4 * 16 + 16)
print(jax.tree.map(jnp.shape, params))

# %% [markdown]
# `init` runs the same `forward`, on shapes only, so it cannot disagree with `apply`. A sublayer that is called twice
# **shares** its weights. Here two images go through one and the same trunk (a Siamese network, which learns whether
# they show the same thing).


# %%
def same_thing(net, first, second):
    return net.head(jnp.abs(net.trunk(first) - net.trunk(second)))


trunk = cnn.serial(cnn.conv(8, 3), cnn.relu, cnn.global_avg_pool)
siamese = cnn.network(same_thing, trunk=trunk, head=cnn.dense(1))
params, state = siamese.init(key, images, images)
assert count(params["trunk"]) == 3 * 3 * 3 * 8 + 8  # once, not twice
y, _ = siamese.apply(params, state, images, images[::-1])
assert np.allclose(y, y[::-1], atol=1e-5)  # which image comes first does not matter

# %% [markdown]
# ## 3. Parameters of its own
#
# **GeM pooling** (Radenović et al. 2018) computes one number per map between its mean and its maximum, and learns the
# exponent:
#
# $$y_c = \Bigl(\tfrac{1}{HW} \textstyle\sum x_c^{\,p_c}\Bigr)^{1/p_c} .$$
#
# For the pixels 1, 2, 3, 4: $p = 1$ gives 2.5, $p = 3$ gives $(100/4)^{1/3} = 2.92$, and $p \to \infty$ gives 4.
#
# There is no layer with such a $p$, so we write the pair. `init(key, x)` returns `(params, state)`, and uses only the
# shape of `x`. `apply(params, state, x, train=False, key=None)` returns `(output, state)`.


# %%
@cnn.layer
def gem_pool(p=3.0, eps=1e-6):
    """Generalized-mean pooling with a learned exponent for each channel: (N, H, W, C) -> (N, C)."""

    def init(key, x):
        return {"p": jnp.full(x.shape[-1], p)}, {}

    def apply(params, state, x, train=False, key=None):
        p = params["p"]
        x = jnp.maximum(x, eps)  # a negative number has no such power
        return jnp.mean(x**p, axis=(1, 2)) ** (1 / p), state

    return cnn.Layer(init, apply)


board = jnp.array([[1.0, 2], [3, 4]])[None, :, :, None]
for p, expected in ((1.0, 2.5), (3.0, 25 ** (1 / 3)), (50.0, 4 * 0.25 ** (1 / 50))):
    layer = gem_pool(p)
    params, state = layer.init(key, board)
    value = layer.apply(params, state, board)[0][0, 0]
    assert abs(value - expected) < 1e-3  # at p = 50 the sum has the rounding of 32 bits, fifty times
    print(f"p = {p:2g}: {value:.3f}")

# %% [markdown]
# Is the derivative right? `jax.grad` makes no mistakes, but a formula may have a singular point: a root has infinite
# slope at 0. `gradient_check` compares with finite differences in double precision. Let it check the parameters and the
# input together. A correct gradient gives about $10^{-7}$ or less.


# %%
def weighted_sum(at):
    y, _ = gem_pool().apply(at["params"], {}, at["x"])
    return jnp.sum(y * jnp.array([1.0, -2.0, 3.0]))


at = {"params": {"p": jnp.array([1.5, 3.0, 4.0])}, "x": jnp.abs(images) + 0.1}
difference = cnn.inspect.gradient_check(weighted_sum, at)
print(f"jax.grad against finite differences: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# **Sizes from the input.** A *locally connected* layer is a convolution without sharing: each place has filters of its
# own, so the number of weights depends on the image's size. `init` reads it from the input.
#
# Choose the initial weights carefully. Their variance should be 1 / fan-in, and a unit here has $F \cdot F \cdot C$
# inputs. The functions in `jax.nn.initializers` guess the fan-in from the shape, as the product of all axes but the
# last, and would be wrong by the number of places.


# %%
@cnn.layer
def local(features, size):
    """(N, H, W, C) -> (N, H - size + 1, W - size + 1, features), each place with weights of its own."""

    def init(key, x):
        _, height, width, channels = x.shape
        rows, columns, inputs = height - size + 1, width - size + 1, size * size * channels
        if rows < 1 or columns < 1:
            raise cnn.LayerError(f"local({features}, {size}): the window is larger than the {height}x{width} input")
        kernel = jax.random.normal(key, (rows, columns, inputs, features)) * inputs**-0.5
        return {"kernel": kernel, "bias": jnp.zeros((rows, columns, features))}, {}

    def apply(params, state, x, train=False, key=None):
        rows, columns = params["kernel"].shape[:2]
        windows = [x[:, u : u + rows, v : v + columns] for u in range(size) for v in range(size)]
        return jnp.einsum("nhwi,hwik->nhwk", cnn.concat(*windows), params["kernel"]) + params["bias"], state

    return cnn.Layer(init, apply)


layer = local(5, 3)
params, state = layer.init(key, images)
assert count(params) == 14 * 14 * (3 * 3 * 3 + 1) * 5  # at each place a window and a bias, five times
guessed = initializers.lecun_normal()(key, params["kernel"].shape)
print(f"weights start with a deviation of {params['kernel'].std():.3f}; guessed, it would be {guessed.std():.3f}")
assert abs(params["kernel"].std() * 27**0.5 - 1) < 0.03  # of 26,460 numbers: 0.004 is one standard error
assert abs(guessed.std() * 27**0.5 - 1 / 14) < 0.03

# With the same filters at each place it is the convolution.
kernel = params["kernel"][0, 0]
everywhere = jnp.broadcast_to(kernel, params["kernel"].shape)
y, _ = layer.apply({**params, "kernel": everywhere}, state, images)
assert np.allclose(y, cnn.ops.conv(images, kernel.reshape(3, 3, 3, 5)), atol=1e-4)

# %% [markdown]
# **A layer around a layer.** What if only the weights should be treated differently? *Weight standardization* (Qiao et
# al. 2019) gives each filter mean 0 and one variance before it is used. Parameters are an argument, so we pass others.


# %%
@cnn.layer
def standardized(inner):
    """The convolution `inner`, each of its filters with mean 0 and variance 1 / fan-in."""

    def apply(params, state, x, train=False, key=None):
        kernel = params["kernel"]
        axes = tuple(range(kernel.ndim - 1))
        kernel = (kernel - kernel.mean(axes)) / jnp.sqrt(kernel.var(axes) + 1e-6) * kernel[..., 0].size ** -0.5
        return inner.apply({**params, "kernel": kernel}, state, x, train=train, key=key)

    return cnn.Layer(inner.init, apply)


layer = standardized(cnn.conv(6, 3))
params, state = layer.init(key, images)
y, other = (
    layer.apply({**params, "kernel": k}, state, images)[0] for k in (params["kernel"], 5 * params["kernel"] + 1)
)
assert np.allclose(y, other, atol=1e-3)
print(layer, "gives the same for a kernel that is scaled and moved")

# %% [markdown]
# The names of the leaves are yours, with two conventions that other parts of the library follow. Weight decay,
# `losses.l2_penalty` and `train.max_norm` touch what is called `kernel`, and nothing else. And `mixed_precision`
# converts the parameters and inputs of every layer but the library's normalizations; `keep=("path",)` keeps a layer of
# yours in float32.
#
# ## 4. State, `train` and `key`
#
# `params` is what gradients are taken of; `state` is what the forward pass itself updates. This layer subtracts the
# mean of each channel: in training the batch's, otherwise the running one. It changes nothing in place. It *returns*
# its new state, in the form of the one it was given.


# %%
@cnn.layer
def centred(momentum=0.9):
    """x - mean, channel by channel: batch normalization without the variance."""

    def init(key, x):
        return {}, {"mean": jnp.zeros(x.shape[-1])}

    def apply(params, state, x, train=False, key=None):
        mean = state["mean"]
        if train:
            mean = x.mean(tuple(range(x.ndim - 1)))
            state = {"mean": momentum * state["mean"] + (1 - momentum) * mean}
        return x - mean, state

    return cnn.Layer(init, apply)


layer = centred()
params, state = layer.init(key, images)
y, after = layer.apply(params, state, images + 2.0, train=True)
assert np.allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
assert np.allclose(after["mean"], 0.1 * np.mean(images + 2.0, (0, 1, 2)), atol=1e-5)
assert not state["mean"].any()  # the old state is as it was
assert (layer.apply(params, after, images)[1]["mean"] == after["mean"]).all()  # evaluation changes no statistics
print("before and after one batch:", state["mean"], after["mean"])

# %% [markdown]
# A layer with random numbers draws them from `key`, and without one it says what to pass. **Stochastic depth** (Huang
# et al. 2016) switches off the body of a residual block for some images of the batch, and divides by the share of those
# that remain. A network hands each sublayer a key of its own, so the blocks decide independently.


# %%
@cnn.layer
def drop_path(rate):
    """In training, the whole of an example becomes 0 with probability `rate`, or is divided by 1 - rate."""

    def init(key, x):
        return {}, {}

    def apply(params, state, x, train=False, key=None):
        if not train:
            return x, state
        if key is None:
            raise cnn.LayerError("drop_path draws random numbers in training: pass apply(..., train=True, key=...)")
        keep = jax.random.bernoulli(key, 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / (1 - rate), 0), state

    return cnn.Layer(init, apply)


many = jnp.ones((4000, 2, 2, 1))
y, _ = drop_path(0.25).apply({}, {}, many, train=True, key=key)
print(f"{100 * np.mean(y[:, 0, 0, 0] == 0):.1f} % of the examples were switched off")
assert np.allclose(np.unique(y), [0, 4 / 3])
assert abs(y.mean() - 1) < 0.05  # five standard errors are 0.046

# The library has it, too: dropout whose decision is shared over axes.
same, _ = cnn.dropout(0.25, shared_axes=(1, 2, 3)).apply({}, {}, many, train=True, key=key)
assert (y == same).all()

# %% [markdown]
# So first check whether an existing layer already has an argument for it.
#
# ## 5. A derivative of your own
#
# The sign has the derivative 0, so nothing below it would learn. The **straight-through estimator** (Bengio et
# al. 2013) computes the sign, and its backward pass is that of the identity on $[-1, 1]$. `jax.custom_vjp` defines this
# derivative, and the function is a layer like any other.


# %%
@jax.custom_vjp
def binarize(x):
    return jnp.where(x < 0, -1.0, 1.0)


binarize.defvjp(
    lambda x: (binarize(x), x),  # forward: the output, and what the way back needs
    lambda x, gradient: (jnp.where(jnp.abs(x) <= 1, gradient, 0.0),),
)

at = jnp.array([-2.0, -0.5, 0.5, 2.0])
slopes = {f.__name__: jax.vmap(jax.grad(f))(at).tolist() for f in (jnp.sign, binarize)}
print("output", binarize(at).tolist(), "derivatives", slopes)
assert slopes == {"sign": [0, 0, 0, 0], "binarize": [0, 1, 1, 0]}

# The check finds that this is not the derivative of the function, which is 0. Here that is the point.
assert cnn.inspect.gradient_check(lambda x: binarize(x).sum(), at) > 0.9

# %% [markdown]
# ## 6. Error messages
#
# An error names the layer by its path, however deep it is. Your own `LayerError` gets the path, too, and an error that
# comes from JAX or Python gets it as a note.


# %%
def says(call):
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", *error.__notes__[:1] if hasattr(error, "__notes__") else [])
        return str(error)
    raise AssertionError("nothing went wrong")


small = images[:, :4, :4]
deep = cnn.serial(stem=cnn.conv(8, 3), body=cnn.serial(act=cnn.relu, places=local(4, 3)))
assert says(lambda: deep.init(key, small)).startswith("body/places: local(4, 3): the window is larger")
assert says(lambda: cnn.serial(block=cnn.residual(separable(3, 8))).init(key, small)).startswith("block: ")
assert "key=" in says(lambda: cnn.serial(drop=drop_path(0.5)).apply({}, {}, small, train=True))
assert "has to be called" in says(lambda: cnn.serial(pool=gem_pool))
assert "cannot reshape" in says(lambda: cnn.serial(rows=lambda x: x.reshape(7)).init(key, small))

# %% [markdown]
# ## 7. A network of such layers
#
# We combine several of them, with a residual block. `summary` lists your layers with the others. Shapes,
# multiplications and receptive fields are measured from the computation, so there is nothing to declare.


# %%
@cnn.layer
def block(features, drop):
    conv, norm = standardized(cnn.conv(features, 3, padding=1)), cnn.batch_norm()
    return cnn.residual(
        cnn.serial(conv=conv, norm=norm, act=cnn.relu, attend=squeeze_excite(features), drop=drop_path(drop))
    )


def my_net(classes=10, features=16):
    return cnn.serial(
        where=coordinates,
        centre=centred(),
        stem=cnn.conv(features, 5, 2, 2),
        down=separable(features, 2 * features, stride=2),
        block=block(2 * features, 0.1),
        pool=gem_pool(),
        head=cnn.dense(classes),
    )


train, test = (cnn.data.load(DATA, split).take(slice(5000)) for split in ("train", "test"))  # 5000 are enough here
net = my_net()
table = cnn.inspect.summary(net, train.images[:1], depth=2)
print(table)
assert {row.name: row.params for row in table.layers}["pool"] == 32

# %% [markdown]
# It is trained like any other network. The running means of `centred` come back beside those of the batch
# normalization: the coordinates have mean 0 in every image.

# %%
result = cnn.train.fit(net, train, test=test, epochs=8, batch_size=64, show=False)
accuracy = result.test.metrics["accuracy"]
exponents = result.params["pool"]["p"]
print(f"test accuracy {100 * accuracy:.1f} %; exponents p from {exponents.min():.2f} to {exponents.max():.2f}")
assert accuracy > (0.3 if DATA == "cifar10" else 0.8)
assert np.abs(exponents - 3).max() > 0.01  # they learned
assert np.allclose(result.model_state["centre"]["mean"][-2:], 0, atol=1e-4)

# %% [markdown]
# `jit`, `vmap` and `grad` work on it, as they do on every pure function. `train` decides which code runs, so it is
# static under `jit`. And three networks of one form are a `vmap` of `init` and of `apply`, here of a small one.
# (`cnn.ensemble` does that, and lets them vote.)

# %%
forward = jax.jit(net.apply, static_argnames="train")
x = result.preprocess(test.images[:8])
y, _ = forward(result.params, result.model_state, x, train=False)
assert np.allclose(y, result.outputs(test.images[:8]), atol=1e-3)

pooled = cnn.serial(pool=gem_pool(), head=cnn.dense(10))
params, state = jax.vmap(pooled.init, in_axes=(0, None))(jax.random.split(key, 3), x)
outputs, _ = jax.vmap(pooled.apply, in_axes=(0, 0, None))(params, state, x)
assert outputs.shape == (3, 8, 10)
print(jax.tree.map(jnp.shape, params))

# %% [markdown]
# **Saving.** `cnn.weights.save` writes any network's variables to a safetensors file and needs the size of an image;
# `names={}` means that the file calls the layers as the code does.

# %%
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "mine.safetensors"
cnn.weights.save(net, result.params, result.model_state, file, input=x.shape[1:], names={})
loaded = cnn.weights.load(net, file, input=x.shape[1:], names={})
assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves((result.params, result.model_state))))
print(len(cnn.weights.read(file)), "arrays:", ", ".join(list(cnn.weights.read(file))[:4]), "...")

# %% [markdown]
# **From the command line.** `jaxcnn train FILE.py:FUNCTION` trains what a function of `classes` returns. Its other
# arguments are `--options`. Put the layers into the file, or import them there.

# %%
code = """
import jax.numpy as jnp
import jaxcnn as cnn

@cnn.layer
def gem_pool(p=3.0, eps=1e-6):
    def init(key, x):
        return {"p": jnp.full(x.shape[-1], p)}, {}

    def apply(params, state, x, train=False, key=None):
        p = params["p"]
        return jnp.mean(jnp.maximum(x, eps) ** p, axis=(1, 2)) ** (1 / p), state

    return cnn.Layer(init, apply)

def net(classes, features=16):
    return cnn.serial(
        conv1=cnn.conv(features, 5, 2, 2), act1=cnn.relu, conv2=cnn.conv(2 * features, 3, 2, 1), act2=cnn.relu,
        pool=gem_pool(), head=cnn.dense(classes))
"""
(Path(folder.name) / "my_net.py").write_text(code)


def command(line):
    """Runs a command in the folder, and shows what it prints, but for the times."""
    print("$", line)
    done = subprocess.run([sys.executable, "-m", *line.split()], cwd=folder.name, capture_output=True, text=True)
    print(re.sub(r"  [0-9,]+ images/s.*| \(\d+ s\)", "", done.stdout), done.stderr, sep="")


command(
    "jaxcnn train my_net.py:net --options features=24 --data digits --augment none --epochs 6 --batch-size 64"
    " --lr 0.01 --run runs/mine"
)

# %% [markdown]
# The run's folder knows the file and the options, so `jaxcnn evaluate`, `predict` and `explore` can make the network
# again, and so can Python. Its code lies outside of this notebook's folder, so we say that we trust it:

# %%
trained = cnn.train.Trained.load(Path(folder.name) / "runs" / "mine", trust=True)
digits = cnn.data.load("digits", "test")
accuracy = (trained.probabilities(digits.images).argmax(1) == digits.labels).mean()
print(f"{trained.model.sublayers['conv1']} ... {trained.model.sublayers['pool']}: {100 * accuracy:.1f} %")
assert accuracy > 0.6
folder.cleanup()

# %% [markdown]
# ## 8. Two published networks
#
# The same pieces make the networks of papers. **ConvNeXt** (Liu et al. 2022) cuts the image into patches of 4x4 and has
# four stages of residual blocks; each stage halves the map and doubles the channels. A block filters each channel with
# 7x7, and then mixes the channels of each pixel in a small MLP. Both networks below are written in 25 lines or fewer,
# and they are whole: with the library's names, they take the same parameters.


# %%
def norm():
    return cnn.layer_norm(eps=1e-6)


def convnext_block(features):
    def forward(net, x):
        y = net.norm(net.conv(x))
        y = net.fc2(cnn.gelu(net.fc1(y)))
        return x + net.layer_scale(y)

    return cnn.network(
        forward,
        conv=cnn.conv(features, 7, padding=3, groups=features),
        norm=norm(),
        fc1=cnn.dense(4 * features),
        fc2=cnn.dense(features),
        layer_scale=cnn.layer_scale(1e-6),
    )


def convnext(blocks=(3, 3, 9, 3), features=96, classes=1000):
    layers = {"stem": cnn.serial(conv=cnn.conv(features, 4, 4), norm=norm())}  # patches
    for stage, count in enumerate(blocks, 1):
        if stage > 1:
            features *= 2
            layers[f"down{stage}"] = cnn.serial(norm=norm(), conv=cnn.conv(features, 2, 2))
        layers[f"stage{stage}"] = cnn.serial(**{f"block{i + 1}": convnext_block(features) for i in range(count)})
    return cnn.serial(**layers, avgpool=cnn.global_avg_pool, norm=norm(), fc=cnn.dense(classes))


# %% [markdown]
# **MobileNetV2** (Sandler et al. 2018) turns the residual block inside out: its shortcuts connect thin maps. In
# between, a 1x1 convolution makes six times as many channels, a depthwise one filters them, and another 1x1 makes few
# again, without an activation. Where the size or the number of channels changes, there is no shortcut.


# %%
def unit(features, size, stride=1, groups=1):
    conv = cnn.conv(features, size, stride, size // 2, groups=groups, bias=False)
    return cnn.serial(conv=conv, bn=cnn.batch_norm(), act=cnn.relu6)


def inverted_residual(entering, times, features, stride):
    def forward(net, x):
        y = net.expand(x) if times > 1 else x
        y = net.project(net.depthwise(y))
        return x + y if stride == 1 and entering == features else y

    wide = times * entering
    layers = {"expand": unit(wide, 1)} if times > 1 else {}
    layers["depthwise"] = unit(wide, 3, stride, groups=wide)
    layers["project"] = cnn.serial(conv=cnn.conv(features, 1, bias=False), bn=cnn.batch_norm())
    return cnn.network(forward, **layers)


def mobilenet_v2(classes=1000):
    layers, entering = {"stem": unit(32, 3, stride=2)}, 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for times, features, count, stride in table:  # the paper's table 2
        for i in range(count):
            layers[f"block{len(layers)}"] = inverted_residual(entering, times, features, 1 if i else stride)
            entering = features
    return cnn.serial(**layers, last=unit(1280, 1), avgpool=cnn.global_avg_pool, fc=cnn.dense(classes))


# %% [markdown]
# Are they what the papers have? Shapes suffice to count the parameters, so nothing is computed: ConvNeXt-Tiny has
# 28,589,128 and MobileNetV2 3,504,872. And `cnn.models` has variables of the same names and shapes.

# %%
photo = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
pairs = [(convnext(), cnn.models.convnext_tiny(), 28_589_128), (mobilenet_v2(), cnn.models.mobilenet_v2(), 3_504_872)]
for mine, library, parameters in pairs:
    variables = jax.eval_shape(mine.init, key, photo)
    assert cnn.inspect.summary(mine, photo).params == count(variables[0]) == parameters
    assert variables == jax.eval_shape(library.init, key, photo)
    print(f"{library.kind}: {parameters:,} parameters, under the library's names")

# %% [markdown]
# ## Exercises
#
# 1. **Another pool.** Give `gem_pool` one `p` for all channels. Which line changes, and what is said when you load the
#    old file into it?
# 2. **A gated convolution** computes $y = \mathrm{conv}_1(x) \cdot \sigma(\mathrm{conv}_2(x))$. Write it by
#    `cnn.network`, then by `cnn.parallel(..., join=...)`.
# 3. **Complete the normalizer.** Add the running variance to `centred`, and compare with `cnn.batch_norm(scale=False,
#    bias=False)`. Which of the two variances does the library keep, $\frac1M$ or $\frac1{M-1}$?
# 4. **A clipped gradient.** Write an identity whose gradient is clipped to $[-c, c]$, by `jax.custom_vjp`, and put it
#    in front of the head.
#
# ## What next
#
# - `jaxcnn/layers/conv.py` and `norm.py` are written in the form of sections 3 and 4, with checks of their arguments.
# - `jaxcnn/core/network.py` makes `init` and `apply` of one function; `jaxcnn/core/tree.py` has `map_leaves`,
#   with which the transformations are written.
# - `cnn.freeze`, `cnn.mixed_precision`, `cnn.remat` and `cnn.ensemble` take your layers as they take others.
