# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning
#
# With few images, start from a network that was trained on many: load its weights, replace the last layer, and continue
# training. With torchvision's published weights, this is
#
# ```python
# model = cnn.models.resnet18(classes=5)
# params, state = cnn.weights.load(model, "resnet18-f37072fd.pth", fresh="head")
# prepare = cnn.weights.preprocess(model)  # the shorter side to 256 pixels, the middle 224x224, ImageNet's mean
# objective = cnn.train.Objective(preprocess=prepare)
# result = cnn.train.fit(
#     model, data, objective, test=test, variables=(params, state), optimizer=optax.adam(1e-4), epochs=10
# )
# ```
#
# The file is torchvision's own `.pth`, or timm's `.safetensors`. PyTorch is not needed, and code inside a file is not
# executed. ImageNet's weights have 45 MB and need images of 224x224 pixels. To be self-contained, this notebook creates
# a small file of this kind and shows all steps with it.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image

import jaxcnn as cnn

DATA = "digits"  # or "mnist", "cifar10"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})

folder, home = tempfile.TemporaryDirectory(), Path.cwd()
os.chdir(folder.name)  # the files of this notebook lie there

# %% [markdown]
# ## 1. Somebody else's weights
#
# The old task has many images: the first five classes, each in four directions. Which class is it, and which way up?
# Twenty classes give better features than five. The new task is the other five classes, which the network has never
# seen, with **three images of each**.


# %%
def only(data, classes):
    """The images of these classes in three channels, labelled from 0."""
    keep = np.isin(data.labels, classes)
    images = data.images[keep]
    images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    return cnn.data.Dataset(images, data.labels[keep] - classes[0], tuple(data.classes[c] for c in classes))


def turned(data):
    """Each image in four directions; 4 times as many classes."""
    images = np.concatenate([np.rot90(data.images, k, axes=(1, 2)) for k in range(4)])
    labels = np.concatenate([data.labels + len(data.classes) * k for k in range(4)])
    return cnn.data.Dataset(images, labels, tuple(f"{name}, {90 * k}" for k in range(4) for name in data.classes))


