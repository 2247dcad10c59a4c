"""Weights of the examples in the loss of a step: from the data and from the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.errors import UserError
from jaxcnn.losses import Loss, Weighted
from jaxcnn.ops.precision import wide


def weights_of(loss: Loss, labels: Any, weights: Any) -> jax.Array | None:
    """The weight of each example in the loss: those of the data times those of the classes; None for neither."""
    if not isinstance(loss, Weighted):
        return weights
    return loss.weigh(labels) if weights is None else loss.weigh(labels) * weights


def normalized(weights: jax.Array | None, axis_name: str | None) -> jax.Array | None:
    """The weights divided by their mean over the whole batch, so that the mean of w l is sum w l / sum w.

    Parts of a batch, and devices, can then take means of their own.
    """
    if weights is None:
        return None
    mean = wide(weights).mean()
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    return weights / jnp.where(mean > 0, mean, 1)


def parts_of(batch: Any) -> tuple[Any, Any, Any]:
    """Inputs, labels and weights, which are None if a batch has none.

    Raises:
      UserError: for a batch of another form.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        hint = "; cnn.data.Loader(..., keys=('image', 'label')) takes dicts" if isinstance(batch, Mapping) else ""
        raise UserError(
            f"a step takes a batch (inputs, labels) or (inputs, labels, weights), got {type(batch).__name__}{hint}"
        )
    inputs, labels, weights = (*batch, None)[:3]
    return inputs, labels, weights
