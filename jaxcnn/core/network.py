"""`network`: a layer made of an ordinary function and named sublayers.

`init` and `apply` both run that function, so they cannot disagree. `init` traces it once, abstractly
(`jax.eval_shape`), and records the shapes of each leaf's inputs. Then each leaf makes its variables with a key that is
folded in from its path. Nothing is traced twice, however deep the nesting, and the weights of a layer depend on its
name alone, not on its neighbours.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.cache import Leaf, compile_together, forget, zeros
from jaxcnn.core.layer import Call, EvaluationOnly, Layer, LayerError, PyTree, Variables, as_layer
from jaxcnn.core.variables import Path, put
from jaxcnn.core.watch import watch, watcher

_Plan = dict[Path, Leaf]


class Net:
    """The first argument of a `network`'s function: the sublayers as functions of arrays.

    Attributes:
      train: True in a training pass.
      key: the network's random key, or None.

    `net.conv1(x)` applies the sublayer `conv1` with its variables; `net["conv1"](x)` is the same. A sublayer that is
    called twice uses the same parameters both times, passes its state from the first call to the second, and draws new
    random numbers.
    """

    def __init__(self, sublayers: Mapping[str, Layer], train: bool, key: jax.Array | None):
        self._sublayers = sublayers
        self._calls: dict[str, int] = {}
        self._constant = False
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
        seen = watcher()
        if seen is not None:
            seen.enter(name)
        try:
            output = self._run(name, self._sublayers[name], inputs, key)
            if seen is not None:
                output = seen.replaced(output)
                seen.called(self._sublayers[name], inputs, output)
        except LayerError as error:
            raise error.under(name) from error.__cause__
        except Exception as error:
            _note(error, name)
            raise
        finally:
            if seen is not None:
                seen.exit()
        return output

    def _key(self, name: str, count: int) -> jax.Array | None:
        """The key for a call of a sublayer that was called `count` times before."""
        if self.key is None:
            return None
        key = fold_in(self.key, name)
        return jax.random.fold_in(key, count) if count else key

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: jax.Array | None) -> PyTree:
        raise NotImplementedError


def constant(sublayer: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A sublayer whose parameters get no gradient in this call, in the function of a network.

    The gradient passes through the sublayer to its input: so a generator learns what its critic says, and the critic
    does not learn from it. The output, and the update of running statistics, are those of the sublayer.

    Args:
      sublayer: `net.NAME`, of the first argument of a network's function.

    Raises:
      LayerError: for anything else.

    Example:
      >>> def forward(net, image, z):
      ...     made = net.generator(z)
      ...     judged = net.critic(image), net.critic(jax.lax.stop_gradient(made))    # for the critic's loss
      ...     return judged, cnn.transforms.constant(net.critic)(made)    # and for the generator's
    """
    net = getattr(getattr(sublayer, "func", None), "__self__", None)
    if not isinstance(net, Net):
        raise LayerError(f"constant takes a sublayer in a network's function, constant(net.critic), got {sublayer!r}")

    def called(*inputs: PyTree) -> PyTree:
        before, net._constant = net._constant, True
        try:
            return sublayer(*inputs)
        finally:
            net._constant = before

    return called


