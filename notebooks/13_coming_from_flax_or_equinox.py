# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Coming from Flax or Equinox
#
# You know how a network is written in Flax (linen or NNX) or in Equinox, and want to see what is the same here and what
# is called otherwise. The networks below are written twice, get the same weights, and have to give the same outputs.
# The Flax cells run, since Flax is installed with this library; the Equinox ones are printed (checked with Equinox
# 0.13.8). Tolerances are $10^{-5}$ where nothing differs but the order in which float32 numbers are added up.

# %%
import tempfile
from functools import partial
from operator import itemgetter
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from flax.training.train_state import TrainState

import jaxcnn as cnn

digits = cnn.data.load("digits", "train")
images, labels = jnp.asarray(digits.images[:64] / 255.0, jnp.float32), jnp.asarray(digits.labels[:64])
folder = Path(tempfile.mkdtemp())
draw = np.random.default_rng(0)


def close(a, b, tolerance=1e-5):
    """Whether all arrays of two trees differ by less than the tolerance, relative to their largest number, or 1."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return all(np.abs(x - y).max() <= tolerance * max(1, np.abs(y).max()) for x, y in pairs)


# %% [markdown]
# ## 1. A network
#
# In Flax a network is a class. `setup` lists its layers and `__call__` uses them, or `nn.compact` does both in one
# place. Here a network is a *value*, a pair of functions: layers one after the other are `cnn.serial`, and any other
# graph is an ordinary function of `net` and its inputs, with the layers named beside it. That function is `__call__`,
# and the names are `setup`.


# %%
class FlaxLeNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.tanh(nn.Conv(6, (5, 5), padding="VALID")(x)), (2, 2), strides=(2, 2))
        x = nn.avg_pool(nn.tanh(nn.Conv(16, (5, 5), padding="VALID")(x)), (2, 2), strides=(2, 2))
        x = nn.tanh(nn.Dense(120)(x.reshape((len(x), -1))))
        x = nn.tanh(nn.Dense(84)(x))
        return nn.Dense(10)(x)


class FlaxBlock(nn.Module):
    features: int

    def setup(self):
        self.conv1 = nn.Conv(self.features, (3, 3), use_bias=False)
        self.conv2 = nn.Conv(self.features, (3, 3), use_bias=False)
        self.bn1, self.bn2 = nn.BatchNorm(momentum=0.9), nn.BatchNorm(momentum=0.9)
        self.drop = nn.Dropout(0.5)

    def __call__(self, x, train=False):
        y = nn.relu(self.bn1(self.conv1(x), use_running_average=not train))
        y = self.drop(y, deterministic=not train)
        return nn.relu(x + self.bn2(self.conv2(y), use_running_average=not train))


lenet = cnn.serial(
    conv1=cnn.conv(6, 5), act1=cnn.tanh, pool1=cnn.avg_pool(2),
    conv2=cnn.conv(16, 5), act2=cnn.tanh, pool2=cnn.avg_pool(2),
    flat=cnn.flatten, fc1=cnn.dense(120), act3=cnn.tanh,
    fc2=cnn.dense(84), act4=cnn.tanh, head=cnn.dense(10),
)  # fmt: skip


def residual_block(features, rate=0.5):
    def forward(net, x):
        y = net.drop(cnn.relu(net.bn1(net.conv1(x))))
        return cnn.relu(x + net.bn2(net.conv2(y)))

    return cnn.network(
        forward,
        conv1=cnn.conv(features, 3, padding=1, bias=False), bn1=cnn.batch_norm(), drop=cnn.dropout(rate),
        conv2=cnn.conv(features, 3, padding=1, bias=False), bn2=cnn.batch_norm(),
    )  # fmt: skip


flax_lenet = FlaxLeNet()
expected = jax.eval_shape(flax_lenet.init, jax.random.key(0), images)
params, state = lenet.init(jax.random.key(0), images)
print("Flax  ", jax.tree.map(jnp.shape, expected["params"]))
print("jaxcnn", jax.tree.map(jnp.shape, params))

# %% [markdown]
# Both are nested dicts of arrays with kernels `(height, width, in, out)`. What differs is the names: `nn.compact`
# counts the layers of each kind, `network` and `serial` take the names that you give. (Layers that `serial` gets
# without a name are counted as well, `conv1`, `conv2`.) Renaming is all that the weights need. One trap of counting:
# Flax counts layers as they are made, and of `nn.Dense(10)(nn.Dense(84)(x))` Python makes the outer one first.

# %%
names = {"conv1": "Conv_0", "conv2": "Conv_1", "fc1": "Dense_0", "fc2": "Dense_1", "head": "Dense_2"}
variables = {"params": {theirs: params[ours] for ours, theirs in names.items()}}
assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
assert close(jax.jit(lenet.apply)(params, state, images)[0], jax.jit(flax_lenet.apply)(variables, images))

back = {ours: variables["params"][theirs] for ours, theirs in names.items()}
assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), back, params))

# %% [markdown]
# From a file it is the same mapping: `cnn.weights.load` reads Flax's msgpack and Orbax's folders, a train state as well
# as bare variables. It checks every shape, and names what is missing or left over. Nested layers are paths,
# `{"layer1/block2/conv1": "ResNetBlock_1/Conv_0"}`, and a function from path to path will do. The ResNet of Flax's
# ImageNet example is known without names.

# %%
(folder / "lenet.msgpack").write_bytes(flax.serialization.to_bytes(variables))
with ocp.StandardCheckpointer() as writer:
    writer.save(folder / "lenet_orbax", {"step": 3, **variables})

for file in ("lenet.msgpack", "lenet_orbax"):
    read, _ = cnn.weights.load(lenet, folder / file, input=(32, 32, 1), names=names)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), read, params))

try:
    cnn.weights.load(lenet, folder / "lenet.msgpack", input=(32, 32, 1), names=names | {"head": "Dense_3"})
except cnn.errors.UserError as error:
    print(str(error).replace(f"{folder}/", ""))

# %% [markdown]
# ## 2. What the forward pass changes
#
# In Flax, running statistics are one more collection, `variables["batch_stats"]`, and `apply` returns it only where it
# is `mutable`. Here `apply` always takes `(params, state)` and always returns `(output, state)`. `params` is what you
# differentiate, and `state` has the same names. `train` is an argument of every `apply` and reaches all layers by
# itself, so that no layer has to be given `use_running_average` or `deterministic`.

# %%
maps = jnp.asarray(draw.normal(size=(16, 8, 8, 4)), jnp.float32)
flax_block, block = FlaxBlock(4), residual_block(4)
params, state = block.init(jax.random.key(0), maps)
theirs = {"params": params, "batch_stats": state}  # with `setup` the names are equal: nothing to rename
expected = jax.eval_shape(flax_block.init, jax.random.key(0), maps)
assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, expected)

flax_training = jax.jit(partial(flax_block.apply, train=True, mutable=["batch_stats"]))
y_flax, changed = flax_training(theirs, maps, rngs={"dropout": jax.random.key(2)})
y, new_state = jax.jit(partial(block.apply, train=True))(params, state, maps, key=jax.random.key(2))
assert not close(y, y_flax, 0.1)  # dropout draws from another key

# %% [markdown]
# The outputs differ, since each has its own way from the key to what is dropped. The running means of the first
# normalization, in front of the dropout, agree. The running variances differ, and not by rounding: here the batch's
# variance enters as the unbiased estimate, $\mathrm{var} \cdot M / (M - 1)$, as in PyTorch, while Flax takes
# $\mathrm{var}$. With $M = 16 \cdot 8 \cdot 8 = 1024$ values a channel that is a tenth of a per cent.

# %%
first = cnn.ops.conv(maps, params["conv1"]["kernel"], padding=1)
mean, var, M = first.mean((0, 1, 2)), first.var((0, 1, 2)), 16 * 8 * 8
assert close(changed["batch_stats"]["bn1"]["mean"], 0.9 * 0 + 0.1 * mean)
assert close(new_state["bn1"]["mean"], 0.9 * 0 + 0.1 * mean)
assert close(changed["batch_stats"]["bn1"]["var"], 0.9 * 1 + 0.1 * var)
assert close(new_state["bn1"]["var"], 0.9 * 1 + 0.1 * var * M / (M - 1))

# And with the same statistics, in evaluation, where nothing is dropped:
statistics = changed["batch_stats"]
expected = flax_block.apply({"params": params, "batch_stats": statistics}, maps)
assert close(block.apply(params, statistics, maps)[0], expected)

# %% [markdown]
# ## 3. Random numbers
#
# Flax has a key for each collection, `rngs={"params": ..., "dropout": ...}`. Here `init` gets one key, and `apply` one,
# in training. Every layer folds its own name into it, so that a layer's weights depend on the key and on its path, and
# not on what stands beside it. (In Flax that is so for layers that you name; with counted names, a layer in front
# renames those behind it.) The distributions are the same, `lecun_normal` for kernels and zeros for biases. The
# numbers are not.

# %%
longer = cnn.serial(extra=cnn.conv(1, 3, padding=1), **lenet.sublayers)
weights, more_weights = lenet.init(jax.random.key(0), images)[0], longer.init(jax.random.key(0), images)[0]
assert all((weights[name]["kernel"] == more_weights[name]["kernel"]).all() for name in weights)

our_kernel = weights["fc1"]["kernel"]  # 400 x 120
flax_kernel = jax.jit(nn.Dense(120).init)(jax.random.key(0), jnp.zeros((1, 400)))["params"]["kernel"]
print(f"standard deviation: Flax {flax_kernel.std():.4f}, jaxcnn {our_kernel.std():.4f}, 1/sqrt(400) = {400**-0.5}")
assert abs(flax_kernel.std() - 0.05) < 0.001  # of 48,000 numbers: the standard error is 0.0002
assert abs(our_kernel.std() - 0.05) < 0.001

# %% [markdown]
# ## 4. Training
#
# Optax, Orbax and Flax's own `TrainState` work on these trees as they are. Here Flax trains its LeNet-5, and the same
# step, in which one line differs, trains ours. They start at the same weights, see the same batches, and have the same
# losses.


# %%
def flax_loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(flax_lenet.apply({"params": params}, x), y).mean()


def our_loss(params, x, y):
    logits, _ = lenet.apply(params, {}, x, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def losses(loss, apply_fn, params, steps=30):
    @jax.jit
    def step(state, x, y):
        value, gradient = jax.value_and_grad(loss)(state.params, x, y)
        return state.apply_gradients(grads=gradient), value

    state = TrainState.create(apply_fn=apply_fn, params=params, tx=optax.sgd(0.1, momentum=0.9))
    found = []
    for x, y in list(cnn.data.batches(digits, 64))[:steps]:
        state, value = step(state, x / 255.0, y)
        found.append(value)
    return state, jnp.stack(found)


flax_state, by_flax = losses(flax_loss, flax_lenet.apply, variables["params"])
our_state, by_us = losses(our_loss, lenet.apply, weights)
print("Flax  ", by_flax[:5])
print("jaxcnn", by_us[:5])
assert close(by_us, by_flax, 1e-4)  # rounding grows from step to step

with ocp.StandardCheckpointer() as writer:
    writer.save(folder / "ours", our_state.params)
with ocp.StandardCheckpointer() as reader:
    restored = reader.restore(folder / "ours")
assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), restored, our_state.params))

# %% [markdown]
# The library has such a step, too (`cnn.train.create_state`, `cnn.train.make_step`), and the epochs around it
# (`cnn.train.fit`): validation, checkpoints, several devices, mixed precision. It takes any `Layer`, so a Flax module
# that became one (section 7) as well.

# %%
fitted = cnn.train.fit(lenet, digits, variables=(weights, {}), epochs=2, batch_size=64, show=False)
print(f"loss of two epochs: {[round(record['loss'], 3) for record in fitted.history]}")
assert fitted.history[1]["loss"] < fitted.history[0]["loss"]


# %% [markdown]
# ## 5. NNX
#
# An NNX module *holds* its variables, and changes them where they are; `nnx.split` takes the arrays out, `nnx.merge`
# puts them in. Nothing has to be taken out of a `Layer`, since there is nothing in it: `jax.jit`, `jax.grad` and
# `jax.vmap` are the plain ones, not `nnx.jit`. The part of `nnx.split` that is a `Param` is `params`, the part that is
# a `BatchStat` is `state`.


# %%
class NNXBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv1 = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.bn2 = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(x + self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x))))))


nnx_block = NNXBlock(4, nnx.Rngs(0))
nnx_block.train()
nnx_block(maps)  # changes its statistics
nnx_block.eval()

graph, learned, averaged = nnx.split(nnx_block, nnx.Param, nnx.BatchStat)
params, state = nnx.to_pure_dict(learned), nnx.to_pure_dict(averaged)
assert close(block.apply(params, state, maps)[0], nnx_block(maps))

doubled = jax.tree.map(lambda x: 2 * x, params)  # and back: what was learned here, in the NNX module
nnx.replace_by_pure_dict(learned, doubled)
assert close(nnx.merge(graph, learned, averaged)(maps), block.apply(doubled, state, maps)[0])

# %% [markdown]
# ## 6. Equinox
#
# An Equinox module *is* the tree of its arrays, together with what is no array; `eqx.partition` separates the two, and
# `eqx.filter_jit` and `filter_grad` do so for you. It takes one image, channels first, and `jax.vmap` makes the batch.
# A `Layer` is static altogether, its arrays are in `params`, and it takes batches `(N, H, W, C)`.
#
# ```python
# class LeNet5(eqx.Module):
#     conv1: eqx.nn.Conv2d
#     ...
#     def __init__(self, key):
#         k1, k2, k3, k4, k5 = jax.random.split(key, 5)    # here: one key, folded by name
#         self.conv1 = eqx.nn.Conv2d(1, 6, 5, key=k1)      # here: input sizes follow from the input
#         ...
#     def __call__(self, x):                               # one image (C, H, W)
#         x = self.pool(jnp.tanh(self.conv1(x)))
#         ...
#
# model = LeNet5(jax.random.key(0))                        # params, state = model.init(key, images)
# logits = jax.vmap(model)(images.transpose(0, 3, 1, 2))   # logits, state = model.apply(params, state, images)
# gradient = eqx.filter_grad(loss)(model, x, y)            # jax.grad(loss)(params, state, x, y)
# params, static = eqx.partition(model, eqx.is_inexact_array)
# ```
#
# The weights lie as in PyTorch. A dense layer behind a flattened map needs care: the channels come first there.
#
# ```python
# def conv(layer):                                          # (K, C, H, W) -> (H, W, C, K)
#     return {"kernel": layer.weight.transpose(2, 3, 1, 0), "bias": layer.bias.ravel()}
#
# def dense(layer, map=None):                               # (K, D) -> (D, K)
#     weight = layer.weight
#     if map is not None:                                   # (K, C H W) -> (K, H W C)
#         weight = weight.reshape(-1, *map).transpose(0, 2, 3, 1).reshape(len(weight), -1)
#     return {"kernel": weight.T, "bias": layer.bias}
#
# params = {"conv1": conv(model.conv1), "conv2": conv(model.conv2), "fc1": dense(model.fc1, (16, 5, 5)),
#           "fc2": dense(model.fc2), "head": dense(model.head)}
# assert jnp.allclose(cnn.models.lenet5().apply(params, {}, images)[0], logits, atol=1e-5)
# ```
#
# `eqx.nn.BatchNorm` needs `axis_name="batch"` and a `State` that goes through `vmap`; here the batch is an axis.
#
# ## 7. Both in one network
#
# Nobody has to move all at once. `cnn.from_flax` makes a `Layer` of a linen module, or of a function of `nnx.Rngs` that
# makes an NNX module: `params` are Flax's, `state` is `batch_stats`, and the key of a call draws its dropout. A `Layer`
# becomes a Flax module in ten lines:


# %%
class FromJaxcnn(nn.Module):
    """A Layer as a linen module."""

    layer: cnn.Layer

    @nn.compact
    def __call__(self, *inputs, train=False):
        params = self.param("layer", lambda key: self.layer.init(key, *inputs)[0])
        state = self.variable("batch_stats", "layer", lambda: self.layer.init(self.make_rng("params"), *inputs)[1])
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        output, new = self.layer.apply(params, state.value, *inputs, train=train, key=key)
        if self.is_mutable_collection("batch_stats"):
            state.value = new
        return output


mixed = cnn.serial(stem=cnn.conv(8, 3), block=cnn.from_flax(FlaxBlock(8)), pool=cnn.global_avg_pool, head=cnn.dense(10))
print(cnn.inspect.summary(mixed, images[:1]))
fitted = cnn.train.fit(mixed, digits.take(slice(128)), epochs=1, batch_size=32, show=False)
assert int(fitted.state.step) == 4

inside = FromJaxcnn(residual_block(4))
theirs = jax.jit(inside.init)(jax.random.key(0), maps)
training = jax.jit(partial(inside.apply, train=True, mutable=["batch_stats"]))
y, changed = training(theirs, maps, rngs={"dropout": jax.random.key(1)})
alone, _ = residual_block(4).apply(theirs["params"]["layer"], changed["batch_stats"]["layer"], maps)
assert close(inside.apply({**theirs, **changed}, maps), alone)

# %% [markdown]
# ## 8. Where defaults differ
#
# | | Flax | jaxcnn |
# | --- | --- | --- |
# | padding of a convolution | `"SAME"` | 0; an integer pads both sides, `"SAME"` is Flax's |
# | a filter that does not fit | stops short without a word | an error; `floor=True` allows it |
# | `avg_pool` on padding | counts its zeros | does not; `count_padding=True` does |
# | pooling stride | 1 | the window's size |
# | `BatchNorm` momentum, eps | 0.99, 1e-5 | 0.9, 1e-5; both are the share of the old value that is kept |
# | running variance | biased | unbiased, as in PyTorch |
# | variance is computed as | $E[x^2] - E[x]^2$ (`use_fast_variance`) | $E[(x - E[x])^2]$ |
# | `LayerNorm`, `GroupNorm` eps | 1e-6 | 1e-5 |
# | `Dropout` rate | dropped | dropped |
# | `PReLU` slope | one, 0.01 | one a channel, 0.25; `shared=True` |
# | kernel of `ConvTranspose` | as it lies | flipped: the transpose of `conv` with that kernel (`load` turns it) |
# | `dtype`, `param_dtype` | of each layer | `cnn.mixed_precision(model, jnp.bfloat16)`; parameters stay float32 |
# | uint8 images | 0 to 255 | an error in `apply`; `fit` and `make_step` scale them |
#
# Some of that in numbers:

# %%
x, kernel = (jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((2, 8, 8, 4), (3, 3, 4, 5)))


def flax_layer(module, **variables):
    return module.apply({"params": variables}, x)


def layer(made, **variables):
    return made.apply(variables, {}, x)[0]


assert close(flax_layer(nn.Conv(5, (3, 3), use_bias=False), kernel=kernel),
             layer(cnn.conv(5, 3, padding=1, bias=False), kernel=kernel))  # fmt: skip

stride2 = flax_layer(nn.Conv(5, (3, 3), (2, 2), use_bias=False), kernel=kernel)
assert close(stride2, layer(cnn.conv(5, 3, 2, "SAME", bias=False), kernel=kernel))
pad1 = layer(cnn.conv(5, 3, 2, padding=1, bias=False), kernel=kernel)  # PyTorch's way: the windows stand elsewhere
assert stride2.shape == pad1.shape
assert not close(stride2, pad1, 0.1)

counted = nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
assert close(counted, cnn.ops.avg_pool(x, 3, 2, padding=1, count_padding=True))
corner = cnn.ops.avg_pool(x, 3, 2, padding=1)[:, 0, 0]
assert close(corner, x[:, :2, :2].mean((1, 2)))  # of the four pixels that are there
assert close(counted[:, 0, 0], corner * 4 / 9)

scale, bias = jnp.ones(4), jnp.zeros(4)
assert close(
    flax_layer(nn.LayerNorm(epsilon=1e-5), scale=scale, bias=bias), layer(cnn.layer_norm(), scale=scale, bias=bias)
)

up = flax_layer(nn.ConvTranspose(5, (3, 3), (2, 2), padding="VALID", use_bias=False), kernel=kernel)
assert close(up, layer(cnn.conv_transpose(5, 3, 2, bias=False), kernel=kernel[::-1, ::-1]))

far = jnp.asarray(1000 + draw.normal(size=(4096, 1)), jnp.float32)  # far from 0, its variance is 1
fast, _ = jax.jit(nn.BatchNorm(use_running_average=False).init_with_output)(jax.random.key(0), far)
ours, _ = cnn.batch_norm().apply({}, {"mean": jnp.zeros(1), "var": jnp.ones(1)}, far, train=True)
print(f"variance after normalizing: Flax {fast.var():.3f}, jaxcnn {ours.var():.3f}")
assert abs(ours.var() - 1) < 1e-3

# %% [markdown]
# ## 9. Names
#
# | Flax linen | NNX | Equinox | jaxcnn |
# | --- | --- | --- | --- |
# | `nn.Module`, `setup`, `nn.compact` | `nnx.Module` | `eqx.Module` | `cnn.network(forward, **layers)` |
# | `nn.Sequential` | `nnx.Sequential` | `eqx.nn.Sequential` | `cnn.serial` |
# | `module.lazy_init(rngs, x)` | the constructor | the constructor | `layer.init(key, x)`: reads shapes only |
# | `apply(..., mutable=[...])` | the call | the call, `State` | `layer.apply(params, state, x)` |
# | `{"params", "batch_stats"}` | `nnx.Param`, `nnx.BatchStat` | the module, `State` | `params`, `state` |
# | `deterministic`, `use_running_average` | `.train()`, `.eval()` | `eqx.nn.inference_mode` | `train=` |
# | `rngs={"dropout": key}` | `nnx.Rngs` | `key=` | `key=` |
# | `nn.Conv`, `nn.ConvTranspose` | the same | `eqx.nn.Conv2d`, `ConvTranspose2d` | `cnn.conv`, `cnn.conv_transpose` |
# | `nn.Dense`, `nn.Embed` | `nnx.Linear`, `nnx.Embed` | `eqx.nn.Linear`, `Embedding` | `cnn.dense`, `cnn.embed` |
# | `nn.max_pool(x, (2, 2), (2, 2))` | `nnx.max_pool` | `eqx.nn.MaxPool2d(2, 2)` | `cnn.max_pool(2)` |
# | `nn.remat(Block)` | `nnx.remat` | `eqx.filter_checkpoint` | `cnn.remat(model, "layer1", "layer2")` |
# | `nn.vmap` for an ensemble | `nnx.vmap` | `eqx.filter_vmap` | `cnn.ensemble(model, 5)`, or `jax.vmap(model.init)` |
# | `nn.scan` over layers | `nnx.scan` | `jax.lax.scan` | `jax.lax.scan`, below |
# | `nn.tabulate` | `nnx.tabulate` | `eqx.tree_pprint` | `cnn.inspect.summary` |
# | `sow`, `capture_intermediates` | `nnx.capture` | | `cnn.inspect.activations` |
# | `optax.masked`, `nnx.wrt` for frozen layers | | `eqx.partition` | `cnn.freeze(model, "conv1")` |
# | `nn.BatchNorm(axis_name=...)` | the same | the same | `cnn.synchronized(model, axis_name)` |
#
# Lifted transformations (`nn.vmap`, `nn.scan`) exist because a module hides its variables. Here they are arguments, and
# JAX's own do. Six equal blocks in a `scan`, compiled once, with a first axis of six in all variables:


# %%
def repeated(block, times):
    def init(key, x):
        return jax.vmap(lambda key: block.init(key, x))(jax.random.split(key, times))

    def apply(params, state, x, *, train=False, key=None):
        keys = jax.random.split(jax.random.key(0) if key is None else key, times)

        def one(x, variables):
            params, state, key = variables
            return block.apply(params, state, x, train=train, key=key)

        return jax.lax.scan(one, x, (params, state, keys))

    return cnn.Layer(init, apply)


six = repeated(residual_block(4), 6)
params, state = jax.jit(six.init)(jax.random.key(0), maps)
y, state = jax.jit(partial(six.apply, train=True))(params, state, maps, key=jax.random.key(1))
assert params["conv1"]["kernel"].shape == (6, 3, 3, 4, 4)

x = maps
for k in range(6):  # in evaluation it is the blocks one after the other
    x, _ = residual_block(4).apply(*jax.tree.map(itemgetter(k), (params, state)), x)
assert close(six.apply(params, state, maps)[0], x)

# %% [markdown]
# **Others.** Haiku's `hk.transform_with_state` gives the same pair, `init(rng, x) -> (params, state)` and
# `apply(params, state, rng, x) -> (out, state)`: put `key` last and you are there; its `w`, `b` are `kernel`, `bias`.
# From `stax` you know `serial` and the pair of functions; what is new is names instead of nested tuples, running
# statistics, and `train` as an argument. Of a Keras model on JAX, `stateless_call` is `apply`, with lists in place of
# the dicts, and `compile` with `fit` is `cnn.train.fit`; its batch norm keeps 0.99 with an epsilon of 1e-3.
#
# What one gains on a CPU is speed; the README's table has the figures beside Flax, NNX, Equinox and Keras, and the
# notebook about the fast paths says how. On a GPU or TPU all of them compile to the same operations of XLA.
#
# ## Exercises
#
# 1. **Padding.** Give `FlaxLeNet` its default padding. Which layers of `lenet` have to change so that the outputs agree
#    again, and which weight no longer fits?
# 2. **A finer adapter.** `from_flax` expects a `train` argument. Write the one for modules that take `deterministic`,
#    and check dropout with two different keys.
# 3. **The other way.** Write `from_nnx(make)` with `nnx.split` in `init` and `nnx.merge` in `apply`.
# 4. **Statistics.** How large must $M$ be for the two running variances of section 2 to agree to float32's last digit?
#
# ## What next
#
# - `jaxcnn/core/` is the whole idea in six short files: `Layer`, `network`, `serial`, the tree of layers.
# - `experiments/lenet_flax.py` trains both LeNet-5s on MNIST from eight seeds each, and times them in turn.
