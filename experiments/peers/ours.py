"""The networks in jaxcnn, and the initial weights and batch of digits for all libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcnn as cnn
from experiments.peers import MOMENTUM, PER_PIXEL, VGG16, ZOO, Task


def fcn8s(classes: int, units: int) -> cnn.Layer:
    """FCN-8s on VGG-16: `(N, H, W, C) -> (N, H, W, classes)` (Long, Shelhamer and Darrell, 2015)."""

    def forward(net: cnn.core.Net, x: jax.Array) -> jax.Array:
        pool3 = net.stage3(net.stage2(net.stage1(x)))
        pool4 = net.stage4(pool3)
        y = net.score7(net.head(net.stage5(pool4)))
        for pool, score, up in ((pool4, net.score4, net.up7), (pool3, net.score3, net.up4)):
            y = cropped(up(y), pool) + score(pool)
        return cropped(net.up3(y), x)

    def stage(filters: tuple[int, ...]) -> cnn.Layer:
        he = jax.nn.initializers.he_normal()
        return cnn.serial(*[part for k in filters for part in (cnn.conv(k, 3, padding=1, kernel_init=he), cnn.relu)],
                          cnn.max_pool(2))  # fmt: skip

    return cnn.network(
        forward,
        **{f"stage{i}": stage(filters) for i, filters in enumerate(VGG16, 1)},
        head=cnn.serial(fc6=cnn.conv(units, 7, padding=3), relu6=cnn.relu, fc7=cnn.conv(units, 1), relu7=cnn.relu),
        score7=cnn.conv(classes, 1), up7=cnn.conv_transpose(classes, 4, 2, bias=False),
        score4=cnn.conv(classes, 1), up4=cnn.conv_transpose(classes, 4, 2, bias=False),
        score3=cnn.conv(classes, 1), up3=cnn.conv_transpose(classes, 16, 8, bias=False),
    )  # fmt: skip


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """Center crop of the images to the size of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:3], like.shape[1:3], strict=True))
    return x[:, top : top + like.shape[1], left : left + like.shape[2]]


def alexnet(task: Task) -> cnn.Layer:
    """`cnn.models.alexnet` with the task's number of units in the dense layers."""
    model = cnn.models.alexnet(task.classes, drop=0)
    smaller = {name: cnn.dense(task.units) for name in ("fc6", "fc7")} if task.units != 4096 else {}
    return cnn.serial(**{**model.sublayers, **smaller})


MODELS: dict[str, Callable[[Task], cnn.Layer]] = {
    "lenet5": lambda task: cnn.models.lenet5(task.classes),
    "resnet20": lambda task: cnn.models.resnet20(task.classes),
    "vgg16": lambda task: cnn.models.vgg16(task.classes, units=task.units, drop=0),
    "googlenet": lambda task: cnn.models.googlenet(task.classes, drop=0),
    "alexnet": alexnet,
    "resnet50": lambda task: cnn.models.resnet50(task.classes),
    "fcn8s": lambda task: fcn8s(task.classes, task.units),
}

# Without dropout, which would make the outputs random, and in training without a second output.
_NO_DROPOUT: dict[str, dict[str, float]] = {
    "mobilenet_v2": {"drop": 0},
    "mobilenet_v3_large": {"drop": 0},
    "mnasnet1_0": {"drop": 0},
    "squeezenet1_0": {"drop": 0},
    "efficientnet_b0": {"drop": 0, "drop_path": 0},
    "convnext_tiny": {"drop": 0},
    "inception_v3": {"drop": 0},
}


def network(task: Task) -> cnn.Layer:
    """jaxcnn's network of the task."""
    if task.model in ZOO:
        return cnn.models.make(task.model, task.classes, **_NO_DROPOUT.get(task.model, {}))
    return MODELS[task.model](task)


def _built(task: Task) -> tuple[cnn.Layer, tuple[Any, Any], jax.Array, jax.Array]:
    images, labels = map(jnp.array, task.batch())
    model = network(task)
    key = jax.random.key(0)
    made: list[Any] = []

    def state_alone() -> Any:
        # `init` is only traced, which saves memory: it gives the order of the layers, which are then filled.
        params, state = model.init(key, images)
        made.append(params)
        return state

    state = jax.jit(state_alone)()
    (params,) = made
    for own, saved in zip(_layers(params), task.layers(), strict=True):
        own.update({name: jnp.array(value) for name, value in saved.items()})
    return cnn.mixed_precision(model) if task.half else model, (params, state), images, labels


def trainer(task: Task) -> Callable[[], Any]:
    model, variables, images, labels = _built(task)
    optimizer = optax.sgd(task.learning_rate, MOMENTUM)
    step = cnn.train.make_step(model, cnn.train.Objective(cnn.losses.softmax_cross_entropy, metrics={}), optimizer)
    state = cnn.train.create_state(model, optimizer, jax.random.key(0), images, variables=variables)
    del variables

    def run() -> jax.Array:
        nonlocal state
        state, measured = jax.block_until_ready(step(state, (images, labels)))
        return measured["loss"]

    return run


def inference(task: Task) -> Callable[[], Any]:
    model, (params, state), images, _ = _built(task)

    def outputs(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return model.apply(params, state, x)[0]

    predict = jax.jit(cnn.ops.fuse(outputs))
    return lambda: jax.block_until_ready(predict(params, state, images))


# --- where all begin ---------------------------------------------------------------------------------------------


def _layers(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The dicts of variables in the order of their creation by `init`, which is the call order."""
    for value in params.values():
        if "kernel" in value or "scale" in value:
            yield value
        else:
            yield from _layers(value)


def prepare(task: Task) -> None:
    """Saves a task with the weights of jaxcnn's `init` and a batch of digits.

    Later networks have a state dict of PyTorch, too: under torchvision's names, or those of the code.
    """
    images, labels = digits(task)
    model = network(task)
    params, state = model.init(jax.random.key(0), images)
    task.save([jax.tree.map(np.asarray, layer) for layer in _layers(params)], images, labels)
    if task.model in ZOO:
        names: dict[str, str] | None = {} if task.model == "unet" else None
        cnn.weights.save(model, params, state, Path(task.folder) / "weights.pth", input=task.shape[1:], names=names)


def digits(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, resized to the task's size, with mean 0 and std 1; for FCN and U-Net, each pixel has a label.

    Pixels with ink have the digit's class there, the others that of the background.
    """
    batch, height, width, channels = task.shape
    data = cnn.data.load("digits", "train")
    index = np.arange(batch) % len(data)
    images, labels = data.images[index, ..., 0], data.labels[index]
    rows, columns = (np.arange(size) * images.shape[1] // size for size in (height, width))
    images = images[:, rows][:, :, columns]
    if task.model in PER_PIXEL:
        labels = np.where(images > 127, labels[:, None, None], len(data.classes))
    x = np.repeat((images.astype(np.float32) - images.mean())[..., None] / images.std(), channels, -1)
    if task.model in ZOO:
        # Where images are of one colour, the maps of deep networks hardly vary, and normalization amplifies rounding.
        x += np.random.default_rng(0).normal(size=x.shape)
    return x.astype(np.float32), labels.astype(np.int32)
