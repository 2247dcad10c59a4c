"""A network as a tree of layers: paths and changes of leaves."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator

from jaxcnn.core.layer import Call, Layer, LayerError
from jaxcnn.core.network import network
from jaxcnn.core.variables import Path
from jaxcnn.errors import UserError, unknown


def leaves(model: Layer, at: Path = ()) -> Iterator[tuple[Path, Layer]]:
    """The paths and leaves of a network, in the order of the code."""
    if model.inner is not None:
        yield from leaves(model.inner, at)
    elif model.forward is None:
        yield at, model
    else:
        for name, inner in model.sublayers.items():
            yield from leaves(inner, (*at, name))


def sublayer(model: Layer, path: str) -> Layer:
    """The layer at a path such as `"layer1/block2"`.

    Raises:
      UserError: when there is no such layer; the message suggests the nearest names.
    """
    done: list[str] = []
    for name in path.split("/"):
        if done and not model.sublayers:
            raise UserError(f"unknown layer {path!r}: {'/'.join(done)} has no layers inside")
        if name not in model.sublayers:
            raise unknown("layer", path, ["/".join([*done, n]) for n in model.sublayers])
        model = model.sublayers[name]
        done.append(name)
    return model


def lies_in(path: str, pattern: str) -> bool:
    """Whether the path of a layer or variable is `pattern`, or inside it: `"layer4/conv1/kernel"` in `"layer4"`.

    In a pattern, `*` stands for any characters, `/` included, and `?` for one: `"layer?/*/bias"`.
    """
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")


def map_leaves(
    model: Layer, change: Callable[[str, Layer], Layer], *, call: Callable[[Layer], Call] | None = None
) -> Layer:
    """The network with each leaf replaced by `change(path, leaf)`, where path is e.g. `"layer1/block2/conv1"`.

    Names and paths stay, so variables keep their places if the new leaves have the same ones. A network in which
    nothing changes is returned itself.

    Args:
      model: a Layer; if it is a leaf, its path is `""`.
      change: returns the new leaf, or the same one to leave it unchanged.
      call: what `repr` shows of a changed network; `map_leaves(model, change)` by default.

    Example:
      >>> def leaky(path, leaf):  # replaces every ReLU
      ...     return as_layer(jax.nn.leaky_relu) if leaf.kind == "relu" else leaf
      >>> model = map_leaves(model, leaky)
    """
    called = call or (lambda changed: Call(map_leaves, (changed, change)))

    def mapped(layer: Layer, path: str) -> Layer:
        if layer.inner is not None and layer.wrap is not None:
            inner = mapped(layer.inner, path)
            return layer if inner is layer.inner else _of(layer.wrap(inner), layer, called)
        if layer.forward is None:
            return change(path, layer)
        sublayers = {name: mapped(inner, f"{path}/{name}".lstrip("/")) for name, inner in layer.sublayers.items()}
        if all(sublayers[name] is inner for name, inner in layer.sublayers.items()):
            return layer
        return _of(network(layer.forward, **sublayers), layer, called)

    if not isinstance(model, Layer):
        raise LayerError(f"map_leaves takes a Layer first, got {model!r}")
    return mapped(model, "")


def map_at(
    model: Layer, paths: tuple[str, ...], change: Callable[[Layer], Layer], maker: Callable[..., Layer]
) -> Layer:
    """The network with each layer at one of these paths replaced by `change(layer)`.

    Args:
      maker: the public function that is called as `maker(model, *paths)`; `repr` and errors name it.

    Raises:
      LayerError: when `model` is not a Layer, or a path is not a string.
      UserError: for a path that does not exist.
    """
    name = maker.__name__
    if not isinstance(model, Layer):
        raise LayerError(f"{name} takes a Layer first, got {model!r}")
    for path in paths:
        if not isinstance(path, str):
            raise LayerError(f"{name} takes paths of layers after the model, got {path!r}")
        sublayer(model, path)

    def mapped(layer: Layer, below: tuple[str, ...]) -> Layer:
        if layer.inner is not None and layer.wrap is not None:
            made = layer.wrap(mapped(layer.inner, below))
        elif layer.forward is not None:
            made = network(layer.forward, **{n: at(inner, n, below) for n, inner in layer.sublayers.items()})
        else:
            raise LayerError(f"{layer!r} has no layers inside: call {name} without paths")
        return _of(made, layer, lambda layer: Call(maker, (layer, *below)))

    def at(inner: Layer, name: str, paths: tuple[str, ...]) -> Layer:
        below = tuple(p.removeprefix(f"{name}/") for p in paths if p.startswith(f"{name}/"))
        return change(inner) if name in paths else mapped(inner, below) if below else inner

    return mapped(model, paths)


def unwrap(model: Layer, maker: Callable[..., Layer]) -> Layer:
    """The network without the wrappers made by a function, for instance `unwrap(model, synchronized)`."""
    if model.inner is not None and model.wrap is not None:
        inner = unwrap(model.inner, maker)
        if getattr(model.wrap, "func", model.wrap) is maker:
            return inner
        return model if inner is model.inner else model.wrap(inner).replace(base=model.base)
    sublayers = {name: unwrap(inner, maker) for name, inner in model.sublayers.items()}
    if model.forward is None or all(sublayers[name] is inner for name, inner in model.sublayers.items()):
        return model
    return network(model.forward, **sublayers).replace(base=model.base)


def _of(made: Layer, base: Layer, call: Callable[[Layer], Call]) -> Layer:
    """The layer, marked as a transformation of `base`."""
    called = call(base)
    return made.replace(call=called, kind=called.name, base=base)
