# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training, and what else a network can be
#
# How does a network learn? The first half of this notebook explains the loss, its gradient by hand and by
# backpropagation, stochastic gradient descent and what makes it slow, overfitting and regularization, and depth. The
# second half turns networks that classify images into networks that find objects or label each pixel. Each section has
# the formula, numbers that can be checked on paper, and the library's result. Every claim stands in an `assert`: change
# a number, and the notebook tells you what no longer holds. The slips of the slides are listed at the end.
#
# Gradient descent on a quadratic, the largest stable learning rate, and local minima are explained in [Is this digit a
# 5?](00_is_this_digit_a_five.ipynb), sections 1 and 5.

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import functools
import itertools
import math
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxcnn as cnn
from jaxcnn import detection, segmentation
from jaxcnn.models.fast_rcnn import vgg_backbone

DATA = "digits"  # or "mnist", "cifar10"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})


def halved(data):
    """The images at half the size: every network here is small, and so are its inputs."""
    smaller = cnn.ops.avg_pool(jnp.asarray(data.images, jnp.float32), 2)
    return cnn.data.Dataset(np.asarray(jnp.round(smaller), np.uint8), data.labels, data.classes, data.name)


train, test = (halved(cnn.data.load(DATA, split).take(slice(2000))) for split in ("train", "test"))
print(train)
print(test)


# %% [markdown]
# ## 1. Least squares: why descend at all?
#
# To fit $A x \approx b$, minimize $F(x) = \lVert A x - b \rVert^2$. Its gradient is $2 A^T (A x - b)$, and where it
# vanishes,
#
# $$x = (A^T A)^{-1} A^T b .$$
#
# These **normal equations** give the answer at once, so why take steps? The slides say that the matrices are huge for a
# million points. We test this with a line through a million points:

# %%
points = 1_000_000
draw = np.random.default_rng(0)
A = np.stack([draw.uniform(0, 2, points), np.ones(points)], axis=1).astype(np.float32)
b = (A @ np.float32([2.0, 0.5]) + 0.3 * draw.standard_normal(points)).astype(np.float32)

some = jnp.array([1.0, -1.0])
few = slice(1000)
by_formula = 2 * A[few].T @ (A[few] @ some - b[few])
assert jnp.allclose(jax.grad(lambda x: jnp.sum((A[few] @ x - b[few]) ** 2))(some), by_formula, rtol=1e-4)

# A^T A and A^T b are sums over the points: they can be added up block by block, and A need never be in memory.
ATA, ATb = np.zeros((2, 2)), np.zeros(2)
for begin in range(0, points, 10_000):
    block = A[begin : begin + 10_000].astype(np.float64)
    ATA += block.T @ block
    ATb += block.T @ b[begin : begin + 10_000]
exact = np.linalg.solve(ATA, ATb)
assert ATA.shape == (2, 2)
assert np.allclose(exact, np.linalg.lstsq(A.astype(np.float64), b, rcond=None)[0])
print(f"A: {A.nbytes / 1e6:.0f} MB.  A^T A: {ATA.size} numbers.  x = ({exact[0]:.4f}, {exact[1]:.4f})")

# %% [markdown]
# So a million points are no obstacle: $A^T A$ has as many rows as there are **parameters**, here 2. The obstacle is a
# million parameters, and a model that is not linear, for which there are no normal equations.

# %%
for name, n in (("a line", 2), ("logistic regression on MNIST", 785), ("LeNet-5", 61_706), ("AlexNet", 60_965_224)):
    print(f"{name:30} {n:>11,} parameters: A^T A would take {4 * n * n:>22,} bytes")
assert 4 * 61_706**2 == 15_230_521_744  # 15 GB, for a network of 1998

# %% [markdown]
# A step needs only the gradient, and a hundred of the million points give a good estimate of it. The next cell compares
# steps with all points and steps with a hundred points at a time: it shows the distance from the exact answer against
# the number of points used.


# %%
@jax.jit
def one_pass(rows, answers, rate):
    """The x after each step of one pass over points in batches."""

    def step(x, batch):
        row, answer = batch
        x = x - rate * 2 * row.T @ (row @ x - answer) / len(row)
        return x, x

    return jax.lax.scan(step, jnp.zeros(2), (rows, answers))[1]


whole = [np.zeros(2)]
for _ in range(20):
    whole.append(whole[-1] - 0.3 * 2 * (ATA @ whole[-1] - ATb) / points)
stochastic = one_pass(A[:100_000].reshape(-1, 100, 2), b[:100_000].reshape(-1, 100), 0.1)
away = [np.linalg.norm(np.asarray(path) - exact, axis=1) for path in (whole[1:], stochastic)]
assert away[1][-1] < 0.1 < away[0][0]  # a tenth of one pass does what the first exact steps cannot

figure, axes = plt.subplots(figsize=(6, 2.8))
axes.loglog(points * np.arange(1, 21), away[0], ".-", color=BLUE, label="all points a step")
axes.loglog(100 * np.arange(1, 1001), away[1], color=ORANGE, linewidth=1, label="100 points a step")
axes.set(xlabel="points looked at", ylabel="distance from the exact x")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 2. How good is a network?
#
# **The zero-one loss**, $L(\hat y, y) = I(\hat y \ne y)$, is what we want to minimize, but it is useless for descent
# because it is a step function. Its gradient is 0 almost everywhere and does not exist at the jumps. We take a linear
# classifier of ten classes, move from random weights to better ones, and plot both losses on the way.

# %%
X = jnp.asarray(train.images.reshape(len(train), -1) / 255.0, jnp.float32)
Y = jnp.asarray(train.labels)


def zero_one(W, X=X, Y=Y):
    return cnn.losses.zero_one(X @ W, Y).mean()


def entropy(W, X=X, Y=Y):
    return cnn.losses.softmax_cross_entropy(X @ W, Y).mean()


W = 0.1 * jax.random.normal(jax.random.key(0), (X.shape[1], 10))
assert (jax.grad(zero_one)(W) == 0).all()
assert jnp.abs(jax.grad(entropy)(W)).max() > 0.01

uphill = jax.grad(entropy)(W)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
walk, closer = jnp.linspace(0, 0.5, 61), jnp.linspace(0.1, 0.11, 61)
for panel, steps, title in zip(axes, (walk, closer), ("a walk", "a closer look")):
    for loss, color, name in ((zero_one, BLUE, "zero-one"), (entropy, ORANGE, "cross-entropy")):
        height = jax.vmap(lambda t, loss=loss: loss(W - t * uphill, X[:200], Y[:200]))(steps)
        shown = height if panel is axes[0] else height - height[0]
        panel.plot(steps, shown, ".-", markersize=3, linewidth=0.8, color=color, label=name)
    panel.set(xlabel="t, along the negative gradient", title=title)
axes[0].set(ylabel="loss on 200 images")
axes[1].set(ylabel="change of the loss", xticks=(0.1, 0.105, 0.11))
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# **Softmax** turns scores into probabilities, which change smoothly:
#
# $$p(c_k = 1 \mid x) = \frac{e^{o_k}}{\sum_{j=1}^{C} e^{o_j}} .$$
#
# For $o = (2, 1, 0)$: $e^2 + e^1 + e^0 = 7.389 + 2.718 + 1 = 11.107$, so $p = (0.665, 0.245, 0.090)$. The loss is the
# **negative log-likelihood**, also called **cross-entropy**,
#
# $$L(x, y; \theta) = -\sum_j y_j \log p(c_j \mid x),$$
#
# with $y$ one-hot: only the term of the true class is left. If that is the first, $L = -\log 0.665 = 0.408$.

# %%
o = jnp.array([2.0, 1.0, 0.0])
p = cnn.softmax(o)
assert jnp.allclose(p, jnp.exp(o) / jnp.exp(o).sum())
assert jnp.allclose(p, jnp.array([0.665, 0.245, 0.090]), atol=5e-4)
assert jnp.allclose(p.sum(), 1)
assert jnp.allclose(cnn.softmax(o + 100), p, atol=1e-6)  # only differences of scores matter
assert jnp.allclose(cnn.losses.softmax_cross_entropy(o[None], jnp.array([0])), -jnp.log(p[0]))

# The sum over examples is minus the log of the probability of all labels together.
likelihood = jnp.prod(jnp.take_along_axis(cnn.softmax(X[:20] @ W), Y[:20, None], 1))
assert jnp.allclose(cnn.losses.softmax_cross_entropy(X[:20] @ W, Y[:20]).sum(), -jnp.log(likelihood), rtol=1e-4)
print("p =", p, " -log p =", -jnp.log(p))

# %% [markdown]
# **Why "entropy"?** Let the target be any distribution $q$, then
#
# $$-\sum_j q_j \log p_j = \underbrace{-\sum_j q_j \log q_j}_{H(q)} +
# \underbrace{\sum_j q_j \log \tfrac{q_j}{p_j}}_{\mathrm{KL}(q \,\Vert\, p)} .$$
#
# $H(q)$ does not depend on the network, so whoever minimizes the cross-entropy minimizes the KL divergence. For a
# one-hot $q$, $H(q) = 0$ and the two are the same number.

# %%
q = jnp.array([0.7, 0.2, 0.1])
H = -jnp.sum(q * jnp.log(q))
cross, divergence = (loss(o[None], q[None])[0] for loss in (cnn.losses.softmax_cross_entropy, cnn.losses.kl_divergence))
one_hot = jnp.array([1.0, 0.0, 0.0])
print(f"cross-entropy {cross:.4f} = H(q) {H:.4f} + KL {divergence:.4f}")
assert jnp.allclose(cross, H + divergence, atol=1e-6)
assert jnp.allclose(cnn.losses.kl_divergence(o[None], one_hot[None]), -jnp.log(p[0]), atol=1e-6)

# %% [markdown]
# **Its gradient** with respect to the scores is simple: $\partial L / \partial o = p(c \mid x) - y$. (The slides write
# $\partial L / \partial \theta$ there. $p - y$ has one number per class, not one per parameter: it is the derivative
# with respect to the input of the softmax, as the title of that slide says.) The score of the true class increases in
# proportion to the missing probability, and the other scores decrease in proportion to theirs.

# %%
gradient = jax.grad(lambda o: cnn.losses.softmax_cross_entropy(o[None], jnp.array([0]))[0])(o)
print("p - y =", p - one_hot)
assert jnp.allclose(gradient, p - one_hot, atol=1e-6)
assert jnp.allclose(gradient.sum(), 0, atol=1e-6)

# %% [markdown]
# ## 3. Wiggle to decrease the loss
#
# The key idea of training needs no calculus. Change one weight by a very small $\epsilon$, compute the loss again, and
# check whether it decreased. Then
#
# $$W_{ij} \leftarrow W_{ij} +
# \epsilon\, \mathrm{sgn}\bigl(L(\theta) - L(\theta \setminus W_{ij}, W_{ij} + \epsilon)\bigr).$$
#
# Here is a network of three layers, $h^1 = \max(0, W^1 x)$, $h^2 = \max(0, W^2 h^1)$, $o = W^3 h^2$, on 64 numbers of
# an image, and this estimate for each of its weights.


# %%
def tiny_loss(weights, x, target, xp=np):
    """The mean loss of a network whose layers are in `weights`; x and target have a column for each example."""
    for W in weights[:-1]:
        x = xp.maximum(0, W @ x)
    o = weights[-1] @ x
    o = o - o.max(0)
    return -(target * (o - xp.log(xp.exp(o).sum(0)))).sum() / x.shape[1]


def wiggle(weights, x, target, epsilon):
    """For each weight, the loss with that weight changed less the loss: one forward pass each."""
    base, changes = tiny_loss(weights, x, target), [np.empty_like(W) for W in weights]
    for W, change in zip(weights, changes):
        for place in np.ndindex(W.shape):
            kept = W[place]
            W[place] = kept + epsilon
            change[place] = tiny_loss(weights, x, target) - base
            W[place] = kept
    return changes


eight = np.asarray(jax.image.resize(train.images[:64].mean(-1) / 255.0, (64, 8, 8), "linear"))
x64 = eight.reshape(64, 64).T.astype(np.float64)
t64 = np.eye(10)[train.labels[:64]].T
start = [draw.standard_normal(shape) * (2 / shape[1]) ** 0.5 for shape in ((16, 64), (12, 16), (10, 12))]
count = sum(W.size for W in start)