class Applying(Net):
    """Runs the sublayers with their variables and collects their new states.

    Raises:
      LayerError: for params or state that are no dicts, or have entries for other layers.
    """

    def __init__(self, sublayers: Mapping[str, Layer], params: Variables, state: Variables, train: bool, key: Any):
        super().__init__(sublayers, train, key)
        for kind, tree in (("params", params), ("state", state)):
            if not isinstance(tree, Mapping):
                raise LayerError(f"{kind} should be a dict of variables by layer name, got {type(tree).__name__}")
            if unknown := [name for name in tree if name not in sublayers]:
                raise LayerError(
                    f"{kind} has entries for {', '.join(unknown)}, which this network does not have "
                    f"(it has {', '.join(sublayers)})"
                )
        self._params, self._state, self._new_state = params, state, dict(state)

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: Any) -> PyTree:
        params, state = self._params.get(name, {}), self._new_state.get(name, {})
        if self._constant:
            params = jax.lax.stop_gradient(params)
        try:
            with jax.named_scope(name):  # for the names in the HLO and in profiles
                result = sublayer.apply(params, state, *inputs, train=self.train, key=key)
            if not isinstance(result, tuple) or len(result) != 2:
                raise LayerError(f"its apply should return (output, state); it returned {type(result).__name__}")
            output, new_state = result
        except KeyError as error:
            if (name in self._params and name in self._state) or sublayer.is_function:
                raise
            raise LayerError(
                f"variable {error} is missing. There are parameters for {_names(self._params)} and state for "
                f"{_names(self._state)}; were they made by this network's `init`?"
            ) from error
        if name in self._new_state:
            self._new_state[name] = new_state
        elif new_state:
            raise LayerError(f"returned state {_names(new_state)}, but its `init` made none")
        return output


class _Planning(Net):
    """Runs the sublayers abstractly and records the shapes of each leaf's inputs."""

    def __init__(self, sublayers: Mapping[str, Layer], key: Any, path: tuple[str, ...], plan: _Plan):
        super().__init__(sublayers, train=True, key=key)
        self._path, self._plan = path, plan

    def _key(self, name: str, count: int) -> Any:
        return self.key  # tracing draws no numbers, and `fold_in` would take a millisecond

    def _run(self, name: str, sublayer: Layer, inputs: tuple[PyTree, ...], key: Any) -> PyTree:
        path = (*self._path, name)
        while sublayer.inner is not None and sublayer.init is sublayer.inner.init:
            sublayer = sublayer.inner
        if sublayer.forward is not None:
            return sublayer.forward(_Planning(sublayer.sublayers, key, path, self._plan), *inputs)
        if again := path in self._plan:
            leaf = self._plan[path]
        else:
            leaf = self._plan[path] = Leaf.of(sublayer, structs_of(inputs), _struct(key))

        def run() -> PyTree:
            params, state = zeros(leaf.variables)
            try:
                return sublayer.apply(params, state, *inputs, train=True, key=key)[0]
            except (EvaluationOnly, NameError):  # JAX's NameError means that no axis of the given name is mapped
                return sublayer.apply(params, state, *inputs, train=False, key=key)[0]

        return run() if again else leaf.output(sublayer, run)


def _check_key(key: Any) -> None:
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    # The length of a key made by jax.random.PRNGKey.
    numbers = 2 if jax.config.jax_default_prng_impl == "threefry2x32" else 4  # type: ignore[attr-defined]
    if dtype is None or key.shape != (() if typed else (numbers,)) or not (typed or dtype == np.uint32):
        got = repr(key) if dtype is None else f"an array of {dtype} and shape {key.shape}"
        raise LayerError(f"init takes a random key first, jax.random.key(0); got {got}")


