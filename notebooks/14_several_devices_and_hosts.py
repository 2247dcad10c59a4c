# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Several devices and hosts
#
# One batch, divided among the GPUs of a machine or among machines: what is computed, why it is the same as on one
# device, how this library does it, and what goes wrong. Everything runs on a CPU, which JAX divides into as many
# devices as we say. They share the same cores, so that nothing becomes faster here; but each has arrays of its own,
# they communicate, and a program that is right on four of them is right on four GPUs.
#
# The number of devices must be set before JAX computes anything: `jax_num_cpu_devices` in the first cell, or
# `JAX_NUM_CPU_DEVICES=4` in the environment. GPUs and TPUs need nothing of the kind.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import functools
import json
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxcnn as cnn
from jaxcnn.devices import DataParallel, OneDevice, join

jax.config.update("jax_platforms", "cpu")  # also where there is a GPU
jax.config.update("jax_num_cpu_devices", 4)

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})

digits = cnn.data.load("digits", "train")
digits = cnn.data.Dataset(digits.images[:, ::4, ::4], digits.labels, digits.classes, "digits")  # 8x8 pixels
print(jax.devices())
assert len(jax.devices()) == 4

# %% [markdown]
# ## 1. Data parallelism on paper
#
# The loss of a batch of $N$ examples is a mean, and so is its gradient. Divide the batch into $n$ equal parts; then the
# mean over all is the mean of the parts' means,
#
# $$\frac1N \sum_{i=1}^N \nabla L_i = \frac1n \sum_{k=1}^n \Bigl( \frac{n}{N} \sum_{i \in \text{part } k} \nabla L_i
# \Bigr).$$
#
# Each device has all parameters and one part, computes its gradient, and the devices take the mean of their gradients
# (an **all-reduce**). Then all of them take the same step, and stay equal. With four losses 1, 2, 3, 6 the mean is 3;
# the halves have means 1.5 and 4.5, whose mean is 3. Parts of three and one have means 2 and 6, whose mean is 4: parts
# have to be equal.

# %%
four = np.array([1.0, 2, 3, 6])
assert four.mean() == np.mean([four[:2].mean(), four[2:].mean()]) == 3
assert np.mean([four[:3].mean(), four[3:].mean()]) == 4

model = cnn.serial(flat=cnn.flatten, fc=cnn.dense(32), act=cnn.tanh, head=cnn.dense(10))
images, labels = jnp.asarray(digits.images[:64] / 255.0, jnp.float32), jnp.asarray(digits.labels[:64])
params, state = model.init(jax.random.key(0), images)


def loss(params, images, labels):
    logits, _ = model.apply(params, state, images, train=True)
    return cnn.losses.softmax_cross_entropy(logits, labels).mean()


gradient = jax.jit(jax.grad(loss))
whole = gradient(params, images, labels)
parts = [gradient(params, images[k::4], labels[k::4]) for k in range(4)]
mean = jax.tree.map(lambda *g: sum(g) / 4, *parts)


def apart(a, b):
    """The largest difference of two trees."""
    a, b = jax.device_get((a, b))
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


print(f"mean of four gradients against the gradient of the batch: {apart(mean, whole):.0e}")
assert apart(mean, whole) < 1e-6  # the order in which float32 numbers of about 0.1 are added up
assert apart(parts[0], whole) > 1e-3  # one part alone is another gradient

# %% [markdown]
# ## 2. The same by `jit`
#
# In JAX, you do not write the four parts. A **mesh** names the devices, a **sharding** describes how an array is
# distributed over them, and `jit` compiles the ordinary program so that each device computes what it has.
# `PartitionSpec("data")` divides the first axis, `PartitionSpec()` puts the whole on each device.

# %%
mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
split, copied = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
batch = jax.device_put((images, labels), split)
everywhere = jax.device_put(params, copied)

for name, array in (("images", batch[0]), ("fc/kernel", everywhere["fc"]["kernel"])):
    print(f"{name}: {array.shape}, on each device {array.addressable_data(0).shape}")
assert batch[0].addressable_data(0).shape == (16, 8, 8, 1)
assert apart(gradient(everywhere, *batch), whole) < 1e-6

