"""The step, the loop, evaluation, and a run's folder: what is learned, what is kept, and what is said when it fails."""

import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import fit
from helpers import close, same
from PIL import Image

import jaxcnn as cnn
from jaxcnn import data, losses, metrics, train
from jaxcnn.data.preprocess import to_float
from jaxcnn.devices import OneDevice
from jaxcnn.errors import Stopped, TrainingError, UserError
from jaxcnn.runs import identity
from jaxcnn.runs.checkpoint import Checkpoints
from jaxcnn.train import agreement
from jaxcnn.train.progress import Display

KEY = jax.random.key(0)


def bars(count: int = 90, seed: int = 0) -> data.Dataset:
    """Noise, and a bright column whose place is the class: a linear function tells them apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 120, (count, 6, 6, 1))
    images[np.arange(count), :, 2 * labels] += 60
    return data.Dataset(images.astype(np.uint8), labels, ("left", "middle", "right"), "bars")


DATA, HELD = bars(), bars(31, 1)


def linear(classes: int = 3) -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, head=cnn.dense(classes))


def small() -> cnn.Layer:
    """Parameters, running statistics, and randomness."""
    return cnn.serial(
        flat=cnn.flatten, fc1=cnn.dense(8, bias=False), bn1=cnn.batch_norm(), act1=cnn.relu, drop=cnn.dropout(0.2),
        head=cnn.dense(3),
    )  # fmt: skip


def batch(count: int = 8) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(DATA.images[:count]), jnp.asarray(DATA.labels[:count])


def start(model: cnn.Layer, optimizer: optax.GradientTransformation, seed: int = 0) -> train.TrainState:
    return train.create_state(model, optimizer, jax.random.key(seed), DATA.images[:1])


# --- the step ----------------------------------------------------------------------------------------------------


def test_a_step_is_one_step_of_gradient_descent():
    """p - y times the input, in float64 by hand, with a penalty; bytes are scaled to 0 to 1."""
    optimizer, penalty = optax.sgd(0.5), 0.01
    state = start(linear(), optimizer)
    w, b = (np.asarray(state.params["head"][name], np.float64) for name in ("kernel", "bias"))
    step = train.make_step(
        linear(),
        train.Objective(losses.softmax_cross_entropy, penalty=lambda p: penalty * losses.l2_penalty(p)),
        optimizer,
    )
    images, labels = batch()
    new, measured = step(state, (images, labels))
    x, y = np.asarray(images, np.float64).reshape(8, -1) / 255, np.eye(3)[np.asarray(labels)]
    p = np.exp(x @ w + b)
    p /= p.sum(1, keepdims=True)
    close(new.params["head"]["kernel"], w - 0.5 * (x.T @ (p - y) / 8 + 2 * penalty * w))
    close(new.params["head"]["bias"], b - 0.5 * (p - y).mean(0))
    assert set(measured) == {"loss", "accuracy"}
    assert all(value.shape == () for value in measured.values())
    close(measured["loss"], -np.log((p * y).sum(1)).mean() + penalty * (w**2).sum())
    assert float(measured["accuracy"]) == (p.argmax(1) == y.argmax(1)).mean()


def test_a_step_counts_donates_its_state_and_is_compiled_once():
    traces = []

    def loss(outputs, labels):
        traces.append(outputs.shape)
        return losses.softmax_cross_entropy(outputs, labels)

    state = start(small(), optax.adam(0.01))
    step = train.make_step(small(), loss, optax.adam(0.01))
    for count in range(1, 4):
        old = state
        state, _ = step(state, batch())
        assert int(state.step) == count
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt_state)))
        assert jax.tree.structure(state) == jax.tree.structure(old)
    assert traces == [(8, 3)]
    assert (np.asarray(state.model_state["bn1"]["mean"]) != 0).all()  # the running statistics moved


def test_each_step_has_its_own_randomness_and_the_seed_decides_it():
    def two_losses(seed):
        # Dropout alone makes the losses differ: a rate of 0 leaves the weights as they are.
        state = start(small(), optax.sgd(0.0)).replace(key=jax.random.key(seed))
        step = train.make_step(small(), losses.softmax_cross_entropy, optax.sgd(0.0))
        found = []
        for _ in range(2):
            state, measured = step(state, batch())
            found.append(float(measured["loss"]))
        return found

    first = two_losses(0)
    assert first == two_losses(0)
    assert len({*first, *two_losses(1)}) == 4


def test_a_network_of_several_inputs_takes_a_tuple():
    model = cnn.network(
        lambda net, image, number: net.head(jnp.concatenate([net.flat(image), number], 1)),
        flat=cnn.flatten,
        head=cnn.dense(3),
    )
    images, labels = batch()
    inputs = (images, jnp.ones((8, 2)))
    state = train.create_state(model, optax.sgd(0.1), KEY, inputs)
    assert state.params["head"]["kernel"].shape == (38, 3)
    before = np.asarray(state.params["head"]["kernel"])
    step = train.make_step(model, losses.softmax_cross_entropy, optax.sgd(0.1))
    state, measured = step(state, (inputs, labels))
    assert math.isfinite(measured["loss"])
    moved = np.abs(np.asarray(state.params["head"]["kernel"]) - before).max(1)
    assert moved[-2:].min() > 0
    assert moved[:-2].max() > 0


def test_a_step_with_mixed_labels_is_the_step_on_what_mixup_made():
    """The loss is that of the mixed batch made by hand, with the key that the first step gives its augmentation."""
    optimizer, mixup = optax.sgd(0.5), data.mixup(3, alpha=1.0)
    state = start(linear(), optimizer)
    key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    images, probabilities = mixup(*batch(), key)
    logits, _ = linear().apply(state.params, {}, data.to_float(images))
    expected = -(probabilities * jax.nn.log_softmax(logits)).sum(1).mean()
    right = (logits.argmax(1) == probabilities.argmax(1)).mean()
    step = train.make_step(linear(), train.Objective(losses.softmax_cross_entropy, augment=mixup), optimizer)
    _, measured = step(state, batch())
    close(measured["loss"], expected)
    close(measured["accuracy"], right)
    fitted = fit(linear(), DATA, test=HELD, epochs=2, batch_size=30, show=False, augment=data.compose(data.flip, mixup))
    assert set(fitted.result) >= {"train_accuracy", "test_accuracy"}


def test_several_outputs_are_learned_together_and_the_first_one_is_measured():
    """A network with an auxiliary head in training, as GoogLeNet's."""

    def forward(net, x):
        x = net.flat(x)
        return (net.head(x), net.aux(x)) if net.train else net.head(x)

    model = cnn.network(forward, flat=cnn.flatten, head=cnn.dense(3), aux=cnn.dense(3))
    optimizer = optax.sgd(1.0)
    state = start(model, optimizer)
    before = jax.tree.map(np.asarray, state.params)
    step = train.make_step(model, losses.every_output(losses.softmax_cross_entropy, 0.3), optimizer)
    state, measured = step(state, batch())
    assert set(measured) == {"loss", "accuracy"}
    alone = start(linear(), optimizer).replace(params={"head": jax.tree.map(jnp.asarray, before["aux"])})
    alone, _ = train.make_step(linear(), losses.softmax_cross_entropy, optimizer)(alone, batch())
    moved = jax.tree.map(lambda a, b: a - b, state.params["aux"], before["aux"])
    expected = jax.tree.map(lambda a, b: 0.3 * (a - b), alone.params["head"], before["aux"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, expected)
    fitted = fit(
        model, DATA, test=HELD, epochs=1, show=False, loss=losses.every_output(losses.softmax_cross_entropy, 0.3)
    )
    assert 0 <= fitted.result["test_accuracy"] <= 1


def test_training_goes_on_from_variables_that_are_given_and_leaves_them_alone():
    first = fit(small(), DATA, epochs=2, batch_size=30, show=False)
    variables = first.params, first.model_state
    kept = jax.tree.map(np.array, variables)
    state = train.create_state(small(), optax.sgd(0.1), KEY, DATA.images[:1], variables=variables)
    same((state.params, state.model_state), variables)
    second = fit(small(), DATA, epochs=1, batch_size=30, show=False, variables=variables)
    assert second.history[0]["loss"] < first.history[0]["loss"]
    same(variables, kept)
    params = {**first.params, "head": linear().init(KEY, jnp.zeros((1, 6, 6, 1)))[0]["head"]}
    with pytest.raises(UserError, match=r"params head/kernel should be \(8, 3\) and is \(36, 3\)"):
        fit(small(), DATA, epochs=1, show=False, variables=(params, first.model_state))
    with pytest.raises(UserError, match=r"state bn1/mean should be \(8,\) and is absent"):
        fit(small(), DATA, epochs=1, show=False, variables=(first.params, {}))


def test_a_schedule_of_optax_is_a_learning_rate():
    halves = optax.piecewise_constant_schedule(1.0, {2: 0.5})
    optimizer = train.make_optimizer("sgd", halves, weight_decay=0.1)
    params = {"fc": {"kernel": jnp.ones(()), "bias": jnp.ones(())}}
    state = optimizer.init(params)
    for step in range(4):
        update, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        close(update["fc"]["kernel"], -0.1 * (1.0 if step < 2 else 0.5))
        assert update["fc"]["bias"] == 0
    with pytest.raises(UserError, match="lr is a schedule already"):
        train.make_optimizer("sgd", halves, "cosine")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": (DATA.images, DATA.labels)}, r"data: expected a Dataset.*, got tuple; cnn.data.Dataset\(images"),
        ({"validation": 0.1}, r"validation: expected a Dataset.*, got float; `train, val = data.hold_out\(0.1\)`"),
        ({"test": DATA.images}, "test: expected a Dataset, Examples or a Stream, got ndarray"),
        ({"augment": [data.flip]}, r"augment: expected a function, got list; cnn.data.compose\(a, b\)"),
        ({"optimizer": "adam"}, r"expected one of Optax.*got 'adam'; cnn.train.make_optimizer\('adam'\)"),
        ({"loss": "hinge"}, "loss: expected a function of outputs and labels.*got 'hinge'"),
        ({"loss": lambda o, y: losses.multiclass_hinge(o, y).mean()}, "one number for the batch.*leave out its mean"),
    ],
)
def test_what_other_libraries_take_is_answered_by_what_to_give(settings, says):
    given = {"data": DATA, "epochs": 1, "show": False, **settings}
    with pytest.raises(UserError, match=says):
        fit(linear(), given.pop("data"), **given)


