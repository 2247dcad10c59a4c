"""One table of layers; every test here runs over all of it. A new layer is tested by adding a row."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import alike, close, normal, same, shapes

import jaxcnn as cnn
from jaxcnn.core import Layer, LayerError, as_layer, fold_in

Shape = tuple[int, ...]
KEY = jax.random.key(0, impl="rbg")  # compiles in a fifth of the default's time; which bits are drawn does not matter


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the shape it is given, and what it should give and hold.

    A layer with `state`, or one that is `random`, does something else in training; the others must not.
    """

    make: Callable[..., Any] | Layer
    input: Shape
    output: Any
    params: dict[str, Shape] = dataclasses.field(default_factory=dict)
    state: dict[str, Shape] = dataclasses.field(default_factory=dict)
    random: bool = False
    integer: bool = False

    @property
    def layer(self) -> Layer:
        return as_layer(self.make)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The training pass: `(params, state, x, key) -> (output, state)`."""
        return jax.jit(lambda params, state, x, key: self.layer.apply(params, state, x, train=True, key=key))

    @property
    def modes(self) -> tuple[bool, ...]:
        """The values of `train` that make a difference."""
        return (False, True) if self.state or self.random else (True,)

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.input, jnp.int32 if self.integer else jnp.float32)

    def values(self, seed: int, dtype: Any = np.float32) -> tuple[Any, Any, Any]:
        """Random params, state and input: no initializer's zeros and ones, and a variance that is positive."""
        rng = np.random.default_rng(seed)
        params = {name: rng.normal(size=shape) for name, shape in self.params.items()}
        state = {name: rng.uniform(0.5, 1.5, size=shape).astype(np.float32) for name, shape in self.state.items()}
        x = rng.integers(0, 7, self.input).astype(np.int32) if self.integer else rng.normal(size=self.input)
        cast = functools.partial(jax.tree.map, lambda a: a.astype(dtype) if a.dtype == np.float64 else a)
        return cast(nest(params)), nest(state), cast(x)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, name = path.split("/")
        functools.reduce(lambda t, key: t.setdefault(key, {}), outer, tree)[name] = value
    return tree


def weights(*kernel: int) -> dict[str, Shape]:
    return {"kernel": kernel, "bias": kernel[-1:]}


AFFINE = {"scale": (4,), "bias": (4,)}
RUNNING = {"mean": (4,), "var": (4,)}
SQUEEZE = {"fc1/kernel": (1, 1, 4, 3), "fc1/bias": (3,), "fc2/kernel": (1, 1, 3, 4), "fc2/bias": (4,)}
IMAGE = (2, 5, 6, 4)

