"""The time left and the rate that training shows: without compilation, and nothing where nothing was measured."""

import io

import numpy as np
import pytest

import jaxcnn as cnn
from jaxcnn.train.progress import Display

RECORD = {"epoch": 1, "loss": 0.5, "images_per_second": 200.0}


def shown(monkeypatch: pytest.MonkeyPatch, seconds: list[float], records: list[dict], **options) -> list[str]:
    """What is printed after epochs that end at these times."""
    clock = iter(seconds)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Display(
        len(records) if "epochs" not in options else options.pop("epochs"), 400, stream=stream, **options
    ) as it:
        for record in records:
            it.epoch(record)
    return [line.split("0.5000")[1].strip() for line in stream.getvalue().splitlines()]


def test_the_time_left_does_not_count_compilation(monkeypatch):
    """An epoch of 400 images takes 2 s, and 3 s with its validation; the first one compiles for 40 s."""
    records = [{**RECORD, "epoch": e} for e in (1, 2, 3)]
    assert shown(monkeypatch, [43, 46, 49], records, epochs=21) == [
        "200 images/s  40s left",  # 20 epochs of 2 s; counting compilation it would be 14 minutes
        "200 images/s  57s left",  # 19 epochs of 3 s
        "200 images/s  54s left",
    ]


def test_a_resumed_run_begins_with_the_rate_too(monkeypatch):
    records = [{**RECORD, "epoch": e} for e in (7, 8)]
    assert shown(monkeypatch, [100, 103], records, epochs=10) == ["200 images/s  6s left", "200 images/s  6s left"]


def test_after_the_last_epoch_no_time_is_left(monkeypatch):
    assert shown(monkeypatch, [5], [RECORD]) == ["200 images/s"]


def test_a_rate_that_was_not_measured_is_not_shown(monkeypatch):
    """An epoch of a single step: the step that is compiled does not count, and there is no other."""
    records = [{**RECORD, "epoch": e, "images_per_second": 0.0} for e in (1, 2, 3)]
    assert shown(monkeypatch, [40, 43, 46], records) == ["", "3s left", ""]


@pytest.mark.parametrize(("rate", "text"), [(0.42, "0.42"), (3.14, "3.1"), (31.4, "31"), (12345.6, "12,346")])
def test_slow_rates_have_their_digits(rate, text, monkeypatch):
    assert shown(monkeypatch, [1], [{**RECORD, "images_per_second": rate}]) == [f"{text} images/s"]


def test_the_unit_is_the_tasks(monkeypatch):
    assert shown(monkeypatch, [1], [RECORD], unit="reviews") == ["200 reviews/s"]


def test_the_live_bar_shows_no_rate_before_it_is_measured(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = io.StringIO()
    stream.isatty = lambda: True
    with Display(10, 640, stream=stream) as display:
        display.update(1, 64, {"loss": 0.5}, 0.0)
        display._bar.refresh()
    assert "epoch 1/10" in stream.getvalue()
    assert "images/s" not in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_only_the_step_that_compiles_does_not_count(capsys):
    """Epochs of one step: the first has no rate, neither shown nor recorded, and the second is measured."""
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1)).astype(np.uint8)
    data = cnn.data.Dataset(images, np.arange(8) % 2, ("a", "b"), "noise")
    model = cnn.serial(f=cnn.flatten, d=cnn.dense(2))
    fitted = cnn.train.fit(model, data, cnn.train.Objective(unit="pairs"), epochs=2, batch_size=8)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert ["pairs/s" in line for line in lines] == [False, True]
    assert "images_per_second" not in fitted.history[0]
    assert fitted.history[1]["images_per_second"] > 0


def test_the_unit_follows_from_data_and_task():
    text = cnn.tasks.find("text")
    recipe = text.with_defaults(cnn.train.Recipe("text_cnn"))
    assert text.objective(recipe, {}).unit == "sentences"
    assert {cnn.tasks.find(name).unit for name in cnn.tasks.NAMES} == {"images", "sentences", "image pairs", "pictures"}
