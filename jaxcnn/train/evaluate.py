"""Evaluation over every example exactly once."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import tasks
from jaxcnn.core import Layer
from jaxcnn.data.batches import padded_batches
from jaxcnn.data.dataset import Examples
from jaxcnn.data.loader import Loader, as_data
from jaxcnn.data.preprocess import inputs_of
from jaxcnn.data.stream import Stream
from jaxcnn.declared import calls, is_per_example
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss, Weighted
from jaxcnn.metrics import Metric, Summed, WholeSet
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data
from jaxcnn.train.checks import check_inputs, check_labels
from jaxcnn.train.report import evaluation_html, evaluation_text
from jaxcnn.train.step import measure
from jaxcnn.train.weighting import weights_of

_BATCH = 256


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A network's metrics and outputs on a dataset.

    Attributes:
      metrics: `loss` and the metrics: means over all examples, or dataset-level metrics (`Summed`, `WholeSet`).
      outputs: the network's outputs, `(N, ...)`, in the dataset's order; None if they were not kept.
    """

    metrics: dict[str, float]
    outputs: Any

    def __repr__(self) -> str:
        return evaluation_text(self)

    def _repr_html_(self) -> str:
        return evaluation_html(self)


def make_evaluate(
    model: Layer,
    objective: Objective | Loss,
    *,
    batch_size: int = _BATCH,
    devices: OneDevice | None = None,
) -> Callable[..., Evaluation]:
    """A function `evaluate(params, model_state, data, keep=True) -> Evaluation`, compiled once for all its calls.

    All batches have one shape: the last one is padded, and the padding is not counted. If loss or metrics are not known
    to treat each example separately (`losses.per_example`), the last batch is evaluated without padding, which is
    compiled too, since the padding would change the other examples' values. A metric is then the mean over all examples
    of the value each has in its batch of `batch_size`. The network is assumed to treat each example separately.

    `objective` gives loss, metrics, views and preprocess; or it is only a loss. With `devices`, the variables are those
    that its `whole` returns, and each process has all results. With `keep=False` the outputs are not kept: scores of
    each class for each pixel are larger than the images.

    The loss is weighted as in a training step, by the weights of the data and of the classes, with sums over the
    dataset; metrics are not weighted.

    Raises:
      UserError: when it is called, if the loss refuses the labels, a `Preprocess` refuses the images, or the loss gives
        one number for the whole batch.
    """
    objective = Objective.of(objective)
    loss, metrics, preprocess = objective.loss, objective.metrics, objective.inputs
    on = devices or OneDevice()
    shared = -(-batch_size // on.size) * on.size
    each_loss = loss.each if isinstance(loss, Weighted) else loss
    whole_set = {name: metric for name, metric in (metrics or {}).items() if isinstance(metric, WholeSet)}
    alone = True  # whether loss and metrics treat each example separately, as far as is known
    checked: weakref.WeakSet[Any] = weakref.WeakSet()

    def forward(
        params: Any, model_state: Any, images: Any, labels: Any, counted: Any, weights: Any = None
    ) -> tuple[Any, dict[str, Any], Any]:
        nonlocal alone
        outputs, _ = model.apply(params, model_state, *inputs_of(preprocess, images))
        with calls() as seen:
            each: dict[str, Any] = {"loss": each_loss(outputs, labels)}
            each |= measure(metrics, outputs, labels, loss, seen)
        if jnp.ndim(each["loss"]) == 0:
            raise UserError("the loss gave one number for the batch, expected one for each example: leave out its mean")
        # The default accuracy, and what is kept for a metric of the whole set, are known to be per example.
        given = ["loss"] if metrics is None else each.keys() - whole_set
        alone = alone and all(is_per_example(each[name], outputs, labels, seen) for name in given)
        if (w := weights_of(loss, labels, weights)) is not None:
            each["loss"] = {"sum": w * each["loss"], "weight": w}
        return outputs, each, counted

    made = jax.jit(objective.viewed)

    def viewed(batch: Any, first: int) -> Any:
        """A batch `(inputs, labels, counted, ...)`, or None, with the objective's views; `first`: its first example."""
        if batch is None or objective.views is None:
            return batch
        inputs, labels, counted, *weights = batch
        numbers = np.arange(first, first + len(counted), dtype=np.int32)
        return *jax.device_get(made(inputs, labels, numbers)), counted, *weights

    compiled = on.results(forward)
    gathered = on.results(lambda *batch: batch)

    def batch_results(variables: tuple[Any, Any], whole: Any, own: Any, size: int) -> tuple[Any, dict[str, Any], Any]:
        """Outputs, values of each example, and which places of the batch hold a counted example."""
        if size % on.size == 0:
            out, each, counted = compiled(*variables, *on.split(own))
            # 0: padding, and damaged images of a stream that may be skipped.
            there = np.asarray(counted) > 0
            if alone or there.all() or not there.any():
                return out, jax.tree.map(lambda x: np.asarray(x)[there], each), there
            whole = gathered(*on.split(own)) if whole is None else whole
        there = np.asarray(whole[2]) > 0
        part = jax.tree.map(lambda x: np.asarray(x)[there], whole)
        exact, each, _ = compiled(*variables, *on.whole(part))
        filled_up_only = there[: there.sum()].all()
        return exact if filled_up_only else out, each, there

    def evaluate(params: Any, model_state: Any, data: Any, keep: bool = True) -> Evaluation:
        data = as_data(data)
        outputs: list[Any] = []
        sums: dict[str, Any] = {}
        kept: list[dict[str, Any]] = []
        seen = 0
        if data not in checked:
            check_inputs(preprocess, data)
        size = shared
        if shared != batch_size and not isinstance(data, Stream):
            # Values that depend on the batch must not depend on the number of devices.
            jax.eval_shape(forward, params, model_state, *viewed(next(_padded(data, shared)), 0))
            size = shared if alone else batch_size
        first = 0
        for count, whole, own in _parts(data, size, on.shard):
            if objective.views is not None:
                whole, own = viewed(whole, first), viewed(own, first + on.shard[0] * size // on.shard[1])
            first += count
            out, each, there = batch_results((params, model_state), whole, own, size)
            if data not in checked:
                check_labels(objective, out, data)
                checked.add(data)
            if keep:
                outputs.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], out))
            kept.append({name: each.pop(name) for name in whole_set})
            found = jax.tree.map(lambda x: np.asarray(x, np.float64).sum(0), each)
            sums = jax.tree.map(np.add, sums, found) if sums else found
            seen += int(there.sum())
        if not seen:
            raise UserError(f"{data.name}: no image of it can be read")
        figures = _figures(metrics or {}, sums, seen, _joined(kept))
        return Evaluation(figures, _joined(outputs) if keep else None)

    return evaluate


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _figures(metrics: Mapping[str, Metric], sums: Mapping[str, Any], seen: int, kept: Mapping[str, Any]) -> Any:
    """The metrics by name.

    Args:
      sums: the sum over `seen` examples of each metric's values; of a weighted loss, the sums of w l and w.
      kept: outputs and labels of all examples for each metric of the whole set.
    """
    figures: dict[str, Any] = {}
    for name, summed in sums.items():
        metric = metrics.get(name)
        if isinstance(metric, Summed):
            figures |= metric.named(name, summed)
        elif isinstance(summed, dict):
            figures[name] = summed["sum"] / summed["weight"] if summed["weight"] else 0.0
        else:
            figures[name] = summed / seen
    for name, arrays in kept.items():
        of_set = metrics[name]
        assert isinstance(of_set, WholeSet)
        figures |= of_set.named(name, arrays)
    return {name: float(value) for name, value in figures.items()}


