# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Coming from PyTorch
#
# This notebook shows PyTorch code and the same in jaxcnn, side by side, then the surprises, and a dictionary. PyTorch's
# code is part of the text and does not run here, since jaxcnn does not need PyTorch. Its output (version 2.13) is given
# in comments, and our code is checked against it. `tests/parity` compares the two libraries layer by layer, and whole
# networks by their outputs and gradients.
#
# The main difference: in PyTorch a module *is* its numbers, and calls change them. In jaxcnn a layer is two functions
# without any numbers inside, the numbers are nested dicts that you hold, and nothing is ever changed in place: what a
# function changes, it returns.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import initializers
from safetensors.numpy import save_file

import jaxcnn as cnn

# %% [markdown]
# ## 1. A network
#
# ```python
# import numpy as np
# import torch
# from torch import nn
# from torch.nn import functional as F
#
# class Net(nn.Module):
#     def __init__(self, classes=10):
#         super().__init__()
#         self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
#         self.bn1 = nn.BatchNorm2d(8)
#         self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
#         self.fc = nn.Linear(16 * 8 * 8, classes)
#
#     def forward(self, x):                       # (N, 3, 16, 16)
#         x = F.relu(self.bn1(self.conv1(x)))
#         x = F.relu(self.conv2(x))
#         return self.fc(torch.flatten(x, 1))
#
# model = Net()
# y = model(torch.zeros(2, 3, 16, 16))
# ```


# %%
def forward(net, x):  # (N, 16, 16, 3)
    x = cnn.relu(net.bn1(net.conv1(x)))
    x = cnn.relu(net.conv2(x))
    return net.fc(cnn.flatten(x))


model = cnn.network(
    forward,
    conv1=cnn.conv(8, 3, padding=1),
    bn1=cnn.batch_norm(),
    conv2=cnn.conv(16, 3, stride=2, padding=1),
    fc=cnn.dense(10),
)
params, state = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
y, state = model.apply(params, state, jnp.zeros((2, 16, 16, 3)))
assert y.shape == (2, 10)
print(jax.tree.map(jnp.shape, {"params": params, "state": state}))

# %% [markdown]
# Layers need no number of input channels: `init` runs `forward` once on shapes and infers it. `model` never changes;
# `params` are optimized, and `state` is what the forward pass updates (PyTorch's *buffers*). `nn.Sequential` is
# `cnn.serial`.
#
# ## 2. Where the axes are
#
# | | PyTorch | jaxcnn |
# | --- | --- | --- |
# | images | N, C, H, W | N, H, W, C |
# | kernel of a convolution | K, C, H, W | H, W, C, K |
# | kernel of a dense layer | outputs, inputs | inputs, outputs |
# | flattened map | channel by channel | pixel by pixel |
#
# `x.transpose(0, 2, 3, 1)` brings a batch of images here. `cnn.weights.load` transposes kernels, and also reorders the
# inputs of a dense layer after a flattened map.
#
# ## 3. Weights from a `.pth`
#
# To compare the two, both need the same weights. These are made of sines, by name and shape; a `state_dict` in
# PyTorch's own file format carries them over.
#
# ```python
# def made_up(name, shape):
#     size = int(np.prod(shape))
#     wave = np.sin(np.arange(size) * 0.7 + len(name)) * (2 / max(1, size // shape[0])) ** 0.5
#     return (np.abs(wave) + 0.5 if name.endswith(("bn1.weight", "var")) else wave).reshape(shape).astype(np.float32)
#
# numbers = {n: made_up(n, t.shape) for n, t in model.state_dict().items() if t.ndim}
# model.load_state_dict({n: torch.from_numpy(a) for n, a in numbers.items()}, strict=False)
# torch.save(model.state_dict(), "net.pth")
# ```


