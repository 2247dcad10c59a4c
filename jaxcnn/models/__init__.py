"""Architectures, one file each, to be read beside their papers: `cnn.models.NAME(classes=...) -> Layer`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core import Layer
from jaxcnn.errors import UserError, unknown
from jaxcnn.models.alexnet import alexnet, alexnet_2012, alexnet_single
from jaxcnn.models.cifar_resnet import (
    cifar_resnet,
    plain20,
    plain32,
    plain44,
    plain56,
    plain110,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)
from jaxcnn.models.convnet import convnet
from jaxcnn.models.convolutional import convolutional
from jaxcnn.models.fast_rcnn import fast_rcnn
from jaxcnn.models.fcn import fcn, fcn8s, fcn16s, fcn32s
from jaxcnn.models.flownet import flownet_c, flownet_s
from jaxcnn.models.googlenet import googlenet, googlenet_2014
from jaxcnn.models.hed import hed
from jaxcnn.models.lecture_cnn import lecture_cnn
from jaxcnn.models.lenet import lenet5, lenet5_1998
from jaxcnn.models.logistic import logistic
from jaxcnn.models.mlp import mlp
from jaxcnn.models.rcnn import rcnn
from jaxcnn.models.resnet import resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from jaxcnn.models.text_cnn import text_cnn
from jaxcnn.models.vgg import vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from jaxcnn.models.vqa import vqa_cnn, vqa_relation

__all__ = [
    "MODELS",
    "Entry",
    "alexnet",
    "alexnet_2012",
    "alexnet_single",
    "cifar_resnet",
    "convnet",
    "convolutional",
    "fast_rcnn",
    "fcn",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "flownet_c",
    "flownet_s",
    "googlenet",
    "googlenet_2014",
    "hed",
    "lecture_cnn",
    "lenet5",
    "lenet5_1998",
    "logistic",
    "make",
    "mlp",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "plain110",
    "rcnn",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet1202",
    "text_cnn",
    "vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vqa_cnn",
    "vqa_relation",
]


@dataclass(frozen=True)
class Entry:
    """A named model.

    Attributes:
      make: `(classes=...) -> Layer`.
      input: the shape of the input it was designed for: (height, width, channels) of an image, (words,) of a sentence.
      fixed_size: whether it needs that size.
      about: what it is.
      task: what it does, a name of `jaxcnn.tasks`.
      designed_for: how many classes; when not given, ImageNet's 1000 for large images and 10 for small ones.
      more: the shapes and dtypes of one example's other inputs, behind the first.
    """

    make: Callable[..., Layer]
    input: tuple[int, ...]
    fixed_size: bool
    about: str
    task: str = "classify"
    designed_for: int | None = None
    more: tuple[tuple[tuple[int, ...], str], ...] = ()

    @property
    def classes(self) -> int:
        """How many classes it was designed for."""
        return self.designed_for or (1000 if self.input[0] > 200 else 10)

    def example(self, shape: tuple[int, ...] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The inputs of a batch of one; `shape` stands for that of the first."""
        first = self.input if shape is None else shape
        kinds = [(first, "float32" if len(first) == 3 else "int32"), *self.more]
        return tuple(jax.ShapeDtypeStruct((1, *shape), jnp.dtype(dtype)) for shape, dtype in kinds)


_IMAGENET, _IMAGENET_227, _CIFAR = (224, 224, 3), (227, 227, 3), (32, 32, 3)
_REGIONS, _SECOND = ((64, 4), "float32"), ((384, 512, 3), "float32")
_QUESTION = ((16,), "int32")

