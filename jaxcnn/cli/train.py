"""`jaxcnn train`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn import __version__
from jaxcnn.cli.common import say, shown, size_of, words
from jaxcnn.cli.options import Train, usual_augment
from jaxcnn.cli.resume import OF_THE_PROCESS, absolute, fresh, resumed, told
from jaxcnn.errors import Stopped, UserError, unknown
from jaxcnn.signals import status_of

_STEPS = 8000  # of a training, when the number of epochs is not given
_LONGEST = 80  # letters of a model or data in the name of a run


@dataclass
class _Work:
    """What there is to learn: the data, the network, and what `fit` has to know of them.

    Attributes:
      learn, held, test: the data; `held` chooses the best epoch, and may be None.
      model: the network, made for them by `model_options`.
      settings: further arguments of `fit`.
      what: what the data are made of.
    """

    learn: Any
    held: Any
    test: Any
    model: Any
    model_options: dict[str, Any]
    settings: dict[str, Any]
    what: str = "images"


def run_train(given: Train) -> None:
    import jax

    from jaxcnn import devices, models, tasks, train
    from jaxcnn.runs import identity
    from jaxcnn.runs.trained import computed

    began = time.monotonic()
    several = given.distributed or given.coordinator is not None
    if several:
        devices.join(given.coordinator, given.processes, given.process)
        devices.agree(told(given))
    elif given.processes is not None or given.process is not None:
        raise UserError("--processes and --process belong to --coordinator HOST:PORT")
    options, folder = (resumed if given.resume else fresh)(given)
    if ":" not in options.model and options.model not in models.MODELS:
        raise models.unknown_model(options.model)
    entry = models.MODELS.get(options.model)
    task = tasks.find(options.task or (entry.task if entry else tasks.CLASSIFY))
    options.task = task.name if task else tasks.CLASSIFY
    options.data = options.data or (task.data if task else "digits")
    if options.batch_size is None:
        options.batch_size = task.batch_size if task else 128
    if options.resume and (outcome := devices.from_first(lambda: _complete(folder, task))) is not None:
        say(f"{folder.path} is complete: {outcome}")
        return
    if options.ensemble and (options.weights or options.ensemble < 0):
        raise UserError("--ensemble is a number of networks that start at different weights, and takes no --weights")
    if not 0 <= options.validation < 1:
        raise UserError(f"--validation is a share from 0 to below 1, got {options.validation}")
    if options.batch_size < 1 or (options.epochs is not None and options.epochs < 1):
        raise UserError(f"--batch-size {options.batch_size} and --epochs {options.epochs} should be at least 1")
    # Before the data is read, and the number of steps is known.
    train.make_optimizer(options.optimizer, options.lr, options.schedule, 1, clip=options.clip)
    spread = None
    if several or options.devices is not None or jax.device_count() > 1 or options.parallel == "pmap":
        spread = devices.DataParallel(options.devices, options.parallel)

    work = _classification(options, entry) if task is None else _other(options, task)
    steps_per_epoch = max(1, len(work.learn) // options.batch_size)
    epochs = options.epochs or (task.epochs if task else min(60, max(15, -(-_STEPS // steps_per_epoch))))
    name = _name(options)
    if folder is None:
        folder = train.Run.numbered(Path("runs") / name)
    if devices.first_process():
        on = f" on {spread.size} devices" if spread else ""
        parts = f"{len(work.learn):,} {work.what} to learn from, {len(work.held or []):,} to validate"
        planned = f"{len(work.test):,} to test; {epochs} epochs of {steps_per_epoch} steps{on}"
        say(f"{name.replace('-', ' on ')}: {parts}, {planned}", flush=True)
    config = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(absolute(options)).items()},
        "model_options": work.model_options,
        "code_sha256": identity.of_code(options.model),
        "epochs": epochs,
        "version": __version__,
    }
    if task is not None and not task.chooses:
        config["tested"] = dataclasses.asdict(task.primary)
    for given_anew in OF_THE_PROCESS:
        del config[given_anew]
    optimizer = train.make_optimizer(
        options.optimizer,
        options.lr,
        options.schedule,
        epochs * steps_per_epoch,
        options.weight_decay,
        warmup=round(options.warmup * steps_per_epoch),
        clip=options.clip,
    )
    if task is not None and task.constrain is not None:
        optimizer = task.constrain(optimizer)
    try:
        fitted = train.fit(
            computed(work.model, dataclasses.asdict(options)),
            work.learn,
            train.Objective(
                loss_scale=options.precision == "float16", evaluate=task.evaluate if task is not None else None
            ),
            validation=work.held,
            test=work.test,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            patience=options.patience,
            accumulate=options.accumulate,
            ema=options.ema,
            devices=spread,
            run=train.Run(
                folder,
                resume=options.resume,
                save_every=given.save_every,
                keep=given.keep,
                tensorboard=given.tensorboard,
                profile=given.profile,
                config=config,
            ),
            **work.settings,
        )
    except KeyboardInterrupt as stop:
        there = f"go on with: jaxcnn train --run {shlex.quote(shown(folder.path))} --resume"
        if not folder.checkpoints.steps():
            there = f"nothing was saved yet to go on with in {shown(folder.path)}"
        raise Stopped(f"{str(stop) or 'interrupted'}; {there}", status_of(stop) - 128) from None
    if not devices.first_process():
        return
    say(_outcome(fitted.result, task) + f" ({time.monotonic() - began:.0f} s)")
    pictures = [name for name in ("curves.png", "confusion.png", "mistakes.png") if (folder.path / name).exists()]
    say(f"{shown(folder.path)}: {', '.join(pictures)}, result.json, checkpoints")


def _classification(options: Train, entry: Any) -> _Work:
    """Images with a class each."""
    import jax

    from jaxcnn import data, losses, tasks, weights
    from jaxcnn.runs.trained import rebuilt

    if options.augment == "auto":
        options.augment = usual_augment(options.data)
    for augmentation in words(options.augment):
        if augmentation not in _AUGMENT:
            raise unknown("augmentation", augmentation, _AUGMENT)
    name, size = str(options.data), size_of(options.size)
    if name in tasks.DATASETS:
        raise UserError(f"{name} is for other networks than {options.model}: {tasks.DATASETS[name]}")
    model_options = _model_options(options.options)
    everything: Any
    test: Any
    if options.stream:
        everything, test = (
            data.stream(
                name, split, options.data_dir, size=size or (entry.input[:2] if entry else (224, 224)),
                workers=options.workers, damaged=options.damaged,
            )
            for split in ("train", "test")
        )  # fmt: skip
    else:
        everything = data.load(name, "train", options.data_dir, size)
        test = data.load(name, "test", options.data_dir, everything.image[:2])
    learn, held = everything.hold_out(options.validation) if options.validation else (everything, None)
    model = rebuilt({**dataclasses.asdict(options), "model_options": model_options}, len(learn.classes))
    settings: dict[str, Any] = {
        "loss": losses.every_output(losses.softmax_cross_entropy),
        "augment": _augmentation(options.augment, learn.image, len(learn.classes)),
    }
    if options.weights is None and options.stream:
        settings["preprocess"] = data.Preprocess.imagenet(learn.image)
    elif options.weights is None:
        fixed = entry.input[:2] if entry and entry.fixed_size else None
        settings["preprocess"] = data.Preprocess.of(learn.images, fixed)
    else:
        preprocess = weights.preprocess(model)
        if options.stream or size:  # the images have the size that the network is to get
            preprocess = dataclasses.replace(preprocess, size=learn.image[:2], resize=())
        settings["preprocess"] = preprocess
        if not options.resume:
            settings["variables"] = weights.load(
                model, options.weights, fresh=words(options.fresh), key=jax.random.key(options.seed)
            )
    return _Work(learn, held, test, model, model_options, settings)


def _other(options: Train, task: Any) -> _Work:
    """Data, network and settings of another task than naming an image's class."""
    from jaxcnn.runs.trained import rebuilt

    for name, value in (("stream", options.stream), ("weights", options.weights), ("ensemble", options.ensemble)):
        if value:
            raise UserError(f"--{name} is for networks that name the class of an image; {options.model} does not")
    if options.augment not in ("auto", "none"):
        raise UserError(f"--augment {options.augment}: for {task.about}, choose auto or none")
    name, size, chosen = str(options.data), size_of(options.size), _model_options(options.options)
    learn = task.load(name, "train", options.data_dir, size)
    held = None
    if options.validation and task.validation:
        held = task.load(name, "validation", options.data_dir, size)
    elif options.validation:
        learn, held = learn.hold_out(options.validation)
    test = task.load(name, "test", options.data_dir, size)
    settings = {**dataclasses.asdict(task.choice), **task.settings(learn)}
    if options.augment == "none":
        settings.pop("augment", None)
    model_options = {**task.options(learn), **chosen}
    model = rebuilt({**dataclasses.asdict(options), "model_options": model_options}, len(learn.classes))
    return _Work(learn, held, test, model, model_options, settings, task.what)


