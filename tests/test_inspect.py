"""Looking into networks: the summary's figures by hand, receptive fields by the gradient, activations, plots."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal
from matplotlib.figure import Figure
from PIL import Image

import jaxcnn as cnn
from jaxcnn import data, inspect
from jaxcnn.errors import UserError
from jaxcnn.inspect import plots

KEY = jax.random.key(0)


def image(height: int, width: int | None = None, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, height, width or height, channels), jnp.float32)


def column(model: cnn.Layer, what: str, *inputs) -> list:
    return [getattr(row, what) for row in inspect.summary(model, *inputs).layers]


# --- the table ---------------------------------------------------------------------------------------------------


def test_summary_of_lenet5_is_that_of_the_lecture():
    table = inspect.summary(cnn.models.lenet5(), image(32, channels=1))
    rows = {r.name: (r.output_shape[1:], r.params, r.macs, r.activation_bytes, r.receptive_field) for r in table.layers}
    assert rows == {  # shape, (F F C + 1) K, output pixels times F F C K, four bytes a value, receptive field
        "conv1": ((28, 28, 6), 156, 28 * 28 * 25 * 6, 4 * 4704, 5),
        "act1": ((28, 28, 6), 0, 0, 4 * 4704, 5),
        "pool1": ((14, 14, 6), 0, 0, 4 * 1176, 6),
        "conv2": ((10, 10, 16), 2416, 10 * 10 * 150 * 16, 4 * 1600, 14),
        "act2": ((10, 10, 16), 0, 0, 4 * 1600, 14),
        "pool2": ((5, 5, 16), 0, 0, 4 * 400, 16),
        "flat": ((400,), 0, 0, 4 * 400, 32),
        "fc1": ((120,), 48120, 48000, 480, 32),
        "act3": ((120,), 0, 0, 480, 32),
        "fc2": ((84,), 10164, 10080, 336, 32),
        "act4": ((84,), 0, 0, 336, 32),
        "head": ((10,), 850, 840, 40, 32),
    }
    assert list(rows) == list(cnn.models.lenet5().sublayers)
    assert (table.params, table.macs) == (61_706, 416_520)


def test_summary_of_the_lectures_exercise():
    table = inspect.summary(cnn.models.lecture_cnn(), image(32))
    assert [r.params for r in table.layers if r.params] == [608, 3216, 48120, 10164, 850]
    assert table.params == 62_958


@pytest.mark.parametrize(
    ("layer", "struct", "macs"),
    [
        (cnn.conv(8, 3, padding=1), image(10), 10 * 10 * 9 * 3 * 8),
        (cnn.conv(8, (3, 1), (2, 1)), image(11, 7), 5 * 7 * 3 * 3 * 8),
        (cnn.conv(8, 3, dilation=2), image(10), 6 * 6 * 9 * 3 * 8),
        (cnn.conv(8, 3, groups=4), image(10, channels=4), 8 * 8 * 9 * 8),
        (cnn.conv(8, 3), jax.ShapeDtypeStruct((5, 10, 10, 3), jnp.float32), 5 * 8 * 8 * 9 * 3 * 8),
        (cnn.conv(8, 3), jax.ShapeDtypeStruct((1, 20, 3), jnp.float32), 18 * 3 * 3 * 8),
        (cnn.dense(7), jax.ShapeDtypeStruct((2, 5), jnp.float32), 2 * 5 * 7),
        (cnn.max_pool(2), image(10), 0),
    ],
)
def test_macs_of_one_layer(layer, struct, macs):
    table = inspect.summary(layer, struct)
    assert [r.macs for r in table.layers] == [macs]
    assert table.macs == macs


def test_macs_are_counted_inside_loops_and_branches():
    def steps(x):
        return jax.lax.scan(lambda y, _: (y @ jnp.ones((4, 4)), None), x, None, 5)[0]

    assert inspect.summary(cnn.serial(steps), jax.ShapeDtypeStruct((3, 4), jnp.float32)).macs == 5 * 3 * 4 * 4
    jitted = cnn.serial(jax.jit(lambda x: x @ jnp.ones((4, 2))))
    assert inspect.summary(jitted, jax.ShapeDtypeStruct((3, 4), jnp.float32)).macs == 3 * 4 * 2


def test_nested_networks_have_a_row_for_each_leaf_by_its_path():
    block = cnn.residual(cnn.serial(conv=cnn.conv(4, 3, padding=1), bn=cnn.batch_norm()), cnn.conv(4, 1, bias=False))
    model = cnn.serial(stem=cnn.conv(3, 3), block=block, pool=cnn.global_avg_pool)
    table = inspect.summary(model, image(8))
    assert [(r.name, r.params) for r in table.layers] == [
        ("stem", 84), ("block/body/conv", 112), ("block/body/bn", 8), ("block/shortcut", 12), ("pool", 0),
    ]  # fmt: skip
    assert table.params == 216
    assert [r.layer for r in table.layers][1] == "conv(4, 3, padding=1)"


def test_a_layer_used_twice_has_its_parameters_counted_once():
    model = cnn.network(lambda net, x: net.conv(net.conv(x)), conv=cnn.conv(3, 3))
    table = inspect.summary(model, image(9))
    assert [(r.name, r.params, r.receptive_field) for r in table.layers] == [("conv", 84, 3), ("conv", 0, 5)]
    assert table.params == 84
    assert table.macs == sum(r.macs for r in table.layers) == (7 * 7 + 5 * 5) * 27 * 3


def test_a_layer_of_ones_own_and_a_network_of_several_inputs():
    def init(key, x):
        return {"scale": jnp.ones(x.shape[-1]), "matrix": jnp.ones((x.shape[-1], 5))}, {}

    def apply(params, state, x, train=False, key=None):
        return (x * params["scale"]) @ params["matrix"], state

    own = cnn.Layer(init, apply)
    table = inspect.summary(own, image(6))
    assert [(r.output_shape, r.params, r.macs, r.receptive_field) for r in table.layers] == [
        ((1, 6, 6, 5), 18, 6 * 6 * 3 * 5, 1)
    ]
    model = cnn.network(
        lambda net, picture, question: {"answer": net.head(jnp.concatenate([net.pool(net.own(picture)), question], 1))},
        own=own, pool=cnn.global_avg_pool, head=cnn.dense(2),
    )  # fmt: skip
    table = inspect.summary(model, image(6), jax.ShapeDtypeStruct((1, 4), jnp.float32))
    assert [(r.name, r.output_shape, r.receptive_field) for r in table.layers] == [
        ("own", (1, 6, 6, 5), 1), ("pool", (1, 5), 6), ("head", (1, 2), 6),
    ]  # fmt: skip


def test_summary_computes_nothing_and_takes_bytes_for_the_image_they_become():
    large = jax.ShapeDtypeStruct((1, 8192, 8192, 1), jnp.uint8)
    model = cnn.serial(conv1=cnn.conv(64, 3), flat=cnn.flatten, head=cnn.dense(1000))  # 16 TB of weights
    assert inspect.summary(model, large).params == 640 + 8190 * 8190 * 64 * 1000 + 1000
    for dtype in (np.uint8, np.float64):
        assert inspect.summary(cnn.models.lenet5(), np.zeros((1, 32, 32, 1), dtype)).params == 61_706


def test_summary_as_json_keeps_the_contract():
    found = json.loads(inspect.summary(cnn.models.lenet5(), image(32, channels=1)).to_json())
    assert set(found) == {"layers", "params", "macs"}
    assert (found["params"], found["macs"], len(found["layers"])) == (61_706, 416_520, 12)
    for row in found["layers"]:
        assert list(row) == ["name", "output_shape", "params", "macs", "activation_bytes", "receptive_field"]
    assert found["layers"][0] == {
        "name": "conv1", "output_shape": [1, 28, 28, 6], "params": 156, "macs": 117_600, "activation_bytes": 18_816,
        "receptive_field": 5,
    }  # fmt: skip


def test_summary_as_a_table():
    lines = str(inspect.summary(cnn.models.lenet5(), image(32, channels=1))).splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "MACs", "memory", "receptive", "field"]
    assert lines[5].split() == ["conv2", "conv(16,", "5)", "10x10x16", "2,416", "240,000", "6.2", "KiB", "14x14"]
    assert lines[-1].split() == ["total", "61,706", "416,520"]
    assert len({len(line) for line in lines if line.startswith("-")}) == 1
    wide = str(inspect.summary(cnn.serial(cnn.conv(1, (3, 5)), cnn.flatten), image(3000)))
    assert "3x5" in wide
    assert "34.3 MiB" in wide


def test_an_input_that_does_not_fit_names_the_layer():
    with pytest.raises(UserError, match="conv2: 5x5 filter"):
        inspect.summary(cnn.models.lenet5(), image(12, channels=1))


# --- receptive fields --------------------------------------------------------------------------------------------

LAYERS = {  # the formula: r + (F - 1) * the strides so far; a network -> the fields after each layer
    "two 3x3 see 5x5, three 7x7": (cnn.serial(*[cnn.conv(2, 3)] * 3), [3, 5, 7]),
    "strides multiply": (cnn.serial(cnn.conv(2, 3, 2), cnn.conv(2, 3, 2), cnn.conv(2, 3)), [3, 7, 15]),
    "pools": (cnn.serial(cnn.max_pool(2), cnn.avg_pool(3, 2), cnn.conv(2, 3), cnn.sum_pool(2)), [2, 6, 14, 18]),
    "dilation": (cnn.serial(cnn.conv(2, 3, dilation=2), cnn.conv(2, 3, dilation=4)), [5, 13]),
    "padding changes nothing": (cnn.serial(cnn.conv(2, 3, padding=1), cnn.conv(2, 5, padding="SAME")), [3, 7]),
    "not square": (cnn.serial(cnn.conv(2, (3, 1)), cnn.conv(2, (1, 5), (1, 2)), cnn.max_pool((2, 3))),
                   [(3, 1), (3, 5), (4, 9)]),
    "pixel by pixel": (cnn.serial(jnp.tanh, cnn.conv(2, 1), cnn.batch_norm(), cnn.layer_norm(), cnn.prelu(),
                                  cnn.maxout(2), cnn.local_response_norm()), [1] * 7),
    "group norm sees all": (cnn.serial(cnn.conv(4, 3), cnn.group_norm(2)), [3, 31]),
    "global": (cnn.serial(cnn.conv(2, 3), cnn.global_max_pool, cnn.dense(3)), [3, 31, 31]),
    "flattened": (cnn.serial(cnn.conv(2, 3), cnn.flatten, cnn.dense(3)), [3, 31, 31]),
    "transposed": (cnn.serial(cnn.conv(2, 3), cnn.conv_transpose(2, 4, 2), cnn.conv(2, 3)), [3, 4, 5]),
    "side by side": (cnn.serial(cnn.parallel(cnn.conv(2, 1), cnn.conv(2, 5, padding=2), join=cnn.concat),
                                cnn.conv(2, 3)), [1, 5, 7]),
    "residual": (cnn.serial(cnn.residual(cnn.conv(3, 3, padding=1)), cnn.conv(2, 3)), [3, 5]),
    "squeeze and excite": (cnn.network(lambda net, x: net.out(net.conv(x) * x.mean((1, 2), keepdims=True)),
                                       conv=cnn.conv(3, 3), out=cnn.conv(3, 1)), [3, 31]),
    "cut and moved": (cnn.serial(cnn.conv(2, 3), lambda x: x[:, ::2, 3:], lambda x: jnp.swapaxes(x, 1, 2),
                                 cnn.conv(2, (1, 3))), [3, 3, 3, (7, 3)]),
    "without a rule": (cnn.serial(cnn.conv(2, 3), lambda x: jnp.sort(x, 1)), [3, 31]),
    "sums along": (cnn.serial(cnn.conv(2, 3), lambda x: jnp.cumsum(x, 2)), [3, 31]),
    "mixed rows": (cnn.serial(cnn.conv(2, 3), lambda x: jnp.einsum("nhwc,hk->nkwc", x, jnp.ones((29, 29)))),
                   [3, (31, 3)]),
    "picked rows": (cnn.serial(cnn.conv(2, 3), lambda x: x[:, np.random.default_rng(0).permutation(29)]), [3, 31]),
    "a loop": (cnn.serial(cnn.conv(2, 3), lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + jnp.roll(y, 1, 1), x)),
               [3, 31]),
    "a branch": (cnn.serial(cnn.conv(2, 3), lambda x: jax.lax.cond(x.sum() > 0, lambda: x, lambda: x[:, ::-1])),
                 [3, 31]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_receptive_field_is_the_formula(name):
    model, expected = LAYERS[name]
    assert column(model, "receptive_field", image(31)) == expected


SUPPORT = [
    cnn.serial(cnn.conv(3, 2), cnn.conv(3, 3, 2), cnn.avg_pool(3, 2), cnn.conv(3, (3, 2))),
    cnn.serial(cnn.conv(3, 3, dilation=(2, 1), padding=2), jnp.tanh, cnn.avg_pool(3, 2), cnn.conv(3, 2, dilation=2)),
    cnn.serial(cnn.conv(3, 3), cnn.conv_transpose(3, 4, 2)),
    cnn.serial(cnn.conv_transpose(3, 3, 2, padding=1), cnn.conv(3, 2)),
    cnn.serial(cnn.conv_transpose(3, 2, 3), cnn.conv(3, 3)),
    cnn.serial(cnn.conv_transpose(3, (5, 2), 2), cnn.conv(3, (3, 2), 2)),
    cnn.serial(cnn.parallel(cnn.conv(2, 3, padding=1), cnn.conv(2, (5, 1), padding=(2, 0)), join=cnn.concat),
               cnn.residual(cnn.conv(4, 3, padding=1)), cnn.layer_norm()),
    cnn.serial(cnn.conv(3, 3), lambda x: x[:, 1::2, ::3], lambda x: x[:, :5] * x[:, 5:10], cnn.conv(2, (1, 2))),
    cnn.serial(cnn.conv(3, 3), cnn.global_avg_pool, cnn.dense(3)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SUPPORT)))
def test_receptive_field_is_where_the_gradient_is_not_zero(number):
    """With random weights, the most that a value around the middle depends on spans exactly the field reported."""
    model, x = SUPPORT[number], jnp.asarray(normal(0, 1, 32, 32, 2))
    params, state = model.init(KEY, x)
    y, back = jax.vjp(lambda x: model.apply(params, state, x)[0], x)

    def span(*at):  # of the value `at`, along each side
        depends = (np.asarray(back(jnp.zeros_like(y).at[(0, *at, 0)].set(1.0))[0])[0] != 0).any(-1)
        return [int(np.ptp(np.flatnonzero(depends.any(axis)))) + 1 for axis in (1, 0)]

    height, width = y.shape[1:3] if y.ndim == 4 else (0, 0)
    around = [(height // 2 + i, width // 2 + i) for i in range(3)] if height else [()]  # transposed: in three phases
    sides = tuple(max(side) for side in zip(*(span(*at) for at in around), strict=True))
    found = column(model, "receptive_field", x)[-1]
    assert sides == ((found, found) if isinstance(found, int) else found)


def test_receptive_field_of_sequences_volumes_and_vectors():
    sequence, volume = jax.ShapeDtypeStruct((1, 40, 3), jnp.float32), jax.ShapeDtypeStruct((1, 9, 9, 9, 1), jnp.float32)
    assert column(cnn.serial(cnn.conv(2, 3), cnn.conv(2, 3)), "receptive_field", sequence) == [3, 5]
    assert column(cnn.serial(cnn.conv(2, (3, 3, 1))), "receptive_field", volume) == [(3, 3, 1)]
    vector = jax.ShapeDtypeStruct((1, 7), jnp.float32)
    assert column(cnn.serial(cnn.dense(3)), "receptive_field", vector) == [None]


# --- activations and gradients -----------------------------------------------------------------------------------


def test_activations_are_the_outputs_by_path_in_the_order_of_computation():
    model = cnn.serial(
        conv1=cnn.conv(2, 3), block=cnn.residual(cnn.serial(act=jnp.tanh, conv=cnn.conv(2, 1))), flat=cnn.flatten
    )
    x = jnp.asarray(normal(0, 2, 5, 5, 1))
    params, state = model.init(KEY, x)
    found = inspect.activations(model, params, state, x)
    assert list(found) == ["conv1", "block/body/act", "block/body/conv", "block/body", "block", "flat"]
    first, _ = cnn.conv(2, 3).apply(params["conv1"], {}, x)
    np.testing.assert_array_equal(found["conv1"], first)
    np.testing.assert_array_equal(found["block/body/act"], jnp.tanh(first))
    np.testing.assert_array_equal(found["block"], first + found["block/body"])
    np.testing.assert_array_equal(found["flat"], model.apply(params, state, x)[0])
    jitted = jax.jit(lambda x: inspect.activations(model, params, state, x))(x)
    assert {k: v.shape for k, v in jitted.items()} == {k: v.shape for k, v in found.items()}


def test_activations_of_a_layer_called_twice_are_numbered_and_training_is_a_choice():
    model = cnn.network(lambda net, x: net.drop(net.fc(net.fc(net.fc(x)))), fc=cnn.dense(3), drop=cnn.dropout(0.5))
    x = jnp.ones((1, 3))
    params, state = model.init(KEY, x)
    found = inspect.activations(model, params, state, x)
    assert list(found) == ["fc", "fc#2", "fc#3", "drop"]
    np.testing.assert_array_equal(found["drop"], found["fc#3"])
    training = inspect.activations(model, params, state, jnp.ones((64, 3)), train=True, key=KEY)
    assert (np.asarray(training["drop"]) == 0).any()


def test_gradient_check_tells_right_from_wrong():
    params = {"w": normal(0, 5, 3), "b": normal(1, 3)}
    x = jnp.asarray(normal(2, 4, 5))

    def loss(p):
        return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2)

    # Central differences with h = 1e-5 in float64: rounding, 1e-16 / 1e-5, and the third derivative times 1e-10.
    assert inspect.gradient_check(loss, params) < 1e-7

    @jax.custom_vjp
    def square(v):
        return v**2

    for factor, wrong in ((2.0, False), (2.02, True), (0.0, True), (-2.0, True)):
        square.defvjp(lambda v: (v**2, v), lambda v, g, factor=factor: (factor * v * g,))
        worst = inspect.gradient_check(lambda p: jnp.sum(square(jnp.tanh(x @ p["w"] + p["b"]))), params)
        assert (worst > 5e-3) is wrong
        assert wrong or worst < 1e-7


def test_gradient_check_of_a_whole_network():
    model = cnn.serial(conv1=cnn.conv(2, 3), act=jnp.tanh, pool=cnn.avg_pool(2), flat=cnn.flatten, head=cnn.dense(3))
    x, y = normal(0, 4, 6, 6, 1, dtype=np.float64), np.array([0, 1, 2, 0])
    params, state = model.init(KEY, x)

    def loss(p):
        return cnn.losses.softmax_cross_entropy(model.apply(p, state, jnp.asarray(x))[0], y).mean()

    assert inspect.gradient_check(loss, params, samples=5) < 1e-6


# --- plots -------------------------------------------------------------------------------------------------------

RECORDS = [{"epoch": e, "loss": 1 / e, "accuracy": 1 - 0.5 / e, "validation_loss": 1.2 / e, "validation_accuracy": 0.5}
           for e in (1, 2, 3)]  # fmt: skip
DIGITS = data.Dataset(
    np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 3, ("a", "b", "c")
)
PROBABILITIES = np.random.default_rng(1).dirichlet(np.ones(3), 40)
PLOTS = {
    "curves": lambda: plots.curves(RECORDS),
    "curves of a loss alone": lambda: plots.curves([{"epoch": 1, "loss": 0.5}]),
    "curves over orders of magnitude": lambda: plots.curves([{"epoch": e, "loss": 10.0**-e} for e in (1, 2, 3)]),
    "confusion": lambda: plots.confusion(np.array([[5, 1], [0, 7]]), ("cat", "dog")),
    "confusion of many classes": lambda: plots.confusion(np.eye(100, dtype=int), [f"class {i}" for i in range(100)]),
    "mistakes": lambda: plots.mistakes(DIGITS, PROBABILITIES),
    "no mistakes": lambda: plots.mistakes(DIGITS, np.eye(3)[DIGITS.labels]),
    "images": lambda: plots.images(DIGITS.images[:11], [str(i) for i in range(11)], "heading"),
    "one colour image": lambda: plots.images(np.random.default_rng(0).random((1, 5, 6, 3))),
    "filters": lambda: plots.filters(normal(0, 5, 5, 2, 6)),
    "colour filters": lambda: plots.filters(normal(0, 5, 5, 3, 6)),
    "filters of zeros": lambda: plots.filters(np.zeros((3, 3, 1, 2))),
    "activation maps": lambda: plots.activation_maps(normal(0, 6, 6, 10), "conv1"),
    "constant maps": lambda: plots.activation_maps(np.ones((6, 6, 2))),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_a_figure_that_can_be_saved(name, tmp_path):
    figure = PLOTS[name]()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "plot.png", dpi=40)
    with Image.open(tmp_path / "plot.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > (2 if "zeros" not in name else 0)


def test_mistakes_shows_the_surest_first_with_what_was_true_and_what_was_said():
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0, 0.3, 0.7], [0.05, 0.95, 0]])  # true: a b c a
    figure = plots.mistakes(DIGITS.take(slice(4)), probabilities)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["a → b  95 %", "b → a  80 %"]
    assert figure.get_suptitle().startswith("2 mistakes")
    assert len([a for a in plots.mistakes(DIGITS, PROBABILITIES, most=5).axes if a.get_title()]) == 5


def test_curves_show_the_error_in_per_cent_beside_the_loss():
    loss, error = plots.curves(RECORDS).axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(error.lines[0].get_ydata(), [50, 25, 50 / 3])
    np.testing.assert_allclose(error.lines[1].get_ydata(), [50, 50, 50])


def test_confusion_writes_counts_and_the_number_right():
    (axes,) = plots.confusion(np.array([[5, 1], [0, 7]]), ("cat", "dog")).axes
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {((0, 0), "5"), ((1, 0), "1"), ((1, 1), "7")}
    assert axes.get_title() == "12 of 13 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_activation_maps_of_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"the maps of one image, \(H, W, C\), got \(2, 4, 4, 3\)"):
        plots.activation_maps(np.zeros((2, 4, 4, 3)))
