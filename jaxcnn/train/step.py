"""The training state and the jitted step."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxcnn.core import Layer, fold_in, shapes_of
from jaxcnn.core.cache import compiled
from jaxcnn.data.augment import PairedTransform, augmented
from jaxcnn.data.preprocess import inputs_of, to_float
from jaxcnn.declared import Call, calls
from jaxcnn.devices import OneDevice, copied
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss, Weighted
from jaxcnn.metrics import Metric, Summed, accuracy, in_training
from jaxcnn.ops.backend import ordered
from jaxcnn.ops.precision import rounded, wide
from jaxcnn.runs.averages import averages
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.weighting import normalized, parts_of, weights_of
from jaxcnn.transforms import synchronized

PyTree = Any
SKIPPED = "skipped_steps"
"""The metric of a training with a `LossScale`: the number of steps skipped so far."""
Watch = Callable[[PyTree, PyTree, PyTree], Mapping[str, Any]]
"""`(gradients, updates, params) -> {name: scalar}`: further metrics, computed inside the step."""
Step = Callable[["TrainState", tuple[Any, ...]], tuple["TrainState", dict[str, jax.Array]]]


class TrainState(flax.struct.PyTreeNode):
    """All that a training step changes.

    Attributes:
      step: the number of steps taken, int32.
      params, model_state: the network's variables.
      opt_state: the optimizer's state.
      key: the random key for dropout and augmentation; each step folds in its number.
      ema: the exponential moving average of `params`, or None.
      scale: the loss scale in float16, or None.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: jax.Array
    ema: PyTree | None = None
    scale: LossScale | None = None

    def __repr__(self) -> str:
        count = sum(jnp.size(leaf) for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "shape"))
        return f"TrainState(step={self.step}, {count:,} parameters)"


class LossScale(flax.struct.PyTreeNode):
    """The loss scale that keeps float16 gradients from underflowing; they are divided by it again in float32.

    A step whose gradient is not finite is skipped, and the scale is halved, down to `SMALLEST`; after 2000 consecutive
    steps that were taken it is doubled, up to `LARGEST`.

    Attributes:
      value: the scale, float32.
      taken: the number of steps since it last changed, int32.
      skipped: the total number of skipped steps, int32.

    Source: Micikevicius et al., Mixed precision training (2018), section 3.2.
    """

    SMALLEST = 2.0**-24
    """Below 1, for gradients too large for float16 without scaling. It is the smallest positive float16."""
    LARGEST = 2.0**24

    value: jax.Array
    taken: jax.Array
    skipped: jax.Array

    @staticmethod
    def start() -> LossScale:
        """The initial scale, 2^15."""
        return LossScale(jnp.float32(1 << 15), jnp.int32(0), jnp.int32(0))

    def after(self, finite: jax.Array) -> LossScale:
        """The scale after a step."""
        taken = jnp.where(finite, self.taken + 1, 0)
        grows = taken >= 2000
        grown = jnp.where(grows, jnp.minimum(2 * self.value, self.LARGEST), self.value)
        value = jnp.where(finite, grown, jnp.maximum(self.value / 2, self.SMALLEST))
        return LossScale(value, jnp.where(grows, 0, taken), self.skipped + ~finite)


