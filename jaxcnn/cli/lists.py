"""`jaxcnn models`, `jaxcnn recipes` and `jaxcnn datasets`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import tyro

from jaxcnn.cli.common import say
from jaxcnn.errors import UserError
from jaxcnn.format import padded


@dataclass
class Models:
    """List the networks: input, parameters, multiply-accumulates, ImageNet accuracy; and if weights can be read."""

    word: tyro.conf.Positional[str] = ""
    """List only the networks with this word in their name, task or description."""
    json: bool = False
    """Print one JSON list."""


def run_models(given: Models) -> None:
    from jaxcnn.models import MODELS
    from jaxcnn.models.figures import Figures, figures

    word = given.word.casefold()
    chosen = {n: e for n, e in MODELS.items() if word in f"{n} {e.task} {e.about}".casefold()}
    known = figures()
    if not chosen:
        raise UserError(f"no network has {given.word!r} in its name, task or description; `jaxcnn models` lists all")
    rows = [
        {"name": name, "task": entry.task, "about": entry.about, "input": list(entry.input)}
        | {
            "classes": entry.classes,
            **dataclasses.asdict(known.get(name, Figures())),
            "weights": entry.published is not None,
        }
        for name, entry in chosen.items()
    ]
    say(json.dumps(rows) if given.json else _table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    """The networks, a line each, under a line of headings."""
    cells = [("name", "input", "parameters", "10^6 MACs", "top-1", "weights", "")]
    for row in rows:
        accuracy = "" if row["top1"] is None else f"{row['top1']:.1f} %"
        size = "x".join(map(str, row["input"]))
        counts = ("", "") if row["macs"] is None else (f"{row['parameters']:,}", f"{row['macs'] / 1e6:,.1f}")
        cells.append((row["name"], size, *counts, accuracy, "yes" if row["weights"] else "", row["about"]))
    widths = [max(len(line[i]) for line in cells) for i in range(6)]
    right = (False, False, True, True, True, False)
    return "\n".join(
        "  ".join([*(padded(c, w, r) for c, w, r in zip(line, widths, right, strict=False)), line[-1]]).rstrip()
        for line in cells
    )


@dataclass
class Recipes:
    """List the named recipes: what each trains, the figure that it reached, the time that it took, and where."""


def run_recipes(given: Recipes) -> None:
    from jaxcnn.runs.named import recipes

    for entry in recipes().values():
        measured = entry.measured
        say(f"{entry.name}: {entry.about}")
        say(f"    {measured['figure']}, in {measured['time']} ({measured['machine']})")
        say(f"    {' '.join(['jaxcnn train', '--recipe', entry.name])}")


@dataclass
class Datasets:
    """List the datasets."""


def run_datasets(given: Datasets) -> None:
    from jaxcnn.data.datasets import listed

    entries = listed()
    names, kinds = (max(len(getattr(entry, field)) for entry in entries) for field in ("name", "kind"))
    for entry in entries:
        say(f"{entry.name:{names}s}  {entry.kind:{kinds}s}  {entry.about}")