gradients = jax.grad(lambda w: tiny_loss(w, jnp.asarray(x64), jnp.asarray(t64), jnp))(start)
flat = np.concatenate([np.ravel(g) for g in gradients])
large = np.abs(flat) > 1e-4 * np.abs(flat).max()


def agreement(dtype, epsilon):
    changes = wiggle([W.astype(dtype) for W in start], x64.astype(dtype), t64.astype(dtype), dtype(epsilon))
    return (np.sign(np.concatenate([c.ravel() for c in changes])) == np.sign(flat))[large].mean()


signs = {(name, e): agreement(dtype, e) for name, dtype, e in (
    ("64 bits", np.float64, 1e-6), ("32 bits", np.float32, 1e-6), ("32 bits", np.float32, 1e-3),
)}  # fmt: skip
for (name, e), share in signs.items():
    print(f"{name}, epsilon {e:.0e}: {100 * share:5.1f} % of the wiggles have the sign of the gradient")
assert signs["64 bits", 1e-6] > 0.99
assert signs["32 bits", 1e-6] < 0.5 < 0.7 < signs["32 bits", 1e-3]

# %% [markdown]
# With the slides' $\epsilon = 10^{-6}$, in the 32 bits in which networks are trained, much of it is noise: the loss is
# about 2.3, numbers of that size are $2.4 \cdot 10^{-7}$ apart, and the change that we look for is smaller. A larger
# $\epsilon$, or 64 bits, solves this problem. The rule also uses $\epsilon$ twice: for the difference and as the step
# size. A step of $10^{-6}$ lowers the loss by $\epsilon \sum |\partial L / \partial W|$ at best, which is far too slow.
# The next cell uses a larger step than $\epsilon$ and compares it with gradient steps. The cost is counted in forward
# passes; a gradient costs about three of them (see section 4).


# %%
def by_signs(weights, rate):
    changes = wiggle(weights, x64, t64, 1e-6)
    return [W - rate * np.sign(c) for W, c in zip(weights, changes)]


@jax.jit
def by_gradient(weights, rate):
    g = jax.grad(lambda w: tiny_loss(w, jnp.asarray(x64), jnp.asarray(t64), jnp))(weights)
    return [W - rate * d for W, d in zip(weights, g)]


best = 1e-6 * np.abs(flat).sum()
stepped = [W - 1e-6 * np.sign(c) for W, c in zip(start, wiggle(start, x64, t64, 1e-6))]
fell = tiny_loss(start, x64, t64) - tiny_loss(stepped, x64, t64)
print(f"all weights moved by 1e-6: the loss falls by {fell:.2e}; epsilon times the sum of |gradient|: {best:.2e}")
assert math.isclose(fell, best, rel_tol=0.02)

walks = {}
for name, step, rate, passes, steps in (
    ("wiggle, signs", by_signs, 0.01, count + 1, 10), ("gradient", by_gradient, 0.3, 3, 4000),
):  # fmt: skip
    weights, losses = start, [tiny_loss(start, x64, t64)]
    for _ in range(steps):
        weights = step(weights, rate)
        losses.append(tiny_loss([np.asarray(W) for W in weights], x64, t64))
    walks[name] = (np.arange(steps + 1) * passes, losses)
