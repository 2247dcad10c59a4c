"""What excites a unit: the patches of a data set with the highest activation, and images made by gradient ascent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer
from jaxcnn.errors import UserError
from jaxcnn.inspect.program import program
from jaxcnn.inspect.rules import Rule
from jaxcnn.inspect.saliency import input_gradient
from jaxcnn.inspect.unit import Chosen, Unit, limits, only_array, score
from jaxcnn.inspect.windows import Window, receptive_window


@dataclass(frozen=True, eq=False)
class Strongest:
    """The images that excite each channel of a layer most, in falling order.

    Attributes:
      layer: its name.
      values: the activations, `(channels, count)`.
      images: the numbers of the images in the data, `(channels, count)`.
      places: where in the maps, `(channels, count, 2)`, row and column; `(channels, count, 0)` of a dense layer.
    """

    layer: str
    values: np.ndarray
    images: np.ndarray
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches that excite one channel most.

    Attributes:
      images: the numbers of the images in the data, `(count,)`.
      values: the activations, `(count,)`.
      windows: the receptive fields in the images, as the network is given them.
      pixels: the images there, `(count, h, w, C)`.
      maps: the pixels' share in the activation by `rule`, of the same shape.
    """

    images: np.ndarray
    values: np.ndarray
    windows: tuple[Window, ...]
    pixels: np.ndarray
    maps: np.ndarray


def strongest(
    model: Layer,
    params: Any,
    state: Any,
    images: Any,
    *,
    layer: str,
    count: int = 9,
    batch_size: int = 100,
    preprocess: Callable[[Any], Any] | None = None,
) -> Strongest:
    """The `count` images that excite each channel of a layer most, each at the place where it does so most.

    Args:
      model, params, state: the network, in evaluation mode.
      images: the data, `(N, H, W, C)`.
      layer: the layer's name, as `activations` gives it.
      count: the number of images for each channel; all where there are fewer.
      batch_size: images computed at once; one program is compiled.
      preprocess: makes the network's input of a batch of them.

    Raises:
      UserError: for no images, an unknown layer, or one whose output is no array `(N, ..., channels)`.

    Source: Zeiler and Fergus (2014), section 2.1 and figure 2.
    """
    if not len(images) or count < 1:
        raise UserError(f"expected images and a count of at least 1, got {len(images)} images and count={count}")
    found: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(images), batch_size):
        batch = np.asarray(images[first : first + batch_size])
        own = len(batch)
        if own < batch_size and first:
            batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - own, 0)])
        given = jnp.asarray(batch) if preprocess is None else preprocess(batch)
        values, at = (np.asarray(a)[:own] for a in _highest(model, params, state, given, layer=layer))
        found.append((values, at, np.repeat(np.arange(first, first + own)[:, None], values.shape[1], 1)))
        merged = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        order = np.argsort(-merged[0], axis=0, kind="stable")[:count]
        found = [tuple(np.take_along_axis(a, order, 0) for a in merged)]
    values, at, index = (a.T for a in found[0])
    places = only_array(program(model, params, state, given).shape(layer)).shape[1:-1]
    coordinates = np.stack(np.unravel_index(at, places), -1) if places else np.zeros((*at.shape, 0), np.int64)
    return Strongest(layer, values, index, coordinates)


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def _highest(model: Layer, params: Any, state: Any, images: Any, layer: str) -> tuple[jax.Array, jax.Array]:
    """The maximum of each channel of each image `(N, K)`, and its place in the flattened map."""
    output = _layer(model, params, state, images, layer)
    flat = output.reshape(len(output), -1, output.shape[-1])
    return flat.max(1), flat.argmax(1)


def _layer(model: Layer, params: Any, state: Any, images: Any, layer: str) -> jax.Array:
    output = program(model, params, state, images).run(until=layer)
    if only_array(output).ndim < 2:
        raise UserError(f"layer {layer!r} gives {output.shape}: expected (N, ..., channels)")
    return only_array(output)


def patches(
    model: Layer,
    params: Any,
    state: Any,
    images: Any,
    found: Strongest,
    channel: int,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    rule: Rule = "deconvolution",
) -> Patches:
    """The patches that excite a channel most, cut to its receptive field, each with its deconvolution.

    Args:
      model, params, state: the network.
      images: the data that `found` was found in.
      found: what `strongest` gives.
      channel: which channel of the layer.
      preprocess: as in `strongest`.
      rule: of the maps, as in `input_gradient`. Zeiler and Fergus pass the activation back where the gradient starts
        with 1: in a network without biases in between the one is a multiple of the other.

    Returns:
      `Patches`, as many as were found. A field that reaches over the image's edge is cut with zeros there.

    Raises:
      UserError: for a channel that the layer does not have, or images without height and width.

    Source: Zeiler and Fergus (2014), section 2.1 and figure 2.
    """
    if not 0 <= channel < len(found.values):
        raise UserError(f"channel={channel}: {found.layer} has channels 0 to {len(found.values) - 1}")
    index = found.images[channel]
    given = np.asarray(images)[index]
    given = jnp.asarray(given) if preprocess is None else preprocess(given)
    places = [(*(int(p) for p in place), channel) for place in found.places[channel]]
    maps = input_gradient(model, params, state, given, unit=np.asarray(places, np.int32), layer=found.layer, rule=rule)
    struct = jax.ShapeDtypeStruct((1, *given.shape[1:]), given.dtype)
    windows = tuple(receptive_window(model, struct, layer=found.layer, place=place) for place in places)
    pixels = np.stack([w.cut(picture) for w, picture in zip(windows, np.asarray(given), strict=True)])
    cut = np.stack([w.cut(picture) for w, picture in zip(windows, np.asarray(maps), strict=True)])
    return Patches(index, found.values[channel], windows, pixels, cut)


