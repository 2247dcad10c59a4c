"""The architectures against their papers, torchvision and the lectures' tables; mostly by shapes alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_fixture
from helpers import close, normal, shapes, size
from traced import traced

import jaxcnn as cnn
from jaxcnn.errors import UserError
from jaxcnn.losses import softmax_cross_entropy
from jaxcnn.models import MODELS, cifar_resnet, lenet, resnet, vgg16
from jaxcnn.models.googlenet import TABLE_1

KEY = jax.random.key(0, impl="rbg")
CLASSIFIERS = {name: entry for name, entry in MODELS.items() if entry.task == "classification"}


def image(*shape):
    return jax.ShapeDtypeStruct((1, *shape), jnp.float32)


def variables(model, *shape):
    """The shapes of params and state for an image of this shape."""
    return jax.eval_shape(model.init, KEY, image(*shape))


@functools.cache
def summary(name):
    entry = MODELS[name]
    return cnn.inspect.summary(entry.make(), image(*entry.input))


def kernels(tree):
    """How many weights there are, biases aside, which the lectures leave out."""
    return sum(math.prod(shape) for path, shape in shapes(tree).items() if path.endswith("kernel"))


# --- parameters and operations -----------------------------------------------------------------------------------

PARAMETERS = {
    "logistic": 7_850,
    "mlp": 101_770,
    "lenet5": 61_706,
    "lenet5_1998": 60_000,
    "lecture_cnn": 62_958,
    "alexnet": 61_100_840,
    "alexnet_2012": 60_965_224,
    "alexnet_single": 62_378_344,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "googlenet": 6_624_904,
    "googlenet_2014": 6_998_552,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "efficientnet_lite0": 4_652_008,
    "wrn28_10": 36_479_194,
    "plain20": 269_722,
    "plain32": 464_154,
    "plain44": 658_586,
    "plain56": 853_018,
    "plain110": 1_727_962,
}


_VGG16, _FC6_FC7 = 14_714_688, 25_088 * 4096 + 4096 + 4096 * 4096 + 4096
_SCORE, _FUSE = 21 * 4096 + 21, 21 * 512 + 21 + 4 * 4 * 21 * 21

# Published by torchvision, with an auxiliary head of so many parameters.
SEGMENTERS = {
    "fcn_resnet50": 256 * 1024 * 9 + 2 * 256 + 21 * 257,
    "fcn_resnet101": 256 * 1024 * 9 + 2 * 256 + 21 * 257,
    "deeplabv3_resnet50": 256 * 1024 * 9 + 2 * 256 + 21 * 257,
    "deeplabv3_resnet101": 256 * 1024 * 9 + 2 * 256 + 21 * 257,
    "deeplabv3_mobilenet_v3_large": 10 * 40 * 9 + 2 * 10 + 21 * 11,
    "lraspp_mobilenet_v3_large": 0,
}


def _unet(channels, width, classes):
    """The paper's figure 1: two 3x3 convolutions a stage, and 2x2 on the way up."""
    w = [width * 2**s for s in range(5)]
    down = sum(9 * c * k + k + 9 * k * k + k for c, k in zip([channels, *w], w, strict=False))
    up = sum(4 * 2 * k * k + k + 9 * 2 * k * k + k + 9 * k * k + k for k in w[:4])
    return down + up + classes * (width + 1)


def _right(*left):
    """Two 3x3 convolutions, normalized, on each map and the one below: what stands on the right of a ResNet."""
    below, total = left[0], 0
    for beside, k in zip([*left[1:], 0], (256, 128, 64, 32, 16), strict=True):
        total += 9 * (below + beside) * k + 9 * k * k + 4 * k
        below = k
    return total + 21 * (16 + 1)