print(f"{count} weights: a wiggle of all costs {count + 1} forward passes, a gradient about 3")
assert walks["wiggle, signs"][1][-1] < walks["wiggle, signs"][1][0]
assert walks["gradient"][1][count // 3] < walks["wiggle, signs"][1][1]  # after the passes of the first wiggle

figure, axes = plt.subplots(figsize=(6, 2.8))
for (name, (passes, losses)), color in zip(walks.items(), (BLUE, ORANGE)):
    axes.plot(passes, losses, ".-" if "wiggle" in name else "-", color=color, label=name)
axes.set(xlabel="forward passes", ylabel="loss", ylim=(0, 2.6))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# For LeNet-5 one wiggle of all weights would cost 61,707 forward passes. The gradient gives all of these signs, and
# also the sizes, at the cost of three.
#
# ## 4. Backward propagation
#
# We apply the chain rule from the loss back to the input. For one example of the network above, with $p - y$ from
# section 2:
#
# $$\frac{\partial L}{\partial W^3} = (p - y)\, h^{2T}, \qquad \frac{\partial L}{\partial h^2} = W^{3T} (p - y),$$
# $$\frac{\partial L}{\partial W^2} = d^2\, h^{1T}, \qquad \frac{\partial L}{\partial h^1} = W^{2T} d^2, \qquad
# \frac{\partial L}{\partial W^1} = d^1\, x^T, \qquad d^k = \frac{\partial L}{\partial h^k} \odot [h^k > 0] .$$
#
# On paper: $x = (1, 2)$, and the weights below. $h^1 = (1, 1)$, $h^2 = \max(0, (2, -1)) = (2, 0)$, $o = (2, 0)$,
# $p = (0.881, 0.119)$; the true class is the second, $p - y = (0.881, -0.881)$.

# %%
x, y = np.array([1.0, 2.0]), np.array([0.0, 1.0])
W1, W2, W3 = np.array([[1.0, 0], [-1, 1]]), np.array([[1.0, 1], [1, -2]]), np.eye(2)

h1 = np.maximum(0, W1 @ x)
h2 = np.maximum(0, W2 @ h1)
o = W3 @ h2
p = np.exp(o) / np.exp(o).sum()
dW3, dh2 = np.outer(p - y, h2), W3.T @ (p - y)
dW2, dh1 = np.outer(dh2 * (h2 > 0), h1), W2.T @ (dh2 * (h2 > 0))
dW1 = np.outer(dh1 * (h1 > 0), x)

assert h1.tolist() == [1, 1]
assert h2.tolist() == [2, 0]
assert np.allclose(p - y, [0.881, -0.881], atol=5e-4)
automatic = jax.grad(lambda w: tiny_loss(w, jnp.asarray(x)[:, None], jnp.asarray(y)[:, None], jnp))([W1, W2, W3])
for name, hand, auto in zip(("dW1", "dW2", "dW3"), (dW1, dW2, dW3), automatic):
    print(f"{name} =", np.array2string(hand, precision=3, separator=", ").replace("\n", ""))
    assert np.allclose(hand, auto, atol=1e-6)

# %% [markdown]
# The second row of $\partial L / \partial W^2$ is 0: that unit was inactive and learns nothing from this example.
#
# **Forward and backward are dual.** An addition in the forward pass copies the gradient in the backward pass; a copy in
# the forward pass adds gradients. A multiplication by $W$ becomes a multiplication by $W^T$.

# %%
_, back = jax.vjp(lambda a, b: a + b, 1.0, 2.0)
assert back(5.0) == (5.0, 5.0)  # a sum: copied
_, back = jax.vjp(lambda a: (a, a), 1.0)
assert back((5.0, 7.0)) == (12.0,)  # a copy: summed
_, back = jax.vjp(lambda h: jnp.asarray(W2) @ h, jnp.asarray(h1))
assert jnp.allclose(back(jnp.array([5.0, 7.0]))[0], W2.T @ np.array([5.0, 7.0]))

# %% [markdown]
# **The trainer.** The slides have it in Matlab. Here it is in NumPy, with the slides' names: an example is a column,
# `jac` the derivative of the nonlinearity. Any function that has a derivative almost everywhere will do, not only ReLU.


# %%
def relu(z):
    return np.maximum(0, z), (z > 0).astype(z.dtype)  # the value, and the derivative, 0 at 0


def tanh(z):
    return np.tanh(z), 1 - np.tanh(z) ** 2


def fprop(W, b, x, nonlinearity):
    h, jac = [x], [None]  # h[0] is the input, which has no derivative to keep
    for i in range(len(W) - 1):
        value, slope = nonlinearity(W[i] @ h[i] + b[i])
        h.append(value)
        jac.append(slope)
    o = W[-1] @ h[-1] + b[-1]  # the last layer has none
    e = np.exp(o - o.max(0))
    return h, jac, e / e.sum(0)


def bprop(W, h, jac, prediction, target):
    d, Wgrad, bgrad = prediction - target, [], []
    for i in reversed(range(len(W))):
        Wgrad.insert(0, d @ h[i].T)
        bgrad.insert(0, d.sum(1, keepdims=True))
        if i > 0:
            d = (W[i].T @ d) * jac[i]
    return Wgrad, bgrad


def update(W, b, Wgrad, bgrad, lr, batch_size):
    W = [w - lr / batch_size * g for w, g in zip(W, Wgrad)]
    return W, [v - lr / batch_size * g for v, g in zip(b, bgrad)]


def cross_entropy_loss(prediction, target):
    return -(np.log(prediction) * target).sum() / prediction.shape[1]


def starting_weights(sizes, seed=0):
    rng = np.random.default_rng(seed)
    W = [rng.standard_normal((n, m)) * (2 / m) ** 0.5 for m, n in itertools.pairwise(sizes)]
    return W, [np.zeros((n, 1)) for n in sizes[1:]]


columns, targets = np.asarray(X, np.float64).T, np.eye(10)[train.labels].T
W, b = starting_weights((len(columns), 48, 32, 10))
for nonlinearity, activation in ((relu, jax.nn.relu), (tanh, jnp.tanh)):
    h, jac, prediction = fprop(W, b, columns[:, :50], nonlinearity)
    ours = bprop(W, h, jac, prediction, targets[:, :50])

    def loss(Wb, activation=activation):
        h = jnp.asarray(columns[:, :50])
        for w, v in zip(*Wb):
            o = w @ h + v
            h = activation(o)
        return cnn.losses.softmax_cross_entropy(o.T, Y[:50]).sum()

    theirs = jax.grad(loss)((W, b))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert np.allclose(mine, other, rtol=1e-3, atol=1e-3)  # 64 bits against 32
print("our gradients are those of jax.grad, with ReLU and with tanh")

# %% [markdown]
# The Matlab code on the slides needs these corrections before it runs:
#
# - `l` in `h{l-1}` and `dh{l-1}` is not defined; it is `nr_layers`.
# - For `i = 1` it reads `h{0}`, `jac{0}` and writes `dh{0}`. Matlab counts from 1, and the input has no `jac`: set
#   `h{1}` to the input and shift the indices, and end the backward loop at the first layer.
# - The forward loop runs to `nr_layers - 1` and so puts the last layer through the nonlinearity, too. The next line
#   overwrites the result, so this is harmless but superfluous. It should end at `nr_layers - 2`.
# - `softmax` is not part of plain Matlab, and `log(prediction)` is minus infinity where a probability rounds to 0.
#
# Now it trains. A step takes a random **mini-batch** of 20 images; a pass over all of them is an **epoch**.


# %%
def trainer(sizes, lr, epochs, batch_size=20, nonlinearity=relu, seed=0, watch=lambda W, b: None):
    """Weights, and what `watch` said before the first step and after each."""
    (W, b), seen, order = starting_weights(sizes, seed), [], np.random.default_rng(seed)
    seen.append(watch(W, b))
    for _ in range(epochs):
        shuffled = order.permutation(columns.shape[1])
        for begin in range(0, columns.shape[1] - batch_size + 1, batch_size):
            batch = shuffled[begin : begin + batch_size]
            h, jac, prediction = fprop(W, b, columns[:, batch], nonlinearity)
            W, b = update(W, b, *bprop(W, h, jac, prediction, targets[:, batch]), lr, batch_size)
            seen.append(watch(W, b))
    return W, b, seen


def loss_of_500(W, b):
    prediction = fprop(W, b, columns[:, :500], relu)[2]
    return cross_entropy_loss(np.maximum(prediction, 1e-30), targets[:, :500])


sizes = (len(columns), 48, 32, 10)
W, b, losses = trainer(sizes, lr=0.1, epochs=8, watch=loss_of_500)
unseen = test.images.reshape(len(test), -1).T / 255.0
accuracy = (fprop(W, b, unseen, relu)[2].argmax(0) == test.labels).mean()
rises = np.mean(np.diff(losses) > 0)
print(f"test accuracy {100 * accuracy:.1f} %")
print(f"the loss on 500 training images rose in {100 * rises:.0f} % of {len(losses) - 1} steps")
assert accuracy > (0.15 if DATA == "cifar10" else 0.8)
assert rises > 0.1
assert losses[-1] < (0.95 if DATA == "cifar10" else 0.5) * losses[0]

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(np.arange(len(losses)) * 20 / columns.shape[1], losses, color=BLUE, linewidth=0.8)
axes.set(xlabel="epochs", ylabel="loss on 500 training images", ylim=(0, None))
plt.show()

# %% [markdown]
# That is **stochastic gradient descent**: the gradient of a few images is correct only on average. The loss does not
# decrease in each step, but it decreases over many steps. (Batches of 1, 32 and all images are compared in the notebook
# on fives, section 5.)
#
# **ReLU at 0** has no derivative. Any number between 0 and 1 is a subgradient; the slides and the library take 0. The
# gradient of JAX's `maximum` is $\frac12$ there.

# %%
assert jax.grad(cnn.relu)(0.0) == 0
assert jax.grad(lambda z: jnp.maximum(0.0, z))(0.0) == 0.5

# %% [markdown]
# **Dead units.** A unit that is inactive for every image has zero gradients for all of its weights, so it remains
# inactive. A single step that is too long can cause this ("overstep"), as the output of a ReLU is not bounded. How many
# of the 48 + 32 units are dead after three epochs, at different learning rates?


# %%
def dead_units(W, b):
    h, _, _ = fprop(W, b, columns, relu)
    return np.concatenate([(layer <= 0).all(1) for layer in h[1:]])


dead = {}
for lr in (0.1, 0.5, 3.0):
    W, b, _ = trainer(sizes, lr=lr, epochs=3)
    dead[lr] = dead_units(W, b)
    print(f"learning rate {lr}: {dead[lr].sum():2} of 80 dead, loss {loss_of_500(W, b):.2f}")
h, jac, prediction = fprop(W, b, columns, relu)
Wgrad, _ = bprop(W, h, jac, prediction, targets)
assert (Wgrad[0][dead[3.0][:48]] == 0).all()  # nothing will ever bring them back
assert dead[3.0].sum() > dead[0.1].sum()

# %% [markdown]
# **The cost.** Forward, a layer multiplies once: $W h$. Backward twice: $d\, h^T$ for the weights, $W^T d$ for the
# layer before. So a backward pass costs about two forward passes, a little less because the gradient with respect to
# the image is not needed. The library counts the operations of both in the traced program. The measured ratio differs
# from run to run.

# %%
print("operations      forward        backward   ratio")
for name, model, image in (
    ("MLP", cnn.models.mlp(), (28, 28, 1)),
    ("LeNet-5", cnn.models.lenet5(), (32, 32, 1)),
    ("VGG-16", cnn.models.vgg16(), (224, 224, 3)),
):
    total = cnn.inspect.summary(model, jax.ShapeDtypeStruct((1, *image), jnp.float32)).total
    ratio = total.backward_flops / total.flops
    print(f"{name:8} {total.flops:>14,} {total.backward_flops:>15,} {ratio:7.2f}")
    assert 1 < ratio < 2.1

wide = [jax.random.normal(jax.random.key(i), (512, 512)) / 16 for i in range(6)]
batch_in, batch_out = (jax.random.normal(jax.random.key(9 + i), (512, 256)) for i in range(2))


def squares(w):
    h = batch_in
    for layer in w:
        h = cnn.relu(layer @ h)
    return jnp.mean((h - batch_out) ** 2)


def fastest(f):
    jax.block_until_ready(f(wide))
    times = []
    for _ in range(15):
        began = time.perf_counter()
        jax.block_until_ready(f(wide))
        times.append(time.perf_counter() - began)
    return min(times)


ratio = fastest(jax.jit(jax.value_and_grad(squares))) / fastest(jax.jit(squares))
print(f"forward and backward took {ratio:.1f} times as long as forward alone")


# %% [markdown]
# The perceptron's ratio is only 1: nearly all of its work is the first layer's, and that has no layer before it.
#
# ## 5. Valleys, momentum, smaller steps, flat regions
#
# **Oscillation.** In a narrow valley, such as $L = \frac12 (x^2 + 25 y^2)$, the gradient points across rather than
# along. Steps that are short enough for the steep direction ($\gamma < 2/25$) are far too short for the other.
# **Momentum** adds up the earlier gradients, so that the alternating parts cancel and the steady part grows:
#
# $$v_t = \alpha\, v_{t-1} + g_t, \qquad \theta_{t+1} = \theta_t - \gamma\, v_t
# = \theta_t - \gamma\,(g_t + \alpha g_{t-1} + \alpha^2 g_{t-2} + \dots) .$$
#
# The slides print $\theta_{t+1} = \theta_t - \gamma\,(\alpha\, g_{t-1} + g_t)$, with the last **gradient** where the
# last **velocity** should stand. That is the sum above without all terms after the second. How much do they matter? On
# a quadratic each form multiplies the error, along the direction of curvature $\lambda$, by the roots of
#
# $$z = 1 - \gamma\lambda, \qquad z^2 - (1 - \gamma\lambda)\, z + \alpha\gamma\lambda = 0, \qquad
# z^2 - (1 + \alpha - \gamma\lambda)\, z + \alpha = 0 .$$
#
# Search for the best $\gamma$ and $\alpha$ of each:

# %%
curvatures = np.array([1.0, 25.0])
polynomials = {
    "gradient": lambda g, a, k: [1, -(1 - g * k)],
    "two gradients": lambda g, a, k: [1, -(1 - g * k), a * g * k],
    "velocity": lambda g, a, k: [1, -(1 + a - g * k), a],
}


def shrinkage(form, rate, alpha):
    """By what a step multiplies the error in the long run: the largest root, in the worst direction."""
    return max(np.abs(np.roots(polynomials[form](rate, alpha, k))).max() for k in curvatures)


best = {}
for form in polynomials:
    alphas = (0.0,) if form == "gradient" else np.arange(0, 0.95, 0.03)
    best[form] = min((shrinkage(form, g, a), g, a) for g in np.arange(0.005, 0.16, 0.003) for a in alphas)
    z, rate, alpha = best[form]
    steps = math.log(1000) / -math.log(z)
    print(f"{form:14} rate {rate:.3f}, alpha {alpha:.2f}: {steps:3.0f} steps for a thousandth of the distance")
assert best["velocity"][0] < best["two gradients"][0] < best["gradient"][0]
assert math.isclose(best["gradient"][0], (25 - 1) / (25 + 1), rel_tol=0.01)
assert math.isclose(best["velocity"][0], (5 - 1) / (5 + 1), rel_tol=0.05)  # the square root of 25

# %% [markdown]
# The slides' form helps, too, but by far less. (At the usual $\alpha = 0.9$ it diverges from $\gamma =
# 1/(\alpha\lambda_{\max})$ on, which is hardly more than half of the limit for plain descent.) The paths on the loss
# surface:


# %%
def valley(theta):
    return 0.5 * (theta[0] ** 2 + 25 * theta[1] ** 2)


def path_of(rate, alpha, form, steps, loss=valley, start=(-8.0, 1.2)):
    gradient = jax.jit(jax.grad(loss))
    theta, path = np.array(start), [np.array(start)]
    before = velocity = np.zeros(2)
    for _ in range(steps):
        g = np.asarray(gradient(theta))
        velocity = alpha * velocity + g
        move = {"gradient": g, "two gradients": alpha * before + g, "velocity": velocity}[form]
        theta, before = theta - rate * move, g
        path.append(theta)
    return np.array(path)


figure, axes = plt.subplots(3, 1, figsize=(8, 5.2), sharex=True)
grid = np.meshgrid(np.linspace(-9, 3, 120), np.linspace(-4, 4, 60))
ends = {}
for panel, form, color in zip(axes, polynomials, (BLUE, GREEN, ORANGE)):
    path = path_of(*best[form][1:], form, steps=20)
    ends[form] = np.linalg.norm(path[-1])
    panel.contour(
        *grid, 0.5 * (grid[0] ** 2 + 25 * grid[1] ** 2), levels=[1, 4, 9, 16, 25, 36, 64, 100, 144], colors="0.8"
    )
    panel.plot(*path.T, ".-", color=color, linewidth=1)
    panel.plot(0, 0, "*", color="black", markersize=9)
    panel.set(title=f"{form}: after 20 steps {ends[form]:.2f} away", ylabel="y", ylim=(-4, 4))
axes[-1].set(xlabel="x")
plt.show()
assert ends["velocity"] < 0.5 * ends["two gradients"] < 0.5 * ends["gradient"]

# Optax, and with it `cnn.train.make_optimizer("momentum")`, has the velocity.
optimizer = optax.sgd(0.05, momentum=0.9)
theta, memory = jnp.array([-8.0, 1.2]), optimizer.init(jnp.zeros(2))
for _ in range(20):
    updates, memory = optimizer.update(jax.grad(valley)(theta), memory)
    theta = theta + updates
assert jnp.allclose(theta, path_of(0.05, 0.9, "velocity", 20)[-1], atol=1e-4)

# %% [markdown]
# **Smaller steps, less ping-pong.** With a noisy gradient and a constant rate $\gamma$, descent never converges. On $L
# = \frac12 \lambda \theta^2$ with noise of variance $\sigma^2$ on the gradient, the error settles at the variance
# $\gamma\sigma^2 / (\lambda (2 - \gamma\lambda))$: a tenth of the rate gives about a tenth of the variance, but needs
# ten times as many steps. A rate that **decays** is both fast and precise. The plot shows the means of 500 runs, and
# one run:


# %%
def noisy_descent(rates, key, sigma=1.0, start=10.0):
    def step(theta, inputs):
        rate, noise = inputs
        theta = theta - rate * (theta + sigma * noise)
        return theta, theta

    return jax.lax.scan(step, start, (rates, jax.random.normal(key, rates.shape)))[1]


t = jnp.arange(200)
rates = {"0.5": jnp.full(200, 0.5), "0.02": jnp.full(200, 0.02), "0.5, decaying": 0.5 / (1 + t / 8)}
keys = jax.random.split(jax.random.key(0), 500)
figure, axes = plt.subplots(1, 2, figsize=(10, 2.9))
settled = {}
for (name, rate), color in zip(rates.items(), (BLUE, GREEN, ORANGE)):
    runs = jax.vmap(noisy_descent, (None, 0))(rate, keys)
    error = (runs**2).mean(0)
    settled[name] = float(error[150:].mean())
    axes[0].semilogy(error, color=color, label=f"rate {name}")
    axes[1].plot(runs[0], color=color, linewidth=0.9)
axes[0].set(xlabel="step", ylabel=r"mean of $\theta^2$")
axes[0].legend(frameon=False)
axes[1].set(xlabel="step", ylabel=r"$\theta$ in one run", ylim=(-3, 5))
plt.show()
print("mean square error of the last 50 steps:", {name: round(value, 3) for name, value in settled.items()})
assert math.isclose(settled["0.5"], 0.5 / (2 - 0.5), rel_tol=0.1)
assert settled["0.5, decaying"] < 0.2 * settled["0.5"]
assert settled["0.5, decaying"] < settled["0.02"]

# %% [markdown]
# Networks behave likewise: LeNet-5 on MNIST has 1.15 % of its test images wrong after five epochs of momentum at a
# constant rate, and 0.89 % where the rate decays to 0 (`python -m experiments.optimizers`; the README has the table).
#
# **Flat regions.** Where the gradient is nearly 0, descent is very slow. There are two kinds of flat regions. A
# **plateau**: a sigmoid unit with $\theta = -8$ that should say 1. The squared error $(g(\theta) - 1)^2$ is flat there,
# since $g' = g (1 - g)$ is tiny though the answer is as wrong as can be. With the cross-entropy, $g'$ cancels and $g -
# 1$ is left. (One more reason for that loss.) A **saddle**: uphill one way, downhill another, flat in the middle.


# %%
def squared(theta):
    return (cnn.sigmoid(theta[0]) - 1) ** 2


def negative_log(theta):
    return -jax.nn.log_sigmoid(theta[0])


def saddle(theta):
    return theta[0] ** 2 / 2 - theta[1] ** 2 / 2 + theta[1] ** 4 / 4


figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
arrived = {}
for loss, color, name in ((squared, BLUE, "squared error"), (negative_log, ORANGE, "cross-entropy")):
    path = path_of(0.5, 0, "gradient", 100, loss, (-8.0, 0.0))
    arrived[name] = path[-1, 0]
    axes[0].plot(path[:, 0], color=color, label=name)
axes[0].set(title="plateau", xlabel="step", ylabel=r"$\theta$")
axes[0].legend(frameon=False)
grid = np.meshgrid(np.linspace(-1.6, 1.6, 80), np.linspace(-1.6, 1.6, 80))
axes[1].contourf(*grid, saddle(grid), levels=20, cmap="Blues_r")
crossings = {}
for y0, color in ((1e-6, BLUE), (1e-2, GREEN), (0.3, ORANGE)):
    path = path_of(0.1, 0, "gradient", 250, saddle, (-1.5, y0))
    crossings[y0] = int(np.argmax(path[:, 1] > 0.5))
    axes[1].plot(*path.T, ".-", color=color, markersize=4)
    axes[2].plot([float(saddle(theta)) for theta in path], color=color, label=f"y = {y0:g}")
axes[1].set(title="saddle: start at x = -1.5", xlabel="x", ylabel="y")
axes[2].set(title="the loss stands, then falls", xlabel="step", ylabel="loss", ylim=(-0.3, 0.4))
axes[2].legend(frameon=False)
plt.show()
assert arrived["squared error"] < -7 < 2 < arrived["cross-entropy"]
assert crossings[0.3] < crossings[1e-2] < crossings[1e-6]
assert (jax.grad(saddle)(jnp.zeros(2)) == 0).all()  # exactly in the middle it would stay for ever

# %% [markdown]
# ## 6. The problem of fitting
#
# Take ten points on a line with noise. A polynomial of the 9th order has ten coefficients and goes through all of them;
# one of the 1st order does not. New points show which one is better. Too few parameters **underfit** (a constant), too
# many **overfit**, and more data leave fewer ways to overfit.


# %%
def points_on_a_line(count, seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-1, 1, count))
    return x, 1.5 * x + 0.4 * rng.standard_normal(count)


