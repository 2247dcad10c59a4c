"""Where the weights start: at zero and all equal nothing is learned that needs more than one filter; at random it is.

With equal weights, all filters of a layer compute the same and get the same gradient, and so remain equal. Random ones
break the symmetry; how large they should be matters the more, the deeper the network (Glorot and Bengio 2010; He et
al., Delving deep into rectifiers, 2015).
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
    "normal, deviation 0.01": initializers.normal(0.01),
    "LeCun, 1/fan-in": initializers.lecun_normal(),
    "He, 2/fan-in": initializers.he_normal(),
}


def started(model: cnn.Layer, start: Callable[..., jax.Array], key: jax.Array, example: Any) -> tuple[Any, Any]:
    """The model's first variables, its kernels made anew."""
    params, state = model.init(key, jnp.asarray(example, jnp.float32))

    def made(path: Any, leaf: jax.Array) -> jax.Array:
        if path[-1].key != "kernel":
            return leaf
        return start(fold_in(key, jax.tree_util.keystr(path)), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(made, params), state


def distinct(kernel: jax.Array) -> int:
    """How many filters, the last axis, differ from all before them by more than a thousandth of the largest weight."""
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
    """Two networks from five starts each: LeNet-5, and a deep perceptron with ReLU. Adam, no augmentation.

    Args:
      data: mnist, cifar10, or digits for the embedded ones.
      data_dir: where prepared datasets lie.
      examples: how many training images.
      depth: hidden layers of the perceptron.
      width: units of each.
      epochs: passes over the images.
      batch_size: examples a step.
      lr: learning rate, the same for all.
      seeds: how many runs each.
      picture: a file for the training curves.
      full: all images, 20 epochs, 5 seeds and 30 hidden layers, as deep as the network of He et al.'s figure 3.
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
