"""Images with a label for each pixel: `NAME.jpg` beside `NAME_label.png`, in the folders train, val and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.registry import PATH, Folder, Size, data_folder, dataset, read, reader
from jaxcnn.data.images import ENDINGS, opened_image, orientation_of, read_image, upright
from jaxcnn.errors import DataError
from jaxcnn.files import hidden, located, normal, read_text

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""The 11 classes of CamVid, in the order of the labels; 11 is void."""

_SPLITS = ("train", "validation", "test")
_FORM = "train, val and test, in each of them NAME.jpg (or another kind of image) and NAME_label.png"


@dataset(
    "camvid",
    about="701 road scenes, each pixel with a class, 240x180 (Brostow et al. 2009)",
    kind="segmentation",
    splits=_SPLITS,
    classes=CAMVID,
)
def camvid(split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """CamVid in SegNet's division of 367 training, 101 validation and 233 test images.

    Source: Brostow, Fauqueur and Cipolla, Semantic object classes in video (2009).
    """
    how = (
        f"Put the folder camvid into the data folder, with {_FORM}, labels 0 to 10 in the order {' '.join(CAMVID)}, "
        "and 11 for void"
    )
    return _load(data_folder("camvid", data_dir, how), "camvid", split, size)


@reader(
    PATH,
    about="the folders train, val and test of NAME.jpg and NAME_label.png, and classes.txt",
    kind="segmentation",
    splits=_SPLITS,
)
def label_maps(name: str, split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """Images and label maps of any folder, see `load_segmentation`."""
    root = Path(name).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    return _load(root, root.name, split, size)


def load_segmentation(
    name: str = "camvid",
    split: str = "train",
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> Examples:
    """Images and label maps that fit in memory: `cnn.data.load` for data of the kind "segmentation".

    Args:
      name: `camvid`, or another segmentation dataset that `jaxcnn datasets` lists; or the path of a folder with the
        folders `train`, `val` (or `validation`) and `test`, in each of which `NAME_label.png` lies beside `NAME.jpg`
        (or another kind of image). A label image has one number a pixel. The folder's file `classes.txt` has the name
        of a class a line; the label after the last one, and 255, are void.
      split: `train`, `validation` or `test`, with or without a slice.
      data_dir: the folder that has `camvid` in it; `JAXCNN_DATA_DIR` when not given.
      size: (height, width) to resize to, images bilinearly, labels to the nearest pixel; needed where sizes differ.

    Returns:
      Examples of images `(N, H, W, 3)`, uint8, and labels `(N, H, W)`, int32, -1 for void.

    Raises:
      DataError: when the folder, a label image or `classes.txt` is missing, a label image has another size than its
        image or a label outside the classes, or the images differ in size.
    """
    return read(name, split, data_dir, size, kind="segmentation")


def _load(root: Path, name: str, split: str, size: Size) -> Examples:
    classes = _classes(root)
    names = ("validation", "val") if split == "validation" else (split,)
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root} has no folder {' or '.join(names)}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS and not f.stem.endswith("_label"))
    files = [file for file in files if not hidden(file.name)]
    if not files:
        raise DataError(f"{folder}: there is no image in it; expected NAME.jpg and NAME_label.png")
    images, labels = zip(*[_read(file, len(classes), size) for file in files], strict=True)
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            (h, w), (height, width) = image.shape[:2], images[0].shape[:2]
            raise DataError(
                f"{file} is {h}x{w} and {files[0].name} {height}x{width}: give the size to resize all images to"
            )
    return Examples(np.stack(images), np.stack(labels), classes, name)


def _classes(root: Path) -> tuple[str, ...]:
    """The names of a folder's classes, in the order of the labels."""
    listed = root / "classes.txt"
    if listed.is_file():
        classes = tuple(normal(line.strip()) for line in read_text(listed).splitlines() if line.strip())
        if not classes:
            raise DataError(f"{listed} is empty; expected the name of a class a line")
        return classes
    if root.name == "camvid":
        return CAMVID
    raise DataError(f"{listed} is missing: it has the name of a class a line, in the order of the labels 0, 1, 2, ...")


def _read(file: Path, classes: int, size: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels."""
    image = read_image(file, 3)
    path = located(file.with_name(f"{file.stem}_label.png"))
    labels = _labels(path, file)
    with opened_image(file, str(file)) as opened:
        orientation = orientation_of(opened)
    # EXIF's orientation is applied to the image. Labels are in the orientation of the file, unless their size differs.
    if orientation < 5 or labels.shape != image.shape[:2]:
        labels = upright(labels, orientation)
    if labels.shape != image.shape[:2]:
        (h, w), (height, width) = labels.shape, image.shape[:2]
        raise DataError(f"{path} is {h}x{w} and its image {height}x{width}: they should have the same size")
    void = (labels == classes) | (labels == 255)
    if (wrong := (labels > classes) & ~void).any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: label {labels[row, column]} at row {row}, column {column}; expected 0 to {classes - 1}, or "
            f"{classes} or 255 for void"
        )
    labels = np.where(void, -1, labels)
    if size is not None and labels.shape != tuple(size):
        height, width = size
        image = read_image(file, 3, (height, width))
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, labels.shape, strict=True)
        )
        labels = labels[rows][:, columns]
    return image, labels


def _labels(path: Path, image: Path) -> np.ndarray:
    """The numbers of a label image, `(H, W)`, int32; for a palette the indices, not the colours."""
    if not path.exists():
        raise DataError(f"{image.name} has no labels: expected {path}")
    with opened_image(path, str(path)) as opened:
        if opened.mode not in ("L", "P", "I", "I;16"):
            raise DataError(f"{path}: a label image has one number a pixel (mode L or P), this one is {opened.mode}")
        return np.asarray(opened).astype(np.int32)
