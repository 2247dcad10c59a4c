"""The options of `jaxcnn train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Train:
    """Train a network and write a run folder: config, metrics, curves, confusion matrix, mistakes, checkpoints."""

    model: tyro.conf.Positional[str] = "lenet5"
    """A name from `jaxcnn models`, or file.py:function for a model of your own: a function of `classes`."""
    task: str | None = None
    """What the network does: classify, segment, detect, boundaries, flow, text or vqa. What its name says when not
    given; classify for a model of your own."""
    options: str | None = None
    """Options of the model, with commas between them: width=16,norm=true."""
    data: str | None = None
    """A name from `jaxcnn datasets`, or the path of a folder of images by class, or in the form of the task. When not
    given, digits; for other tasks than classify, their own."""
    data_dir: Path | None = None
    """Where prepared datasets lie. JAXCNN_DATA_DIR when not given."""
    size: str | None = None
    """Height,width to which the data's images are resized when they are read; their own when not given. With --weights
    it is what the network gets, too, in place of the middle 224,224 that published weights were trained on."""
    stream: bool = False
    """Read the images batch by batch while the network trains, for data that does not fit in memory: random crops of
    the network's input size, mirrored at random."""
    damaged: Literal["stop", "skip"] = "stop"
    """With --stream: what to do about a damaged image."""
    workers: int | None = None
    """With --stream: threads that read. As many as there are cores when not given."""
    epochs: int | None = None
    """Passes over the training data. When not given, about 8000 steps: 15 to 60 passes; or as many as the task has."""
    batch_size: int | None = None
    """Examples a step. When not given, 128; or as many as the task has."""
    optimizer: str = "adam"
    """sgd, momentum (0.9) or adam."""
    lr: float | None = None
    """Learning rate at the start. When not given: 0.1 for sgd, 0.05 for momentum, 0.002 for adam."""
    schedule: str = "cosine"
    """cosine (to 0 over the whole training), constant, steps (a tenth at 1/2 and at 3/4 of it) or onecycle."""
    warmup: float = 0.0
    """Epochs in which the learning rate grows from 0."""
    clip: float | None = None
    """The gradient's largest norm: a longer one is scaled down to it."""
    weight_decay: float = 0.0
    """Decay of the kernels."""
    augment: str = "auto"
    """none, or any of affine (small shifts, turns, scalings and shears), flip (left to right), crop (shifts by whole
    pixels), rotate, scale, colour, cutout and mixup, with commas between them; auto is affine for digits and mnist,
    flip,crop for cifar10, none for others. Other tasks than classes have their own: auto or none."""
    weights: Path | None = None
    """Weights to begin with: a .pth or .safetensors file of torchvision's or timm's names, or a Flax checkpoint."""
    fresh: str = "head"
    """With --weights: layers that begin anew all the same, with commas between them, or none."""
    freeze: str | None = None
    """Layers that do not learn, with commas between them: conv1,bn1,layer1."""
    ensemble: int = 0
    """Train so many networks at once, which start at different weights and vote; 0 for a single network."""
    validation: float = 0.1
    """Share of the training data held out to choose the best epoch; 0 for none, then the last epoch counts."""
    patience: int | None = None
    """Stop after so many epochs without a better validation."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32; or bfloat16 or float16 (with a scaled loss), with parameters in float32."""
    ema: float | None = None
    """Decay of a moving average of the weights, for instance 0.999; the average is what is measured and kept."""
    accumulate: int = 1
    """Compute each batch in so many parts, one after the other, for the memory of one."""
    remat: bool = False
    """Compute each block of the network a second time in the backward pass instead of keeping what it computed."""
    seed: int = 0
    """Of weights, order, dropout and augmentation."""
    devices: int | None = None
    """How many of this machine's devices share each batch; all of them when not given."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How they do: jit over a mesh, or pmap."""
    distributed: bool = False
    """This is one of several processes, as the cluster (Slurm, Kubernetes, Open MPI, TPU) or JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say."""
    coordinator: str | None = None
    """This is one of several processes: host:port of the first one."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which of them this one is, from 0."""
    save_every: float = 600
    """Seconds between checkpoints inside an epoch; there is one after each epoch in any case."""
    keep: int = 2
    """How many checkpoints stay."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard, too: pip install 'jaxcnn[tensorboard]'."""
    profile: int = 0
    """Write a profile of so many steps to RUN/profile."""
    run: Path | None = None
    """The folder to write. runs/MODEL-DATA-1, -2, ... when not given."""
    resume: bool = False
    """Go on with the run in --run, from its last checkpoint and with its settings."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""


def usual_augment(name: str | None) -> str:
    """What `--augment auto` is for images with a class each."""
    from jaxcnn.data.datasets import DATASETS

    return DATASETS[name].augment if name in DATASETS else "none"
