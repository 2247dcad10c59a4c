"""Layers that act on a whole batch whose parts are on several devices."""

from __future__ import annotations

import functools

import jax

from jaxcnn.core import Call, Layer, PyTree, Variables
from jaxcnn.layers.common import AxisName, spread_over
from jaxcnn.transforms.wrapped import wrapped


def synchronized(model: Layer, axis_name: AxisName) -> Layer:
    """The model for `pmap`, `shard_map` or `vmap` with a named axis, where each device has a part of the batch.

    Batch normalization uses the statistics of the whole batch, and dropout drops the same values as on the whole batch,
    so the devices together compute the same as one device. `train.make_step(..., axis_name=...)` applies this
    transformation itself; `jit` with a sharded batch does not need it.
    """

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        with spread_over(axis_name):
            return model.apply(params, state, *inputs, train=train, key=key)

    again = functools.partial(synchronized, axis_name=axis_name)
    return wrapped(model, again, apply, Call(synchronized, (model, axis_name)))