def evaluated_by(data: Data, batch_size: int) -> dict[str, Any]:
    """The arguments of `make_evaluate` for data that are trained on in batches of `batch_size`.

    Images with one label each are evaluated in large batches; a label per pixel needs too much memory for that.
    """
    return {"batch_size": batch_size} if isinstance(data, (Examples, Loader)) else {}


def evaluate(trained: TrainedModel, data: Data) -> dict[str, float]:
    """Evaluates a trained network: the metrics of its task, as `jaxcnn evaluate` prints them.

    The objective is made from the recipe and the facts in the run's config.json; no training data is read.
    """
    config = trained.config
    task = tasks.find(config.get("task") or tasks.CLASSIFY)
    facts = task.recorded(config)
    objective = dataclasses.replace(task.evaluation(Recipe.of(config), facts), preprocess=trained.preprocess)
    measure = make_evaluate(trained.model, objective.for_test(), **evaluated_by(data, config.get("batch_size", _BATCH)))
    figures = objective.kept(measure(trained.params, trained.model_state, data, keep=False).metrics)
    if objective.evaluate is not None:
        figures = {**objective.evaluate(trained, data), **figures}
    return figures


def _padded(data: Any, size: int) -> Iterator[tuple[Any, ...]]:
    return data.padded_batches(size) if isinstance(data, Loader) else padded_batches(data, size)


def _parts(data: Any, size: int, shard: tuple[int, int]) -> Iterator[tuple[int, Any, Any]]:
    """Each batch, the last one padded: the number of its examples, the whole batch, and this process's part.

    A batch is `(inputs, labels, counted)`, with weights after it if the data has them.

    The whole batch is None for a stream that several processes read.
    """
    index, count = shard
    if isinstance(data, Stream):
        lengths = (min(size, len(data) - first) for first in range(0, len(data), size))
        parts = zip(lengths, data.padded_batches(size, shard), strict=True)
        return ((length, batch if count == 1 else None, batch) for length, batch in parts)
    own = slice(index * size // count, (index + 1) * size // count)
    return ((int(batch[2].sum()), batch, jax.tree.map(lambda x: x[own], batch)) for batch in _padded(data, size))
