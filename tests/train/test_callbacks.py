"""Callbacks: what they see, add to the record and save; and that they end a training where they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as cnn
from jaxcnn import losses, train
from jaxcnn.data import Dataset
from jaxcnn.errors import UserError

RNG = np.random.default_rng(0)
DATA = Dataset(RNG.integers(0, 256, (40, 4, 4, 1), np.uint8), np.arange(40) % 2, ("a", "b"), "noise")
VAL = DATA.take(slice(20))


def network() -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, drop=cnn.dropout(0.2), head=cnn.dense(2))


def fit(*callbacks: train.Callback, **settings: Any) -> train.FitResult:
    return train.fit(
        network(), DATA, validation=VAL, batch_size=10, show=False, callbacks=callbacks, **{"epochs": 3, **settings}
    )


class Seen(train.Callback):
    """Writes down each call; counts steps over resumptions."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps = 0

    def begin(self, training: train.Training) -> None:
        self.calls.append(f"begin at epoch {len(training.history)}")

    def step(self, training: train.Training) -> None:
        self.steps += 1
        assert set(training.metrics) == {"loss", "accuracy"}
        assert training.epoch == len(training.history) + 1

    def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
        assert {"epoch", "step", "loss", "validation_loss", "validation_accuracy"} <= set(record)
        record["steps_seen"] = self.steps
        record["norm"] = optax.tree.norm(training.variables[0])  # an array of one number
        self.calls.append(f"epoch {record['epoch']}")

    def end(self, training: train.Training) -> None:
        self.calls.append("end")

    def save(self) -> Any:
        return {"steps": self.steps}

    def load(self, saved: Any) -> None:
        self.steps = saved["steps"]


def test_a_callback_sees_a_training_and_adds_to_its_record(tmp_path: Path) -> None:
    seen = Seen()
    fitted = fit(seen, run=tmp_path / "run")
    assert seen.calls == ["begin at epoch 0", "epoch 1", "epoch 2", "epoch 3", "end"]
    assert [record["steps_seen"] for record in fitted.history] == [4, 8, 12]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines == fitted.history
    assert lines[-1]["norm"] == pytest.approx(float(optax.tree.norm(fitted.state.params)), rel=1e-6)


def test_the_figures_are_those_without_callbacks() -> None:
    alone, watched = fit(), fit(Seen())
    assert jax.tree.all(jax.tree.map(np.array_equal, alone.params, watched.params))
    for a, b in zip(alone.history, watched.history, strict=True):
        assert {k: b[k] for k in a if k not in ("seconds", "images_per_second")} == {
            k: v for k, v in a.items() if k not in ("seconds", "images_per_second")
        }


def test_a_resumed_run_resumes_its_callbacks(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Kills(Seen):
        name = "Seen"

        def step(self, training: train.Training) -> None:
            super().step(training)
            if self.steps == 6:
                raise Killed

    whole = fit(Seen())
    with pytest.raises(Killed):
        fit(Kills(), run=tmp_path / "run")
    seen = Seen()
    again = fit(seen, run=train.Run(tmp_path / "run", resume=True))
    assert seen.calls[0] == "begin at epoch 1"
    assert [record["steps_seen"] for record in again.history] == [record["steps_seen"] for record in whole.history]


def test_a_callback_ends_a_training_after_its_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Ends(train.Callback):
        def step(self, training: train.Training) -> None:
            if training.epoch == 2:
                training.stop("it is late")

    fitted = train.fit(network(), DATA, validation=VAL, batch_size=10, epochs=5, callbacks=[Ends()], run=tmp_path / "r")
    assert (fitted.result["epochs"], fitted.result["steps"]) == (2, 8)
    assert "stopped: it is late" in capsys.readouterr().out
    reached = fit(train.StopAt("validation_loss", 100.0, higher=False))
    assert reached.result["epochs"] == 1
    with pytest.raises(UserError, match="StopAt: the record has no 'validation_map'"):
        fit(train.StopAt("validation_map", 1.0))


def test_a_stop_is_remembered_by_a_run_that_was_killed_after_it(tmp_path: Path, monkeypatch: Any) -> None:
    class Ends(train.Callback):
        def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
            training.stop("enough")

    def killed(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("jaxcnn.runs.writer.RunWriter.end", killed)
        with pytest.raises(MemoryError):
            fit(Ends(), run=tmp_path / "run")
    assert fit(run=train.Run(tmp_path / "run", resume=True)).result["epochs"] == 1


def test_the_norm_of_the_gradient_is_that_of_a_loop_by_hand() -> None:
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(2))
    objective = train.Objective(preprocess=cnn.data.to_float)
    data, optimizer = DATA.take(slice(10)), optax.sgd(0.1)
    fitted = train.fit(
        model, data, objective, epochs=1, batch_size=10, optimizer=optimizer, show=False,
        callbacks=[train.GradientNorm(), train.LearningRate(lambda step: 0.1 / step)],
    )  # fmt: skip
    state = train.create_state(model, optimizer, jax.random.key(0), data.images[:1])

    def loss(params: Any) -> jax.Array:
        return losses.softmax_cross_entropy(
            model.apply(params, {}, data.images / np.float32(255))[0], data.labels
        ).mean()

    expected = float(optax.tree.norm(jax.grad(loss)(state.params)))
    assert fitted.history[0]["gradient_norm"] == pytest.approx(expected, rel=1e-5)  # a sum of 32 squares, reordered
    assert fitted.history[0]["learning_rate"] == pytest.approx(0.1)


def test_a_callback_s_figure_chooses_the_best_epoch() -> None:
    class Chooses(train.Callback):
        figures = ("mine",)

        def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
            record["validation_mine"] = [0.1, 0.9, 0.5][training.epoch - 1]

    objective = train.Objective(primary="mine", higher_is_better=True)
    fitted = train.fit(
        network(), DATA, objective, validation=VAL, batch_size=10, epochs=3, callbacks=[Chooses()], show=False
    )
    assert (fitted.result["best_epoch"], fitted.result["validation_mine"]) == (2, 0.9)


def test_what_is_no_callback_is_said() -> None:
    class Text(train.Callback):
        def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
            record["note"] = "hello"

    class Shape(train.Callback):
        watch = staticmethod(lambda gradients, updates, params: {"all": jnp.ones(3)})

    class Twice(train.Callback):
        watch = staticmethod(lambda gradients, updates, params: {"loss": jnp.float32(1)})

    for callback, says in [
        (len, "expected instances of cnn.train.Callback, got builtin_function_or_method"),
        (Text(), "the callback Text added 'note' to the record: expected a number, got str"),
        (Shape(), r"'all' has the shape \(3,\), expected one number"),
        (Twice(), "a step measures 'loss' already"),
    ]:
        with pytest.raises(UserError, match=says):
            fit(callback)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="two are named 'Seen'"):
        fit(Seen(), Seen())
