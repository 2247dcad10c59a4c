"""The networks in Equinox, for one image with channels first; `vmap` adds the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from experiments.peers import FLATTENED, INCEPTION, RESNET50, VGG16, Task, channels_first
from experiments.peers.jax_common import cross_entropy, members, optimizer, stepper

Keys = Iterator[jax.Array]
Norm = partial(eqx.nn.BatchNorm, axis_name="batch", momentum=0.9, mode="batch")
relu = jax.nn.relu


class LeNet5(eqx.Module):
    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, keys: Keys):
        self.conv1 = eqx.nn.Conv2d(channels, 6, 5, key=next(keys))
        self.conv2 = eqx.nn.Conv2d(6, 16, 5, key=next(keys))
        self.fc1 = eqx.nn.Linear(400, 120, key=next(keys))
        self.fc2 = eqx.nn.Linear(120, 84, key=next(keys))
        self.head = eqx.nn.Linear(84, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        pool = eqx.nn.AvgPool2d(2, 2)
        x = pool(jnp.tanh(self.conv1(x)))
        x = pool(jnp.tanh(self.conv2(x)))
        x = jnp.tanh(self.fc1(x.ravel()))
        return self.head(jnp.tanh(self.fc2(x))), state


class Unit(eqx.Module):
    """A residual block of two convolutions; its shortcut subsamples and pads channels where the shape changes."""

    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    bn2: eqx.nn.BatchNorm
    stride: int = eqx.field(static=True)
    more: int = eqx.field(static=True)

    def __init__(self, channels: int, features: int, stride: int, keys: Keys):
        conv = partial(eqx.nn.Conv2d, kernel_size=3, padding=1, use_bias=False)
        self.conv1, self.bn1 = conv(channels, features, stride=stride, key=next(keys)), Norm(features)
        self.conv2, self.bn2 = conv(features, features, key=next(keys)), Norm(features)
        self.stride, self.more = stride, features - channels

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.bn1(self.conv1(x), state)
        y, state = self.bn2(self.conv2(relu(y)), state)
        if self.stride > 1:
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, self.more), (0, 0), (0, 0)))
        return relu(x + y), state


class ResNet20(eqx.Module):
    conv: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm
    blocks: list[Unit]
    fc: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, keys: Keys):
        self.conv = eqx.nn.Conv2d(channels, 16, 3, padding=1, use_bias=False, key=next(keys))
        self.bn = Norm(16)
        self.blocks, width = [], 16
        for stage in range(3):
            for block in range(3):
                self.blocks.append(Unit(width, 16 * 2**stage, 2 if stage and not block else 1, keys))
                width = 16 * 2**stage
        self.fc = eqx.nn.Linear(width, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.bn(self.conv(x), state)
        x = relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.fc(x.mean((1, 2))), state


class Stage(eqx.Module):
    """A stage of VGG-16: convolutions and the pool after them."""

    convs: list[eqx.nn.Conv2d]

    def __init__(self, channels: int, filters: tuple[int, ...], keys: Keys):
        pairs = zip((channels, *filters), filters, strict=False)
        self.convs = [eqx.nn.Conv2d(a, b, 3, padding=1, key=next(keys)) for a, b in pairs]

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = relu(conv(x))
        return eqx.nn.MaxPool2d(2, 2)(x)


def vgg_stages(channels: int, keys: Keys) -> list[Stage]:
    widths = (channels, *[filters[-1] for filters in VGG16])
    return [Stage(width, filters, keys) for width, filters in zip(widths, VGG16, strict=False)]


class VGG16Net(eqx.Module):
    stages: list[Stage]
    fc6: eqx.nn.Linear
    fc7: eqx.nn.Linear
    fc8: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, units: int, keys: Keys):
        self.stages = vgg_stages(channels, keys)
        self.fc6 = eqx.nn.Linear(512 * 7 * 7, units, key=next(keys))
        self.fc7 = eqx.nn.Linear(units, units, key=next(keys))
        self.fc8 = eqx.nn.Linear(units, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        for stage in self.stages:
            x = stage(x)
        x = relu(self.fc6(x.ravel()))
        return self.fc8(relu(self.fc7(x))), state


class ConvNorm(eqx.Module):
    conv: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm

    def __init__(self, channels: int, features: int, size: int, stride: int, keys: Keys):
        self.conv = eqx.nn.Conv2d(channels, features, size, stride, size // 2, use_bias=False, key=next(keys))
        self.bn = Norm(features, eps=1e-3)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.bn(self.conv(x), state)
        return relu(x), state


class Inception(eqx.Module):
    branch1: ConvNorm
    reduce3: ConvNorm
    branch2: ConvNorm
    reduce5: ConvNorm
    branch3: ConvNorm
    branch4: ConvNorm

    def __init__(self, channels: int, filters: tuple[int, ...], keys: Keys):
        ones, reduce3, threes, reduce5, fives, projected = filters
        self.branch1 = ConvNorm(channels, ones, 1, 1, keys)
        self.reduce3 = ConvNorm(channels, reduce3, 1, 1, keys)
        self.branch2 = ConvNorm(reduce3, threes, 3, 1, keys)
        self.reduce5 = ConvNorm(channels, reduce5, 1, 1, keys)
        self.branch3 = ConvNorm(reduce5, fives, 3, 1, keys)
        self.branch4 = ConvNorm(channels, projected, 1, 1, keys)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        first, state = self.branch1(x, state)
        second, state = self.branch2(*self.reduce3(x, state))
        third, state = self.branch3(*self.reduce5(x, state))
        fourth, state = self.branch4(eqx.nn.MaxPool2d(3, 1, padding=1)(x), state)
        return jnp.concatenate([first, second, third, fourth]), state


class GoogLeNet(eqx.Module):
    stem: list[ConvNorm]
    modules: list[Inception]
    fc: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, keys: Keys):
        self.stem = [ConvNorm(channels, 64, 7, 2, keys), ConvNorm(64, 64, 1, 1, keys), ConvNorm(64, 192, 3, 1, keys)]
        self.modules, width = [], 192
        for filters in INCEPTION.values():
            self.modules.append(Inception(width, filters, keys))
            width = filters[0] + filters[2] + filters[4] + filters[5]
        self.fc = eqx.nn.Linear(width, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        pool = eqx.nn.MaxPool2d(3, 2, use_ceil=True)
        x, state = self.stem[0](x, state)
        x, state = self.stem[2](*self.stem[1](pool(x), state))
        x = pool(x)
        for name, module in zip(INCEPTION, self.modules, strict=True):
            x, state = module(x, state)
            if name == "3b":
                x = pool(x)
            if name == "4e":
                x = eqx.nn.MaxPool2d(2, 2, use_ceil=True)(x)
        return self.fc(x.mean((1, 2))), state


class AlexNet(eqx.Module):
    convs: list[eqx.nn.Conv2d]
    fc6: eqx.nn.Linear
    fc7: eqx.nn.Linear
    fc8: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, units: int, keys: Keys):
        conv = partial(eqx.nn.Conv2d, kernel_size=3, padding=1)
        self.convs = [
            eqx.nn.Conv2d(channels, 64, 11, 4, padding=2, key=next(keys)),
            eqx.nn.Conv2d(64, 192, 5, padding=2, key=next(keys)),
            conv(192, 384, key=next(keys)),
            conv(384, 256, key=next(keys)),
            conv(256, 256, key=next(keys)),
        ]
        self.fc6 = eqx.nn.Linear(256 * 6 * 6, units, key=next(keys))
        self.fc7 = eqx.nn.Linear(units, units, key=next(keys))
        self.fc8 = eqx.nn.Linear(units, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        for i, conv in enumerate(self.convs):
            x = relu(conv(x))
            if i in (0, 1, 4):
                x = eqx.nn.MaxPool2d(3, 2)(x)
        x = relu(self.fc6(x.ravel()))
        return self.fc8(relu(self.fc7(x))), state


class Bottleneck(eqx.Module):
    convs: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.BatchNorm]

    def __init__(self, channels: int, features: int, stride: int, keys: Keys):
        shapes = [(channels, features, 1, 1), (features, features, 3, stride), (features, 4 * features, 1, 1)]
        if channels != 4 * features:
            shapes.append((channels, 4 * features, 1, stride))
        self.convs = [eqx.nn.Conv2d(a, b, f, s, f // 2, use_bias=False, key=next(keys)) for a, b, f, s in shapes]
        self.norms = [Norm(b) for _, b, _, _ in shapes]

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norms[0](self.convs[0](x), state)
        y, state = self.norms[1](self.convs[1](relu(y)), state)
        y, state = self.norms[2](self.convs[2](relu(y)), state)
        if len(self.convs) > 3:
            x, state = self.norms[3](self.convs[3](x), state)
        return relu(x + y), state


class ResNet50(eqx.Module):
    conv: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm
    blocks: list[Bottleneck]
    fc: eqx.nn.Linear

    def __init__(self, channels: int, classes: int, keys: Keys):
        self.conv = eqx.nn.Conv2d(channels, 64, 7, 2, padding=3, use_bias=False, key=next(keys))
        self.bn = Norm(64)
        self.blocks, width = [], 64
        for stage, count in enumerate(RESNET50):
            for block in range(count):
                self.blocks.append(Bottleneck(width, 64 * 2**stage, 2 if stage and not block else 1, keys))
                width = 256 * 2**stage
        self.fc = eqx.nn.Linear(width, classes, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.bn(self.conv(x), state)
        x = eqx.nn.MaxPool2d(3, 2, padding=1)(relu(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.fc(x.mean((1, 2))), state


class FCN8s(eqx.Module):
    stages: list[Stage]
    fc6: eqx.nn.Conv2d
    fc7: eqx.nn.Conv2d
    score7: eqx.nn.Conv2d
    up7: eqx.nn.ConvTranspose2d
    score4: eqx.nn.Conv2d
    up4: eqx.nn.ConvTranspose2d
    score3: eqx.nn.Conv2d
    up3: eqx.nn.ConvTranspose2d

    def __init__(self, channels: int, classes: int, units: int, keys: Keys):
        self.stages = vgg_stages(channels, keys)
        self.fc6 = eqx.nn.Conv2d(512, units, 7, padding=3, key=next(keys))
        self.fc7 = eqx.nn.Conv2d(units, units, 1, key=next(keys))
        self.score7 = eqx.nn.Conv2d(units, classes, 1, key=next(keys))
        self.up7 = eqx.nn.ConvTranspose2d(classes, classes, 4, 2, use_bias=False, key=next(keys))
        self.score4 = eqx.nn.Conv2d(512, classes, 1, key=next(keys))
        self.up4 = eqx.nn.ConvTranspose2d(classes, classes, 4, 2, use_bias=False, key=next(keys))
        self.score3 = eqx.nn.Conv2d(256, classes, 1, key=next(keys))
        self.up3 = eqx.nn.ConvTranspose2d(classes, classes, 16, 8, use_bias=False, key=next(keys))

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        image, pools = x, []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        x = self.score7(relu(self.fc7(relu(self.fc6(x)))))
        x = cropped(self.up7(x), pools[3]) + self.score4(pools[3])
        x = cropped(self.up4(x), pools[2]) + self.score3(pools[2])
        return cropped(self.up3(x), image), state


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """Center crop of an image to the size of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:], like.shape[1:], strict=True))
    return x[:, top : top + like.shape[1], left : left + like.shape[2]]


