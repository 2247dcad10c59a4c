"""Layers as values: naming, variables, keys, composition, and what is said when something is wrong."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import alike, close, normal, same, shapes, size
from jax.nn import initializers

import jaxcnn as cnn
from jaxcnn.core import EvaluationOnly, as_layer, cache, fold_in, shapes_of, watch

KEY = jax.random.key(0)
IMAGES = normal(0, 2, 8, 8, 3)


def small_net() -> cnn.Layer:
    """One of each kind: parameters, state, randomness, a nest, a plain function."""
    return cnn.serial(
        conv1=cnn.conv(4, 3, padding=1, bias=False),
        block=cnn.residual(cnn.serial(bn=cnn.batch_norm(), act=jax.nn.relu, fc=cnn.dense(4))),
        pool=cnn.avg_pool(2),
        drop=cnn.dropout(0.5),
        flat=cnn.flatten,
        head=cnn.dense(10),
    )


# --- names and variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (cnn.serial(b=cnn.dense(2), a=cnn.dense(3)), "b a"),
        (
            cnn.serial(cnn.conv(6, 5), jnp.tanh, cnn.conv(16, 5), cnn.flatten, cnn.dense(10)),
            "conv1 tanh1 conv2 flatten1 dense1",
        ),
        (cnn.serial(cnn.conv(6, 5), head=cnn.dense(10)), "conv1 head"),
        (cnn.serial(lambda x: x, lambda x: x + 1), "lambda1 lambda2"),
        (cnn.serial(functools.partial(jax.nn.leaky_relu, negative_slope=0.1), jax.jit(jnp.sin)), "leaky_relu1 sin1"),
        (cnn.serial(cnn.Layer(lambda key, x: ({}, {}), lambda p, s, x, **_: (x, s))), "layer1"),
        (
            cnn.serial(cnn.serial(jnp.tanh), cnn.residual(jnp.tanh), cnn.parallel(jnp.tanh)),
            "serial1 residual1 parallel1",
        ),
        (cnn.residual(jnp.tanh), "body"),
        (cnn.residual(jnp.tanh, jnp.sin), "body shortcut"),
        (cnn.network(lambda net, x: x, forward=jnp.tanh, init=jnp.tanh), "forward init"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_sublayers_are_named_by_keyword_or_counted_by_kind_in_the_order_of_the_code(model, names):
    assert list(model.sublayers) == names.split()


def test_variables_are_nested_dicts_named_as_the_code_names_the_layers():
    params, state = small_net().init(KEY, IMAGES)
    assert shapes(params) == {
        "conv1/kernel": (3, 3, 3, 4),
        "block/body/bn/scale": (4,),
        "block/body/bn/bias": (4,),
        "block/body/fc/kernel": (4, 4),
        "block/body/fc/bias": (4,),
        "head/kernel": (64, 10),
        "head/bias": (10,),
    }
    assert shapes(state) == {"block/body/bn/mean": (4,), "block/body/bn/var": (4,)}
    # Layers without variables leave no entry, at no depth.
    assert set(params) == {"conv1", "block", "head"}
    assert set(params["block"]["body"]) == {"bn", "fc"}
    assert set(state) == {"block"}
    assert as_layer(jnp.tanh).init(KEY, IMAGES) == cnn.serial(jnp.tanh).init(KEY, IMAGES) == ({}, {})


def test_order_comes_from_the_code_not_from_sorted_keys():
    model = cnn.serial(z=cnn.dense(3), a=cnn.dense(5))
    params, state = model.init(KEY, jnp.ones((2, 7)))
    assert shapes(params) == {"z/kernel": (7, 3), "z/bias": (3,), "a/kernel": (3, 5), "a/bias": (5,)}
    through_jit = jax.jit(lambda p: p)(params)  # comes back with sorted keys
    assert list(through_jit) == ["a", "z"]
    assert model.apply(through_jit, state, jnp.ones((2, 7)))[0].shape == (2, 5)


def test_a_layers_weights_depend_on_its_name_alone():
    alone = cnn.serial(first=cnn.dense(4), last=cnn.dense(2)).init(KEY, jnp.ones((1, 4)))[0]
    longer = cnn.serial(
        first=cnn.dense(4), act=jnp.tanh, norm=cnn.batch_norm(), extra=cnn.dense(4), last=cnn.dense(2)
    ).init(KEY, jnp.ones((1, 4)))[0]
    same({name: longer[name] for name in alone}, alone)
    assert not np.array_equal(longer["extra"]["kernel"], longer["first"]["kernel"])


def test_init_of_a_network_is_init_of_its_parts_with_the_key_folded_in_by_name():
    body = cnn.serial(conv=cnn.conv(4, 3, kernel_init=initializers.he_normal()), norm=cnn.batch_norm())
    params, state = cnn.serial(inner=cnn.serial(body=body)).init(KEY, IMAGES)
    key = fold_in(fold_in(KEY, "inner"), "body")
    alike((params["inner"]["body"], state["inner"]["body"]), body.init(key, IMAGES))
    leaf = cnn.conv(4, 3, kernel_init=initializers.he_normal())
    alike(params["inner"]["body"]["conv"], leaf.init(fold_in(key, "conv"), IMAGES)[0])


@pytest.mark.parametrize(
    "example",
    [
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.full((2, 8, 8, 3), np.nan, np.float32),
    ],
    ids=["struct", "uint8-struct", "uint8-images", "nan-images"],
)
def test_init_reads_shapes_only_and_uint8_stands_for_a_float_image(example):
    same(small_net().init(KEY, example), small_net().init(KEY, IMAGES))


def test_init_does_no_arithmetic_on_images():
    # 200 GB of input: anything computed on it would not end well.
    params, _ = cnn.serial(cnn.conv(8, 3), jax.nn.relu, cnn.global_avg_pool, cnn.dense(2)).init(
        KEY, jax.ShapeDtypeStruct((1024, 4096, 4096, 3), jnp.float32)
    )
    assert size(params) == 3 * 3 * 3 * 8 + 8 + 8 * 2 + 2


def test_init_calls_the_forward_function_once_however_deep_the_nest():
    calls = []

    def forward(net, x):
        calls.append(x.shape)
        return net.inner(x)

    model = functools.reduce(lambda inner, _: cnn.network(forward, inner=inner), range(5), cnn.dense(3))
    model.init(KEY, jnp.ones((1, 4)))
    assert calls == [(1, 4)] * 5


@pytest.mark.parametrize("first", [jnp.float32, jnp.bfloat16], ids=str)
def test_layers_share_a_compiled_init_only_when_their_initializers_are_equal(first):
    # The dtype of JAX's initializers is a default argument of the function that they return.
    second = jnp.bfloat16 if first == jnp.float32 else jnp.float32
    for scale, dtype in [(0.125, first), (0.125, second), (8.0, second)]:
        model = cnn.serial(cnn.dense(50, kernel_init=initializers.uniform(scale, dtype)))
        kernel = model.init(KEY, jnp.ones((1, 7)))[0]["dense1"]["kernel"]
        assert kernel.dtype == dtype
        assert scale / 2 < kernel.max() <= scale


def test_init_inside_jit_gives_the_same_numbers():
    model = cnn.serial(cnn.dense(3), cnn.batch_norm())
    same(jax.jit(model.init)(KEY, IMAGES), model.init(KEY, IMAGES))


def test_a_graph_as_large_as_resnet152():
    def bottleneck(features: int, stride: int, project: bool) -> cnn.Layer:
        body = cnn.serial(
            conv1=cnn.conv(features, 1, bias=False), bn1=cnn.batch_norm(), act1=jax.nn.relu,
            conv2=cnn.conv(features, 3, stride, 1, bias=False), bn2=cnn.batch_norm(), act2=jax.nn.relu,
            conv3=cnn.conv(4 * features, 1, bias=False), bn3=cnn.batch_norm(),
        )  # fmt: skip
        shortcut = cnn.serial(cnn.conv(4 * features, 1, stride, bias=False), cnn.batch_norm()) if project else None
        return cnn.serial(cnn.residual(body, shortcut), jax.nn.relu)

    def stage(features: int, blocks: int, stride: int) -> cnn.Layer:
        return cnn.serial(*(bottleneck(features, 1 if i else stride, i == 0) for i in range(blocks)))

    model = cnn.serial(
        stem=cnn.serial(cnn.conv(64, 7, 2, 3, bias=False), cnn.batch_norm(), jax.nn.relu, cnn.max_pool(3, 2, 1)),
        stage1=stage(64, 3, 1),
        stage2=stage(128, 8, 2),
        stage3=stage(256, 36, 2),
        stage4=stage(512, 3, 2),
        pool=cnn.global_avg_pool,
        head=cnn.dense(1000),
    )
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, KEY, image)
    assert size(params) == 60_192_808
    assert size(state) == 2 * 75_712  # mean and var of every normalized channel
    assert jax.eval_shape(model.apply, params, state, image)[0].shape == (1, 1000)


# --- what a Layer is ---------------------------------------------------------------------------------------------


MODELS = [
    cnn.conv(6, (5, 3), stride=2, padding="SAME", bias=False),
    cnn.conv(6, 3, padding=((0, 1), (2, 3)), dilation=2, groups=3),
    cnn.serial(cnn.conv(6, 5), cnn.relu, cnn.max_pool(3, 2, ceil=True), cnn.flatten, cnn.dense(10)),
    cnn.serial(conv1=cnn.conv(6, 5), norm=cnn.batch_norm(momentum=0.99), drop=cnn.dropout(0.5)),
    cnn.residual(cnn.serial(cnn.conv(8, 3, padding=1), cnn.relu), shortcut=cnn.conv(8, 1)),
    cnn.residual(cnn.tanh),
    cnn.parallel(cnn.conv(8, 1), wide=cnn.conv(8, 3, padding=1), join=cnn.concat),
    cnn.parallel(cnn.relu, cnn.sigmoid),
    cnn.serial(functools.partial(cnn.softmax)),
    cnn.layer_norm(axes=(-3, -2, -1)),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_repr_is_the_code_that_makes_the_layer(model):
    copy = eval(repr(model), vars(cnn) | {"partial": functools.partial})
    assert repr(copy) == repr(model)
    assert list(copy.sublayers) == list(model.sublayers)
    same(copy.init(KEY, jnp.ones((1, 16, 16, 3))), model.init(KEY, jnp.ones((1, 16, 16, 3))))


def test_repr_breaks_long_lines_and_names_functions():
    def forward(net, x):
        return net.a(x)

    assert repr(cnn.serial(cnn.conv(6, 5), jax.nn.relu, fc=cnn.dense(10))) == "serial(conv(6, 5), relu, fc=dense(10))"
    assert repr(cnn.network(forward, a=jnp.tanh)).endswith("forward, a=tanh)")
    assert repr(cnn.serial(functools.partial(jax.nn.elu, alpha=2.0))) == "serial(partial(elu, alpha=2.0))"
    branch = cnn.serial(cnn.conv(64, 1), cnn.conv(96, 3, padding="SAME"), cnn.relu)
    assert (
        repr(cnn.serial(cnn.parallel(branch, branch, join=cnn.concat), head=cnn.dense(10)))
        == """serial(
  parallel(
    serial(conv(64, 1), conv(96, 3, padding='SAME'), relu),
    serial(conv(64, 1), conv(96, 3, padding='SAME'), relu),
    join=concat,
  ),
  head=dense(10),
)"""
    )


def test_a_makers_repr_is_its_own_call():
    @cnn.layer
    def block(features: int, *, act=jax.nn.relu) -> cnn.Layer:
        return cnn.serial(conv=cnn.conv(features, 3), act=act)

    assert repr(block(8)) == "block(8)"
    assert repr(cnn.serial(block(8), block(8, act=jnp.tanh))) == "serial(block(8), block(8, act=tanh))"
    assert list(cnn.serial(block(8), block(4)).sublayers) == ["block1", "block2"]
    assert list(block(8).sublayers) == ["conv", "act"]


def test_a_layer_is_immutable():
    model = small_net()
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.init = None
    with pytest.raises(TypeError, match="item assignment"):
        model.sublayers["conv1"] = cnn.conv(1, 1)


def test_apply_changes_none_of_its_arguments():
    model = small_net()
    params, state = model.init(KEY, IMAGES)
    before = jax.tree.map(np.array, (params, state))
    _, new_state = model.apply(params, state, IMAGES, train=True, key=KEY)
    same((params, state), before)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert not np.array_equal(new_state["block"]["body"]["bn"]["mean"], state["block"]["body"]["bn"]["mean"])


def test_a_layer_of_ones_own_is_two_functions():
    # A learned temperature, and how often it was used.
    def init(key, x):
        return {"log": jnp.zeros(x.shape[-1:])}, {"uses": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, train=False, key=None):
        return x * jnp.exp(params["log"]), {"uses": state["uses"] + train}

    model = cnn.serial(cnn.dense(3), temperature=cnn.Layer(init, apply))
    params, state = model.init(KEY, jnp.ones((2, 5)))
    assert shapes(params) == {"dense1/kernel": (5, 3), "dense1/bias": (3,), "temperature/log": (3,)}
    for train, uses in [(True, 1), (False, 1), (True, 2)]:
        _, state = model.apply(params, state, jnp.ones((2, 5)), train=train)
        assert state == {"temperature": {"uses": uses}}


# --- composition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [jnp.tanh, functools.partial(jnp.power, 2.0), lambda x: x[:, ::-1]])
def test_a_plain_function_is_a_layer(function):
    x = normal(1, 2, 3)
    same(cnn.serial(function).apply({}, {}, x), (function(x), {}))
    same(as_layer(function).apply({}, {}, x), (function(x), {}))


def test_serial_is_the_composition_of_its_layers():
    conv, head = cnn.conv(4, 3), cnn.dense(2)
    model = cnn.serial(conv, jnp.tanh, cnn.flatten, head)
    params, state = model.init(KEY, IMAGES)
    y = conv.apply(params["conv1"], {}, IMAGES)[0]
    expected = head.apply(params["dense1"], {}, jnp.tanh(y).reshape(2, -1))
    same(model.apply(params, state, IMAGES), expected)


@pytest.mark.parametrize(
    ("join", "expected"),
    [(None, lambda a, b: (a, b)), (cnn.concat, lambda a, b: np.concatenate([a, b], -1)), (operator.add, operator.add)],
    ids=["tuple", "concat", "add"],
)
def test_parallel_gives_a_tuple_or_what_join_makes_of_it(join, expected):
    one, three = cnn.conv(4, 1), cnn.conv(4, 3, padding=1)
    model = cnn.parallel(one, three, join=join)
    params, state = model.init(KEY, IMAGES)
    a, b = one.apply(params["conv1"], {}, IMAGES)[0], three.apply(params["conv2"], {}, IMAGES)[0]
    same(model.apply(params, state, IMAGES)[0], expected(a, b))


@pytest.mark.parametrize("shortcut", [None, cnn.conv(3, 1)], ids=["identity", "projection"])
def test_residual_adds_the_shortcut(shortcut):
    body = cnn.conv(3, 3, padding=1)
    model = cnn.residual(body, shortcut)
    params, state = model.init(KEY, IMAGES)
    y = body.apply(params["body"], {}, IMAGES)[0]
    z = IMAGES if shortcut is None else shortcut.apply(params["shortcut"], {}, IMAGES)[0]
    same(model.apply(params, state, IMAGES)[0], y + z)


def test_a_sublayer_called_twice_shares_its_parameters():
    twice = cnn.network(lambda net, x: net.fc(jnp.tanh(net["fc"](x))), fc=cnn.dense(5))
    params, state = twice.init(KEY, jnp.ones((1, 5)))
    assert shapes(params) == {"fc/kernel": (5, 5), "fc/bias": (5,)}
    kernel, x = params["fc"]["kernel"], normal(2, 3, 5)
    close(twice.apply(params, state, x)[0], np.tanh(x @ kernel) @ kernel)

    def loss(p):
        return twice.apply(p, state, x)[0].sum()

    # The gradient of the shared kernel is the sum of what each of the two uses gives to it.
    def unshared(first, second):
        return (jnp.tanh(x @ first) @ second).sum()

    close(jax.grad(loss)(params)["fc"]["kernel"], sum(jax.grad(unshared, (0, 1))(kernel, kernel)))


def test_state_goes_from_the_first_call_to_the_second():
    model = cnn.network(lambda net, x, y: (net.norm(x), net.norm(y)), norm=cnn.batch_norm(momentum=0.5))
    x, y = np.full((4, 1), 2.0, np.float32), np.full((4, 1), 8.0, np.float32)
    params, state = model.init(KEY, x, y)
    _, state = model.apply(params, state, x, y, train=True)
    assert state["norm"]["mean"] == 0.5 * (0.5 * 0 + 0.5 * 2) + 0.5 * 8


def test_dropout_draws_anew_at_each_call_and_by_each_name():
    def forward(net, x):
        return net.drop(x), net.drop(x), net.other(x)

    model = cnn.network(forward, drop=cnn.dropout(0.5), other=cnn.dropout(0.5))
    x = np.ones((1, 64), np.float32)
    masks = model.apply({}, {}, x, train=True, key=KEY)[0]
    assert len({mask.tobytes() for mask in map(np.asarray, masks)}) == 3
    same(model.apply({}, {}, x, train=True, key=KEY)[0], masks)  # the same key, the same masks
    same(model.apply({}, {}, x, train=False, key=KEY)[0], (x, x, x))


def test_net_tells_the_pass_and_gives_the_key():
    def forward(net, x):
        noise = jax.random.normal(net.key, x.shape) if net.train else 0.0
        return net.fc(x + noise)

    model = cnn.network(forward, fc=cnn.dense(2))
    params, state = model.init(KEY, IMAGES)
    quiet, noisy = (model.apply(params, state, IMAGES, train=train, key=KEY)[0] for train in (False, True))
    noise = jax.random.normal(KEY, IMAGES.shape)
    same(noisy, model.apply(params, state, IMAGES + noise)[0])
    assert not np.allclose(quiet, noisy)


def test_a_layer_used_in_training_alone_is_initialized():
    def forward(net, x):
        y = net.body(x)
        return (net.head(y), net.auxiliary(y)) if net.train else net.head(y)

    model = cnn.network(forward, body=cnn.dense(4), head=cnn.dense(2), auxiliary=cnn.dense(3))
    params, state = model.init(KEY, jnp.ones((1, 5)))
    assert set(params) == {"body", "head", "auxiliary"}
    assert model.apply(params, state, jnp.ones((1, 5)))[0].shape == (1, 2)
    assert [y.shape for y in model.apply(params, state, jnp.ones((1, 5)), train=True)[0]] == [(1, 2), (1, 3)]


def test_batch_norm_over_a_mapped_axis_is_initialized_outside_of_it():
    model = cnn.serial(cnn.dense(3), cnn.batch_norm(axis_name="devices"), cnn.dense(2))
    params, state = model.init(KEY, jnp.ones((2, 4)))
    x = normal(3, 5, 2, 4)
    step = jax.vmap(lambda x: model.apply(params, state, x, train=True), axis_name="devices")
    whole = cnn.serial(cnn.dense(3), cnn.batch_norm(), cnn.dense(2))
    y, new_state = whole.apply(params, state, x.reshape(10, 4), train=True)
    close(step(x)[0].reshape(10, 2), y)
    close(jax.tree.map(lambda a: a[0], step(x)[1]), new_state)


def test_watch_sees_every_sublayer_with_its_path_inner_ones_first():
    class Log(cnn.core.Watcher):
        def __init__(self):
            super().__init__()
            self.seen = []

        def called(self, layer, inputs, output):
            self.seen.append(("/".join(self.path), inputs[0].shape, output.shape))

    model = cnn.serial(block=cnn.residual(cnn.conv(3, 3, padding=1)), pool=cnn.max_pool(2))
    variables = model.init(KEY, IMAGES)
    log = Log()
    with watch(log):
        model.apply(*variables, IMAGES)
        model.init(KEY, IMAGES)  # is not watched
    assert log.seen == [
        ("block/body", (2, 8, 8, 3), (2, 8, 8, 3)),
        ("block", (2, 8, 8, 3), (2, 8, 8, 3)),
        ("pool", (2, 8, 8, 3), (2, 4, 4, 3)),
    ]


def test_a_record_keeps_every_call_and_calls_have_names():
    model = cnn.network(
        lambda net, x: net.conv(net.block(net.conv(x))), conv=cnn.conv(3, 1), block=cnn.residual(cnn.relu)
    )
    params, state = model.init(KEY, IMAGES)
    record = cnn.core.Record()
    with watch(record):
        y = model.apply(params, state, IMAGES)[0]
    paths = [call.path for call in record.calls]
    assert paths == [("conv",), ("block", "body"), ("block",), ("conv",)]
    assert cnn.core.numbered(paths) == ["conv", "block/body", "block", "conv#2"]
    assert record.calls[0].inputs[0] is IMAGES
    assert record.calls[-1].output is y
    assert record.calls[2].inputs[0] is record.calls[0].output


# --- several inputs, several outputs -----------------------------------------------------------------------------


def detector() -> cnn.Layer:
    """One feature map, two heads: class scores and a box for each pixel."""

    def forward(net, image):
        features = net.features(image)
        return {"scores": net.scores(features), "boxes": net.boxes(features)}

    features = cnn.serial(cnn.conv(8, 3, 2, 1), jax.nn.relu)
    return cnn.network(forward, features=features, scores=cnn.conv(5, 1), boxes=cnn.conv(4, 1))


def question_answering() -> cnn.Layer:
    """A question's words convolved over time, an image, and their joint answer."""

    def forward(net, inputs):
        question, image = inputs
        return net.answer(cnn.concat(net.words(question), net.image(image)))

    return cnn.network(
        forward,
        words=cnn.serial(cnn.embed(50, 6), cnn.conv(8, 3), cnn.global_max_pool),
        image=cnn.serial(cnn.conv(8, 3), jax.nn.relu, cnn.global_avg_pool),
        answer=cnn.dense(7),
    )