# fmt: off
CASES = {
    # convolution, in 1, 2 and 3 dimensions
    "conv_1d": Case(cnn.conv(3, 3), (2, 7, 4), (2, 5, 3), weights(3, 4, 3)),
    "conv": Case(cnn.conv(3, 3), IMAGE, (2, 3, 4, 3), weights(3, 3, 4, 3)),
    "conv_3d": Case(cnn.conv(3, 2), (2, 3, 4, 3, 4), (2, 2, 3, 2, 3), weights(2, 2, 2, 4, 3)),
    "conv_1x1": Case(cnn.conv(2, 1), IMAGE, (2, 5, 6, 2), weights(1, 1, 4, 2)),
    "conv_no_bias": Case(cnn.conv(3, 3, bias=False), IMAGE, (2, 3, 4, 3), {"kernel": (3, 3, 4, 3)}),
    "conv_oblong": Case(cnn.conv(3, (1, 4), (2, 1)), IMAGE, (2, 3, 3, 3), weights(1, 4, 4, 3)),
    "conv_pad": Case(cnn.conv(3, 3, 2, 1), (2, 5, 7, 4), (2, 3, 4, 3), weights(3, 3, 4, 3)),
    "conv_pad_per_dim": Case(cnn.conv(3, 3, 1, (0, 2)), IMAGE, (2, 3, 8, 3), weights(3, 3, 4, 3)),
    "conv_pad_pairs": Case(cnn.conv(3, 3, 1, ((1, 0), (0, 2))), IMAGE, (2, 4, 6, 3), weights(3, 3, 4, 3)),
    "conv_same": Case(cnn.conv(3, 3, 2, "SAME"), IMAGE, (2, 3, 3, 3), weights(3, 3, 4, 3)),
    "conv_valid": Case(cnn.conv(3, 2, 1, "VALID"), IMAGE, (2, 4, 5, 3), weights(2, 2, 4, 3)),
    "conv_floor": Case(cnn.conv(3, 3, 2, floor=True), IMAGE, (2, 2, 2, 3), weights(3, 3, 4, 3)),
    "conv_dilated": Case(cnn.conv(3, 3, dilation=2), IMAGE, (2, 1, 2, 3), weights(3, 3, 4, 3)),
    "conv_groups": Case(cnn.conv(6, 3, groups=2), IMAGE, (2, 3, 4, 6), weights(3, 3, 2, 6)),
    "conv_depthwise": Case(cnn.conv(4, 3, groups=4), IMAGE, (2, 3, 4, 4), weights(3, 3, 1, 4)),
    "separable_conv": Case(
        cnn.separable_conv(3, 3, multiplier=2), IMAGE, (2, 3, 4, 3),
        {"depthwise": (3, 3, 1, 8), "pointwise": (1, 1, 8, 3), "bias": (3,)}),
    "separable_conv_1d": Case(
        cnn.separable_conv(5, 3, 2, 1, bias=False), (2, 7, 4), (2, 4, 5),
        {"depthwise": (3, 1, 4), "pointwise": (1, 4, 5)}),
    "conv_transpose_1d": Case(cnn.conv_transpose(3, 3, 2), (2, 4, 4), (2, 9, 3), weights(3, 4, 3)),
    "conv_transpose": Case(cnn.conv_transpose(3, 4, 2, 1), IMAGE, (2, 10, 12, 3), weights(4, 4, 4, 3)),
    "conv_transpose_3d": Case(cnn.conv_transpose(3, 2), (2, 2, 3, 2, 4), (2, 3, 4, 3, 3), weights(2, 2, 2, 4, 3)),
    "conv_transpose_extra": Case(
        cnn.conv_transpose(3, 3, 2, 1, dilation=2, output_padding=1, bias=False), (2, 3, 4, 4), (2, 8, 10, 3),
        {"kernel": (3, 3, 4, 3)}),
    # fully connected
    "dense": Case(cnn.dense(3), (2, 5), (2, 3), weights(5, 3)),
    "dense_no_bias": Case(cnn.dense(3, bias=False), (2, 5), (2, 3), {"kernel": (5, 3)}),
    "dense_per_pixel": Case(cnn.dense(3), IMAGE, (2, 5, 6, 3), weights(4, 3)),
    "maxout": Case(cnn.maxout(3), (2, 5), (2, 3), {"kernel": (2, 5, 3), "bias": (2, 3)}),
    "maxout_pieces": Case(cnn.maxout(3, 4, bias=False), (2, 5), (2, 3), {"kernel": (4, 5, 3)}),
    "embed": Case(cnn.embed(7, 3), (2, 5), (2, 5, 3), {"kernel": (7, 3)}, integer=True),
    "flatten": Case(cnn.flatten, IMAGE, (2, 120)),
    # pooling
    "max_pool_1d": Case(cnn.max_pool(2), (2, 6, 4), (2, 3, 4)),
    "max_pool": Case(cnn.max_pool(2), IMAGE, (2, 2, 3, 4)),
    "max_pool_3d": Case(cnn.max_pool(2), (2, 4, 2, 5, 3), (2, 2, 1, 2, 3)),
    "max_pool_overlapping": Case(cnn.max_pool(3, 2), (2, 7, 5, 4), (2, 3, 2, 4)),
    "max_pool_ceil": Case(cnn.max_pool(2, ceil=True), IMAGE, (2, 3, 3, 4)),
    "max_pool_padded": Case(cnn.max_pool(3, 2, 1), IMAGE, (2, 3, 3, 4)),
    "max_pool_oblong": Case(cnn.max_pool((1, 3), (2, 1)), IMAGE, (2, 3, 4, 4)),
    "max_pool_wide": Case(cnn.max_pool(9, 1, "SAME"), IMAGE, (2, 5, 6, 4)),
    "avg_pool": Case(cnn.avg_pool(2), IMAGE, (2, 2, 3, 4)),
    "avg_pool_overlapping": Case(cnn.avg_pool(3, 2), (2, 7, 5, 4), (2, 3, 2, 4)),
    "avg_pool_ceil": Case(cnn.avg_pool(3, 2, ceil=True), (2, 4, 6, 4), (2, 2, 3, 4)),
    "avg_pool_padded": Case(cnn.avg_pool(3, 2, 1), IMAGE, (2, 3, 3, 4)),
    "avg_pool_count_padding": Case(cnn.avg_pool(3, 2, 1, count_padding=True), IMAGE, (2, 3, 3, 4)),
    "avg_pool_same": Case(cnn.avg_pool(2, 1, "SAME"), IMAGE, (2, 5, 6, 4)),
    "sum_pool": Case(cnn.sum_pool(2, 1), IMAGE, (2, 4, 5, 4)),
    "adaptive_avg_pool": Case(cnn.adaptive_avg_pool(3), IMAGE, (2, 3, 3, 4)),
    "adaptive_avg_pool_repeating": Case(cnn.adaptive_avg_pool((2, 7)), IMAGE, (2, 2, 7, 4)),
    "adaptive_avg_pool_dividing": Case(cnn.adaptive_avg_pool((5, 2)), IMAGE, (2, 5, 2, 4)),
    "adaptive_avg_pool_1d": Case(cnn.adaptive_avg_pool(4), (2, 5, 4), (2, 4, 4)),
    "global_max_pool": Case(cnn.global_max_pool, IMAGE, (2, 4)),
    "global_avg_pool": Case(cnn.global_avg_pool, IMAGE, (2, 4)),
    "global_avg_pool_1d": Case(cnn.global_avg_pool, (2, 5, 4), (2, 4)),
    # normalization
    "batch_norm": Case(cnn.batch_norm(), IMAGE, IMAGE, AFFINE, RUNNING),
    "batch_norm_vectors": Case(cnn.batch_norm(), (5, 4), (5, 4), AFFINE, RUNNING),
    "batch_norm_plain": Case(cnn.batch_norm(0.99, 1e-3, scale=False, bias=False), IMAGE, IMAGE, {}, RUNNING),
    "layer_norm": Case(cnn.layer_norm(), IMAGE, IMAGE, AFFINE),
    "layer_norm_image": Case(cnn.layer_norm(axes=(-3, -2, -1), bias=False), IMAGE, IMAGE, {"scale": (5, 6, 4)}),
    "layer_norm_skipping": Case(cnn.layer_norm(axes=(-3, -1), scale=False), IMAGE, IMAGE, {"bias": (5, 1, 4)}),
    "group_norm": Case(cnn.group_norm(2), IMAGE, IMAGE, AFFINE),
    "instance_norm": Case(cnn.group_norm(4, scale=False, bias=False), IMAGE, IMAGE),
    "local_response_norm": Case(cnn.local_response_norm(3, 0.5, 0.75, 1.0), IMAGE, IMAGE),
    "local_response_norm_even": Case(cnn.local_response_norm(4, 0.5), IMAGE, IMAGE),
    # dropout
    "dropout": Case(cnn.dropout(0.5), IMAGE, IMAGE, random=True),
    "dropout_maps": Case(cnn.dropout(0.5, shared_axes=(1, 2)), IMAGE, IMAGE, random=True),
    "dropout_nothing": Case(cnn.dropout(0.0), IMAGE, IMAGE),
    "drop_path": Case(cnn.drop_path(0.5), (8, 3, 4), (8, 3, 4), random=True),
    "drop_path_nothing": Case(cnn.drop_path(0.0), IMAGE, IMAGE),
    # channels and pixels
    "squeeze_excite": Case(cnn.squeeze_excite(4, 3), (2, 4, 4, 4), (2, 4, 4, 4), SQUEEZE),
    "squeeze_excite_hard": Case(cnn.squeeze_excite(4, 3, cnn.silu, cnn.hard_sigmoid), IMAGE, IMAGE, SQUEEZE),
    "layer_scale": Case(cnn.layer_scale(), IMAGE, IMAGE, {"scale": (4,)}),
    "channel_shuffle": Case(cnn.channel_shuffle(2), IMAGE, IMAGE),
    "pixel_shuffle": Case(cnn.pixel_shuffle(2), (2, 3, 2, 12), (2, 6, 4, 3)),
    "upsample": Case(cnn.upsample(3), (2, 3, 2, 4), (2, 9, 6, 4)),
    "upsample_bilinear": Case(cnn.upsample(2, "bilinear"), IMAGE, (2, 10, 12, 4)),
    "param": Case(
        cnn.network(lambda net, x: x * cnn.ops.spread(net.scale(), x), scale=cnn.param(4)), IMAGE, IMAGE,
        {"scale/value": (4,)}),
    # activations
    "relu": Case(cnn.relu, IMAGE, IMAGE),
    "sigmoid": Case(cnn.sigmoid, IMAGE, IMAGE),
    "tanh": Case(cnn.tanh, IMAGE, IMAGE),
    "softmax": Case(cnn.softmax, IMAGE, IMAGE),
    "gelu": Case(cnn.gelu, IMAGE, IMAGE),
    "gelu_tanh": Case(cnn.gelu_tanh, IMAGE, IMAGE),
    "silu": Case(cnn.silu, IMAGE, IMAGE),
    "relu6": Case(cnn.relu6, IMAGE, IMAGE),
    "hard_sigmoid": Case(cnn.hard_sigmoid, IMAGE, IMAGE),
    "hard_swish": Case(cnn.hard_swish, IMAGE, IMAGE),
    "leaky_relu": Case(cnn.leaky_relu(0.1), IMAGE, IMAGE),
    "elu": Case(cnn.elu(0.5), IMAGE, IMAGE),
    "prelu": Case(cnn.prelu(), IMAGE, IMAGE, {"slope": (4,)}),
    "prelu_shared": Case(cnn.prelu(shared=True), IMAGE, IMAGE, {"slope": (1,)}),
    # composition
    "parallel": Case(
        cnn.parallel(cnn.dense(3), cnn.relu), (2, 5), ((2, 3), (2, 5)),
        {"dense1/kernel": (5, 3), "dense1/bias": (3,)}),
    "parallel_concat": Case(
        cnn.parallel(one=cnn.dense(3), norm=cnn.batch_norm(), pool=cnn.max_pool(3, 1, 1), join=cnn.concat),
        IMAGE, (2, 5, 6, 11),
        {"one/kernel": (4, 3), "one/bias": (3,), "norm/scale": (4,), "norm/bias": (4,)},
        {"norm/mean": (4,), "norm/var": (4,)}),
    "parallel_add": Case(cnn.parallel(cnn.relu, cnn.tanh, join=operator.add), IMAGE, IMAGE),
    "residual": Case(
        cnn.residual(cnn.serial(cnn.dense(4), cnn.dropout(0.5))), IMAGE, IMAGE,
        {"body/dense1/kernel": (4, 4), "body/dense1/bias": (4,)}, random=True),
    "residual_projection": Case(
        cnn.residual(cnn.conv(3, 3, 2, 1), cnn.conv(3, 1, 2, bias=False)), (2, 5, 7, 4), (2, 3, 4, 3),
        {"body/kernel": (3, 3, 4, 3), "body/bias": (3,), "shortcut/kernel": (1, 1, 4, 3)}),
}
# fmt: on

