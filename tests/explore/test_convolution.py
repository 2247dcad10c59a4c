"""The convolution to play with, in a browser, beside JAX's."""

from typing import Any

import jax
import numpy as np
import pytest
from explored import Page, number, until

from jaxcnn.explore.server import Server

NAMES = ("n", "k", "s", "p", "d")


def choose(page: Any, **settings: int) -> None:
    for name, value in settings.items():
        page.evaluate(
            "([id, v]) => { const e = document.getElementById(id); e.value = v; e.dispatchEvent(new Event('input')); }",
            [f"play-{name}", value],
        )


def test_the_output_is_that_of_jax(chromium: Any, server: Server) -> None:
    with Page(chromium, server.url, viewport={"width": 1366, "height": 657}) as page:
        page.click("#tab-convolution")
        for settings in ((8, 3, 1, 0, 1), (7, 3, 2, 1, 1), (9, 2, 3, 2, 3), (6, 1, 4, 4, 4), (16, 7, 4, 3, 2)):
            choose(page, **dict(zip(NAMES, settings, strict=True)))
            _, _, stride, padding, dilation = settings
            for weights in ("random", "horizontal"):
                page.select_option("#convolution-weights", weights)
                size, k, image, kernel, found = page.evaluate(
                    "[outputSize(play), play.k, [...play.input], [...play.weights], [...play.output]]"
                )
                n = settings[0]
                expected = jax.lax.conv_general_dilated(
                    np.float32(image).reshape(1, n, n, 1), np.float32(kernel).reshape(k, k, 1, 1), (stride, stride),
                    [(padding, padding)] * 2, rhs_dilation=(dilation, dilation),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )  # fmt: skip
                assert expected.shape == (1, size, size, 1)
                np.testing.assert_allclose(np.float32(found).reshape(size, size), expected[0, :, :, 0], atol=1e-5)
            assert page.locator("#convolution-formula b").inner_text() == f"{size}\u00d7{size}"
        # A kernel that does not fit says so.
        choose(page, n=3, k=7, p=0, d=4)
        assert page.locator("#convolution-formula b").inner_text() == "no output"
        assert "covers 25 pixels" in page.locator("#convolution-formula").inner_text()
        assert page.locator("#play-output").is_hidden()


def test_an_output_pixel_shows_its_window(chromium: Any, server: Server) -> None:
    with Page(chromium, server.url, viewport={"width": 1366, "height": 657}) as page:
        page.click("#tab-convolution")
        page.select_option("#convolution-input", "ramp")
        page.select_option("#convolution-weights", "ones")
        choose(page, n=5, k=2, s=2, p=1, d=2)  # input 0 to 24; the windows' corners are two apart
        box = page.locator("#play-output").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + box["height"] * 0.01)
        until(page, "document.querySelector('#convolution-sum h3').textContent.includes('row 0, column 2')")
        text = page.locator("#convolution-sum .terms").inner_text()
        # Rows -1 and 1, columns 3 and 5: one input is not padding, 1 * 5 + 3.
        assert number(text.rsplit("= ", 1)[1]) == 8
        assert "3 of the 4 inputs are padding" in page.locator("#convolution-sum").inner_text()
        assert page.locator("#convolution-sum .grid i.out").count() == 3
        page.locator("#play-output").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowLeft")
        # Rows 1 and 3, columns 1 and 3: 6 + 8 + 16 + 18.
        until(page, "document.querySelector('#convolution-sum h3').textContent.includes('row 1, column 1')")
        assert number(page.locator("#convolution-sum .terms").inner_text().rsplit("= ", 1)[1]) == 48


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_the_kernel_slides_where_motion_is_wanted(chromium: Any, server: Server, motion: str) -> None:
    session = Page(chromium, server.url, viewport={"width": 390, "height": 844})
    with session as page:
        page.emulate_media(reduced_motion=motion)
        page.click("#tab-convolution")
        page.click("#convolution-next")
        assert page.evaluate("play.at") == 1
        if motion == "reduce":
            assert page.locator("#convolution-slide").is_hidden()
            page.click("#convolution-back")
            assert page.evaluate("play.at") == 0
        else:
            page.click("#convolution-slide")
            until(page, "play.at >= 3")
            page.click("#convolution-slide")
            assert page.evaluate("play.timer") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
