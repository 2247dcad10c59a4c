"""A command that is stopped by SIGTERM ends as one that is stopped by Ctrl-C, with an exit status of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxcnn.errors import Stopped


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `Stopped`, a KeyboardInterrupt, while the context lasts; where it is ignored, it stays ignored."""
    before = replaceable(signal.SIGTERM)
    if before is not None:
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def replaceable(number: int) -> Any:
    """A signal's handler, if this thread may set another one and this one again; None if not.

    None, too, for a signal that is ignored, as a shell's background job ignores Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(number)  # None for one that was not set by Python
    return None if handler == signal.SIG_IGN else handler


def name_of(stopped: KeyboardInterrupt) -> str:
    """The signal's name that is behind a KeyboardInterrupt."""
    return signal.Signals(status_of(stopped) - 128).name


def status_of(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that was stopped so: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (stopped.signal if isinstance(stopped, Stopped) else signal.SIGINT)


def _stop(number: int, _: Any) -> None:
    raise Stopped(f"stopped by {signal.Signals(number).name}", number)
