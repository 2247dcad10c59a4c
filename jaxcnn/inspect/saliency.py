"""Which pixels a class, or any unit, depends on: gradients, guided and deconvolved maps, Grad-CAM, occlusion.

Each function takes any Layer with its variables and a batch of images as the network is given them (preprocessed, in
floating point), runs it in evaluation mode, and returns arrays; `jaxcnn.inspect.pictures` draws them. The `unit` is one
of the network's output, or of the output of a named `layer`:

    None            the largest number: of logits, the most probable class
    3               a class; in maps `(N, H, W, C)` the channel, where it is largest
    [3, 8, ...]     a class for each example
    (y, x, c)       one unit of maps; an array `(N, 3)` for one of each example
    a function      `outputs -> (N,)`, for outputs that are no single array, or another score

Of several inputs, the image is the first of floating point with spatial axes. Each function is compiled once for a
network, a layer and shapes; another unit of the same form, or other weights, compile nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import expit

from jaxcnn.core import Layer, PyTree
from jaxcnn.errors import UserError
from jaxcnn.inspect.program import Program, program, split_at
from jaxcnn.inspect.rules import Rule
from jaxcnn.inspect.unit import Chosen, Unit, flat_index, image_of, limits, only_array, score
from jaxcnn.ops.jaxpr import Step
from jaxcnn.ops.precision import wide


def input_gradient(
    model: Layer,
    params: Any,
    state: Any,
    *inputs: Any,
    unit: Unit = None,
    layer: str | None = None,
    rule: Rule = "plain",
) -> jax.Array:
    """The gradient of a unit by the pixels of the image, with one of three rules for ReLU.

    Where a ReLU's input is x and its gradient g, "plain" passes back g [x > 0], the derivative; "deconvolution"
    max(g, 0); "guided" max(g, 0) [x > 0]. Everything else passes its gradient, which is what a deconvolutional network
    computes: transposed filters, and unpooling to where each maximum came from. Other activations (tanh) have their
    derivative, and a network without ReLU has the same map by all three rules.

    Args:
      model, params, state, *inputs: the network, its variables, what it is called with.
      unit: see the module.
      layer: the layer whose output the unit belongs to; None for the network's.
      rule: "plain", "guided" or "deconvolution".

    Returns:
      An array of the shape of the images, `(N, H, W, C)`. For pictures of classes, logits are the better score: a
      probability near 1 has hardly a gradient (Simonyan et al., section 3).

    Raises:
      UserError: for an unknown layer, with the nearest names; a unit outside of the output; images of integers.

    Source: Simonyan, Vedaldi and Zisserman, Deep inside convolutional networks (2013), section 3; Zeiler and Fergus,
      Visualizing and understanding convolutional networks (2014), section 2.1; Springenberg et al., Striving for
      simplicity: the all convolutional net (2015), section 3.4.
    """
    chosen = Chosen.of(unit)
    gradient, shape = _gradient(model, params, state, inputs, chosen.where, layer=layer, rule=rule, kind=chosen.kind)
    chosen.check(shape)
    return gradient


@functools.partial(jax.jit, static_argnames=("model", "layer", "rule", "kind"))
def _gradient(
    model: Layer, params: Any, state: Any, inputs: Any, where: Any, layer: str | None, rule: Rule, kind: Any
) -> tuple[jax.Array, jax.Array]:
    at = image_of(inputs)

    def total(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        given = (*inputs[:at], image, *inputs[at + 1 :])
        output = program(model, params, state, *given).run(until=layer, rule=rule)
        return score(output, kind, where).sum(), limits(output, kind)

    return jax.grad(total, has_aux=True)(inputs[at])


def saliency(
    model: Layer, params: Any, state: Any, *inputs: Any, unit: Unit = None, layer: str | None = None
) -> jax.Array:
    """How much a unit changes with each pixel: the largest |gradient| of the pixel's channels, `(N, H, W)`.

    Arguments and errors as in `input_gradient`.

    Source: Simonyan, Vedaldi and Zisserman (2013), section 3.1.
    """
    return jnp.abs(input_gradient(model, params, state, *inputs, unit=unit, layer=layer)).max(-1)


def grad_cam(
    model: Layer,
    params: Any,
    state: Any,
    *inputs: Any,
    layer: str | None = None,
    unit: Unit = None,
    resize: bool = True,
) -> jax.Array:
    """Grad-CAM: where the maps of a layer raise the score of a class.

    With A[n, i, j, k] the layer's maps and s the class's score, each map counts by its mean gradient:

      alpha[n, k] = mean over i, j of ds / dA[n, i, j, k]
      L[n, i, j] = max(0, sum over k of alpha[n, k] A[n, i, j, k])

    Args:
      model, params, state, *inputs: the network, its variables, what it is called with.
      layer: the layer with the maps; None for the last that has more than one place and is no pool.
      unit: of the network's output; see the module.
      resize: to the image's height and width, bilinearly; otherwise the map has the layer's.

    Returns:
      `(N, H, W)`, at least 0, in the unit of the score; all zeros where nothing in the maps raises the score.

    Raises:
      UserError: for a layer that has no maps (a dense one), an unknown one, or a network without any.

    Source: Selvaraju et al., Grad-CAM (2017), section 3. `grad_cam(...)[..., None] * input_gradient(rule="guided")` is
      their Guided Grad-CAM.
    """
    chosen = Chosen.of(unit)
    maps, shape = _grad_cam(model, params, state, inputs, chosen.where, layer=layer, kind=chosen.kind)
    chosen.check(shape)
    size = inputs[image_of(inputs)].shape[1:-1]
    return resized(maps, size) if resize else maps


@functools.partial(jax.jit, static_argnames=("model", "layer", "kind"))
def _grad_cam(
    model: Layer, params: Any, state: Any, inputs: Any, where: Any, layer: str | None, kind: Any
) -> tuple[jax.Array, jax.Array]:
    image = inputs[image_of(inputs)]
    name = layer if layer is not None else program(model, params, state, *inputs).maps(image.ndim)
    if name is None:
        raise UserError("Grad-CAM needs maps with height and width, and no layer of this network gives any")
    maps, rest = split_at(model, params, state, *inputs, layer=name)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(maps)]
    if len(shapes) != 1 or len(shapes[0]) != image.ndim or image.ndim < 3:
        several = " or ".join(map(str, shapes))
        hint = "; of an ensemble, look into one member" if len(shapes[0]) > image.ndim else ""
        raise UserError(
            f"Grad-CAM needs maps (N, H, W, C), and layer {name!r} gives {several}: take a layer before the dense ones"
            f"{hint}"
        )

    def total(maps: PyTree) -> tuple[jax.Array, jax.Array]:
        output = rest(maps)
        return score(output, kind, where).sum(), limits(output, kind)

    gradient, shape = jax.grad(total, has_aux=True)(maps)
    (a,), (g,) = (jax.tree.leaves(jax.tree.map(wide, tree)) for tree in (maps, gradient))
    alpha = g.mean(tuple(range(1, g.ndim - 1)), keepdims=True)
    return jnp.maximum((alpha * a).sum(-1), 0), shape


def resized(maps: Any, size: tuple[int, ...]) -> jax.Array:
    """Maps `(N, h, w)` at another height and width, bilinearly."""
    return _resized(jnp.asarray(maps), tuple(size))


@functools.partial(jax.jit, static_argnums=1)
def _resized(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(maps, (len(maps), *size), "linear", antialias=False)


# --- occlusion ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Occlusion:
    """The probability of a class with a square over the image.

    Attributes:
      probability: with the square at each place, `(N, rows, columns)`.
      whole: with nothing covered, `(N,)`.
      unit: the class, `(N,)`: the place in the flattened output.
      size, stride: the square's side, and how far it was moved; place (i, j) begins at pixel (stride i, stride j).
      image: (height, width).
    """

    probability: np.ndarray
    whole: np.ndarray
    unit: np.ndarray
    size: int
    stride: int
    image: tuple[int, int]

    def drop(self) -> np.ndarray:
        """The loss of probability at each pixel, `(N, H, W)`: the mean over the squares that cover it."""
        total, count = np.zeros((len(self.whole), *self.image)), np.zeros(self.image)
        for i in range(self.probability.shape[1]):
            for j in range(self.probability.shape[2]):
                y, x = i * self.stride, j * self.stride
                total[:, y : y + self.size, x : x + self.size] += (self.whole - self.probability[:, i, j])[
                    :, None, None
                ]
                count[y : y + self.size, x : x + self.size] += 1
        return total / np.maximum(count, 1)


def probability(outputs: jax.Array) -> jax.Array:
    """Logits as probabilities: softmax over the last axis; the logistic function for one logit an example."""
    return expit(outputs) if outputs.ndim < 2 or outputs.shape[-1] == 1 else jax.nn.softmax(outputs)


def occlusion(
    model: Layer,
    params: Any,
    state: Any,
    *inputs: Any,
    size: int,
    stride: int = 1,
    unit: Unit = None,
    grey: float = 0.0,
    **settings: Any,
) -> Occlusion:
    """A grey square slid over the image, and the class's probability at each of its places.

    Args:
      model, params, state, *inputs: the network, its variables, what it is called with.
      size: the side of the square, in pixels.
      stride: how many pixels it is moved. The last of a row may hang over the edge.
      unit: of the network's output; None for the class that is most probable with nothing covered.
      grey: its value, in the numbers that the network is given: 0 is the mean of images with zero mean.
      **settings: `batch_size=64`, the number of places that are computed at once (one program is compiled whatever the
        number of places); `probability`, the function that makes probabilities of the network's outputs. When it is not
        given, `saliency.probability`; outputs of a network that ends in a sigmoid or softmax are probabilities already,
        and stay as they are.

    Returns:
      An `Occlusion`.

    Raises:
      UserError: for a size or stride that is no positive integer, a square larger than the image, input without height
        and width.
      TypeError: for an unknown setting.

    Source: Zeiler and Fergus (2014), section 4.2.
    """
    given = _Places(size, stride, **settings)
    image = inputs[image_of(inputs)]
    if image.ndim != 4:
        raise UserError(f"occlusion needs images (N, H, W, C), got {image.shape}")
    height, width = image.shape[1:3]
    for what in ("size", "stride", "batch_size"):
        value = getattr(given, what)
        if not hasattr(value, "__index__") or value < 1:
            raise UserError(f"{what}={value!r}: expected an integer of at least 1")
    if size > min(height, width):
        raise UserError(f"size={size}: the square is larger than the image, {height}x{width}")
    chosen = Chosen.of(unit)
    places = _Places(int(size), int(stride), int(given.batch_size), given.probability)
    covered, whole, index, shape = _occlusion(
        model, (params, state), inputs, chosen.where, grey, kind=chosen.kind, places=places
    )
    chosen.check(shape)
    return Occlusion(np.asarray(covered), np.asarray(whole), np.asarray(index), size, stride, (height, width))


@dataclass(frozen=True)
class _Places:
    """Where the square lies, and how its places are computed."""

    size: int
    stride: int
    batch_size: int = 64
    probability: Callable[[Any], Any] | None = None


@functools.partial(jax.jit, static_argnames=("model", "kind", "places"))
def _occlusion(
    model: Layer, variables: Any, inputs: Any, where: Any, grey: Any, kind: Any, places: _Places
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    at = image_of(inputs)
    image = inputs[at]
    size, stride = places.size, places.stride
    examples, height, width, _ = image.shape
    rows, columns = (-(-(n - size) // stride) + 1 for n in (height, width))
    link = places.probability or link_of(program(model, *variables, *inputs))

    def outputs(*inputs: Any) -> Any:
        return link(model.apply(*variables, *inputs)[0])

    whole = outputs(*inputs)
    if isinstance(kind, str):
        index = flat_index(only_array(whole), kind, where)
        scores = jnp.take_along_axis(whole.reshape(examples, -1), index[:, None], 1)[:, 0]
    else:
        index, scores = jnp.zeros(examples, jnp.int32), score(whole, kind, where)

    total = rows * columns
    chunk = min(places.batch_size, total)
    count = -(-total // chunk)
    number = jnp.minimum(jnp.arange(count * chunk), total - 1).reshape(count, chunk)
    y, x = jnp.arange(height)[None], jnp.arange(width)[None]

    def one(example: Any) -> jax.Array:
        own, where = example

        def some(number: jax.Array) -> jax.Array:
            top, left = (number // columns * stride)[:, None], (number % columns * stride)[:, None]
            inside = ((y >= top) & (y < top + size))[:, :, None] & ((x >= left) & (x < left + size))[:, None, :]
            given = [jnp.broadcast_to(a, (chunk, *a.shape)) for a in own]
            given[at] = jnp.where(inside[..., None], jnp.asarray(grey, image.dtype), given[at])
            result = outputs(*given)
            if not isinstance(kind, str):
                return score(result, kind, where)
            return result.reshape(chunk, -1)[:, where]

        return jax.lax.map(some, number).reshape(-1)[:total]

    covered = jax.lax.map(one, (tuple(jnp.asarray(a) for a in inputs), index))
    return covered.reshape(examples, rows, columns), scores, index, limits(whole, kind)


def link_of(traced: Program) -> Callable[[Any], Any]:
    """The function that makes probabilities of a network's output: none where it ends in a sigmoid or softmax."""
    line = traced.line
    if len(line.outputs) != 1:
        return lambda outputs: outputs
    made: dict[int | None, Step] = {i: step for step in line.steps for i in step.outputs}
    step = made.get(line.outputs[0])
    while step is not None and step.eqn.primitive.name in _SAME:
        step = made.get(step.inputs[0])
    if step is None:
        return lambda outputs: outputs
    name = step.eqn.primitive.name
    exponentials = [made[i].eqn.primitive.name for i in step.inputs if i in made] if name == "div" else []
    return (lambda outputs: outputs) if name == "logistic" or "exp" in exponentials else probability


_SAME = ("jaxcnn_output", "reshape", "squeeze", "convert_element_type")