def fit_polynomial(x, y, order, penalty=0.0):
    """The w with the least C = mean squared error + penalty * sum w^2, by normal equations."""
    P = np.vander(x, order + 1, increasing=True)
    return np.linalg.solve(P.T @ P / len(x) + penalty * np.eye(order + 1), P.T @ y / len(x))


def values(w, x):
    return np.vander(x, len(w), increasing=True) @ w


few_x = np.linspace(-1, 1, 10)
few_y = 1.5 * few_x + 0.4 * np.random.default_rng(1).standard_normal(10)
new_x, new_y = points_on_a_line(10_000, seed=2)
fits = {
    "order 0": fit_polynomial(few_x, few_y, 0),
    "order 1": fit_polynomial(few_x, few_y, 1),
    "order 9": fit_polynomial(few_x, few_y, 9),
    "order 9, 200 points": fit_polynomial(*points_on_a_line(200, seed=3), 9),
    "order 9, L2": fit_polynomial(few_x, few_y, 9, penalty=0.02),
}
print(f"{'':20} error, ten points   new points     sum w²   moved by 0.01")
errors = {}
for name, w in fits.items():
    moved = np.sqrt(np.mean((values(w, new_x + 0.01) - values(w, new_x)) ** 2))
    errors[name] = [np.mean((values(w, x) - y) ** 2) for x, y in ((few_x, few_y), (new_x, new_y))]
    print(f"{name:20} {errors[name][0]:17.3f} {errors[name][1]:12.3f} {w @ w:10.2f} {moved:15.4f}")
assert errors["order 9"][0] < 1e-6 < errors["order 1"][0] < errors["order 0"][0]
assert errors["order 9"][1] > 2 * errors["order 1"][1]
assert errors["order 0"][1] > 2 * errors["order 1"][1]
assert errors["order 9, 200 points"][1] < 0.5 * errors["order 9"][1]
assert errors["order 9, L2"][1] < 0.5 * errors["order 9"][1]

figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
line = np.linspace(-1, 1, 300)
for panel, names in zip(axes, (("order 0", "order 1", "order 9"), ("order 9", "order 9, 200 points"),
                               ("order 9", "order 9, L2"))):  # fmt: skip
    for name, color in zip(names, (GREEN, BLUE, ORANGE) if len(names) == 3 else (ORANGE, BLUE)):
        panel.plot(line, values(fits[name], line), color=color, label=name)
    panel.plot(few_x, few_y, "o", color="black", markersize=4)
    panel.set(ylim=(-3.5, 3.5), xticks=(-1, 0, 1), xlabel="x")
    panel.legend(frameon=False, fontsize=9)
axes[0].set(ylabel="y")
plt.show()

# %% [markdown]
# **Regularization** leaves the parameters and penalizes their use: $C = C_0 + \lambda \sum_w w^2$. The last row is the
# same polynomial with that cost. Its weights are small, and so it answers a small change of the input by a small change
# (last column: the input moved by 0.01): simpler in the sense of Occam's razor, though it has ten coefficients.
#
# Its gradient is $\nabla C_0 + 2\lambda w$, so that a step of descent first shrinks each weight by the factor
# $1 - 2\gamma\lambda$: **weight decay**. Descent finds the w of the normal equations, and the library has the sum of
# squares for `Objective(penalty=...)`:

# %%
P = np.vander(few_x, 10, increasing=True)
w = np.zeros(10)
for _ in range(20_000):
    w = (1 - 2 * 0.3 * 0.02) * w - 0.3 * 2 * P.T @ (P @ w - few_y) / 10
assert np.allclose(w, fits["order 9, L2"], atol=1e-6)

params, _ = cnn.serial(fc1=cnn.dense(5), act=cnn.tanh, fc2=cnn.dense(2)).init(jax.random.key(0), X[:1])
pull = jax.grad(cnn.losses.l2_penalty)(params)
assert jnp.allclose(pull["fc1"]["kernel"], 2 * params["fc1"]["kernel"])
assert (pull["fc1"]["bias"] == 0).all()  # biases are left alone: they make no answer steeper

# %% [markdown]
# For a network with outputs $a_j$ between 0 and 1 the slides write the cost, after Nielsen, as
#
# $$C = -\frac1n \sum_{x, j} \bigl[\, y_j \ln a_j + (1 - y_j) \ln (1 - a_j) \bigr] + \lambda \sum_w w^2 .$$
#
# With a single output that is the notebook on fives'. With several, the library takes the mean over $j$ where this
# takes the sum:

# %%
scores, yes = jax.random.normal(jax.random.key(1), (6, 4)), jnp.eye(4)[jnp.array([0, 1, 2, 3, 0, 1])]
a = cnn.sigmoid(scores)
C0 = -(yes * jnp.log(a) + (1 - yes) * jnp.log(1 - a)).sum() / 6
assert jnp.allclose(C0, 4 * cnn.losses.sigmoid_cross_entropy(scores, yes).mean(), rtol=1e-5)

# %% [markdown]
# ## 7. Why random weights?
#
# If all weights of a layer are equal, all of its filters answer the same, get the same gradient, and stay equal: eight
# filters do the work of one. With zeros it is worse: the zeros of the last layer block the gradient of all layers
# before it.


# %%
def small_net(kernel_init):
    return cnn.serial(
        conv1=cnn.conv(8, 3, padding=1, kernel_init=kernel_init), act1=cnn.relu, pool1=cnn.max_pool(2),
        conv2=cnn.conv(16, 3, padding=1, kernel_init=kernel_init), act2=cnn.relu, pool2=cnn.max_pool(2),
        flat=cnn.flatten, head=cnn.dense(10, kernel_init=kernel_init))  # fmt: skip


starts = {
    "zeros": jax.nn.initializers.zeros,
    "all 0.05": jax.nn.initializers.constant(0.05),
    "random": jax.nn.initializers.he_normal(),
}
learned = {}
for name, kernel_init in starts.items():
    run = cnn.train.fit(small_net(kernel_init), train, epochs=5, batch_size=50, show=False)
    learned[name] = (run.outputs(test.images).argmax(-1) == test.labels).mean()
    kernel = run.params["conv1"]["kernel"]
    apart = float(jnp.abs(kernel - kernel[..., :1]).max())
    print(f"{name:9} test accuracy {100 * learned[name]:5.1f} %, filters differ by {apart:.1e}")
    if name == "zeros":
        assert (kernel == 0).all()
        assert learned[name] < 0.25  # one answer for every image
    elif name == "all 0.05":
        assert apart < 1e-3  # rounding
    else:
        assert apart > 0.1
assert learned["random"] > learned["all 0.05"] > learned["zeros"]

# %% [markdown]
# The slides say that with equal weights the network does not train. It does train, as a network with one filter per
# layer, and on these digits such a network works better than one might expect. On 20,000 digits of MNIST LeNet-5 has
# 88.7 % of the test images wrong from zeros, 76.7 % from equal weights, 2.2 % from random ones (`python -m
# experiments.initialization`). Section 9 discusses the scale of random weights.
#
# ## 8. Voting, dropout, and other regularization
#
# Each random initialization leads to a different network. **Five networks** that vote average their errors.
# `cnn.ensemble` trains them at once, as one layer with a first axis of five in its variables.
#
# **Dropout** ignores a random subset of the units at each mini-batch, so that none can rely on another. At test all are
# there, twice as many as in training, so the slides halve the outgoing weights. (Half is right for a rate of one half;
# it is $1 - \text{rate}$ in general.) The library instead divides by $1 - \text{rate}$ in training, and does nothing at
# test. The next cell computes all $2^8$ masks of eight units, without sampling:

# %%
h = jax.random.normal(jax.random.key(2), (8,))
outgoing = jax.random.normal(jax.random.key(3), (3, 8))
masks = jnp.array(list(itertools.product((0.0, 1.0), repeat=8)))
assert masks.shape == (256, 8)

plain = (masks * h) @ outgoing.T  # the slides' training pass
inverted = (masks * h / (1 - 0.5)) @ outgoing.T  # the library's
assert jnp.allclose(plain.mean(0), (outgoing / 2) @ h, atol=1e-5)  # halved at test: the mean of all 256 networks
assert jnp.allclose(inverted.mean(0), outgoing @ h, atol=1e-5)  # nothing to do at test

drop = cnn.dropout(0.5)
dropped, _ = drop.apply({}, {}, jnp.ones(10_000), train=True, key=jax.random.key(0))
untouched, _ = drop.apply({}, {}, h)
assert set(np.unique(dropped)) == {0.0, 2.0}
assert abs(dropped.mean() - 1) < 0.05
assert (untouched == h).all()

# %% [markdown]
# In a trained network with nonlinear layers the single pass at test is only close to the mean of many masks. Now we
# compare all methods where there is something to overfit: 200 images, of which 30 % have a wrong label. A network with
# 21,000 weights learns them by heart, the wrong ones, too. Each row trains five networks on each of five draws of
# images and wrong labels. "One" is the mean test error of the single networks, "vote" that of the five together; the
# last columns count the draws in which a single network is better than one without regularization, and the vote better
# than a single network. ("Pooling" gives the first layer the means of 2x2 pixels.)


# %%
def perceptron(drop=0.0, pool=1):
    return cnn.serial(
        pool=cnn.avg_pool(pool), flat=cnn.flatten,
        fc1=cnn.dense(64), act1=cnn.relu, drop1=cnn.dropout(drop),
        fc2=cnn.dense(64), act2=cnn.relu, drop2=cnn.dropout(drop), head=cnn.dense(10))  # fmt: skip


def with_wrong_labels(count, seed, share=0.3):
    """Some training images, a part of them with a random other label."""
    rng = np.random.default_rng(seed)
    data = train.take(rng.permutation(len(train))[:count])
    labels = np.where(rng.random(count) < share, (data.labels + rng.integers(1, 10, count)) % 10, data.labels)
    return cnn.data.Dataset(data.images, labels, data.classes)