def test_what_does_not_belong_together_is_said():
    state = start(linear(), optax.sgd(0.1))
    with pytest.raises(UserError, match=r"expected one of Optax.*got function"):
        train.make_step(linear(), optax.sgd(0.1), losses.softmax_cross_entropy)
    with pytest.raises(UserError, match="the state was made for another optimizer"):
        train.make_step(linear(), losses.softmax_cross_entropy, optax.adam(0.1))(state, batch())
    with pytest.raises(
        UserError, match=r"ema=0.9: the state keeps no average; make it by create_state\(..., ema=True\)"
    ):
        train.make_step(linear(), losses.softmax_cross_entropy, optax.sgd(0.1), ema=0.9)(state, batch())


def test_weak_types_do_not_compile_a_step_twice():
    """`jnp.full(n, 0.5)` has a type that gives way; after a step it has not."""

    def init(key, x):
        return {"scale": jnp.full(x.shape[-1], 0.5)}, {"seen": jnp.full((), 0.0)}

    def apply(params, state, x, train=False, key=None):
        return x * params["scale"], {"seen": state["seen"] * 0.5 if train else state["seen"]}

    assert init(KEY, np.ones((1, 2)))[0]["scale"].weak_type
    model = cnn.serial(flat=cnn.flatten, scaled=cnn.Layer(init, apply), head=cnn.dense(3))
    optimizer = optax.adam(0.1)
    state, step = start(model, optimizer), train.make_step(model, losses.softmax_cross_entropy, optimizer)
    for _ in range(3):
        state, _ = step(state, batch())
    assert step._cache_size() == 1


def test_a_network_of_a_program_is_not_looked_for_among_the_named_ones(tmp_path):
    fit(linear(), DATA, epochs=1, run=tmp_path / "run", show=False)
    with pytest.raises(UserError, match=r"made in a program.*TrainedModel.load\(run, model=...\)"):
        train.Trained.load(tmp_path / "run")
    assert train.Trained.load(tmp_path / "run", model=linear()).outputs(DATA.images[:2]).shape == (2, 3)


def test_preprocess_augment_and_metrics_of_ones_own():
    seen = {}

    def augment(images, key):
        seen["augment"] = images.dtype
        return jnp.zeros_like(images)

    def preprocess(images):
        seen["preprocess"] = images.dtype
        return images.astype(jnp.float32) + 1

    optimizer = optax.sgd(0.0)
    state = train.create_state(linear(), optimizer, KEY, jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.uint8), preprocess)
    expected = float((jnp.ones((1, 36)) @ state.params["head"]["kernel"]).sum())  # of the augmented, then preprocessed
    measures = {"sum": lambda outputs, labels: outputs.sum(1), "top2": metrics.top_k(2)}
    objective = train.Objective(losses.softmax_cross_entropy, measures, augment=augment, preprocess=preprocess)
    step = train.make_step(linear(), objective, optimizer)
    _, measured = step(state, batch())
    assert seen == {"augment": jnp.uint8, "preprocess": jnp.uint8}
    assert set(measured) == {"loss", "sum", "top2"}
    assert float(measured["sum"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "loss", "labels", "names"),
    [
        (linear(3), losses.softmax_cross_entropy, jnp.zeros(8, jnp.int32), {"loss", "accuracy"}),
        (linear(3), losses.l2, jnp.zeros((8, 3)), {"loss"}),
        (linear(1), losses.sigmoid_cross_entropy, jnp.zeros(8, jnp.int32), {"loss"}),
    ],
)
def test_accuracy_is_measured_where_it_makes_sense(model, loss, labels, names):
    step = train.make_step(model, loss, optax.sgd(0.1))
    assert set(step(start(model, optax.sgd(0.1)), (batch()[0], labels))[1]) == names


