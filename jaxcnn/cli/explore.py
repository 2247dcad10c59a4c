"""`jaxcnn explore`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Explore:
    """Look into a run's network in the browser: the maps of every layer for an input that you draw or choose, and what
    each unit was computed from."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    others: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Further runs of the same images and classes: the page shows what they say of the same input."""
    image: Path | None = None
    """An image file to begin with."""
    port: int = 0
    """The port to listen on, on this machine only. Any free port when not given."""
    export: Path | None = None
    """Write the page with some examples to this .html file, which needs no server, instead of serving it."""
    no_browser: bool = False
    """Print the address only."""
    trust: bool = False
    """Execute the code of your own network even if it is outside the current folder, is inside the run's folder, or has
    changed since the training."""


def run_explore(given: Explore) -> None:
    from jaxcnn.explore import explore

    explore(given.run, given.image, given.port, given.export, not given.no_browser, beside=given.others,
            trust=given.trust)  # fmt: skip
