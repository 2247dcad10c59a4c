"""Classifies images: `python predict.py IMAGE ...`. It reads model.jax and export.json in the same folder.

It needs jax, flatbuffers and numpy, and Pillow to read image files. An .npy file of images, uint8 (N, H, W, C), does
not need Pillow. In your own program:

    import predict
    model = predict.load("the folder")
    probabilities = model(images)    # uint8 (N, H, W, C) -> (N, classes)
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

HERE = Path(__file__).resolve().parent
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "TGA", "PCX", "SGI", "ICO")
MOST_PIXELS = 89_478_485


def load(folder: str | Path = HERE) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of images: uint8 `(N, H, W, C)` -> the probabilities of the classes, `(N, classes)`."""
    served = jax.export.deserialize(bytearray((Path(folder) / "model.jax").read_bytes()))
    logits = jax.jit(served.call)  # compiled once for each N

    def probabilities(images: np.ndarray) -> np.ndarray:
        x = np.asarray(logits(images), np.float64)
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    return probabilities


def facts(folder: str | Path = HERE) -> dict[str, Any]:
    """The content of export.json."""
    return json.loads((Path(folder) / "export.json").read_text())


def read(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image as `(1, height, width, channels)`, resized; or the images in an .npy file."""
    height, width, channels = shape
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait forever
        raise ValueError("it is not a regular file")
    if Path(path).suffix == ".npy":
        images = np.load(path)
        images = images[None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"expected uint8 images of {shape}, got {images.dtype} of {images.shape[1:]}")
        return images
    from PIL import Image, ImageOps

    with Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels have more than 8 bits (mode {picture.mode})")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        laid = [Image.alpha_composite(Image.new("RGBA", picture.size, c), picture) for c in ("white", "black")]
        # Transparent images are put on white; on black if little is visible on white, for instance white strokes.
        spans = [np.ptp(np.asarray(each)[..., :3], axis=(0, 1)).max() for each in laid]
        picture = laid[0] if spans[0] >= 16 else laid[int(spans[1] > spans[0])]
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(1, height, width, channels)


def shown(text: str) -> str:
    """Text for a terminal, with control characters escaped."""
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in text)


def main(paths: list[str]) -> None:
    if not paths or paths[0].startswith("-"):
        sys.exit("usage: python predict.py IMAGE ...")
    about, model = facts(), load()
    shape = tuple(about["input"]["shape"][1:])
    names = about["classes"] or [str(k) for k in range(about["output"]["shape"][-1])]
    for path in paths:
        try:
            images = read(path, shape)
        except (OSError, ValueError) as error:
            sys.exit(f"{shown(path)} cannot be read: {shown(str(error))}")
        for row in model(images):
            print(f"{shown(path)}  {shown(names[row.argmax()])}  {100 * row.max():.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
