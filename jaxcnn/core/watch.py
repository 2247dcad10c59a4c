"""Watching a forward pass, for summaries, graphs and activation maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

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


class Called(NamedTuple):
    """One call of a sublayer: its path, the layer, and what went in and came out."""

    path: tuple[str, ...]
    layer: Layer
    inputs: tuple[PyTree, ...]
    output: PyTree


class Record(Watcher):
    """Keeps every call in `calls`, in the order in which the calls end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Called] = []

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        self.calls.append(Called(self.path, layer, inputs, output))


def numbered(paths: Iterable[tuple[str, ...]]) -> list[str]:
    """The name of each call: its path, `"block1/conv2"`; for the second call of the same layer `"block1/conv2#2"`."""
    count: Counter[str] = Counter()
    names = []
    for path in map("/".join, paths):
        count[path] += 1
        names.append(path if count[path] == 1 else f"{path}#{count[path]}")
    return names


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
