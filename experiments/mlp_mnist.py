"""The multilayer perceptron 784-128-10 on MNIST, trained with plain SGD, momentum and Adam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jaxcnn as cnn
from experiments.common import machine, main, table


def mlp_mnist(
    data: str = "mnist", data_dir: Path | None = None, epochs: int = 10, batch_size: int = 128, hidden: int = 128,
    seed: int = 0,
) -> None:  # fmt: skip
    """Compares an MLP with one hidden layer and logistic regression.

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      epochs: passes over the data.
      batch_size: examples per step.
      hidden: number of hidden units.
      seed: for the weights and the order of the examples.
    """
    recipe = cnn.train.Recipe(
        data=data, data_dir=data_dir, epochs=epochs, batch_size=batch_size, seed=seed, validation=0, augment="none"
    )  # fmt: skip
    recipes = {
        "logistic regression": replace(recipe, model="logistic"),
        f"MLP, {hidden} hidden": replace(recipe, model="mlp", options=f"hidden={hidden}"),
    }
    rows = []
    for name, one in recipes.items():
        for optimizer in ("sgd", "momentum", "adam"):
            result = cnn.train.train(replace(one, optimizer=optimizer), show=False).result
            rows.append(
                [name, optimizer, f"{result['params']:,}", f"{100 * (1 - result['train_accuracy']):.2f} %",
                 f"{100 * (1 - result['test_accuracy']):.2f} %", f"{result['seconds']:.0f}"]
            )  # fmt: skip
            print("  ".join(rows[-1]), flush=True)
    print(f"\n{data}, {epochs} epochs, batch {batch_size}, seed {seed} ({machine()})")
    print(table(["model", "optimizer", "parameters", "training error", "test error", "seconds"], rows))


if __name__ == "__main__":
    main(mlp_mnist)
