"""Gradient check: the derivative that `jax.grad` gives against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np


def gradient_check(function: Callable[[Any], jax.Array], at: Any, samples: int = 20, seed: int = 0) -> float:
    """The largest relative difference between `jax.grad(function)` and central differences.

    Along each of `samples` random directions v of unit length, g . v is compared with
    (f(x + h v) - f(x - h v)) / 2h, with h = 1e-5, all in float64; the difference is relative to the larger of the two
    and of 1e-8.

    Args:
      function: a pytree of arrays -> a scalar.
      at: where to check.

    Returns:
      A number around 1e-7 or below for a correct gradient, of order 1 for a wrong one. At a kink (ReLU at 0) the two
      differ although nothing is wrong.
    """
    with jax.enable_x64(True):
        x = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), at)
        flat, unravel = jax.flatten_util.ravel_pytree(x)
        value = jax.jit(lambda v: function(unravel(v)))
        gradient = np.asarray(jax.grad(value)(flat))
        rng = np.random.default_rng(seed)
        worst = 0.0
        for _ in range(samples):
            v = rng.standard_normal(flat.size)
            v /= np.linalg.norm(v)
            h = 1e-5
            numeric = (float(value(flat + h * v)) - float(value(flat - h * v))) / (2 * h)
            exact = float(gradient @ v)
            worst = max(worst, abs(exact - numeric) / max(abs(exact), abs(numeric), 1e-8))
    return worst
