"""Optax transformations that take extra arguments: a step gives them what a loop written by hand with Optax does.

Tolerance 1e-5 of the largest value: the same float32 sums in another order; 1e-4 where a line search compares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn import train
from jaxcnn.errors import UserError

PyTree = Any


def trained(params: PyTree, state: Any) -> PyTree:
    return params


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer, and a loop by hand with it.

    Attributes:
      make: the optimizer.
      extras: the extra arguments that a loop by hand gives it.
      evaluated: the parameters that Optax's documentation says to evaluate.
      hand: the optimizer of the loop by hand, if it is another one; it trains `LookaheadParams`.
    """

    make: Callable[[], optax.GradientTransformation]
    extras: tuple[str, ...] = ()
    evaluated: Callable[[PyTree, Any], PyTree] = trained
    hand: Callable[[], optax.GradientTransformation] | None = None


SEARCH = ("value", "grad", "value_fn")


def sam(opaque: bool) -> optax.GradientTransformation:
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    return optax.contrib.sam(optax.sgd(0.5, 0.9), adversary, opaque_mode=opaque)


CASES = {
    "plateau": Case(
        lambda: optax.chain(
            optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=0, rtol=0.5, accumulation_size=1)
        ),
        ("value",),
    ),
    "lbfgs": Case(lambda: optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(8)), SEARCH),
    "backtracking": Case(lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8)), SEARCH),
    "sophia": Case(lambda: optax.contrib.sophia(0.1, update_interval=2), ("obj_fn",)),
    "schedule-free": Case(
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.schedule_free_sgd(0.5)),
        evaluated=lambda params, state: optax.contrib.schedule_free_eval_params(state[-1], params),
    ),
    "sam, opaque": Case(lambda: sam(True), ("grad_fn",)),
    "sam, transparent": Case(
        lambda: sam(False),
        ("grad_fn",),
        lambda params, state: params if state.steps_since_sync == 0 else state.cache,
    ),
    "lookahead": Case(
        lambda: train.lookahead(optax.adam(0.1), 2, 0.5),
        evaluated=lambda params, state: params.slow,
        hand=lambda: optax.lookahead(optax.adam(0.1), 2, 0.5),
    ),
}


def penalty(params: PyTree) -> jax.Array:
    return 1e-2 * cnn.losses.l2_penalty(params)


def by_hand(case: Case, model: cnn.Layer, batch: Any, params: PyTree, steps: int) -> Any:
    """The parameters, those to evaluate, and the losses, of a loop as Optax's documentation writes it."""
    optimizer, x, labels = optax.with_extra_args_support((case.hand or case.make)()), *batch
    pairs = case.hand is not None
    params = optax.LookaheadParams.init_synced(params) if pairs else params

    def loss(params: PyTree, _: Any = 0) -> jax.Array:
        logits = model.apply(params, {}, x)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() + penalty(params)

    @jax.jit
    def step(params: PyTree, state: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(params.fast if pairs else params)
        extras = {"value": value, "grad": grad, "value_fn": loss, "obj_fn": loss, "grad_fn": jax.grad(loss)}
        given = {name: extras[name] for name in case.extras}
        updates, state = optimizer.update(grad, state, params, **given)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params.fast if pairs else params, case.evaluated(params, state), losses


def network() -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, fc1=cnn.dense(4), act=cnn.tanh, fc2=cnn.dense(3))


BATCH = jnp.asarray(normal(0, 8, 4)), jnp.arange(8) % 3
OBJECTIVE = train.Objective(cnn.losses.softmax_cross_entropy, penalty=penalty)


@pytest.mark.parametrize(
    ("name", "accumulate"),
    [("plateau", 1), ("backtracking", 2), ("sophia", 1), ("schedule-free", 1), ("sam, opaque", 2)],
)
def test_a_step_is_that_of_a_loop_with_optax(name: str, accumulate: int) -> None:
    case, model = CASES[name], network()
    optimizer = case.make()
    state = train.create_state(model, optimizer, jax.random.key(0), BATCH[0])
    expected = by_hand(case, model, BATCH, state.params, steps=5)
    step = train.make_step(model, OBJECTIVE, optimizer, accumulate=accumulate)
    losses = []
    for _ in range(5):
        state, measured = step(state, BATCH)
        losses.append(float(measured["loss"]))
    assert step._cache_size() == 1
    close((state.params, train.eval_params(state.opt_state, state.params), losses), expected, 1e-4)
    assert losses[-1] < losses[0]


