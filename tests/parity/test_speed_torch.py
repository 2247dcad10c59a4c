"""The networks of the comparison with other libraries in PyTorch: the same outputs and losses as in jaxcnn."""

import dataclasses

import numpy as np
import pytest
from helpers import close

from experiments.peers import QUICK, Task, ours

pytest.importorskip("torch")
pytorch = pytest.importorskip("experiments.peers.pytorch")

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


def prepared(model, folder):
    ours.prepare(dataclasses.replace(QUICK[model], folder=str(folder)))
    return Task.load(folder)


@pytest.mark.parametrize("model", ["lenet5", "resnet20", "alexnet", "fcn8s"])
def test_outputs(model, tmp_path):
    task = prepared(model, tmp_path)
    expected = np.asarray(ours.inference(task)())
    for channels_last in (False, True):
        close(np.asarray(pytorch.inference(task, channels_last)()), expected, 1e-4)


@LAYOUTS
@pytest.mark.parametrize(("model", "tolerance"), [("lenet5", 1e-5), ("resnet20", 1e-2)])
def test_three_steps(model, tolerance, channels_last, tmp_path):
    """With batch normalization rounding grows from step to step, by ReLUs that are on in one library only."""
    task = prepared(model, tmp_path)
    steps = ours.trainer(task), pytorch.trainer(task, channels_last)
    losses = np.array([[float(step()) for step in steps] for _ in range(3)])
    np.testing.assert_allclose(losses[0, 1], losses[0, 0], rtol=1e-5)
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=tolerance)


def test_bfloat16(tmp_path):
    task = prepared("resnet20", tmp_path)
    exact = np.asarray(ours.inference(task)())
    half = dataclasses.replace(task, dtype="bfloat16")
    for outputs in (ours.inference(half)(), pytorch.inference(half)()):
        assert outputs.dtype in (np.float32, pytorch.torch.float32)
        close(np.asarray(outputs), exact, 0.05)
