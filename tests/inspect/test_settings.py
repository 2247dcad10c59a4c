"""The picture of a sweep: what its axes, lines and marks say."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcnn.errors import UserError
from jaxcnn.inspect.settings import by_setting


def test_one_setting_has_its_means_spread_and_failures():
    points = [({"lr": 0.001}, [80.0, 90.0]), ({"lr": 0.1}, [None, 70.0]), ({"lr": 0.01}, [60.0, 64.0])]
    (axes,) = by_setting(points, "validation accuracy (%)").axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("lr", "validation accuracy (%)", "log")
    means, bars = axes.containers[0].lines[0], axes.containers[0].lines[2][0]
    assert means.get_xdata().tolist() == [0.001, 0.01, 0.1]
    assert means.get_ydata().tolist() == [85.0, 62.0, 70.0]
    heights = [float(np.ptp(segment[:, 1])) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [50**0.5, 8**0.5, 0])  # sample standard deviations
    single = next(line for line in axes.get_lines() if line.get_marker() == ".")
    assert sorted(single.get_ydata()) == [60, 64, 80, 90]
    failed = next(line for line in axes.get_lines() if line.get_marker() == "x")
    assert list(failed.get_xdata()) == [0.1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["failed"]


def test_two_settings_have_a_panel_each_with_the_other_in_colours():
    points = [({"lr": lr, "optimizer": name}, [k + lr]) for lr in (0.001, 0.1) for k, name in enumerate(("adam", "$x"))]
    first, second = by_setting(points, "loss").axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("lr", "optimizer")
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["optimizer adam", r"optimizer \$x"]
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["lr 0.001", "lr 0.1"]
    assert [label.get_text() for label in second.get_xticklabels()] == ["adam", r"\$x"]
    assert first.containers[1].lines[0].get_ydata().tolist() == [1.001, 1.1]


@pytest.mark.parametrize(
    ("values", "scale", "labels"),
    [
        ([0.1, 0.2, 0.3], "linear", ["0.1", "0.2", "0.3"]),
        ([1e-4, 1e-2], "log", ["0.0001", "0.01"]),
        ([0.0, 1e-5, 1e-3], "linear", ["0", "1e-05", "0.001"]),  # as words: 0 has no place on a logarithmic axis
        ([None, 0.9], "linear", ["0.9", "not given"]),
        ([True, False], "linear", ["True", "False"]),
    ],
)
def test_the_axis_fits_the_values(values, scale, labels):
    (axes,) = by_setting([({"a": value}, [1.0]) for value in values], "loss").axes
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == labels


def test_what_cannot_be_drawn():
    with pytest.raises(UserError, match="no setting differs"):
        by_setting([({"a": 1}, [1.0])], "loss")
    with pytest.raises(UserError, match="none of these runs has the metric"):
        by_setting([({"a": 1}, [None]), ({"a": 2}, [])], "loss")
