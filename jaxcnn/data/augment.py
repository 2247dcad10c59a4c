"""Augmentation: pure functions `(images, key) -> images` on a batch, for use inside a jitted step.

Each image of a batch `(N, H, W, C)` gets different random numbers. The dtype does not change; uint8 is rounded.
`mixup` changes the labels too: it is a paired transform, `(images, labels, key) -> (images, labels)`. `compose`
combines several augmentations into one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.errors import UserError


@dataclass(frozen=True)
class PairedTransform:
    """An augmentation that changes images and labels together: `(images, labels, key) -> (images, labels)`.

    Attributes:
      both: that function, for instance one that mirrors an image and the boxes in it.
    """

    both: Callable[[Any, Any, jax.Array], tuple[Any, Any]]

    def __call__(self, images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
        return self.both(images, labels, key)


Joint = PairedTransform
"""The former name."""

Augment = Callable[[Any, jax.Array], Any] | PairedTransform


def augmented(augment: Augment, images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
    """The images and labels of a batch after an augmentation of either kind."""
    if isinstance(augment, PairedTransform):
        return augment(images, labels, key)
    return augment(images, key), labels


def compose(*augments: Augment) -> Augment:
    """Augmentations in sequence, each with a different key: `compose(flip, crop(padding=4), cutout(8))`.

    The result is a paired transform, `(images, labels, key) -> (images, labels)`, if one of them is, `mixup` for
    instance; otherwise it is `(images, key) -> images`.
    """

    def both(images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
        for index, augment in enumerate(augments):
            images, labels = augmented(augment, images, labels, jax.random.fold_in(key, index))
        return images, labels

    if any(isinstance(augment, PairedTransform) for augment in augments):
        return PairedTransform(both)
    return lambda images, key: both(images, None, key)[0]


def views(augment: Augment, count: int = 2) -> Augment:
    """Several independently augmented copies of each image, as that number of inputs of the network.

    For `Objective(loss, views=views(augment))` and a network `(net, a, b)`, whose loss compares its two outputs, such
    as `losses.nt_xent`.

    Returns:
      `(images, key) -> (images, images, ...)`.

    Raises:
      UserError: when the count is below 1, or `augment` is a paired transform.

    Source: Chen et al., A simple framework for contrastive learning of visual representations (2020), section 2.1.
    """
    if isinstance(augment, PairedTransform) or not callable(augment):
        raise UserError(f"views: expected an augmentation (images, key) -> images, got {type(augment).__name__}")
    if count < 1:
        raise UserError(f"views(count={count}): expected 1 or more")

    def copies(images: Any, key: jax.Array) -> tuple[Any, ...]:
        return tuple(augment(images, key) for key in jax.random.split(key, count))

    return copies


def noise(size: int) -> Augment:
    """A vector of independent standard normal numbers beside the images, as the network's last input.

    For `Objective(loss, views=noise(32))`: the vector that a generator turns into an image, or the one that a
    variational autoencoder scales and shifts.

    Returns:
      `(images, key) -> (images, z)` with z `(N, size)`, float32.

    Raises:
      UserError: when the size is below 1.
    """
    if size < 1:
        raise UserError(f"noise({size}): expected at least 1 number")

    def beside(images: Any, key: jax.Array) -> tuple[Any, ...]:
        several = images if isinstance(images, tuple) else (images,)
        count = len(jax.tree.leaves(images)[0])
        return *several, jax.random.normal(key, (count, size), jnp.float32)

    return beside


def sometimes(augment: Augment, probability: float) -> Augment:
    """Each image augmented with a probability, and otherwise unchanged: `sometimes(colour(), 0.8)`.

    Raises:
      UserError: when the probability is not from 0 to 1, or `augment` is a paired transform.
    """
    if isinstance(augment, PairedTransform) or not callable(augment):
        raise UserError(f"sometimes: expected an augmentation (images, key) -> images, got {type(augment).__name__}")
    if not 0 <= probability <= 1:
        raise UserError(f"sometimes(probability={probability}): expected a number from 0 to 1")

    def some(images: jax.Array, key: jax.Array) -> jax.Array:
        chosen_key, augment_key = jax.random.split(key)
        chosen = jax.random.bernoulli(chosen_key, probability, (len(images), 1, 1, 1))
        return jnp.where(chosen, augment(images, augment_key), images)

    return some


# --- which pixels ------------------------------------------------------------------------------------------------


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def crop(size: int | tuple[int, int] | None = None, padding: int = 0) -> Augment:
    """A window at a random position of each image, after zero padding.

    Args:
      size: (height, width) of the window, or one number for both; the size of the image when not given.
      padding: rows and columns of zeros on each side. `crop(padding=4)` is the augmentation of He et al. for CIFAR.

    Returns:
      `(N, H, W, C), key -> (N, *size, C)`.

    Raises:
      UserError: when the window is larger than the padded image, or the padding is negative.

    Source: Krizhevsky et al. (2012), section 4.1; He et al., Deep residual learning (2016), section 4.2.
    """
    if padding < 0:
        raise UserError(f"crop(padding={padding}): expected 0 or more")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, *whole, _ = images.shape
        window = tuple(whole) if size is None else (size, size) if isinstance(size, int) else size
        padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        for axis, (length, wanted) in enumerate(zip(padded.shape[1:3], window, strict=True), 1):
            if not 0 < wanted <= length:
                raise UserError(
                    f"crop: a window of {window[0]}x{window[1]} does not fit in images of {whole[0]}x{whole[1]} "
                    f"with padding {padding}"
                )
            key, axis_key = jax.random.split(key)
            first = jax.random.randint(axis_key, (n, 1), 0, length - wanted + 1)
            index = jnp.expand_dims(first + jnp.arange(wanted)[None], (3 - axis, 3))
            padded = jnp.take_along_axis(padded, index, axis, mode="clip")
        return padded

    return augment


def translate(pixels: int) -> Augment:
    """Each image shifted by a whole number of pixels, at most `pixels` along each axis; the new pixels are 0."""
    return crop(padding=pixels)


def rotate(degrees: float) -> Augment:
    """Each image rotated about its centre by -`degrees` to `degrees`, bilinearly sampled; outside is 0."""
    return affine(shift=0, rotate=degrees, scale=0, shear=0)


def scale(low: float = 0.8, high: float = 1.25) -> Augment:
    """Each image scaled about its centre by a factor from `low` to `high`, bilinearly sampled; outside is 0.

    The logarithm of the factor is uniform: half and twice the size are equally likely. Height and width have the same
    factor.
    """
    if not 0 < low <= high:
        raise UserError(f"scale({low}, {high}): expected 0 < low <= high")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        u = jax.random.uniform(key, (len(images),), minval=math.log(low), maxval=math.log(high))
        return _sample(images, jnp.exp(-u)[None, None] * jnp.eye(2)[..., None], jnp.zeros((2, len(images))))

    return augment


def resized_crop(area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Augment:
    """A random window of each image, resized bilinearly to the size of the image.

    Args:
      area: the smallest and the largest area of the window, as shares of the image's; uniform.
      ratio: the smallest and the largest width by height of the window, relative to the image's; uniform in the
        logarithm. A side that would be longer than the image's is as long.

    Raises:
      UserError: when an area is not above 0 and at most 1, or a ratio is not above 0.

    Source: Szegedy et al., Going deeper with convolutions (2015), section 6; Chen et al. (2020), appendix A.
    """
    if not 0 < area[0] <= area[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"resized_crop({area}, {ratio}): expected areas and ratios above 0, areas up to 1, low <= high")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, height, width, _ = images.shape
        size_key, ratio_key, place_key = jax.random.split(key, 3)
        share = jax.random.uniform(size_key, (n,), minval=area[0], maxval=area[1])
        wide = jax.random.uniform(ratio_key, (n,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
        sides = jnp.minimum(jnp.sqrt(share * jnp.exp(jnp.stack([-wide, wide]))), 1.0)  # of the height, of the width
        zeros = jnp.zeros_like(share)
        matrix = jnp.stack([jnp.stack([sides[0], zeros]), jnp.stack([zeros, sides[1]])])
        # The centre of the window moves as far as its border stays inside the image.
        free = (1 - sides) * jnp.array([[height - 1], [width - 1]]) / 2
        return _sample(images, matrix, jax.random.uniform(place_key, (2, n), minval=-1.0) * free)

    return augment


def affine(shift: float = 2.0, rotate: float = 10.0, scale: float = 0.1, shear: float = 0.1) -> Augment:
    """A random affine map of each image about its centre, bilinearly sampled; outside the image is 0.

    Args:
      shift: the largest shift along each axis, in pixels.
      rotate: the largest rotation, in degrees, in either direction.
      scale: each axis is scaled by exp(u), u uniform in [-scale, scale].
      shear: the largest shear, in columns per row.

    Source: Simard et al., Best practices for convolutional neural networks (2003), section 2.
    """

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        u = jax.random.uniform(key, (6, len(images)), minval=-1.0)
        angle, skew = u[0] * jnp.deg2rad(rotate), u[1] * shear
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        matrix = jnp.array([[cos, sin + skew * cos], [-sin, cos - skew * sin]]) * jnp.exp(u[2:4] * scale)[None]
        return _sample(images, matrix, u[4:6] * shift)

    return augment


def _sample(images: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """The images at A (y - centre) + centre + shift for each pixel y: matrix `(2, 2, N)`, shift `(2, N)`."""
    _, height, width, _ = images.shape
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2]).reshape(2, 1, 1)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")).astype(middle.dtype) - middle
    at = jnp.einsum("abn,bhw->anhw", matrix, grid) + middle[:, None] + shift[..., None, None]
    return _as(images, _bilinear(images.astype(jnp.float32), at))


def _bilinear(images: jax.Array, at: jax.Array) -> jax.Array:
    """The images `(N, H, W, C)` at real coordinates `(2, N, h, w)`."""
    n, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))  # the border that is 0
    y = jnp.clip(at[0] + 1, 0, height + 1)
    x = jnp.clip(at[1] + 1, 0, width + 1)
    top, left = jnp.minimum(jnp.floor(y), height), jnp.minimum(jnp.floor(x), width)
    dy, dx = (y - top)[..., None], (x - left)[..., None]
    flat = padded.reshape(-1, channels)
    first = jnp.arange(n)[:, None, None] * ((height + 2) * (width + 2))
    corner = first + top.astype(jnp.int32) * (width + 2) + left.astype(jnp.int32)

    def pixel(row: int, column: int) -> jax.Array:
        return jnp.take(flat, corner + (row * (width + 2) + column), axis=0, mode="clip")

    upper = pixel(0, 0) * (1 - dx) + pixel(0, 1) * dx
    lower = pixel(1, 0) * (1 - dx) + pixel(1, 1) * dx
    return upper * (1 - dy) + lower * dy


# --- which values ------------------------------------------------------------------------------------------------

_LUMA = (0.299, 0.587, 0.114)  # the grey of a colour, ITU-R BT.601


def colour(brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0) -> Augment:
    """Random brightness, contrast, saturation and hue of each image, in this order.

    brightness: x b; contrast: m + (x - m) c with the mean grey m of the image; saturation: g + (x - g) s with the grey
    g = 0.299 R + 0.587 G + 0.114 B of the pixel; b, c and s are uniform from 1 - amount to 1 + amount. The hue is
    rotated about the grey axis by at most `hue` of a full turn in either direction. Values are clipped to 0 and to 255
    for uint8, 1 for floats.

    Images with a number of channels other than three have no saturation and no hue; their grey is the channel mean.

    Raises:
      UserError: for a negative amount.
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, amount in amounts.items():
        if amount < 0:
            raise UserError(f"colour({name}={amount}): expected 0 or more")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, _, _, channels = images.shape
        largest = 255.0 if images.dtype == jnp.uint8 else 1.0
        u = jax.random.uniform(key, (4, n, 1, 1, 1), minval=-1.0)
        x = images.astype(jnp.float32)
        luma = jnp.asarray(_LUMA if channels == 3 else (1 / channels,) * channels).reshape(1, 1, 1, channels)

        def grey(x: jax.Array) -> jax.Array:
            return jnp.sum(x * luma, -1, keepdims=True)

        def factor(index: int, amount: float) -> jax.Array:
            return jnp.maximum(1 + u[index] * amount, 0)

        if brightness:
            x = jnp.clip(x * factor(0, brightness), 0, largest)
        if contrast:
            mean = grey(x).mean((1, 2), keepdims=True)
            x = jnp.clip(mean + (x - mean) * factor(1, contrast), 0, largest)
        if saturation and channels == 3:
            x = jnp.clip(grey(x) + (x - grey(x)) * factor(2, saturation), 0, largest)
        if hue and channels == 3:
            x = jnp.clip(_turn(x, 2 * jnp.pi * hue * u[3]), 0, largest)
        return _as(images, x)

    return augment


