"""Tracking servers as callbacks, with modules of the same interface in their place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxcnn as cnn
from jaxcnn import train
from jaxcnn.data import Examples
from jaxcnn.errors import UserError

POINTS = Examples(np.arange(24, dtype=np.float32).reshape(8, 3), np.arange(8, dtype=np.int32) % 2, name="points")


class Adds(train.Callback):
    def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
        record["more"] = 3
        if training.epoch == 3:
            raise RuntimeError("broken")


def wandb(calls: list[Any]) -> Any:
    def init(**settings: Any) -> Any:
        calls.append(("init", settings))
        return SimpleNamespace(
            id=settings.get("id", "one"),
            log=lambda values, step: calls.append(("log", step, values)),
            finish=lambda exit_code: calls.append(("finish", exit_code)),
        )

    return SimpleNamespace(init=init)


def mlflow(calls: list[Any]) -> Any:
    def start_run(**settings: Any) -> Any:
        calls.append(("init", settings))
        return SimpleNamespace(info=SimpleNamespace(run_id=settings.get("run_id", "one")))

    return SimpleNamespace(
        start_run=start_run,
        set_experiment=lambda name: calls.append(("experiment", name)),
        set_tracking_uri=lambda uri: calls.append(("uri", uri)),
        log_params=lambda values: calls.append(("config", values)),
        log_metrics=lambda values, step: calls.append(("log", step, values)),
        end_run=lambda status: calls.append(("finish", int(status == "FAILED"))),
    )


TRACKERS = {
    "wandb": (wandb, lambda: train.WeightsAndBiases(project="p", config={"mine": 1})),
    "mlflow": (mlflow, lambda: train.MLflow("p", "uri", run_name="r")),
}


@pytest.mark.parametrize("name", TRACKERS)
def test_records_are_sent_and_a_resumed_run_continues(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[Any] = []
    fake, make = TRACKERS[name]
    monkeypatch.setitem(sys.modules, name, fake(calls))
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 4, "show": False, "seed": 5}
    net = cnn.serial(head=cnn.dense(2))
    with pytest.raises(RuntimeError, match="broken"):
        train.fit(net, POINTS, callbacks=[Adds(), make()], run=tmp_path / "run", **settings)
    logged = [call for call in calls if call[0] == "log"]
    assert [step for _, step, _ in logged] == [2, 4]
    assert logged[0][2]["more"] == 3
    assert {"epoch", "loss", "accuracy"} <= logged[0][2].keys()
    assert calls[-1] == ("finish", 1)
    config = next(call[1] for call in calls if call[0] == "config") if name == "mlflow" else calls[0][1]["config"]
    assert (config["seed"], config["data"], config["epochs"]) == (5, "points", 4)
    calls.clear()
    train.fit(net, POINTS, callbacks=[make()], run=train.Run(tmp_path / "run", resume=True), **settings)
    begun = next(call[1] for call in calls if call[0] == "init")
    assert begun["id" if name == "wandb" else "run_id"] == "one"
    assert [call[1] for call in calls if call[0] == "log"][-2:] == [6, 8]  # from the newest checkpoint on
    assert calls[-1] == ("finish", 0)


def test_a_package_that_is_missing_is_said_at_once(monkeypatch: Any) -> None:
    for name, (_, make) in TRACKERS.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=f"needs the package {name}, which is not installed: pip install {name}"):
            make()