# The scope brings the tests of one layer together, which then share compiled code.
every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES, scope="module")


def test_every_layer_has_a_row():
    def kinds(layer: Layer) -> set[str]:
        return {layer.kind}.union(*map(kinds, layer.sublayers.values()))

    assert set(cnn.layers.__all__) <= set().union(*(kinds(case.layer) for case in CASES.values()))


@every_layer
def test_init_gives_variables_by_name_from_shapes_alone_and_the_same_inside_a_network(case):
    variables = case.layer.init(fold_in(KEY, "it"), case.struct)
    assert tuple(map(shapes, variables)) == (case.params, case.state)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {np.dtype(np.float32)}
    alike(case.layer.init(fold_in(KEY, "it"), case.values(0)[2]), variables)
    inside = cnn.serial(it=case.make).init(KEY, case.struct)
    alike(tuple(tree.get("it", {}) for tree in inside), variables)


@every_layer
def test_training_and_evaluation(case):
    params, state, x = case.values(0)
    apply = functools.partial(case.layer.apply, params, state, x)
    evaluated, kept = apply()
    trained, updated = apply(train=True, key=KEY if case.random else None)
    for output in (evaluated, trained):
        assert jax.tree.map(jnp.shape, output) == case.output
        assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {np.dtype(np.float32)}
    same(kept, state)
    assert shapes(updated) == case.state
    if case.random or case.state:
        assert not np.allclose(evaluated, trained)
        same(apply(train=False, key=KEY), (evaluated, state))
    else:
        same(trained, evaluated)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(updated), strict=True):
        assert not np.any(old == new)


