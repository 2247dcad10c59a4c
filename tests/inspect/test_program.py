"""A network's program: its calls, and its values up to a layer and from a layer on, against the network itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn.errors import UserError
from jaxcnn.inspect import activations, program, split_at

KEY = jax.random.key(0)
X = normal(0, 2, 8, 8, 2)


def block():
    def forward(net, x):
        return net.relu(net.conv(net.relu(net.conv(x))) + x)

    return cnn.network(forward, conv=cnn.conv(2, 3, padding=1), relu=cnn.relu)


MODEL = cnn.serial(
    block=block(), drop=cnn.dropout(0.5), norm=cnn.batch_norm(), pool=cnn.global_avg_pool, fc=cnn.dense(3)
)
PARAMS, STATE = MODEL.init(KEY, X)
NAMES = ["block/conv", "block/relu", "block/conv#2", "block/relu#2", "block", "drop", "norm", "pool", "fc"]


@pytest.fixture(scope="module")
def traced():
    return program(MODEL, PARAMS, STATE, X)


def test_calls_are_found_by_their_path(traced):
    assert list(traced.calls) == list(traced.marks) == NAMES
    assert traced.calls["block/conv#2"].path == ("block", "conv")
    assert traced.calls["block/conv"].layer == MODEL.sublayers["block"].sublayers["conv"]
    assert [call.path[-1] for call in traced.calls["block"].calls] == ["conv", "relu", "conv", "relu"]
    assert [op.eqn.primitive.name for op in traced.calls["block"].own] == ["add"]
    # The second call is given what the first one gave.
    calls = traced.calls
    assert calls["block/relu"].inputs == calls["block/conv"].outputs
    assert calls["fc"].outputs == traced.outline.outputs
    assert traced.shape("pool").shape == (2, 2)
    assert traced.relus == 2


def test_a_program_is_run_to_its_end_or_until_a_layer(traced):
    same(traced.run(), MODEL.apply(PARAMS, STATE, X)[0])
    expected = activations(MODEL, PARAMS, STATE, X)
    assert list(expected) == NAMES
    for name in NAMES:
        close(traced.run(until=name), expected[name])


def test_a_program_goes_on_from_another_value(traced):
    seen = activations(MODEL, PARAMS, STATE, X)
    kernel, bias = (PARAMS["block"]["conv"][name] for name in ("kernel", "bias"))
    on = np.abs(normal(1, 2, 8, 8, 2))
    expected = np.maximum(cnn.ops.conv(on, kernel, 1, 1) + bias + X, 0)  # the shortcut stays
    close(traced.run(from_="block/relu", on=on, until="block"), expected)
    tail = cnn.serial(**{name: MODEL.sublayers[name] for name in ("drop", "norm", "pool", "fc")})
    kept = {name: PARAMS[name] for name in ("norm", "fc")}
    close(traced.run(from_="block/relu", on=on), tail.apply(kept, STATE, jnp.asarray(expected))[0])
    close(traced.run(from_="norm", on=seen["norm"]), seen["fc"])
    gradient = jax.grad(lambda on: traced.run(from_="pool", on=on)[:, 1].sum())(seen["pool"])
    close(gradient, np.broadcast_to(PARAMS["fc"]["kernel"][:, 1], (2, 2)))


def test_a_training_pass():
    traced = program(MODEL, PARAMS, STATE, X, train=True, key=KEY)
    close(traced.run(), MODEL.apply(PARAMS, STATE, X, train=True, key=KEY)[0])
    close(traced.run(until="drop"), activations(MODEL, PARAMS, STATE, X, train=True, key=KEY)["drop"])
    assert (np.asarray(traced.run(until="drop")) == 0).mean() > 0.3


def test_shapes_are_enough_for_the_calls():
    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (PARAMS, STATE, X))
    traced = program(MODEL, *structs)
    assert list(traced.calls) == NAMES
    assert traced.shape("block") == jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
    with pytest.raises(UserError, match=r"traced on shapes and has no values: give inspect.program the arrays"):
        traced.run()


def test_what_cannot_be_run(traced):
    with pytest.raises(UserError, match="unknown layer 'blck': did you mean block"):
        traced.run(until="blck")
    with pytest.raises(UserError, match=r"the output of 'pool' is \(2, 2\), got \(2, 3\)"):
        traced.run(from_="pool", on=np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match="until='block': the layer is called before from_='pool'"):
        traced.run(from_="pool", on=np.zeros((2, 2), np.float32), until="block")
    with pytest.raises(UserError, match="unknown rule 'guide': did you mean guided"):
        traced.run(rule="guide")


def test_a_name_counts_calls_in_loops_as_well():
    def forward(net, x):
        x = jax.lax.scan(lambda y, _: (net.conv(y), None), x, length=2)[0]
        return net.conv(x)

    model = cnn.network(forward, conv=cnn.conv(2, 3, padding=1))
    params, state = model.init(KEY, X)
    traced = program(model, params, state, X)
    assert list(traced.calls) == ["conv", "conv#2"]
    assert list(traced.marks) == ["conv#2"]
    same(traced.run(until="conv#2"), traced.run())
    with pytest.raises(UserError, match="'conv' is inside a loop"):
        traced.run(until="conv")


MEMBERS = {
    "conv": cnn.serial(first=cnn.conv(5, 3, 2, 1), act=jnp.tanh, flat=cnn.flatten, head=cnn.dense(3)),
    # Its first product has the axis of members behind that of examples.
    "dense": cnn.serial(flat=cnn.flatten, first=cnn.dense(4, bias=False), act=jnp.tanh, head=cnn.dense(3)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_in_an_ensemble_the_rest_uses_the_members_values(name):
    member = MEMBERS[name]
    model = cnn.ensemble(member, 3)
    params, state = model.init(KEY, X)
    for layer in ("first", "act"):
        value, rest = split_at(model, params, state, X, layer=layer)
        moved = value + normal(2, *value.shape)
        members = []
        for k in range(3):
            own = jax.tree.map(lambda a, k=k: a[k], params)
            _, tail = split_at(member, own, {}, X, layer=layer)
            members.append(jax.nn.softmax(tail(moved[k])))
        close(jax.nn.softmax(rest(moved)), np.mean(members, 0))


def test_a_program_in_jit_is_that_of_its_values():
    @functools.partial(jax.jit, static_argnames="until")
    def run(params, x, until):
        return program(MODEL, params, STATE, x).run(until=until)

    close(run(PARAMS, X, "norm"), activations(MODEL, PARAMS, STATE, X)["norm"])
    doubled = jax.tree.map(lambda a: 2 * a, PARAMS)
    close(run(doubled, X, None), MODEL.apply(doubled, STATE, X)[0])
