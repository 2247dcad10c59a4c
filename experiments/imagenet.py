"""Trains a ResNet on ImageNet: images are streamed from disk, on all devices and in all processes.

The recipe: random resized crops and horizontal flips; SGD with momentum 0.9; a learning rate of 0.1 per 256 images in a
batch, with a warmup of five epochs and then cosine decay to 0; weight decay 1e-4 on kernels; label smoothing 0.1. Each
epoch ends with an evaluation on center crops of the validation set. `--resume` continues a stopped run. For several
hosts, start the same command on each with `--distributed`.

A sample dataset of the same form is made in a minute, to try the script on any machine:

    python -m experiments.imagenet_sample --out sample --per-class 200
    python -m experiments.imagenet --data ./sample --model resnet18 --size 64 --batch-size 64 --epochs 10

Source: He et al., Deep residual learning (2015); Goyal et al., Accurate, large minibatch SGD (2017); for label
smoothing, Szegedy et al., Rethinking the Inception architecture (2016), section 7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

import jaxcnn as cnn
from experiments.common import machine, main
from jaxcnn import devices


def imagenet(
    data: str = "imagenet2012", data_dir: Path | None = None, model: str = "resnet50", epochs: int = 90,
    batch_size: int = 256, size: int = 224, lr: float | None = None, warmup: float = 5, weight_decay: float = 1e-4,
    smoothing: float = 0.1, ema: float | None = None, accumulate: int = 1,
    precision: Literal["auto", "float32", "bfloat16"] = "auto", workers: int | None = None, processes: int = 0,
    damaged: Literal["stop", "skip"] = "stop", distributed: bool = False, seed: int = 0, run: Path | None = None,
    resume: bool = False,
) -> None:  # fmt: skip
    """Trains a network on images that do not fit in memory.

    Args:
      data: a folder (with a slash in its path) with train and val folders of images by class, or a TFDS dataset.
      data_dir: the folder of prepared datasets.
      model: a name from `jaxcnn models`.
      epochs: passes over the training images.
      batch_size: images per step, summed over all devices and hosts.
      size: height and width of the crops.
      lr: the learning rate after the warmup; 0.1 per 256 images in a batch when not given.
      warmup: warmup epochs, limited to a tenth of all epochs.
      weight_decay: weight decay of the kernels.
      smoothing: label smoothing, the probability that is spread over all classes.
      ema: decay of a moving average of the weights, for instance 0.9999; the average is evaluated and saved.
      accumulate: gradient accumulation: number of parts of a batch, computed one after the other.
      precision: auto is bfloat16 on an accelerator and float32 on a CPU.
      workers: number of reader threads; one per core when not given.
      processes: number of reader processes in place of threads, for machines with many cores.
      damaged: what to do about a damaged image.
      distributed: whether this is one of several processes, set up by the cluster or the environment.
      seed: for weights, order and crops.
      run: the run's folder.
      resume: continue the run in this folder.
    """
    if distributed:
        devices.join()
    on = devices.DataParallel() if jax.device_count() > 1 else None
    train, val = (
        cnn.data.stream(data, split, data_dir, size=(size, size), workers=workers, processes=processes, damaged=damaged)
        for split in ("train", "test")
    )
    steps = len(train) // batch_size
    network = cnn.models.make(model, len(train.classes))
    if precision == "bfloat16" or (precision == "auto" and jax.default_backend() != "cpu"):
        network = cnn.mixed_precision(network, jnp.bfloat16)
    optimizer = cnn.train.make_optimizer(
        "momentum", 0.1 * batch_size / 256 if lr is None else lr, "cosine", epochs * steps, weight_decay,
        warmup=round(min(warmup, epochs / 10) * steps),
    )  # fmt: skip

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(outputs, labels, smoothing)

    metrics: dict[str, cnn.metrics.Metric] = {"accuracy": cnn.metrics.accuracy}
    if len(train.classes) > 5:
        metrics["top5"] = cnn.metrics.top_k(5)
    fitted = cnn.train.fit(
        network,
        train,
        cnn.train.Objective(cnn.losses.every_output(loss), metrics=metrics),
        validation=val,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        ema=ema,
        accumulate=accumulate,
        devices=on,
        run=None if run is None else cnn.train.Run(run, resume=resume),
    )
    if devices.first_process():
        best = fitted.result
        print(f"{model} on {data}: validation accuracy {best['validation_accuracy']:.2%} at epoch {best['best_epoch']} "
              f"of {best['epochs']} ({machine()})")  # fmt: skip


if __name__ == "__main__":
    main(imagenet)
