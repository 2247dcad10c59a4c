"""The progress of training in a notebook: one output, redrawn seldom, small, and clean when it is stored."""

from __future__ import annotations

import io
import sys
import types
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jaxcnn as cnn
from jaxcnn.runs.primary import ACCURACY, LOSS
from jaxcnn.train import notebook
from jaxcnn.train.progress import Display

RECORD = {"epoch": 1, "loss": 0.5, "accuracy": 0.25, "images_per_second": 200.0}


class Handle:
    """What IPython's `display` returns."""

    def __init__(self) -> None:
        self.pages: list[dict[str, str]] = []

    def update(self, page: dict[str, str], raw: bool) -> None:
        assert raw
        self.pages.append(page)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A process that is the kernel of a notebook."""
    found = Handle()

    def display(page: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert (raw, display_id, found.pages) == (True, True, [])
        found.pages.append(page)
        return found

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return found


def records(count: int, **more: float) -> list[dict[str, Any]]:
    return [{**RECORD, "epoch": e, "loss": 1 / e, "validation_loss": 2 / e, **more} for e in range(1, count + 1)]


def test_only_a_kernel_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not notebook.in_notebook()
    terminal = types.SimpleNamespace()  # the shell of `ipython`
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: terminal))
    assert not notebook.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not notebook.in_notebook()


def test_many_short_epochs_are_few_drawings(handle: Handle, capsys: Any) -> None:
    """A thousand epochs of a millisecond: the first drawing and the last one."""
    with Display(1000, 64) as display:
        for record in records(1000, accuracy=0.5):
            display.epoch(record)
    assert len(handle.pages) <= 3
    assert handle.pages[0]["text/plain"] == "compiling"
    last = handle.pages[-1]
    assert last["text/plain"].splitlines()[0] == "(990 epochs before)"
    assert last["text/plain"].splitlines()[-1] == (
        "epoch 1000/1000  loss 0.0010  accuracy 50.00 %  validation loss 0.0020"
    )
    assert sum(map(len, last.values())) < 6000
    assert "images/s" not in str(last)
    assert "left" not in str(last)
    assert capsys.readouterr().out == ""


def test_the_progress_inside_an_epoch(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_EVERY", 0)
    with Display(4, 100, unit="sentences") as display:
        display.update(1, 25, {"loss": 0.5}, 50.0)
        assert handle.pages[-1]["text/plain"] == "epoch 1/4  loss 0.5000  50 sentences/s  8s left"
        assert "width:25%" in handle.pages[-1]["text/html"]
        display.epoch(RECORD)
        assert handle.pages[-1]["text/plain"].startswith("epoch 1/4  loss 0.5000  accuracy 25.00 %  200 sentences/s")
        display.line("the <notice>")
    assert "<div>the &lt;notice&gt;</div>" in handle.pages[-1]["text/html"]
    assert handle.pages[-1]["text/plain"].endswith("the <notice>")


def test_a_training_that_stops_says_so(handle: Handle) -> None:
    def stopped() -> None:
        with Display(4, 100) as display:
            display.epoch(RECORD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "stopped after epoch 1/4  loss 0.5000" in handle.pages[-1]["text/html"]


def test_the_curve_has_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(3)
    made[1]["validation_loss"] = float("nan")
    svg = ElementTree.fromstring(notebook.curves(made, LOSS))
    lines = [e for e in svg.iter() if e.tag.endswith("polyline")]
    points = [[tuple(map(float, p.split(","))) for p in line.get("points", "").split()] for line in lines]
    assert [len(line) for line in points] == [3, 2]  # the value that is not finite is left out
    xs, ys = zip(*points[0], strict=True)
    assert xs[1] - xs[0] == xs[2] - xs[1]
    # Losses 1, 1/2, 1/3 of training, up to 2 of validation: heights in proportion to the values, to a pixel.
    heights = [(ys[2] - y) / (ys[2] - points[1][0][1]) for y in ys]
    np.testing.assert_allclose(heights, [(1 - 1 / 3) / (2 - 1 / 3), (1 / 2 - 1 / 3) / (2 - 1 / 3), 0], atol=0.02)
    text = [e.text for e in svg.iter() if e.text]
    assert text == ["loss", "training", "validation", "2", "0.333", "epoch 1", "3"]
    assert "loss, logarithmic" in notebook.curves(records(50), LOSS)
    assert len(ElementTree.fromstring(notebook.curves(records(500), ACCURACY))) == 2
    assert len(notebook.curves(records(500), ACCURACY)) < 4000
    assert notebook.curves(made[:1], LOSS) == ""


def test_what_a_training_returns_is_short(handle: Handle, capsys: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1)).astype(np.uint8)
    data = cnn.data.Dataset(images, np.arange(8) % 2, ("a", "b"), "noise")
    model = cnn.serial(f=cnn.flatten, d=cnn.dense(2))
    fitted = cnn.train.fit(model, data, test=data, epochs=2, batch_size=4)
    assert capsys.readouterr().out == ""
    assert handle.pages[-1]["text/plain"].count("epoch ") == 2
    assert repr(fitted.state) == "TrainState(step=4, 34 parameters)"
    text = repr(fitted.test)
    assert text.startswith("Evaluation(")
    assert text.endswith("; outputs (8, 2) float32)")
    assert fitted.test is not None
    assert f"<td>loss</td><td>{fitted.test.metrics['loss']:.4f}</td>" in fitted.test._repr_html_()
    trained = cnn.train.TrainedModel(
        model,
        fitted.params,
        fitted.model_state,
        fitted.preprocess,
        (4, 4, 1),
        ("a", "b"),
        {"model": "mine", "data": "d"},
    )
    assert repr(trained) == "TrainedModel(mine on d; 34 parameters; images 4x4x1; 2 classes)"
    recipe = cnn.train.Recipe("lenet5", lr=0.01, augment=("flip", "crop"))
    assert repr(recipe) == "Recipe('lenet5', lr=0.01, augment='flip,crop')"
    assert eval(repr(recipe), {"Recipe": cnn.train.Recipe}) == recipe


def test_a_terminal_gets_lines(capsys: Any) -> None:
    with Display(2, 64, stream=io.StringIO()) as display:
        display.epoch(RECORD)
        assert "epoch 1/2" in display.stream.getvalue()  # type: ignore[attr-defined]
