"""The preprocessing of images that published weights expect."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.core import Layer
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.errors import DataError, UserError
from jaxcnn.files import regular
from jaxcnn.models.registry import families, published_weights


def preprocess(source: Layer | str | Path, size: Sequence[int] | None = None) -> Preprocess:
    """The preprocessing of published weights, for `make_step`, `fit`, `evaluate`, or raw uint8 images.

    Args:
      source: a model, for torchvision's weights and those of Flax's example: resize the shorter side to 256 bilinearly,
        crop the central 224x224, and normalize by ImageNet's mean and std. GoogLeNet has 0.5 and 0.5, because its
        published weights expect images from -1 to 1 (torchvision's `transform_input=True`). Models whose weights were
        made for another size or interpolation, such as EfficientNet, get those. Or a path, for timm's weights: a file
        with a `config.json` beside it, its folder, or the `config.json`, from which mean, std, input_size, crop_pct and
        interpolation are read; for a run of jaxcnn, its folder.
      size: (height, width) to which images are resized without a crop, for networks that take images of any size, such
        as HED; the other steps remain the same.

    Returns:
      A Preprocess. torchvision's IMAGENET1K_V2 weights need another size before the crop:
      `dataclasses.replace(preprocess(model), resize=(232, "bilinear"))`.

    Raises:
      UserError: for a model whose family has no published weights, or that takes images of any size, without `size`.
      DataError: when there is no config.json, or it cannot be used.
    """
    if not isinstance(source, Layer):
        made = _of_config(Path(source).expanduser())
        return made if size is None else Preprocess(_pair(size), made.mean, made.std)
    found = published_weights(source)
    if found is None:
        name = source.kind or repr(source)
        raise UserError(
            f"{name} is of no family with published weights ({', '.join(families())}): "
            "make your own preprocessing by cnn.data.Preprocess(size, mean, std)"
        )
    if size is not None:
        return Preprocess(_pair(size), found.mean, found.std)
    if found.size is None:
        raise UserError(f"{source.kind} takes images of any size: pass size=(height, width)")
    return Preprocess((found.size, found.size), found.mean, found.std, found.resize)


def _pair(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size={tuple(size)}: expected a height and a width of at least 1")
    return int(size[0]), int(size[1])


def _of_config(path: Path) -> Preprocess:
    if path.is_dir():
        path = path / "config.json"
    elif path.suffix != ".json":
        path = path.parent / "config.json"
    try:
        config = json.loads(regular(path).read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; preprocess(model) is for torchvision's weights") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    try:
        if "preprocess" in config:  # of a run; without one, its images are scaled to 0..1
            height, width, channels = config.get("image") or config["inputs"][0]
            plain = {"size": (height, width), "mean": (0.0,) * channels, "std": (1.0,) * channels}
            return Preprocess(**{name: tuple(value) for name, value in (config["preprocess"] or plain).items()})
        return _of_fields({**config, **config.get("pretrained_cfg", {})})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path} does not describe the preprocessing of images: {error}") from None


def _of_fields(fields: dict[str, Any]) -> Preprocess:
    mean, std = (tuple(float(v) for v in fields[name]) for name in ("mean", "std"))
    channels, height, width = (int(v) for v in fields.get("input_size", (3, 224, 224)))
    share = float(fields.get("crop_pct") or 0.875)
    method = fields.get("interpolation", "bilinear")
    if len(mean) != channels or len(std) != channels or min(height, width) < 1 or not 0 < share <= 1:
        raise ValueError("its mean, std, input_size and crop_pct do not fit together")
    if method not in ("bilinear", "bicubic"):
        raise ValueError(f"the interpolation {method!r} is neither bilinear nor bicubic")
    return Preprocess((height, width), mean, std, (math.floor(min(height, width) / share), method))
