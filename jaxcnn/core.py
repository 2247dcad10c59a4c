"""A layer is a pair of pure functions; everything else is composition.

`init(key, *inputs) -> (params, state)` makes the variables of a layer from the shapes of its inputs, and
`apply(params, state, *inputs, train=False, key=None) -> (output, state)` computes with them. `params` is what
gradients are taken of; `state` is what the forward pass itself updates (running statistics). Both are nested dicts
named as the code names the layers, so `jax.grad`, `jax.vmap`, `jax.jit`, Optax and Orbax work on them as they are.

`network` makes a layer of one ordinary function over named sublayers. `init` and `apply` both run that function, so
they cannot drift apart; `serial`, `parallel` and `residual` are short uses of it.

How `init` works without computing on images: the function is traced once, abstractly (`jax.eval_shape`). Each leaf
layer met on the way is written down with the shapes it was given, and after the trace the leaves make their variables,
each with the key folded in from its own path. Nothing is traced twice however deep the nesting, and the weights of a
layer depend on its name alone, not on its neighbours.
"""

from __future__ import annotations

import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from jaxcnn.errors import UserError

PyTree = Any
Variables = dict[str, Any]
P = ParamSpec("P")


class LayerError(UserError):
    """A layer was built or called with something it cannot work on. The message starts with the layer's path."""

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{'/'.join(self.path)}: {self.message}" if self.path else self.message

    def under(self, name: str) -> LayerError:
        """The same error seen from one level further out."""
        return LayerError(self.message, (name, *self.path))


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """A pair of pure functions.

    Attributes:
      init: `(key, *inputs) -> (params, state)`. Inputs are pytrees of arrays or of `jax.ShapeDtypeStruct`: only shapes
        and dtypes are read. A layer without variables returns `({}, {})`.
      apply: `(params, state, *inputs, train=False, key=None) -> (output, state)`. `train` is a Python bool. The
        returned state has the structure of the one given.
      source: the code that makes this layer, shown by `repr`.
      sublayers: the named layers inside, for a layer made by `network`; empty for a leaf.

    A layer of one's own is `Layer(init, apply)` and nothing more.
    """

    init: Callable[..., tuple[Variables, Variables]]
    apply: Callable[..., tuple[PyTree, Variables]]
    source: Source | None = None
    sublayers: Mapping[str, Layer] = field(default_factory=lambda: MappingProxyType({}))
    _forward: Callable[..., PyTree] | None = None

    def __repr__(self) -> str:
        return str(self.source) if self.source else f"Layer({_name(self.init)}, {_name(self.apply)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise LayerError(
            f"{self.source.name if self.source else 'a Layer'} is a pair of functions, not a function: call "
            "`params, state = layer.init(key, x)` once, then `y, state = layer.apply(params, state, x)`"
        )


@dataclass(frozen=True)
class Source:
    """A call as it stands in the code: the name of the function and the arguments that were given."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    maker: Callable[..., Layer] | None = None

    def __str__(self) -> str:
        items = [_show(a) for a in self.args] + [f"{k}={_show(v)}" for k, v in self.kwargs.items()]
        line = f"{self.name}({', '.join(items)})"
        if len(line) <= 100 and "\n" not in line:
            return line
        body = "".join("  " + item.replace("\n", "\n  ") + ",\n" for item in items)
        return f"{self.name}(\n{body})"


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name.replace("<locals>.", "") if name else repr(function)


def _show(value: Any) -> str:
    if isinstance(value, functools.partial):
        return str(Source("partial", (value.func, *value.args), value.keywords))
    if isinstance(value, (Layer, str, int, float, bool, tuple, list, dict, type(None))):
        return repr(value)
    return _name(value) if callable(value) else repr(value)


def layer(make: Callable[P, Layer]) -> Callable[P, Layer]:
    """Decorates a function that makes a Layer, so that the layer prints as the call that made it."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Layer:
        result = make(*args, **kwargs)
        return Layer(
            result.init, result.apply, Source(make.__name__, args, kwargs, make), result.sublayers, result._forward
        )

    made.is_layer_maker = True  # type: ignore[attr-defined]
    return made


