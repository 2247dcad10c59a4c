"""How a result of `fit` is shown: short, whatever the network, and with its figures."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import jaxcnn as cnn
from jaxcnn.train.report import result_html, result_text

RESULT = {
    "model": "lenet5", "data": "digits", "seed": 0, "epochs": 20, "best_epoch": 12, "steps": 400, "params": 61706,
    "train_loss": 0.25, "train_accuracy": 0.5, "validation_loss": 0.5, "validation_accuracy": 0.75,
    "test_loss": 0.125, "test_accuracy": 0.9875, "test_f": 0.5, "seconds": 187.2,
}  # fmt: skip
HISTORY = [
    {"epoch": e, "step": 20 * e, "loss": 1 / e, "validation_loss": 2 / e, "validation_accuracy": 0.5, "seconds": 1.0}
    for e in range(1, 151)
]


class Table(HTMLParser):
    """The rows of all tables of a text, and whether each element is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def fitted(result: dict = RESULT, history: list = HISTORY) -> SimpleNamespace:
    return SimpleNamespace(result=result, history=history)


def test_the_line_has_the_figures_of_the_test_set():
    assert result_text(fitted()) == (
        "FitResult(lenet5; test loss 0.1250, accuracy 98.75 %, F 50.00 %; "
        "digits; 61,706 parameters; epoch 12 of 20; 3m07s)"
    )


def test_a_network_of_several_lines_is_one():
    text = result_text(fitted({**RESULT, "model": "serial(\n  conv1=conv(6, 5),\n  act1=tanh)"}))
    assert text.startswith("FitResult(serial( conv1=conv(6, 5), act1=tanh); ")


@pytest.mark.parametrize(("known", "text"), [("validation", "loss 0.5000, accuracy 75.00 %"), ("train", "loss 0.2500")])
def test_without_a_test_set_it_has_those_of_validation_or_training(known, text):
    kept = ("validation_", "train_") if known == "validation" else ("train_",)
    result = {k: v for k, v in RESULT.items() if k.startswith(kept) or not re.match("test_|validation_|train_", k)}
    assert f"{'training' if known == 'train' else known} {text}" in result_text(fitted(result))


def test_the_table_has_a_row_for_each_metric_and_a_column_for_each_part():
    rows = Table(result_html(fitted())).rows
    assert rows[:4] == [
        ["", "training", "validation", "test"],
        ["loss", "0.2500", "0.5000", "0.1250"],
        ["accuracy", "50.00 %", "75.00 %", "98.75 %"],
        ["F", "", "", "50.00 %"],
    ]
    assert rows[4] == ["epoch", "loss", "validation loss", "validation accuracy"]
    assert rows[5] == ["51", "0.0196", "0.0392", "50.00 %"]
    assert len(rows) == 5 + 100
    assert "the last 100 of 150 epochs" in result_html(fitted())
    assert "<summary>1 epoch</summary>" in result_html(fitted(history=HISTORY[:1]))
    assert "<details>" not in result_html(fitted(history=[]))


def test_names_from_outside_are_escaped():
    hostile = {**RESULT, "model": "<script>\x1b[2J", "data": "a & b" * 100, "test_<b>": 1.0}
    text = result_html(fitted(hostile))
    Table(text)
    assert "<script>" not in text
    assert "<b>:" not in text
    assert "&lt;b&gt;" in text
    assert "\x1b" not in text + result_text(fitted(hostile))
    assert len(result_text(fitted(hostile))) < 400


def test_a_result_of_fit_is_short_wherever_it_is_shown():
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1)).astype(np.uint8)
    data = cnn.data.Dataset(images, np.arange(16) % 2, ("a", "b"), "noise")
    result = cnn.train.fit(cnn.models.lenet5(classes=2), data, test=data, epochs=1, batch_size=8, show=False)
    assert repr(result) == result_text(result)
    assert len(repr(result)) < 400
    assert len(result._repr_html_()) < 2000
    accuracy = f"{100 * result.result['test_accuracy']:.2f} %"
    assert ["accuracy", f"{100 * result.result['train_accuracy']:.2f} %", accuracy] in Table(result._repr_html_()).rows
