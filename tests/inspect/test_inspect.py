"""Looking into networks: figures by hand and by XLA, receptive fields by the gradient, graphs, activations, plots."""

import functools
import json
import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from helpers import normal
from matplotlib.figure import Figure
from PIL import Image

import jaxcnn as cnn
from jaxcnn import data, inspect
from jaxcnn.errors import UserError
from jaxcnn.inspect import graph, graph_layout, plots
from jaxcnn.inspect.cost import macs
from jaxcnn.inspect.program import outline_of
from jaxcnn.models.googlenet import conv_bn, conv_relu, inception
from jaxcnn.ops.backend import general_form

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
        "flat": ((400,), 0, 0, 4 * 400, 16),
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
    assert (found["params"], found["macs"], len(found["layers"])) == (61_706, 416_520, 12)
    assert (found["params_bytes"], found["groups"]) == (4 * 61_706, [])
    for what in ("params", "macs", "flops", "backward_flops", "activation_bytes", "held_bytes"):
        assert found[what] == sum(row[what] for row in found["layers"])
    assert found["layers"][0] == {
        "name": "conv1", "output_shape": [1, 28, 28, 6], "params": 156, "macs": 117_600, "activation_bytes": 18_816,
        "receptive_field": 5, "receptive_stride": 1, "receptive_offset": 0, "flops": 2 * 117_600 + 4704,
        "backward_flops": 2 * 117_600 + 4704, "held_bytes": 4 * 32 * 32, "shared": False, "depth": 1,
        "code": "conv(6, 5)",
    }  # fmt: skip


def test_summary_as_json_has_the_networks_inside_beside_the_leaves_whatever_the_depth():
    texts = {inspect.summary(NESTED, image(8), depth=depth).to_json() for depth in (None, 1, 2)}
    (text,) = texts
    found = json.loads(text)
    assert [row["name"] for row in found["layers"]] == ["stem", "block/body/conv", "block/body/bn", "block/shortcut"]
    assert [(row["name"], row["depth"], row["params"]) for row in found["groups"]] == [
        ("block", 1, 132), ("block/body", 2, 120),
    ]  # fmt: skip


def test_summary_as_a_table():
    table = inspect.summary(cnn.models.lenet5(), image(32, channels=1))
    lines = str(table).splitlines()
    columns = ["layer", "output", "parameters", "MACs", "FLOPs", "backward", "memory", "field", "stride", "offset"]
    assert lines[0].split() == columns
    figures = ["2,416", "240,000", "481.6", "K", "961.6", "K", "6.2", "KiB", "14x14", "2", "0"]
    assert lines[5].split() == ["conv2", "conv(16,", "5)", "10x10x16", *figures]
    assert lines[-2].split() == ["total", "61,706", "416,520", "853.9", "K", "1.5", "M", "58.6", "KiB"]
    held = f"{table.total.held_bytes / 1024:.1f} KiB"  # of tanh's gradient, JAX keeps more or less by its version
    assert lines[-1] == (
        f"memory: 241.0 KiB of parameters, 58.6 KiB of outputs; training holds {held} for the backward pass"
    )
    assert len({len(line) for line in lines if line.startswith("-")}) == 1
    wide = str(inspect.summary(cnn.serial(cnn.conv(1, (3, 5), padding=(0, 1)), cnn.flatten), image(3000)))
    assert "3x5" in wide
    assert "0,-1" in wide
    assert "34.3 MiB" in wide


def test_summary_as_markdown_is_the_same_table():
    table = inspect.summary(NESTED, image(8))
    text, memory = table.to_markdown().split("\n\n")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert {len(row) for row in cells} == {11}
    assert cells[1] == ["---", "---", *["---:"] * 9]
    assert [row[0].replace("&emsp;", "  ") for row in cells[2:]] == [
        "stem", "block", "  body", "    conv", "    bn", "  shortcut", "total",
    ]  # fmt: skip
    assert memory == str(table).splitlines()[-1]
    assert "residual" in text
    piped = cnn.Layer(lambda key, x: ({}, {}), lambda params, state, x, **_: (x, state))
    piped.init.__qualname__ = "a|b"
    assert "a\\|b" in inspect.summary(piped, image(8)).to_markdown()


