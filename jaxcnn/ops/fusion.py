"""Fusion for inference: bias, batch normalization, residual sum and activation inside the convolution before them.

Each of them alone reads the whole image from memory and writes it back. oneDNN's convolution (`jaxcnn.ops.cpu`) applies
them to each piece of its result while that is in the cache. The code of a network need not say that they belong
together: `fuse` traces the network and finds them in its program.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxcnn.ops import cpu, jaxpr
from jaxcnn.ops.activation import NAMED
from jaxcnn.ops.backend import stored_p
from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.fused import ACTIVATIONS

_LAX = {"tanh": "tanh", "logistic": "sigmoid"}  # activations that are primitives of JAX
_WRAPPED = ("relu6", "silu", "hard_swish")  # activations of `jax.nn` that are one step of a program, a call
_SAME = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze")  # of the same numbers

P = ParamSpec("P")
T = TypeVar("T")


def fuse(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, with convolutions that include the operations after them.

    A chain  conv -> * and + of `(K,)` vectors -> + residual -> activation,  any part of which may be missing, becomes
    one convolution where nothing else uses the values in between:

    relu((conv(x, kernel) + b) f + s + r) = relu(conv(x, kernel f) + (b f + s) + r)

    The activation is one of this package's `relu`, `relu6`, `silu`, `hard_swish`, `gelu`, `gelu_tanh`, `tanh` and
    `sigmoid`, or one of `jax.nn`'s `relu`, `relu6`, `silu`, `hard_swish`, `tanh` and `sigmoid`.

    The kernel is multiplied in each call, while it is copied into the layout that oneDNN needs. f and s are computed in
    the same call from the variables that they depend on (`Affine`).

    Args:
      function: pytrees of arrays to a pytree of arrays. Arguments by keyword are not traced: `train=False`.

    Returns:
      A function of the same arguments, for `jax.jit`, `vmap` and gradients as before, whose results are those of
      `function` within the rounding of float32, and whose derivatives are `function`'s own. Where oneDNN's
      convolution is not used it calls `function`. One difference: a NaN before a ReLU is 0 after oneDNN's.

    Example:
      >>> predict = jax.jit(fuse(lambda params, state, x: model.apply(params, state, x)[0]))
    """

    @functools.wraps(function)
    def fused(*args: P.args, **kwargs: P.kwargs) -> T:
        if not cpu.available():
            return function(*args, **kwargs)
        program, shape = jax.make_jaxpr(lambda *a: function(*a, **kwargs), return_shape=True)(*args)
        run = jax.custom_jvp(lambda *values: _fused(program.jaxpr, values))
        run.defjvp(lambda primals, tangents: jax.jvp(lambda *v: jaxpr.evaluate(program.jaxpr, v), primals, tangents))
        return jax.tree.unflatten(jax.tree.structure(shape), run(*program.consts, *jax.tree.leaves(args)))

    return fused


