"""The loop over epochs."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.core import Layer
from jaxcnn.data.augment import Augment
from jaxcnn.data.batches import batches
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.preprocess import Preprocess, inputs_of, to_float
from jaxcnn.data.stream import Stream, prefetch
from jaxcnn.devices import OneDevice, agree, first_process, from_first, same_everywhere, together
from jaxcnn.errors import TrainingError, UserError, first_line
from jaxcnn.losses import Loss, softmax_cross_entropy
from jaxcnn.metrics import Metric, confusion_matrix
from jaxcnn.ops import cpu
from jaxcnn.runs import identity
from jaxcnn.runs.folder import LAST, Run
from jaxcnn.runs.folder import variables as of_state
from jaxcnn.runs.monitor import Metrics, Profile
from jaxcnn.runs.primary import Primary, began_by, primary_of
from jaxcnn.runs.record import Record
from jaxcnn.runs.trained import Trained
from jaxcnn.train import agreement
from jaxcnn.train.checks import example_of, figures_of, outputs_of
from jaxcnn.train.evaluate import Evaluation, make_evaluate
from jaxcnn.train.optimizers import make_optimizer
from jaxcnn.train.progress import Display
from jaxcnn.train.step import SKIPPED, LossScale, TrainState, create_state, make_step
from jaxcnn.train.stopping import Stop, asked_to_stop

_SKIPPED = 50  # steps skipped in a row that end a training: 48 halvings lead from the largest scale to the smallest
P = ParamSpec("P")
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

    def outputs(self, inputs: Any) -> Any:
        """The trained network's outputs for images `(N, H, W, C)`, or other inputs, as the data had them."""
        return self.model.apply(self.params, self.model_state, *inputs_of(self.preprocess, inputs))[0]

    def probabilities(self, images: Any) -> np.ndarray:
        """The probability of each class, softmax of the outputs: `(N, classes)`."""
        return np.asarray(jax.nn.softmax(self.outputs(images)))


def _has_its_folder(train: Callable[P, FitResult]) -> Callable[P, FitResult]:
    """The function, whose run's folder belongs to this process while it works, and no longer."""

    @functools.wraps(train)
    def working(*args: P.args, **settings: P.kwargs) -> FitResult:
        asked: dict[str, Any] = settings
        folder = _folder(asked.get("run"), asked.get("resume", False), asked.get("keep", 2))
        try:
            asked["run"] = folder
            return train(*args, **settings)
        finally:
            if folder is not None:
                folder.release()

    return working