size, draws, steps, standard = 200, 5, 400, cnn.data.Preprocess.of(train.images)
forms = {
    "nothing": (perceptron(), size, {}),
    "L2": (perceptron(), size, {"penalty": lambda params: 0.03 * cnn.losses.l2_penalty(params)}),
    "dropout 0.5": (perceptron(0.5), size, {}),
    "augmentation": (perceptron(), size, {"augment": cnn.data.affine(shift=1, rotate=10)}),
    "pooling": (perceptron(pool=2), size, {}),
    "4 times the data": (perceptron(), 4 * size, {}),
}
error, several, prepared = {}, {}, standard(test.images)
optimizer = cnn.train.make_optimizer("adam", 2e-3, "cosine", steps)
for name, (member, count, options) in forms.items():
    model = cnn.ensemble(member, 5)
    objective = cnn.train.Objective(
        cnn.losses.every_output(cnn.losses.softmax_cross_entropy), metrics={}, preprocess=standard, **options
    )
    step = cnn.train.make_step(model, objective, optimizer)  # compiled once for the five draws
    error[name] = np.zeros((draws, 2))
    for trial in range(draws):
        data = with_wrong_labels(count, seed=trial)
        state = cnn.train.create_state(model, optimizer, jax.random.key(trial), data.images[:1], standard)
        for epoch in range(steps * 25 // count):
            for batch in cnn.data.batches(data, 25, seed=trial, epoch=epoch):
                state, _ = step(state, batch)
        single = jax.vmap(lambda params, member=member: member.apply(params, {}, prepared)[0])(state.params)
        vote = model.apply(state.params, state.model_state, prepared)[0]
        assert jnp.allclose(jnp.exp(vote), cnn.softmax(single).mean(0), atol=1e-4)  # the mean probability
        error[name][trial] = [100 * float((scores.argmax(-1) != test.labels).mean()) for scores in (single, vote)]
    several[name] = state
print(f"{size} images, 30 % of the labels wrong; test error")
print(f"{'':18} {'one':>8} {'vote':>8}   better than nothing   vote better than one")
for name, e in error.items():
    better, by_vote = (e[:, 0] < error["nothing"][:, 0]).sum(), (e[:, 1] < e[:, 0]).sum()
    one, vote = e.mean(0)
    print(f"{name:18} {one:6.1f} % {vote:6.1f} %   {better:>10} of {draws} {by_vote:>18} of {draws}")
assert (error["nothing"][:, 1] < error["nothing"][:, 0]).sum() >= draws - 1  # five that vote
for name in ("L2", "dropout 0.5", "augmentation", "4 times the data"):
    assert (error[name][:, 0] < error["nothing"][:, 0]).sum() >= draws - 1, name
    assert error[name][:, 0].mean() < error["nothing"][:, 0].mean() - 3, name

# %% [markdown]
# L2, dropout, augmentation, more data and the vote of five: each helps, as the slides say, and the vote also helps on
# top of the others. Pooling helps least: these digits were scanned at 8x8 pixels and enlarged. The larger experiment,
# 2,000 images of CIFAR-10 with right labels and three seeds, has a test error of 52.9 % without regularization, 52.3 %
# with L2, 50.8 % with dropout, 49.3 % for an ensemble of five, 47.9 % with augmentation (`python -m
# experiments.regularization`).
#
# And the mean over many dropout masks beside the single pass, for the first network of that row:

# %%
model, first = forms["dropout 0.5"][0], jax.tree.map(lambda leaf: leaf[0], several["dropout 0.5"].params)


@jax.jit
def with_mask(key):
    return cnn.softmax(model.apply(first, {}, prepared, train=True, key=key)[0])


masked = jax.lax.map(with_mask, jax.random.split(jax.random.key(0), 100))
mean, single = masked.mean(0), cnn.softmax(model.apply(first, {}, prepared)[0])
wrong = {name: float((p.argmax(-1) != test.labels).mean()) for name, p in (
    ("one mask", masked[0]), ("mean of 100 masks", mean), ("no mask, the pass at test", single),
)}  # fmt: skip
agree = float((mean.argmax(-1) == single.argmax(-1)).mean())
print({name: f"{100 * share:.1f} %" for name, share in wrong.items()}, f"the last two agree on {100 * agree:.1f} %")
assert agree > 0.8
assert wrong["mean of 100 masks"] <= wrong["one mask"] + 0.01

# %% [markdown]
# ## 9. Deeper
#
# The space of architectures is large, and no rule gives the number of layers. AlexNet is printed with "60M params" and
# "832M flops"; counted, it has 60,965,224 parameters and 724 million multiply-accumulates. [Case
# studies](04_case_studies.ipynb) takes it and its successors apart. Two units that made networks deeper, as code:
# GoogLeNet's **inception** runs layers in **parallel** and stacks their maps; 1x1 convolutions keep that affordable. A
# **residual unit** hands its input to a later layer and learns what to add: where a plain stack must fit $H(x)$, it
# fits $H(x) - x$.


# %%
def inception(ones, reduce3, threes, reduce5, fives, projected):
    return cnn.parallel(
        branch1=cnn.conv(ones, 1),
        branch2=cnn.serial(reduce=cnn.conv(reduce3, 1), act=cnn.relu, conv=cnn.conv(threes, 3, padding=1)),
        branch3=cnn.serial(reduce=cnn.conv(reduce5, 1), act=cnn.relu, conv=cnn.conv(fives, 5, padding=2)),
        branch4=cnn.serial(pool=cnn.max_pool(3, 1, padding=1), project=cnn.conv(projected, 1)),
        join=cnn.concat,
    )


def residual_unit(features):
    def forward(net, x):
        return cnn.relu(x + net.conv2(cnn.relu(net.conv1(x))))

    return cnn.network(forward, conv1=cnn.conv(features, 3, padding=1), conv2=cnn.conv(features, 3, padding=1))


alexnet = cnn.inspect.summary(cnn.models.alexnet_2012(), jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32))
assert alexnet.params == 60_965_224
assert round(alexnet.macs / 1e6) == 724

table = cnn.inspect.summary(inception(64, 96, 128, 16, 32, 32), jax.ShapeDtypeStruct((1, 28, 28, 192), jnp.float32))
assert table.total.output_shape == (1, 28, 28, 64 + 128 + 32 + 32)  # GoogLeNet's 3a: 256 maps
print(f"inception 3a: {table.params:,} parameters")

unit, x = residual_unit(8), jax.random.uniform(jax.random.key(0), (1, 6, 6, 8))
params, state = unit.init(jax.random.key(1), x)
nothing = jax.tree.map(jnp.zeros_like, params)
assert (unit.apply(nothing, state, x)[0] == x).all()  # with weights of 0 it is the identity: one more does no harm
cnn.inspect.draw_graph(unit, x)

# %% [markdown]
# **Vanishing and exploding gradients.** The gradient with respect to an early weight is a product with one factor for
# each later layer. If the factors are below 1 it vanishes with depth, above 1 it explodes: $0.25^{20} = 9 \cdot
# 10^{-13}$, $1.5^{20} = 3325$. The factor of a layer is its derivative, at most 1/4 for a sigmoid, times the effect of
# its **weights**, which the slides leave out. The weights cause the explosion. Twenty dense layers, before any
# training:


# %%
@functools.partial(jax.jit, static_argnames=("act", "shortcuts", "depth"))
def sizes_on_the_way_back(act, variance, shortcuts=False, depth=20):
    """The norm of the loss's gradient by each layer's output: from the first layer to the last."""
    x = jax.random.normal(jax.random.key(0), (128, 64))
    head = jax.random.normal(jax.random.key(1), (64, 10)) / 8
    weights = jax.random.normal(jax.random.key(2), (depth, 64, 64)) * (variance / 64) ** 0.5

    def layer(h, both):
        W, tap = both
        return (h if shortcuts else 0) + act(h @ W) + tap, None

    def loss(taps):  # zeros, added to each layer's output: the gradient by them is the gradient by the output
        h, _ = jax.lax.scan(layer, x, (weights, taps))
        return cnn.losses.softmax_cross_entropy(h @ head, Y[:128]).mean()

    return jnp.linalg.norm(jax.grad(loss)(jnp.zeros((depth, 128, 64))), axis=(1, 2))


assert math.isclose(0.25**20, 9.1e-13, rel_tol=0.01)
assert round(1.5**20) == 3325
profiles = {
    "sigmoid, variance 1/n": (cnn.sigmoid, 1.0),
    "ReLU, 1/n": (cnn.relu, 1.0),
    "ReLU, 2/n": (cnn.relu, 2.0),
    "ReLU, 6/n": (cnn.relu, 6.0),
    "residual, ReLU, 0.1/n": (cnn.relu, 0.1, True),
}
figure, axes = plt.subplots(figsize=(7, 3.4))
growth = {}
for (name, settings), color in zip(profiles.items(), (BLUE, GREEN, "black", ORANGE, "0.6")):
    norms = sizes_on_the_way_back(*settings)
    growth[name] = float(norms[0] / norms[-1])
    axes.semilogy(range(1, 21), norms / norms[-1], ".-", color=color, label=name)
axes.set(xlabel="layer, 1 is next to the image", ylabel="gradient, to the last layer's", xticks=(1, 5, 10, 15, 20))
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
print("first to last:", {name: f"{value:.1e}" for name, value in growth.items()})
assert growth["sigmoid, variance 1/n"] < 1e-8
assert growth["ReLU, 1/n"] < 1e-1
assert 0.1 < growth["ReLU, 2/n"] < 10
assert growth["ReLU, 6/n"] > 1e3
assert 0.1 < growth["residual, ReLU, 0.1/n"] < 10

# %% [markdown]
# For ReLU, half of whose derivatives are 0 and the others 1, weights of variance $2/n$ keep the factor near 1.
#
# **Depth.** A deeper network could compute the same as a shallower one, with identity mappings in its extra layers.
# Plain networks do not find this solution; residual networks start from it.

# %%
he, zeros = jax.nn.initializers.he_normal(), jax.nn.initializers.zeros