def test_an_ensemble_is_one_vmap_of_init_and_step():
    optimizer = optax.sgd(0.5, momentum=0.9)
    step = train.make_step(small(), losses.softmax_cross_entropy, optimizer)
    seeds = jax.random.split(KEY)
    ensemble = jax.vmap(lambda key: train.create_state(small(), optimizer, key, batch()[0]))(seeds)
    for _ in range(2):
        ensemble, measured = jax.vmap(step, (0, None))(ensemble, batch())
    assert measured["loss"].shape == (2,)
    for i, key in enumerate(seeds):
        state = train.create_state(small(), optimizer, key, batch()[0])
        for _ in range(2):
            state, alone = step(state, batch())
        # Batched products sum in another order, and the second step carries the difference on.
        close(jax.tree.map(lambda x, i=i: x[i], ensemble.params), jax.device_get(state.params), 1e-4)
        close(measured["loss"][i], np.asarray(alone["loss"]), 1e-4)


def test_layers_are_frozen_with_an_optax_mask():
    def labels(params):
        return {name: "still" if name == "fc1" else "moving" for name in params}

    optimizer = optax.multi_transform({"still": optax.set_to_zero(), "moving": optax.adam(0.1)}, labels)
    state = start(small(), optimizer)
    before = jax.device_get(state.params)
    step = train.make_step(small(), losses.softmax_cross_entropy, optimizer)
    for _ in range(2):
        state, _ = step(state, batch())
    same(jax.device_get(state.params["fc1"]), before["fc1"])
    for name in ("bn1", "head"):
        assert all((np.asarray(a) != b).any() for a, b in zip(jax.tree.leaves(state.params[name]),
                                                              jax.tree.leaves(before[name]), strict=True))  # fmt: skip


# --- optimizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lr", "decay", "expected"),
    [  # two updates for the gradients 1 and 3, of a weight that stays at 2
        ("sgd", 0.1, 0.0, [-0.1, -0.3]),
        ("sgd", None, 0.0, [-0.1, -0.3]),
        ("sgd", 0.1, 0.5, [-0.2, -0.4]),  # the gradient plus 0.5 * 2
        ("momentum", 0.1, 0.0, [-0.1, -(3 + 0.9) * 0.1]),
        ("adam", 0.1, 0.0, [-0.1, -0.1 * (0.9 * 0.1 + 0.3) / 0.19 / math.sqrt((0.999 * 0.001 + 0.009) / 0.001999)]),
        ("adam", 0.1, 0.5, [-0.2, -0.1 - 0.1 * 0.39 / 0.19 / math.sqrt(0.009999 / 0.001999)]),  # decoupled: AdamW
    ],
)
def test_optimizers_are_their_formulas_and_decay_kernels_only(name, lr, decay, expected):
    optimizer = train.make_optimizer(name, lr, weight_decay=decay)
    params = {"conv": {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)}}
    state, got = optimizer.init(params), []
    for gradient in (1.0, 3.0):
        updates, state = optimizer.update(jax.tree.map(lambda _, g=gradient: jnp.array(g), params), state, params)
        got.append(updates["conv"])
    np.testing.assert_allclose([float(u["kernel"]) for u in got], expected, rtol=1e-5)  # float32 and epsilon
    if not decay:
        assert all(u["kernel"] == u["bias"] for u in got)
    else:
        np.testing.assert_allclose(float(got[0]["bias"] - got[0]["kernel"]), 0.1, rtol=1e-5)


def test_schedules():
    def rates(schedule):
        optimizer = train.make_optimizer("sgd", 0.5, schedule, steps=4)
        state, found = optimizer.init({"bias": jnp.array(0.0)}), []
        for _ in range(5):
            updates, state = optimizer.update({"bias": jnp.array(1.0)}, state, {"bias": jnp.array(0.0)})
            found.append(-float(updates["bias"]))
        return found

    assert rates("constant") == [0.5] * 5
    np.testing.assert_allclose(rates("cosine"), [0.25 * (1 + math.cos(math.pi * t / 4)) for t in range(5)], atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("adamm",), "unknown optimizer 'adamm': did you mean adam"),
        (("qqq",), "unknown optimizer 'qqq': there are adam, adamw, lion, momentum, muon, nesterov, sgd"),
        (("sgd", 0.1, "cosin"), "unknown schedule 'cosin': did you mean cosine"),
        (("sgd", 0.0), "learning rate should be above 0, got 0.0"),
        (("sgd", -1.0), "learning rate should be above 0"),
        (("sgd", math.nan), "learning rate should be above 0"),
        (("sgd", 0.1, "constant", 1, -0.1), "weight decay should be 0 or more, got -0.1"),
        (("sgd", 0.1, "constant", 9, 0.0, 9), "a warm-up of 9 steps should be from 1 to less than the 9"),
        (("sgd", 0.1, "onecycle", 9, 0.0, 2), "onecycle has a warm-up of its own"),
        (("sgd", 0.1, "cosine", 9, 0.0, 0, 0.0), "largest norm should be above 0, got 0.0"),
        (("sgd", 0.1, "cosine"), r"the schedule 'cosine' needs steps=.*epochs \* \(len\(data\) // batch_size\)"),
        (("sgd", 0.1, "constant", None, 0.0, 3), "a warm-up needs steps="),
        ((1e-3,), r"expected the name of an optimizer first \(sgd, momentum, nesterov, adam, .*\), got 0.001"),
    ],
)
def test_optimizers_that_are_not_there(arguments, says):
    with pytest.raises(UserError, match=says):
        train.make_optimizer(*arguments)


def rates(schedule, steps, warmup=0):
    """The learning rates of the steps of a training, as plain gradient descent shows them."""
    optimizer = train.make_optimizer("sgd", 0.8, schedule, steps, warmup=warmup)
    params, found = {"kernel": jnp.zeros(())}, []
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update({"kernel": jnp.float32(-1)}, state, params)
        found.append(float(updates["kernel"]))
    return found


