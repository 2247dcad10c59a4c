"""The runs under a folder, read from their files alone, to be listed and compared.

A run is a folder with a config.json of `fit`. What in its files cannot be read is said with the run; the rest of it is
used, and other runs are not affected.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError, unknown
from jaxcnn.files import regular
from jaxcnn.format import padded, printable, width
from jaxcnn.train.objective import Primary, Record, primary_in
from jaxcnn.train.progress import _time

_SHOWN = {"model", "data", "epochs"}  # settings with a column of their own
_FACTS = {"classes", "image", "preprocess", "version", "data_dir"}  # in config.json, and nobody's choice
_FACTS |= {"primary", "higher_is_better", "tested"}
_WIDEST = 40  # letters of a setting
_RECENT, _EPOCHS = 60.0, 3  # seconds, and epochs, without a sign of life up to which a run may be running


@dataclass(frozen=True, eq=False)
class Listed:
    """What is on the disk of one run.

    Attributes:
      path: its folder, as it was given.
      config: config.json; empty where it is damaged.
      history: the records of metrics.jsonl that can be read.
      result: result.json, empty where it is damaged; None when the run is not complete.
      changed: when something was last written, in seconds since 1970.
      trouble: what cannot be read.
    """

    path: Path
    config: Record
    history: list[Record]
    result: Record | None
    changed: float
    trouble: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`"complete"`, `"interrupted"` or, where something was written not long ago, `"running?"`."""
        if self.result is not None:
            return "complete"
        epoch = self.history[-1].get("seconds", 0.0) / len(self.history) if self.history else 0.0
        running = time.time() - self.changed < max(_RECENT, _EPOCHS * epoch)
        return "running?" if running else "interrupted"

    @property
    def primary(self) -> Primary:
        """The figure that chose the best epoch."""
        return primary_in(self.config, *self.history[:1])

    @property
    def measure(self) -> Primary:
        """The figure that the run is compared by: the one that chose, unless the test data were given another one."""
        tested = self.config.get("tested")
        return primary_in(tested if isinstance(tested, dict) else self.config, *self.history[:1], self.result or {})

    def row(self) -> Record:
        """The figures of the run; None stands for what is not known.

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
            "trouble": "; ".join(self.trouble) or None,
        }


def _number(values: Record, name: str) -> float | None:
    """A figure, or None where it is missing, no number, or not finite, which JSON has no word for."""
    value = values.get(name)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def find(paths: Iterable[str | Path]) -> list[Listed]:
    """The runs at these paths: each is a run, or a folder with runs below it. Folders that are none are passed over.

    Raises:
      UserError: for a path that is not there, or has no run.
    """
    found: dict[Path, Listed] = {}
    for given in paths:
        path = Path(given).expanduser()
        if not path.is_dir():
            raise UserError(f"the folder {given} is not there; expected a run, or a folder of runs")
        here = [run for folder in _candidates(path) if (run := read(folder)) is not None]
        if not here:
            raise UserError(f"{given} has no run in it; `jaxcnn train` makes them, below the folder runs")
        found.update((run.path.absolute(), run) for run in here)
    return list(found.values())


def _candidates(path: Path) -> Iterable[Path]:
    """The folders that have a config.json; none inside another one."""
    for folder, inside, files in os.walk(path):
        inside[:] = [] if "config.json" in files else sorted(name for name in inside if not name.startswith("."))
        if "config.json" in files:
            yield Path(folder)


def read(folder: Path) -> Listed | None:
    """The run in a folder, or None for a config.json of something else."""
    trouble: list[str] = []
    config = _json(folder / "config.json", trouble)
    if not trouble and not (isinstance(config, dict) and "model" in config):
        return None
    history = _records(folder / "metrics.jsonl", trouble)
    result = _json(folder / "result.json", trouble)
    for name, value in (("config.json", config), ("result.json", result)):
        if not isinstance(value, dict) and value is not None:
            trouble.append(f"{name} is no object")
    signs = [folder / name for name in ("config.json", "metrics.jsonl", "checkpoints")]
    changed = max(path.stat().st_mtime for path in signs if path.exists())
    ended = (folder / "result.json").exists()
    return Listed(folder, _dict(config), history, _dict(result) if ended else None, changed, tuple(trouble))


def _json(path: Path, trouble: list[str]) -> Any:
    """What a file holds, or None where it is not there or damaged."""
    try:
        return json.loads(regular(path).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}")
        return None


def _dict(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _records(path: Path, trouble: list[str]) -> list[Record]:
    try:
        lines = regular(path).read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        trouble.append(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}")
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        figures = isinstance(record, dict) and all(isinstance(value, (int, float)) for value in record.values())
        if not figures or "epoch" not in record:
            trouble.append(f"line {number} of {path.name} cannot be read")
        else:
            records.append(record)
    return records


# --- comparing ---------------------------------------------------------------------------------------------------


def differing(found: Sequence[Listed]) -> list[str]:
    """The settings, beside model, data and epochs, that are not the same in all runs that have them."""
    values: dict[str, set[str]] = {}
    for run in found:
        for name, value in run.config.items():
            values.setdefault(name, set()).add(json.dumps(value))
    return [name for name, seen in values.items() if len(seen) > 1 and name not in _SHOWN | _FACTS]


def _natural(text: Any) -> tuple[Any, ...]:
    """Orders text with numbers in it by the numbers: digits-2 before digits-10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(text)))


