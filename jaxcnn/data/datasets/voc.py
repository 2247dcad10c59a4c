"""Folders in Pascal VOC's form: images, and for each an XML file with the boxes of its objects."""

from __future__ import annotations

import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
import xml.parsers.expat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.registry import PATH, Folder, Size, data_folder, dataset, reader
from jaxcnn.data.images import ENDINGS, opened_image, orientation_of, read_image
from jaxcnn.errors import DataError, first_line
from jaxcnn.files import hidden, located, normal, read_text, regular
from jaxcnn.format import printable, shortened

_MOST_BYTES = 16 << 20  # of an annotation
_LONGEST = 200  # characters of a name


_Row = tuple[int, np.ndarray, bool]  # the class, the box and the difficulty of an object


@dataclass(frozen=True)
class _Object:
    """An object of an image: its class, its box in the pixels of the file, and whether it is marked as difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    """The objects in an XML file, and (height, width) of the image, None if missing."""

    file: Path
    size: tuple[int, int] | None
    objects: list[_Object]


@dataset(
    "bccd",
    about="364 images of blood cells with boxes, 640x480, in Pascal VOC's form",
    kind="boxes",
    splits=("train", "validation", "test", "val", "trainval"),
    size=(240, 320),
    classes=("Platelets", "RBC", "WBC"),
)
def bccd(split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """The Blood Cell Count and Detection dataset: red and white cells and platelets, half size by default.

    Source: https://github.com/Shenggan/BCCD_Dataset (2017).
    """
    how = "Put the folder bccd into the data folder, in Pascal VOC's form: Annotations, JPEGImages and ImageSets/Main"
    folder = data_folder("bccd", data_dir, how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two cells are points
        return voc(folder, split, size=size)


@reader(PATH, about="a folder in Pascal VOC's form: Annotations, JPEGImages, ImageSets/Main", kind="boxes")
def boxes(name: str, split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """Any folder in Pascal VOC's form, see `voc`."""
    return voc(name, split, size=size)


def voc(
    folder: str | Path,
    split: str = "train",
    classes: Sequence[str] | None = None,
    size: Size = None,
) -> Examples:
    """The images and objects of a split of a folder in Pascal VOC's form.

    The folder has `Annotations/NAME.xml`, `JPEGImages/NAME.jpg` (or another image) and `ImageSets/Main/SPLIT.txt` with
    a NAME a line, which is the first word of the line. VOC counts pixels from 1, the last one included, and
    so xmin, ymin, xmax, ymax become x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax.

    Boxes are clipped to the image. Objects of no size, or outside the image, are left out with a warning.

    EXIF's orientation is applied to images and boxes: boxes are in the pixels of the file, as in VOC, unless `<size>`
    is the size of the upright image only.

    Args:
      folder: the folder that has these folders; in VOC's archives, `VOCdevkit/VOC2007`.
      split: train, val, trainval or test; `validation` is val.
      classes: their names, in the order of the labels. When not given, those of all annotations in the folder, sorted,
        so that all splits have the same classes.
      size: (height, width) to which images and boxes are resized; the most frequent size of the split when not given.
        The aspect ratio is not kept.

    Returns:
      Examples: inputs are the images `(N, H, W, 3)`, uint8; labels are `boxes` `(N, G, 4)` float32, `classes` `(N, G)`
      int32, -1 where there is no object, and `difficult` `(N, G)` bool, G being the largest number of objects in an
      image. `extra` has the `names` of the images.

    Raises:
      DataError: when a file is missing or cannot be read, an annotation has no class or no box, a class is not among
        `classes`, the size of an image differs from the annotation's `<size>`, or there is no image.

    Source: Everingham et al., The Pascal Visual Object Classes challenge (2010), section 3, and its development kit.
    """
    top = Path(folder).expanduser()
    names = _names(top, split)
    files = [_image(top, name) for name in names]
    said = [_read(located(top / "Annotations" / f"{name}.xml")) for name in names]
    known = tuple(normal(name) for name in classes) if classes is not None else _classes(top)
    for annotation in said:
        _check_classes(annotation, known)
    pictures = [read_image(file, channels=3) for file in files]
    height, width = size or Counter(picture.shape[:2] for picture in pictures).most_common(1)[0][0]
    images = np.zeros((len(names), height, width, 3), np.uint8)
    rows: list[list[_Row]] = []
    lost: list[str] = []
    for i, (name, file, picture) in enumerate(zip(names, files, pictures, strict=True)):
        h, w = picture.shape[:2]
        images[i] = picture if (h, w) == (height, width) else read_image(file, channels=3, size=(height, width))
        rows.append([])
        for one, box in zip(said[i].objects, _boxes(said[i], file, (h, w)), strict=True):
            inside = np.clip(box, 0, [w, h, w, h])
            if box[2] - box[0] <= 1 or box[3] - box[1] <= 1 or inside[2] <= inside[0] or inside[3] <= inside[1]:
                lost.append(f"{printable(one.name)} {one.box} in {name}")
                continue
            rows[-1].append((known.index(one.name), inside * np.tile([width / w, height / h], 2), one.difficult))
    if lost:
        _warn(f"{top}, {split}", lost, sum(len(one.objects) for one in said))
    return Examples(images, _padded(rows), known, top.name, {"names": names})


def _warn(where: str, lost: Sequence[str], count: int) -> None:
    warnings.warn(
        f"{where}: {len(lost)} of {count} objects have no size, or lie outside the image, and are left out: "
        f"{'; '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}",
        stacklevel=3,
    )


