"""Saliency, Grad-CAM, occlusion, strongest patches and windows against loops and formulas in NumPy."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from experiments.seeing_inside import correlation
from jaxcnn.errors import UserError
from jaxcnn.inspect import activations, features, layer_outputs, pictures, program, split_at, windows
from jaxcnn.inspect.saliency import _grad_cam, _gradient, grad_cam, input_gradient, occlusion, saliency

KEY = jax.random.key(0)
RULES = ("plain", "guided", "deconvolution")


def made(model, *inputs, seed=0):
    """Variables of a model from NumPy: compiling its own random numbers would take longer than all the rest."""
    shapes = jax.eval_shape(model.init, KEY, *inputs)
    numbers = np.random.default_rng(seed)

    def variable(path, leaf):
        shape, fan_in = leaf.shape, max(1, np.prod(leaf.shape[:-1]))
        if path[-1].key in ("scale", "var"):
            return numbers.uniform(0.5, 1.5, shape).astype(np.float32)
        return (numbers.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(jnp.asarray, jax.tree.map_with_path(variable, shapes))


def small(relu=cnn.relu, pool=cnn.max_pool):
    return cnn.serial(
        conv1=cnn.conv(4, 3, padding=1), relu1=relu, pool1=pool(2), conv2=cnn.conv(5, 3), relu2=relu, flat=cnn.flatten,
        fc1=cnn.dense(6), relu3=relu, head=cnn.dense(3),
    )  # fmt: skip


def tiny(relu=cnn.relu):
    return cnn.serial(conv=cnn.conv(5, 3, 2, 1), relu=relu, flat=cnn.flatten, head=cnn.dense(3))


X = normal(0, 2, 8, 8, 2)


def outputs(model, params, state, *inputs):
    return jax.jit(lambda params, state, *inputs: model.apply(params, state, *inputs)[0])(params, state, *inputs)


def outputs_by_layer(model, params, state, x):
    return jax.jit(functools.partial(activations, model))(params, state, x)


# --- the rest of a network ---------------------------------------------------------------------------------------


def block(features):
    def forward(net, x):
        y = jax.nn.relu(net.conv1(x))
        return jnp.maximum(0, net.conv2(net.drop(y)) + net.conv1(x))

    conv = functools.partial(cnn.conv, features, 3, padding=1)
    return cnn.network(forward, conv1=conv(), drop=cnn.dropout(0.5), conv2=conv())


def nested():
    return cnn.serial(block1=block(2), pool=cnn.max_pool(2), block2=block(2), avg=cnn.global_avg_pool, fc=cnn.dense(3))


NETWORKS = {
    "serial": small(),
    "nested, a layer called twice": nested(),
    "freeze": cnn.freeze(nested(), "block1"),
    "remat": cnn.remat(nested(), "block1", "block2/conv1"),
    "remat of all": cnn.remat(nested()),
    "resnet": cnn.models.cifar_resnet(8, classes=3, width=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_split_at_any_layer(name):
    model = NETWORKS[name]
    params, state = made(model, X)
    whole = outputs(model, params, state, X)

    shapes = layer_outputs(model, params, state, X)
    names = list(shapes)
    seen = None
    if "remat" not in name:  # of which the plain Watcher sees traces that have ended
        seen = activations(model, params, state, X)
        assert list(seen) == names
    if "twice" in name:
        assert [n for n in names if n.startswith("block2")] == [
            "block2/conv1", "block2/drop", "block2/conv2", "block2/conv1#2", "block2",
        ]  # fmt: skip
    some = names[1::4]

    @jax.jit
    def both(params, state, x):
        ways = [split_at(model, params, state, x, layer=layer) for layer in some]
        return [(value, rest(value)) for value, rest in ways]

    for layer, (value, result) in zip(some, both(params, state, X), strict=True):
        assert shapes[layer].shape == value.shape
        close(result, whole)
        if seen is not None:
            close(value, seen[layer])


def test_the_rest_is_a_function_of_the_layers_output():
    model = nested()
    params, state = made(model, X)

    def by_hand(y):
        z = jax.nn.relu(y["block1/conv1"])
        z = jnp.maximum(0, cnn.ops.conv(z, *p("block1", "conv2")) + y["block1/conv1#2"])
        z = z.reshape(2, 4, 2, 4, 2, 2).max((2, 4))
        first = cnn.ops.conv(z, *p("block2", "conv1")) + params["block2"]["conv1"]["bias"]
        z = jnp.maximum(0, cnn.ops.conv(jax.nn.relu(first), *p("block2", "conv2")) + first)
        return z

    def p(*path):
        return params[path[0]][path[1]]["kernel"], 1, 1

    seen = outputs_by_layer(model, params, state, X)
    value, rest = split_at(model, params, state, X, layer="block1/conv1")
    # The second call of the same layer is another output, which stays.
    moved = value + 1
    y = jax.nn.relu(moved)
    y = cnn.ops.conv(y, *p("block1", "conv2")) + params["block1"]["conv2"]["bias"]
    y = jnp.maximum(0, y + seen["block1/conv1#2"]).reshape(2, 4, 2, 4, 2, 2).max((2, 4))
    tail = cnn.serial(block2=model.sublayers["block2"], avg=cnn.global_avg_pool, fc=model.sublayers["fc"])
    own = {name: params[name] for name in ("block2", "fc")}
    close(rest(moved), tail.apply(own, {}, y)[0])


def test_a_layer_that_gives_back_its_input_is_replaced_alone():
    model = cnn.network(lambda net, x: net.same(x) + x, same=lambda x: x)
    value, rest = split_at(model, {}, {}, X, layer="same")
    same(value, X)
    same(rest(0 * value), X)


def test_layers_of_an_ensemble_have_an_axis_of_members():
    model = cnn.ensemble(tiny(), 3)
    params, state = made(model, X)

    @jax.jit
    def split(params, state, x):
        value, rest = split_at(model, params, state, x, layer="conv")
        return value, rest(value)

    value, rest = split(params, state, X)
    assert value.shape == (3, 2, 4, 4, 5)
    close(rest, outputs(model, params, state, X))
    member = jax.tree.map(lambda a: a[1], params)
    close(value[1], outputs_by_layer(tiny(), member, {}, X)["conv"])
    assert saliency(model, params, state, X, unit=1).shape == (2, 8, 8)
    with pytest.raises(UserError, match=r"layer 'conv' gives \(3, 2, 4, 4, 5\).*look into one member"):
        grad_cam(model, params, state, X, layer="conv")


def test_layers_that_cannot_be_found():
    model = small()
    params, state = made(model, X)
    for look in (
        lambda layer: split_at(model, params, state, X, layer=layer),
        lambda layer: input_gradient(model, params, state, X, layer=layer),
        lambda layer: grad_cam(model, params, state, X, layer=layer),
        lambda layer: windows.receptive_window(model, X, layer=layer, place=(0, 0)),
        lambda layer: features.strongest(model, params, state, X, layer=layer),
    ):
        with pytest.raises(UserError, match="unknown layer 'convv1': did you mean conv1"):
            look("convv1")
    with pytest.raises(UserError, match="no named layers inside"):
        split_at(cnn.dense(2), *made(cnn.dense(2), X), X, layer="dense")

    def loop(net, x):
        return jax.lax.scan(lambda y, _: (net.conv(y), None), x, length=2)[0]

    looped = cnn.network(loop, conv=cnn.conv(2, 3, padding=1))
    with pytest.raises(UserError, match="'conv' is inside a loop"):
        split_at(looped, *made(looped, X), X, layer="conv")


# --- gradients ---------------------------------------------------------------------------------------------------


def loops(x):
    return jax.lax.scan(lambda y, _: (jax.nn.relu(y), None), x, length=1)[0]


RELUS = {
    "cnn.relu": (cnn.relu, 1),
    "jax.nn.relu": (jax.nn.relu, 1),
    "maximum": (lambda x: jnp.maximum(x, 0), 1),
    "0 first": (lambda x: jnp.maximum(0.0, x), 1),
    "an array of zeros": (lambda x: jnp.maximum(x, jnp.zeros_like(x)), 1),
    "where": (lambda x: jnp.where(x > 0, x, 0), 1),
    "where the other way": (lambda x: jnp.where(x <= 0, jnp.zeros_like(x), x), 1),
    "jit": (jax.jit(lambda x: jax.nn.relu(x)), 1),
    "checkpoint": (jax.checkpoint(lambda x: jax.nn.relu(x)), 1),
    "scan": (loops, 1),
    "cond": (lambda x: jax.lax.cond(x.sum() > -1e9, jax.nn.relu, lambda x: x, x), 1),
    "tanh": (jnp.tanh, 0),
    "softplus": (jax.nn.softplus, 0),  # which has a max(x, 0) inside
    "identity": (lambda x: x, 0),
}


@pytest.mark.parametrize("name", RELUS)
def test_rules_for_relu_however_it_is_written(name):
    """Two dense layers, the gradient by hand in float64."""
    relu, count = RELUS[name]
    model = cnn.serial(fc1=cnn.dense(7), act=relu, fc2=cnn.dense(6), act2=relu, head=cnn.dense(4))
    x = normal(1, 5, 3)
    params, state = made(model, x)
    kernels = [np.asarray(params[n]["kernel"], np.float64) for n in ("fc1", "fc2", "head")]
    biases = [np.asarray(params[n]["bias"], np.float64) for n in ("fc1", "fc2", "head")]
    derivative = {
        "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
        "softplus": lambda z: (np.log1p(np.exp(z)), 1 / (1 + np.exp(-z))),
        "identity": lambda z: (z, np.ones_like(z)),
    }.get(name)
    z1 = x @ kernels[0] + biases[0]
    a1, d1 = (np.maximum(z1, 0), z1 > 0) if derivative is None else derivative(z1)
    z2 = a1 @ kernels[1] + biases[1]
    _, d2 = (np.maximum(z2, 0), z2 > 0) if derivative is None else derivative(z2)
    assert program(model, params, state, x).relus == 2 * count
    for rule in RULES[1:] if derivative is None else RULES[1:2]:
        g = np.broadcast_to(kernels[2][:, 1], z2.shape)
        for d, kernel in ((d2, kernels[1]), (d1, kernels[0])):
            g = np.maximum(g, 0) if derivative is None else g
            g = g * d if derivative is not None or rule != "deconvolution" else g
            g = g @ kernel.T
        close(input_gradient(model, params, state, x, unit=1, rule=rule), g)


def test_without_relu_the_rules_are_the_gradient():
    model = small(lambda x: x, cnn.avg_pool)
    params, state = made(model, X)
    expected = jax.jit(jax.grad(lambda x: model.apply(params, state, x)[0][:, 2].sum()))(jnp.asarray(X))
    for rule in RULES:
        close(input_gradient(model, params, state, X, unit=2, rule=rule), expected)
    close(saliency(model, params, state, X, unit=2), np.abs(expected).max(-1))


@pytest.mark.parametrize("rule", RULES[1:])
def test_rules_in_residual_networks(rule):
    """As if the network had been written with a ReLU whose gradient is the rule's."""
    model = NETWORKS["resnet"]
    params, state = made(model, X)

    @jax.custom_vjp
    def relu(x):
        return jnp.maximum(x, 0)

    mask = (lambda y: 1) if rule == "deconvolution" else (lambda y: y > 0)
    relu.defvjp(lambda x: (relu(x), relu(x)), lambda y, g: (jnp.maximum(g, 0) * mask(y),))

    def norm(y, p, s):
        return (y - s["mean"]) / jnp.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def conv(y, p, stride=1):
        return cnn.ops.conv(y, p["kernel"], stride, p["kernel"].shape[0] // 2)

    def forward(x):
        y = relu(norm(conv(x, params["conv1"]), params["bn1"], state["bn1"]))
        for stage in (1, 2, 3):
            p, s = params[f"layer{stage}"]["block1"], state[f"layer{stage}"]["block1"]
            stride = 1 if stage == 1 else 2
            z = relu(norm(conv(y, p["conv1"], stride), p["bn1"], s["bn1"]))
            z = norm(conv(z, p["conv2"]), p["bn2"], s["bn2"])
            around = y[:, ::stride, ::stride]
            y = relu(z + jnp.pad(around, ((0, 0),) * 3 + ((0, z.shape[-1] - y.shape[-1]),)))
        p = params["fc"]
        return y.mean((1, 2)) @ p["kernel"] + p["bias"]

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def by_hand(x):
        y = forward(x)
        return y[:, 1].sum(), y

    expected, y = by_hand(jnp.asarray(X))
    close(y, outputs(model, params, state, X))
    close(input_gradient(model, params, state, X, unit=1, rule=rule), expected)


def test_units_are_chosen_in_every_form():
    model = tiny()
    params, state = made(model, X)
    look = functools.partial(input_gradient, model, params, state, X)
    largest = np.asarray(outputs(model, params, state, X)).argmax(1)
    same(look(), look(unit=largest))
    each = [look(unit=k) for k in range(3)]
    close(look(unit=[2, 0]), np.stack([each[2][0], each[0][1]]))
    close(look(unit=(1,)), each[1])
    close(look(unit=lambda y: y[:, 2]), each[2])

    maps = np.asarray(outputs_by_layer(model, params, state, X)["conv"])
    for unit, channels in ((3, [3, 3]), (None, maps.max((1, 2)).argmax(1))):
        top = [maps[n, :, :, k].argmax() for n, k in enumerate(channels)]
        places = np.stack([*np.unravel_index(top, maps.shape[1:3]), channels], 1)
        same(look(layer="conv", unit=unit), look(layer="conv", unit=places))
    close(look(layer="conv", unit=(1, 0, 3)), look(layer="conv", unit=lambda y: y[:, 1, 0, 3]))


@pytest.mark.parametrize(
    ("unit", "layer", "says"),
    [
        (3, None, r"unit=3: expected 0 to 2, in an output of shape \(N, 3\)"),
        (-1, None, "unit=-1: expected 0 to 2"),
        ([0, 7], None, "unit=7: expected 0 to 2"),
        ((0, 4, 0), "conv", r"unit=\(0, 4, 0\): expected below \(4, 4, 5\)"),
        ((0, 1), "conv", r"2 coordinates in an output of shape \(N, 4, 4, 5\): expected 3"),
        ([0, 1, 2], None, "units for 3 examples, and there are 2"),
        (0.5, None, "unit=0.5: expected a class or channel"),
        (lambda y: y, None, r"gives \(2, 3\): expected one number each"),
    ],
)
def test_units_that_do_not_exist(unit, layer, says):
    model = tiny()
    params, state = made(model, X)
    with pytest.raises(UserError, match=says):
        input_gradient(model, params, state, X, unit=unit, layer=layer)


def test_images_that_have_no_gradient_and_rules_that_are_none():
    model = small()
    params, state = made(model, X)
    with pytest.raises(UserError, match=r"expected images in floating point.*uint8"):
        saliency(model, params, state, np.zeros((2, 8, 8, 2), np.uint8))
    with pytest.raises(UserError, match="unknown rule 'guide': did you mean guided"):
        input_gradient(model, params, state, X, rule="guide")


def test_of_several_inputs_and_outputs():
    def forward(net, words, image):
        y = jax.nn.relu(net.conv(image)).mean((1, 2))
        return {"class": net.fc(jnp.concatenate([y, net.embed(words)], -1)), "mean": y}

    model = cnn.network(forward, conv=cnn.conv(4, 3), embed=cnn.embed(7, 5), fc=cnn.dense(3))
    words = np.array([3, 6])
    params, state = made(model, words, X)
    with pytest.raises(UserError, match="give `unit` as a function"):
        saliency(model, params, state, words, X)

    def unit(y):
        return y["class"][:, 1]

    got = input_gradient(model, params, state, words, X, unit=unit)
    close(got, jax.jit(jax.grad(lambda x: unit(model.apply(params, state, words, x)[0]).sum()))(jnp.asarray(X)))
    seen = occlusion(model, params, state, words, X, size=4, stride=4, unit=unit)
    assert seen.probability.shape == (2, 2, 2)
    close(seen.whole, unit(outputs(model, params, state, words, X)))


# --- Grad-CAM ----------------------------------------------------------------------------------------------------


def test_grad_cam_behind_a_mean_is_the_class_activation_map():
    """There the gradient by each map is its weight in the last layer over the number of places (Selvaraju, 3.1)."""
    model = cnn.serial(conv=cnn.conv(5, 3), relu=cnn.relu, avg=cnn.global_avg_pool, fc=cnn.dense(3))
    params, state = made(model, X)
    maps = np.asarray(outputs_by_layer(model, params, state, X)["relu"], np.float64)
    weights = np.asarray(params["fc"]["kernel"], np.float64)
    for unit in (0, 1, 2):
        expected = np.maximum(maps @ weights[:, unit] / 36, 0)
        close(grad_cam(model, params, state, X, unit=unit, resize=False), expected)
        assert grad_cam(model, params, state, X, unit=unit).shape == (2, 8, 8)
    same(
        grad_cam(model, params, state, X, unit=1),
        grad_cam(model, params, state, X, unit=1, layer="relu"),
    )


def test_grad_cam_takes_the_last_maps_that_are_no_pools():
    x = normal(3, 1, 32, 32, 1)
    model = cnn.models.lenet5()
    params, state = made(model, x)
    assert program(model, params, state, x).maps(4) == "act2"
    with_branches = cnn.serial(a=cnn.parallel(b=cnn.conv(2, 1), c=cnn.conv(2, 1), join=cnn.concat), p=cnn.max_pool(2))
    assert program(with_branches, *made(with_branches, x), x).maps(4) == "a"


def test_grad_cam_needs_maps():
    mlp = cnn.serial(flat=cnn.flatten, fc=cnn.dense(4), relu=cnn.relu, head=cnn.dense(3))
    params, state = made(mlp, X)
    with pytest.raises(UserError, match="no layer of this network gives any"):
        grad_cam(mlp, params, state, X)
    with pytest.raises(UserError, match=r"layer 'fc' gives \(2, 4\): take a layer before the dense ones"):
        grad_cam(mlp, params, state, X, layer="fc")


def test_other_variables_compile_nothing():
    model = tiny()
    before = None
    for seed in (0, 1):
        params, state = made(model, X, seed=seed)
        for unit in (0, 2):
            grad_cam(model, params, state, X, unit=unit)
            input_gradient(model, params, state, X, unit=unit, rule="guided")
            sizes = _grad_cam._cache_size(), _gradient._cache_size()
            before = before or sizes
            assert sizes == before


# --- occlusion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride", "batch_size"), [(3, 1, 7), (4, 3, 64), (2, 5, 1), (8, 1, 4)])
def test_occlusion_is_a_square_put_at_each_place(size, stride, batch_size):
    model = tiny()
    params, state = made(model, X)
    run = jax.jit(lambda x: jax.nn.softmax(model.apply(params, state, x)[0]))
    seen = occlusion(model, params, state, X, size=size, stride=stride, unit=[2, 0], grey=0.5, batch_size=batch_size)
    starts = [*range(0, 8 - size, stride)]
    starts.append(starts[-1] + stride if starts else 0)
    expected = np.zeros((2, len(starts), len(starts)))
    total, count = np.zeros((2, 8, 8)), np.zeros((8, 8))
    whole = np.asarray(run(X))[[0, 1], [2, 0]]
    for i, y in enumerate(starts):
        for j, x in enumerate(starts):
            covered = X.copy()
            covered[:, y : y + size, x : x + size] = 0.5
            expected[:, i, j] = np.asarray(run(covered))[[0, 1], [2, 0]]
            total[:, y : y + size, x : x + size] += (whole - expected[:, i, j])[:, None, None]
            count[y : y + size, x : x + size] += 1
    close(seen.probability, expected.astype(np.float32))
    close(seen.whole, whole)
    close(seen.drop(), total / np.maximum(count, 1))


def test_occlusion_keeps_to_the_class_of_the_whole_image():
    model = tiny()
    params, state = made(model, X)
    largest = np.asarray(outputs(model, params, state, X)).argmax(1)
    for unit in (None, largest):
        seen = occlusion(model, params, state, X, size=6, stride=2, unit=unit)
        same(seen.unit, largest.astype(seen.unit.dtype))
    close(seen.whole, np.asarray(jax.nn.softmax(outputs(model, params, state, X))).max(1))


@pytest.mark.parametrize("end", ["logits", "one logit", "a number", "sigmoid", "softmax", "own"])
def test_what_a_probability_is(end):
    last = {
        "logits": ((3,), None, jax.nn.softmax), "one logit": ((1,), None, jax.nn.sigmoid),
        "a number": ((1,), lambda y: y[:, 0], jax.nn.sigmoid), "sigmoid": ((1,), jax.nn.sigmoid, lambda y: y),
        "softmax": ((3,), cnn.softmax, lambda y: y), "own": ((3,), None, jnp.square),
    }  # fmt: skip
    (width,), after, link = last[end]
    layers = {"flat": cnn.flatten, "fc": cnn.dense(width), **({"last": after} if after else {})}
    model = cnn.serial(**layers)
    params, state = made(model, X)
    seen = occlusion(
        model, params, state, X, size=8, unit=None if width == 1 else 2, probability=link if end == "own" else None
    )
    y = np.asarray(link(outputs(model, params, state, X)))
    close(seen.whole, y if y.ndim == 1 else y[:, -1])
    covered = np.asarray(link(outputs(model, params, state, 0 * X)))
    close(seen.probability[:, 0, 0], covered if y.ndim == 1 else covered[:, -1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 9}, "larger than the image, 8x8"),
        ({"size": 0}, "size=0: expected an integer"),
        ({"size": 2, "stride": 1.5}, "stride=1.5"),
        ({"size": 2, "unit": 3}, "unit=3: expected 0 to 2"),
    ],
)
def test_squares_that_cannot_be(settings, says):
    model = tiny()
    with pytest.raises(UserError, match=says):
        occlusion(model, *made(model, X), X, **settings)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        occlusion(tiny(), *made(tiny(), X), X, size=2, batchsize=3)