# --- nests -------------------------------------------------------------------------------------------------------

NESTED = cnn.serial(
    stem=cnn.conv(3, 3),
    block=cnn.residual(cnn.serial(conv=cnn.conv(4, 3, padding=1), bn=cnn.batch_norm()), cnn.conv(4, 1, bias=False)),
)
SUMS = ("params", "macs", "flops", "backward_flops", "activation_bytes", "held_bytes")


def test_networks_inside_have_rows_with_the_sums_of_what_is_in_them():
    table = inspect.summary(NESTED, image(8))
    assert [(r.name, r.depth, r.output_shape[1:]) for r in table.rows] == [
        ("stem", 1, (6, 6, 3)), ("block", 1, (6, 6, 4)), ("block/body", 2, (6, 6, 4)),
        ("block/body/conv", 3, (6, 6, 4)), ("block/body/bn", 3, (6, 6, 4)), ("block/shortcut", 2, (6, 6, 4)),
    ]  # fmt: skip
    rows = {r.name: r for r in table.rows}
    for what in SUMS:
        inside = sum(getattr(rows[name], what) for name in ("block/body/conv", "block/body/bn"))
        assert getattr(rows["block/body"], what) == inside
    # What a network itself computes is in its row: here the sum of the two branches.
    assert rows["block"].flops == rows["block/body"].flops + rows["block/shortcut"].flops + 6 * 6 * 4
    assert rows["block"].receptive_field == 5
    assert [r.name for r in table.total.children] == ["stem", "block"]
    for what in SUMS:
        assert getattr(table.total, what) == sum(getattr(r, what) for r in table.total.children)
    assert [r.name for r in table.layers] == [r.name for r in table.rows if not r.children]


def test_a_depth_hides_what_lies_deeper_and_keeps_the_sums():
    for depth, names in {
        1: ["stem", "block"], 2: ["stem", "block", "  body", "  shortcut"],
        3: ["stem", "block", "  body", "    conv", "    bn", "  shortcut"],
    }.items():  # fmt: skip
        table = inspect.summary(NESTED, image(8), depth=depth)
        lines = str(table).splitlines()[2:-3]
        assert [line[: len(name)] for line, name in zip(lines, names, strict=True)] == names
        assert (table.params, len(table.layers)) == (216, 4)
    with pytest.raises(ValueError, match="depth=0: expected 1 or more levels, or None for all"):
        inspect.summary(NESTED, image(8), depth=0)


def test_a_function_that_gives_back_its_input_has_no_row():
    model = cnn.serial(cnn.conv(3, 3), cnn.identity, lambda x: x, cnn.relu, cnn.dropout(0.5))
    assert column(model, "layer", image(8)) == ["conv(3, 3)", "relu", "dropout(0.5)"]
    assert [r.name for r in inspect.summary(cnn.serial(cnn.identity), image(8)).rows] == ["serial"]


def test_a_layer_used_twice_is_shown_as_shared():
    block = cnn.serial(conv=cnn.conv(3, 3, padding=1), act=cnn.relu)
    table = inspect.summary(cnn.network(lambda net, x: net.block(net.block(x)), block=block), image(8))
    assert [(r.name, r.params, r.shared) for r in table.rows] == [
        ("block", 84, False), ("block/conv", 84, False), ("block/act", 0, False),
        ("block", 0, True), ("block/conv", 0, True), ("block/act", 0, True),
    ]  # fmt: skip
    assert table.params == 84
    assert str(table).count("shared") == 3


def test_products_between_the_layers_have_a_row_of_their_own():
    names = ("query", "key_", "value")
    model = cnn.network(
        lambda net, x: jax.nn.softmax(net.query(x) @ net.key_(x).swapaxes(1, 2)) @ net.value(x),
        **{name: cnn.dense(4) for name in names},
    )
    table = inspect.summary(model, jax.ShapeDtypeStruct((1, 8, 6), jnp.float32))
    assert [(r.name, r.macs) for r in table.layers] == [
        ("query", 192), ("key_", 192), ("value", 192), ("(itself)", 2 * 8 * 8 * 4),
    ]  # fmt: skip
    assert table.macs == sum(r.macs for r in table.layers)


