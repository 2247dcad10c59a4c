"""Stops a training at Ctrl-C, a cluster's SIGTERM, or the SIGHUP of a closed terminal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from jaxcnn.devices import stop_together
from jaxcnn.errors import Interrupted
from jaxcnn.runs.folder import Run
from jaxcnn.signals import replaceable


class Stop:
    """Whether a signal has asked the run to stop."""

    def __init__(self, folder: Run | None):
        self._folder = folder
        self.signal: int | None = None
        self._asked = -1, False

    def asked(self, step: int) -> bool:
        """Whether to leave after this step; all processes say the same."""
        if self._asked[0] != step:  # JAX has to be asked once per step
            self._asked = step, self.signal is not None or stop_together(step)
        return self._asked[1]

    def leave(self, step: int) -> None:
        """Ends the run if a stop was asked for; call it after saving.

        Raises:
          Interrupted: if so, once the checkpoint is on the disk.
        """
        if self._folder is not None and self.asked(step):
            self._folder.checkpoints.wait()
            raise Interrupted(f"stopped after step {step}, which is saved", self.signal or signal.SIGTERM)


@contextmanager
def asked_to_stop(folder: Run | None) -> Iterator[Stop]:
    """A context in which Ctrl-C, SIGTERM or SIGHUP asks for a stop after the current step; a second acts as usual."""
    stop = Stop(folder)
    # With several processes, JAX's handler of SIGTERM informs the others. Windows has no SIGHUP.
    signals = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    own = signals if folder is not None and jax.process_count() == 1 else []
    before = {name: handler for name in own if (handler := replaceable(name)) is not None}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    def ask(name: int, _: Any) -> None:
        stop.signal = name
        restore()

    for name in before:
        signal.signal(name, ask)
    try:
        yield stop
    finally:
        restore()
