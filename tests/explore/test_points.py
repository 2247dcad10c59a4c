"""The test data as points and its confusion matrix: the numbers, the server, the view in a browser."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from explored import CLASSES, Page, ask, images, target, until
from helpers import close

import jaxcnn as cnn
from jaxcnn.explore.messages import pack, unpack
from jaxcnn.explore.network import Network
from jaxcnn.explore.points import Points, components
from jaxcnn.explore.server import Server


def test_components_are_those_of_the_singular_values() -> None:
    """Beside numpy's SVD of the centred examples; float64, so the difference is that of rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 40)) * np.linspace(3, 0.1, 40) + 5
    found, variance = components(x @ x.T)
    left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    expected *= np.where(expected[np.abs(expected).argmax(0), [0, 1]] < 0, -1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(variance, values[:2] ** 2 / (values**2).sum(), rtol=1e-9)
    # One example, or examples that are all the same, lie at the origin.
    for count in (1, 4):
        found, variance = components(np.full((count, count), 3.0))
        np.testing.assert_allclose(found, np.zeros((count, 2)), atol=1e-7)
        assert variance == (0, 0)


def test_points_of_a_layer(network: Network) -> None:
    """In parts or at once, they are the components of what the layer gives."""
    data = network.target.examples()
    for layer in ("fc1", "block/conv"):
        record, whole = Points(network, data).more(layer, 60)
        assert record["done"] == record["total"] == 7
        parts = Points(network, data)
        done = [parts.more(layer, 0)[0]["done"] for _ in range(7)]
        assert done == [1, 2, 3, 4, 5, 6, 7]
        close(parts.more(layer, 0)[1], whole)
        outputs = np.stack([network.see(image).outputs[layer].ravel() for image in data.images]).astype(np.float64)
        left, values, _ = np.linalg.svd(outputs - outputs.mean(0), full_matrices=False)
        close(np.abs(whole), np.abs(left[:, :2] * values[:2]).astype(np.float32), 1e-4)
        close(np.array(record["variance"]), values[:2] ** 2 / (values**2).sum(), 1e-4)
    expected = network.target.trained.probabilities(data.images)
    assert record["said"] == expected.argmax(-1).tolist()
    close(np.array(record["sure"]), expected.max(-1))
    assert record["labels"] == data.labels.tolist()


def test_large_maps_are_averaged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn.serial(conv=cnn.conv(2, 3, padding=1), mean=lambda x: jnp.mean(x, (1, 2)), head=cnn.dense(3))
    network = Network(target(model, images(4)))
    monkeypatch.setattr("jaxcnn.explore.points.MOST_NUMBERS", 50)
    record, found = Points(network, network.target.examples()).more("conv", 60)
    assert record["reduced"] == 3  # 12 x 12 x 2 numbers, of which 4 x 4 x 2 are left
    maps = np.stack([network.see(image).outputs["conv"] for image in images(4).images])
    means = maps.reshape(4, 4, 3, 4, 3, 2).mean((2, 4)).reshape(4, -1)
    _, values, _ = np.linalg.svd(means - means.mean(0))
    close((found**2).sum(0), (values[:2] ** 2).astype(np.float32), 1e-4)


def test_points_and_images_over_http(server: Server, network: Network) -> None:
    status, _, body = ask(server, "images", "POST", pack({"index": [5, 0, 5]}))
    assert status == 200
    record, sent = unpack(body)
    assert sent == network.target.examples().images[[5, 0, 5]].tobytes()
    for wrong in ([], [7], [-1], [True], [0.5], "x", None, [0] * 101, [[0]]):
        assert ask(server, "images", "POST", pack({"index": wrong}))[0] == 400, wrong
    status, _, body = ask(server, "points", "POST", pack({"layer": "fc1"}))
    record, sent = unpack(body)
    assert (status, len(sent)) == (200, 8 * record["done"])
    for wrong in ("no", "", None, 3, "x" * 5000):
        status, _, body = ask(server, "points", "POST", pack({"layer": wrong}))
        assert status == 400, wrong
        assert json.loads(body)["error"]


def test_points_by_clicks(chromium: Any, server: Server, network: Network) -> None:
    data = network.target.examples()
    said = network.target.trained.probabilities(data.images).argmax(-1)
    session = Page(chromium, server.url, viewport={"width": 1366, "height": 657})
    with session as page:
        page.click("#tab-data")
        until(page, "document.querySelector('#points-note').textContent.startsWith('7 images')")
        wrong = int((said != data.labels).sum())
        assert f"of which {wrong} " in page.locator("#points-note").inner_text()
        assert "components of act2" in page.locator("#points-note").inner_text()
        # A point shows its image, and a click takes it as the input.
        x, y = page.evaluate("points.shown[4]")
        box = page.locator("#points").bounding_box()
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_selector("#points-tip:visible")
        assert page.locator("#points-tip span").inner_text().startswith(CLASSES[data.labels[4]])
        session.newer(lambda: page.mouse.click(box["x"] + x, box["y"] + y))
        assert page.locator("#input-name").inner_text() == f"example 4, labelled {CLASSES[data.labels[4]]}"
        # By the keyboard.
        page.locator("#points").focus()
        page.keyboard.press("ArrowLeft")
        chosen = page.evaluate("points.at")
        session.newer(lambda: page.keyboard.press("Enter"))
        assert page.evaluate("state.examples.chosen") == chosen
        # The matrix counts the same images, and a cell shows its own.
        counts = np.zeros((3, 3), int)
        np.add.at(counts, (data.labels, said), 1)
        cells = page.locator(".matrix tbody td").all_inner_texts()
        assert [0 if cell == "·" else int(cell) for cell in cells] == counts.ravel().tolist()
        label, other = (int(k) for k in np.argwhere(counts)[0])
        page.click(f'.matrix [data-cell="{label},{other}"]')
        expected = np.flatnonzero((data.labels == label) & (said == other)).tolist()
        until(page, f"document.querySelectorAll('#confusion-images button').length === {len(expected)}")
        named = page.locator("#confusion-images button").first.get_attribute("aria-label")
        assert named == f"example {expected[0]}, as the input"
        # Another layer gives other points of the same images.
        before = page.evaluate("points.places.join()")
        page.select_option("#points-layer", "conv1")
        until(page, f"points.record.layer === 'conv1' && points.places.join() !== {before!r}")
        page.check("#points-mistakes")
        assert page.evaluate("points.record.labels.filter((_, i) => isShown(i)).length") == wrong


def test_pixels_have_no_points(server: Server) -> None:
    """A network that names classes of pixels answers with a message; here one whose head is changed."""
    network = server.answers.network
    kind = network.target.head.kind
    network.target.head.kind = "pixels"
    try:
        status, _, body = ask(server, "points", "POST", pack({"layer": "fc1"}))
    finally:
        network.target.head.kind = kind
    assert status == 400
    assert "names no class of an image" in json.loads(body)["error"]