MODELS: dict[str, Callable[..., eqx.Module]] = {
    "lenet5": lambda task, keys: LeNet5(task.shape[-1], task.classes, keys),
    "resnet20": lambda task, keys: ResNet20(task.shape[-1], task.classes, keys),
    "vgg16": lambda task, keys: VGG16Net(task.shape[-1], task.classes, task.units, keys),
    "googlenet": lambda task, keys: GoogLeNet(task.shape[-1], task.classes, keys),
    "alexnet": lambda task, keys: AlexNet(task.shape[-1], task.classes, task.units, keys),
    "resnet50": lambda task, keys: ResNet50(task.shape[-1], task.classes, keys),
    "fcn8s": lambda task, keys: FCN8s(task.shape[-1], task.classes, task.units, keys),
}


def _layers(model: eqx.Module) -> list[Any]:
    """The layers in call order; in a bottleneck, each convolution is followed by its normalization."""
    found: list[Any] = []
    for layer in members(model, (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Linear, eqx.nn.BatchNorm, Bottleneck)):
        if isinstance(layer, Bottleneck):
            found += [part for pair in zip(layer.convs, layer.norms, strict=True) for part in pair]
        else:
            found.append(layer)
    return found


def _variables(model: eqx.Module) -> list[jax.Array]:
    return [x for layer in _layers(model) for x in (layer.weight, layer.bias) if x is not None]


