"""The loop over epochs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core import Layer
from jaxcnn.data.augment import Augment
from jaxcnn.data.batches import batches
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.errors import TrainingError, UserError
from jaxcnn.losses import Loss, softmax_cross_entropy
from jaxcnn.metrics import Metric, confusion_matrix
from jaxcnn.train.evaluate import Evaluation, make_evaluate
from jaxcnn.train.optimizers import make_optimizer
from jaxcnn.train.progress import Display
from jaxcnn.train.run import Record, Run, best_of
from jaxcnn.train.step import TrainState, create_state, make_step

_REFRESH = 0.5  # seconds between two looks at the metrics: each waits for the steps under way


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit` returns.

    Attributes:
      params, model_state: the variables of the best epoch by validation (of the last one without validation).
      state: the state after the last step.
      history: a record an epoch, the lines of metrics.jsonl.
      result: the figures of result.json.
      test: the evaluation on the test set, if one was given.
      model, preprocess: the network, and what is done to its images.
    """

    params: Any
    model_state: Any
    state: TrainState
    history: list[Record]
    result: Record
    test: Evaluation | None
    model: Layer
    preprocess: Callable[[Any], Any]

    def outputs(self, images: Any) -> jax.Array:
        """The trained network's outputs for images `(N, H, W, C)` as the data had them."""
        return self.model.apply(self.params, self.model_state, self.preprocess(images))[0]

    def probabilities(self, images: Any) -> np.ndarray:
        """The probability of each class, softmax of the outputs: `(N, classes)`."""
        return np.asarray(jax.nn.softmax(self.outputs(images)))


def fit(
    model: Layer,
    data: Dataset,
    *,
    validation: Dataset | None = None,
    test: Dataset | None = None,
    loss: Loss = softmax_cross_entropy,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    preprocess: Callable[[Any], Any] | None = None,
    augment: Augment | None = None,
    metrics: Mapping[str, Metric] | None = None,
    penalty: Callable[[Any], jax.Array] | None = None,
    variables: tuple[Any, Any] | None = None,
    patience: int | None = None,
    run: str | Path | Run | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    show: bool = True,
) -> FitResult:
    """Trains a model: shuffled epochs, validation after each, the best epoch's variables kept, the test set last.

    Everything random follows from `seed`: weights, order, dropout and augmentation.

    Args:
      model: any Layer whose input is a batch of images.
      data: what it learns from. Each epoch takes the whole batches of a new order.
      validation: measured after each epoch, to choose the best; without it the last epoch counts.
      test: measured once, with the best variables.
      loss: `(outputs, labels) -> one number an example`.
      optimizer: an Optax transformation; Adam with half a cosine from 0.002 to 0 when not given.
      preprocess: `images -> inputs` inside the step; to zero mean and unit variance of `data` when not given.
      augment: `(images, key) -> images`, on training batches only.
      metrics, penalty: as in `make_step`.
      variables: `(params, state)` to begin with, from `weights.load` or an earlier training, instead of new ones.
      patience: stop after so many epochs without a better validation.
      run: a new folder, for config.json, metrics.jsonl, result.json, pictures and checkpoints. Nothing is written
        when not given.
      resume: go on from the last checkpoint in `run`.
      config: what to write in config.json beside the settings known here.
      show: whether to show progress.

    Raises:
      UserError: for settings or data that cannot be used.
      TrainingError: when the loss is not finite, or the disk is full. Checkpoints of earlier epochs remain.
    """
    began = time.monotonic()
    if epochs < 1 or batch_size < 1:
        raise UserError(f"epochs={epochs} and batch_size={batch_size} should be at least 1")
    if not 0 <= seed < 1 << 31:
        raise UserError(f"seed={seed} should be from 0 to 2147483647")
    if patience is not None and patience < 1:
        raise UserError(f"patience={patience} should be at least 1 epoch")
    if patience is not None and validation is None:
        raise UserError("early stopping needs validation data to see when to stop")
    size = min(batch_size, len(data))
    steps_per_epoch = len(data) // size
    if optimizer is None:
        optimizer = make_optimizer("adam", schedule="cosine", steps=epochs * steps_per_epoch)
    if preprocess is None:
        preprocess = Preprocess.of(data.images)
    folder = _folder(run, resume)
    state = create_state(model, optimizer, jax.random.key(seed), data.images[:1], preprocess, variables)
    _check_outputs(model, state, preprocess, data)
    if folder is not None and not resume:  # nothing is left behind by what cannot start
        folder.make()
        settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "image": list(data.images.shape[1:])}
        if isinstance(preprocess, Preprocess):
            settings["preprocess"] = dataclasses.asdict(preprocess)
        named = {"model": repr(model), "data": data.name, "classes": list(data.classes)}
        folder.write("config.json", {**named, **settings, **(config or {})})
    step = make_step(model, loss, optimizer, preprocess=preprocess, augment=augment, metrics=metrics, penalty=penalty)
    evaluate = make_evaluate(model, loss, preprocess=preprocess, metrics=metrics)
    history: list[Record] = []
    best = (state.params, state.model_state)
    if folder is not None and resume and (saved := folder.epochs()):
        state, history = folder.restore(saved[-1], state)
        folder.write_metrics(history)
        chosen = best_of(history)["epoch"]
        best = (state.params, state.model_state)
        if chosen != history[-1]["epoch"]:
            kept, _ = folder.restore(chosen, state)
            best = (kept.params, kept.model_state)
    best = jax.tree.map(jnp.copy, best)
    spent = history[-1]["seconds"] if history else 0.0

    with Display(epochs, steps_per_epoch * size, show) as display:
        try:
            for epoch in range(len(history) + 1, epochs + 1):
                if _stop(history, patience):
                    display.line(f"stopped: no better validation for {patience} epochs")
                    break
                state, means, rate = _epoch(step, state, data, size, seed, epoch, display)
                record: Record = {"epoch": epoch, "step": int(state.step), **means}
                if validation is not None:
                    measured = evaluate(state.params, state.model_state, validation).metrics
                    record |= {f"validation_{name}": value for name, value in measured.items()}
                record |= {"images_per_second": round(rate, 1), "seconds": spent + time.monotonic() - began}
                history.append(record)
                if best_of(history) is record:
                    best = jax.tree.map(jnp.copy, (state.params, state.model_state))
                if folder is not None:
                    folder.save(epoch, state, history)
                    folder.write_metrics(history)
                display.epoch(record)
        finally:
            if folder is not None:
                folder.wait()

    params, model_state = best
    chosen = best_of(history)
    result: Record = {
        "model": (config or {}).get("model", repr(model)),
        "data": data.name,
        "seed": seed,
        "epochs": history[-1]["epoch"],
        "best_epoch": chosen["epoch"],
        "steps": history[-1]["step"],
        "params": sum(x.size for x in jax.tree.leaves(params)),
        **{f"train_{name}": value for name, value in chosen.items() if name in _learned(chosen)},
        **{name: value for name, value in chosen.items() if name.startswith("validation_")},
    }
    measured_test = None
    if test is not None:
        measured_test = evaluate(params, model_state, test)
        result |= {f"test_{name}": value for name, value in measured_test.metrics.items()}
    result["seconds"] = round(spent + time.monotonic() - began, 3)
    if folder is not None:
        folder.write("result.json", result)
        _pictures(folder, history, test, measured_test)
        folder.close()
    return FitResult(params, model_state, state, history, result, measured_test, model, preprocess)


