"""Stopping a command by SIGTERM, which works as Ctrl-C but gives another exit status."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxcnn.errors import Interrupted


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM raises `Interrupted`, a KeyboardInterrupt, unless the process ignores SIGTERM."""
    before = replaceable(signal.SIGTERM)
    if before is not None:
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def replaceable(number: int) -> Any:
    """A signal's handler, if this thread may replace it and later restore it; otherwise None.

    It is also None for a signal that is ignored; a background job of a shell ignores Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(number)  # None if it was not set by Python
    return None if handler == signal.SIG_IGN else handler


def name_of(stopped: KeyboardInterrupt) -> str:
    """The name of the signal that caused a KeyboardInterrupt."""
    return signal.Signals(status_of(stopped) - 128).name


def status_of(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that this interrupt stopped: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (stopped.signal if isinstance(stopped, Interrupted) else signal.SIGINT)


def _stop(number: int, _: Any) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", number)
