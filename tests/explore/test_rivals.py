"""Several networks beside each other: which may be, what the server says of them, what the page shows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from explored import CLASSES, Page, ask, images, look, number, until
from helpers import close

import jaxcnn as cnn
from jaxcnn.cli.explore import Explore, run_explore
from jaxcnn.cli.parse import parse
from jaxcnn.data.dataset import Dataset
from jaxcnn.errors import UserError
from jaxcnn.explore import frozen, serve
from jaxcnn.explore.network import Network
from jaxcnn.explore.rivals import names, rivals
from jaxcnn.explore.target import Target, of_layer


def rival(classes: tuple[str, ...] = CLASSES, channels: int = 1, seed: int = 1) -> Target:
    """A network of one dense layer, whose input has another size than that of the first."""
    data = Dataset(images(4, channels).images, np.arange(4, dtype=np.int32) % 3, classes, "noise")
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(len(classes)))
    params, state = model.init(jax.random.key(seed), data.images[:1] / 255.0)
    return of_layer(model, params, state, None, data)


def test_runs_of_other_images_or_classes_are_refused(network: Network) -> None:
    for other, said in (
        (rival(channels=3), r"the same images: .* has 12, 12, 1, .* has 12, 12, 3"),
        (rival(("a", "b", "c")), r"the same classes: .* has cross, disc, bars, .* has a, b, c"),
    ):
        with pytest.raises(UserError, match=said):
            rivals(network, [other])
    with pytest.raises(UserError, match="up to 3 runs beside the first, got 4"):
        rivals(network, [rival()] * 4)
    found = rivals(network, [rival(), dataclasses.replace(rival(), folder=Path("runs/seven"))])
    assert names([network, *found, network]) == [
        "serial on noise",
        "serial on noise (2)",
        "seven",
        "serial on noise (3)",
    ]


def test_what_two_networks_say(chromium: Any, network: Network, tmp_path: Path) -> None:
    others = rivals(network, [rival()])
    data = images(7)
    first = network.target.trained.probabilities(data.images)
    second = others[0].target.trained.probabilities(data.images)
    with serve(network, others=others) as server:
        assert json.loads(ask(server, "about")[2])["runs"] == ["serial on noise", "serial on noise (2)"]
        record = look(server, {"source": "example", "index": 2})[1]
        close(np.float32(record["probabilities"]), first[2])
        close(np.float32(record["others"]), second[2:3])
        session = Page(chromium, server.url, viewport={"width": 1366, "height": 657})
        with session as page:
            session.newer(lambda: page.click("#examples button:nth-child(4)"))
            values = [number(t.removesuffix(" %")) for t in page.locator("#classes .value").all_inner_texts()]
            np.testing.assert_allclose(values, 100 * np.stack([first[3], second[3]], -1).ravel(), atol=0.06)
            tops = [CLASSES[p[3].argmax()] for p in (first, second)]
            assert page.locator("#runs b").all_inner_texts() == tops
            # Both follow the drawing.
            before = page.locator("#classes").inner_text()
            session.newer(lambda: page.click("#clear"))
            until(page, f"document.querySelector('#classes').innerText !== {before!r}")
            black = np.zeros((1, 12, 12, 1), np.uint8)
            both = [net.target.trained.probabilities(black)[0] for net in (network, *others)]
            values = [number(t.removesuffix(" %")) for t in page.locator("#classes .value").all_inner_texts()]
            np.testing.assert_allclose(values, 100 * np.stack(both, -1).ravel(), atol=0.06)
    file = tmp_path / "two.html"
    frozen.write(network, file, others=others)
    with Page(chromium, file.as_uri()) as page:
        assert page.locator("#runs li").count() == 2
        assert page.locator("#classes .value").count() == 6


def test_the_command_takes_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("jaxcnn.explore.explore", lambda *args, **named: asked.update(named, run=args[0]))
    run_explore(parse(Explore, "jaxcnn explore", ["runs/a", "runs/b", "runs/c", "--no-browser"]))
    assert (asked["run"], asked["beside"]) == (Path("runs/a"), (Path("runs/b"), Path("runs/c")))
    run_explore(parse(Explore, "jaxcnn explore", ["runs/a"]))
    assert asked["beside"] == ()
