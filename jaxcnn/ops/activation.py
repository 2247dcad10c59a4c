"""Activations, each as one step of a program, so that `fuse` finds them.

The results of ReLU, tanh and sigmoid are stored. XLA would compute them again in each use, and inside the strided
slices of a pool one number at a time: tanh and a mean of 2x2 on 128 images of 28x28x6 took 1.8 ms and take 0.8.

The derivatives of the smooth ones are computed again from their input. XLA would keep what they share with the result,
one or two more images for each: a training step of ConvNeXt-T needed 250 MiB more, EfficientNet-B0's 180.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.backend import stored
from jaxcnn.ops.precision import rounded, wide

NAMED = "jaxcnn_"
"""The first part of the names that the steps of these activations have in a program, but for ReLU."""


@jax.custom_jvp
@jax.jit
def relu(x: jax.Array) -> jax.Array:
    """max(0, x); its derivative is 1 where x > 0 and 0 elsewhere."""
    return stored(jnp.maximum(x, 0))


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The mask is computed from the result, which the next layer's gradient needs anyway, so x need not be kept.
    y = relu(*primals)
    return y, jnp.where(y > 0, *tangents, 0)


def _one_step(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The function as one step of a program, which has its name."""
    function.__name__ = NAMED + function.__name__
    return jax.jit(function)


def _with_tangent(function: Callable[[jax.Array], jax.Array], tangent: Callable[..., jax.Array]) -> Any:
    """The function with the derivative `tangent(x, y, dx)`, for its result y."""

    @jax.custom_jvp
    def run(x: jax.Array) -> jax.Array:
        return function(x)

    @run.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        y = run(*primals)
        return y, tangent(*primals, y, *tangents)

    return run


def _stored(function: Callable[[jax.Array], jax.Array], tangent: Callable[..., jax.Array]) -> Any:
    """The function with a stored result y; its derivative is `tangent(y, dx)`."""
    return _with_tangent(lambda x: stored(function(x)), lambda x, y, dx: tangent(y, dx))


def _recomputed(function: Callable[[jax.Array], jax.Array], derivative: Callable[[jax.Array], jax.Array]) -> Any:
    """The function f with f'(x) = `derivative(x)`, of which XLA keeps x and f(x) for the backward pass, and no more.

    XLA stores what the two functions share, so they must not share an exponential or the like.
    """
    return _with_tangent(function, lambda x, y, dx: dx * derivative(x))


def _silu_derivative(x: jax.Array) -> jax.Array:
    t = jnp.tanh(x / 2)  # sigmoid(x) = (1 + t) / 2
    return (1 + t) / 2 * (1 + x * (1 - t) / 2)


def _gelu_derivative(x: jax.Array) -> jax.Array:
    density = jnp.exp(-x * x / 2) * (2 * math.pi) ** -0.5
    return (1 + lax.erf(x * 0.5**0.5)) / 2 + x * density


def _gelu_tanh_derivative(x: jax.Array) -> jax.Array:
    scale = (2 / math.pi) ** 0.5
    s = jax.nn.sigmoid(2 * scale * (x + 0.044715 * x**3))  # (1 + tanh(u)) / 2 = sigmoid(2 u)
    return s + x * s * (1 - s) * (2 * scale) * (1 + 3 * 0.044715 * x * x)


_relu6 = _stored(lambda x: jnp.clip(x, 0, 6), lambda y, dx: jnp.where((y > 0) & (y < 6), dx, 0))
_tanh = _stored(jnp.tanh, lambda y, dx: (dx + dx * y) * (1 - y))
_sigmoid = _stored(jax.nn.sigmoid, lambda y, dx: dx * y * (1 - y))
_hard_swish = _recomputed(
    lambda x: x * jnp.clip(x + 3, 0, 6) / 6, lambda x: jnp.where(x >= 3, 1, jnp.where(x <= -3, 0, x / 3 + 0.5))
)
_silu = _recomputed(jax.nn.silu, _silu_derivative)
_gelu = _recomputed(functools.partial(jax.nn.gelu, approximate=False), _gelu_derivative)
_gelu_tanh = _recomputed(functools.partial(jax.nn.gelu, approximate=True), _gelu_tanh_derivative)


@_one_step
def tanh(x: jax.Array) -> jax.Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)); its derivative is 1 - tanh(x)^2."""
    return _tanh(x)


@_one_step
def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)); its derivative is sigmoid(x) (1 - sigmoid(x))."""
    return _sigmoid(x)


@_one_step
def relu6(x: jax.Array) -> jax.Array:
    """min(max(0, x), 6); its derivative is 1 where 0 < x < 6 and 0 elsewhere."""
    return _relu6(x)


@_one_step
def hard_sigmoid(x: jax.Array) -> jax.Array:
    """min(max(0, x + 3), 6) / 6, computed in float32 at least."""
    return rounded(_relu6(wide(x) + 3) / 6, x.dtype)


@_one_step
def hard_swish(x: jax.Array) -> jax.Array:
    """x min(max(0, x + 3), 6) / 6, computed in float32 at least; its derivative is 0 at -3 and 1 at 3."""
    return rounded(_hard_swish(wide(x)), x.dtype)


@_one_step
def silu(x: jax.Array) -> jax.Array:
    """x sigmoid(x), computed in float32 at least."""
    return rounded(_silu(wide(x)), x.dtype)


@_one_step
def gelu(x: jax.Array) -> jax.Array:
    """x (1 + erf(x / sqrt(2))) / 2, computed in float32 at least."""
    return rounded(_gelu(wide(x)), x.dtype)


@_one_step
def gelu_tanh(x: jax.Array) -> jax.Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, computed in float32 at least."""
    return rounded(_gelu_tanh(wide(x)), x.dtype)