def test_schedules_and_warm_up():
    np.testing.assert_allclose(rates("steps", 8), [0.8] * 4 + [0.08] * 2 + [0.008] * 2, rtol=1e-6)
    up = [0.0, 0.2, 0.4, 0.6]
    np.testing.assert_allclose(rates("constant", 8, 4), [*up, *[0.8] * 4], rtol=1e-6)
    half_cosine = [0.4 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    np.testing.assert_allclose(rates("cosine", 8, 4), [*up, *half_cosine], rtol=1e-6)
    cycle = rates("onecycle", 100)
    assert (max(cycle), cycle.index(max(cycle))) == (pytest.approx(0.8), 30)
    assert cycle[0] == pytest.approx(0.8 / 25)
    assert cycle[-1] < 0.001


def test_a_long_gradient_is_clipped():
    optimizer = train.make_optimizer("sgd", 1.0, clip=2.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    for gradient, expected in (((3.0, 4.0, 12.0), 2 / 13), ((0.3, 0.4, 1.2), 1)):
        g = {"a": jnp.array(gradient[:2]), "b": jnp.array(gradient[2])}
        updates, _ = optimizer.update(g, optimizer.init(params), params)
        close(updates, jax.tree.map(lambda x, e=expected: -e * x, g))


# --- how a step is computed --------------------------------------------------------------------------------------


def taken(model, count=6, **settings):
    """The losses of some steps, and the state behind them."""
    own = {name: settings.pop(name) for name in ("ema", "loss_scale") if name in settings}
    optimizer = optax.sgd(0.1, 0.9)
    state = train.create_state(
        model, optimizer, KEY, DATA.images[:1], ema=bool(own.get("ema")), loss_scale="loss_scale" in own
    )
    step = train.make_step(model, losses.softmax_cross_entropy, optimizer, ema=own.get("ema", 0.0), **settings)
    found = []
    for _ in range(count):
        state, measured = step(state, batch(16))
        found.append(float(measured["loss"]))
    return found, state


def conv_net():
    return cnn.serial(
        conv1=cnn.conv(8, 3, padding=1), act1=cnn.relu, block=cnn.serial(conv=cnn.conv(8, 4, 2), bn=cnn.batch_norm()),
        flat=cnn.flatten, head=cnn.dense(3),
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 16])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(count):
    """Without batch statistics, to float32 sums in another order."""
    whole, parts = taken(linear()), taken(linear(), accumulate=count)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
    close(parts[1].params, whole[1].params)
    with pytest.raises(
        UserError, match="a batch of 16 examples on a device cannot be taken in accumulate=3 equal parts"
    ):
        taken(linear(), accumulate=3)


def test_batch_statistics_of_parts_follow_one_another():
    """The running mean is moved once by each part."""
    _, state = taken(small(), 1, accumulate=2)
    fresh = start(small(), optax.sgd(0.1))
    h = data.to_float(DATA.images[:16]).reshape(16, -1) @ fresh.params["fc1"]["kernel"]
    mean = 0.9 * (0.1 * h[::2].mean(0)) + 0.1 * h[1::2].mean(0)
    close(state.model_state["bn1"]["mean"], mean)


def test_the_average_of_the_parameters():
    """ema' = d ema + (1 - d) params', d = min(decay, (1 + t) / (10 + t)), in float64."""
    expected = np.asarray(start(linear(), optax.sgd(0.1)).params["head"]["kernel"], np.float64)
    for t in range(6):
        d = min(0.3, (1 + t) / (10 + t))
        params = taken(linear(), t + 1)[1].params["head"]["kernel"]
        expected = d * expected + (1 - d) * np.asarray(params, np.float64)
    _, state = taken(linear(), 6, ema=0.3)
    close(state.ema["head"]["kernel"], expected)


def test_a_run_keeps_the_average_and_goes_on_with_it(tmp_path, monkeypatch):
    settings = {**LONG, "ema": 0.9}
    fitted = fit(small(), DATA, **settings)
    evaluate = train.make_evaluate(small(), train.Objective(losses.softmax_cross_entropy, preprocess=fitted.preprocess))
    last = evaluate(fitted.state.ema, fitted.state.model_state, HELD).metrics
    assert last["loss"] == fitted.history[-1]["validation_loss"]
    with monkeypatch.context() as patch:
        interrupted_at(patch, 3, 2, ctrl_c)
        with pytest.raises(Stopped):
            fit(small(), DATA, run=tmp_path / "run", **settings)
    again = fit(small(), DATA, run=tmp_path / "run", resume=True, **settings)
    assert untimed(again.history) == untimed(fitted.history)
    same(jax.device_get(train.Trained.load(tmp_path / "run", small()).params), jax.device_get(fitted.params))


@pytest.mark.parametrize(("dtype", "scaled"), [(jnp.bfloat16, False), (jnp.float16, True)])
def test_half_precision_learns_what_float32_learns(dtype, scaled):
    """To the digits of the dtype: 8 bits of bfloat16 are 0.4 %, and a loss of 6 steps sums many such errors."""
    model = cnn.mixed_precision(conv_net(), dtype)
    inside = []
    seen = cnn.mixed_precision(cnn.serial(conv_net(), look=lambda x: inside.append(x.dtype) or x), dtype)
    half, state = taken(model, **({"loss_scale": True} if scaled else {}))
    taken(seen, 1)
    assert inside[-1] == dtype
    np.testing.assert_allclose(half, taken(conv_net())[0], rtol=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.model_state))} == {np.dtype("float32")}
    outputs, _ = model.apply(state.params, state.model_state, data.to_float(DATA.images[:2]))
    assert outputs.dtype == jnp.float32
    assert half[-1] < half[0]


def test_half_precision_of_frozen_layers_loses_nothing():
    model = cnn.mixed_precision(cnn.freeze(conv_net(), "conv1"))
    params, state = model.init(KEY, data.to_float(DATA.images[:2]))
    _, new = model.apply(params, state, data.to_float(DATA.images[:2]), train=True)
    same(new["conv1"], state["conv1"])
    with pytest.raises(UserError, match="expected bfloat16 or float16"):
        cnn.mixed_precision(conv_net(), jnp.float32)


def test_a_step_whose_gradient_is_not_finite_is_not_taken():
    """The factor is halved until it fits: a loss of 1e36 times 2^15 has no gradient in float32."""
    model, optimizer = linear(), optax.adam(0.1)
    state = train.create_state(model, optimizer, KEY, DATA.images[:1], loss_scale=True)
    step = train.make_step(model, lambda o, y: 1e36 * losses.softmax_cross_entropy(o, y), optimizer)
    before = jax.device_get(state)
    for k in range(1, 4):
        state, _ = step(state, batch(16))
        assert (int(state.step), float(state.scale.value), int(state.scale.taken)) == (k, 2.0 ** (15 - k), 0)
    same(jax.device_get(state.params), before.params)
    same(jax.device_get(state.opt_state), before.opt_state)
    scale = state.scale.replace(taken=jnp.int32(1999))
    assert float(scale.after(jnp.bool_(True)).value) == 2 * float(scale.value)


def test_the_scale_of_the_loss_has_limits_and_counts_skipped_steps():
    """Gradients of 1e7 are beyond float16 as they are: only a factor below 1 makes them finite."""
    scale, skip, take = train.step.LossScale.start(), jnp.bool_(False), jnp.bool_(True)
    for _ in range(60):
        scale = scale.after(skip)
    assert (float(scale.value), int(scale.skipped)) == (scale.SMALLEST, 60)
    for k in range(60):
        scale = scale.replace(taken=jnp.int32(1999)).after(take)
        assert float(scale.value) == min(scale.SMALLEST * 2 ** (k + 1), scale.LARGEST)
    assert int(scale.skipped) == 60

    model, optimizer = cnn.mixed_precision(linear(), jnp.float16), optax.sgd(1e-8)
    state = train.create_state(model, optimizer, KEY, DATA.images[:1], loss_scale=True)
    before = jax.device_get(state.params)
    step = train.make_step(model, lambda o, y: 1e9 * losses.softmax_cross_entropy(o, y), optimizer)
    for _ in range(40):
        state, measured = step(state, batch(16))
    assert float(state.scale.value) < 1
    assert 15 < int(measured["skipped_steps"]) == int(state.scale.skipped) < 40
    assert np.any(np.asarray(state.params["head"]["kernel"]) != before["head"]["kernel"])


