"""The first models: what their papers and the lectures count, how they start, and that each learns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import normal, shapes, size

import jaxcnn as cnn
from jaxcnn import inspect, losses, models, train
from jaxcnn.errors import UserError

KEY = jax.random.key(0)

# name: input, parameters for ten classes
FIRST = {
    "logistic": ((28, 28, 1), 7_850),
    "mlp": ((28, 28, 1), 101_770),  # 784-128-10
    "lenet5": ((32, 32, 1), 61_706),
    "lecture_cnn": ((32, 32, 3), 62_958),
    "convnet": ((32, 32, 3), 65_568 + 64 * 8 * 8 * 128 + 128 + 1290),
}


@pytest.mark.parametrize("name", FIRST)
def test_parameters_and_the_first_loss(name):
    """Weights at random say nothing about the class: the loss of a guess is ln 10 = 2.30, and scores are small."""
    shape, parameters = FIRST[name]
    model = models.make(name)
    images = normal(0, 128, *shape)
    params, state = model.init(KEY, images)
    assert size(params) == parameters
    assert models.MODELS[name].input == shape
    logits, _ = model.apply(params, state, images)
    assert logits.shape == (128, 10)
    labels = np.arange(128) % 10
    loss = float(losses.softmax_cross_entropy(logits, labels).mean())
    # He's and LeCun's first weights keep the variance of the input, 1, or a part of it: E log sum exp of standard
    # normal scores is ln 10 + 1/2. Each maximum of 2x2 pixels makes what goes on larger: convnet starts further off.
    assert math.log(10) - 0.1 < loss < math.log(10) + (1.5 if name == "convnet" else 0.6)
    if name == "logistic":
        assert loss == pytest.approx(math.log(10), rel=1e-6)  # it starts at zero


@pytest.mark.parametrize("name", FIRST)
def test_a_few_steps_lower_the_loss(name):
    shape, _ = FIRST[name]
    model, optimizer = models.make(name, classes=3), optax.adam(1e-4)
    batch = (jnp.asarray(normal(0, 8, *shape)), jnp.arange(8) % 3)
    state = train.create_state(model, optimizer, KEY, batch[0])
    before = jax.device_get(state.params)
    step = train.make_step(model, losses.softmax_cross_entropy, optimizer)
    found = []
    for _ in range(4):
        state, measured = step(state, batch)
        found.append(float(measured["loss"]))
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), jax.device_get(state.params), before)
    assert all(jax.tree.leaves(moved)), "a variable that no gradient reaches"


def test_convnet_is_the_lectures_pattern():
    def kinds(**options):
        return " ".join(cnn.models.convnet(**options).sublayers)

    assert kinds(n=1, m=1, k=0) == "conv1_1 relu1_1 pool1 flat head"
    assert kinds(n=2, m=2, k=1, drop=0.5) == (
        "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 flat fc1 relu1 drop1 head"
    )
    assert kinds(n=1, m=1, k=2, pool=False) == "conv1_1 relu1_1 flat fc1 relu1 fc2 relu2 head"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n": 1, "m": 1, "k": 0}, {"conv1_1": (16, 16, 32), "pool1": (8, 8, 32), "flat": (2048,), "head": (10,)}),
        ({"n": 1, "m": 3, "k": 1, "width": 4, "units": 7}, {"conv3_1": (4, 4, 16), "pool3": (2, 2, 16), "fc1": (7,)}),
        ({"n": 1, "m": 2, "k": 0, "pool": False, "kernel_size": 5}, {"conv2_1": (16, 16, 64), "flat": (16384,)}),
    ],
)
def test_convnet_shapes(options, expected):
    """Filters keep the size, a pool halves it, and each stage has twice the filters of the one before."""
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    rows = {row.name: row.output_shape[1:] for row in inspect.summary(cnn.models.convnet(**options), image).layers}
    assert {name: rows[name] for name in expected} == expected


@pytest.mark.parametrize("options", [{"n": 0}, {"m": 0}, {"k": -1}])
def test_convnet_patterns_that_are_none(options):
    with pytest.raises(UserError, match="expected n and m of at least 1, k of at least 0"):
        cnn.models.convnet(**options)


def test_mlp_of_several_hidden_layers():
    params, _ = cnn.models.mlp(5, hidden=(7, 3)).init(KEY, np.zeros((1, 2, 2, 1), np.float32))
    assert shapes(params) == {
        "fc1/kernel": (4, 7), "fc1/bias": (7,), "fc2/kernel": (7, 3), "fc2/bias": (3,), "head/kernel": (3, 5),
        "head/bias": (5,),
    }  # fmt: skip


def test_binary_logistic_regression_is_one_output():
    model = cnn.models.logistic(1)
    params, state = model.init(KEY, np.zeros((3, 2, 2, 1), np.float32))
    assert model.apply(params, state, jnp.ones((3, 2, 2, 1)))[0].shape == (3, 1)


@pytest.mark.parametrize("name", FIRST)
def test_a_model_prints_as_the_call_that_makes_it(name):
    make = models.MODELS[name].make
    assert repr(make(7)) == f"{name}(7)"
    assert repr(models.make(name, 7)) == f"{name}(classes=7)"
    assert repr(make()) == f"{name}()"


# --- a model by its name -----------------------------------------------------------------------------------------

OWN = """
import jaxcnn as cnn

def tiny(classes=10, width=3):
    return cnn.serial(flat=cnn.flatten, fc=cnn.dense(width), head=cnn.dense(classes))

def other(size):
    return cnn.flatten

def nothing(classes):
    return 3
"""


def test_a_model_of_ones_own_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    model = models.make(f"{tmp_path}/mine.py:tiny", 4, width=5)
    assert size(model.init(KEY, np.zeros((1, 6), np.float32))[0]) == 7 * 5 + 6 * 4


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lenet", {}, "unknown model 'lenet': did you mean lenet5"),
        ("LENET5", {}, "unknown model 'LENET5': did you mean lenet5"),
        ("zzz", {}, "unknown model 'zzz': there are .*lecture_cnn.*mlp"),
        ("lenet5", {"width": 3}, "lenet5: .*unexpected keyword argument 'width'"),
        ("{}/gone.py:tiny", {}, "there is no file .*gone.py; expected a name, or file.py:function"),
        ("{}/mine.py:tinny", {}, "mine.py has no function tinny; it has tiny, other, nothing"),
        ("{}/mine.py:other", {}, "missing 1 required positional argument: 'size'"),
        ("{}/mine.py:nothing", {}, "should return a Layer; it returned int"),
        ("{}/notes.txt:tiny", {}, "is not a Python file"),
    ],
)
def test_a_model_that_cannot_be_made(tmp_path, name, options, says):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "notes.txt").write_text(OWN)
    with pytest.raises(UserError, match=says):
        models.make(name.format(tmp_path), 10, **options)


def test_an_activation_has_a_name_on_the_command_line():
    named, given = models.make("lenet5", activation="relu"), models.lenet5(activation=cnn.relu)
    assert named.sublayers["act1"] == given.sublayers["act1"]
    named, given = models.make("mlp", activation="gelu"), models.mlp(activation=cnn.gelu)
    assert named.sublayers["act1"] == given.sublayers["act1"]
    with pytest.raises(UserError, match="unknown activation 'rleu': did you mean relu"):
        models.lenet5(activation="rleu")