def deep_net(depth, shortcuts, width=32):
    """Units of two dense layers; with shortcuts each unit starts at zero, and so the network as a shallow one."""
    layers = {"flat": cnn.flatten, "first": cnn.dense(width)}
    for k in range(1, depth // 2 + 1):
        unit = {"fc1": cnn.dense(width, kernel_init=he), "act1": cnn.relu}
        unit |= {"fc2": cnn.dense(width, kernel_init=zeros if shortcuts else he)}
        layers[f"unit{k}"] = cnn.residual(cnn.serial(**unit)) if shortcuts else cnn.serial(**unit, act2=cnn.relu)
    return cnn.serial(**layers, head=cnn.dense(10))


curves = {}
for depth, (kind, shortcuts) in itertools.product((4, 40), (("plain", False), ("residual", True))):
    run = cnn.train.fit(
        deep_net(depth, shortcuts),
        train,
        cnn.train.Objective(preprocess=standard),
        epochs=8,
        batch_size=50,
        optimizer=optax.adam(1e-3),
        show=False,
    )
    curves[f"{kind}, {depth}"] = [record["loss"] for record in run.history]
print("training loss after 8 epochs:", {name: round(losses[-1], 3) for name, losses in curves.items()})
figure, axes = plt.subplots(figsize=(6.5, 3))
for (name, losses), (color, style) in zip(curves.items(), ((BLUE, "--"), (ORANGE, "--"), (BLUE, "-"), (ORANGE, "-"))):
    axes.plot(range(1, 9), losses, style, color=color, label=f"{name} layers")
axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
assert curves["plain, 40"][-1] > curves["plain, 4"][-1]
assert curves["residual, 40"][-1] < 0.8 * curves["plain, 40"][-1]

# %% [markdown]
# **Why so steep?** The slide asks this of ResNet's curves on CIFAR-10, which fall suddenly, twice. At 32,000 and 48,000
# steps the paper divides the learning rate by 10. Before that the curves stand still, because long steps keep the
# weights away from the bottom of the valley: the distance is set by the noise of the mini-batches (section 5: the
# variance is proportional to the rate). Shorter steps take them down within an epoch or two. Here is a small residual
# network on digits that are moved and turned at random, with momentum: at a constant rate, and with the rate divided by
# 10 after 16 and 20 epochs. The first division about halves the error. The second finds little noise left.

# %%
per_epoch, epochs, drops = len(train) // 16, 24, (16, 20)
divided = optax.piecewise_constant_schedule(0.01, {epoch * per_epoch: 0.1 for epoch in drops})
wrong = {}
for name, rate in (("constant", 0.01), ("divided by 10, twice", divided)):
    run = cnn.train.fit(
        deep_net(8, shortcuts=True),
        train,
        cnn.train.Objective(preprocess=standard, augment=cnn.data.affine(shift=2, rotate=15)),
        epochs=epochs,
        batch_size=16,
        optimizer=cnn.train.make_optimizer("momentum", rate),
        show=False,
    )
    wrong[name] = np.array([100 * (1 - record["accuracy"]) for record in run.history])
figure, axes = plt.subplots(figsize=(6.5, 2.8))
for (name, share), color in zip(wrong.items(), (BLUE, ORANGE)):
    axes.plot(range(1, epochs + 1), share, ".-", color=color, label=name)
for epoch in drops:
    axes.axvline(epoch + 0.5, color="0.8", zorder=0)
axes.set(xlabel="epoch", ylabel="training error (%)", ylim=(0, 50))
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
before, after = (wrong["divided by 10, twice"][part].mean() for part in (slice(12, 16), slice(16, 20)))
meanwhile = wrong["constant"][16:20].mean()
print(f"training error before the division {before:.1f} %, after it {after:.1f} %; undivided {meanwhile:.1f} %")
assert after < 0.7 * before  # 0.4 to 0.6, depending on the seed
assert after < 0.7 * meanwhile

# %% [markdown]
# On CIFAR-10 (10,000 images, 16 epochs), the training error of plain convolutional networks grows from 34.0 to 42.0 %
# between 8 and 20 layers, while that of residual ones falls from 34.0 to 31.3 %. These have batch normalization, and
# their gradients do not vanish: deep plain networks are hard to train for more than that one reason
# (`python -m experiments.depth`, whose figure is in the README).
#
# ResNet's 152 layers came to a top-5 error of 3.6 % on ImageNet, people to about 5 %, depending on who was asked. The
# slides cross out "superhuman" for a reason: 1000 classes with 120 breeds of dogs among them are no fair task for
# people.

# %% [markdown]
# # From images to objects and pixels
#
# From here on an image holds several things: a canvas of 48x48 with some of the embedded digits, and noise (which
# the pictures leave out). Each scene has its boxes, for detection, and the class of each pixel, for segmentation.


# %%
digits = {split: halved(cnn.data.load("digits", split)) for split in ("train", "test")}
names = digits["train"].classes


def make_scenes(split, count, seed, size=48, most=8):
    """Images (N, size, size, 1), masks (0 is background, digit d is d + 1), boxes (N, most, 4), classes (-1: none)."""
    rng, source = np.random.default_rng(seed), digits[split]
    images = np.zeros((count, size, size, 1), np.uint8)
    masks = np.zeros((count, size, size), np.int32)
    boxes, classes = np.zeros((count, most, 4), np.float32), np.full((count, most), -1, np.int32)
    for image, mask, box, kind in zip(images, masks, boxes, classes):
        canvas, free = np.zeros((size, size)), np.ones((size, size), bool)
        for k in range(most):
            y, x = rng.integers(0, size - 15, 2)
            window = np.s_[y : y + 16, x : x + 16]
            n = rng.integers(len(source))
            if not free[window].all():
                continue
            free[window] = False
            canvas[window] = source.images[n, :, :, 0]
            mask[window] = np.where(canvas[window] > 100, source.labels[n] + 1, 0)
            box[k], kind[k] = (x, y, x + 16, y + 16), source.labels[n]
        image[:, :, 0] = np.clip(canvas + rng.normal(0, 20, canvas.shape), 0, 255)
    return images, masks, boxes, classes


scenes, new_scenes = make_scenes("train", 500, seed=0), make_scenes("test", 60, seed=1)


def draw_boxes(panel, image, boxes, classes, colors=itertools.repeat(ORANGE)):
    """The image, a frame for each box that has a class, and the class's name at its corner."""
    panel.imshow(image[:, :, 0], cmap="gray", vmin=60)
    for (x1, y1, x2, y2), kind, color in zip(boxes, classes, colors):
        if kind >= 0:
            panel.add_patch(plt.Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=color))
            label = {"facecolor": color, "edgecolor": "none", "pad": 1}
            panel.text(x1, y1, names[kind], color="white", fontsize=8, va="bottom" if y1 > 8 else "top", bbox=label)
    panel.axis("off")


figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for panel, image, boxes, classes in zip(axes, scenes[0], scenes[2], scenes[3]):
    draw_boxes(panel, image, boxes, classes)
plt.show()

# %% [markdown]
# ## 10. R-CNN and Fast R-CNN
#
# **R-CNN**: (1) take an image, (2) propose some 2,000 **regions** that might hold an object, (3) warp each to one size
# and run a CNN on it, (4) classify it. The proposals come from elsewhere (selective search,
# `cnn.data.selective_search`; here a plain grid of windows). Overlapping regions are computed again for each region.
#
# **Fast R-CNN** runs the convolutions once for the whole image, and each region takes its part of the map. The next
# cell computes the savings with VGG-16's convolutions for an image of 480x640 and 2,000 regions, which R-CNN warps to
# 227x227:

# %%
once, one_region = (
    cnn.inspect.summary(vgg_backbone(), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).macs
    for size in ((480, 640), (224, 224))
)
print(f"the image once: {once / 1e9:.0f} G multiplications; 2,000 regions: {2000 * one_region / 1e9:,.0f} G")
assert 2000 * one_region > 300 * once

boxes = jnp.array([[[*scenes[2][0, 0]], [0, 0, 48, 20], [16, 0, 32, 48]]])
warped = cnn.ops.crop_regions(jnp.asarray(scenes[0][:1] / 255.0), boxes, 24)[0]
assert warped.shape == (3, 24, 24, 1)  # each region, whatever its shape
cnn.inspect.plots.images(np.asarray(255 * warped, np.uint8), ["a digit's box", "48 wide, 20 high", "16 wide, 48 high"])

# %% [markdown]
# **RoI max pooling** resizes a region of the map to a fixed size: divide it into $H \times W$ subwindows, take the
# maximum of each. (The slides "squash feature map weights"; it is the map's values that are squashed, there are no
# weights.) Four rows and five columns to 2x2: rows 0-1 and 2-3; five columns do not divide by two, and so the
# subwindows run from $\lfloor i \cdot 5/2 \rfloor$ to $\lceil (i+1) \cdot 5/2 \rceil$, with the middle column in both.

# %%
board = np.array([
    [0, 3, 1, 4, 1, 5],
    [9, 2, 6, 5, 3, 5],
    [8, 9, 7, 9, 3, 2],
    [3, 8, 4, 6, 2, 6],
    [4, 3, 3, 8, 3, 2],
])  # fmt: skip
region = np.array([1, 0, 5, 3])  # x from 1 to 5, y from 0 to 3, the last ones included
to_2x2 = jax.jit(lambda features, boxes: cnn.ops.roi_max_pool(features, boxes, 2))
pooled = to_2x2(jnp.asarray(board, jnp.float32)[None, :, :, None], jnp.array([[region]], jnp.float32))
rows, columns_of = ((0, 2), (2, 4)), ((1, 4), (3, 6))
by_hand = [[int(board[slice(*r), slice(*c)].max()) for c in columns_of] for r in rows]
assert by_hand == [[6, 5], [9, 9]]
assert (pooled[0, 0, :, :, 0] == np.array(by_hand)).all()
print("pooled to 2x2:", by_hand)

# %% [markdown]
# After it come two heads: a softmax over the classes and background, and a **regressor** that corrects the box. The
# best boxes then suppress those that overlap them: **non-maximum suppression** by intersection over union. On paper:
# boxes of 10x10, the second moved by 2 pixels: $80 / (100 + 100 - 80) = 0.67$, so it goes; the third, moved by 8, stays
# ($20/180$).

# %%
three = jnp.array([[0.0, 0, 10, 10], [2, 0, 12, 10], [8, 0, 18, 10]])
overlap = cnn.ops.boxes.iou(three, three)
assert jnp.allclose(overlap[0], jnp.array([1, 80 / 120, 20 / 180]))
assert cnn.ops.nms(three, jnp.array([0.9, 0.8, 0.7]), threshold=0.3, limit=3).tolist() == [0, 2, -1]

# %% [markdown]
# The complete detector is trained on 500 scenes: a small backbone of stride 4, RoI pooling to 4x4, one hidden layer,
# two heads. In each step, 24 regions an image are drawn, half of them with a digit.


# %%
def backbone():
    layers = {}
    for k, features in enumerate((16, 32, 32), 1):
        layers |= {f"conv{k}": cnn.conv(features, 3, padding=1, bias=False), f"bn{k}": cnn.batch_norm()}
        layers |= {f"relu{k}": cnn.relu} | ({f"pool{k}": cnn.max_pool(2)} if k < 3 else {})
    return cnn.serial(**layers)


windows = cnn.data.sliding_windows((48, 48), sides=(13, 16, 20), step=0.25)


def for_detection(images, masks, boxes, classes):
    regions = np.broadcast_to(windows, (len(images), *windows.shape))
    return cnn.data.Examples((images, regions), {"boxes": boxes, "classes": classes}, names)


detector = cnn.models.fast_rcnn(10, backbone=backbone(), pool=4, units=64)
batches = 5 * len(scenes[0]) // 8
fast = cnn.train.fit(
    detector,
    for_detection(*scenes),
    cnn.train.Objective(
        detection.multi_task(), metrics={}, augment=detection.sample_regions(24, positive=0.5, background=(0.0, 0.5))
    ),
    epochs=5,
    batch_size=8,
    show=False,
    optimizer=cnn.train.make_optimizer("adam", 3e-3, "cosine", batches),
)
seen = for_detection(*new_scenes)
found = detection.make_detect(detector, fast.preprocess, batch_size=20, least=0.3)(fast.params, fast.model_state, seen)
precision = detection.mean_average_precision(found, seen.labels, names)["map"]
print(f"{len(windows)} windows an image; mean average precision on new scenes {100 * precision:.0f} %")
assert precision > 0.6

figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for k, panel in enumerate(axes):
    draw_boxes(panel, new_scenes[0][k], found.boxes[k], np.where(found.scores[k] > 0.5, found.classes[k], -1))
plt.show()

# %% [markdown]
# On photographs of blood cells, with regions by selective search, the library's Fast R-CNN has a mean average precision
# of 85.9 % and takes 56 ms an image; R-CNN, with the same regions and layers, has 84.0 % and takes 477 ms. The search
# takes 422 ms, so it is now the slowest part of Fast R-CNN (`python -m experiments.detection_bccd`). The slides' other
# proposals, 10,000 with a recall of 0.991, take 17 seconds an image.
#
# ## 11. Fully convolutional
#
# What if we want a label for every pixel? A classifier gives one for an image of one size, because of its dense layers:
# they connect every number of the last map to every unit. AlexNet's last map is 6x6 of 256 filters:

# %%
responses = 6 * 6 * 256
assert responses == 9_216
assert responses * 4096 == 37_748_736
dense = cnn.inspect.summary(cnn.dense(4096, bias=False), jax.ShapeDtypeStruct((1, responses), jnp.float32))
assert dense.params == 37_748_736
assert responses * 256 == 2_359_296
print(f"{responses:,} responses x 4,096 units = {responses * 4096:,} weights")

# %% [markdown]
# (The slides have the 37 million, of "each 2,359,296 response": that is $9{,}216 \cdot 256$, the 256 taken twice.)
#
# A dense layer on an $F \times F$ map is a convolution with $F \times F$ filters and a single output place, and on a
# 1x1 map it is a 1x1 convolution: "there is no such thing as fully-connected layers" (LeCun). Weights are shared over
# places, so their number does not depend on the size of the map. Of the slides' counts, without biases:

# %%
image = jax.ShapeDtypeStruct((1, 200, 200, 1), jnp.float32)
for size, expected in ((10, 10_000), (1, 100)):
    assert cnn.inspect.summary(cnn.conv(100, size, bias=False), image).params == expected
