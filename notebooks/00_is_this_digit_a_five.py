# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is this digit a 5?
#
# We ask one question of larger and larger models: a line, a single neuron, a network with a hidden layer, and a
# convolutional network. Each time we take the same five steps: set a **task**, get **data**, choose a **model**
# $h_\theta$ with parameters $\theta$, choose a **loss** that says how badly it fits, and **minimize** it. Then **test**
# on examples the model has never seen.
#
# Everything here runs in a minute or two on a laptop. The handwritten digits come with scikit-learn; for the full MNIST
# set, or for the photographs of CIFAR-10, change `DATA` and set the environment variable `JAXCNN_DATA_DIR` to the
# folder of the data. (Class 5 of CIFAR-10 is "dog", so the question becomes "is this a dog?".)

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "retina"
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import linprog
from sklearn.datasets import make_circles

import jaxcnn as cnn

DATA = "digits"  # or "mnist", "cifar10"

BLUE, ORANGE, GREEN = "#3b6fb6", "#d9822b", "#3f8f5b"
plt.rcParams.update({"figure.dpi": 75, "figure.constrained_layout.use": True})

# %% [markdown]
# ## 1. Fitting a line
#
# What does a house cost? An expert may have a rule of thumb for it, made of **features** of the house: $y = (10 -
# \text{distance}) \cdot \text{area}$, say. Such a model has nothing to learn. A **parametric** model, $y =
# h_\theta(\text{features})$, has unknown parameters and estimates them from houses with known prices. A deep network
# takes the photograph itself as input and also learns the features. We begin with the parametric model.
#
# Suppose that all we know of each house is its floor area $x$, and that we have seen the prices $y$ of thirty of them.
# We assume that the price is a linear function of the area, and look for its slope and intercept:
#
# $$y \approx h_\theta(x) = m x + b, \qquad \theta = (m, b).$$
#
# We measure how well the line fits by the mean squared error
#
# $$L(m, b) = \frac1n \sum_{i=1}^n \left(m x^{(i)} + b - y^{(i)}\right)^2 .$$

# %%
area_key, noise_key = jax.random.split(jax.random.key(0))
area = jax.random.uniform(area_key, (30,), minval=0.4, maxval=1.6)  # in 100 square metres
price = 2.0 * area + 0.5 + 0.3 * jax.random.normal(noise_key, (30,))  # in 100,000


def squared_error(theta):
    m, b = theta
    return jnp.mean((m * area + b - price) ** 2)


# %% [markdown]
# This loss is a quadratic bowl, so its minimum has a closed form. With a row $(x^{(i)}, 1)$ of $A$ for each house, the
# gradient vanishes where the **normal equations** hold: $A^T A\,\theta = A^T y$.
#
# **Gradient descent** does not need a closed form. It starts anywhere and takes small steps downhill,
#
# $$\theta \leftarrow \theta - \alpha\, \nabla_\theta L(\theta),$$
#
# with the learning rate $\alpha$. `jax.grad` turns the function that computes $L$ into the one that computes
# $\nabla L$.


# %%
def descend(loss, start, rate, steps):
    """The points that gradient descent visits."""
    gradient = jax.jit(jax.grad(loss))
    path = [jnp.asarray(start)]
    for _ in range(steps):
        path.append(path[-1] - rate * gradient(path[-1]))
    return jnp.stack(path)


A = jnp.stack([area, jnp.ones_like(area)], axis=1)
exact = jnp.linalg.solve(A.T @ A, A.T @ price)

start = jnp.array([-0.5, 1.0])
path = descend(squared_error, start, rate=0.35, steps=200)
print(f"normal equations     m = {exact[0]:.4f}  b = {exact[1]:.4f}")
print(f"gradient descent     m = {path[-1][0]:.4f}  b = {path[-1][1]:.4f}")


# %%
def draw_surface(axes, path, title):
    """Contours of the loss over (m, b), with the path of gradient descent and the lowest point."""
    m, b = jnp.linspace(-1.5, 4, 80), jnp.linspace(-2, 4, 80)
    grid = jnp.stack(jnp.meshgrid(m, b), axis=-1)
    height = jax.vmap(squared_error)(grid.reshape(-1, 2)).reshape(80, 80)
    axes.contourf(m, b, jnp.log10(height), levels=14, cmap="Blues_r", alpha=0.8)
    axes.plot(*path.T, ".-", color=ORANGE, markersize=5, linewidth=1)
    axes.plot(*exact, "*", color="black", markersize=9)
    axes.set(xlim=(-1.5, 4), ylim=(-2, 4), xlabel="slope m", ylabel="intercept b", title=title)


figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
ends = np.array([0.4, 1.6])
for step, shade in ((0, 0.25), (2, 0.45), (8, 0.65), (200, 1.0)):
    m, b = path[step]
    left.plot(ends, m * ends + b, color=ORANGE, alpha=shade, label=f"after {step} steps")
left.plot(area, price, "o", color=BLUE, markersize=4)
left.set(xlabel="area", ylabel="price", title="the line while it is fitted")
left.legend(frameon=False, fontsize=8)
draw_surface(right, path, "the loss (dark is low) and the path of descent")
plt.show()

# %% [markdown]
# How large should the steps be? For a quadratic bowl there is an exact answer. Along the direction in which $L$ curves
# most, with curvature $\lambda_{\max}$ (the largest eigenvalue of the Hessian), each step multiplies the distance to
# the bottom by $1 - \alpha\lambda_{\max}$. The distance shrinks while $\alpha < 2/\lambda_{\max}$ and grows beyond it.
# Below the limit every step lowers the loss, but tiny steps need far too many iterations.

