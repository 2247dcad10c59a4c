"""Image files of any size and mode as uint8 arrays."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxcnn.errors import DataError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image(
    source: str | Path | bytes, channels: int | None = None, size: tuple[int, int] | None = None, name: str = "image"
) -> np.ndarray:
    """An image file as `(H, W, C)`, uint8.

    16-bit values are scaled to 8 bits, transparency is laid on white, palettes and CMYK become RGB, the camera's
    orientation is applied, and of an animation the first picture is taken.

    Args:
      source: a path, or the file's bytes.
      channels: 1 (grey) or 3 (RGB); as the file has when not given.
      size: (height, width) to resize to, bilinearly with antialiasing.
      name: what to call bytes in an error.

    Raises:
      DataError: when the file is missing, is no image, or is damaged.
    """
    where = name if isinstance(source, bytes) else str(source)
    if channels not in (None, 1, 3):
        raise DataError(f"{where}: images can be read with 1 channel or 3, not {channels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata in pictures that can be read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            with opened:
                opened.load()
                picture = _eight_bits(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise DataError(f"{where}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{where} is a folder; expected an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{where} is no image that can be read (PNG, JPEG, BMP, GIF, WebP, TIFF)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if reason := getattr(error, "strerror", None):  # the system's, not Pillow's
            raise DataError(f"{where} cannot be read: {reason}") from None
        raise DataError(f"{where}: the image is damaged ({error})") from None
    if channels is not None:
        picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = values.max(initial=0)
        # 32-bit integers are taken for 16 bits, or 8 if none is above 255; floating-point numbers for 0 to 1, or 255.
        if picture.mode == "F":
            scale = 255.0 if top <= 1 else 1.0
        else:
            scale = 1.0 if picture.mode == "I" and top <= 255 else 255 / 65535
        return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture).convert("RGB")
        red, green, blue = flat.split()
        grey = red.tobytes() == green.tobytes() == blue.tobytes()
        return flat.convert("L") if grey else flat
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
