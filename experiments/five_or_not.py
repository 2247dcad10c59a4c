"""Is this digit a 5? Logistic regression by batch gradient descent and by mini-batch SGD.

The model is h(x) = g(theta x) with the sigmoid g, and the loss is the negative log-likelihood. The gradient derived by
hand, -sum (y - h(x)) x_j, is checked against `jax.grad`, which the training uses, and against finite differences.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcnn as cnn
from experiments.common import machine, main, table


def five_or_not(
    data: str = "mnist", data_dir: Path | None = None, epochs: int = 20, lr: float = 0.5, sgd_lr: float = 0.05,
    batch_size: int = 128, seed: int = 0,
) -> None:  # fmt: skip
    """Compares batch gradient descent and SGD for logistic regression on "is it a 5?".

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      epochs: passes over the data; batch gradient descent takes one step per pass.
      lr: learning rate of batch gradient descent.
      sgd_lr: learning rate of SGD.
      batch_size: of SGD.
      seed: of the order.
    """
    sets = {split: _fives(cnn.data.load(data, split, data_dir)) for split in ("train", "test")}
    train, test = sets["train"], sets["test"]
    model = cnn.models.logistic(classes=1)
    preprocess = cnn.data.Preprocess.of(train.images)
    loss = cnn.losses.sigmoid_cross_entropy

    x = np.asarray(preprocess(train.images[:500])).reshape(500, -1)
    print("\n".join(check_gradient(x, train.labels[:500])))
    print()

    rows = [["never a 5", "", "", "", f"{100 * test.labels.mean():.2f} %", ""]]
    for name, size, rate in (("batch gradient descent", len(train), lr), ("SGD", batch_size, sgd_lr)):
        optimizer = optax.sgd(rate)
        state = cnn.train.create_state(model, optimizer, jax.random.key(seed), train.images[:1], preprocess)
        metrics = {"accuracy": cnn.metrics.binary_accuracy}
        step = cnn.train.make_step(model, cnn.train.Objective(loss, metrics=metrics, preprocess=preprocess), optimizer)
        evaluate = cnn.train.make_evaluate(model, cnn.train.Objective(loss, metrics=metrics, preprocess=preprocess))
        began = time.monotonic()
        for epoch in range(epochs):
            for batch in cnn.data.batches(train, size, seed, epoch):
                state, _ = step(state, batch)
        jax.block_until_ready(state.params)
        seconds = time.monotonic() - began
        on_train, on_test = (evaluate(state.params, state.model_state, d).metrics for d in (train, test))
        rows.append(
            [name, f"{int(state.step):,}", f"{on_train['loss']:.4f}", f"{on_test['loss']:.4f}",
             f"{100 * (1 - on_test['accuracy']):.2f} %", f"{seconds:.1f}"]
        )  # fmt: skip
    print(f"Is it a 5? {data}, {len(train):,} images, {epochs} epochs ({machine()})")
    print(table(["", "steps", "training loss", "test loss", "test error", "seconds"], rows))


def check_gradient(x: np.ndarray, y: np.ndarray) -> list[str]:
    """Compares the gradient derived by hand with `jax.grad` and finite differences (float64), in two lines."""

    def nll(theta: jax.Array) -> jax.Array:
        return cnn.losses.sigmoid_cross_entropy(jnp.asarray(x, theta.dtype) @ theta, jnp.asarray(y)).sum()

    theta = np.random.default_rng(0).normal(0, 0.05, x.shape[1])
    with jax.enable_x64(True):
        by_jax = np.asarray(jax.grad(nll)(jnp.asarray(theta)))
    h = 1 / (1 + np.exp(-(x.astype(np.float64) @ theta)))
    by_hand = -(y - h) @ x.astype(np.float64)
    difference = np.abs(by_hand - by_jax).max() / np.abs(by_jax).max()
    return [
        f"gradient by hand, -sum (y - h(x)) x_j, against jax.grad: relative difference {difference:.1e}",
        f"jax.grad against finite differences: {cnn.inspect.gradient_check(nll, theta):.1e}",
    ]


def _fives(data: cnn.data.Dataset) -> cnn.data.Dataset:
    return cnn.data.Dataset(data.images, (data.labels == 5).astype(np.int32), ("not a 5", "a 5"), data.name)


if __name__ == "__main__":
    main(five_or_not)
