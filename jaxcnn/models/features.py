"""The outputs of a network's inner layers as a layer: for pyramids, segmentation, embeddings, losses on features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxcnn import core
from jaxcnn.core import Call, Layer, LayerError, PyTree, Variables
from jaxcnn.core.network import Applying
from jaxcnn.core.watch import watcher
from jaxcnn.errors import UserError
from jaxcnn.transforms.ensemble import members


def features(model: Layer, layers: Sequence[str]) -> Layer:
    """What named layers of a network put out: `apply(params, state, x)` gives `({path: output}, state)`.

    Nothing is computed beyond the last of the layers: the network's function is left there. So it is under `jit`, in
    gradients, with `train=True` (the statistics of the layers that ran are updated, those of the others stay), and
    inside and around `freeze`, `remat`, `mixed_precision` and `synchronized`.

    Args:
      model: a network, transformed or not.
      layers: paths as in `cnn.inspect` and in weights: `"layer1"`, `"layer2/block1"`, `"conv1#2"` for the second call
        of a layer that is called more often.

    Variables: those of the model, all of them, so that its trained weights fit and `cnn.weights.load` fills them. To be
      rid of the layers behind, make a network without them, `serial(**layers)`, and take the features of that.

    Returns:
      A Layer `(*inputs) -> {path: output}`, the paths in the order given.

    Raises:
      UserError: for paths that the model does not have, with the nearest that it has; for no paths; when it is applied,
        for a layer that the network has and does not call.
      LayerError: for what is no network, and for an `ensemble`, whose members have features each: take
        `cnn.transforms.member(model)`.

    Example:
      >>> pyramid = cnn.models.features(cnn.models.resnet50(), ["layer2", "layer3", "layer4"])
      >>> maps, state = pyramid.apply(params, state, images)
      >>> maps["layer4"].shape    # (N, 7, 7, 2048)
    """
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    if not isinstance(model, Layer):
        raise LayerError(f"features takes a Layer first, got {model!r}")
    if not wanted:
        raise UserError("features(model, layers): expected at least one path, as cnn.inspect.summary(model, x) shows")
    for path in wanted:
        core.sublayer(model, path.partition("#")[0])
    if members(model) is not None:
        raise LayerError("each member of an ensemble has its own features: take cnn.transforms.member(model)")

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        return model.init(key, *inputs)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        tapped = _tapped(model, _Taps(wanted), "", True)
        (_, found), state = tapped.apply(params, state, *inputs, train=train, key=key)
        return _chosen(found, wanted), state

    def forward(net: core.Net, *inputs: PyTree) -> PyTree:
        """For `init`, which needs the whole network once: the outputs are seen on the way."""
        network = model
        while network.inner is not None:
            network = network.inner
        seen = _Seen(wanted)
        assert network.forward is not None
        with core.watch(seen):
            network.forward(net, *inputs)
        return _chosen(seen.found, wanted)

    again = functools.partial(features, layers=wanted)
    call = Call(features, (model, wanted))
    made = Layer(init, apply, call, sublayers=model.sublayers, forward=forward, base=model, inner=model, wrap=again)
    return made


def _chosen(found: Mapping[str, PyTree], wanted: Sequence[str]) -> dict[str, PyTree]:
    if missing := [path for path in wanted if path not in found]:
        raise UserError(f"the network does not call {missing[0]}: it has no output")
    return {path: found[path] for path in wanted}


class _Taps:
    """The paths that are still to come, and how often each layer was called, during one forward pass."""

    def __init__(self, paths: Sequence[str]):
        self.left = set(paths)
        self.calls: dict[str, int] = {}

    def under(self, path: str) -> set[str]:
        """Those of layers inside the one at `path`."""
        return {name for name in self.left if name.startswith(f"{path}/")}

    def take(self, path: str, output: PyTree) -> dict[str, PyTree]:
        """The output by its name, if it is wanted."""
        count = self.calls[path] = self.calls.get(path, 0) + 1
        name = path if count == 1 else f"{path}#{count}"
        if name not in self.left:
            return {}
        self.left.remove(name)
        return {name: output}


class _Seen(core.Watcher):
    """Keeps what is wanted of the outputs, and lets the watcher outside see everything, too."""

    def __init__(self, wanted: Sequence[str]):
        super().__init__()
        self.found: dict[str, PyTree] = {}
        self._taps, self._outside = _Taps(wanted), watcher()

    def enter(self, name: str) -> None:
        super().enter(name)
        if self._outside is not None:
            self._outside.enter(name)

    def exit(self) -> None:
        super().exit()
        if self._outside is not None:
            self._outside.exit()

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        self.found |= self._taps.take("/".join(self.path), output)
        if self._outside is not None:
            self._outside.called(layer, inputs, output)


class _Done(BaseException):
    """All that is wanted is there. It leaves the network's function, which may catch errors."""


class _Tapping(Applying):
    """Runs the sublayers and keeps what is wanted of their outputs, in `found`.

    The outputs go up as return values, from layer to layer, and so through whatever a transformation puts between them
    (`jax.checkpoint` in `remat`).
    """

    def __init__(self, taps: _Taps, at: str, last: bool, *args: Any):
        super().__init__(*args)
        self._taps, self._at, self._last = taps, at, last
        self.found: dict[str, PyTree] = {}

    def _call(self, name: str, *inputs: PyTree) -> PyTree:
        output = super()._call(name, *inputs)
        self.found |= self._taps.take(self._at + name, output)
        if self._last and not self._taps.left:
            raise _Done
        return output

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: Any) -> PyTree:
        path, taps = self._at + name, self._taps
        inside = taps.under(path)
        if not inside:
            return super()._run(name, sublayer, inputs, key)
        last = self._last and inside == taps.left
        output, found = super()._run(name, _tapped(sublayer, taps, f"{path}/", last), inputs, key)
        self.found |= found
        return output


def _tapped(layer: Layer, taps: _Taps, at: str, last: bool) -> Layer:
    """The layer with `(output, found)` as its output; `last` says that nothing is wanted behind it.

    The output is None when the layer's function was left early.
    """
    if _makes_features(layer):
        return _tapped_features(layer, taps, at)
    if layer.inner is not None and layer.wrap is not None:
        return layer.wrap(_tapped(layer.inner, taps, at, last))
    if layer.forward is None:
        raise UserError(f"{at.rstrip('/')} is in one piece: there are no outputs inside")
    forward: Callable[..., PyTree] = layer.forward

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        net = _Tapping(taps, at, last, layer.sublayers, params, state, train, key)
        try:
            output = forward(net, *inputs)
        except _Done:
            output = None
        return (output, net.found), net._new_state

    return Layer(layer.init, apply)


def _makes_features(layer: Layer) -> bool:
    return isinstance(layer.wrap, functools.partial) and layer.wrap.func is features


def _tapped_features(layer: Layer, taps: _Taps, at: str) -> Layer:
    """Features inside a network of which features are taken: one pass finds both."""
    assert layer.inner is not None
    assert isinstance(layer.wrap, functools.partial)
    own, wanted = layer.wrap.keywords["layers"], taps.under(at.rstrip("/"))
    both = _Taps([*wanted, *(at + path for path in own)])
    inner = _tapped(layer.inner, both, at, True)

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        (_, found), state = inner.apply(params, state, *inputs, train=train, key=key)
        taps.left -= wanted
        return ({path: found[at + path] for path in own}, {name: found[name] for name in wanted & set(found)}), state

    return Layer(layer.init, apply)
