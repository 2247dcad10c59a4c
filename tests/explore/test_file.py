"""The views in the file that --export writes: what needs no server works, and what does says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import CLASSES, Page, images, until
from helpers import close

from jaxcnn.explore import frozen
from jaxcnn.explore.network import Network
from jaxcnn.explore.points import Points


def test_views_of_the_file(chromium: Any, network: Network, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    frozen.write(network, file, images(7).images[6], "given.png")
    with Page(chromium, file.as_uri(), viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.set_viewport_size({"width": 1366, "height": 657})
        box = page.locator("#probabilities").bounding_box()
        assert box["y"] + box["height"] <= 657  # the note about the file does not push them out of view
        page.set_viewport_size({"width": 390, "height": 844})
        page.click("#tab-graph")
        page.wait_for_selector("#graph-box svg")
        assert page.locator("#graph-box .layer-box").count() == 11
        page.select_option("#graph-depth", "1")
        until(page, "document.querySelectorAll('#graph-box .layer-box').length === 9")
        page.click('#graph-box [data-layer="conv1"]')
        until(page, "document.querySelector('#graph-maps .legend')?.textContent.length > 3")
        page.click("#tab-convolution")
        until(page, "document.querySelector('#convolution-formula b').textContent === '6\\u00d76'")
        # The test data: the same points and numbers as those that are computed.
        page.click("#tab-data")
        until(page, "document.querySelector('#points-note').textContent.startsWith('7 images')")
        record, places = Points(network, network.target.examples()).more("act2", 60)
        close(np.float32(page.evaluate("[...points.places]")), places.ravel())
        assert page.evaluate("points.record.said") == record["said"]
        assert page.locator("#points-layer option").all_inner_texts() == ["act2"]
        page.locator(".matrix button").first.click()
        page.locator("#confusion-images button").first.wait_for()
        page.locator("#confusion-images button").first.click()
        label = page.evaluate("points.cell[0]")
        until(page, f"document.querySelector('#input-name').textContent.endsWith('labelled {CLASSES[label]}')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_file_without_points_says_so(
    chromium: Any, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxcnn.explore.frozen._MOST_IMAGES", 100)
    file = tmp_path / "page.html"
    frozen.write(network, file)
    with Page(chromium, file.as_uri()) as page:
        page.click("#tab-data")
        assert "need jaxcnn explore" in page.locator("#data-note").inner_text()
        assert page.locator("#points").is_hidden()