def create_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    example: PyTree,
    preprocess: Callable[[Any], Any] = to_float,
    variables: tuple[PyTree, PyTree] | None = None,
    ema: bool = False,
    loss_scale: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      key: a random key; it is split for the initial weights and the steps.
      example: a batch of inputs, or their `jax.ShapeDtypeStruct`s. Only shapes and dtypes are used. A tuple holds
        several inputs, such as the `views` of the objective.
      preprocess: as in `make_step`.
      variables: `(params, state)` of the model to begin with, as `weights.load` returns them, instead of new ones. They
        are copied, since a step donates the state that it is given.
      ema: whether to keep a moving average of the parameters.
      loss_scale: whether to scale the loss, for `mixed_precision(model, jnp.float16)`.

    Raises:
      UserError: if the variables are not the model's; for `ema` with an optimizer that has parameters of its own to
        evaluate (`eval_params`).
    """
    init_key, step_key = jax.random.split(key)
    _check_arguments(model, optimizer)
    inputs = jax.eval_shape(lambda example: inputs_of(preprocess, example), example)
    if variables is None:
        params, model_state = model.init(init_key, *inputs)
    else:
        _check_variables(model, init_key, inputs, variables)
        params, model_state = copied(tuple(variables))
    params, model_state = strong((params, model_state))
    # As one program, since compiling it array by array takes seconds; copied, since a step donates both.
    # Inside `jit` they are the outer program's.
    opt_state = compiled(lambda params: jax.tree.map(jnp.copy, optimizer.init(params)), params)(params)
    if ema and averages(opt_state):
        raise UserError("ema: the optimizer has parameters of its own to evaluate, so leave out the moving average")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=strong(opt_state),
        key=step_key,
        ema=copied(params) if ema else None,
        scale=LossScale.start() if loss_scale else None,
    )


def strong(tree: PyTree) -> PyTree:
    """The arrays without JAX's weak types.

    Weak types, as of `jnp.full(n, 0.5)`, become strong in a step, which would then be compiled twice.
    """
    return jax.tree.map(
        lambda x: jax.lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x, tree
    )


def watched(
    function: Watch, gradients: PyTree, updates: PyTree, params: PyTree, measured: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """The results of a `watch` function, as float32 scalars.

    Raises:
      UserError: if one is not a scalar, or has the name of another metric.
    """
    found = dict(function(gradients, updates, params))
    for name, value in found.items():
        if name in measured:
            raise UserError(f"watch: a step measures {name!r} already; choose another name")
        if jnp.ndim(value) != 0:
            raise UserError(f"watch: {name!r} has the shape {jnp.shape(value)}, expected one number")
    return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}


def _check_arguments(model: Any, optimizer: Any) -> None:
    """Checks the types of the model and the optimizer."""

    def got(given: Any) -> str:
        return repr(given) if isinstance(given, (str, int, float)) else type(given).__name__

    if not isinstance(model, Layer):
        raise UserError(f"model: expected a Layer, such as cnn.serial(...), got {got(model)}")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        named = f"; cnn.train.make_optimizer({optimizer!r}) makes one of a name" if isinstance(optimizer, str) else ""
        raise UserError(f"optimizer: expected one of Optax, such as optax.adam(1e-3), got {got(optimizer)}{named}")


def _check_variables(model: Layer, key: jax.Array, inputs: tuple[Any, ...], variables: Any) -> None:
    """Checks that the variables have the names and shapes of the model's."""

    def by_path(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf) for path, leaf in leaves}

    for name, own, given in zip(("params", "state"), shapes_of(model, key, *inputs), variables, strict=True):
        expected, got = by_path(own), by_path(given)
        for path in sorted(expected.keys() | got.keys()):
            if expected.get(path) != got.get(path):
                raise UserError(
                    f"the variables given are not this model's: {name} {path} should be "
                    f"{expected.get(path, 'absent')} and is {got.get(path, 'absent')}"
                )


