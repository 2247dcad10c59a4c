"""The names and axes of variables in files of torchvision, timm, Flax and Keras.

Names, this package's on the left:

    ResNet      layer1/block2/conv1             layer1.1.conv1                          torchvision, timm
                layer1/block2/shortcut/conv, bn layer1.1.downsample.0, .1
                layer1/block2/conv1             BottleneckResNetBlock_1/Conv_0          Flax's example
    GoogLeNet   inception3a/branch2/reduce/conv inception3a.branch2.0.conv
    VGG,        conv1_2, bn1_2                  features.2, .3: numbers count all layers
    AlexNet     fc6, fc7, fc8                   classifier.0, .3, .6
                fc6, fc7, fc8                   pre_logits.fc1, pre_logits.fc2, head.fc timm's VGG
    DenseNet    denseblock1/denselayer2/conv1   features.denseblock1.denselayer2.conv1  torchvision, timm
    Inception   Mixed_5b/branch5x5_2/bn         Mixed_5b.branch5x5_2.bn                 torchvision, timm
    RegNet      stage1/block2/se/fc1            trunk_output.block1.block1-1.f.se.fc1
                stage1/block2/conv1, bn1        s1.b2.conv1.conv, s1.b2.conv1.bn        timm's
    ConvNeXt    stage1/block2/fc1               features.1.1.block.3
                stage1/block2/fc1               stages.0.blocks.1.mlp.fc1               timm's
    DeepLab     classifier/aspp/rate12/conv     classifier.0.convs.1.0
    MobileNet,  block3/depthwise/conv           features.3.conv.1.0                     all layers counted
    EfficientNet, stage2/block1/squeeze/fc1     features.2.0.block.2.fc1
    MNASNet     stage2/block1/depthwise/conv    blocks.1.0.conv_dw                      timm's

Arrays, PyTorch's on the right:

    kernel of conv   (H, W, C, K)               weight (K, C, H, W)
    kernel of dense  (D, K)                     weight (K, D); after flattening, D = H W C here, C H W in PyTorch
    scale, bias      params of batch_norm       weight, bias
    mean, var        state of batch_norm        running_mean, running_var; num_batches_tracked counts steps
    value            params of param            a parameter of the layer's own name
    scale (C,)       params of layer_scale      a parameter (C, 1, 1) of the layer's own name; timm's is (C,)

Flax's arrays are the same, except that the kernel of `nn.ConvTranspose` is flipped, and that `nn.Embed` and `nn.PReLU`
have other names.

Keras numbers the arrays of a layer, `conv1/vars/0` and so on: a kernel before its bias; gamma, beta, moving_mean and
moving_variance of batch normalization. The axes of its kernels are ours, with two exceptions, on the right:

    kernel of conv, one group per channel (H, W, 1, C M)    DepthwiseConv2D (H, W, C, M)
    kernel of conv_transpose (H, W, C, K)                   Conv2DTranspose (H, W, K, C)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn import core
from jaxcnn.core import Layer, Path, get, leaves, shapes_of
from jaxcnn.errors import UserError, unknown
from jaxcnn.models.blocks import counted_names
from jaxcnn.transforms import is_frozen, split, synchronized

Namer = Callable[[Path], str]
"""The path of a layer -> its name in the file."""


def timm_vgg(model: Layer) -> Namer:
    """The names of timm's VGG, whose hidden dense layers are convolutions."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    torch = counted_names(model)
    return lambda path: names.get(torch(path), torch(path))


def flax_resnet(model: Layer) -> Namer:
    """The names of the ResNet in Flax's ImageNet example, which numbers the blocks of all stages in one sequence."""
    blocks = [(s, b) for s in model.sublayers if s.startswith("layer") for b in model.sublayers[s].sublayers]
    stage, block = blocks[0]
    kind = "BottleneckResNetBlock" if "conv3" in model.sublayers[stage].sublayers[block].sublayers else "ResNetBlock"
    inside = {"shortcut/conv": "conv_proj", "shortcut/bn": "norm_proj"}
    for i in (1, 2, 3):
        inside |= {f"conv{i}": f"Conv_{i - 1}", f"bn{i}": f"BatchNorm_{i - 1}"}
    outside = {"conv1": "conv_init", "bn1": "bn_init", "fc": "Dense_0"}

    def name(path: Path) -> str:
        if len(path) == 1:
            return outside.get(path[0], "")  # a layer without variables has no name
        stage, block, *rest = path
        return f"{kind}_{blocks.index((stage, block))}/{inside.get('/'.join(rest), '')}"

    return name


