"""A small set of the form of ImageNet: JPEG files of many sizes in a folder for each class, train and val.

The pictures are those of CIFAR-10, enlarged, so what they show is blurred. The noise on them, as of a camera, makes the
files as large as photographs: 0.56 bytes a pixel, where ImageNet has 0.6 (108 kB at 469x387 on average); the time that
decoding takes goes by the bytes and the pixels. For trying out and measuring `data.stream`:

    python -m experiments.imagenet_sample --out sample --per-class 200
    python -m experiments.streaming --data ./sample
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import jaxcnn as cnn
from experiments.common import main
from jaxcnn.errors import UserError


def imagenet_sample(
    out: Path, data: str = "cifar10", data_dir: Path | None = None, per_class: int = 100, val_per_class: int = 20,
    sides: tuple[int, int] = (300, 500), noise: float = 10.0, quality: int = 95, seed: int = 0,
) -> None:  # fmt: skip
    """Writes OUT/train/CLASS/*.JPEG and OUT/val/CLASS/*.JPEG.

    Args:
      out: the folder, which must not be there yet.
      data: where the pictures come from.
      data_dir: where prepared datasets lie.
      per_class: training images of each class; pictures are used again, at another size, where there are too few.
      val_per_class: likewise, from the test set.
      sides: the least and the greatest height and width, each drawn by itself.
      noise: its standard deviation, in steps of 255.
      quality: of the JPEG files.
      seed: of sizes and noise.
    """
    if out.exists():
        raise UserError(f"--out {out}: it is there already")
    if not 1 <= sides[0] <= sides[1]:
        raise UserError(f"--sides {sides[0]} {sides[1]}: expected the least and the greatest")
    rng = np.random.default_rng(seed)
    for folder, split, count in (("train", "train", per_class), ("val", "test", val_per_class)):
        pictures = cnn.data.load(data, split, data_dir)
        size = 0
        for label, name in enumerate(pictures.classes):
            inside = out / folder / name
            inside.mkdir(parents=True)
            of_class = pictures.images[pictures.labels == label]
            for i in range(count):
                file = inside / f"{name}_{i:05}.JPEG"
                large(of_class[i % len(of_class)], sides, noise, rng).save(file, quality=quality)
                size += file.stat().st_size
        total = count * len(pictures.classes)
        print(f"{out / folder}: {total:,} images, {size / 1e6:.0f} MB, {size / max(1, total) / 1e3:.0f} kB each")


def large(image: np.ndarray, sides: tuple[int, int], noise: float, rng: np.random.Generator) -> Image.Image:
    """An image `(H, W, C)` at a random size, with noise."""
    height, width = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
    picture = Image.fromarray(image.squeeze()).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(picture) + noise * rng.standard_normal((height, width, 3), np.float32)
    return Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main(imagenet_sample)
