"""The table of figures that `jaxcnn models` shows, against the networks themselves."""

import pytest
import torchvision_fixture
from traced import parameters, traced

from jaxcnn.models import MODELS
from jaxcnn.models.figures import figures

QUICK = 4_000_000  # parameters of the networks whose operations are always counted
THEIRS = torchvision_fixture.load()
CLASSIFIERS = [name for name in THEIRS if MODELS[name].task == "classification"]
LARGE = {name for name, known in figures().items() if (known.parameters or 0) > QUICK}


def test_every_network_is_in_the_table():
    assert list(figures()) == list(MODELS), "run python tests/models/figures_table.py"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_parameters_are_those_that_torchvision_publishes(name):
    auxiliary = {"inception_v3": 3_326_696}  # published with its auxiliary head, which is an option here
    assert figures()[name].parameters == THEIRS[name]["parameters"] - auxiliary.get(name, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "resnet1202" else [])
        for name in MODELS
        if name in LARGE and name not in CLASSIFIERS
    ],
)
def test_parameters_of_large_networks(name):
    """`test_figures_are_those_of_the_traced_network` has the small ones, with their operations, everywhere."""
    assert figures()[name].parameters == parameters(name)


def _networks():
    """Without the large ones of torchvision, whose numbers `test_torchvision_names.py` compares with both tables."""
    elsewhere = LARGE.intersection(CLASSIFIERS) - {*torchvision_fixture.HEADS_AND_SIZES}
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in MODELS
        if name not in elsewhere
    ]


@pytest.mark.parametrize("name", _networks())
def test_figures_are_those_of_the_traced_network(name):
    assert figures()[name].parameters == traced(name).parameters
    assert figures()[name].macs == traced(name).macs


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_torchvision_publishes(name):
    """Its accuracy; and where images have the same size, the operations, which it rounds to 10^6."""
    assert figures()[name].top1 == THEIRS[name]["top1"]
    if list(MODELS[name].input[:2]) == THEIRS[name]["size"]:
        assert (figures()[name].macs or 0) / 1e9 == pytest.approx(THEIRS[name]["gmacs"], abs=0.5001e-3)


def test_only_classifiers_have_an_accuracy():
    assert {name for name, known in figures().items() if known.top1 is not None} == {
        name for name in THEIRS if MODELS[name].task == "classification"
    }
