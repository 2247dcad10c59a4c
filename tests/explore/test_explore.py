"""`jaxcnn explore`: what the network is asked, the server with hostile requests, the page in a browser, the file."""

import dataclasses
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explored import CLASSES, PADDED, Page, ask, at_unit, images, look, number, target, until
from helpers import close
from PIL import Image

import jaxcnn as cnn
from jaxcnn.core import as_layer
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.errors import DataError, UserError
from jaxcnn.explore import explore, frozen, serve
from jaxcnn.explore.maps import packed, stacked
from jaxcnn.explore.messages import pack, unpack
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import SCRIPTS, STYLES, Server
from jaxcnn.explore.target import of_layer, of_run, of_trained
from jaxcnn.inspect.saliency import grad_cam
from jaxcnn.runs.folder import Run
from jaxcnn.runs.trained import Trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short epoch on digits."""
    path = tmp_path_factory.mktemp("runs") / "own"
    data = cnn.data.load("digits", "train[:64]")
    cnn.train.fit(striding(), data, test=data.take(slice(0, 32)), epochs=1, batch_size=32, run=path)
    return path


def striding() -> cnn.Layer:
    return cnn.serial(conv1=cnn.conv(2, 4, 4), act1=jnp.tanh, flat=cnn.flatten, head=cnn.dense(10))


@pytest.fixture(scope="module")
def run_server(run: Path) -> Iterator[Server]:
    """A server of the run, whose model has no name."""
    found = dataclasses.replace(of_trained(Trained.load(run, striding()), None), folder=Run.open(run).path)
    with serve(Network(found)) as running:
        yield running


# --- what the network is asked -----------------------------------------------------------------------------------


def test_layers_are_those_of_the_summary_in_the_order_of_computation(network: Network) -> None:
    records = network.layers()
    names = [record["name"] for record in records]
    assert names == [
        "conv1",
        "act1",
        "pool1",
        "block/conv",
        "block/bn",
        "block",
        "pool2",
        "flat",
        "fc1",
        "act2",
        "head",
    ]
    by_name = {record["name"]: record for record in records}
    assert by_name["conv1"]["shape"] == [12, 12, 4]
    assert by_name["conv1"]["params"] == 40
    assert by_name["conv1"]["filters"] == [3, 3, 1, 4]
    assert by_name["block"]["group"]
    assert by_name["block"]["depth"] == 1
    assert by_name["block/conv"]["input"] == [6, 6, 4]
    assert network.frame() == (1, 1, 12, 12)


def test_what_is_seen_is_what_the_network_computes(network: Network) -> None:
    image = images(7).images[3]
    look = network.see(image)
    trained = network.target.trained
    expected = cnn.inspect.activations(trained.model, trained.params, trained.model_state, PADDED(image[None]))
    assert set(look.outputs) == set(expected)
    for name, value in expected.items():
        close(look.outputs[name], np.asarray(value[0]))
    close(network.target.head.bars(look.output, None), trained.probabilities(image[None])[0])


def test_units_are_the_sums_that_are_shown(network: Network) -> None:
    look = network.see(images(7).images[1])
    for name in ("conv1", "block/conv", "fc1", "head"):
        output = look.outputs[name]
        for place in (tuple(0 for _ in output.shape), tuple(n - 1 for n in output.shape)):
            unit = network.unit(look.number, name, place)
            close(np.float32((unit["inputs"] * unit["kernel"]).sum() + unit["bias"]), output[place], 1e-4)
            close(np.float32(unit["total"]), np.float32(unit["value"]), 1e-4)
    pooled = network.unit(look.number, "pool1", (1, 2, 3))
    assert pooled["value"] == pooled["inputs"].max()
    assert pooled["window"] == [2, 4, 4, 6]
    assert pooled["field"] == [2, 4, 6, 8]
    mean = network.unit(look.number, "pool2", (0, 1, 2))
    close(np.float32(mean["value"]), mean["inputs"].mean())
    norm = network.unit(look.number, "block/bn", (2, 3, 1))
    x, v = norm["inputs"].item(), norm["variables"]
    close(np.float32((x - v["mean"]) / np.sqrt(v["var"] + 1e-5) * v["scale"] + v["bias"]), np.float32(norm["value"]))
    assert network.unit(look.number, "flat", (7,))["inputs"].item() == look.outputs["flat"][7]
    assert "inputs" not in network.unit(look.number, "block", (0, 0, 0))


def test_a_pixel_changes_a_unit_only_inside_of_its_field(network: Network) -> None:
    image = images(7).images[2].copy()
    before = network.see(image)
    top, left, bottom, right = network.unit(before.number, "block/conv", (1, 4, 0))["field"]
    changed = image.copy()
    inside = np.zeros((14, 14), bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    changed[~inside[1:-1, 1:-1]] = 255 - changed[~inside[1:-1, 1:-1]]
    assert not np.array_equal(changed, image)
    after = network.see(changed)
    assert before.outputs["block/conv"][1, 4, 0] == after.outputs["block/conv"][1, 4, 0]


def test_overlays(network: Network) -> None:
    look = network.see(images(7).images[0])
    trained = network.target.trained
    asked = (trained.model, trained.params, trained.model_state, look.given)
    found, about = network.overlay(look.number, "grad_cam", "conv1", 2)
    close(found, np.asarray(grad_cam(*asked, layer="conv1", unit=2)[0]))
    assert about["unit"] == 2
    found, about = network.overlay(look.number, "grad_cam", None, 1)
    close(found, np.asarray(grad_cam(*asked, unit=1)[0]))
    assert about["layer"] == network.cam_layer() == "block"
    found, about = network.overlay(look.number, "occlusion", None, None)
    assert about["unit"] == look.output.argmax()
    assert 0 <= about["lowest"] <= 1
    expected = cnn.inspect.occlusion(*asked, size=about["square"], stride=about["stride"])
    close(found, expected.drop()[0].astype(np.float32))
    assert about["done"] == about["places"] == expected.probability.size
    # In parts it comes to the same.
    parts = [network.overlay(look.number, "occlusion", None, 0, seconds=0)]
    while parts[-1][1]["done"] < parts[-1][1]["places"]:
        parts.append(network.overlay(look.number, "occlusion", None, 0, seconds=0))
    assert len(parts) > 2
    close(parts[-1][0], network.overlay(look.number, "occlusion", None, 0)[0])
    for kind, layer, unit in (("grad_cam", "fc1", 0), ("grad_cam", "no", 0), ("other", None, 0), ("saliency", None, 3)):
        with pytest.raises(UserError):
            network.overlay(look.number, kind, layer, unit)


def test_maps_as_bytes_are_within_half_a_step() -> None:
    maps = np.random.default_rng(0).normal(size=(9, 7, 5)).astype(np.float32)
    maps[..., 2] = 3.0
    record, data = packed(maps, 1, 3, 100)
    sent = np.frombuffer(data, np.uint8).reshape(3, 9, 7).astype(np.float64)
    low, high = (np.array(record[name])[:, None, None] for name in ("low", "high"))
    expected = np.moveaxis(maps[..., 1:4], -1, 0)
    assert record["first"] == 1
    assert np.all(np.abs(low + sent / 255 * (high - low) - expected) <= (high - low) / 510 + 1e-6)
    record, data = packed(maps, 0, 5, 4)
    assert record["size"] == [3, 3]
    assert len(data) == 45
    broken = maps.copy()
    broken[0, 0, 0], broken[1, 1, 0] = np.nan, np.inf
    assert not packed(broken, 0, 1, 100)[0]["finite"]
    assert stacked(np.zeros((4, 3))).shape == (4, 1, 3)
    assert stacked(np.zeros(6)).shape == (1, 6, 1)


def test_frames_say_where_the_image_lies() -> None:
    model = cnn.serial(conv=cnn.conv(3, 3), mean=lambda x: x.mean((1, 2)))
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
    for preprocess, expected in (
        (None, (0, 0, 12, 12)),
        (Preprocess((24, 24), (0.5,), (0.5,)), (0, 0, 24, 24)),
        (Preprocess((8, 8), (0.5,), (0.5,), (10, "bilinear")), (-1, -1, 10, 10)),
    ):
        assert Network(of_layer(model, params, state, preprocess, images(3))).frame() == expected


def test_a_network_without_names_or_maps() -> None:
    plain = as_layer(lambda x: x.mean((1, 2)))
    found = Network(target(plain, images(3, channels=3)))
    assert found.layers() == []
    assert found.see(images(3, channels=3).images[0]).output.shape == (3,)
    shared = cnn.network(
        lambda net, x: net.head(net.twice(net.twice(x)).mean((1, 2))),
        twice=cnn.conv(3, 3, padding=1),
        head=cnn.dense(3),
    )
    found = Network(target(shared, images(3, channels=3)))
    assert [r["name"] for r in found.layers()] == ["twice", "twice#2", "head"]
    look = found.see(images(3, channels=3).images[0])
    unit = found.unit(look.number, "twice#2", (5, 5, 1))
    close(np.float32(unit["total"]), np.float32(unit["value"]), 1e-4)


@pytest.mark.parametrize("kind", ["freeze", "mixed_precision", "remat"])
def test_wrapped_networks(kind: str) -> None:
    wrap = {
        "freeze": lambda model: cnn.freeze(model, "conv"),
        "mixed_precision": lambda model: cnn.mixed_precision(model, jnp.bfloat16),
        "remat": lambda model: cnn.remat(model, "inner"),
    }[kind]
    inner = cnn.serial(conv=cnn.conv(2, 3), act=jax.nn.relu)
    model = wrap(cnn.serial(conv=cnn.conv(2, 3), inner=inner, mean=lambda x: x.mean((1, 2)), head=cnn.dense(3)))
    found = Network(target(model, images(3)))
    look = found.see(images(3).images[0])
    assert set(look.outputs) == {"conv", "inner/conv", "inner/act", "inner", "mean", "head"}
    for name in ("conv", "inner/conv", "head"):
        unit = found.unit(look.number, name, tuple(n - 1 for n in look.outputs[name].shape))
        close(np.float32(unit["total"]), np.float32(unit["value"]), 2e-2 if kind == "mixed_precision" else 1e-4)


def test_layers_in_a_loop_have_no_maps() -> None:
    def forward(net: Any, x: Any) -> Any:
        x, _ = jax.lax.scan(lambda x, _: (net.step(x), None), net.first(x), None, length=2)
        return net.head(x.mean((1, 2)))

    model = cnn.network(forward, first=cnn.conv(2, 3), step=cnn.conv(2, 3, padding=1), head=cnn.dense(3))
    with serve(Network(target(model, images(3)))) as server:
        names = [record["name"] for record in json.loads(ask(server, "layers")[2])["layers"]]
        assert names == ["first", "step", "head"]
        wanted = [{"name": name} for name in names]
        status, record, _ = look(server, {"source": "pixels", "layers": wanted}, bytes(144))
        assert status == 200
        assert [entry["name"] for entry in record["layers"]] == ["first", "head"]


# --- networks of pixels ------------------------------------------------------------------------------------------


def enlarged(x: jax.Array) -> jax.Array:
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


@pytest.fixture(scope="module")
def pixels() -> Network:
    """A network that names the class of each pixel, at half the size and then enlarged."""
    model = cnn.serial(conv=cnn.conv(5, 3, padding=1), act=jax.nn.relu, pool=cnn.max_pool(2), head=cnn.conv(3, 1),
                       up=enlarged)  # fmt: skip
    labels = np.random.default_rng(1).integers(-1, 3, (7, 12, 12)).astype(np.int32)
    data = Examples(images(7).images, labels, CLASSES, "pixels")
    params, state = model.init(jax.random.key(0), data.inputs[:1] / 255.0)
    return Network(of_layer(model, params, state, None, data))


@pytest.fixture(scope="module")
def pixels_server(pixels: Network) -> Iterator[Server]:
    with serve(pixels) as running:
        yield running


def test_an_answer_of_pixels(pixels: Network, pixels_server: Server) -> None:
    data = pixels.target.examples()
    about = json.loads(ask(pixels_server, "about")[2])
    assert (about["answer"], about["size"], about["classes"]) == ("pixels", [12, 12], list(CLASSES))
    assert unpack(ask(pixels_server, "examples")[2])[0]["labels"] == [-1] * 7
    status, record, sent = look(pixels_server, {"source": "example", "index": 2})
    output = pixels.find(record["look"]).output
    image, said, labelled = np.frombuffer(sent, np.uint8).reshape(3, 12, 12)
    assert (status, record["label"], record["pictures"]) == (200, None, ["said", "labelled"])
    assert np.array_equal(image, data.inputs[2, ..., 0])
    assert np.array_equal(said, output.argmax(-1))
    assert np.array_equal(labelled, data.labels[2] % 256)
    close(np.array(record["probabilities"]), np.bincount(output.argmax(-1).ravel(), minlength=3) / 144)
    asked = {"source": "look", "look": record["look"], "pixel": [3, 8]}
    _, at, sent = look(pixels_server, asked)
    close(np.float32(at["probabilities"]), np.asarray(jax.nn.softmax(output[3, 8])))
    assert sent == b""
    for wrong in ([12, 0], [-1, 0], [0], ["a", 1], [True, 1], "x"):
        assert look(pixels_server, {**asked, "pixel": wrong})[0] == 400


def test_overlays_of_pixels(pixels: Network) -> None:
    seen = pixels.see(pixels.target.examples().inputs[0])
    trained = pixels.target.trained
    asked = (trained.model, trained.params, trained.model_state, seen.given)
    # Not the enlarged scores, which say what is said already.
    assert pixels.cam_layer() == "act"
    found, about = pixels.overlay(seen.number, "grad_cam", None, 1, (4, 7))
    close(found, np.asarray(grad_cam(*asked, layer="act", unit=(4, 7, 1))[0]))
    assert (about["layer"], about["pixel"]) == ("act", (4, 7))
    found, about = pixels.overlay(seen.number, "saliency", None, 2, (4, 7))
    rows, columns = np.nonzero(found)
    assert set(rows) <= set(range(3, 7))  # what pixels 4 and 5 see, enlarged from one unit of a 3x3 filter
    assert set(columns) <= set(range(5, 9))
    _, about = pixels.overlay(seen.number, "occlusion", None, 0)
    surest = np.asarray(jax.nn.softmax(seen.output))[..., 0]
    assert surest[about["pixel"]] == surest.max()
    assert about["whole"] == pytest.approx(float(surest.max()), abs=1e-5)


def test_an_answer_of_scores() -> None:
    model = cnn.serial(conv=cnn.conv(4, 3, padding=1), head=cnn.conv(1, 1), flat=lambda x: x[..., 0])
    labels = np.tile(np.array([0, 1, -1], np.int32), (5, 12, 4))
    data = Examples(images(5).images, labels, (), "lines")
    params, state = model.init(jax.random.key(0), data.inputs[:1] / 255.0)
    found = Network(of_layer(model, params, state, None, data))
    answer = found.target.head
    seen = found.see(data.inputs[1])
    p = 1 / (1 + np.exp(-seen.output))
    assert (answer.kind, answer.names, answer.size) == ("score", ("boundary",), (12, 12))
    close(answer.bars(seen.output, (2, 5)), p[2, 5:6])
    assert answer.bars(seen.output, None) == pytest.approx((p >= 0.5).mean())
    assert np.abs(answer.picture(seen.output) / 254 - p).max() <= 0.5 / 254 + 1e-6
    assert np.array_equal(answer.labelled(labels[0])[0, :3], [0, 254, 255])
    _, about = found.overlay(seen.number, "occlusion", None, None, (2, 5))
    assert about["whole"] == pytest.approx(float(p[2, 5]), abs=1e-5)
    assert found.overlay(seen.number, "grad_cam", None, None)[1]["layer"] == "conv"


# --- targets -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_explored_says_so(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(3)
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(2))
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 1)))
    with pytest.raises(UserError, match="one number for each class"):
        of_layer(model, params, state, None, data)
    with pytest.raises(UserError, match="with its variables and some data"):
        explore(model)
    with pytest.raises(UserError, match="one network"):
        explore(cnn.ensemble(model, 2), params=params, state=state, data=data)
    with pytest.raises(UserError, match="is not there"):
        explore(tmp_path / "no")
    with pytest.raises(UserError, match="1 channel or 3"):
        of_layer(model, params, state, None, images(3, channels=2))
    monkeypatch.setattr(Run, "_check_config", lambda *_: None)  # a run whose config.json says this from the beginning
    other = tmp_path / "segmented"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "task": "flow", "inputs": [[8, 8, 3], [8, 8, 3]]}))
    with pytest.raises(UserError, match=r"given one image and nothing else.*the task flow: the optical flow"):
        of_run(other)
    shutil.rmtree(other / "checkpoints")
    (other / "config.json").write_text(json.dumps({**config, "model": "lenet5"}))
    with pytest.raises(UserError, match="no weights"):
        of_run(other)


def test_port(network: Network, server: Server) -> None:
    with pytest.raises(UserError, match="in use"), serve(network, server.server_port):
        pass
    with pytest.raises(UserError, match="expected 1 to 65535"), serve(network, 70000):
        pass


# --- the server --------------------------------------------------------------------------------------------------


def test_the_page_and_its_headers(server: Server) -> None:
    for name, kind in (
        ("", "text/html"),
        *((style, "text/css") for style in STYLES),
        *((script, "text/javascript") for script in SCRIPTS),
    ):
        status, headers, body = ask(server, name)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        # Nothing is asked of another host, and nothing is written in attributes that the policy forbids.
        text = re.sub(rb"http://www\.w3\.org/2000/svg", b"", body)
        assert not re.search(rb"https?://|//[a-z]+\.|\sstyle=|\son[a-z]+=\"|innerHTML|eval\(", text)
    assert server.server_address[0] == "127.0.0.1"


def test_other_hosts_origins_and_tokens_are_refused(server: Server) -> None:
    port = server.server_port
    good = pack({"source": "example", "index": 0})
    assert ask(server, "about", headers={"Host": f"localhost:{port}"})[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, "about", headers={"Host": host})[0] == 403, host
    assert ask(server, "look", "POST", good, {"Origin": f"http://127.0.0.1:{port}"})[0] == 200
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://localhost:{port}"):
        assert ask(server, "look", "POST", good, {"Origin": origin})[0] == 403, origin
    for site in ("cross-site", "same-site"):
        assert ask(server, "about", headers={"Sec-Fetch-Site": site})[0] == 403
        assert ask(server, "about", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})[0] == 403
        assert ask(server, "", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})[0] == 200
    for path in ("/", "/about", "/page.js", f"/{server.token}", f"/{server.token[:-1]}x/about", "//about", "/%C3%A9/"):
        assert ask(server, path, below=False)[0] == 404, path


@pytest.mark.parametrize(
    "path",
    ["../config.json", "..%2fconfig.json", "figure/../config.json", "figure/%2e%2e/config.json", "figure//etc/passwd",
     "/etc/passwd", "figure/confusion.png%00", "page.py", "server.py", "figure/", "look", "x" * 3000],
)  # fmt: skip
def test_no_request_becomes_a_path(run_server: Server, path: str) -> None:
    status, _, body = ask(run_server, path)
    assert status == 404
    assert json.loads(body)["error"] == "there is no such page"


def test_the_run_and_nothing_else(run: Path, run_server: Server) -> None:
    about = json.loads(ask(run_server, "about")[2])
    assert about["classes"] == list("0123456789")
    assert about["history"][0]["epoch"] == 1
    assert about["result"]["params"] == 2 * 17 + 10 * (2 * 64 + 1)
    assert about["figures"] == ["confusion.png", "mistakes.png"]
    assert ask(run_server, "figure/confusion.png")[2] == (run / "confusion.png").read_bytes()
    for text in (json.dumps(about), str(ask(run_server, "layers")[2])):
        assert str(run) not in text


@pytest.mark.parametrize(
    ("record", "sent", "said"),
    [
        ({"source": "example", "index": 7}, b"", "index: expected an integer from 0 to 6"),
        ({"source": "example", "index": True}, b"", "index: expected"),
        ({"source": "example", "index": 1e9}, b"", "index: expected"),
        ({"source": "example"}, b"", "index: expected"),
        ({"source": "pixels"}, b"\0" * 143, "expected 144 bytes of pixels, got 143"),
        ({"source": "file"}, b"not an image", "the file is no image that can be read"),
        ({"source": "file"}, b"", "the file is no image"),
        ({"source": "file"}, b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "the file"),
        ({"source": "first"}, b"", "source: expected"),
        ({"source": "../../etc/passwd"}, b"", "source: expected"),
        ({}, b"", "source: expected"),
        ({"source": "example", "index": 0, "layers": "conv1"}, b"", "layers: expected a list"),
        ({"source": "example", "index": 0, "layers": ["conv1"]}, b"", "layers: expected objects"),
        ({"source": "example", "index": 0, "layers": [{"name": "no"}]}, b"", "there is no layer 'no'"),
        ({"source": "example", "index": 0, "layers": [{"name": "conv1", "first": 4}]}, b"", "first: expected"),
        ({"source": "example", "index": 0, "layers": [{"name": "conv1", "count": 10**9}]}, b"", "count: expected"),
    ],
)
def test_bad_inputs_get_a_message(server: Server, record: dict[str, Any], sent: bytes, said: str) -> None:
    status, answer, _ = look(server, record, sent)
    assert status == 400
    assert said in answer["error"]
    assert "Traceback" not in answer["error"]
    assert "\n" not in answer["error"]


def test_large_images_are_refused_before_they_are_decoded(server: Server) -> None:
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    begun = time.perf_counter()
    status, answer, _ = look(server, {"source": "file"}, bomb.getvalue())
    assert status == 400
    assert "make it smaller first" in answer["error"]
    assert "10,000 x 10,000 pixels, the most is 89,478,485" in answer["error"]
    assert time.perf_counter() - begun < 20


def test_broken_requests_get_a_message(server: Server) -> None:
    for body in (b"", b"\1", b"\xff\xff\xff\xff{}", b"\2\0\0\0{", b"\2\0\0\0[]", b"\4\0\0\0\xff\xfe{}", b"[" * 5000):
        status, _, answer = ask(server, "look", "POST", body)
        assert status == 400, body[:10]
        assert "request" in json.loads(answer)["error"]
    deep = b"[" * 200_000
    assert ask(server, "unit", "POST", len(deep).to_bytes(4, "little") + deep)[0] == 400
    assert ask(server, "look", "POST", headers={"Content-Length": str(33 << 20)})[0] == 413
    assert ask(server, "look", "POST", headers={"Content-Length": "-1"})[0] == 411
    assert ask(server, "look", "POST", headers={"Transfer-Encoding": "chunked"})[0] == 411
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "BREW"):
        assert ask(server, "", method)[0] == 501
    for path in ("examples?first=-1", "examples?label=99", "examples?count=1000", "filters", "filters?layer=head"):
        status, _, answer = ask(server, path)
        assert status == 400, path
        assert "Traceback" not in answer.decode()
    with socket.create_connection(("127.0.0.1", server.server_port), 10) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert b"Traceback" not in raw.recv(10_000)
    assert ask(server, "about")[0] == 200


# Not a number that a query may have: text, signs, other digits, too large, none, bytes that are no UTF-8, a null byte.
NO_NUMBERS = ("--5", "+5", "-", "", "abc", "1.5", "1e3", "nan", "inf", "0x10", "1_0", "%201", "%C2%B2", "%D9%A3",
              "9" * 10, "9" * 5000, "-" + "9" * 5000, "%ff", "%00", "1%00", "%F0%9F%98%80", "None", "[1]")  # fmt: skip
FIELDS = {"examples": ("label", "first", "count"), "filters": ("layer", "first", "count", "channel")}


@pytest.mark.parametrize("route", FIELDS)
def test_malformed_queries_are_refused(server: Server, route: str) -> None:
    """With a status from 400 to 499 and one sentence, whatever a field is."""
    start = f"{route}?layer=conv1&" if route == "filters" else f"{route}?"
    queries = [f"{field}={value}" for field in FIELDS[route] if field != "layer" for value in NO_NUMBERS]
    queries += [f"{field}={value}" for field in FIELDS[route] for value in ("-99", "999999999")]
    queries += ["first=0&first=1", "&".join(f"f{i}=1" for i in range(50)), "&".join(["a=1"] * 5000), "%ff=1", "first"]
    bad = [start + query for query in queries]
    bad += [f"{route}?layer={value}" for value in NO_NUMBERS if route == "filters"]
    for path in bad:
        status, _, body = ask(server, path)
        assert 400 <= status < 500, path[:80]
        error = json.loads(body)["error"]
        assert 0 < len(error) < 1200
        assert "\n" not in error


def test_hostile_values_are_refused_by_every_route(server: Server) -> None:
    number = look(server, {"source": "example", "index": 0})[1]["look"]
    hostile: list[Any] = [
        None, True, -1, 10**9, 10**400, 1.5, float("nan"), float("inf"), -0.0, "", "--5", "\u00b2", "\0", "\ud800",
        "x" * 100_000, [], [[]], [None] * 100, {}, {"a": {}},
    ]  # fmt: skip
    good: dict[str, dict[str, Any]] = {
        "unit": {"look": number, "layer": "conv1", "place": [0, 0, 0]},
        "overlay": {"look": number, "kind": "saliency", "layer": "conv1", "unit": 0, "pixel": [0, 0]},
        "look": {"source": "example", "index": 0, "layers": [{"name": "conv1", "first": 0, "count": 1, "side": 8}]},
    }
    for path, record in good.items():
        assert ask(server, path, "POST", pack(record))[0] == 200
        inside = record["layers"][0] if path == "look" else {}
        changed = [{**record, name: value} for name in record for value in hostile]
        changed += [{**record, "layers": [{**inside, name: value}]} for name in inside for value in hostile]
        for asked in changed:
            # NaN and infinity are JSON to Python; `pack` would send null.
            head = json.dumps(asked).encode()
            status, _, body = ask(server, path, "POST", len(head).to_bytes(4, "little") + head)
            assert status == 200 or 400 <= status < 500, (path, str(asked)[:200], body[:300])
    for path in ("about", "layers", "figure/x", "no", "a/" * 2000, "%00", "?" + "a=1&" * 50, "//[", "about?%ff"):
        assert ask(server, path)[0] < 500, path[:80]
    for address in ("http://[/about", "http://127.0.0.1:x/", "*", "//[", "/" + "x" * 70_000):
        with socket.create_connection(("127.0.0.1", server.server_port), 10) as raw:
            raw.sendall(f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 4"), address[:80]


def test_two_hundred_requests_at_once(network: Network) -> None:
    """All are answered: nobody's connection is reset since the queue is full."""
    with serve(network) as server, ThreadPoolExecutor(200) as pool:
        barrier = threading.Barrier(200)

        def one(_: int) -> int:
            barrier.wait(60)
            return ask(server, "about")[0]

        assert list(pool.map(one, range(200))) == [200] * 200