def make_step(
    model: Layer,
    objective: Objective | Loss,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema: float | None = None,
    watch: Sequence[Watch] = (),
    devices: OneDevice | None = None,
    axis_name: str | None = None,
) -> Step:
    """One step of gradient descent, compiled: `step(state, batch) -> (state, metrics)`.

    params' = params + update(gradient of mean loss(model(inputs), labels) + penalty(params))

    With weights w_n of the examples, from the batch or from `losses.class_weighted`, the mean is
    sum_n w_n loss_n / sum_n w_n over the whole batch (0 if all weights are 0); with both, w_n is their product. Metrics
    are not weighted.

    The given state is donated: the new state reuses its memory, and it cannot be used again.

    Args:
      objective: what is minimized and measured; or only a loss, `(outputs, labels) -> (N,)`.
      optimizer: an Optax transformation. One that takes extra arguments (`optax.GradientTransformationExtraArgs`, such
        as `optax.contrib.reduce_on_plateau`, `optax.lbfgs` and `optax.contrib.sam`) is given those that it takes of
        `value`, the step's loss with the penalty; `grad`, its gradient; `value_fn` (and `obj_fn`), the loss of this
        batch as a function of the parameters; and `grad_fn`, its gradient as a function of the parameters. These
        functions use the step's batch, dropout and batch statistics; the latter are updated once a step.
      accumulate: the number of parts in which a batch is computed, one after another. The gradient is the mean over the
        parts; the memory is that of one part. Batch normalization uses the statistics of each part, and a loss that
        compares examples compares those of a part.
      ema: the decay of the moving average, for a state that keeps one; 0.999 when None: ema' = d ema + (1 - d) params'
        where, at step t, d = min(ema, (1 + t) / (10 + t)).
      watch: functions `(gradients, updates, params) -> {name: scalar}`, computed inside the step and added to its
        metrics, for instance the norm of the gradient.
      devices: the devices that share a batch, `jaxcnn.devices.DataParallel()`; the step then takes what its `replicate`
        and `batch` return.
      axis_name: for a step that you map yourself: `jax.pmap(make_step(..., axis_name="data"), "data")`, each device
        with its part of the batch. The step is then not compiled. Gradients, metrics and batch statistics are means
        over the axis; dropout is that of the whole batch; the random numbers for augmentation differ between devices.

    Returns:
      A jitted function of a `TrainState` and a batch `(inputs, labels)`, or `(inputs, labels, weights)` with weights
      `(N,)`; `inputs` may be a tuple for a network of several inputs, or a dict for one that takes it. Its metrics are
      scalars: `loss` (with the penalty) and the objective's metrics, means over the batch; with a `LossScale` also
      `skipped_steps`, the number of skipped steps since the start.

    Raises:
      UserError: if an argument is not a model, loss or optimizer; and, when the step is first called, if the optimizer
        needs other arguments, the loss gives one number for the whole batch, the state is another optimizer's or lacks
        the moving average, or the batch cannot be divided into `accumulate` parts.
    """
    _check_arguments(model, optimizer)
    objective = Objective.of(objective)
    loss, metrics, penalty, augment = objective.loss, objective.metrics, objective.penalty, objective.augment
    preprocess, views = objective.inputs, objective.views
    if devices is not None:
        axis_name = devices.axis_name
    if axis_name is not None:
        model = synchronized(model, axis_name)
    metrics = in_training(metrics)
    each_loss = loss.each if isinstance(loss, Weighted) else loss

    def value_of(
        params: PyTree, model_state: PyTree, inputs: Any, labels: Any, classes: Any, weights: Any, key: Any, scale: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
        outputs, model_state = model.apply(params, model_state, *inputs, train=True, key=key)
        with calls() as seen:
            each = each_loss(outputs, labels)
        if jnp.ndim(each) == 0:
            raise UserError("the loss gave one number for the batch, expected one for each example: leave out its mean")
        value = wide(each).mean() if weights is None else (wide(each) * weights).mean()
        if penalty is not None:
            value = value + penalty(params)
        measured = {"loss": value}
        measured |= of_batch(metrics, measure(metrics, outputs, classes, loss, seen))
        return value if scale is None else value * scale.value, (measured, model_state)

    def step(state: TrainState, batch: tuple[Any, ...]) -> tuple[TrainState, dict[str, jax.Array]]:
        inputs, labels, weights = parts_of(batch)
        classes = labels  # for the metrics, if the labels are mixed
        augment_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if axis_name is not None and (augment is not None or views is not None):
            augment_key = jax.random.fold_in(augment_key, jax.lax.axis_index(axis_name))
        if augment is not None:
            inputs, labels = augmented(augment, inputs, labels, augment_key)
            mixed = jax.tree.map(jnp.ndim, labels) != jax.tree.map(jnp.ndim, classes)
            classes = labels.argmax(-1) if mixed and classes is not None else labels
        if views is not None:
            inputs, labels = augmented(views, inputs, labels, fold_in(augment_key, "views"))
            classes = labels if isinstance(views, PairedTransform) else classes
        inputs = inputs_of(preprocess, inputs)
        weights = normalized(weights_of(loss, labels, weights), axis_name)

        scale = state.scale

        def differentiated(params: PyTree) -> tuple[PyTree, dict[str, jax.Array], PyTree]:
            """Gradient, metrics and the model's new state at these parameters, for all parts of the batch."""

            def gradient(model_state: PyTree, part: Any) -> tuple[PyTree, tuple[PyTree, dict[str, jax.Array]]]:
                found, (measured, model_state) = jax.grad(value_of, has_aux=True)(params, model_state, *part, scale)
                return model_state, (found, measured)

            if accumulate == 1:
                model_state, found = gradient(state.model_state, (inputs, labels, classes, weights, key))
            else:
                parts = (*_parts((inputs, labels, classes, weights), accumulate), jax.random.split(key, accumulate))
                model_state, found = _means_of(gradient, state.model_state, parts)
            if axis_name is not None:
                found = jax.lax.pmean(found, axis_name)
            slope, measured = found
            if scale is not None:
                slope = jax.tree.map(lambda g: g / scale.value, slope)
            return slope, measured, model_state

        slope, measured, model_state = differentiated(state.params)
        slope = ordered(slope)
        updates, opt_state = _updates(optimizer, state, slope, measured["loss"], differentiated)
        for function in watch:
            measured = measured | watched(function, slope, updates, state.params, measured)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(params=params, model_state=strong(model_state), opt_state=strong(opt_state))
        if ema and state.ema is None:
            raise UserError(f"ema={ema}: the state keeps no average; make it by create_state(..., ema=True)")
        if state.ema is not None:
            # Optax's incremental_update could change the average's dtype (bfloat16, x64).
            decay = jnp.minimum(0.999 if ema is None else ema, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
            new = new.replace(
                ema=jax.tree.map(lambda e, p: (decay * e + (1 - decay) * p).astype(e.dtype), state.ema, params)
            )
        if scale is not None:
            finite = jnp.all(jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(slope)]))
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new.replace(key=None), state.replace(key=None))
            new = new.replace(key=state.key, scale=scale.after(finite))
            measured = {**measured, SKIPPED: new.scale.skipped.astype(jnp.float32)}
        return new.replace(step=state.step + 1), measured

    if devices is None and axis_name is not None:
        return step
    return (devices or OneDevice()).compile(step)