@every_layer
def test_jit_equals_eager(case):
    values = case.values(1)
    close(case.compiled(*values, KEY), case.layer.apply(*values, train=True, key=KEY))


@every_layer
def test_vmap_equals_a_loop(case):
    ensemble = [case.values(seed) for seed in range(2)]
    # Of keys of the kind `rbg`, a vmap would use the first alone.
    keys = jax.random.split(jax.random.key(0), 2) if case.random else jax.random.split(KEY, 2)
    stack = functools.partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    alone = [case.compiled(*values, key) for values, key in zip(ensemble, keys, strict=True)]
    close(jax.vmap(case.compiled)(*stack(*ensemble), keys), stack(*alone))


@every_layer
@pytest.mark.usefixtures("x64")
def test_gradient_equals_finite_differences(case):
    """Along one random direction of parameters and input together.

    Central differences with step 1e-5 in float64 are wrong by 1e-10 for the curvature and 1e-11 for rounding, so that
    1e-7 tells a wrong formula from a right one. The numbers are random: none is within 1e-5 of a kink.
    """
    params, state, x = case.values(2, np.float64)
    point = params if case.integer else (params, x)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), point)
    weights = jax.tree.map(lambda shape: rng.normal(size=shape), case.output, is_leaf=lambda s: isinstance(s[0], int))

    def loss(point, train):
        inner, given = (point, x) if case.integer else point
        output = case.layer.apply(inner, state, given, train=train, key=KEY)[0]
        return sum(jax.tree.leaves(jax.tree.map(lambda o, w: (o * w).sum(), output, weights)))

    for train in case.modes:
        value_and_grad = jax.jit(jax.value_and_grad(functools.partial(loss, train=train)))
        moved = (jax.tree.map(lambda p, d: p + step * d, point, direction) for step in (1e-5, -1e-5))  # noqa: B023
        ahead, behind = (float(value_and_grad(p)[0]) for p in moved)
        along = jax.tree.map(lambda g, d: (g * d).sum(), value_and_grad(point)[1], direction)
        assert float(sum(jax.tree.leaves(along))) == pytest.approx((ahead - behind) / 2e-5, rel=1e-7)


