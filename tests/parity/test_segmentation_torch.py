"""Upsampling, per-pixel loss and an FCN-8s against PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn import segmentation
from jaxcnn.models.fcn import fcn8s
from jaxcnn.ops.bilinear import bilinear, upsample

torch = pytest.importorskip("torch")
F = torch.nn.functional


def channels_first(x):
    return torch.tensor(np.asarray(x)).movedim(-1, 1)


def ours(x):
    return x.detach().movedim(1, -1).numpy()


# --- upsampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_upsampling_is_that_of_interpolate(factor):
    x = normal(0, 2, 3, 5, 4)
    expected = F.interpolate(channels_first(x), scale_factor=factor, mode="bilinear", align_corners=False)
    close(upsample(x, factor), ours(expected))


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_upsampling_on_corners_is_that_of_aligned_corners(factor):
    x = normal(1, 2, 3, 5, 4)
    size = 2 * factor + 1, 4 * factor + 1
    expected = F.interpolate(channels_first(x), size, mode="bilinear", align_corners=True)
    close(upsample(x, factor, corner=True)[:, : size[0], : size[1]], ours(expected))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_bilinear_transposed_convolution(factor):
    """PyTorch's, filled by the formula, everywhere; its interpolation, inside, where no zeros have a part."""
    x = normal(2, 1, 4, 6, 3)
    size = 2 * factor
    weights = np.array([1 - abs(u / factor - (size - 1) / size) for u in range(size)])
    layer = torch.nn.ConvTranspose2d(3, 3, size, factor, factor // 2, bias=False)
    with torch.no_grad():
        layer.weight[:] = torch.eye(3)[:, :, None, None] * torch.tensor(np.outer(weights, weights))
    mine = cnn.conv_transpose(3, size, factor, factor // 2, bias=False, kernel_init=bilinear)
    y = mine.apply(*mine.init(jax.random.key(0), x), x)[0]
    close(y, ours(layer(channels_first(x))))
    inside = np.s_[:, factor:-factor, factor:-factor]
    close(y[inside], ours(F.interpolate(channels_first(x), scale_factor=factor, mode="bilinear"))[inside])


# --- loss --------------------------------------------------------------------------------------------------------

LOGITS, LABELS = normal(3, 4, 5, 6, 3), np.random.default_rng(4).integers(-1, 3, (4, 5, 6))
WEIGHTS = np.array([0.2, 1.0, 3.5], np.float32)


def theirs(outputs, labels, weights=None):
    outputs = channels_first(outputs).requires_grad_()
    weights = None if weights is None else torch.tensor(weights)
    loss = F.cross_entropy(outputs, torch.tensor(labels), weights, ignore_index=-1)
    loss.backward()
    return loss.item(), ours(outputs.grad)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_of_one_image_the_loss_and_its_gradient_are_pytorchs(weights):
    run = jax.jit(jax.value_and_grad(lambda o, y: segmentation.cross_entropy(o, y, weights).sum()))
    for o, y in zip(LOGITS, LABELS, strict=True):
        value, gradient = theirs(o[None], y[None], weights)
        mine = run(o[None], y[None])
        close((mine[0], mine[1]), (np.float32(value), gradient))


def test_of_a_batch_pytorch_divides_once():
    """There an image counts by the weights of its pixels; here images count alike, and one of void counts nothing."""
    weight = np.where(LABELS >= 0, WEIGHTS[LABELS], 0).sum((1, 2))
    each = segmentation.cross_entropy(jnp.asarray(LOGITS), LABELS, WEIGHTS)
    assert theirs(LOGITS, LABELS, WEIGHTS)[0] == pytest.approx(float((each * weight).sum() / weight.sum()), rel=1e-5)
    void = np.full((1, 5, 6), -1)
    assert math.isnan(theirs(LOGITS[:1], void)[0])
    assert float(segmentation.cross_entropy(jnp.asarray(LOGITS[:1]), void)[0]) == 0


# --- FCN-8s ------------------------------------------------------------------------------------------------------

STAGES = ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2))  # convolutions of VGG-11


class Twin(torch.nn.Module):
    """FCN-8s on VGG-11 with batch normalization, written from the paper in PyTorch."""

    def __init__(self, width, units, classes, channels):
        super().__init__()
        layers, c = {}, channels
        for stage, count in STAGES:
            for i in range(1, count + 1):
                k = width * min(2 ** (stage - 1), 8)
                layers[f"conv{stage}_{i}"] = torch.nn.Conv2d(c, k, 3, padding=1)
                layers[f"bn{stage}_{i}"] = torch.nn.BatchNorm2d(k)
                c = k
        layers["fc6"], layers["fc7"] = torch.nn.Conv2d(c, units, 7, padding=3), torch.nn.Conv2d(units, units, 1)
        layers["score"] = torch.nn.Conv2d(units, classes, 1)
        for name, k in (("pool4", 8 * width), ("pool3", 4 * width)):
            layers[f"score_{name}"] = torch.nn.Conv2d(k, classes, 1)
            layers[f"up_{name}"] = torch.nn.ConvTranspose2d(classes, classes, 4, 2, 3, bias=False)
        self.layers = torch.nn.ModuleDict(layers)

    def forward(self, image):
        x, pools = image, {}
        for stage, count in STAGES:
            for i in range(1, count + 1):
                x = F.relu(self.layers[f"bn{stage}_{i}"](self.layers[f"conv{stage}_{i}"](x)))
            x = pools[f"pool{stage}"] = F.max_pool2d(x, 2, ceil_mode=True)
        y = self.layers["score"](F.relu(self.layers["fc7"](F.relu(self.layers["fc6"](x)))))
        for name in ("pool4", "pool3"):
            score = self.layers[f"score_{name}"](pools[name])
            y = self.layers[f"up_{name}"](F.pad(y, (1, 1, 1, 1), mode="replicate"))
            y = y[..., : score.shape[2], : score.shape[3]] + score
        y = F.interpolate(y, scale_factor=8, mode="bilinear", align_corners=False)
        return y[..., : image.shape[2], : image.shape[3]]


@pytest.mark.parametrize("size", [(64, 96), (33, 57)])
def test_fcn8s_is_that_of_pytorch(size):
    model, twin = fcn8s(3, "vgg11_bn", width=3, units=5), Twin(3, 5, 3, 3).eval()
    x = normal(5, 2, *size, 3)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(6)
    params = jax.tree.map(lambda p: (rng.normal(size=p.shape) * p.shape[-1] / math.sqrt(p.size)).astype("f"), params)
    state = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype("f"), state)
    names = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    loaded = {}
    for tree in (params, state):
        for path, value in jax.tree.leaves_with_path(tree):
            layer, leaf = path[0].key, path[-1].key
            if leaf == "kernel":  # HWIO to OIHW, and of a transposed convolution to IOHW
                value = value.transpose((2, 3, 0, 1) if layer.startswith("up_") else (3, 2, 0, 1))
            loaded[f"layers.{layer}.{names[leaf]}"] = torch.tensor(value)
    for name, tensor in twin.state_dict().items():
        if name.endswith("num_batches_tracked"):
            loaded[name] = tensor
    twin.load_state_dict(loaded)
    with torch.no_grad():
        expected = ours(twin(channels_first(x)))
    assert expected.std() > 1e-2
    close(jax.jit(lambda x: model.apply(params, state, x)[0])(x), expected)
