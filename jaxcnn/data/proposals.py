"""Region proposals: where objects may be in an image, without knowledge of classes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.errors import DataError, UserError
from jaxcnn.processors import cores

_VERSION = 1  # changes with the results of selective_search for the same settings: part of the name of a cache file


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The settings of `selective_search`.

    Attributes:
      base, step: the size of the first segments, and how much larger they are in the second segmentation. Smaller
        numbers give smaller segments, and more regions.
      sigma: of the Gaussian blur before the segmentation.
      quality: more colour spaces, segmentations and similarity measures: 3 times the time and twice the regions.
      min_side: the least length of a side of a region, in pixels.
      max_ratio: the largest ratio of its sides.
      max_share: the largest length of its longer side, as a share of the longer side of the image.
      same_iou: of two regions with this IoU or more, the second is dropped.
    """

    base: int = 30
    step: int = 60
    sigma: float = 0.8
    quality: bool = False
    min_side: int = 8
    max_ratio: float = 3.0
    max_share: float = 0.8
    same_iou: float = 0.8


def selective_search(
    images: np.ndarray,
    *,
    most: int = 800,
    settings: SearchSettings = SearchSettings(),
    cache: str | Path | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Regions by selective search: an image is divided into small segments, and the most similar neighbours are merged
    again and again; the bounding box of every segment on the way is a region.

    OpenCV (contrib) computes the boxes, in an order that it draws at random. Here they are shuffled with the seed 0,
    and of boxes that are nearly the same the first is kept.

    Args:
      images: `(N, H, W, 3)`, uint8.
      most: R, the largest number of regions of an image.
      settings: see `SearchSettings`.
      cache: a folder to keep the regions in, a file an image, so that splits share them; a damaged file is computed
        again. None for no cache; `cache_folder()` is the usual one.
      workers: threads; the number of cores when not given.

    Returns:
      `(N, R, 4)` float32: x1, y1, x2, y2 in pixels. Rows without a region are of zero size.

    Raises:
      UserError: when OpenCV or its contrib modules are not installed, or the images have another form.

    Source: Uijlings, van de Sande, Gevers and Smeulders, Selective search for object recognition (2013).
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise UserError(f"selective search takes uint8 images (N, H, W, 3), got {images.dtype} {images.shape}")
    folder = None if cache is None else Path(cache).expanduser()
    with ThreadPoolExecutor(workers or cores()) as pool:
        found = list(pool.map(functools.partial(_regions, most=most, settings=settings, folder=folder), images))
    return np.stack(found) if found else np.zeros((0, most, 4), np.float32)


def cache_folder() -> Path:
    """The usual cache of regions: the folder `jaxcnn` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxcnn"


def sliding_windows(
    size: tuple[int, int],
    sides: Sequence[float],
    ratios: Sequence[float] = (1.0,),
    step: float = 0.25,
) -> np.ndarray:
    """A grid of windows, the same for every image: `(R, 4)` float32.

    Args:
      size: (height, width) of the image.
      sides: the square roots of the areas of the windows, in pixels.
      ratios: height / width.
      step: between two windows, as a share of their sides. At 1/4 a square object of the same size has an IoU of 0.62
        or more with one of them.
    """
    height, width = size
    boxes = []
    for side, ratio in itertools.product(sides, ratios):
        h, w = side * ratio**0.5, side / ratio**0.5
        if h > height or w > width:
            continue
        rows = np.linspace(0, height - h, 1 + int(np.ceil((height - h) / (step * h) - 1e-9)))
        columns = np.linspace(0, width - w, 1 + int(np.ceil((width - w) / (step * w) - 1e-9)))
        y, x = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
        boxes.append(np.stack([x, y, x + w, y + h], 1))
    if not boxes:
        raise UserError(f"no window with sides {list(sides)} fits in an image of {height}x{width}")
    return np.concatenate(boxes).astype(np.float32)


def with_regions(data: Examples, regions: np.ndarray) -> Examples:
    """The data with regions `(N, R, 4)`, or `(R, 4)` for all images, as the second input of the network."""
    images = data.inputs[0] if isinstance(data.inputs, tuple) else data.inputs
    regions = np.asarray(regions, np.float32)
    if regions.shape[-1:] != (4,) or regions.ndim not in (2, 3):
        raise UserError(f"regions should be (N, R, 4) or (R, 4), got {regions.shape}")
    if regions.ndim == 2:
        regions = np.broadcast_to(regions, (len(images), *regions.shape))
    return dataclasses.replace(data, inputs=(images, regions))


# --- selective search --------------------------------------------------------------------------------------------


def _opencv() -> Any:
    install = "pip install 'jaxcnn[detection]'"
    try:
        import cv2
    except ImportError:
        raise UserError(f"OpenCV is not installed: selective search needs it: {install}") from None
    if not hasattr(cv2, "ximgproc"):
        raise UserError(f"OpenCV {cv2.__version__} has no contrib modules: selective search needs them: {install}")
    return cv2


def _regions(image: np.ndarray, most: int, settings: SearchSettings, folder: Path | None) -> np.ndarray:
    """The regions of one image, from the cache if they are there."""
    if folder is None:
        return _search(image, most, settings)
    file = folder / f"regions-{_key(image, most, settings)}.npz"
    kept = _kept(file, (most, 4))
    if kept is None:
        kept = _search(image, most, settings)
        _keep(file, kept)
    return kept


def _search(image: np.ndarray, most: int, settings: SearchSettings) -> np.ndarray:
    """The regions of one image, `(R, 4)`, padded."""
    search = _opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    begin = search.switchToSelectiveSearchQuality if settings.quality else search.switchToSelectiveSearchFast
    begin(settings.base, settings.step, settings.sigma)
    found = np.unique(np.asarray(search.process(), np.float32).reshape(-1, 4), axis=0)
    sides = found[:, 2:]
    fit = (
        (sides.min(1) >= settings.min_side)
        & (sides.max(1) <= settings.max_ratio * sides.min(1))
        & (sides.max(1) <= settings.max_share * max(image.shape[:2]))
    )
    boxes = np.random.default_rng(0).permutation(np.concatenate([found[:, :2], found[:, :2] + sides], 1)[fit])
    boxes = _distinct(boxes, settings.same_iou, most)
    return np.pad(boxes, ((0, most - len(boxes)), (0, 0)))


def _distinct(boxes: np.ndarray, same_iou: float, most: int) -> np.ndarray:
    """The first `most` boxes whose IoU with every earlier one of them is below `same_iou`."""
    left = boxes
    kept: list[np.ndarray] = []
    while len(left) and len(kept) < most:
        one = left[0]
        kept.append(one)
        shared = np.maximum(np.minimum(one[2:], left[:, 2:]) - np.maximum(one[:2], left[:, :2]), 0).prod(1)
        union = (one[2:] - one[:2]).prod() + (left[:, 2:] - left[:, :2]).prod(1) - shared
        stays = shared < same_iou * union
        stays[0] = False
        left = left[stays]
    return np.stack(kept) if kept else boxes[:0]


def _key(image: np.ndarray, most: int, settings: SearchSettings) -> str:
    digest = hashlib.sha256(repr((_VERSION, image.shape, most, settings)).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:24]


def _kept(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The regions in a cache file; None if it is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened) as stored:
            boxes = stored["boxes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return boxes if boxes.shape == shape and boxes.dtype == np.float32 and np.isfinite(boxes).all() else None


def _keep(file: Path, boxes: np.ndarray) -> None:
    """Writes a temporary file and renames it, so that no reader sees half a file."""
    temporary = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(temporary, boxes=boxes)
        temporary.replace(file)
    except OSError as error:
        raise DataError(f"the regions cannot be kept in {file.parent}: {error.strerror}") from None
