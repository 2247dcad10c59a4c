"""Pictures of what `saliency`, `features` and `windows` find. Each function returns a `Figure`, as those of `plots`.

Images may be uint8 or floating point; the latter, preprocessed as they may be, are stretched to their own range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from jaxcnn.errors import UserError
from jaxcnn.inspect.features import Patches
from jaxcnn.inspect.plots import Figure, plain
from jaxcnn.inspect.windows import UnitReport, Window

_HEAT, _SIGNED, _FRAME = "inferno", "RdBu_r", "#d9822b"
_MOST_CHANNELS = 6


def visible(images: Any, together: bool = False) -> np.ndarray:
    """Images `(..., H, W, 1 or 3)` as colours from 0 to 1, `(..., H, W, 3)`.

    Args:
      together: stretch floating images to the range of all of them instead of each to its own.
    """
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise UserError(f"expected images (..., H, W, 1 or 3), got {images.shape}")
    if images.dtype == np.uint8:
        result = images / 255
    else:
        axes = None if together else (-3, -2, -1)
        low = images.min(axes, keepdims=True)
        result = (images - low) / np.maximum(images.max(axes, keepdims=True) - low, 1e-12)
    return np.broadcast_to(result, (*result.shape[:-1], 3)).astype(np.float32)


def signed(maps: Any) -> np.ndarray:
    """Gradients `(N, H, W, C)` as pictures `(N, H, W, 3)`: grey is 0, each map on its own scale."""
    maps = np.asarray(maps, np.float32)
    top = np.abs(maps).max((1, 2, 3), keepdims=True)
    result = 0.5 + 0.5 * maps / np.maximum(top, 1e-12)
    return np.broadcast_to(result if maps.shape[-1] in (1, 3) else result.mean(-1, keepdims=True), (*maps.shape[:3], 3))


def heat(images: Any, maps: Any, strength: float = 0.65) -> np.ndarray:
    """Heat maps `(N, H, W)` over their images, as colours `(N, H, W, 3)`; each from 0 to its own largest value.

    Where the map is 0 or below the image is grey and unchanged; where it is hottest, `strength` of the colour is heat.
    """
    pictures = visible(images)
    maps = np.maximum(np.asarray(maps, np.float32), 0)
    if maps.shape != pictures.shape[:3]:
        raise UserError(
            f"maps of {maps.shape} do not lie on images of {pictures.shape[:3]}: jaxcnn.inspect.saliency.resized"
        )
    share = maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    colour = matplotlib.colormaps[_HEAT](share)[..., :3]
    grey = np.broadcast_to(pictures.mean(-1, keepdims=True), pictures.shape)
    mix = strength * np.sqrt(share)[..., None]
    return ((1 - mix) * grey + mix * colour).astype(np.float32)


def explained(
    images: Any, maps: Mapping[str, Any], titles: Sequence[str] | None = None, heading: str | None = None
) -> Figure:
    """A row for each image: the image, and a column for each map by its name.

    Args:
      images: `(N, H, W, 1 or 3)`.
      maps: of `(N, H, W)`, which is laid over the image as heat, or `(N, H, W, C)`, shown by itself, 0 being grey.
      titles: of the rows.
      heading: above all.
    """
    pictures = visible(images)
    columns = {"image": pictures}
    for name, values in maps.items():
        values = np.asarray(values)
        columns[name] = heat(images, values) if values.ndim == 3 else signed(values)
    figure = Figure(
        figsize=(1.35 * len(columns) + 0.4, 1.4 * len(pictures) + 0.3 + (0.3 if heading else 0)), layout="constrained"
    )
    for i, row in enumerate(figure.subplots(len(pictures), len(columns), squeeze=False)):
        for axes, (name, column) in zip(row, columns.items(), strict=True):
            _picture(axes, column[i])
            if i == 0:
                axes.set_title(plain(name), fontsize=9)
        if titles is not None:
            row[0].set_ylabel(plain(titles[i]), fontsize=8)
    if heading:
        figure.suptitle(plain(heading), fontsize=10)
    return figure


def top_patches(found: Mapping[str, Patches], heading: str | None = None) -> Figure:
    """What excites units most: for each, by its name, the patches above and their maps below."""
    if not found:
        raise UserError("there are no patches to draw")
    count = max(len(p.images) for p in found.values())
    size = (0.8 * count + 0.9, 1.75 * len(found) + (0.4 if heading else 0.1))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01))
    rows = figure.subplots(2 * len(found), count, squeeze=False)
    for axes in rows.ravel():
        axes.axis("off")
    for i, (name, patches) in enumerate(found.items()):
        for j, (pixels, maps) in enumerate(
            zip(visible(patches.pixels, together=True), signed(patches.maps), strict=True)
        ):
            for axes, picture in ((rows[2 * i, j], pixels), (rows[2 * i + 1, j], maps)):
                _picture(axes, picture)
                axes.axis("on")
            rows[2 * i, j].set_title(f"{patches.values[j]:.2g}", fontsize=7, pad=2)
        rows[2 * i, 0].set_ylabel(plain(name), fontsize=8)
    if heading:
        figure.suptitle(plain(heading), fontsize=10)
    return figure


def fields(image: Any, windows: Mapping[str, Window], heading: str | None = None) -> Figure:
    """Receptive fields as rectangles on one image `(H, W, 1 or 3)`, a colour each, with their names."""
    picture = visible(image)
    height, width = picture.shape[:2]
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    for i, (name, window) in enumerate(windows.items()):
        _rectangle(axes, window, f"C{i % 10}", plain(name))
    reach = [(w.top, w.left, w.bottom, w.right) for w in windows.values()]
    top, left = (min([0, *(r[k] for r in reach)]) for k in (0, 1))
    bottom, right = (max([end, *(r[k] for r in reach)]) for k, end in ((2, height), (3, width)))
    axes.set(xlim=(left - 1, right), ylim=(bottom, top - 1))
    axes.tick_params(labelsize=7)
    # By its handles: of those it finds, matplotlib leaves out names that begin with an underscore.
    axes.legend(handles=axes.patches, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    if heading:
        figure.suptitle(plain(heading), fontsize=10)
    return figure


def unit(seen: UnitReport, image: Any, heading: str | None = None) -> Figure:
    """One unit: its receptive field on the image, the window of its layer's input, the weights, the products.

    Args:
      seen: what `see_unit` gives.
      image: the image `(H, W, 1 or 3)` that it was seen for.

    A row for each input channel, the six whose products are the largest where there are more; a dense layer's numbers
    stand in rows of forty. Red is positive, blue negative.
    """
    parts = {"input": seen.inputs}
    if seen.kernel is not None and seen.products is not None:
        parts |= {"weights": seen.kernel, "products": seen.products}
    flat = {name: _as_rows(values) for name, values in parts.items()}
    channels = flat["input"].shape[-1]
    weight = np.abs(list(flat.values())[-1]).sum((0, 1))
    chosen = np.sort(np.argsort(-weight, kind="stable")[:_MOST_CHANNELS])
    shown = len(chosen)
    figure = Figure(figsize=(2.6 + 1.5 * len(parts), max(2.6, 1.25 * shown + 0.7)), layout="constrained")
    grid = figure.add_gridspec(shown, len(parts) + 1, width_ratios=[1.7, *[1.0] * len(parts)])
    axes = figure.add_subplot(grid[:, 0])
    _picture(axes, visible(image))
    _rectangle(axes, seen.field.clipped(*np.shape(image)[:2]), _FRAME, None)
    axes.set_title("receptive field", fontsize=9)
    for j, (name, values) in enumerate(flat.items(), 1):
        top = float(np.abs(values).max()) or 1.0
        for row, c in enumerate(chosen):
            axes = figure.add_subplot(grid[row, j])
            axes.imshow(
                values[..., c], cmap=_SIGNED, vmin=-top, vmax=top, interpolation="nearest", aspect=_aspect(values)
            )
            axes.set(xticks=[], yticks=[])
            if values.shape[0] <= 5 and values.shape[1] <= 5:
                for (y, x), v in np.ndenumerate(values[..., c]):
                    color = "white" if abs(v) > 0.6 * top else "black"
                    axes.text(
                        x, y, f"{v:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=5, color=color
                    )
            if row == 0:
                axes.set_title(plain(name), fontsize=9)
            if j == 1 and channels > 1:
                axes.set_ylabel(f"channel {c}", fontsize=7)
    more = f" ({shown} of {channels} channels shown)" if shown < channels else ""
    what = f"{seen.layer}, unit ({', '.join(map(str, seen.place))})"
    if seen.total is None or seen.bias is None:
        text = f"{what}: {seen.value:.4g}{more}"
    else:
        text = f"{what}: sum of products {seen.total - seen.bias:.4g} + bias {seen.bias:.4g} = {seen.total:.4g}{more}"
    figure.suptitle(plain(f"{heading}\n{text}" if heading else text), fontsize=9)
    return figure


def _as_rows(values: np.ndarray) -> np.ndarray:
    """Numbers `(h, w, C)`; those of a dense layer as rows of at most 40."""
    if values.ndim == 3:
        return values
    flat = values.ravel()
    width = min(40, flat.size)
    return np.pad(flat, (0, -flat.size % width)).reshape(-1, width, 1)


def _aspect(values: np.ndarray) -> Any:
    return "equal" if max(values.shape[:2]) < 8 * min(values.shape[:2]) else "auto"


def _picture(axes: Any, picture: np.ndarray) -> None:
    axes.imshow(np.clip(picture, 0, 1), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _rectangle(axes: Any, window: Window, color: str, label: str | None) -> None:
    height, width = window.size
    place = (window.left - 0.5, window.top - 0.5)
    axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor=color, linewidth=1.8, label=label))