def option(model: Layer, name: str, default: Any) -> Any:
    """The value of an option in the call that made the model."""
    call = model.original.call
    return default if call is None else call.kwargs.get(name, default)


def by_user(names: Mapping[str, str] | Callable[[str], str], model: Layer, kind: str = "torch") -> Namer:
    """Names from the user. A layer that is not in the dict keeps its path, written with dots in PyTorch's files.

    The path of a network in the dict stands for all its layers: their names begin with its name, and end with their
    path in it. The dict may also name single variables, which are not for this function but for `variables`; see
    `exact`.

    Raises:
      UserError: for a path in the dict that the model does not have, or a name that is not a string.
    """
    paths, networks = {"/".join(path) for path, _ in leaves(model)}, _networks(model)
    sign = "." if kind == "torch" else "/"
    if not callable(names):
        if not isinstance(names, Mapping):
            raise UserError(f"names={names!r}: expected a dict or a function from a layer's path to the file's name")
        if strange := [p for p in names if p not in paths and p not in networks and not _inside(p, paths)]:
            raise unknown("layer in names=", str(strange[0]), paths | networks)

    def name(path: Path) -> str:
        ours = "/".join(path)
        there: Any = ours.replace("/", sign)
        if callable(names):
            there = names(ours)
        else:
            outer = [path[:n] for n in range(len(path), 0, -1) if "/".join(path[:n]) in names]
            if outer:  # the longest path counts
                begins, rest = names["/".join(outer[0])], path[len(outer[0]) :]
                there = sign.join((*([begins] if begins else []), *rest)) if isinstance(begins, str) else begins
        if not isinstance(there, str):
            raise UserError(f"names= gives {there!r} for {ours}: expected the name in the file, a string")
        return there

    return name


def _networks(model: Layer) -> set[str]:
    """The paths of the networks inside a network."""
    return {"/".join(path[:n]) for path, _ in leaves(model) for n in range(1, len(path))}


def _inside(path: Any, layers: set[str]) -> bool:
    """Whether this can be the path of a variable of one of the layers."""
    parts = str(path).split("/")
    return any("/".join(parts[:n]) in layers for n in range(1, len(parts)))


def exact(names: Any, model: Layer) -> dict[str, str]:
    """The names of single variables in a user's dict: `{"block1/scale/value": "blocks.0.gamma"}`."""
    if not isinstance(names, Mapping):
        return {}
    paths = {"/".join(path) for path, _ in leaves(model)} | _networks(model)
    found = {path: name for path, name in names.items() if path not in paths}
    for path, name in found.items():
        if not isinstance(name, str):
            raise UserError(f"names= gives {name!r} for {path}: expected the name in the file, a string")
    return found


