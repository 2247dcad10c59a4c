"""The server's answers to the page's questions."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn import __version__
from jaxcnn.errors import DataError, UserError
from jaxcnn.explore.head import Pixel
from jaxcnn.explore.maps import packed, stacked
from jaxcnn.explore.messages import Refused, integer, numbers, pack, text, to_json, unpack
from jaxcnn.explore.network import ForwardPass, Network
from jaxcnn.explore.points import Points
from jaxcnn.explore.rivals import bars, names
from jaxcnn.explore.target import FIGURES, Data
from jaxcnn.format import printable

SIDE, MOST_MAPS, MOST_IMAGES = 112, 64, 100
SECONDS = 0.7  # of an occlusion that is not done: the page shows what there is, and asks again


class Answers:
    """Answers by the name of the question."""

    def __init__(
        self,
        network: Network,
        first: np.ndarray | None = None,
        first_name: str = "",
        others: Sequence[Network] = (),
    ):
        self.network, self.others = network, others
        self.target = network.target
        self._first, self._first_name = first, first_name
        self._points: Points | None = None
        self._examples: Data | DataError | None = None
        self._reading = threading.Lock()

    def about(self, asked: Mapping[str, str]) -> bytes:
        """Everything that is known without a computation."""
        record = self.target.about()
        record |= {"version": __version__, "given": list(self.network.shape), "frame": list(self.network.frame())}
        record["file"] = printable(self._first_name) if self._first is not None else None
        record["runs"] = names([self.network, *self.others])
        return to_json(record)

    def layers(self, asked: Mapping[str, str]) -> bytes:
        return to_json(layers(self.network))

    def graph(self, asked: Mapping[str, str]) -> bytes:
        """The graph of the network down to a depth; 0 for all of it."""
        return to_json(self.network.graph(integer(numbers(asked, "depth"), "depth", 0, 99, 0)))

    def examples(self, asked: Mapping[str, str]) -> bytes:
        """The images of a page of examples, of one class or of all, and their labels, where they are classes."""
        found = self._data()
        classes = found.labels if np.ndim(found.labels) == 1 else np.full(len(found), -1)
        given = numbers(asked, "label", "first", "count")
        label = integer(given, "label", -1, len(self.target.head.names) - 1, -1)
        index = np.arange(len(found)) if label < 0 else np.flatnonzero(classes == label)
        first, count = integer(given, "first", 0, len(found), 0), integer(given, "count", 1, 100, 20)
        chosen = index[first : first + count]
        record = {"total": len(index), "index": chosen.tolist(), "labels": classes[chosen].tolist()}
        return pack(record, found.inputs[chosen].tobytes())

    def images(self, body: bytes) -> bytes:
        """The images of the examples with these numbers."""
        found, (record, _) = self._data(), unpack(body)
        index = record.get("index")
        if not isinstance(index, list) or not 0 < len(index) <= MOST_IMAGES:
            raise Refused(f"index: expected a list of 1 to {MOST_IMAGES} numbers of examples")
        chosen = [integer({"index": one}, "index", 0, len(found) - 1) for one in index]
        return pack({"index": chosen}, found.inputs[chosen].tobytes())

    def points(self, body: bytes) -> bytes:
        """The examples as points by a layer's outputs, as many as some time allows; the page asks for the rest."""
        found, (record, _) = self._data(), unpack(body)
        if self.target.head.kind != "class":
            raise Refused("points: this network names no class of an image")
        with self._reading:
            self._points = self._points or Points(self.network, found)
        points, places = self._points.more(text(record, "layer"), SECONDS)
        return pack(points, places.astype("<f4").tobytes())

    def _data(self) -> Data:
        with self._reading:
            if self._examples is None:
                try:
                    self._examples = self.target.examples()
                except UserError as error:
                    self._examples = DataError(str(error))
        if isinstance(self._examples, DataError):
            raise Refused(f"no examples: {self._examples}", 404)
        return self._examples

    def look(self, body: bytes) -> bytes:
        """A forward pass: the bars, and the maps of the layers that are asked for."""
        record, sent = unpack(body)
        source, label = record.get("source"), None
        shape = self.target.trained.image
        if source == "look":
            forward = self._kept(record)
        elif source == "example":
            found = self._data()
            index = integer(record, "index", 0, len(found) - 1)
            forward, label = self.network.see(found.inputs[index]), found.labels[index]
        elif source == "pixels":
            if len(sent) != math.prod(shape):
                raise Refused(f"expected {math.prod(shape)} bytes of pixels, got {len(sent)}")
            forward = self.network.see(np.frombuffer(sent, np.uint8).reshape(shape))
        elif source == "file":
            forward = self.network.see(self.target.read(sent, "the file"))
        elif source == "first" and self._first is not None:
            forward = self.network.see(self._first)
        else:
            raise Refused("source: expected look, example, pixels or file")
        asked = record.get("layers", [])
        if not isinstance(asked, list) or len(asked) > 5000:
            raise Refused("layers: expected a list")
        wanted = [one for one in (self._wanted(entry, forward) for entry in asked) if one is not None]
        # The page has some of this already.
        image, pictures = source not in ("pixels", "look"), source != "look"
        return message(self.network, forward, wanted, label, self._pixel(record), image, pictures, self.others)

    def _pixel(self, record: Mapping[str, Any]) -> Pixel | None:
        """The pixel of the output that the request is about."""
        place, size = record.get("pixel"), self.target.head.size
        if place is None or size is None:
            return None
        if not isinstance(place, list) or len(place) != 2:
            raise Refused("pixel: expected a row and a column")
        given = {"row": place[0], "column": place[1]}
        return integer(given, "row", 0, size[0] - 1), integer(given, "column", 0, size[1] - 1)

    def _kept(self, record: Mapping[str, Any]) -> ForwardPass:
        try:
            return self.network.find(integer(record, "look", 0, 1 << 53))
        except Refused:
            raise
        except UserError as error:
            raise Refused(str(error), 410) from None

    def _wanted(self, entry: Any, forward: ForwardPass) -> tuple[str, int, int, int] | None:
        """Which maps of which layer; None for one whose output is not known, inside of a loop for instance."""
        if not isinstance(entry, dict):
            raise Refused("layers: expected objects")
        name = text(entry, "name")
        if name not in forward.outputs:
            if any(record["name"] == name for record in self.network.layers()):
                return None
            raise Refused(f"there is no layer {name[:100]!r} with an output to show")
        total = stacked(forward.outputs[name]).shape[-1]
        first = integer(entry, "first", 0, total - 1, 0)
        return name, first, integer(entry, "count", 1, MOST_MAPS, MOST_MAPS), integer(entry, "side", 1, 1024, SIDE)

    def unit(self, body: bytes) -> bytes:
        """One unit, with the numbers that made it as float32 behind the record."""
        record, _ = unpack(body)
        forward = self._kept(record)
        place = record.get("place")
        if not isinstance(place, list) or any(isinstance(p, bool) or not isinstance(p, int) for p in place):
            raise Refused("place: expected a list of integers")
        return unit(self.network, forward, text(record, "layer"), tuple(place))

    def filters(self, asked: Mapping[str, str]) -> bytes:
        """The filters of a convolution: of one input channel, or, of three, as colours."""
        name = text(asked, "layer")
        found = self.network.filters(name)
        colours = any(record["name"] == name and record["colours"] for record in self.network.layers())
        given = numbers(asked, "first", "count", "channel")
        first = integer(given, "first", 0, found.shape[-1] - 1, 0)
        count = integer(given, "count", 1, MOST_MAPS, MOST_MAPS)
        if "channel" in given:
            found = found[:, :, integer(given, "channel", 0, found.shape[2] - 1), :]
        elif colours:  # as colours: the three slices of each filter under one another, on one scale
            found = np.concatenate([found[:, :, c] for c in range(3)])
        else:
            found = found[:, :, 0, :]
        record, pixels = packed(found, first, count, 1 << 20)
        return pack({**record, "total": found.shape[-1]}, pixels)

    def overlay(self, body: bytes) -> bytes:
        """A map over the input: Grad-CAM, occlusion or gradient."""
        record, _ = unpack(body)
        forward = self._kept(record)
        layer = None if record.get("layer") is None else text(record, "layer")
        count = len(self.target.head.names)
        chosen = None if record.get("unit") is None else integer(record, "unit", 0, count - 1)
        return overlay(self.network, forward, text(record, "kind"), layer, chosen, self._pixel(record), SECONDS)

    def figure(self, name: str) -> bytes:
        """One of the pictures in the run's folder."""
        picture = self.target.figure(name) if name in FIGURES else None
        if picture is None:
            raise Refused("there is no such page", 404)
        return picture