# %%
limit = 2 / jnp.linalg.eigvalsh(jax.hessian(squared_error)(exact)).max()
print(f"gradient descent diverges above a learning rate of {limit:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(13, 3))
for panel, share, name, color in zip(
    axes, (0.01, 0.8, 1.02), ("too small", "good", "too large"), (BLUE, GREEN, ORANGE)
):
    path = descend(squared_error, start, share * limit, steps=40)
    draw_surface(panel, path, rf"{name}: $\alpha$ = {share * limit:.3f}")
    axes[-1].plot(jax.vmap(squared_error)(path), color=color, label=name)
axes[-1].set(yscale="log", ylim=(0.05, 1e4), xlabel="step", ylabel="loss", title="the three losses")
axes[-1].legend(frameon=False)
plt.show()

# %% [markdown]
# Training a neural network works in the same way. There are two differences: we know less about the right form of
# $h_\theta$, and the minimum has no closed form.
#
# ## 2. The task and the data
#
# **Is this digit a 5?** An example is an image $x$ and a label $y \in \{0, 1\}$, 1 for a five. `cnn.data.load` gives
# digits with their class from 0 to 9, divided into a training set and a test set. (The embedded digits were scanned at
# 8x8 pixels; they are enlarged to 32x32, the input size of the networks here.)

# %%
train, test = cnn.data.load(DATA, "train"), cnn.data.load(DATA, "test")
print(train)
print(test)
cnn.inspect.plots.images(train.images[:16], [f"{label}: y = {int(label == 5)}" for label in train.labels[:16]])

# %% [markdown]
# The simplest models take a long vector in place of an image: the $D$ pixels, scaled to values from 0 to 1, followed by
# a constant 1. The weight of the constant is the intercept $b$.


# %%
def as_vectors(images):
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    return np.concatenate([pixels, np.ones((len(images), 1), np.float32)], axis=1)


X, y = as_vectors(train.images), (train.labels == 5).astype(int)
X_test, y_test = as_vectors(test.images), (test.labels == 5).astype(int)
print(f"{X.shape[0]:,} examples of {X.shape[1]:,} numbers; {y.sum()} of them, {100 * y.mean():.1f} %, are fives")

# %% [markdown]
# ## 3. The model: logistic regression
#
# A weighted sum of the pixels, $z = \theta^T x$, can be any number. To read it as a probability we squash it into
# $(0, 1)$ with the **sigmoid**:
#
# $$h_\theta(x) = g(\theta^T x), \qquad g(z) = \frac{1}{1 + e^{-z}}, \qquad g'(z) = g(z)\,\bigl(1 - g(z)\bigr).$$
#
# The formula for the derivative follows from the quotient rule: $g' = \dfrac{e^{-z}}{(1+e^{-z})^2} =
# \dfrac{1}{1+e^{-z}} \cdot \dfrac{e^{-z}}{1+e^{-z}}$. The next cell checks it numerically.

# %%
z = jnp.linspace(-8, 8, 201)
g = cnn.sigmoid(z)
slope = jax.vmap(jax.grad(cnn.sigmoid))(z)
print(f"largest difference between jax.grad and g (1 - g): {jnp.abs(slope - g * (1 - g)).max():.1g}")

figure, axes = plt.subplots(figsize=(5.5, 2.8))
axes.plot(z, g, color=BLUE, label="g(z)")
axes.plot(z, slope, color=ORANGE, label="g'(z), never above 1/4")
axes.set(xlabel="z", ylabel="value")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 4. The loss: maximum likelihood
#
# Read $h_\theta(x)$ as the probability that $x$ is a five. The probability of the observed label is
#
# $$p(y \mid x; \theta) = h_\theta(x)^{\,y}\,\bigl(1 - h_\theta(x)\bigr)^{1-y},$$
#
# and, if the examples are independent, the probability of all labels together is the product over the training set.
# **Maximum likelihood** chooses the $\theta$ that makes the observed labels most probable. The logarithm turns the
# product into a sum, and the minus sign turns the maximum into a minimum. The result is the **negative
# log-likelihood**:
#
# $$\mathcal L(\theta) = -\sum_{i=1}^n \Bigl[\, y^{(i)} \log h_\theta(x^{(i)})
# + (1 - y^{(i)}) \log\bigl(1 - h_\theta(x^{(i)})\bigr) \Bigr].$$


# %%
def nll(theta, X, y):
    h = cnn.sigmoid(X @ theta)
    return -jnp.sum(y * jnp.log(h) + (1 - y) * jnp.log(1 - h))


# %% [markdown]
# Its gradient with respect to the $j$-th weight, with $z = \theta^T x$ and sums over all examples:
#
# $$\frac{\partial \mathcal L}{\partial \theta_j}
# = -\sum \left(\frac{y}{g(z)} - \frac{1-y}{1-g(z)}\right) g(z)\bigl(1-g(z)\bigr)\, x_j
# = -\sum \bigl(y\,(1-g(z)) - (1-y)\,g(z)\bigr)\, x_j
# = -\sum \bigl(y - h_\theta(x)\bigr)\, x_j .$$
#
# So every example moves the weights along its pixels, in proportion to its error. Three ways to compute the gradient
# should agree: this formula, automatic differentiation, and finite differences (`cnn.inspect.gradient_check` compares
# the last two in double precision).


# %%
def nll_gradient(theta, X, y):
    return -(y - cnn.sigmoid(X @ theta)) @ X


some = 0.01 * jax.random.normal(jax.random.key(1), X[0].shape)
by_hand, automatic = nll_gradient(some, X[:200], y[:200]), jax.grad(nll)(some, X[:200], y[:200])
wiggled = cnn.inspect.gradient_check(lambda theta: nll(theta, X[:200], y[:200]), at=some)
print(f"formula against jax.grad:            {jnp.abs(by_hand - automatic).max() / jnp.abs(by_hand).max():.0e}")
print(f"jax.grad against finite differences: {wiggled:.0e}")

# %% [markdown]
# The formula above has a numerical problem. In 32 bits, $h$ rounds to exactly 1 when $z$ exceeds about 17, and the loss
# then takes $\log(1 - h) = \log 0$. Libraries therefore compute the loss from $z$: $-\log\bigl(1 - g(z)\bigr) =
# \log(1 + e^{z})$.

# %%
score, not_a_five = jnp.array([5.0, 20.0, 100.0]), jnp.zeros(3)
print("log(1 - h), h rounded to 32 bits: ", -jnp.log(1 - cnn.sigmoid(score)))
print("cnn.losses.sigmoid_cross_entropy: ", cnn.losses.sigmoid_cross_entropy(score, not_a_five))

# %% [markdown]
# ## 5. Training
#
# Training is a special case of an **optimization problem**: minimize an objective $f_0(x)$ subject to constraints
# $f_i(x) \le b_i$. The general problem is very difficult. Three classes can be solved reliably: least squares
# (section 1), linear programs, and, including both, convex problems.
#
# A **linear program** has a linear objective and linear constraints: minimize $c^T x$ subject to $a_i^T x \le b_i$. Its
# gradient is $c$ everywhere, so without the constraints there is no minimum. With them, the optimum lies at a
# **corner** of the feasible region. A workshop, for instance, earns 3 for each chair and 2 for each stool; wood, paint
# and time limit how many it makes:
#
# $$\text{minimize } -3x_1 - 2x_2 \quad\text{subject to}\quad x_1 + x_2 \le 4, \quad x_1 + 3x_2 \le 9, \quad
# x_1 \le 3, \quad x_1, x_2 \ge 0 .$$

# %%
c = np.array([-3.0, -2.0])
rows = np.array([[1.0, 1], [1, 3], [1, 0], [-1, 0], [0, -1]])  # the last two are x >= 0
limits = np.array([4.0, 9, 3, 0, 0])

program = linprog(c, rows, limits, bounds=(None, None))
pairs = [list(pair) for pair in itertools.combinations(range(5), 2) if np.linalg.det(rows[list(pair)]) != 0]
crossings = [np.linalg.solve(rows[pair], limits[pair]) for pair in pairs]
corners = np.array([x for x in crossings if (rows @ x <= limits + 1e-9).all()])
assert len(corners) == 5
assert np.allclose(program.x, corners[(corners @ c).argmin()])
assert np.allclose(program.x, [3, 1])
print("objective at the corners:", {tuple(x.round(1).tolist()): float(x @ c) for x in corners})
print(f"linear program: x = ({program.x[0]:.0f}, {program.x[1]:.0f}), objective {program.fun:.0f}")

# %% [markdown]
# Gradient descent knows no constraints. **Projected** gradient descent takes the nearest feasible point after each
# step. Back to the line of section 1, now with the constraint $\lVert\theta\rVert \le 1.5$. The nearest point of that
# disc is $1.5\, \theta / \lVert\theta\rVert$, if $\theta$ is outside. At the end, the gradient is not zero: it points
# straight to the centre of the disc, $\nabla L = -2\lambda\theta$, so that no step along the circle helps. The same
# point minimizes $L(\theta) + \lambda \lVert\theta\rVert^2$ without any constraint: a limit on the length of $\theta$
# and a penalty on it have the same effect.

# %%
radius, theta = 1.5, jnp.array([-0.5, 1.0])
projected = [theta]
for _ in range(200):
    theta = theta - 0.35 * jax.grad(squared_error)(theta)
    theta = theta * jnp.minimum(1, radius / jnp.linalg.norm(theta))
    projected.append(theta)
projected = jnp.stack(projected)

slope = jax.grad(squared_error)(theta)
penalty = -(slope @ theta) / (2 * theta @ theta)
assert jnp.allclose(slope, -2 * penalty * theta, atol=1e-4)
assert jnp.allclose(jnp.linalg.solve(A.T @ A / 30 + penalty * jnp.eye(2), A.T @ price / 30), theta, atol=1e-4)
angle = jnp.linspace(0, 2 * jnp.pi, 1000)
circle = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
assert squared_error(theta) <= jax.vmap(squared_error)(circle).min() + 1e-5
print(f"without constraint L = {squared_error(exact):.4f} at ({exact[0]:.2f}, {exact[1]:.2f})")
print(f"in the disc        L = {squared_error(theta):.4f} at ({theta[0]:.2f}, {theta[1]:.2f}), lambda = {penalty:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
side = np.linspace(-0.5, 4.5, 100)
left.contour(side, side, c[0] * side + c[1] * side[:, None], levels=range(-20, 1, 2), colors="0.8", linestyles="solid")
around = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]
left.fill(*around.T, color=BLUE, alpha=0.25)
left.plot(*corners.T, "o", color=BLUE)
left.plot(*program.x, "*", color="black", markersize=12)
left.annotate("", (1.4, 1.1), (0.5, 0.5), arrowprops={"arrowstyle": "->", "color": ORANGE})
left.text(0.2, 0.2, "$-c$, downhill", color=ORANGE)
left.set(xlabel="$x_1$, chairs", ylabel="$x_2$, stools", title="linear program: the optimum is a corner")
draw_surface(right, descend(squared_error, (-0.5, 1.0), rate=0.35, steps=200), "descent without and with a constraint")
right.plot(*circle.T, color="black", linewidth=1)
right.plot(*projected.T, ".-", color=GREEN, markersize=5, linewidth=1)
plt.show()

# %% [markdown]
# Logistic regression is a **convex** problem: between any two points, the loss lies on or below the chord that joins
# its values there,
#
# $$f(\alpha x + \beta y) \le \alpha f(x) + \beta f(y) \qquad\text{for } \alpha + \beta = 1,\; \alpha, \beta \ge 0 .$$
#
# For a linear function the two sides are equal. Such a loss has a single valley, and gradient descent with small enough
# steps reaches it from everywhere. Most networks are not convex. Their descent ends in the **local minimum** below the
# start. Noise on the gradient can carry it over a ridge, but this is not guaranteed.

# %%
rate, steps = 0.02, 1000


def bowl(w):
    return 0.7 * w**2 - 3


def valleys(w):
    return w**4 - 3 * w**2 + w


def descend_noisily(key, w):
    """Gradient descent on `valleys` with a noise on each gradient that fades to nothing."""

    def step(w, now):
        noise = 10 * (1 - now / steps) * jax.random.normal(jax.random.fold_in(key, now))
        w = w - rate * (jax.grad(valleys)(w) + noise)
        return w, w

    return jax.lax.scan(step, w, jnp.arange(steps))[1]


pairs, share = jax.random.normal(jax.random.key(2), (2, 1000)), jax.random.uniform(jax.random.key(3), (1000,))
middle = share * pairs[0] + (1 - share) * pairs[1]
for f, convex in ((bowl, True), (valleys, False)):
    below = f(middle) <= share * f(pairs[0]) + (1 - share) * f(pairs[1]) + 1e-5
    assert below.all() == convex
    print(f"{f.__name__:8} on or below the chord for {100 * below.mean():.0f} % of 1000 pairs of points")

walks = jax.vmap(descend_noisily, in_axes=(0, None))(jax.random.split(jax.random.key(0), 1000), 1.8)
print(f"noisy descents from the right that end in the deeper valley: {100 * (walks[:, -1] < 0).mean():.0f} %")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True)
w = jnp.linspace(-2.2, 2.2, 200)
for panel, f, title in (
    (axes[0], bowl, "convex: every start, one end"),
    (axes[1], valleys, "not convex: the start decides"),
    (axes[2], valleys, "with noise: a chance to get out"),
):
    panel.plot(w, f(w), color="0.5")
    panel.set(ylim=(-4, 5), xlabel="w", title=title)
