"""Names what pictures show: `python predict.py IMAGE ...`. It reads model.jax and export.json, which lie beside it.

It needs jax, flatbuffers and numpy, and Pillow to read pictures; an .npy file of images, uint8 (N, H, W, C), goes in
without. In a program of your own:

    import predict
    model = predict.load("the folder")
    probabilities = model(images)    # uint8 (N, H, W, C) -> (N, classes)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

HERE = Path(__file__).resolve().parent


def load(folder: str | Path = HERE) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of images: uint8 `(N, H, W, C)` -> the probability of each class, `(N, classes)`."""
    served = jax.export.deserialize(bytearray((Path(folder) / "model.jax").read_bytes()))
    logits = jax.jit(served.call)  # compiled once for each N

    def probabilities(images: np.ndarray) -> np.ndarray:
        x = np.asarray(logits(images), np.float64)
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    return probabilities


def facts(folder: str | Path = HERE) -> dict[str, Any]:
    """What export.json says."""
    return json.loads((Path(folder) / "export.json").read_text())


def read(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture as `(1, height, width, channels)`, resized, or the images in an .npy file."""
    height, width, channels = shape
    if Path(path).suffix == ".npy":
        images = np.load(path)
        images = images[None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"expected uint8 images of {shape}, got {images.dtype} of {images.shape[1:]}")
        return images
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels have more than 8 bits (mode {picture.mode})")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(1, height, width, channels)


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
            sys.exit(f"{path} cannot be read: {error}")
        for row in model(images):
            print(f"{path}  {names[row.argmax()]}  {100 * row.max():.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
