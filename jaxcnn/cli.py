"""The command `jaxcnn`. Each command is a dataclass; its fields are its options."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import re
import shlex
import sys
import time
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxcnn import __version__
from jaxcnn.errors import Stopped, UserError, unknown
from jaxcnn.format import padded, printable, width
from jaxcnn.signals import status_of, stopped_by_sigterm

_STEPS = 8000
_LONGEST = 80  # letters of a model or data in the name of a run


@dataclass
class Train:
    """Train a network and write a run folder: config, metrics, curves, confusion matrix, mistakes, checkpoints."""

    model: tyro.conf.Positional[str] = "lenet5"
    """A name from `jaxcnn models`, or file.py:function for a model of your own: a function of `classes`."""
    task: str | None = None
    """What the network does: classify, segment, detect, boundaries, flow, text or vqa. What its name says when not
    given; classify for a model of your own."""
    options: str | None = None
    """Options of the model, with commas between them: width=16,norm=true."""
    data: str | None = None
    """A name from `jaxcnn datasets`, or the path of a folder of images by class, or in the form of the task. When not
    given, digits; for other tasks than classify, their own."""
    data_dir: Path | None = None
    """Where prepared datasets lie. JAXCNN_DATA_DIR when not given."""
    size: str | None = None
    """Height,width to which the data's images are resized when they are read; their own when not given. With --weights
    it is what the network gets, too, in place of the middle 224,224 that published weights were trained on."""
    stream: bool = False
    """Read the images batch by batch while the network trains, for data that does not fit in memory: random crops of
    the network's input size, mirrored at random."""
    damaged: Literal["stop", "skip"] = "stop"
    """With --stream: what to do about a damaged image."""
    workers: int | None = None
    """With --stream: threads that read. As many as there are cores when not given."""
    epochs: int | None = None
    """Passes over the training data. When not given, about 8000 steps: 15 to 60 passes; or as many as the task has."""
    batch_size: int | None = None
    """Examples a step. When not given, 128; or as many as the task has."""
    optimizer: str = "adam"
    """sgd, momentum (0.9) or adam."""
    lr: float | None = None
    """Learning rate at the start. When not given: 0.1 for sgd, 0.05 for momentum, 0.002 for adam."""
    schedule: str = "cosine"
    """cosine (to 0 over the whole training), constant, steps (a tenth at 1/2 and at 3/4 of it) or onecycle."""
    warmup: float = 0.0
    """Epochs in which the learning rate grows from 0."""
    clip: float | None = None
    """The gradient's largest norm: a longer one is scaled down to it."""
    weight_decay: float = 0.0
    """Decay of the kernels."""
    augment: str = "auto"
    """none, or any of affine (small shifts, turns, scalings and shears), flip (left to right), crop (shifts by whole
    pixels), rotate, scale, colour, cutout and mixup, with commas between them; auto is affine for digits and mnist,
    flip,crop for cifar10, none for others. Other tasks than classes have their own: auto or none."""
    weights: Path | None = None
    """Weights to begin with: a .pth or .safetensors file of torchvision's or timm's names, or a Flax checkpoint."""
    fresh: str = "head"
    """With --weights: layers that begin anew all the same, with commas between them, or none."""
    freeze: str | None = None
    """Layers that do not learn, with commas between them: conv1,bn1,layer1."""
    ensemble: int = 0
    """Train so many networks at once, which start at different weights and vote; 0 for a single network."""
    validation: float = 0.1
    """Share of the training data held out to choose the best epoch; 0 for none, then the last epoch counts."""
    patience: int | None = None
    """Stop after so many epochs without a better validation."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32; or bfloat16 or float16 (with a scaled loss), with parameters in float32."""
    ema: float | None = None
    """Decay of a moving average of the weights, for instance 0.999; the average is what is measured and kept."""
    accumulate: int = 1
    """Compute each batch in so many parts, one after the other, for the memory of one."""
    remat: bool = False
    """Compute each block of the network a second time in the backward pass instead of keeping what it computed."""
    seed: int = 0
    """Of weights, order, dropout and augmentation."""
    devices: int | None = None
    """How many of this machine's devices share each batch; all of them when not given."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How they do: jit over a mesh, or pmap."""
    distributed: bool = False
    """This is one of several processes, as the cluster (Slurm, Kubernetes, Open MPI, TPU) or JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say."""
    coordinator: str | None = None
    """This is one of several processes: host:port of the first one."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which of them this one is, from 0."""
    save_every: float = 600
    """Seconds between checkpoints inside an epoch; there is one after each epoch in any case."""
    keep: int = 2
    """How many checkpoints stay."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard, too: pip install 'jaxcnn[tensorboard]'."""
    profile: int = 0
    """Write a profile of so many steps to RUN/profile."""
    run: Path | None = None
    """The folder to write. runs/MODEL-DATA-1, -2, ... when not given."""
    resume: bool = False
    """Go on with the run in --run, from its last checkpoint and with its settings."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""


@dataclass
class Evaluate:
    """Measure a run's best checkpoint: accuracy, top-5 accuracy and loss, or what its task is measured by."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    data: str | None = None
    """Another dataset than the run's."""
    data_dir: Path | None = None
    """Where prepared datasets lie. JAXCNN_DATA_DIR when not given."""
    split: str = "test"
    """The part of the dataset."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""
    json: bool = False
    """Print one JSON object."""


@dataclass
class Predict:
    """Name the class of image files (PNG, JPEG, ... of any size and mode), with its probability; or draw the classes of
    their pixels, boxes, boundaries or flow, or read sentences: whatever the run was trained for."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files; pairs of them for flow; sentences for text; an image and questions about it for vqa."""
    out: Path | None = None
    """The folder for the pictures that other tasks than classes write; RUN/predictions when not given."""
    invert: bool = False
    """Exchange black and white first: for dark digits on white paper, where the run learned light ones on black."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""
    json: bool = False
    """Print one JSON list."""


@dataclass
class Runs:
    """List runs and compare them: figures, state, and the settings in which they differ."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Runs, or folders with runs in them."""
    sort: str = "name"
    """name, model, data, state, epochs, validation, test or time; accuracies from the best on."""
    draw: Path | None = None
    """Draw the curves of all of them to this file, .png, .svg or .pdf, too."""
    json: bool = False
    """Print one JSON list."""