program = jax.jit(jax.grad(loss), out_shardings=copied).lower(everywhere, *batch).compile().as_text()
(reduced,) = [line.strip() for line in program.splitlines() if " all-reduce(" in line]
print("what the devices tell each other:", re.findall(r"f32\[[\d,]+\]", reduced.split("all-reduce(")[0]))
assert "f32[16,64]" in program  # a quarter of the batch, its pixels in a row
assert "f32[64,64]" not in program

# %% [markdown]
# The compiler found by itself where a sum over the batch becomes a sum over devices: one `all-reduce` of the gradient,
# the two kernels and the two biases. In one device's program the batch has 16 examples, and no array has all 64.
#
# ## 3. What the library does
#
# Only `DataParallel()` deals with devices. `replicate` puts a training state on all of them, `batch` divides a batch,
# and `make_step(devices=...)` compiles the step. `fit(devices=...)` does all of that, and `jaxcnn train` does it by
# itself where there are several devices (`--devices 2` for fewer).
#
# The network has the two layers for which parts are not independent: batch normalization and dropout.


# %%
def network():
    return cnn.serial(
        conv=cnn.conv(8, 3, padding=1, bias=False), bn=cnn.batch_norm(), act=cnn.relu, drop=cnn.dropout(0.3),
        flat=cnn.flatten, head=cnn.dense(10),
    )  # fmt: skip


optimizer = optax.sgd(0.05, momentum=0.9)


def train(on, **settings):
    """The losses of an epoch of 64 examples a step, and the state after it."""
    net = network()
    now = on.replicate(cnn.train.create_state(net, optimizer, jax.random.key(0), digits.images[:1]))
    step = cnn.train.make_step(net, cnn.losses.softmax_cross_entropy, optimizer, devices=on, **settings)
    losses = []
    for pair in cnn.data.batches(digits, 64):
        now, metrics = step(now, on.batch(pair))
        losses.append(float(metrics["loss"]))
    return np.array(losses), on.single(now)


found = {"1 device": train(OneDevice())}
for name, on in (("2 devices", DataParallel(2)), ("4 devices", DataParallel(4)), ("4, pmap", DataParallel(4, "pmap"))):
    found[name] = train(on)
alone, alone_state = found["1 device"]
for name, (losses, after) in found.items():
    print(f"{name:10} last loss {losses[-1]:.6f}, largest relative difference {np.abs(losses / alone - 1).max():.0e}")
    assert np.abs(losses / alone - 1).max() < 1e-4
    assert apart(after.model_state, alone_state.model_state) < 1e-3

# %% [markdown]
# The differences are rounding. Sums are added up in another order, each step goes on from there, and so they grow with
# the number of steps, by about the same factor that any other change of the last digit would (after 50 steps of a
# residual network the README has $10^{-4}$). An error in the computation would show in the first digits.
#
# **Batch normalization.** Two devices have $(0, 0)$ and $(2, 2)$. Each by itself finds the variance 0, and all four
# values have the mean 1 and the variance 1. Under `jit` over a mesh, statistics are those of the whole batch: the
# program is the program of the whole batch. Under `pmap`, `shard_map` or `vmap` each part is alone until it is told
# otherwise, and `cnn.synchronized` tells it the name of the axis. `make_step` does so by itself.

# %%
values = jnp.array([0.0, 0, 2, 2])[:, None]  # four examples of one channel
bn = cnn.batch_norm(eps=0.0)
bn_variables = bn.init(jax.random.key(0), values)


def on_two(layer, x, *variables, **key):
    """A layer on two parts of a batch, each of which only knows of the other by the axis's name."""
    run = functools.partial(layer.apply, *variables, train=True, **key)
    return jax.vmap(lambda part: run(part)[0], axis_name="data")(x.reshape(2, 2, -1)).reshape(4, -1)


together = on_two(cnn.synchronized(bn, "data"), values, *bn_variables)
assert together.ravel().tolist() == bn.apply(*bn_variables, values, train=True)[0].ravel().tolist() == [-1, -1, 1, 1]
apart_ = on_two(cnn.batch_norm(), values, *bn_variables)
assert apart_.ravel().tolist() == [0, 0, 0, 0]  # the two parts can no longer be told apart
print("synchronized:", together.ravel(), " by themselves:", apart_.ravel())

# %% [markdown]
# **Dropout.** All devices get the same key. By themselves they would drop the same places of each part; synchronized,
# each drops what the whole batch would have dropped there, so that the number of devices changes nothing.

