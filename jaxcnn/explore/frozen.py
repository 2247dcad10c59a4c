"""The page as one file that opens without a server, with some examples and their forward passes.

It has the live page's script and style. For each example it keeps the maps in 256 steps (of a layer with many maps, the
first ones) and Grad-CAM, occlusion and gradient for the most probable class; for a small network also all numbers, so
that the sums of units can be shown. The graph and the convolution to play with are in it whole. Drawing, other images
and overlays for other classes need the network, and the page says so. Of small images and a small network, the test
data are in it as points of one layer.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn import __version__
from jaxcnn.atomic import put
from jaxcnn.errors import DataError, UserError
from jaxcnn.explore import answers, server
from jaxcnn.explore.maps import packed, stacked
from jaxcnn.explore.messages import pack, to_json
from jaxcnn.explore.network import ForwardPass, Network
from jaxcnn.explore.points import Points
from jaxcnn.explore.rivals import names
from jaxcnn.explore.target import FIGURES
from jaxcnn.format import printable

# Examples, maps of a layer, pixels of a map's side: the first choice that fits is taken.
_CHOICES = ((10, 64, 112), (10, 16, 56), (6, 16, 56), (4, 16, 28), (3, 8, 28), (2, 4, 28), (1, 4, 14), (1, 1, 14))
_MOST_MAPS, _MOST_NUMBERS = 2_500_000, 1_500_000  # bytes, before they become text, which adds a third
_FILTERS, _FIGURE = 64, 400_000
_MOST_IMAGES, _MOST_MACS = 1_500_000, 4e11  # of the test data as points: bytes, and some seconds


def check(path: str | Path) -> Path:
    """The file to write, if it is one.

    Raises:
      UserError: for another ending than .html, or a folder that is not there.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--export {path}: expected a file that ends in .html")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UserError(f"--export {path}: {'is a folder' if file.is_dir() else 'its folder is not there'}")
    return file


def write(
    network: Network,
    path: str | Path,
    first: np.ndarray | None = None,
    name: str = "",
    others: Sequence[Network] = (),
) -> int:
    """Writes the file as a whole or not at all, and returns its size in bytes.

    Args:
      network: the network.
      path: the .html file.
      first, name: an image to begin with, and its name.
      others: networks beside it, as `rivals` gives them.

    Raises:
      UserError: when it cannot be written, or there is neither an image nor data.
    """
    file = check(path)
    text = page(network, first, name, others).encode()
    put(file, text)
    return len(text)


def page(network: Network, first: np.ndarray | None = None, name: str = "", others: Sequence[Network] = ()) -> str:
    """The file's text."""
    html, style = server.asset("page.html"), "\n".join(server.asset(name) for name in server.STYLES)
    script = "\n".join(server.asset(name) for name in server.SCRIPTS)
    data = to_json(content(network, first, name, others)).decode().replace("<", "\\u003c")
    allowed = (
        server.policy(_hashed(script), _hashed(style), "'self'").replace("'self' ", "").replace("'self'", "'none'")
    )
    for old, new in (
        (
            '<meta charset="utf-8">',
            f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{allowed}">',
        ),
        (
            "\n".join(f'<link rel="stylesheet" href="{name}">' for name in server.STYLES),
            f"<style>{style}</style>",
        ),
        (
            "\n".join(f'<script src="{name}" defer></script>' for name in server.SCRIPTS),
            f'<script type="application/json" id="frozen">{data}</script>\n<script>{script}</script>',
        ),
    ):
        if html.count(old) != 1:
            raise RuntimeError(f"page.html should have {old} once")
        html = html.replace(old, new)
    return html


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def content(
    network: Network, first: np.ndarray | None = None, name: str = "", others: Sequence[Network] = ()
) -> dict[str, Any]:
    """All that the file keeps; JSON, arrays as base64."""
    images, labels, note = _images(network, first)
    records = network.layers()
    shapes = [stacked(np.zeros(record["shape"], bool)).shape for record in records]
    for examples, most, side in _CHOICES:
        each = sum(min(c, most) * min(h, side) * min(w, side if h > 1 else w) for h, w, c in shapes)
        if min(examples, len(images)) * each <= _MOST_MAPS:
            break
    images, labels = images[:examples], labels[:examples]
    passes = [network.see(image) for image in images]
    messages, overlays = [], {}
    for i, (forward, label) in enumerate(zip(passes, labels, strict=True)):
        wanted = [(record["name"], 0, most, side) for record in records if record["name"] in forward.outputs]
        messages.append(_text(answers.message(network, forward, wanted, label, others=others)))
        for kind in ("grad_cam", "occlusion", "saliency"):
            try:
                found = answers.overlay(network, forward, kind, None, None, effort=0.3 / len(passes))
            except UserError:
                continue  # a network without maps has no Grad-CAM
            overlays[f"{i}|{kind}"] = _text(found)
    about = network.target.about()
    about |= {"version": __version__, "given": list(network.shape), "frame": list(network.frame())}
    about["file"] = printable(name) if first is not None else None
    about["runs"] = names([network, *others])
    exact = _exact(network, passes, records)
    about["notes"] = [
        f"This file keeps {len(passes)} example{'s' if len(passes) > 1 else ''} and needs no server. "
        "You can choose examples, open layers, look at units, overlays and the graph, and play with a convolution; "
        "drawing, other images and overlays for other classes need jaxcnn explore.",
        *note,
        *about["notes"],
    ]
    return {
        "about": about,
        "layers": answers.layers(network),
        **_points(network, records),
        "shift": 0 if first is None else 1,  # the image to begin with comes before the examples
        "graphs": {depth: network.graph(depth) for depth in range(_depths(records))},
        "most": most,
        "looks": messages,
        "overlays": overlays,
        "filters": _filters(network, records, most),
        "figures": _figures(network, about),
        **exact,
    }


