"""Transformations in any order; what a Layer is as a value: equal, hashed, copied, pickled, named in the HLO."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import alike, close, normal, same

import jaxcnn as cnn
from jaxcnn.core import as_layer, leaves, map_leaves
from jaxcnn.errors import UserError
from jaxcnn.transforms import adapt, member, members

KEY = jax.random.key(0)
X = jnp.asarray(normal(0, 4, 8, 8, 2))


@cnn.layer
def small(width: int = 4) -> cnn.Layer:
    block = cnn.residual(cnn.serial(conv=cnn.conv(width, 3, padding=1, bias=False), bn=cnn.batch_norm()))
    return cnn.serial(
        stem=cnn.conv(width, 3, padding=1), block=block, act=jax.nn.relu, drop=cnn.dropout(0.25), flat=cnn.flatten,
        fc=cnn.dense(3),
    )  # fmt: skip


TRANSFORMS = {
    "freeze": lambda model: cnn.freeze(model, "stem", "block"),
    "freeze all": cnn.freeze,
    "mixed_precision": cnn.mixed_precision,
    "remat": lambda model: cnn.remat(model, "block"),
    "remat all": cnn.remat,
    "synchronized": lambda model: cnn.synchronized(model, "batch"),
    "ensemble": lambda model: cnn.ensemble(model, 2),
}
PAIRS = list(itertools.product(TRANSFORMS, repeat=2))


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def plain():
    """Variables of the plain network that are neither 0 nor 1, and its outputs."""
    params, state = small().init(KEY, X)
    state = jax.tree.map(lambda v: v + 0.5, state)
    return params, state, small().apply(params, state, X)[0]


def variables_of(model):
    params, state, _ = plain()
    single = model
    while (count := members(single)) is not None:
        params, state = jax.tree.map(lambda v, count=count: jnp.stack([v] * count), (params, state))
        single = member(single)
    return adapt(model, params, state)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}, {b}" for a, b in PAIRS])
def test_two_transformations_in_any_order(first, second):
    """Same variables under the same paths, the same outputs; a gradient for what learns and for nothing else."""
    model = TRANSFORMS[second](TRANSFORMS[first](small()))
    assert [path for path, _ in leaves(model)] == [path for path, _ in leaves(small())]
    assert model.original == small()
    given = variables_of(model)
    made = jax.eval_shape(model.init, KEY, X)
    assert jax.tree.map(lambda v: (v.shape, v.dtype), made) == jax.tree.map(lambda v: (v.shape, v.dtype), given)

    outputs, state = jax.jit(model.apply)(*given, X)
    expected = plain()[2]
    if "ensemble" in (first, second):  # the vote of equal networks is one network's answer
        expected, outputs = jax.nn.log_softmax(expected), jax.nn.log_softmax(outputs)
    half = "mixed_precision" in (first, second)
    assert outputs.dtype == jnp.float32
    close(outputs, expected, 3e-2 if half else 1e-5)  # bfloat16 has 8 bits, and the network three layers
    same(state, given[1])  # an evaluation changes nothing

    def loss(params):
        outputs, state = model.apply(params, given[1], X, train=True, key=KEY)
        return sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(outputs)), state

    if "synchronized" in (first, second):
        loss = jax.vmap(loss, axis_name="batch", in_axes=None, axis_size=1, out_axes=0)
        total = lambda params: jax.tree.map(lambda v: v[0], loss(params))  # noqa: E731
    else:
        total = loss
    gradient, state = jax.jit(jax.grad(total, has_aux=True))(given[0])
    assert jax.tree.structure(gradient) == jax.tree.structure(given[0])
    assert all(
        np.abs(np.asarray(g)).max() > 0 for path, g in jax.tree.leaves_with_path(gradient) if "bn" not in str(path)
    )
    assert jax.tree.structure(state) == jax.tree.structure(given[1])
    assert [v.dtype for v in jax.tree.leaves(state)] == [v.dtype for v in jax.tree.leaves(given[1])]
    frozen = {"freeze": ["fc"], "freeze all": []}.get(first if first.startswith("freeze") else second)
    if frozen is not None and "freeze all" in (first, second):
        frozen = []
    assert sorted(gradient) == (["block", "fc", "stem"] if frozen is None else frozen)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}, {b}" for a, b in PAIRS])
def test_summary_and_weights_of_two_transformations(first, second, tmp_path):
    model = TRANSFORMS[second](TRANSFORMS[first](small()))
    if "ensemble" not in (first, second):
        table = cnn.inspect.summary(model, X)
        assert [row.name for row in table.rows] == [row.name for row in cnn.inspect.summary(small(), X).rows]
        assert table.macs == cnn.inspect.summary(small(), X).macs
    params, state, _ = plain()
    cnn.weights.save(small(), params, state, tmp_path / "w.safetensors", input=(8, 8, 2), names={})
    loaded = cnn.weights.load(model, tmp_path / "w.safetensors", input=(8, 8, 2), names={})
    same(loaded, variables_of(model))
    fresh = cnn.weights.load(model, tmp_path / "w.safetensors", input=(8, 8, 2), names={}, fresh="fc")
    assert jax.tree.structure(fresh) == jax.tree.structure(loaded)


def test_a_member_of_an_ensemble_in_wrappers():
    model = cnn.mixed_precision(cnn.remat(cnn.ensemble(small(), 3), "block"))
    assert members(model) == 3
    assert members(small()) is None
    assert member(model) == cnn.mixed_precision(cnn.remat(small(), "block"))


def test_a_layer_scale_and_what_follows_it_are_computed_in_half_precision():
    seen = {}

    def look(name):
        def record(x):
            seen[name] = x.dtype
            return x

        return record

    def init(key, x):
        return {"scale": jnp.full(x.shape[-1:], 1e-2)}, {}

    def apply(params, state, x, train=False, key=None):
        return x * params["scale"], state

    model = cnn.serial(
        conv1=cnn.conv(4, 3), a=look("conv1"), scale=cnn.Layer(init, apply), b=look("scale"), conv2=cnn.conv(4, 3),
        c=look("conv2"), bn=cnn.batch_norm(scale=False), d=look("bn"),
    )  # fmt: skip
    half = cnn.mixed_precision(model)
    params, state = half.init(KEY, X)
    params["bn"]["bias"] = jnp.full(4, 1 + 2**-12)  # bfloat16 has no such number
    seen.clear()
    outputs, _ = half.apply(params, state, X)
    assert set(seen.values()) == {jnp.bfloat16.dtype}
    assert outputs.dtype == jnp.float32
    zero = jax.tree.map(jnp.zeros_like, params) | {"bn": params["bn"]}
    gradient = jax.grad(lambda p: half.apply(p, state, X)[0].sum())(zero)
    assert gradient["bn"]["bias"].dtype == jnp.float32


def test_normalizations_keep_float32_variables():
    seen = []

    def spy(path, leaf):
        def apply(params, state, *inputs, train=False, key=None):
            seen.extend((path, v.dtype) for v in jax.tree.leaves((params, state)))
            return leaf.apply(params, state, *inputs, train=train, key=key)

        return leaf if leaf.is_function else leaf.replace(apply=apply)

    model = cnn.serial(
        conv=cnn.conv(4, 3), bn=cnn.batch_norm(scale=False), ln=cnn.layer_norm(scale=False), gn=cnn.group_norm(2)
    )
    half = cnn.mixed_precision(map_leaves(model, spy))
    variables = model.init(KEY, X)
    seen.clear()
    half.apply(*variables, X)
    assert dict(seen) == {
        "conv": jnp.bfloat16, "bn": jnp.float32, "ln": jnp.float32, "gn": jnp.float32
    }  # fmt: skip


def test_a_layer_whose_function_was_replaced_keeps_the_new_one():
    """Also in half precision, and it is no longer equal to the layer that its first call makes."""
    layer = cnn.conv(4, 3)
    doubled = layer.replace(apply=lambda params, state, x, train=False, key=None: (2 * x, state))
    assert doubled != layer
    assert (doubled.kind, doubled.call) == ("conv", None)
    half = cnn.mixed_precision(cnn.serial(conv=doubled))
    variables = half.init(KEY, X)
    same(half.apply(*variables, X)[0], 2 * X.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_convolution_rounds_its_own_kernel(dtype: str, frozen: bool):
    """The outputs are those of a rounded kernel, to the last bit; the gradient is float32 (3e-2: 8 bits)."""
    model = cnn.serial(conv=cnn.conv(4, 3, padding=1), next=cnn.conv(2, 3), head=cnn.global_avg_pool)
    model = cnn.freeze(model, "conv") if frozen else model
    half = cnn.mixed_precision(model, dtype)
    params, state = half.init(KEY, X)

    def loss(params, of, state=state):
        return jnp.square(of.apply(params, state, X)[0]).sum()

    rounded = jax.tree.map(lambda v: v.astype(dtype).astype(jnp.float32), (params, state))
    alike(half.apply(params, state, X)[0], half.apply(*rounded, X)[0])
    found, expected = jax.grad(loss)(params, half), jax.grad(loss)(params, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    close(found, expected, 3e-2)


def test_layers_that_are_kept_in_float32():
    model = cnn.mixed_precision(small(), keep=("block", "fc"))
    half = cnn.mixed_precision(cnn.serial(stem=cnn.conv(4, 3, padding=1)))
    params, state, _ = plain()
    x = half.apply({"stem": params["stem"]}, {}, X)[0]
    rest = {name: layer for name, layer in small().sublayers.items() if name != "stem"}
    expected = cnn.serial(**rest).apply({k: v for k, v in params.items() if k != "stem"}, state, x)[0]
    same(model.apply(params, state, X)[0], expected)
    with pytest.raises(UserError, match="unknown layer 'blok': did you mean block"):
        cnn.mixed_precision(small(), keep=("blok",))


def test_coordinates_are_not_rounded():
    """Boxes go through a network of images and boxes as they came."""

    def forward(net, images, boxes):
        return net.conv(images), boxes

    model = cnn.mixed_precision(cnn.network(forward, conv=cnn.conv(2, 3)))
    boxes = jnp.asarray([[301.0, 3.0, 603.0, 61.0]])
    params, state = model.init(KEY, X, boxes)
    same(model.apply(params, state, X, boxes)[0][1], boxes)


# --- a Layer is a value ------------------------------------------------------------------------------------------


def initializer():
    return jax.nn.initializers.he_normal()


@pytest.mark.parametrize(
    "make",
    [
        lambda: cnn.conv(4, 3, padding=1),
        lambda: cnn.conv(4, (3, 3), kernel_init=initializer()),
        lambda: cnn.serial(cnn.conv(4, 3), jax.nn.relu, cnn.flatten, out=cnn.dense(3)),
        small,
        lambda: cnn.models.resnet18(classes=3, width=8),
        *(lambda wrap=wrap: wrap(small()) for wrap in TRANSFORMS.values()),
    ],
)
def test_layers_made_by_equal_calls_are_equal(make):
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != cnn.conv(5, 3)


def test_layers_made_by_other_calls_differ():
    layers = [
        cnn.conv(4, 3), cnn.conv(4, 3, 1), cnn.conv(4, 3, bias=False), cnn.dense(4), as_layer(jax.nn.relu), small(4),
        small(5), cnn.freeze(small()), cnn.freeze(small(), "fc"), cnn.mixed_precision(small()),
        cnn.mixed_precision(small(), jnp.float16), cnn.serial(a=jax.nn.relu, b=jnp.tanh),
        cnn.serial(b=jnp.tanh, a=jax.nn.relu), cnn.Layer(lambda key, x: ({}, {}), lambda p, s, x: (x, s)),
        cnn.conv(4, 3, kernel_init=lambda key, shape: jnp.ones(shape)),
    ]  # fmt: skip
    for a, b in itertools.combinations(layers, 2):
        assert a != b, (a, b)
    with_array = cnn.serial(functools.partial(jnp.add, jnp.ones(3)))
    assert with_array == with_array
    assert with_array != cnn.serial(functools.partial(jnp.add, jnp.ones(3)))  # arrays are not compared


def test_a_user_s_own_layer_equals_the_same_made_again():
    def scaled(factor):
        def init(key, x):
            return {}, {}

        def apply(params, state, x, train=False, key=None):
            return factor * x, state

        return cnn.Layer(init, apply)

    assert scaled(2.0) == scaled(2.0)
    assert scaled(2.0) != scaled(3.0)
    assert scaled(2) != scaled(2.0)


def test_static_argnums_compile_once():
    compiled = []

    @functools.partial(jax.jit, static_argnums=0)
    def apply(model, params, state, x):
        compiled.append(model)
        return model.apply(params, state, x)[0]

    params, state, _ = plain()
    for _ in range(3):
        apply(small(), params, state, X)
    assert len(compiled) == 1
    apply(small(4), params, state, X)  # another call, the same layer
    assert len(compiled) == 2


@pytest.mark.parametrize("wrap", [lambda model: model, *TRANSFORMS.values()])
def test_copies_and_pickles(wrap):
    model = wrap(small())
    assert copy.deepcopy(model) is model
    assert copy.copy(model) is model
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert repr(again) == repr(model)


def test_a_config_that_holds_a_layer_becomes_a_dict():
    @dataclasses.dataclass
    class Config:
        model: cnn.Layer
        epochs: int = 3

    config = Config(small())
    assert dataclasses.asdict(config) == {"model": small(), "epochs": 3}


def module_level(x):
    return 2 * x


def test_networks_of_functions_are_pickled():
    model = cnn.serial(cnn.conv(2, 3), jax.nn.relu, jnp.tanh, module_level, pool=cnn.max_pool(2))
    again = pickle.loads(pickle.dumps(model))
    assert repr(again) == repr(model)
    variables = model.init(KEY, X)
    same(again.apply(*variables, X), model.apply(*variables, X))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(cnn.serial(lambda x: x))


def test_layer_paths_are_names_in_the_program():
    params, state, _ = plain()
    # A batch that no other test has: names are no part of the compilation cache's key.
    lowered = jax.jit(small().apply).lower(params, state, jnp.concatenate([X] * 7))
    text = lowered.compile().as_text()
    for path in ("stem", "block/body/conv", "fc"):
        assert f"/{path}/" in text, path


def test_map_leaves():
    def leaky(path, leaf):
        return as_layer(functools.partial(jax.nn.leaky_relu, negative_slope=0.5)) if leaf.kind == "relu" else leaf

    model = map_leaves(small(), leaky)
    params, state, _ = plain()
    expected = cnn.serial(**{**small().sublayers, "act": lambda x: jnp.where(x > 0, x, 0.5 * x)})
    same(model.apply(params, state, X)[0], expected.apply(params, state, X)[0])
    assert map_leaves(model, lambda path, leaf: leaf) is model
    assert model.original == small()
    seen = []
    map_leaves(small(), lambda path, leaf: seen.append(path) or leaf)
    assert seen == ["stem", "block/body/conv", "block/body/bn", "act", "drop", "flat", "fc"]
    with pytest.raises(cnn.LayerError, match="map_leaves takes a Layer first, got 3"):
        map_leaves(3, leaky)
