"""Initial weights: with zero or equal weights, all filters of a layer stay equal; random weights break the symmetry.

Filters with equal weights compute the same output and get the same gradient, so they remain equal. The scale of random
weights matters more in deeper networks (Glorot and Bengio 2010; He et al., Delving deep into rectifiers, 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

import jaxcnn as cnn
from experiments.common import Panel, draw, images, machine, main, percent, table
from jaxcnn.core import fold_in

STARTS: dict[str, Callable[..., jax.Array]] = {
    "zeros": initializers.zeros,
    "equal (0.05)": initializers.constant(0.05),
    "normal, std 0.01": initializers.normal(0.01),
    "LeCun, 1/fan-in": initializers.lecun_normal(),
    "He, 2/fan-in": initializers.he_normal(),
}


def started(model: cnn.Layer, start: Callable[..., jax.Array], key: jax.Array, example: Any) -> tuple[Any, Any]:
    """The model's initial variables, with kernels from `start`."""
    params, state = model.init(key, jnp.asarray(example, jnp.float32))

    def made(path: Any, leaf: jax.Array) -> jax.Array:
        if path[-1].key != "kernel":
            return leaf
        return start(fold_in(key, jax.tree_util.keystr(path)), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(made, params), state


def distinct(kernel: jax.Array) -> int:
    """Counts the filters (last axis) that differ from all previous ones by more than 0.001 of the largest weight."""
    filters = np.asarray(kernel).reshape(-1, kernel.shape[-1]).T
    found: list[np.ndarray] = []
    for one in filters:
        if all(np.abs(one - other).max() > 1e-3 * np.abs(filters).max() for other in found):
            found.append(one)
    return len(found)


def initialization(
    data: str = "mnist", data_dir: Path | None = None, examples: int = 20_000, depth: int = 12, width: int = 64,
    epochs: int = 4, batch_size: int = 128, lr: float = 1e-3, seeds: int = 3, picture: Path | None = None,
    full: bool = False,
) -> None:  # fmt: skip
    """Trains LeNet-5 and a deep ReLU perceptron from five initializations each, with Adam and without augmentation.

    Args:
      data: mnist, cifar10, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images.
      depth: number of the perceptron's hidden layers.
      width: units of each hidden layer.
      epochs: passes over the images.
      batch_size: examples per step.
      lr: learning rate of all runs.
      seeds: number of runs for each initialization.
      picture: file for the training curves.
      full: all images, 20 epochs, 5 seeds and 30 hidden layers, the depth of figure 3 in He et al.
    """
    if full:
        examples, depth, epochs, seeds = 10**9, 30, 20, 5
    train, test = images(data, data_dir, examples)
    classes = len(train.classes)
    networks = {
        "LeNet-5": (cnn.models.lenet5(classes), (32, 32), ("conv1", "conv2")),
        f"{depth}-layer ReLU net": (cnn.models.mlp(classes, (width,) * depth), train.images.shape[1:3], ("fc1",)),
    }
    rows, panels = [], []
    for name, (model, size, layers) in networks.items():
        preprocess = cnn.data.Preprocess.of(train.images, size)
        lines = {}
        for start, initializer in STARTS.items():
            runs = []
            for seed in range(seeds):
                variables = started(model, initializer, jax.random.key(seed), preprocess(train.images[:1]))
                runs.append(
                    cnn.train.fit(
                        model, train, cnn.train.Objective(preprocess=preprocess), test=test, epochs=epochs,
                        batch_size=batch_size, optimizer=cnn.train.make_optimizer("adam", lr), seed=seed,
                        variables=variables, show=False,
                    )
                )  # fmt: skip
            different = ", ".join(
                f"{distinct(runs[0].params[layer]['kernel'])} of {runs[0].params[layer]['kernel'].shape[-1]}"
                for layer in layers
            )
            rows.append([name, start, f"{np.mean([r.result['train_loss'] for r in runs]):.3f}",
                         percent([1 - r.result["test_accuracy"] for r in runs]), different])  # fmt: skip
            print("  ".join(map(str, rows[-1])), flush=True)
            epoch = [record["epoch"] for record in runs[0].history]
            lines[start] = (epoch, [record["loss"] for record in runs[0].history])
        panels.append(Panel(lines, f"epoch ({name})", "training loss", log=True))
    print(f"\n{data}, {len(train):,} images, {epochs} epochs of Adam at {lr}, {seeds} seeds ({machine()})")
    print(table(["network", "weights start at", "training loss", "test error", "different filters at the end"], rows))
    if picture is not None:
        draw(picture, panels)


if __name__ == "__main__":
    main(initialization)