# %%
drop, ones, key = cnn.dropout(0.5), jnp.ones((4, 12)), jax.random.key(3)
expected, _ = drop.apply({}, {}, ones, train=True, key=key)
same_twice = on_two(drop, ones, {}, {}, key=key)
assert (on_two(cnn.synchronized(drop, "data"), ones, {}, {}, key=key) == expected).all()
assert (same_twice[:2] == same_twice[2:]).all()

# %% [markdown]
# (Augmentation draws for the whole batch under `jit`, too. Under `pmap` each device folds its number into the key.)
#
# ## 4. Less memory, more speed: what goes together
#
# | | what it changes on each device | same result? |
# | --- | --- | --- |
# | `accumulate=4` | a quarter of the activations: parts of a batch in turn | but for batch norm, which sees a part |
# | `ema=0.999` | one more copy of the parameters | the same; the average is what is measured |
# | `cnn.mixed_precision(net)` | activations and products in bfloat16 | to two or three digits |
# | `loss_scale=True`, float16 | a step that is not finite is left out, on all devices | to three digits |
# | `cnn.remat(net, "layer1")` | a block's activations are computed twice instead of kept | the same |
# | `optax.MultiSteps` | gradients of several batches, one step | a larger batch |
#
# All work with `devices=`. With `accumulate=k`, part $j$ has the examples $j, j + k, j + 2k, \dots$ so that each device
# has its share of each part.

# %%
plain = cnn.serial(conv=cnn.conv(4, 3), act=cnn.tanh, flat=cnn.flatten, head=cnn.dense(10))  # nothing sees the batch


def one_step(on, **settings):
    start = on.replicate(cnn.train.create_state(plain, optimizer, jax.random.key(0), digits.images[:1]))
    step = cnn.train.make_step(plain, cnn.losses.softmax_cross_entropy, optimizer, devices=on, **settings)
    return on.single(step(start, on.batch((digits.images[:64], digits.labels[:64])))[0]).params


in_parts, at_once = one_step(DataParallel(4), accumulate=4), one_step(OneDevice())
print(f"16 x 4 examples on four devices against 64 on one: {apart(in_parts, at_once):.0e}")
assert apart(in_parts, at_once) < 1e-6

# %% [markdown]
# ## 5. The batch and the learning rate
#
# `batch_size` is that of all devices together. Twice the devices for the same `batch_size` is the same training,
# faster. To keep each device busy you will want a larger batch, and that is another training: fewer steps, less noise.
# The usual start is the **linear rule** (Goyal et al. 2017): $k$ times the batch, $k$ times the rate. Four small steps
#
# $$\theta - \alpha (g_1 + g_2 + g_3 + g_4)$$
#
# are one step with the rate $4\alpha$ and the mean gradient of the four batches, as long as the gradients hardly change
# on the way. Early in training they do change, hence a few epochs of **warm-up** (`--warmup 5`), and the rule ends
# somewhere: Goyal et al. come to 8192 images with ResNet-50. At the first step of our small network:


# %%
@jax.jit
def both_ways(rate):
    """The parameters after four steps of 16 examples, and after one of 64 with four times the rate."""
    small = params
    for k in range(4):
        step = jax.grad(loss)(small, images[16 * k :][:16], labels[16 * k :][:16])
        small = jax.tree.map(lambda p, g: p - rate * g, small, step)
    return small, jax.tree.map(lambda p, g: p - 4 * rate * g, params, whole)


for rate in (0.001, 0.01, 0.1, 1.0):
    small, large = both_ways(rate)
    differ = apart(small, large) / apart(large, params)
    print(f"rate {rate:5}: the two ends differ by {100 * differ:5.1f} % of the way")
    assert rate > 0.001 or differ < 0.02

# %% [markdown]
# ## 6. What to expect
#
# A step takes the time of its part, $t$, and the time of the all-reduce. In a ring of $n$ devices each sends and
# receives $2 \frac{n - 1}{n}$ times the gradient, hardly more for many devices than for two. ResNet-50 has 25.6 million
# parameters, 102 MB in float32. If each device's part takes 100 ms, and nothing of the communication is hidden behind
# the computation (100 GB/s are within reach of the links inside a machine of GPUs, 1.25 GB/s are 10 Gbit Ethernet):

