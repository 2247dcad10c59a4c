"""Augmentation: pure functions `(images, key) -> images` on a batch, to be used inside a jitted step.

Each image of a batch `(N, H, W, C)` gets its own random numbers. The dtype stays; uint8 is rounded. `mixup` changes
the labels too: it is `(images, labels, key) -> (images, labels)`. `compose` makes one augmentation of several.
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
class Joint:
    """An augmentation that changes the labels with the images: `(images, labels, key) -> (images, labels)`.

    Attributes:
      both: that function: `mixup`'s, or one that mirrors an image with the classes or the boxes in it.
    """

    both: Callable[[Any, Any, jax.Array], tuple[Any, Any]]

    def __call__(self, images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
        return self.both(images, labels, key)


Augment = Callable[[Any, jax.Array], Any] | Joint


def augmented(augment: Augment, images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
    """The images and labels of a batch behind an augmentation of either kind."""
    if isinstance(augment, Joint):
        return augment(images, labels, key)
    return augment(images, key), labels


def compose(*augments: Augment) -> Augment:
    """Augmentations one after the other, each with a key of its own: `compose(flip, crop(padding=4), cutout(8))`.

    With a `mixup` or another `Joint` among them the whole is `(images, labels, key) -> (images, labels)`, without one
    `(images, key) -> images`.
    """

    def both(images: Any, labels: Any, key: jax.Array) -> tuple[Any, Any]:
        for index, augment in enumerate(augments):
            images, labels = augmented(augment, images, labels, jax.random.fold_in(key, index))
        return images, labels

    if any(isinstance(augment, Joint) for augment in augments):
        return Joint(both)
    return lambda images, key: both(images, None, key)[0]


# --- which pixels ------------------------------------------------------------------------------------------------


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def crop(size: int | tuple[int, int] | None = None, padding: int = 0) -> Augment:
    """A window at a random place of each image, which has first got a border of zeros.

    Args:
      size: (height, width) of the window, or one number for both; the image's own size when not given.
      padding: rows and columns of zeros on each side. `crop(padding=4)` is the augmentation of He et al. for CIFAR.

    Returns:
      `(N, H, W, C), key -> (N, *size, C)`.

    Raises:
      UserError: for a window that is larger than the padded image, or a negative padding.

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
                    f"crop: a window of {window[0]}x{window[1]} does not lie in images of {whole[0]}x{whole[1]} "
                    f"with padding {padding}"
                )
            key, own = jax.random.split(key)
            first = jax.random.randint(own, (n, 1), 0, length - wanted + 1)
            index = jnp.expand_dims(first + jnp.arange(wanted)[None], (3 - axis, 3))
            padded = jnp.take_along_axis(padded, index, axis, mode="clip")
        return padded

    return augment


def translate(pixels: int) -> Augment:
    """Each image moved by a whole number of pixels, at most `pixels` along each axis; what comes in is 0."""
    return crop(padding=pixels)


def rotate(degrees: float) -> Augment:
    """Each image turned about its centre by an angle from -`degrees` to `degrees`, bilinearly sampled; outside is 0."""
    return affine(shift=0, rotate=degrees, scale=0, shear=0)


def scale(low: float = 0.8, high: float = 1.25) -> Augment:
    """Each image enlarged about its centre by a factor from `low` to `high`, bilinearly sampled; outside is 0.

    The factor's logarithm is uniform: half and twice the size are equally likely. Height and width share it.
    """
    if not 0 < low <= high:
        raise UserError(f"scale({low}, {high}): expected 0 < low <= high")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        u = jax.random.uniform(key, (len(images),), minval=math.log(low), maxval=math.log(high))
        return _sample(images, jnp.exp(-u)[None, None] * jnp.eye(2)[..., None], jnp.zeros((2, len(images))))

    return augment


