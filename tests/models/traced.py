"""The networks as they were designed, traced once for all tests of a process: a large one takes seconds."""

import functools
import math
from typing import Any, NamedTuple

import jax

from jaxcnn.inspect.cost import macs
from jaxcnn.models import MODELS, make


class Traced(NamedTuple):
    parameters: int
    macs: int  # of one example in an evaluation
    outputs: Any  # shapes and dtypes


@functools.cache
def parameters(name: str) -> int:
    """The parameters of a network, found from its shapes alone."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_variables(name)[0]))


@functools.cache
def traced(name: str) -> Traced:
    jaxpr, (outputs, _) = jax.make_jaxpr(_made(name).apply, return_shape=True)(
        *_variables(name), *MODELS[name].example()
    )
    return Traced(parameters(name), macs(jaxpr.jaxpr), outputs)


def _made(name: str) -> Any:
    return make(name, MODELS[name].classes)


@functools.cache
def _variables(name: str) -> Any:
    return jax.eval_shape(_made(name).init, jax.random.key(0), *MODELS[name].example())
