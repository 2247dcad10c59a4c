"""The networks in Flax NNX, with the functional training loop of its performance guide (least overhead)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.peers import INCEPTION, RESNET50, VGG16, Task
from experiments.peers.jax_common import cross_entropy, halved, members, optimizer, stepper


class LeNet5(nnx.Module):
    def __init__(self, channels: int, classes: int, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(channels, 6, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(400, 120, rngs=rngs)
        self.fc2 = nnx.Linear(120, 84, rngs=rngs)
        self.head = nnx.Linear(84, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(nnx.tanh(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.tanh(self.conv2(x)), (2, 2), (2, 2))
        x = x.reshape((x.shape[0], -1))
        return self.head(nnx.tanh(self.fc2(nnx.tanh(self.fc1(x)))))


class Unit(nnx.Module):
    """A residual block of two convolutions; its shortcut subsamples and pads channels where the shape changes."""

    def __init__(self, channels: int, features: int, stride: int, *, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, kernel_size=(3, 3), padding=1, use_bias=False, rngs=rngs)
        self.conv1 = conv(channels, features, strides=stride)
        self.bn1 = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.conv2 = conv(features, features)
        self.bn2 = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.stride, self.more = stride, features - channels

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.more)))
        return nnx.relu(x + y)


class ResNet20(nnx.Module):
    def __init__(self, channels: int, classes: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, 16, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        blocks, width = [], 16
        for stage in range(3):
            for block in range(3):
                blocks.append(Unit(width, 16 * 2**stage, 2 if stage and not block else 1, rngs=rngs))
                width = 16 * 2**stage
        self.blocks = nnx.Sequential(*blocks)
        self.fc = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(nnx.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((1, 2)))


class Stage(nnx.Module):
    """A stage of VGG-16: convolutions and the pool after them."""

    def __init__(self, channels: int, filters: tuple[int, ...], *, rngs: nnx.Rngs):
        pairs = zip((channels, *filters), filters, strict=False)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return nnx.max_pool(x, (2, 2), (2, 2))


def vgg_stages(channels: int, rngs: nnx.Rngs) -> list[Stage]:
    widths = (channels, *[filters[-1] for filters in VGG16])
    return [Stage(width, filters, rngs=rngs) for width, filters in zip(widths, VGG16, strict=False)]


class VGG16Net(nnx.Module):
    def __init__(self, channels: int, classes: int, units: int, *, rngs: nnx.Rngs):
        self.stages = nnx.Sequential(*vgg_stages(channels, rngs))
        self.fc6 = nnx.Linear(512 * 7 * 7, units, rngs=rngs)
        self.fc7 = nnx.Linear(units, units, rngs=rngs)
        self.fc8 = nnx.Linear(units, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stages(x)
        x = x.reshape((x.shape[0], -1))
        return self.fc8(nnx.relu(self.fc7(nnx.relu(self.fc6(x)))))


class ConvNorm(nnx.Module):
    def __init__(self, channels: int, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs):
        window = (size, size)
        self.conv = nnx.Conv(channels, features, window, stride, padding=size // 2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class Inception(nnx.Module):
    def __init__(self, channels: int, filters: tuple[int, ...], *, rngs: nnx.Rngs):
        ones, reduce3, threes, reduce5, fives, projected = filters
        self.branch1 = ConvNorm(channels, ones, 1, rngs=rngs)
        self.branch2 = nnx.Sequential(
            ConvNorm(channels, reduce3, 1, rngs=rngs), ConvNorm(reduce3, threes, 3, rngs=rngs)
        )
        self.branch3 = nnx.Sequential(ConvNorm(channels, reduce5, 1, rngs=rngs), ConvNorm(reduce5, fives, 3, rngs=rngs))
        self.branch4 = ConvNorm(channels, projected, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = nnx.max_pool(x, (3, 3), padding="SAME")
        return jnp.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(pooled)], -1)


class GoogLeNet(nnx.Module):
    def __init__(self, channels: int, classes: int, *, rngs: nnx.Rngs):
        pool = partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")
        layers: list[Any] = [ConvNorm(channels, 64, 7, 2, rngs=rngs), pool]
        layers += [ConvNorm(64, 64, 1, rngs=rngs), ConvNorm(64, 192, 3, rngs=rngs), pool]
        width = 192
        for name, filters in INCEPTION.items():
            layers.append(Inception(width, filters, rngs=rngs))
            width = filters[0] + filters[2] + filters[4] + filters[5]
            if name == "3b":
                layers.append(pool)
            if name == "4e":
                layers.append(partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)))
        self.layers = nnx.Sequential(*layers)
        self.fc = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.layers(x).mean((1, 2)))


class AlexNet(nnx.Module):
    def __init__(self, channels: int, classes: int, units: int, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(channels, 64, (11, 11), 4, padding=2, rngs=rngs)
        self.conv2 = nnx.Conv(64, 192, (5, 5), rngs=rngs)
        self.conv3 = nnx.Conv(192, 384, (3, 3), rngs=rngs)
        self.conv4 = nnx.Conv(384, 256, (3, 3), rngs=rngs)
        self.conv5 = nnx.Conv(256, 256, (3, 3), rngs=rngs)
        self.fc6 = nnx.Linear(256 * 6 * 6, units, rngs=rngs)
        self.fc7 = nnx.Linear(units, units, rngs=rngs)
        self.fc8 = nnx.Linear(units, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pool = partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2))
        x = pool(nnx.relu(self.conv1(x)))
        x = pool(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.conv4(nnx.relu(self.conv3(x))))
        x = pool(nnx.relu(self.conv5(x)))
        x = x.reshape((x.shape[0], -1))
        return self.fc8(nnx.relu(self.fc7(nnx.relu(self.fc6(x)))))


class Bottleneck(nnx.Module):
    def __init__(self, channels: int, features: int, stride: int, *, rngs: nnx.Rngs):
        conv, norm = partial(nnx.Conv, use_bias=False, rngs=rngs), partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        self.conv1, self.bn1 = conv(channels, features, (1, 1)), norm(features)
        self.conv2, self.bn2 = conv(features, features, (3, 3), stride, padding=1), norm(features)
        self.conv3, self.bn3 = conv(features, 4 * features, (1, 1)), norm(4 * features)
        self.projects = channels != 4 * features
        if self.projects:
            self.conv4, self.bn4 = conv(channels, 4 * features, (1, 1), stride), norm(4 * features)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + (self.bn4(self.conv4(x)) if self.projects else x))


class ResNet50(nnx.Module):
    def __init__(self, channels: int, classes: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, 64, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        blocks, width = [], 64
        for stage, count in enumerate(RESNET50):
            for block in range(count):
                blocks.append(Bottleneck(width, 64 * 2**stage, 2 if stage and not block else 1, rngs=rngs))
                width = 256 * 2**stage
        self.blocks = nnx.Sequential(*blocks)
        self.fc = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.conv(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        return self.fc(self.blocks(x).mean((1, 2)))


class FCN8s(nnx.Module):
    def __init__(self, channels: int, classes: int, units: int, *, rngs: nnx.Rngs):
        up = partial(nnx.ConvTranspose, classes, classes, padding="VALID", use_bias=False, rngs=rngs)
        self.stages = nnx.List(vgg_stages(channels, rngs))
        self.fc6 = nnx.Conv(512, units, (7, 7), rngs=rngs)
        self.fc7 = nnx.Conv(units, units, (1, 1), rngs=rngs)
        self.score7 = nnx.Conv(units, classes, (1, 1), rngs=rngs)
        self.up7 = up((4, 4), (2, 2))
        self.score4 = nnx.Conv(512, classes, (1, 1), rngs=rngs)
        self.up4 = up((4, 4), (2, 2))
        self.score3 = nnx.Conv(256, classes, (1, 1), rngs=rngs)
        self.up3 = up((16, 16), (8, 8))

    def __call__(self, x: jax.Array) -> jax.Array:
        image, pools = x, []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        x = self.score7(nnx.relu(self.fc7(nnx.relu(self.fc6(x)))))
        x = cropped(self.up7(x), pools[3]) + self.score4(pools[3])
        x = cropped(self.up4(x), pools[2]) + self.score3(pools[2])
        return cropped(self.up3(x), image)


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """Center crop of the images to the size of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:3], like.shape[1:3], strict=True))
    return x[:, top : top + like.shape[1], left : left + like.shape[2]]


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "lenet5": lambda task, rngs: LeNet5(task.shape[-1], task.classes, rngs=rngs),
    "resnet20": lambda task, rngs: ResNet20(task.shape[-1], task.classes, rngs=rngs),
    "vgg16": lambda task, rngs: VGG16Net(task.shape[-1], task.classes, task.units, rngs=rngs),
    "googlenet": lambda task, rngs: GoogLeNet(task.shape[-1], task.classes, rngs=rngs),
    "alexnet": lambda task, rngs: AlexNet(task.shape[-1], task.classes, task.units, rngs=rngs),
    "resnet50": lambda task, rngs: ResNet50(task.shape[-1], task.classes, rngs=rngs),
    "fcn8s": lambda task, rngs: FCN8s(task.shape[-1], task.classes, task.units, rngs=rngs),
}