# What the networks that do not name a class are made of: parameters, and the shape of what they put out.
SYSTEMS = {
    "fcn32s": (_VGG16 + _FC6_FC7 + _SCORE, (1, 240, 320, 21)),  # the paper's table 1: 134 M
    "fcn16s": (_VGG16 + _FC6_FC7 + _SCORE + _FUSE, (1, 240, 320, 21)),
    "fcn8s": (_VGG16 + _FC6_FC7 + _SCORE + _FUSE + _FUSE - 256 * 21, (1, 240, 320, 21)),  # pool3 has 256 channels
    **{
        name: (torchvision_fixture.load()[name]["parameters"] - aux, (1, 520, 520, 21))
        for name, aux in SEGMENTERS.items()
    },
    "unet": (_unet(3, 64, 21), (1, 240, 320, 21)),
    "unet_resnet18": (11_176_512 + _right(512, 256, 128, 64, 64), (1, 240, 320, 21)),
    "unet_resnet34": (21_284_672 + _right(512, 256, 128, 64, 64), (1, 240, 320, 21)),
    "unet_resnet50": (23_508_032 + _right(2048, 1024, 512, 256, 64), (1, 240, 320, 21)),
    "keypoint_net": (
        sum(9 * c * k + 2 * k for c, k in ((1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 64))) + 260,
        (1, 4, 2),
    ),
    "hed": (_VGG16 + 64 + 128 + 256 + 512 + 512 + 5 + 5 + 1, (1, 240, 320)),
    "flownet_s": (38_676_514, (1, 384, 512, 2)),
    "flownet_c": (39_175_298, (1, 384, 512, 2)),  # that of PyTorch's usual port
    "text_cnn": (20_000 * 300 + (3 + 4 + 5) * 300 * 100 + 300 + 300 * 2 + 2, (1, 2)),
    "rcnn": (None, None),
    "fast_rcnn": (None, None),
    "vqa_cnn": (None, (1, 12)),
    "vqa_relation": (None, (1, 12)),
}


def test_every_model_is_counted_here():
    """Or in `test_torchvision_names.py`, if torchvision has it."""
    elsewhere = set(torchvision_fixture.load())
    assert set(CLASSIFIERS) - set(PARAMETERS) - elsewhere == {"convnet", "resnet1202"}  # a pattern; and see below
    assert set(MODELS) - set(CLASSIFIERS) == set(SYSTEMS)
    assert set(MODELS) < set(cnn.models.__all__)


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name):
    entry = MODELS[name]
    model, inputs = cnn.models.make(name, entry.classes), entry.example()
    parameters, shape = SYSTEMS[name]
    if parameters is not None:
        assert traced(name).parameters == parameters
    if shape is not None:
        assert traced(name).outputs.shape == shape
    assert cnn.inspect.summary(model, *inputs, depth=1).params == traced(name).parameters
    assert repr(entry.make()) == f"{name}()"


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameters(name, expected):
    assert traced(name).parameters == expected
    ten = MODELS[name].input != (224, 224, 3) and MODELS[name].input != (227, 227, 3)
    assert traced(name).outputs.shape == (1, 10 if ten else 1000)


def test_parameters_of_resnet1202():
    """Its units of a stage are all alike but for the first, and so 200 of them are counted from one and two."""
    for stage in ("layer1", "layer2", "layer3"):
        blocks = cnn.models.resnet1202().sublayers[stage].sublayers
        alike = cifar_resnet(14).sublayers[stage].sublayers
        assert len(blocks) == 200
        assert {repr(block) for name, block in blocks.items() if name != "block1"} == {repr(alike["block2"])}
    one, two = (size(variables(cifar_resnet(depth), 32, 32, 3)[0]) for depth in (8, 14))
    assert one + 199 * (two - one) == 19_421_274
    assert one + 17 * (two - one) == PARAMETERS["resnet110"]


# torchvision.models, "GFLOPS": multiply-accumulates at 224x224, printed to two decimals.
GFLOPS = {
    "alexnet": 0.71,
    "vgg11": 7.61,
    "vgg13": 11.31,
    "vgg16": 15.47,
    "vgg19": 19.63,
    "googlenet": 1.50,
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "resnet101": 7.80,
    "resnet152": 11.51,
}


@pytest.mark.parametrize(("name", "published"), GFLOPS.items(), ids=GFLOPS)
def test_multiply_accumulates_are_those_that_torchvision_publishes(name, published):
    assert round(traced(name).macs / 1e9, 2) == published
    assert summary(name).macs == traced(name).macs


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "googlenet", "resnet50"])
def test_the_backward_pass_costs_about_twice_the_forward_pass(name):
    """As the lectures say [003]; less by what the first layer saves, which needs no input gradient."""
    total = summary(name).total
    assert total.flops == pytest.approx(2 * total.macs, rel=0.02)
    assert 1.88 < total.backward_flops / total.flops < 2.02


# --- the lectures' tables ----------------------------------------------------------------------------------------


