"""The primary metric and the best epoch by it, for training, run folder, table and curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn.errors import UserError, unknown
from jaxcnn.metrics import is_share, shown
from jaxcnn.runs.record import Record

# How `fit` chose before config.json said it: by the first of these that was measured, the higher the better.
_BEFORE = ("accuracy", "mean_iou", "f", "map")


@dataclass(frozen=True)
class Primary:
    """The metric that decides which epoch is best.

    Attributes:
      primary: its name, `loss` or one of the metrics'.
      higher_is_better: whether it is maximized.
    """

    primary: str = "loss"
    higher_is_better: bool = False

    def value(self, record: Mapping[str, Any], prefix: str = "validation_") -> float | None:
        """The figure in a record; None where it is missing, no number, or not finite."""
        value = record.get(prefix + self.primary)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return self.higher_is_better and is_share(self.primary)

    def shown(self, value: float) -> str:
        """A value for a reader."""
        return shown(self.primary, value) if self.is_share else f"{value:.4f}"

    def sort_key(self, value: float | None) -> tuple[bool, float]:
        """A sort key for values of this metric, from the best to the worst, None last."""
        return value is None, 0.0 if value is None else -value if self.higher_is_better else value

    def best(self, history: Sequence[Record]) -> Record:
        """The record of the best epoch.

        A finite value is better than none. Between equal ones, and where none is finite, the lower validation loss
        decides, then the later epoch: without validation it is the last one.
        """

        def key(record: Record) -> tuple[Any, ...]:
            loss = LOSS.value(record)
            return self.sort_key(self.value(record)), LOSS.sort_key(loss), -record["epoch"]

        return min(history, key=key)

    def stalled(self, history: Sequence[Record], patience: int) -> bool:
        """Whether the last `patience` epochs were no better than the best one. False while no value is finite."""
        if not any(self.value(record) is not None for record in history):
            return False
        return history[-1]["epoch"] - self.best(history)["epoch"] >= patience


LOSS, ACCURACY = Primary(), Primary("accuracy", True)


def primary_of(names: Collection[str], primary: str | None = None, higher_is_better: bool | None = None) -> Primary:
    """The figure that decides among `names`, those that are measured.

    Without `primary` it is `accuracy` where that is measured, the higher the better, and the loss anywhere else.

    Raises:
      UserError: for a figure that is not measured, or whose direction is not said and is not plain.
    """
    if primary is None:
        if higher_is_better is not None:
            raise UserError(f"higher_is_better={higher_is_better} is said of no figure: name it, primary=...")
        return ACCURACY if "accuracy" in names else LOSS
    if primary not in names:
        raise unknown("figure in primary=", str(primary), names)
    known = {"loss": False, "accuracy": True}.get(primary)
    if higher_is_better is None and known is None:
        raise UserError(f"primary={primary!r}: say whether the higher or the lower is better, higher_is_better=True")
    if primary == "loss" and higher_is_better:
        raise UserError("primary='loss' is minimized: higher_is_better=True cannot be meant")
    return Primary(primary, bool(known if higher_is_better is None else higher_is_better))


def primary_in(config: Mapping[str, Any], *records: Mapping[str, Any]) -> Primary:
    """The figure that decided in a run, from its config.json; where it does not say so, as `fit` chose before it did.

    Args:
      records: of the run, from which it is seen what was measured: of metrics.jsonl, and of result.json.
    """
    name = config.get("primary")
    if isinstance(name, str):
        return Primary(name, config.get("higher_is_better") is True)
    for record in records:
        for before in _BEFORE:
            if f"validation_{before}" in record or f"test_{before}" in record:
                return Primary(before, True)
    return LOSS


def began_by(config: Mapping[str, Any], names: Collection[str], chosen: Primary, asked: bool) -> Primary:
    """The primary metric of a resumed run.

    Args:
      config: its config.json.
      names: what is measured.
      chosen: the figure by which it is to go on, and whether that was asked for.

    Raises:
      UserError: when it says another one than is asked for, or what it began with is not measured any more.
    """
    began = primary_in(config, {f"validation_{name}": None for name in names})
    if asked and "primary" in config and began != chosen:
        raise UserError(
            f"the run chooses its best epoch by {began}, and is asked to go on by {chosen}: start another run for that"
        )
    return primary_of(names, began.primary, began.higher_is_better)
