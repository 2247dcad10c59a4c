"""The outputs of inner layers: those that the whole network has there, and nothing computed behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn.errors import UserError
from jaxcnn.inspect.summary import macs
from jaxcnn.models import features

KEY = jax.random.key(0)
IMAGE = normal(1, 2, 12, 12, 3)


def block(width):
    def forward(net, x):
        y = net.act(net.norm(net.conv(x)))
        return x + net.drop(net.act(y))

    layers = {"conv": cnn.conv(width, 3, padding=1, bias=False), "norm": cnn.batch_norm(), "drop": cnn.dropout(0.5)}
    return cnn.network(forward, **layers, act=cnn.relu)


def small():
    stage = cnn.serial(block1=block(4), block2=block(4))
    return cnn.serial(stem=cnn.conv(4, 3), layer1=stage, layer2=stage, pool=cnn.global_avg_pool, fc=cnn.dense(5))


PATHS = ("stem", "layer1/block2", "layer1/block1/norm", "layer1", "layer2/block1/act#2", "layer2/block1")


class Outputs(cnn.core.Watcher):
    def __init__(self):
        super().__init__()
        self.found = {}

    def called(self, layer, inputs, output):
        path = "/".join(self.path)
        count = sum(name.split("#")[0] == path for name in self.found)
        self.found[f"{path}#{count + 1}" if count else path] = output


def expected(model, params, state, x, **options):
    """All outputs of the whole network by path, and its new state."""
    seen = Outputs()
    with cnn.core.watch(seen):
        _, state = model.apply(params, state, x, **options)
    return {path: seen.found[path] for path in PATHS}, state


@pytest.fixture(scope="module")
def variables():
    return small().init(KEY, IMAGE)


@pytest.mark.parametrize("options", [{}, {"train": True, "key": jax.random.key(3)}], ids=["evaluation", "training"])
def test_outputs_are_those_inside_the_network(variables, options):
    """In training, too: the same random numbers, and the statistics of all layers that ran; the others stay."""
    maps, state = features(small(), PATHS).apply(*variables, IMAGE, **options)
    wanted, after = expected(small(), *variables, IMAGE, **options)
    same(maps, wanted)
    assert list(maps) == list(PATHS)
    assert jax.tree.structure(state) == jax.tree.structure(variables[1])
    same(state["layer1"], after["layer1"])
    same(state["layer2"]["block1"], after["layer2"]["block1"])
    same(state["layer2"]["block2"], variables[1]["layer2"]["block2"])


def test_the_variables_are_the_models_own(variables):
    tapped = features(small(), ["layer1"])
    same(tapped.init(KEY, IMAGE), variables)
    inside = cnn.network(lambda net, x: net.trunk(x)["layer1"].sum(), trunk=tapped)
    params, state = inside.init(KEY, IMAGE)
    alone = cnn.network(lambda net, x: net.trunk(x), trunk=small()).init(KEY, IMAGE)
    same((params, state), alone)


@pytest.mark.parametrize("train", [False, True])
def test_nothing_is_computed_beyond_the_last_layer(variables, train):
    """Neither under `jit`, whose compiler would drop it, nor without."""

    def cost(paths):
        model = features(small(), paths)
        return macs(jax.make_jaxpr(lambda x: model.apply(*variables, x, train=train, key=KEY)[0])(IMAGE).jaxpr)

    stem, conv = 2 * 10 * 10 * 9 * 3 * 4, 2 * 10 * 10 * 9 * 4 * 4
    assert cost(["stem"]) == stem
    assert cost(["layer1/block1/conv"]) == cost(["layer1/block1"]) == stem + conv
    assert cost(["layer1", "stem"]) == stem + 2 * conv
    assert cost(["layer2/block1/act"]) == stem + 3 * conv


def test_under_jit_and_in_gradients(variables):
    model, (params, state) = features(small(), PATHS), variables
    close(jax.jit(model.apply)(params, state, IMAGE)[0], expected(small(), params, state, IMAGE)[0])

    cut = cnn.serial(**{name: small().sublayers[name] for name in ("stem", "layer1")})

    def loss(params):
        maps, _ = model.apply(params, state, IMAGE, train=True, key=KEY)
        return (maps["layer1"] ** 2).sum()

    def by_itself(params):
        known = {name: params[name] for name in ("stem", "layer1")}
        return (cut.apply(known, {"layer1": state["layer1"]}, IMAGE, train=True, key=KEY)[0] ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(params)
    close(gradient, jax.grad(by_itself)(params))
    assert not any(np.any(g) for g in jax.tree.leaves([gradient["layer2"], gradient["fc"]]))


# A transformation, and one without `remat` that computes the same.
TRANSFORMED = {
    "remat": (lambda m: cnn.remat(m, "layer1", "layer2/block1"), lambda m: m),
    "remat_whole": (cnn.remat, lambda m: m),
    "frozen": (lambda m: cnn.freeze(m, "stem", "layer1"), lambda m: cnn.freeze(m, "stem", "layer1")),
    "frozen_whole": (cnn.freeze, cnn.freeze),
    "half": (cnn.mixed_precision, cnn.mixed_precision),
    "all": (lambda m: cnn.mixed_precision(cnn.remat(cnn.freeze(m, "stem"), "layer1")),
            lambda m: cnn.mixed_precision(cnn.freeze(m, "stem"))),
}  # fmt: skip


@pytest.mark.parametrize(("transform", "plain"), TRANSFORMED.values(), ids=TRANSFORMED)
def test_of_a_transformed_network_and_transformed(variables, transform, plain):
    """Inside and outside: the same variables, outputs and gradients."""
    params, state = cnn.weights.adapt(transform(small()), *variables)
    wanted, _ = expected(plain(small()), params, state, IMAGE, train=True, key=KEY)

    def gradient(model):
        def loss(params):
            return (model.apply(params, state, IMAGE, train=True, key=KEY)[0]["layer1"].astype("float32") ** 2).sum()

        return jax.jit(jax.grad(loss))(params)

    inside, outside = features(transform(small()), PATHS), transform(features(small(), PATHS))
    for model in (inside, outside):
        assert jax.tree.structure(model.init(KEY, IMAGE)) == jax.tree.structure((params, state))
        maps, _ = model.apply(params, state, IMAGE, train=True, key=KEY)
        close(maps, jax.tree.map(lambda a, m: a.astype(m.dtype), wanted, maps))
    close(gradient(inside), gradient(outside))


def test_features_inside_a_network_of_which_features_are_taken(variables):
    pair = cnn.network(
        lambda net, x: net.head(net.trunk(x)["layer1"]),
        trunk=features(small(), ["stem", "layer1"]),
        head=cnn.conv(2, 1),
    )
    params, state = pair.init(KEY, IMAGE)
    maps, _ = features(pair, ["trunk/layer1/block1", "head"]).apply(params, state, IMAGE)
    inner, _ = features(small(), ["layer1/block1"]).apply(params["trunk"], state["trunk"], IMAGE)
    same(maps["trunk/layer1/block1"], inner["layer1/block1"])
    same(maps["head"], pair.apply(params, state, IMAGE)[0])
    whole, _ = features(pair, ["trunk"]).apply(params, state, IMAGE)
    assert list(whole["trunk"]) == ["stem", "layer1"]


def test_of_a_network_that_is_called_twice(variables):
    """Siamese: the second call of a layer inside is named by its number."""
    params, state = variables
    twins = cnn.network(lambda net, x, y: net.one(x) - net.one(y), one=small())
    maps, _ = features(twins, ["one/stem", "one/stem#2"]).apply({"one": params}, {"one": state}, IMAGE, IMAGE[::-1])
    same(maps["one/stem#2"], maps["one/stem"][::-1])


def test_the_library_sees_it_as_any_network(variables, tmp_path):
    """Summaries show what runs, weights are those of the family, and equal calls are equal."""
    model = features(cnn.models.resnet(blocks=(1, 1), width=4, classes=3), ["layer1/block1/bn1"])
    summary = cnn.inspect.summary(model, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert [row.name for row in summary.layers][-1] == "layer1/block1/bn1"
    params, state = model.init(KEY, normal(2, 1, 32, 32, 3))
    cnn.weights.save(model, params, state, tmp_path / "net.safetensors", input=(32, 32, 3))
    same(cnn.weights.load(model, tmp_path / "net.safetensors", input=(32, 32, 3)), (params, state))
    again = features(cnn.models.resnet(blocks=(1, 1), width=4, classes=3), ["layer1/block1/bn1"])
    assert model == again
    assert hash(model) == hash(again)
    assert model != features(cnn.models.resnet(blocks=(1, 1), width=4, classes=3), ["layer1"])
    with pytest.raises(UserError, match="unknown layer 'layer3'"):
        features(small(), ["layer3"])


def test_what_has_no_features(variables):
    unused = cnn.network(lambda net, x: net.a(x), a=cnn.relu, b=cnn.tanh)
    with pytest.raises(UserError, match="does not call b"):
        features(unused, ["b"]).apply({}, {}, IMAGE)
    with pytest.raises(UserError, match="at least one path"):
        features(small(), [])
    with pytest.raises(UserError, match="its own features"):
        features(cnn.ensemble(small(), 2), ["stem"])
    with pytest.raises(UserError, match="takes a Layer first"):
        features(None, ["stem"])
    with pytest.raises(UserError, match="params has entries for other"):
        features(small(), ["stem"]).apply({"other": {}}, {}, IMAGE)
