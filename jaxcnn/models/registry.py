"""The registry of models. `@model(...)` over a builder registers it, together with facts about the architecture."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from jaxcnn.core import Layer, layer
from jaxcnn.core import Path as LayerPath
from jaxcnn.errors import UserError, unknown

P = ParamSpec("P")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Published:
    """Published weights of a family of models: the names in their files, and their normalization of images.

    Attributes:
      family: the name of the family.
      torch: `model -> (path of a layer -> its name in torchvision's and timm's files)`.
      heads: paths of the layers that have one unit per class.
      training: prefixes of the names of layers that only training uses; a model without these layers ignores them.
      mean, std: the normalization of images from 0 to 1, per channel.
      size: the height and width of an image; None for images of any size.
      resize: the length to which the shorter side is brought before the central crop, and the interpolation.
      timm: as `torch`, for timm's files if they have other names and the network computes the same.
      older: a regular expression and its replacement, which turn names in older files into today's.
      keras: as `torch`, for a file of Keras; a name is the path of the layer's group.
      options: names and values of the builder's arguments without which the network differs a little from the one that
        was trained.
      bgr: paths of the layers whose input channels are blue, green and red in Keras's file; loading reverses them.
    """

    family: str
    torch: Callable[[Layer], Callable[[LayerPath], str]]
    heads: tuple[str, ...]
    training: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: int | None = 224
    resize: tuple[int, str] = (256, "bilinear")
    timm: Callable[[Layer], Callable[[LayerPath], str]] | None = None
    older: tuple[str, str] | None = None
    keras: Callable[[Layer], Callable[[LayerPath], str]] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    bgr: tuple[LayerPath, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A registered model.

    Attributes:
      make: `(classes=...) -> Layer`.
      about: a short description.
      input: the shape of the input it was designed for: (height, width, channels) of an image, (words,) of a sentence.
      fixed_size: whether the input must have this shape.
      task: its task, a name of `jaxcnn.tasks`.
      designed_for: the number of classes; None means ImageNet's 1000 for large images and 10 for small ones.
      more: the shapes and dtypes of an example's further inputs, after the first.
      published: its published weights, or None.
    """

    make: Callable[..., Layer]
    about: str
    input: Shape
    fixed_size: bool = False
    task: str = "classification"
    designed_for: int | None = None
    more: tuple[tuple[Shape, str], ...] = ()
    published: Published | None = None

    @property
    def classes(self) -> int:
        """The number of classes it was designed for."""
        return self.designed_for or (1000 if self.input[0] > 200 else 10)

    def example(self, shape: Shape | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The inputs for a batch of one example; `shape` replaces the shape of the first input."""
        first = self.input if shape is None else shape
        kinds = [(first, "float32" if len(first) == 3 else "int32"), *self.more]
        return tuple(jax.ShapeDtypeStruct((1, *shape), jnp.dtype(dtype)) for shape, dtype in kinds)


MODELS: dict[str, Entry] = {}
"""All models by name, in the order of the imports in `jaxcnn.models`."""

_PUBLISHED: dict[Callable[..., Layer], Published] = {}


def model(
    about: str,
    input: Shape,
    *,
    fixed_size: bool = False,
    task: str = "classification",
    classes: int | None = None,
    more: tuple[tuple[Shape, str], ...] = (),
    published: Published | None = None,
) -> Callable[[Callable[P, Layer]], Callable[P, Layer]]:
    """Decorates the builder of a model as `jaxcnn.layer` does, and registers it in `MODELS`.

    Args:
      about, input, fixed_size, task, more, published: as in `Entry`.
      classes: the number of classes it was designed for.
    """

    def decorate(make: Callable[P, Layer]) -> Callable[P, Layer]:
        made = layer(make)
        entry = Entry(made, about, input, fixed_size, task, classes, more, published)
        MODELS[make.__name__] = entry
        return with_weights(published)(made) if published else made

    return decorate


def with_weights(published: Published) -> Callable[[Callable[P, Layer]], Callable[P, Layer]]:
    """Decorates a general builder such as `resnet(blocks)`, whose models fit the published weights of their family."""

    def decorate(made: Callable[P, Layer]) -> Callable[P, Layer]:
        _PUBLISHED[made] = published
        return made

    return decorate


def published_weights(model: Layer) -> Published | None:
    """The published weights of the family of a model, which may be transformed; None if there are none."""
    call = model.original.call
    return None if call is None else _PUBLISHED.get(call.maker)


def families() -> dict[str, Published]:
    """The families with published weights by name."""
    return {published.family: published for published in _PUBLISHED.values()}


def make(name: str, classes: int = 10, **options: Any) -> Layer:
    """The model called `name`: `cnn.models.NAME(classes=classes, **options)`, without `classes` if it takes none.

    Args:
      name: a name in `MODELS`, or `path/to/file.py:function` for a user's model: a function of `classes` that returns a
        Layer.

    Raises:
      UserError: for an unknown name (the message suggests the nearest ones), an option that the model does not have, or
        a file or function that does not exist.
    """
    function = _from_file(name) if ":" in name else MODELS[name].make if name in MODELS else None
    if function is None:
        raise unknown_model(name)
    takes = inspect.signature(function).parameters
    if "classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        options["classes"] = classes
    try:
        made = function(**options)
    except TypeError as error:
        raise UserError(f"{name}: {error}") from error
    if not isinstance(made, Layer):
        raise UserError(f"{name} should return a Layer; it returned {type(made).__name__}")
    return made


def unknown_model(name: str) -> UserError:
    """An error for a name that is not in `MODELS`."""
    if name.endswith(".py"):
        return UserError(f"{name}: expected file.py:function, the function that returns the network")
    return unknown("model", name, MODELS)


class _Source(importlib.machinery.SourceFileLoader):
    """Always compiles the file itself, because a cached version in `__pycache__` may differ."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def _from_file(name: str) -> Callable[..., Layer]:
    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{name}: there is no file {path}; expected a name, or file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Source(path.stem, str(path)))
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise UserError(f"{name}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        made = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == path.stem]
        raise UserError(f"{name}: {path} has no function {function}; it has {', '.join(made) or 'none'}")
    return getattr(module, function)
