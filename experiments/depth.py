"""Deeper is not better: plain and residual networks of several depths on CIFAR-10 (He et al. 2016, section 4.2).

A deeper network could compute what a shallower one computes, with identity mappings in the extra layers. Plain networks
do not find this solution: beyond some depth, even the training error grows. Shortcuts solve the problem. The gradients
of the plain network do not vanish, thanks to batch normalization; the figure shows their norms layer by layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

import jaxcnn as cnn
from experiments.common import Panel, draw, images, machine, main, percent, table


def gradient_norms(model: cnn.Layer, params: Any, state: Any, inputs: Any, labels: Any) -> list[float]:
    """The gradient norm of each 3x3 convolution's kernel, from input to output."""

    def objective(params: Any) -> jax.Array:
        outputs, _ = model.apply(params, state, inputs, train=True)
        return cnn.losses.softmax_cross_entropy(outputs, labels).mean()

    gradient = jax.jit(jax.grad(objective))(params)
    found: dict[str, Any] = {"conv1": gradient["conv1"]}
    for stage in (1, 2, 3):
        blocks = gradient[f"layer{stage}"]
        for block in range(1, len(blocks) + 1):
            found |= {f"{stage}.{block}.{name}": blocks[f"block{block}"][name] for name in ("conv1", "conv2")}
    return [float(np.linalg.norm(layer["kernel"])) for layer in found.values()]


def depth(
    data: str = "cifar10", data_dir: Path | None = None, depths: tuple[int, ...] = (8, 14, 20), examples: int = 10_000,
    size: int = 16, width: int = 16, epochs: int = 16, batch_size: int = 128, lr: float = 0.1, seeds: int = 1,
    picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains plain and residual networks with SGD, momentum 0.9, weight decay 1e-4, and random flips and crops.

    Args:
      data: cifar10, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      depths: numbers of layers, of the form 6n + 2.
      examples: number of training images.
      size: height and width to which the images are shrunk.
      width: filters of the first stage.
      epochs: passes over the images.
      batch_size: examples per step.
      lr: peak learning rate, after a linear warmup over the first tenth of the steps; then cosine decay to 0.
      seeds: number of runs of each network.
      picture: file for the curves.
      full: the paper's setting: 20, 32, 44, 56 and 110 layers, all 50,000 images of 32x32, 64,000 steps of 128, a
        learning rate of 0.1 divided by 10 at 32,000 and 48,000 (needs an accelerator).
    """
    if full:
        depths, examples, size, width = (20, 32, 44, 56, 110), 50_000, 32, 16
    train, test = images(data, data_dir, examples, size)
    preprocess = cnn.data.Preprocess.of(train.images)
    per_epoch = len(train) // min(batch_size, len(train))
    if full:
        epochs = -(-64_000 // per_epoch)
    steps = epochs * per_epoch
    schedule: optax.Schedule = (
        optax.piecewise_constant_schedule(lr, {32_000: 0.1, 48_000: 0.1})
        if full
        else optax.warmup_cosine_decay_schedule(0.0, lr, steps // 10, steps)
    )
    shift = max(1, size // 8)  # the paper: 4 of 32 pixels
    augment = cnn.data.crop(padding=shift) if data in ("mnist", "digits") else cnn.data.compose(
        cnn.data.flip, cnn.data.crop(padding=shift)
    )  # fmt: skip
    objective = cnn.train.Objective(augment=augment, preprocess=preprocess)
    rows, curves, norms, styles = [], {}, {}, {}
    kinds: dict[str, Literal["A"] | None] = {"plain": None, "residual": "A"}
    for kind, shortcut in kinds.items():
        for index, layers in enumerate(depths):
            rate = schedule
            if full and layers > 100:  # the paper's warmup, until the error falls below 80 %
                rate = optax.join_schedules([optax.constant_schedule(lr / 10), schedule], [400])
            optimizer = cnn.train.make_optimizer("momentum", rate, weight_decay=1e-4)
            model = cnn.models.cifar_resnet(layers, len(train.classes), shortcut=shortcut, width=width)
            evaluate = cnn.train.make_evaluate(model, objective)
            runs = [
                cnn.train.fit(
                    model, train, objective, test=test, optimizer=optimizer, epochs=epochs, batch_size=batch_size,
                    seed=seed, show=False,
                )
                for seed in range(seeds)
            ]  # fmt: skip
            errors = [1 - evaluate(run.params, run.model_state, train).metrics["accuracy"] for run in runs]
            name = f"{kind} {layers}"
            inputs, labels = preprocess(train.images[:256]), train.labels[:256]
            first = model.init(jax.random.key(0), inputs)
            norms[name] = gradient_norms(model, *first, inputs, labels)
            rows.append([kind, layers, f"{runs[0].result['params']:,}", percent(errors),
                         percent([1 - run.result["test_accuracy"] for run in runs]),
                         f"{norms[name][0]:.2g} / {norms[name][-1]:.2g}",
                         f"{np.mean([run.result['seconds'] for run in runs]):.0f}"])  # fmt: skip
            print("  ".join(map(str, rows[-1])), flush=True)
            wrong = np.mean([[100 * (1 - record["accuracy"]) for record in run.history] for run in runs], 0)
            curves[name] = ([record["epoch"] for record in runs[0].history], wrong.tolist())
            styles[name] = {"color": f"C{index}", "linestyle": "-" if kind == "residual" else "--"}
    print(f"\n{data}, {len(train):,} images of {size}x{size}, {epochs} epochs, {seeds} seeds ({machine()})")
    header = ["network", "layers", "parameters", "training error", "test error",
              "first gradient: conv 1 / last", "seconds"]  # fmt: skip
    print(table(header, rows))
    if picture is not None:
        places = {name: (np.linspace(0, 1, len(values)).tolist(), values) for name, values in norms.items()}
        draw(picture, [
            Panel(curves, "epoch", "training error, augmented (%)"),
            Panel(places, "layer, from first (0) to last (1)", "norm of the first gradient", log=True),
        ], styles)  # fmt: skip


if __name__ == "__main__":
    main(depth)