@pytest.mark.parametrize(("epochs", "row"), [(2, 10), (12, 50)])
def test_a_training_that_skips_all_steps_ends_with_an_error(epochs, row, tmp_path):
    """The square root of 0 has no gradient at any factor, and a value that is finite. An epoch has 5 steps."""

    def loss(outputs, labels):
        return losses.softmax_cross_entropy(outputs, labels) + jnp.sqrt(0 * outputs[:, 0])

    with pytest.raises(TrainingError, match=rf"the last {row} steps, up to step {row}, were skipped.*Try bfloat16"):
        fit(linear(), DATA, loss=loss, epochs=epochs, batch_size=18, loss_scale=True, run=tmp_path / "run", show=False)
    assert not (tmp_path / "run" / "result.json").exists()


def test_skipped_steps_are_in_the_history(tmp_path):
    """Some steps are skipped until the factor fits. A run goes on with their number, an older one without."""
    loss = lambda o, y: 1e36 * losses.softmax_cross_entropy(o, y)  # noqa: E731
    settings = {"loss": loss, "optimizer": optax.sgd(0.0), "batch_size": 18, "loss_scale": True, "show": False}
    result = fit(linear(), DATA, epochs=2, run=tmp_path / "run", **settings)
    skipped = [record["skipped_steps"] for record in result.history]
    assert skipped[0] == 5
    assert skipped[1] == int(result.state.scale.skipped) == result.result["train_skipped_steps"]
    run = train.Run.open(tmp_path / "run")
    like = train.create_state(linear(), optax.sgd(0.0), KEY, DATA.images[:1], loss_scale=True)
    assert run.restore(like)[0].scale.skipped == skipped[1]
    scale = result.state.scale
    run.save(result.state.replace(scale={"value": scale.value, "taken": scale.taken}), {})
    run.checkpoints.wait()
    restored = run.restore(like)[0].scale
    assert (restored.value, restored.taken, restored.skipped) == (scale.value, scale.taken, 0)


@pytest.mark.parametrize("prefixes", [(), ("block", "conv1")])
def test_what_is_computed_again_is_the_same(prefixes):
    model, again = conv_net(), cnn.remat(conv_net(), *prefixes)
    (expected, state), (found, _) = taken(model), taken(again)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    def total(params):
        return again.apply(params, state.model_state, data.to_float(DATA.images[:4]))[0].sum()

    assert "remat" in str(jax.make_jaxpr(jax.grad(total))(state.params))
    with pytest.raises(UserError, match="unknown layer 'blok': did you mean block"):
        cnn.remat(model, "blok")


def test_parts_of_a_batch_that_know_of_each_other_are_the_batch():
    """`vmap` with an axis name stands for devices: statistics and dropout of two halves are those of the whole."""
    model = small()
    x = data.to_float(DATA.images[:16])
    params, state = model.init(KEY, x)
    whole, new = model.apply(params, state, x, train=True, key=KEY)

    def part(x):
        return cnn.synchronized(model, "devices").apply(params, state, x, train=True, key=KEY)

    halves, states = jax.vmap(part, axis_name="devices")(x.reshape(2, 8, *x.shape[1:]))
    close(halves.reshape(16, -1), np.asarray(whole))
    close(jax.tree.map(lambda s: s[1], states), jax.device_get(new))


# --- evaluation --------------------------------------------------------------------------------------------------


def test_evaluation_counts_every_example_once_and_compiles_once():
    traces = []

    def loss(outputs, labels):
        return losses.softmax_cross_entropy(outputs, labels)

    def preprocess(images):
        traces.append(images.shape)
        return data.to_float(images)

    model = small()
    params, state = model.init(KEY, DATA.images[:1])
    evaluate = train.make_evaluate(
        model, train.Objective(loss, metrics={"accuracy": metrics.accuracy}, preprocess=preprocess), batch_size=16
    )
    for count in (31, 16, 1, 48):
        got = evaluate(params, state, DATA.take(slice(count)))
        outputs, _ = model.apply(params, state, data.to_float(DATA.images[:count]))
        close(got.outputs, np.asarray(outputs))
        o = np.asarray(outputs, np.float64)
        each = np.log(np.exp(o).sum(1)) - o[np.arange(count), DATA.labels[:count]]
        assert got.metrics["loss"] == pytest.approx(each.mean(), rel=1e-5)
        assert got.metrics["accuracy"] == (o.argmax(1) == DATA.labels[:count]).mean()
    assert traces == [(16, 6, 6, 1)]


# --- fit ---------------------------------------------------------------------------------------------------------

SETTINGS = {"validation": HELD, "test": bars(40, 2), "batch_size": 16, "show": False}
LONG = {**SETTINGS, "epochs": 4, "augment": data.flip, "optimizer": train.make_optimizer("adam", 0.03, "cosine", 20)}


def untimed(records):
    """Without what no two runs share."""
    if isinstance(records, list):
        return [untimed(record) for record in records]
    return {k: v for k, v in records.items() if k not in ("seconds", "images_per_second")}


def saved(run: Path) -> list[int]:
    """The steps of its checkpoints."""
    return train.Run.open(run).checkpoints.steps()


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that ended well, with its folder. Nobody may change it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return fit(small(), DATA, run=run, config={"note": "mine"}, **LONG), run


def test_fit_learns_and_reports(undisturbed):
    fitted, _ = undisturbed
    assert fitted.result["test_accuracy"] > 0.8  # a guess has 0.33
    assert [r["epoch"] for r in fitted.history] == [1, 2, 3, 4]
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    expected = {"data": "bars", "seed": 0, "epochs": 4, "steps": 20, "params": 36 * 8 + 16 + 27}
    assert fitted.result.items() >= expected.items()
    assert set(fitted.result) >= {"model", "data", "seed", "epochs", "steps", "params", "test_accuracy", "test_loss",
                                  "seconds", "best_epoch", "train_loss", "validation_accuracy"}  # fmt: skip
    predicted = fitted.test.outputs.argmax(1)
    assert fitted.result["test_accuracy"] == (predicted == SETTINGS["test"].labels).mean()
    linearly = fit(linear(), DATA, epochs=10, optimizer=optax.adam(0.03), **SETTINGS)
    assert linearly.result["test_accuracy"] == 1


