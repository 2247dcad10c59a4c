"""The networks in Keras on JAX, with the stateless training loop of Keras' JAX guide."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
from keras import layers

from experiments.peers import INCEPTION, LEARNING_RATE, MOMENTUM, RESNET50, VGG16, Task
from experiments.peers.jax_common import stepper

# Weights are given, and drawing random ones would only take time.
Conv2D = partial(layers.Conv2D, kernel_initializer="zeros")
Conv2DTranspose = partial(layers.Conv2DTranspose, kernel_initializer="zeros", use_bias=False)
Dense = partial(layers.Dense, kernel_initializer="zeros")
Norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5)


def lenet5(x: Any, task: Task) -> Any:
    x = layers.AveragePooling2D(2)(Conv2D(6, 5, activation="tanh")(x))
    x = layers.AveragePooling2D(2)(Conv2D(16, 5, activation="tanh")(x))
    x = Dense(120, activation="tanh")(layers.Flatten()(x))
    x = Dense(84, activation="tanh")(x)
    return Dense(task.classes)(x)


def padded(x: Any, features: int, size: int, stride: int, bias: bool = False) -> Any:
    """A strided convolution with symmetric padding; Keras' "same" pads the far side more."""
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    return Conv2D(features, size, stride, padding="valid" if stride > 1 else "same", use_bias=bias)(x)


def resnet20(x: Any, task: Task) -> Any:
    x = layers.ReLU()(Norm()(padded(x, 16, 3, 1)))
    for stage in range(3):
        for block in range(3):
            features, stride = 16 * 2**stage, 2 if stage and not block else 1
            y = layers.ReLU()(Norm()(padded(x, features, 3, stride)))
            y = Norm()(padded(y, features, 3, 1))
            if stride > 1:
                x = x[:, ::stride, ::stride]
                x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
            x = layers.ReLU()(layers.Add()([x, y]))
    return Dense(task.classes)(layers.GlobalAveragePooling2D()(x))