DETECTOR_TARGETS = {"scores": jnp.zeros((2, 4, 4), jnp.int32), "boxes": jnp.ones((2, 4, 4, 4))}
QUESTIONS = np.arange(24).reshape(2, 12)


def detector_loss(outputs):
    scores = optax.softmax_cross_entropy_with_integer_labels(outputs["scores"], DETECTOR_TARGETS["scores"])
    return scores.mean() + optax.huber_loss(outputs["boxes"], DETECTOR_TARGETS["boxes"]).mean()


def answer_loss(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([3, 6])).mean()


@pytest.mark.parametrize(
    ("model", "inputs", "loss", "outputs"),
    [
        (detector(), IMAGES, detector_loss, {"scores": (2, 4, 4, 5), "boxes": (2, 4, 4, 4)}),
        (question_answering(), (QUESTIONS, IMAGES), answer_loss, (2, 7)),
    ],
    ids=["detector", "question-answering"],
)
def test_networks_of_several_inputs_and_outputs_learn(model, inputs, loss, outputs):
    params, state = model.init(KEY, inputs)
    assert jax.tree.map(jnp.shape, model.apply(params, state, inputs)[0]) == outputs

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        return loss(model.apply(params, state, inputs, train=True)[0])

    before, grads = objective(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    after, _ = objective(jax.tree.map(lambda p, g: p - 1e-2 * g, params, grads))
    # A small step down the gradient lowers the loss by about step * |gradient|^2, to first order.
    descent = 1e-2 * sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
    assert before - after == pytest.approx(descent, rel=0.2)


def test_the_first_layer_of_serial_may_take_several_inputs():
    model = cnn.serial(jnp.add, cnn.dense(2))
    params, state = model.init(KEY, jnp.ones((1, 3)), jnp.ones((1, 3)))
    x, y = normal(4, 5, 3), normal(5, 5, 3)
    same(model.apply(params, state, x, y)[0], cnn.dense(2).apply(params["dense1"], {}, x + y)[0])


# --- JAX's transformations ---------------------------------------------------------------------------------------


def test_jit_with_train_static():
    model = small_net()
    variables = model.init(KEY, IMAGES)
    compiled = jax.jit(model.apply, static_argnames="train")
    for train in (False, True):
        close(compiled(*variables, IMAGES, train=train, key=KEY), model.apply(*variables, IMAGES, train=train, key=KEY))


def test_an_ensemble_is_a_vmap_of_init_and_apply():
    model = cnn.serial(cnn.dense(3), cnn.batch_norm(), jnp.tanh)
    keys = jax.random.split(KEY, 3)

    @jax.jit
    def run(key):
        params, state = model.init(key, IMAGES)
        return params, model.apply(params, state, IMAGES, train=True)

    alone = [run(key) for key in keys]
    close(jax.vmap(run)(keys), jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))
    assert not np.array_equal(alone[0][0]["dense1"]["kernel"], alone[1][0]["dense1"]["kernel"])