axes[0].set(ylabel="loss")
for begin, color in ((-2.1, BLUE), (0.6, GREEN), (1.8, ORANGE)):
    for panel, f in zip(axes, (bowl, valleys)):
        path = descend(f, begin, rate, 200)
        panel.plot(path[::3], f(path[::3]), ".", color=color)
        panel.plot(path[-1], f(path[-1]), "o", color=color, markersize=9)
escaped = walks[jnp.argmax(walks[:, -1] < 0)]
axes[2].plot(escaped[::5], valleys(escaped[::5]), ".-", color=ORANGE, linewidth=0.3, markersize=4, alpha=0.5)
axes[2].plot(escaped[-1], valleys(escaped[-1]), "o", color=ORANGE, markersize=9)
plt.show()

# %% [markdown]
# Where does the noise come from? **Batch gradient descent** looks at the whole training set before it takes a single
# step. **Stochastic gradient descent** (SGD) estimates the mean gradient from a small random batch of $N$ examples,
#
# $$\frac1n \sum_{i=1}^n \nabla \mathcal L_i(\theta) \approx
# \frac1N \sum_{i \in \text{batch}} \nabla \mathcal L_i(\theta),$$
#
# The estimate is unbiased, noisy and cheap: SGD takes $n/N$ steps at the cost of one exact step. One pass over the
# training set is called an **epoch**. Below, all runs see the same number of images at the same learning rate, $\alpha
# = 1/\lambda$ with $\lambda$ the largest eigenvalue of $\frac{1}{4n} X^T X$. Because $g' \le \frac14$, the curvature of
# the mean loss is nowhere larger, so each exact step lowers the loss.