def images(count: int = 8) -> cnn.data.Dataset:
    rng = np.random.default_rng(0)
    return cnn.data.Dataset(rng.integers(0, 256, (count, 2, 2, 1)).astype(np.uint8), np.arange(count) % 3, tuple("abc"))


def fitted(optimizer: optax.GradientTransformation, **settings: Any) -> train.FitResult:
    """A training of three steps, in one batch each."""
    objective = dataclasses.replace(OBJECTIVE, preprocess=cnn.data.to_float, primary="loss")
    settings = {"epochs": 3, "batch_size": 8, "show": False} | settings
    return train.fit(network(), images(), objective, optimizer=optimizer, **settings)


@pytest.mark.parametrize("name", ["lbfgs", "schedule-free", "sam, opaque", "sam, transparent", "lookahead"])
def test_fit_evaluates_and_keeps_the_parameters_of_a_loop_with_optax(name: str) -> None:
    case, model, data = CASES[name], network(), images()
    params, _ = model.init(jax.random.split(jax.random.key(0))[0], data.images / np.float32(255))
    x = jnp.asarray(data.images / np.float32(255))
    expected = by_hand(case, model, (x, data.labels), params, steps=3)
    found = fitted(case.make(), validation=data, test=data)
    losses = [record["loss"] for record in found.history]
    close((found.state.params, losses), (expected[0], expected[2]), 1e-4)
    assert found.result["best_epoch"] == 3  # the losses fall, so that the last epoch is the best
    close(found.params, expected[1], 1e-4)
    logits = model.apply(expected[1], {}, x)[0]
    measured = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels).mean()
    close(found.history[-1]["validation_loss"], measured, 1e-4)
    close(found.result["test_loss"], measured, 1e-4)


# Six steps: with a period of 2, as in the table, the last one would make both sets of parameters equal.
@pytest.mark.parametrize(
    "make",
    [CASES["schedule-free"].make, lambda: train.lookahead(optax.adam(0.1), 4, 0.5)],
    ids=["schedule-free", "lookahead"],
)
def test_a_run_keeps_the_parameters_to_evaluate(
    make: Callable[[], optax.GradientTransformation], tmp_path: Path
) -> None:
    """Killed in an epoch and resumed, it ends with the numbers of an uninterrupted one, and so does what is loaded."""

    class Killed(Exception):
        pass

    class Kills(train.Callback):
        def step(self, training: train.Training) -> None:
            if training.epoch == 3:
                raise Killed

    settings = {"validation": images(), "batch_size": 4}
    whole = fitted(make(), **settings)
    with pytest.raises(Killed):
        fitted(make(), run=tmp_path / "killed", callbacks=[Kills()], **settings)
    resumed = fitted(make(), run=train.Run(tmp_path / "killed", resume=True), **settings)
    same((resumed.params, resumed.state.opt_state), (whole.params, whole.state.opt_state))
    same(resumed.params, jax.jit(train.eval_params)(whole.state.opt_state, whole.state.params))
    different = jax.tree.map(lambda a, b: bool((a != b).any()), whole.params, whole.state.params)
    assert all(jax.tree.leaves(different))
    loaded = train.TrainedModel.load(tmp_path / "killed", network())
    same(loaded.params, resumed.params)


def test_an_average_beside_parameters_to_evaluate_is_refused() -> None:
    with pytest.raises(UserError, match="ema: the optimizer has parameters of its own to evaluate"):
        fitted(optax.contrib.schedule_free_sgd(0.5), ema=0.9)


def test_an_optimizer_of_ones_own_says_what_to_evaluate() -> None:
    @jax.tree_util.register_static
    class Doubles:
        def eval_params(self, params: PyTree) -> PyTree:
            return jax.tree.map(lambda p: 2 * p, params)

    assert train.eval_params((optax.EmptyState(), [Doubles()]), {"a": 3.0}) == {"a": 6.0}
    assert train.eval_params((optax.EmptyState(), []), {"a": 3.0}) == {"a": 3.0}