def off(actual, expected):
    """The error of a tree of arrays, leaf by leaf: its L2 norm by that of the expected one."""
    norm = lambda a: np.linalg.norm(np.asarray(a, np.float64).ravel())  # noqa: E731
    return jax.tree.map(
        lambda a, e: norm(np.asarray(a, np.float64) - np.asarray(e, np.float64)) / max(norm(e), 1e-3), actual, expected
    )


@every_layer
def test_half_precision_sums_in_float32(case):
    """Outputs, state and all gradients of a batch of 1024 images, or 32768 vectors, against float64.

    A sum of 1024 cotangents in bfloat16 ends at some 256 of them; in float32 it fits into float16, too. Inputs and
    parameters are multiples of 1/4, with which products and small sums are exact in either format: no kink is crossed.
    A result that is rounded once is off by at most half a spacing u, 2^-8 in bfloat16 and 2^-11 in float16, and by
    u / sqrt(3) in the mean; the tolerance of 1.5 u leaves room for one more rounding (a bias added to a product).
    """
    rng = np.random.default_rng(5)
    quarters = lambda shape: rng.integers(-4, 5, shape) / 4  # noqa: E731
    params = nest({name: quarters(shape) for name, shape in case.params.items()})
    state = nest({name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in case.state.items()})
    batch = 1024 if len(case.input) > 2 else 1 << 15
    large = (batch, *case.input[1:])
    x = rng.integers(0, 7, large) if case.integer else quarters(large)
    ct = jax.tree.map(
        lambda shape: rng.uniform(1 / 8, 3 / 8, (batch, *shape[1:])).astype(jnp.bfloat16),
        case.output, is_leaf=lambda shape: isinstance(shape[0], int),
    )  # fmt: skip

    @jax.jit
    def everything(params, x, ct):
        point = (params,) if case.integer else (params, x)
        apply = lambda params, x=x: case.layer.apply(params, state, x, train=True, key=KEY)  # noqa: E731
        output, pull, new = jax.vjp(apply, *point, has_aux=True)
        return output, new, pull(ct)

    def found(dtype):
        return everything(*jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind != "i" else a, (params, x, ct)))

    got = {name: found(name) for name in ("bfloat16", "float16")}
    # What is dropped differs in float64.
    wide = np.float32 if case.random else np.float64
    with jax.enable_x64(not case.random):
        expected = jax.tree.map(np.asarray, found(wide))
    for (name, half), u in zip(got.items(), (2**-8, 2**-11), strict=True):
        assert {a.dtype.name for a in jax.tree.leaves((half[0], half[2]))} == {name}
        assert {a.dtype.name for a in jax.tree.leaves(half[1])} <= {"float32"}
        for path, error in jax.tree.leaves_with_path(off(half, expected)):
            assert error <= 1.5 * u, f"{name} {jax.tree_util.keystr(path)} is {error / u:.1f} u off"


