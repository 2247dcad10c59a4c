"""Watching a forward pass, for summaries, graphs and activation maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxcnn.core.layer import Layer, PyTree


class Watcher:
    """Sees the path, inputs and output of every call of a sublayer while `watch` is active, and may replace the output.

    Attributes:
      path: the path of the sublayer that is being called.
    """

    def __init__(self) -> None:
        self.path: tuple[str, ...] = ()

    def enter(self, name: str) -> None:
        self.path = (*self.path, name)

    def exit(self) -> None:
        self.path = self.path[:-1]

    def replaced(self, output: PyTree) -> PyTree:
        """The value that replaces the output of the sublayer at `self.path`; the output itself by default."""
        return output

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        """Called after the sublayer at `self.path` has run; inner layers come first."""


_watcher: ContextVar[Watcher | None] = ContextVar("jaxcnn_watcher", default=None)


def watcher() -> Watcher | None:
    """The active watcher."""
    return _watcher.get()


@contextmanager
def watch(watcher: Watcher | None) -> Iterator[None]:
    """A context in which `watcher` sees every call of a sublayer; None hides the calls from an outer watcher."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
