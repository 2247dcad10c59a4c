"""The runs under a folder, read from their files alone, to be listed and compared.

A run is a folder with a config.json of `fit`. What cannot be read in its files is reported with the run; the rest is
used, and other runs are not affected.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError, unknown
from jaxcnn.format import duration, first_sentence, padded, printable, width
from jaxcnn.metrics import name_of
from jaxcnn.runs import lock
from jaxcnn.runs.folder import FAILED
from jaxcnn.runs.primary import Primary, primary_in
from jaxcnn.runs.record import Record, parsed, reason, text_of

_SHOWN = {"model", "data", "epochs"}  # settings with a separate column
# Entries of config.json that the user does not choose.
_FACTS = {"classes", "image", "preprocess", "version", "data_dir", "id", "examples", "code_sha256", "facts"}
_FACTS |= {"primary", "higher_is_better", "tested"}
_WIDEST = 40  # letters of a setting
_LARGEST = 1e300  # of a figure: JSON has integers that no float can hold


@dataclass(frozen=True, eq=False, repr=False)
class RunSummary:
    """The summary of a run's files.

    Attributes:
      path: its folder, as it was given.
      config: config.json; empty where it is damaged.
      history: the records of metrics.jsonl that can be read.
      result: result.json, empty where it is damaged; None when the run is not complete.
      trouble: what cannot be read.
      failure: why the training failed, from failed.json; None if it did not.
      locked, owner, silent: what its lock says; see `jaxcnn.runs.lock`.
    """

    path: Path
    config: Record
    history: list[Record]
    result: Record | None
    trouble: tuple[str, ...] = ()
    locked: lock.State = "free"
    owner: lock.Owner | None = None
    failure: str | None = None
    silent: bool = False

    @property
    def state(self) -> str:
        """The state of the run.

        `"running"`; `"complete"`; `"failed"`, with a `failure`, such as a loss that is not finite; `"stopped"`, by
        Ctrl-C, SIGTERM or another error that it said; `"killed"`, without a word. A process on another machine cannot
        be looked up: `"running?"` if it has given a sign in the last half hour, else `"killed?"`. `"interrupted"` is a
        run by an earlier version of jaxcnn, which left no sign.
        """
        if self.locked == "held":
            return "running"
        if self.locked == "unknown" and self.result is None:
            return "killed?" if self.silent else "running?"
        if self.result is not None:
            return "complete"
        if self.locked == "stale":
            return "killed"
        if self.failure is not None:
            return "failed"
        return "stopped" if "id" in self.config else "interrupted"

    @property
    def process(self) -> lock.Owner | None:
        """The process that is training the run, or None."""
        return self.owner if self.state in ("running", "running?") else None

    @property
    def primary(self) -> Primary:
        """The metric that chose the best epoch."""
        return primary_in(self.config, *self.history[:1])

    @property
    def measure(self) -> Primary:
        """The metric that compares the run: the one that chose the best epoch, unless the test data have another."""
        tested = self.config.get("tested")
        return primary_in(tested if isinstance(tested, dict) else self.config, *self.history[:1], self.result or {})

    def row(self) -> Record:
        """The metrics of the run; None for an unknown value.

        What was measured on the validation data is the best epoch's, on the test data the complete run's. `measure` is
        the name of the figure that `validation` and `test` give: `accuracy`; `mean_iou` where each pixel has a class.
        """
        best: Record = self.primary.best(self.history) if self.history else {}
        last = self.history[-1] if self.history else {}
        result = self.result or {}
        measure = self.measure.primary
        return {
            "run": str(self.path),
            "state": self.state,
            "process": self.process and self.process.process,
            "host": self.process and self.process.host,
            "model": self.config.get("model"),
            "data": self.config.get("data"),
            "epochs": last.get("epoch", 0),
            "planned_epochs": self.config.get("epochs"),
            "best_epoch": best.get("epoch"),
            **{name: _number(best, name) for name in ("validation_accuracy", "validation_loss")},
            **{name: _number(result, name) for name in ("test_accuracy", "test_loss")},
            "measure": measure,
            "validation": _number(best, f"validation_{measure}"),
            "test": _number(result, f"test_{measure}"),
            "seconds": _number(result or last, "seconds"),
            "trouble": "; ".join(self._troubles) or None,
        }

    @property
    def _troubles(self) -> list[str]:
        """Why the run failed, and what cannot be read."""
        return [*filter(None, [first_sentence(self.failure or "")]), *self.trouble]

    def __repr__(self) -> str:
        row, measure = self.row(), self.measure
        figures = [
            f"{part} {name_of(measure.primary)} {measure.shown(row[part])}"
            for part in ("validation", "test")
            if row[part] is not None
        ]
        epochs = f"epoch {row['epochs']} of {_short(row['planned_epochs'])}"
        parts = [f"{_short(row['model'])} on {_short(row['data'])}", row["state"], epochs, *figures, *self._troubles]
        return f"RunSummary({str(self.path)!r}; {printable('; '.join(parts))})"


Listed = RunSummary
"""The former name of `RunSummary`."""


def _number(values: Record, name: str) -> float | None:
    """A figure, or None where it is missing, no number, or not finite, which JSON has no word for."""
    value: Any = values.get(name)
    return value if _is_figure(value) and math.isfinite(value) else None


def _is_figure(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold, NaN and infinity included."""
    return isinstance(value, (int, float)) and (not isinstance(value, int) or abs(value) < _LARGEST)