@pytest.mark.usefixtures("x64")
def test_gradients_of_a_network_are_finite_differences():
    model = small_net()
    x = IMAGES.astype(np.float64)
    params, state = model.init(KEY, x)
    direction = jax.tree.map(lambda p: normal(p.size, *p.shape, dtype=np.float64), params)

    @jax.jit
    @jax.value_and_grad
    def loss(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        return (model.apply(moved, state, x, train=True, key=KEY)[0] ** 2).mean()

    # Central differences are wrong by h^2 times the third derivative, and by the rounding, 1e-16 / h.
    assert float(loss(0.0)[1]) == pytest.approx(float(loss(1e-5)[0] - loss(-1e-5)[0]) / 2e-5, rel=1e-7)


def test_rematerialization_is_a_wrapper_of_apply():
    def remat(layer: cnn.Layer) -> cnn.Layer:
        def apply(params, state, *inputs, train=False, key=None):
            run = jax.checkpoint(functools.partial(layer.apply, train=train))
            return run(params, state, *inputs, key=key)

        return cnn.Layer(layer.init, apply)

    block = cnn.serial(cnn.dense(3), cnn.batch_norm(), jnp.tanh, cnn.dropout(0.5))
    plain, wrapped = cnn.serial(block=block), cnn.serial(block=remat(block))
    params, state = plain.init(KEY, IMAGES)
    same(wrapped.init(KEY, IMAGES), (params, state))

    def loss(model, params):
        y, new_state = model.apply(params, state, IMAGES, train=True, key=KEY)
        return (y**2).mean(), new_state

    results = [jax.jit(jax.value_and_grad(functools.partial(loss, m), has_aux=True)) for m in (plain, wrapped)]
    close(results[1](params), results[0](params))
    assert "remat" in str(jax.make_jaxpr(functools.partial(loss, wrapped))(params))


# --- errors: the path first, then what was expected, what came, and what to do ---------------------------------------


def init(model, *inputs, key=KEY):
    return lambda: model.init(key, *inputs)


def apply(model, *inputs, example=IMAGES, **options):
    return lambda: model.apply(*model.init(KEY, example), *inputs, **options)


NET = cnn.serial(conv1=cnn.conv(4, 3, padding=1), pool1=cnn.avg_pool(2), flat=cnn.flatten, head=cnn.dense(10))
DROP = cnn.serial(a=cnn.serial(b=cnn.dropout(0.5)))

ERRORS = {
    "filter does not fit": (
        init(cnn.serial(conv1=cnn.conv(4, 2), conv2=cnn.conv(8, 3, 3)), IMAGES),
        "conv2: 3x3 filter, stride 3 on 7x7: (7-3)/3+1 = 2.33 is no whole number",
    ),
    "padded filter does not fit": (
        init(cnn.serial(conv1=cnn.conv(4, 5, 4, 1)), jnp.ones((1, 13, 13, 1))),
        "conv1: 5x5 filter, stride 4 on 13x13: (13-5+2*1)/4+1 = 3.50",
    ),
    "filter larger than its input": (
        init(cnn.serial(conv1=cnn.conv(4, 9)), IMAGES),
        "conv1: 9x9 filter, stride 1 on 8x8: the filter covers 9 pixels and there are 8",
    ),
    "window larger than its input": (
        init(cnn.serial(pool1=cnn.max_pool(4), pool2=cnn.max_pool(3)), IMAGES),
        "pool2: 3x3 window on 2x2: the window is larger than its input",
    ),
    "window of padding": (
        init(cnn.serial(cnn.max_pool(2, 2, 2)), IMAGES),
        "max_pool1: 2x2 window, padding=2: some windows would see only padding",
    ),
    "no output left": (
        init(cnn.serial(up=cnn.conv_transpose(3, 2, padding=5)), IMAGES),
        "up: on 8x8 the output would be",
    ),
    "wrong channels": (
        apply(NET, IMAGES[..., :1]),
        "conv1: made for 3 channels, got 1 in (2, 8, 8, 1)",
    ),
    "wrong size": (
        apply(NET, np.ones((2, 10, 10, 3), np.float32)),
        "head: made for 64 inputs, got 100 in (2, 100)",
    ),
    "groups": (
        init(cnn.serial(cnn.conv(4, 3, groups=2)), IMAGES),
        "conv1: 3 input channels cannot be divided into groups=2",
    ),
    "integer image": (
        apply(NET, np.ones((2, 8, 8, 3), np.uint8)),
        "conv1: expected floating-point input, got uint8 of shape (2, 8, 8, 3); scale images first",
    ),
    "unbatched image": (
        apply(NET, IMAGES[0]),
        "conv1: expected (N, H, W, C), got (8, 8, 3): a batch of one is images[None]",
    ),
    "unbatched image at init": (
        init(cnn.serial(cnn.conv(4, (3, 3))), IMAGES[0]),
        "conv1: expected (N, H, W, C), got (8, 8, 3): a batch of one is images[None]",
    ),
    "slopes": (
        apply(cnn.serial(cnn.prelu()), IMAGES[..., :2]),
        "prelu1: made for 3 channels, got 2 in (2, 8, 8, 2)",
    ),
    "channels of a normalization": (
        apply(cnn.serial(cnn.batch_norm()), IMAGES[..., :2]),
        "batch_norm1: made for 3 channels, got 2 in (2, 8, 8, 2)",
    ),
    "groups of a normalization": (
        init(cnn.serial(cnn.group_norm(2)), IMAGES),
        "group_norm1: 3 channels cannot be divided into groups=2",
    ),
    "axes of a normalization": (
        init(cnn.serial(cnn.layer_norm(axes=(-3, 4))), IMAGES),
        "layer_norm1: axes=(-3, 4) do not all exist in (2, 8, 8, 3)",
    ),
    "words that are no integers": (
        apply(cnn.serial(cnn.embed(9, 3)), jnp.ones((1, 2)), example=jnp.ones((1, 2), jnp.int32)),
        "embed1: expected integers from 0 to 8, got float32 of shape (1, 2)",
    ),
    "no dropout key": (
        lambda: DROP.apply({}, {}, IMAGES, train=True),
        "a/b: dropout draws random numbers in training: pass model.apply(..., train=True, key=jax.random.key(...))",
    ),
    "stride of a fraction": (
        init(cnn.serial(cnn.conv(4, 3, 0.5)), IMAGES),
        "conv1: stride=0.5: expected integers of at least 1",
    ),
    "stride of three": (
        init(cnn.serial(cnn.conv(4, 3, (1, 2, 3))), IMAGES),
        "conv1: stride=(1, 2, 3) has 3 numbers for 2 spatial dimensions",
    ),
    "padding of a fraction": (
        init(cnn.serial(cnn.conv(4, 3, 1, (1, 0.5))), IMAGES),
        "conv1: padding=(1, 0.5): expected an integer of at least 0, one per dimension, 2 pairs (before, after)",
    ),
    "padding by a word": (
        init(cnn.serial(cnn.conv(4, 3, padding="HALF")), IMAGES),
        "conv1: padding='HALF': expected an integer",
    ),
    "body and shortcut differ": (
        init(cnn.serial(block=cnn.residual(cnn.conv(4, 3, 2, 1))), IMAGES),
        "block: the body gives (2, 4, 4, 4) and the shortcut (2, 8, 8, 3): they must be equal to be added",
    ),
    "maker not called": (
        lambda: cnn.serial(cnn.conv(4, 3), cnn.conv),
        "layer 2: `conv` makes a layer and has to be called: conv(features, kernel_size)",
    ),
    "named maker not called": (
        lambda: cnn.serial(conv1=cnn.conv),
        "conv1: `conv` makes a layer and has to be called: conv(features, kernel_size)",
    ),
    "no layer": (lambda: cnn.residual(3), "body: expected a Layer or a function of arrays, got 3"),
    "a class": (lambda: cnn.parallel(dict), "layer 1: expected a Layer or a function of arrays, got <class 'dict'>"),
    "nothing": (lambda: cnn.serial(), "serial() needs at least one layer"),
    "the name train": (lambda: cnn.serial(train=jnp.tanh), "train: a sublayer cannot be named `train`"),
    "the name key": (lambda: cnn.serial(key=jnp.tanh), "key: a sublayer cannot be named `key`"),
    "a private name": (lambda: cnn.serial(_x=jnp.tanh), "_x: a sublayer cannot be named `_x`"),
    "one name twice": (
        lambda: cnn.serial(cnn.dense(2), dense1=cnn.dense(3)),
        "the name dense1 is given by keyword and also follows from a position",
    ),
    "no such sublayer": (
        init(cnn.serial(block=cnn.network(lambda net, x: net.fc2(x), fc1=cnn.dense(2))), IMAGES),
        "block: the network has no sublayer `fc2`; it has fc1",
    ),
    "parameters of another network": (
        lambda: NET.apply(cnn.serial(cnn.dense(2)).init(KEY, IMAGES)[0], {}, IMAGES),
        "params has entries for dense1, which this network does not have (it has conv1, pool1, flat, head)",
    ),
    "missing parameters": (
        lambda: NET.apply({"head": {}}, {}, IMAGES),
        "conv1: variable 'kernel' is missing. There are parameters for head and state for nothing",
    ),
    "no parameters": (
        lambda: NET.apply(None, {}, IMAGES),
        "params should be a dict of variables by layer name, got NoneType",
    ),
    "state out of nothing": (
        apply(cnn.serial(own=cnn.Layer(lambda key, x: ({}, {}), lambda p, s, x, **_: (x, {"n": 1}))), IMAGES),
        "own: returned state n, but its `init` made none",
    ),
    "no key": (init(NET, IMAGES, key=0), "init takes a random key first, jax.random.key(0); got 0"),
    "key and input exchanged": (
        init(NET, KEY, key=IMAGES),
        "init takes a random key first, jax.random.key(0); got an array of float32 and shape (2, 8, 8, 3)",
    ),
    "a layer called like a function": (
        lambda: NET(IMAGES),
        "serial is a pair of functions, not a function: call `params, state = layer.init(key, x)` once",
    ),
    "a rate of one": (lambda: cnn.dropout(1.0), "rate=1.0: expected the share to drop, 0 <= rate < 1"),
    "no features": (lambda: cnn.conv(0, 3), "features=0: expected an integer of at least 1"),
    "features of a fraction": (lambda: cnn.dense(2.5), "features=2.5: expected an integer of at least 1"),
    "filters and groups": (lambda: cnn.conv(4, 3, groups=3), "features=4 cannot be divided into groups=3"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_begin_with_the_path_and_say_what_is_wrong(call, message):
    with pytest.raises(cnn.LayerError) as raised:
        call()
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "call",
    [init(NET, IMAGES), lambda: NET.apply(*NET.init(KEY, IMAGES), IMAGES)],
    ids=["init", "apply"],
)
def test_the_nets_of_the_error_table_work_when_used_rightly(call):
    call()


def test_an_error_that_is_not_ours_gets_a_note_with_the_layers_path():
    model = cnn.serial(a=cnn.serial(b=lambda x: x.reshape(7)))
    with pytest.raises(ValueError, match="cannot reshape") as raised:
        model.apply({}, {}, IMAGES)
    assert raised.value.__notes__ == ["in layer a/b"]


def test_a_key_error_of_a_plain_function_stays_one():
    model = cnn.serial(pick=lambda inputs: inputs["image"])
    with pytest.raises(KeyError, match="image") as raised:
        model.apply({}, {}, {"picture": IMAGES})
    assert raised.value.__notes__ == ["in layer pick"]


def test_a_layer_that_cannot_be_trained_on_an_input_is_initialized_in_evaluation_mode():
    def apply(params, state, x, train=False, key=None):
        if train and len(x) < 2:
            raise EvaluationOnly("one example")
        return 2 * x, state

    double = cnn.Layer(lambda key, x: ({}, {}), apply)
    model = cnn.serial(block=cnn.serial(double=double, out=cnn.dense(3)))
    params, state = model.init(KEY, jnp.ones((1, 4)))
    assert shapes(params) == {"block/out/kernel": (4, 3), "block/out/bias": (3,)}
    with pytest.raises(EvaluationOnly, match=r"^block/double: one example$"):
        model.apply(params, state, jnp.ones((1, 4)), train=True)


def test_the_output_of_equal_layers_is_traced_once(monkeypatch):
    monkeypatch.setattr(cache, "_outputs", {})
    ran, conv = [], cnn.conv(3, 3, padding=1)
    counted = conv.replace(apply=lambda *args, **options: ran.append(0) or conv.apply(*args, **options), call=conv.call)
    params, _ = cnn.serial(a=counted, b=counted, flat=cnn.flatten, head=cnn.dense(2)).init(KEY, IMAGES)
    assert len(ran) == 1
    assert params["head"]["kernel"].shape == (192, 2)
    cnn.serial(a=counted).init(KEY, IMAGES[:, :4])
    assert len(ran) == 2


def test_the_output_of_a_user_s_function_is_traced_each_time():
    kept = 5
    net = cnn.serial(flat=cnn.flatten, first=lambda x: x[:, :kept], head=cnn.dense(2))
    assert net.init(KEY, IMAGES)[0]["head"]["kernel"].shape == (5, 2)
    kept = 4
    assert net.init(KEY, IMAGES)[0]["head"]["kernel"].shape == (4, 2)


def test_shapes_are_those_of_init_and_leave_nothing_behind():
    twice = cnn.network(lambda net, x: x + net.a(net.a(x)), a=cnn.dense(3))
    wrapped = cnn.ensemble(small_net(), 2), cnn.spectral_norm(small_net()), cnn.freeze(small_net(), "conv1")
    for net in (small_net(), twice, cnn.dense(3), *wrapped):
        found = shapes_of(net, KEY, IMAGES)
        assert found == jax.eval_shape(net.init, KEY, IMAGES)
        made = jax.jit(net.init)(KEY, IMAGES)
        assert found == jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), made)
        kernels = [a for path, a in jax.tree.leaves_with_path(made) if path[-1].key == "kernel"]
        assert kernels
        assert all(np.std(kernel) > 0 for kernel in kernels)  # they were not traced as zeros
    drawn = []
    conv = cnn.conv(3, 3, padding=1, kernel_init=lambda *given: drawn.append(0) or jnp.zeros(given[1]))
    shapes_of(cnn.serial(conv, conv), KEY, IMAGES)
    assert len(drawn) == 1  # equal layers, whose variables are not made


