"""The explored network: its layers, all their outputs for an image, one unit, filters, overlays.

The functions here take and return arrays and plain values; `answers` makes messages of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, get, network, numbered
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.errors import UserError
from jaxcnn.explore.graph import graph
from jaxcnn.explore.head import Pixel
from jaxcnn.explore.occlusion import Occlusion
from jaxcnn.explore.target import Target
from jaxcnn.inspect import summary
from jaxcnn.inspect.outline import Call, Outline
from jaxcnn.inspect.program import program
from jaxcnn.inspect.saliency import grad_cam, saliency
from jaxcnn.inspect.summary import Row, Summary
from jaxcnn.inspect.windows import filters, receptive_window, see_unit
from jaxcnn.transforms import split

OVERLAYS = ("grad_cam", "occlusion", "saliency")
_KEPT_INPUTS, _KEPT_OUTPUTS = 64, 2
_MOST_BYTES = 256 << 20  # of one forward pass, for more than one to be kept


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPass:
    """One image and all that the network computed from it.

    Attributes:
      number: the page's name for it.
      image: `(H, W, C)`, uint8.
      given: the network's input, `(1, h, w, C)`.
      output: the network's output, without the batch.
      inputs, outputs: of each layer by name, without the batch.
      milliseconds: the network's time, without compilation.
      waited: the milliseconds that the request waited for compilation, which comes once.
    """

    number: int
    image: np.ndarray
    given: Any
    output: np.ndarray
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    milliseconds: float
    waited: float = 0.0


class Network:
    """The network of a target. Its methods may be called from several threads; they run one at a time, but for
    overlays, which may run beside one other.

    Attributes:
      target: the network's.
      shape: of the network's input, (height, width, channels).
    """

    def __init__(self, target: Target):
        self.target = target
        trained = target.trained
        self.model, self.params, self.state = trained.model, trained.params, trained.model_state
        given = jax.eval_shape(trained.preprocess, jax.ShapeDtypeStruct((1, *trained.image), jnp.uint8))
        self.struct = jax.ShapeDtypeStruct(given.shape, given.dtype)
        self.shape = tuple(given.shape[1:])
        self._lock, self._overlaying, self._drawing = threading.RLock(), threading.Lock(), threading.Lock()
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()
        self._passes: OrderedDict[int, ForwardPass] = OrderedDict()
        self._number, self._prepared = 0, False
        self._single: dict[str, Layer] = {}
        self._graphs: dict[int, dict[str, Any]] = {}
        self._places: tuple[dict[str, int], dict[str, int]] = {}, {}

    def close(self, seconds: float = 10.0) -> None:
        """Waits for running computations: a process that ends during a compilation may crash."""
        for lock in (self._lock, self._overlaying):
            if lock.acquire(timeout=seconds):
                lock.release()

    # --- layers

    def layers(self) -> list[dict[str, Any]]:
        """A record of each layer in the order of computation, a network after the layers inside it; JSON."""
        with self._lock:
            return self._records

    @functools.cached_property
    def _records(self) -> list[dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {}
        for row, name in self._named_rows():
            call = self._calls.get(name)
            if call is None:
                continue
            records[name] = {
                "name": name,
                "depth": row.depth,
                "code": row.layer,
                "kind": call.layer.kind,
                "shape": list(row.output_shape[1:]),
                "input": self._input_shape(call),
                "params": row.params,
                "shared": row.shared,
                "macs": row.macs,
                "field": _pair(row.receptive_field),
                "stride": _pair(row.receptive_stride),
                "offset": _pair(row.receptive_offset),
                "group": bool(row.children),
                "filters": self._filter_shape(name) if not row.children else None,
                "colours": bool(call.inputs) and call.inputs[0] in self._colours,
            }
        return list(records.values())

    @functools.cached_property
    def _occlusion(self) -> Occlusion:
        return Occlusion(self.model, self.params, self.state, self.shape, self._table, self.target.head.probability)

    @functools.cached_property
    def _colours(self) -> set[int]:
        """The values that are the red, green and blue of the image, as given or as changed outside of layers."""
        if self.target.trained.image[-1] != 3 or self.shape[-1] != 3:
            return set()
        values, found = self._outline.values, set(self._outline.inputs)

        def follow(call: Call) -> None:
            for step in call.steps:
                if isinstance(step, Call):
                    if step.calls:
                        follow(step)
                elif not found.isdisjoint(step.inputs):
                    found.update(i for i in step.outputs if values[i].shape[-1:] == (3,))

        follow(self._outline.root)
        return found

    @functools.cached_property
    def _table(self) -> Summary:
        return summary(self.model, self.struct)

    @functools.cached_property
    def _calls(self) -> dict[str, Call]:
        """The calls of layers by the names that `activations` gives them."""
        return self._outline.calls()

    @property
    def _outline(self) -> Outline:
        assert self._table.outline is not None
        return self._table.outline

    def _named_rows(self) -> list[tuple[Row, str]]:
        """The rows of the table with the names that the page gives their layers."""
        rows = list(_rows(self._table.total))
        return list(zip(rows, numbered(tuple(row.name.split("/")) for row in rows), strict=True))

    def graph(self, depth: int) -> dict[str, Any]:
        """The graph, with networks inside networks down to a depth, 0 for all; as `explore.graph.graph`."""
        with self._lock:
            names = {id(row): name for row, name in self._named_rows()}
            outline, total = self._outline, self._table.total
        with self._drawing:  # another lock than that of forward passes, which need not wait
            if depth not in self._graphs:
                self._graphs[depth] = graph(outline, total, names, depth or None)
            return self._graphs[depth]

    def _input_shape(self, call: Call) -> list[int] | None:
        first = next((i for i in call.inputs if i is not None), None)
        return None if first is None else list(self._outline.values[first].shape[1:])

    def _filter_shape(self, name: str) -> list[int] | None:
        try:
            found = filters(self.model, self.params, self.state, name)
        except UserError:
            return None
        return list(found.shape) if found.ndim == 4 else None

    def frame(self) -> tuple[float, float, float, float]:
        """Where the run's image lies in the network's input: top, left, height, width, in the input's pixels."""
        (height, width), preprocess = self.shape[:2], self.target.trained.preprocess
        h, w = self.target.trained.image[:2]
        if isinstance(preprocess, Preprocess):
            if preprocess.resize:
                h, w = (int(preprocess.resize[0] * side / min(h, w)) for side in (h, w))
                return -round((h - height) / 2), -round((w - width) / 2), h, w
            if 0 <= height - h <= 8 and 0 <= width - w <= 8:
                return (height - h) // 2, (width - w) // 2, h, w
        return 0, 0, height, width

    def prepare(self) -> float:
        """Compiles what an input needs, once.

        Returns:
          The milliseconds that this call waited for it.
        """
        if self._prepared:
            return 0.0
        begun = time.perf_counter()
        with self._lock:
            if not self._prepared:
                self.layers()
                zeros = jnp.zeros((1, *self.target.trained.image), jnp.uint8)
                output = self._forward(self.params, self.state, zeros)[1]
                self.target.head.bars(np.asarray(output, np.float32)[0], None)
                self._prepared = True
        return 1000 * (time.perf_counter() - begun)

    # --- forward passes

    def see(self, image: np.ndarray) -> ForwardPass:
        """The forward pass of an image `(H, W, C)`, uint8, of the run's size."""
        if image.shape != self.target.trained.image or image.dtype != np.uint8:
            raise UserError(f"expected pixels {self.target.trained.image}, got {image.dtype}{image.shape}")
        waited = self.prepare()
        with self._lock:
            self._number += 1
            self._images[self._number] = image
            while len(self._images) > _KEPT_INPUTS:
                self._images.popitem(last=False)
            return dataclasses.replace(self._pass(self._number), waited=waited)

    def find(self, number: int) -> ForwardPass:
        """The forward pass with this number.

        Raises:
          UserError: when it is no longer kept.
        """
        with self._lock:
            return self._pass(number)

    def output(self, image: np.ndarray) -> np.ndarray:
        """The network's output for an image, without the batch; nothing is kept."""
        self.prepare()
        with self._lock:
            output = self._forward(self.params, self.state, jnp.asarray(image[None]))[1]
            return np.asarray(output, np.float32)[0]

    def at_layer(self, image: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A layer's output for an image, and the network's, without the batch; nothing is kept.

        Raises:
          UserError: when the layer has no output to show.
        """
        self.prepare()
        with self._lock:
            if name not in self._places[1]:
                raise UserError(f"there is no layer {name[:100]!r} with an output to show")
            _, output, arrays = self._forward(self.params, self.state, jnp.asarray(image[None]))
            return np.asarray(arrays[self._places[1][name]])[0], np.asarray(output, np.float32)[0]

    def _pass(self, number: int) -> ForwardPass:
        if number in self._passes:
            self._passes.move_to_end(number)
            return self._passes[number]
        if number not in self._images:
            raise UserError("this input is no longer kept: choose or draw it again")
        image = self._images[number]
        begun = time.perf_counter()
        given, output, arrays = jax.block_until_ready(self._forward(self.params, self.state, jnp.asarray(image[None])))
        took = 1000 * (time.perf_counter() - begun)
        known = [np.asarray(x)[0] for x in arrays]
        ins, outs = ({name: known[i] for name, i in places.items()} for places in self._places)
        forward = ForwardPass(number, image, given, np.asarray(output, np.float32)[0], ins, outs, took)
        self._passes[number] = forward
        many = sum(x.nbytes for x in known) > _MOST_BYTES
        while len(self._passes) > (1 if many else _KEPT_OUTPUTS):
            self._passes.popitem(last=False)
        return forward

    @functools.cached_property
    def _forward(self) -> Any:
        """The whole network as one compiled function that returns the inputs and outputs of all its layers, each array
        once."""

        def run(params: Any, state: Any, image: jax.Array) -> Any:
            given = self.target.trained.preprocess(image)
            traced = program(self.model, params, state, given)
            known = traced.known()
            arrays: list[jax.Array] = []
            known_as: dict[int, int] = {}
            places: tuple[dict[str, int], dict[str, int]] = {}, {}
            for name in traced.marks:
                for tree, found in zip(traced.values(name, known), places, strict=True):
                    # What has no axis of examples has no map.
                    first = next((x for x in jax.tree.leaves(tree) if x.ndim > 1 and len(x) == 1), None)
                    if first is None:
                        continue
                    found[name] = known_as.setdefault(id(first), len(arrays))
                    if found[name] == len(arrays):
                        arrays.append(first)
            self._places = places
            return given, traced.output(known), [x.astype(jnp.float32) for x in arrays]

        return jax.jit(run)

    # --- one unit

    def unit(self, number: int, name: str, place: tuple[int, ...]) -> dict[str, Any]:
        """One unit of a layer: its value, its receptive field, and the numbers that made it.

        Returns:
          `value`; `field`, the window in the network's input as top, left, bottom, right (None: it is not known);
          `window`, that in the layer's input (None: that has no height and width); `inputs`, `kernel` and `bias` with
          `total`, the sum, for a convolution or dense layer; `inputs` alone for others; `variables`, the layer's other
          variables of this channel.
        """
        with self._lock:
            forward = self._pass(number)
            output = forward.outputs.get(name)
            if output is None:
                raise UserError(f"there is no layer {name!r} with an output to show")
            if len(place) != output.ndim or any(not 0 <= p < n for p, n in zip(place, output.shape, strict=True)):
                raise UserError(f"place {list(place)}: the output of {name} is {list(output.shape)}")
            found: dict[str, Any] = {"layer": name, "place": list(place), "value": float(output[place])}
            found["field"] = self._field(name, place)
            call = self._calls.get(name)
            if call is None or call.calls:
                return found
            return {**found, **self._made(call, forward, name, place)}

    def _field(self, name: str, place: tuple[int, ...]) -> list[int] | None:
        try:
            seen = receptive_window(self.model, self.struct, layer=name, place=place)
        except UserError:
            return None
        return [seen.top, seen.left, seen.bottom, seen.right]

    def _made(self, call: Call, forward: ForwardPass, name: str, place: tuple[int, ...]) -> dict[str, Any]:
        """The numbers that a unit of a layer without layers inside was computed from."""
        given, output = forward.inputs.get(name), forward.outputs[name]
        if given is None:
            return {}
        params, state = self._variables(name)
        if given.ndim == 3:
            # The layer alone, on its input: the rest of the network is not traced or compiled.
            single = self._single.setdefault(name, network(_only, it=call.layer))
            seen = see_unit(single, {"it": params}, {"it": state}, given[None], layer="it", place=place)
            window, numbers, kernel, bias, total = seen.window, seen.inputs, seen.kernel, seen.bias, seen.total
            box = None if window is None else [window.top, window.left, window.bottom, window.right]
            if kernel is None and numbers.ndim == 3 and output.ndim == 3 and numbers.shape[-1] == output.shape[-1]:
                numbers = numbers[..., place[-1] : place[-1] + 1]  # of pools, norms and the like: its own map
            elif kernel is None and output.ndim == 1 and output.size == given.size:
                numbers = given.reshape(-1)[place[0]].reshape(1)  # flattened
        else:
            box = total = bias = kernel = None
            numbers = given
            matrix, biases = self.weights(name)
            if matrix is not None and matrix.shape == (given.shape[-1], output.shape[-1]):
                numbers, kernel = given[place[:-1]], matrix[:, place[-1]]
                bias = 0.0 if biases is None else float(biases[place[-1]])
                total = float((numbers * kernel).sum(dtype=np.float64)) + bias
            elif given.shape == output.shape:
                numbers = given[place].reshape(1)
        variables = {}
        if kernel is None:
            for key, value in {**_flat(params), **_flat(state)}.items():
                if getattr(value, "shape", None) == output.shape[-1:]:
                    variables[key.removeprefix("frozen/")] = float(value[place[-1]])
        return {
            "window": box,
            "inputs": np.asarray(numbers, np.float32),
            "kernel": None if kernel is None else np.asarray(kernel, np.float32),
            "bias": bias,
            "total": total,
            "variables": variables,
        }

    def _variables(self, name: str) -> tuple[Any, Any]:
        path = tuple(name.split("#")[0].split("/"))
        return get(self.params, path) or {}, get(self.state, path) or {}

    def weights(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Kernel and bias of a layer, frozen or not, as they are stored; None where it has none."""
        params, state = self._variables(name)
        stored = {**split(state)[0], **params}
        kernel, bias = (None if stored.get(key) is None else _as_numpy(stored[key]) for key in ("kernel", "bias"))
        return kernel, bias

    # --- filters and overlays

    def filters(self, name: str) -> np.ndarray:
        """The filters of a convolution, `(h, w, C, K)`."""
        with self._lock:
            found = filters(self.model, self.params, self.state, name)
            if found.ndim != 4:
                raise UserError(f"the filters of {name} are {found.shape}: expected (h, w, C, K)")
            return _as_numpy(found)

    def overlay(
        self,
        number: int,
        kind: str,
        layer: str | None,
        name: int | None,
        pixel: Pixel | None = None,
        seconds: float = math.inf,
        effort: float = 1.0,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The parts of an image that raise the score of a class.

        Args:
          number: of the forward pass.
          kind: "grad_cam", "occlusion" or "saliency".
          layer: of Grad-CAM; None for `cam_layer`.
          name: the class; None for the most probable.
          pixel: for an output of pixels; None for the one where the class is most probable.
          seconds: after which an occlusion stops; the next call continues from there.
          effort: below 1, the square is moved further, which takes less time.

        Returns:
          The map in the network's input, `(h, w)`, float32, and a record of it: for an occlusion also the number of
          `places` of the square, and of those that are `done`.
        """
        forward, head = self.find(number), self.target.head
        if kind not in OVERLAYS:
            raise UserError(f"overlay {kind!r}: expected grad_cam, occlusion or saliency")
        if name is None:
            name = int(head.bars(forward.output, pixel).argmax())
        if not 0 <= name < len(head.names):
            raise UserError(f"class {name}: there are {len(head.names)} classes")
        unit = head.unit(forward.output, name, pixel)
        asked = (self.model, self.params, self.state, forward.given)
        if kind == "grad_cam" and layer is None:
            layer = self.cam_layer()
        about: dict[str, Any] = {"kind": kind, "unit": name, "layer": layer}
        if isinstance(unit, tuple):
            about["pixel"] = unit[:2]
        with self._overlaying:  # another lock than that of forward passes: one may draw while this is computed
            if kind == "grad_cam":
                found: Any = grad_cam(*asked, layer=layer, unit=unit)[0]
            elif kind == "saliency":
                found = saliency(*asked, unit=unit)[0]
            else:
                found, more = self._occlusion.more(forward.number, forward.given, forward.output, unit, seconds, effort)
                about |= more
        return np.asarray(found, np.float32), about

    def map_layers(self) -> list[str]:
        """The layers that Grad-CAM can take."""
        return [r["name"] for r in self.layers() if len(r["shape"]) == 3 and r["shape"][0] * r["shape"][1] > 1]

    def cam_layer(self) -> str | None:
        """The layer that Grad-CAM takes when none is named: the last with maps that is no pool; None for none.

        An output of pixels has a map for each class, and Grad-CAM of those maps would repeat the output. For such a
        network it is the last layer that has more maps than there are classes.
        """
        head, names = self.target.head, self.map_layers()
        known = {r["name"]: r for r in self.layers()}
        if head.size is not None:
            deep = [n for n in names if not known[n]["group"] and known[n]["shape"][-1] > len(head.names)]
            names = deep or names
        found = None
        for name in names:
            found = found if found and "pool" in known[name]["kind"] else name
        return found


def _only(net: Any, *inputs: Any) -> Any:
    return net.it(*inputs)


def _rows(row: Row) -> Iterator[Row]:
    """Rows in the order in which the layers end."""
    for child in row.children:
        yield from _rows(child)
        yield child


def _pair(value: Any) -> list[float] | None:
    if value is None:
        return None
    return list(value) if isinstance(value, tuple) else [value, value]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for name, value in tree.items() for k, v in _flat(value, f"{prefix}/{name}" if prefix else name).items()
    }


def _as_numpy(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)