# --- arrays ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """One array of a model.

    Attributes:
      path: the variable's path, `("layer1", "block2", "conv1", "kernel")`.
      home: its place in `(params, state)`: 0 or 1, and the path in that dict.
      shape, dtype: those that `init` gives it.
      kind: the kind of its layer: `"conv"`, `"dense"`, ...
      map: the shape `(H, W, C)` of the map that was flattened before a dense layer, or None.
      name: its name in the file.
    """

    path: Path
    home: tuple[int, Path]
    shape: tuple[int, ...]
    dtype: Any
    kind: str
    map: tuple[int, ...] | None
    name: str

    @property
    def there(self) -> tuple[int, ...]:
        """The shape in a file with PyTorch's axes."""
        if self.kind == "layer_scale":
            return (*self.shape, 1, 1)
        if self._turned is None:
            return self.shape
        shape = dict(enumerate(self.shape))
        first = [shape.pop(axis % len(self.shape)) for axis in self._turned]
        return (*first, *shape.values())

    @property
    def _turned(self) -> tuple[int, int] | None:
        """The axes that are PyTorch's first and second; None if the axes are in the same order."""
        turned = {"conv": (-1, -2), "dense": (-1, -2), "conv_transpose": (-2, -1)}
        return turned.get(self.kind) if self.path[-1] == "kernel" else None

    def from_torch(self, array: np.ndarray) -> np.ndarray | None:
        """The array of the file with this package's axes, or None if its shape does not fit."""
        if self.kind == "layer_scale" and array.shape == self.there:
            return array.reshape(self.shape)
        if self._turned is None:
            return array if array.shape == self.shape else None
        if self.kind == "dense":
            # PyTorch flattens the channels first. timm's VGG has a convolution over the whole map instead.
            *size, channels = self.map or (1, 1, self.shape[0])
            whole = (self.shape[1], channels, *size)
            if array.shape not in (self.there, whole):
                return None
            return np.moveaxis(array.reshape(whole), (0, 1), (-1, -2)).reshape(self.shape)
        return np.moveaxis(array, (0, 1), self._turned) if array.shape == self.there else None

    def from_flax(self, array: np.ndarray) -> np.ndarray:
        """Converts an array of the file: `nn.ConvTranspose` does not flip its kernel, `nn.PReLU` has one number."""
        if self.kind == "conv_transpose" and self.path[-1] == "kernel":
            return np.flip(array, tuple(range(array.ndim - 2)))
        return array.reshape(self.shape) if self.kind == "prelu" and array.size == 1 == self.shape[0] else array

    def from_jaxcnn(self, array: np.ndarray) -> np.ndarray:
        """The array of a run, which has this package's axes."""
        return array

    def from_keras(self, array: np.ndarray) -> np.ndarray | None:
        """The array of Keras's file with this package's axes, or None if its shape does not fit."""
        if self.kind == "conv_transpose" and self.path[-1] == "kernel" and array.ndim == len(self.shape):
            array = np.swapaxes(array, -1, -2)
        alike = (
            array.ndim == len(self.shape)
            and array.shape[:-2] == self.shape[:-2]
            and array.size == math.prod(self.shape)
        )
        if self.kind == "conv" and self.path[-1] == "kernel" and self.shape[-2] == 1 and alike:
            return array.reshape(self.shape)
        if self.kind == "prelu" and array.shape[-1:] == self.shape and array.size == self.shape[0]:
            return array.reshape(self.shape)
        return array if array.shape == self.shape else None

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The array with PyTorch's axes."""
        if self._turned is None:
            return array.reshape(self.there)
        if self.kind == "dense" and self.map is not None:
            array = array.reshape(*self.map, self.shape[1])
        return np.moveaxis(array, self._turned, (0, 1)).reshape(self.there)


def variables(
    model: Layer, inputs: Sequence[Any], name: Namer, kind: str = "torch", single: Mapping[str, str] | None = None
) -> list[Variable]:
    """The arrays of a model for inputs of these shapes, in the order of the code, with their names in a file.

    Args:
      name: the name of a layer in the file.
      kind: the library that wrote the file, `"torch"`, `"flax"`, `"keras"` or `"jaxcnn"`.
      single: the names of variables, by path, that differ from what follows from their layer's name.

    Raises:
      UserError: for a path in `single` that the model does not have.
    """
    single = single or {}
    key = jax.random.key(0)
    model = core.unwrap(model, synchronized)  # no axis is mapped here
    params, state = shapes_of(model, key, *inputs)
    maps = _Maps()
    with core.watch(maps):
        # Two images, because batch normalization in training needs more than one value.
        inputs = [jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) if x.shape[:1] == (1,) else x for x in inputs]
        jax.eval_shape(lambda p, s, k, *xs: model.apply(p, s, *xs, train=True, key=k), params, state, key, *inputs)
    found = []
    for path, leaf in leaves(model):
        own = get(state, path) or {}
        if not is_frozen(leaf):
            homes: list[tuple[int, Path, Any]] = [(0, path, get(params, path) or {}), (1, path, own)]
        else:
            kept, own = split(own)
            homes = [(1, (*path, "frozen"), kept), (1, path, own)]
        # A layer without variables may have no name in the file.
        there = name(path) if any(jax.tree.leaves(values) for *_, values in homes) else ""
        what, number = _kind(leaf), 0
        for place, (tree, at, values) in enumerate(homes):
            # A user's layer may nest its variables.
            for keys, struct in sorted(jax.tree.leaves_with_path(values), key=lambda leaf: leaf[0][-1].key == "bias"):
                inner = tuple(str(k.key) for k in keys)
                full = _joined(there, inner, what, kind, place, number)
                number += 1
                found.append(
                    Variable((*path, *inner), (tree, (*at, *inner)), struct.shape, struct.dtype, what,
                             maps.behind.get(path), single.get("/".join((*path, *inner)), full))
                )  # fmt: skip
    paths = ["/".join(variable.path) for variable in found]
    if strange := [path for path in single if path not in paths]:
        raise unknown("variable in names=", strange[0], paths)
    return found