@dataclass
class Explore:
    """Look into a run's network in the browser: the maps of every layer for an input that you draw or choose, and what
    made each unit."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    image: Path | None = None
    """An image file to begin with."""
    port: int = 0
    """Where to listen, on this machine only; at any port that is free when not given."""
    export: Path | None = None
    """Write the page with some examples to this .html file, which needs no server, instead of serving it."""
    no_browser: bool = False
    """Print the address only."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""


@dataclass
class Export:
    """Write a run's network as files that run without jaxcnn: the computation, the weights and a predict.py."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    out: Path | None = None
    """The folder to write; export in the run's folder when not given."""
    trust: bool = False
    """Execute the code of a network of your own even where it lies outside the current folder, came with the run, or is
    not what the run was trained with."""
    json: bool = False
    """Print one JSON object."""


@dataclass
class Summary:
    """Show a network's layers: output shape, parameters, operations forward and backward, memory, receptive field."""

    model: tyro.conf.Positional[str]
    """A name from `jaxcnn models`, or file.py:function."""
    input: str | None = None
    """Height,width,channels, for instance 32,32,3. The size the model was designed for when not given."""
    classes: int | None = None
    """The number of classes. What the model was designed for when not given, 10 or 1000."""
    depth: int | None = None
    """How many levels of networks to open; 1 shows the network's own layers. All when not given."""
    train: bool = False
    """The training pass, with batch statistics and auxiliary heads, instead of the evaluating one."""
    draw: Path | None = None
    """Draw the graph to this file, .png, .svg or .pdf, too."""
    markdown: bool = False
    """Print the table in Markdown."""
    json: bool = False
    """Print one JSON object, which holds all levels."""


@dataclass
class Models:
    """List the networks."""


@dataclass
class Datasets:
    """List the datasets."""


_COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "runs": Runs,
    "explore": Explore,
    "export": Export,
    "summary": Summary,
    "models": Models,
    "datasets": Datasets,
}


def main(args: Sequence[str] | None = None) -> None:
    """The command line. Exits with 0; with 1 and one line on stderr when something is wrong, 2 for a bad option."""
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that the terminal's encoding lacks are written as escapes
            stream.reconfigure(errors="backslashreplace")
    if args in (["--version"], ["-V"]):
        from jaxcnn.ops import cpu

        print(f"jaxcnn {__version__}\n{cpu.about()}")
        return
    with stopped_by_sigterm():
        if status := _run(args):
            if "jaxcnn.devices" in sys.modules and sys.modules["jaxcnn.devices"].joined():
                sys.modules["jaxcnn.devices"].leave(status)
            sys.exit(status)


def _run(args: list[str]) -> int:
    """Does what a command line asks for; its exit status."""
    shows, warnings.showwarning = warnings.showwarning, _warned
    try:
        command = _parse(args)
        _DO[type(command)](command)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", status_of(stop))
    except BrokenPipeError:
        sys.stderr.close()  # somebody's `| head` has seen enough
    except Exception as error:
        if (lost := _lost(error)) is None:
            raise
        return _fail(lost)
    finally:
        warnings.showwarning = shows
    return 0


def _lost(error: Exception) -> str | None:
    """What to say when an error of JAX's means that another process is gone."""
    from jaxcnn import devices

    found = devices.lost(error)
    return None if found is None else str(found)


def _warned(message: Any, *_: Any, **__: Any) -> None:
    """A warning as a line."""
    _fail(f"warning: {message}")


def _fail(message: str, code: int = 1) -> int:
    _say(f"jaxcnn: {' '.join(message.split())}", file=sys.stderr)
    return code


def _say(text: object, **options: Any) -> None:
    """Prints text in which there may be names from outside: a terminal is sent no control characters of theirs."""
    print(printable(text, lines=True), **options)


def _parse(args: list[str]) -> Any:
    """The command with its options. What the parser prints of a bad option is a box; it becomes one line."""
    union: Any = Annotated[_union(), tyro.conf.FlagCreatePairsOff]
    args = args or ["--help"]
    first = args[0]
    if not first.startswith("-") and first not in _COMMANDS:
        sys.exit(_fail(str(unknown("command", first, _COMMANDS)), 2))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            command = tyro.cli(union, prog="jaxcnn", args=args, description=_ABOUT)
    except SystemExit as end:
        if not end.code:
            raise
        box = re.sub(r"\x1b\[[0-9;]*m", "", errors.getvalue())
        # A title, then what is wrong up to the next rule; without UTF-8 a rule is below the title, too, and of hyphens.
        lines = itertools.dropwhile(_is_rule, [line.strip("│ ") for line in box.strip().splitlines()][1:])
        named = f"jaxcnn {first} --help" if first in _COMMANDS else "jaxcnn --help"
        message = " ".join(itertools.takewhile(lambda line: not _is_rule(line), lines)) or "the options cannot be read"
        if first in _COMMANDS and message.startswith("Unrecognized"):
            fields = [f for f in dataclasses.fields(_COMMANDS[first]) if "Positional" not in str(f.type)]
            known = ["--help", *("--" + f.name.replace("_", "-") for f in fields)]
            given = [arg.split("=")[0].replace("_", "-") for arg in args if arg.startswith("--")]
            message = next((str(unknown("option", name, known)) for name in given if name not in known), message)
        sys.exit(_fail(f"{message}; see {named}", 2))
    # An option may be given with the value that it has by default: for --resume that is not the same as not at all.
    if isinstance(command, Train):
        options = {arg[2:].split("=")[0].replace("-", "_") for arg in args if arg.startswith("--")}
        command.named = frozenset(options | ({"model"} if command.model in args[1:] else set()))  # type: ignore[attr-defined]
    return command


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-")


_ABOUT = "Convolutional networks in JAX. `jaxcnn train` trains LeNet-5 on handwritten digits."