def as_layer(value: Layer | Callable[..., PyTree]) -> Layer:
    """A Layer as it is; a plain function of arrays as a layer without variables.

    Raises:
      LayerError: for anything else, and for a function that makes layers and was not called (`conv` for `conv(6, 5)`).
    """
    if isinstance(value, Layer):
        return value
    if getattr(value, "is_layer_maker", False):
        name = _name(value)
        raise LayerError(f"`{name}` makes a layer and has to be called: {_example(value)}")
    if inspect.isclass(value) or not callable(value):
        raise LayerError(f"expected a Layer or a function of arrays, got {value!r}")
    function = value

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        return {}, {}

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        return function(*inputs), state

    return Layer(init, apply, _Function(_name(function), (function,)))


class _Function(Source):
    """A plain function prints as its name."""

    def __str__(self) -> str:
        return _show(self.args[0])


def _example(make: Callable[..., Any]) -> str:
    required = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty and p.kind < 2]
    return f"{_name(make)}({', '.join(required)})"


# --- one function over named sublayers ---------------------------------------------------------------------------


class Net:
    """What the function of a `network` gets as its first argument: the sublayers as functions of arrays.

    Attributes:
      train: True in a training pass.
      key: the network's own random key, or None.

    `net.conv1(x)` applies the sublayer `conv1` with its own variables; `net["conv1"](x)` is the same. A sublayer called
    twice shares its parameters, carries its state from the first call to the second, and draws new random numbers.
    """

    def __init__(self, sublayers: Mapping[str, Layer], train: bool, key: jax.Array | None):
        self._sublayers = sublayers
        self._calls: dict[str, int] = {}
        self.train = train
        self.key = key

    def __getattr__(self, name: str) -> Callable[..., PyTree]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Callable[..., PyTree]:
        if name not in self._sublayers:
            raise LayerError(f"the network has no sublayer `{name}`; it has {', '.join(self._sublayers) or 'none'}")
        return functools.partial(self._call, name)

    def _call(self, name: str, *inputs: PyTree) -> PyTree:
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        key = self._key(name, count)
        watcher = _watcher.get()
        if watcher is not None:
            watcher.enter(name)
        try:
            output = self._run(name, self._sublayers[name], inputs, key)
            if watcher is not None:
                output = watcher.replaced(output)
                watcher.called(self._sublayers[name], inputs, output)
        except LayerError as error:
            raise error.under(name) from error.__cause__
        except Exception as error:
            _note(error, name)
            raise
        finally:
            if watcher is not None:
                watcher.exit()
        return output

    def _key(self, name: str, count: int) -> jax.Array | None:
        """The key of a sublayer's call, when it was called `count` times before."""
        if self.key is None:
            return None
        key = fold_in(self.key, name)
        return jax.random.fold_in(key, count) if count else key

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: jax.Array | None) -> PyTree:
        raise NotImplementedError


class _Applying(Net):
    """Runs the sublayers with their variables and collects their new states."""

    def __init__(self, sublayers: Mapping[str, Layer], params: Variables, state: Variables, train: bool, key: Any):
        super().__init__(sublayers, train, key)
        self._params, self._state, self._new_state = params, state, dict(state)

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: Any) -> PyTree:
        params, state = self._params.get(name, {}), self._new_state.get(name, {})
        try:
            result = sublayer.apply(params, state, *inputs, train=self.train, key=key)
            if not isinstance(result, tuple) or len(result) != 2:
                raise LayerError(f"its apply should return (output, state), it returned {type(result).__name__}")
            output, new_state = result
        except KeyError as error:
            if (name in self._params and name in self._state) or isinstance(sublayer.source, _Function):
                raise
            raise LayerError(
                f"variable {error} is missing. There are parameters for {_names(self._params)} and state for "
                f"{_names(self._state)}; were they made by this network's own `init`?"
            ) from error
        if name in self._new_state:
            self._new_state[name] = new_state
        elif new_state:
            raise LayerError(f"returned state {_names(new_state)}, but its `init` made none")
        return output


