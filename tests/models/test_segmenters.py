"""U-Net, DeepLab and LR-ASPP, by shapes and small networks; and what they are built with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn.errors import UserError
from jaxcnn.models import deeplab, resnet
from jaxcnn.ops import resize, upsample

KEY = jax.random.key(0)


def output(model, *shape, train=False):
    """The shapes of a model's outputs for one image."""
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params, state = jax.eval_shape(model.init, KEY, x)
    found, _ = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=train, key=KEY), params, state, x)
    return jax.tree.map(lambda y: y.shape[1:], found)


# --- resizing ----------------------------------------------------------------------------------------------------


def test_resize_is_linear_interpolation():
    """A ramp stays one between the outermost pixel centres, and goes on with their values."""
    ramp = np.arange(4.0, dtype=np.float32).reshape(1, 1, 4, 1)
    close(resize(jnp.asarray(ramp), (1, 6))[0, 0, :, 0], np.clip((np.arange(6) + 0.5) * 4 / 6 - 0.5, 0, 3).astype("f"))
    x = jnp.asarray(normal(1, 2, 5, 7, 3))
    close(resize(x, (15, 21)), upsample(x, 3))
    same(resize(x, (5, 7)), x)
    assert resize(x.astype(jnp.bfloat16), (3, 9)).dtype == jnp.bfloat16
    assert resize(x, (3, 9)).shape == (2, 3, 9, 3)
    for size in ((0, 3), (3,), (1, 2, 3)):
        with pytest.raises(UserError, match="expected a height and a width"):
            resize(x, size)


