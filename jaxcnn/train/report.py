"""The result of a training for a reader: as one line, and as an HTML table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

import jax

from jaxcnn.format import duration, plural, printable, shortened
from jaxcnn.metrics import name_of, shown

_PARTS = {"train": "training", "validation": "validation", "test": "test"}
_BOOKKEEPING = ("epoch", "step", "images_per_second", "seconds")
_MOST_EPOCHS = 100  # rows of the table of epochs, the last ones
_LONGEST = 60  # characters of a model's code


class Fitted(Protocol):
    """The input of a report: the values of result.json, and a record for each epoch."""

    @property
    def result(self) -> Mapping[str, Any]: ...

    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...


def result_text(fitted: Fitted) -> str:
    """The model, the metrics of the test set (else of validation, else of training), the epochs and the time.

    One line of at most a few hundred characters, whatever the size of the network.
    """
    result = fitted.result
    figures = _figures(result)
    part = next(
        (part for part in ("test", "validation", "train") if any(part in row for row in figures.values())), None
    )
    measured = [f"{name_of(name)} {shown(name, row[part])}" for name, row in figures.items() if part and part in row]
    parts = [f"{_PARTS[part]} {', '.join(measured)}"] if part else []
    return f"FitResult({'; '.join([_model(result), *parts, *_about(result)])})"


def result_html(fitted: Fitted) -> str:
    """The metrics as an HTML table, a row for each metric and a column for each split; the epochs below it.

    Names from outside are escaped. Of the epochs, the last 100 are shown; the network's size does not matter.
    """
    result = fitted.result
    figures = _figures(result)
    parts = [part for part in _PARTS if any(part in row for row in figures.values())]
    header = _row("th", ["", *(_PARTS[part] for part in parts)])
    body = [
        _row("td", [name_of(name), *(shown(name, row[part]) if part in row else "" for part in parts)])
        for name, row in figures.items()
    ]
    title = f"<p><b>{_safe(_model(result))}</b>, {_safe(', '.join(_about(result)))}</p>"
    return f"<div>{title}<table>{header}{''.join(body)}</table>{_epochs(fitted.history)}</div>"


class Evaluated(Protocol):
    """The input of a report: metrics, and the network's outputs."""

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def outputs(self) -> Any: ...


def evaluation_text(found: Evaluated) -> str:
    """The metrics, and the shapes of the outputs, in one line."""
    measured = ", ".join(f"{name_of(name)} {shown(name, value)}" for name, value in found.metrics.items())
    return f"Evaluation({'; '.join(filter(None, [printable(measured), _shapes(found.outputs)]))})"


def evaluation_html(found: Evaluated) -> str:
    """The metrics as an HTML table, and the shapes of the outputs."""
    rows = "".join(_row("td", [name_of(name), shown(name, value)]) for name, value in found.metrics.items())
    shapes = _shapes(found.outputs)
    return f"<div><table>{rows}</table>{f'<p>{_safe(shapes)}</p>' if shapes else ''}</div>"


def _shapes(outputs: Any) -> str:
    """The shapes of the outputs; empty if they were not kept."""
    arrays = jax.tree.leaves(outputs)
    return f"outputs {', '.join(f'{x.shape} {x.dtype}' for x in arrays)}" if arrays else ""


def _epochs(history: Sequence[Mapping[str, Any]]) -> str:
    """The records of the epochs, collapsed."""
    if not history:
        return ""
    names = [name for name in history[-1] if name not in _BOOKKEEPING]
    header = _row("th", ["epoch", *(_heading(name) for name in names)])
    body = [
        _row("td", [record["epoch"], *(shown(_plain(name), record[name]) if name in record else "" for name in names)])
        for record in history[-_MOST_EPOCHS:]
    ]
    count = len(history)
    which = f"the last {_MOST_EPOCHS} of {count:,} epochs" if count > _MOST_EPOCHS else _counted(count, "epoch")
    return f"<details><summary>{which}</summary><table>{header}{''.join(body)}</table></details>"


def _figures(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Each metric by name, with its value on each split."""
    found: dict[str, dict[str, float]] = {}
    for part in _PARTS:
        for key, value in result.items():
            if key.startswith(f"{part}_") and isinstance(value, (int, float)):
                found.setdefault(key.removeprefix(f"{part}_"), {})[part] = value
    return found


def _about(result: Mapping[str, Any]) -> list[str]:
    """The data, the size, the epochs and the time, as far as they are known."""
    found = [shortened(printable(result["data"]), _LONGEST)] if result.get("data") else []
    if "params" in result:
        found.append(_counted(result["params"], "parameter"))
    if "best_epoch" in result and "epochs" in result:
        found.append(f"epoch {result['best_epoch']} of {result['epochs']}")
    if "seconds" in result:
        found.append(duration(result["seconds"]))
    return found


def _model(result: Mapping[str, Any]) -> str:
    return shortened(printable(" ".join(str(result.get("model", "a network")).split())), _LONGEST)


def _plain(name: str) -> str:
    """A metric's name without the split in front."""
    return name.removeprefix("validation_")


def _heading(name: str) -> str:
    return f"validation {name_of(_plain(name))}" if name.startswith("validation_") else name_of(name)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {plural(count, what)}"


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_safe(cell)}</{tag}>" for cell in cells) + "</tr>"


def _safe(text: object) -> str:
    return escape(printable(text))