@pytest.mark.parametrize(("period", "alpha"), [(0, 0.5), (5, 1.5)])
def test_a_lookahead_that_is_none(period: int, alpha: float) -> None:
    with pytest.raises(UserError, match="expected at least 1 step, and a number from 0 to 1"):
        train.lookahead(optax.sgd(0.1), period, alpha)


def test_a_plateau_lowers_the_rate_in_fit() -> None:
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (16, 6, 6, 1)).astype(np.uint8), rng.integers(0, 3, 16), tuple("abc"))
    optimizer = optax.chain(
        optax.sgd(1e-6), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.5, accumulation_size=1)
    )
    result = train.fit(
        cnn.serial(cnn.flatten, cnn.dense(3)), data, optimizer=optimizer, epochs=4, batch_size=8, show=False
    )
    assert (
        float(result.state.opt_state[-1].scale) == 0.125
    )  # of 8 steps the first is the best; 2, 2 and 2 more do not improve


def test_an_epoch_s_figure_lowers_the_rate(tmp_path: Path) -> None:
    """The scales are those of Optax's rule, called once an epoch; a resumed run goes on with them."""
    figures, moved = [3.0, 2.0, 2.5, 2.5, 1.0, 1.5], []

    class Measures(train.Callback):
        @staticmethod
        def watch(gradients: PyTree, updates: PyTree, params: PyTree) -> dict[str, jax.Array]:
            return {"rate": -updates["fc2"]["bias"][0] / gradients["fc2"]["bias"][0]}

        def epoch(self, training: train.Training, record: dict[str, Any]) -> None:
            record["figure"] = figures[training.epoch - 1]
            moved.append(record["rate"])

    def run(folder: Any, epochs: int) -> train.FitResult:
        plateau = train.ReduceOnPlateau("figure", factor=0.5, patience=1, rtol=0.1)
        optimizer = optax.chain(optax.sgd(0.1), plateau.scale)
        return fitted(optimizer, callbacks=[Measures(), plateau], epochs=epochs, run=folder)

    rule = optax.contrib.reduce_on_plateau(0.5, 1, rtol=0.1)
    state, scales = rule.init({"a": jnp.zeros(1)}), [1.0]
    for figure in figures:
        state = rule.update({}, state, value=jnp.float32(figure))[1]
        scales.append(float(state.scale))
    run(tmp_path / "run", 2)
    found = run(train.Run(tmp_path / "run", resume=True), 6)
    assert [record["learning_rate_scale"] for record in found.history] == scales[1:] == [1, 1, 0.5, 0.25, 0.25, 0.125]
    np.testing.assert_allclose(moved, 0.1 * np.array(scales[:-1]), rtol=1e-5)  # a quotient of float32 numbers


def test_what_a_plateau_needs_is_said() -> None:
    with pytest.raises(UserError, match="ReduceOnPlateau: the optimizer lacks its factor"):
        fitted(optax.sgd(0.1), callbacks=[train.ReduceOnPlateau("loss")])
    plateau = train.ReduceOnPlateau("validation_loss")
    with pytest.raises(UserError, match="ReduceOnPlateau: the record has no 'validation_loss'; it has epoch, step"):
        fitted(optax.chain(optax.sgd(0.1), plateau.scale), callbacks=[plateau])


def test_an_optimizer_that_needs_something_else() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, temperature: Any, **extra: Any) -> Any:
        return updates, state

    model = network()
    optimizer = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    state = train.create_state(model, optimizer, jax.random.key(0), BATCH[0])
    step = train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
    with pytest.raises(
        UserError, match=r"needs more than a training step gives it \(value, grad, value_fn.*'temperature'"
    ):
        step(state, BATCH)


# --- optimizers by name ------------------------------------------------------------------------------------------

RATE, DECAY = 0.1, 0.2


def orthogonal(g: np.ndarray) -> np.ndarray:
    """Five steps of Newton and Schulz's iteration, as Jordan writes it, for the matrix `(kh kw in, out)`."""
    x = g.reshape(-1, g.shape[-1])
    x = x / np.linalg.norm(x)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x if wide else x.T).reshape(g.shape)


def momentum(g: list[np.ndarray], nesterov: bool) -> list[np.ndarray]:
    found, v = [], np.zeros_like(g[0])
    for each in g:
        v = 0.9 * v + each
        found.append(each + 0.9 * v if nesterov else v)
    return found


