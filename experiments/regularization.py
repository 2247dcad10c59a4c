"""Forms of regularization on the same small training set, and their effect on the generalization gap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxcnn as cnn
from experiments.common import Panel, draw, images, machine, main, percent, table


def network(classes: int, width: int, norm: bool = False, drop: float = 0.0) -> cnn.Layer:
    """Three stages of convolution, ReLU and pooling, then two dense layers."""
    layers: dict[str, cnn.Layer | Callable] = {}
    for stage, features in enumerate((width, 2 * width, 2 * width), 1):
        layers[f"conv{stage}"] = cnn.conv(features, 3, padding=1, bias=not norm)
        if norm:
            layers[f"bn{stage}"] = cnn.batch_norm()
        layers |= {f"relu{stage}": cnn.relu, f"pool{stage}": cnn.max_pool(2)}
    layers |= {"flat": cnn.flatten, "drop1": cnn.dropout(drop), "fc1": cnn.dense(8 * width), "relu4": cnn.relu}
    return cnn.serial(**layers, drop2=cnn.dropout(drop), head=cnn.dense(classes))


def regularization(
    data: str = "cifar10", data_dir: Path | None = None, examples: int = 2_000, size: int = 16, width: int = 32,
    epochs: int = 40, batch_size: int = 100, lr: float = 1e-3, l2: float = 1e-3, drop: float = 0.5, members: int = 5,
    seeds: int = 3, picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains a small network without regularization, with each form alone, and with all of them together.

    Args:
      data: cifar10, mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images.
      size: height and width to which the images are shrunk.
      width: filters of the first stage.
      epochs: passes over the images; twice the number with augmentation.
      batch_size: examples per step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      l2: lambda of the penalty lambda sum w^2 on the kernels.
      drop: rate of the two dropout layers.
      members: number of networks in the ensemble.
      seeds: number of runs of each form.
      picture: file for the test errors by epoch.
      full: 10,000 images of 32x32, 128 filters, 200 epochs, 5 seeds (needs an accelerator).
    """
    if full:
        examples, size, width, epochs, seeds = 10_000, 32, 128, 200, 5
    train, test = images(data, data_dir, examples, size)
    classes = len(train.classes)
    preprocess = cnn.data.Preprocess.of(train.images)
    moved = cnn.data.crop(padding=max(1, train.images.shape[1] // 8))
    augment = moved if data in ("mnist", "digits") else cnn.data.compose(cnn.data.flip, moved)
    plain = network(classes, width)
    loss = cnn.losses.softmax_cross_entropy

    def penalty(params: Any) -> jax.Array:
        return l2 * cnn.losses.l2_penalty(params)

    forms: dict[str, tuple[cnn.Layer, dict[str, Any]]] = {
        "none": (plain, {}),
        f"L2, {l2}": (plain, {"penalty": penalty}),
        f"dropout {drop}": (network(classes, width, drop=drop), {}),
        "augmentation": (plain, {"augment": augment, "epochs": 2 * epochs}),
        "batch norm": (network(classes, width, norm=True), {}),
        f"ensemble of {members}": (cnn.ensemble(plain, members), {"loss": cnn.losses.every_output(loss)}),
        "all but the ensemble": (
            network(classes, width, norm=True, drop=drop),
            {"penalty": penalty, "augment": augment, "epochs": 2 * epochs},
        ),
    }
    rows, lines = [], {}
    for name, (model, options) in forms.items():
        passes = options.pop("epochs", epochs)
        objective = cnn.train.Objective(preprocess=preprocess, **options)
        steps = passes * (len(train) // min(batch_size, len(train)))
        evaluate = cnn.train.make_evaluate(model, objective)
        train_error, test_error, gap, seconds = [], [], [], []
        history: list[Any] = []
        for seed in range(seeds):
            # The test set is only monitored for the plot: the last epoch counts, not the best one.
            run = cnn.train.fit(
                model,
                train,
                objective,
                epochs=passes,
                validation=test if seed == 0 and picture else None,
                batch_size=batch_size,
                optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps),
                seed=seed,
                show=False,
            )
            variables = run.state.params, run.state.model_state
            learned, unseen = (evaluate(*variables, part).metrics for part in (train, test))
            train_error.append(1 - learned["accuracy"])
            test_error.append(1 - unseen["accuracy"])
            gap.append(cnn.metrics.generalization_gap(learned["loss"], unseen["loss"]))
            seconds.append(run.result["seconds"])
            history = history or run.history
        rows.append([name, percent(float(np.mean(train_error))), percent(test_error), f"{np.mean(gap):.2f}",
                     f"{np.mean(seconds[1:] or seconds):.0f}"])  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
        if picture:
            share = [record["epoch"] / len(history) for record in history]
            lines[name] = (share, [100 * (1 - record["validation_accuracy"]) for record in history])
    print(f"\n{data}, {len(train):,} images, {epochs} epochs, {seeds} seeds ({machine()})")
    print(table(["regularization", "training error", "test error", "gap of the loss", "seconds"], rows))
    if picture is not None:
        draw(picture, [Panel(lines, "share of the training", "test error (%)")])


if __name__ == "__main__":
    main(regularization)