class _Planning(Net):
    """Runs the sublayers abstractly and writes down, for each leaf, the shapes of its inputs."""

    def __init__(self, sublayers: Mapping[str, Layer], key: Any, path: tuple[str, ...], plan: _Plan):
        super().__init__(sublayers, train=True, key=key)
        self._path, self._plan = path, plan

    def _key(self, name: str, count: int) -> Any:
        return self.key  # no number is drawn here, and folding one in takes a millisecond

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: Any) -> PyTree:
        path = (*self._path, name)
        if sublayer._forward is not None:
            return sublayer._forward(_Planning(sublayer.sublayers, key, path, self._plan), *inputs)
        structs = structs_of(inputs)
        if path not in self._plan:
            identity = _leaf_identity(sublayer, structs)
            shapes = _shapes.get(identity)
            if shapes is None:
                shapes = jax.eval_shape(functools.partial(_init, sublayer), _struct(key), *structs)
                _remember(_shapes, identity, shapes)
            self._plan[path] = _Leaf(sublayer, structs, shapes, identity)
        params, state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self._plan[path].variables)
        try:
            return sublayer.apply(params, state, *inputs, train=True, key=key)[0]
        except NameError:  # statistics shared over a mapped axis, which `init` is usually outside of
            return sublayer.apply(params, state, *inputs, train=False, key=key)[0]


@dataclass
class _Leaf:
    layer: Layer
    inputs: tuple[PyTree, ...]
    variables: tuple[Variables, Variables]
    identity: Any


_Plan = dict[tuple[str, ...], _Leaf]


def _init(layer: Layer, key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
    return layer.init(key, *inputs)


def _make(leaf: _Leaf, key: jax.Array) -> tuple[Variables, Variables]:
    """The variables of one leaf, by a compiled `init` that layers made by the same call on the same shapes share.

    Random numbers are dear to compile on a CPU, 0.2 to 0.6 s a shape, and at LLVM's first level a third of that, with
    the same numbers to the last bit. Inside somebody's own trace (`jit`, `vmap` of `init`) it is the plain function.
    """
    if isinstance(key, jax.core.Tracer) or leaf.identity is None:
        return leaf.layer.init(key, *leaf.inputs)
    identity = (leaf.identity, jax.default_backend())
    if identity not in _compiled:
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        layer, inputs = leaf.layer, leaf.inputs
        _remember(_compiled, identity, jax.jit(lambda key: layer.init(key, *inputs), compiler_options=options))
    return _compiled[identity](key)


def _leaf_identity(layer: Layer, inputs: tuple[PyTree, ...]) -> Any:
    """A hashable, equal for leaves made by the same call and given the same shapes; None where it cannot be told."""
    source = layer.source
    if source is None or source.maker is None:
        return None
    arrays, structure = jax.tree.flatten(inputs)
    try:
        identity = (
            source.maker,
            tuple(_identity(a) for a in source.args),
            tuple((k, _identity(v)) for k, v in sorted(source.kwargs.items())),
            structure,
            tuple((a.shape, a.dtype) for a in arrays),
            jnp.result_type(float),
        )
        hash(identity)
    except (TypeError, RecursionError):
        return None
    return identity


def _remember(cache: dict[Any, Any], identity: Any, value: Any) -> None:
    """Keeps a value of the last 512 identities."""
    if identity is not None:
        if len(cache) >= 512:
            cache.pop(next(iter(cache)))
        cache[identity] = value


_shapes: dict[Any, tuple[Variables, Variables]] = {}
_compiled: dict[Any, Callable[[jax.Array], tuple[Variables, Variables]]] = {}


def _identity(value: Any) -> Any:
    """A hashable that is equal for functions of the same code, defaults and closure: `he_normal()` twice is one."""
    if inspect.isfunction(value) and value.__closure__:
        held = (cell.cell_contents for cell in value.__closure__)
        defaults = (value.__defaults__ or (), sorted((value.__kwdefaults__ or {}).items()))
        return value.__code__, _identity(defaults), *map(_identity, held)
    if isinstance(value, (tuple, list)):
        return type(value), *map(_identity, value)
    return type(value), value


def _check_key(key: Any) -> None:
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or key.shape[-1:] == (2,)):
        got = repr(key) if dtype is None else f"an array of {dtype} and shape {key.shape}"
        raise LayerError(f"init takes a random key first, jax.random.key(0); got {got}")