def find(paths: Iterable[str | Path]) -> list[RunSummary]:
    """The runs at these paths: each is a run, or a folder with runs below it. Folders that are none are passed over.

    Raises:
      UserError: if a path does not exist or has no run.
    """
    found: dict[Path, RunSummary] = {}
    for given in paths:
        path = Path(given).expanduser()
        try:
            if not path.is_dir():
                raise UserError(f"the folder {given} is not there; expected a run, or a folder of runs")
            os.scandir(path).close()
        except OSError as error:
            raise UserError(f"the folder {given} cannot be read: {reason(error)}") from None
        here = [run for folder in _candidates(path) if (run := read(folder)) is not None]
        if not here:
            raise UserError(f"{given} has no run in it; `jaxcnn train` makes them, below the folder runs")
        found.update((run.path.absolute(), run) for run in here)
    return list(found.values())


def _candidates(path: Path) -> Iterable[Path]:
    """The folders that have a config.json; none inside another one. A warning names those that cannot be read."""

    def unread(error: OSError) -> None:
        warnings.warn(f"the folder {error.filename} cannot be read: {reason(error)}", stacklevel=2)

    for folder, inside, files in os.walk(path, onerror=unread):
        begun = "config.json" in files or "config.json" in inside  # a folder of that name is damage, too
        inside[:] = [] if begun else sorted(name for name in inside if not name.startswith("."))
        if begun:
            yield Path(folder)


def read(folder: Path) -> RunSummary | None:
    """The run in a folder, or None for a config.json of something else."""
    trouble: list[str] = []
    config = _json(folder / "config.json", trouble)
    if config is None or (not trouble and "model" not in config):
        return None
    history = _records(folder / "metrics.jsonl", trouble)
    result = _json(folder / "result.json", trouble)
    failed = _json(folder / FAILED, trouble)
    failure = None if failed is None else str(failed.get("error", "for an unknown reason"))
    locked, owner = lock.look(folder / lock.NAME)
    silent = lock.silent(folder / lock.NAME)
    return RunSummary(folder, config, history, result, tuple(trouble), locked, owner, failure, silent)


def _json(path: Path, trouble: list[str]) -> Record | None:
    """The object in a file; None where there is no file, and an empty one where it is damaged."""
    try:
        value = parsed(text_of(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name} cannot be read: {reason(error)}")
        return {}
    if not isinstance(value, dict):
        trouble.append(f"{path.name} is no object")
        return {}
    return value


def _records(path: Path, trouble: list[str]) -> list[Record]:
    try:
        lines = text_of(path).splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name} cannot be read: {reason(error)}")
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parsed(line)
        except ValueError:
            record = None
        figures = isinstance(record, dict) and all(map(_is_figure, record.values()))
        if not figures or type(record.get("epoch")) is not int:
            trouble.append(f"line {number} of {path.name} cannot be read")
        else:
            records.append(record)
    return records


