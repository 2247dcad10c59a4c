"""torchvision's families of networks, from its own code: outputs, gradients, running statistics. Skipped without it.

Whole networks are compared in evaluation. In training it is a small member of each family, made by torchvision's own
constructor, in double precision: with batch statistics of a few pixels, float32's rounding grows beyond any tolerance
that would find a mistake.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn.models.efficientnet import Stage, unit
from jaxcnn.models.mobilenet_v3 import LARGE as LARGE_TABLE
from jaxcnn.models.mobilenet_v3 import SMALL as SMALL_TABLE
from jaxcnn.models.registry import published_weights
from jaxcnn.weights.names import variables

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
zoo, nn = torchvision.models, torch.nn


def random(model: nn.Module) -> nn.Module:
    """All its numbers random, running statistics too, and its activations of a bounded size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (1.5 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.uniform_(0.4, 0.8, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
            elif hasattr(module, "layer_scale"):
                module.layer_scale.uniform_(0.2, 0.5, generator=generator)
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
    return model


def first(images):
    return torch.tensor(np.moveaxis(images, -1, 1))


def last(tensor):
    array = tensor.detach().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


# --- evaluation --------------------------------------------------------------------------------------------------

# Name: the size of the images; small ones compute all that large ones do.
WHOLE = {
    "squeezenet1_0": 64,
    "squeezenet1_1": 71,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 71,
    "shufflenet_v2_x0_5": 64,
    "shufflenet_v2_x2_0": 64,
    "mnasnet0_5": 64,
    "mnasnet1_3": 64,
    "efficientnet_b0": 64,
    "efficientnet_b3": 71,
    "efficientnet_b5": 64,
    "efficientnet_v2_s": 64,
    "densenet121": 64,
    "densenet161": 64,
    "inception_v3": 107,
    "resnext50_32x4d": 64,
    "resnext101_64x4d": 64,
    "wide_resnet50_2": 64,
    "regnet_x_400mf": 64,
    "regnet_x_3_2gf": 64,
    "regnet_y_400mf": 64,
    "regnet_y_1_6gf": 64,
    "convnext_tiny": 64,
    "convnext_small": 71,
    "deeplabv3_resnet50": 65,
    "deeplabv3_mobilenet_v3_large": 65,
    "lraspp_mobilenet_v3_large": 65,
    "fcn_resnet50": 65,
}


@pytest.mark.parametrize(("name", "size"), WHOLE.items(), ids=WHOLE)
def test_outputs_from_torchvisions_file(name, size, tmp_path):
    """And a file of ours that torchvision's network takes whole."""
    segments = name.startswith(("deeplab", "fcn", "lraspp"))
    options = {"weights_backbone": None, "aux_loss": not name.startswith("lraspp")} if segments else {}
    if name == "inception_v3":
        options = {"init_weights": False, "aux_logits": True}
    model, x = random(zoo.get_model(name, weights=None, **options)).eval(), normal(1, 2, size, size, 3)
    with torch.no_grad():
        expected = model(first(x))
    expected = last(expected["out"] if segments else expected)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    aux = options.get("aux_loss") or options.get("aux_logits")
    net = cnn.models.MODELS[name].make(**({"aux": True} if aux else {}))
    params, state = cnn.weights.load(net, tmp_path / "theirs.pth")
    assert expected.std() > 1e-3
    close(jax.jit(net.apply)(params, state, x)[0], expected, 1e-4)

    from safetensors.torch import load_file

    cnn.weights.save(net, params, state, tmp_path / "ours.safetensors")
    found = collections.OrderedDict(load_file(tmp_path / "ours.safetensors"))
    found._metadata = {"": {"version": 2}}  # MNASNet asks for it
    model.load_state_dict(found)
    for key, value in torch.load(tmp_path / "theirs.pth").items():
        if "num_batches_tracked" not in key:
            assert torch.equal(found[key], value), key


# --- training ----------------------------------------------------------------------------------------------------


def resnet(layers=(1, 2, 1, 1), **options):
    return zoo.resnet.ResNet(zoo.resnet.Bottleneck, list(layers), num_classes=7, **options)


def small_regnet(squeeze):
    rule = zoo.regnet.BlockParams.from_init_params(6, 16, 8.0, 2.0, 8, se_ratio=squeeze)
    return zoo.regnet.RegNet(rule, num_classes=7, stem_width=8)


def small_convnext():
    sizes = [zoo.convnext.CNBlockConfig(*n) for n in ((8, 16, 1), (16, 32, 2), (32, None, 1))]
    return zoo.convnext.ConvNeXt(sizes, num_classes=7)


def segmenter(kind):
    module = getattr(zoo.segmentation, kind)
    backbone = resnet(replace_stride_with_dilation=[False, True, True])
    make = module._deeplabv3_resnet if kind == "deeplabv3" else module._fcn_resnet
    return make(backbone, 7, True)


def small_segmenter(kind):
    """The same network as `segmenter`, of our parts."""
    from jaxcnn.models import deeplab

    layers = dict(cnn.models.resnet((1, 2, 1, 1), bottleneck=True, output_stride=8).sublayers)
    del layers["avgpool"], layers["fc"]
    head = deeplab.deeplab_head(7, drop=0.0) if kind == "deeplabv3" else deeplab.fcn_head(7, 2048, drop=0.0)
    return deeplab.segmenter(cnn.serial(**layers), head, deeplab.fcn_head(7, 1024, drop=0.0), ("layer3", "layer4"))


ROWS = (*SMALL_TABLE[:2], *LARGE_TABLE[2:5], *LARGE_TABLE[6:8], *SMALL_TABLE[-3:-1])


def small_mobilenet_v3():
    config, entering = [], 16
    for kernel, hidden, features, squeezed, activation, stride in ROWS:
        sizes = entering, kernel, hidden, features
        config.append(zoo.mobilenetv3.InvertedResidualConfig(*sizes, squeezed, activation, stride, 1, 1.0))
        entering = features
    return zoo.mobilenetv3.MobileNetV3(config, last_channel=24, num_classes=7)


STAGES = (Stage(1, 3, 1, 8, 2), Stage(4, 5, 2, 16, 2))
FUSED = (Stage(1, 3, 1, 8, 2, True), Stage(4, 3, 2, 16, 2, True), Stage(4, 3, 2, 24, 2))


def small_efficientnet(stages, stem):
    config, entering = [], stem
    for times, kernel, stride, features, blocks, fused in stages:
        kind = zoo.efficientnet.FusedMBConvConfig if fused else zoo.efficientnet.MBConvConfig
        config.append(kind(times, kernel, stride, entering, features, blocks))
        entering = features
    norm = functools.partial(nn.BatchNorm2d, eps=0.01, momentum=0.3)
    return zoo.efficientnet.EfficientNet(config, 0.0, 0.0, 7, norm, 24)


def ours_efficientnet(stages, stem):
    made = functools.partial(unit, norm=(0.7, 0.01))
    return cnn.models.efficientnet(stages, stem, 24, 7, unit=made, drop=0.0, drop_path=0.0)


# Theirs, ours, whose names they have, and the size of the images.
SMALL = {
    "squeezenet": (
        lambda: zoo.squeezenet1_1(num_classes=7), lambda: cnn.models.squeezenet1_1(7, drop=0.0), "squeezenet1_1", 64,
    ),
    "mobilenet_v2": (
        lambda: zoo.MobileNetV2(7, 0.25), lambda: cnn.models.mobilenet_v2(7, width=0.25, drop=0.0), "mobilenet_v2", 64,
    ),
    "mobilenet_v3": (
        small_mobilenet_v3, lambda: cnn.models.mobilenet_v3(ROWS, 24, 7, drop=0.0), "mobilenet_v3_small", 64,
    ),
    "shufflenet_v2": (
        lambda: zoo.ShuffleNetV2([4, 8, 4], [24, 16, 32, 64, 48], 7),
        lambda: cnn.models.shufflenet_v2((16, 32, 64, 48), 7), "shufflenet_v2_x0_5", 64,
    ),
    "mnasnet": (lambda: zoo.MNASNet(0.25, 7), lambda: cnn.models.mnasnet(0.25, 7, drop=0.0), "mnasnet0_5", 64),
    "efficientnet": (
        lambda: small_efficientnet(STAGES, 16), lambda: ours_efficientnet(STAGES, 16), "efficientnet_b0", 33,
    ),
    "efficientnet_v2": (
        lambda: small_efficientnet(FUSED, 8), lambda: ours_efficientnet(FUSED, 8), "efficientnet_v2_s", 33,
    ),
    "densenet": (
        lambda: zoo.densenet.DenseNet(8, (2, 3, 2, 1), 16, num_classes=7),
        lambda: cnn.models.densenet((2, 3, 2, 1), 7, growth=8, width=16), "densenet121", 64,
    ),
    "resnext": (
        lambda: resnet(groups=4, width_per_group=8),
        lambda: cnn.models.resnet((1, 2, 1, 1), 7, bottleneck=True, groups=4, group_width=8), "resnet50", 64,
    ),
    "wide_resnet": (
        lambda: resnet(width_per_group=128),
        lambda: cnn.models.resnet((1, 2, 1, 1), 7, bottleneck=True, group_width=128), "resnet50", 64,
    ),
    "regnet_x": (
        lambda: small_regnet(None),
        lambda: cnn.models.regnet(6, 16, 8.0, 2.0, 8, 7, stem=8), "regnet_x_400mf", 64,
    ),
    "regnet_y": (
        lambda: small_regnet(0.25),
        lambda: cnn.models.regnet(6, 16, 8.0, 2.0, 8, 7, squeeze=0.25, stem=8), "regnet_x_400mf", 64,
    ),
    "convnext": (
        small_convnext, lambda: cnn.models.convnext((1, 2, 1), 8, 7, scale=0.3), "convnext_tiny", 33,
    ),
    "inception": (
        lambda: zoo.inception_v3(weights=None, init_weights=False, aux_logits=True, num_classes=7),
        lambda: cnn.models.inception_v3(7, aux=True, drop=0.0), "inception_v3", 299,
    ),
    "deeplabv3": (
        lambda: segmenter("deeplabv3"), lambda: small_segmenter("deeplabv3"), "deeplabv3_resnet50", 49,
    ),
    "fcn": (lambda: segmenter("fcn"), lambda: small_segmenter("fcn"), "fcn_resnet50", 49),
    "lraspp": (
        lambda: zoo.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=7),
        lambda: cnn.models.lraspp_mobilenet_v3_large(7), "lraspp_mobilenet_v3_large", 49,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours", "named", "size"), SMALL.values(), ids=SMALL)
@pytest.mark.usefixtures("x64")
def test_outputs_gradients_and_statistics_in_training(theirs, ours, named, size):
    model, net = random(theirs()).double().train(), ours()
    x = normal(2, 3, size, size, 3, dtype=np.float64)
    before = {name: array.clone() for name, array in model.state_dict().items()}
    outputs = model(first(x))
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    weights = [normal(3 + i, *last(o).shape, dtype=np.float64) for i, o in enumerate(outputs)]
    loss = sum(
        (o * first(w) if o.ndim == 4 else o * torch.tensor(w)).sum() for o, w in zip(outputs, weights, strict=True)
    )
    loss.backward()

    namer = published_weights(cnn.models.MODELS[named].make()).torch(net)
    wanted = variables(net, (jax.ShapeDtypeStruct((1, size, size, 3), jnp.float64),), namer)
    trees = ({}, {})
    for variable in wanted:
        tree, at = variable.home
        cnn.core.put(
            trees[tree], at, jnp.asarray(variable.from_torch(before[variable.name].numpy()).astype(np.float64))
        )

    def run(params):
        outputs, state = net.apply(params, trees[1], x, train=True)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), (outputs, state)

    (_, (found, state)), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(trees[0])
    close(list(found), [last(o) for o in outputs], 1e-9)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    after = model.state_dict()
    largest = max(float(g.abs().max()) for g in gradients.values())
    for variable in wanted:
        tree, at = variable.home
        value = variable.to_torch(np.asarray(cnn.core.get((gradient, state)[tree], at)))
        theirs = (gradients if tree == 0 else after)[variable.name].numpy()
        # A bias in front of a normalization has no gradient but rounding.
        np.testing.assert_allclose(
            value, theirs, rtol=0, atol=1e-8 * max(largest if tree == 0 else 0, np.abs(theirs).max())
        )
    changed = [n for n, a in after.items() if n.endswith("running_var") and torch.equal(a, before[n])]
    assert not changed, "statistics that did not move"


# --- first weights -----------------------------------------------------------------------------------------------

STARTS = ("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0")


@pytest.mark.parametrize("name", STARTS)
def test_first_weights(name):
    """The same constants; and random arrays of 1000 numbers or more with the same deviation and shape of distribution.

    The logarithm of a deviation's ratio is off by 1 / sqrt(n) in the mean for two arrays of n normal numbers: five
    times that is allowed. A uniform number is at most 1.73 deviations large, and of 1000 normal ones some are 2.5.
    """
    theirs, net = zoo.get_model(name, weights=None).state_dict(), cnn.models.MODELS[name].make()
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    trees = net.init(jax.random.key(0), x)
    for variable in variables(net, (x,), published_weights(net).torch(net)):
        tree, at = variable.home
        ours, expected = np.asarray(cnn.core.get(trees[tree], at)), theirs[variable.name].numpy()
        if name.startswith("shufflenet") and variable.path == ("fc", "bias"):
            assert not ours.any()  # uniform there
        elif np.ptp(expected) == 0:
            np.testing.assert_array_equal(ours, expected.flat[0], err_msg=variable.name)
        elif ours.size >= 1000:
            assert abs(np.log(ours.std() / expected.std())) < 5 / ours.size**0.5, variable.name
            large = [np.abs(a).max() / a.std() > 2.5 for a in (ours, expected)]
            assert large[0] == large[1], variable.name
