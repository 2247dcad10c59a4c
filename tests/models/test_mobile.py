"""SqueezeNet, MobileNets, ShuffleNetV2, MNASNet and EfficientNet, where torchvision's numbers do not tell."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same, shapes

import jaxcnn as cnn
from jaxcnn.core import leaves
from jaxcnn.models.blocks import divisible
from jaxcnn.models.efficientnet import B0, Stage, scaled
from jaxcnn.models.mobilenet_v2 import inverted_residual, unit

KEY = jax.random.key(0)


def image(*shape):
    return jax.ShapeDtypeStruct((2, *shape), jnp.float32)


def output(model, *shape):
    params, state = jax.eval_shape(model.init, KEY, image(*shape))
    return jax.eval_shape(model.apply, params, state, image(*shape))[0].shape[1:]


# --- widths and depths -------------------------------------------------------------------------------------------


def test_widths_are_multiples_of_8_and_no_more_than_a_tenth_smaller():
    assert [divisible(c) for c in (3, 8, 12, 18, 22.4, 89, 100)] == [8, 8, 16, 24, 24, 88, 104]
    for channels in np.linspace(8, 400, 99):
        assert divisible(channels) % 8 == 0
        assert -0.1 * channels <= divisible(channels) - channels <= 8


def test_compound_scaling():
    """EfficientNet-B3: 1.2 times as wide, 1.4 times as deep."""
    found = scaled(B0, 1.2, 1.4)
    assert [stage.features for stage in found] == [24, 32, 48, 96, 136, 232, 384]
    assert [stage.blocks for stage in found] == [2, 3, 3, 5, 5, 6, 2]
    assert [(s.times, s.kernel, s.stride) for s in found] == [(s.times, s.kernel, s.stride) for s in B0]


@pytest.mark.parametrize(
    "model",
    [
        cnn.models.squeezenet1_1(7),
        cnn.models.mobilenet_v2(7, width=0.35),
        cnn.models.mobilenet_v3_small(7, width=0.5),
        cnn.models.shufflenet_v2((16, 32, 64, 48), 7),
        cnn.models.mnasnet(0.35, 7),
        cnn.models.efficientnet((Stage(1, 3, 1, 8, 1), Stage(2, 3, 2, 16, 1, fused=True)), 8, 24, 7),
        cnn.models.efficientnet_lite0(7),
    ],
    ids=lambda model: model.kind,
)
def test_other_widths_sizes_and_classes(model):
    assert output(model, 65, 40, 1) == (7,)
    again = eval(repr(model), vars(cnn.models) | {"Stage": Stage})
    assert again == model


def test_a_dilated_mobilenet_keeps_the_images_size_from_its_last_stride_on():
    plain, dilated = (cnn.models.mobilenet_v3_large(dilated=dilated) for dilated in (False, True))
    found = [jax.eval_shape(model.init, KEY, image(64, 64, 3)) for model in (plain, dilated)]
    assert shapes(found[0][0]) == shapes(found[1][0])
    size = {}
    for name, model in (("plain", plain), ("dilated", dilated)):
        rows = cnn.inspect.summary(model, image(224, 224, 3)).layers
        size[name] = {row.name: row.output_shape[1] for row in rows if row.name.endswith("project/bn")}
    assert [size["plain"][f"block{i}/project/bn"] for i in (12, 13, 15)] == [14, 7, 7]
    assert [size["dilated"][f"block{i}/project/bn"] for i in (12, 13, 15)] == [14, 14, 14]


# --- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entering", "hidden", "features", "stride", "residual"),
    [(8, 16, 8, 1, True), (8, 8, 8, 1, True), (8, 16, 12, 1, False), (8, 16, 8, 2, False)],
)
def test_a_shortcut_where_the_shape_stays(entering, hidden, features, stride, residual):
    """With a projection of zeros, nothing is left but the shortcut."""
    block, x = inverted_residual(unit, entering, hidden, features, 3, stride), normal(0, 2, 4, 4, entering)
    params, state = block.init(KEY, x)
    params["project"]["conv"]["kernel"] *= 0
    y, _ = block.apply(params, state, x)
    same(y, x) if residual else same(y, jnp.zeros_like(y))
    assert y.shape == (2, 4 // stride, 4 // stride, features)
    assert ("expand" in params) == (hidden != entering)


def test_stochastic_depth_leaves_examples_their_shortcut():
    block, x = inverted_residual(unit, 4, 8, 4, drop=0.5), normal(1, 16, 4, 4, 4)
    params, state = block.init(KEY, x)
    whole, _ = inverted_residual(unit, 4, 8, 4).apply(params, state, x, train=True)
    y, _ = block.apply(params, state, x, train=True, key=KEY)
    left_out = np.asarray((y == x).all((1, 2, 3)))
    assert 0 < left_out.sum() < 16
    close(y[~left_out], x[~left_out] + 2 * (whole - x)[~left_out])
    close(block.apply(params, state, x)[0], inverted_residual(unit, 4, 8, 4).apply(params, state, x)[0])


def test_a_shuffle_unit_passes_half_of_the_channels_on():
    stage = cnn.models.shufflenet_v2((8, 16, 32, 24), 7).sublayers["stage2"].sublayers["unit2"]
    x = normal(2, 2, 4, 4, 8)
    params, state = stage.init(KEY, x)
    y, _ = stage.apply(params, state, x)
    same(y[..., ::2], x[..., :4])  # the other half is at the odd places


def test_mnasnets_first_block_has_no_shortcut_at_any_width():
    """Where the width leaves as many channels as enter, too."""
    block, x = cnn.models.mnasnet(0.25).sublayers["separable"], normal(3, 2, 4, 4, 8)
    params, state = block.init(KEY, x)
    params["project"]["conv"]["kernel"] *= 0
    assert not block.apply(params, state, x)[0].any()


# --- first weights -----------------------------------------------------------------------------------------------


def kernel(model, path, *shape):
    return cnn.core.sublayer(model, path).init(KEY, image(*shape))[0]["kernel"]


def test_first_weights():
    """The deviation of a few thousand normal numbers is within 5 %, the largest uniform one within 1 %."""
    mobile, small = cnn.models.mobilenet_v2(), cnn.models.mobilenet_v3_small()
    for found, deviation in [
        (kernel(mobile, "block10/depthwise/conv", 4, 4, 384), math.sqrt(2 / (9 * 384))),
        (kernel(mobile, "last/conv", 4, 4, 320), math.sqrt(2 / 1280)),
        (kernel(mobile, "fc", 1280), 0.01),
        (kernel(small, "block11/squeeze/fc1", 1, 1, 576), math.sqrt(2 / 144)),
        (kernel(small, "hidden", 576), 0.01),
        (kernel(cnn.models.squeezenet1_0(), "conv10", 4, 4, 512), 0.01),
    ]:
        assert found.std() == pytest.approx(deviation, rel=0.05)
        assert jnp.abs(found).max() > 3 * deviation
    for found, bound in [
        (kernel(cnn.models.efficientnet_b0(), "fc", 1280), 1 / math.sqrt(1000)),
        (kernel(cnn.models.mnasnet0_5(), "fc", 1280), math.sqrt(3 / 1000)),
        (kernel(cnn.models.squeezenet1_0(), "fire9/expand3x3", 4, 4, 64), math.sqrt(6 / (9 * 64))),
        (kernel(cnn.models.shufflenet_v2_x1_0(), "conv5/conv", 4, 4, 464), 1 / math.sqrt(464)),
    ]:
        assert 0.99 * bound < jnp.abs(found).max() <= bound


def test_lite_is_b0_in_other_operations():
    kinds = {leaf.kind for _, leaf in leaves(cnn.models.efficientnet_lite0())}
    assert kinds == {"conv", "batch_norm", "relu6", "drop_path", "dropout", "global_avg_pool", "dense"}
    models = cnn.models.efficientnet_lite0(), cnn.models.efficientnet_b0()
    lite, b0 = ({path[:2] for path, _ in leaves(model) if path[0].startswith("stage")} for model in models)
    assert lite == b0
