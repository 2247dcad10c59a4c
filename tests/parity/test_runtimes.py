"""The networks of `experiments.speed` in ONNX Runtime and OpenVINO have jaxcnn's outputs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments.peers import PEERS, QUICK, ours

# OpenVINO calls what PyTorch calls deprecated, in threads of its own, too.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model", ["lenet5", "resnet20"])
def test_outputs(name: str, model: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest: float32 sums in another order."""
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    from experiments.peers import runtimes

    task = dataclasses.replace(QUICK[model], folder=str(tmp_path))
    ours.prepare(task)
    expected = np.asarray(ours.inference(task)())
    found = runtimes.inference(task, name)()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_they_do_not_train() -> None:
    assert [name for name, peer in PEERS.items() if not peer.trains] == ["onnxruntime", "openvino"]
    assert all("bfloat16" in (PEERS[name].missing("bfloat16") or "") for name in ("onnxruntime", "openvino"))
