"""The page of `jaxcnn explore` in a browser: what stays in view, times, grey and colour images."""

import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from explored import Page, images, target, until

import jaxcnn as cnn
from jaxcnn.data.dataset import Dataset
from jaxcnn.explore import serve
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import Server

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def colour_server() -> Iterator[Server]:
    """A network of small colour images and ten classes. Its second convolution has three maps for input."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    data = Dataset(pixels, np.arange(8, dtype=np.int32), TEN, "colours")
    model = cnn.serial(conv1=cnn.conv(3, 3, padding=1), conv2=cnn.conv(4, 3), flat=cnn.flatten, head=cnn.dense(10))
    with serve(Network(target(model, data))) as running:
        yield running


@pytest.mark.parametrize(("width", "height"), [(1366, 657), (1400, 900)])
def test_probabilities_stay_in_view(chromium: Any, colour_server: Server, width: int, height: int) -> None:
    with Page(chromium, colour_server.url, viewport={"width": width, "height": height}) as page:
        assert page.locator("#badges").inner_text().split("\n")[-1] == "8\u00d78 RGB input"
        page.click("[data-kind=grad_cam]")
        until(page, "document.querySelector('#overlay-note').textContent.includes('speak')")
        box = page.locator("#picture").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=3)
        page.mouse.up()
        shown = page.evaluate(
            "[...document.querySelectorAll('#classes li')].map(row => { const b = row.getBoundingClientRect();"
            "return b.top > 0 && b.bottom <= innerHeight && "
            "row.contains(document.elementFromPoint(b.left + 5, b.top + b.height / 2)); })"
        )
        assert shown == [True] * 10
        assert box["y"] + box["height"] <= page.locator("#probabilities").bounding_box()["y"]
        # The lower controls can still be reached.
        page.locator("#examples button").last.scroll_into_view_if_needed()
        page.locator("#examples button").last.click()
        until(page, "document.querySelector('#input-name').textContent.startsWith('example 7')")


def test_colours_are_those_of_the_image_only(chromium: Any, colour_server: Server) -> None:
    with Page(chromium, colour_server.url, viewport={"width": 1500, "height": 950}) as page:
        for layer, names in (("conv1", {"red", "green", "blue"}), ("conv2", {"map 0", "map 1", "map 2"})):
            page.locator(f'[data-layer="{layer}"] .maps canvas').click(position={"x": 9, "y": 9})
            until(page, f"document.querySelector('#unit-heading').textContent === {layer!r}")
            assert set(page.locator("#unit .parts button > span:first-child").all_inner_texts()) == names
            page.keyboard.press("Escape")
            page.click(f'[data-layer="{layer}"] [data-shows=filters]')
        until(page, "document.querySelector('[data-layer=conv2] select') !== null")
        assert "as colours" in page.locator('[data-layer="conv1"] .bar-line').inner_text()
        assert "as colours" not in page.locator('[data-layer="conv2"] .bar-line').inner_text()


def test_grey_images_are_called_grey(chromium: Any, server: Server) -> None:
    with Page(chromium, server.url) as page:
        assert page.locator("#badges").inner_text().split("\n")[-1] == "14\u00d714 grey input"
        assert "RGB" not in page.locator("body").inner_text()


def test_compilation_is_no_part_of_the_time() -> None:
    model = cnn.serial(conv=cnn.conv(2, 3), mean=lambda x: jnp.mean(x, (1, 2)), head=cnn.dense(3))
    network = Network(target(model, images(3)))
    forward = network._forward

    def slow(*args: Any) -> Any:
        """The first call takes a second, as one that compiles."""
        if not network._prepared:
            time.sleep(1)
        return forward(*args)

    network.__dict__["_forward"] = slow
    first, second = (network.see(image) for image in images(3).images[:2])
    assert first.waited >= 1000 > first.milliseconds
    assert second.waited == 0


UNNAMED = (  # elements that a screen reader has no name for
    "[...document.querySelectorAll('button, input, select, canvas[tabindex], [role=button]')].filter(e => "
    "!(e.textContent.trim() || e.getAttribute('aria-label') || e.title || (e.labels && e.labels.length)))"
    ".map(e => e.outerHTML)"
)
SMALL = (  # buttons that a finger can hardly hit
    "[...document.querySelectorAll('button')].filter(e => e.offsetParent && e.offsetHeight < 20).map(e => e.outerHTML)"
)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_views_are_narrow_and_named(chromium: Any, colour_server: Server, scheme: Any) -> None:
    settings = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with Page(chromium, colour_server.url, **settings) as page:
        page.locator("#tab-layers").focus()
        for name in ("graph", "convolution", "data"):
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.id") == f"tab-{name}"
            assert page.locator(f"#{name}").is_visible()
            if name == "graph":
                page.wait_for_selector("#graph-box svg")
            if name == "data":
                until(page, "document.querySelector('#points-note').textContent.startsWith('8 images')")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
            assert page.evaluate(UNNAMED) == [], name
            assert page.evaluate(SMALL) == [], name
        page.keyboard.press("ArrowRight")
        assert page.locator("#layers").is_visible()


def test_many_classes(chromium: Any) -> None:
    """The matrix has the classes of the most mistakes, and the list of classes the most probable ones."""
    names = tuple(f"class {i}" for i in range(40))
    data = Dataset(images(7).images, np.arange(7, dtype=np.int32), names, "many")
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(40))
    with (
        serve(Network(target(model, data))) as server,
        Page(chromium, server.url, viewport={"width": 1366, "height": 657}) as page,
    ):
        assert page.locator("#classes li").count() == 8
        page.click("#tab-data")
        until(page, "document.querySelector('#points-note').textContent.startsWith('7 images')")
        assert page.locator(".matrix tbody tr").count() == 24
        assert "24 classes with most mistakes" in page.locator("#confusion-note").inner_text()
        shown = sum(int(text) for text in page.locator(".matrix button").all_inner_texts())
        assert shown == 7
        assert page.evaluate("document.documentElement.scrollWidth") <= 1366