# %%
def made_up(name, shape):
    size = int(np.prod(shape))
    wave = np.sin(np.arange(size) * 0.7 + len(name)) * (2 / max(1, size // shape[0])) ** 0.5
    return (np.abs(wave) + 0.5 if name.endswith(("bn1.weight", "var")) else wave).reshape(shape).astype(np.float32)


folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "net.pth"
cnn.weights.save(model, params, state, file, input=(16, 16, 3), names={})  # a file like PyTorch's, to have one here
numbers = {name: made_up(name, array.shape) for name, array in cnn.weights.read(file).items() if array.ndim}
print({name: array.shape for name, array in numbers.items()})

# %% [markdown]
# The names and shapes are those of PyTorch's `state_dict`. With the file in hand, loading is one line. `names={}` says
# that the file calls the layers as our code does; a dict gives other names. Networks in `cnn.models` that torchvision
# has, too, need neither `names` nor `input`: `cnn.weights.load(cnn.models.resnet50(), "resnet50-11ad3fa6.pth")`. No
# code that is in the file is run.

# %%
file = Path(folder.name) / "net.safetensors"
save_file(numbers, file)  # here in place of `torch.save`
params, state = cnn.weights.load(model, file, input=(16, 16, 3), names={})
assert np.array_equal(params["conv1"]["kernel"], numbers["conv1.weight"].transpose(2, 3, 1, 0))
assert np.array_equal(state["bn1"]["var"], numbers["bn1.running_var"])

x = np.sin(np.arange(4 * 3 * 16 * 16) * 0.3).reshape(4, 3, 16, 16).astype(np.float32)  # PyTorch's axes
labels = np.array([3, 1, 4, 1])
images = x.transpose(0, 2, 3, 1)
y, _ = model.apply(params, state, images)
print(y[0, :4])

# %% [markdown]
# ```python
# x = torch.from_numpy(np.sin(np.arange(4 * 3 * 16 * 16) * 0.3).reshape(4, 3, 16, 16).astype(np.float32))
# labels = torch.tensor([3, 1, 4, 1])
# model.eval()
# with torch.no_grad():
#     print(model(x)[0, :4])
# # tensor([1.6426, 2.4229, 2.2780, 1.2854])
# ```

# %%
assert np.allclose(y[0, :4], [1.6426, 2.4229, 2.2780, 1.2854], atol=1e-3)
jitted = jax.jit(model.apply)  # compiled at the first call; faster from then on
assert np.allclose(jitted(params, state, images)[0], y, atol=1e-4)

# %% [markdown]
# There is no `torch.no_grad()`: a gradient is computed where `jax.grad` asks for it, and nowhere else. There is no
# `.to("cuda")` either: arrays live on the first accelerator there is, `jax.device_put` moves them, and
# `jax.default_device` chooses another one.
#
# ## 4. `model.train()` and `model.eval()`
#
# The mode is an argument of the call, and so is the key for random numbers. Running statistics come back as the new
# state. PyTorch's `momentum=0.1` is the share of the *new* value; here `momentum=0.9` is the share of the old one, the
# same thing. The running variance takes the unbiased estimate in both.
#
# ```python
# bn = nn.BatchNorm1d(1)
# bn(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
# print(bn.running_mean, bn.running_var)      # tensor([0.2500]) tensor([1.0667])
# ```

# %%
bn = cnn.batch_norm()
column = jnp.array([[1.0], [2.0], [3.0], [4.0]])
scales, statistics = bn.init(jax.random.key(0), column)
_, after = bn.apply(scales, statistics, column, train=True)
print(after)
assert np.allclose(after["mean"], 0.9 * 0 + 0.1 * 2.5)
assert np.allclose(after["var"], 0.9 * 1 + 0.1 * 5 / 3)
assert statistics["mean"] == 0  # the old state is what it was

# %% [markdown]
# ## 5. A training step
#
# ```python
# model.train()
# optimizer = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9)
# for _ in range(3):
#     optimizer.zero_grad()
#     loss = F.cross_entropy(model(x), labels)
#     loss.backward()
#     optimizer.step()
#     print(loss.item())                      # 1.9829, 0.4140, 0.3952
# ```
#
# Here, `jax.value_and_grad` makes the function that computes loss and gradient, and Optax says how the parameters
# follow. Gradients need no zeroing, because they are not accumulated.

# %%
optimizer = optax.sgd(0.003, momentum=0.9)


def objective(params, state, images, labels):
    outputs, state = model.apply(params, state, images, train=True)
    return cnn.losses.softmax_cross_entropy(outputs, labels).mean(), state


@jax.jit
def step_by_hand(params, state, opt_state, images, labels):
    (loss, state), gradient = jax.value_and_grad(objective, has_aux=True)(params, state, images, labels)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state, loss


now, opt_state, losses = (params, state), optimizer.init(params), []
for _ in range(3):
    *now, opt_state, loss = step_by_hand(*now, opt_state, images, labels)
    losses.append(float(loss))
print(losses)
assert np.allclose(losses, [1.9829, 0.4140, 0.3952], rtol=1e-3)  # PyTorch's, printed to four places

# %% [markdown]
# `make_step` writes that function for you, with preprocessing, augmentation and measures inside, and `fit` is the loop
# over epochs, with validation, checkpoints and the test at the end. Use whichever is convenient.

# %%
train_state = cnn.train.create_state(model, optimizer, jax.random.key(0), images, variables=(params, state))
step = cnn.train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
made = []
for _ in range(3):
    train_state, metrics = step(train_state, (images, labels))
    made.append(float(metrics["loss"]))
assert np.allclose(made, losses, rtol=1e-4)
print({name: float(value) for name, value in metrics.items()})

# %% [markdown]
# ## 6. Random numbers
#
# `torch.manual_seed` sets a generator that every call moves on. JAX has no such hidden state. A **key** is passed, and
# the same key gives the same numbers every time; `split` makes new keys of one. A network hands its sublayers keys of
# their own, so one for the whole is enough. As in PyTorch, the rate of dropout is the share that is *dropped*.

# %%
drop, key, ones = cnn.dropout(0.25), jax.random.key(7), jnp.ones(10_000)
first, again = (drop.apply({}, {}, ones, train=True, key=key)[0] for _ in range(2))
other, _ = drop.apply({}, {}, ones, train=True, key=jax.random.fold_in(key, 1))
assert (first == again).all()
assert (first != other).any()
assert abs((first == 0).mean() - 0.25) < 0.03  # seven standard errors
try:
    cnn.serial(drop=drop).apply({}, {}, ones, train=True)
except cnn.LayerError as error:
    print(error)

# %% [markdown]
# ## 7. Data
#
# A `Dataset` is arrays in memory, images as uint8 of N, H, W, C. `cnn.data.batches` is a `DataLoader` with
# `shuffle=True, drop_last=True` over it; its order is a function of seed and epoch, so that a run can go on in the
# middle of an epoch. Transforms belong to two places: `preprocess` (always) and `augment` (training only) are functions
# of a whole batch, inside the compiled step. Images that do not fit in memory come from `cnn.data.stream("folder",
# workers=8)`, with the same batches.

# %%
digits = cnn.data.load("digits", "train")
shapes = [(images.shape, images.dtype.name, labels.shape) for images, labels in cnn.data.batches(digits, 64, seed=0)]
print(len(digits), "images,", len(shapes), "batches of", shapes[0])
assert len(shapes) == len(digits) // 64
assert len(set(shapes)) == 1  # what is left behind the last whole batch is another remainder in each epoch

# %% [markdown]
# ## 8. Looking inside, and leaving parts out
#
# ```python
# seen = {}
# hook = model.conv1.register_forward_hook(lambda module, inputs, output: seen.update(conv1=output))
# for parameter in model.conv1.parameters():
#     parameter.requires_grad = False
# ```
#
# There are no hooks to register and to remove: `activations` returns what every named layer puts out. A frozen layer
# keeps its parameters in `state`, where no gradient and no weight decay reaches them. And unlike with `requires_grad`,
# a frozen batch normalization keeps its statistics, too: no call of `.eval()` to forget.

# %%
seen = cnn.inspect.activations(model, params, state, images)
print({name: value.shape for name, value in seen.items()})

frozen = cnn.freeze(model, "conv1", "bn1")
few, kept = cnn.weights.adapt(frozen, params, state)
_, after = frozen.apply(few, kept, images, train=True)
assert list(few) == ["conv2", "fc"]
assert np.array_equal(after["bn1"]["mean"], state["bn1"]["mean"])

# %% [markdown]
# A function that replaces outputs, as a hook that returns something, is a `cnn.core.Watcher`. The gradient by an
# activation is `jax.grad` of the part behind it; `cnn.inspect.split_at` cuts a network in two.
#
# ## 9. The larger things
#
# | PyTorch | jaxcnn |
# | --- | --- |
# | `torch.autocast("cuda", torch.bfloat16)` | `cnn.mixed_precision(model)` |
# | `GradScaler` | `create_state(..., loss_scale=True)`, `Objective(loss_scale=True)` |
# | `loss.backward()` k times, then `optimizer.step()` | `make_step(..., accumulate=k)` |
# | `torch.utils.checkpoint` | `cnn.remat(model, "layer3")` |
# | `DistributedDataParallel`, `torchrun` | `make_step(..., devices=DataParallel())`, `jaxcnn train --distributed` |
# | `SyncBatchNorm` | always so on several devices |
# | `torch.save({"model": ..., "optimizer": ..., "epoch": ...})` | `fit(..., run=Run("runs/a"))`; then `resume=True` |
# | `torch.compile` | `jax.jit`; `make_step`'s result is compiled |
# | `torch.export`, TorchScript | `jaxcnn export RUN`: StableHLO that runs without jaxcnn |
# | `nn.utils.clip_grad_norm_` | `make_optimizer("adam", clip=1.0)`, or `optax.clip_by_global_norm` |
# | `torch.optim.lr_scheduler` | `make_optimizer("adam", schedule="cosine", steps=n)`, or a function as the rate |
# | early stopping | `fit(..., validation=held, patience=5)` |
# | loading such a run again | `cnn.train.Trained.load("runs/a", model=model)` |
# | parameter groups | `optax.multi_transform`, by the names of the layers |
# | EMA (`AveragedModel`) | `create_state(..., ema=True)`, `fit(..., ema=0.999)` |
#
# For instance, a batch in four parts, and half precision:

# %%
plain = cnn.serial(conv=cnn.conv(8, 3), act=cnn.relu, pool=cnn.global_avg_pool, head=cnn.dense(10))
results = {}
for name, net, parts in (("whole", plain, 1), ("parts", plain, 4), ("bfloat16", cnn.mixed_precision(plain), 1)):
    begin = cnn.train.create_state(net, optimizer, jax.random.key(0), images)
    one = cnn.train.make_step(net, cnn.losses.softmax_cross_entropy, optimizer, accumulate=parts)
    end, metrics = one(begin, (images, labels))
    results[name] = (end.params["conv"]["kernel"], float(metrics["loss"]))
    assert end.params["conv"]["kernel"].dtype == jnp.float32  # also where it is computed in bfloat16
print({name: round(loss, 4) for name, (_, loss) in results.items()})
assert np.allclose(results["parts"][0], results["whole"][0], atol=1e-5)  # with batch norm, each part has its own
assert abs(results["bfloat16"][1] - results["whole"][1]) < 0.02  # bfloat16 has three digits

# %% [markdown]
# ## 10. Surprises
#
# **Padding.** An integer pads every side by so many, as in PyTorch. `"SAME"` at stride 2 pads the far side more, as
# TensorFlow does, and is another function. A filter that would stop short of the edge is an error; PyTorch leaves the
# last pixels unseen without a word, and `floor=True` does that here.

# %%
row = jnp.arange(1.0, 7).reshape(1, 6, 1)
kernel = {"kernel": jnp.ones((3, 1, 1))}
by_one, same = (cnn.conv(1, 3, 2, padding, bias=False).apply(kernel, {}, row)[0].ravel() for padding in (1, "SAME"))
print("padding=1:", by_one.tolist(), ' "SAME":', same.tolist())
assert by_one.tolist() == [3, 9, 15]  # as F.conv1d(row, ones, stride=2, padding=1)
assert same.tolist() == [6, 12, 11]
try:
    cnn.conv(1, 3, 2).apply({**kernel, "bias": jnp.zeros(1)}, {}, row)
except cnn.LayerError as error:
    print(error)

# %% [markdown]
# **First weights** differ. PyTorch draws kernels and biases uniformly within $\pm 1/\sqrt{\text{fan-in}}$, jaxcnn draws
# kernels with variance 1 / fan-in, three times as much, and has biases of 0. (The networks in `cnn.models` start as
# their papers or torchvision do.) For PyTorch's kernels, pass their initializer:

# %%
uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
wide = cnn.dense(300, kernel_init=uniform).init(jax.random.key(0), jnp.zeros((1, 100)))[0]["kernel"]
assert 0.099 < jnp.abs(wide).max() <= 0.1  # 1 / sqrt(100)

# %% [markdown]
# **`jit` compiles once for each shape** (and for each value of a static argument). The first call therefore takes
# seconds, and a shorter last batch would be compiled again; that is why `batches` leaves it out, and `make_evaluate`
# fills it up. Python code in a compiled function, a `print` too, runs while it is traced, and not afterwards; there,
# arrays have shapes and no values. `jax.debug.print` prints at each call.

# %%
traced = []


@jax.jit
def mean(x):
    traced.append(x.shape)  # happens at tracing
    return x.mean()


for size in (64, 64, 64, 29):
    mean(jnp.ones(size))
print("traced for", traced)
assert traced == [(64,), (29,)]

# %% [markdown]
# **Arrays do not change.** `x[0] = 1` is an error, `x.at[0].set(1)` returns a new array. An index that is out of bounds
# is no error, but the last element. And the step of `make_step` *donates* its input: after `step(train_state, batch)`
# the old state is used up. Keep a copy if you need it (`jax.tree.map(jnp.copy, train_state)`).

# %%
five = jnp.arange(5)
try:
    five[0] = 1
except TypeError as error:
    print(str(error).splitlines()[0])
assert five.at[0].set(1).tolist() == [1, 1, 2, 3, 4]
assert five[10] == 4

used = train_state
train_state, _ = step(train_state, (images, labels))
assert used.params["fc"]["kernel"].is_deleted()

# %% [markdown]
# **NaN.** In place of `torch.autograd.set_detect_anomaly`, `jax.debug_nans(True)` stops at the operation that made the
# first one. **Time.** Calls return before the work is done, as on a GPU with PyTorch: `jax.block_until_ready(y)` is
# `torch.cuda.synchronize()`. **Precision.** Everything is float32; NumPy's float64 becomes float32 on the way in,
# unless `jax_enable_x64` is set.

# %%
try:
    with jax.debug_nans(True):
        jnp.log(jnp.array([1.0, -1.0]))
except FloatingPointError as error:
    print(str(error).splitlines()[0])
assert jnp.asarray(np.ones(3)).dtype == jnp.float32

# %% [markdown]
# **Defaults of optimizers.** `optax.adam(lr)` is `torch.optim.Adam(lr=lr)`, and SGD's momentum is the same recursion.
# AdamW's weight decay is 0.01 in PyTorch and 0.0001 in Optax, for all parameters in both; `make_optimizer("adam",
# weight_decay=...)` spares biases and normalizations.
#
# ```python
# w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
# adam = torch.optim.AdamW([w], lr=0.1)
# for _ in range(5):
#     adam.zero_grad()
#     (w ** 2).sum().backward()
#     adam.step()
# print(w.data)                                # tensor([ 0.5041, -1.4940,  2.4879])
# ```

# %%
w = jnp.array([1.0, -2.0, 3.0])
adam = optax.adamw(0.1, weight_decay=0.01)
memory = adam.init(w)
for _ in range(5):
    update, memory = adam.update(jax.grad(lambda w: (w**2).sum())(w), memory, w)
    w = optax.apply_updates(w, update)
print(w)
assert np.allclose(w, [0.5041, -1.4940, 2.4879], atol=1e-3)

# %% [markdown]
# ## Dictionary
#
# | PyTorch | jaxcnn or JAX |
# | --- | --- |
# | `nn.Module` with `__init__` and `forward` | `cnn.network(forward, name=layer, ...)` |
# | `nn.Sequential`, `nn.Identity` | `cnn.serial`, `cnn.identity` |
# | `torch.cat([a, b], dim=1)` of channels | `cnn.concat(a, b)` |
# | `nn.Conv2d(3, 8, 5, stride=2, padding=1)`; `Conv1d`, `Conv3d` | `cnn.conv(8, 5, 2, 1)`; by the input's axes |
# | `nn.ConvTranspose2d` | `cnn.conv_transpose` |
# | `nn.Linear(64, 10)`, `nn.Embedding(50, 6)` | `cnn.dense(10)`, `cnn.embed(50, 6)` |
# | `nn.BatchNorm2d(8, momentum=0.1)` | `cnn.batch_norm(momentum=0.9)` |
# | `nn.GroupNorm(4, 8)`, `nn.InstanceNorm2d(8)` | `cnn.group_norm(4)`, `cnn.group_norm(8)` |
# | `nn.LayerNorm` of a token, of an image | `cnn.layer_norm()`, `cnn.layer_norm(axes=(-3, -2, -1))` |
# | `nn.LocalResponseNorm(5, alpha)` | `cnn.local_response_norm(5, alpha / 5, k=1.0)` |
# | `nn.MaxPool2d(3, 2, ceil_mode=True)` | `cnn.max_pool(3, 2, ceil=True)` |
# | `nn.AdaptiveAvgPool2d(7)`, and `(1)` with `flatten` | `cnn.adaptive_avg_pool(7)`, `cnn.global_avg_pool` |
# | `nn.Dropout(0.5)`, `nn.Dropout2d(0.5)` | `cnn.dropout(0.5)`, `cnn.dropout(0.5, shared_axes=(1, 2))` |
# | `nn.CrossEntropyLoss(label_smoothing=0.1)` | `partial(cnn.losses.softmax_cross_entropy, smoothing=0.1)` |
# | `nn.BCEWithLogitsLoss` | `cnn.losses.sigmoid_cross_entropy` |
# | `model.parameters()`, `model.buffers()` | `params`, `state` |
# | `model.state_dict()`, `load_state_dict` | `cnn.weights.save`, `cnn.weights.load` |
# | `x.detach()`, `x.item()`, `x.numpy()` | `jax.lax.stop_gradient(x)`, `float(x)`, `np.asarray(x)` |
# | `torchvision.models.resnet18(weights=...)` | `cnn.models.resnet18()`, `cnn.weights.load`, `cnn.weights.preprocess` |
# | `torchsummary` | `cnn.inspect.summary(model, images[:1])` |
# | `torch.autograd.gradcheck` | `cnn.inspect.gradient_check` |
#
# A loss in jaxcnn gives one number an example; the mean is taken by the step.

# %%
outputs = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
print("F.cross_entropy(..., reduction='none'):", cnn.losses.softmax_cross_entropy(outputs, jnp.array([0, 2])))
assert np.allclose(cnn.losses.softmax_cross_entropy(outputs, jnp.array([0, 2])), [0.1698, 1.6803], atol=1e-4)
image = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
halved = cnn.local_response_norm(5, 1.0 / 5, 0.75, 1.0).apply({}, {}, image)[0]
assert np.allclose(halved[..., 4], image[..., 4] / (1 + (image[..., 2:7] ** 2).sum(-1) / 5) ** 0.75, atol=1e-5)
folder.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. **The mode.** Train `model` of section 1 for a few steps, and evaluate it with `train=True` on one image and on a
#    batch. Which layer makes the difference, and what would `model.eval()` have changed in PyTorch?
# 2. **Your own network.** Take a small `nn.Module` of yours, write it with `cnn.network`, and load its `state_dict`.
#    `cnn.weights.load` lists what is missing, left over or of another shape, under both names.
# 3. **A hook.** Write a `cnn.core.Watcher` whose `replaced` sets the third map of `conv1` to 0, and see with
#    `cnn.core.watch` how the outputs change.
#
# ## What next
#
# - [A layer of your own](10_a_layer_of_your_own.ipynb): what in PyTorch is a subclass of `nn.Module`.
# - [Fine-tuning](11_fine_tuning.ipynb) with weights that PyTorch trained.
# - `python -m experiments.speed` times the two libraries side by side.
