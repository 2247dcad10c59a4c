"""SGD, momentum and Adam, each with a constant learning rate and with one that decays to 0."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

import jaxcnn as cnn
from experiments.common import Panel, draw, images, machine, main, percent, table


def optimizers(
    data: str = "mnist", data_dir: Path | None = None, examples: int = 60_000, epochs: int = 5, batch_size: int = 128,
    seeds: int = 3, sgd: float = 0.1, momentum: float = 0.05, adam: float = 2e-3, picture: Path | None = None,
    full: bool = False,
) -> None:  # fmt: skip
    """Trains LeNet-5 (ReLU) with each optimizer from the same weights on the same batches.

    Args:
      data: mnist, cifar10, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images.
      epochs: passes over them.
      batch_size: examples per step.
      seeds: number of runs of each optimizer, with different weights and order.
      sgd, momentum, adam: the initial learning rates.
      picture: file for the curves.
      full: the comparison of Kingma and Ba's figure 3: three convolutions and 1000 dense units on CIFAR-10, 45 epochs.
    """
    if full:
        data, examples, epochs = "cifar10", 50_000, 45
    train, test = images(data, data_dir, examples)
    classes = len(train.classes)
    if full:
        model = cnn.models.convnet(classes, 1, 3, 1, width=64, units=1000)
        preprocess = cnn.data.Preprocess.of(train.images)
    else:
        model = cnn.models.lenet5(classes, activation=cnn.relu)
        preprocess = cnn.data.Preprocess.of(train.images, (32, 32))
    objective = cnn.train.Objective(preprocess=preprocess)
    evaluate = cnn.train.make_evaluate(model, objective)
    steps = epochs * (len(train) // min(batch_size, len(train)))
    rows, losses, errors, styles = [], {}, {}, {}
    for index, (name, lr) in enumerate({"sgd": sgd, "momentum": momentum, "adam": adam}.items()):
        for schedule, style in (("constant", "--"), ("cosine", "-")):
            runs = [
                cnn.train.fit(
                    model, train, objective, validation=test, epochs=epochs, batch_size=batch_size, seed=seed,
                    optimizer=cnn.train.make_optimizer(name, lr, schedule, steps), show=False,
                )
                for seed in range(seeds)
            ]  # fmt: skip
            # The test set is only monitored: the last epoch counts, not the best one.
            last = [run.history[-1] for run in runs]
            train_error = [1 - evaluate(r.state.params, r.state.model_state, train).metrics["accuracy"] for r in runs]
            title = f"{name} {lr}, {'constant' if schedule == 'constant' else 'decayed to 0'}"
            rows.append([name, lr, schedule, f"{statistics.mean(r['loss'] for r in last):.4f}", percent(train_error),
                         percent([1 - r["validation_accuracy"] for r in last])])  # fmt: skip
            print("  ".join(map(str, rows[-1])), flush=True)
            epoch = [record["epoch"] for record in runs[0].history]
            losses[title] = (epoch, np.mean([[r["loss"] for r in run.history] for run in runs], 0).tolist())
            wrong = [[100 * (1 - r["validation_accuracy"]) for r in run.history] for run in runs]
            errors[title] = (epoch, np.mean(wrong, 0).tolist())
            styles[title] = {"color": f"C{index}", "linestyle": style}
    print(f"\n{data}, {len(train):,} images, {epochs} epochs of {steps // epochs} steps, {seeds} seeds ({machine()})")
    print(table(["optimizer", "learning rate", "schedule", "training loss", "training error", "test error"], rows))
    if picture is not None:
        panels = [Panel(losses, "epoch", "training loss", log=True), Panel(errors, "epoch", "test error (%)")]
        draw(picture, panels, styles)


if __name__ == "__main__":
    main(optimizers)