# fmt: off
MODELS: dict[str, Entry] = {
    "logistic": Entry(logistic, (28, 28, 1), False, "logistic regression: one linear layer"),
    "mlp": Entry(mlp, (28, 28, 1), False, "multilayer perceptron, 128 hidden units"),
    "lenet5": Entry(lenet5, (32, 32, 1), True, "LeNet-5, the modern form (LeCun et al. 1998)"),
    "lenet5_1998": Entry(lenet5_1998, (32, 32, 1), True, "LeNet-5, the paper's: trainable pooling, RBF output (1998)"),
    "lecture_cnn": Entry(lecture_cnn, _CIFAR, True, "the lectures' exercise network: 2 conv, 3 dense layers"),
    "convnet": Entry(convnet, _CIFAR, False, "[(conv-relu)*n - pool]*m - (fc-relu)*k: the lectures' pattern"),
    "alexnet": Entry(alexnet, _IMAGENET, False, "AlexNet, torchvision's, in one column (Krizhevsky 2014)"),
    "alexnet_2012": Entry(alexnet_2012, _IMAGENET_227, True, "AlexNet, the paper's, in two groups (2012)"),
    "alexnet_single": Entry(alexnet_single, _IMAGENET_227, True, "AlexNet, the lectures' table, without groups (2012)"),
    "vgg11": Entry(vgg11, _IMAGENET, False, "VGG, 11 layers (Simonyan and Zisserman 2014)"),
    "vgg13": Entry(vgg13, _IMAGENET, False, "VGG, 13 layers (2014)"),
    "vgg16": Entry(vgg16, _IMAGENET, False, "VGG, 16 layers (2014)"),
    "vgg19": Entry(vgg19, _IMAGENET, False, "VGG, 19 layers (2014)"),
    "vgg11_bn": Entry(vgg11_bn, _IMAGENET, False, "VGG, 11 layers (2014), with batch normalization (2015)"),
    "vgg13_bn": Entry(vgg13_bn, _IMAGENET, False, "VGG, 13 layers (2014), with batch normalization (2015)"),
    "vgg16_bn": Entry(vgg16_bn, _IMAGENET, False, "VGG, 16 layers (2014), with batch normalization (2015)"),
    "vgg19_bn": Entry(vgg19_bn, _IMAGENET, False, "VGG, 19 layers (2014), with batch normalization (2015)"),
    "googlenet": Entry(googlenet, _IMAGENET, False, "GoogLeNet, torchvision's: 3x3, batch normalization (2015)"),
    "googlenet_2014": Entry(googlenet_2014, _IMAGENET, False, "GoogLeNet, the paper's (Szegedy et al. 2014)"),
    "resnet18": Entry(resnet18, _IMAGENET, False, "residual network, 18 layers (He et al. 2015)"),
    "resnet34": Entry(resnet34, _IMAGENET, False, "residual network, 34 layers (2015)"),
    "resnet50": Entry(resnet50, _IMAGENET, False, "residual network, 50 layers in bottlenecks (2015)"),
    "resnet101": Entry(resnet101, _IMAGENET, False, "residual network, 101 layers in bottlenecks (2015)"),
    "resnet152": Entry(resnet152, _IMAGENET, False, "residual network, 152 layers in bottlenecks (2015)"),
    "resnet20": Entry(resnet20, _CIFAR, False, "residual network for CIFAR, 20 layers (He et al. 2015)"),
    "resnet32": Entry(resnet32, _CIFAR, False, "residual network for CIFAR, 32 layers (2015)"),
    "resnet44": Entry(resnet44, _CIFAR, False, "residual network for CIFAR, 44 layers (2015)"),
    "resnet56": Entry(resnet56, _CIFAR, False, "residual network for CIFAR, 56 layers (2015)"),
    "resnet110": Entry(resnet110, _CIFAR, False, "residual network for CIFAR, 110 layers (2015)"),
    "resnet1202": Entry(resnet1202, _CIFAR, False, "residual network for CIFAR, 1202 layers (2015)"),
    "plain20": Entry(plain20, _CIFAR, False, "resnet20 without its shortcuts (2015)"),
    "plain32": Entry(plain32, _CIFAR, False, "resnet32 without its shortcuts (2015)"),
    "plain44": Entry(plain44, _CIFAR, False, "resnet44 without its shortcuts (2015)"),
    "plain56": Entry(plain56, _CIFAR, False, "resnet56 without its shortcuts (2015)"),
    "plain110": Entry(plain110, _CIFAR, False, "resnet110 without its shortcuts (2015)"),
    "fcn32s": Entry(fcn32s, (240, 320, 3), False, "a class a pixel, from stride 32 (Long et al. 2015)", "segment", 21),
    "fcn16s": Entry(fcn16s, (240, 320, 3), False, "a class a pixel, from stride 16 (2015)", "segment", 21),
    "fcn8s": Entry(fcn8s, (240, 320, 3), False, "a class a pixel, from stride 8 (2015)", "segment", 21),
    "rcnn": Entry(rcnn, (240, 320, 3), False, "boxes: regions, each classified (Girshick et al. 2014)", "detect", 20,
                  (_REGIONS,)),
    "fast_rcnn": Entry(fast_rcnn, (240, 320, 3), False, "boxes: one feature map, RoI pooling (Girshick 2015)", "detect",
                       20, (_REGIONS,)),
    "hed": Entry(hed, (240, 320, 3), False, "boundaries, from five side outputs (Xie and Tu 2015)", "boundaries", 1),
    "flownet_s": Entry(flownet_s, (384, 512, 3), False, "optical flow of two images (Fischer et al. 2015)", "flow", 2,
                       (_SECOND,)),
    "flownet_c": Entry(flownet_c, (384, 512, 3), False, "optical flow by correlation (2015)", "flow", 2, (_SECOND,)),
    "text_cnn": Entry(text_cnn, (56,), False, "the class of a sentence, words 3, 4, 5 at a time (Kim 2014)", "text", 2),
    "vqa_cnn": Entry(vqa_cnn, (75, 75, 3), True, "questions about a picture: CNN and MLP (2017)", "vqa", 12,
                     (_QUESTION,)),
    "vqa_relation": Entry(vqa_relation, (75, 75, 3), True, "relation network (Santoro et al. 2017)", "vqa", 12,
                          (_QUESTION,)),
}
# fmt: on