def _built(task: Task) -> tuple[eqx.Module, eqx.nn.State, jax.Array, jax.Array]:
    make = eqx.nn.make_with_state(lambda: MODELS[task.model](task, iter(jax.random.split(jax.random.key(0), 200))))
    model, state = eqx.filter_eval_shape(make)  # random weights would only be replaced
    values, maps = [], FLATTENED.get(task.model)
    for layer, weights in zip(_layers(model), task.layers(), strict=True):
        if isinstance(layer, eqx.nn.BatchNorm):
            weight, size = weights["scale"], layer.input_size
            state = state.set(layer.batch_counter, jnp.array(0))
            state = state.set(layer.batch_state_index, (jnp.zeros(size), jnp.ones(size)))
        elif isinstance(layer, eqx.nn.Linear):
            weight, maps = channels_first(weights["kernel"], maps).T, None
        else:
            weight = weights["kernel"].transpose(3, 2, 0, 1)
            if isinstance(layer, eqx.nn.ConvTranspose):  # which slides its kernel over the image: it has it reversed
                weight = weight[:, :, ::-1, ::-1]
        values.append(jnp.array(np.ascontiguousarray(weight)))
        if layer.bias is not None:
            values.append(jnp.array(weights["bias"].reshape(layer.bias.shape)))
    if [x.shape for x in _variables(model)] != [x.shape for x in values]:
        raise ValueError("the layers are in another order")
    model = eqx.tree_at(_variables, model, values)
    images, labels = task.batch()
    return model, state, jnp.array(images.transpose(0, 3, 1, 2)), jnp.array(labels)