def test_many_compiled_inits_are_freed_and_few_are_kept():
    """The next `init` of the network gives the same variables, whether its functions were kept or not."""
    for layers, kept in ((20, True), (40, False)):
        cache._compiled.clear()
        model = cnn.serial(*(cnn.dense(3 + i) for i in range(layers)))
        variables = model.init(KEY, IMAGES[:, 0, 0])
        assert bool(cache._compiled) == kept
        same(model.init(KEY, IMAGES[:, 0, 0]), variables)


@pytest.mark.parametrize("double", [False, True])
def test_each_kind_of_layer_is_compiled_once(double, caplog):
    """Several at a time, in threads, with the settings of this one: none of them is compiled again when it runs."""
    cache._compiled.clear()
    model = cnn.serial(*(cnn.dense(features) for features in (3, 4, 5, 4, 5)))
    with jax.enable_x64(double), caplog.at_level("DEBUG", "jax._src.dispatch"):
        params, _ = model.init(KEY, IMAGES[:, 0, 0])
        assert params["dense1"]["kernel"].dtype == (jnp.float64 if double else jnp.float32)
    said = [record.getMessage() for record in caplog.records]
    # The last layer is the third again.
    assert sum(line.startswith("Finished XLA compilation of jit(run)") for line in said) == 4