def _points(network: Network, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The examples as points by the last layer but one, and their images; empty where they would be too many."""
    leaves = [record["name"] for record in records if not record["group"]]
    if network.target.head.kind != "class" or not leaves:
        return {}
    try:
        examples = network.target.examples()
    except DataError:
        return {}
    points = Points(network, examples)
    images = examples.inputs[: points.total]
    macs = sum(record["macs"] for record in records if not record["group"])
    if images.nbytes > _MOST_IMAGES or macs * points.total > _MOST_MACS:
        return {}
    record, places = points.more(leaves[-2:][0], math.inf)
    return {"points": _text(pack(record, places.astype("<f4").tobytes())), "images": _text(images.tobytes())}


def _depths(records: list[dict[str, Any]]) -> int:
    """How many graphs are kept: the whole one, and those that go less deep, but not far."""
    return min(3, max((record["depth"] for record in records), default=1))


def _images(network: Network, first: np.ndarray | None) -> tuple[list[np.ndarray], list[int | None], list[str]]:
    images = [] if first is None else [first]
    labels: list[Any] = [None] * len(images)
    try:
        examples = network.target.examples()
    except DataError as error:
        if not images:
            raise DataError(f"there are no examples to write ({error}); give one by --image FILE") from None
        return images, labels, [f"No examples of the data: {error}."]
    count = _CHOICES[0][0] - len(images)
    return [*images, *examples.inputs[:count]], [*labels, *examples.labels[:count]], []


def _filters(network: Network, records: list[dict[str, Any]], most: int) -> dict[str, str]:
    """The first filters of each convolution, as the page asks for them, up to a tenth of the maps' bytes."""
    kept, room = {}, _MOST_MAPS // 10
    for record in records:
        if record["filters"] is None:
            continue
        found = network.filters(record["name"])
        colours = record["colours"]
        maps = np.concatenate([found[:, :, c] for c in range(3)]) if colours else found[:, :, 0]
        header, pixels = packed(maps, 0, min(most, _FILTERS), 1 << 20)
        if len(pixels) > room:
            continue
        room -= len(pixels)
        kept[f"{record['name']}|{'' if colours else 0}|0"] = _text(pack({**header, "total": found.shape[-1]}, pixels))
    return kept


def _figures(network: Network, about: dict[str, Any]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name in FIGURES:
        try:
            picture = network.target.figure(name)
        except DataError:  # the page has a note of it
            continue
        if picture is not None and len(picture) <= _FIGURE:
            kept[name] = f"data:image/png;base64,{_text(picture)}"
    about["figures"] = list(kept)
    return kept


# --- the numbers of a small network ------------------------------------------------------------------------------


def _exact(network: Network, passes: list[ForwardPass], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Inputs, outputs and weights of all layers, where they are few; nothing where they are not."""
    leaves = [record["name"] for record in records if not record["group"] and record["name"] in passes[0].outputs]
    size = sum(4 * forward.outputs[name].size for forward in passes for name in leaves)
    if size + 4 * sum(record["params"] for record in records if not record["group"]) > _MOST_NUMBERS:
        return {}
    known: dict[str, list[np.ndarray]] = {}
    exact: dict[str, Any] = {}
    weights: dict[str, str] = {}

    def key(arrays: list[np.ndarray]) -> str:
        """The name under which these arrays, one for each example, are kept."""
        for name, other in known.items():
            if all(
                a.size == b.size and np.array_equal(a.ravel(), b.ravel()) for a, b in zip(arrays, other, strict=True)
            ):
                return name
        known[str(len(known))] = arrays
        return str(len(known) - 1)

    for name in leaves:
        outputs = [forward.outputs[name] for forward in passes]
        entry: dict[str, Any] = {"output": key(outputs)}
        exact[name] = entry
        if name not in passes[0].inputs:
            continue
        given = [forward.inputs[name] for forward in passes]
        origin = (0,) * outputs[0].ndim
        seen = network.unit(passes[0].number, name, origin)
        kernel, inputs = seen.get("kernel"), seen.get("inputs")
        if inputs is None:
            continue
        if given[0].ndim == 3 and inputs.ndim == 3:
            local = _local(network, passes[0], name, seen, outputs[0].shape)
            if local is None or (kernel is not None and inputs.shape[-1] != given[0].shape[-1]):
                continue
            entry["local"] = local
        elif not (kernel is not None and given[0].ndim == outputs[0].ndim == 1) and given[0].size != outputs[0].size:
            continue
        entry |= {"input": key(given), "given": list(given[0].shape)}
        if kernel is not None:
            for kind, array in zip(("kernel", "bias"), network.weights(name), strict=True):
                if array is not None:
                    entry[kind] = f"{name}/{kind}"
                    weights[entry[kind]] = _numbers(array)
    arrays = [{name: _numbers(found[i]) for name, found in known.items()} for i in range(len(passes))]
    return {"exact": exact, "arrays": arrays, "weights": weights}


def _local(
    network: Network, forward: ForwardPass, name: str, seen: dict[str, Any], shape: tuple[int, ...]
) -> tuple[int, int, int, int, int, int] | None:
    """The window of a layer's units in its own input: the first one's corner, the steps, and its size."""
    if seen["window"] is None or len(shape) != 3:
        return None
    top, left, bottom, right = seen["window"]
    if seen["inputs"].shape[:2] != (bottom - top, right - left):
        return None  # a dilated one
    second = network.unit(forward.number, name, (min(1, shape[0] - 1), min(1, shape[1] - 1), 0))["window"]
    return top, left, second[0] - top, second[1] - left, bottom - top, right - left


def _numbers(array: Any) -> str:
    return _text(np.ascontiguousarray(array, "<f4").tobytes())