def test_a_layer_that_fails_has_no_row_where_the_network_goes_on_without_it():
    def forward(net, x):
        try:
            return net.wide(x)
        except cnn.LayerError:
            return net.narrow(x)

    model = cnn.network(forward, wide=cnn.serial(cnn.conv(2, 3), cnn.conv(2, 9)), narrow=cnn.conv(4, 3))
    assert [(r.name, r.params) for r in inspect.summary(model, image(8)).rows] == [("narrow", 112)]
    assert [r.name for r in inspect.summary(model, image(12)).rows] == ["wide", "wide/conv1", "wide/conv2"]


def test_layers_inside_what_jax_traces_apart():
    """In a loop, under `jit`, `checkpoint` and `vmap`, in branches: with their figures, as often as they run."""
    conv = cnn.conv(3, 3, padding=1)
    once = 64 * 27 * 3
    ways = {
        "scan": (lambda net, x: jax.lax.scan(lambda y, _: (net.conv(y), None), x, None, 5)[0], 5 * once),
        "jit": (lambda net, x: jax.jit(net.conv)(x), once),
        "checkpoint": (lambda net, x: jax.checkpoint(net.conv)(x), once),
        "vmap": (lambda net, x: jax.vmap(net.conv)(x[None])[0], once),
        "cond": (lambda net, x: jax.lax.cond(x.sum() > 0, net.conv, lambda y: y, x), once),
        "while": (lambda net, x: jax.lax.while_loop(lambda y: y.sum() > 0, net.conv, x), once),
    }
    for name, (forward, expected) in ways.items():
        table = inspect.summary(cnn.network(forward, conv=conv), image(8))
        assert [(r.name, r.params, r.macs) for r in table.rows] == [("conv", 84, expected)], name
        assert table.macs == expected
    fields = {name: inspect.summary(cnn.network(ways[name][0], conv=conv), image(8)).layers[0] for name in ways}
    assert fields["jit"].receptive_field == fields["checkpoint"].receptive_field == 3
    assert fields["scan"].receptive_field == 8  # how far a loop goes is not followed
    again = inspect.summary(cnn.serial(conv), image(8)).layers[0]
    assert fields["checkpoint"].backward_flops == again.backward_flops + again.flops
    assert fields["scan"].held_bytes > 5 * 64 * 3 * 4


