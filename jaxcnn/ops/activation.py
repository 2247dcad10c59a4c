"""ReLU in a form that XLA computes once on a CPU, together with its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcnn.ops.backend import stored


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
