"""The networks in Flax linen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.peers import INCEPTION, RESNET50, VGG16, Task
from experiments.peers.jax_common import cross_entropy, halved, optimizer, stepper


class LeNet5(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.tanh(nn.Conv(6, (5, 5), padding="VALID")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.tanh(nn.Conv(16, (5, 5), padding="VALID")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.tanh(nn.Dense(120)(x))
        x = nn.tanh(nn.Dense(84)(x))
        return nn.Dense(self.classes)(x)


class Unit(nn.Module):
    """A residual block of two convolutions; its shortcut subsamples and pads channels where the shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, self.features, (3, 3), padding=1, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(conv(strides=(self.stride, self.stride))(x)))
        y = norm()(conv()(y))
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return nn.relu(x + y)


class ResNet20(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (3, 3), padding=1, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage in range(3):
            for block in range(3):
                x = Unit(16 * 2**stage, 2 if stage and not block else 1)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class VGG16Net(nn.Module):
    classes: int
    units: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for stage in VGG16:
            for features in stage:
                x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.units)(x))
        x = nn.relu(nn.Dense(self.units)(x))
        return nn.Dense(self.classes)(x)


class ConvNorm(nn.Module):
    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, stride = (self.size, self.size), (self.stride, self.stride)
        x = nn.Conv(self.features, size, stride, padding=self.size // 2, use_bias=False)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3)(x))


class Inception(nn.Module):
    filters: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        ones, reduce3, threes, reduce5, fives, projected = self.filters
        first = ConvNorm(ones, 1)(x, train)
        second = ConvNorm(threes, 3)(ConvNorm(reduce3, 1)(x, train), train)
        third = ConvNorm(fives, 3)(ConvNorm(reduce5, 1)(x, train), train)
        fourth = ConvNorm(projected, 1)(nn.max_pool(x, (3, 3), padding="SAME"), train)
        return jnp.concatenate([first, second, third, fourth], -1)


class GoogLeNet(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")
        x = pool(ConvNorm(64, 7, 2)(x, train))
        x = pool(ConvNorm(192, 3)(ConvNorm(64, 1)(x, train), train))
        for name, filters in INCEPTION.items():
            x = Inception(filters)(x, train)
            if name == "3b":
                x = pool(x)
            if name == "4e":
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class AlexNet(nn.Module):
    classes: int
    units: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
        x = pool(nn.relu(nn.Conv(64, (11, 11), (4, 4), padding=2)(x)))
        x = pool(nn.relu(nn.Conv(192, (5, 5))(x)))
        x = nn.relu(nn.Conv(384, (3, 3))(x))
        x = nn.relu(nn.Conv(256, (3, 3))(x))
        x = pool(nn.relu(nn.Conv(256, (3, 3))(x)))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.units)(x))
        x = nn.relu(nn.Dense(self.units)(x))
        return nn.Dense(self.classes)(x)


class Bottleneck(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(conv(self.features, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.features, (3, 3), (self.stride, self.stride), padding=1)(y)))
        y = norm()(conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.features, (1, 1), (self.stride, self.stride))(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network of bottleneck blocks, such as ResNet-50."""

    classes: int
    blocks: tuple[int, ...] = RESNET50

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(64, (7, 7), (2, 2), padding=3, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class FCN8s(nn.Module):
    classes: int
    units: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        image, pools = x, []
        for stage in VGG16:
            for features in stage:
                x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            pools.append(x)
        x = nn.relu(nn.Conv(self.units, (7, 7))(x))
        x = nn.relu(nn.Conv(self.units, (1, 1))(x))
        x = nn.Conv(self.classes, (1, 1))(x)
        up = partial(nn.ConvTranspose, self.classes, padding="VALID", use_bias=False)
        for pool in (pools[3], pools[2]):
            x = cropped(up((4, 4), (2, 2))(x), pool) + nn.Conv(self.classes, (1, 1))(pool)
        return cropped(up((16, 16), (8, 8))(x), image)


def cropped(x: jax.Array, like: jax.Array) -> jax.Array:
    """Center crop of the images to the size of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:3], like.shape[1:3], strict=True))
    return x[:, top : top + like.shape[1], left : left + like.shape[2]]


MODELS: dict[str, Callable[[Task], nn.Module]] = {
    "lenet5": lambda task: LeNet5(task.classes),
    "resnet20": lambda task: ResNet20(task.classes),
    "vgg16": lambda task: VGG16Net(task.classes, task.units),
    "googlenet": lambda task: GoogLeNet(task.classes),
    "alexnet": lambda task: AlexNet(task.classes, task.units),
    "resnet50": lambda task: ResNet(task.classes),
    "fcn8s": lambda task: FCN8s(task.classes, task.units),
}


def _built(task: Task) -> tuple[nn.Module, dict[str, Any], jax.Array, jax.Array]:
    images, labels = map(jnp.array, task.batch())
    model = MODELS[task.model](task)
    called: list[nn.Module] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, (nn.Conv, nn.ConvTranspose, nn.Dense, nn.BatchNorm)):
            called.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    for layer, weights in zip(called, task.layers(), strict=True):
        if isinstance(layer, nn.ConvTranspose):  # which slides its kernel over the image, and so has it reversed
            weights["kernel"] = weights["kernel"][::-1, ::-1]
        own = variables["params"]
        for name in layer.path:
            own = own[name]
        for name in own:
            if own[name].shape != weights[name].shape:
                raise ValueError(f"{'/'.join(layer.path)}/{name}: {weights[name].shape} for {own[name].shape}")
            own[name] = jnp.array(np.ascontiguousarray(weights[name]))
    fresh = {"mean": jnp.zeros, "var": jnp.ones}
    statistics = jax.tree.map_with_path(lambda path, x: fresh[path[-1].key](x.shape), variables.get("batch_stats", {}))
    return model, {"params": variables["params"], "batch_stats": statistics}, images, labels


def trainer(task: Task) -> Callable[[], Any]:
    model, variables, images, labels = _built(task)

    def objective(params: Any, statistics: Any, images: Any, labels: Any) -> tuple[jax.Array, Any]:
        params, images = halved(task.half, params, images)
        both = {"params": params, "batch_stats": statistics}
        logits, new = model.apply(both, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels), new.get("batch_stats", {})

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, labels: Any) -> Any:
        params, statistics, opt_state = state
        (loss, statistics), gradient = jax.value_and_grad(objective, has_aux=True)(params, statistics, images, labels)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    params = variables["params"]
    return stepper(step, (params, variables["batch_stats"], optimizer.init(params)), images, labels)


def inference(task: Task) -> Callable[[], Any]:
    model, variables, images, _ = _built(task)

    @jax.jit
    def outputs(variables: Any, images: Any) -> jax.Array:
        params, images = halved(task.half, variables["params"], images)
        return model.apply({**variables, "params": params}, images, train=False).astype(jnp.float32)

    return lambda: jax.block_until_ready(outputs(variables, images))
