"""Image files of any size and mode as uint8 arrays."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from jaxcnn.errors import DataError, UserError, first_line
from jaxcnn.files import regular

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".bw"),
    "ICO": (".ico",),
}
"""The supported formats and their file endings. Pillow knows more; for EPS, it runs another program."""
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
MOST_PIXELS = 89_478_485
"""The most pixels of an image, a quarter of a gigabyte as RGB: the header of a small file may claim any number. Pillow
warns above the same limit."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that sets an image upright, for each orientation of EXIF."""

_LEAST_CONTRAST = 16  # of 255: with less, a transparent image on white is invisible

Box = tuple[float, float, float, float]
"""A part of an image: left, top, right, bottom in pixels from its upper left corner, not necessarily integers."""


def read_image(
    source: str | Path | bytes, channels: int | None = None, size: tuple[int, int] | None = None, name: str = "image"
) -> np.ndarray:
    """An image file as `(H, W, C)`, uint8.

    16-bit values are scaled to 8 bits, palettes and CMYK become RGB, EXIF's orientation is applied, and of an animation
    the first frame is read. Transparent images are drawn on white; on black if they are invisible on white, such as
    white strokes on a transparent background.

    Args:
      source: a path, or the file's bytes.
      channels: 1 (grey) or 3 (RGB); those of the file when not given.
      size: (height, width) to resize to, bilinearly with antialiasing.
      name: the name of bytes in errors.

    Raises:
      DataError: when the file is missing, is not an image, is damaged, or has more than `MOST_PIXELS`.
    """
    where = name if isinstance(source, bytes) else str(source)
    if channels not in (None, 1, 3):
        raise DataError(f"{where}: images can be read with 1 channel or 3, not {channels}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata in readable images
        with opened_image(source, where) as opened:
            opened.load()
            picture = _eight_bits(ImageOps.exif_transpose(opened))
    if channels is not None:
        picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return _array(picture)


def read_part(
    source: str | Path | bytes,
    box: Callable[[int, int], Box],
    size: tuple[int, int],
    channels: int,
    mirror: bool = False,
    gap: float = 1.0,
    name: str = "image",
) -> np.ndarray:
    """A part of an image file, resized: `(*size, channels)`, uint8. For use in threads.

    It is resized bilinearly with antialiasing. Modes and orientation are treated as in `read_image`.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the part is then still at least `gap` times as large as
    `size`: the decoder skips the high frequencies of each block, which a smaller image cannot show, and takes a
    fraction of the time. 1 is the fastest; from 3 on the difference is invisible.

    Args:
      box: the part to read as a function of height and width of the image: left, top, right, bottom, inside the image.
      size: (height, width) of the result.
      channels: 1 (grey) or 3 (RGB).
      mirror: whether the part is mirrored left to right.
      gap: the least size of the decoded part of a JPEG file, as a multiple of `size`.
      name: the name of bytes in errors.

    Raises:
      DataError: when the file is missing, is not an image, is damaged, or has more than `MOST_PIXELS`.
    """
    where = name if isinstance(source, bytes) else str(source)
    # No `catch_warnings`: it changes the filters of the whole process, which is not safe in threads.
    with opened_image(source, where) as opened:
        orientation = 1
        if isinstance(opened, JpegImageFile):
            orientation = orientation_of(opened)
        else:
            ImageOps.exif_transpose(opened, in_place=True)
        # A JPEG is set upright after resizing; until then all coordinates are those of the file.
        turned = orientation in (5, 6, 7, 8)
        width, height = opened.size
        left, top, right, bottom = box(width, height) if turned else box(height, width)
        rows, columns = size
        if turned:
            left, top, right, bottom, rows, columns = top, left, bottom, right, columns, rows
        if orientation in (2, 3, 7, 8):
            left, right = width - right, width - left
        if orientation in (3, 4, 6, 7):
            top, bottom = height - bottom, height - top
        least = math.ceil(gap * columns * width / (right - left)), math.ceil(gap * rows * height / (bottom - top))
        reduced = opened.draft(None, least)
        scale = reduced[1][2] / width if reduced else 1.0
        opened.load()
        picture = _eight_bits(opened)
    part = (scale * left, scale * top, scale * right, scale * bottom)
    picture = picture.resize((columns, rows), Image.Resampling.BILINEAR, part, reducing_gap=max(gap, 2.0))
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    mode = "L" if channels == 1 else "RGB"
    picture = picture if picture.mode == mode else picture.convert(mode)
    return _array(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture)


@contextlib.contextmanager
def opened_image(source: str | Path | bytes, where: str) -> Iterator[Image.Image]:
    """The image file, not decoded yet. Errors of reading it, also inside the `with`, become a DataError."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else regular(source)
        with Image.open(file, formats=_formats()) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise DataError(f"{where} is {width:,} x {height:,} pixels, the most is {MOST_PIXELS:,}; {_SMALLER}")
            yield opened
    except UserError:
        raise
    except FileNotFoundError:
        raise DataError(f"{where}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{where} is a folder; expected an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{where} is no image that can be read (PNG, JPEG, BMP, GIF, WebP, TIFF)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where} has more than {MOST_PIXELS:,} pixels; {_SMALLER}") from None
    except OSError as error:
        if reason := error.strerror:  # from the operating system, not from Pillow
            raise DataError(f"{where} cannot be read: {reason}") from None
        raise DataError(f"{where}: the image is damaged ({error})") from None
    except _DAMAGED as error:
        raise DataError(f"{where}: the image is damaged ({first_line(error)})") from None


_SMALLER = "make it smaller first"
# What Pillow's decoders raise on invalid bytes.
_DAMAGED = (
    SyntaxError, ValueError, EOFError, struct.error, zlib.error, ArithmeticError, AttributeError, LookupError,
    MemoryError, RuntimeError, TypeError,
)  # fmt: skip


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation_of(opened: Image.Image) -> int:
    """The orientation of the image in its file by EXIF, 1 to 8; 1 is upright."""
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _UPRIGHT else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels `(H, W, ...)` of a file, set upright by EXIF's orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)  # the signs below are for the swapped axes
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return pixels[::rows, ::columns]


def _array(picture: Image.Image) -> np.ndarray:
    """The pixels `(H, W, C)`, uint8, of a picture in mode L or RGB."""
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = values.max(initial=0)
        # 32-bit integers are read as 16 bits, or as 8 if none is above 255; floats as 0 to 1, or 0 to 255.
        if picture.mode == "F":
            scale = 255.0 if top <= 1 else 1.0
        else:
            scale = 1.0 if picture.mode == "I" and top <= 255 else 255 / 65535
        return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        flat = _laid_on(picture, "white")
        if _contrast(flat) < _LEAST_CONTRAST:
            flat = max(flat, _laid_on(picture, "black"), key=_contrast)
        red, green, blue = flat.split()
        grey = red.tobytes() == green.tobytes() == blue.tobytes()
        return flat.convert("L") if grey else flat
    if picture.mode in ("L", "RGB"):
        return picture  # conversion would copy it
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _contrast(picture: Image.Image) -> int:
    """The range from the darkest to the lightest pixel, the largest over channels."""
    extrema: Any = picture.getextrema()
    return max(high - low for low, high in extrema)


def _laid_on(picture: Image.Image, colour: str) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")