def test_the_folder_of_a_run(undisturbed):
    fitted, run = undisturbed
    files = {"config.json", "metrics.jsonl", "result.json", "curves.png", "confusion.png", "mistakes.png"}
    assert {p.name for p in run.iterdir()} == files | {"checkpoints"}
    assert lines(run) == fitted.history
    assert json.loads((run / "result.json").read_text()) == fitted.result
    config = json.loads((run / "config.json").read_text())
    assert config["note"] == "mine"
    assert config["classes"] == ["left", "middle", "right"]
    assert (config["epochs"], config["batch_size"], config["seed"], config["image"]) == (4, 16, 0, [6, 6, 1])
    for name in ("curves", "confusion", "mistakes"):
        with Image.open(run / f"{name}.png") as picture:
            assert min(picture.size) > 50
    assert saved(run)[-1] == 20
    assert train.Run.open(run).result == fitted.result


def test_a_run_can_be_asked_later(undisturbed):
    fitted, run = undisturbed
    trained = train.Trained.load(run, small())
    same(jax.device_get((trained.params, trained.model_state)), jax.device_get((fitted.params, fitted.model_state)))
    got = trained.probabilities(SETTINGS["test"].images)
    close(got, np.asarray(jax.nn.softmax(fitted.test.outputs)))
    assert (trained.classes, trained.image) == (("left", "middle", "right"), (6, 6, 1))
    with pytest.raises(UserError, match=r"the run's images are \(6, 6, 1\), got \(6, 5, 1\)"):
        trained.probabilities(np.zeros((1, 6, 5, 1), np.uint8))


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(undisturbed):
    fitted, _ = undisturbed
    again, other = (
        fit(small(), DATA, seed=seed, **LONG)
        for seed in (0, 1)  # without a folder, too
    )
    assert untimed(again.history) == untimed(fitted.history)
    assert untimed(again.result) == untimed(fitted.result)
    same(jax.device_get(again.params), jax.device_get(fitted.params))
    assert other.history[0]["loss"] != fitted.history[0]["loss"]
    assert other.result["test_loss"] != fitted.result["test_loss"]


def interrupted_at(monkeypatch, epoch, step, interrupt):
    """Calls `interrupt` before a batch of an epoch."""
    whole = data.batches

    def until(data, size, seed, now, start, shard):
        for i, pair in enumerate(whole(data, size, seed, now, start, shard), start):
            if (now, i) == (epoch, step):
                interrupt()
            yield pair

    monkeypatch.setattr("jaxcnn.train.training.batches", until)


def killed():
    raise MemoryError


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def terminated():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 20}, "batch_size=12, not 20"), ({"seed": 1}, "seed=0, not 1"),
        ({"epochs": 9}, "epochs=2, not 9"),
        ({"accumulate": 2}, "accumulate=1, not 2"), ({"ema": 0.9}, "ema=null, not 0.9"),
        ({"preprocess": to_float}, "preprocess=|other preprocess"),
        ({"loss_scale": True}, "loss_scale=false, not true"),
    ],
)  # fmt: skip
def test_a_run_goes_on_with_its_settings_only(change, says, begun):
    """Figures would be neither the ones of the old settings nor of the new ones."""
    settings = {"epochs": 2, "batch_size": 12, "run": begun, "resume": True, "show": False}
    with pytest.raises(UserError, match=f"was made with ({says}).*start another run for that"):
        fit(linear(), DATA, **{**settings, **change})


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    path = tmp_path_factory.mktemp("begun") / "run"
    fit(linear(), DATA, epochs=2, batch_size=12, run=path, show=False)
    return path


def test_devices_and_platform_of_a_run(begun):
    config = train.Run(begun).config
    assert agreement.check_devices(config, OneDevice(), "run") is None
    assert agreement.check_devices({}, OneDevice(), "run") is None  # of an earlier version
    said = agreement.check_devices({**config, "devices": 4, "platform": "gpu"}, OneDevice(), "run")
    assert said is not None
    assert said.startswith("run was made on 4 devices (gpu) and goes on with 1 (cpu)")


def test_the_hash_of_data_is_of_all_its_bytes():
    images = np.arange(2 * 6 * 6, dtype=np.uint8).reshape(2, 6, 6, 1)
    found = data.Dataset(images, np.array([0, 1]), ("a", "b"))
    first = identity.of_data(found)
    assert first == identity.of_data(data.Dataset(images.copy(), np.array([0, 1]), ("a", "b"), "other"))
    images[1, 5, 5, 0] += 1
    others = [
        found, found.take([1, 0]), found.take([0]), dataclasses.replace(found, classes=("b", "a")),
        data.Examples(images, {"x": found.labels}), data.Examples(np.asfortranarray(images), found.labels),
    ]  # fmt: skip
    hashes = [identity.of_data(one)["sha256"] for one in others]
    assert len({first["sha256"], *hashes[:5]}) == 6
    assert first["count"] == 2


