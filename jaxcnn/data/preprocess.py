"""From uint8 images to the inputs of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import DataError, UserError


def inputs_of(preprocess: Callable[[Any], Any], inputs: Any) -> tuple[Any, ...]:
    """The preprocessed inputs as a tuple, one for each argument of the network."""
    inputs = preprocess(inputs)
    return inputs if isinstance(inputs, tuple) else (inputs,)


def to_float(inputs: Any) -> Any:
    """uint8 images as float32 from 0 to 1, any other array unchanged; also in a tuple or dict of inputs."""

    def one(x: Any) -> Any:
        return jnp.asarray(x, jnp.float32) / 255 if x.dtype == jnp.uint8 else x

    return jax.tree.map(one, inputs)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and std of each channel of its images."""

_BEYOND = 0.5  # how far floats may exceed 0 to 1: a resized or noisy image does so a little


@dataclass(frozen=True)
class Preprocess:
    """uint8 images `(N, H, W, C)` -> float32 `(N, *size, C)`, with zero mean and unit variance in each channel.

    An image that is smaller than `size` by at most 8 pixels is padded with 0, as LeCun et al. (1998) padded MNIST to
    32x32; any other is resized bilinearly. With `resize`, the aspect ratio is kept: the shorter side is resized to that
    number of pixels, and `size` is cropped from the centre, as networks for ImageNet are evaluated. In a tuple or dict
    of inputs, uint8 images are preprocessed; words and boxes are not changed. Images may also be floats from 0 to 1.

    Attributes:
      size: (height, width) of the network's input.
      mean, std: of each channel of the training images, on the scale from 0 to 1.
      resize: `(pixels, "bilinear")` or `(pixels, "bicubic")`, for the shorter side; empty for none.

    Raises:
      UserError: when it is called with integers other than uint8; and, outside `jit`, with floats far outside 0 to 1,
        for instance 0 to 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[()] | tuple[int, str] = ()

    def __post_init__(self) -> None:
        if self.resize and (self.resize[0] < max(self.size) or self.resize[1] not in ("bilinear", "bicubic")):
            raise UserError(
                f"resize={self.resize!r}: expected (pixels, 'bilinear') or (pixels, 'bicubic'), with at least as "
                f"many pixels as the crop of {self.size[0]}x{self.size[1]}"
            )

    @staticmethod
    def of(images: np.ndarray, size: Sequence[int] | None = None) -> Preprocess:
        """The preprocessing for training images `(N, H, W, C)`: their mean, std and size, unless one is given."""
        if images.dtype != np.uint8:
            raise DataError(f"the images are {images.dtype}, not uint8: pass your own `preprocess` for them")
        height, width = images.shape[1:3] if size is None else size
        # Counts of values are exact, so the result is the same on every machine.
        counts = np.zeros((images.shape[-1], 256), np.int64)
        for first in range(0, len(images), 4096):
            for channel, row in enumerate(counts):
                row += np.bincount(images[first : first + 4096, ..., channel].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 0))
        return Preprocess(
            (int(height), int(width)),
            tuple(float(m) for m in mean),
            tuple(float(s) if s > 1e-3 else 1.0 for s in std),
        )

    @staticmethod
    def imagenet(image: Sequence[int]) -> Preprocess:
        """Mean and std of ImageNet, for streamed images of the shape (height, width, channels)."""
        height, width, channels = image
        if channels == 1:
            return Preprocess((height, width), (0.449,), (0.226,))
        return Preprocess((height, width), *IMAGENET)

    def check(self, images: Any) -> None:
        """Checks dtype and range of images; raises UserError as described for the class."""
        if isinstance(images, (tuple, list, dict)) or images.dtype == jnp.uint8:
            return
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"the images are {images.dtype}; expected uint8 from 0 to 255, or floats from 0 to 1")
        if isinstance(images, jax.core.Tracer) or not images.size:
            return
        known = np.asarray(images)
        if known.dtype.itemsize < 4:
            known = known.astype(np.float32)
        # Values that are not finite show in the loss.
        low, high = known.min(initial=0, where=np.isfinite(known)), known.max(initial=0, where=np.isfinite(known))
        if low < 0 - _BEYOND or high > 1 + _BEYOND:
            raise UserError(
                f"the images are {images.dtype} from {low:g} to {high:g}; expected floats from 0 to 1, or uint8 from 0 "
                "to 255: images / 255, or images.astype('uint8')"
            )

    def __call__(self, images: Any) -> Any:
        if isinstance(images, (tuple, list, dict)):
            return jax.tree.map(lambda x: self(x) if x.dtype == jnp.uint8 and x.ndim == 4 else x, images)
        self.check(images)
        x = to_float(images)
        (h, w), (height, width) = x.shape[1:3], self.size
        if self.resize:
            shorter, method = self.resize
            h, w = (int(shorter * side / min(h, w)) for side in (h, w))
            x = jax.image.resize(x, (x.shape[0], h, w, x.shape[-1]), method)  # antialiased, as Pillow does it
            top, left = round((h - height) / 2), round((w - width) / 2)
            x = x[:, top : top + height, left : left + width]
            if images.dtype == jnp.uint8:
                x = jnp.clip(x, 0, 1)  # bicubic weights overshoot
        elif 0 <= height - h <= 8 and 0 <= width - w <= 8:
            top, left = (height - h) // 2, (width - w) // 2
            x = jnp.pad(x, ((0, 0), (top, height - h - top), (left, width - w - left), (0, 0)))
        else:
            x = jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "bilinear")
        mean, std = (jnp.asarray(v, x.dtype).reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        return (x - mean) / std
