"""LeNet-5 in jaxcnn and in Flax, in one run, with the same data, batches, optimizer and preprocessing.

First, both networks get the same weights and must give the same outputs. Then each library trains from its own
initialization with several seeds; the accuracies should agree within noise. The two training steps are timed in turn,
so that other load on the machine affects both.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcnn as cnn
from experiments.common import machine, main, table


class FlaxLeNet5(nn.Module):
    """LeNet-5 in the style of Flax's documentation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Conv(6, (5, 5), padding="VALID")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.tanh(nn.Conv(16, (5, 5), padding="VALID")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.tanh(nn.Dense(120)(x))
        x = nn.tanh(nn.Dense(84)(x))
        return nn.Dense(10)(x)


def lenet_flax(
    data: str = "mnist", data_dir: Path | None = None, seeds: int = 3, epochs: int = 5, batch_size: int = 128,
    lr: float = 2e-3, repeats: int = 200,
) -> None:  # fmt: skip
    """Compares jaxcnn and Flax on LeNet-5.

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      seeds: number of runs of each library.
      epochs: passes over the data.
      batch_size: examples per step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      repeats: number of timed steps of each library.
    """
    train, test = (cnn.data.load(data, split, data_dir) for split in ("train", "test"))
    preprocess = cnn.data.Preprocess.of(train.images, (32, 32))
    steps = epochs * (len(train) // min(batch_size, len(train)))
    optimizer = optax.adam(optax.cosine_decay_schedule(lr, steps))
    ours, theirs = _jaxcnn(optimizer, preprocess), _flax(optimizer, preprocess)
    example = train.images[:batch_size]
    _same_outputs(preprocess(example))

    errors: dict[str, list[float]] = {"jaxcnn": [], "flax": []}
    for seed in range(seeds):
        for name, (init, step, outputs) in (("jaxcnn", ours), ("flax", theirs)):
            state = init(jax.random.key(seed), example)
            for epoch in range(epochs):
                for batch in cnn.data.batches(train, batch_size, seed, epoch):
                    state = step(state, batch)
            wrong = 0
            for images, labels, weights in cnn.data.padded_batches(test, 256):
                wrong += ((np.asarray(outputs(state, images)).argmax(1) != labels) * weights).sum()
            errors[name].append(100 * wrong / len(test))
            print(f"seed {seed} {name}: test error {errors[name][-1]:.2f} %", flush=True)

    states = {name: init(jax.random.key(0), example) for name, (init, _, _) in (("jaxcnn", ours), ("flax", theirs))}
    times: dict[str, list[float]] = {"jaxcnn": [], "flax": []}
    batch = next(cnn.data.batches(train, batch_size))
    for i in range(repeats + 5):
        for name, step in (("jaxcnn", ours[1]), ("flax", theirs[1])):
            began = time.perf_counter()
            states[name] = jax.block_until_ready(step(states[name], batch))
            if i >= 5:
                times[name].append(1000 * (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        [name, f"{statistics.mean(errors[name]):.2f} %", f"{min(errors[name]):.2f} to {max(errors[name]):.2f} %",
         f"{medians[name]:.2f}", f"{medians[name] / medians['jaxcnn']:.2f}"]
        for name in ("jaxcnn", "flax")
    ]  # fmt: skip
    print(f"\nLeNet-5 on {data}, {epochs} epochs, batch {batch_size}, {seeds} seeds ({machine()})")
    print(table(["", "mean test error", "range", "step, ms (median)", "to jaxcnn"], rows))


def _jaxcnn(optimizer: optax.GradientTransformation, preprocess: Any) -> tuple[Any, Any, Any]:
    model = cnn.models.lenet5()
    train_step = cnn.train.make_step(
        model, cnn.train.Objective(cnn.losses.softmax_cross_entropy, preprocess=preprocess), optimizer
    )

    def init(key: jax.Array, example: np.ndarray) -> Any:
        return cnn.train.create_state(model, optimizer, key, example, preprocess)

    def step(state: Any, batch: Any) -> Any:
        return train_step(state, batch)[0]

    outputs = jax.jit(lambda state, x: model.apply(state.params, state.model_state, preprocess(x))[0])
    return init, step, outputs


def _flax(optimizer: optax.GradientTransformation, preprocess: Any) -> tuple[Any, Any, Any]:
    model = FlaxLeNet5()

    def init(key: jax.Array, example: np.ndarray) -> Any:
        params = model.init(key, preprocess(example))
        return params, optimizer.init(params)

    def objective(params: Any, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    def step(state: Any, batch: Any) -> Any:
        (params, opt_state), (images, labels) = state, batch
        (loss, logits), gradient = jax.value_and_grad(objective, has_aux=True)(params, preprocess(images), labels)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        accuracy = (logits.argmax(-1) == labels).mean()
        return (optax.apply_updates(params, updates), opt_state), (loss, accuracy)

    jitted = jax.jit(step, donate_argnums=0)
    outputs = jax.jit(lambda state, x: model.apply(state[0], preprocess(x)))
    return init, lambda state, batch: jitted(state, batch)[0], outputs


def _same_outputs(x: jax.Array) -> None:
    """Raises unless networks of equal weights agree within 1e-5 of the largest output (float32 rounding)."""
    model = cnn.models.lenet5()
    params, state = model.init(jax.random.key(0), x)
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "fc1": "Dense_0", "fc2": "Dense_1", "head": "Dense_2"}
    ours = model.apply(params, state, x)[0]
    theirs = FlaxLeNet5().apply({"params": {names[name]: p for name, p in params.items()}}, x)
    difference = float(jnp.abs(ours - theirs).max() / jnp.abs(ours).max())
    if difference > 1e-5:
        raise RuntimeError(f"the networks differ by {difference:.1e}")
    print(f"same weights, same outputs: largest relative difference {difference:.1e}")


if __name__ == "__main__":
    main(lenet_flax)