def network(forward: Callable[..., PyTree], /, **sublayers: Layer | Callable[..., PyTree]) -> Layer:
    """A layer of one function over named sublayers.

    Args:
      forward: `(net, *inputs) -> output`, ordinary Python and jax.numpy, in which `net.NAME(x)` applies a sublayer.
        Inputs and output are pytrees; several of either are fine. `net.train` says which pass it is.
      **sublayers: Layers, or plain functions of arrays.

    Returns:
      A Layer whose `params` and `state` are dicts keyed by sublayer name; a sublayer without variables leaves no entry.

    Example:
      >>> def forward(net, x):
      ...     return x + net.out(jax.nn.relu(net.hidden(x)))
      >>> block = network(forward, hidden=dense(64), out=dense(8))
    """
    named: dict[str, Layer] = {}
    for name, value in sublayers.items():
        if name.startswith("_") or name in ("train", "key"):
            raise LayerError(f"a sublayer cannot be named `{name}`: that is part of `net` itself", (name,))
        try:
            named[name] = as_layer(value)
        except LayerError as error:
            raise error.under(name) from None

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        _check_key(key)
        plan: _Plan = {}

        def trace(key: jax.Array, *xs: PyTree) -> PyTree:
            return forward(_Planning(made.sublayers, key, (), plan), *xs)

        try:
            with _watching(None):
                jax.eval_shape(trace, _struct(key), *structs_of(inputs))
        except LayerError as error:
            raise LayerError(error.message, error.path) from None  # without the frames of the trace
        params: Variables = {}
        state: Variables = {}
        keys: dict[tuple[str, ...], jax.Array] = {(): key}

        def key_of(path: tuple[str, ...]) -> jax.Array:
            if path not in keys:
                keys[path] = fold_in(key_of(path[:-1]), path[-1])
            return keys[path]

        for path, leaf in plan.items():
            if jax.tree.leaves(leaf.variables):
                made_params, made_state = _make(leaf, key_of(path))
                for tree, values in ((params, made_params), (state, made_state)):
                    if values:
                        _insert(tree, path, values)
        return params, state

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        for kind, tree in (("params", params), ("state", state)):
            if not isinstance(tree, Mapping):
                raise LayerError(f"{kind} should be a dict of variables by layer name, got {type(tree).__name__}")
            if unknown := [name for name in tree if name not in made.sublayers]:
                raise LayerError(
                    f"{kind} has entries for {', '.join(unknown)}, which this network does not have "
                    f"(it has {', '.join(made.sublayers)})"
                )
        net = _Applying(made.sublayers, params, state, train, key)
        return forward(net, *inputs), net._new_state

    made = Layer(init, apply, Source("network", (forward,), named), MappingProxyType(named), forward)
    return made


def serial(*layers: Layer | Callable[..., PyTree], **named: Layer | Callable[..., PyTree]) -> Layer:
    """Layers one after the other: `serial(a, b)(x) = b(a(x))`.

    Layers are named by keyword, or by position after what they are, counted by kind: `serial(conv(6, 5), tanh,
    conv(16, 5), flatten, dense(10))` names them `conv1 tanh1 conv2 flatten1 dense1`, so that one more activation
    renames no convolution. The first layer may take several inputs; each of the others takes the one before's output.
    """
    steps = _named(layers, named)
    if not steps:
        raise LayerError("serial() needs at least one layer")
    names = tuple(steps)

    def chain(net: Net, *inputs: PyTree) -> PyTree:
        x = net[names[0]](*inputs)
        for name in names[1:]:
            x = net[name](x)
        return x

    return _called("serial", network(chain, **steps), layers, named)


def parallel(
    *layers: Layer | Callable[..., PyTree],
    join: Callable[..., PyTree] | None = None,
    **named: Layer | Callable[..., PyTree],
) -> Layer:
    """Several layers of the same input: `parallel(a, b)(x) = (a(x), b(x))`, or `join(a(x), b(x))`.

    `join=concat` puts the branches' channels one after the other, as an Inception module does; `join=operator.add`
    adds them. Naming is as in `serial`.
    """
    branches = _named(layers, named)

    def fork(net: Net, *inputs: PyTree) -> PyTree:
        outputs = tuple(net[name](*inputs) for name in branches)
        return outputs if join is None else join(*outputs)

    return _called("parallel", network(fork, **branches), layers, named if join is None else {"join": join, **named})


