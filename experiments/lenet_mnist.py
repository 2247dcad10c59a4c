"""LeNet-5 on MNIST with several seeds, trained as by `jaxcnn train lenet5 --data mnist`.

LeCun et al. (1998) report a test error of 0.95 % without distorted images and 0.8 % with them.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jaxcnn as cnn
from experiments.common import machine, main, table


def lenet_mnist(
    data: str = "mnist", data_dir: Path | None = None, seeds: int = 5, first_seed: int = 0, epochs: int = 20,
    batch_size: int = 128, lr: float = 2e-3, weight_decay: float = 0.0, validation: float = 0.1,
    augment: Literal["none", "affine"] = "affine", activation: Literal["tanh", "relu"] = "tanh",
) -> None:  # fmt: skip
    """Trains LeNet-5 with Adam and cosine decay, and prints the median test error of several seeds.

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      seeds: number of runs.
      first_seed: the first seed.
      epochs: passes over the data.
      batch_size: examples per step.
      lr: initial learning rate.
      weight_decay: weight decay of the kernels (AdamW).
      validation: fraction of the training data held out to choose the best epoch; 0 for none, which keeps the last.
      augment: affine for small random shifts, rotations, scalings and shears, or none.
      activation: activation of the hidden layers.
    """
    recipe = cnn.train.Recipe(
        "lenet5", data, data_dir=data_dir, options=f"activation={activation}", epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, validation=validation, augment=augment,
    )  # fmt: skip
    rows, errors = [], []
    for seed in range(first_seed, first_seed + seeds):
        result = cnn.train.train(replace(recipe, seed=seed), show=False).result
        errors.append(100 * (1 - result["test_accuracy"]))
        rows.append([seed, f"{100 * (1 - result['train_accuracy']):.2f} %", f"{errors[-1]:.2f} %",
                     f"{result['test_loss']:.4f}", result["best_epoch"], f"{result['seconds']:.0f}"])  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\nLeNet-5 ({activation}) on {data}, {epochs} epochs, batch {batch_size}, augment {augment} ({machine()})")
    print(table(["seed", "training error", "test error", "test loss", "epoch", "seconds"], rows))
    print(f"median test error of {seeds} seeds: {statistics.median(errors):.2f} %")


if __name__ == "__main__":
    main(lenet_mnist)
