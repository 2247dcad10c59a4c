"""Which form of an operation is computed: the one that a CPU is quick at, or XLA's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_general: ContextVar[bool] = ContextVar("jaxcnn_general_form", default=False)


def on_cpu() -> bool:
    """Whether to take the form that suits a CPU: when there is no accelerator, and outside `general_form`."""
    return jax.default_backend() == "cpu" and not _general.get()


@contextmanager
def general_form() -> Iterator[None]:
    """A context in which operations are traced as XLA's own, one for each, whatever the machine.

    A summary counts in this form, so that it says the same everywhere. Functions that JAX caches by their arguments
    (`jax.jit`, `jax.checkpoint`) keep the form in which they were traced first.
    """
    token = _general.set(True)
    try:
        yield
    finally:
        _general.reset(token)
