"""Weight standardization and spectral normalization, against their formulas and NumPy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn.core import LayerError
from jaxcnn.errors import UserError

KEY = jax.random.key(0)
IMAGE = normal(1, 2, 8, 8, 4)


def small():
    block = cnn.serial(conv=cnn.conv(6, 3, groups=2), norm=cnn.group_norm(2), act=cnn.relu)
    return cnn.serial(one=block, two=block, up=cnn.conv_transpose(3, 2, 2), pool=cnn.global_avg_pool, fc=cnn.dense(5))


def by_hand(params, change, *paths):
    """The parameters with the kernels at these paths changed."""
    params = jax.tree.map(jnp.asarray, params)
    for path in paths:
        at = params
        for name in path.split("/"):
            at = at[name]
        at["kernel"] = change(np.asarray(at["kernel"], np.float64)).astype(np.float32)
    return params


def standardized(kernel):
    """Filter by filter."""
    filters = [kernel[..., k] for k in range(kernel.shape[-1])]
    return np.stack([(f - f.mean()) / np.sqrt(f.var() + 1e-5) for f in filters], -1)


def test_standardized_kernels():
    model = cnn.weight_standardization(small())
    params, state = model.init(KEY, IMAGE)
    same(params, small().init(KEY, IMAGE)[0])
    expected = small().apply(by_hand(params, standardized, "one/conv", "two/conv"), state, IMAGE)[0]
    close(jax.jit(model.apply)(params, state, IMAGE)[0], expected)
    some = cnn.weight_standardization(small(), "two")
    close(
        some.apply(params, state, IMAGE)[0], small().apply(by_hand(params, standardized, "two/conv"), state, IMAGE)[0]
    )
    assert some.kind == "weight_standardization"
    assert repr(some).endswith("'two',\n)")


def test_a_shift_or_factor_of_a_filter_changes_nothing_and_has_no_gradient():
    """What standardization takes out: the gradient is orthogonal to the filter and to a constant (eps aside)."""
    layer = cnn.weight_standardization(cnn.conv(3, 3), eps=0)
    params, state = layer.init(KEY, IMAGE)
    params = {**params, "kernel": jnp.asarray(normal(2, 3, 3, 4, 3))}
    moved = {**params, "kernel": 3 * params["kernel"] + 2}
    close(layer.apply(moved, state, IMAGE)[0], layer.apply(params, state, IMAGE)[0])
    out = normal(3, 2, 6, 6, 3)
    g = jax.grad(lambda p: (layer.apply(p, state, IMAGE)[0] * out).sum())(params)["kernel"]
    assert np.abs(g).max() > 1
    for direction in (np.ones_like(g), params["kernel"]):
        assert np.abs((g * direction).sum((0, 1, 2))).max() < 1e-4 * np.abs(g * direction).sum((0, 1, 2)).min()


def divided(kernel):
    return kernel / np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


ALL = ("one/conv", "two/conv", "up", "fc")


def test_kernels_divided_by_their_largest_singular_value():
    model = cnn.spectral_norm(small())
    params, state = model.init(KEY, IMAGE)
    same(params, small().init(KEY, IMAGE)[0])
    for path in ALL:  # until the power method has converged
        kernel, at = params, state
        for name in path.split("/"):
            kernel, at = kernel[name], at[name]
        left, _, right = np.linalg.svd(np.asarray(kernel["kernel"]).reshape(-1, kernel["kernel"].shape[-1]))
        assert at["u"].shape == right[0].shape
        assert at["v"].shape == left[:, 0].shape
        at["u"], at["v"] = jnp.asarray(right[0]), jnp.asarray(left[:, 0])
    expected = small().apply(by_hand(params, divided, *ALL), {}, IMAGE)[0]
    close(model.apply(params, state, IMAGE)[0], expected)
    output, after = jax.jit(lambda p, s, x: model.apply(p, s, x, train=True))(params, state, IMAGE)
    close(output, expected)
    close(after, state, 1e-4)


def test_the_power_method_converges_pass_by_pass():
    layer = cnn.spectral_norm(cnn.dense(6), iterations=2)
    params, state = layer.init(KEY, IMAGE)
    kernel = np.asarray(params["kernel"])
    assert abs(float(state["v"] @ kernel @ state["u"]) / np.linalg.svd(kernel)[1][0] - 1) < 0.05
    same(layer.apply(params, state, IMAGE)[1], state)  # evaluation leaves them
    u = np.asarray(state["u"])
    for _ in range(2):
        v = kernel @ u / np.linalg.norm(kernel @ u)
        u = kernel.T @ v / np.linalg.norm(kernel.T @ v)
    _, after = layer.apply(params, state, IMAGE, train=True)
    close(after, {"u": u, "v": v})


def test_its_gradient_takes_the_vectors_as_they_are():
    """d(W / sigma) = dW / sigma - W <dW, v u^T> / sigma^2, equation 12 of the paper."""
    layer = cnn.spectral_norm(cnn.dense(6, bias=False))
    params, state = layer.init(KEY, IMAGE)
    out = normal(4, 2, 8, 8, 6)
    found = jax.grad(lambda p: (layer.apply(p, state, IMAGE)[0] * out).sum())(params)["kernel"]
    w, u, v = (np.asarray(a, np.float64) for a in (params["kernel"], state["u"], state["v"]))
    sigma, g = v @ w @ u, IMAGE.reshape(-1, 4).T @ out.reshape(-1, 6)
    close(found, (g / sigma - (g * w).sum() * np.outer(v, u) / sigma**2).astype(np.float32))


@pytest.mark.parametrize("transform", [cnn.weight_standardization, cnn.spectral_norm])
def test_with_other_transformations(transform):
    """Frozen in either order they compute the same, and learn nothing; half precision is near; variables are found."""
    params, state = transform(small()).init(KEY, IMAGE)
    expected = transform(small()).apply(params, state, IMAGE)[0]
    for model in (cnn.freeze(transform(small()), "one", "fc"), transform(cnn.freeze(small(), "one", "fc"))):
        p, s = cnn.weights.adapt(model, params, state)
        assert set(p) == {"two", "up"}
        assert jax.tree.structure(model.init(KEY, IMAGE)) == jax.tree.structure((p, s))
        output, after = model.apply(p, s, IMAGE, train=True)
        close(output, expected, 0.05)  # in training the power method goes on where it is not frozen
        same(after["one"], s["one"])
        close(model.apply(p, s, IMAGE)[0], expected)
    half = cnn.mixed_precision(transform(small()))
    close(half.apply(params, state, IMAGE)[0], expected, 0.05)
    kept = cnn.remat(transform(small()), "one")
    close(kept.apply(params, state, IMAGE)[0], expected)


def test_equal_calls_are_equal_and_bad_ones_are_refused():
    assert cnn.spectral_norm(small()) == cnn.spectral_norm(small())
    assert cnn.spectral_norm(small(), "one") != cnn.spectral_norm(small(), "two")
    assert cnn.weight_standardization(cnn.conv(3, 3), eps=0) != cnn.weight_standardization(cnn.conv(3, 3))
    with pytest.raises(LayerError, match="has no layer of the kind conv"):
        cnn.weight_standardization(cnn.dense(3))
    with pytest.raises(LayerError, match="iterations=0"):
        cnn.spectral_norm(small(), iterations=0)
    with pytest.raises(LayerError, match="eps=-1"):
        cnn.weight_standardization(small(), eps=-1)
    with pytest.raises(LayerError, match="takes a Layer first"):
        cnn.spectral_norm(cnn.relu)
    with pytest.raises(UserError, match="unknown layer"):
        cnn.spectral_norm(small(), "three")