@pytest.mark.parametrize(("epoch", "step"), [(1, 3), (3, 0), (3, 4)])
@pytest.mark.parametrize("interrupt", [killed, ctrl_c, terminated])
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    epoch, step, interrupt, undisturbed, tmp_path, monkeypatch
):
    fitted, _ = undisturbed
    settings = {**LONG, "run": tmp_path / "run"}
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupted_at(patch, epoch, step, interrupt)
        with pytest.raises((Stopped, MemoryError)) as stop:
            fit(small(), DATA, **settings)
    assert not (tmp_path / "run/result.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    if interrupt is not killed:  # the step under way is finished, and saved
        now = 5 * (epoch - 1) + step + 1
        assert str(stop.value) == f"stopped after step {now}, which is saved"
        assert saved(tmp_path / "run")[-1] == now
    seen = []
    monkeypatch.setattr("jaxcnn.train.training.batches", lambda *args: seen.append(args[3:5]) or data.batches(*args))
    again = fit(small(), DATA, resume=True, **settings)
    if interrupt is not killed:
        assert seen[0] == (epoch, step + 1)  # nothing is computed twice
    assert untimed(again.history) == untimed(fitted.history) == untimed(lines(tmp_path / "run"))
    assert untimed(again.result) == untimed(fitted.result)
    same(jax.device_get(again.params), jax.device_get(fitted.params))
    same(jax.device_get(again.state.opt_state), jax.device_get(fitted.state.opt_state))
    seconds = [record["seconds"] for record in again.history]
    assert seconds == sorted(seconds)  # the time before the interruption counts
    assert saved(tmp_path / "run")[-1] == 20


def test_checkpoints_are_written_inside_an_epoch_and_the_newest_stay(undisturbed, tmp_path, monkeypatch):
    written = []
    save = train.Run.save
    monkeypatch.setattr(train.Run, "save", lambda run, state, progress, best: [
        written.append((int(state.step), len(progress["history"]), progress["position"])), run.checkpoints.wait(),
        save(run, state, progress, best), run.checkpoints.wait()])  # fmt: skip
    fitted = fit(small(), DATA, run=tmp_path / "run", save_every=0, keep=3, **LONG)
    assert (3, 0, 3) in written
    assert (15, 3, 0) in written
    assert saved(tmp_path / "run") == [18, 19, 20]
    assert untimed(fitted.history) == untimed(undisturbed[0].history)


def test_without_a_folder_ctrl_c_is_what_it_always_was(monkeypatch):
    interrupted_at(monkeypatch, 1, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(small(), DATA, **LONG)
    assert type(stop.value) is KeyboardInterrupt


def test_a_second_ctrl_c_does_not_wait(tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupted_at(monkeypatch, 2, 2, twice)
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(small(), DATA, run=tmp_path / "run", **LONG)
    assert type(stop.value) is KeyboardInterrupt


def test_a_checkpoint_holds_the_history_of_its_epoch_however_late_it_is_written(tmp_path, monkeypatch):
    """Writing goes on in the background while the next epoch is run and added to the history."""
    write = Checkpoints._write
    monkeypatch.setattr(Checkpoints, "_write", lambda *args: (time.sleep(0.2), write(*args)))
    run, history, state = train.Run.new(tmp_path), [{"epoch": 1, "loss": 1.0}], start(linear(), optax.sgd(0.1))
    run.save(state, {"history": history})
    history.append({"epoch": 2, "loss": 0.5})
    run.checkpoints.close()
    assert run.restore(state)[2]["history"] == history[:1]


def worse_after(steps: int) -> optax.GradientTransformation:
    """Gradient descent that turns into ascent."""
    return optax.sgd(lambda count: jnp.where(count < steps, 0.5, -0.5))


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path, capsys):
    settings = {**SETTINGS, "epochs": 9, "patience": 2, "run": tmp_path / "run", "optimizer": worse_after(15)}
    fitted = fit(linear(), DATA, **{**settings, "show": True})
    losses_ = [r["validation_loss"] for r in fitted.history]
    assert fitted.result["best_epoch"] == 3
    assert len(fitted.history) == fitted.result["epochs"] == 5
    assert losses_[2] == min(losses_)
    assert losses_[2] < losses_[4]
    assert "stopped: no better validation for 2 epochs" in capsys.readouterr().out
    evaluate = train.make_evaluate(
        linear(), train.Objective(losses.softmax_cross_entropy, preprocess=data.Preprocess.of(DATA.images))
    )
    assert evaluate(fitted.params, fitted.model_state, HELD).metrics["loss"] == losses_[2]
    assert evaluate(fitted.state.params, fitted.state.model_state, HELD).metrics["loss"] == losses_[4]
    assert saved(tmp_path / "run")[-1] == 25
    same(jax.device_get(train.Trained.load(tmp_path / "run", linear()).params), jax.device_get(fitted.params))
    # To go on with a run that is complete is to read it.
    again = fit(linear(), DATA, resume=True, **settings)
    assert untimed(again.result) == untimed(fitted.result)
    same(jax.device_get(again.params), jax.device_get(fitted.params))


def test_without_validation_the_last_epoch_counts():
    fitted = fit(linear(), DATA, epochs=3, batch_size=16, optimizer=worse_after(5), show=False)
    assert fitted.result["best_epoch"] == 3
    same(jax.device_get(fitted.params), jax.device_get(fitted.state.params))
    assert not any(name.startswith(("test_", "validation_")) for name in fitted.result)


@pytest.mark.parametrize(("bad_step", "kept"), [(7, [5]), (3, [])])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_what_to_try(tmp_path, bad_step, kept):
    """An infinite rate in one step makes the loss of the next one no number; the epochs before stay."""
    optimizer = optax.sgd(lambda count: jnp.where(count == bad_step - 2, jnp.inf, 0.1))
    settings = {"epochs": 3, "run": tmp_path / "run", **SETTINGS}
    epoch = 1 + bad_step // 6
    with pytest.raises(TrainingError, match=rf"loss is nan at step {bad_step} \(epoch {epoch}\).*smaller"):
        fit(linear(), DATA, optimizer=optimizer, **settings)
    assert saved(tmp_path / "run") == kept
    assert not (tmp_path / "run/result.json").exists()
    if kept:
        assert len(lines(tmp_path / "run")) == 1
        assert np.isfinite(train.Trained.load(tmp_path / "run", linear()).probabilities(DATA.images)).all()
    else:
        with pytest.raises(UserError, match="has no weights yet"):
            train.Trained.load(tmp_path / "run", linear())
    again = fit(linear(), DATA, optimizer=optax.sgd(lambda count: 0.1), resume=True, **settings)
    assert again.result["epochs"] == 3


@pytest.mark.parametrize(
    "preprocess", [lambda x: x.astype(jnp.float32) / 0.0, lambda x: x.astype(jnp.float32) * jnp.inf]
)
def test_infinite_inputs_stop_at_the_first_step(preprocess):
    with pytest.raises(TrainingError, match=r"at step 1 \(epoch 1\)"):
        fit(linear(), DATA, epochs=1, preprocess=preprocess, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 0}, "epochs=0 and batch_size=16 should be at least 1"),
        ({"batch_size": 0}, "batch_size=0 should be at least 1"),
        ({"patience": 3, "validation": None}, "early stopping needs validation data"),
        ({"patience": 0}, "patience=0 should be at least 1 epoch"),
        ({"seed": -1}, "seed=-1 should be from 0 to 2147483647"),
        ({"seed": 1 << 40}, "seed=1099511627776 should be from 0 to 2147483647"),
        ({"accumulate": 0}, "accumulate=0 should be at least 1"),
        ({"ema": 1.0}, "ema=1.0 should be between 0 and 1"),
        ({"keep": 0}, "keep=0: at least 1 checkpoint has to stay"),
        ({"profile": -1}, "profile=-1 and save_every=600 should be at least 0"),
        ({"model": linear(2)}, "the model has 2 outputs and the labels of bars go to 2: make the model with classes=3"),
        ({"model": cnn.serial(conv1=cnn.conv(4, 9))}, "conv1: 9x9 filter"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_starts(settings, says, tmp_path):
    settings = {"model": linear(), "data": DATA, "epochs": 1, "run": tmp_path / "run", **SETTINGS, **settings}
    with pytest.raises(UserError, match=says):
        fit(**settings)
    assert list(tmp_path.iterdir()) == []


def test_a_set_smaller_than_a_batch_is_one_batch():
    fitted = fit(linear(), DATA.take(slice(5)), epochs=2, batch_size=64, show=False)
    assert (fitted.result["steps"], len(fitted.history)) == (2, 2)


# --- the folder when something is wrong --------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there and not empty; choose another --run, or go on with --resume"):
        fit(linear(), DATA, epochs=1, run=tmp_path, **SETTINGS)
    with pytest.raises(UserError, match="is there and not empty"):
        train.Run.new(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        train.Run.new(tmp_path / "notes.txt/run").make()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("notes.txt", "mine")]
    (tmp_path / "empty").mkdir()
    assert train.Run.new(tmp_path / "empty").path == tmp_path / "empty"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "the run folder .* is not there"),
        ({}, "is no run of jaxcnn: it has no config.json"),
        ({"config.json": "{"}, "config.json cannot be read"),
        ({"config.json": "[1]"}, r"config.json should hold a JSON object, it holds \[1\]"),
        ({"config.json": "[" * 20000}, "config.json cannot be read: it is nested too deeply"),
        ({"config.json": "{}"}, "has no weights yet"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, files, says):
    if files is not None:
        (tmp_path / "run").mkdir()
    for name, text in (files or {}).items():
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UserError, match=says):
        train.Trained.load(tmp_path / "run", linear())