# --- comparing ---------------------------------------------------------------------------------------------------


def differing(found: Sequence[RunSummary]) -> list[str]:
    """The settings, beside model, data and epochs, that are not the same in all runs that have them."""
    values: dict[str, set[str]] = {}
    for run in found:
        for name, value in run.config.items():
            values.setdefault(name, set()).add(json.dumps(value))
    return [name for name, seen in values.items() if len(seen) > 1 and name not in _SHOWN | _FACTS]


def _natural(text: Any) -> tuple[Any, ...]:
    """Orders text with numbers in it by the numbers: digits-2 before digits-10, lr=1e-05 before lr=0.001."""
    parts = re.split(r"((?<==)[0-9]+\.?[0-9]*(?:e[+-]?[0-9]{1,2})?|[0-9]{1,18})", str(text))
    return tuple(float(part) if i % 2 else part for i, part in enumerate(parts))


def _best_first(part: str) -> Callable[[RunSummary, Record], Any]:
    """Orders by a figure, the best first; figures of one name stay together."""
    return lambda run, row: None if row[part] is None else (row["measure"], run.measure.sort_key(row[part]))


# What each key orders by, the smallest first.
KEYS: dict[str, Callable[[RunSummary, Record], Any]] = {
    "name": lambda run, row: _natural(row["run"]),
    "model": lambda run, row: None if row["model"] is None else _natural(row["model"]),
    "data": lambda run, row: None if row["data"] is None else _natural(row["data"]),
    "state": lambda run, row: row["state"],
    "epochs": lambda run, row: row["epochs"],
    "validation": _best_first("validation"),
    "test": _best_first("test"),
    "time": lambda run, row: row["seconds"],
}


def ordered(found: Sequence[RunSummary], key: str = "name") -> list[RunSummary]:
    """The runs by one of `KEYS`: figures from the best on, anything else upwards, what is not known last.

    Raises:
      UserError: for another key.
    """
    if key not in KEYS:
        raise unknown("key", key, KEYS)
    by_name = sorted(found, key=lambda run: _natural(run.path))

    def order(run: RunSummary) -> tuple[bool, Any]:
        value = KEYS[key](run, run.row())
        return value is None, 0 if value is None else value

    return sorted(by_name, key=order)


def table(found: Sequence[RunSummary]) -> str:
    """A line for each run: its figures, the settings that differ between the runs, and what cannot be read."""
    names = differing(found)
    last = "differs in" if names else ""
    heads = ["run", "model", "data", "state", "epochs", "best", "validation", "test", "time", last]
    lines = [heads]
    for run in found:
        row = run.row()
        settings = " ".join(f"{name}={_short(run.config.get(name))}" for name in names if name in run.config)
        lines.append([
            row["run"], _short(row["model"]).split("(\n")[0], _short(row["data"]), _state(row),
            f"{row['epochs']}/{_short(row['planned_epochs'])}", _short(row["best_epoch"]),
            *("-" if row[part] is None else run.measure.shown(row[part]) for part in ("validation", "test")),
            "-" if row["seconds"] is None else duration(row["seconds"]),
            "; ".join(filter(None, [settings, *run._troubles])),
        ])  # fmt: skip
    lines = [[printable(text) for text in line] for line in lines]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    left = {"run", "model", "data", "state", last}
    pairs = [list(zip(heads, widths, line, strict=True)) for line in lines]
    return "\n".join(
        "  ".join(padded(text, columns, head not in left) for head, columns, text in line).rstrip() for line in pairs
    )


def _state(row: Record) -> str:
    if row["process"] is None:
        return row["state"]
    where = f" on {row['host']}" if row["state"] == "running?" else ""
    return f"{row['state']} (process {row['process']}{where})"


def _short(value: Any) -> str:
    """A setting, shortened; the last part of a path."""
    if value is None:
        return "-"
    if not isinstance(value, str):
        text = json.dumps(value)
    else:  # a fold, 2/5, is no path
        text = value if re.fullmatch("[0-9]+/[0-9]+", value) else value.rstrip("/").rpartition("/")[2]
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