def residual(body: Layer | Callable[..., PyTree], shortcut: Layer | Callable[..., PyTree] | None = None) -> Layer:
    """A residual connection: `body(x) + shortcut(x)`, the shortcut being the identity when none is given.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), section 3.2.

    Raises:
      LayerError: when the two sides have different shapes.
    """

    def add(net: Net, x: PyTree) -> PyTree:
        y, z = net.body(x), x if shortcut is None else net.shortcut(x)
        if jnp.shape(y) != jnp.shape(z):
            raise LayerError(
                f"the body gives {jnp.shape(y)} and the shortcut {jnp.shape(z)}: they must be equal to be added; pass "
                "shortcut=conv(features, 1, stride) to bring the input to the body's shape"
            )
        return y + z

    parts = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}
    return _called("residual", network(add, **parts), (body,), {} if shortcut is None else {"shortcut": shortcut})


def concat(*xs: jax.Array) -> jax.Array:
    """Arrays side by side along the channels (the last axis)."""
    return jnp.concatenate(xs, axis=-1)


def identity(x: PyTree) -> PyTree:
    """The input as it is."""
    return x


def _called(name: str, made: Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Layer:
    return Layer(made.init, made.apply, Source(name, args, kwargs), made.sublayers, made._forward)


def _named(layers: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Layer | Callable[..., PyTree]]:
    counts: dict[str, int] = {}
    result: dict[str, Any] = {}
    for index, value in enumerate(layers):
        try:
            source = as_layer(value).source
        except LayerError as error:
            raise error.under(f"layer {index + 1}") from None
        kind = source.name.rsplit(".", 1)[-1].strip("<>_") if source else "layer"
        counts[kind] = counts.get(kind, 0) + 1
        result[f"{kind}{counts[kind]}"] = value
    if both := [name for name in named if name in result]:
        raise LayerError(f"the name {both[0]} is given by keyword and also follows from a position")
    return {**result, **named}


# --- small tools -------------------------------------------------------------------------------------------------


def fold_in(key: jax.Array, name: str) -> jax.Array:
    """The random key of the thing called `name`: `jax.random.fold_in(key, crc32(name))`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _struct(x: Any) -> Any:
    if not hasattr(x, "dtype"):
        x = jnp.asarray(x)
    # Without `jax_enable_x64`, NumPy's float64 is float32.
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True))


def structs_of(inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """The shapes and dtypes of inputs. uint8 stands for the float image that a training step makes of it."""

    def one(x: Any) -> Any:
        struct = _struct(x)
        return jax.ShapeDtypeStruct(struct.shape, jnp.float32) if struct.dtype == jnp.uint8 else struct

    return jax.tree.map(one, inputs)


def _insert(tree: Variables, path: tuple[str, ...], values: Variables) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = values


def _names(tree: Mapping[str, Any]) -> str:
    return ", ".join(tree) or "nothing"


def _note(error: Exception, name: str) -> None:
    """Adds the layer's path to an error that is not ours, once, growing from the inside out."""
    notes = getattr(error, "__notes__", [])
    if notes and notes[-1].startswith("in layer "):
        notes[-1] = f"in layer {name}/{notes[-1].removeprefix('in layer ')}"
    else:
        error.add_note(f"in layer {name}")


# --- watching a forward pass -------------------------------------------------------------------------------------


class Watcher:
    """Sees every call of a named sublayer while `watch` is active: path, inputs and output, which it may replace."""

    def __init__(self) -> None:
        self.path: tuple[str, ...] = ()

    def enter(self, name: str) -> None:
        self.path = (*self.path, name)

    def exit(self) -> None:
        self.path = self.path[:-1]

    def replaced(self, output: PyTree) -> PyTree:
        """What stands for the output of the sublayer at `self.path` from there on: the output itself, if not said."""
        return output

    def called(self, layer: Layer, inputs: tuple[PyTree, ...], output: PyTree) -> None:
        """Called after the sublayer at `self.path` has run; in a nest, the inner ones first."""


_watcher: ContextVar[Watcher | None] = ContextVar("jaxcnn_watcher", default=None)


@contextmanager
def _watching(watcher: Watcher | None) -> Iterator[None]:
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watch(watcher: Watcher) -> Any:
    """A context in which `watcher` sees every sublayer call. Summaries and activation maps are made this way."""
    return _watching(watcher)
