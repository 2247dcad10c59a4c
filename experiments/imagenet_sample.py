"""Makes a small dataset in the form of ImageNet: train and val, a folder per class, JPEG files of many sizes.

The images are enlarged from CIFAR-10, so they are blurred. Added noise makes the files as large as photographs: 0.56
bytes per pixel, where ImageNet has 0.6 (108 kB at 469x387 on average). The file size matters because decoding time
depends on both bytes and pixels. The dataset is for testing and timing `data.stream`:

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
      out: the folder to create; it must not exist.
      data: the dataset that the images come from.
      data_dir: the folder of prepared datasets.
      per_class: training images per class; source images are reused at another size if there are too few.
      val_per_class: validation images per class, from the test set.
      sides: the minimum and maximum of height and width, which are drawn independently.
      noise: standard deviation of the noise, for pixels from 0 to 255.
      quality: JPEG quality.
      seed: for sizes and noise.
    """
    if out.exists():
        raise UserError(f"--out {out}: it already exists")
    if not 1 <= sides[0] <= sides[1]:
        raise UserError(f"--sides {sides[0]} {sides[1]}: expected the minimum and the maximum")
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
    """Resizes an image `(H, W, C)` to a random size and adds noise."""
    height, width = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
    picture = Image.fromarray(image.squeeze()).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(picture) + noise * rng.standard_normal((height, width, 3), np.float32)
    return Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main(imagenet_sample)