def test_the_lectures_exercise_table():
    """[002], the last page: layer, size of its output, parameters."""
    rows = {row.name: row for row in summary("lecture_cnn").layers}
    table = {
        "conv1": ((28, 28, 8), 608),
        "pool1": ((14, 14, 8), 0),
        "conv2": ((10, 10, 16), 3216),
        "pool2": ((5, 5, 16), 0),
        "fc1": ((120,), 48120),
        "fc2": ((84,), 10164),
        "out": ((10,), 850),  # the deck ends in "84 x 10 + 84 = 84": there are 10 biases, and the sum is 850
    }
    assert {name: (rows[name].output_shape[1:], rows[name].params) for name in table} == table
    assert [name for name in rows if name in table] == list(table)
    assert summary("lecture_cnn").params == sum(params for _, params in table.values()) == 62_958


# [004]: the volumes, and what each filter is said to be: number, size, stride, padding.
ALEXNET = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "norm1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "norm2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool3": (6, 6, 256),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
}


def test_the_lectures_table_of_alexnet():
    rows = {row.name: row.output_shape[1:] for row in summary("alexnet_single").layers}
    assert {name: rows[name] for name in ALEXNET} == ALEXNET
    assert [name for name in rows if name in ALEXNET] == list(ALEXNET)
    code = {row.name: row.layer for row in summary("alexnet_single").layers}
    said = {  # "256 5x5 filters at stride 1, pad 2"
        "conv1": "conv(96, 11, 4)",
        "conv2": "conv(256, 5, padding=2)",
        "conv3": "conv(384, 3, padding=1)",
        "conv4": "conv(384, 3, padding=1)",
        "conv5": "conv(256, 3, padding=1)",
        "pool1": "max_pool(3, 2)",
    }
    assert {name: code[name] for name in said} == said
    # "Parameters: (11*11*3)*96 = 35K", without the 96 biases.
    params, _ = variables(cnn.models.alexnet_single(), 227, 227, 3)
    assert kernels(params["conv1"]) == 11 * 11 * 3 * 96 == 34_848


def test_the_papers_alexnet_and_what_the_lectures_say_of_it():
    assert round(traced("alexnet_2012").parameters / 1e6, 1) == 61.0  # "60M"
    # The deck has 832 M flops. Multiply-accumulates are 724 M, and flops, counting each as two, 1449 M.
    assert traced("alexnet_2012").macs == 724_406_816
    layers = variables(cnn.models.alexnet_2012(), 227, 227, 3)[0]
    assert {name: layers[name]["kernel"].shape[2] for name in ("conv2", "conv3", "conv4", "conv5")} == {
        "conv2": 48,
        "conv3": 256,
        "conv4": 192,
        "conv5": 192,
    }


# Name, output, "memory" as the deck rounds it, weights (biases are not counted there).
VGG16 = [
    ("conv1_1", (224, 224, 64), 3.2e6, 1_728),
    ("conv1_2", (224, 224, 64), 3.2e6, 36_864),
    ("pool1", (112, 112, 64), 800e3, 0),
    ("conv2_1", (112, 112, 128), 1.6e6, 73_728),
    ("conv2_2", (112, 112, 128), 1.6e6, 147_456),
    ("pool2", (56, 56, 128), 400e3, 0),
    ("conv3_1", (56, 56, 256), 800e3, 294_912),
    ("conv3_2", (56, 56, 256), 800e3, 589_824),
    ("conv3_3", (56, 56, 256), 800e3, 589_824),
    ("pool3", (28, 28, 256), 200e3, 0),
    ("conv4_1", (28, 28, 512), 400e3, 1_179_648),
    ("conv4_2", (28, 28, 512), 400e3, 2_359_296),
    ("conv4_3", (28, 28, 512), 400e3, 2_359_296),
    ("pool4", (14, 14, 512), 100e3, 0),
    ("conv5_1", (14, 14, 512), 100e3, 2_359_296),
    ("conv5_2", (14, 14, 512), 100e3, 2_359_296),
    ("conv5_3", (14, 14, 512), 100e3, 2_359_296),
    ("pool5", (7, 7, 512), 25e3, 0),
    ("fc6", (4096,), 4096, 102_760_448),
    ("fc7", (4096,), 4096, 16_777_216),
    ("fc8", (1000,), 1000, 4_096_000),
]