# --- finding the chains ------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    """A convolution and the steps of the program that it includes.

    Attributes:
      conv: the convolution.
      steps: the positions of its steps in the program; the result of the last is the chain's.
      affine: `("mul" | "add" | "sub", vector)` in their order.
      residual: the value that is added, or None.
      activation: the name of the activation at its end, a key of `jaxcnn.ops.cpu.fused.ACTIVATIONS`, or empty.
    """

    conv: JaxprEqn
    steps: list[int]
    affine: list[tuple[str, Any]] = field(default_factory=list)
    residual: Any = None
    activation: str = ""


def _chains(program: Jaxpr) -> list[_Chain]:
    """The chains of a program, none of whose steps is in two of them."""
    made = jaxpr.makers(program)
    uses: dict[Any, list[int]] = {}
    for i, eqn in enumerate(program.eqns):
        for v in eqn.invars:
            if isinstance(v, Var):
                uses.setdefault(v, []).append(i)
    for v in program.outvars:
        if isinstance(v, Var):
            uses.setdefault(v, []).append(len(program.eqns))
    taken: set[int] = set()
    chains = []
    for i, eqn in enumerate(program.eqns):
        if _can_be_one(eqn):
            chain = _Chain(eqn, [i])
            value = eqn.outvars[0]
            while not chain.activation and len(at := uses.get(value, [])) == 1:
                if (
                    at[0] in taken
                    or at[0] == len(program.eqns)
                    or not _takes_in(chain, program.eqns[at[0]], value, made)
                ):
                    break
                chain.steps += at
                value = program.eqns[at[0]].outvars[0]
            if len(chain.steps) > 1:
                taken.update(chain.steps)
                chains.append(chain)
    return chains


def _takes_in(chain: _Chain, eqn: JaxprEqn, value: Var, made: dict[Any, JaxprEqn]) -> bool:
    """Adds to the chain the step that uses its value, if it can be."""
    name = eqn.primitive.name
    if activation := _activation(eqn):
        chain.activation = activation
        return True
    if name not in ("add", "sub", "mul") or (name == "sub" and eqn.invars[0] is not value):
        return False
    (other,) = (v for v in eqn.invars if v is not value)
    if (vector := _vector(other, _shape(value), made)) is not None and (name != "mul" or chain.residual is None):
        chain.affine.append((name, vector))
        return True
    if name == "add" and chain.residual is None and _shape(other) == _shape(value):
        chain.residual = other
        return True
    return False


def _vector(value: Any, shape: tuple[int, ...], made: dict[Any, JaxprEqn]) -> Any:
    """What holds the numbers that `value` has one of for each feature of an image of this shape, or None."""
    if _shape(value) in ((), (*(1,) * (len(shape) - 1), shape[-1])):
        return value
    eqn = made.get(value) if isinstance(value, Var) else None
    if eqn is not None and eqn.primitive.name == "convert_element_type":  # `spread` converts what it has broadcast
        (value,) = eqn.invars
        eqn = made.get(value) if isinstance(value, Var) else None
    if eqn is None or eqn.primitive.name != "broadcast_in_dim" or _shape(value) != shape:
        return None
    (source,), dims = eqn.invars, eqn.params["broadcast_dimensions"]
    features = all(n == 1 or d == len(shape) - 1 for n, d in zip(_shape(source), dims, strict=True))
    return source if features else None


def _activation(eqn: JaxprEqn) -> str:
    """The name of the activation that a step computes, a key of `ACTIVATIONS`; empty where it is none."""
    if is_relu(eqn):
        return "relu"
    if eqn.primitive.name in _LAX:
        return _LAX[eqn.primitive.name]
    called = str(eqn.params.get("name", "")) if eqn.primitive.name == "jit" else ""
    own = called.removeprefix(NAMED)
    return own if own != called and own in ACTIVATIONS else _as_jax_has_it(eqn)


def _as_jax_has_it(eqn: JaxprEqn) -> str:
    """The name in `_WRAPPED` of the activation of `jax.nn` that a step computes; empty where it is none."""
    while len(eqn.invars) == 1 and (body := _body(eqn)) is not None:
        aval: Any = eqn.invars[0].aval
        text = str(body)
        if found := [name for name in _WRAPPED if text in _texts(name, aval.shape, aval.dtype)]:
            return found[0]
        if len(body.eqns) != 1 or body.jaxpr.outvars != body.eqns[0].outvars:
            break
        (eqn,) = body.eqns
    return ""


@functools.lru_cache(maxsize=1024)
def _texts(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[str, ...]:
    """An activation's program, from the outermost of the functions that JAX wraps it in to the innermost."""
    (eqn,) = jax.make_jaxpr(ACTIVATIONS[name])(jax.ShapeDtypeStruct(shape, dtype)).eqns
    texts = []
    while (body := _body(eqn)) is not None:
        texts.append(str(body))
        eqn = body.eqns[0]
        if len(body.eqns) > 1:
            break
    return tuple(texts)