def _turn(x: jax.Array, angle: jax.Array) -> jax.Array:
    """Colours rotated about the axis R = G = B (Rodrigues' formula), angle `(N, 1, 1, 1)`."""
    mean = x.mean(-1, keepdims=True)
    across = (jnp.roll(x, 1, -1) - jnp.roll(x, -1, -1)) / math.sqrt(3)  # axis times x
    return mean + (x - mean) * jnp.cos(angle) + across * jnp.sin(angle)


def cutout(size: int, fill: float | None = None) -> Augment:
    """Fills a square of `size` x `size` pixels at a random position of each image.

    The centre of the square is anywhere in the image, so part of the square may lie outside.

    Args:
      fill: the value; the mean of each channel of the image when not given.

    Source: DeVries and Taylor, Improved regularization of convolutional neural networks with cutout (2017), section 3.
    """
    if size < 1:
        raise UserError(f"cutout({size}): expected at least 1 pixel")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, *lengths, _ = images.shape
        inside = jnp.ones((n, 1, 1, 1), bool)
        for axis, (length, axis_key) in enumerate(zip(lengths, jax.random.split(key), strict=True), 1):
            first = jax.random.randint(axis_key, (n, 1), 0, length) - size // 2
            place = jnp.arange(length)[None]
            within = (place >= first) & (place < first + size)
            inside &= jnp.expand_dims(within, (3 - axis, 3))
        value = images.mean((1, 2), keepdims=True, dtype=jnp.float32) if fill is None else jnp.float32(fill)
        return jnp.where(inside, _as(images, value), images)

    return augment


