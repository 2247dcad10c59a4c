"""The multilayer perceptron 784-128-10 on MNIST, by plain SGD, momentum and Adam."""

from __future__ import annotations

from pathlib import Path

import jaxcnn as cnn
from experiments.common import machine, main, table


def mlp_mnist(
    data: str = "mnist", data_dir: Path | None = None, epochs: int = 10, batch_size: int = 128, hidden: int = 128,
    seed: int = 0,
) -> None:  # fmt: skip
    """An MLP with one hidden layer, beside logistic regression.

    Args:
      data: mnist, or digits for the embedded ones.
      data_dir: where prepared datasets lie.
      epochs: passes over the data.
      batch_size: examples a step.
      hidden: hidden units.
      seed: of weights and order.
    """
    train, test = (cnn.data.load(data, split, data_dir) for split in ("train", "test"))
    models = {"logistic regression": cnn.models.logistic(), f"MLP, {hidden} hidden": cnn.models.mlp(hidden=hidden)}
    rows = []
    for name, model in models.items():
        for optimizer in cnn.train.OPTIMIZERS:
            steps = epochs * (len(train) // batch_size)
            result = cnn.train.fit(
                model, train, test=test, optimizer=cnn.train.make_optimizer(optimizer, None, "cosine", steps),
                epochs=epochs, batch_size=batch_size, seed=seed, show=False,
            ).result  # fmt: skip
            rows.append(
                [name, optimizer, f"{result['params']:,}", f"{100 * (1 - result['train_accuracy']):.2f} %",
                 f"{100 * (1 - result['test_accuracy']):.2f} %", f"{result['seconds']:.0f}"]
            )  # fmt: skip
            print("  ".join(rows[-1]), flush=True)
    print(f"\n{data}, {epochs} epochs, batch {batch_size}, seed {seed} ({machine()})")
    print(table(["model", "optimizer", "parameters", "training error", "test error", "seconds"], rows))


if __name__ == "__main__":
    main(mlp_mnist)