def test_the_lectures_table_of_vgg16():
    rows = {row.name: row for row in summary("vgg16").layers}
    params, _ = variables(vgg16(), 224, 224, 3)
    assert [name for name in rows if not name.startswith(("relu", "drop", "flat", "avgpool"))] == [r[0] for r in VGG16]
    for name, output, memory, weights in VGG16:
        assert rows[name].output_shape[1:] == output
        assert rows[name].activation_bytes == 4 * math.prod(output)
        assert math.prod(output) == pytest.approx(memory, rel=0.005)  # 800K stands for 802,816
        assert kernels(params.get(name, {})) == weights
    assert sum(weights for *_, weights in VGG16) + 13_416 == PARAMETERS["vgg16"]  # and the biases
    assert math.prod(MODELS["vgg16"].input) == pytest.approx(150e3, rel=0.005)  # the table's first row, the image


# Name, output, "params" (in units of 1024 weights) and "ops" (millions of multiply-accumulates).
GOOGLENET = [
    ("conv1", (112, 112, 64), 2.7, 34),
    ("maxpool1", (56, 56, 64), 0, 0),
    ("conv2+conv3", (56, 56, 192), 112, 360),
    ("maxpool2", (28, 28, 192), 0, 0),
    ("inception3a", (28, 28, 256), 159, 128),
    ("inception3b", (28, 28, 480), 380, 304),
    ("maxpool3", (14, 14, 480), 0, 0),
    ("inception4a", (14, 14, 512), 364, 73),
    ("inception4b", (14, 14, 512), 437, 88),
    ("inception4c", (14, 14, 512), 463, 100),
    ("inception4d", (14, 14, 528), 580, 119),
    ("inception4e", (14, 14, 832), 840, 170),
    ("maxpool4", (7, 7, 832), 0, 0),
    ("inception5a", (7, 7, 832), 1072, 54),
    ("inception5b", (7, 7, 1024), 1388, 71),
    ("avgpool", (1024,), 0, 0),
    ("drop", (1024,), 0, 0),
    ("fc", (1000,), 1000, 1),
]
# Where the deck, and the paper it is taken from, are off by more than 1 %: what the row's own filters give.
SLIPS = {
    ("conv1", "params"): 9.2,  # 7x7 on 3 channels is 9,408 weights; 2.7K would be a 7x1 behind a 1x7
    ("conv1", "ops"): 118,
    ("inception4c", "params"): 497.5,
    ("inception4d", "params"): 590.5,
    ("inception5a", "params"): 1018,
    ("inception5a", "ops"): 51,
    ("inception5b", "params"): 1409,
}


def test_the_lectures_table_of_googlenet():
    rows = {row.name: row for row in summary("googlenet_2014").total.children}
    params, _ = variables(cnn.models.googlenet_2014(), 224, 224, 3)
    for name, output, weights, operations in GOOGLENET:
        parts = name.split("+")
        inside = [rows[part] for part in parts]
        assert inside[-1].output_shape[1:] == output
        counted = sum(kernels(params.get(part, {})) for part in parts) / 1024
        assert counted == pytest.approx(SLIPS.get((name, "params"), weights), rel=0.01)
        done = sum(row.macs for row in inside) / 1e6
        assert done == pytest.approx(SLIPS.get((name, "ops"), operations), rel=0.01, abs=0.1)


def test_the_filters_in_the_lectures_table_of_googlenet():
    """Its columns #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj are what the branches put out."""
    rows = {row.name: row.output_shape[-1] for row in summary("googlenet_2014").rows}
    ends = ("branch1", "branch2/reduce", "branch2/conv", "branch3/reduce", "branch3/conv", "branch4/project")
    table = {name: tuple(rows[f"inception{name}/{end}"] for end in ends) for name in TABLE_1}
    assert table == TABLE_1
    assert table["3a"] == (64, 96, 128, 16, 32, 32)
    assert table["5b"] == (384, 192, 384, 48, 128, 128)


def test_googlenet_against_alexnet():
    """The deck has "only 5 million params", "12X less params" and "2x more compute"."""
    googlenet, alexnet = traced("googlenet_2014"), traced("alexnet_2012")
    weights = 1024 * sum(weights for _, _, weights, _ in GOOGLENET)
    assert weights == pytest.approx(googlenet.parameters, rel=0.01)  # not 5 million
    assert round(alexnet.parameters / googlenet.parameters, 1) == 8.7  # not 12
    assert round(googlenet.macs / alexnet.macs, 1) == 2.2


# --- LeNet-5 of 1998 ---------------------------------------------------------------------------------------------