def mixup(classes: int, alpha: float = 0.2) -> PairedTransform:
    """Mixes each image and label with another of the batch: w x_i + (1 - w) x_j, w ~ Beta(alpha, alpha).

    The labels become probabilities `(N, classes)`, which `losses.softmax_cross_entropy` takes.

    Args:
      classes: the number of classes.
      alpha: near 0 the images are hardly mixed; at 1 every share is equally likely.

    Returns:
      `(images, labels, key) -> (images, labels)`, for `make_step` or `fit`, like any augmentation.

    Raises:
      UserError: when classes is not a number of 2 or more, or alpha is not positive.

    Source: Zhang et al., mixup: beyond empirical risk minimization (2018), section 2.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise UserError(f"mixup({classes!r}): expected the number of classes first, as in mixup(10, alpha=0.2)")
    if not alpha > 0:
        raise UserError(f"mixup(alpha={alpha}): expected a number above 0")

    def mix(images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
        weight_key, order_key = jax.random.split(key)
        n = len(labels)
        weight = jax.random.beta(weight_key, alpha, alpha, (n,))
        other = jax.random.permutation(order_key, n)

        def one(x: jax.Array) -> jax.Array:
            w = weight.reshape(n, *(1,) * (x.ndim - 1))
            return _as(x, w * x.astype(jnp.float32) + (1 - w) * x[other].astype(jnp.float32))

        if jnp.issubdtype(labels.dtype, jnp.integer):
            labels = jax.nn.one_hot(labels, classes)
        return jax.tree.map(one, images), one(labels)

    return PairedTransform(mix)


def _as(images: jax.Array, x: jax.Array) -> jax.Array:
    """x in the dtype of the images, rounded for integers."""
    return (jnp.round(x) if jnp.issubdtype(images.dtype, jnp.integer) else x).astype(images.dtype)
