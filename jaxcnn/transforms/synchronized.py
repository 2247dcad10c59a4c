"""One batch on several devices."""

from __future__ import annotations

import functools

import jax

from jaxcnn.core import Call, Layer, PyTree, Variables
from jaxcnn.layers.common import AxisName, spread_over
from jaxcnn.transforms.wrapped import wrapped


def synchronized(model: Layer, axis_name: AxisName) -> Layer:
    """The model where each device has a part of the batch, under `pmap`, `shard_map` or `vmap` with a named axis.

    Batch normalization takes its statistics over all parts, and dropout drops what it would drop of the whole batch: so
    the parts together compute what one device computes. `train.make_step(..., axis_name=...)` does this by itself;
    under `jit` with a sharded batch nothing is needed.
    """

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        with spread_over(axis_name):
            return model.apply(params, state, *inputs, train=train, key=key)

    again = functools.partial(synchronized, axis_name=axis_name)
    return wrapped(model, again, apply, Call(synchronized, (model, axis_name)))
