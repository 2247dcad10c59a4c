"""Makes `jaxcnn/models/figures.json`, the figures that `jaxcnn models` shows; not run by the tests.

    python tests/models/figures_table.py [NAME ...]

computes the parameters and multiply-accumulates of these networks, of all of them by default, and takes the accuracies
from `torchvision.json.xz`. Run it after a network is added or changed.
"""

import json
import sys
from typing import Any

import torchvision_fixture
from traced import traced

from jaxcnn.models import MODELS
from jaxcnn.models.figures import FILE

THEIRS = torchvision_fixture.load()


def top1(name: str) -> float | None:
    """The ImageNet top-1 accuracy of torchvision's first published weights, in percent."""
    return THEIRS.get(name, {}).get("top1")


def row(name: str) -> dict[str, Any]:
    """The network's entry of the file."""
    accuracy = top1(name)
    found = traced(name)
    return {"parameters": found.parameters, "macs": found.macs} | ({"top1": accuracy} if accuracy else {})


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in sys.argv[1:] or MODELS:
        known[name] = row(name)
    lines = [f"{json.dumps(name)}: {json.dumps(known[name])}" for name in MODELS]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{FILE}: {len(lines)} networks, {FILE.stat().st_size / 1024:.1f} KiB")