def _built(task: Task) -> tuple[nnx.Module, jax.Array, jax.Array]:
    kinds = (nnx.Conv, nnx.ConvTranspose, nnx.Linear, nnx.BatchNorm)

    def make() -> nnx.Module:
        model = MODELS[task.model](task, nnx.Rngs(0))
        for place, layer in enumerate(members(model, kinds)):
            layer.place = place  # for `eval_shape` sorts the attributes by name
        return model

    model = nnx.eval_shape(make)  # random weights would only be replaced
    layers = sorted(members(model, kinds), key=lambda layer: layer.place)
    for layer, weights in zip(layers, task.layers(), strict=True):
        if isinstance(layer, nnx.ConvTranspose):  # which slides its kernel over the image, and so has it reversed
            weights["kernel"] = np.ascontiguousarray(weights["kernel"][::-1, ::-1])
        for name, value in weights.items():
            variable = getattr(layer, name)
            if variable.shape != value.shape:
                raise ValueError(f"{name}: {value.shape} for {variable.shape}")
            variable.set_value(jnp.array(value))
        if isinstance(layer, nnx.BatchNorm):
            layer.mean.set_value(jnp.zeros(layer.mean.shape))
            layer.var.set_value(jnp.ones(layer.var.shape))
    images, labels = map(jnp.array, task.batch())
    return model, images, labels


def trainer(task: Task) -> Callable[[], Any]:
    model, images, labels = _built(task)
    model.train()
    graph, state = nnx.split((model, nnx.Optimizer(model, optimizer, wrt=nnx.Param)))

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, labels: Any) -> Any:
        model, update = nnx.merge(graph, state)

        def objective(model: nnx.Module) -> jax.Array:
            inner, params, rest = nnx.split(model, nnx.Param, ...)
            params, x = halved(task.half, params, images)
            computing = nnx.merge(inner, params, rest)
            loss = cross_entropy(computing(x), labels)
            nnx.update(model, nnx.state(computing, nnx.BatchStat))
            return loss

        loss, gradient = nnx.value_and_grad(objective)(model)
        update.update(model, gradient)
        return nnx.state((model, update)), loss

    del model
    return stepper(step, state, images, labels)


def inference(task: Task) -> Callable[[], Any]:
    model, images, _ = _built(task)
    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def outputs(params: Any, rest: Any, images: Any) -> jax.Array:
        params, images = halved(task.half, params, images)
        return nnx.merge(graph, params, rest)(images).astype(jnp.float32)

    return lambda: jax.block_until_ready(outputs(params, rest, images))
