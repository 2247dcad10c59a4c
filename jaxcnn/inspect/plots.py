"""Pictures. Each function returns a `matplotlib.figure.Figure`, to be shown by a notebook or saved by `savefig`."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, MaxNLocator

from jaxcnn.data.dataset import Dataset
from jaxcnn.errors import UserError
from jaxcnn.format import printable, shortened
from jaxcnn.metrics import is_share, name_of

_TRAIN, _VALIDATION = "#3b6fb6", "#d9822b"

_NO_GLYPH = re.compile(r"Glyph (\d+) .*missing from (?:current font|font\(s\) (.*?))\.?$", re.DOTALL)


def plain(text: object, most: int | None = None) -> str:
    """Text from outside, the name of a class for instance, as matplotlib is to be given it.

    matplotlib takes what stands between two dollar signs for a formula, and raises where it is none. Here a dollar sign
    is a dollar sign, and what no font has (control characters, bytes that are no text) is escaped.

    Args:
      most: cut it to so many characters.
    """
    shown = printable(text, lines=True)
    return (shown if most is None else shortened(shown, most)).replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """The width of the text's longest line, set in `size` points, in inches."""
    font = FontProperties(size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a character that no font has; `savefig` says so once
        widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return float(max(widths)) / 72


def _cut(text: str, inches: float, size: float, middle: bool = False) -> str:
    """The text, shortened until it fits into so many inches; with `middle`, its end stays."""

    def cut(most: int) -> str:
        if not middle or most >= len(text):
            return shortened(text, most)
        return f"{text[: most // 2]}…{text[len(text) - (most - 1 - most // 2) :]}"

    most = len(text)
    while most > 2 and text_width(cut(most), size) > inches:
        most -= 1
    return cut(most)


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows by itself; matplotlib's own waits for `%matplotlib inline`.

    Characters that no font has are one warning, not one for each.
    """

    def savefig(self, *args: Any, **options: Any) -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            super().savefig(*args, **options)
        missing = {}
        for each in told:
            if found := _NO_GLYPH.match(str(each.message)):
                missing[chr(int(found[1]))] = found[2] or "the font"
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno, source=each.source)
        if missing:
            warnings.warn(
                f"{next(iter(missing.values()))} has no glyph for {len(missing)} of the characters in a picture, which "
                f"are drawn as boxes: {shortened(printable(''.join(missing)), 20)}. matplotlib draws them in a font "
                "that has them: matplotlib.rcParams['font.family'] = ['DejaVu Sans', 'NAME OF THE FONT']",
                stacklevel=2,
            )

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def placed(width: float, height: float, **options: Any) -> Figure:
    """A figure of so many inches whose parts are placed by hand, whatever rcParams say.

    Where all sizes are known, matplotlib's layout would take longer than the drawing.
    """
    return Figure(figsize=(width, height), layout="none", **options)  # type: ignore[arg-type]  # its stubs lack "none"


def curves(history: Sequence[Mapping[str, Any]], primary: str | None = None, higher_is_better: bool = True) -> Figure:
    """Loss and error by epoch, of training and validation, from the records of `fit` or the lines of metrics.jsonl.

    Args:
      primary: the figure that is drawn beside the loss; when not given, accuracy (as the error) where it was measured.
      higher_is_better: whether it is maximized.

    Raises:
      UserError: when there are no records.
    """
    if not history:
        raise UserError("expected the records of at least one epoch, got none")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    measures = _measures(history[0], primary, higher_is_better)
    epochs = [r["epoch"] for r in history]
    for axes, (name, label, scale) in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        lines = []
        for key, title, color in ((name, "training", _TRAIN), (f"validation_{name}", "validation", _VALIDATION)):
            if key in history[0]:
                values = [scale(r[key]) for r in history]
                # Not clipped: a point on the edge, an error of zero for instance, is drawn whole.
                axes.plot(epochs, values, color=color, label=title, marker="o", markersize=3, clip_on=False, zorder=3)
                lines += values
        axes.set(xlabel="epoch", ylabel=label)
        _by_epoch(axes, lines)
        axes.legend(frameon=False)
    return figure


def _measures(
    record: Mapping[str, Any], primary: str | None, higher: bool
) -> list[tuple[str, str, Callable[[float], float]]]:
    """What is drawn of the records: the name of a measure, what the axis is called, and its scale."""
    measures: list[tuple[str, str, Callable[[float], float]]] = [("loss", "loss", lambda v: v)]
    name = "accuracy" if primary is None else primary
    if name == "loss" or not (name in record or f"validation_{name}" in record):
        return measures
    if name == "accuracy" and higher:
        measures.append((name, "error (%)", lambda v: 100 * (1 - v)))
    elif higher and is_share(name):
        measures.append((name, f"{name_of(name)} (%)", lambda v: 100 * v))
    else:
        measures.append((name, name_of(name), lambda v: v))
    return measures


def compare(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], primary: str | None = None, higher_is_better: bool = True
) -> Figure:
    """Loss and error by epoch of several runs, a colour each: lines are validation, dotted ones training.

    Args:
      histories: the records of each run, as `curves` takes them, by the name that it is to have.
      primary, higher_is_better: as in `curves`.
    """
    shown = {name: history for name, history in histories.items() if history}
    figure = Figure(figsize=(11, max(3.6, 0.6 + 0.2 * len(shown))), layout="constrained")
    measures = _measures(
        {name: None for history in shown.values() for record in history for name in record}, primary, higher_is_better
    )
    colors = distinct(len(shown))
    for axes, (measure, label, scale) in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        values = []
        for color, history in zip(colors, shown.values(), strict=True):
            for key, style in ((measure, ":"), (f"validation_{measure}", "-")):
                points = [(r["epoch"], scale(r[key])) for r in history if key in r]
                if points:
                    # A run of one epoch is a point.
                    marker = "o" if len(points) == 1 else None
                    axes.plot(
                        *zip(*points, strict=True), style, color=color, marker=marker, linewidth=1.5, markersize=3
                    )
                    values += [value for _, value in points]
        axes.set(xlabel="epoch", ylabel=label)
        _by_epoch(axes, values)
    lines = [Line2D([], [], color=color, label=plain(name)) for color, name in zip(colors, shown, strict=True)]
    styles = [Line2D([], [], color="black", linestyle=s, label=n) for s, n in (("-", "validation"), (":", "training"))]
    figure.legend(handles=lines + styles, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def learning_rates(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggestion: float) -> Figure:
    """The loss by learning rate: of each step, smoothed, and with a line at the suggested rate.

    Losses above the first one, where training diverges, are cut off at twice its height above the lowest.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=_TRAIN, alpha=0.35, linewidth=1, label="loss of a batch")
    axes.plot(rates, smoothed, color=_TRAIN, linewidth=2, label="smoothed")
    axes.axvline(suggestion, color=_VALIDATION, linestyle="--", label=f"suggestion: {suggestion:.2g}")
    low, first = np.nanmin(smoothed), smoothed[0]
    known = losses[np.isfinite(losses) & (losses <= first + (first - low))]
    margin = 0.06 * (known.max() - known.min()) or 1
    axes.set_ylim(known.min() - margin, known.max() + margin)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", xlim=(rates[0], rates[-1]))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def distinct(count: int) -> list[tuple[float, ...]]:
    """This number of different colours."""
    for name, most in (("tab10", 10), ("tab20", 20)):
        if count <= most:
            return [tuple(color) for color in matplotlib.colormaps[name](np.arange(count))]
    return [tuple(color) for color in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def _by_epoch(axes: Any, values: Sequence[float]) -> None:
    """Whole epochs below; a logarithmic axis where the values call for it."""
    known = [value for value in values if np.isfinite(value)]
    if known and min(known) > 0 and max(known) > 20 * min(known):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    elif not known or min(known) >= 0:
        axes.set_ylim(0, 1.08 * max(known, default=0) or 1)
    low, high = axes.get_xlim()
    if high - low < 1:  # one epoch: matplotlib would label fractions of it
        axes.set_xlim(round((low + high) / 2) - 1, round((low + high) / 2) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


_MOST_NAMED = 120  # classes whose names stand beside the confusion matrix; of more they would be too small to read
_MOST_DRAWN = 400  # rows of a confusion matrix that are drawn one by one; a pixel or more each
_AXIS = 0.42  # inches: an axis's label, and what is between it and the names of the classes
_LISTED = 30  # confusions that are listed beside a matrix without names


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix: rows are the true classes, columns the predicted ones; off the diagonal are the mistakes.

    Colour is the share of the row, so that rare classes show. Up to 20 classes the counts are written in, up to 120
    the classes' names stand beside it. Of more classes the most frequent confusions are listed by name instead, and of
    more than 400 a cell is the largest share of a block of classes.
    """
    matrix = np.asarray(matrix)
    count = len(matrix)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    title = f"{np.trace(matrix):,} of {matrix.sum():,} right"
    side = max(min(10.5, 1.7 + 0.42 * count), text_width(title, 12) - 0.1)  # of the matrix, the title above it
    named = count <= _MOST_NAMED
    size = min(8.0, 0.8 * 72 * side / count) if named else 8.0
    names = [_cut(printable(name), 2.6, size) for name in classes]
    label = max(text_width(name, size) for name in names) if named else 0.4
    upright = named and max(map(len, names)) > 2  # the names below
    below = (label if upright else 0.14) + _AXIS
    listed = [] if named else _confused(matrix, names)
    beside = max((text_width(line, 8) for line in listed), default=0)
    width = label + _AXIS + side + (beside + 0.4 if listed else 0.1)
    height = below + side + 0.32
    figure = placed(width, height)
    axes = figure.add_axes(((label + _AXIS) / width, below / height, side / width, side / height))
    if listed:
        text = figure.add_axes((1 - (beside + 0.1) / width, below / height, beside / width, side / height))
        text.axis("off")
        text.text(0, 1, plain("\n".join(listed)), transform=text.transAxes, va="top", fontsize=8, linespacing=1.5)
    # A square root brings out the few per cent that are wrong.
    shown = np.sqrt(_blocks(share, -(-count // _MOST_DRAWN)))
    edges = (-0.5, count - 0.5, count - 0.5, -0.5)
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, extent=edges, interpolation="nearest")
    if count <= 20:
        digits = max(text_width(str(value), 8) for value in matrix.ravel())
        small = 8 * min(1.0, 0.9 * side / count / digits)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            color = "white" if share[i, j] > 0.3 else "black"
            axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=small, color=color)
    if named:
        names = [plain(name) for name in names]
        axes.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    axes.grid(False)
    number = "" if named else ", by number"
    axes.set_xlabel(f"predicted{number}", fontsize=10)
    axes.set_ylabel(f"true{number}", fontsize=10)
    axes.set_title(title, fontsize=12)
    return figure


def _blocks(share: np.ndarray, side: int) -> np.ndarray:
    """The largest value of each block of `side` rows and columns."""
    more = -len(share) % side
    padded = np.pad(share, ((0, more), (0, more)))
    return padded.reshape(len(padded) // side, side, len(padded) // side, side).max((1, 3))


def _confused(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """The most frequent confusions, a line each: how often, the true class, the predicted one."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    places = [divmod(int(place), len(wrong)) for place in order]
    lines = [f"{wrong[i, j]:,}x {names[i]} → {names[j]}" for i, j in places if wrong[i, j]]
    return ["most frequent mistakes, true → predicted:", "", *lines] if lines else []


def mistakes(data: Dataset, probabilities: np.ndarray, most: int = 32) -> Figure:
    """The mistakes that the network is surest of, each with the true class, the predicted one, and its probability."""
    predicted = probabilities.argmax(1)
    sure = probabilities.max(1)
    wrong = np.flatnonzero(predicted != data.labels)
    count = len(wrong)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    if not count:
        figure = placed(4, 1)
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center")
        return figure
    names = {
        label: printable(data.classes[label]) for label in {*data.labels[wrong].tolist(), *predicted[wrong].tolist()}
    }
    found = [(names[data.labels[i]], names[predicted[i]], f"  {100 * sure[i]:.0f} %") for i in wrong]
    titles = [f"{true} → {said}{how}" for true, said, how in found]
    if max(text_width(title, _TITLE) for title in titles) > _CELL - _GAP:
        room = _WIDEST - _GAP
        narrow = room - text_width("→   100 %", _TITLE)
        # Names that begin alike are cut in the middle.
        middle = len({_cut(name, narrow, _TITLE) for name in names.values()}) < len(set(names.values()))
        titles = [
            f"{_cut(true, room, _TITLE, middle)}\n"
            f"→ {_cut(said, room - text_width(f'→ {how}', _TITLE), _TITLE, middle)}{how}"
            for true, said, how in found
        ]
    which = "" if count == len(wrong) else f", the {len(wrong)} surest"
    heading = f"{count:,} mistake{'s' if count > 1 else ''}{which}, true → predicted"
    return images(data.images[wrong], titles, heading)


_CELL, _WIDEST, _GAP = 1.25, 2.1, 0.12  # inches: an image's place in a grid, the widest for a long title, between them
_TITLE, _HEADING = 8, 10  # points


def images(pictures: np.ndarray, titles: Sequence[str] | None = None, heading: str | None = None) -> Figure:
    """A grid of images `(N, H, W, 1 or 3)`, with a title each. Floating-point images are shown from their own range.

    Titles may have several lines. Where they are long the grid has fewer columns, and what is too long is cut.
    """
    pictures = np.asarray(pictures)
    shown = ["\n".join(_cut(line, _WIDEST - _GAP, _TITLE) for line in _lines(title)) for title in titles or ()]
    cell = max([_CELL, *(text_width(title, _TITLE) + _GAP for title in shown)])
    columns = min(int(8 * _CELL / cell), len(pictures))
    rows = -(-len(pictures) // columns)
    lines = max((title.count("\n") + 1 for title in shown), default=0)
    above = 0.06 + 0.14 * lines  # an image, its title
    side = min(cell, 1.7) - _GAP
    row = above + side + 0.06
    top = 0.32 if heading else 0.0
    width = max(cell * columns, text_width(printable(heading, lines=True), _HEADING) + _GAP if heading else 0)
    height = row * rows + top
    # One Axes holds all images, in inches. One for each would take two thirds of the time, for ticks that are not
    # drawn.
    figure = placed(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    for i, picture in enumerate(pictures):
        down, right = divmod(i, columns)
        middle = width / 2 + cell * (right - (columns - 1) / 2)
        bottom = height - top - row * down - above - side
        high, wide = picture.shape[:2]
        inches = min((cell - _GAP) / wide, side / high)  # of a pixel
        over = bottom + (side + inches * high) / 2
        extent = (middle - inches * wide / 2, middle + inches * wide / 2, over - inches * high, over)
        _show(axes, picture, extent)
        if shown:
            axes.text(middle, over + 3 / 72, plain(shown[i]), fontsize=_TITLE, ha="center", va="baseline")
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal", anchor="N")
    if heading:
        figure.suptitle(plain(heading), fontsize=_HEADING, y=1 - 0.09 / height)
    return figure


def _lines(title: object) -> list[str]:
    return printable(title, lines=True).split("\n")


def filters(kernel: np.ndarray) -> Figure:
    """The filters of a convolution `(h, w, C, K)`: in colour for three channels, else a row for each input channel.

    Blue is negative, red positive, white zero.
    """
    kernel = np.asarray(kernel, np.float32)
    _, _, channels, count = kernel.shape
    if channels == 3:
        scaled = (kernel - kernel.min((0, 1, 2))) / np.maximum(np.ptp(kernel, axis=(0, 1, 2)), 1e-12)
        return images(scaled.transpose(3, 0, 1, 2))
    figure = Figure(figsize=(min(16, 0.8 * count), min(16, 0.8 * channels + 0.2)), layout="constrained")
    top = np.abs(kernel).max() or 1.0
    for i, axes in enumerate(figure.subplots(channels, count, squeeze=False).ravel()):
        axes.imshow(kernel[:, :, i // count, i % count], cmap="RdBu_r", vmin=-top, vmax=top)
        axes.axis("off")
    return figure


def activation_maps(maps: np.ndarray, heading: str | None = None) -> Figure:
    """The maps `(H, W, C)` of one layer for one image, a picture a channel, all on one scale."""
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3:
        raise ValueError(f"expected the maps of one image, (H, W, C), got {maps.shape}")
    low, high = maps.min(), maps.max()
    scaled = (maps - low) / max(high - low, 1e-12)
    return images(scaled.transpose(2, 0, 1)[..., None], [str(c) for c in range(maps.shape[2])], heading)


def _show(axes: Any, picture: np.ndarray, extent: tuple[float, ...]) -> None:
    top = 255 if picture.dtype == np.uint8 else max(float(picture.max()), 1.0)
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=min(0.0, float(picture.min())), vmax=top, extent=extent)
    else:
        axes.imshow(picture if picture.dtype == np.uint8 else np.clip(picture, 0, 1), extent=extent)