def test_lenet5_1998_layer_by_layer():
    rows = {row.name: (row.output_shape[1:], row.params) for row in summary("lenet5_1998").layers}
    table = {
        "c1": ((28, 28, 6), 156),
        "s2": ((14, 14, 6), 12),
        "c3": ((10, 10, 16), 1_516),
        "s4": ((5, 5, 16), 32),
        "c5": ((1, 1, 120), 48_120),
        "f6": ((84,), 10_164),
        "output": ((10,), 0),
    }
    assert {name: rows[name] for name in table} == table
    assert sum(params for _, params in table.values()) == 60_000


def test_lenet5_1998_connects_as_table_i_says():
    """Three, four and six maps in a row (with 0 behind 5), and in between maps 12 to 14 of two pairs."""
    seen = [{m for m in range(6) if lenet.TABLE_I[m][j] == "X"} for j in range(16)]
    assert seen[:6] == [{j % 6, (j + 1) % 6, (j + 2) % 6} for j in range(6)]
    assert seen[6:12] == [{(j + k) % 6 for k in range(4)} for j in range(6)]
    assert seen[12:] == [{0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}, set(range(6))]


def test_lenet5_1998_is_the_papers_arithmetic():
    def squash(a):
        return 1.7159 * np.tanh(2 / 3 * a)

    def conv(x, kernel):
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
        return np.einsum("nijcuv,uvck->nijk", windows, kernel)

    def subsample(x, scale, bias):
        n, h, w, c = x.shape
        return squash(x.reshape(n, h // 2, 2, w // 2, 2, c).sum((2, 4)) * scale + bias)

    def partly(x, kernel, bias):
        y, connection = np.zeros((len(x), 10, 10, 16)) + bias, 0
        for m, row in enumerate(lenet.TABLE_I):
            for j, mark in enumerate(row):
                if mark == "X":
                    y[..., j] += conv(x[..., [m]], kernel[:, :, connection, None, None])[..., 0]
                    connection += 1
        assert connection == kernel.shape[-1]
        return squash(y)

    model, x = cnn.models.lenet5_1998(), normal(0, 2, 32, 32, 1)
    params, state = model.init(KEY, x)
    params = jax.tree.map(lambda a: a + 0.1 * normal(a.size, *a.shape), params)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    y = squash(conv(x.astype(np.float64), p["c1"]["kernel"]) + p["c1"]["bias"])
    y = partly(subsample(y, **p["s2"]), **p["c3"])
    y = squash(conv(subsample(y, **p["s4"]), p["c5"]["kernel"]) + p["c5"]["bias"])
    y = squash(y.reshape(2, 120) @ p["f6"]["kernel"] + p["f6"]["bias"])
    distance = ((y[:, None] - lenet.codes(10)) ** 2).sum(-1)
    close(model.apply(params, state, x)[0], -distance)


def test_lenet5_1998_reads_its_own_pictures():
    codes = lenet.codes(10)
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1, 1}
    nearest, _ = lenet.rbf(10).apply({}, {}, jnp.asarray(codes, jnp.float32))
    assert list(nearest.argmax(-1)) == list(range(10))
    # The squared distance is 4 for each pixel that differs; no two digits differ in fewer than nine.
    np.testing.assert_array_equal(np.diag(nearest), 0)
    assert nearest[~np.eye(10, dtype=bool)].max() == -4 * 9
    many = lenet.codes(100)
    assert len(np.unique(many, axis=0)) == 100
    np.testing.assert_array_equal(many, lenet.codes(100))


def test_lenet5_1998_starts_within_its_bounds_and_every_weight_learns():
    model, x = cnn.models.lenet5_1998(), normal(1, 4, 32, 32, 1)
    params, state = model.init(KEY, x)
    bounds = {"c1": 2.4 / 25, "c5": 2.4 / 400, "f6": 2.4 / 120}
    for name, bound in bounds.items():
        assert 0.95 * bound < jnp.abs(params[name]["kernel"]).max() <= bound
    target = [j for row in lenet.TABLE_I for j, mark in enumerate(row) if mark == "X"]
    fan_in = 25 * np.array([sum(row[j] == "X" for row in lenet.TABLE_I) for j in range(16)])
    largest = np.abs(params["c3"]["kernel"]).max((0, 1)) * fan_in[target]
    assert 2 < largest.min() < largest.max() <= 2.4

    def loss(params):
        return softmax_cross_entropy(model.apply(params, state, x)[0], jnp.arange(4)).mean()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert jnp.all(jnp.isfinite(leaf) & (leaf != 0))


# --- GoogLeNet's auxiliary heads ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("googlenet", 13_004_888), ("googlenet_2014", 13_378_280)])
def test_auxiliary_heads_in_training(name, expected):
    model = MODELS[name].make(7, aux=True)
    params, state = variables(model, 224, 224, 3)
    # Three classifiers of 7 instead of 1000 classes, each behind 1024 features.
    assert size(params) + 3 * 993 * 1025 == expected
    assert variables(MODELS[name].make(7), 224, 224, 3)[0].keys() == params.keys() - {"aux1", "aux2"}

    def outputs(train):
        apply = functools.partial(model.apply, train=train)
        y, new = jax.eval_shape(lambda p, s, x: apply(p, s, x, key=KEY), params, state, image(224, 224, 3))
        assert jax.tree.structure(new) == jax.tree.structure(state)
        return jax.tree.map(jnp.shape, y)

    assert outputs(train=True) == ((1, 7), (1, 7), (1, 7))
    assert outputs(train=False) == (1, 7)


def test_auxiliary_heads_look_at_4a_and_4d():
    rows = cnn.inspect.summary(cnn.models.googlenet_2014(aux=True), image(224, 224, 3), train=True).layers
    shape = {row.name: row.output_shape[1:] for row in rows}
    assert shape["aux1/pool"] == (4, 4, 512)
    assert shape["aux2/pool"] == (4, 4, 528)


# --- residual networks -------------------------------------------------------------------------------------------


def test_names_are_torchvisions_but_for_the_numbering():
    params = shapes(variables(cnn.models.resnet50(), 224, 224, 3)[0])
    assert params["conv1/kernel"] == (7, 7, 3, 64)
    assert params["bn1/scale"] == (64,)
    assert params["fc/kernel"] == (2048, 1000)
    assert {path: shape for path, shape in params.items() if path.startswith("layer2/block1/")} == {
        "layer2/block1/conv1/kernel": (1, 1, 256, 128),
        "layer2/block1/bn1/scale": (128,),
        "layer2/block1/bn1/bias": (128,),
        "layer2/block1/conv2/kernel": (3, 3, 128, 128),
        "layer2/block1/bn2/scale": (128,),
        "layer2/block1/bn2/bias": (128,),
        "layer2/block1/conv3/kernel": (1, 1, 128, 512),
        "layer2/block1/bn3/scale": (512,),
        "layer2/block1/bn3/bias": (512,),
        "layer2/block1/shortcut/conv/kernel": (1, 1, 256, 512),
        "layer2/block1/shortcut/bn/scale": (512,),
        "layer2/block1/shortcut/bn/bias": (512,),
    }


def test_the_stride_is_in_the_3x3():
    rows = cnn.inspect.summary(cnn.models.resnet50(), image(224, 224, 3)).layers
    height = {row.name: row.output_shape[1] for row in rows if len(row.output_shape) == 4}
    assert [height[f"layer2/block1/conv{i}"] for i in (1, 2, 3)] == [56, 28, 28]
    assert [height[name] for name in ("conv1", "maxpool")] == [112, 56]
    assert [height[f"layer{i}/block3/conv3"] for i in (1, 2, 3, 4)] == [56, 28, 14, 7]


def test_stem_and_width():
    rows = cnn.inspect.summary(cnn.models.resnet18(10, stem="cifar", width=8), image(32, 32, 1)).layers
    shape = {row.name: row.output_shape[1:] for row in rows}
    assert shape["conv1"] == (32, 32, 8)
    assert "maxpool" not in shape
    assert [shape[f"layer{i}/block2/bn2"] for i in (1, 2, 3, 4)] == [
        (32, 32, 8),
        (16, 16, 16),
        (8, 8, 32),
        (4, 4, 64),
    ]
    with pytest.raises(UserError, match="stem='mnist': expected 'imagenet' or 'cifar'"):
        cnn.models.resnet18(stem="mnist")


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_with_a_last_scale_of_zero_is_its_shortcut(bottleneck):
    model = resnet((1,), bottleneck=bottleneck, width=8, stem="cifar", zero_init_residual=True)
    plain = resnet((1,), bottleneck=bottleneck, width=8, stem="cifar")
    last = "bn3" if bottleneck else "bn2"
    params, _ = model.init(KEY, image(4, 4, 3))
    others, _ = plain.init(KEY, image(4, 4, 3))
    assert not params["layer1"]["block1"][last]["scale"].any()
    others["layer1"]["block1"][last]["scale"] = params["layer1"]["block1"][last]["scale"]
    close(params, others, 0)


def test_first_weights_by_fan_out():
    params, _ = cnn.models.resnet18(stem="cifar").sublayers["layer2"].init(KEY, image(8, 8, 64))
    for path, fan_out in (("conv1", 9 * 128), ("conv2", 9 * 128)):
        assert params["block1"][path]["kernel"].std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert params["block1"]["shortcut"]["conv"]["kernel"].std() == pytest.approx(math.sqrt(2 / 128), rel=0.05)


def test_first_weights_of_alexnet():
    layers = cnn.models.alexnet_2012().sublayers
    for name, bias in [("conv1", 0), ("conv2", 1), ("conv3", 0)]:
        params, _ = layers[name].init(KEY, image(11, 11, 96))
        assert params["kernel"].std() == pytest.approx(0.01, rel=0.02)
        assert set(np.unique(params["bias"])) == {bias}
    params, _ = cnn.models.alexnet().sublayers["conv3"].init(KEY, image(3, 3, 192))
    bound = 1 / math.sqrt(9 * 192)
    assert 0.99 * bound < jnp.abs(params["kernel"]).max() <= bound


# --- the networks for CIFAR --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 20, 26])
def test_any_depth_of_6n_plus_2(depth):
    for shortcut in ("A", None):
        params, _ = variables(cifar_resnet(depth, shortcut=shortcut), 32, 32, 3)
        assert sum(len(shape) > 1 for shape in shapes(params).values()) == depth  # every kernel is a layer


@pytest.mark.parametrize(
    ("depth", "nearest"), [(21, "20 or 26"), (110 - 1, "104 or 110"), (2, "8"), (0, "8"), (-4, "8"), (25, "20 or 26")]
)
def test_other_depths_are_refused(depth, nearest):
    with pytest.raises(UserError, match=rf"depth={depth}: expected 6n \+ 2; the nearest is {nearest}$"):
        cifar_resnet(depth)


def test_other_shortcuts_are_refused():
    with pytest.raises(UserError, match="shortcut='D': expected 'A', 'B', 'C', or None for the plain network"):
        cnn.models.resnet20(shortcut="D")


@pytest.mark.parametrize("preactivation", [False, True])
def test_shortcuts_and_their_parameters(preactivation):
    """B projects where the shape changes, 16 to 32 and 32 to 64 channels; C everywhere else as well."""
    count = {
        s: size(variables(cifar_resnet(20, shortcut=s, preactivation=preactivation), 32, 32, 3)[0])
        for s in ("A", "B", "C", None)
    }
    norms = {16: 0, 32: 0, 64: 0} if preactivation else {16: 32, 32: 64, 64: 128}
    changes = 16 * 32 + 32 * 64 + norms[32] + norms[64]
    others = 3 * (16 * 16 + norms[16]) + 2 * (32 * 32 + norms[32]) + 2 * (64 * 64 + norms[64])
    assert count["A"] == count[None] == 269_722
    assert count["B"] == 269_722 + changes
    assert count["C"] == 269_722 + changes + others


def test_shortcut_a_drops_pixels_and_adds_channels_of_zeros():
    x = normal(0, 2, 5, 4, 3)
    y, _ = (
        cnn.models.cifar_resnet(8, width=3)
        .sublayers["layer2"]
        .sublayers["block1"]
        .sublayers["shortcut"]
        .apply({}, {}, x)
    )
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    assert y.shape == (2, 3, 2, 6)
    assert not y[..., 3:].any()


def test_what_an_empty_unit_leaves_of_its_input():
    """With nothing learned: a plain unit gives nothing, a residual one relu(x), a preactivated one x itself."""
    x = normal(1, 2, 4, 4, 6)
    expected = {
        (None, False): np.zeros_like(x),
        ("A", False): np.maximum(x, 0),
        (None, True): np.zeros_like(x),
        ("A", True): x,
    }
    for (shortcut, preactivation), y in expected.items():
        stage = cifar_resnet(14, shortcut=shortcut, preactivation=preactivation, width=6).sublayers["layer1"]
        unit = stage.sublayers["block2"]
        params, state = unit.init(KEY, image(4, 4, 6))
        params["conv2"]["kernel"] *= 0
        np.testing.assert_array_equal(unit.apply(params, state, x)[0], y)
    # The shortcut of the first preactivated unit begins behind the first ReLU.
    first = cifar_resnet(14, preactivation=True, width=6).sublayers["layer1"].sublayers["block1"]
    params, state = first.init(KEY, image(4, 4, 6))
    params["conv2"]["kernel"] *= 0
    close(first.apply(params, state, x)[0], np.maximum(x, 0) / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize(
    "options",
    [{}, {"shortcut": "C"}, {"preactivation": True, "shortcut": "B"}, {"shortcut": None}],
    ids=str,
)
def test_first_outputs_are_finite(options):
    model = cifar_resnet(14, width=4, **options)
    x = normal(2, 3, 8, 8, 3)
    params, state = model.init(KEY, x)
    y, new = jax.jit(functools.partial(model.apply, train=True))(params, state, x)
    assert y.shape == (3, 10)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((y, new)))
    assert 1e-3 < y.std() < 1e3


# --- sizes, names and mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("alexnet", (63, 300, 3)),
        ("vgg16", (32, 32, 3)),
        ("vgg11_bn", (250, 199, 3)),
        ("googlenet", (32, 40, 3)),
        ("googlenet_2014", (32, 40, 3)),
        ("resnet18", (1, 1, 3)),
        ("resnet50", (33, 50, 3)),
        ("resnet20", (1, 7, 3)),
    ],
)
def test_other_sizes_of_image_have_the_same_parameters(name, shape):
    assert size(variables(MODELS[name].make(), *shape)[0]) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["lenet5_1998", "alexnet_2012", "alexnet_single", "vgg11", "googlenet", "resnet20"])