def test_a_layer_around_a_network_shows_what_is_inside_also_when_jax_has_its_trace_already():
    inner = cnn.serial(conv=cnn.conv(2, 3), act=cnn.relu)

    @jax.jit
    def run(params, state, x):
        return inner.apply(params, state, x)

    own = cnn.Layer(inner.init, lambda params, state, x, train=False, key=None: run(params, state, x))
    model, x = cnn.serial(own=own, pool=cnn.global_avg_pool), jnp.ones((1, 8, 8, 3))
    params, state = model.init(KEY, x)
    y, _ = model.apply(params, state, x)
    table = inspect.summary(model, x)
    assert [(r.name, r.params) for r in table.rows] == [("own", 56), ("own/conv", 56), ("own/act", 0), ("pool", 0)]
    np.testing.assert_array_equal(jax.jit(model.apply)(params, state, x)[0], y)
    gradient = jax.jit(jax.grad(lambda p: model.apply(p, state, x)[0].sum()))(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


# --- operations --------------------------------------------------------------------------------------------------


def test_macs_of_a_transposed_convolution_leave_out_the_zeros_in_between():
    """Inputs times the filter, however it is computed, with the gradient as dear by either operand."""
    for stride in (1, 2, 3):
        layer = cnn.serial(cnn.conv_transpose(8, 4, stride, padding=1, bias=False))
        (row,) = inspect.summary(layer, image(10)).layers
        assert row.macs == 10 * 10 * 4 * 4 * 3 * 8
        assert row.backward_flops == (row.flops if stride > 1 else pytest.approx(row.flops, rel=0.25))
    both = cnn.serial(cnn.conv(3, 1), cnn.conv_transpose(8, 4, 2, bias=False))
    row = inspect.summary(both, image(10)).layers[1]
    assert row.backward_flops == 2 * row.flops == 4 * 10 * 10 * 16 * 3 * 8


def test_figures_are_the_same_on_every_machine(monkeypatch):
    model = cnn.serial(cnn.conv(4, 3), cnn.max_pool(3, 2), cnn.avg_pool(2), cnn.conv_transpose(3, 4, 2), cnn.relu)
    tables = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        tables.append(inspect.summary(model, image(20)).to_json())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("layer", "forward", "backward"),
    [  # 8x8x4 values; the gradient by the input, since the layer stands behind another
        (cnn.relu, 256, 2 * 256),  # x > 0, and a choice
        (jnp.exp, 256, 256),
        (lambda x: x + x, 256, 256),  # two gradients are added up
        (lambda x: x.sum((1, 2)), 256, 0),
        (cnn.global_max_pool, 256, None),
        (cnn.max_pool(2), 256, 4 * 4 * 4 * 5),  # four places a window; found again, and one more to put it there
        (cnn.sum_pool(2), 256, None),
        (cnn.flatten, 0, 0),
        (lambda x: x.astype(jnp.int32).astype(x.dtype), 0, 0),
        (lambda x: jnp.sort(x, 1), 0, None),
        (lambda x: jnp.cumsum(x, 1), 256, 256),
        (lambda x: jax.lax.cond(x.sum() > 0, jnp.tanh, lambda y: jnp.exp(y) + y, x), 256 + 1 + 512, None),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() > 9, jnp.tanh, x), 256 + 1 + 256, 0),  # it has no gradient
        (cnn.dense(2), 2 * 8 * 8 * 4 * 2 + 128, 4 * 8 * 8 * 4 * 2 + 128),
    ],
)
def test_operations_of_one_layer(layer, forward, backward):
    row = inspect.summary(cnn.serial(cnn.conv(4, 1), layer), image(8)).layers[1]
    assert row.flops == forward
    assert backward in (None, row.backward_flops)


def test_the_backward_pass_of_a_convolution_costs_twice_its_forward_pass_and_the_first_ones_costs_it_once():
    model = cnn.serial(*[cnn.conv(16, 3, stride, padding=1) for stride in (1, 1, 2)], cnn.flatten, cnn.dense(5))
    first, *others = [r for r in inspect.summary(model, image(32)).layers if r.params]
    assert first.backward_flops / first.flops == pytest.approx(1, abs=0.01)
    for row in others:
        assert row.backward_flops / row.flops == pytest.approx(2, abs=0.02)


def test_what_does_not_learn_has_no_gradient():
    rows = inspect.summary(
        cnn.freeze(cnn.serial(a=cnn.conv(4, 3), b=cnn.conv(4, 3), c=cnn.conv(4, 3)), "a", "c"), image(9)
    ).layers
    assert [r.params for r in rows] == [0, 148, 0]
    assert [round(r.backward_flops / r.flops) for r in rows] == [0, 1, 1]
    model = cnn.network(
        lambda net, x: net.b(jax.lax.stop_gradient(net.a(x))), a=cnn.dense(4, bias=False), b=cnn.dense(4, bias=False)
    )
    vector = jax.ShapeDtypeStruct((1, 4), jnp.float32)
    assert [(r.backward_flops, r.held_bytes) for r in inspect.summary(model, vector).layers] == [(0, 0), (32, 16)]
    unused = cnn.network(lambda net, x: (net.a(x), net.b(x))[0], a=cnn.dense(4), b=cnn.dense(4))
    assert [bool(r.backward_flops) for r in inspect.summary(unused, vector).layers] == [True, False]


