# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From an idea to a figure
#
# A piece of research in miniature, with the tools that a larger one needs: a question, a loss of your own, a callback
# that measures what the question asks for, runs for several settings and seeds, their table, and the figure.
#
# **The question.** Labels are often wrong. A network that is trained long enough learns the wrong ones, too, and its
# test accuracy falls. Does a loss help that cares less for examples it gets very wrong?

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import dataclasses
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxcnn as cnn

DATA = "digits"  # or "mnist"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})

folder, home = tempfile.TemporaryDirectory(), Path.cwd()
os.chdir(folder.name)  # the runs lie there

# %% [markdown]
# ## 1. The data
#
# Two in five of the training labels become another class, chosen at random. The test labels stay right.

# %%
train, test = (cnn.data.load(DATA, split) for split in ("train", "test"))
train = train.take(slice(600))
rng = np.random.default_rng(0)
wrong = rng.random(len(train)) < 0.4
classes = len(train.classes)
labels = np.where(wrong, (train.labels + rng.integers(1, classes, len(train))) % classes, train.labels)
noisy = dataclasses.replace(train, labels=labels.astype(train.labels.dtype))
print(f"{len(train):,} images, {100 * wrong.mean():.1f} % of the labels are wrong")

# %% [markdown]
# ## 2. A new loss
#
# The cross-entropy of an example, $-\log p_y$, has no bound: an example with a wrong label, to whose class the network
# gives a small $p_y$, has a large loss and a large gradient. Zhang and Sabuncu (2018) bound it:
#
# $$\ell_q = \frac{1 - p_y^q}{q}, \qquad 0 < q \le 1.$$
#
# For $q \to 0$ it is the cross-entropy; for $q = 1$ it is $1 - p_y$. Its gradient is that of the cross-entropy times
# $p_y^q$, so the examples that the network believes to be wrong count less. A loss is a function of outputs and labels
# that gives one number for each example; `per_example` says that no example's number depends on the others.


# %%
def bounded(q):
    """The loss (1 - p^q) / q of the label's probability p; the cross-entropy for q = 0."""

    @cnn.losses.per_example
    def loss(outputs, labels):
        log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)[:, 0]
        return -log_p if q == 0 else -jnp.expm1(q * log_p) / q

    return loss


# Against finite differences: the slope by the logit of the label is p^q (p - 1).
logits, label = jnp.array([[0.2, -1.0, 0.5]]), jnp.array([2])
p = jax.nn.softmax(logits)[0, 2]
print("slope by jax.grad:", jax.grad(lambda x: bounded(0.7)(x, label)[0])(logits)[0, 2])
print("by the formula:   ", p**0.7 * (p - 1))

# %% [markdown]
# ## 3. A callback
#
# To see whether wrong labels are learned, we measure after each epoch how many of them the network gives as its answer.
# A callback sees the training and adds numbers to the record of an epoch.


# %%
class WrongLearned(cnn.train.Callback):
    """Records `wrong_learned`, the share of the wrong labels that the network predicts."""

    def __init__(self, data):
        self.data = data

    def epoch(self, training, record):
        params, state = training.variables
        inputs = training.objective.inputs(self.data.images)
        outputs, _ = training.model.apply(params, state, inputs)
        record["wrong_learned"] = float(jnp.mean(outputs.argmax(-1) == self.data.labels))


# %% [markdown]
# ## 4. The runs
#
# Each $q$ with three seeds, one folder for each run. Everything random follows from the seed, so that each of these
# runs can be repeated to the last digit.

# %%
EPOCHS, QS, SEEDS = 25, (0.0, 0.3, 0.7, 1.0), (0, 1, 2)
histories, accuracies = {}, {}
for q in QS:
    objective = cnn.train.Objective(bounded(q), metrics={"accuracy": cnn.metrics.accuracy})
    for seed in SEEDS:
        result = cnn.train.fit(
            cnn.models.lenet5(classes), noisy, objective, test=test, epochs=EPOCHS, batch_size=32, seed=seed,
            run=f"runs/q{q}-seed{seed}", callbacks=[WrongLearned(noisy.take(wrong))], show=False,
        )  # fmt: skip
        histories[q, seed] = [record["wrong_learned"] for record in result.history]
        accuracies[q, seed] = result.result["test_accuracy"]
    mean, spread = np.mean([accuracies[q, s] for s in SEEDS]), np.std([accuracies[q, s] for s in SEEDS], ddof=1)
    print(f"q = {q}: test accuracy {100 * mean:.1f} % (standard deviation {100 * spread:.1f})")

# %% [markdown]
# The folders hold all that was measured. `cnn.runs.find` reads them again, on another day or in another program, and
# `jaxcnn runs` prints the same table in the terminal.

# %%
for run in cnn.runs.find(["runs"])[:4]:
    last = run.history[-1]
    print(run.path.name, {name: round(last[name], 3) for name in ("epoch", "loss", "accuracy", "wrong_learned")})

# %% [markdown]
# ## 5. The figure
#
# On the left, what the idea claims: with the bounded loss fewer wrong labels are learned. On the right, what it is good
# for. The line is the mean over the seeds, the points are the runs.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for q, color in zip(QS, (ORANGE, "0.5", GREEN, BLUE), strict=True):
    mean = np.mean([histories[q, seed] for seed in SEEDS], axis=0)
    left.plot(range(1, EPOCHS + 1), 100 * mean, color=color, label="cross-entropy" if q == 0 else f"q = {q}")
left.set(xlabel="epoch", ylabel="wrong labels learned, %", ylim=(0, 100))
left.legend(frameon=False)
right.plot(QS, [100 * np.mean([accuracies[q, s] for s in SEEDS]) for q in QS], color=BLUE)
for q, _ in accuracies:
    right.plot([q] * len(SEEDS), [100 * accuracies[q, s] for s in SEEDS], "o", color=BLUE, markersize=4)
right.set(xlabel="q", ylabel="test accuracy, %", xticks=QS)
plt.show()

# %% [markdown]
# The cross-entropy learns many of the wrong labels, and the test accuracy pays for it. The bounded loss stops short of
# them. (Two things to try: other shares of wrong labels, and whether `patience` with a validation set, whose labels are
# wrong too, does as well.)

# %%
best = max(QS, key=lambda q: np.mean([accuracies[q, s] for s in SEEDS]))
assert best > 0
assert np.mean([histories[0.0, s][-1] for s in SEEDS]) > 2 * np.mean([histories[best, s][-1] for s in SEEDS])

# %% [markdown]
# ## 6. A sweep over settings
#
# What is an option of `jaxcnn train` needs no code: a `Recipe` holds the settings, and `sweep` trains it with every
# combination of some of them. In the terminal it is
#
# ```sh
# jaxcnn sweep mlp --data digits --epochs 5 --over lr=0.0003,0.001,0.003,0.01 --over optimizer=adam,momentum --seeds 2
# ```
#
# A sweep that was stopped goes on by the same command, and a run that fails does not end it.

# %%
recipe = cnn.train.Recipe("mlp", "digits", epochs=5, limit=600)
swept = cnn.train.sweep(
    recipe, {"lr": [0.0003, 0.003, 0.03], "optimizer": ["adam", "momentum"]}, seeds=2, runs="runs/sweep", show=False
)
swept

# %%
swept.draw()

# %% [markdown]
# The best combination is a recipe again, to be trained for longer, or to be written to a file that
# `jaxcnn train --config` takes.

# %%
print(swept.best.optimizer, swept.best.lr)

# %%
os.chdir(home)
folder.cleanup()
