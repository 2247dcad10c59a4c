"""The network of the tests of explore, its server, and the browser."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from explored import PADDED, images, small_model, target

from jaxcnn.explore import serve
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import Server


@pytest.fixture(scope="session")
def network() -> Network:
    return Network(target(small_model(), images(7), PADDED))


@pytest.fixture(scope="session")
def server(network: Network) -> Iterator[Server]:
    with serve(network) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