def _union() -> Any:
    result: Any = None
    for name, command in _COMMANDS.items():
        one: Any = Annotated[command, tyro.conf.subcommand(name, description=command.__doc__)]
        result = one if result is None else result | one
    return result


# --- train -------------------------------------------------------------------------------------------------------


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


def _train(given: Train) -> None:
    import jax

    from jaxcnn import devices, models, tasks, train
    from jaxcnn.train import identity
    from jaxcnn.train.trained import computed

    began = time.monotonic()
    several = given.distributed or given.coordinator is not None
    if several:
        devices.join(given.coordinator, given.processes, given.process)
        devices.agree(_told(given))
    elif given.processes is not None or given.process is not None:
        raise UserError("--processes and --process belong to --coordinator HOST:PORT")
    options, folder = (_resumed if given.resume else _fresh)(given)
    if ":" not in options.model and options.model not in models.MODELS:
        raise models.unknown_model(options.model)
    entry = models.MODELS.get(options.model)
    task = tasks.find(options.task or (entry.task if entry else tasks.CLASSIFY))
    options.task = task.name if task else tasks.CLASSIFY
    options.data = options.data or (task.data if task else "digits")
    if options.batch_size is None:
        options.batch_size = task.batch_size if task else 128
    if options.resume and (outcome := devices.from_first(lambda: _complete(folder, task))) is not None:
        _say(f"{folder.path} is complete: {outcome}")
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
        _say(f"{name.replace('-', ' on ')}: {parts}, {planned}", flush=True)
    config = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(_absolute(options)).items()},
        "model_options": work.model_options,
        "code_sha256": identity.of_code(options.model),
        "epochs": epochs,
        "version": __version__,
    }
    if task is not None and not task.chooses:
        config["tested"] = dataclasses.asdict(task.primary)
    for given_anew in _OF_THE_PROCESS:
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
            validation=work.held,
            test=work.test,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            patience=options.patience,
            accumulate=options.accumulate,
            ema=options.ema,
            loss_scale=options.precision == "float16",
            devices=spread,
            run=folder,
            resume=options.resume,
            save_every=given.save_every,
            keep=given.keep,
            tensorboard=given.tensorboard,
            profile=given.profile,
            config=config,
            test_metrics=task.evaluate if task is not None else None,
            **work.settings,
        )
    except KeyboardInterrupt as stop:
        there = f"go on with: jaxcnn train --run {shlex.quote(_shown(folder.path))} --resume"
        if not folder.checkpoints.steps():
            there = f"nothing was saved yet to go on with in {_shown(folder.path)}"
        raise Stopped(f"{str(stop) or 'interrupted'}; {there}", status_of(stop) - 128) from None
    if not devices.first_process():
        return
    _say(_outcome(fitted.result, task) + f" ({time.monotonic() - began:.0f} s)")
    pictures = [name for name in ("curves.png", "confusion.png", "mistakes.png") if (folder.path / name).exists()]
    _say(f"{_shown(folder.path)}: {', '.join(pictures)}, result.json, checkpoints")


def _classification(options: Train, entry: Any) -> _Work:
    """Images with a class each."""
    import jax

    from jaxcnn import data, losses, tasks, weights
    from jaxcnn.train.trained import rebuilt

    if options.augment == "auto":
        options.augment = _usual_augment(options.data)
    for augmentation in _words(options.augment):
        if augmentation not in _AUGMENT:
            raise unknown("augmentation", augmentation, _AUGMENT)
    name, size = str(options.data), _size(options.size)
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
                model, options.weights, fresh=_words(options.fresh), key=jax.random.key(options.seed)
            )
    return _Work(learn, held, test, model, model_options, settings)