def _joined(there: str, inner: Path, what: str, kind: str, place: int, number: int) -> str:
    """The name of a variable in a file: from its layer's name `there`, its own path there, and its number."""
    if kind == "keras":
        return f"{there}/vars/{number}"
    if kind == "jaxcnn":
        return "/".join((*([there] if there else []), *inner))
    named = _suffix(inner, what, kind)
    if kind == "flax":
        return f"{('params', 'batch_stats')[place]}/{there}/{named}"
    return ".".join(part for part in (there, named) if part)


_FLAX = {("embed", "kernel"): "embedding", ("prelu", "slope"): "negative_slope"}
_TORCH = {"kernel": "weight", "scale": "weight", "slope": "weight", "mean": "running_mean", "var": "running_var"}


def _kind(leaf: Layer) -> str:
    """The name of the function in `jaxcnn.layers` that made the layer; empty for other layers."""
    call = leaf.original.call
    ours = call is not None and getattr(call.maker, "__module__", "").startswith("jaxcnn.layers.")
    return call.name if call is not None and ours else ""


def _suffix(inner: Path, kind: str, file: str) -> str:
    if file == "flax":
        return "/".join(_FLAX.get((kind, name), name) for name in inner)
    if kind in ("param", "layer_scale"):
        return ""
    return ".".join(_TORCH.get(name, name) if kind else name for name in inner)


class _Maps(core.Watcher):
    """Finds the dense layers that follow a flattened map, and the shape of that map.

    It follows the flattened array through layers that keep its shape (dropout, an activation). If the function of a
    network flattens between two layers, it is taken to be the last map, provided that has as many numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.behind: dict[Path, tuple[int, ...]] = {}
        self._from: dict[int, tuple[int, ...] | None] = {}
        self._held: list[Any] = []  # keeps the arrays alive, so that no new array gets the same `id`
        self._last: tuple[int, ...] = ()

    def called(self, layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
        if not layer.is_leaf or not inputs or not hasattr(inputs[0], "ndim") or not hasattr(output, "ndim"):
            return
        x = inputs[0]
        if x.ndim > 2:
            self._last = x.shape[1:]
        flattened = None
        if x.ndim == 2:
            # An array that no layer returned comes from the function of a network.
            flattened = self._from[id(x)] if id(x) in self._from else self._guess(x.shape[1])
            if _kind(layer) == "dense":
                if flattened is not None:
                    self.behind[self.path] = flattened
                flattened = None
            elif output.shape != x.shape:
                flattened = None
        elif x.ndim > 2 and output.ndim == 2:
            flattened = self._guess(output.shape[1])
        if output.ndim > 2:
            self._last = output.shape[1:]
        self._from[id(output)] = flattened
        self._held += [x, output]

    def _guess(self, size: int) -> tuple[int, ...] | None:
        """The last map, if it has as many numbers and more than one pixel."""
        return self._last if math.prod(self._last) == size and math.prod(self._last[:-1]) > 1 else None
