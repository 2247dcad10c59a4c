"""Activations. Those without settings are plain functions of arrays; the others are functions that return a layer.

The derivative of ReLU at 0 is 0; so is that of `relu6`, `hard_sigmoid` and `hard_swish` at both ends of their ramp,
where JAX's functions of these names have half the slope.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, count, floating, stateless


def relu(x: jax.Array) -> jax.Array:
    """max(0, x); its derivative at 0 is defined as 0."""
    return ops.relu(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """g(x) = 1 / (1 + exp(-x)), with g' = g (1 - g)."""
    return ops.sigmoid(x)


def tanh(x: jax.Array) -> jax.Array:
    """tanh(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return ops.tanh(x)


def softmax(x: jax.Array) -> jax.Array:
    """exp(x_k) / sum over j of exp(x_j), along the last axis. The losses take logits, so do not train with it."""
    return ops.rounded(jax.nn.softmax(ops.wide(x)), x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), Phi the distribution function of the normal distribution: x (1 + erf(x / sqrt(2))) / 2.

    Source: Hendrycks and Gimpel, Gaussian error linear units (2016), section 2.
    """
    return ops.gelu(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU by its approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, at most 5e-4 off.

    Source: Hendrycks and Gimpel (2016), section 2. BERT, GPT-2 and Flax's `gelu` compute this one.
    """
    return ops.gelu_tanh(x)


def silu(x: jax.Array) -> jax.Array:
    """x sigmoid(x), also called swish.

    Source: Elfwing et al., Sigmoid-weighted linear units (2018); Ramachandran et al., Searching for activation
    functions (2017).
    """
    return ops.silu(x)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(0, x), 6); its derivative is 1 where 0 < x < 6 and 0 elsewhere.

    Source: Krizhevsky, Convolutional deep belief networks on CIFAR-10 (2010), page 2.
    """
    return ops.relu6(x)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """min(max(0, x + 3), 6) / 6: a sigmoid of three straight lines.

    Source: Howard et al., Searching for MobileNetV3 (2019), section 5.2. Keras before version 3 has another slope.
    """
    return ops.hard_sigmoid(x)


def hard_swish(x: jax.Array) -> jax.Array:
    """x min(max(0, x + 3), 6) / 6: `silu` with the hard sigmoid.

    Source: Howard et al. (2019), section 5.2.
    """
    return ops.hard_swish(x)


@layer
def leaky_relu(slope: float = 0.01) -> Layer:
    """x for x >= 0, slope * x for x < 0; for a slope of at most 1 this is max(slope * x, x).

    Source: Maas et al., Rectifier nonlinearities improve neural network acoustic models (2013).
    """
    return stateless(lambda key, x: {}, lambda params, x: jax.nn.leaky_relu(x, slope))


@layer
def elu(alpha: float = 1.0) -> Layer:
    """x for x > 0, alpha * (exp(x) - 1) for x <= 0.

    Source: Clevert et al., Fast and accurate deep network learning by exponential linear units (2016).
    """
    return stateless(lambda key, x: {}, lambda params, x: jax.nn.elu(x, alpha))


@layer
def prelu(slope: float = 0.25, *, shared: bool = False) -> Layer:
    """Leaky ReLU with a learned slope: x for x >= 0, slope * x for x < 0.

    Args:
      slope: the initial slope.
      shared: whether all channels share one slope; by default, each channel has one.

    Variables: params `slope`, `(C,)`, or `(1,)` when shared.

    Source: He et al., Delving deep into rectifiers (2015), section 2.1.
    """

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        floating(x)
        return {"slope": jnp.full((1 if shared else x.shape[-1],), slope, jnp.result_type(float))}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        floating(x)
        if not shared and params["slope"].shape != x.shape[-1:]:
            raise LayerError(f"made for {params['slope'].size} channels, got {x.shape[-1]} in {x.shape}")
        below = ops.wide(x)
        return jnp.where(x >= 0, x, ops.rounded(ops.spread(params["slope"], below) * below, x.dtype))

    return stateless(init, apply)


@layer
def maxout(
    features: int,
    pieces: int = 2,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """The maximum of several linear functions of the last axis: max over p of (x w_p + b_p).

    Args:
      features: the number of units.
      pieces: the number of linear functions per unit.
      bias, kernel_init, bias_init: as in `dense`.

    Variables: params `kernel` `(pieces, D, features)`, `bias` `(pieces, features)`.

    Returns:
      A Layer `(..., D) -> (..., features)`.

    Source: Goodfellow et al., Maxout networks (2013), section 3.
    """
    features, pieces = count(features, "features"), count(pieces, "pieces")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        floating(x)
        *kernel_keys, bias_key = jax.random.split(key, pieces + 1)
        params = {"kernel": jnp.stack([kernel_init(k, (x.shape[-1], features)) for k in kernel_keys])}
        if bias:
            params["bias"] = bias_init(bias_key, (pieces, features))
        return params

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        floating(x)
        kernel = params["kernel"]
        if x.shape[-1] != kernel.shape[1]:
            raise LayerError(f"made for {kernel.shape[1]} inputs, got {x.shape[-1]} in {x.shape}")
        dtype = jnp.result_type(x, kernel)
        y = jnp.einsum("...d,pdf->...pf", x.astype(dtype), kernel.astype(dtype))
        return (y + ops.spread(params["bias"], y) if bias else y).max(-2)

    return stateless(init, apply)