def affine(shift: float = 2.0, rotate: float = 10.0, scale: float = 0.1, shear: float = 0.1) -> Augment:
    """A random affine map of each image about its centre, bilinearly sampled; outside the image is 0.

    Args:
      shift: at most so many pixels along each axis.
      rotate: at most so many degrees either way.
      scale: each axis is scaled by exp(u), u uniform in [-scale, scale].
      shear: at most so many columns for each row.

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
    g = 0.299 R + 0.587 G + 0.114 B of the pixel; b, c and s uniform from 1 - amount to 1 + amount. The hue is turned
    about the grey axis by `hue` of a whole turn at most, either way. Values are cut off at 0 and at the largest, which
    is 255 for uint8 and 1 for floats.

    Images of other than three channels have no saturation and no hue, and their grey is the mean of the channels.

    Raises:
      UserError: for a negative amount.
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, amount in amounts.items():
        if amount < 0:
            raise UserError(f"colour({name}={amount}): expected 0 or more")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, _, _, channels = images.shape
        most = 255.0 if images.dtype == jnp.uint8 else 1.0
        u = jax.random.uniform(key, (4, n, 1, 1, 1), minval=-1.0)
        x = images.astype(jnp.float32)
        luma = jnp.asarray(_LUMA if channels == 3 else (1 / channels,) * channels).reshape(1, 1, 1, channels)

        def grey(x: jax.Array) -> jax.Array:
            return jnp.sum(x * luma, -1, keepdims=True)

        def factor(index: int, amount: float) -> jax.Array:
            return jnp.maximum(1 + u[index] * amount, 0)

        if brightness:
            x = jnp.clip(x * factor(0, brightness), 0, most)
        if contrast:
            mean = grey(x).mean((1, 2), keepdims=True)
            x = jnp.clip(mean + (x - mean) * factor(1, contrast), 0, most)
        if saturation and channels == 3:
            x = jnp.clip(grey(x) + (x - grey(x)) * factor(2, saturation), 0, most)
        if hue and channels == 3:
            x = jnp.clip(_turn(x, 2 * jnp.pi * hue * u[3]), 0, most)
        return _as(images, x)

    return augment


def _turn(x: jax.Array, angle: jax.Array) -> jax.Array:
    """Colours turned about the axis R = G = B (Rodrigues' formula), angle `(N, 1, 1, 1)`."""
    mean = x.mean(-1, keepdims=True)
    across = (jnp.roll(x, 1, -1) - jnp.roll(x, -1, -1)) / math.sqrt(3)  # axis times x
    return mean + (x - mean) * jnp.cos(angle) + across * jnp.sin(angle)


def cutout(size: int, fill: float | None = None) -> Augment:
    """A square of `size` pixels at a random place of each image gets one value.

    The square's centre is anywhere in the image, so that part of it may lie outside.

    Args:
      fill: the value; each image's mean in each channel when not given.

    Source: DeVries and Taylor, Improved regularization of convolutional neural networks with cutout (2017), section 3.
    """
    if size < 1:
        raise UserError(f"cutout({size}): expected at least 1 pixel")

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, *lengths, _ = images.shape
        inside = jnp.ones((n, 1, 1, 1), bool)
        for axis, (length, own) in enumerate(zip(lengths, jax.random.split(key), strict=True), 1):
            first = jax.random.randint(own, (n, 1), 0, length) - size // 2
            place = jnp.arange(length)[None]
            within = (place >= first) & (place < first + size)
            inside &= jnp.expand_dims(within, (3 - axis, 3))
        value = images.mean((1, 2), keepdims=True, dtype=jnp.float32) if fill is None else jnp.float32(fill)
        return jnp.where(inside, _as(images, value), images)

    return augment


def mixup(classes: int, alpha: float = 0.2) -> Joint:
    """Each image and its label mixed with another one's of the batch: w x_i + (1 - w) x_j, w ~ Beta(alpha, alpha).

    The labels become probabilities `(N, classes)`, which `losses.softmax_cross_entropy` takes.

    Args:
      classes: how many there are.
      alpha: near 0 hardly anything is mixed, at 1 every share is equally likely.

    Returns:
      `(images, labels, key) -> (images, labels)`, to be given to `make_step` or `fit` as any augmentation.

    Raises:
      UserError: for anything but a number of classes, or an alpha that is not positive.

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

    return Joint(mix)


def _as(images: jax.Array, x: jax.Array) -> jax.Array:
    """x in the images' dtype; rounded, where that is one of whole numbers."""
    return (jnp.round(x) if jnp.issubdtype(images.dtype, jnp.integer) else x).astype(images.dtype)