def _best_first(part: str) -> Callable[[Listed, Record], Any]:
    """Orders by a figure, the best first; figures of one name stay together."""
    return lambda run, row: None if row[part] is None else (row["measure"], run.measure.sort_key(row[part]))


# What each key orders by, the smallest first.
KEYS: dict[str, Callable[[Listed, Record], Any]] = {
    "name": lambda run, row: _natural(row["run"]),
    "model": lambda run, row: row["model"] and _natural(row["model"]),
    "data": lambda run, row: row["data"] and _natural(row["data"]),
    "state": lambda run, row: row["state"],
    "epochs": lambda run, row: row["epochs"],
    "validation": _best_first("validation"),
    "test": _best_first("test"),
    "time": lambda run, row: row["seconds"],
}


def ordered(found: Sequence[Listed], key: str = "name") -> list[Listed]:
    """The runs by one of `KEYS`: figures from the best on, anything else upwards, what is not known last.

    Raises:
      UserError: for another key.
    """
    if key not in KEYS:
        raise unknown("key", key, KEYS)
    by_name = sorted(found, key=lambda run: _natural(run.path))

    def order(run: Listed) -> tuple[bool, Any]:
        value = KEYS[key](run, run.row())
        return value is None, 0 if value is None else value

    return sorted(by_name, key=order)


def table(found: Sequence[Listed]) -> str:
    """A line for each run: its figures, the settings that differ between the runs, and what cannot be read."""
    names = differing(found)
    last = "differs in" if names else ""
    heads = ["run", "model", "data", "state", "epochs", "best", "validation", "test", "time", last]
    lines = [heads]
    for run in found:
        row = run.row()
        settings = " ".join(f"{name}={_short(run.config.get(name))}" for name in names if name in run.config)
        lines.append([
            row["run"], _short(row["model"]).split("(\n")[0], _short(row["data"]), row["state"],
            f"{row['epochs']}/{_short(row['planned_epochs'])}", _short(row["best_epoch"]),
            *("-" if row[part] is None else run.measure.shown(row[part]) for part in ("validation", "test")),
            "-" if row["seconds"] is None else _time(row["seconds"]),
            "; ".join(filter(None, [settings, *run.trouble])),
        ])  # fmt: skip
    lines = [[printable(text) for text in line] for line in lines]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    left = {"run", "model", "data", "state", last}
    pairs = [list(zip(heads, widths, line, strict=True)) for line in lines]
    return "\n".join(
        "  ".join(padded(text, columns, head not in left) for head, columns, text in line).rstrip() for line in pairs
    )


def _short(value: Any) -> str:
    """A setting in a few letters; of a path its end."""
    if value is None:
        return "-"
    text = value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
