"""The output of every layer of a network."""

from __future__ import annotations

from typing import Any

from jaxcnn.core import Layer, Record, numbered, watch


def activations(
    model: Layer, params: Any, state: Any, *inputs: Any, train: bool = False, key: Any = None
) -> dict[str, Any]:
    """The output of each named sublayer, by path, in the order of computation: `{"conv1": ..., "block1/conv2": ...}`.

    A sublayer that is called several times has its later outputs under `conv1#2`, `conv1#3` and so on. Works inside
    `jit`. The network's own output is not among them unless a sublayer gives it.
    """
    record = Record()
    with watch(record):
        model.apply(params, state, *inputs, train=train, key=key)
    return dict(zip(numbered(call.path for call in record.calls), (call.output for call in record.calls), strict=True))
