"""The graph of `jaxcnn explore`: what joins what, and the view of it in a browser."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from explored import Page, images, small_model, target, until

import jaxcnn as cnn
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import Server


def arrivals(record: dict[str, Any]) -> Counter[str]:
    """How many arrows end at each box, by the box's name or text."""
    found: Counter[str] = Counter()
    for line in record["lines"]:
        if not line["arrow"]:
            continue
        x, y = line["points"][-1]
        inside = [
            box for box in record["boxes"]
            if box["place"][0] <= x <= box["place"][0] + box["place"][2] and abs(box["place"][1] - y) < 1e-3
        ]  # fmt: skip
        assert len(inside) == 1
        found[inside[0]["name"] or inside[0]["texts"][0][0]] += 1
    return found


def test_a_shortcut_and_four_branches() -> None:
    found = Network(target(small_model(), images(3)))
    whole = found.graph(0)
    assert arrivals(whole)["+"] == 2  # the block's convolutions, and its input
    assert set(arrivals(whole).values()) == {1, 2}
    boxes = {box["name"]: box for box in whole["boxes"] if box["name"]}
    assert set(boxes) == {record["name"] for record in found.layers()}
    assert boxes["block"]["kind"] == "frame"
    assert boxes["conv1"]["texts"] == [["conv1", "conv(4, 3)"], ["10x10x4", "40"]]
    left, top, width, height = boxes["block"]["place"]
    x, y, w, h = boxes["block/conv"]["place"]
    assert left < x < x + w < left + width
    assert top < y < y + h < top + height
    folded = found.graph(1)
    assert "block/conv" not in {box["name"] for box in folded["boxes"]}
    assert next(box for box in folded["boxes"] if box["name"] == "block")["kind"] == "network"

    def four(net: Any, x: Any) -> Any:
        return jnp.concatenate([way(x) for way in (net.way0, net.way1, net.way2, net.way3)], -1)

    branches = cnn.network(four, **{f"way{i}": cnn.conv(2, 1) for i in range(4)})
    model = cnn.serial(ways=branches, act=jax.nn.relu, mean=lambda x: x.mean((1, 2)), head=cnn.dense(3))
    found = Network(target(model, images(3)))
    assert arrivals(found.graph(0))["concat"] == 4


def test_the_graph_by_clicks(chromium: Any, server: Server) -> None:
    with Page(chromium, server.url, viewport={"width": 1366, "height": 657}) as page:
        order = "[...document.querySelectorAll('#list > section, #list .body > section')].map(n => n.ariaLabel).join()"
        before = page.evaluate(order)
        page.click("#tab-graph")
        page.wait_for_selector("#graph-box svg")
        assert page.locator("#graph-box .layer-box").count() == 11
        assert page.locator("#layers").is_hidden()
        page.fill("#graph-find", "bn")
        until(page, "document.querySelector('#graph-found').textContent === '1 of 1: block/bn'")
        assert page.locator(".found").count() == 1
        # Inside a folded block, the block is found.
        page.select_option("#graph-depth", "1")
        until(page, "document.querySelector('#graph-found').textContent === '1 of 1: block'")
        page.select_option("#graph-depth", "0")
        until(page, "document.querySelector('#graph-found').textContent === '1 of 1: block/bn'")
        page.fill("#graph-find", "none")
        assert page.locator("#graph-found").inner_text() == "no layer has this name"
        page.fill("#graph-find", "")
        # Zoom and pan change the part that is seen.
        window = "document.querySelector('#graph-box svg').getAttribute('viewBox').split(' ').map(Number)"
        page.click("#graph-fit")
        fitted = page.evaluate(window)
        page.click("#graph-in")
        closer = page.evaluate(window)
        assert closer[2] == pytest.approx(fitted[2] / 1.25)
        box = page.locator("#graph-box").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 60)
        page.mouse.wheel(0, 50)
        until(page, f"{window}[2] > {closer[2]} * 1.1")
        held = page.evaluate(window)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 60, steps=3)
        page.mouse.up()
        moved = page.evaluate(window)
        assert moved[0] == pytest.approx(held[0] - 40 * held[2] / box["width"], rel=0.02)
        assert page.locator("#graph-maps section").count() == 0
        # A click shows the maps of the layer, and units in them.
        page.click('#graph-box [data-layer="block/conv"]')
        until(page, "document.querySelector('#graph-maps .legend')?.textContent.length > 3")
        page.locator("#graph-maps canvas[tabindex]").click(position={"x": 9, "y": 9})
        until(page, "document.querySelector('#unit-heading').textContent === 'block/conv'")
        page.keyboard.press("Escape")
        # By the keyboard: to the next layer, and its maps.
        page.locator('#graph-box [data-layer="conv1"]').focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#graph-maps section')?.dataset.layer === 'act1'")
        page.click("#tab-layers")
        assert page.evaluate(order) == before
        assert page.locator("#graph").is_hidden()