def standardized(x, *axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def transposed(p, x):
    y = np.zeros((2, 9, 3))
    for i, u in itertools.product(range(4), range(3)):
        y[:, 2 * i + u] += x[:, i] @ p["kernel"][u]
    return y + p["bias"]


def separable(p, x):
    z = np.zeros((2, 3, 4, 8))
    for u, v, c, m in itertools.product(range(3), range(3), range(4), range(2)):
        z[..., 2 * c + m] += x[:, u : u + 3, v : v + 4, c] * p["depthwise"][u, v, 0, 2 * c + m]
    return z @ p["pointwise"][0, 0] + p["bias"]


def squeezed(p, x):
    hidden = np.maximum(0, x.mean((1, 2)) @ p["fc1"]["kernel"][0, 0] + p["fc1"]["bias"])
    gate = 1 / (1 + np.exp(-(hidden @ p["fc2"]["kernel"][0, 0] + p["fc2"]["bias"])))
    return x * gate[:, None, None]


def shuffled(x):
    y = np.zeros((2, 6, 4, 3))
    for u, v, c in itertools.product(range(2), range(2), range(3)):
        y[:, u::2, v::2, c] = x[..., 4 * c + 2 * u + v]
    return y


# Of rows of the table; convolution, pooling and batch normalization are compared with NumPy in test_ops.
FORMULAS = {
    "dense_per_pixel": lambda p, x: x @ p["kernel"] + p["bias"],
    "conv_1x1": lambda p, x: x @ p["kernel"][0, 0] + p["bias"],
    "conv_transpose_1d": transposed,
    "maxout": lambda p, x: np.max([x @ k + b for k, b in zip(p["kernel"], p["bias"], strict=True)], 0),
    "separable_conv": separable,
    "squeeze_excite": squeezed,
    "layer_scale": lambda p, x: x * p["scale"],
    "param": lambda p, x: x * p["scale"]["value"],
    "channel_shuffle": lambda p, x: x[..., [0, 2, 1, 3]],
    "pixel_shuffle": lambda p, x: shuffled(x),
    "upsample": lambda p, x: x.repeat(3, 1).repeat(3, 2),
    "embed": lambda p, x: p["kernel"][x],
    "flatten": lambda p, x: x.reshape(2, -1),
    "prelu": lambda p, x: np.where(x >= 0, x, p["slope"] * x),
    "prelu_shared": lambda p, x: np.where(x >= 0, x, p["slope"] * x),
    "layer_norm": lambda p, x: standardized(x, 3) * p["scale"] + p["bias"],
    "layer_norm_image": lambda p, x: standardized(x, 1, 2, 3) * p["scale"],
    "layer_norm_skipping": lambda p, x: standardized(x, 1, 3) + p["bias"],
    "group_norm": lambda p, x: (
        standardized(x.reshape(2, 5, 6, 2, 2), 1, 2, 4).reshape(x.shape) * p["scale"] + p["bias"]
    ),
    "instance_norm": lambda p, x: standardized(x, 1, 2),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_layers_are_their_formulas(name):
    params, _, x = CASES[name].values(6)
    wide = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, (params, x))
    close(CASES[name].layer.apply(params, {}, x)[0], FORMULAS[name](*wide))


# --- what is true of one layer only ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_drops_its_share_and_scales_the_rest(rate):
    x = np.ones((100, 1000), np.float32)
    y = np.asarray(cnn.dropout(rate).apply({}, {}, x, train=True, key=jax.random.key(1))[0])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    # Five standard deviations of the share of 100 000 draws: at most 0.8 %.
    assert (y == 0).mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / x.size))


def test_dropout_of_whole_feature_maps():
    layer = cnn.dropout(0.5, shared_axes=(1, 2))
    y = layer.apply({}, {}, np.ones((4, 5, 6, 16), np.float32), train=True, key=jax.random.key(2))[0]
    same(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert 0 < (y[:, 0, 0] == 0).sum() < 64


def test_drop_path_drops_whole_examples():
    x = np.asarray(normal(0, 2000, 2, 3))
    y = np.asarray(cnn.drop_path(0.2).apply({}, {}, x, train=True, key=jax.random.key(1))[0])
    kept = y.any((1, 2))
    close(y[kept], x[kept] / 0.8)
    # Five standard deviations of the share of 2000 draws: 4.5 %.
    assert (~kept).mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / len(x)))
    with pytest.raises(LayerError, match="drop_path draws random numbers in training"):
        cnn.drop_path(0.2).apply({}, {}, x, train=True)


def test_layer_scale_starts_small():
    params, _ = cnn.layer_scale(1e-3).init(KEY, normal(0, 2, 4))
    same(params, {"scale": np.full(4, 1e-3, np.float32)})


