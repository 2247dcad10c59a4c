"""`fit`: trains a model on data by an objective."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from jaxcnn.core import Layer
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.loader import Loader
from jaxcnn.data.preprocess import Preprocess, to_float
from jaxcnn.data.stream import Stream
from jaxcnn.devices import OneDevice, agree, first_process, together
from jaxcnn.errors import UserError
from jaxcnn.losses import Loss
from jaxcnn.runs.folder import Run
from jaxcnn.runs.primary import Primary, began_by, primary_of
from jaxcnn.runs.record import Record
from jaxcnn.runs.trained import Predictor, TrainedModel
from jaxcnn.runs.writer import RunWriter, pictures
from jaxcnn.tasks.objective import Objective
from jaxcnn.train import agreement
from jaxcnn.train.checks import batch_of, check_settings, data_of, example_of, figures_of, outputs_of
from jaxcnn.train.evaluate import Evaluation, evaluated_by, make_evaluate
from jaxcnn.train.optimizers import make_optimizer
from jaxcnn.train.report import result_html, result_text
from jaxcnn.train.step import TrainState, create_state, make_step
from jaxcnn.train.training import Callback, Training, names_of

Data = Dataset | Examples | Stream | Loader | Any
"""Any: an iterable of batches with a length."""


@dataclass(frozen=True, eq=False, repr=False)
class FitResult(Predictor):
    """What `fit` returns.

    Attributes:
      params, model_state: the variables of the best epoch by validation (of the last one without validation).
      state: the state after the last step.
      history: the record of each epoch, the lines of metrics.jsonl.
      result: the figures of result.json.
      test: the evaluation on the test set, if one was given.
      model, preprocess: the network, and the preprocessing of its inputs.
    """

    params: Any
    model_state: Any
    state: TrainState
    history: list[Record]
    result: Record
    test: Evaluation | None
    model: Layer
    preprocess: Callable[[Any], Any]

    def __repr__(self) -> str:
        return result_text(self)

    def _repr_html_(self) -> str:
        return result_html(self)


def fit(
    model: Layer,
    data: Data,
    objective: Objective | Loss | None = None,
    *,
    validation: Data | None = None,
    test: Data | None = None,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    variables: tuple[Any, Any] | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    devices: OneDevice | None = None,
    run: str | Path | Run | None = None,
    callbacks: Sequence[Callback] = (),
    show: bool = True,
) -> FitResult:
    """Trains a model: shuffled epochs with validation after each, the best epoch's variables kept, the test set last.

    Everything random follows from `seed`: weights, order, dropout and augmentation. A run that was stopped by Ctrl-C,
    SIGTERM or a power cut is resumed by `run=Run(path, resume=True)`; its results are those of an uninterrupted run.

    Args:
      model: any Layer whose inputs are the data's.
      data: the training data: a `Dataset`, `Examples` of another form, a `Stream` of images that do not fit in
        memory, or a `Loader` of batches that other code makes. Each epoch takes the full batches of a new order. An
        iterable of batches with a length, such as a PyTorch loader, becomes a `Loader`, which has its own batch size.
      objective: what is minimized and measured; or only a loss, `(outputs, labels) -> (N,)`. Softmax cross-entropy
        when None.
      validation: measured after each epoch, to choose the best one; without it the last epoch counts.
      test: measured once, with the best variables.
      optimizer: an Optax transformation; Adam with half a cosine from 0.002 to 0 when None. It is given the extra
        arguments that it takes (see `make_step`); of one that averages, such as `optax.contrib.schedule_free`, the
        averages are evaluated and kept (see `eval_params`).
      epochs, batch_size: passes over the data, and the examples in a step.
      seed: from 0 to 2147483647.
      variables: `(params, state)` to begin with, from `weights.load` or an earlier training, instead of new ones.
      patience: stop after this number of epochs without a better validation, counted from the first finite one.
      accumulate: the number of parts in which each batch is computed, one after the other; see `make_step`.
      ema: the decay of a moving average of the parameters, for instance 0.999; the average is then evaluated and kept.
      devices: what to train on, `DataParallel()` for all devices of all processes; one device when None.
      run: a new folder, for config.json, metrics.jsonl, result.json, pictures and checkpoints; or a `Run`, which says
        how it is written and whether it is resumed. Nothing is written when None. Only one training at a time may use
        a folder.
      callbacks: called during the training; they can add metrics to its records and end it; see `Callback`.
      show: whether to show progress.

    Raises:
      UserError: if settings or data cannot be used.
      TrainingError: if the loss is not finite, if 50 consecutive steps, or all, were skipped in float16, or if the disk
        is full. Checkpoints of earlier epochs remain.
      Interrupted: a KeyboardInterrupt, after Ctrl-C or SIGTERM, once the state has been saved to `run`. Without a
        folder, and at a second Ctrl-C, it is a plain KeyboardInterrupt.
    """
    began = time.monotonic()
    data, validation, test = data_of(data=data, validation=validation, test=test)
    check_settings(epochs, batch_size, seed, patience, accumulate, ema, validation is not None)
    objective = Objective.of(Objective() if objective is None else objective).prepared(data)
    size = data.size if isinstance(data, Loader) else min(batch_size, len(data))
    on = devices or OneDevice()
    on.check(size)
    scheduled = optimizer is None
    if optimizer is None:
        optimizer = make_optimizer("adam", schedule="cosine", steps=epochs * (len(data) // size))
    names_of(callbacks)
    with RunWriter(run) as writer:
        writer.check(train=data, validation=validation, test=test)
        key, (example, _) = jax.random.key(seed), batch_of(objective, data, 1)
        state = create_state(
            model, optimizer, key, example, objective.inputs, variables, ema is not None, objective.loss_scale
        )
        primary = _primary(model, objective, state, size, data, validation, test, callbacks=callbacks, writer=writer)
        config = {
            "model": repr(model), "data": data.name, "classes": list(data.classes), "epochs": epochs,
            "batch_size": batch_size, "seed": seed, "patience": patience, "accumulate": accumulate, "ema": ema,
            "loss_scale": objective.loss_scale, **_about(data, objective, on, primary), **writer.asked,
            "examples": writer.examples,
        }  # fmt: skip
        watch = [callback.watch for callback in callbacks if callback.watch is not None]
        step = make_step(model, objective, optimizer, accumulate=accumulate, ema=ema, watch=watch, devices=on)
        if jax.process_count() > 1:
            facts = agreement.shared_facts(config, writer.examples)
            agree({**facts, "the program of a step": agreement.program(step, state, size, data, on)})
        _check_resumed(writer, config, scheduled, on)
        _check_order(data, writer.resume)
        writer.begin(config)  # only now, so that a failed start leaves no folder
        most = evaluated_by(data, size)
        evaluate = make_evaluate(model, objective, devices=on, **most)
        training = Training(
            model, objective, data, validation, primary, epochs, size, seed, patience, on, state, step, evaluate,
            writer, callbacks, began,
        )  # fmt: skip
        training.run(show)
        return _finished(training, test, evaluate, most)


def _primary(
    model: Layer, objective: Objective, state: TrainState, size: int, *sets: Any, callbacks: Any, writer: RunWriter
) -> Primary:
    """The metric that chooses the best epoch, once the names of all metrics on the data are known."""
    variables = (state.params, state.model_state)
    outputs = outputs_of(model, objective, variables, size, *sets)
    data, validation, _ = sets
    names = figures_of(objective, outputs, data, size, only_in_training=validation is None)
    names += [name for callback in callbacks for name in callback.figures]
    choice = primary_of(names, objective.primary, objective.higher_is_better)
    return began_by(writer.config(), names, choice, objective.primary is not None) if writer.resume else choice


def _about(data: Any, objective: Objective, on: OneDevice, primary: Primary) -> dict[str, Any]:
    """The entries of config.json about devices, data and preprocessing."""
    about: dict[str, Any] = {"parallel": on.form, "devices": on.size, "platform": jax.default_backend()}
    about |= dataclasses.asdict(primary)
    if isinstance(data, (Examples, Loader)):
        shapes = [list(x.shape[1:]) for x in jax.tree.leaves(example_of(data, 1))]
        about |= {"inputs": shapes, "extra": dict(data.extra)}
    else:
        about["image"] = list(data.image)
    if isinstance(objective.preprocess, Preprocess):
        about["preprocess"] = dataclasses.asdict(objective.preprocess)
    elif objective.preprocess is to_float:
        about["preprocess"] = None
    return about


def _check_resumed(writer: RunWriter, config: Mapping[str, Any], scheduled: bool, on: OneDevice) -> None:
    """Checks that a resumed run has the settings that it began with."""
    if not writer.resume:
        return
    was = writer.config()
    # The default optimizer's learning rate depends on the number of epochs; a given optimizer may not.
    now = config if scheduled else {**config, "epochs": was.get("epochs")}
    agreement.check_unchanged(was, now, writer.path)
    if (differs := agreement.check_devices(was, on, writer.path)) and first_process():
        warnings.warn(differs, stacklevel=3)


def _check_order(data: Any, resume: bool) -> None:
    """Checks that the order of a loader's batches is known where it must be: for several processes.

    A resumed run whose order is not known gets a warning.
    """
    if not isinstance(data, Loader) or data.ordered:
        return
    fix = "pass a function of the epoch, cnn.data.Loader(lambda epoch: batches(epoch))"
    if jax.process_count() > 1:
        raise UserError(f"{data.name}: several processes need the batches in the same order: {fix}")
    if resume:
        warnings.warn(
            f"{data.name}: the order of its batches may not be that of the run before: examples of this epoch may be "
            "seen twice or not at all, and the figures are not those of an uninterrupted run. To resume exactly, "
            f"{fix}",
            stacklevel=3,
        )


def _finished(training: Training, test: Any, evaluate: Callable[..., Evaluation], most: Any) -> FitResult:
    """Evaluates the test set with the best variables; writes the result and the pictures."""
    params, model_state = training.best
    model, objective, history, writer = training.model, training.objective, training.history, training.writer
    chosen = training.primary.best(history)
    result: Record = {
        "model": writer.asked.get("model", repr(model)),
        "data": writer.asked.get("data", training.data.name),  # the same if the run is resumed from another folder
        "seed": training.seed,
        "epochs": history[-1]["epoch"],
        "best_epoch": chosen["epoch"],
        "steps": history[-1]["step"],
        "params": sum(x.size for x in jax.tree.leaves(params)),
        **{f"train_{name}": value for name, value in chosen.items() if name in _learned(chosen)},
        **{name: value for name, value in chosen.items() if name.startswith("validation_")},
    }
    measured = None
    if test is not None:
        if objective.test_metrics:
            evaluate = make_evaluate(model, objective.for_test(), devices=training.devices, **most)
        with together():
            measured = evaluate(*training.devices.whole((params, model_state)), test)
        result |= {f"test_{name}": value for name, value in objective.kept(measured.metrics).items()}
        if objective.evaluate is not None and first_process():
            trained = _trained(training)
            result |= {f"test_{name}": value for name, value in objective.evaluate(trained, test).items()}
    result["seconds"] = round(training.seconds, 3)
    outputs = None if measured is None else measured.outputs
    writer.end(result, lambda: pictures(history, training.primary, test, outputs))
    state = training.devices.single(training.state)
    return FitResult(params, model_state, state, history, result, measured, model, objective.inputs)


def _trained(training: Training) -> TrainedModel:
    """The network with its best variables, as `TrainedModel.load` returns it."""
    shapes = [tuple(x.shape[1:]) for x in jax.tree.leaves(example_of(training.data, 1))]
    writer = training.writer
    about = writer.folder.config if writer.folder is not None else writer.asked
    image = shapes[0] if len(shapes) == 1 else ()
    params, state = training.best
    return TrainedModel(training.model, params, state, training.objective.inputs, image, training.data.classes, about)


def _learned(record: Record) -> list[str]:
    """The names of the training metrics in a record: neither validation nor bookkeeping."""
    other = ("epoch", "step", "images_per_second", "seconds")
    return [name for name in record if name not in other and not name.startswith("validation_")]