# --- windows -----------------------------------------------------------------------------------------------------

GEOMETRIES = {
    "plain": cnn.conv(4, 3),
    "stride and padding": cnn.conv(4, 3, 2, 1),
    "not square": cnn.conv(4, (1, 3), (2, 1), ((0, 1), (2, 0))),
    "dilation": cnn.conv(4, 3, padding=2, dilation=2),
    "groups": cnn.conv(4, 3, groups=2),
    "depthwise, no bias": cnn.conv(4, 3, groups=4, bias=False, padding="SAME"),
    "1x1": cnn.conv(4, 1),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_window_weights_and_bias_make_the_unit(name):
    model = cnn.serial(first=cnn.conv(4, 2, 2), relu=cnn.relu, conv=GEOMETRIES[name])
    x = normal(5, 2, 15, 14, 3)[:, :14]
    params, state = made(model, x)
    y = np.asarray(outputs_by_layer(model, params, state, x)["conv"])
    inner = np.asarray(outputs_by_layer(model, params, state, x)["relu"])
    for place in ((0, 0, 0), (y.shape[1] - 1, y.shape[2] - 1, 3), (1, 2, 2)):
        seen = windows.see_unit(model, params, state, x, layer="conv", place=place, example=1)
        assert seen.inputs.shape == seen.kernel.shape == params["conv"]["kernel"].shape[:3]
        close(np.float32([seen.value, seen.total]), y[1][place].repeat(2))
        close(seen.products.sum() + np.float32(seen.bias), y[1][place])
        if name == "stride and padding":
            top, left = 2 * place[0] - 1, 2 * place[1] - 1
            assert seen.window == windows.Window(top, left, top + 3, left + 3)
            assert seen.field == windows.Window(2 * top, 2 * left, 2 * top + 6, 2 * left + 6)
            padded = np.pad(inner[1], ((1, 1), (1, 1), (0, 0)))
            same(seen.inputs, padded[top + 1 : top + 4, left + 1 : left + 4])
        same(seen.pixels, seen.field.cut(x[1]))


@pytest.mark.parametrize("frozen", [False, True])
def test_units_of_other_layers(frozen):
    model = small()
    x = X
    if frozen:
        model = cnn.freeze(model)
    params, state = made(model, x)
    seen = outputs_by_layer(model, params, state, x)

    def unit(layer, *place):
        return windows.see_unit(model, params, state, x, layer=layer, place=place)

    dense = unit("fc1", 4)
    close(np.float32([dense.value, dense.total]), np.asarray(seen["fc1"])[0, 4].repeat(2))
    same(dense.inputs, np.asarray(seen["flat"])[0])
    assert dense.window is None
    assert dense.field.clipped(8, 8) == windows.Window(0, 0, 8, 8)
    pool = unit("pool1", 1, 3, 2)
    assert (pool.kernel, pool.total) == (None, None)
    assert pool.window == windows.Window(2, 6, 4, 8)
    assert pool.value == np.float32(pool.inputs[..., 2].max()) == np.float32(seen["pool1"][0, 1, 3, 2])
    assert unit("relu1", 3, 3, 0).window == windows.Window(3, 3, 4, 4)
    same(
        windows.filters(model, params, state, "conv2"),
        (state if frozen else params)["conv2"].get("frozen", params.get("conv2"))["kernel"],
    )
    with pytest.raises(UserError, match=r"place=\(4, 0, 0\): pool1's output is \(N, 4, 4, 4\)"):
        unit("pool1", 4, 0, 0)
    with pytest.raises(UserError, match="expected 3 coordinates"):
        unit("pool1", 1, 0)
    with pytest.raises(UserError, match=r"'fc1' has a matrix of shape .*conv1"):
        windows.filters(model, params, state, "fc1")
    with pytest.raises(UserError, match="unknown layer with filters 'cnv2': did you mean conv2"):
        windows.filters(model, params, state, "cnv2")
    with pytest.raises(UserError, match="no layer of this network has filters"):
        windows.filters(cnn.dense(2), {"kernel": jnp.ones((3, 2))}, {}, "dense")


def test_a_layer_of_another_form_has_no_weights():
    """Behind the convolution stands more than a bias: the sum would not be the unit."""
    inner = cnn.conv(4, 3)
    both = cnn.Layer(inner.init, lambda p, s, x, **k: (cnn.relu(inner.apply(p, s, x)[0]), s))
    model = cnn.serial(conv=both)
    params, state = made(model, X)
    seen = windows.see_unit(model, params, state, X, layer="conv", place=(0, 0, 0))
    assert seen.kernel is None
    assert seen.window == windows.Window(0, 0, 3, 3)


def test_receptive_windows_are_where_the_gradient_is_not_zero():
    model = cnn.serial(
        conv1=cnn.conv(2, 3, padding=1), pool=cnn.avg_pool(2), block=cnn.residual(cnn.conv(2, 3, padding=1)),
        conv2=cnn.conv(2, 3, 2), flat=cnn.flatten,
    )  # fmt: skip
    x = np.abs(normal(7, 1, 14, 18, 2))
    params, state = made(model, x)
    params = jax.tree.map(lambda a: jnp.abs(a) + 0.1, params)
    for layer, place in (
        ("conv1", (0, 5, 0)), ("pool", (3, 3, 1)), ("block", (6, 0, 0)), ("conv2", (1, 2, 1)), ("flat", (23,)),
    ):  # fmt: skip
        gradient = saliency(model, params, state, x, layer=layer, unit=place)[0]
        rows, columns = np.nonzero(np.asarray(gradient).any(1))[0], np.nonzero(np.asarray(gradient).any(0))[0]
        window = windows.receptive_window(model, x, layer=layer, place=place).clipped(14, 18)
        assert window == windows.Window(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def test_a_window_is_cut_with_zeros_over_the_edge():
    picture = np.arange(12).reshape(3, 4, 1)
    assert windows.Window(-1, 2, 2, 5).cut(picture, -1)[..., 0].tolist() == [[-1, -1, -1], [2, 3, -1], [6, 7, -1]]
    assert windows.Window(5, 5, 7, 6).cut(picture).tolist() == [[[0]], [[0]]]
    assert windows.Window(5, -3, 7, -1).clipped(3, 4).size == (0, 0)


# --- strongest patches and made images ---------------------------------------------------------------------------


def test_strongest_patches_are_those_of_a_search():
    model = small()
    images = np.random.default_rng(9).integers(0, 256, (11, 8, 8, 2), dtype=np.uint8)
    preprocess = cnn.data.Preprocess((8, 8), (0.5, 0.4), (0.2, 0.3))
    x = preprocess(images)
    params, state = made(model, x)
    top = features.strongest(model, params, state, images, layer="relu2", count=3, batch_size=4, preprocess=preprocess)
    maps = np.asarray(outputs_by_layer(model, params, state, x)["relu2"])
    best = maps.max((1, 2))
    for channel in range(5):
        order = np.argsort(-best[:, channel], kind="stable")[:3]
        close(top.values[channel], best[order, channel])
        assert sorted(top.images[channel]) == sorted(order)
        for image, place, value in zip(top.images[channel], top.places[channel], top.values[channel], strict=True):
            close(maps[(image, *place, channel)], value)
    found = features.patches(model, params, state, images, top, 4, preprocess=preprocess, rule="guided")
    assert found.pixels.shape == found.maps.shape == (3, 8, 8, 2)
    for i, (image, place) in enumerate(zip(top.images[4], top.places[4], strict=True)):
        y, left = 2 * place - 1
        assert found.windows[i] == windows.Window(y, left, y + 8, left + 8)
        same(found.pixels[i], found.windows[i].cut(np.asarray(x[image])))
        by_all = input_gradient(
            model, params, state, x[image][None], layer="relu2", unit=(*place.tolist(), 4), rule="guided"
        )
        close(found.maps[i], found.windows[i].cut(np.asarray(by_all[0])))
    dense = features.strongest(model, params, state, np.asarray(x), layer="fc1", count=20)
    assert dense.values.shape == (6, 11)
    assert dense.places.shape == (6, 11, 0)
    close(dense.values, -np.sort(-np.asarray(outputs_by_layer(model, params, state, x)["fc1"]).T))
    with pytest.raises(UserError, match="channel=5: relu2 has channels 0 to 4"):
        features.patches(model, params, state, images, top, 5)
    with pytest.raises(UserError, match="got 0 images"):
        features.strongest(model, params, state, images[:0], layer="relu2")


def test_gradient_ascent_goes_up():
    model = cnn.serial(conv=cnn.conv(6, 3), act=jnp.tanh, avg=cnn.global_avg_pool, fc=cnn.dense(3))
    params, state = made(model, X)
    images, scores = features.maximize(model, params, state, (3, 8, 8, 2), unit=[0, 1, 2], steps=40)
    assert images.shape == (3, 8, 8, 2)
    assert scores.shape == (41, 3)
    assert (scores[-1] > scores[0] + 0.2).all()
    close(scores[-1], np.diag(np.asarray(outputs(model, params, state, images))))
    again, _ = features.maximize(model, params, state, (3, 8, 8, 2), unit=[0, 1, 2], steps=40)
    same(again, images)
    # A step without shift, blur and decay is along the gradient, whatever its size.
    one, _ = features.maximize(model, params, state, X, unit=1, layer="conv", steps=1, shift=0, blur=0, l2=0, lr=0.3)
    gradient = np.asarray(input_gradient(model, params, state, X, unit=1, layer="conv"), np.float64)
    close(one - X, 0.3 * gradient / np.sqrt((gradient**2).mean((1, 2, 3), keepdims=True)), 1e-4)
    with pytest.raises(UserError, match="unit=3: expected 0 to 2"):
        features.maximize(model, params, state, X, unit=3, steps=1)
    with pytest.raises(UserError, match="in floating point, or their shape"):
        features.maximize(model, params, state, X.astype(np.int32), unit=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        features.maximize(model, params, state, X, unit=1, step=1)


def test_blur_keeps_what_is_even_and_spreads_what_is_not():
    even = jnp.full((1, 6, 5, 2), 3.0)
    blurred = jax.jit(features._blurred)
    close(blurred(even, 0.8), even)
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
    weights = np.exp(-0.5 * (np.arange(-3, 4) / 0.8) ** 2)
    weights /= weights.sum()
    close(blurred(point, 0.8)[0, 1:8, 1:8, 0], np.outer(weights, weights).astype(np.float32))


# --- pictures ----------------------------------------------------------------------------------------------------


def test_heat_lies_on_grey():
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, 2, 3] = 5
    result = pictures.heat(images, maps)
    close(result[0], np.broadcast_to(pictures.visible(images)[0].mean(-1, keepdims=True), (4, 4, 3)))
    assert np.ptp(result[1, 2, 3]) > 0.2  # in colour
    with pytest.raises(UserError, match=r"maps of \(2, 3, 3\) do not lie on images of \(2, 4, 4\)"):
        pictures.heat(images, maps[:, :3, :3])
    with pytest.raises(UserError, match="expected images"):
        pictures.visible(np.zeros((4, 4)))


def test_pictures_of_what_they_show():
    x = normal(2, 3, 8, 8, 1)
    model = small()
    params, state = made(model, x)
    gradient = input_gradient(model, params, state, x, unit=0)
    figure = pictures.explained(
        x, {"gradient": gradient, "Grad-CAM": np.abs(gradient).max(-1)}, ["a", "b", "c"], "what counts"
    )
    assert [a.get_title() for a in figure.axes[:3]] == ["image", "gradient", "Grad-CAM"]
    top = features.strongest(model, params, state, x, layer="conv2", count=2)
    patches = features.patches(model, params, state, x, top, 1)
    seen = windows.see_unit(model, params, state, x, layer="conv1", place=(0, 3, 1))
    dense = windows.see_unit(model, params, state, x, layer="fc1", place=(1,))
    shown = pictures.unit(seen, x[0])
    assert f"= {seen.value:.4g}" in shown.get_suptitle()
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    every = [
        figure, shown, pictures.unit(dense, x[0]), pictures.top_patches({"conv2 1": patches}, "patches"),
        pictures.fields(grey, {"conv2": windows.Window(-2, 1, 4, 7)}, "fields"),
    ]  # fmt: skip
    for each in every:
        file = io.BytesIO()
        each.savefig(file)
        assert file.getvalue().startswith(b"\x89PNG")


def test_rank_correlation_of_maps():
    scipy = pytest.importorskip("scipy.stats")
    a, b = normal(0, 3, 5, 6), normal(1, 3, 5, 6)
    a[:, :3] = np.maximum(a[:, :3], 0)  # equal values
    close(
        correlation(a, b),
        np.array([scipy.spearmanr(u.ravel(), v.ravel()).statistic for u, v in zip(a, b, strict=True)]),
    )
    close(correlation(a, np.exp(a)), np.ones(3))
    assert correlation(a, 0 * a).tolist() == [0, 0, 0]
