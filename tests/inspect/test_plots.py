"""Pictures of a run: readable for one mistake and for many, for one class and for a thousand, with long names."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from jaxcnn import data
from jaxcnn.errors import UserError
from jaxcnn.inspect import plots

RECORDS = [{"epoch": 1, "loss": 2.0, "accuracy": 0.5, "validation_loss": 2.2, "validation_accuracy": 0.45}]
LONG = ("American Staffordshire terrier, pit bull terrier", "n02123045_tabby_cat_Felis_catus", "dog", "$0_$50")


def _boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each text of a drawn figure with the rectangle that it takes, in pixels."""
    figure.savefig(io.BytesIO(), format="png")
    texts: list[Text] = list(figure.texts)
    for axes in figure.axes:
        texts += [axes.title, *axes.texts]
        if axes.axison:
            texts += [axes.xaxis.label, axes.yaxis.label]
            for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
                texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    if figure._suptitle is not None:
        texts.append(figure._suptitle)
    return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(texts) if text.get_text().strip()]


def _nothing_collides(figure: Figure) -> None:
    boxes = _boxes(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1, f"{text!r} is cut off"
    for (text, one), (other, two) in itertools.combinations(boxes, 2):
        apart = one.x1 <= two.x0 + 1 or two.x1 <= one.x0 + 1 or one.y1 <= two.y0 + 1 or two.y1 <= one.y0 + 1
        assert apart, f"{text!r} lies on {other!r}"


@pytest.mark.parametrize("classes", [("0", "1", "2"), ("airplane", "automobile", "not a five"), LONG])
@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_mistakes_are_readable_whatever_their_number_and_the_names(count, classes):
    labels = np.arange(40) % len(classes)
    some = data.Dataset(np.zeros((40, 8, 8, 1), np.uint8), labels, classes)
    said = np.where(np.arange(40) < count, (labels + 1) % len(classes), labels)
    figure = plots.mistakes(some, np.eye(len(classes))[said])
    _nothing_collides(figure)
    heading = {1: "1 mistake, ", 3: "3 mistakes, true", 8: "8 mistakes, true", 40: "40 mistakes, the 32 surest, "}[
        count
    ]
    assert figure.get_suptitle().startswith(heading)
    (axes,) = figure.axes
    assert len(axes.images) == len(axes.texts) == min(count, 32)


@pytest.mark.parametrize("count", [1, 2, 4, 20, 21, 100])
def test_confusion_has_a_name_for_each_row_and_none_lies_on_another(count):
    names = [f"{LONG[0]} {i}" for i in range(count)] if count < 5 else [f"class number {i}" for i in range(count)]
    figure = plots.confusion(1234567 * np.eye(count, dtype=int), names)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == count
    _nothing_collides(figure)


def test_confusion_of_a_thousand_classes_lists_the_most_frequent_mistakes_by_name():
    matrix = 10 * np.eye(1000, dtype=int)
    matrix[2, 999], matrix[500, 1] = 3, 7
    figure = plots.confusion(matrix, [f"class {i}" for i in range(1000)])
    axes, beside = figure.axes
    assert beside.texts[0].get_text().splitlines()[2:] == ["7x class 500 → class 1", "3x class 2 → class 999"]
    shown = axes.images[0].get_array()
    assert shown.shape == (334, 334)  # blocks of 3
    assert shown[0, 333] == pytest.approx(np.sqrt(3 / 13))  # a mistake is seen, though its block is mostly empty
    _nothing_collides(figure)


def test_curves_of_one_epoch_have_whole_epochs_below_and_their_points_inside():
    for axes in plots.curves(RECORDS).axes:
        axes.figure.savefig(io.BytesIO(), format="png")
        low, high = axes.get_ylim()
        assert all(low <= y < high for line in axes.lines for y in line.get_ydata())
        assert list(axes.get_xticks()) == [0, 1, 2]
    with pytest.raises(UserError, match="at least one epoch"):
        plots.curves([])
