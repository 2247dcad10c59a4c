"""Looking into a trained network in a browser: `jaxcnn explore RUN`, or `explore(model, params=..., ...)`.

A page on this machine, served by `server`, shows the network's layers with their shapes and parameters, and, for an
input that is chosen from the data, read from a file, or drawn, all their maps, the classes' probabilities, what made
one unit, and what in the input speaks for a class. `frozen` writes the page with some examples as one file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.core import Layer
from jaxcnn.data.dataset import Dataset
from jaxcnn.errors import Stopped
from jaxcnn.explore import subject
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import Answers, Server
from jaxcnn.format import printable
from jaxcnn.runs.trained import Trained

__all__ = ["explore", "serve"]


def explore(
    run: str | Path | Trained | Layer,
    image: str | Path | None = None,
    port: int = 0,
    export: str | Path | None = None,
    open_browser: bool = True,
    *,
    params: Any = None,
    state: Any = None,
    preprocess: Callable[[Any], Any] | None = None,
    data: Dataset | None = None,
    trust: bool = False,
) -> None:
    """Serves the page of a network on this machine until Ctrl-C, or writes it as one file.

    Args:
      run: the folder of a run; or a `Trained`; or a Layer with its variables and data.
      image: an image file to begin with.
      port: where to listen, on 127.0.0.1 only; 0 for any that is free.
      export: the .html file to write, in place of serving; what is there is replaced.
      open_browser: whether to open the page, where there is a display.
      params, state: the variables of a Layer.
      preprocess: what makes its input of uint8 images; 0 to 1 when not given.
      data: the images to choose from, and the names of the classes; the run's test data when not given.
      trust: as in `Trained.load`, for the folder of a run.

    Raises:
      UserError: for no run, a network that is given more than an image or says nothing of it that can be shown, an
        image that cannot be read, a port that is taken, or a file that cannot be written.
    """
    if export is not None:
        from jaxcnn.explore import frozen

        frozen.check(export)
    chosen, first = _chosen(run, image, params, state, preprocess, data, trust)
    network = Network(chosen)
    if export is not None:
        size = frozen.write(network, export, first, Path(image).name if image is not None else "")
        print(f"{printable(export)}: {size / 1e6:.1f} MB; it opens in a browser without a server", flush=True)
        return
    name = Path(image).name if image is not None else ""
    try:
        with serve(network, port, first, name) as server:
            print(f"{printable(chosen.title)}: {server.url}  (Ctrl-C ends it)", flush=True)
            if open_browser and (sys.platform in ("darwin", "win32") or _display()):
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            threading.Event().wait()
    except Stopped:  # SIGTERM, which the command says
        raise
    except KeyboardInterrupt:
        pass


@contextlib.contextmanager
def serve(network: Network, port: int = 0, first: np.ndarray | None = None, name: str = "") -> Iterator[Server]:
    """A server of the page in threads of its own, while the context lasts.

    Args:
      network: what is looked at.
      port: where; 0 for any that is free.
      first, name: the image to begin with, and what it is called.

    Yields:
      The `Server`, whose `url` is the page's.
    """
    with Server(Answers(network, first, name), port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        # By the time somebody looks, the programs are compiled.
        threading.Thread(target=_warm, args=(network,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            network.close()


def _warm(network: Network) -> None:
    with contextlib.suppress(Exception):  # whoever asks is told
        network.layers()
        network.see(np.zeros(network.subject.trained.image, np.uint8))


def _chosen(
    run: str | Path | Trained | Layer,
    image: str | Path | None,
    params: Any,
    state: Any,
    preprocess: Any,
    data: Any,
    trust: bool,
) -> tuple[subject.Subject, np.ndarray | None]:
    if isinstance(run, Layer):
        chosen = subject.of_layer(run, params, state, preprocess, data)
    elif isinstance(run, Trained):
        chosen = subject.of_trained(run, data)
    else:
        chosen = subject.of_run(run, trust)
    return chosen, None if image is None else chosen.read(image)


def _display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
