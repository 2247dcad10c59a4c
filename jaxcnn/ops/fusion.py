"""In inference, what follows a convolution is done inside it: bias, batch normalization, residual sum and activation.

By themselves they read the whole image from memory and write it back; inside oneDNN's convolution
(`jaxcnn.ops.cpu`) they are done on each piece of the result while the processor has it at hand. The code of a
network does not say that they belong together and need not: `fuse` traces it and finds them in its program.
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
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from jaxcnn.ops import cpu
from jaxcnn.ops.backend import stored_p
from jaxcnn.ops.cpu.fused import ACTIVATIONS
from jaxcnn.ops.precision import spread

_WRAPPED = ("relu6", "silu", "hard_swish")  # activations that JAX's programs have as one step, a call
_FOLD = 3  # numbers of the output that there must be for each of the kernel, for the kernel to be multiplied

P = ParamSpec("P")
T = TypeVar("T")


def fuse(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, with convolutions taking in what follows them.

    A chain  conv -> * and + of `(K,)` vectors -> + residual -> activation,  any part of which may be missing, becomes
    one convolution where nothing else uses the values in between:

    relu((conv(x, kernel) + b) f + s + r) = relu(conv(x, kernel f) + (b f + s) + r)

    The activation is ReLU, `jax.nn.relu6`, `silu` or `hard_swish`.

    The product kernel f is computed in each call; where the kernel is large for its image, it would cost more than it
    saves, and the chain is left as it is.

    Args:
      function: pytrees of arrays to a pytree of arrays. Arguments by keyword are not traced: `train=False`.

    Returns:
      A function of the same arguments, for `jax.jit`, `vmap` and gradients as before, whose results are those of
      `function` within the rounding of float32, and whose derivatives are `function`'s own. Where oneDNN's
      convolution is not used it calls `function`. One difference: what is NaN before a ReLU is 0 behind oneDNN's.

    Example:
      >>> predict = jax.jit(fuse(lambda params, state, x: model.apply(params, state, x)[0]))
    """

    @functools.wraps(function)
    def fused(*args: P.args, **kwargs: P.kwargs) -> T:
        if not cpu.available():
            return function(*args, **kwargs)
        program, shape = jax.make_jaxpr(lambda *a: function(*a, **kwargs), return_shape=True)(*args)
        run = jax.custom_jvp(lambda *values: _run(program.jaxpr, values, fusing=True))
        run.defjvp(lambda primals, tangents: jax.jvp(lambda *v: _run(program.jaxpr, v), primals, tangents))
        return jax.tree.unflatten(jax.tree.structure(shape), run(*program.consts, *jax.tree.leaves(args)))

    return fused


