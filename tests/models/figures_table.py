"""Makes `jaxcnn/models/figures.json`, the figures that `jaxcnn models` shows; not run by the tests.

    python tests/models/figures_table.py [NAME ...]

computes the parameters and multiply-accumulates of these networks, of all of them by default, and takes the accuracies
from `torchvision.json.xz`. Run it after a network is added or changed.
"""

import json
import math
import sys
from typing import Any

import jax
import torchvision_fixture

from jaxcnn.inspect.cost import macs
from jaxcnn.models import MODELS
from jaxcnn.models.figures import FILE

THEIRS = torchvision_fixture.load()


def parameters(name: str) -> int:
    """The parameters of a network as it was designed, found from its shapes alone."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_shapes(name)[0]))


def operations(name: str) -> int:
    """The multiply-accumulates of one example in an evaluation."""
    traced = jax.make_jaxpr(_make(name).apply)(*_shapes(name), *MODELS[name].example())
    return macs(traced.jaxpr)


def top1(name: str) -> float | None:
    """The ImageNet top-1 accuracy of torchvision's first published weights, in percent."""
    return THEIRS.get(name, {}).get("top1")


def row(name: str) -> dict[str, Any]:
    """The network's entry of the file."""
    accuracy = top1(name)
    return {"parameters": parameters(name), "macs": operations(name)} | ({"top1": accuracy} if accuracy else {})


def _make(name: str) -> Any:
    from jaxcnn.models import make

    return make(name, MODELS[name].classes)


def _shapes(name: str) -> Any:
    return jax.eval_shape(_make(name).init, jax.random.key(0), *MODELS[name].example())


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in sys.argv[1:] or MODELS:
        known[name] = row(name)
    lines = [f"{json.dumps(name)}: {json.dumps(known[name])}" for name in MODELS]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{FILE}: {len(lines)} networks, {FILE.stat().st_size / 1024:.1f} KiB")
