"""`jaxcnn weights`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn.cli.common import say
from jaxcnn.format import padded


@dataclass
class Weights:
    """Show what is in a file of weights: its arrays, and which network it fits. No code in the file is run."""

    file: tyro.conf.Positional[Path]
    """A file of PyTorch, safetensors, Flax or Keras, or a folder, which may be that of a run."""
    model: str | None = None
    """Compare the file with this network only, a name from `jaxcnn models`, and list what does not fit."""
    entry: str | None = None
    """The weights to look at in a training checkpoint that holds several, for instance state_dict_ema."""
    json: bool = False
    """Print one JSON object."""


def run_weights(given: Weights) -> None:
    from jaxcnn.weights import files
    from jaxcnn.weights.fits import fit_of, fits, parameters

    content = files.content(given.file, given.entry)
    if given.model is None:
        found = fits(content)
    else:
        fit, match = fit_of(given.model, content)
        if match is not None:
            match.check()
        found = [fit]
    wrapping = found[0].wrapping if found else content.wrapping
    facts: dict[str, Any] = {
        "file": str(given.file),
        "format": content.kind,
        "wrapping": list(wrapping),
        "parameters": parameters(content),
        "arrays": [
            {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in content.arrays.items()
        ],
        "fits": [{"model": fit.model, "classes": fit.classes, "call": fit.call} for fit in found],
    }
    say(json.dumps(facts) if given.json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    rows = [(a["name"], "x".join(map(str, a["shape"])) or "scalar", a["dtype"]) for a in facts["arrays"]]
    widths = [max(len(row[i]) for row in rows) if rows else 0 for i in range(2)]
    lines = [f"{padded(name, widths[0])}  {padded(shape, widths[1])}  {dtype}" for name, shape, dtype in rows]
    lines += ["", f"{len(rows)} arrays, {facts['parameters']:,} parameters, written by {_LIBRARIES[facts['format']]}"]
    if facts["wrapping"]:
        lines.append(f"around the network: {', '.join(facts['wrapping'])}")
    calls = [fit["call"] for fit in facts["fits"]]
    lines.append(f"fits {' and '.join(calls)}" if calls else "fits no network of `jaxcnn models` by names and shapes")
    return "\n".join(lines)


_LIBRARIES = {"torch": "PyTorch", "flax": "Flax", "keras": "Keras", "jaxcnn": "jaxcnn"}
