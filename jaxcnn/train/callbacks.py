"""Ready-made callbacks of `fit`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.devices import first_process
from jaxcnn.errors import UserError
from jaxcnn.runs.record import Record
from jaxcnn.train.training import Callback, Training


class GradientNorm(Callback):
    """Records `gradient_norm`, the global norm of the gradient, as the mean over an epoch."""

    @staticmethod
    def watch(gradients: Any, updates: Any, params: Any) -> dict[str, jax.Array]:
        """sqrt(sum g^2) over all parameters, in float32."""
        return {"gradient_norm": optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), gradients))}


class LearningRate(Callback):
    """Records `learning_rate`, the rate of the next step, from the optimizer's schedule."""

    def __init__(self, schedule: Callable[[int], Any]):
        self.schedule = schedule

    def epoch(self, training: Training, record: Record) -> None:
        record["learning_rate"] = float(self.schedule(record["step"]))


class StopAt(Callback):
    """Ends the training after the first epoch whose metric reaches a value: `StopAt("validation_accuracy", 0.99)`.

    Args:
      figure: a name in the record.
      value: the value to reach.
      higher: True to stop at this value or above, False at this value or below.
    """

    def __init__(self, figure: str, value: float, higher: bool = True):
        self.figure, self.value, self.higher = figure, value, higher

    def epoch(self, training: Training, record: Record) -> None:
        if self.figure not in record:
            raise UserError(f"StopAt: the record has no {self.figure!r}; it has {', '.join(record)}")
        found = record[self.figure]
        if (found >= self.value) if self.higher else (found <= self.value):
            training.stop(f"{self.figure} is {found:.6g}, which was to be reached: {self.value:g}")


class WeightsAndBiases(Callback):
    """Sends each epoch's record to Weights & Biases: `WeightsAndBiases(project="digits")`.

    The first process sends it. Put this callback last, so that it sees what the others add to the record. A run that is
    resumed continues its run there. Test metrics are not sent: `fit` measures them after the training.

    Args:
      settings: arguments of `wandb.init`, such as `project`, `name` or `mode="offline"`.

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