def test_init_inside_jit_with_a_key_from_outside():
    model = cnn.serial(conv=cnn.conv(4, 3), norm=cnn.batch_norm())
    alike(jax.jit(lambda x: model.init(KEY, x))(IMAGES), model.init(KEY, IMAGES))
    jax.eval_shape(lambda x: model.init(KEY, x), IMAGES)
    jax.vmap(lambda x: model.init(KEY, x))(IMAGES)


def test_what_only_fills_arrays_is_not_compiled_and_gives_arrays_of_their_own(caplog):
    fills = cache.compiled(lambda x: (jnp.zeros_like(x), jnp.ones(3)), IMAGES)
    with caplog.at_level("DEBUG", "jax._src.dispatch"):
        first, second = fills(IMAGES), fills(IMAGES)
    assert not [record for record in caplog.records if "compilation" in record.getMessage()]
    jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(first)
    alike(second, (jnp.zeros_like(IMAGES), jnp.ones(3)))


def test_a_compiled_init_is_the_same_to_the_last_bit():
    """As by XLA's usual options, where a user compiles it."""
    for kernel_init in (initializers.he_normal(), initializers.lecun_uniform(), initializers.orthogonal()):
        model = cnn.conv(8, 3, kernel_init=kernel_init)
        alike(cnn.serial(conv=model).init(KEY, IMAGES)[0]["conv"], jax.jit(model.init)(fold_in(KEY, "conv"), IMAGES)[0])