# %%
safe = float(4 * len(X) / np.linalg.eigvalsh(X.T @ X)[-1])


@jax.jit
def sgd_step(theta, X, y):
    return theta - safe * nll_gradient(theta, X, y) / len(y)


def sgd(batch_size, epochs=10, looks=20):
    """Weights after some epochs, and the mean loss along the way: [(epochs so far, loss), ...]."""
    mean_loss = jax.jit(lambda theta: cnn.losses.sigmoid_cross_entropy(X @ theta, y).mean())
    theta, history = jnp.zeros(X.shape[1]), []
    order = np.random.default_rng(0)
    per_epoch = len(X) // batch_size
    for epoch in range(epochs):
        shuffled = order.permutation(len(X))
        for i in range(per_epoch):
            if i % max(1, per_epoch // looks) == 0:
                history.append((epoch + i / per_epoch, mean_loss(theta)))
            batch = shuffled[i * batch_size : (i + 1) * batch_size]
            theta = sgd_step(theta, X[batch], y[batch])
    return theta, [*history, (epochs, mean_loss(theta))]


figure, axes = plt.subplots(figsize=(7.5, 3.2))
for batch_size, color in ((len(X), BLUE), (32, ORANGE), (1, GREEN)):
    theta, history = sgd(batch_size)
    if batch_size == 32:
        theta_sgd = theta
    axes.plot(*zip(*history), color=color, label=f"batches of {batch_size:,}")
axes.set(xlabel="epochs", ylabel="mean loss on the training set", yscale="log", title=rf"$\alpha$ = {safe:.3f}")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# For the same number of images, small batches take many more steps and reach a much lower loss. Batches of a single
# image also have a cost: their loss is noisy, and on harder data (MNIST) it stops falling when the noise is as large as
# the progress. Computers also work better with dozens or hundreds of images at a time, which take hardly longer than
# one. We keep the weights of the run with batches of 32.
#
# ## 6. Testing
#
# We minimized the loss on the training examples. What matters is the loss on new examples, which the **test set**
# represents. The difference between the two is the **generalization gap**.

# %%
scores, scores_test = X @ theta_sgd, X_test @ theta_sgd
accuracy = {
    name: float(cnn.metrics.binary_accuracy(s, labels).mean())
    for name, s, labels in (("training", scores, y), ("test", scores_test, y_test))
}
gap = cnn.metrics.generalization_gap(1 - accuracy["training"], 1 - accuracy["test"])
print(f"accuracy on the training set      {100 * accuracy['training']:.1f} %")
print(f"accuracy on the test set          {100 * accuracy['test']:.1f} %")
print(f"generalization gap of the error   {100 * gap:.1f} points")
print(f"a model that always says 'no'     {100 * (1 - y_test.mean()):.1f} %")

# %% [markdown]
# Here the gap is close to zero or negative: the model is too simple to memorize its training set, and a small test set
# is not more precise. (With 355 images, an error of one per cent is known to about half a point.)
#
# The last line is a warning. Nine digits in ten are not a five, so a model that has learned nothing is 90 % accurate.
# If classes are unbalanced, look at both kinds of mistake. **Recall** is the fraction of the true fives that we found.
# **Precision** is the fraction of correct answers among those that we called a five.

# %%
counts = cnn.metrics.confusion_matrix((scores_test > 0).astype(int), y_test, 2)
print(f"recall    {counts[1, 1]} of {counts[1].sum()} fives found")
print(f"precision {counts[1, 1]} of {counts[:, 1].sum()} that were called a five")
cnn.inspect.plots.confusion(counts, ["not a 5", "5"])

# %% [markdown]
# The model has one weight per pixel, so it can be drawn as an image: ink at a red pixel is evidence for a five, ink at
# a blue pixel is evidence against it. $\theta^T x$ is the sum of the image multiplied by this template.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3), width_ratios=(2, 1))
bins = np.linspace(scores_test.min(), scores_test.max(), 40)
left.hist(scores_test[y_test == 0], bins, color=BLUE, alpha=0.7, label="other digits")
left.hist(scores_test[y_test == 1], bins, color=ORANGE, alpha=0.7, label="fives")
left.axvline(0, color="black", linewidth=1)
left.set(xlabel=r"score $\theta^T x$; right of 0 the answer is yes", ylabel="test images", yscale="log")
left.legend(frameon=False)
template = theta_sgd[:-1].reshape(train.images.shape[1:]).mean(-1)  # over the colours, if there are any
top = jnp.abs(template).max()
right.imshow(template, cmap="RdBu_r", vmin=-top, vmax=top)
right.set(title=r"the template $\theta$")
right.axis("off")
plt.show()

# %% [markdown]
# Here are sections 3 to 6 with the library: the same model, the same loss, any optimizer of Optax (here Adam, the
# default), shuffled epochs, and the test set at the end. Only the labels have to be rewritten as 0 and 1.


# %%
def is_five(data):
    return cnn.data.Dataset(data.images, (data.labels == 5).astype(int), ("not a 5", "5"))


result = cnn.train.fit(
    cnn.models.logistic(classes=1),
    is_five(train),
    cnn.train.Objective(cnn.losses.sigmoid_cross_entropy, metrics={"accuracy": cnn.metrics.binary_accuracy}),
    test=is_five(test),
    show=False,
)
print(f"test accuracy {100 * result.test.metrics['accuracy']:.1f} %, loss {result.test.metrics['loss']:.4f}")

# %% [markdown]
# ## 7. One layer is not enough
#
# Logistic regression says yes on one side of $\theta^T x = 0$ and no on the other: a straight line in the plane, a
# hyperplane in the space of images. No straight line separates a disc from the ring around it. A **multilayer
# perceptron** (MLP) puts a nonlinear function between two linear ones,
#
# $$f(x; \theta) = g\bigl(W_2\, g(W_1 x + b_1) + b_2\bigr),$$
#
# and the hidden layers learn to map the points so that the last layer *can* separate them by a line.

# %%
points, ring = make_circles(300, noise=0.12, factor=0.35, random_state=0)
points, ring = points.astype(np.float32), 1 - ring


def train_toy(model, steps=1500):
    optimizer = optax.adam(0.02)
    state = cnn.train.create_state(model, optimizer, jax.random.key(0), points)
    step = cnn.train.make_step(model, cnn.losses.sigmoid_cross_entropy, optimizer)
    for _ in range(steps):
        state, _ = step(state, (points, ring))
    return state


neuron = cnn.serial(head=cnn.dense(1))
network = cnn.serial(
    fc1=cnn.dense(8), act1=cnn.tanh,
    fc2=cnn.dense(2), act2=cnn.tanh,
    head=cnn.dense(1),
)  # fmt: skip


def draw_points(axes, points, **settings):
    axes.scatter(*points.T, c=np.where(ring, ORANGE, BLUE), s=12, edgecolors="black", linewidths=0.3)
    axes.set(aspect="equal", **settings)


figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.7))
side = np.linspace(-1.5, 1.5, 151, dtype=np.float32)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
for panel, model, name in zip(axes, (neuron, network), ("logistic regression", "MLP 2-8-2-1")):
    state = train_toy(model)
    output, _ = model.apply(state.params, state.model_state, points)
    right = cnn.metrics.binary_accuracy(output, ring).mean()
    output, _ = model.apply(state.params, state.model_state, plane)
    panel.contourf(side, side, output.reshape(151, 151), [-1e9, 0, 1e9], colors=[BLUE, ORANGE], alpha=0.35)
    draw_points(panel, points, title=f"{name}: {100 * right:.0f} % right", xlabel="$x_1$", ylabel="$x_2$")