EXACT = {  # without padding, XLA and the rules here differ in how they count a sum, n or n - 1
    "lenet5": (cnn.models.lenet5(), image(32, channels=1), 0.004),
    "lecture_cnn": (cnn.models.lecture_cnn(), image(32), 0.002),
    "transposed": (cnn.serial(cnn.conv(4, 3), cnn.relu, cnn.conv_transpose(3, 4, 2)), image(32), 0.001),
    "resnet20": (cnn.models.resnet20(), image(32), 0.11),  # XLA leaves out what meets the padding
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("train", [False, True])
def test_operations_and_memory_are_those_of_xla_and_of_jax_vjp(name, train):
    model, x, tolerance = EXACT[name]
    total = inspect.summary(model, x, train=train).total
    params, state = jax.eval_shape(model.init, KEY, x)

    def forward(params, state, x):
        return model.apply(params, state, x, train=train, key=KEY)[0]

    def gradient(params, state, x, ct):
        y, back = jax.vjp(lambda p: forward(p, state, x), params)
        return y, back(ct)

    def counted(function, *args):
        if (found := jax.jit(function).lower(*args).cost_analysis()) is None:
            pytest.skip("XLA does not count on this platform before it has compiled")
        return found["flops"] + found.get("transcendentals", 0)

    with general_form():
        y = jax.eval_shape(forward, params, state, x)
        once, both = counted(forward, params, state, x), counted(gradient, params, state, x, y)
        kept = jax.make_jaxpr(lambda p, s, x: jax.vjp(lambda p: forward(p, s, x), p)[1])(params, state, x).jaxpr
    assert total.flops == pytest.approx(once, rel=tolerance)
    assert total.flops >= once * 0.999
    assert total.flops + total.backward_flops == pytest.approx(both, rel=tolerance)
    # To the byte what `jax.vjp` keeps, beside the variables.
    variables = kept.invars[: len(jax.tree.leaves((params, state)))]
    values = {v for v in kept.outvars if hasattr(v, "aval") and not hasattr(v, "val")} - {*variables, *kept.constvars}
    assert total.held_bytes == sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in values)


def test_training_with_checkpoint_holds_less():
    layers = {f"conv{i}": cnn.conv(4, 3, padding=1) for i in range(4)}

    def run(net, x, wrap):
        return functools.reduce(lambda y, name: wrap(lambda z: jnp.tanh(net[name](z)))(y), layers, x)

    plain = inspect.summary(cnn.network(lambda net, x: run(net, x, lambda f: f), **layers), image(8)).total
    again = inspect.summary(cnn.network(lambda net, x: run(net, x, jax.checkpoint), **layers), image(8)).total
    assert (plain.flops, plain.params) == (again.flops, again.params)
    assert again.backward_flops == plain.backward_flops + plain.flops
    # Only what goes into each part.
    assert again.held_bytes == 4 * 64 * (3 + 4 + 4 + 4) < plain.held_bytes


def test_macs_of_a_trace_are_those_of_its_form():
    """`macs` counts any traced function: oneDNN's convolution as XLA's own."""
    layer, x = cnn.conv(8, 3, 2, padding=1), image(11)
    params, _ = jax.eval_shape(layer.init, KEY, x)
    for context in (general_form, functools.partial(jax.default_matmul_precision, None)):
        with context():
            traced = jax.make_jaxpr(lambda p, x: layer.apply(p, {}, x)[0])(params, x)
        assert macs(traced.jaxpr) == 6 * 6 * 9 * 3 * 8


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
    "pixel by pixel": (cnn.serial(jnp.tanh, jax.lax.stop_gradient, cnn.conv(2, 1), cnn.batch_norm(), cnn.layer_norm(),
                                  cnn.prelu(), cnn.maxout(2), cnn.local_response_norm()), [1] * 8),
    "group norm sees all": (cnn.serial(cnn.conv(4, 3), cnn.group_norm(2)), [3, 31]),
    "global": (cnn.serial(cnn.conv(2, 3), cnn.global_max_pool, cnn.dense(3)), [3, 31, 31]),
    "flattened": (cnn.serial(cnn.conv(2, 3), cnn.flatten, jnp.tanh, cnn.dense(3)), [3, 3, 3, 31]),
    "flattened, then cut": (cnn.serial(cnn.conv(2, 3), cnn.flatten, lambda x: x[:, 5:]), [3, 3, 31]),
    "rows flattened twice": (cnn.serial(cnn.conv(2, 3), lambda x: x.reshape(len(x), 29, 58), cnn.flatten), [3, 3, 3]),
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