def _check_classes(annotation: _Annotation, known: Sequence[str]) -> None:
    for one in annotation.objects:
        if one.name not in known:
            raise DataError(f"{annotation.file}: the class {one.name!r} is not one of {', '.join(known)}")


def _padded(rows: list[list[_Row]]) -> dict[str, np.ndarray]:
    """The objects of each image as arrays of one length."""
    count, most = len(rows), max(1, *map(len, rows))
    boxes = np.zeros((count, most, 4), np.float32)
    labels = np.full((count, most), -1, np.int32)
    difficult = np.zeros((count, most), bool)
    for i, row in enumerate(rows):
        for j, (label, box, hard) in enumerate(row):
            boxes[i, j], labels[i, j], difficult[i, j] = box, label, hard
    return {"boxes": boxes, "classes": labels, "difficult": difficult}


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
    names = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: the split is empty; it has no example to train on or to measure")
    for name in names:
        # A longer name is not a file name, and one with .. in it would lead out of the folder.
        if len(os.fsencode(name)) > _LONGEST or printable(name) != name or {"", ".."} & set(name.split("/")):
            raise DataError(f"{file}: {printable(shortened(name, 60))} is not the name of an image in JPEGImages")
    return names


def _image(top: Path, name: str) -> Path:
    for ending in (".jpg", *sorted(ENDINGS - {".jpg"})):
        for written in (ending, ending.upper()):
            if (file := located(top / "JPEGImages" / f"{name}{written}")).is_file():
                return file
    raise DataError(f"{top / 'JPEGImages' / name}.jpg: there is no such image, in no other format either")


def _classes(top: Path) -> tuple[str, ...]:
    files = sorted(path for path in (top / "Annotations").glob("*.xml") if not hidden(path.name))
    return tuple(sorted({one.name for file in files for one in _read(file).objects}))


def _boxes(annotation: _Annotation, file: Path, shape: tuple[int, int]) -> list[np.ndarray]:
    """The boxes of an annotation in the upright image of this (height, width): x1, y1, x2, y2 from 0, ends excluded."""
    boxes = [np.array(one.box) - [1, 1, 0, 0] for one in annotation.objects]
    with opened_image(file, str(file)) as opened:
        orientation = orientation_of(opened)
    stored = shape[::-1] if orientation >= 5 else shape
    if annotation.size not in (None, stored, shape):
        (h, w), (height, width) = annotation.size or (0, 0), stored
        raise DataError(
            f"{annotation.file}: <size> says {w}x{h}, and {file.name} is {width}x{height}: do the boxes belong to "
            "another image, or to this one before it was resized?"
        )
    if annotation.size == shape != stored:
        return boxes
    return [_turned(box, orientation, shape) for box in boxes]


def _turned(box: np.ndarray, orientation: int, shape: tuple[int, int]) -> np.ndarray:
    """A box in a file's pixels, in the upright image of this (height, width); as `images.upright` turns the pixels."""
    x1, y1, x2, y2 = box[[1, 0, 3, 2]] if orientation >= 5 else box
    height, width = shape
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return np.array([x1, y1, x2, y2])


# --- one annotation ----------------------------------------------------------------------------------------------


def _read(file: Path) -> _Annotation:
    """What one annotation says."""
    root = _parsed(file)
    objects = []
    for one in root.iter("object"):
        name = normal((one.findtext("name") or "").strip())
        edges = [one.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        shown = shortened(name, 60), [edge and shortened(edge, 20) for edge in edges]
        try:
            x1, y1, x2, y2 = (float(edge) for edge in edges)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError(f"{file}: the box of object {shown[0]!r} is {shown[1]}; expected four numbers") from None
        if not name or not np.isfinite([x1, y1, x2, y2]).all():
            raise DataError(f"{file}: an object should have a name and a box, got {shown[0]!r} and {shown[1]}")
        if len(name) > _LONGEST:
            raise DataError(f"{file}: the class {shown[0]!r} has {len(name):,} letters; expected at most {_LONGEST}")
        objects.append(_Object(name, (x1, y1, x2, y2), (one.findtext("difficult") or "0").strip() == "1"))
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    numbers = [int(side) if re.fullmatch("[0-9]{1,9}", side) else 0 for side in sides]
    return _Annotation(file, (numbers[0], numbers[1]) if all(numbers) else None, objects)


def _parsed(file: Path) -> ElementTree.Element:
    """The XML of a file. Entity declarations are refused: nested ones expand a few lines to gigabytes."""
    try:
        if regular(file).stat().st_size > _MOST_BYTES:
            raise DataError(f"{file} is too large for an annotation: {file.stat().st_size:,} bytes")
        data = file.read_bytes()
        # The parser knows few encodings; Python also knows those of Chinese and Japanese programs.
        declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""", data)
        if declared and not declared[1].lower().startswith(b"utf-16"):
            data = data.decode(declared[1].decode()).encode()
            return _tree(data, "utf-8")
        return _tree(data)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such annotation") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or os.strerror(error.errno or 0)}") from None
    except (xml.parsers.expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not XML that can be read ({first_line(error)})") from None


def _tree(data: bytes, encoding: str | None = None) -> ElementTree.Element:
    builder = ElementTree.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entities
    parser.Parse(data, True)
    return builder.close()


def _refuse_entities(name: str, *_: object) -> None:
    raise ValueError(f"it declares an entity, {shortened(name, 60)}")
