"""The lectures' pattern [(CONV-RELU)*N - POOL?]*M - (FC-RELU)*K - FC for several N, M and K."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jaxcnn as cnn
from experiments.common import machine, main, table

PATTERNS = ((1, 1, 0), (1, 1, 1), (1, 2, 0), (1, 2, 1), (2, 2, 0), (2, 2, 1), (1, 3, 1), (1, 2, 2))


def builder(
    data: str = "mnist", data_dir: Path | None = None, examples: int = 10_000, epochs: int = 4, width: int = 8,
    units: int = 64, batch_size: int = 128, seed: int = 0,
) -> None:  # fmt: skip
    """Trains eight networks of the pattern on the same images.

    Args:
      data: mnist, cifar10, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images.
      epochs: passes over the images.
      width: filters of the first stage; each stage doubles the number.
      units: units of each hidden dense layer.
      batch_size: examples per step.
      seed: for the weights and the order of the examples.
    """
    recipe = cnn.train.Recipe(
        "convnet", data, data_dir=data_dir, limit=examples, epochs=epochs, batch_size=batch_size, seed=seed,
        validation=0, augment="none",
    )  # fmt: skip
    train = cnn.data.load(data, recipe.training_split, data_dir)
    rows = []
    for n, m, k in PATTERNS:
        options = f"n={n},m={m},k={k},width={width},units={units}"
        fitted = cnn.train.train(replace(recipe, options=options), show=False)
        macs, result = cnn.inspect.summary(fitted.model, train.images[:1]).macs, fitted.result
        rows.append(
            [n, m, k, f"{result['params']:,}", f"{macs:,}", f"{100 * (1 - result['test_accuracy']):.2f} %",
             f"{result['seconds']:.0f}"]
        )  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\n{data}, {len(train):,} images, {epochs} epochs, {width} filters in the first stage ({machine()})")
    print(table(["N", "M", "K", "parameters", "MACs", "test error", "seconds"], rows))


if __name__ == "__main__":
    main(builder)