def test_a_param_has_any_shape_and_starts_as_it_is_told():
    for shape, expected in (((), ()), (3, (3,)), ((2, 1), (2, 1))):
        params, _ = cnn.param(shape, jax.nn.initializers.constant(2.5)).init(KEY)
        same(params, {"value": np.full(expected, 2.5, np.float32)})
    params, _ = cnn.param((100, 50), jax.nn.initializers.normal(0.1)).init(KEY)
    assert params["value"].std() == pytest.approx(0.1, rel=0.05)


def test_two_layers_share_a_param():
    """An autoencoder whose second matrix is the first one's transpose: one variable, whose gradient has both parts."""
    net = cnn.network(lambda net, x: x @ net.weights() @ net.weights().T, weights=cnn.param((3, 2)))
    params, state = {"weights": {"value": jnp.asarray(normal(0, 3, 2))}}, {}
    x, w = normal(1, 4, 3), params["weights"]["value"]
    close(net.apply(params, state, x)[0], x @ w @ w.T)
    gradient = jax.grad(lambda p: net.apply(p, state, x)[0].sum())(params)["weights"]["value"]
    ones = np.ones((4, 3), np.float32)
    close(gradient, x.T @ ones @ w + ones.T @ x @ w)


def test_embed_gives_nan_outside_the_vocabulary():
    kernel = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    y = jax.jit(lambda x: cnn.embed(3, 2).apply({"kernel": kernel}, {}, x)[0])(jnp.array([0, 2, 3, -1]))
    same(y, np.array([[0, 1], [4, 5], [np.nan, np.nan], [np.nan, np.nan]], np.float32))


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (cnn.relu, [-2.0, 0.0, 3.0], [0, 0, 3]),
        (cnn.sigmoid, [0.0, np.log(3.0)], [0.5, 0.75]),
        (cnn.tanh, [0.0, np.log(2.0)], [0, 0.6]),
        (cnn.softmax, [0.0, np.log(2.0), np.log(5.0)], [0.125, 0.25, 0.625]),
        # Phi(1) = 0.8413447460685429 and tanh's approximation of it, from tables and by hand.
        (cnn.gelu, [-1.0, 0.0, 1.0], [-0.15865525393, 0, 0.84134474607]),
        (cnn.gelu_tanh, [-1.0, 0.0, 1.0], [-0.15880800939, 0, 0.84119199061]),
        (cnn.silu, [-np.log(3.0), 0.0, np.log(3.0)], [-np.log(3) / 4, 0, np.log(3) * 3 / 4]),
        (cnn.relu6, [-2.0, 3.0, 6.0, 7.0], [0, 3, 6, 6]),
        (cnn.hard_sigmoid, [-4.0, -3.0, 0.0, 1.5, 3.0, 4.0], [0, 0, 0.5, 0.75, 1, 1]),
        (cnn.hard_swish, [-4.0, -3.0, -1.5, 0.0, 1.5, 4.0], [0, 0, -0.375, 0, 1.125, 4]),
        (cnn.leaky_relu(), [-2.0, 0.0, 3.0], [-0.02, 0, 3]),
        (cnn.leaky_relu(0.1), [-2.0, 0.0, 3.0], [-0.2, 0, 3]),
        (cnn.elu(2.0), [-np.log(4.0), 0.0, 3.0], [-1.5, 0, 3]),
    ],
    ids=lambda value: str(as_layer(value)) if callable(value) else "",
)
def test_activations_are_their_formulas(layer, x, expected):
    close(as_layer(layer).apply({}, {}, jnp.array(x))[0], np.array(expected, np.float32))


def test_derivatives_of_activations():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    slope = lambda f: jax.vmap(jax.grad(f))(x)  # noqa: E731
    g = cnn.sigmoid(x)
    close(slope(cnn.sigmoid), g * (1 - g))
    close(slope(cnn.tanh), 1 - np.tanh(x) ** 2)
    same(slope(cnn.relu), (x > 0).astype(np.float32))  # 0 at 0
    x = np.linspace(-8, 8, 33, dtype=np.float32)
    same(slope(cnn.relu6), ((x > 0) & (x < 6)).astype(np.float32))
    close(slope(cnn.hard_sigmoid), (np.abs(x) < 3) / np.float32(6))
    close(slope(cnn.hard_swish), np.where(x <= -3, 0, np.where(x < 3, x / 3 + 0.5, 1)).astype(np.float32))


@pytest.mark.parametrize("activation", [cnn.relu6, cnn.hard_sigmoid, cnn.hard_swish, cnn.gelu, cnn.silu])
def test_what_is_no_number_stays_so(activation):
    assert np.isnan(activation(jnp.array([np.nan]))).all()


