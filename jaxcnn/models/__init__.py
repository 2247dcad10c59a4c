"""Architectures, one file each, to be read beside their papers: `cnn.models.NAME(classes=...) -> Layer`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.core import Layer
from jaxcnn.errors import UserError, unknown
from jaxcnn.models.convnet import convnet
from jaxcnn.models.lecture_cnn import lecture_cnn
from jaxcnn.models.lenet import lenet5
from jaxcnn.models.logistic import logistic
from jaxcnn.models.mlp import mlp

__all__ = ["MODELS", "Entry", "convnet", "lecture_cnn", "lenet5", "logistic", "make", "mlp"]


@dataclass(frozen=True)
class Entry:
    """A named model: how to make it, the input it was designed for, whether it needs that size, and what it is."""

    make: Callable[..., Layer]
    input: tuple[int, int, int]
    fixed_size: bool
    about: str


MODELS: dict[str, Entry] = {
    "logistic": Entry(logistic, (28, 28, 1), False, "logistic regression: one linear layer"),
    "mlp": Entry(mlp, (28, 28, 1), False, "multilayer perceptron, 128 hidden units"),
    "lenet5": Entry(lenet5, (32, 32, 1), True, "LeNet-5, the modern form (LeCun et al. 1998)"),
    "lecture_cnn": Entry(lecture_cnn, (32, 32, 3), True, "the lectures' exercise network: 2 conv, 3 dense layers"),
    "convnet": Entry(convnet, (32, 32, 3), False, "[(conv-relu)*n - pool]*m - (fc-relu)*k: the lectures' pattern"),
}


def make(name: str, classes: int = 10, **options: Any) -> Layer:
    """The model called `name`, as `cnn.models.NAME(classes=classes, **options)`.

    Args:
      name: a name in `MODELS`, or `path/to/file.py:function` for a model of one's own: a function of `classes` that
        returns a Layer.

    Raises:
      UserError: for an unknown name (with the nearest ones), an option that the model does not have, or a file or
        function that is not there.
    """
    function = _from_file(name) if ":" in name else MODELS[name].make if name in MODELS else None
    if function is None:
        raise unknown("model", name, MODELS)
    try:
        model = function(classes=classes, **options)
    except TypeError as error:
        raise UserError(f"{name}: {error}") from error
    if not isinstance(model, Layer):
        raise UserError(f"{name} should return a Layer, it returned {type(model).__name__}")
    return model


def _from_file(name: str) -> Callable[..., Layer]:
    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{name}: there is no file {path}; expected a name, or file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        made = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == path.stem]
        raise UserError(f"{name}: {path} has no function {function}; it has {', '.join(made) or 'none'}")
    return getattr(module, function)
