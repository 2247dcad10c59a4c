"""Augmentation: pure functions `(images, key) -> images` on a batch, to be used inside a jitted step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def affine(shift: float = 2.0, rotate: float = 10.0, scale: float = 0.1, shear: float = 0.1) -> Augment:
    """A random affine map of each image about its centre, bilinearly sampled; outside the image is 0.

    Args:
      shift: at most so many pixels along each axis.
      rotate: at most so many degrees either way.
      scale: each axis is scaled by exp(u), u uniform in [-scale, scale].
      shear: at most so many columns for each row.

    Returns:
      `(images, key) -> images` for `(N, H, W, C)`; uint8 gives uint8, rounded.

    Source: Simard et al., Best practices for convolutional neural networks (2003), section 2.
    """

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        n, height, width, _ = images.shape
        u = jax.random.uniform(key, (6, n), minval=-1.0)
        angle, skew = u[0] * jnp.deg2rad(rotate), u[1] * shear
        grow = jnp.exp(u[2:4] * scale)
        # Where a pixel comes from: x = A (y - centre) + centre + shift, A = rotation, shear and scale.
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        matrix = jnp.array([[cos, sin + skew * cos], [-sin, cos - skew * sin]]) * grow[None]
        rows, columns = jnp.meshgrid(
            jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
        )
        grid = jnp.einsum("abn,bhw->anhw", matrix, jnp.stack([rows, columns]))
        centre = jnp.array([(height - 1) / 2, (width - 1) / 2]).reshape(2, 1, 1, 1)
        moved = _bilinear(images.astype(jnp.float32), grid + centre + u[4:6, :, None, None] * shift)
        return jnp.round(moved).astype(images.dtype) if images.dtype == jnp.uint8 else moved.astype(images.dtype)

    return augment


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


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