# --- what would be computed without meaning ----------------------------------------------------------------------


def test_batch_norm_takes_no_single_value_in_training():
    """Its deviation from the batch's mean is 0 whatever it is. `init` and evaluation take one example."""
    net = cnn.serial(conv=cnn.conv(4, 3), pool=cnn.global_avg_pool, bn=cnn.batch_norm(), out=cnn.dense(2))
    x = jnp.asarray(normal(0, 2, 5, 5, 1))
    for model in (net, cnn.serial(inner=cnn.remat(net)), cnn.freeze(net, "conv"), cnn.mixed_precision(net)):
        params, state = model.init(KEY, x[:1])
        assert model.apply(params, state, x[:1])[0].shape == (1, 2)
        assert model.apply(params, state, x, train=True)[0].shape == (2, 2)
        with pytest.raises(LayerError, match=r"bn: one value per channel in \(1, 4\)"):
            model.apply(params, state, x[:1], train=True)
    params, state = cnn.batch_norm().init(KEY, x[:1])
    assert cnn.batch_norm().apply(params, state, x[:1], train=True)[0].shape == (1, 5, 5, 1)
    shared = jax.vmap(lambda x: cnn.batch_norm(axis_name="i").apply(params, state, x, train=True)[0], axis_name="i")
    assert shared(x[:, None, 0, 0]).shape == (2, 1, 1)  # one on each device, two in all


@pytest.mark.parametrize(
    ("layer", "x", "says"),
    [
        (lambda: cnn.group_norm(4), (2, 1, 1, 4), "only one value is normalized at a time"),
        (lambda: cnn.layer_norm(), (2, 3, 1), "only one value is normalized at a time"),
        (lambda: cnn.layer_norm(axes=(-3, -2, -1)), (2, 1, 1, 1), "only one value is normalized at a time"),
        (lambda: cnn.batch_norm(momentum=1.5), (2, 3), "momentum=1.5: expected the weight"),
        (lambda: cnn.batch_norm(eps=-1.0), (2, 3), "eps=-1.0: expected"),
        (lambda: cnn.layer_norm(-1), (2, 3), "eps=-1: expected"),
        (lambda: cnn.group_norm(1, -1.0), (2, 3), "eps=-1.0: expected"),
        (lambda: cnn.conv_transpose(2, 3, 2, output_padding=2), (1, 3, 3, 1), "output_padding=2 with stride=2"),
        (lambda: cnn.conv_transpose(2, 3, output_padding=1), (1, 3, 3, 1), "output_padding=1 with stride=1"),
        (lambda: cnn.conv_transpose(2, 3, (3, 1), output_padding=(2, 1)), (1, 3, 3, 1), r"output_padding=\(2, 1\)"),
        (lambda: cnn.dropout(0.5, shared_axes=(4,)), (1, 3, 3, 1), r"shared_axes=\(4,\) do not all exist"),
        (lambda: cnn.dropout(0.5, shared_axes=(-5,)), (1, 3, 3, 1), r"shared_axes=\(-5,\) do not all exist"),
        (lambda: cnn.drop_path(1.0), (1, 3), "rate=1.0: expected the share to drop, 0 <= rate < 1"),
        (lambda: cnn.squeeze_excite(4, 2), (1, 3, 3, 5), "made for 4 channels, got 5"),
        (lambda: cnn.squeeze_excite(4, 0), (1, 3, 3, 4), "hidden=0: expected an integer of at least 1"),
        (lambda: cnn.channel_shuffle(3), (1, 3, 3, 4), "4 channels cannot be divided into groups=3"),
        (lambda: cnn.pixel_shuffle(3), (1, 3, 3, 4), r"4 channels cannot be divided by factor\^2 = 9"),
        (lambda: cnn.upsample(2, "cubic"), (1, 3, 3, 4), "method='cubic': expected 'nearest' or 'bilinear'"),
        (lambda: cnn.upsample(1.5), (1, 3, 3, 4), "factor=1.5: expected an integer of at least 1"),
        (lambda: cnn.separable_conv(4, 5), (1, 3, 3, 4), "5x5 filter, stride 1 on 3x3"),
        (lambda: cnn.param((2, -1)), (1, 3), "shape=-1: expected an integer of at least 1"),
    ],
)
def test_what_would_be_computed_without_meaning_is_refused(layer, x, says):
    def run():
        made = layer()
        params, state = made.init(KEY, jnp.zeros(x))
        return made.apply(params, state, jnp.zeros(x), train=True, key=KEY)

    with pytest.raises(LayerError, match=says):
        run()