def _other(options: Train, task: Any) -> _Work:
    """Data, network and settings of another task than naming an image's class."""
    from jaxcnn.train.trained import rebuilt

    for name, value in (("stream", options.stream), ("weights", options.weights), ("ensemble", options.ensemble)):
        if value:
            raise UserError(f"--{name} is for networks that name the class of an image; {options.model} does not")
    if options.augment not in ("auto", "none"):
        raise UserError(f"--augment {options.augment}: for {task.about}, choose auto or none")
    name, size, chosen = str(options.data), _size(options.size), _model_options(options.options)
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
    for part in _words(text or ""):
        name, given, value = part.partition("=")
        if not given or not name.strip().isidentifier():
            raise UserError(f"--options {text}: expected NAME=VALUE with commas between them, width=16,norm=true")
        try:
            options[name.strip()] = json.loads(value.strip().lower())
        except ValueError:
            options[name.strip()] = value.strip()
    return options


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _numbers(text, 2)
    if found is None:
        raise UserError(f"--size {text}: expected height,width, for instance 180,240")
    return found[0], found[1]


def _numbers(text: str, count: int) -> tuple[int, ...] | None:
    """So many numbers above 0, with commas or an x between them; None for anything else."""
    parts = re.split(r"[,x]", text.strip("()[] "))
    if len(parts) != count or not all(re.fullmatch("[0-9]{1,9}", p.strip()) and int(p) > 0 for p in parts):
        return None
    return tuple(int(p) for p in parts)


def _fresh(given: Train) -> tuple[Train, Any]:
    if given.run is None:
        return given, None
    from jaxcnn.devices import from_first
    from jaxcnn.train import Run

    path = given.run
    return given, Run(from_first(lambda: str(Run.new(path).path)))


def _resumed(given: Train) -> tuple[Train, Any]:
    """The run's own settings; what was given beside them has to agree."""
    from jaxcnn.devices import from_first
    from jaxcnn.train import Run, lock
    from jaxcnn.train.identity import check_code

    if given.run is None:
        raise UserError("--resume goes on with a run: say which, --run FOLDER")
    path = given.run

    def read() -> dict[str, Any]:
        found = Run.open(path)
        config = found.config
        lock.refuse(found.path / lock.NAME)  # before the data are read
        found.check()
        _check_types(found.path, config)
        return config

    config = from_first(read)
    folder = Run(path)
    options = dataclasses.replace(given)
    named: frozenset[str] = getattr(given, "named", frozenset())
    for f in dataclasses.fields(Train):
        if f.name in _OF_THE_PROCESS or f.name not in config:
            continue
        asked, was = getattr(_absolute(given), f.name), config[f.name]
        is_asked = f.name in named or asked != f.default
        if f.name == "augment" and asked == "auto" and was == _usual_augment(config.get("data")):
            asked = was
        if is_asked and str(asked) != str(was) and f.name != "data_dir":
            option = "--" + f.name.replace("_", "-") if f.name != "model" else "model"
            raise UserError(f"{given.run} was made with {option} {was}, not {asked}; start another run for that")
        if f.name != "data_dir" or asked is None:
            setattr(options, f.name, Path(was) if f.name in ("data_dir", "weights") and was else was)
    options.devices = _devices(given, config)
    trusted = given.trust or given.model != Train.model  # who names the file knows what it is
    from_first(lambda: check_code(folder.path, config, trusted))
    return options, folder


def _devices(given: Train, config: dict[str, Any]) -> int | None:
    """How many devices a run goes on with: as many as it had, where they are there and no other number is asked for.
    `fit` says what another number changes."""
    import jax

    was = config.get("devices")
    if given.devices is not None or was is None or jax.process_count() > 1 or was > jax.device_count():
        return given.devices
    return was


def _check_types(run: Path, config: dict[str, Any]) -> None:
    """Whether the settings in a config.json have the types of their options.

    Raises:
      UserError: for the first one that has not.
    """
    from jaxcnn.train.record import named

    for name, expected in typing.get_type_hints(Train).items():
        kinds = (str if kind is Path else kind for kind in typing.get_args(expected) or (expected,))
        if name in config and not any(_has_type(config[name], kind) for kind in kinds):
            said = re.sub(r"<class '(\w+)'>|typing\.|pathlib\.", r"\1", str(expected))
            raise UserError(f"{run / 'config.json'}: {name} is {named(config[name])}, expected {said}")
    if "model" not in config:
        raise UserError(f"{run / 'config.json'} does not say 'model': the run cannot go on")


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type, or one of a Literal's words."""
    if not isinstance(kind, type):
        return value == kind
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


