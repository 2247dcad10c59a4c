"""ImageNet's recipe: a ResNet on images that are read while it trains, on all devices and in all processes there are.

Random-resized crops and mirroring; stochastic gradient descent with momentum 0.9; a learning rate of 0.1 for each 256
images of a batch, reached in five epochs and then along half a cosine to 0; weight decay of 1e-4 on kernels; labels
smoothed by 0.1. What a run measures after each epoch is the validation set, its images' middle. The run goes on where
it was stopped, `--resume`, and on several hosts the same command is started on each (`--distributed`).

With a set of the same form, made in a minute of what is at hand, it can be tried on any machine:

    python -m experiments.imagenet_sample --out sample --per-class 200
    python -m experiments.imagenet --data ./sample --model resnet18 --size 64 --batch-size 64 --epochs 10

Source: He et al., Deep residual learning (2015); Goyal et al., Accurate, large minibatch SGD (2017); for smoothing,
Szegedy et al., Rethinking the Inception architecture (2016), section 7.
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
      data: a folder with train and val folders of images by class, given with a slash; or a set of tensorflow-datasets.
      data_dir: where prepared datasets lie.
      model: a network's name.
      epochs: passes over the training images.
      batch_size: images of a step, on all devices of all hosts together.
      size: height and width of the crops.
      lr: the learning rate behind the warm-up; 0.1 for each 256 images of a batch when not given.
      warmup: epochs in which it grows from 0; no more than a tenth of them are taken.
      weight_decay: of the kernels.
      smoothing: the share of a label's probability that is spread over all classes.
      ema: decay of an average of the weights, 0.9999; it is then what is measured.
      accumulate: parts of a batch that are computed one after the other.
      precision: bfloat16 on an accelerator and float32 on a CPU when auto.
      workers: threads that read; as many as cores when not given.
      processes: processes that read instead, for machines with many cores.
      damaged: what to do about a damaged image.
      distributed: this is one of several processes, which the cluster or the environment knows of.
      seed: of weights, order and crops.
      run: the folder to write.
      resume: go on with the run in it.
    """
    if distributed:
        devices.join()
    on = devices.DataParallel() if jax.device_count() > 1 else None
    learn, held = (
        cnn.data.stream(data, split, data_dir, size=(size, size), workers=workers, processes=processes, damaged=damaged)
        for split in ("train", "test")
    )
    steps = len(learn) // batch_size
    network = cnn.models.make(model, len(learn.classes))
    if precision == "bfloat16" or (precision == "auto" and jax.default_backend() != "cpu"):
        network = cnn.mixed_precision(network, jnp.bfloat16)
    optimizer = cnn.train.make_optimizer(
        "momentum", 0.1 * batch_size / 256 if lr is None else lr, "cosine", epochs * steps, weight_decay,
        warmup=round(min(warmup, epochs / 10) * steps),
    )  # fmt: skip

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(outputs, labels, smoothing)

    measures: dict[str, cnn.metrics.Metric] = {"accuracy": cnn.metrics.accuracy}
    if len(learn.classes) > 5:
        measures["top5"] = cnn.metrics.top_k(5)
    fitted = cnn.train.fit(
        network,
        learn,
        cnn.train.Objective(cnn.losses.every_output(loss), metrics=measures),
        validation=held,
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
