"""A page in the browser that shows a trained network: `jaxcnn explore RUN`, or `explore(model, params=..., ...)`.

The page, served on this machine by `server`, shows the network's layers with their shapes and parameters. For an input
that is chosen from the data, read from a file, or drawn, it shows all their maps, the classes' probabilities, the
numbers that one unit was computed from, and the parts of the input that raise a class's score. Other views are the
network's graph (`graph`), a convolution to play with, and the test data as points with their confusion matrix
(`points`). Several networks may be asked about the same input (`rivals`). `frozen` writes the page
with some examples as one file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.dataset import Dataset
from jaxcnn.errors import Interrupted
from jaxcnn.explore import target
from jaxcnn.explore.answers import Answers
from jaxcnn.explore.network import Network
from jaxcnn.explore.rivals import rivals
from jaxcnn.explore.server import Server
from jaxcnn.format import printable
from jaxcnn.runs.trained import TrainedModel

__all__ = ["explore", "serve"]


def explore(
    run: str | Path | TrainedModel | Layer,
    image: str | Path | None = None,
    port: int = 0,
    export: str | Path | None = None,
    open_browser: bool = True,
    *,
    beside: Sequence[str | Path | TrainedModel] = (),
    trust: bool = False,
    **given: Any,
) -> None:
    """Serves the page of a network on this machine until Ctrl-C, or writes it as one file.

    Args:
      run: the folder of a run; or a `TrainedModel`; or a Layer with its variables and data.
      image: an image file to begin with.
      port: where to listen, on 127.0.0.1 only; 0 for any that is free.
      export: the .html file to write, in place of serving; an older file is replaced.
      open_browser: whether to open the page, where there is a display.
      beside: further runs or `TrainedModel`s, of which the page shows what they say of the same input.
      trust: as in `TrainedModel.load`, for the folder of a run.
      **given: for a Layer, `params` and `state`, its variables, and `preprocess`, which makes its input of uint8 images
        (from 0 to 1 when not given); for a Layer or a `TrainedModel`, `data`, the images to choose from with the
        names of the classes (the run's test data when not given).

    Raises:
      UserError: for no run, a network that takes more than an image or whose output cannot be shown, an image that
        cannot be read, a port that is taken, or a file that cannot be written.
      TypeError: for another keyword.
    """
    if export is not None:
        from jaxcnn.explore import frozen

        frozen.check(export)
    chosen = _target(run, trust, _Given(**given))
    first = None if image is None else chosen.read(image)
    network = Network(chosen)
    others = rivals(network, [_target(one, trust, _Given()) for one in beside])
    if export is not None:
        size = frozen.write(network, export, first, Path(image).name if image is not None else "", others)
        print(f"{printable(export)}: {size / 1e6:.1f} MB; it opens in a browser without a server", flush=True)
        return
    name = Path(image).name if image is not None else ""
    try:
        with serve(network, port, first, name, others) as server:
            print(f"{printable(chosen.title)}: {server.url}  (Ctrl-C ends it)", flush=True)
            if open_browser and (sys.platform in ("darwin", "win32") or _display()):
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            threading.Event().wait()
    except Interrupted:  # SIGTERM, which the command reports
        raise
    except KeyboardInterrupt:
        pass


@contextlib.contextmanager
def serve(
    network: Network,
    port: int = 0,
    first: np.ndarray | None = None,
    name: str = "",
    others: Sequence[Network] = (),
) -> Iterator[Server]:
    """A server of the page in threads of its own, while the context lasts.

    Args:
      network: the network.
      port: where; 0 for any that is free.
      first, name: the image to begin with, and its name.
      others: networks beside it, as `rivals` gives them.

    Yields:
      The `Server`, whose `url` is the page's.
    """
    with Server(Answers(network, first, name, others), port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        # Compiles the programs before they are needed.
        threading.Thread(target=_warm, args=([network, *others],), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            for one in (network, *others):
                one.close()


def _warm(networks: Sequence[Network]) -> None:
    with contextlib.suppress(Exception):  # the page's own request shows the error
        for network in networks:
            network.prepare()


@dataclass(frozen=True)
class _Given:
    """The keywords of `explore` for a Layer."""

    params: Any = None
    state: Any = None
    preprocess: Callable[[Any], Any] | None = None
    data: Dataset | None = None


def _target(run: str | Path | TrainedModel | Layer, trust: bool, given: _Given) -> target.Target:
    if isinstance(run, Layer):
        return target.of_layer(run, given.params, given.state, given.preprocess, given.data)
    if isinstance(run, TrainedModel):
        return target.of_trained(run, given.data)
    return target.of_run(run, trust)


def _display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
