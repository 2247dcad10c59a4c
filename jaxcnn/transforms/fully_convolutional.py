"""A trained classifier as a fully convolutional network (Long, Shelhamer and Darrell 2015, section 3.1).

A dense layer behind a flattened h x w x C map is a convolution by h x w filters that has only one place to stand. On a
larger image it has several, and the classifier becomes a map of its own answers, as if it were slid over the image, at
a fraction of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import core
from jaxcnn.core import Layer, Variables
from jaxcnn.errors import UserError
from jaxcnn.layers import adaptive_avg_pool, avg_pool, conv, dense, flatten, global_avg_pool
from jaxcnn.transforms.freeze import adapt


def fully_convolutional(
    model: Layer, params: Variables, state: Variables, image: Sequence[int]
) -> tuple[Layer, Variables, Variables]:
    """A classifier turned into a network that gives a map of its answers: `(N, H, W, C) -> (N, h, w, classes)`.

    The first dense layer behind the flattened map becomes a convolution by filters of the map's size, the dense layers
    behind it become 1x1 convolutions, the mean over the image that of each window of the map, and an adaptive pool that
    does nothing at this size is left out. Names stay, and kernels are reshaped, not changed. On an image of the
    classifier's size the map is 1x1 and has the classifier's answer. On a larger one, entry (i, j) is the classifier's
    answer for the window at (S i, S j) with the network's stride S, exactly so where no layer is padded.

    Args:
      model: one whose layers run one after the other, as LeNet's, VGG's, AlexNet's and ResNet's do.
      params, state: its variables.
      image: (height, width, channels) of the images it classifies.

    Returns:
      `(model, params, state)`, the model being a `serial`.

    Raises:
      UserError: for a model whose layers do not run one after the other, an adaptive pool that would change the map at
        this size, or layers behind the flattened map that are not `dense` and do not act on each pixel alone.

    Example:
      >>> scanner, params, state = fully_convolutional(lenet5(), params, state, (32, 32, 1))
      >>> scores, _ = scanner.apply(params, state, jnp.zeros((1, 64, 96, 1)))  # (1, 9, 17, 10)
    """
    shape = tuple(int(n) for n in image)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"image={image!r}: expected (height, width, channels)")
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params, state = adapt(model.original, params, state)
    layers, params, state, window = _converted(model.original, params, state, x, None)
    if window is None:
        raise UserError("the model does not flatten its map, nor take its mean: it gives a map already")
    return layers, params, state


Window = tuple[int, ...] | None
"""(h, w) of the map that was flattened, until the first dense layer; then 1x1. None before all that."""


def _converted(
    model: Layer, params: Mapping[str, Any], state: Mapping[str, Any], image: Any, window: Window, path: str = ""
) -> tuple[Layer, Variables, Variables, Window]:
    """The layers of a chain one by one: what each becomes follows from the shapes of its input and output."""
    layers: dict[str, Any] = {}
    new: tuple[Variables, Variables] = {}, {}
    for name, x, y in _chain(model, params, state, image, path or "the model"):
        layer, variables, where = model.sublayers[name], (params.get(name, {}), state.get(name, {})), path + name
        if len(x.shape) == len(y.shape) == 4:
            if _made_by(layer, adaptive_avg_pool):
                if x.shape != y.shape:
                    raise UserError(
                        f"{where} brings {_by(x)} pixels to {_by(y)}, which cannot be slid over a larger map: give "
                        "the size of image at which it changes nothing"
                    )
                continue
        elif len(x.shape) == 4 and _is_function(layer, flatten):
            window = x.shape[1:3]
            continue
        elif len(x.shape) == 4 and _is_function(layer, global_avg_pool):
            layer, window = avg_pool(x.shape[1:3], 1), (1, 1)
        elif layer.sublayers:
            layer, *both, window = _converted(layer, *variables, x, window, f"{where}/")
            variables = both[0], both[1]
        elif window is None:
            raise UserError(f"{where} makes {y.shape} of {x.shape}: expected `flatten` or `global_avg_pool` there")
        elif _made_by(layer, dense):
            kernel = variables[0]["kernel"]
            shape = (*window, x.shape[-1] // math.prod(window), y.shape[-1])
            layer, variables = (
                conv(y.shape[-1], window, bias="bias" in variables[0]),
                ({**variables[0], "kernel": kernel.reshape(shape)}, {}),
            )
            window = (1, 1)
        else:
            _check_pointwise(layer, *variables, x.shape[-1], window, where)
        layers[name] = layer
        for tree, values in zip(new, variables, strict=True):
            tree |= {name: values} if values else {}
    return core.serial(**layers), *new, window


def _chain(model: Layer, params: Any, state: Any, x: Any, where: str) -> list[tuple[str, Any, Any]]:
    """The sublayers in the order in which they run, with the shapes of input and output.

    Raises:
      UserError: unless each of them gets what the one before gives, and nothing else happens.
    """
    record = core.Record()
    ends: list[Any] = []

    def trace(x: Any) -> None:
        with core.watch(record):
            ends[:] = [x, model.apply(params, state, x)[0]]

    jax.eval_shape(trace, x)
    given, result = ends
    calls = [call for call in record.calls if len(call.path) == 1]
    for call in calls:
        if len(call.inputs) != 1 or call.inputs[0] is not given:
            break
        given = call.output
    names = [call.path[0] for call in calls]
    if given is not result or not names or len(set(names)) != len(names):
        raise UserError(f"{where} cannot be converted: its layers do not run one after the other, as in a `serial`")
    return [(name, *core.structs_of((call.inputs[0], call.output))) for name, call in zip(names, calls, strict=True)]


def _made_by(layer: Layer, maker: Any) -> bool:
    return layer.call is not None and layer.call.maker is maker


def _is_function(layer: Layer, function: Any) -> bool:
    return layer.is_function and layer.call is not None and layer.call.args == (function,)


def _check_pointwise(layer: Layer, params: Any, state: Any, features: int, window: tuple[int, ...], where: str) -> None:
    """Raises unless the layer does the same to a map as to the examples that its pixels, or whole windows, are.

    It is tried on random numbers.
    """
    shape = (2, *window, features // math.prod(window)) if math.prod(window) > 1 else (1, 2, 3, features)
    maps = jax.random.normal(jax.random.key(0), shape)
    try:
        one, map_ = (np.asarray(layer.apply(params, state, x)[0]) for x in (maps.reshape(-1, features), maps))
        same = one.ndim == 2 and map_.ndim == 4 and np.allclose(map_.reshape(one.shape), one, 1e-4, 1e-5)
    except (TypeError, ValueError):  # the shapes do not go together
        same = False
    if not same:
        raise UserError(f"{where} cannot be converted: behind the flattened map it does not act on each pixel alone")


def _by(x: Any) -> str:
    return f"{x.shape[1]}x{x.shape[2]}"
