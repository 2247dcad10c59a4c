"""CIFAR-10 in a quarter of an hour on two CPU cores, in seconds on a GPU: the recipe of the speed records.

A small network behind whitened patches learns for eight epochs: Muon for the filters, SGD with Nesterov momentum for
biases and the last layer, label smoothing, mirrored and shifted images. A test image is judged by six views. The data
are on the device, and all steps of an epoch are one compiled program.

Source: Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU (2024), and its project cifar10-airbench, with Muon
(Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024).
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn import initializers

import jaxcnn as cnn
from experiments.common import images, machine, main, percent, table
from jaxcnn.data.augment import augmented
from jaxcnn.train.optimizers import orthogonal

PATCHES = 5000  # images whose patches are whitened
BIAS_EPOCHS = 3  # in which the bias behind the whitened patches learns


def cifar10(
    data: str = "cifar10", data_dir: Path | None = None, examples: int | None = None,
    widths: tuple[int, int, int] = (64, 256, 256), epochs: int = 8, batch_size: int = 2000, lr: float = 0.24,
    bias_lr: float = 0.053, head_lr: float = 0.67, weight_decay: float = 2e-6, smoothing: float = 0.2,
    bfloat16: bool = False, seed: int = 0, seeds: int = 1,
) -> None:  # fmt: skip
    """Trains the network and prints its test accuracy, with one and with six views of each image.

    Args:
      data: cifar10, or other small images.
      data_dir: where cifar10 lies.
      examples: train on this number of images only; all when not given.
      widths: filters of the three stages.
      epochs: passes over the training images.
      batch_size: images a step.
      lr: Muon's at the start; all rates fall linearly to 0.
      bias_lr: of the biases, for the sum of a batch's losses.
      head_lr: of the last layer, likewise.
      weight_decay: of biases and last layer, for each image of a batch.
      smoothing: the share of a label that is spread over all classes.
      bfloat16: compute the convolutions in bfloat16; parameters and normalization stay in float32.
      seed: of weights, order and augmentation.
      seeds: number of trainings, with seed, seed + 1, ...
    """
    train, test = images(data, data_dir, examples)
    batch_size = min(batch_size, len(train))
    per_epoch = len(train) // batch_size
    model = network(len(train.classes), widths, channels=train.images.shape[-1])
    if bfloat16:
        model = cnn.transforms.mixed_precision(model)
    loss = functools.partial(cnn.losses.softmax_cross_entropy, smoothing=smoothing)
    optimizer = optimizers(epochs * per_epoch, BIAS_EPOCHS * per_epoch, batch_size, lr, bias_lr, head_lr, weight_decay)
    step = cnn.train.make_step(model, cnn.train.Objective(loss, metrics={}, augment=shifted), optimizer)

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, pixels: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        """The state after all steps of an epoch, and the mean of their losses."""
        order = jax.random.permutation(key, len(labels))[: per_epoch * batch_size].reshape(per_epoch, batch_size)

        def one(state: Any, batch: jax.Array) -> Any:
            state, metrics = step(state, (pixels[batch], labels[batch]))
            return state, metrics["loss"]

        state, losses = jax.lax.scan(one, state, order)
        return state, losses.mean()

    values = cnn.data.Preprocess.of(train.images)
    pixels, labels, seen, truth = jax.device_put((values(train.images), train.labels, values(test.images), test.labels))
    accuracies = jax.jit(functools.partial(test_accuracies, model, batch_size=batch_size))
    rows = []
    for own in range(seed, seed + seeds):
        began, key = time.perf_counter(), jax.random.key(own)
        state = cnn.train.create_state(model, optimizer, key, pixels[:1])
        state = state.replace(model_state=whitened(state.model_state, pixels[:PATCHES]))
        mirror = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (len(labels), 1, 1, 1))
        for number in range(epochs):
            # A random half of the images is mirrored, then the other half: each pair of epochs shows both.
            now = jnp.where(mirror ^ bool(number % 2), pixels[:, :, ::-1], pixels)
            state, mean_loss = epoch(state, now, labels, jax.random.fold_in(key, 2 + number))
            print(f"seed {own}, epoch {number + 1}: loss {float(mean_loss):.3f}, "
                  f"{time.perf_counter() - began:.1f} s", flush=True)  # fmt: skip
        plain, six = map(float, accuracies(state.params, state.model_state, seen, truth))
        rows.append((plain, six, time.perf_counter() - began))
        print(f"seed {own}: {percent(plain)}, by six views {percent(six)}, {rows[-1][2]:.1f} s", flush=True)
    figures = [percent([row[i] for row in rows]) for i in (0, 1)]
    print(f"\n{data}, {len(train):,} training and {len(test):,} test images, {epochs} epochs in batches of "
          f"{batch_size} ({machine()})")  # fmt: skip
    median = f"{statistics.median(row[2] for row in rows):.1f}"
    print(table(["test accuracy", "by six views", "seconds, median"], [[*figures, median]]))


# --- the network -------------------------------------------------------------------------------------------------


def near_identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Kernels `(3, 3, C, F)` of which the first C filters pass on one channel each; the others are random.

    The random ones are uniform from -b to b, b = 1 / sqrt(9 C).
    """
    entering = shape[2]
    bound = 1 / math.sqrt(math.prod(shape[:3]))
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    identity = jnp.zeros((*shape[:2], entering, entering), dtype).at[1, 1].set(jnp.eye(entering, dtype=dtype))
    return kernel.at[..., :entering].set(identity[..., : shape[3]])


