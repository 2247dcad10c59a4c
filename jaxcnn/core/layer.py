"""`Layer`, the call that made it, and plain functions as layers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, ParamSpec

from jaxcnn.errors import UserError

PyTree = Any
Variables = dict[str, Any]
P = ParamSpec("P")


class LayerError(UserError):
    """A layer was built or called with an argument that it cannot use. The message starts with the layer's path."""

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{'/'.join(self.path)}: {self.message}" if self.path else self.message

    def under(self, name: str) -> LayerError:
        """The same error with `name` in front of its path."""
        return type(self)(self.message, (name, *self.path))


class EvaluationOnly(LayerError):
    """A layer can compute its output in evaluation mode for these inputs, but not in training mode.

    `init`, which traces a network in training mode, then traces the layer in evaluation mode. So a network with batch
    normalization can be initialized with a single example.
    """


class Layer:
    """A pair of pure functions, and the structure of the network that they compute.

    Attributes:
      init: `(key, *inputs) -> (params, state)`. Inputs are pytrees of arrays or of `jax.ShapeDtypeStruct`: `init` reads
        only their shapes and dtypes. A layer without variables returns `({}, {})`.
      apply: `(params, state, *inputs, train=False, key=None) -> (output, state)`. `train` is a Python bool. The
        returned state has the same structure as the given one.
      call: the call that made this layer. `repr` prints it, and `pickle` repeats it. Layers made by equal calls are
        equal and have the same hash. None for a layer made by `Layer(init, apply)`.
      kind: the name of the function that made it: `"conv"`, `"relu"`, `"serial"`.
      sublayers: the named layers inside a network; empty for a leaf.
      forward: the function of a network, `(net, *inputs) -> output`; None for a leaf.
      base: the layer that a transformation (`freeze`, `mixed_precision`, ...) turned into this one, or None.
      inner: for a wrapper, the layer that it runs, whose variables have the same names; None for other layers.
      wrap: for a wrapper, the function that wraps another layer in the same way; None for other layers.

    A user's layer is just `Layer(init, apply)`. A Layer is immutable.
    """

    __slots__ = {  # noqa: RUF023  # in the constructor's order; the texts are docstrings
        "init": "`(key, *inputs) -> (params, state)`.",
        "apply": "`(params, state, *inputs, train=False, key=None) -> (output, state)`.",
        "call": "The call that made this layer, or None.",
        "kind": "The name of the function that made it.",
        "sublayers": "The named layers inside a network.",
        "forward": "The function of a network, or None.",
        "base": "The layer that a transformation turned into this one, or None.",
        "inner": "The layer that a wrapper runs, or None.",
        "wrap": "The function that wraps another layer in the same way, or None.",
        "_key": "What equality and hash compare.",
        "__weakref__": "",
    }

    init: Callable[..., tuple[Variables, Variables]]
    apply: Callable[..., tuple[PyTree, Variables]]
    call: Call | None
    kind: str
    sublayers: Mapping[str, Layer]
    forward: Callable[..., PyTree] | None
    base: Layer | None
    inner: Layer | None
    wrap: Callable[[Layer], Layer] | None
    _key: Any

    def __init__(
        self,
        init: Callable[..., tuple[Variables, Variables]],
        apply: Callable[..., tuple[PyTree, Variables]],
        call: Call | None = None,
        kind: str = "",
        sublayers: Mapping[str, Layer] | None = None,
        forward: Callable[..., PyTree] | None = None,
        *,
        base: Layer | None = None,
        inner: Layer | None = None,
        wrap: Callable[[Layer], Layer] | None = None,
    ):
        fields = {
            "init": init, "apply": apply, "call": call, "kind": kind or (call.name if call else ""), "forward": forward,
            "sublayers": MappingProxyType(dict(sublayers or {})), "base": base, "inner": inner, "wrap": wrap,
        }  # fmt: skip
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Layer:
        """The same layer with other attributes. With another function and no new `call`, its `call` is None."""
        if {"init", "apply", "forward"} & set(changes):
            changes = {"call": None, **changes}
        fields = {name: getattr(self, name) for name in Layer.__slots__ if not name.startswith("_")}
        return Layer(**{**fields, **changes})

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}: a Layer is immutable")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}: a Layer is immutable")

    def __repr__(self) -> str:
        return str(self.call) if self.call else f"Layer({_name(self.init)}, {_name(self.apply)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise LayerError(
            f"{self.kind or 'a Layer'} is a pair of functions, not a function: call "
            "`params, state = layer.init(key, x)` once, then `y, state = layer.apply(params, state, x)`"
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layer) and _key(self) == _key(other))

    def __hash__(self) -> int:
        return hash(_key(self))

    def __copy__(self) -> Layer:
        return self

    def __deepcopy__(self, memo: Any) -> Layer:
        return self  # a Layer is immutable

    def __reduce__(self) -> Any:
        if self.call is None:
            return Layer, (self.init, self.apply, None, self.kind, dict(self.sublayers), self.forward)
        kwargs = {name: _by_name(value) for name, value in self.call.kwargs.items()}
        return _repeat, (self.call.maker, _by_name(self.call.args), kwargs)

    @property
    def is_leaf(self) -> bool:
        """Whether the layer has no layers inside it."""
        return self.forward is None and self.inner is None

    @property
    def is_function(self) -> bool:
        """Whether the layer is a plain function of arrays, without variables."""
        return self.call is not None and self.call.maker is as_layer

    @property
    def original(self) -> Layer:
        """The layer before all transformations, for instance the argument of `freeze`."""
        layer = self
        while layer.base is not None:
            layer = layer.base
        return layer


