"""Networks that torchvision has, against what it publishes of them: names, shapes, operations, constants, images.

`torchvision_fixture.py` says where the numbers are from. Outputs and gradients are compared in
`parity/test_torchvision_families.py`. Nothing is compiled here.
"""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_fixture

import jaxcnn as cnn
from jaxcnn.core import leaves, put
from jaxcnn.inspect.summary import macs
from jaxcnn.models import MODELS
from jaxcnn.models.figures import figures
from jaxcnn.models.registry import published_weights
from jaxcnn.weights.names import variables

THEIRS = torchvision_fixture.load()


def _quick():
    """The smaller networks: to 200 arrays, or the smallest of its family."""
    arrays = {name: len(theirs["state"]) for name, theirs in THEIRS.items()}
    family = {name: published_weights(MODELS[name].make()).family for name in THEIRS}
    smallest = {min((n for n in THEIRS if family[n] == f), key=arrays.__getitem__) for f in family.values()}
    return smallest | {name for name, count in arrays.items() if count <= 200}


QUICK = _quick()


def networks(*tasks):
    """What torchvision has of these tasks. Larger networks, which take seconds to trace, are tested where CI is set."""
    names = [name for name in THEIRS if MODELS[name].task in tasks]
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


HEADS = {"googlenet": 6_379_984}  # parameters of auxiliary heads that the published number leaves out
IMAGES_FROM_MINUS_1_TO_1 = ("googlenet", "inception_v3")  # done in torchvision's network, and here before it


@functools.cache
def made(name):
    """The model with auxiliary heads, and its variables by their names in torchvision's files."""
    make = MODELS[name].make
    model = make(aux=True) if any(key.lower().startswith("aux") for key in THEIRS[name]["state"]) else make()
    found = variables(model, (image(name),), published_weights(model).torch(model))
    return model, {variable.name: variable for variable in found}


def image(name):
    return jax.ShapeDtypeStruct((1, *THEIRS[name]["size"], 3), jnp.float32)


@pytest.mark.parametrize("name", networks("classification", "segmentation"))
def test_arrays_and_operations(name):
    """Every array has its name and shape. Multiply-accumulates are published with three decimals, and the table has
    them whole."""
    model, found = made(name)
    assert {key: list(variable.there) for key, variable in found.items()} == THEIRS[name]["state"]
    parameters = sum(math.prod(variable.shape) for variable in found.values() if variable.home[0] == 0)
    assert parameters - HEADS.get(name, 0) == THEIRS[name]["parameters"]
    if MODELS[name].task != "classification":
        return
    trees = {}, {}
    for variable in found.values():
        tree, at = variable.home
        put(trees[tree], at, jax.ShapeDtypeStruct(variable.shape, variable.dtype))
    operations = macs(jax.make_jaxpr(model.apply)(*trees, image(name)).jaxpr)
    assert operations / 1e9 == pytest.approx(THEIRS[name]["gmacs"], abs=0.5001e-3)
    if name not in torchvision_fixture.HEADS_AND_SIZES:  # these are in `test_figures.py`
        assert operations == figures()[name].macs


@pytest.mark.parametrize("name", networks("segmentation"))
def test_multiply_accumulates_of_segmenters(name):
    """Of their convolutions, that of auxiliary heads, too: theirs run in evaluation, and enlarging is not counted."""
    model, _ = made(name)
    operations = convolutions(model, image(name))
    if "aux_classifier" in model.sublayers:
        # Both ResNet's layer3 and MobileNetV3's block4 are at stride 8.
        _, channels, *_ = THEIRS[name]["state"]["aux_classifier.0.weight"]
        early = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
        operations += convolutions(model.sublayers["aux_classifier"], early)
    assert operations / 1e9 == pytest.approx(THEIRS[name]["gmacs"], abs=0.5001e-3)


def convolutions(model, x):
    return sum(row.macs for row in cnn.inspect.summary(model, x).layers if row.layer.startswith("conv("))


@pytest.mark.parametrize("name", networks("classification", "segmentation"))
def test_constants(name):
    """Batch normalization's eps and momentum, the rates of dropout and of stochastic depth."""
    calls = [leaf.call for _, leaf in leaves(made(name)[0]) if leaf.kind in ("batch_norm", "dropout", "drop_path")]
    found = [(call.name, _arguments(call)) for call in calls]
    norms = {(given["eps"], 1 - given["momentum"]) for kind, given in found if kind == "batch_norm"}
    np.testing.assert_allclose(sorted(norms), THEIRS[name]["norms"])
    rates = {k: [given["rate"] for kind, given in found if kind == k] for k in ("dropout", "drop_path")}
    assert sorted(rates["dropout"]) == sorted(THEIRS[name]["dropout"])
    assert rates["drop_path"] == pytest.approx(THEIRS[name]["drop_path"])


def _arguments(call):
    bound = inspect.signature(call.maker).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments


@pytest.mark.parametrize("name", THEIRS)
def test_images(name):
    """The size, interpolation and normalization of the first published weights' images."""
    found, theirs = cnn.weights.preprocess(MODELS[name].make()), THEIRS[name]
    assert found.size == tuple(theirs["size"])
    assert found.resize == tuple(theirs["resize"])
    if name in IMAGES_FROM_MINUS_1_TO_1:
        theirs = {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert (list(found.mean), list(found.std)) == (theirs["mean"], theirs["std"])
