"""The search for a learning rate: its losses are those of a loop by hand, and the suggestion that of its curve."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from helpers import close

import jaxcnn as cnn
from jaxcnn import cli, train
from jaxcnn.errors import UserError
from jaxcnn.train.rates import suggested

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 3
IMAGES = (RNG.integers(0, 120, (24, 3, 3, 1)) + 60 * (np.arange(3) == LABELS[:, None])[:, None, :, None]).astype(
    np.uint8
)
DATA = cnn.data.Dataset(IMAGES, LABELS, tuple("abc"))


def network() -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, head=cnn.dense(3))


def test_the_losses_are_those_of_a_loop_by_hand() -> None:
    search = train.find_learning_rate(
        network(), DATA, train.Objective(preprocess=cnn.data.to_float), optimizer=lambda rate: optax.sgd(rate, 0.9),
        low=1e-3, high=1.0, steps=12, batch_size=8, seed=1,
    )  # fmt: skip
    model = network()
    params, _ = model.init(jax.random.split(jax.random.key(1))[0], IMAGES[:1] / np.float32(255))

    @jax.jit
    def slope(params, images, labels):
        def loss(params):
            outputs = model.apply(params, {}, images / np.float32(255))[0]
            return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

        return jax.value_and_grad(loss)(params)

    speed, losses, rates = jax.tree.map(np.zeros_like, params), [], np.geomspace(1e-3, 1, 12)
    batches = [batch for epoch in range(1, 5) for batch in cnn.data.batches(DATA, 8, 1, epoch)]
    for rate, batch in zip(rates, batches, strict=True):
        loss, gradient = slope(params, *batch)
        losses.append(float(loss))
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, gradient)
        params = jax.tree.map(lambda p, v, rate=rate: p - rate * v, params, speed)
    close((search.rates, search.losses), (rates, np.array(losses)), 1e-5)
    close(search.smoothed, np.array(losses), 1e-5)  # of 20 steps or fewer each stands alone


def test_a_loader_of_batches_is_searched_like_the_data_in_them() -> None:
    """The batches of each epoch, in the loader's own size."""
    batches = [(IMAGES[i : i + 8], LABELS[i : i + 8]) for i in (8, 16, 0)]  # the lowest loss last
    found = train.find_learning_rate(
        network(), cnn.data.Loader(lambda epoch: batches, classes=tuple("abc")), optimizer=optax.sgd,
        low=1e-9, high=1e-8, steps=12,
    )  # fmt: skip
    close(found.losses[:3], found.losses[3:6])  # rates that move nothing: each epoch has the same losses
    assert len({f"{loss:.4f}" for loss in found.losses[:3]}) == 3


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    rates = np.geomspace(1e-5, 1e1, 121)
    x = np.log10(rates)
    falls = 2 - 1.5 / (1 + np.exp(-4 * (x + 2)))  # fastest at 1e-2
    rises = np.exp(np.maximum(x, 0) * 5) - 1  # from 1 on
    np.testing.assert_allclose(suggested(rates, falls + rises), 1e-2, rtol=1e-6)
    diverged = np.append(falls + rises, np.nan)
    np.testing.assert_allclose(suggested(np.append(rates, 11.0), diverged), 1e-2, rtol=1e-6)
    with pytest.raises(UserError, match=r"the loss falls at no learning rate from 1e-05 to 10"):
        suggested(rates, 1 + np.arange(121.0))


def test_the_search_ends_where_the_loss_diverges_and_is_smoothed(tmp_path: Path) -> None:
    objective = cnn.losses.softmax_cross_entropy
    search = train.find_learning_rate(
        network(), DATA, objective, optimizer="sgd", low=1e-4, high=1e6, steps=100, batch_size=8
    )
    assert len(search.rates) < 100
    assert search.smoothed[-1] > 4 * search.smoothed.min()
    mean = 0.0
    for t, loss in enumerate(search.losses, 1):
        mean = 0.8 * mean + 0.2 * loss
        np.testing.assert_allclose(search.smoothed[t - 1], mean / (1 - 0.8**t), rtol=1e-9)
    assert search.suggestion in search.rates
    assert search.suggestion < search.rates[search.smoothed.argmin()]
    assert repr(search).startswith(f"RateSearch(suggestion={search.suggestion:.2g}; ")
    assert "data:image/png;base64," in search._repr_html_()
    axes = search.picture().axes[0]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "loss")
    assert f"suggestion: {search.suggestion:.2g}" in {text.get_text() for text in axes.get_legend().get_texts()}


def test_settings_that_are_no_search() -> None:
    for settings in ({"low": 0.0}, {"low": 1.0, "high": 0.1}, {"steps": 9}, {"batch_size": 0}):
        with pytest.raises(UserError, match="expected 0 < low < high, at least 10 steps"):
            train.find_learning_rate(network(), DATA, **settings)
    with pytest.raises(UserError, match=r"such as optax\.sgd, got GradientTransformation"):
        train.find_learning_rate(network(), DATA, optimizer=optax.sgd(0.1))
    with pytest.raises(UserError, match="data: expected a Dataset"):
        train.find_learning_rate(network(), IMAGES)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "lr.png"
    options = ["--limit", "64", "--batch-size", "16", "--steps", "40", "--optimizer", "momentum", "--augment", "none"]
    cli.main(["lr", "logistic", "--data", "digits", *options, "--picture", str(picture)])
    out = capsys.readouterr().out
    assert out.startswith("suggested learning rate ")
    assert picture.read_bytes().startswith(b"\x89PNG")
    recipe = train.Recipe(
        "logistic", "digits", limit=64, batch_size=16, optimizer="momentum", augment="none", label_smoothing=0.1
    )
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe.as_config(), "lr": 0.5}))
    cli.main(["lr", "--config", str(tmp_path / "recipe.json"), "--label-smoothing", "0", "--steps", "40", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert f"suggested learning rate {found['suggestion']:.2g}," in out
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    with pytest.raises(SystemExit):
        cli.main(["lr", "logistic", "--lr", "0.1"])
    assert "--lr has no effect on the search for a learning rate" in capsys.readouterr().err
