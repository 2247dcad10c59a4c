"""torchvision itself: networks, state dicts, preprocessing, region operations. Skipped where it is not installed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal
from PIL import Image

import jaxcnn as cnn
from jaxcnn.ops.nms import nms
from jaxcnn.ops.roi import roi_align, roi_max_pool

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
nn = torch.nn

NETWORKS = (
    "alexnet",
    *[f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")],
    "googlenet",
    *[f"resnet{depth}" for depth in (18, 34, 50, 101, 152)],
)


def theirs(name: str) -> nn.Module:
    """torchvision's network, all its numbers random, running statistics too, and its activations of a bounded size."""
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.4, 0.8, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    """The same outputs from torchvision's file, and a file of ours that torchvision's network takes whole."""
    model, x = theirs(name), normal(1, 2, 224, 224, 3)
    with torch.no_grad():
        expected = model(torch.tensor(np.moveaxis(x, -1, 1))).numpy()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    options = {"aux": True} if name == "googlenet" else {}
    net = getattr(cnn.models, name)(classes=1000, **options)
    params, state = cnn.weights.load(net, tmp_path / "theirs.pth")
    close(jax.jit(net.apply)(params, state, x)[0], expected, 1e-4)

    from safetensors.torch import load_file

    cnn.weights.save(net, params, state, tmp_path / "ours.safetensors")
    found = load_file(tmp_path / "ours.safetensors")
    for key, value in model.state_dict().items():
        if "num_batches_tracked" not in key:
            assert torch.equal(found[key], value), key
    model.load_state_dict(found, strict=False)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet50"])
def test_preprocessing(name: str) -> None:
    """Resized, cropped and normalized as torchvision does it with an image file: within a pixel's rounding."""
    pixels = np.random.default_rng(2).integers(0, 256, (40, 52, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((520, 400), Image.Resampling.BICUBIC)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    expected = np.moveaxis(weights.transforms()(image).numpy(), 0, -1)
    ours = cnn.weights.preprocess(getattr(cnn.models, name)())(np.asarray(image)[None])[0]
    assert ours.shape == expected.shape
    # torchvision rounds to whole pixel values after resizing: half of 1/255, over the smallest deviation 0.225.
    assert np.abs(np.asarray(ours) - expected).max() < 1.05 / 255 / 0.224


def regions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    first = rng.uniform(0, 90, (20, 2))
    return normal(4, 1, 16, 20, 5), np.concatenate([first, first + rng.uniform(1, 60, (20, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(aligned: bool) -> None:
    x, boxes = regions()
    tensor = torch.tensor(np.moveaxis(x, -1, 1))
    expected = torchvision.ops.roi_align(tensor, [torch.tensor(boxes)], (7, 5), 1 / 8, 2, aligned)
    actual = jax.jit(lambda x, b: roi_align(x, b, (7, 5), 1 / 8, 2, aligned))(x, jnp.asarray(boxes[None]))
    close(actual, np.moveaxis(expected.numpy(), 1, -1)[None], 3e-5)


def test_roi_max_pool() -> None:
    x, boxes = regions()
    tensor = torch.tensor(np.moveaxis(x, -1, 1))
    expected = torchvision.ops.roi_pool(tensor, [torch.tensor(boxes)], (7, 5), 1 / 8)
    actual = jax.jit(lambda x, b: roi_max_pool(x, b, (7, 5), 1 / 8))(x, jnp.asarray(boxes[None]))
    close(actual, np.moveaxis(expected.numpy(), 1, -1)[None])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms(threshold: float) -> None:
    _, boxes = regions()
    scores = np.random.default_rng(5).permutation(len(boxes)).astype(np.float32)
    expected = torchvision.ops.nms(torch.tensor(boxes), torch.tensor(scores), threshold).numpy()
    actual = np.asarray(nms(boxes, scores, threshold))
    np.testing.assert_array_equal(actual[actual >= 0], expected)
    groups = np.arange(len(boxes)) % 3
    expected = torchvision.ops.batched_nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(groups), threshold)
    actual = np.asarray(nms(boxes, scores, threshold, classes=groups))
    np.testing.assert_array_equal(actual[actual >= 0], expected.numpy())