def _objective_of(differentiated: Callable[[PyTree], tuple[PyTree, dict[str, jax.Array], PyTree]]) -> Any:
    """The loss as a function of the parameters, with the gradient of the step; for line searches.

    It is a mean over parts of a batch and over devices, whose gradient the step computes itself: automatic
    differentiation would keep the activations of all parts, and differ between devices under `pmap`.
    """

    @jax.custom_jvp
    def objective(params: PyTree) -> jax.Array:
        return differentiated(params)[1]["loss"]

    @objective.defjvp
    def _(primals: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[jax.Array, jax.Array]:
        slope, measured, _ = differentiated(*primals)
        return measured["loss"], optax.tree.vdot(slope, *tangents).astype(measured["loss"].dtype)

    return objective


def _updates(
    optimizer: optax.GradientTransformation, state: TrainState, slope: PyTree, value: jax.Array, differentiated: Any
) -> tuple[PyTree, PyTree]:
    """The optimizer's updates of the parameters, and its new state."""
    objective = _objective_of(differentiated)
    extra = {
        "value": value, "grad": slope, "value_fn": objective, "obj_fn": objective,
        "grad_fn": lambda params, *_: differentiated(params)[0],
    }  # fmt: skip
    try:
        return _given(optax.with_extra_args_support(optimizer).update, (slope, state.opt_state, state.params), extra)
    except Exception as error:
        made = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
        if made != jax.tree.structure(state.opt_state):  # type: ignore[operator]
            raise UserError(
                "the state was made for another optimizer: give create_state and make_step the same one"
            ) from error
        if isinstance(error, (TypeError, ValueError)) and re.search(
            "required keyword-only|must be provided", str(error)
        ):
            raise UserError(
                f"the optimizer needs more than a training step gives it ({', '.join(extra)}): {error}"
            ) from error
        raise


def _given(update: Callable[..., Any], arguments: tuple[Any, ...], extra: dict[str, Any]) -> Any:
    """`update(*arguments, **extra)` without the extra arguments that it refuses, as `optax.lbfgs` and `sam` do."""
    while True:
        try:
            return update(*arguments, **extra)
        except TypeError as error:  # an optimizer inside a chain does not show what it takes
            refused = [name for name in extra if f"'{name}'" in str(error)]
            if "unexpected keyword argument" not in str(error).lower() or not refused:
                raise
            extra = {name: value for name, value in extra.items() if name not in refused}


def _parts(batch: Any, count: int) -> Any:
    """A batch in parts, on a new first axis: part k has the examples k, k + count, k + 2 count, ...

    So each device of a sharded batch has its share of each part.
    """

    def one(x: Any) -> Any:
        if len(x) % count:
            raise UserError(
                f"a batch of {len(x)} examples on a device cannot be taken in accumulate={count} equal parts"
            )
        return jnp.moveaxis(jnp.reshape(x, (len(x) // count, count, *x.shape[1:])), 1, 0)

    return jax.tree.map(one, batch)


def _means_of(gradient: Any, model_state: PyTree, parts: Any) -> tuple[PyTree, Any]:
    """The last state, and the means of gradients and metrics over the parts, computed one at a time."""
    first, rest = (jax.tree.map(take, parts) for take in (lambda x: x[0], lambda x: x[1:]))
    model_state, total = gradient(model_state, first)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        model_state, total = carry
        model_state, found = gradient(model_state, part)
        return (model_state, jax.tree.map(jnp.add, total, found)), None

    (model_state, sums), _ = jax.lax.scan(add, (model_state, jax.tree.map(wide, total)), rest)
    return model_state, jax.tree.map(lambda x, one: rounded(x / len(parts[-1]), one.dtype), sums, total)


def of_batch(metrics: Mapping[str, Metric] | None, measured: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The metrics of one batch, from the values of each example that `measure` returns."""
    figures: dict[str, jax.Array] = {}
    for name, each in measured.items():
        metric = (metrics or {}).get(name)
        if isinstance(metric, Summed):
            figures |= metric.named(name, jax.tree.map(lambda x: wide(x).sum(0), each))
        else:
            figures[name] = wide(each).mean()
    return figures


def measure(
    metrics: Mapping[str, Metric] | None, outputs: Any, labels: Any, loss: Loss, seen: Sequence[Call]
) -> dict[str, Any]:
    """The metrics of each example; if `metrics` is None, the accuracy if the outputs are scores of classes.

    Args:
      seen: the calls of declared losses inside `loss(outputs, labels)`: they show whether the outputs are scores of
        classes.
    """
    if metrics is not None:
        return {name: metric(outputs, labels) for name, metric in metrics.items()}
    first = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
    if not (hasattr(first, "shape") and hasattr(labels, "shape") and len(first.shape) > 1 and first.shape[-1] > 1):
        return {}
    scores = any(c.of_classes and c.outputs is first for c in seen)
    scores = scores or loss is optax.softmax_cross_entropy_with_integer_labels
    classes = jnp.issubdtype(labels.dtype, jnp.integer) and first.shape[:-1] == labels.shape
    return {"accuracy": accuracy(first, labels)} if scores and classes else {}
