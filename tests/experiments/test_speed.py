"""The comparison with other libraries: the same networks in each, and the command. PyTorch is in `parity`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import close

from experiments import speed
from experiments.peers import ON_GPU, PEERS, QUICK, ZOO, Peer, Task, channels_first, ours
from jaxcnn.errors import UserError
from jaxcnn.ops.backend import FORMS

# GoogLeNet and ResNet-50 take half a minute each to make and to compile. Every run of the experiment compares them.
MODELS = ("lenet5", "resnet20", "alexnet", "fcn8s")
ON_JAX = ("flax_linen", "flax_nnx", "equinox", "keras")


@pytest.fixture(scope="module")
def task_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Task]:
    """A small task by name; its weights are made once."""
    made: dict[str, Task] = {}

    def get(model: str) -> Task:
        if model not in made:
            folder = tmp_path_factory.mktemp(model)
            ours.prepare(dataclasses.replace(QUICK[model], folder=str(folder)))
            made[model] = Task.load(folder)
        return made[model]

    return get


@pytest.fixture(scope="module")
def expected(task_of: Callable[[str], Task]) -> Callable[[str], np.ndarray]:
    """jaxcnn's outputs, computed once."""
    made: dict[str, np.ndarray] = {}

    def get(model: str) -> np.ndarray:
        if model not in made:
            made[model] = np.asarray(ours.inference(task_of(model))())
        return made[model]

    return get


def peer_module(name: str) -> ModuleType:
    """The file of a peer, or a skip."""
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    return importlib.import_module(PEERS[name].module)


SMALL = ("lenet5", "resnet20")


@pytest.mark.parametrize("model", [m if m in SMALL else pytest.param(m, marks=pytest.mark.slow) for m in MODELS])
@pytest.mark.parametrize("peer", ON_JAX)
def test_outputs(peer: str, model: str, task_of: Callable, expected: Callable) -> None:
    module = peer_module(peer)
    close(np.asarray(module.inference(task_of(model))()), expected(model), 1e-4)


@pytest.mark.parametrize("peer", ON_JAX)
def test_three_steps(peer: str, task_of: Callable) -> None:
    """Without batch normalization rounding does not grow: gradient, learning rate and momentum are the same."""
    module = peer_module(peer)
    steps = ours.trainer(task_of("lenet5")), module.trainer(task_of("lenet5"))
    losses = np.array([[float(step()) for step in steps] for _ in range(3)])
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-5)
    assert losses[2, 0] < losses[0, 0]


def test_of_the_images_every_pixel_has_a_label(task_of: Callable) -> None:
    images, labels = task_of("fcn8s").batch()
    assert images.shape == QUICK["fcn8s"].shape
    assert labels.shape == images.shape[:3]
    assert set(np.unique(labels)) == {0, 10}


def test_channels_first() -> None:
    kernel = np.arange(2 * 2 * 3 * 4).reshape(12, 4)
    x = np.arange(12).reshape(2, 2, 3)
    np.testing.assert_array_equal(x.transpose(2, 0, 1).ravel() @ channels_first(kernel, 3), x.ravel() @ kernel)


@pytest.mark.slow
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("Absent", "absent", packages=("no_such_library",)))
    report, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    speed.speed(("lenet5",), ("flax_linen", "absent"), quick=True, json_file=report, picture=picture)
    printed = capsys.readouterr().out
    assert "left out: Absent: no_such_library not installed" in printed
    assert re.search(r"lenet5, 8 of 32x32x1 +\| [\d.]+ \([\d.]+ to [\d.]+\)", printed)
    assert picture.read_bytes().startswith(b"\x89PNG")

    found = json.loads(report.read_text())
    assert found["left_out"] == {"absent": "no_such_library not installed (pip install 'jaxcnn[peers]')"}
    assert found["versions"]["jax"]
    assert [(r["mode"], r["peer"]) for r in found["results"]] == [
        (mode, peer) for mode in ("train", "infer") for peer in ("flax_linen", "jaxcnn")
    ]
    for record in found["results"]:
        assert record["first_call_s"] > 0
        assert record["peak_mib"] > 50
        assert record["turns"] == speed.TURNS
        assert record["quartiles"][0] <= record["ms"] <= record["quartiles"][1]
        if record["peer"] == "flax_linen":
            assert record["difference"] < 1e-4
            assert record["ratio"] == pytest.approx(record["ms"] / record["jaxcnn_ms"])


@pytest.mark.slow
def test_ablation(capsys: pytest.CaptureFixture[str]) -> None:
    """A process without one of the forms computes the same."""
    speed.speed(("lenet5",), ("plain",), ("train",), ablation=True, quick=True)
    assert re.search(r"lenet5, training step, all of XLA's own: [\d.]+ ms", capsys.readouterr().out)
    with pytest.raises(UserError, match="unknown peer 'torch'"):
        speed.speed(peers=("torch",), ablation=True)
    for form in FORMS:
        assert speed.ABLATIONS[f"without_{form}"].environment == {"JAXCNN_PLAIN": form}


@pytest.mark.slow
def test_a_peer_with_other_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong_peer.py").write_text(
        "from experiments.peers import Task, flax_linen\n"
        "class Changed(Task):\n"
        "    def layers(self):\n"
        "        for layer in super().layers():\n"
        "            yield {name: 1.01 * value for name, value in layer.items()}\n"
        "def inference(task):\n"
        "    return flax_linen.inference(Changed(**vars(task)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(PEERS, "wrong", Peer("Wrong", "wrong_peer"))
    with pytest.raises(UserError, match=r"failed: lenet5, inference, Wrong: outputs differ by \d\.\de-02 of"):
        speed.speed(("lenet5",), ("wrong",), ("infer",), quick=True)
    assert "ms, " not in capsys.readouterr().out


def test_losses_are_compared() -> None:
    losses = {"losses": [2.5, 2.4, 2.2]}
    assert speed.compare(losses, {"losses": [2.5, 2.4, 2.21]}, "float32") == pytest.approx(0.01 / 0.3)
    for others in ([2.51, 2.4, 2.2], [2.5, 2.4, 2.3], [2.5, 2.4, float("nan")]):
        with pytest.raises(speed.Mismatch, match=r"instead of 2\.5, 2\.4, 2\.2"):
            speed.compare(losses, {"losses": others}, "float32")
    # Rounding is no mismatch where the losses do not move.
    assert speed.compare({"losses": [6.9, 6.9, 6.9]}, {"losses": [6.9, 6.9, 6.9 + 1e-6]}, "float32") < 0.02


def test_later_networks_are_compared_with_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    some = {name: PEERS[name] for name in ("flax_linen", "keras", "torch")}
    assert list(speed._without(("lenet5", "unet", "mnasnet1_0"), some)) == [
        "left out: Flax linen, Keras on JAX for unet, mnasnet1_0: only the first seven networks are written for it",
        "left out: PyTorch for mnasnet1_0: its networks are torchvision's, which is not installed (pip install "
        "torchvision)",
    ]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert not list(speed._without(("mnasnet1_0",), {"torch": PEERS["torch"]}))
    assert not PEERS["flax_linen"].lacks("lenet5")
    for name, task in ZOO.items():
        assert QUICK[name].shape[1] < task.shape[1]
        assert name in ON_GPU


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown model 'lenet': did you mean lenet5"):
        speed.speed(("lenet",))
    with pytest.raises(UserError, match="unknown peer 'tensorflow'"):
        speed.speed(peers=("tensorflow",))