# What a run that goes on may do in another way: it says how its process works, not what is computed.
_NAMES = "run resume devices distributed coordinator processes process save_every keep tensorboard"
_NAMES += " profile workers trust"
_OF_THE_PROCESS = frozenset(_NAMES.split())


def _told(given: Train) -> dict[str, Any]:
    """What has to be the same in all processes before they do anything together: the options and the code."""
    import jax

    from jaxcnn import devices

    # Paths may differ between hosts; what is read from them is compared later.
    own = _OF_THE_PROCESS - {"resume", "devices"} | {"data_dir", "weights", "model", "data"}
    options = {"--" + f.name.replace("_", "-"): getattr(given, f.name) for f in dataclasses.fields(given)
               if f.name not in own}  # fmt: skip
    names = {name: Path(str(getattr(given, name))).name for name in ("model", "data")}
    versions = {"the version of jaxcnn": __version__, "the version of JAX": jax.__version__}
    return {**versions, "the code of jaxcnn": devices.code_hash(), **names, **options}


def _absolute(options: Train) -> Train:
    """The options with absolute paths, which stay right when `evaluate` is called from another folder."""
    model, data = options.model, options.data
    if ":" in model:
        file, _, function = model.rpartition(":")
        model = f"{Path(file).expanduser().absolute()}:{function}"
    if data and (os.sep in data or data.startswith(("~", "."))):
        data = str(Path(data).expanduser().absolute())
    paths = {name: getattr(options, name) for name in ("data_dir", "weights")}
    absolute = {name: path and path.expanduser().absolute() for name, path in paths.items()}
    return dataclasses.replace(options, model=model, data=data, **absolute)


def _name(options: Train) -> str:
    def short(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]+", "_", Path(text.split(":")[-1]).name)[:_LONGEST]

    return f"{short(options.model)}-{short(str(options.data))}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


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


def _usual_augment(name: str | None) -> str:
    """What `--augment auto` is for images with a class each."""
    return {"digits": "affine", "mnist": "affine", "cifar10": "flip,crop"}.get(str(name), "none")


def _augmentation(names: str, image: Sequence[int], classes: int) -> Any:
    """The augmentations of these names, for images of this size."""
    from jaxcnn import data

    made = [_AUGMENT[name](data, min(image[:2]), classes) for name in _words(names)]
    chosen = [augment for augment in made if augment is not None]
    return data.compose(*chosen) if len(chosen) > 1 else chosen[0] if chosen else None