@_has_its_folder
def fit(
    model: Layer,
    data: Dataset | Examples | Stream,
    *,
    validation: Dataset | Examples | Stream | None = None,
    test: Dataset | Examples | Stream | None = None,
    loss: Loss = softmax_cross_entropy,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    preprocess: Callable[[Any], Any] | None = None,
    augment: Augment | None = None,
    metrics: Mapping[str, Metric] | None = None,
    primary: str | None = None,
    higher_is_better: bool | None = None,
    penalty: Callable[[Any], jax.Array] | None = None,
    variables: tuple[Any, Any] | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    loss_scale: bool = False,
    devices: OneDevice | None = None,
    run: str | Path | Run | None = None,
    resume: bool = False,
    save_every: float = 600,
    keep: int = 2,
    tensorboard: bool = False,
    profile: int = 0,
    config: Mapping[str, Any] | None = None,
    test_metrics: Callable[[Trained, Any], Mapping[str, float]] | None = None,
    show: bool = True,
) -> FitResult:
    """Trains a model: shuffled epochs, validation after each, the best epoch's variables kept, the test set last.

    Everything random follows from `seed`: weights, order, dropout and augmentation. A run that was stopped, by Ctrl-C,
    by SIGTERM or by a power cut, goes on with `resume=True` and ends with the figures that it would have had.

    Args:
      model: any Layer whose inputs are the data's.
      data: what it learns from: a `Dataset`, `Examples` of another form, or a `Stream` of images that do not fit in
        memory. Each epoch takes the whole batches of a new order.
      validation: measured after each epoch, to choose the best by `primary`; without it the last epoch counts.
      test: measured once, with the best variables.
      loss: `(outputs, labels) -> one number an example`.
      optimizer: an Optax transformation; Adam with half a cosine from 0.002 to 0 when not given.
      preprocess: `inputs -> inputs` of the network, inside the step. When not given, images go to zero mean and unit
        variance of `data`, or of ImageNet when it is a stream; among several inputs, uint8 to 0 to 1.
      augment: `(inputs, key) -> inputs`, or a `Joint` with the labels, on training batches only.
      metrics, penalty: as in `make_step`.
      primary: the figure that chooses the best epoch, `loss` or one of the metrics. When not given, `accuracy` where it
        is measured, and the loss anywhere else. A value that is not finite is never the best, between equal ones the
        lower loss decides, then the later epoch.
      higher_is_better: whether `primary` is maximized; known of `loss` and `accuracy`, needed for any other.
      variables: `(params, state)` to begin with, from `weights.load` or an earlier training, instead of new ones.
      patience: stop after so many epochs without a better validation; counted from the first finite one.
      accumulate: in how many parts each batch is computed, one after the other; see `make_step`.
      ema: the decay of a moving average of the parameters, 0.999; the average is then what is measured and kept.
      loss_scale: for a model in float16; see `mixed_precision`.
      devices: what to train on, `DataParallel()` for all devices of all processes; one device when not given.
      run: a new folder, for config.json, metrics.jsonl, result.json, pictures and checkpoints. Nothing is written
        when not given. Of several processes the first one writes. One training at a time has a folder.
      resume: go on from the newest checkpoint in `run`, at the batch that comes next. The data have to be those that
        the run began with.
      save_every: the seconds after which a checkpoint is written inside an epoch, too.
      keep: how many checkpoints stay.
      tensorboard: write the metrics for TensorBoard, too, to `run/tensorboard`.
      profile: write a profile of so many steps to `run/profile`, for TensorBoard or Perfetto.
      config: what to write in config.json beside the settings known here.
      test_metrics: `(trained, test) -> ` figures of the test set that are no means over its examples, mAP for instance,
        with the best variables; by name, for result.json. Of several processes the first one computes them.
      show: whether to show progress.

    Raises:
      UserError: for settings or data that cannot be used.
      TrainingError: when the loss is not finite, when 50 steps one after the other, or all, were skipped in float16, or
        when the disk is full. Checkpoints of earlier epochs remain.
      Stopped: a KeyboardInterrupt, after Ctrl-C or SIGTERM, when the state has been saved to `run`. Without a folder,
        and for a second Ctrl-C, it is Python's own.
    """
    began = time.monotonic()
    _check_kinds(data, validation, test, augment)
    if epochs < 1 or batch_size < 1:
        raise UserError(f"epochs={epochs} and batch_size={batch_size} should be at least 1")
    if not 0 <= seed < 1 << 31:
        raise UserError(f"seed={seed} should be from 0 to 2147483647")
    if patience is not None and patience < 1:
        raise UserError(f"patience={patience} should be at least 1 epoch")
    if patience is not None and validation is None:
        raise UserError("early stopping needs validation data to see when to stop")
    if accumulate < 1 or profile < 0 or not save_every >= 0:
        raise UserError(
            f"accumulate={accumulate} should be at least 1, profile={profile} and save_every={save_every} at least 0"
        )
    if ema is not None and not 0 < ema < 1:
        raise UserError(f"ema={ema} should be between 0 and 1, for instance 0.999")
    size = min(batch_size, len(data))
    on = devices or OneDevice()
    on.check(size)
    if run is None and (tensorboard or profile):
        raise UserError("what is written for TensorBoard, and a profile, need the folder of a run: run=")
    steps_per_epoch = len(data) // size
    scheduled = optimizer is None
    if optimizer is None:
        optimizer = make_optimizer("adam", schedule="cosine", steps=epochs * steps_per_epoch)
    if preprocess is None:
        preprocess = _usual_preprocess(data)
    folder = _folder(run, resume, keep)
    own = {"train": data, "validation": validation, "test": test}
    examples = {name: identity.of_data(part) for name, part in own.items()} if folder is not None else {}
    if folder is not None and resume:
        from_first(folder.take)
        from_first(folder.check)
        identity.compare(from_first(lambda: folder.config.get("examples")), examples)
    example = example_of(data, 1)
    state = create_state(
        model,
        optimizer,
        jax.random.key(seed),
        example,
        preprocess,
        variables,
        ema=ema is not None,
        loss_scale=loss_scale,
    )
    outputs = outputs_of(model, loss, (state.params, state.model_state), preprocess, size, data, validation, test)
    names = figures_of(loss, metrics, outputs, data, size, only_in_training=validation is None)
    choice = primary_of(names, primary, higher_is_better)
    if folder is not None and resume:
        choice = began_by(from_first(lambda: folder.config), names, choice, primary is not None)
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "seed": seed, "patience": patience, "accumulate": accumulate,
        "ema": ema, "loss_scale": loss_scale, "parallel": on.form, "devices": on.size,
        "platform": jax.default_backend(), **dataclasses.asdict(choice),
    }  # fmt: skip
    if isinstance(data, Examples):
        settings |= {"inputs": [list(x.shape[1:]) for x in jax.tree.leaves(example)], "extra": dict(data.extra)}
    else:
        settings["image"] = list(data.image)
    if isinstance(preprocess, Preprocess):
        settings["preprocess"] = dataclasses.asdict(preprocess)
    elif preprocess is to_float:
        settings["preprocess"] = None
    named = {"model": repr(model), "data": data.name, "classes": list(data.classes)}
    asked = {**named, **settings, **(config or {}), "examples": examples}
    step = make_step(
        model, loss, optimizer, preprocess=preprocess, augment=augment, metrics=metrics, penalty=penalty,
        accumulate=accumulate, ema=ema, devices=on,
    )  # fmt: skip
    if jax.process_count() > 1:
        facts = agreement.shared_facts(asked, training=data, validation=validation, test=test)
        agree({**facts, "the program of a step": agreement.program(step, state, size, data, on)})
    if folder is not None and resume:
        was = from_first(lambda: folder.config)
        # How many epochs there are matters to our own learning rate; another optimizer's may be the same for more.
        agreement.check_unchanged(was, asked if scheduled else {**asked, "epochs": was.get("epochs")}, folder.path)
        if (differs := agreement.check_devices(was, on, folder.path)) and first_process():
            warnings.warn(differs, stacklevel=2)
    elif folder is not None:  # nothing is left behind by what cannot start
        _begin(folder, asked)
    # Labelled images are looked at by hundreds; what each pixel of an image gets takes as much memory as in training.
    most = {"batch_size": size} if isinstance(data, Examples) else {}
    evaluate = make_evaluate(model, loss, preprocess=preprocess, metrics=metrics, devices=on, **most)
    at = _Place()
    best = of_state(state)
    if folder is not None and resume and (found := _restored(folder, state)) is not None:
        state, best, progress = found
        at = _Place(**{f.name: progress[f.name] for f in dataclasses.fields(_Place)})
        _write(folder, at.history)
    best = jax.tree.map(jnp.copy, best)
    spent = at.seconds
    board = Metrics(folder.path if folder and tensorboard and first_process() else None, at.history)
    tracing = Profile(folder.path if folder and first_process() else None, profile)
    kept = int(state.step) if at.history or at.position else -1  # the step of the newest checkpoint
    state = on.replicate(state)

    def save(state: TrainState, wait: bool) -> None:
        """What is done so far, unless the one before is still being written and nobody waits for this one."""
        if folder is None or (folder.checkpoints.busy and not wait):
            return
        nonlocal kept
        at.seconds = spent + time.monotonic() - began
        one = on.single(state)
        kept = int(one.step)
        if first_process():
            own = bool(at.history) and choice.best(at.history)["step"] == int(one.step)  # the best is what is saved
            folder.save(one, dataclasses.asdict(at), None if own or not at.history else best)

    with (
        Display(epochs, steps_per_epoch * size, show and first_process(), primary=choice) as display,
        asked_to_stop(folder) as stop,
        together(),
    ):
        if line := cpu.notice():
            display.line(line)
        try:
            for epoch in range(len(at.history) + 1, epochs + 1):
                if patience is not None and at.history and choice.stalled(at.history, patience):
                    display.line(f"stopped: no better validation for {patience} epochs")
                    break
                state, means, rate = _epoch(
                    step, state, data, size, seed, epoch, display, at, on, stop, tracing, save, save_every
                )
                one = on.single(state)
                record: Record = {"epoch": epoch, "step": int(one.step), **means}
                if validation is not None:
                    params, model_state = on.whole(of_state(one))
                    measured = evaluate(params, model_state, validation, keep=False).metrics
                    record |= {f"validation_{name}": value for name, value in measured.items()}
                record |= {"images_per_second": round(rate, 1), "seconds": spent + time.monotonic() - began}
                at.next_epoch(record)
                if choice.best(at.history) is record:
                    best = jax.tree.map(jnp.copy, of_state(one))
                if folder is not None:
                    save(state, wait=stop.asked(int(one.step)))
                    _write(folder, at.history)
                board.add(record)
                display.epoch(record)
                stop.leave(int(one.step))
            _check_skipped(at, at.history[-1]["step"], last=True)
            if validation is not None and not any(choice.value(record) is not None for record in at.history):
                display.line(f"the validation {choice.primary} was finite in no epoch: nothing says which one is best")
            if kept != at.history[-1]["step"]:
                save(state, wait=True)
        finally:
            tracing.end()
            board.close()
            if folder is not None:
                folder.checkpoints.wait()

    params, model_state = best
    chosen = choice.best(at.history)
    result: Record = {
        "model": (config or {}).get("model", repr(model)),
        "data": (config or {}).get("data", data.name),  # the same, from wherever it goes on
        "seed": seed,
        "epochs": at.history[-1]["epoch"],
        "best_epoch": chosen["epoch"],
        "steps": at.history[-1]["step"],
        "params": sum(x.size for x in jax.tree.leaves(params)),
        **{f"train_{name}": value for name, value in chosen.items() if name in _learned(chosen)},
        **{name: value for name, value in chosen.items() if name.startswith("validation_")},
    }
    measured_test = None
    if test is not None:
        with together():
            measured_test = evaluate(*on.whole((params, model_state)), test)
        result |= {f"test_{name}": value for name, value in measured_test.metrics.items()}
    if test is not None and test_metrics is not None and first_process():
        about = folder.config if folder is not None else dict(config or {})
        shapes = [tuple(x.shape[1:]) for x in jax.tree.leaves(example)]
        image = shapes[0] if len(shapes) == 1 else ()
        trained = Trained(model, params, model_state, preprocess, image, data.classes, about)
        result |= {f"test_{name}": value for name, value in test_metrics(trained, test).items()}
    result["seconds"] = round(spent + time.monotonic() - began, 3)
    if folder is not None and first_process():
        folder.write("result.json", result)
        _pictures(folder, at.history, choice, test, measured_test)
        folder.checkpoints.close()
    return FitResult(params, model_state, on.single(state), at.history, result, measured_test, model, preprocess)