def _model_options(text: str | None) -> dict[str, Any]:
    """`width=16,norm=true,backbone=resnet18` as arguments: numbers, truth values, words."""
    options: dict[str, Any] = {}
    for part in words(text or ""):
        name, given, value = part.partition("=")
        if not given or not name.strip().isidentifier():
            raise UserError(f"--options {text}: expected NAME=VALUE with commas between them, width=16,norm=true")
        try:
            options[name.strip()] = json.loads(value.strip().lower())
        except ValueError:
            options[name.strip()] = value.strip()
    return options


def _name(options: Train) -> str:
    def short(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]+", "_", Path(text.split(":")[-1]).name)[:_LONGEST]

    return f"{short(options.model)}-{short(str(options.data))}"


def _complete(folder: Any, task: Any) -> str | None:
    """What came of a run that is complete; None for one that is to go on, for its pictures alone or for a result that
    is damaged, too."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        if folder.pictured and folder.result is not None:
            return _outcome(folder.result, task)
    return None


def _outcome(result: dict[str, Any], task: Any) -> str:
    from jaxcnn.metrics import name_of, shown

    name = task.figure if task else "accuracy"
    text = f"test {name_of(name)} {shown(name, result[f'test_{name}'])}, loss {result['test_loss']:.4f}"
    return f"{text}, at epoch {result['best_epoch']} of {result['epochs']}"


# Each is made of jaxcnn.data, the side of an image and the number of classes.
_AUGMENT: dict[str, Callable[[Any, int, int], Any]] = {
    "none": lambda data, side, classes: None,
    "affine": lambda data, side, classes: data.affine(),
    "flip": lambda data, side, classes: data.flip,
    "crop": lambda data, side, classes: data.crop(padding=max(1, side // 8)),  # the 4 of 32 pixels of He et al.
    "rotate": lambda data, side, classes: data.rotate(15),
    "scale": lambda data, side, classes: data.scale(),
    "colour": lambda data, side, classes: data.colour(),
    "cutout": lambda data, side, classes: data.cutout(max(1, side // 4)),
    "mixup": lambda data, side, classes: data.mixup(classes),
}


def _augmentation(names: str, image: Sequence[int], classes: int) -> Any:
    """The augmentations of these names, for images of this size."""
    from jaxcnn import data

    made = [_AUGMENT[name](data, min(image[:2]), classes) for name in words(names)]
    chosen = [augment for augment in made if augment is not None]
    return data.compose(*chosen) if len(chosen) > 1 else chosen[0] if chosen else None