# --- images made to excite ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ascent:
    """The settings of `maximize`.

    Attributes:
      steps, lr: the number of steps, and how far each goes, in the network's numbers.
      l2: the share of the image that a step takes from it.
      blur, blur_every: the standard deviation of the Gaussian, in pixels, and every how many steps it is applied; 0 for
        none.
      shift: the most pixels that the image is moved in a step.
    """

    steps: int = 200
    lr: float = 0.05
    l2: float = 0.01
    blur: float = 0.5
    blur_every: int = 4
    shift: int = 2


def maximize(
    model: Layer,
    params: Any,
    state: Any,
    start: Any,
    *,
    unit: Unit,
    layer: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[jax.Array, jax.Array]:
    """Images that excite a unit: gradient ascent on the pixels, from noise or from given images.

    Each step moves the image by up to `shift` pixels (Mordvintsev et al. 2015), goes `lr` along the gradient divided
    by its root mean square, multiplies the image by 1 - l2, and every few steps blurs it. What remains excites the unit
    robustly, and not by single pixels.

    Args:
      model, params, state: the network, in evaluation mode.
      start: images `(N, H, W, C)` as the network is given them, or that shape: then noise of standard deviation 0.1.
      unit: a class, or channel of the layer, for all images or one for each; or as in `saliency`.
      layer: the layer whose output the unit belongs to; None for the network's.
      seed: of the noise and the shifts.
      **settings: the fields of `Ascent`: `steps=200, lr=0.05, l2=0.01, blur=0.5, blur_every=4, shift=2`.

    Returns:
      `(images, scores)`: `(N, H, W, C)`, and the unit's activation at the beginning of each step and at the end,
      `(steps + 1, N)`; those in between are of the moved image.

    Raises:
      UserError: for an unknown layer, a unit outside of the output, images of integers.
      TypeError: for an unknown setting.

    Source: Simonyan, Vedaldi and Zisserman (2013), section 2; Yosinski et al., Understanding neural networks through
      deep visualization (2015), section 3, for L2 decay and blur.
    """
    ascent = Ascent(**settings)
    start_key, key = jax.random.split(jax.random.key(seed))
    if isinstance(start, (tuple, list)):
        start = 0.1 * jax.random.normal(start_key, tuple(start))
    start = jnp.asarray(start)
    if start.ndim != 4 or not jnp.issubdtype(start.dtype, jnp.floating):
        raise UserError(
            f"expected images (N, H, W, C) in floating point, or their shape; got {start.dtype}{start.shape}"
        )
    chosen = Chosen.of(unit)
    numbers = jnp.asarray([ascent.lr, ascent.l2, ascent.blur], jnp.float32)
    counts = ascent.steps, ascent.shift, ascent.blur_every if ascent.blur > 0 else 0
    images, scores, shape = _ascend(
        model, (params, state), start, chosen.where, numbers, key, target=(layer, chosen.kind), counts=counts
    )
    chosen.check(shape)
    return images, scores


@functools.partial(jax.jit, static_argnames=("model", "target", "counts"))
def _ascend(
    model: Layer, variables: Any, start: jax.Array, where: Any, numbers: jax.Array, key: jax.Array,
    target: tuple[str | None, Any], counts: tuple[int, int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    (lr, l2, blur), (layer, kind), (steps, shift, blur_every) = numbers, target, counts

    def scores(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        params, state = variables
        asked = _layer(model, params, state, images, layer) if layer else model.apply(params, state, images)[0]
        return score(asked, kind, where), limits(asked, kind)

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = scores(images)[0]
        return each.sum(), each

    def step(images: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, key = at
        y, x = jax.random.randint(key, (2,), -shift, shift + 1)
        moved = jnp.roll(images, (y, x), (1, 2))
        gradient, each = jax.grad(total, has_aux=True)(moved)
        size = jnp.sqrt(jnp.square(gradient).mean((1, 2, 3), keepdims=True))
        moved = (moved + lr * gradient / jnp.maximum(size, 1e-12)) * (1 - l2)
        if blur_every:
            moved = jax.lax.cond((number + 1) % blur_every == 0, lambda a: _blurred(a, blur), lambda a: a, moved)
        return jnp.roll(moved, (-y, -x), (1, 2)), each

    images, path = jax.lax.scan(step, start, (jnp.arange(steps), jax.random.split(key, steps)))
    last, shape = scores(images)
    return images, jnp.concatenate([path, last[None]]), shape


def _blurred(images: jax.Array, deviation: jax.Array) -> jax.Array:
    """A Gaussian of up to three pixels each way, along rows and columns; outside, the edge pixels are repeated."""
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-3, 4) / deviation))
    weights = (weights / weights.sum()).astype(images.dtype)
    for axis in (1, 2):
        around = [(3, 3) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(images, around, "edge")
        shifted = [jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis) for i in range(len(weights))]
        images = jnp.tensordot(weights, jnp.stack(shifted), 1)
    return images
