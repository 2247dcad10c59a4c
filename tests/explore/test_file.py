"""The views in the file that --export writes: what needs no server works, and what does says so."""

from pathlib import Path
from typing import Any

from explored import Page, until

from jaxcnn.explore import frozen
from jaxcnn.explore.network import Network


def test_views_of_the_file(chromium: Any, network: Network, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    frozen.write(network, file)
    with Page(chromium, file.as_uri(), viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.click("#tab-graph")
        page.wait_for_selector("#graph-box svg")
        assert page.locator("#graph-box .layer-box").count() == 11
        page.select_option("#graph-depth", "1")
        until(page, "document.querySelectorAll('#graph-box .layer-box').length === 9")
        page.click('#graph-box [data-layer="conv1"]')
        until(page, "document.querySelector('#graph-maps .legend')?.textContent.length > 3")
        page.click("#tab-convolution")
        until(page, "document.querySelector('#convolution-formula b').textContent === '6\\u00d76'")
        page.click("#tab-data")
        assert "need jaxcnn explore" in page.locator("#data-note").inner_text()
        assert page.locator("#points").is_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
