"""Optimizers and masks by path: each parameter has the update of its own optimizer; what names nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, same

import jaxcnn as cnn
from jaxcnn import train
from jaxcnn.errors import UserError

PARAMS = {
    "conv1": {"kernel": jnp.ones((3, 3, 1, 2))},
    "layer4": {
        "block1": {"conv1": {"kernel": jnp.ones((2, 2))}, "bn1": {"scale": jnp.ones(2), "bias": jnp.ones(2)}},
        "block2": {"conv1": {"kernel": jnp.ones((2, 2))}},
    },
    "fc": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}


def moved(optimizer: Any, params: Any = PARAMS) -> dict[str, float]:
    """The first number of each parameter's update, for gradients of 1."""
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params, value=1.0)
    flat = jax.tree.leaves_with_path(updates)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): -float(x.ravel()[0]) for path, x in flat}


def test_the_first_path_that_holds_a_parameter_has_it() -> None:
    rates = {"conv1": 1.0, "layer4/block1/bn?": 2.0, "layer4/*": 3.0, "*bias": 4.0}
    found = moved(train.by_path({**{path: optax.sgd(rate) for path, rate in rates.items()}, "*": optax.set_to_zero()}))
    assert found == {
        "conv1/kernel": 1.0, "layer4/block1/bn1/scale": 2.0, "layer4/block1/bn1/bias": 2.0,
        "layer4/block1/conv1/kernel": 3.0, "layer4/block2/conv1/kernel": 3.0, "fc/bias": 4.0, "fc/kernel": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["layer3", "*"], "unknown layer or parameter 'layer3': did you mean layer4"),
        (["layer4/blok1/*", "*"], "unknown layer or parameter 'layer4/blok1': did you mean layer4/block"),
        (["*", "fc"], r"all parameters in 'fc' lie in paths before it \(fc/bias in '\*'\).* put 'fc' before"),
        (["layer4", "fc"], r'no path holds conv1/kernel; end with "\*" for all others'),
        (["conv1"], "no path holds fc/bias and 5 more"),
        ([], "expected an optimizer for each path"),
    ],
)
def test_paths_that_do_not_divide_the_parameters(paths: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train.by_path({path: optax.sgd(0.1) for path in paths}).init(PARAMS)


def test_masks_of_parameters() -> None:
    kernels = train.mask(kind="kernel")(PARAMS)
    assert kernels["fc"] == {"kernel": True, "bias": False}
    assert kernels["layer4"]["block1"]["bn1"] == {"scale": False, "bias": False}
    some = train.mask("layer4/block2", "fc", kind="kernel")(PARAMS)
    assert jax.tree.leaves(some) == [False, False, True, False, False, False, True]
    assert all(jax.tree.leaves(train.mask()(PARAMS)))
    decayed = moved(optax.chain(optax.add_decayed_weights(0.5, train.mask("fc", kind="kernel")), optax.sgd(1.0)))
    assert decayed == {name: 1.5 if name == "fc/kernel" else 1.0 for name in decayed}
    with pytest.raises(UserError, match="unknown kind of parameter 'kernels': did you mean kernel"):
        train.mask(kind="kernels")(PARAMS)
    with pytest.raises(UserError, match="unknown layer or parameter 'fd': did you mean fc"):
        train.mask("fd")(PARAMS)


def test_named_optimizers_and_averages_in_parts_of_a_network() -> None:
    """Muon, masks and schedule-free averages see their part of the tree alone."""
    optimizer = train.by_path({
        "layer4": train.make_optimizer("muon", 1.0, weight_decay=0.1),
        "conv1": optax.adamw(1.0, weight_decay=0.5, mask=train.mask(kind="kernel")),
        "fc": optax.contrib.schedule_free_sgd(0.5),
    })  # fmt: skip
    state, params = optimizer.init(PARAMS), PARAMS
    updates, state = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, params), state, params)
    close(updates["conv1"]["kernel"], np.full((3, 3, 1, 2), -1.5))  # Adam's first step, and the decay
    close(updates["layer4"]["block1"]["bn1"]["bias"], -np.ones(2))
    params = optax.apply_updates(params, updates)
    averaged = train.eval_params(state, params)
    same((averaged["conv1"], averaged["layer4"]), (params["conv1"], params["layer4"]))
    alone = optax.contrib.schedule_free_sgd(0.5)
    changes, own = alone.update(jax.tree.map(jnp.ones_like, PARAMS["fc"]), alone.init(PARAMS["fc"]), PARAMS["fc"])
    expected = optax.contrib.schedule_free_eval_params(own, optax.apply_updates(PARAMS["fc"], changes))
    close(averaged["fc"], expected)


def test_a_training_by_path_is_a_loop_by_hand_and_resumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 2, 2, 1)).astype(np.uint8), np.arange(8) % 3
    data = cnn.data.Dataset(images, labels, tuple("abc"))
    model = cnn.serial(flat=cnn.flatten, fc1=cnn.dense(4), act=cnn.tanh, fc2=cnn.dense(3))
    rates = {"fc1/kernel": 0.5, "fc1": 0.1, "*": 0.2}

    def fit(run: Any, epochs: int) -> train.FitResult:
        optimizer = train.by_path({path: optax.sgd(rate, 0.9) for path, rate in rates.items()})
        return train.fit(
            model, data, train.Objective(preprocess=cnn.data.to_float), optimizer=optimizer, epochs=epochs,
            batch_size=8, run=run, show=False,
        )  # fmt: skip

    fit(tmp_path / "run", 1)
    found = fit(train.Run(tmp_path / "run", resume=True), 3)
    params, _ = model.init(jax.random.split(jax.random.key(0))[0], images / np.float32(255))

    def loss(params: Any) -> jax.Array:
        return cnn.losses.softmax_cross_entropy(model.apply(params, {}, images / np.float32(255))[0], labels).mean()

    rate = {"fc1": {"kernel": 0.5, "bias": 0.1}, "fc2": {"kernel": 0.2, "bias": 0.2}}
    speed, slope = jax.tree.map(jnp.zeros_like, params), jax.jit(jax.grad(loss))
    for _ in range(3):
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, slope(params))
        params = jax.tree.map(lambda p, r, v: p - r * v, params, rate, speed)
    close(found.params, params)


@pytest.mark.parametrize(
    "whole",
    [optax.scale_by_backtracking_linesearch(3), optax.contrib.sam(optax.sgd(1.0), optax.sgd(1.0), opaque_mode=True)],
)
def test_an_optimizer_of_all_parameters_is_not_one_of_several(whole: Any) -> None:
    model, optimizer, x = cnn.dense(2), train.by_path({"*": whole}), jnp.ones((4, 3))
    state = train.create_state(model, optimizer, jax.random.key(0), x)
    step = train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
    with pytest.raises(UserError, match="needs more than a training step gives it"):
        jax.eval_shape(step, state, (x, jnp.zeros(4, jnp.int32)))


def test_what_lies_in_a_path() -> None:
    for path, pattern, expected in [
        ("fc", "fc", True), ("fc/kernel", "fc", True), ("fc1/kernel", "fc", False), ("a/fc/kernel", "fc", False),
        ("a/fc/kernel", "*/fc", True), ("a/bn1/bias", "*bn?", True), ("a/bn12/bias", "*/bn?", False),
    ]:  # fmt: skip
        assert cnn.core.lies_in(path, pattern) is expected, (path, pattern)