def test_units_that_are_not_there(server: Server) -> None:
    number = look(server, {"source": "example", "index": 0})[1]["look"]
    good = {"look": number, "layer": "conv1", "place": [0, 0, 0]}
    assert ask(server, "unit", "POST", pack(good))[0] == 200
    for changed in (
        {"place": [0, 0]}, {"place": [0, 0, 4]}, {"place": [-1, 0, 0]}, {"place": "x"}, {"place": [0.5, 0, 0]},
        {"layer": "no"}, {"layer": 3}, {"layer": "x" * 5000}, {"place": [10**30, 0, 0]},
    ):  # fmt: skip
        status, _, body = ask(server, "unit", "POST", pack({**good, **changed}))
        assert status == 400, changed
        assert json.loads(body)["error"]
    status, _, body = ask(server, "unit", "POST", pack({**good, "look": 10**9}))
    assert status == 410
    assert "no longer kept" in json.loads(body)["error"]


def test_maps_and_examples_over_http(server: Server, network: Network) -> None:
    data = network.target.examples()
    _, record, sent = (None, *unpack(ask(server, "examples?first=1&count=2")[2]))
    assert record["total"] == 7
    assert np.array_equal(np.frombuffer(sent, np.uint8).reshape(2, 12, 12, 1), data.images[1:3])
    wanted = [{"name": "conv1"}, {"name": "head"}, {"name": "block", "first": 1, "count": 2}]
    status, record, sent = look(server, {"source": "pixels", "layers": wanted}, data.images[4].tobytes())
    assert status == 200
    assert [entry["full"] for entry in record["layers"]] == [[12, 12, 4], [1, 3, 1], [6, 6, 4]]
    assert len(sent) == 12 * 12 * 4 + 3 + 6 * 6 * 2
    shown = network.target.head.bars(network.see(data.images[4]).output, None)
    close(np.float32(record["probabilities"]), shown)
    status, record, _ = look(server, {"source": "example", "index": 4})
    assert (status, record["label"]) == (200, data.labels[4])
    picture = io.BytesIO()
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(picture, "JPEG")
    status, record, sent = look(server, {"source": "file"}, picture.getvalue())
    assert (status, record["image"], sent[:144]) == (200, 144, bytes(144))


