"""Runs that differ in their seed or fold only, as one: mean and standard deviation of their metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.format import duration, first_sentence, padded, plural, printable, shortened, width
from jaxcnn.metrics import name_of
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.table import RunSummary

Part = Literal["validation", "test"]
_REPEATS = ("seed", "fold")
_ELSEWHERE = ("data_dir", "parallel")  # of the machine
_LONGEST = 100  # characters of a reason


@dataclass(frozen=True, eq=False)
class Group:
    """Runs with the same settings but for seed and fold.

    Attributes:
      settings: those that differ between the groups.
      runs: its runs.
    """

    settings: Mapping[str, Any]
    runs: tuple[RunSummary, ...]

    @property
    def measure(self) -> Primary:
        """The metric that compares its runs."""
        return self.runs[0].measure

    def values(self, part: Part = "validation") -> list[float]:
        """The metric of each complete run on the validation data (of the best epoch), or on the test data."""
        found = [run.row()[part] for run in self.runs if run.state == "complete"]
        return [value for value in found if value is not None]

    def mean(self, part: Part = "validation") -> float | None:
        """The mean over the complete runs; None if there is none."""
        values = self.values(part)
        return float(np.mean(values)) if values else None

    def std(self, part: Part = "validation") -> float | None:
        """The sample standard deviation, with n - 1 in the denominator; None for fewer than two runs."""
        values = self.values(part)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def failures(self) -> list[str]:
        """The first sentence of why runs failed, each once."""
        return list(dict.fromkeys(first_sentence(run.failure) for run in self.runs if run.failure))

    def shown(self, part: Part = "validation") -> str:
        """Mean and standard deviation for a reader, `95.12 ± 0.31 %`; `-` if there is none."""
        mean, std = self.mean(part), self.std(part)
        if mean is None:
            return "-"
        text = self.measure.shown(mean)
        if std is None:
            return text
        spread = f"{100 * std:.2f}" if self.measure.is_share else f"{std:.4f}"
        return f"{text.removesuffix(' %')} ± {spread}{' %' if self.measure.is_share else ''}"


def varied(found: Sequence[RunSummary]) -> list[str]:
    """The settings of a recipe, but for seed and fold, that are not the same in all runs."""
    names = [f.name for f in dataclasses.fields(Recipe) if f.name not in (*_REPEATS, *_ELSEWHERE)]
    return [name for name in names if len({json.dumps(run.config.get(name)) for run in found}) > 1]


def grouped(found: Sequence[RunSummary]) -> list[Group]:
    """The runs in groups that differ in more than seed and fold, the best mean first.

    The mean is that of the validation data, of the test data where there is no validation. A group in which a run
    failed or is not complete comes after the others, since its mean is that of the rest.
    """
    names = varied(found)
    members: dict[str, list[RunSummary]] = {}
    for run in found:
        members.setdefault(json.dumps([run.config.get(name) for name in names]), []).append(run)
    groups = [Group({name: runs[0].config.get(name) for name in names}, tuple(runs)) for runs in members.values()]
    part = compared(groups)

    def order(group: Group) -> tuple[Any, ...]:
        incomplete = any(run.state != "complete" for run in group.runs)
        return group.mean(part) is None, incomplete, group.measure.primary, group.measure.sort_key(group.mean(part))

    return sorted(groups, key=order)


def compared(groups: Sequence[Group]) -> Part:
    """What compares the groups: the validation data where these were measured, else the test data."""
    return "validation" if any(group.values("validation") for group in groups) else "test"


def group_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table of groups: a line of heads, and a line for each."""
    names = list(groups[0].settings) if groups else []
    measures = {group.measure.primary for group in groups}
    metric = f" {name_of(measures.pop())}" if len(measures) == 1 else ""
    repeated = any(len(group.runs) > 1 for group in groups)
    heads = [*names, *(["runs"] if repeated else []), f"validation{metric}", f"test{metric}", "time", ""]
    lines = [heads]
    for group in groups:
        done = sum(run.state == "complete" for run in group.runs)
        count = [str(done) if done == len(group.runs) else f"{done} of {len(group.runs)}"] if repeated else []
        seconds = sum(run.row()["seconds"] or 0.0 for run in group.runs)
        states = dict.fromkeys(run.state for run in group.runs if run.state not in ("complete", "failed"))
        why = [f"failed: {shortened(reason, _LONGEST)}" for reason in group.failures]
        settings = [_setting(group.settings[name]) for name in names]
        cells = [*settings, *count, group.shown("validation"), group.shown("test"), duration(seconds)]
        lines.append([printable(cell) for cell in (*cells, "; ".join([*why, *states]))])
    return [line if any(row[-1] for row in lines) else line[:-1] for line in lines]


def group_table(found: Sequence[RunSummary]) -> str:
    """A line for each combination of settings, the best one first, and what mean and ± are of."""
    groups = grouped(found)
    lines = group_rows(groups)
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    left = {*(groups[0].settings if groups else ()), ""}
    text = [
        "  ".join(padded(cell, columns, head not in left) for head, columns, cell in zip(lines[0], widths, line,
                                                                                          strict=True)).rstrip()
        for line in lines
    ]  # fmt: skip
    return "\n".join([*text, *([f"\n{note}"] if (note := _note(groups)) else [])])


def group_html(found: Sequence[RunSummary]) -> str:
    """The table of groups as HTML; names from outside are escaped."""
    groups = grouped(found)
    heads, *lines = group_rows(groups)
    rows = [_row("th", heads), *(_row("td", line) for line in lines)]
    note = _note(groups)
    return f"<div><table>{''.join(rows)}</table>{f'<p>{escape(note)}</p>' if note else ''}</div>"


def drawn(found: Sequence[RunSummary]) -> Any:
    """The metric of runs against each setting that differs between them; see `by_setting`."""
    from jaxcnn.inspect.settings import by_setting

    made = grouped(found)
    part, names = compared(made), {group.measure for group in made}
    if len(names) > 1:
        raise UserError(f"the runs have other metrics: {', '.join(sorted(each.primary for each in names))}")
    measure = names.pop()
    scale = 100.0 if measure.is_share else 1.0
    points: list[tuple[Mapping[str, Any], list[float | None]]] = []
    for group in made:
        values = [scale * value for value in group.values(part)]
        failed = [None] * sum(run.state == "failed" for run in group.runs)
        points.append((group.settings, [*values, *failed]))
    label = f"{part} {name_of(measure.primary)}{' (%)' if measure.is_share else ''}"
    return by_setting(points, label)


def _note(groups: Sequence[Group]) -> str:
    """What was averaged; empty if nothing was."""
    counts = {
        name: max((len({json.dumps(run.config.get(name)) for run in group.runs}) for group in groups), default=0)
        for name in _REPEATS
    }
    over = " and ".join(f"{count} {plural(count, name)}" for name, count in counts.items() if count > 1)
    return f"mean ± standard deviation over {over}" if over else ""


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _setting(value: Any) -> str:
    """A setting's value for a reader; the last part of a path."""
    if value is None:
        return "-"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return shortened(str(value).rstrip("/").rpartition("/")[2], 40)