def _body(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The function inside `jit` or a function with a derivative of its own, or None."""
    return jaxpr.called(eqn) if eqn.primitive.name in ("jit", "custom_jvp_call") else None


def is_relu(eqn: JaxprEqn) -> bool:
    """Whether a step is max(x, 0): by itself, or as the only step of the functions that JAX wraps it in."""
    while (body := _body(eqn)) is not None:
        steps = [inner for inner in body.eqns if inner.primitive is not stored_p]
        if len(eqn.invars) != 1 or len(steps) != 1 or body.jaxpr.outvars != body.eqns[-1].outvars:
            return False
        (eqn,) = steps
        if body.jaxpr.invars[0] not in [v for v in eqn.invars if isinstance(v, Var)]:
            return False
    return eqn.primitive.name == "max" and any(isinstance(v, Literal) and np.all(v.val == 0) for v in eqn.invars)


def _can_be_one(eqn: JaxprEqn) -> bool:
    return eqn.primitive is cpu.convolution_p and eqn.params["kind"] == "output" and not eqn.params["swapped"]


def _window(eqn: JaxprEqn) -> dict[str, Any]:
    return {name: value for name, value in eqn.params.items() if name in ("strides", "pads", "dilation", "groups")}


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape


# --- running the program -----------------------------------------------------------------------------------------


def _fused(program: Jaxpr, values: Sequence[Any]) -> list[Any]:
    """The results of a program, each chain of which is one step."""
    chains, made = _chains(program), jaxpr.makers(program)
    last = {id(program.eqns[chain.steps[-1]]): chain for chain in chains}
    inside = {id(program.eqns[i]) for chain in chains for i in chain.steps[:-1]}

    def rule(eqn: JaxprEqn, read: jaxpr.Read) -> list[Any] | None:
        if id(eqn) in inside:
            return [None] * len(eqn.outvars)  # which nothing reads
        if id(eqn) in last:
            return [_compute(last[id(eqn)], made, read)]
        if eqn.primitive.name == "jit" and _has_conv(eqn):
            body = eqn.params["jaxpr"]
            return _fused(body.jaxpr, [*body.consts, *map(read, eqn.invars)])
        return None

    return jaxpr.evaluate(program, values, rule)


def _has_conv(eqn: JaxprEqn) -> bool:
    """Whether there are convolutions inside a call, not counting those in loops."""
    body = _body(eqn) if eqn.primitive.name == "jit" else None
    return body is not None and any(e.primitive is cpu.convolution_p or _has_conv(e) for e in body.eqns)


def _compute(chain: _Chain, made: dict[Any, JaxprEqn], read: Callable[[Any], Any]) -> jax.Array:
    x, kernel = map(read, chain.conv.invars)
    features = kernel.shape[-1:]
    steps = _Steps(made, features[0])
    affine = steps.affine(chain.affine)
    vectors = [jnp.broadcast_to(jnp.ravel(read(v)), features).astype(jnp.float32) for v in steps.vectors]
    residual = None if chain.residual is None else read(chain.residual)
    window = _window(chain.conv)
    return cpu.conv_fused(x, kernel, *vectors, affine=affine, residual=residual, activation=chain.activation, **window)


class _Steps:
    """Makes an `Affine` of the part of a program that computes vectors of `(features,)`.

    Attributes:
      vectors: the values that it is given: those that are computed by other operations, or not at all.
    """

    def __init__(self, made: dict[Any, JaxprEqn], features: int) -> None:
        self.vectors: list[Any] = []
        self._made, self._features = made, features
        self._found: dict[Any, int] = {}  # the steps and, as negative numbers, the vectors
        self._steps: list[tuple[str, int, int]] = []
        self._constants: list[float] = []

    def affine(self, chain: Sequence[tuple[str, Any]]) -> cpu.Affine:
        """The factor and the shift of a chain's products and sums."""
        factor = shift = None
        for name, value in chain:
            i = self._register(value)
            if name == "mul":
                factor = i if factor is None else self._step("mul", factor, i)
                shift = shift if shift is None else self._step("mul", shift, i)
            elif shift is None:
                shift = i if name == "add" else self._step("neg", i)
            else:
                shift = self._step(name, shift, i)
        place = self._place
        steps = tuple(
            step if step[0] == "constant" else (step[0], place(step[1]), place(step[2])) for step in self._steps
        )
        return cpu.Affine(steps, tuple(self._constants), place(factor), place(shift))

    def _place(self, i: int | None) -> int:
        """The number of a register, or -1: the vectors come first."""
        if i is None:
            return -1
        return -1 - i if i < 0 else len(self.vectors) + i

    def _step(self, name: str, first: int, second: int | None = None) -> int:
        self._steps.append((name, first, first if second is None else second))
        return len(self._steps) - 1

    def _register(self, value: Any) -> int:
        if isinstance(value, Literal):
            self._constants.append(np.asarray(value.val).item())
            self._steps.append(("constant", len(self._constants) - 1, 0))
            return len(self._steps) - 1
        if value not in self._found:
            self._found[value] = self._computed(value)
        return self._found[value]

    def _computed(self, value: Var) -> int:
        eqn = self._made.get(value)
        if eqn is not None and all(self._is_vector(v) for v in (value, *eqn.invars)):
            name = eqn.primitive.name
            if name in _SAME and len(eqn.invars) == 1:
                return self._register(eqn.invars[0])
            if name in library.OPERATIONS and len(eqn.invars) <= 2:
                return self._step(name, *map(self._register, eqn.invars))
        self.vectors.append(value)
        return -len(self.vectors)

    def _is_vector(self, value: Any) -> bool:
        return math.prod(_shape(value)) in (1, self._features) and value.aval.dtype == jnp.float32
