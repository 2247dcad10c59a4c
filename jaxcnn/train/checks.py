"""Checks before the training: settings, metric names, labels and image values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core import Layer
from jaxcnn.data.augment import PairedTransform
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.loader import Loader, as_data
from jaxcnn.data.preprocess import Preprocess, inputs_of
from jaxcnn.data.stream import Stream
from jaxcnn.declared import calls
from jaxcnn.errors import UserError
from jaxcnn.losses import check_classes
from jaxcnn.metrics import WholeSet, in_training
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.step import measure, of_batch

PyTree = Any


def data_of(**sets: Any) -> list[Any]:
    """The datasets, an iterable of batches as a `Loader`.

    Raises:
      UserError: for arrays or numbers, which other libraries take for these arguments.
    """
    for name, given in sets.items():
        if isinstance(given, (tuple, list, dict, float, int, str, np.ndarray, jax.Array)):
            if isinstance(given, float):
                hint = f"`train, val = data.hold_out({given})` divides the data"
            else:
                hint = "cnn.data.Dataset(images, labels, classes) makes one of arrays, cnn.data.Loader one of batches"
            raise UserError(f"{name}: expected a Dataset, Examples or a Stream, got {type(given).__name__}; {hint}")
        if hasattr(given, "__getitem__") and not any(
            hasattr(given, part) for part in ("__iter__", "labels", "batches")
        ):
            raise UserError(
                f"{name}: {type(given).__name__} gives single examples; pass a loader that makes batches of them, such "
                "as torch.utils.data.DataLoader(dataset, batch_size)"
            )
    return [as_data(given, name) for name, given in sets.items()]


def check_settings(
    epochs: int, batch_size: int, seed: int, patience: int | None, accumulate: int, ema: float | None, validated: bool
) -> None:
    """Checks the numeric settings of `fit`."""
    if epochs < 1 or batch_size < 1:
        raise UserError(f"epochs={epochs} and batch_size={batch_size} should be at least 1")
    if not 0 <= seed < 1 << 31:
        raise UserError(f"seed={seed} should be from 0 to 2147483647")
    if patience is not None and patience < 1:
        raise UserError(f"patience={patience} should be at least 1 epoch")
    if patience is not None and not validated:
        raise UserError("early stopping needs validation data to see when to stop")
    if accumulate < 1:
        raise UserError(f"accumulate={accumulate} should be at least 1")
    if ema is not None and not 0 < ema < 1:
        raise UserError(f"ema={ema} should be between 0 and 1, for instance 0.999")


def example_of(data: Any, size: int) -> PyTree:
    """The shapes and dtypes of a batch of `size` inputs."""
    if isinstance(data, Stream):
        return jax.ShapeDtypeStruct((size, *data.image), jnp.uint8)
    return _batch(data.inputs, size)


def _batch(tree: PyTree, size: int) -> PyTree:
    """The shapes and dtypes of `size` examples of arrays, or of a batch of another size."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)), tree
    )


def batch_of(objective: Objective, data: Any, size: int) -> tuple[PyTree, PyTree]:
    """The shapes and dtypes of a batch of `size` inputs and labels, with the objective's views, before `preprocess`."""
    labels = jax.ShapeDtypeStruct((size,), jnp.int32) if isinstance(data, Stream) else _batch(data.labels, size)
    if objective.views is None:
        return example_of(data, size), labels
    places = jax.ShapeDtypeStruct((size,), jnp.int32)
    found: tuple[PyTree, PyTree] = jax.eval_shape(objective.viewed, example_of(data, size), labels, places)
    return found


def outputs_of(model: Layer, objective: Objective, variables: Any, size: int, *sets: Any) -> PyTree:
    """Checks all datasets; returns the shapes of the outputs in evaluation for a batch of the first one.

    Raises:
      UserError: if the loss refuses the labels of a dataset, or `preprocess` its images.
    """
    preprocess = objective.inputs

    def outputs(inputs: Any) -> Any:
        return model.apply(*variables, *inputs_of(preprocess, inputs))[0]

    found: list[tuple[Any, Any]] = []
    for data in sets:
        if isinstance(data, (Dataset, Examples, Loader, Stream)):
            check_inputs(preprocess, data)
            example, _ = batch_of(objective, data, size)
            if not found or found[-1][0] != example:  # tracing a network is slow
                found.append((example, jax.eval_shape(outputs, example)))
            check_labels(objective, found[-1][1], data)
    return found[0][1]


def figures_of(objective: Objective, outputs: PyTree, data: Any, size: int, only_in_training: bool) -> list[str]:
    """The names of the metrics on `data`, `loss` first.

    Args:
      outputs: the shapes of the network's outputs for a batch of `size`.
      only_in_training: whether loss and metrics may fail on the outputs of an evaluation.
    """

    loss, metrics = objective.loss, objective.metrics
    whole = {name: metric for name, metric in (metrics or {}).items() if isinstance(metric, WholeSet)}
    of_steps = in_training(metrics)

    def figures(outputs: Any, labels: Any) -> dict[str, Any]:
        with calls() as seen:
            each = {"loss": loss(outputs, labels)}
        return of_batch(of_steps, each | measure(of_steps, outputs, labels, loss, seen))

    _, labels = batch_of(objective, data, size)
    try:
        return [
            *jax.eval_shape(figures, outputs, labels),
            *(figure for name, metric in whole.items() for figure in metric.names or (name,)),
        ]
    except Exception:
        if not only_in_training:
            raise
        return ["loss", *(metrics or {})]


def check_inputs(preprocess: Callable[[Any], Any], data: Any) -> None:
    """Checks that images have the values that a `Preprocess` expects."""
    if isinstance(preprocess, Preprocess) and not isinstance(data, Stream):
        try:
            preprocess.check(data.inputs)
        except UserError as error:
            raise UserError(f"{data.name}: {error}") from None


def check_labels(objective: Objective, outputs: PyTree, data: Any) -> None:
    """Checks the labels by the loss, outside `jit`: inside it, the loss cannot see their values.

    Labels that a paired transform of `views` makes are not checked.

    Args:
      outputs: the shapes of a batch of the network's outputs.
    """
    if isinstance(objective.views, PairedTransform):
        return
    loss = objective.loss
    labels = np.arange(len(data.classes), dtype=np.int32) if isinstance(data, Stream) else data.labels
    leaves = jax.tree.leaves(labels)  # none for data without labels; those of one batch for a loader
    count = len(leaves[0]) if leaves else len(data)
    known, all_outputs = jax.device_put(labels), (_batch(outputs, count) if leaves else outputs)
    try:
        if loss is optax.softmax_cross_entropy_with_integer_labels:
            check_classes(all_outputs, known)
        else:
            jax.eval_shape(
                lambda outputs: loss(outputs, known), all_outputs
            )  # `known` is closed over, so its values are visible
    except UserError as error:
        raise UserError(_with_classes(data, labels, all_outputs) or f"{data.name}: {error}") from None
    except Exception:  # the loss may not take this many examples; a step reports other errors
        return


def _with_classes(data: Any, labels: Any, outputs: Any) -> str:
    """The message for a network with fewer outputs than classes; empty for any other mistake."""
    shape: tuple[int, ...] = getattr(outputs, "shape", ())
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer) or len(shape) < 2:
        return ""
    most = int(labels.max())
    if len(shape) != labels.ndim + 1 or not 1 < shape[-1] <= most or most >= len(data.classes):
        return ""
    return (
        f"the model has {shape[-1]} outputs and the labels of {data.name} go to {most}: "
        f"make the model with classes={len(data.classes)}"
    )
