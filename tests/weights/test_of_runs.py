"""Weights of another run: the best epoch of a folder, its encoder in another network, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from helpers import same

import jaxcnn as cnn
from jaxcnn import data, losses, train, weights
from jaxcnn.cli import main
from jaxcnn.errors import DataError, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)


def encoder() -> cnn.Layer:
    return cnn.serial(
        conv=cnn.conv(3, 3, padding=1, bias=False), bn=cnn.batch_norm(), act=cnn.relu, pool=cnn.max_pool(4),
        flat=cnn.flatten,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: Any) -> tuple[Path, train.FitResult]:
    """A run without labels of an encoder with a projection, whose first epoch was the best."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"

    def both(net: Any, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return net.projection(net.encoder(a)), net.projection(net.encoder(b))

    objective = train.Objective(losses.nt_xent(), views=data.views(data.crop(padding=1)))
    fitted = train.fit(
        cnn.network(both, encoder=encoder(), projection=cnn.dense(4)), data.Examples(IMAGES), objective,
        validation=data.Examples(IMAGES), epochs=2, batch_size=6, run=run, show=False,
        optimizer=optax.sgd(lambda count: -5.0 * (count >= 2)),
    )  # fmt: skip
    assert fitted.result["best_epoch"] == 1
    return run, fitted


def test_an_encoder_is_found_in_the_run_that_pretrained_it(pretrained: Any) -> None:
    """Under its own names; as the trunk of a classifier, by `names`; frozen, too."""
    run, fitted = pretrained
    expected = fitted.params["encoder"], fitted.model_state["encoder"]
    same(weights.load(encoder(), run, ignore="projection"), expected)

    classifier = cnn.serial(trunk=encoder(), head=cnn.dense(5))
    with pytest.raises(UserError, match=r"(?s)does not fit.*no trunk/conv/kernel.*encoder/conv/kernel"):
        weights.load(classifier, run)
    options: dict[str, Any] = {"names": {"trunk": "encoder"}, "ignore": "projection", "fresh": "head"}
    params, state = weights.load(classifier, run, **options)
    expected = pretrained[1].params["encoder"], pretrained[1].model_state["encoder"]
    same((params["trunk"], state["trunk"]), expected)


def test_what_is_no_run_is_said_in_one_sentence(tmp_path: Path, pretrained: Any) -> None:
    with pytest.raises(DataError, match=r"is a folder without weights: expected a run of jaxcnn"):
        weights.load(encoder(), tmp_path, names={}, input=(8, 8, 1))
    with pytest.raises(DataError, match="there is no such file"):
        weights.load(encoder(), tmp_path / "gone", names={}, input=(8, 8, 1))
    with pytest.raises(UserError, match="is of no family whose files are known"):
        weights.load(encoder(), tmp_path)
    with pytest.raises(UserError, match="holds one set of weights"):
        weights.load(encoder(), pretrained[0], entry="ema")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no weights yet"):
        weights.load(encoder(), tmp_path, input=(8, 8, 1))


def test_a_command_begins_from_a_run(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """An MLP for ten digits begins from one, with its preprocessing, and another head or the same one."""
    monkeypatch.chdir(tmp_path)
    recipe = train.Recipe("mlp", "digits", limit=128, epochs=1, validation=0.0)
    first = train.train(recipe, "first", show=False)
    given = ["train", "mlp", "--data", "digits", "--limit", "64", "--batch-size", "64", "--epochs", "1"]
    given += ["--validation", "0", "--lr", "1e-12", "--schedule", "constant", "--weights"]
    main([*given, "first", "--run", "second"])
    second = train.TrainedModel.load("second")
    third = train.train(train.Recipe.of({**second.config, "fresh": "none"}), show=False)
    assert second.preprocess == first.preprocess == third.preprocess
    for name, params in first.params.items():
        moved = [np.abs(params["kernel"] - other.params[name]["kernel"]).max() for other in (second, third)]
        assert (moved[0] > 1e-3) == (name == "head"), name
        assert moved[1] < 1e-6
    capsys.readouterr()
    main(["weights", "first"])
    out = capsys.readouterr().out
    assert "written by jaxcnn" in out
    assert f"{first.result['params']:,} parameters" in out
    with pytest.raises(SystemExit):
        main([*given, str(tmp_path)])
    assert "is a folder without weights" in capsys.readouterr().err