PLACES = [  # a network -> the stride and the offset of its last layer, by the formula j = product of S, o = -sum of j P
    (cnn.serial(cnn.conv(2, 3, 2, padding=1), cnn.conv(2, 5, padding=2), cnn.max_pool(3, 2)), 4, -1 - 2 * 2),
    (cnn.serial(cnn.conv(2, (3, 1), (2, 1), padding=(1, 0)), cnn.avg_pool((1, 2))), (2, 2), (-1, 0)),
    (cnn.serial(cnn.conv(2, (3, 2), (1, 2), padding=(1, 0))), (1, 2), (-1, 0)),
    (cnn.serial(cnn.conv(2, 2, padding="SAME"), cnn.conv(2, 3, dilation=3, padding=3)), 1, -3),
    (cnn.serial(cnn.conv(2, 3), cnn.conv_transpose(2, 4, 2)), 0.5, -1),  # the first value sees half of the first window
    (cnn.serial(cnn.conv(2, 3, padding=1), lambda x: x[:, 4::3, 4::3]), 3, 3),
    (cnn.serial(cnn.conv(2, 3, padding=1), cnn.global_avg_pool), 0, -1),
]


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_where_receptive_fields_lie(number):
    model, stride, offset = PLACES[number]
    row = inspect.summary(model, image(20)).layers[-1]
    expected = tuple(v[0] if isinstance(v, tuple) and v[0] == v[1] else v for v in (stride, offset))
    assert (row.receptive_stride, row.receptive_offset) == expected


