"""Several networks of the same images beside each other: what each says of one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.explore.head import Pixel
from jaxcnn.explore.network import Network
from jaxcnn.explore.target import Target
from jaxcnn.format import printable

MOST = 3


def rivals(network: Network, targets: Sequence[Target]) -> list[Network]:
    """The networks that are shown beside one.

    Args:
      network: the one whose layers the page shows.
      targets: the others, at most three.

    Raises:
      UserError: for more, or for one with other images, classes or another kind of output.
    """
    if len(targets) > MOST:
        raise UserError(f"explore shows up to {MOST} runs beside the first, got {len(targets)}")
    first = network.target
    for other in targets:
        for what, ours, theirs in (
            ("images", first.trained.image, other.trained.image),
            ("outputs", (first.head.kind, first.head.size), (other.head.kind, other.head.size)),
            ("classes", first.head.names, other.head.names),
        ):
            if ours != theirs:
                raise UserError(
                    f"explore compares runs of the same {what}: {printable(first.title)} has {_short(ours)}, "
                    f"{printable(other.title)} has {_short(theirs)}"
                )
    return [Network(target) for target in targets]


def names(networks: Sequence[Network]) -> list[str]:
    """A name of each network: that of its run's folder, or its title; numbered where two have the same."""
    found = [net.target.title if net.target.folder is None else net.target.folder.resolve().name for net in networks]
    again = [found[:i].count(name) + 1 for i, name in enumerate(found)]
    return [printable(name if n == 1 else f"{name} ({n})") for name, n in zip(found, again, strict=True)]


def bars(networks: Sequence[Network], image: np.ndarray, pixel: Pixel | None) -> tuple[list[list[float]], float]:
    """What each network says of an image, as the page's bars; and the milliseconds waited for compilation."""
    found, waited = [], 0.0
    for network in networks:
        waited += network.prepare()
        found.append(network.target.head.bars(network.output(image), pixel).tolist())
    return found, waited


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return printable(text if len(text) <= 80 else f"{text[:79]}\u2026")