def stage(filters: int) -> cnn.Layer:
    """Two 3x3 convolutions with normalization and GELU, and max pooling between: `(N, H, W, C) -> (N, H/2, W/2, F)`."""

    def forward(net: cnn.core.Net, x: jax.Array) -> jax.Array:
        x = cnn.gelu(net.bn1(net.pool(net.conv1(x))))
        return cnn.gelu(net.bn2(net.conv2(x)))

    def conv() -> cnn.Layer:
        return cnn.conv(filters, 3, padding=1, bias=False, kernel_init=near_identity)

    def norm() -> cnn.Layer:
        return cnn.batch_norm(0.6, 1e-12, scale=False)

    return cnn.network(forward, conv1=conv(), pool=cnn.max_pool(2), bn1=norm(), conv2=conv(), bn2=norm())


def network(classes: int, widths: tuple[int, int, int], channels: int = 3) -> cnn.Layer:
    """`(N, H, W, channels) -> (N, classes)` logits: whitened 2x2 patches, three stages, the maximum, a dense layer.

    The whitening does not learn: its kernels are variables of the state, which `whitened` sets.
    """

    def forward(net: cnn.core.Net, x: jax.Array) -> jax.Array:
        x = net.patches(x)
        x = cnn.gelu(x + cnn.ops.spread(net.bias(), x))
        x = net.stage3(net.stage2(net.stage1(x)))
        return net.head(x.max((1, 2))) / widths[-1]

    return cnn.network(
        forward,
        patches=cnn.freeze(cnn.conv(8 * channels, 2, bias=False)),
        bias=cnn.param(8 * channels),
        stage1=stage(widths[0]),
        stage2=stage(widths[1]),
        stage3=stage(widths[2]),
        head=cnn.dense(classes, bias=False, kernel_init=initializers.normal(1.0)),
    )


def whitened(model_state: Any, pixels: jax.Array) -> Any:
    """The model's state with kernels that whiten 2x2 patches of C channels: 4 C directions, and their negatives.

    With the eigenvectors v and eigenvalues e of the patches' covariance, the kernels are v / sqrt(e + 0.0005) and
    -v / sqrt(e + 0.0005): the outputs are uncorrelated and have the variance 1.
    """
    height, width, channels = pixels.shape[1:]
    shifts = [pixels[:, i : height - 1 + i, j : width - 1 + j] for i in (0, 1) for j in (0, 1)]
    patches = jnp.concatenate([shift.reshape(-1, channels) for shift in shifts], axis=1)
    values, vectors = jnp.linalg.eigh(patches.T @ patches / len(patches))
    kernels = (vectors / jnp.sqrt(values + 5e-4)).reshape(2, 2, channels, 4 * channels)
    return {**model_state, "patches": {"frozen": {"kernel": jnp.concatenate([kernels, -kernels], axis=-1)}}}


# --- learning ----------------------------------------------------------------------------------------------------


def shifted(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image shifted by up to two pixels along each axis; the new pixels are reflections."""
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    return augmented(cnn.data.crop((height, width)), padded, None, key)[0]


def unit_filters() -> optax.GradientTransformation:
    """Before an update, the kernels of a layer of F filters get the norm sqrt(F)."""

    def update(updates: Any, params: Any) -> Any:
        def one(u: jax.Array, w: jax.Array) -> jax.Array:
            return u + w * (math.sqrt(w.shape[-1]) / jnp.linalg.norm(w) - 1)

        return jax.tree.map(one, updates, params)

    return optax.stateless(update)


def optimizers(
    steps: int, bias_steps: int, batch_size: int, lr: float, bias_lr: float, head_lr: float, weight_decay: float
) -> optax.GradientTransformation:
    """Muon for the filters of the stages, SGD with Nesterov momentum for biases and the last layer."""

    def sgd(lr: float, steps: int) -> optax.GradientTransformation:
        rate = lr * batch_size  # a step has the mean of the losses
        return optax.chain(
            optax.add_decayed_weights(weight_decay * batch_size / rate),
            optax.sgd(optax.linear_schedule(rate, 0, steps), 0.85, nesterov=True),
        )

    muon = optax.chain(
        optax.trace(0.6, nesterov=True),
        optax.stateless_with_tree_map(lambda update, _: orthogonal(update, steps=3)),
        optax.scale_by_learning_rate(optax.linear_schedule(lr, 0, steps)),
        unit_filters(),
    )

    return cnn.train.by_path(
        {"bias": sgd(bias_lr, bias_steps), "head": sgd(head_lr, steps), "*kernel": muon, "*": sgd(bias_lr, steps)}
    )


# --- testing -----------------------------------------------------------------------------------------------------


def test_accuracies(
    model: cnn.Layer, params: Any, model_state: Any, pixels: jax.Array, labels: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """The share of right answers by the images, and by the mean outputs of six views.

    The views are the image, and the image shifted by one pixel to both corners with half of the weight; each of them
    also mirrored.
    """

    def outputs(x: jax.Array) -> jax.Array:
        return model.apply(params, model_state, x)[0]

    def both(x: jax.Array) -> jax.Array:
        return (outputs(x) + outputs(x[:, :, ::-1])) / 2

    def right(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, truth = batch
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        six = both(x) / 2 + both(padded[:, :-2, :-2]) / 4 + both(padded[:, 2:, 2:]) / 4
        return (outputs(x).argmax(-1) == truth).sum(), (six.argmax(-1) == truth).sum()

    size = math.gcd(len(labels), batch_size)
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (pixels, labels))
    plain, six = jax.lax.map(right, parts)
    return plain.sum() / len(labels), six.sum() / len(labels)


if __name__ == "__main__":
    main(cifar10)
