"""Watching a forward pass: summaries, graphs and activation maps are made this way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxcnn.core.layer import Layer, PyTree


class Watcher:
    """Sees every call of a named sublayer while `watch` is active: path, inputs and output, which it may replace."""

    def __init__(self) -> None:
        self.path: tuple[str, ...] = ()

    def enter(self, name: str) -> None:
        self.path = (*self.path, name)

    def exit(self) -> None:
        self.path = self.path[:-1]

    def replaced(self, output: PyTree) -> PyTree:
        """What replaces the output of the sublayer at `self.path`; the output itself by default."""
        return output

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        """Called after the sublayer at `self.path` has run; for nested layers, the inner ones first."""


_watcher: ContextVar[Watcher | None] = ContextVar("jaxcnn_watcher", default=None)


def watcher() -> Watcher | None:
    """The active watcher."""
    return _watcher.get()


@contextmanager
def watch(watcher: Watcher | None) -> Iterator[None]:
    """A context in which `watcher` sees every sublayer call; None hides them from the watcher outside."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