def _check_kinds(data: Any, validation: Any, test: Any, augment: Any) -> None:
    """Raises for what other libraries take in these places."""
    for name, given in (("data", data), ("validation", validation), ("test", test)):
        if isinstance(given, (tuple, list, dict, float, int, str, np.ndarray, jax.Array)):
            if isinstance(given, float):
                hint = f"`learn, held = data.hold_out({given})` divides the data"
            else:
                hint = "cnn.data.Dataset(images, labels, classes) makes one of arrays"
            raise UserError(f"{name}: expected a Dataset, Examples or a Stream, got {type(given).__name__}; {hint}")
    if augment is not None and not callable(augment):
        raise UserError(
            f"augment: expected a function, got {type(augment).__name__}; cnn.data.compose(a, b) makes one of several"
        )


@dataclass
class _Place:
    """How far a run is: what has to be known, beside the state, to go on with it.

    Attributes:
      history: the records of the epochs that are done.
      position: how many batches of the next epoch are done.
      rows: their metrics.
      seconds: the time spent.
    """

    history: list[Record] = dataclasses.field(default_factory=list)
    position: int = 0
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def next_epoch(self, record: Record) -> None:
        self.history.append(record)
        self.position, self.rows = 0, []


def _folder(run: str | Path | Run | None, resume: bool, keep: int) -> Run | None:
    if run is None:
        if resume:
            raise UserError("resume needs the folder of the run to go on with")
        return None
    if keep < 1:
        raise UserError(f"keep={keep}: at least 1 checkpoint has to stay")
    if isinstance(run, Run):
        folder = run
    else:
        path = from_first(lambda: str((Run.open if resume else Run.new)(run).path))  # the first process looks
        folder = Run(path)
    folder.checkpoints.keep = keep
    return folder


