"""Callbacks that send the records of a training to Weights & Biases or MLflow."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from jaxcnn.devices import first_process
from jaxcnn.errors import UserError
from jaxcnn.runs.record import Record
from jaxcnn.train.training import Callback, Training


class WeightsAndBiases(Callback):
    """Sends each epoch's record to Weights & Biases: `WeightsAndBiases(project="digits")`.

    The first process sends it. Put this callback last, so that it sees what the others add to the record. A run that is
    resumed continues its run there. Test metrics are not sent: `fit` measures them after the training.

    Args:
      settings: arguments of `wandb.init`, such as `project="digits"` or `mode="offline"`.

    Raises:
      UserError: when wandb is not installed.
    """

    def __init__(self, **settings: Any):
        self._wandb = _imported("wandb", "WeightsAndBiases")
        self._settings = settings
        self._id = ""
        self._run: Any = None

    def begin(self, training: Training) -> None:
        if first_process():
            config = {**_settings_of(training), **self._settings.get("config", {})}
            again = {"id": self._id, "resume": "allow"} if self._id else {}
            self._run = self._wandb.init(**{**self._settings, **again, "config": config})
            self._id = self._run.id

    def epoch(self, training: Training, record: Record) -> None:
        if self._run is not None:
            self._run.log(_numbers(record), step=record["step"])

    def end(self, training: Training) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(_failed()))

    def save(self) -> Any:
        return self._id or None

    def load(self, saved: Any) -> None:
        self._id = saved


class MLflow(Callback):
    """Sends each epoch's record to MLflow: `MLflow(experiment="digits", tracking_uri="sqlite:///mlflow.db")`.

    The first process sends it. Put this callback last, so that it sees what the others add to the record. A run that is
    resumed continues its run there. Test metrics are not sent: `fit` measures them after the training.

    Args:
      experiment: the name of the experiment; MLflow's default when None.
      tracking_uri: the server or store; MLflow's setting when None.
      settings: arguments of `mlflow.start_run`, such as `run_name` or `tags`.

    Raises:
      UserError: when mlflow is not installed.
    """

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None, **settings: Any):
        self._mlflow = _imported("mlflow", "MLflow")
        self._experiment, self._uri, self._settings = experiment, tracking_uri, settings
        self._id = ""
        self._open = False

    def begin(self, training: Training) -> None:
        if not first_process():
            return
        if self._uri is not None:
            self._mlflow.set_tracking_uri(self._uri)
        if self._experiment is not None:
            self._mlflow.set_experiment(self._experiment)
        again = {"run_id": self._id} if self._id else {}
        started = self._mlflow.start_run(**self._settings, **again)
        self._open = True
        if not self._id:
            self._mlflow.log_params(_settings_of(training))
        self._id = started.info.run_id

    def epoch(self, training: Training, record: Record) -> None:
        if self._open:
            self._mlflow.log_metrics(_numbers(record), step=record["step"])

    def end(self, training: Training) -> None:
        if self._open:
            self._open = False
            self._mlflow.end_run("FAILED" if _failed() else "FINISHED")

    def save(self) -> Any:
        return self._id or None

    def load(self, saved: Any) -> None:
        self._id = saved


def _imported(package: str, name: str) -> Any:
    """The module of an optional package, imported when it is needed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{name} needs the package {package}, which is not installed: pip install {package}") from error


def _settings_of(training: Training) -> dict[str, Any]:
    """The settings of a training for a tracking server: numbers and short texts."""
    names = ("epochs", "batch_size", "seed", "patience")
    return {
        "model": repr(training.model)[:250], "data": training.data.name, "primary": training.primary.primary,
        **{name: getattr(training, name) for name in names},
    }  # fmt: skip


def _numbers(record: Record) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if name != "step"}


def _failed() -> bool:
    """Whether the training ends by an error: `end` is then called while it is handled."""
    return sys.exc_info()[0] is not None