def damaged(path: Path, how: str) -> None:
    """One file of a checkpoint, as a bad disk or a copy that was cut short leaves it."""
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "empty":
        os.truncate(path, 0)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that ended just before its result, with the two newest checkpoints."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.raises(UserError, match="made to end"):
        fit(small(), DATA, run=run, **{**LONG, "test": undone(), "save_every": 0})
    return run


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
@pytest.mark.parametrize("which", ["arrays.safetensors", "progress.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(undisturbed, unfinished, tmp_path, which, how):
    fitted, _ = undisturbed
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    before, last = saved(run)
    files = [path for path in (run / "checkpoints" / str(last)).glob(which) if path.is_file()]
    damaged(max(files, key=lambda path: path.stat().st_size), how)
    told = rf"step {last} is damaged \(.*\); that of step {before} is used"
    with pytest.warns(UserWarning, match=told):
        assert train.Run.open(run).checkpoints.newest(lambda folder, progress: folder.name) == str(before)
    if how != "flipped":
        return
    with pytest.warns(UserWarning, match=told):
        again = fit(small(), DATA, resume=True, run=run, **LONG)
    assert untimed(again.history) == untimed(fitted.history) == untimed(lines(run))
    assert untimed(again.result) == untimed(fitted.result)
    same(jax.device_get(again.params), jax.device_get(fitted.params))
    trained = train.Trained.load(run, small())  # without a warning: it was written anew
    same(jax.device_get(trained.params), jax.device_get(fitted.params))


class undone:
    """A test set at which a run ends."""

    name = "undone"

    @property
    def inputs(self):
        raise UserError("made to end here")


def test_a_run_whose_settings_were_changed_does_not_go_on(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "run")
    config = (tmp_path / "run/config.json").read_text()
    (tmp_path / "run/config.json").write_text(config.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"config.json is not what it was when the run began"):
        fit(small(), DATA, resume=True, run=tmp_path / "run", **{**LONG, "seed": 1})
    (tmp_path / "run/config.json").write_text(config)
    with pytest.raises(UserError, match="was made with seed=0, not 1"):
        fit(small(), DATA, resume=True, run=tmp_path / "run", **{**LONG, "seed": 1})


def test_when_all_checkpoints_are_damaged_it_says_so(undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed[1], run)
    for path in (run / "checkpoints").glob("*/progress.json"):
        damaged(path, "cut")
    for use in (
        lambda: train.Trained.load(run, small()),
        lambda: fit(small(), DATA, epochs=4, run=run, resume=True, **SETTINGS),
    ):
        with pytest.raises(UserError, match=r"step 20 is damaged \(progress.json is not what was written\).*start"):
            use()
    assert lines(run) == undisturbed[0].history


def test_a_checkpoint_of_another_network_is_refused(undisturbed, tmp_path):
    shutil.copytree(undisturbed[1], tmp_path / "run")
    with pytest.raises(UserError, match="of another network"):
        fit(linear(), DATA, epochs=4, run=tmp_path / "run", resume=True, **SETTINGS)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1.8 MB, and a function that enlarges it."""
    options = ["mount", "-t", "tmpfs", "-o"]
    try:
        subprocess.run([*options, "size=1800k", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield tmp_path, lambda: subprocess.run([*options, "remount,size=99m", "tmpfs", tmp_path], check=True)
    subprocess.run(["umount", "-l", tmp_path], check=True)


WIDE = {"fc": cnn.dense(3000), "act": cnn.relu, "head": cnn.dense(3)}  # 120,003 numbers, 480 kB


@pytest.mark.parametrize("seen", ["beforehand", "while writing"])
def test_a_full_disk_ends_the_run_with_one_clear_error_and_loses_nothing(tiny_disk, seen, monkeypatch):
    disk, enlarge = tiny_disk
    model = cnn.serial(flat=cnn.flatten, **WIDE)
    settings = {"epochs": 4, "optimizer": worse_after(5), **SETTINGS}
    with monkeypatch.context() as patch:
        if seen == "while writing":
            patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
            (disk / "other").write_bytes(bytes(900_000))
        with pytest.raises(TrainingError, match=r"checkpoint.*: the disk is full. Free some space and continue"):
            fit(model, DATA, run=disk / "run", **settings)
    assert saved(disk / "run") == [5]
    assert lines(disk / "run")[0]["epoch"] == 1
    assert np.isfinite(train.Trained.load(disk / "run", model).probabilities(DATA.images)).all()
    assert not [path for path in (disk / "run").iterdir() if path.name.startswith(".")]
    enlarge()
    again = fit(model, DATA, run=disk / "run", resume=True, **settings)
    assert untimed(again.history) == untimed(fit(model, DATA, **settings).history)


def test_a_full_disk_while_writing_a_json_file(tmp_path, monkeypatch):
    run = train.Run.new(tmp_path)
    run.write("result.json", {"a": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"result.json cannot be written: the disk is full"):
        run.write("result.json", {"a": 2})
    monkeypatch.undo()
    assert run.result == {"a": 1}  # as a whole, or not at all
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


# --- progress ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["", "1"])
def test_progress_is_plain_lines_where_there_is_no_terminal(colour, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", colour)  # as a notebook's kernel does for what it starts
    clock = iter([60, 90])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    record = {"epoch": 3, "loss": 0.25, "accuracy": 0.5, "images_per_second": 1234.5}
    with Display(10, 640, stream=stream) as display:
        display.update(3, 64, {"loss": 1.0}, 100.0)  # in the middle of an epoch: only a terminal shows it
        display.epoch(record)
        display.epoch({**record, "epoch": 4, "validation_loss": 0.125, "validation_accuracy": 0.75})
    assert stream.getvalue().splitlines() == [
        "epoch  3/10  loss 0.2500  accuracy 50.00 %  1,234 images/s  4s left",  # 7 times 640 / 1234.5 s
        "epoch  4/10  loss 0.2500  accuracy 50.00 %  validation loss 0.1250  accuracy 75.00 %"
        "  1,234 images/s  3m00s left",  # 6 times 30 s
    ]


def test_progress_can_be_silent():
    stream = io.StringIO()
    with Display(10, 640, show=False, stream=stream) as display:
        display.update(1, 64, {"loss": 1.0}, 100.0)
        display.epoch({"epoch": 3, "loss": 0.25, "images_per_second": 1234.5})
        display.line("something")
    assert stream.getvalue() == ""


def test_progress_is_a_live_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = io.StringIO()
    stream.isatty = lambda: True
    with Display(10, 640, stream=stream) as display:
        display.update(4, 320, {"loss": 0.5, "accuracy": 0.25}, 320.0)
        display._bar.refresh()
    for part in ("epoch 4/10", "loss 0.5000", "accuracy 25.00 %", "320 images/s", "13s left"):
        assert part in stream.getvalue()