def network(forward: Callable[..., PyTree], /, **sublayers: Layer | Callable[..., PyTree]) -> Layer:
    """A layer made of a function and named sublayers.

    Args:
      forward: `(net, *inputs) -> output`, ordinary Python and jax.numpy, in which `net.NAME(x)` applies a sublayer.
        Inputs and outputs are pytrees. `net.train` is True in a training pass.
      **sublayers: Layers, or plain functions of arrays.

    Returns:
      A Layer whose `params` and `state` are dicts keyed by sublayer name; a sublayer without variables has no entry.

    Example:
      >>> def forward(net, x):
      ...     return x + net.out(jax.nn.relu(net.hidden(x)))
      >>> block = network(forward, hidden=dense(64), out=dense(8))
    """
    named: dict[str, Layer] = {}
    for name, value in sublayers.items():
        if name.startswith("_") or name in ("train", "key"):
            raise LayerError(f"a sublayer cannot be named `{name}`, which is an attribute of `net`", (name,))
        try:
            named[name] = as_layer(value)
        except LayerError as error:
            raise error.under(name) from None

    def plan(key: jax.Array, *inputs: PyTree) -> _Plan:
        _check_key(key)
        plan: _Plan = {}

        def trace(key: jax.Array, *xs: PyTree) -> PyTree:
            return forward(_Planning(made.sublayers, key, (), plan), *xs)

        try:
            with watch(None):
                jax.eval_shape(trace, _struct(key), *structs_of(inputs))
        except LayerError as error:
            raise LayerError(error.message, error.path) from None  # hides the frames of the trace
        return {path: leaf for path, leaf in plan.items() if jax.tree.leaves(leaf.variables)}

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Variables, Variables]:
        with_variables = plan(key, *inputs)
        keys: dict[Path, jax.Array] = {(): key}

        def key_of(path: Path) -> jax.Array:
            if path not in keys:
                keys[path] = fold_in(key_of(path[:-1]), path[-1])
            return keys[path]

        compile_together(with_variables.values(), key)
        found = _nested({path: leaf.make(key_of(path)) for path, leaf in with_variables.items()})
        forget()
        return found

    init.plan = init, plan  # type: ignore[attr-defined]  # for `shapes_of`; `functools.wraps` copies attributes

    def apply(
        params: Variables, state: Variables, *inputs: PyTree, train: bool = False, key: jax.Array | None = None
    ) -> tuple[PyTree, Variables]:
        net = Applying(made.sublayers, params, state, train, key)
        return forward(net, *inputs), net._new_state

    made = Layer(init, apply, Call(network, (forward,), named), "network", named, forward)
    return made


def shapes_of(model: Layer, key: Any, *inputs: PyTree) -> tuple[Variables, Variables]:
    """The shapes and dtypes of a layer's `(params, state)`: `jax.eval_shape(model.init, key, *inputs)`, in less time.

    The variables of a network are those of its leaves, which its plan has: that they are drawn need not be traced.
    """
    of, plan = getattr(model.init, "plan", (None, None))
    if plan is None or of is not model.init:
        return jax.eval_shape(model.init, key, *inputs)
    return _nested({path: leaf.variables for path, leaf in plan(key, *inputs).items()})


# --- helpers -----------------------------------------------------------------------------------------------------


def fold_in(key: jax.Array, name: str) -> jax.Array:
    """The random key for a name: `jax.random.fold_in(key, crc32(name))`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _struct(x: Any) -> Any:
    if not hasattr(x, "dtype"):
        x = jnp.asarray(x)
    # JAX turns NumPy's float64 into float32, unless `jax_enable_x64` is set.
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True))


def structs_of(inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """The shapes and dtypes of inputs. A uint8 image counts as float32, as which a training step passes it."""

    def one(x: Any) -> Any:
        struct = _struct(x)
        return jax.ShapeDtypeStruct(struct.shape, jnp.float32) if struct.dtype == jnp.uint8 else struct

    return jax.tree.map(one, inputs)


def _nested(leaves: Mapping[Path, tuple[Variables, Variables]]) -> tuple[Variables, Variables]:
    """`(params, state)` of a network from those of its leaves; without what is empty."""
    trees: tuple[Variables, Variables] = {}, {}
    for path, both in leaves.items():
        for tree, values in zip(trees, both, strict=True):
            if values:
                put(tree, path, values)
    return trees


def _names(tree: Mapping[str, Any]) -> str:
    return ", ".join(tree) or "nothing"


def _note(error: Exception, name: str) -> None:
    """Adds the layer's path to another library's error, as one note that grows from the inside out."""
    notes = getattr(error, "__notes__", [])
    if notes and notes[-1].startswith("in layer "):
        notes[-1] = f"in layer {name}/{notes[-1].removeprefix('in layer ')}"
    else:
        error.add_note(f"in layer {name}")