def _begin(folder: Run, config: Mapping[str, Any]) -> None:
    def begin() -> str:
        folder.begin(config)
        return str(folder.path)

    folder.move(from_first(begin))


def _write(folder: Run, history: list[Record]) -> None:
    if first_process():
        folder.write_metrics(history)


def _restored(folder: Run, like: TrainState) -> tuple[TrainState, tuple[Any, Any], dict[str, Any]] | None:
    """What the first process finds, in all of them."""
    found: list[Any] = []

    def read() -> dict[str, Any] | None:
        restored = folder.restore(like)
        if restored is None:
            return None
        found.extend(restored[:2])
        return restored[2]

    progress = from_first(read)
    if progress is None:
        return None
    state, best = found or (like, of_state(like))
    data = same_everywhere(jax.random.key_data(state.key))
    key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(state.key))
    state, best = same_everywhere((state.replace(key=None), best))
    return state.replace(key=key), best, progress


def _epoch(
    step: Any, state: TrainState, data: Any, size: int, seed: int, epoch: int, display: Display, at: _Place,
    on: OneDevice, stop: Stop, tracing: Profile, save: Callable[..., None], save_every: float,
) -> tuple[TrainState, dict[str, float], float]:  # fmt: skip
    """One epoch, from the batch at which it is: the new state, the means of the steps' metrics, and images a second."""
    pending: list[dict[str, jax.Array]] = []
    done = int(on.single(state).step) - at.position  # steps before this epoch
    start = shown = saved = time.monotonic()
    counted = 0  # images since `start`
    compiled = False

    def look() -> None:
        # The only place where the loop waits for the device.
        for row in jax.device_get(pending):
            at.rows.append({name: float(value) for name, value in row.items()})
            if not math.isfinite(at.rows[-1]["loss"]):
                raise TrainingError(
                    f"the loss is {at.rows[-1]['loss']} at step {done + len(at.rows)} (epoch {epoch}): the weights "
                    "have diverged. Try a smaller learning rate, look for extreme values in the input, or clip the "
                    "gradient (--clip 1, or optax.clip_by_global_norm)"
                )
        pending.clear()
        _check_skipped(at, done)

    def leave() -> None:
        look()
        save(state, wait=True)
        stop.leave(done + at.position)

    for batch in _batches(data, size, seed, epoch, at.position, on):
        tracing.before()
        state, measured = step(state, batch)
        pending.append(measured)
        at.position += 1
        tracing.after(measured)
        if not compiled:
            compiled = True
            look()  # the first step of a process compiles: it does not count for the rate
            start = shown = time.monotonic()
        else:
            counted += size
        if stop.asked(done + at.position):
            leave()
        now = time.monotonic()
        if now - shown > _REFRESH:
            look()
            shown = now
            display.update(epoch, len(at.rows) * size, _means(at.rows), counted / (shown - start))
        if now - saved > save_every:
            look()
            save(state, wait=False)
            saved = now
    look()
    rate = counted / max(time.monotonic() - start, 1e-9)
    if stop.asked(done + at.position):  # the measuring that follows may take long
        leave()
    return state, _means(at.rows), rate


