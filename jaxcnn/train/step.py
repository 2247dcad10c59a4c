"""The training state and the jitted step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxcnn.core import Layer
from jaxcnn.data.augment import Augment, Mixing, augmented
from jaxcnn.data.preprocess import to_float
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss
from jaxcnn.metrics import Metric, accuracy

PyTree = Any
Step = Callable[["TrainState", tuple[Any, Any]], tuple["TrainState", dict[str, jax.Array]]]


class TrainState(flax.struct.PyTreeNode):
    """All that a training step changes.

    Attributes:
      step: how many steps were taken, int32.
      params, model_state: the network's variables.
      opt_state: Optax's.
      key: the random key that each step folds its number into (dropout, augmentation).
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: jax.Array


def create_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    example: PyTree,
    preprocess: Callable[[Any], Any] = to_float,
    variables: tuple[PyTree, PyTree] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      key: a random key; one part of it makes the weights, the other is for the steps.
      example: a batch of inputs, or their `jax.ShapeDtypeStruct`s. Only shapes and dtypes are read. A tuple is several
        inputs.
      preprocess: as in `make_step`.
      variables: `(params, state)` of the model to begin with, as `weights.load` returns them, instead of new ones. They
        are copied, since a step uses up the state that it is given.

    Raises:
      UserError: for variables that are not the model's.
    """
    init_key, step_key = jax.random.split(key)
    inputs = jax.eval_shape(preprocess, example)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    if variables is None:
        params, model_state = model.init(init_key, *inputs)
    else:
        _check_variables(model, init_key, inputs, variables)
        params, model_state = jax.tree.map(jnp.copy, tuple(variables))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=jax.jit(optimizer.init)(params),  # one program: compiled array by array it takes seconds
        key=step_key,
    )


def _check_variables(model: Layer, key: jax.Array, inputs: tuple[Any, ...], variables: Any) -> None:
    """Raises unless the variables have the names and shapes of the model's own."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf) for path, leaf in leaves}

    for name, own, given in zip(("params", "state"), jax.eval_shape(model.init, key, *inputs), variables, strict=True):
        expected, got = shapes(own), shapes(given)
        for path in sorted(expected.keys() | got.keys()):
            if expected.get(path) != got.get(path):
                raise UserError(
                    f"the variables given are not this model's: {name} {path} should be "
                    f"{expected.get(path, 'absent')} and is {got.get(path, 'absent')}"
                )


def make_step(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    preprocess: Callable[[Any], Any] = to_float,
    augment: Augment | None = None,
    metrics: Mapping[str, Metric] | None = None,
    penalty: Callable[[PyTree], jax.Array] | None = None,
) -> Step:
    """One step of gradient descent, compiled: `step(state, batch) -> (state, metrics)`.

    params' = params + update(gradient of mean loss(model(inputs), labels) + penalty(params))

    The state given is donated: its memory is the new state's, and it cannot be used again.

    Args:
      loss: `(outputs, labels) -> one number an example`.
      preprocess: what is done to the inputs inside the step; uint8 images become float32 from 0 to 1 when not given.
      augment: `(images, key) -> images`, before `preprocess`; or `mixup`, which changes the labels too.
      metrics: measures beside `loss`, by name: `(outputs, labels) -> one number an example`. When not given,
        `accuracy`, if the outputs are scores of classes and the labels integers. Of several outputs the first counts,
        and of mixed labels the larger part.
      penalty: a function of the parameters that is added to the loss, for instance `lambda p: 1e-4 * l2_penalty(p)`.

    Returns:
      A jitted function of a `TrainState` and a batch `(inputs, labels)`; `inputs` may be a tuple for a network of
      several inputs. Its metrics are scalars: `loss` (with the penalty) and the measures, means over the batch.
    """

    def objective(
        params: PyTree, state: TrainState, inputs: tuple[Any, ...], labels: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, PyTree]]:
        outputs, model_state = model.apply(params, state.model_state, *inputs, train=True, key=key)
        value = loss(outputs, labels).mean()
        if penalty is not None:
            value = value + penalty(params)
        return value, (outputs, model_state)

    def step(state: TrainState, batch: tuple[Any, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        inputs, labels = batch
        classes = labels  # for the measures, when the labels are mixed
        augment_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if augment is not None:
            inputs, labels = augmented(augment, inputs, labels, augment_key)
            classes = labels.argmax(-1) if isinstance(augment, Mixing) else labels
        inputs = preprocess(inputs)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        (value, (outputs, model_state)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params, state, inputs, labels, key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        measured = {"loss": value}
        measured |= {name: each.mean() for name, each in measure(metrics, outputs, classes).items()}
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state), measured

    return jax.jit(step, donate_argnums=0)


def measure(metrics: Mapping[str, Metric] | None, outputs: Any, labels: Any) -> dict[str, jax.Array]:
    """The metrics asked for, one number an example each; when none were, accuracy where it makes sense."""
    if metrics is not None:
        return {name: metric(outputs, labels) for name, metric in metrics.items()}
    first = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
    if not (hasattr(first, "shape") and hasattr(labels, "shape") and len(first.shape) > 1 and first.shape[-1] > 1):
        return {}
    classes = jnp.issubdtype(labels.dtype, jnp.integer) and first.shape[:-1] == labels.shape
    return {"accuracy": accuracy(first, labels)} if classes else {}
