"""Folders in the form of Pascal VOC: images, and in an XML file for each the boxes of the objects in it."""

from __future__ import annotations

import os
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.images import ENDINGS, read_image
from jaxcnn.errors import DataError, first_line


@dataclass(frozen=True)
class _Object:
    """One object of an image: its class, its box in pixels as the file has it, whether it is marked as difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def voc(
    folder: str | Path,
    split: str = "train",
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Examples:
    """The images and objects of a split of a folder in Pascal VOC's form.

    The folder has `Annotations/NAME.xml`, `JPEGImages/NAME.jpg` (or another image) and `ImageSets/Main/SPLIT.txt` with
    a NAME a line; of several words in a line the first is taken. VOC counts pixels from 1, the last one included, and
    so xmin, ymin, xmax, ymax become x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax.

    Boxes are cut at the image's edges. Objects of no size, or outside the image, are left out, with a warning.

    Args:
      folder: where these folders are; in VOC's own archives, `VOCdevkit/VOC2007`.
      split: train, val, trainval or test; `validation` is val.
      classes: their names, in the order of the labels. When not given, those of all annotations in the folder, sorted,
        so that every split has the same.
      size: (height, width) to bring every image to, the boxes with it; the most frequent size of the split when not
        given. Proportions are not kept.

    Returns:
      Examples: inputs are the images `(N, H, W, 3)`, uint8; labels are `boxes` `(N, G, 4)` float32, `classes` `(N, G)`
      int32, -1 where there is no object, and `difficult` `(N, G)` bool, G being the most objects of an image. `extra`
      has the images' `names`.

    Raises:
      DataError: for a file that is missing or cannot be read, an annotation without a class or a box, a class that is
        not among `classes`, or no image.

    Source: Everingham et al., The Pascal Visual Object Classes challenge (2010), section 3, and its development kit.
    """
    top = Path(folder).expanduser()
    names = _names(top, split)
    files = [_image(top, name) for name in names]
    objects = [_read(top / "Annotations" / f"{name}.xml") for name in names]
    known = tuple(classes) if classes is not None else _classes(top)
    for name, own in zip(names, objects, strict=True):
        for one in own:
            if one.name not in known:
                file = top / "Annotations" / f"{name}.xml"
                raise DataError(f"{file}: the class {one.name!r} is none of {', '.join(known)}")
    pictures = [read_image(file, channels=3) for file in files]
    if size is None:
        (height, width), _ = Counter(picture.shape[:2] for picture in pictures).most_common(1)[0]
    else:
        height, width = size
    images = np.zeros((len(names), height, width, 3), np.uint8)
    rows: list[list[tuple[int, np.ndarray, bool]]] = []
    lost: list[str] = []
    for i, (name, file, picture) in enumerate(zip(names, files, pictures, strict=True)):
        h, w = picture.shape[:2]
        images[i] = picture if (h, w) == (height, width) else read_image(file, channels=3, size=(height, width))
        rows.append([])
        for one in objects[i]:
            x1, y1, x2, y2 = one.box
            inside = np.clip([x1 - 1, y1 - 1, x2, y2], 0, [w, h, w, h])
            if x2 <= x1 or y2 <= y1 or inside[2] <= inside[0] or inside[3] <= inside[1]:
                lost.append(f"{one.name} {one.box} in {name}")
                continue
            rows[-1].append((known.index(one.name), inside * np.tile([width / w, height / h], 2), one.difficult))
    if lost:
        warnings.warn(
            f"{top}, {split}: {len(lost)} of {sum(map(len, objects))} objects have no size, or lie outside the image, "
            f"and are left out: {'; '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}",
            stacklevel=2,
        )
    most = max(1, *(len(row) for row in rows))
    boxes = np.zeros((len(names), most, 4), np.float32)
    labels = np.full((len(names), most), -1, np.int32)
    difficult = np.zeros((len(names), most), bool)
    for i, row in enumerate(rows):
        for j, (label, place, hard) in enumerate(row):
            boxes[i, j], labels[i, j], difficult[i, j] = place, label, hard
    return Examples(
        images, {"boxes": boxes, "classes": labels, "difficult": difficult}, known, top.name, {"names": names}
    )


def _names(top: Path, split: str) -> list[str]:
    sets = top / "ImageSets" / "Main"
    if not sets.is_dir():
        raise DataError(
            f"{top} is no folder in Pascal VOC's form: it has no ImageSets/Main; expected that, Annotations and "
            "JPEGImages in it"
        )
    file = sets / f"{'val' if split == 'validation' else split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in sets.glob("*.txt"))) or "none"
        raise DataError(f"{top}: there is no split {split!r}; there are {there}")
    names = [line.split()[0] for line in _text(file).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: the split is empty; there is nothing to learn or to measure")
    return names


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def _image(top: Path, name: str) -> Path:
    for ending in (".jpg", *sorted(ENDINGS - {".jpg"})):
        if (file := top / "JPEGImages" / f"{name}{ending}").is_file():
            return file
    raise DataError(f"{top / 'JPEGImages' / name}.jpg: there is no such image, and none of another kind")


def _classes(top: Path) -> tuple[str, ...]:
    files = sorted(path for path in (top / "Annotations").glob("*.xml"))
    return tuple(sorted({one.name for file in files for one in _read(file)}))


def _read(file: Path) -> list[_Object]:
    """The objects of one annotation."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such annotation") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or os.strerror(error.errno or 0)}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is no XML that can be read ({first_line(error)})") from None
    objects = []
    for one in root.iter("object"):
        name = (one.findtext("name") or "").strip()
        edges = [one.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(edge) for edge in edges)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError(f"{file}: the box of object {name!r} is {edges}; expected four numbers") from None
        if not name or not np.isfinite([x1, y1, x2, y2]).all():
            raise DataError(f"{file}: an object should have a name and a box, got {name!r} and {edges}")
        objects.append(_Object(name, (x1, y1, x2, y2), (one.findtext("difficult") or "0").strip() == "1"))
    return objects