hidden = cnn.inspect.activations(network, state.params, state.model_state, points)["act2"]
weight, bias = state.params["head"]["kernel"], state.params["head"]["bias"]
ends = np.array([-1.1, 1.1])
axes[2].plot(ends, -(weight[0] * ends + bias) / weight[1], color="black")
draw_points(axes[2], hidden, title="the points as the last layer sees them", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
axes[2].set(xlabel="unit 1 of the second hidden layer", ylabel="unit 2")
plt.show()

# %% [markdown]
# ## 8. The multilayer perceptron, and where its gradient comes from
#
# For a network of many layers, deriving the gradient by hand as in section 4 is long, and every change of the network
# requires a new derivation. **Backpropagation** does it mechanically. Take
#
# $$f(x, y, z) = (x + y)\,z \qquad\text{at } (-2, 5, -4).$$
#
# Forwards, each node computes its value: $q = x + y = 3$, then $f = q z = -12$. Backwards, each node receives $\partial
# f/\partial(\text{its output})$ and multiplies it by its own, local derivatives; that is the **chain rule**. The
# product node knows $\partial f/\partial q = z$ and $\partial f/\partial z = q$; the sum node knows $\partial
# q/\partial x = \partial q/\partial y = 1$. A node needs no knowledge of the rest of the graph.

# %%
x, y_, z = -2.0, 5.0, -4.0
q, back_through_sum = jax.vjp(jnp.add, x, y_)
f, back_through_product = jax.vjp(jnp.multiply, q, z)

df_dq, df_dz = back_through_product(jnp.ones(()))
df_dx, df_dy = back_through_sum(df_dq)
at_once = jax.grad(lambda x, y, z: (x + y) * z, argnums=(0, 1, 2))(x, y_, z)
print("node by node:", *(float(d) for d in (df_dx, df_dy, df_dz)))
print("jax.grad:    ", *(float(d) for d in at_once))

# %%
places = {"x": (0, 3), "y": (0, 1.5), "z": (0, 0), "+": (2, 2.25), "*": (4, 1.1), "f": (6, 1.1)}
arrows = [("x", "+", x, df_dx), ("y", "+", y_, df_dy), ("+", "*", q, df_dq), ("z", "*", z, df_dz), ("*", "f", f, 1.0)]
figure, axes = plt.subplots(figsize=(7, 3))
for begin, end, value, gradient in arrows:
    (x0, y0), (x1, y1) = places[begin], places[end]
    axes.annotate("", (x1 - 0.25, y1), (x0 + 0.25, y0), arrowprops={"arrowstyle": "->", "color": "0.5"})
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    axes.annotate(f"{value:g}", middle, (0, 6), textcoords="offset points", color=GREEN, ha="center")
    axes.annotate(f"{gradient:g}", middle, (0, -15), textcoords="offset points", color=ORANGE, ha="center")
for name, (column, row) in places.items():
    axes.text(column, row, name, ha="center", va="center", fontsize=13, bbox={"boxstyle": "circle", "fc": "white"})
axes.set(xlim=(-0.5, 6.5), ylim=(-0.5, 3.5), title="values forwards (green), gradients backwards (orange)")
axes.axis("off")
plt.show()

# %% [markdown]
# Without a nonlinear function between them, two linear layers are equal to one. Which function should we choose? The
# sigmoid and $\tanh$ flatten out, and where they are flat the gradient that has to pass through them is nearly zero.
# **ReLU**, $\max(0, z)$, keeps a slope of 1 for all positive inputs, costs nothing, and is a good default. The others
# vary it: leaky ReLU keeps a small slope below zero, ELU bends smoothly to $-\alpha$, and maxout learns its own shape
# as the larger of two linear functions.

# %%
z = jnp.linspace(-4, 4, 200)[:, None]
shapes = {
    "sigmoid": cnn.sigmoid,
    "tanh": cnn.tanh,
    "ReLU": cnn.relu,
    "leaky ReLU, 0.1": cnn.leaky_relu(0.1),
    "ELU": cnn.elu(),
    "maxout of two lines": cnn.maxout(1),
}
figure, axes = plt.subplots(2, 3, figsize=(10, 4.4), sharex=True)
for panel, (name, shape) in zip(axes.ravel(), shapes.items()):
    layer = cnn.serial(shape)  # a plain function or a layer with weights: both are layers
    params, state = layer.init(jax.random.key(10), z)
    value, slope = jax.jvp(lambda z, layer=layer, v=(params, state): layer.apply(*v, z)[0], (z,), (jnp.ones_like(z),))
    panel.plot(z, value, color=BLUE, label="value")
    panel.plot(z, slope, color=ORANGE, linewidth=1, label="slope")
    panel.set(title=name)
for panel in axes[1]:
    panel.set(xlabel="z")
axes[0, 0].legend(frameon=False)
plt.show()

# %% [markdown]
# Now we classify all ten digits. The network has one output for each class; the **softmax** makes probabilities of
# them, $p_k = e^{z_k} / \sum_j e^{z_j}$, and the negative log-likelihood of the true class, $-\log p_y$, is the loss.
# (With two classes this is the sigmoid and the loss of section 4.)
#
# The MLP has 128 hidden units: 784-128-10 for MNIST, 1024-128-10 for the embedded digits. Its weights begin as small
# random numbers: with equal initial weights, all hidden units would compute the same output and remain equal. A tenth
# of the training set is held out for **validation**: the network is evaluated on it after each epoch, and the weights
# of the best epoch are kept. The test set is used once, at the end.

# %%
learn, validation = train.hold_out(0.1)
mlp = cnn.models.mlp(classes=10)
print(mlp)
print(cnn.inspect.summary(mlp, learn.images[:1]))

# %%
settings = {"epochs": 20, "batch_size": 32} if DATA == "digits" else {"epochs": 5, "batch_size": 128}
settings |= {"validation": validation, "test": test, "show": False}

mlp_result = cnn.train.fit(mlp, learn, **settings)
print(f"test accuracy {100 * mlp_result.test.metrics['accuracy']:.2f} %")
cnn.inspect.plots.curves(mlp_result.history)

# %% [markdown]
# The training loss goes on falling after the validation loss has stopped: the generalization gap grows.
#
# ## 9. The convolutional network
#
# Two things are wrong with feeding images to an MLP. It is expensive: one hidden layer of 100 units on a colour image
# of 300x300 has $300 \cdot 300 \cdot 3 \cdot 100 + 100 \approx 27$ million parameters. And flattening discards the
# spatial structure: an MLP does not know which pixels are neighbours. If the pixels of all images are shuffled in the
# same way, it learns just as well.
#
# A **convolutional layer** keeps the spatial structure. It slides a small filter over the image and takes the dot
# product at every place. The same few weights are used everywhere, and each output depends on a small window only.
#
# $$y[i, j, k] = b_k + \sum_{u, v, c} x[S i + u,\; S j + v,\; c]\; w[u, v, c, k]$$
#
# The filter always extends over all channels $c$; each of the $K$ filters gives one map. (Strictly this is
# cross-correlation. Mathematicians' convolution flips the filter first; `cnn.ops.convolve` does. A network that learns
# its filters does not care.) Here is a filter designed by hand, **Sobel's** filter for edges:

# %%
sobel = jnp.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
kernel = jnp.stack([sobel, sobel.T], axis=-1)[:, :, None, :]  # (height, width, channels, filters)
five = train.images[train.labels == 5][:1].mean(-1, keepdims=True) / 255.0  # grey
edges = cnn.ops.conv(five, kernel)
print(f"image {five.shape} * filters {kernel.shape} -> {edges.shape}")

window = five[0, 10:13, 12:15, 0]
print(f"at (10, 12): {edges[0, 10, 12, 0]:.4f}; the dot product of filter and window: {jnp.vdot(sobel, window):.4f}")

figure, axes = plt.subplots(1, 4, figsize=(11, 2.9))
pictures = (five[0, :, :, 0], edges[0, :, :, 0], edges[0, :, :, 1], jnp.linalg.norm(edges[0], axis=-1))
titles = ("a five", "left to right", "top to bottom", "strength of the edge")
for panel, picture, title, cmap in zip(axes, pictures, titles, ("gray", "RdBu_r", "RdBu_r", "gray")):
    top = jnp.abs(picture).max()
    panel.imshow(picture, cmap=cmap, vmin=-top if cmap == "RdBu_r" else 0, vmax=top)
    panel.set(title=title)
    panel.axis("off")
plt.show()

# %% [markdown]
# **How large is the output?** A filter of size $F$ that moves in steps of $S$ (the **stride**) over $W$ pixels, with
# $P$ zeros added at each end (**padding**), stands in
#
# $$\frac{W - F + 2P}{S} + 1$$
#
# places. On 7 pixels, a filter of 3 fits five times at stride 1 and three times at stride 2. At stride 3 it does not
# fit: a pixel would be left over.

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 2.2), sharey=True)
for panel, stride in zip(axes, (1, 2, 3)):
    for number, first in enumerate(range(0, 7 - 3 + 1, stride)):
        panel.barh(-number, 3, left=first, height=0.7, color=BLUE, alpha=0.8)
    panel.axvspan(first + 3, 7, color=ORANGE, alpha=0.4, linewidth=0)  # what no window sees
    panel.grid(axis="x", alpha=0.4)
    panel.set(title=f"stride {stride}", xlabel="pixel", xticks=range(8), yticks=[], xlim=(0, 7))
