"""A recipe: all settings that decide the results of a training, as one value; config.json holds it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.errors import UserError, unknown
from jaxcnn.runs.record import named, parsed, reason, text_of

if TYPE_CHECKING:
    from jaxcnn.core import Layer


@dataclass(frozen=True, repr=False)
class Recipe:
    """Model, data and settings of a training: the same recipe gives exactly the same results.

    Each field is an option of `jaxcnn train`, and takes what that option takes: `Recipe("fcn8s", options="width=16")`.
    In a file, a list may stand for words with commas between them, and a table of `options` for NAME=VALUE.

    Raises:
      UserError: if a value has the wrong type.
    """

    model: str = "lenet5"
    """A name from `jaxcnn models`, or file.py:function for a model of your own: a function of `classes`."""
    data: str | None = None
    """A name from `jaxcnn datasets`, or the path of a folder of images by class, or in the form of the task. When not
    given, digits; for other tasks than classification, their own."""
    task: str | None = None
    """What the network does: classify, segment, detect, edges, flow, text, vqa or keypoints. When not given, what the
    model is made for; classify for a model of your own."""
    options: str | None = None
    """Options of the model, with commas between them: width=16,norm=true."""
    data_dir: Path | None = None
    """The folder of prepared datasets. JAXCNN_DATA_DIR when not given."""
    limit: int | None = None
    """Train on the first of the training data only, this number of them. All when not given."""
    size: str | None = None
    """Height,width to which the data's images are resized when they are read; their own when not given. With --weights
    it is what the network gets, too, in place of the middle 224,224 that published weights were trained on."""
    stream: bool = False
    """Read the images batch by batch while the network trains, for data that does not fit in memory: random crops of
    the network's input size, mirrored at random."""
    damaged: Literal["stop", "skip"] = "stop"
    """With --stream: what to do about a damaged image."""
    epochs: int | None = None
    """Passes over the training data. When not given, about 8000 steps: 15 to 60 passes; or the task's own number."""
    batch_size: int | None = None
    """Examples in a step. When not given, 128; or the task's own number."""
    optimizer: str = "adam"
    """sgd, momentum (0.9), nesterov (0.9), adam, adamw, lion, or muon (kernels by Muon, the rest by Adam)."""
    lr: float | None = None
    """Learning rate at the start. When not given: 0.1 for sgd, 0.05 for momentum and nesterov, 0.002 for adam and
    adamw, 0.0005 for lion, 0.01 for muon. `jaxcnn lr` looks for one."""
    schedule: str = "cosine"
    """cosine (to 0 over the whole training), constant, steps (a tenth at 1/2 and at 3/4 of it) or onecycle."""
    warmup: float = 0.0
    """Epochs in which the learning rate grows from 0."""
    clip: float | None = None
    """The gradient's largest norm: a longer one is scaled down to it."""
    weight_decay: float | None = None
    """Decay of the kernels. When not given, 0.01 for adamw, 0 for others."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over all classes, for instance 0.1. The loss is computed with it in
    training, validation and test, as by torch.nn.CrossEntropyLoss; the accuracy is not affected."""
    augment: str = "auto"
    """none, or any of affine (small shifts, turns, scalings and shears), flip (left to right), crop (shifts by whole
    pixels), rotate, scale, colour, cutout and mixup, with commas between them; auto is affine for digits and mnist,
    flip,crop for cifar10, none for others. Other tasks than classification have their own: auto or none."""
    weights: Path | None = None
    """Weights to begin with: a .pth or .safetensors file of torchvision's or timm's names, a Flax checkpoint, or the
    folder of another run, whose best epoch counts."""
    fresh: str = "auto"
    """With --weights: layers that begin with new weights all the same, with commas between them, or none; auto is head
    for networks that name the class of an image, none for others."""
    freeze: str | None = None
    """Layers that do not learn, with commas between them: conv1,bn1,layer1."""
    ensemble: int = 0
    """Train this number of networks at once, which start at different weights and vote; 0 for a single network."""
    validation: float = 0.1
    """Share of the training data held out to choose the best epoch; 0 for none, then the last epoch counts."""
    fold: str | None = None
    """NUMBER/COUNT, for instance 2/5: cross-validation, where the second of five parts of the training data is held out
    in place of --validation. `jaxcnn sweep --folds 5` trains all five."""
    patience: int | None = None
    """Stop after this number of epochs without a better validation."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32; or bfloat16 or float16 (with a scaled loss), with parameters in float32."""
    ema: float | None = None
    """Decay of a moving average of the weights, for instance 0.999; the average is what is measured and kept."""
    accumulate: int = 1
    """Compute each batch in this number of parts, one after the other, for the memory of one."""
    remat: bool = False
    """Compute each block of the network a second time in the backward pass instead of keeping what it computed."""
    seed: int = 0
    """Of weights, order, dropout and augmentation."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How several devices share a batch: jit over a mesh, or pmap."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Recipe):
            object.__setattr__(self, field.name, _as_option(field.name, getattr(self, field.name)))
        check_types(dataclasses.asdict(self), "the recipe")

    def __repr__(self) -> str:
        """The settings that are not the default ones: `Recipe('lenet5', 'mnist', lr=0.01)`."""
        fields = [field for field in dataclasses.fields(self) if field.repr]
        first = [repr(self.model), *([repr(self.data)] if self.data is not None else [])]
        other = [
            f"{field.name}={value!r}"
            for field in fields
            if field.name not in ("model", "data") and (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join([*first, *other])})"

    @property
    def shape(self) -> tuple[int, int] | None:
        """`size` as (height, width)."""
        if self.size is None:
            return None
        found = numbers(self.size, 2)
        if found is None:
            raise UserError(f"--size {self.size}: expected height,width, for instance 180,240")
        return found[0], found[1]

    @property
    def part(self) -> tuple[int, int] | None:
        """`fold` as (number, count)."""
        if self.fold is None:
            return None
        found = numbers(self.fold.replace("/", ","), 2) if "," not in self.fold else None
        if found is None or found[0] > found[1] or found[1] < 2:
            raise UserError(f"--fold {self.fold}: expected NUMBER/COUNT, for instance 2/5 for the second of five parts")
        return found[0], found[1]

    @property
    def training_split(self) -> str:
        """The training split, with the slice of the first ones, up to `limit`."""
        return "train" if self.limit is None else f"train[:{self.limit}]"

    @property
    def model_options(self) -> dict[str, Any]:
        """`options` as arguments of the model: numbers, truth values, words."""
        options: dict[str, Any] = {}
        for part in words(self.options or ""):
            name, given, value = part.partition("=")
            if not given or not name.strip().isidentifier():
                raise UserError(
                    f"--options {self.options}: expected NAME=VALUE with commas between them, width=16,norm=true"
                )
            try:
                options[name.strip()] = json.loads(value.strip().lower())
            except ValueError:
                options[name.strip()] = value.strip()
        return options

    def build(self, classes: int, options: Mapping[str, Any] | None = None) -> Layer:
        """The network: made by its name, with its frozen layers, as an ensemble.

        Args:
          classes: the number of classes of the data.
          options: those of the model; `model_options` when None.
        """
        from jaxcnn.runs.trained import rebuilt

        chosen = self.model_options if options is None else options
        return rebuilt({**dataclasses.asdict(self), "model_options": dict(chosen)}, classes)

    def computed(self, model: Layer) -> Layer:
        """The network in the precision of the recipe, and with the memory of `remat`. Its variables are the same."""
        from jaxcnn.runs.trained import computed

        return computed(model, dataclasses.asdict(self))

    def absolute(self) -> Recipe:
        """The recipe with absolute paths, which stay right when `evaluate` is called from another folder."""
        model, data = self.model, self.data
        if ":" in model:
            file, _, function = model.rpartition(":")
            model = f"{Path(file).expanduser().absolute()}:{function}"
        if data and (os.sep in data or data.startswith(("~", "."))):
            data = str(Path(data).expanduser().absolute())
        paths = {name: getattr(self, name) for name in ("data_dir", "weights")}
        absolute = {name: path and path.expanduser().absolute() for name, path in paths.items()}
        return dataclasses.replace(self, model=model, data=data, **absolute)

    def as_config(self) -> dict[str, Any]:
        """The recipe as config.json has it."""
        found = dataclasses.asdict(self.absolute())
        return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}

    @staticmethod
    def of(config: Mapping[str, Any], where: str = "the recipe", strict: bool = False) -> Recipe:
        """The recipe in a config.json, or in another JSON or TOML file of the same names.

        Args:
          where: what to call it in an error.
          strict: whether a name that no recipe has is an error, too; config.json has more of them.

        Raises:
          UserError: for a value of another type, or an unknown name.
        """
        names = [field.name for field in dataclasses.fields(Recipe)]
        if strict and (strange := next((name for name in config if name not in names), None)) is not None:
            raise UserError(f"{where}: {unknown('option', strange, names)}")
        given = {name: _as_option(name, config[name]) for name in names if name in config}
        check_types(given, where)
        return Recipe(**given)

    @staticmethod
    def read(path: str | Path) -> Recipe:
        """The recipe in a file: a run's config.json, or JSON or TOML with some of the fields.

        Raises:
          UserError: when it cannot be read, or says something that no recipe has.
        """
        try:
            text = text_of(Path(path).expanduser())
            values = tomllib.loads(text) if str(path).endswith(".toml") else parsed(text)
        except (OSError, ValueError) as error:
            raise UserError(f"the recipe {path} cannot be read: {reason(error)}") from None
        if not isinstance(values, dict):
            raise UserError(f"the recipe {path} should hold an object of options, it holds {named(values)}")
        return Recipe.of(values, str(path), strict="examples" not in values)  # a run's config.json says them


def _as_option(name: str, value: Any) -> Any:
    """A value in the form of the command line, which config.json has, too."""
    if name in ("data_dir", "weights") and isinstance(value, str):
        return Path(value)
    if name == "options" and isinstance(value, Mapping):
        return ",".join(
            f"{key}={option if isinstance(option, str) else json.dumps(option)}" for key, option in value.items()
        )
    if name in ("augment", "freeze", "fresh", "size") and isinstance(value, (tuple, list)):
        joined = ",".join(map(str, value))
        return joined or ("none" if name != "freeze" else None)
    return value


def check_types(values: Mapping[str, Any], where: str) -> None:
    """Checks that values have the types of the fields of these names.

    Raises:
      UserError: for the first one that has not.
    """
    for name, expected in typing.get_type_hints(Recipe).items():
        kinds = [expected] if typing.get_origin(expected) is None else list(typing.get_args(expected))
        if name in values and not any(_has_type(values[name], kind) for kind in kinds):
            said = re.sub(r"<class '(\w+)'>|typing\.|pathlib\._?l?o?c?a?l?\.?", r"\1", str(expected))
            raise UserError(f"{where}: {name} is {_shown(values[name])}, expected {said}")


def _shown(value: Any) -> str:
    return named(value) if isinstance(value, (str, int, float, bool, list, dict, type(None))) else repr(value)


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type, or is a value of a Literal; a path may be a string."""
    if not isinstance(kind, type):
        return bool(value == kind)
    if kind is Path:
        return isinstance(value, (str, Path))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def words(text: str) -> tuple[str, ...]:
    """The words between commas; empty for "none"."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if found == ("none",) else found


def numbers(text: str, count: int) -> tuple[int, ...] | None:
    """`count` numbers above 0, with commas or an x between them; None for anything else."""
    parts = re.split(r"[,x]", text.strip("()[] "))
    if len(parts) != count or not all(re.fullmatch("[0-9]{1,9}", p.strip()) and int(p) > 0 for p in parts):
        return None
    return tuple(int(p) for p in parts)