def adam(g: list[np.ndarray]) -> list[np.ndarray]:
    found, m, v = [], np.zeros_like(g[0]), np.zeros_like(g[0])
    for t, each in enumerate(g, 1):
        m, v = 0.9 * m + 0.1 * each, 0.999 * v + 0.001 * each**2
        found.append(m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return found


def lion(g: list[np.ndarray]) -> list[np.ndarray]:
    found, m = [], np.zeros_like(g[0])
    for each in g:
        found.append(np.sign(0.9 * m + 0.1 * each))
        m = 0.99 * m + 0.01 * each
    return found


def muon(g: list[np.ndarray]) -> list[np.ndarray]:
    found, m = [], np.zeros_like(g[0])
    for each in g:
        m = 0.95 * m + each
        size = max(each.size // each.shape[-1], each.shape[-1])
        found.append(0.2 * np.sqrt(size) * orthogonal(each + 0.95 * m))
    return found


BY_HAND: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "sgd": lambda g: g, "momentum": lambda g: momentum(g, False), "nesterov": lambda g: momentum(g, True),
    "adam": adam, "adamw": adam, "lion": lion, "muon": muon,
}  # fmt: skip
COUPLED = ("sgd", "momentum", "nesterov")  # the decay is a part of the gradient
SHAPES = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "fc": {"kernel": (3, 7), "bias": (7,)}}


@pytest.mark.parametrize("name", train.OPTIMIZERS)
def test_an_optimizer_by_name_is_a_loop_by_hand(name: str) -> None:
    """In float64 by NumPy; the weights stay where they are, so that the gradients of three steps are given."""
    w = {"/".join((a, b)): normal(i, *s) for i, (a, b, s) in enumerate(leaves(SHAPES))}
    g = {path: [normal(10 * t + len(path), *x.shape) for t in range(3)] for path, x in w.items()}
    optimizer = train.make_optimizer(name, RATE, weight_decay=DECAY)
    params = nested(w)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    got = []
    for t in range(3):
        updates, state = update(nested({path: each[t] for path, each in g.items()}), state, params)
        got.append(updates)
    for path, weight in w.items():
        double, kernel = weight.astype(np.float64), path.endswith("kernel")
        each = [x.astype(np.float64) for x in g[path]]
        if name in COUPLED:
            expected = BY_HAND[name]([x + DECAY * double * kernel for x in each])
        else:
            rule = BY_HAND["adam" if name == "muon" and not kernel else name]
            expected = [u + DECAY * double * kernel for u in rule(each)]
        layer, variable = path.split("/")
        # 1 - 0.999^t loses three digits in float32; Muon's polynomial has coefficients up to 4.8, five times over.
        tolerance = 1e-4 if "adam" in name or name == "muon" else 1e-5
        close([u[layer][variable] for u in got], [-RATE * u for u in expected], tolerance)


def leaves(tree: dict[str, dict[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(a, b, x) for a, inner in tree.items() for b, x in inner.items()]


def nested(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for path, x in flat.items():
        layer, _, variable = path.partition("/")
        tree.setdefault(layer, {})[variable] = jnp.asarray(x)
    return tree


def test_muon_makes_the_singular_values_of_a_convolution_s_matrix_about_one() -> None:
    g = normal(0, 3, 3, 8, 16)
    optimizer = train.make_optimizer("muon", 1.0)
    params = {"kernel": jnp.zeros(g.shape)}
    update = optimizer.update({"kernel": jnp.asarray(g)}, optimizer.init(params), params)[0]["kernel"]
    values = np.linalg.svd(np.asarray(update).reshape(72, 16), compute_uv=False) / (0.2 * np.sqrt(72))
    assert (values > 0.6).all()  # of the gradient: from 5 to 12
    assert (values < 1.3).all()


def test_each_optimizer_has_a_rate_and_adamw_a_decay() -> None:
    params = {"kernel": jnp.ones((2, 2))}
    for name, (rate, _) in train.OPTIMIZERS.items():
        optimizer = train.make_optimizer(name)
        update = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]["kernel"]
        close(update, np.full((2, 2), -rate * train.DECAYS.get(name, 0.0)))
    assert train.DECAYS == {"adamw": 0.01}