map13 = jax.ShapeDtypeStruct((1, 13, 13, 64), jnp.float32)
shared = cnn.inspect.summary(cnn.conv(1024, 1, bias=False), map13).params
unshared = cnn.inspect.summary(cnn.serial(cnn.flatten, cnn.dense(1024, bias=False)), map13).params
print(f"100 filters of 10x10: 10,000; of 1x1: 100.  64 maps of 13x13 to 1024: dense {unshared:,}, 1x1 {shared:,}")
assert unshared == 13 * 13 * 64 * 1024 == 11_075_584
assert shared == 64 * 1024 == 65_536

# %% [markdown]
# The slide on 1x1 convolution prints "64x1x1 kernel, with shared weights over 13x13 output, x 1024 filters = 11mil
# params". The 11 million are the dense layer's; shared, there are 65,536.
#
# Now **convolutionalize** a classifier: train one on windows of 16x16, digits and windows without one, and turn it into
# a network for images of any size (`cnn.models.convolutional`). Kernels are reshaped, not changed.


# %%
def cut_windows(images, masks, boxes, classes, seed):
    """For each digit a window of 16x16, up to 2 pixels off; and windows that are 6 pixels or more from any digit's."""
    rng, cut, labels = np.random.default_rng(seed), [], []
    for image, own, kinds in zip(images, boxes, classes):
        corners = own[kinds >= 0, :2].astype(int)
        for (x, y), kind in zip(corners, kinds[kinds >= 0]):
            x, y = np.clip(np.array([x, y]) + rng.integers(-2, 3, 2), 0, 32)
            cut.append(image[y : y + 16, x : x + 16])
            labels.append(kind)
        for x, y in rng.integers(0, 33, (6, 2)):
            if (np.abs(corners - (x, y)).max(1) >= 6).all():
                cut.append(image[y : y + 16, x : x + 16])
                labels.append(10)
    return cnn.data.Dataset(np.stack(cut), np.array(labels), (*names, "nothing"))


classifier = cnn.serial(
    conv1=cnn.conv(16, 5), act1=cnn.relu, pool1=cnn.max_pool(2),
    conv2=cnn.conv(32, 3), act2=cnn.relu, pool2=cnn.max_pool(2),
    flat=cnn.flatten, fc1=cnn.dense(64), act3=cnn.relu, head=cnn.dense(11))  # fmt: skip
pieces, new_pieces = cut_windows(*scenes, seed=0), cut_windows(*new_scenes, seed=1)


def standardized(images):
    """Zero mean and unit variance, at any size of the image. (`Preprocess` brings all images to one size.)"""
    return (cnn.data.to_float(images) - scenes[0].mean() / 255) / (scenes[0].std() / 255)


run = cnn.train.fit(
    classifier,
    pieces,
    cnn.train.Objective(preprocess=standardized),
    test=new_pieces,
    epochs=8,
    batch_size=64,
    show=False,
)
print(f"{len(pieces):,} windows; accuracy on new ones {100 * run.result['test_accuracy']:.1f} %")
assert run.result["test_accuracy"] > 0.85

scanner, params, state = cnn.models.convolutional(classifier, run.params, run.model_state, (16, 16, 1))
assert params["fc1"]["kernel"].shape == (2, 2, 32, 64)
assert params["head"]["kernel"].shape == (1, 1, 64, 11)
assert (params["fc1"]["kernel"].ravel() == run.params["fc1"]["kernel"].ravel()).all()

canvas, truth, canvas_boxes, canvas_classes = make_scenes("test", 1, seed=5, size=128, most=80)
prepared = standardized(canvas)
scores, _ = scanner.apply(params, state, prepared)
assert scores.shape == (1, 29, 29, 11)  # (128 - 16) / 4 + 1: two pools make a stride of 4
for i, j in ((0, 0), (3, 17), (28, 28)):
    window = prepared[:, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16]
    assert jnp.allclose(scores[0, i, j], classifier.apply(run.params, run.model_state, window)[0][0], atol=1e-3)

macs = [cnn.inspect.summary(m, x).macs for m, x in ((scanner, prepared), (classifier, prepared[:, :16, :16]))]
print(f"29 x 29 windows one by one: {29 * 29 * macs[1] / macs[0]:.1f} times the multiplications of the whole at once")
assert 29 * 29 * macs[1] > 3 * macs[0]

# %% [markdown]
# Every entry of the map is the classifier's answer for one window, and all of them together cost a quarter. The heat
# map shows where it sees a digit, and the labels at the peaks show which one.

# %%
probability = np.asarray(cnn.softmax(scores)[0])
digit = 1 - probability[..., 10]
surest = probability[..., :10].max(-1).ravel()
y, x = (4 * a.ravel() for a in np.mgrid[:29, :29])
corner = jnp.asarray(np.stack([x, y, x + 16, y + 16], 1), jnp.float32)
peaks = cnn.ops.nms(corner, jnp.where(surest > 0.5, surest, -jnp.inf), threshold=0.2, limit=60)
peaks = np.asarray(peaks[peaks >= 0])
guess = probability.reshape(-1, 11)[peaks, :10].argmax(1)

near = np.asarray(cnn.ops.boxes.iou(corner[peaks], jnp.asarray(canvas_boxes[0]))) > 0.3
right = [bool((row & (canvas_classes[0] == g)).any()) for row, g in zip(near, guess)]
count = int((canvas_classes[0] >= 0).sum())
print(f"{count} digits, {len(peaks)} peaks, {sum(right)} of them right (green)")
assert sum(right) > 0.5 * count

figure, axes = plt.subplots(1, 3, figsize=(11, 3.7))
axes[0].imshow(canvas[0, :, :, 0], cmap="gray", vmin=60)
axes[1].imshow(digit, cmap="magma", vmin=0, vmax=1)
draw_boxes(axes[2], canvas[0], corner[peaks], guess, [GREEN if ok else ORANGE for ok in right])
for panel, title in zip(axes, ("a canvas", "heat map: a digit here", "its peaks, and which digit")):
    panel.set(title=title)
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 12. Upsampling: the transposed convolution
#
# The map is coarse. How does a network get back to the pixels? A convolution is a matrix $W$ that maps many numbers to
# few. Its transpose maps few to many, in the same positions: every input adds its multiple of the filter. Filter $(1,
# 2, 3)$ at stride 2, from 5 numbers to 2 and from 2 to 5:
#
# $$W = \begin{pmatrix} 1 & 2 & 3 & 0 & 0 \\ 0 & 0 & 1 & 2 & 3 \end{pmatrix}, \qquad
# W^T \begin{pmatrix} 1 \\ 10 \end{pmatrix} = (1,\ 2,\ 3 + 10,\ 20,\ 30)^T .$$

# %%
taps = jnp.array([1.0, 2, 3])[:, None, None]


def down(x):
    return cnn.ops.conv(x[None, :, None], taps, 2)[0, :, 0]


def up(y):
    return cnn.ops.conv_transpose(y[None, :, None], taps, 2)[0, :, 0]


W = jax.vmap(down)(jnp.eye(5)).T
assert W.tolist() == [[1, 2, 3, 0, 0], [0, 0, 1, 2, 3]]
assert up(jnp.array([1.0, 10])).tolist() == [1, 2, 13, 20, 30]
assert (jax.vmap(up)(jnp.eye(2)).T == W.T).all()

# The same in two dimensions, with channels. It is also how the gradient goes back through a convolution.
kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
image, back = jax.vjp(lambda x: cnn.ops.conv(x, kernel, 2), jax.random.normal(jax.random.key(1), (1, 7, 7, 2)))
assert jnp.allclose(back(image)[0], cnn.ops.conv_transpose(image, kernel.swapaxes(2, 3), 2), atol=1e-4)

# It is no inverse: there and back is not where we were.
assert not jnp.allclose(up(down(jnp.arange(5.0))), jnp.arange(5.0))

# %% [markdown]
# It is often called "deconvolution", a misnomer. Deconvolution undoes a blur: division in the Fourier domain. The
# transposed convolution of a blur only blurs once more.

# %%
sharp = np.pad(digits["test"].images[3, :, :, 0] / 255.0, 8)
distance = np.minimum(np.arange(32), 32 - np.arange(32))
blur = np.exp(-0.5 * (distance[:, None] ** 2 + distance[None] ** 2) / 1.2**2)
blur /= blur.sum()
F = np.fft.fft2
blurred = np.fft.ifft2(F(sharp) * F(blur)).real
transposed = np.fft.ifft2(F(blurred) * np.conj(F(blur))).real  # conj: the filter turned round, W^T
divided = np.fft.ifft2(F(blurred) / F(blur)).real
noisy = blurred + 1e-3 * np.random.default_rng(0).standard_normal(blurred.shape)
divided_noisy = np.fft.ifft2(F(noisy) / F(blur)).real
assert np.allclose(divided, sharp, atol=1e-6)
assert np.abs(transposed - sharp).mean() > np.abs(blurred - sharp).mean()
assert np.abs(divided_noisy - sharp).mean() > np.abs(blurred - sharp).mean()  # and it trusts the noise

figure, axes = plt.subplots(1, 5, figsize=(11, 2.5))
for panel, picture, title in zip(
    axes,
    (sharp, blurred, transposed, divided, divided_noisy),
    ("sharp", "blurred", "transposed convolution", "deconvolution", "the same, noise of 1/1000"),
):
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
    panel.set_title(title, fontsize=10)
    panel.axis("off")
plt.show()

# %% [markdown]
# Upsampling by a factor $S$ is a transposed convolution of stride $S$ whose kernel falls off linearly: **bilinear
# interpolation**. For $S = 2$ the kernel is $(\frac14, \frac34, \frac34, \frac14)$ along each axis. The kernel may stay
# fixed, or be the initial value of a learned one: "an upsampling network".

# %%
kernel = cnn.ops.bilinear(jax.random.key(0), (4, 4, 1, 1))
quarter = jnp.array([1, 3, 3, 1]) / 4
assert jnp.allclose(kernel[:, :, 0, 0], jnp.outer(quarter, quarter))

ramp = jnp.broadcast_to(jnp.array([0.0, 4, 8, 12]), (1, 4, 4))[..., None]
twice = cnn.ops.conv_transpose(ramp, kernel, 2, 1)[0, 3, :, 0]
assert twice.tolist()[1:-1] == [1, 3, 5, 7, 9, 11]  # the ends miss the neighbours beyond the border
assert cnn.ops.upsample(ramp, 2)[0, 3, :, 0].tolist() == [0, 1, 3, 5, 7, 9, 11, 12]  # the border goes on

large = cnn.ops.upsample(jnp.asarray(digit)[None, :, :, None], 4)[0, :, :, 0]
figure, axes = plt.subplots(1, 2, figsize=(6.5, 3.2))
for panel, picture, title in ((axes[0], digit, "29x29"), (axes[1], large, "bilinearly, 116x116")):
    panel.imshow(picture, cmap="magma")
    panel.set(title=title)
    panel.axis("off")
plt.show()

# %% [markdown]
# ## 13. End to end, pixels to pixels
#
# The complete network has convolutions down to stride 8, a 1x1 convolution that scores the 11 classes at each place,
# upsampling to the pixels, and a softmax cross-entropy at each of them. The coarse map has the class but not the exact
# position; finer maps have the position. The **skips** of FCN-16s and FCN-8s (`cnn.models.fcn8s`) add scores of finer
# maps on the way up. Ours, for small images, has maps of stride 8, 4 and 2. It has an output at each of the three
# strides and trains all of them at once, so that they can be compared.


# %%
def block(features):
    return cnn.serial(
        conv=cnn.conv(features, 3, padding=1, bias=False), bn=cnn.batch_norm(), act=cnn.relu, pool=cnn.max_pool(2)
    )


def small_fcn(classes=11, width=16):
    """Scores (N, H, W, classes) three times: by the map of stride 8 alone, those of 8 and 4, those of 8, 4 and 2."""
    layers = {"to2": block(width), "to4": block(2 * width), "to8": block(2 * width)}
    layers |= {"top": cnn.serial(conv=cnn.conv(4 * width, 3, padding=1), act=cnn.relu), "score8": cnn.conv(classes, 1)}
    for s in (4, 2):
        layers[f"up{s}"] = cnn.conv_transpose(classes, 4, 2, padding=1, bias=False, kernel_init=cnn.ops.bilinear)
        layers[f"score{s}"] = cnn.conv(classes, 1)

    def forward(net, x):
        maps = {}
        for s in (2, 4, 8):
            x = maps[s] = net[f"to{s}"](x)
        y = net.score8(net.top(x))
        outputs = [cnn.ops.upsample(y, 8)]
        for s in (4, 2):
            y = net[f"up{s}"](y) + net[f"score{s}"](maps[s])
            outputs.append(cnn.ops.upsample(y, s))
        return tuple(outputs)

    return cnn.network(forward, **layers)