# --- finding the chains ------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    """A convolution and what it takes in, as the steps of the program.

    Attributes:
      conv: the convolution.
      steps: where it and what follows stand in the program; the last one's result is the chain's.
      affine: `("mul" | "add" | "sub", vector)` in their order.
      residual: the value that is added, or None.
      activation: the name of what ends it, a key of `jaxcnn.ops.cpu.fused.ACTIVATIONS`.
    """

    conv: JaxprEqn
    steps: list[int]
    affine: list[tuple[str, Any]] = field(default_factory=list)
    residual: Any = None
    activation: str = ""

    @property
    def scaled(self) -> bool:
        return any(name == "mul" for name, _ in self.affine)

    @property
    def pays(self) -> bool:
        # A kernel's number read, multiplied and written took 1.8 ns (ResNet-50, batch 8), an output's that is written
        # once instead of twice saved 0.6.
        kernel, output = (math.prod(_shape(v)) for v in (self.conv.invars[1], self.conv.outvars[0]))
        return len(self.steps) > 1 and not (self.scaled and kernel * _FOLD > output)


def _chains(jaxpr: Jaxpr) -> list[_Chain]:
    """The chains of a program, none of whose steps is in two of them."""
    made: dict[Any, JaxprEqn] = {}
    uses: dict[Any, list[int]] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        made.update((v, eqn) for v in eqn.outvars)
        for v in eqn.invars:
            if isinstance(v, Var):
                uses.setdefault(v, []).append(i)
    for v in jaxpr.outvars:
        if isinstance(v, Var):
            uses.setdefault(v, []).append(len(jaxpr.eqns))
    taken: set[int] = set()
    chains = []
    for i, eqn in enumerate(jaxpr.eqns):
        if _can_be_one(eqn):
            chain = _Chain(eqn, [i])
            value = eqn.outvars[0]
            while not chain.activation and len(at := uses.get(value, [])) == 1:
                if at[0] in taken or at[0] == len(jaxpr.eqns) or not _takes_in(chain, jaxpr.eqns[at[0]], value, made):
                    break
                chain.steps += at
                value = jaxpr.eqns[at[0]].outvars[0]
            if chain.pays:
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
    """The name of the activation that a step computes, one of `_WRAPPED` or ReLU; empty where it is none."""
    if is_relu(eqn):
        return "relu"
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


def _body(eqn: JaxprEqn) -> Any:
    """What a call of a function calls, or None."""
    name = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}.get(eqn.primitive.name)
    return None if name is None else eqn.params[name]


def is_relu(eqn: JaxprEqn) -> bool:
    """Whether a step is max(x, 0): by itself, or as what is done in the functions that JAX wraps it in."""
    while eqn.primitive.name in ("jit", "custom_jvp_call"):
        body = eqn.params["jaxpr" if eqn.primitive.name == "jit" else "call_jaxpr"].jaxpr
        steps = [inner for inner in body.eqns if inner.primitive is not stored_p]
        if len(eqn.invars) != 1 or len(steps) != 1 or body.outvars != body.eqns[-1].outvars:
            return False
        (eqn,) = steps
        if body.invars[0] not in [v for v in eqn.invars if isinstance(v, Var)]:
            return False
    return eqn.primitive.name == "max" and any(isinstance(v, Literal) and np.all(v.val == 0) for v in eqn.invars)


def _can_be_one(eqn: JaxprEqn) -> bool:
    return eqn.primitive is cpu.convolution_p and eqn.params["kind"] == "output" and not eqn.params["swapped"]


def _window(eqn: JaxprEqn) -> dict[str, Any]:
    return {name: value for name, value in eqn.params.items() if name in ("strides", "pads", "dilation", "groups")}


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape


# --- running the program -----------------------------------------------------------------------------------------


def _run(jaxpr: Jaxpr, values: Sequence[Any], fusing: bool = False) -> list[Any]:
    """The results of a program for the values of its constants and inputs; fusing, each chain is one step."""
    chains = _chains(jaxpr) if fusing else []
    last = {chain.steps[-1]: chain for chain in chains}
    inside = {i for chain in chains for i in chain.steps[:-1]}
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else known[v]

    for i, eqn in enumerate(jaxpr.eqns):
        if i in inside:
            continue
        with eqn.ctx.manager:
            if i in last:
                out = [_compute(last[i], read)]
            elif fusing and _calls_conv(eqn):
                body = eqn.params["jaxpr"]
                out = _run(body.jaxpr, [*body.consts, *map(read, eqn.invars)], fusing)
            else:
                params = eqn.primitive.get_bind_params(eqn.params)
                out = eqn.primitive.bind(*map(read, eqn.invars), **params)
                out = out if eqn.primitive.multiple_results else [out]
        known.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _calls_conv(eqn: JaxprEqn) -> bool:
    """Whether a step is a call of a compiled function with convolutions in it."""
    return eqn.primitive.name == "jit" and any(
        inner.primitive is cpu.convolution_p or _calls_conv(inner) for inner in eqn.params["jaxpr"].eqns
    )


def _compute(chain: _Chain, read: Callable[[Any], Any]) -> jax.Array:
    x, kernel = map(read, chain.conv.invars)
    features = kernel.shape[-1:]
    factor, shift = jnp.ones(features, x.dtype), jnp.zeros(features, x.dtype)
    for name, vector in chain.affine:
        v = jnp.broadcast_to(jnp.ravel(read(vector)), features).astype(x.dtype)
        if name == "mul":
            factor, shift = factor * v, shift * v
        else:
            shift = shift + v if name == "add" else shift - v
    if chain.scaled:
        kernel = kernel * spread(factor, kernel)
    residual = None if chain.residual is None else read(chain.residual)
    window = _window(chain.conv)
    return cpu.conv_fused(x, kernel, shift, residual, activation=chain.activation, **window)
