"""The networks of the comparison with other libraries in PyTorch: the same outputs and losses as in jaxcnn."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import close

import jaxcnn as cnn
from experiments.peers import PEERS, QUICK, Task, ours

torch = pytest.importorskip("torch")
pytorch = pytest.importorskip("experiments.peers.pytorch")
pytorch_zoo = pytest.importorskip("experiments.peers.pytorch_zoo")

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


def test_unet(tmp_path):
    """Of few filters, and as deep as two stages."""
    net = cnn.models.unet(3, width=4, depth=2)
    params, state = net.init(jax.random.key(0), np.zeros((1, 12, 16, 3), np.float32))
    cnn.weights.save(net, params, state, tmp_path / "unet.pth", input=(12, 16, 3), names={})
    theirs = pytorch_zoo.UNet(3, 3, width=4, depth=2)
    theirs.load_state_dict(torch.load(tmp_path / "unet.pth"))
    x = np.random.default_rng(0).normal(size=(2, 12, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(np.moveaxis(x, -1, 1))).numpy()
    close(np.moveaxis(np.asarray(net.apply(params, state, x)[0]), -1, 1), expected, 1e-5)


def test_a_network_of_torchvisions(tmp_path):
    """With the weights of jaxcnn's `init`, and not with those of another number of parameters."""
    if reason := PEERS["torch"].lacks("squeezenet1_0"):
        pytest.skip(reason)
    task = prepared("squeezenet1_0", tmp_path)
    close(np.asarray(pytorch.inference(task)()), np.asarray(ours.inference(task)()), 1e-4)
    task.save(list(task.layers())[:-1], *task.batch())
    with pytest.raises(ValueError, match="squeezenet1_0 has 741,067 parameters in PyTorch and 735,424 in jaxcnn"):
        pytorch.inference(task)