axes[0].set(ylabel="place of the filter")
plt.show()

image = jnp.ones((1, 7, 7, 1))
for stride in (1, 2, 3):
    layer = cnn.conv(1, 3, stride)
    params, state = layer.init(jax.random.key(0), image)
    try:
        output, _ = layer.apply(params, state, image)
        print(f"stride {stride}: {output.shape[1]}x{output.shape[2]}")
    except cnn.LayerError as error:
        print(f"stride {stride}: {error}")

# %% [markdown]
# With stride 1 and $P = (F - 1)/2$ the size stays as it is: pad by 1 for a 3x3 filter, by 2 for 5x5, by 3 for 7x7.
# Without padding, 5x5 filters shrink the image: 32, 28, 24, ...
#
# **How many parameters?** One filter has $F \cdot F \cdot C$ weights and a bias. Ten 5x5 filters on three channels:
# $(5 \cdot 5 \cdot 3 + 1) \cdot 10 = 760$, however large the image is.

# %%
print(cnn.inspect.summary(cnn.conv(10, 5, stride=1, padding=2), jnp.zeros((1, 32, 32, 3))))

# %% [markdown]
# **Pooling** reduces the size of each map separately and has no parameters. The usual form takes the largest value of
# each 2x2 window and halves the image. For an odd size, an option decides about the incomplete window at the border:
# the default leaves it out, `ceil=True` includes it, for $\lceil W/2 \rceil$ places.

# %%
board = jnp.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], jnp.float32)[None, :, :, None]
print("maximum of each 2x2 window:", cnn.ops.max_pool(board, 2)[0, :, :, 0].tolist())
print("mean of each 2x2 window:   ", cnn.ops.avg_pool(board, 2)[0, :, :, 0].tolist())
for ceil in (False, True):
    rows, columns = cnn.ops.max_pool(jnp.zeros((1, 7, 7, 1)), 2, ceil=ceil).shape[1:3]
    print(f"2x2 pooling of 7x7 with ceil={ceil}: {rows}x{columns}")

# %% [markdown]
# A convolutional network stacks these: convolution, activation, pooling, again, and at the end dense layers that read
# the maps. The pattern `[(CONV-RELU)*N - POOL?]*M - (FC-RELU)*K - SOFTMAX` covers most of the early networks
# (`cnn.models.convnet` builds it for any N, M, K). Their ancestor is **LeNet-5** of 1998, with $\tanh$ and average
# pooling:

# %%
lenet = cnn.models.lenet5(classes=10)
print(cnn.inspect.summary(lenet, jnp.zeros((1, 32, 32, 1))))

# %% [markdown]
# It has far fewer parameters than our MLP, and nearly all of them sit in its dense layers. The column "field" shows how
# the receptive field grows: a value of the first layer sees 5x5 pixels, one after the second convolution sees 14x14,
# the dense layers see everything. Flattening changes no field: each of the 400 numbers still sees the 16x16 pixels of
# its place in the last map. It is trained by the same line as before with a preprocessing of the pixels: zero mean,
# unit variance, and a size of 32x32 (a digit of MNIST gets a border).