# --- dilated residual networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_a_dilated_network_sees_what_it_saw(stride):
    """Its map, taken at every 32nd pixel, is the map of the network of stride 32, in the middle of a large image.

    The weights are the same; padding makes the difference at the border.
    """
    options = {"bottleneck": True, "width": 2, "classes": 3}
    dilated, plain = resnet((1, 2, 1, 1), output_stride=stride, **options), resnet((1, 2, 1, 1), **options)
    x = normal(1, 1, 449, 449, 3)
    params, state = plain.init(KEY, x)
    same(dilated.init(KEY, x), (params, state))
    (fine, coarse) = (cnn.models.features(m, ["layer4"]).apply(params, state, x)[0]["layer4"] for m in (dilated, plain))
    step = 32 // stride
    assert fine.shape[1] == -(-449 // stride)
    close(fine[:, ::step, ::step][:, 5:-5, 5:-5], coarse[:, 5:-5, 5:-5])


def test_options_that_a_residual_network_does_not_have():
    with pytest.raises(UserError, match="output_stride=4: expected 8, 16 or 32"):
        resnet((1, 1), output_stride=4)
    with pytest.raises(UserError, match="for networks of bottlenecks"):
        resnet((1, 1), groups=4)


# --- DeepLab, LR-ASPP --------------------------------------------------------------------------------------------

SMALL = {
    "deeplab": lambda **o: cnn.models.deeplabv3("resnet50", 4, width=4, filters=8, **o),
    "deeplab_16": lambda **o: cnn.models.deeplabv3("resnet50", 4, width=4, output_stride=16, rates=(6, 12), **o),
    "deeplab_mobile": lambda **o: cnn.models.deeplabv3("mobilenet_v3_large", 4, width=0.25, **o),
    "fcn": lambda **o: cnn.models.dilated_fcn("resnet50", 4, width=4, **o),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_a_class_for_each_pixel(make):
    """Of any size; the auxiliary head in training alone."""
    assert output(make(), 37, 50, 3) == (37, 50, 4)
    assert output(make(aux=True), 37, 50, 3) == (37, 50, 4)
    assert output(make(aux=True), 37, 50, 3, train=True) == ((37, 50, 4), (37, 50, 4))


def test_lraspp():
    model = cnn.models.lraspp_mobilenet_v3_large(4, width=0.25, filters=8)
    assert output(model, 37, 50, 3) == output(model, 37, 50, 3, train=True) == (37, 50, 4)


def test_the_pyramid_at_each_rate():
    """One branch a rate, the mean of the image the same everywhere."""
    model = deeplab.aspp(4, rates=(2, 3))
    x = normal(2, 1, 9, 9, 5)
    params, state = model.init(KEY, x)
    assert params["rate3"]["conv"]["kernel"].shape == (3, 3, 5, 4)
    assert params["project"]["conv"]["kernel"].shape == (1, 1, 16, 4)
    zero = {name: value for name, value in params.items() if name in ("mean", "project")}
    for name in ("ones", "rate2", "rate3"):
        zero[name] = jax.tree.map(jnp.zeros_like, params[name])
    y = np.asarray(model.apply(zero, state, x)[0])
    close(y, np.broadcast_to(y[:, :1, :1], y.shape))


def test_bad_options_of_segmenters():
    with pytest.raises(UserError, match="unknown backbone 'resnet5'"):
        cnn.models.deeplabv3("resnet5")
    with pytest.raises(UserError, match="mobilenet_v3_large has 16"):
        cnn.models.deeplabv3("mobilenet_v3_large", output_stride=8)
    with pytest.raises(UserError, match="unknown backbone 'vgg16'"):
        cnn.models.resnet_unet("vgg16")
    with pytest.raises(UserError, match="expected those of five stages"):
        cnn.models.resnet_unet(filters=(8, 8))


# --- U-Net -------------------------------------------------------------------------------------------------------


def test_the_papers_figure_1():
    """572x572 to 388x388, and what stands at each stage."""
    model = cnn.models.unet(2, padded=False)
    assert output(model, 572, 572, 1) == (388, 388, 2)
    x = jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)
    rows = {row.name: row.output_shape[1:] for row in cnn.inspect.summary(model, x).rows}
    seen = [rows[name] for name in ("down1", "down2", "down3", "down4", "down5", "up4", "join4", "up1", "join1")]
    assert seen == [
        (568, 568, 64), (280, 280, 128), (136, 136, 256), (64, 64, 512), (28, 28, 1024), (56, 56, 512), (52, 52, 512),
        (392, 392, 64), (388, 388, 64),
    ]  # fmt: skip
    assert rows["score"] == (388, 388, 2)


@pytest.mark.parametrize("size", [(32, 48), (33, 57), (17, 16)])
def test_padded_it_keeps_the_size(size):
    assert output(cnn.models.unet(5, width=2), *size, 3) == (*size, 5)
    assert output(cnn.models.unet(5, width=2, depth=2, norm=True, drop=0.5), *size, 3, train=True) == (*size, 5)
    assert output(cnn.models.resnet_unet("resnet18", 5, width=4, filters=(8, 8, 4, 4, 2)), *size, 3) == (*size, 5)


def test_without_padding_the_size_has_to_fit():
    with pytest.raises(UserError, match="cannot be halved"):
        output(cnn.models.unet(2, width=2, padded=False), 570, 572, 1)


def test_unpadded_left_maps_are_cropped_to_their_middle():
    """The network sees an image as it is: of a larger image, the middle of the output is the smaller image's."""
    model, x = cnn.models.unet(2, width=2, depth=1, padded=False), normal(3, 1, 28, 28, 1)
    params, state = model.init(KEY, x)
    whole, _ = model.apply(params, state, x)
    inner, _ = model.apply(params, state, x[:, 4:-4, 4:-4])
    close(inner, whole[:, 4:-4, 4:-4])


def test_a_trained_classifier_is_the_encoder():
    net = cnn.models.unet_resnet18(3, width=4)
    x = normal(4, 1, 32, 32, 3)
    params, state = jax.eval_shape(net.init, KEY, x)
    trained, statistics = jax.eval_shape(cnn.models.resnet18(width=4).init, KEY, x)
    assert params["encoder"] == {name: trained[name] for name in params["encoder"]}
    assert state["encoder"] == statistics
    assert set(trained) - set(params["encoder"]) == {"fc"}


# --- wide residual networks, DenseNet's old names ----------------------------------------------------------------


def test_wide_residual_networks():
    with pytest.raises(UserError, match=r"depth=27: expected 6n \+ 4; the nearest is 22 or 28"):
        cnn.models.wide_resnet(27, 2)
    model = cnn.models.wide_resnet(16, 2, drop=0.3)
    assert output(model, 32, 32, 3, train=True) == (10,)
    block = model.sublayers["layer2"].sublayers["block1"]
    assert [n for n in block.sublayers if n in ("drop", "shortcut")] == ["drop", "shortcut"]


def test_densenets_older_names(tmp_path):
    """torchvision's published files have `denselayer1.norm.1` for what its code calls `denselayer1.norm1`."""
    model = cnn.models.densenet((1, 2), 3, growth=2, width=4)
    params, state = model.init(KEY, normal(5, 1, 32, 32, 3))
    cnn.weights.save(model, params, state, tmp_path / "new.safetensors", input=(32, 32, 3))
    arrays = cnn.weights.read(tmp_path / "new.safetensors")
    older = {}
    for name, array in arrays.items():
        for part in ("norm", "conv"):
            for number in "12":
                if "denselayer" in name:
                    name = name.replace(f".{part}{number}.", f".{part}.{number}.")
        older[name] = array
    assert "features.denseblock2.denselayer2.conv.2.weight" in older

    from safetensors.numpy import save_file

    save_file(older, tmp_path / "old.safetensors")
    same(cnn.weights.load(model, tmp_path / "old.safetensors", input=(32, 32, 3)), (params, state))
