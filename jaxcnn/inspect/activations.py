"""What every layer of a network puts out."""

from __future__ import annotations

from typing import Any

from jaxcnn.core import Layer, Watcher, watch


def activations(
    model: Layer, params: Any, state: Any, *inputs: Any, train: bool = False, key: Any = None
) -> dict[str, Any]:
    """The output of each named sublayer, by path, in the order of computation: `{"conv1": ..., "block1/conv2": ...}`.

    A sublayer that is called several times has its later outputs under `conv1#2`, `conv1#3` and so on. Works inside
    `jit`. The network's own output is not among them unless a sublayer gives it.
    """
    seen: dict[str, Any] = {}

    class Collect(Watcher):
        def called(self, layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
            path = "/".join(self.path)
            count = sum(name.split("#")[0] == path for name in seen)
            seen[f"{path}#{count + 1}" if count else path] = output

    with watch(Collect()):
        model.apply(params, state, *inputs, train=train, key=key)
    return seen