def test_an_image_to_begin_with(network: Network) -> None:
    image = images(7).images[6]
    with serve(network, first=image, name="given.png") as server:
        assert json.loads(ask(server, "about")[2])["file"] == "given.png"
        status, record, sent = look(server, {"source": "first"})
        assert (status, record["label"], sent) == (200, None, image.tobytes())
    kept = frozen.content(network, image, "given.png")
    assert kept["about"]["file"] == "given.png"
    assert len(kept["looks"]) == 8


def test_a_run_whose_data_is_gone_can_still_be_drawn_into(network: Network) -> None:
    def gone() -> Dataset:
        raise DataError("the data is not there")

    with serve(Network(dataclasses.replace(network.target, examples=gone))) as server:
        status, _, body = ask(server, "examples")
        assert status == 404
        assert "the data is not there" in json.loads(body)["error"]
        assert look(server, {"source": "pixels"}, bytes(144))[0] == 200


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    """In a process of its own, as the command does it."""
    script = tmp_path / "own.py"
    script.write_text(
        "import jax, numpy as np, jaxcnn as cnn\n"
        "from jaxcnn.explore import explore\n"
        "model = cnn.serial(flat=cnn.flatten, head=cnn.dense(2))\n"
        "params, state = model.init(jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32))\n"
        "data = cnn.data.Dataset(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32), ('a', 'b'))\n"
        "explore(model, params=params, state=state, data=data, open_browser=False)\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", line)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors == ""


