"""Architectures, one file each, to be read beside their papers: `cnn.models.NAME(classes=...) -> Layer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

    Raises:
      UserError: for an unknown name (with the nearest ones), or an option that the model does not have.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    try:
        return MODELS[name].make(classes=classes, **options)
    except TypeError as error:
        raise UserError(f"{name}: {error}") from error