def _words(text: str) -> tuple[str, ...]:
    """What stands between the commas; "none" is nothing."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if words == ("none",) else words


# --- the others --------------------------------------------------------------------------------------------------


def _evaluate(given: Evaluate) -> None:
    from jaxcnn import tasks, train
    from jaxcnn.metrics import name_of, shown

    trained = train.Trained.load(given.run, trust=given.trust)
    name = given.data or trained.config["data"]
    where = given.data_dir or trained.config.get("data_dir")
    task = tasks.find(trained.config.get("task", tasks.CLASSIFY))
    found, figures = (_measured if task is None else functools.partial(_measured_by, task))(given, trained, name, where)
    record = {"run": str(given.run), "data": name, "split": given.split, "examples": len(found), **figures}
    if given.json:
        _say(json.dumps(record))
    else:
        _say(f"{given.run} on {name} {given.split}, {len(found):,} {task.what if task else 'images'}")
        lines = [(printable(name_of(measure)), shown(measure, value)) for measure, value in figures.items()]
        widest = max(width(name) for name, _ in lines)
        _say("\n".join(f"{padded(name, widest)}  {value}" for name, value in lines))


def _measured(given: Evaluate, trained: Any, name: str, where: Any) -> tuple[Any, dict[str, float]]:
    """Images with a class each, and what the network does on them."""
    from jaxcnn import data, train
    from jaxcnn.losses import softmax_cross_entropy
    from jaxcnn.metrics import accuracy, top_k

    height, width, channels = trained.image
    found: Any
    if trained.config.get("stream"):
        found = data.stream(name, given.split, where, size=(height, width), damaged=trained.config["damaged"])
    else:
        found = data.load(name, given.split, where, (height, width))
    if len(found.classes) != len(trained.classes) or found.image[-1] != channels:
        raise UserError(
            f"{name} has {len(found.classes)} classes and {found.image[-1]} channels; "
            f"the run has {len(trained.classes)} and {channels}"
        )
    measures = {"accuracy": accuracy, **({"top5": top_k(5)} if len(trained.classes) > 5 else {})}
    evaluate = train.make_evaluate(
        trained.model, softmax_cross_entropy, preprocess=trained.preprocess, metrics=measures
    )
    return found, evaluate(trained.params, trained.model_state, found).metrics


def _measured_by(task: Any, given: Evaluate, trained: Any, name: str, where: Any) -> tuple[Any, dict[str, float]]:
    """The data of another task, and what the network does on them."""
    from jaxcnn import losses, train

    size = _size(trained.config.get("size"))
    found = task.load(name, given.split, where, size)
    if len(found.classes) != len(trained.classes):
        raise UserError(f"{name} has {len(found.classes)} classes; the run has {len(trained.classes)}")
    if task.adapt is not None:
        found = task.adapt(found, trained)
    # The loss may be weighed by what the run learned from.
    learned = task.load(trained.config["data"], "train", trained.config.get("data_dir") or where, size)
    settings = task.settings(learned)
    loss = settings.get("loss", losses.softmax_cross_entropy)
    evaluate = train.make_evaluate(
        trained.model, loss, preprocess=trained.preprocess, metrics=settings.get("metrics"),
        batch_size=trained.config["batch_size"],
    )  # fmt: skip
    figures = evaluate(trained.params, trained.model_state, found, keep=False).metrics
    if task.evaluate is not None:
        figures = {**task.evaluate(trained, found), **figures}
    return found, figures


def _predict(given: Predict) -> None:
    from jaxcnn import tasks, train

    if not given.images:
        raise UserError("predict needs at least one image file")
    trained = train.Trained.load(given.run, trust=given.trust)
    task = tasks.find(trained.config.get("task", tasks.CLASSIFY))
    if task is not None:
        if given.invert:
            raise UserError(f"--invert is for digits; this run is one of {task.about}")
        out = given.out or given.run / "predictions"
        rows = task.predict(trained, given.images, out)
        _say(json.dumps(rows) if given.json else "\n".join(row["text"] for row in rows))
        return
    rows = _named(given, trained)
    if given.json:
        _say(json.dumps(rows))
        return
    for row in rows:
        _say(f"{printable(row['image'])}  {printable(row['class'])}  {100 * row['probability']:.1f} %")


def _named(given: Predict, trained: Any) -> list[dict[str, Any]]:
    """The class of each image file."""
    from jaxcnn import data

    height, width, channels = trained.image
    # All files are read before anything is said: one that is damaged stops the command with its name.
    read = data.read_middle if trained.config.get("stream") else data.read_image
    pictures = [read(path, channels, (height, width)) for path in given.images]
    if given.invert:
        pictures = [255 - p for p in pictures]
    rows: list[dict[str, Any]] = []
    for path, p in zip(given.images, trained.probabilities(pictures), strict=True):
        best = int(p.argmax())
        rows.append({"image": str(path), "class": trained.classes[best], "probability": float(p[best])})
        if given.json:
            rows[-1]["probabilities"] = {c: float(v) for c, v in zip(trained.classes, p, strict=True)}
    return rows


def _runs(given: Runs) -> None:
    from jaxcnn.inspect.graph import check_suffix
    from jaxcnn.train import runs

    if given.draw is not None:
        check_suffix(given.draw)
    found = runs.ordered(runs.find(given.paths), given.sort)
    if given.draw is not None:
        from jaxcnn.atomic import put
        from jaxcnn.inspect import plots

        histories = {str(run.path): run.history for run in found if run.history}
        chosen = {run.primary for run in found if run.history}
        primary = dataclasses.asdict(chosen.pop()) if len(chosen) == 1 else {}
        if not histories:
            raise UserError("none of these runs has come to the end of an epoch: there are no curves to draw")
        drawn = plots.compare(histories, **primary)
        put(given.draw, functools.partial(drawn.savefig, format=given.draw.suffix[1:].lower(), dpi=150))
    names = runs.differing(found)
    rows = [{**run.row(), "settings": {name: run.config.get(name) for name in names}} for run in found]
    _say(json.dumps(rows) if given.json else runs.table(found))


def _explore(given: Explore) -> None:
    from jaxcnn.explore import explore

    explore(given.run, given.image, given.port, given.export, not given.no_browser, trust=given.trust)


def _export(given: Export) -> None:
    from jaxcnn import export, tasks, train

    out = given.out or given.run / "export"
    export.check_new(out)
    trained = train.Trained.load(given.run, trust=given.trust)
    task = trained.config.get("task", tasks.CLASSIFY)
    if task != tasks.CLASSIFY:
        raise UserError(
            f"export writes networks that name the class of an image; {given.run} is one of the task {task}"
        )
    result = train.Run(given.run).result or {}
    kept = ("best_epoch", "validation_accuracy", "test_accuracy")
    config = trained.config
    about: dict[str, Any] = {name: Path(config[name]).name for name in ("model", "data") if name in config}
    written = export.save(
        trained.model,
        trained.params,
        trained.model_state,
        trained.image,
        out,
        preprocess=trained.preprocess,
        classes=trained.classes,
        about=about | {name: result[name] for name in kept if name in result},
    )
    if given.json:
        _say(json.dumps({"folder": str(out), **written}))
        return
    sizes = ", ".join(f"{name} ({_bytes((out / name).stat().st_size)})" for name in export.FILES)
    program = shlex.quote(str(out / "predict.py"))
    (height, width, channels), platforms = trained.image, written["platforms"]
    _say(f"{out}: {sizes}")
    _say(f"uint8 images (N, {height}, {width}, {channels}) to logits (N, {len(trained.classes)}), on "
          f"{', '.join(platforms[:-1])} or {platforms[-1]}; try: python {program} IMAGE")  # fmt: skip


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _summary(given: Summary) -> None:
    from jaxcnn import inspect, models
    from jaxcnn.inspect.graph import check_suffix

    if given.json and given.markdown:
        raise UserError("--json and --markdown are two forms of one table: choose one")
    if given.depth is not None and given.depth < 1:
        raise UserError(f"--depth {given.depth} should be at least 1")
    if given.draw is not None:
        check_suffix(given.draw)
    entry = models.MODELS.get(given.model)
    classes = given.classes if given.classes is not None else entry.classes if entry else 10
    model = models.make(given.model, classes)
    if given.input is None and entry is None:
        raise UserError("--input is needed for a model of your own: height,width,channels")
    shape: tuple[int, ...] | None = None
    if given.input is not None:
        count = len(entry.input) if entry else 3
        shape = _numbers(given.input, count)
        if shape is None:
            form = "height,width,channels, for instance 32,32,3" if count == 3 else "a number of words"
            raise UserError(f"--input {given.input}: expected {form}")
    example: tuple[Any, ...] = entry.example(shape) if entry else (shape,)
    table = inspect.summary(model, *example, train=given.train, depth=given.depth)
    if given.draw is not None:
        table.draw(given.draw)
    _say(table.to_json() if given.json else table.to_markdown() if given.markdown else table)


def _models(given: Models) -> None:
    from jaxcnn.models import MODELS

    width = max(map(len, MODELS))
    for name, entry in MODELS.items():
        _say(f"{name:{width}s}  {'x'.join(map(str, entry.input)):9s}  {entry.about}")


def _datasets(given: Datasets) -> None:
    from jaxcnn import data, tasks

    every = {**data.DATASETS, **tasks.DATASETS}
    width = max(map(len, every))
    for name, about in every.items():
        _say(f"{name:{width}s}  {about}")


_DO: dict[type, Any] = {
    Train: _train, Evaluate: _evaluate, Predict: _predict, Runs: _runs, Explore: _explore, Export: _export,
    Summary: _summary, Models: _models, Datasets: _datasets,
}  # fmt: skip

if __name__ == "__main__":
    main()