def test_classes_and_input_channels(name):
    height, width, channels = MODELS[name].input
    model = MODELS[name].make(classes=7)
    params, state = variables(model, height, width, 4 - channels)
    first = next(path for path in shapes(params) if path.startswith(("c1", "conv1")) and path.endswith("kernel"))
    assert shapes(params)[first][2] == 4 - channels
    output, _ = jax.eval_shape(model.apply, params, state, image(height, width, 4 - channels))
    assert output.shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "side", "where"),
    [
        ("vgg16", 16, "pool5: 2x2 window on 1x1: the window is larger than its input"),
        ("vgg16", 1, "pool1: 2x2 window on 1x1"),
        ("alexnet", 32, "pool5: 3x3 window on 1x1"),
        ("alexnet_2012", 35, "pool5: 3x3 window on 1x1"),
        ("alexnet_2012", 224, r"conv1: 11x11 filter, stride 4 on 224x224: \(224-11\)/4\+1 = 54\.25 is no whole number"),
        ("googlenet", 4, "maxpool2: 3x3 window on 1x1"),
        ("lenet5_1998", 28, "c5: 5x5 filter, stride 1 on 4x4"),
        ("lenet5_1998", 8, "c3: 5x5 filter on 2x2"),
        ("lecture_cnn", 12, "conv2: 5x5 filter, stride 1 on 4x4"),
    ],
)
def test_an_image_that_is_too_small_is_told_where_it_vanishes(name, side, where):
    with pytest.raises(cnn.LayerError, match=rf"^({where})"):
        variables(MODELS[name].make(), side, side, MODELS[name].input[2])


def test_a_head_that_vanishes():
    with pytest.raises(cnn.LayerError, match=r"^aux1/pool: 5x5 window on 4x4"):
        variables(cnn.models.googlenet_2014(aux=True), 64, 64, 3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_repr_is_the_call(name):
    make = MODELS[name].make
    assert repr(make()) == f"{name}()"
    assert repr(make(7)) == f"{name}(7)"
    assert repr(eval(repr(make(classes=7)), vars(cnn.models))) == f"{name}(classes=7)"


@pytest.mark.parametrize(
    "model",
    [
        cifar_resnet(26, 7, shortcut="B", preactivation=True),
        cnn.models.resnet50(stem="cifar", width=16, zero_init_residual=True),
        cnn.models.vgg((1, 2), norm=True, units=64, drop=0.1),
        cnn.models.googlenet(aux=True),
    ],
    ids=repr,
)
def test_repr_with_options_makes_the_same_layers(model):
    copy = eval(repr(model), vars(cnn.models))
    assert repr(copy.sublayers) == repr(model.sublayers)


def test_unknown_options_are_refused():
    with pytest.raises(UserError, match=r"resnet18: .*unexpected keyword argument 'depth'"):
        cnn.models.make("resnet18", depth=3)
