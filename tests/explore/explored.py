"""What the tests of explore share: a small network, requests to its server, a page in a browser."""

import http.client
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.explore.messages import pack, unpack
from jaxcnn.explore.server import Server
from jaxcnn.explore.target import Target, of_layer

CLASSES = ("cross", "disc", "bars")


def block(features: int) -> cnn.Layer:
    def forward(net: Any, x: Any) -> Any:
        return jax.nn.relu(net.bn(net.conv(x)) + x)

    return cnn.network(forward, conv=cnn.conv(features, 3, padding=1, bias=False), bn=cnn.batch_norm())


def small_model() -> cnn.Layer:
    """A network with a block, pools, a map of its own function, and dense layers."""
    return cnn.serial(
        conv1=cnn.conv(4, 3), act1=jax.nn.relu, pool1=cnn.max_pool(2), block=block(4), pool2=cnn.avg_pool(2),
        flat=cnn.flatten, fc1=cnn.dense(6), act2=jnp.tanh, head=cnn.dense(3),
    )  # fmt: skip


def images(count: int, channels: int = 1) -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 12, 12, channels)).astype(np.uint8)
    return Dataset(pixels, np.arange(count, dtype=np.int32) % 3, CLASSES, "noise")


def target(model: cnn.Layer, data: Dataset, preprocess: Any = None) -> Target:
    given = (preprocess or cnn.data.to_float)(data.images[:1])
    params, state = model.init(jax.random.key(0), given)
    return of_layer(model, params, state, preprocess, data)


PADDED = Preprocess((14, 14), (0.5,), (0.25,))


def ask(
    server: Server, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None,
    below: bool = True,
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, f"/{server.token}/{path}" if below else path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def look(server: Server, record: dict[str, Any], sent: bytes = b"") -> tuple[int, dict[str, Any], bytes]:
    status, _, body = ask(server, "look", "POST", pack(record, sent))
    return (status, *unpack(body)) if status == 200 else (status, json.loads(body), b"")


def until(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Waits until an expression is true in the page. Playwright's own waiting calls eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(20)


class Page:
    """A page of the browser that keeps what was said to its console."""

    def __init__(self, browser: Any, url: str, **settings: Any):
        self.context = browser.new_context(reduced_motion="reduce", **settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready][data-look]", timeout=60_000)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.said == []

    def newer(self, action: Any) -> None:
        """Waits until the page shows another look than before the action."""
        before = self.page.evaluate("document.body.dataset.look")
        action()
        until(self.page, f"document.body.dataset.look !== {before!r}")


def number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace(",", ""))


def at_unit(page: Any, layer: str, x: float, y: float) -> None:
    """Points at a place of a layer's maps and waits for its unit."""
    canvas = page.locator(f'[data-layer="{layer}"] .maps canvas')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    until(page, f"document.querySelector('#unit-heading').textContent === {layer!r}")
