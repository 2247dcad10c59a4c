"""Declarations of losses and metrics: that each example counts alone, and that outputs are scores of classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


class Call(NamedTuple):
    """A call of a declared function.

    Attributes:
      outputs, labels: its arguments.
      value: its result.
      of_classes: whether the outputs are scores of classes.
    """

    outputs: Any
    labels: Any
    value: Any
    of_classes: bool


_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def per_example(function: _F) -> _F:
    """Decorates a loss or metric whose value for an example depends on that example alone.

    An evaluation pads its last batch with copies of an example, so that all batches have the same shape and the
    function is compiled once. A loss across examples (a contrastive loss, or one with weights from the classes in the
    batch) must not see the copies. So the padding is done only if the loss and all metrics are declared; otherwise the
    function is compiled again for the last batch. The losses and metrics of this package are declared. A function that
    returns the result of a declared one for the same arguments need not be.
    """
    return _declared(function, of_classes=False)


def of_classes(function: _F) -> _F:
    """`per_example` for a loss or metric whose outputs are scores of classes and whose labels are classes."""
    return _declared(function, of_classes=True)


def _declared(function: _F, of_classes: bool) -> _F:
    @functools.wraps(function)
    def called(outputs: Any, labels: Any, *args: Any, **options: Any) -> Any:
        value = function(outputs, labels, *args, **options)
        if (seen := _calls.get()) is not None:
            seen.append(Call(outputs, labels, value, of_classes))
        return value

    return called  # type: ignore[return-value]


@contextmanager
def calls() -> Iterator[list[Call]]:
    """A context that gives a list, to which each call of a declared function inside is added."""
    seen: list[Call] = []
    token = _calls.set(seen)
    try:
        yield seen
    finally:
        _calls.reset(token)


def is_per_example(value: Any, outputs: Any, labels: Any, seen: list[Call]) -> bool:
    """Whether `value` is the result of a declared function for exactly these outputs and labels."""
    return any(c.value is value and c.outputs is outputs and c.labels is labels for c in seen)