@dataclass(frozen=True)
class Call:
    """A call in the user's code: the function that makes a layer, and its arguments."""

    maker: Callable[..., Layer]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return _name(self.args[0]) if self.maker is as_layer else self.maker.__name__

    def __str__(self) -> str:
        return _show(self.args[0]) if self.maker is as_layer else _written(self.name, self.args, self.kwargs)


def _written(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    items = [_show(a) for a in args] + [f"{k}={_show(v)}" for k, v in kwargs.items()]
    line = f"{name}({', '.join(items)})"
    if len(line) <= 100 and "\n" not in line:
        return line
    body = "".join("  " + item.replace("\n", "\n  ") + ",\n" for item in items)
    return f"{name}(\n{body})"


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name.replace("<locals>.", "") if name else repr(function)


def _show(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _written("partial", (value.func, *value.args), value.keywords)
    if isinstance(value, (Layer, str, int, float, bool, tuple, list, dict, type(None))):
        return repr(value)
    return _name(value) if callable(value) else repr(value)


def layer(make: Callable[P, Layer]) -> Callable[P, Layer]:
    """Decorates a function that returns a Layer: `repr` of the layer then shows the call that made it.

    Layers made by calls with equal arguments are equal and have the same hash.
    """

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Layer:
        return make(*args, **kwargs).replace(call=Call(made, args, kwargs), kind=make.__name__)

    made.is_layer_maker = True  # type: ignore[attr-defined]
    return made


def as_layer(value: Layer | Callable[..., PyTree]) -> Layer:
    """The layer itself; for a plain function of arrays, a layer without variables that applies it.

    Raises:
      LayerError: for anything else, for instance a layer function that was not called (`conv` for `conv(6, 5)`).
    """
    if isinstance(value, Layer):
        return value
    if getattr(value, "is_layer_maker", False):
        name = _name(value)
        raise LayerError(f"`{name}` makes a layer and has to be called: {_example(value)}")
    if inspect.isclass(value) or not callable(value):
        raise LayerError(f"expected a Layer or a function of arrays, got {value!r}")
    function = value

    def init(key: Any, *inputs: PyTree) -> tuple[Variables, Variables]:
        return {}, {}

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: Any = None
    ) -> tuple[PyTree, Variables]:
        return function(*inputs), state

    return Layer(init, apply, Call(as_layer, (function,)))


def _example(make: Callable[..., Any]) -> str:
    required = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty and p.kind < 2]
    return f"{_name(make)}({', '.join(required)})"


# --- pickling ----------------------------------------------------------------------------------------------------


class _Named:
    """Pickles a function by its module and name, even if pickle cannot take the object itself (`jax.nn.relu`)."""

    def __init__(self, function: Any):
        self.function = function

    def __reduce__(self) -> Any:
        module, name = inspect.getmodule(self.function), getattr(self.function, "__qualname__", "")
        if module is not None and getattr(module, name, None) is self.function:
            return _look_up, (module.__name__, name)
        return _same, (self.function,)


def _look_up(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _same(value: Any) -> Any:
    return value


def _by_name(value: Any) -> Any:
    """An argument of a call, with its functions replaced by `_Named`."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_by_name, value))
    if isinstance(value, Layer) or inspect.isclass(value) or not callable(value):
        return value
    return _Named(value)


def _repeat(maker: Callable[..., Layer], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layer:
    return maker(*args, **kwargs)


# --- equality ----------------------------------------------------------------------------------------------------


def _key(layer: Layer) -> Any:
    """A hashable that is equal for layers made by equal calls; unique if the arguments cannot be compared."""
    try:
        return layer._key
    except AttributeError:
        pass
    call = layer.call
    try:
        if call is None:
            key: Any = (identity_of(layer.init), identity_of(layer.apply), layer.kind)
        else:
            key = (call.maker, identity_of(call.args), identity_of(call.kwargs))
        hash(key)
    except (TypeError, ValueError, RecursionError):
        key = (Layer, id(layer))
    object.__setattr__(layer, "_key", key)
    return key


def is_comparable(layer: Layer) -> bool:
    """Whether the layer equals another one made by an equal call; False if an argument cannot be compared."""
    return layer.call is not None and _key(layer)[0] is not Layer


def identity_of(value: Any) -> Any:
    """A hashable that is equal for equal values, and for functions made by the same `def` with equal closures.

    Two calls of `he_normal()` thus give equal initializers. A notebook cell that runs again defines a new function.

    Raises:
      TypeError: for a value without a hash, such as an array.
    """
    if inspect.isfunction(value):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = (value.__defaults__ or (), sorted((value.__kwdefaults__ or {}).items()))
        return _Object(value.__code__), id(value.__globals__), identity_of(defaults), *map(identity_of, held)
    if isinstance(value, functools.partial):
        return functools.partial, identity_of(value.func), identity_of(value.args), identity_of(value.keywords)
    if isinstance(value, (tuple, list)):
        return type(value), *map(identity_of, value)
    if isinstance(value, (dict, MappingProxyType)):
        return dict, *((name, identity_of(inner)) for name, inner in value.items())
    hash(value)
    return type(value), value


class _Object:
    """Compares an object by identity, not by content."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