def _batches(data: Any, size: int, seed: int, epoch: int, start: int, on: OneDevice) -> Iterator[Any]:
    """The rest of an epoch's batches, on the devices."""
    if isinstance(data, (Dataset, Examples)):
        return map(on.batch, batches(data, size, seed, epoch, start, on.shard))
    return prefetch(data.batches(size, seed, epoch, start, on.shard), put=on.batch)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    # Skipped steps are counted from the first one of the run.
    counts = {SKIPPED: rows[-1][SKIPPED]} if SKIPPED in rows[0] else {}
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | counts


def _check_skipped(at: _Place, done: int, last: bool = False) -> None:
    """Raises when no step is taken any more, because no factor of the loss gives finite gradients."""
    if SKIPPED not in (at.rows or at.history)[-1]:
        return
    counts = [(0, 0.0), *((r["step"], r.get(SKIPPED, 0.0)) for r in at.history)]
    counts += [(done + k, row.get(SKIPPED, 0.0)) for k, row in enumerate(at.rows, 1)]
    row = 0
    for (before, fewer), (step, skipped) in zip(counts[-2::-1], counts[:0:-1], strict=True):
        if skipped - fewer < step - before:
            break
        row += step - before
    if row >= _SKIPPED or (last and 0 < row == counts[-1][0]):
        raise TrainingError(
            f"the last {row} steps, up to step {counts[-1][0]}, were skipped: their gradients are not finite in half "
            f"precision, and the factor of the loss (smallest: {LossScale.SMALLEST:g}) does not help. Try bfloat16 "
            "(--precision bfloat16), a smaller learning rate or loss, or float32; look for extreme values in the input"
        )