# --- the file ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "page.html"
    assert frozen.write(network, path) == path.stat().st_size
    return path


def test_the_file_keeps_what_it_shows(network: Network, page_file: Path) -> None:
    text = page_file.read_text()
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert re.match(r"default-src 'none'; script-src 'sha256-\S+'; style-src 'sha256-\S+'; img-src", policy[1])
    found = re.search(r'<script type="application/json" id="frozen">(.*?)</script>', text, re.S)
    assert found is not None
    kept = json.loads(found[1])
    assert len(kept["looks"]) == 7
    assert set(kept["exact"]) == {r["name"] for r in network.layers() if not r["group"]}
    assert sorted(kept["overlays"])[:3] == ["0|grad_cam", "0|occlusion", "0|saliency"]
    # flat is pool2's output in another form: its numbers are kept once.
    assert kept["exact"]["flat"]["output"] == kept["exact"]["pool2"]["output"]
    assert kept["exact"]["block/conv"]["local"] == [-1, -1, 1, 1, 3, 3]


def test_where_the_file_may_be(network: Network, tmp_path: Path) -> None:
    for path, said in ((tmp_path / "a.txt", "ends in .html"), (tmp_path / "no" / "a.html", "folder is not there")):
        with pytest.raises(UserError, match=said):
            frozen.write(network, path)
    (tmp_path / "b.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        explore("no run", export=tmp_path / "b.html")


# --- the page in a browser ---------------------------------------------------------------------------------------


def test_by_clicks(chromium: Any, server: Server, network: Network) -> None:
    session = Page(chromium, server.url, viewport={"width": 1500, "height": 950})
    with session as page:
        assert page.locator("#title").inner_text() == "serial on noise"
        assert page.locator("#examples button").count() == 7
        session.newer(lambda: page.click("#examples button:nth-child(3)"))
        data = network.target.examples()
        expected = network.target.head.bars(network.see(data.images[2]).output, None)
        shown = [number(t.removesuffix(" %")) for t in page.locator("#classes .value").all_inner_texts()]
        np.testing.assert_allclose(shown, 100 * expected, atol=0.06)
        # The unit under the pointer has the network's number, and its parts add up to it.
        at_unit(page, "conv1", 7, 7)
        value = number(page.locator("#unit .big").inner_text())
        place = [int(v) for v in re.findall(r"\d+", page.locator("#unit .where").first.inner_text())]
        look = network.see(data.images[2])
        assert value == pytest.approx(float(look.outputs["conv1"][place[1], place[2], place[0]]), abs=1e-3)
        sums = [number(t) for t in page.locator("#unit table.sum td:last-child").all_inner_texts()]
        assert sums[0] + sums[1] == pytest.approx(sums[2], abs=2e-3)
        assert page.locator("#unit .grid").count() == 3
        for layer in ("pool1", "fc1", "head"):
            at_unit(page, layer, 5, 5)
        assert "class cross" in page.locator("#unit .where").first.inner_text()
        # A click keeps the unit while another input comes; Escape lets it go.
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector("#kept:visible")
        before = page.locator("#unit .big").inner_text()
        session.newer(lambda: page.click("#examples button:nth-child(5)"))
        until(page, f"document.querySelector('#unit .big').textContent !== {before!r}")
        page.keyboard.press("Escape")
        page.wait_for_selector("#kept", state="hidden")
        # A block opens, and its layers show their maps.
        page.click('[data-group="block"] > h3 > button')
        until(page, "document.querySelector('[data-layer=\"block/conv\"] .legend')?.textContent.length > 3")
        page.click('[data-layer="block/conv"] [data-shows=filters]')
        page.select_option('[data-layer="block/conv"] select', "2")
        # Drawing.
        session.newer(lambda: page.click("#clear"))
        box = page.locator("#picture").bounding_box()
        page.mouse.move(box["x"] + 80, box["y"] + 80)
        session.newer(page.mouse.down)
        session.newer(lambda: page.mouse.move(box["x"] + 200, box["y"] + 150, steps=4))
        page.mouse.up()
        until(page, "document.querySelector('#speed').textContent.includes('ms')")
        assert page.locator("#input-name").inner_text() == "drawn here"
        # Overlays.
        for kind, said in (("grad_cam", "speak"), ("occlusion", "square"), ("saliency", "pixel")):
            page.click(f"[data-kind={kind}]")
            until(page, f"document.querySelector('#overlay-note').textContent.includes({said!r})")
        page.select_option("#overlay-class", "1")
        until(page, "document.querySelector('#overlay-note').textContent.includes('disc')")
        assert page.locator("#curves").inner_text().startswith("There is no history")
    assert all(url.startswith((server.url, "data:", "blob:")) for url in session.asked)


def test_pixels_by_clicks(chromium: Any, pixels_server: Server, pixels: Network, tmp_path: Path) -> None:
    seen = pixels.see(pixels.target.examples().inputs[0])
    session = Page(chromium, pixels_server.url, viewport={"width": 1500, "height": 950})
    with session as page:
        assert page.locator("#classes-heading").inner_text() == "Shares of the pixels"
        assert page.locator("#tab-data").is_hidden()  # points have the class of an image
        box = page.locator("#said").bounding_box()
        page.mouse.move(box["x"] + 5.5 * box["width"] / 12, box["y"] + 2.5 * box["height"] / 12)
        named = CLASSES[seen.output[2, 5].argmax()]
        until(page, f"document.querySelector('#answer-note').textContent.startsWith('Row 2, column 5: {named}')")
        page.mouse.down()
        page.mouse.up()
        until(page, "document.querySelector('#classes-heading').textContent === 'Row 2, column 5'")
        shown = "[...document.querySelectorAll('#classes .value')].map(v => v.textContent).join()"
        expected = ",".join(f"{100 * p:.1f} %" for p in np.asarray(jax.nn.softmax(seen.output[2, 5])))
        until(page, f"{shown} === {expected!r}")
        page.click("[data-kind=grad_cam]")
        until(page, "/maps of act .* at row 2, column 5/.test(document.querySelector('#overlay-note').textContent)")
        page.keyboard.press("Escape")
        until(page, "document.querySelector('#classes-heading').textContent === 'Shares of the pixels'")
        page.locator("#said").focus()
        for key in ("ArrowUp", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        until(page, "document.querySelector('#classes-heading').textContent === 'Row 5, column 5'")
        session.newer(lambda: page.click("#clear"))
        assert page.locator("#labelled").is_hidden()
    file = tmp_path / "pixels.html"
    frozen.write(pixels, file)
    with Page(chromium, file.as_uri()) as page:
        assert page.locator("#labelled").is_visible()
        page.click("[data-kind=saliency]")
        until(page, "document.querySelector('#overlay-note').textContent.includes('pixel changes')")


def test_maps_of_a_large_network_come_into_view(chromium: Any) -> None:
    """Where there are too many maps for each input to bring them all, those that can be seen are asked for."""
    layers = dict.fromkeys([f"act{i}" for i in range(10)], jnp.tanh)
    model = cnn.serial(first=cnn.conv(16, 3, padding=1), **layers, mean=lambda x: x.mean((1, 2)), head=cnn.dense(3))
    data = Dataset(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8), np.arange(3), CLASSES)
    with (
        serve(Network(target(model, data))) as server,
        Page(chromium, server.url, viewport={"width": 1300, "height": 700}) as page,
    ):
        drawn = "[...state.cards.values()].filter(c => c.maps && c.look === state.look).map(c => c.layer.name).join()"
        until(page, f"({drawn}).startsWith('first,act0')")
        assert "head" not in page.evaluate(drawn)
        height = page.evaluate("document.documentElement.scrollHeight")
        at_unit(page, "act9", 5, 5)
        until(page, f"({drawn}).includes('act9')")
        assert "first" not in page.evaluate(drawn)
        assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(height, abs=60)


def test_files_by_the_page(chromium: Any, server: Server, tmp_path: Path) -> None:
    good, bad, bomb = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "bomb.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(good)
    bad.write_bytes(b"<svg onload=alert(1)>")
    Image.new("1", (10_000, 10_000)).save(bomb)
    session = Page(chromium, server.url)
    page = session.page
    for file, said in ((bad, "no image that can be read"), (bomb, "make it smaller first")):
        page.set_input_files("#file", file)
        until(page, f"document.querySelector('#alert').textContent.includes({said!r})")
    session.newer(lambda: page.set_input_files("#file", good))
    page.wait_for_selector("#alert", state="hidden")
    assert page.locator("#input-name").inner_text() == "good.png, read as grey"
    # The browser itself says that a request was answered by 400; there is nothing else.
    assert all("400" in line for line in session.said)
    session.context.close()


def test_keyboard_narrow_and_dark(chromium: Any, server: Server) -> None:
    settings = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    with Page(chromium, server.url, **settings) as page:
        page.locator('[data-group="block"] > h3 > button').click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
        page.locator('[data-layer="conv1"] > h3 > button').focus()
        for _ in range(3):  # the choice of maps and filters, then the maps
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-roledescription')") == "activation maps"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "PageDown"):
            page.keyboard.press(key)
        until(page, "document.querySelector('#say').textContent.startsWith('conv1, map 1, row 1, column 2: ')")
        page.keyboard.press("Enter")
        page.wait_for_selector("#unit:visible")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.click("#unit-close")
        page.wait_for_selector("#unit", state="hidden")
        before = page.evaluate("document.body.dataset.look")
        page.locator("#picture").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Space")
        until(page, f"document.body.dataset.look !== {before!r}")
        unnamed = (  # elements that a screen reader has no name for
            "[...document.querySelectorAll('button, input, select, canvas[tabindex]')].filter(e => "
            "!(e.textContent.trim() || e.getAttribute('aria-label') || e.title || (e.labels && e.labels.length)))"
            ".map(e => e.outerHTML)"
        )
        assert page.evaluate(unnamed) == []


def test_the_file_in_a_browser(chromium: Any, network: Network, page_file: Path) -> None:
    session = Page(chromium, page_file.as_uri(), viewport={"width": 1500, "height": 950})
    with session as page:
        assert "needs no server" in page.locator("#frozen-note").inner_text()
        assert page.locator("#tools").is_hidden()
        session.newer(lambda: page.click("#examples button:nth-child(2)"))
        data = network.target.examples()
        look = network.see(data.images[1])
        for layer in ("conv1", "pool1", "fc1", "head"):
            at_unit(page, layer, 7, 7)
            where = [int(v) for v in re.findall(r"\d+", page.locator("#unit .where").first.inner_text())]
            output = look.outputs[layer]
            expected = output[where[1], where[2], where[0]] if output.ndim == 3 else output[where[0]]
            assert number(page.locator("#unit .big").inner_text()) == pytest.approx(float(expected), abs=1e-3)
            parts = [number(t) for t in page.locator("#unit table.sum td:last-child").all_inner_texts()]
            assert parts[-1] == pytest.approx(float(expected), abs=1e-3)
        page.click("[data-kind=occlusion]")
        until(page, "document.querySelector('#overlay-note').textContent.includes('square')")
        page.click('[data-layer="conv1"] [data-shows=filters]')
    assert session.asked == [page_file.as_uri()] or all(
        u.startswith(("file:", "data:", "blob:")) for u in session.asked
    )


def test_training_curves(chromium: Any, run_server: Server) -> None:
    with Page(chromium, run_server.url) as page:
        assert page.locator("#curves svg").count() == 2
        assert "training" in page.locator("#curves svg").first.get_attribute("aria-label")
        assert page.locator("#result dd").count() >= 5
        page.locator("#figures img").first.scroll_into_view_if_needed()
        until(page, "document.querySelector('#figures img').naturalWidth > 100")