def make(name: str, classes: int = 10, **options: Any) -> Layer:
    """The model called `name`, as `cnn.models.NAME(classes=classes, **options)`; without classes, where it has none.

    Args:
      name: a name in `MODELS`, or `path/to/file.py:function` for a model of one's own: a function of `classes` that
        returns a Layer.

    Raises:
      UserError: for an unknown name (with the nearest ones), an option that the model does not have, or a file or
        function that is not there.
    """
    function = _from_file(name) if ":" in name else MODELS[name].make if name in MODELS else None
    if function is None:
        raise unknown_model(name)
    takes = inspect.signature(function).parameters
    if "classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        options["classes"] = classes
    try:
        model = function(**options)
    except TypeError as error:
        raise UserError(f"{name}: {error}") from error
    if not isinstance(model, Layer):
        raise UserError(f"{name} should return a Layer, it returned {type(model).__name__}")
    return model


def unknown_model(name: str) -> UserError:
    """An error for a name that is none of `MODELS`."""
    if name.endswith(".py"):
        return UserError(f"{name}: expected file.py:function, the function that returns the network")
    return unknown("model", name, MODELS)


class _Source(importlib.machinery.SourceFileLoader):
    """Executes the file itself: what lies in `__pycache__` beside it may be something else."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def _from_file(name: str) -> Callable[..., Layer]:
    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{name}: there is no file {path}; expected a name, or file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Source(path.stem, str(path)))
    if spec is None or spec.loader is None:
        raise UserError(f"{name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        made = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == path.stem]
        raise UserError(f"{name}: {path} has no function {function}; it has {', '.join(made) or 'none'}")
    return getattr(module, function)