def few(data, each, seed):
    """So many random images of each class."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(data.labels == label) for label in range(len(data.classes))]
    return data.take(np.concatenate([rng.choice(members, each, replace=False) for members in classes]))


train, test = cnn.data.load(DATA, "train"), cnn.data.load(DATA, "test")
train, test = train.take(slice(4000)), test.take(slice(2000))
old, old_test = (turned(only(part, range(5))) for part in (train, test))
new, new_test = (only(part, range(5, 10)) for part in (train, test))
print(f"{len(old):,} images of {len(old.classes)} classes; then three of each of {len(new.classes)}")
shown = few(new, 3, 0)
cnn.inspect.plots.images(shown.images, [new.classes[label] for label in shown.labels])

# %% [markdown]
# The network is a ResNet with one block in each of three stages, in the form for small images. `preprocess` has what
# the family's published weights expect; only its size is replaced. Weights and preprocessing belong together: later
# users of the file must preprocess images as we do here.


# %%
def small_resnet(classes):
    return cnn.models.resnet((1, 1, 1), classes, width=16, stem="cifar")


pretrained = small_resnet(len(old.classes))
published = cnn.weights.preprocess(pretrained)
prepare = dataclasses.replace(published, size=(16, 16), resize=())
print(published, prepare, sep="\n")

settings = {"epochs": 8, "batch_size": 64, "show": False}
result = cnn.train.fit(
    pretrained, old, cnn.train.Objective(augment=cnn.data.affine(), preprocess=prepare), test=old_test, **settings
)
print(f"test accuracy {100 * result.test.metrics['accuracy']:.1f} % of {len(old.classes)} classes")
cnn.weights.save(pretrained, result.params, result.model_state, "published.safetensors")
arrays = cnn.weights.read("published.safetensors")
print(f"{len(arrays)} arrays:", *(f"{name} {arrays[name].shape}" for name in list(arrays)[:7]), "...", sep="\n")

# %% [markdown]
# Those are torchvision's names and PyTorch's order of axes, so PyTorch could read the file, too.
#
# ## 2. Loading
#
# The arrays of the file and the parameters of the network must match one to one. An error lists all mismatches at once,
# under both names.


# %%
def says(call):
    try:
        call()
    except ValueError as error:
        print(error, end="\n\n")
        return str(error)
    raise AssertionError("nothing went wrong")


model = small_resnet(5)
assert 'fresh="head"' in says(lambda: cnn.weights.load(model, "published.safetensors"))  # other classes
deeper, flatter = (cnn.models.resnet(blocks, 20, width=16, stem="cifar") for blocks in ((1, 1, 1, 1), (1, 1)))
assert "that the file does not have" in says(lambda: cnn.weights.load(deeper, "published.safetensors"))
assert "that the model does not have" in says(lambda: cnn.weights.load(flatter, "published.safetensors"))

params, state = cnn.weights.load(model, "published.safetensors", fresh="head", key=jax.random.key(1))
assert np.array_equal(params["conv1"]["kernel"], result.params["conv1"]["kernel"])
assert params["fc"]["kernel"].shape == (64, 5)

# %% [markdown]
# `fresh="head"` initializes the last layer anew; `fresh=("layer3", "fc")` would start more of them. Network and file
# have to agree in everything else: a file of other names is read with `names=`.
#
# ## 3. What to train
#
# `cnn.freeze` gives the same network with some layers fixed. Their parameters move from `params` to `state`, where
# neither gradient nor weight decay nor optimizer sees them, and a frozen **batch normalization keeps its statistics**:
# it is run as in evaluation. If all but the head is frozen, what is trained is a linear classifier on the old network's
# features, a **linear probe**.

# %%
trunk = [name for name in model.sublayers if name != "fc"]
probe = cnn.freeze(model, *trunk)
probe_params, probe_state = cnn.weights.load(probe, "published.safetensors", fresh="head")


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


print(f"learned: {count(probe_params):,} of {count(params):,}: {list(probe_params)}")
_, after = probe.apply(probe_params, probe_state, prepare(new.images[:8]), train=True)
assert np.array_equal(after["bn1"]["mean"], probe_state["bn1"]["mean"])
_, after = model.apply(params, state, prepare(new.images[:8]), train=True)
assert not np.array_equal(after["bn1"]["mean"], state["bn1"]["mean"])

# %% [markdown]
# The second line of checks shows a common mistake. If only the *gradient* of a layer is set to 0, as by an optimizer
# that leaves it out, its running mean and variance still move to the new images, and its output with them. In PyTorch,
# `requires_grad = False` has the same effect unless `.eval()` is called on the layer.
#
# Now the comparison, on the same few images: from random weights; the probe; all layers from the old weights, at a
# smaller rate than was used for the old task; the probe first, and then all layers.

# %%
loss = cnn.losses.softmax_cross_entropy


def method(model, rate):
    """A function that trains on few images and measures; its step is compiled once, for all seeds."""
    optimizer = optax.adam(rate)
    step = cnn.train.make_step(model, cnn.train.Objective(loss, preprocess=prepare), optimizer)
    evaluate = cnn.train.make_evaluate(model, cnn.train.Objective(loss, preprocess=prepare))

    def learn(seed, steps, variables=None):
        state = cnn.train.create_state(model, optimizer, jax.random.key(seed), new.images[:1], prepare, variables)
        images = few(new, 3, seed)
        for _ in range(steps):  # each with all of the 15 images
            state, _ = step(state, (images.images, images.labels))
        accuracy = evaluate(state.params, state.model_state, new_test, keep=False).metrics["accuracy"]
        return accuracy, (state.params, state.model_state)

    return learn


learn_all, learn_head = method(model, 1e-3), method(probe, 1e-2)
rows = {"all layers, from random weights": [], "linear probe": [], "all layers": [], "probe, then all layers": []}
for seed in range(5):
    load = {"fresh": "head", "key": jax.random.key(seed)}
    rows["all layers, from random weights"].append(learn_all(seed, 60)[0])
    accuracy, probed = learn_head(seed, 100, cnn.weights.load(probe, "published.safetensors", **load))
    rows["linear probe"].append(accuracy)
    rows["all layers"].append(learn_all(seed, 60, cnn.weights.load(model, "published.safetensors", **load))[0])
    thawed = cnn.weights.adapt(model, *probed)  # the same variables, where the network without frozen layers has them
    rows["probe, then all layers"].append(learn_all(seed, 60, thawed)[0])

print(f"test accuracy in %, {len(new_test)} images; learned from three of each class, five choices of them")
for name, row in rows.items():
    print(f"{name:32}", *(f"{100 * a:5.1f}" for a in row), f"  mean {100 * np.mean(row):.1f}")

figure, axes = plt.subplots(figsize=(6.5, 2.2))
for place, (row, color) in enumerate(zip(rows.values(), ("0.5", BLUE, ORANGE, GREEN))):
    axes.plot(100 * np.array(row), [-place] * 5, "o", color=color, alpha=0.7)
    axes.plot(100 * np.mean(row), -place, "|", color=color, markersize=18, markeredgewidth=2)
axes.set(yticks=range(0, -4, -1), yticklabels=rows, xlabel="test accuracy, %", ylim=(-3.5, 0.5))
axes.spines[["top", "right"]].set_visible(False)
plt.show()

margin = np.array(rows["all layers"]) - rows["all layers, from random weights"]
error = margin.std(ddof=1) / 5**0.5
print(f"the old weights are worth {100 * margin.mean():.1f} points, with a standard error of {100 * error:.1f}")
assert margin.mean() > (0.03 if DATA == "digits" else 0)

# %% [markdown]
# Other results depend on the data. This table has the other settings of `DATA`, with means of five:
#
# | | random weights | probe | all layers | probe, then all layers |
# | --- | ---: | ---: | ---: | ---: |
# | `"mnist"`, 948 test images | 51.0 % | 79.7 % | 79.8 % | 83.0 % |
# | `"cifar10"`, 993 test images | 37.0 % | 42.4 % | 43.6 % | 43.7 % |
#
# The old weights help everywhere. The probe learns 325 numbers. Where it is as good as all layers, as on MNIST, the old
# features are what the new task needs; on the embedded digits they are not, but a good place to start from. Training
# the head first, so that its large initial gradients do not damage the earlier layers, helps on MNIST only. Compare all
# of these on your own data, with several choices of the images, since they differ by several points.
#
# ## 4. A rate for each layer
#
# First layers see edges, which are the same everywhere; late layers are made for the old classes. So late layers should
# change more. `optax.multi_transform` takes an optimizer for each group, and the groups are the names of the layers.

# %%
groups = {"conv1": 1e-4, "bn1": 1e-4, "layer1": 1e-4, "layer2": 3e-4, "layer3": 1e-3, "fc": 3e-3}
each = {name: optax.adam(rate) for name, rate in groups.items()}
optimizer = optax.multi_transform(each, {name: name for name in groups})

gradient = jax.tree.map(lambda p: np.sin(np.arange(p.size, dtype=np.float32) + 1).reshape(p.shape), params)
updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
for name, rate in groups.items():
    moved = max(float(abs(update).max()) for update in jax.tree.leaves(updates[name]))
    print(f"{name:7} moves by {moved:.1e}")
    assert abs(moved / rate - 1) < 0.01  # Adam's first step has the length of the rate, whatever the gradient

# %% [markdown]
# `cnn.train.fit(..., optimizer=optimizer)` takes it as any other. `optax.set_to_zero()` for a group would keep its
# parameters, but not its statistics; `freeze` keeps both, and saves the work of their gradients.
#
# ## 5. From the command line
#
# The new images as files, a folder for each class, and the network as a function. `--weights` loads, `--fresh` and
# `--freeze` are those of above, and `--size` says what the network gets if it is not 224x224.

# %%
for split, images in (("train", few(new, 10, 0)), ("test", few(new_test, 20, 0))):
    for number, (image, label) in enumerate(zip(images.images, images.labels)):
        path = Path("images", split, images.classes[label], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

Path("small.py").write_text("""
import jaxcnn as cnn

