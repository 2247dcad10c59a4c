"""Folders in the form of Pascal VOC: images, and in an XML file for each the boxes of the objects in it."""

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
_LONGEST = 200  # letters of a name


@dataclass(frozen=True)
class _Object:
    """One object of an image: its class, its box in pixels as the file has it, whether it is marked as difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    """What an XML file says: the objects, and (height, width) of the image; None where it does not say."""

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
    how = "Put the folder bccd there, in Pascal VOC's form: Annotations, JPEGImages and ImageSets/Main"
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
    a NAME a line; of several words in a line the first is taken. VOC counts pixels from 1, the last one included, and
    so xmin, ymin, xmax, ymax become x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax.

    Boxes are cut at the image's edges. Objects of no size, or outside the image, are left out, with a warning.

    An image that a camera turned is set upright, and its boxes with it: they are in the file's pixels, as those of VOC,
    unless `<size>` is that of the upright image alone.

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
        not among `classes`, an image of another size than the annotation's `<size>`, or no image.

    Source: Everingham et al., The Pascal Visual Object Classes challenge (2010), section 3, and its development kit.
    """
    top = Path(folder).expanduser()
    names = _names(top, split)
    files = [_image(top, name) for name in names]
    said = [_read(located(top / "Annotations" / f"{name}.xml")) for name in names]
    known = tuple(normal(name) for name in classes) if classes is not None else _classes(top)
    for annotation in said:
        for one in annotation.objects:
            if one.name not in known:
                raise DataError(f"{annotation.file}: the class {one.name!r} is none of {', '.join(known)}")
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
        for one, box in zip(said[i].objects, _boxes(said[i], file, (h, w)), strict=True):
            inside = np.clip(box, 0, [w, h, w, h])
            if box[2] - box[0] <= 1 or box[3] - box[1] <= 1 or inside[2] <= inside[0] or inside[3] <= inside[1]:
                lost.append(f"{printable(one.name)} {one.box} in {name}")
                continue
            rows[-1].append((known.index(one.name), inside * np.tile([width / w, height / h], 2), one.difficult))
    if lost:
        warnings.warn(
            f"{top}, {split}: {len(lost)} of {sum(len(one.objects) for one in said)} objects have no size, or lie "
            f"outside the image, and are left out: {'; '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}",
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
    names = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: the split is empty; there is nothing to learn or to measure")
    for name in names:
        # A longer one is no name of a file, and one that leads out of the folder none of an image in it.
        if len(os.fsencode(name)) > _LONGEST or printable(name) != name or {"", ".."} & set(name.split("/")):
            raise DataError(f"{file}: {printable(shortened(name, 60))} is no name of an image in JPEGImages")
    return names


def _image(top: Path, name: str) -> Path:
    for ending in (".jpg", *sorted(ENDINGS - {".jpg"})):
        for written in (ending, ending.upper()):
            if (file := located(top / "JPEGImages" / f"{name}{written}")).is_file():
                return file
    raise DataError(f"{top / 'JPEGImages' / name}.jpg: there is no such image, and none of another kind")


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
            f"{annotation.file}: <size> says {w}x{h}, and {file.name} is {width}x{height}: are the boxes of another "
            "image, or of this one before it was resized?"
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
    """The XML of a file. Entities of its own are refused: nested ones make gigabytes of a few lines."""
    try:
        if regular(file).stat().st_size > _MOST_BYTES:
            raise DataError(f"{file} is larger than an annotation ever is: {file.stat().st_size:,} bytes")
        data = file.read_bytes()
        # The parser knows a handful of encodings; Python knows those of Chinese and Japanese programs, too.
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
        raise DataError(f"{file} is no XML that can be read ({first_line(error)})") from None


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