# %%
to_lenet = cnn.data.Preprocess.of(learn.images, (32, 32))
lenet_result = cnn.train.fit(lenet, learn, cnn.train.Objective(preprocess=to_lenet), **settings)
print(f"test accuracy {100 * lenet_result.test.metrics['accuracy']:.2f} %")
cnn.inspect.plots.curves(lenet_result.history)

# %% [markdown]
# **What did it learn?** Here are the six filters of the first layer, red for positive weights and blue for negative;
# the upper row shows the random initial filters, the lower row shows them after training. (The seed determines all
# random numbers in `fit`, so we can compute the initial weights again.)

# %%
before = cnn.train.create_state(lenet, optax.identity(), jax.random.key(0), learn.images[:1], to_lenet).params
before, after = before["conv1"]["kernel"], lenet_result.params["conv1"]["kernel"]
print(f"correlation of before and after: {np.corrcoef(before.ravel(), after.ravel())[0, 1]:.2f}")
cnn.inspect.plots.filters(jnp.concatenate([before, after], axis=2))

# %% [markdown]
# Surprisingly, the first layer hardly changes on a thousand small digits. Random filters are sufficient, and the later
# layers learn to use their outputs. The edges and colours that first layers are known for appear on photographs, after
# far more training.
#
# The outputs of those filters for a five, after the activation: six pictures of the same digit, brighter where the
# value is larger. After the second convolution there are sixteen small ones, further from the pixels and closer to the
# question.

# %%
seen = cnn.inspect.activations(
    lenet, lenet_result.params, lenet_result.model_state, to_lenet(train.images[train.labels == 5][:1])
)
cnn.inspect.plots.activation_maps(seen["act1"][0], "first layer, 6 maps of 28x28")

# %%
cnn.inspect.plots.activation_maps(seen["act2"][0], "second layer, 16 maps of 10x10")

# %% [markdown]
# **What does each layer see?** The lecture shows it for VGG-16, with the method of Zeiler and Fergus (2013): edges and
# colours in `conv1_1`, textures and parts in `conv3_2`, parts of objects in `conv5_3`, and after them a linear
# classifier. The method searches the training images for the patches that excite a channel most, each cut to the
# channel's receptive field. Below each patch is what the channel's value says about its pixels, passed back through the
# layers.

# %%
look, found = (lenet, lenet_result.params, lenet_result.model_state), {}
for layer, channels, size in (("conv1", (0, 1), 5), ("conv2", (0, 1), 14)):
    top = cnn.inspect.strongest(*look, learn.images, layer=layer, count=9, preprocess=to_lenet)
    for channel in channels:
        patches = cnn.inspect.patches(*look, learn.images, top, channel, preprocess=to_lenet)
        assert patches.pixels.shape[:3] == (9, size, size)
        found[f"{layer}, {channel}"] = patches
cnn.inspect.pictures.top_patches(found, "the patches that excite a channel most: 5x5 and 14x14 pixels")

# %% [markdown]
# One can also **make** an image that excites a unit: begin with noise and climb along the gradient by the *pixels*.
# From layer to layer the pictures grow with the receptive field. Those of the ten outputs excite them more than a
# typical digit of the class does, and have something of the digit in them, but nobody would write it so.

# %%
made, rows = {}, (("conv1", 6), ("conv2", 10), ("head", 10))
shape = to_lenet(learn.images[:1]).shape[1:]
for layer, count in rows:
    units = np.arange(count, dtype=np.int32)
    made[layer], excited = cnn.inspect.maximize(*look, (count, *shape), unit=units, layer=layer)

figure, axes = plt.subplots(3, 10, figsize=(11, 3.6))
for line, (layer, count) in zip(axes, rows):
    for k, panel in enumerate(line):
        if k < count:
            picture = made[layer][k].mean(-1)
            panel.imshow(picture, cmap="gray", vmin=-abs(picture).max(), vmax=abs(picture).max())
            panel.set_title(f"{layer} {k}", fontsize=8)
        panel.axis("off")
plt.show()

answers = lenet.apply(*look[1:], made["head"])[0]
scores = np.asarray(lenet_result.outputs(learn.images))
typical = np.array([np.median(scores[learn.labels == k, k]) for k in range(10)])
extent = {layer: float((abs(x) > 0.25 * abs(x).max((1, 2, 3), keepdims=True)).mean()) for layer, x in made.items()}
print("share of the pixels above a quarter of the largest:", {k: f"{100 * v:.0f} %" for k, v in extent.items()})
assert answers.argmax(1).tolist() == list(range(10))
assert (excited[-1] > typical).all()
assert extent["conv1"] < extent["conv2"] < extent["head"]

# %% [markdown]
# **Why this answer?** Two ways to ask which pixels speak for it. **Grad-CAM** adds up the maps of the last convolution,
# each weighted by its mean gradient. **Occlusion** slides a square over the image and notes where the probability of
# the answer falls. If the maps are right, an answer should suffer more when its own hottest fifth is covered than when
# the hottest fifth of another image's map is:

# %%
some = to_lenet(test.images[:200])
paper = float(some.min())
hottest = {
    "Grad-CAM": cnn.inspect.grad_cam(*look, some),
    "occlusion": cnn.inspect.occlusion(*look, some, size=8, stride=2, grey=paper).drop(),
}


def certainty(images):
    return cnn.softmax(lenet.apply(*look[1:], images)[0])


answer = certainty(some).argmax(1)[:, None]
for name, maps in hottest.items():
    order = np.asarray(maps).reshape(len(some), -1).argsort(1, kind="stable").argsort(1)
    covered = (order >= 0.8 * order.shape[1]).reshape(*some.shape[:3], 1)
    lost = []
    for mask in (covered, np.roll(covered, 1, axis=0)):
        left_over = jnp.take_along_axis(certainty(jnp.where(mask, paper, some)), answer, 1)
        lost.append(float((jnp.take_along_axis(certainty(some), answer, 1) - left_over).mean()))
    print(f"{name:9} probability lost: {lost[0]:.2f} by its own mask, {lost[1]:.2f} by another image's")
assert lost[0] > lost[1] + 0.2  # by occlusion

few = [int(np.flatnonzero(test.labels[:200] == k)[0]) for k in (3, 5, 8)]
few_maps = {name: np.asarray(maps)[few] for name, maps in hottest.items()}
cnn.inspect.pictures.explained(test.images[few], few_maps, [test.classes[test.labels[k]] for k in few])

# %% [markdown]
# Occlusion passes the test, **Grad-CAM fails it** on this network: its hottest places lie beside the strokes as often
# as on them. It was made for networks whose maps are positive and are averaged at the end. Here $\tanh$ makes them
# negative as often, and the dense layers weigh every place in another way, which the mean gradient of a map cannot say.
# On a network that suits it, both pass (`python -m experiments.seeing_inside`). A heat map alone proves nothing.
#
# **Low, middle and high features, then a linear classifier:** so the lecture's diagram ends. Do the layers make the
# classes easier to separate? The simplest linear classifier takes the class whose mean is nearest. Given the pixels,
# and the outputs of each stage:

# %%
inside = [cnn.inspect.activations(*look, to_lenet(data.images[:1000])) for data in (learn, test)]
separable = {}
for name in ("pixels", "pool1", "pool2", "act3", "act4"):
    known, unseen = (
        np.asarray(to_lenet(data.images[:1000]) if name == "pixels" else seen[name]).reshape(min(len(data), 1000), -1)
        for data, seen in zip((learn, test), inside)
    )
    means = np.stack([known[learn.labels[:1000] == k].mean(0) for k in range(10)])
    nearest = ((unseen[:, None] - means) ** 2).sum(-1).argmin(1)
    separable[name] = float((nearest == test.labels[:1000]).mean())
print("nearest mean, test accuracy:", {name: f"{100 * share:.1f} %" for name, share in separable.items()})
assert separable["pixels"] < separable["act3"]
assert separable["pixels"] < separable["act4"]

# %% [markdown]
# **Where does it fail?** Rows are the true digits, columns the answers.

# %%
probabilities = np.asarray(cnn.softmax(lenet_result.test.outputs))
counts = cnn.metrics.confusion_matrix(probabilities.argmax(1), test.labels, 10)
cnn.inspect.plots.confusion(counts, test.classes)

# %% [markdown]
# These are its most confident mistakes, with the true digit, the network's answer, and the probability of that answer.

# %%
cnn.inspect.plots.mistakes(test, probabilities, most=8)

# %% [markdown]
# **The three side by side.** Each is trained in the same way on all ten digits, and each then answers the question we
# began with.

# %%
results = {
    "logistic regression": cnn.train.fit(cnn.models.logistic(classes=10), learn, **settings),
    "MLP": mlp_result,
    "LeNet-5": lenet_result,
}
print("                      parameters    test loss      which digit?         is it a 5?")
for name, result in results.items():
    answers = result.test.outputs.argmax(1)
    which, five = (answers == test.labels).mean(), ((answers == 5) == (test.labels == 5)).mean()
    error = [100 * np.sqrt(p * (1 - p) / len(test)) for p in (which, five)]
    print(
        f"{name:20}  {result.result['params']:>10,}  {result.test.metrics['loss']:>11.4f}"
        f"  {100 * which:>6.2f} % ± {error[0]:.2f}  {100 * five:>8.2f} % ± {error[1]:.2f}"
    )
print(f"{'always no':20}  {0:>10}  {'':>11}  {'':>15}  {100 * (test.labels != 5).mean():>8.2f} %")

# %% [markdown]
# The ± is one standard error, $\sqrt{p(1-p)/n}$ for an accuracy $p$ on $n$ test images. Read the table with it: on the
# embedded digits the three models cannot be told apart by their accuracy, only the loss shows that LeNet-5 is less
# often confident of a wrong answer. A small, clean, centred set of digits is too easy. The same notebook with `DATA =
# "mnist"` (10,000 test images; a few minutes) shows clear differences:
#
# | MNIST, 5 epochs | parameters | test loss | which digit? | is it a 5? |
# | --- | ---: | ---: | ---: | ---: |
# | logistic regression | 7,850 | 0.2695 | 92.40 % ± 0.26 | 97.96 % ± 0.14 |
# | MLP | 101,770 | 0.0671 | 97.94 % ± 0.14 | 99.63 % ± 0.06 |
# | LeNet-5 | 61,706 | 0.0297 | 99.02 % ± 0.10 | 99.80 % ± 0.04 |
#
# A hidden layer, then convolution: each step more than halves the number of errors, and the second step also needs
# fewer parameters.
#
# Networks after LeNet-5 have **smaller filters and more layers**, and most of them neither dense layers nor, later,
# pooling. The [case studies](04_case_studies.ipynb) count this trend in section 9.
#
# ## What the slides say otherwise
#
# - The line is fitted by "(m, n)": its parameters are $(m, b)$.
# - The border of logistic regression is given as $g(\theta^T x) = 0$. But $g$ is never 0; the hyperplane is
#   $\theta^T x = 0$, where $g = \frac12$.
# - $W_1 \in \mathbb R^{784 \times 128}$ cannot multiply $x \in \mathbb R^{784}$ from the left, as $W_1 x + b_1$ asks.
#   Either $W_1$ has 128 rows, or it is $x^T W_1$ (how the library stores it).
# - "No analytical solution" is said of all convex problems, and least squares named as one of them; section 1 has its
#   solution.
# - Descent "will converge to a local minimum": it may also stop on a saddle or a plateau, where the gradient is zero.

# %%
assert jax.grad(lambda w: w[0] ** 2 - w[1] ** 2)(jnp.zeros(2)).tolist() == [0, 0]  # a saddle
assert cnn.sigmoid(0.0) == 0.5
assert cnn.sigmoid(-80.0) > 0
kernel = mlp_result.params["fc1"]["kernel"]
print(f"the MLP's first kernel: {kernel.shape[0]} inputs x {kernel.shape[1]} units")

# %% [markdown]
# ## Exercises
#
# 1. **The safe step.** In section 5 the learning rate is $1/\lambda$. Multiply it by 2, 10 and 100. At 10, the loss of
#    batch gradient descent first rises, but then falls below its earlier value. Why is a step that is too long at the
#    start no longer too long later? (Where is $g' = \frac14$, and where is it not?)
# 2. **Shuffled pixels.** Draw one permutation of the pixels and apply it to every image of `learn`, `validation` and
#    `test`. Train the three models again with `cnn.train.fit`. Which of them do not notice, and why? (On MNIST, one
#    falls from 99.0 % to 96.7 %.)
# 3. **Your own network.** Build `[(CONV-RELU)*2 - POOL]*2 - FC` with `cnn.serial`, with fewer parameters than LeNet-5.
#    Count them by hand first and let `cnn.inspect.summary` check you. Then train it and see whether it is better. Does
#    padding help?
#
# ## What next
#
# - `cnn.train.Objective(augment=cnn.data.affine())` applies new small shifts and rotations to the training digits in
#   each epoch. It is the cheapest way to reduce the generalization gap.
# - `jaxcnn train lenet5` on the command line does what section 9 did, and writes curves, confusion matrix, mistakes
#   and checkpoints to a folder.
# - `jaxcnn explore RUN` opens such a run in the browser: draw a digit, and see every map of every layer. What deeper
#   layers of larger networks react to, edges first, then textures, then parts of things, is searched for by
#   `python -m experiments.seeing_inside`.
# - Each file in `jaxcnn/models` is a network to be read from top to bottom, and `jaxcnn summary NAME` prints its table.
# - Left open here: why SGD is rarely used bare (momentum, Adam), how weights should start, and what it takes to train
#   networks of dozens of layers.