# %%
numbers = cnn.inspect.summary(cnn.models.resnet50(), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)).params
devices = np.array([1, 2, 4, 8, 16, 32])
figure, axes = plt.subplots(figsize=(6.5, 3.2))
for gigabytes, color in ((100, BLUE), (12.5, GREEN), (1.25, ORANGE)):
    took = 2 * (devices - 1) / devices * 4 * numbers / (1e9 * gigabytes)
    efficiency = 0.1 / (0.1 + took)
    axes.plot(devices, 100 * efficiency, "o-", color=color, label=f"{gigabytes} GB/s")
    fast = f"{8 * efficiency[3]:.1f} times as fast as one"
    print(f"{gigabytes:5} GB/s, 8 devices: {1000 * took[3]:5.1f} ms for the all-reduce, {fast}")
axes.set(xscale="log", xticks=devices, xticklabels=devices, ylim=(0, 105), xlabel="devices", ylabel="efficiency, %")
axes.minorticks_off()
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# That is arithmetic, not a measurement. XLA hides a part of the communication behind the backward pass; the data may
# not arrive in time (`--stream` reads, decodes and crops on the processor, and on eight GPUs that is what is short
# first); and a small network on many devices has steps of a few milliseconds, in which starting them counts. Measure:
# compare the `images_per_second` of a run on one device and on all.
#
# ## 7. Several hosts
#
# A GPU of another machine is one more device of the mesh. Each machine runs the same command, the processes find each
# other, and `jax.devices()` then lists the devices of all. On Slurm, Kubernetes, Open MPI and Cloud TPU the cluster
# provides the process numbers; elsewhere, set three variables.
#
# ```sh
# srun --nodes 2 --ntasks-per-node 1 jaxcnn train resnet50 --data /data/imagenet --stream --batch-size 1024 \
#     --distributed
#
# export JAX_COORDINATOR_ADDRESS=10.0.0.1:1234 JAX_NUM_PROCESSES=2     # the first host's address, the same on both
# JAX_PROCESS_ID=0 jaxcnn train resnet50 ... --run /shared/run --distributed    # on the first, and 1 on the second
# ```
#
# In a program it is `jaxcnn.devices.join()`, before anything is computed. Two processes on this machine, started from
# here as two hosts would start them, with two devices each:

# %%
WORKER = """
import json, jax, optax, jaxcnn as cnn
from jaxcnn.devices import DataParallel, join
join()
digits = cnn.data.load("digits", "train")
digits = cnn.data.Dataset(digits.images[:, ::4, ::4], digits.labels, digits.classes, "digits")
net = cnn.serial(
    conv=cnn.conv(8, 3, padding=1, bias=False), bn=cnn.batch_norm(), act=cnn.relu, drop=cnn.dropout(0.3),
    flat=cnn.flatten, head=cnn.dense(10))
on, optimizer = DataParallel(), optax.sgd(0.05, momentum=0.9)
state = on.replicate(cnn.train.create_state(net, optimizer, jax.random.key(0), digits.images[:1]))
step = cnn.train.make_step(net, cnn.losses.softmax_cross_entropy, optimizer, devices=on)
read = 0
for images, labels in cnn.data.batches(digits, 64, shard=on.shard):      # each process reads its part of each batch
    state, metrics = step(state, on.batch((images, labels)))
    read += len(images)
print(json.dumps({"process": on.shard[0], "devices": on.size, "read": read, "loss": float(metrics["loss"])}))
"""

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
cluster = {
    "JAX_COORDINATOR_ADDRESS": address,
    "JAX_NUM_PROCESSES": "2",
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_PLATFORMS": "cpu",
}
hosts = [
    subprocess.Popen(
        [sys.executable, "-c", WORKER], env={**os.environ, **cluster, "JAX_PROCESS_ID": str(i)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    for i in range(2)
]  # fmt: skip
said = [process.communicate(timeout=240) for process in hosts]
assert [process.returncode for process in hosts] == [0, 0], said
answers = [json.loads(out.splitlines()[-1]) for out, _ in said]
print(*answers, sep="\n")
assert answers[0]["loss"] == answers[1]["loss"]
assert answers[0]["devices"] == 4
assert answers[0]["read"] == answers[1]["read"] == len(alone) * 32
assert abs(answers[0]["loss"] / alone[-1] - 1) < 1e-4

# %% [markdown]
# Both end with the same loss, to the last digit, and it is the loss of the single device above.
#
# - **Data.** `on.shard` is (which process, of how many): each reads its part of every batch, from the same shuffled
#   order, so that the batches do not depend on the number of hosts. `batch_size` is that of all hosts together. Every
#   host needs access to the files.
# - **Writing.** The first process alone writes the run's folder, and draws the progress.
# - **Checkpoints.** A state is the same everywhere, so it is saved once, by the first process; with `--resume` every
#   process reads it. The folder of the run has to be on a disk that all hosts see, or be copied first. It does not
#   matter how many devices a run had before: it goes on with another number, as long as they divide the batch.
# - **SIGTERM.** A cluster ends jobs with it. A process alone finishes its step, saves, and says how to go on. Of
#   several, the one that gets the signal tells the others, all stop after the same step, and it is saved; the same
#   command with `--resume` ends with the figures of an undisturbed run.
# - **One process is lost** without a word (its machine failed): the others wait for it in the next all-reduce until
#   JAX's heartbeat misses it, and end. Start all of them again with `--resume`.
#
# ## 8. `pmap`
#
# `pmap` is the older form. The function is the program of *one* device, arrays have a first axis of devices, and means
# over devices are written out. `DataParallel(4, "pmap")` does that; for a `pmap` (or `shard_map`) of your own,
# `make_step(axis_name="data")` returns the step that is not compiled yet.

# %%
on = DataParallel(4, "pmap")
pair = digits.images[:64], digits.labels[:64]
own_step = cnn.train.make_step(network(), cnn.losses.softmax_cross_entropy, optimizer, axis_name="data")
start = on.replicate(cnn.train.create_state(network(), optimizer, jax.random.key(0), digits.images[:1]))
print("a kernel:", start.params["conv"]["kernel"].shape, " images:", on.batch(pair)[0].shape)
assert on.batch(pair)[0].shape == (4, 16, 8, 8, 1)
shapes = jax.eval_shape(jax.pmap(own_step, "data"), start, on.batch(pair))
assert shapes[1]["loss"].shape == (4,)  # the mean, once on each device

# %% [markdown]
# ## 9. What goes wrong, and what it says


# %%
def says(function):
    try:
        function()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}\n")
        return
    raise AssertionError("it should have been an error")


spread = DataParallel()
says(lambda: DataParallel(9))
says(lambda: spread.batch((digits.images[:30], digits.labels[:30])))
says(lambda: cnn.train.fit(network(), digits, batch_size=50, devices=spread))
says(lambda: cnn.data.batches(digits, 64, shard=(0, 3)).__next__())
says(lambda: join("127.0.0.1:1234", processes=2, process=2))
says(lambda: join("127.0.0.1:1234", processes=2, process=0))  # too late: JAX has been computing here
says(lambda: jax.config.update("jax_num_cpu_devices", 8))  # too late, too

# %% [markdown]
# A batch that did not go through `batch` is divided by the step itself on one machine. On several hosts each has only
# its part, and JAX refuses: "Passing non-trivial shardings for numpy inputs is not allowed". A state that was given to
# a step is used up, its memory is the new state's. To use it again is an error, "Buffer has been deleted or donated";
# on several devices of one CPU, jaxlib 0.10 ends the whole process instead.
#
# ## Exercises
#
# 1. **Eight devices.** Change the first cell to 8. Which assertions still hold, and why does section 3 need a batch
#    that 8 divides?
# 2. **Wrong statistics.** Write a `pmap` step with `axis_name` for the gradient only (`jax.lax.pmean`), without
#    `cnn.synchronized`. How far from one device are its losses after an epoch, and after how many steps do the devices'
#    running statistics differ?
# 3. **Rounding.** Replace `optax.sgd` by `optax.adam`. By how much do the losses of section 3 differ now? (Adam divides
#    by the gradient's own size: where that is tiny, so is what the rounding has to be compared with.)
# 4. **The linear rule.** At which rate in section 5 do the two ways differ by half of the way? Start from trained
#    parameters instead, and compare.
#
# ## What next
#
# - `python -m experiments.devices` measures this with 1 to 8 devices and up to 4 processes; the README has the table.
# - `jaxcnn/devices.py` is short: it is the only file that knows of devices.