def small_resnet(classes):
    return cnn.models.resnet((1, 1, 1), classes, width=16, stem="cifar")
""")


def command(line):
    """Runs a command, and shows what it prints, but for the times."""
    print("$", line)
    done = subprocess.run([sys.executable, "-m", *line.split()], capture_output=True, text=True)
    print(re.sub(r"  [0-9,]+ images/s.*| \(\d+ s\)", "", done.stdout), done.stderr, sep="")


command(
    "jaxcnn train small.py:small_resnet --data ./images --size 16,16 --weights published.safetensors"
    " --freeze conv1,bn1,layer1 --lr 0.003 --epochs 8 --batch-size 10 --validation 0 --run runs/tuned"
)

# %% [markdown]
# The run keeps the preprocessing with the weights, so that `jaxcnn evaluate`, `predict`, `explore` and `export` use the
# same. Its network is the frozen one; to publish your own, save it from there.

# %%
tuned = cnn.train.Trained.load("runs/tuned")
frozen = tuned.model_state["conv1"]["frozen"]["kernel"]
assert np.array_equal(frozen, result.params["conv1"]["kernel"])
accuracy = (np.argmax(tuned.outputs(new_test.images), axis=1) == new_test.labels).mean()
print(f"test accuracy on all {len(new_test)} images: {100 * accuracy:.1f} %")
assert accuracy > (0.3 if DATA == "cifar10" else 0.7)

cnn.weights.save(tuned.model, tuned.params, tuned.model_state, "mine.safetensors")
again, _ = cnn.weights.load(small_resnet(5), "mine.safetensors")  # into the network without frozen layers
assert np.array_equal(again["conv1"]["kernel"], frozen)

os.chdir(home)
folder.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. **More images.** Take 1, 10 and 30 of each class in `few`. Where do the old weights stop helping?
# 2. **Where to cut.** Freeze `conv1`, `bn1` and `layer1` only, then `layer2`, too. Which is best with three images?
# 3. **The wrong preprocessing.** Fine-tune with `cnn.data.Preprocess.of(new.images, (16, 16))`, then with images of
#    48x48 pixels. How much is lost?
# 4. **The trap.** Make `probe` with `optax.multi_transform` and `optax.set_to_zero` instead of `freeze`, and compare
#    the running means and the accuracy.
#
# ## What next
#
# - [Coming from PyTorch](12_coming_from_pytorch.ipynb) has the two libraries side by side.
# - `cnn.weights.load` reads AlexNet, VGG, GoogLeNet and ResNet of torchvision and timm, and Flax's ResNet; `names=` is
#   for any other file.
# - `cnn.models.fcn8s(backbone=...)`: the same trunk for a class of every pixel.
