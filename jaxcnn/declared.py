"""What losses and metrics say of themselves: that they look at each example alone, that they score classes."""

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
      outputs, labels: what it was given.
      value: what it returned.
      of_classes: whether it takes the outputs for scores of classes.
    """

    outputs: Any
    labels: Any
    value: Any
    of_classes: bool


_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def per_example(function: _F) -> _F:
    """Declares a loss or a metric whose number for an example depends on that example alone. A decorator.

    An evaluation fills its last batch up with copies of an example, so that all batches have one shape and are compiled
    once. A loss across examples (a contrastive one, or one that is weighed by the batch's own classes) must not see
    such copies. So the last batch keeps its own size, and is compiled again, unless loss and metrics are declared.
    Those of this package are declared, and a function that returns what a declared one gives for the same arguments
    need not be.
    """
    return _declared(function, of_classes=False)


def of_classes(function: _F) -> _F:
    """As `per_example`, for a loss that takes the outputs for scores of classes, and every label for a class."""
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
    """A context with a list of the calls of declared functions inside it."""
    seen: list[Call] = []
    token = _calls.set(seen)
    try:
        yield seen
    finally:
        _calls.reset(token)


def is_per_example(value: Any, outputs: Any, labels: Any, seen: list[Call]) -> bool:
    """Whether `value` is what a declared function gave for these very outputs and labels."""
    return any(c.value is value and c.outputs is outputs and c.labels is labels for c in seen)