def layers(network: Network) -> dict[str, Any]:
    """The layers, and those that Grad-CAM can take, the one that it takes when none is named among them; JSON."""
    return {"layers": network.layers(), "maps": network.map_layers(), "cam": network.cam_layer()}


def message(
    network: Network,
    forward: ForwardPass,
    wanted: list[tuple[str, int, int, int]],
    label: Any = None,
    pixel: Pixel | None = None,
    image: bool = True,
    pictures: bool = True,
    others: Sequence[Network] = (),
) -> bytes:
    """A forward pass: its image and the head's pictures, where they are asked for, the wanted maps, and what other
    networks say."""
    records, arrays = [], []
    head = network.target.head
    header: dict[str, Any] = {"look": forward.number, "milliseconds": forward.milliseconds, "waited": forward.waited}
    header["label"] = int(label) if label is not None and np.ndim(label) == 0 else None
    header["probabilities"] = head.bars(forward.output, pixel).tolist()
    if others and (pictures or pixel is not None or not wanted):
        header["others"], waited = bars(others, forward.image, pixel)
        header["waited"] += waited
    if image:
        header["image"] = forward.image.size
        arrays.append(forward.image.tobytes())
    if pictures:
        found = {"said": head.picture(forward.output), "labelled": head.labelled(label)}
        header["pictures"] = [name for name, picture in found.items() if picture is not None]
        arrays += [picture.tobytes() for picture in found.values() if picture is not None]
    for name, first, count, side in wanted:
        maps = stacked(forward.outputs[name])
        one, pixels = packed(maps, first, count, side)
        records.append({"name": name, **one, "full": list(maps.shape)})
        arrays.append(pixels)
    return pack({**header, "layers": records}, *arrays)


def unit(network: Network, forward: ForwardPass, layer: str, place: tuple[int, ...]) -> bytes:
    """A unit as a message."""
    found = network.unit(forward.number, layer, place)
    arrays = []
    for name in ("inputs", "kernel"):
        array = found.pop(name, None)
        found[name] = None if array is None else list(array.shape)
        if array is not None:
            arrays.append(np.ascontiguousarray(array, "<f4").tobytes())
    return pack(found, *arrays)


def overlay(
    network: Network,
    forward: ForwardPass,
    kind: str,
    layer: str | None,
    chosen: int | None,
    pixel: Pixel | None = None,
    seconds: float = math.inf,
    effort: float = 1.0,
) -> bytes:
    """An overlay as a message."""
    found, about = network.overlay(forward.number, kind, layer, chosen, pixel, seconds, effort)
    record, pixels = packed(found[..., None], 0, 1, 512)
    return pack({**record, **about}, pixels)