def _batched(model: Any, state: eqx.nn.State, images: jax.Array) -> tuple[jax.Array, eqx.nn.State]:
    """The outputs of a batch with channels last, and the new state."""
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    outputs, state = run(images, state)
    return jnp.moveaxis(outputs, 1, -1), state


def trainer(task: Task) -> Callable[[], Any]:
    model, state, images, labels = _built(task)

    def objective(model: eqx.Module, state: eqx.nn.State, images: Any, labels: Any) -> tuple[jax.Array, eqx.nn.State]:
        logits, state = _batched(model, state, images)
        return cross_entropy(logits, labels), state

    @eqx.filter_jit(donate="all-except-first")
    def step(batch: Any, carry: Any) -> Any:
        model, state, opt_state = carry
        (loss, state), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(model, state, *batch)
        updates, opt_state = optimizer.update(gradient, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return (eqx.apply_updates(model, updates), state, opt_state), loss

    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return stepper(lambda carry, *batch: step(batch, carry), (model, state, opt_state), images, labels)


def inference(task: Task) -> Callable[[], Any]:
    model, state, images, _ = _built(task)
    model = eqx.nn.inference_mode(model)

    @eqx.filter_jit
    def outputs(model: eqx.Module, state: eqx.nn.State, images: Any) -> jax.Array:
        return _batched(model, state, images)[0]

    return lambda: jax.block_until_ready(outputs(model, state, images))