def vgg_pools(x: Any) -> list[Any]:
    """The outputs of VGG-16's five stages."""
    pools = []
    for stage in VGG16:
        for features in stage:
            x = Conv2D(features, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
        pools.append(x)
    return pools


def vgg16(x: Any, task: Task) -> Any:
    x = layers.Flatten()(vgg_pools(x)[-1])
    x = Dense(task.units, activation="relu")(x)
    x = Dense(task.units, activation="relu")(x)
    return Dense(task.classes)(x)


def conv_norm(x: Any, features: int, size: int, stride: int = 1) -> Any:
    return layers.ReLU()(Norm(epsilon=1e-3)(padded(x, features, size, stride)))


def googlenet(x: Any, task: Task) -> Any:
    x = layers.MaxPooling2D(3, 2, padding="same")(conv_norm(x, 64, 7, 2))
    x = conv_norm(conv_norm(x, 64, 1), 192, 3)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for name, (ones, reduce3, threes, reduce5, fives, projected) in INCEPTION.items():
        first = conv_norm(x, ones, 1)
        second = conv_norm(conv_norm(x, reduce3, 1), threes, 3)
        third = conv_norm(conv_norm(x, reduce5, 1), fives, 3)
        fourth = conv_norm(layers.MaxPooling2D(3, 1, padding="same")(x), projected, 1)
        x = layers.Concatenate()([first, second, third, fourth])
        if name == "3b":
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
        if name == "4e":
            x = layers.MaxPooling2D(2, 2)(x)
    return Dense(task.classes)(layers.GlobalAveragePooling2D()(x))


def alexnet(x: Any, task: Task) -> Any:
    conv = partial(Conv2D, padding="same", activation="relu")
    x = Conv2D(64, 11, 4, activation="relu")(layers.ZeroPadding2D(2)(x))
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.MaxPooling2D(3, 2)(conv(192, 5)(x))
    x = conv(384, 3)(x)
    x = conv(256, 3)(x)
    x = layers.MaxPooling2D(3, 2)(conv(256, 3)(x))
    x = layers.Flatten()(x)
    x = Dense(task.units, activation="relu")(x)
    x = Dense(task.units, activation="relu")(x)
    return Dense(task.classes)(x)


def resnet50(x: Any, task: Task) -> Any:
    x = layers.ReLU()(Norm()(padded(x, 64, 7, 2)))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(RESNET50):
        for block in range(count):
            features, stride = 64 * 2**stage, 2 if stage and not block else 1
            y = layers.ReLU()(Norm()(padded(x, features, 1, 1)))
            y = layers.ReLU()(Norm()(padded(y, features, 3, stride)))
            y = Norm()(padded(y, 4 * features, 1, 1))
            if not block:
                x = Norm()(padded(x, 4 * features, 1, stride))
            x = layers.ReLU()(layers.Add()([x, y]))
    return Dense(task.classes)(layers.GlobalAveragePooling2D()(x))


def fcn8s(image: Any, task: Task) -> Any:
    pools = vgg_pools(image)
    x = Conv2D(task.units, 7, padding="same", activation="relu")(pools[4])
    x = Conv2D(task.units, 1, activation="relu")(x)
    x = Conv2D(task.classes, 1)(x)
    for pool in (pools[3], pools[2]):
        x = cropped(Conv2DTranspose(task.classes, 4, 2)(x), pool)
        x = layers.Add()([x, Conv2D(task.classes, 1)(pool)])
    return cropped(Conv2DTranspose(task.classes, 16, 8)(x), image)


def cropped(x: Any, like: Any) -> Any:
    """Center crop of the images to the size of `like`."""
    edges = [(a - b, (a - b) // 2) for a, b in zip(x.shape[1:3], like.shape[1:3], strict=True)]
    return layers.Cropping2D([(before, both - before) for both, before in edges])(x)


MODELS: dict[str, Callable[[Any, Task], Any]] = {
    "lenet5": lenet5,
    "resnet20": resnet20,
    "vgg16": vgg16,
    "googlenet": googlenet,
    "alexnet": alexnet,
    "resnet50": resnet50,
    "fcn8s": fcn8s,
}


def _order(model: keras.Model) -> dict[type, Iterator[Any]]:
    """The layers of each class in order of creation, which differs from the order of `model.layers`.

    Keras numbers them: conv2d, conv2d_1, ...
    """

    def number(layer: Any) -> int:
        last = layer.name.rpartition("_")[2]
        return int(last) if last.isdigit() else 0

    kinds = (layers.Conv2D, layers.Conv2DTranspose, layers.Dense, layers.BatchNormalization)
    return {kind: iter(sorted((x for x in model.layers if type(x) is kind), key=number)) for kind in kinds}


def _built(task: Task) -> tuple[keras.Model, jax.Array, jax.Array]:
    keras.utils.clear_session()  # so that the numbers begin at none
    keras.config.set_dtype_policy("mixed_bfloat16" if task.half else "float32")
    inputs = keras.Input(task.shape[1:], batch_size=task.shape[0])
    outputs = MODELS[task.model](inputs, task)
    model = keras.Model(inputs, layers.Activation("linear", dtype="float32")(outputs))  # logits in float32
    order = _order(model)
    for weights in task.layers():
        if "scale" in weights:
            layer = next(order[layers.BatchNormalization])
            values = [weights["scale"], weights["bias"]]
        else:
            kernel, bias = weights["kernel"], [weights["bias"]] if "bias" in weights else []
            if kernel.ndim == 2:
                layer = next(order[layers.Dense])
            elif bias or task.model != "fcn8s":
                layer = next(order[layers.Conv2D])
            else:  # of all convolutions in the FCN only the transposed ones have no bias
                layer, kernel = next(order[layers.Conv2DTranspose]), kernel.transpose(0, 1, 3, 2)
            values = [kernel, *bias]
        for variable, value in zip(layer.trainable_variables, values, strict=True):
            variable.assign(value)
    if left := [layer.name for rest in order.values() for layer in rest]:
        raise ValueError(f"no weights for {', '.join(left)}")
    images, labels = map(jnp.array, task.batch())
    return model, images, labels


def trainer(task: Task) -> Callable[[], Any]:
    model, images, labels = _built(task)
    optimizer = keras.optimizers.SGD(LEARNING_RATE, MOMENTUM)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def objective(trainable: Any, others: Any, images: Any, labels: Any) -> tuple[jax.Array, Any]:
        logits, others = model.stateless_call(trainable, others, images, training=True)
        return cross_entropy(labels, logits), others

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, labels: Any) -> Any:
        trainable, others, opt_state = state
        (loss, others), gradient = jax.value_and_grad(objective, has_aux=True)(trainable, others, images, labels)
        trainable, opt_state = optimizer.stateless_apply(opt_state, gradient, trainable)
        return (trainable, others, opt_state), loss

    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    return stepper(step, tuple([v.value for v in each] for each in variables), images, labels)


def inference(task: Task) -> Callable[[], Any]:
    model, images, _ = _built(task)
    trainable, others = ([v.value for v in each] for each in (model.trainable_variables, model.non_trainable_variables))

    @jax.jit
    def outputs(trainable: Any, others: Any, images: Any) -> jax.Array:
        return model.stateless_call(trainable, others, images, training=False)[0]

    return lambda: jax.block_until_ready(outputs(trainable, others, images))