def _learned(record: Record) -> list[str]:
    """The names of the training metrics in a record: what is neither validation nor bookkeeping."""
    other = ("epoch", "step", "images_per_second", "seconds")
    return [name for name in record if name not in other and not name.startswith("validation_")]


def _usual_preprocess(data: Any) -> Callable[[Any], Any]:
    if isinstance(data, Stream):
        return Preprocess.imagenet(data.image)
    images = data.inputs
    is_images = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    return Preprocess.of(images) if isinstance(data, Dataset) or is_images else to_float


def _pictures(folder: Run, history: list[Record], choice: Primary, test: Any, measured: Evaluation | None) -> None:
    """Draws what came of it. The curves come last: where they are, all pictures are."""
    from jaxcnn.inspect import plots

    if isinstance(test, Dataset) and measured is not None and measured.outputs.ndim == 2:
        probabilities = np.asarray(jax.nn.softmax(measured.outputs))
        if (classes := probabilities.shape[1]) > 1:
            matrix = confusion_matrix(probabilities.argmax(1), test.labels, classes)
            _picture(folder, "confusion.png", lambda: plots.confusion(matrix, test.classes))
            _picture(folder, "mistakes.png", lambda: plots.mistakes(test, probabilities))
    _picture(folder, LAST, lambda: plots.curves(history, choice.primary, choice.higher_is_better))


def _picture(folder: Run, name: str, draw: Callable[[], Any]) -> None:
    """Draws a picture, as a whole or not at all. Where that fails, a warning says so: no training is lost for it."""
    try:
        content = io.BytesIO()
        draw().savefig(content, format="png")
    except Exception as error:  # of matplotlib, its fonts and its settings
        warnings.warn(f"{folder.path / name} was not drawn: {first_line(error)}", stacklevel=2)
    else:
        folder.put(name, content.getvalue())