run = cnn.train.fit(
    small_fcn(),
    cnn.data.Examples(*scenes[:2], ("background", *names)),
    cnn.train.Objective(cnn.losses.every_output(segmentation.cross_entropy), metrics={}, preprocess=standardized),
    epochs=8,
    batch_size=8,
    show=False,
)
iou, masks = {}, {"truth": new_scenes[1][:2]}
for stride, outputs in zip((8, 4, 2), run.outputs(new_scenes[0])):
    counts = np.asarray(segmentation.confusion(outputs, jnp.asarray(new_scenes[1])).sum(0))
    iou[stride], right = segmentation.mean_iou(counts), segmentation.pixel_accuracy(counts)
    masks[f"stride {stride}"] = np.asarray(outputs[:2].argmax(-1))
    print(f"stride {stride}: mean IoU {100 * iou[stride]:.1f} %, {100 * right:.1f} % of the pixels right")
assert iou[2] > iou[4] > iou[8] + 0.05
*_, finest = run.outputs(canvas)
assert finest.shape == (1, 128, 128, 11)  # any size: it was trained on 48x48

colours = np.concatenate([np.zeros((1, 3)), plt.get_cmap("tab10").colors])
figure, axes = plt.subplots(2, 5, figsize=(9.5, 4.1))
for line, image in zip(axes, new_scenes[0]):
    line[0].imshow(image[:, :, 0], cmap="gray", vmin=60)
axes[0, 0].set(title="image")
for column, (title, pictures) in zip(axes.T[1:], masks.items()):
    column[0].set(title=title)
    for panel, picture in zip(column, pictures):
        panel.imshow(colours[picture])
for panel in axes.ravel():
    panel.axis("off")
handles = [plt.Line2D([], [], marker="s", linestyle="", color=c) for c in colours[1:]]
figure.legend(handles, names, loc="outside lower center", ncols=10, frameon=False, handletextpad=0)
plt.show()

# %% [markdown]
# On CamVid's road scenes it is the same: mean IoU 37.0 % for FCN-32s, 41.7 % for FCN-16s, 44.7 % for FCN-8s
# (`python -m experiments.fcn_camvid`).
#
# ## 14. Other pixels
#
# Any label of each pixel can be learned in this way. **Boundaries** (Xie and Tu 2015, `cnn.models.hed`): the label is
# whether the class changes there. **Optical flow** (Fischer et al. 2015, `cnn.models.flownet_s`): the input is two
# images, the output is two numbers per pixel, its displacement. Such labels look like this:

# %%
edges = cnn.boundaries.between(truth)
by_filter = cnn.boundaries.sobel(canvas)
flow = cnn.flow.random_flows(jax.random.key(3), 1, (128, 128), largest=12.0)
first, known_flow = cnn.flow.moved(canvas, flow)
again = cnn.flow.warp(canvas, flow)
inside = np.isfinite(known_flow[0]).all(-1)
assert np.abs(np.asarray(again)[0, :, :, 0] - np.asarray(first, np.float32)[0, :, :, 0])[inside].max() <= 0.501
assert 0 < edges.mean() < 0.2

pictures = {
    "boundaries: the label": cnn.boundaries.picture(edges[0]),
    "Sobel's filter": cnn.boundaries.picture(jnp.maximum(by_filter[0] / by_filter[0].max() - 0.2, 0)),
    "first image": np.maximum(first[0, :, :, 0], 60),
    "second image": np.maximum(canvas[0, :, :, 0], 60),
    "flow: the label": cnn.flow.picture(flow[0]),
}
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4))
for panel, (title, picture) in zip(axes, pictures.items()):
    panel.imshow(picture, cmap="gray")
    panel.set(title=title)
    panel.axis("off")
plt.show()

# %% [markdown]
# Both networks learn something in half a minute, with an eighth of their filters and small images. For **HED** the
# digits lie on stripes. The edges of the stripes are edges, too, and Sobel's filter finds them; the labels say that
# only those of the digits count. F is the harmonic mean of precision and recall of the boundary pixels, at the best
# threshold, with 1.5 pixels of tolerance. (HED's lines are thick, as its maps are coarse; F thins them first.)


# %%
def on_stripes(images, seed):
    """The scenes on stripes of a random direction, width and place."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:48, :48]
    result = images.copy()
    for image in result:
        angle, place = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin(rng.uniform(0.5, 1.0) * (x * np.cos(angle) + y * np.sin(angle)) + place)
        image[:, :, 0] = np.maximum(image[:, :, 0], 120 * (wave > 0))
    return result


edge_scenes, new_edges = (
    cnn.data.Examples(on_stripes(images, seed), cnn.boundaries.between(masks), ())
    for seed, (images, masks, *_) in enumerate((scenes, new_scenes))
)
run = cnn.train.fit(
    cnn.models.hed(width=8, norm=True),
    edge_scenes,
    cnn.train.Objective(
        cnn.losses.every_output(cnn.boundaries.class_balanced_cross_entropy), metrics={}, preprocess=standardized
    ),
    epochs=5,
    batch_size=8,
    show=False,
)
scores = {"Sobel": cnn.boundaries.sobel(new_edges.inputs), "HED": jax.nn.sigmoid(run.outputs(new_edges.inputs))}
f = {}
for name, score in scores.items():
    counts = cnn.boundaries.matches(score, jnp.asarray(new_edges.labels), 1.5)
    f[name] = float(cnn.boundaries.best({key: value.sum(0) for key, value in counts.items()})["f"])
    print(f"{name:5} F = {f[name]:.2f} on {len(new_edges)} new scenes")
assert f["HED"] > f["Sobel"] + 0.1

figure, axes = plt.subplots(2, 4, figsize=(8.5, 4.4))
for k, line in enumerate(axes):
    line[0].imshow(new_edges.inputs[k, :, :, 0], cmap="gray")
    for panel, picture in zip(line[1:], (new_edges.labels[k], *(np.asarray(score[k]) for score in scores.values()))):
        panel.imshow(cnn.boundaries.picture(picture / picture.max()), cmap="gray")
for panel, title in zip(axes[0], ("image", "the label", "Sobel's filter", "HED")):
    panel.set(title=title)
for panel in axes.ravel():
    panel.axis("off")
plt.show()

# %% [markdown]
# For **FlowNetS**, canvases full of digits are moved by smooth random flows of up to 6 pixels, by new ones in each
# step. The error is the mean distance between the predicted and the true end of each pixel's motion.

# %%
still, new_still = (make_scenes(split, n, seed=7, size=64, most=40)[0] for split, n in (("train", 240), ("test", 40)))
pairs, new_pairs = (cnn.flow.moved_windows(frames, seed=k, largest=6.0) for k, frames in enumerate((still, new_still)))
epochs = 20
run = cnn.train.fit(
    cnn.models.flownet_s(width=8),
    pairs,
    cnn.train.Objective(cnn.flow.multi_scale(), metrics={}, augment=cnn.flow.moving(6.0), preprocess=cnn.data.to_float),
    epochs=epochs,
    batch_size=8,
    optimizer=cnn.train.make_optimizer("adam", 2e-3, "cosine", epochs * len(pairs) // 8),
    show=False,
)
predicted = run.outputs(new_pairs.inputs)
off = {
    name: float(cnn.flow.end_point_error(jnp.asarray(flows), jnp.asarray(new_pairs.labels)).mean())
    for name, flows in (("no motion", np.zeros_like(predicted)), ("FlowNetS", predicted))
}
print("end-point error on new pairs:", {name: f"{error:.2f} pixels" for name, error in off.items()})
assert off["FlowNetS"] < 0.7 * off["no motion"]

figure, axes = plt.subplots(2, 4, figsize=(8.5, 4.4))
for k, line in enumerate(axes):
    first, second, true = new_pairs.inputs[0][k], new_pairs.inputs[1][k], np.asarray(new_pairs.labels[k])
    longest = float(np.nanmax(np.hypot(true[..., 0], true[..., 1])))
    line[0].imshow(first[:, :, 0], cmap="gray", vmin=60)
    line[1].imshow(second[:, :, 0], cmap="gray", vmin=60)
    for panel, flow in zip(line[2:], (true, predicted[k])):
        panel.imshow(cnn.flow.picture(flow, longest))
for panel, title in zip(axes[0], ("first image", "second image", "the flow", "FlowNetS")):
    panel.set(title=title)
for panel in axes.ravel():
    panel.axis("off")
plt.show()

# %% [markdown]
# Measured on CamVid: HED finds boundaries with F = 0.730 where Sobel's filter has 0.512 (`python -m
# experiments.hed_camvid`); FlowNetS is 0.58 pixels off on average where zero flow has 1.75, and Farneback's method of
# 2003 0.44 (`python -m experiments.flownet`). Their pictures are in the README.
#
# A network that learned edges from people's drawings knows what a filter cannot: the grain of the table is no edge.
# This is HED with the weights of its authors' task, BSDS500 (`python -m experiments.published_weights --picture
# hed.jpg`, which says what to install; the photograph is by Rachel Michetti, CC0, from scikit-image):
#
# ![A cup of coffee, its edges by Sobel's filter, full of the table's grain, and by HED, the outlines alone](hed.jpg)
#
# ## Slips of the slides
#
# | where | printed | computed |
# | --- | --- | --- |
# | why not least squares | with a million points, matrices are huge | $A^T A$ is as large as there are parameters |
# | derivative by the softmax's input | $\partial L / \partial \theta = p - y$ | $\partial L / \partial o = p - y$ |
# | wiggle | $\epsilon = 10^{-6}$, to look and to step | in 32 bits below the rounding of the loss; too short a step |
# | Matlab code | `l`, `h{0}`, `jac{0}`, `dh{0}`, forward loop to `nr_layers - 1` | see section 4 |
# | momentum | $\theta - \gamma(\alpha g_{t-1} + g_t)$ | $\theta - \gamma v_t$, $v_t = \alpha v_{t-1} + g_t$ |
# | equal weights | the network does not train | it trains as one filter a layer |
# | dropout at test | halve the weights | right for a rate of 1/2; $1 - $ rate in general |
# | vanishing gradients | derivatives below or above 1 | derivatives times weights |
# | RoI pooling | feature map weights | feature map values |
# | AlexNet's first dense layer | each of 2,359,296 responses | 9,216 responses, 37,748,736 weights |
# | 1x1 convolution, 64 to 1024 on 13x13 | 11 million parameters | 65,536; the dense layer has 11,075,584 |
#
# ## Exercises
#
# 1. **By hand.** In section 4, change the true class of the example on paper to the first. Which gradients change sign,
#    and which only size? Compute them before you run the cell.
# 2. **A leak.** Write `leaky_relu(z)` beside `relu` and `tanh` in section 4, with a slope of 0.1 below 0, and train at
#    the rate 3.0. How many units are dead now?
# 3. **A steeper valley.** Replace 25 by 400 in section 5. How many steps does each form take? Compare with
#    $(\kappa - 1)/(\kappa + 1)$ and $(\sqrt\kappa - 1)/(\sqrt\kappa + 1)$.
# 4. **How much L2?** Draw the error on new points of the polynomial of order 9 against $\lambda$ from $10^{-6}$ to 10.
#    Where does it overfit, where underfit?
# 5. **Hard votes.** `cnn.ensemble(model, 5, vote="hard")` counts votes instead of averaging probabilities. Better?
# 6. **Overlap.** Take `if not free[window].all(): continue` out of `make_scenes`. Which of the three, Fast R-CNN, the
#    heat map and the FCN, suffers most?
#
# ## What next
#
# - `python -m experiments.depth`, `regularization`, `optimizers` and `initialization` are sections 5 to 9 at a size
#   that means something; each has `--help` and `--picture`.
# - `jaxcnn train fcn8s` and `jaxcnn train fast_rcnn` train the systems of the second half on photographs.
# - `jaxcnn/models/convolutional.py`, `fcn.py` and `fast_rcnn.py` are meant to be read beside their papers.
