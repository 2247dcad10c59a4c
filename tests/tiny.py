"""Datasets of a few made-up examples, in the forms of the real ones, for whatever takes long on those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CELLS = {"RBC": ((200, 90, 90), 11), "WBC": ((90, 60, 160), 16), "Platelets": ((150, 90, 200), 6)}


def make(folder: Path) -> Path:
    """`camvid`, `bccd` and `rt-polarity` below a folder, which is returned."""
    camvid(folder / "camvid")
    bccd(folder / "bccd")
    reviews(folder / "rt-polarity")
    return folder


def camvid(folder: Path, size: tuple[int, int] = (48, 64), counts: tuple[int, int, int] = (4, 2, 2)) -> None:
    """Road scenes of rectangles: `train`, `val`, `test` with `NAME.jpg` and `NAME_label.png`, classes 0 to 11."""
    rng = np.random.default_rng(0)
    height, width = size
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            labels = np.zeros(size, np.uint8)  # sky above
            labels[height // 2 :] = 3  # road below
            for label in range(12):
                top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
                labels[top : top + rng.integers(6, 20), left : left + rng.integers(6, 20)] = label
            colours = np.random.default_rng(1).integers(0, 256, (12, 3))
            image = np.clip(colours[labels] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / split / f"{number}.jpg", quality=95)
            Image.fromarray(labels).save(folder / split / f"{number}_label.png")


def bccd(folder: Path, size: tuple[int, int] = (96, 128), counts: tuple[int, int, int] = (4, 2, 2)) -> None:
    """Discs for blood cells, in Pascal VOC's form."""
    rng = np.random.default_rng(0)
    height, width = size
    for sub in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / sub).mkdir(parents=True)
    names: list[str] = []
    for number in range(sum(counts)):
        picture = Image.new("RGB", (width, height), (230, 215, 210))
        draw, objects = ImageDraw.Draw(picture), []
        for name, (colour, radius) in CELLS.items():
            x, y = rng.integers(radius + 1, width - radius - 1), rng.integers(radius + 1, height - radius - 1)
            box = (int(x - radius), int(y - radius), int(x + radius), int(y + radius))
            draw.ellipse(box, fill=colour)
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            objects.append(f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>")
        names.append(f"cells_{number:03d}")
        picture.save(folder / "JPEGImages" / f"{names[-1]}.jpg", quality=95)
        whole = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{names[-1]}.jpg</filename>{whole}{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{names[-1]}.xml").write_text(text)
    train, val, test = counts
    splits = {"train": names[:train], "val": names[train : train + val], "test": names[-test:]}
    splits["trainval"] = splits["train"] + splits["val"]
    for split, own in splits.items():
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(own) + "\n")


def reviews(folder: Path, each: int = 40) -> None:
    """Sentences that say whether they like it: `rt-polarity.neg` and `rt-polarity.pos`, latin-1."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, words in (("neg", "dull bad poor awful"), ("pos", "fine good lovely great")):
        said, rest = words.split(), ["the", "film", "is", "a", "so", "its", "plot", "was", "café", "in", "one"]
        lines = [" ".join([*rng.choice(rest, 5), rng.choice(said), *rng.choice(rest, rng.integers(1, 6))])
                 for _ in range(each)]  # fmt: skip
        (folder / f"rt-polarity.{name}").write_text("\n".join(lines) + "\n", encoding="latin-1")