@pytest.mark.parametrize("number", [0, 1, 2, 6, 7])
def test_receptive_fields_begin_where_the_gradient_does(number):
    model, x = SUPPORT[number], jnp.asarray(normal(0, 1, 32, 32, 2))
    params, state = model.init(KEY, x)
    y, back = jax.vjp(lambda x: model.apply(params, state, x)[0], x)
    row = inspect.summary(model, x).layers[-1]

    def sides(value):
        return value if isinstance(value, tuple) else (value, value)

    stride, offset, field = (sides(v) for v in (row.receptive_stride, row.receptive_offset, row.receptive_field))
    at = tuple(n // 4 * 2 for n in y.shape[1:3])  # even: behind a transposed convolution, where a pixel begins
    depends = np.asarray(back(jnp.zeros_like(y).at[0, *at, 0].set(1.0))[0])[0].any(-1)
    for axis in (0, 1):
        seen = np.flatnonzero(depends.any(1 - axis))
        assert seen[0] == offset[axis] + at[axis] * stride[axis]
        assert seen[-1] - seen[0] + 1 in (field[axis], field[axis] - (stride[axis] < 1))


def test_published_receptive_fields():
    """Araujo, Norris and Sim (2019), table of networks: size, stride, and padding, which is the offset.

    Their ResNets have the stride in the 1x1 convolution, as the paper has it, and a field of 483, 1027 and 1507. In
    torchvision's, where the 3x3 has it, three convolutions see every pixel instead of every second one: it is smaller
    by 2 (4 + 8 + 16) = 56, and the padding by 28; in return the two 1x1 skip none.
    """
    for name, last, expected in [
        ("alexnet_2012", "pool5", (195, 32, 64)),
        ("vgg16", "pool5", (212, 32, 90)),
        ("resnet50", "layer4", (483 - 56, 32, 239 - 26)),
        ("resnet101", "layer4", (1027 - 56, 32, 511 - 26)),
        ("resnet152", "layer4", (1507 - 56, 32, 751 - 26)),
    ]:
        entry = cnn.models.MODELS[name]
        rows = inspect.summary(entry.make(), image(*entry.input), depth=1).rows
        row = next(r for r in rows if r.name == last)
        assert (row.receptive_field, row.receptive_stride, -row.receptive_offset) == expected


# --- the graph ---------------------------------------------------------------------------------------------------

GRAPHS = {
    "lenet5": (cnn.models.lenet5(), [image(32, channels=1)], None),
    "resnet20": (cnn.models.resnet20(), [image(32)], None),
    "googlenet, depth 1": (cnn.models.googlenet(), [image(224)], 1),
    "googlenet, depth 2": (cnn.models.googlenet(), [image(224)], 2),
    "an inception module": (inception(conv_relu, 5, 64, 96, 128, 16, 32, 32), [image(28, channels=192)], 2),
    "an inception module, all": (inception(conv_bn, 5, 64, 96, 128, 16, 32, 32), [image(28, channels=192)], None),
    "a nest": (NESTED, [image(8)], None),
    "a leaf": (cnn.conv(3, 3), [image(8)], None),
    "several inputs and outputs": (
        cnn.network(
            lambda net, a, b: {"sum": net.own(a) + net.other(b), "product": net.own(a) * 2, "as it is": b},
            own=cnn.conv(3, 1), other=cnn.conv(3, 1),
        ), [image(8), image(8)], None,
    ),
    "densely connected": (
        cnn.network(lambda net, x: functools.reduce(lambda xs, n: cnn.concat(xs, net[n](xs)), "abcd", x),
                    **{n: cnn.conv(4, 3, padding=1) for n in "abcd"}), [image(8)], None,
    ),
    "crossing": (
        cnn.network(lambda net, x: net.c(net.a(x)) * net.d(net.b(x)) + net.b(x) + net.e(jnp.tanh(net.a(x)) + x),
                    **{n: cnn.conv(3, 3, padding=1) for n in "abcde"}), [image(8)], None,
    ),
}  # fmt: skip


def placed(model, inputs, depth):
    traced = outline_of(model, *inputs)
    made = graph._Builder(traced, depth).graph(traced.root, inspect.summary(model, *inputs).total)
    graph_layout.place(made, columns=True)
    return made


def frames(made):
    yield made
    for node in made.nodes:
        if node.inner is not None:
            yield from frames(node.inner)


def edges(made):
    def name(node):
        return node.texts[0][0] if node.texts else node.kind

    return {(name(a), name(b)) for a, b in made.edges}


@pytest.mark.parametrize("name", GRAPHS)
def test_no_edge_crosses_a_box_and_no_box_another(name):
    for made in frames(placed(*GRAPHS[name])):
        boxes = [n for n in made.nodes if not n.thin]
        for i, a in enumerate(boxes):
            assert a.x - a.width / 2 >= -1e-6
            assert a.x + a.width / 2 <= made.width + 1e-6
            assert a.y + a.height <= made.height + 1e-6
            for b in boxes[:i]:
                apart = abs(a.x - b.x) >= (a.width + b.width) / 2
                assert apart or a.y >= b.y + b.height or b.y >= a.y + a.height
        assert len(made.lines) == len(made.edges)
        for points, _ in made.lines:
            for (x, y), (u, v) in pairwise(points):
                for t in np.linspace(0, 1, 60):
                    s = 3 * t**2 - 2 * t**3  # the S between two lanes: control points at half the height
                    at = x + (u - x) * s, y + (v - y) * (1.5 * t * (1 - t) + t**3)
                    for box in boxes:
                        inside = abs(at[0] - box.x) < box.width / 2 - 1e-6 and box.y + 1e-6 < at[1]
                        assert not (inside and at[1] < box.y + box.height - 1e-6)


def test_edges_are_where_the_values_go():
    assert edges(placed(*GRAPHS["lenet5"])) == set(pairwise(["input", *cnn.models.lenet5().sublayers, "output"]))
    made = placed(*GRAPHS["an inception module"])
    branches = [f"branch{i}" for i in (1, 2, 3, 4)]
    assert edges(made) == {("concat", "output"), *(("input", b) for b in branches), *((b, "concat") for b in branches)}
    block = next(
        f for f in frames(placed(*GRAPHS["resnet20"])) if any(n.texts and n.texts[0][0] == "+" for n in f.nodes)
    )
    assert edges(block) == {
        ("port", "conv1"), ("conv1", "bn1"), ("bn1", "relu"), ("relu", "conv2"), ("conv2", "bn2"), ("bn2", "+"),
        ("port", "+"), ("+", "relu"), ("relu", "port"),
    }  # fmt: skip
    assert edges(placed(NESTED, [image(8)], 1)) == {("input", "stem"), ("stem", "block"), ("block", "output")}
    several = edges(placed(*GRAPHS["several inputs and outputs"]))
    assert several == {
        ("input", "own"), ("input", "other"), ("own", "+"), ("other", "+"), ("+", "output"), ("own", "output"),
        ("input", "output"),
    }  # fmt: skip


def test_boxes_say_what_the_layer_is_and_are_coloured_by_what_it_computes():
    def own(params, state, x, **_):
        return jax.lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ), state

    model = cnn.serial(
        own=cnn.Layer(lambda key, x: ({"w": jnp.ones((3, 3, 3, 4))}, {}), own), bn=cnn.batch_norm(), act=cnn.relu,
        pool=cnn.max_pool(2), drop=cnn.dropout(0.5), norm=cnn.local_response_norm(), mean=cnn.global_avg_pool,
        head=cnn.dense(7), probabilities=jax.nn.sigmoid,
    )  # fmt: skip
    made = placed(model, [image(8)], None)
    kinds = {n.texts[0][0]: n.kind for n in made.nodes}
    assert kinds == {
        "input": "plain", "own": "convolution", "bn": "normalization", "act": "activation", "pool": "pooling",
        "drop": "other", "norm": "normalization", "mean": "pooling", "head": "dense", "probabilities": "activation",
        "output": "plain",
    }  # fmt: skip
    texts = {n.texts[0][0]: n.texts for n in made.nodes}
    assert texts["head"] == (("head", "dense(7)"), ("7", "35"))
    assert texts["bn"] == (("bn", "batch_norm()"), ("8x8x4", "8"))
    shared = cnn.network(lambda net, x: net.a(net.a(x)), a=cnn.conv(3, 1))
    assert [n.texts[1][1] for n in placed(shared, [image(8)], None).nodes[1:3]] == ["12", "shared"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_the_graph_is_saved(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    figure = inspect.draw_graph(cnn.models.lenet5(), image(32, channels=1), path=path)
    assert isinstance(figure, Figure)
    assert path.stat().st_size > 5000
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[0] == "lenet5(): 61,706 parameters, 416,520 MACs"
    assert {"conv1", "28x28x6", "48,120", "avg_pool(2)", "convolution", "dense"} <= set(texts)
    assert inspect.summary(cnn.models.lenet5(), image(32, channels=1)).draw().get_size_inches()[1] > 5


def test_figures_without_a_grid_are_drawn_under_a_constrained_layout(tmp_path):
    """Matplotlib warns, and warnings are errors here, where a constrained layout finds nothing to lay out."""
    right = data.Dataset(np.zeros((1, 4, 4, 1), np.uint8), np.array([0]), ("a", "b"))
    with matplotlib.rc_context({"figure.constrained_layout.use": True}):
        inspect.draw_graph(cnn.dense(3), jax.ShapeDtypeStruct((1, 4), np.float32), path=tmp_path / "net.png")
        plots.mistakes(right, np.array([[0.9, 0.1]])).savefig(tmp_path / "none.png")


def test_a_graph_that_cannot_be_saved_is_told_before_anything_is_computed(tmp_path):
    with pytest.raises(UserError, match=r"net\.jpg: a graph is drawn as \.png, \.svg or \.pdf$"):
        inspect.draw_graph(None, path=tmp_path / "net.jpg")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere$"):
        inspect.draw_graph(None, path=tmp_path / "nowhere" / "net.png")


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
    assert [text.get_text() for text in figure.axes[0].texts] == ["a → b  95 %", "b → a  80 %"]
    assert figure.get_suptitle().startswith("2 mistakes")
    assert len(plots.mistakes(DIGITS, PROBABILITIES, most=5).axes[0].images) == 5


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


def test_a_shape_stands_for_one_image_and_a_name_for_its_row():
    table = inspect.summary(cnn.models.resnet20(), (32, 32, 3))
    assert table == inspect.summary(cnn.models.resnet20(), image(32))
    assert table["conv1"].params == 3 * 3 * 3 * 16
    assert table["layer2"].params == sum(row.params for row in table["layer2"].children)
    with pytest.raises(UserError, match="unknown layer 'conv9': did you mean conv1"):
        table["conv9"]