def _folder(run: str | Path | Run | None, resume: bool) -> Run | None:
    if run is None:
        if resume:
            raise UserError("resume needs the folder of the run to go on with")
        return None
    if isinstance(run, Run):
        return run
    return Run.open(run) if resume else Run.new(run)


def _epoch(
    step: Any, state: TrainState, data: Dataset, size: int, seed: int, epoch: int, display: Display
) -> tuple[TrainState, dict[str, float], float]:
    """One epoch: the new state, the means of the steps' metrics, and images a second."""
    pending: list[dict[str, jax.Array]] = []
    rows: list[dict[str, float]] = []
    first = int(state.step)
    start = shown = time.monotonic()
    counted = 0  # images since `start`

    def look() -> None:
        # The only place where the loop waits for the device.
        for row in jax.device_get(pending):
            rows.append({name: float(value) for name, value in row.items()})
            if not math.isfinite(rows[-1]["loss"]):
                raise TrainingError(
                    f"the loss is {rows[-1]['loss']} at step {first + len(rows)} (epoch {epoch}): the weights have "
                    "diverged. Try a smaller learning rate, look for extreme values in the input, or clip the gradient "
                    "(optax.clip_by_global_norm)"
                )
        pending.clear()

    for batch in batches(data, size, seed, epoch):
        state, measured = step(state, batch)
        pending.append(measured)
        if first == 0 and not rows and len(pending) == 1:
            look()  # the first step compiles: it does not count for the rate
            start = shown = time.monotonic()
            continue
        counted += size
        if time.monotonic() - shown > _REFRESH:
            look()
            shown = time.monotonic()
            display.update(epoch, len(rows) * size, _means(rows), counted / (shown - start))
    look()
    rate = counted / max(time.monotonic() - start, 1e-9)
    return state, _means(rows), rate


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _learned(record: Record) -> list[str]:
    """The names of the training metrics in a record: what is neither validation nor bookkeeping."""
    other = ("epoch", "step", "images_per_second", "seconds")
    return [name for name in record if name not in other and not name.startswith("validation_")]


def _stop(history: list[Record], patience: int | None) -> bool:
    return patience is not None and bool(history) and history[-1]["epoch"] - best_of(history)["epoch"] >= patience


def _check_outputs(model: Layer, state: TrainState, preprocess: Callable[[Any], Any], data: Dataset) -> None:
    """Raises where the labels do not fit the scores: inside `jit` nothing would."""

    def outputs(images: Any) -> Any:
        return model.apply(state.params, state.model_state, preprocess(images))[0]

    shape: tuple[int, ...] = getattr(jax.eval_shape(outputs, data.images[:1]), "shape", ())
    if len(shape) == 2 and 1 < shape[1] <= int(data.labels.max()):
        raise UserError(
            f"the model has {shape[1]} outputs and the labels of {data.name} go to {int(data.labels.max())}: "
            f"make the model with classes={len(data.classes)}"
        )


def _pictures(folder: Run, history: list[Record], test: Dataset | None, measured: Evaluation | None) -> None:
    from jaxcnn.inspect import plots

    plots.curves(history).savefig(folder.path / "curves.png")
    if test is None or measured is None or measured.outputs.ndim != 2 or measured.outputs.shape[1] < 2:
        return
    probabilities = np.asarray(jax.nn.softmax(measured.outputs))
    predicted = probabilities.argmax(1)
    matrix = confusion_matrix(predicted, test.labels, probabilities.shape[1])
    plots.confusion(matrix, test.classes).savefig(folder.path / "confusion.png")
    plots.mistakes(test, probabilities).savefig(folder.path / "mistakes.png")
