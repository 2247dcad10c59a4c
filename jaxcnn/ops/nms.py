"""Non-maximum suppression."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcnn.ops.boxes import iou


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float = 0.5,
    limit: int = 100,
    classes: jax.Array | None = None,
) -> jax.Array:
    """Greedy non-maximum suppression: which boxes stay, the best one first.

    Of the boxes that are left the one with the highest score stays (the first of equals), and those go whose IoU with
    it is above `threshold`; until none is left or `limit` have been found. Boxes with a score of NaN or -inf never
    stay, so that is what a place without a box is given.

    The program compares `limit` boxes with all M and needs no M x M matrix; its result has a fixed size.

    Args:
      boxes: `(M, 4)`.
      scores: `(M,)`.
      threshold: the largest IoU that two boxes that stay can have.
      limit: the most boxes to keep.
      classes: `(M,)` integers; a box suppresses those of its own class only.

    Returns:
      `(limit,)` int32: the places of the boxes that stay, then -1.
    """
    boxes, scores = jnp.asarray(boxes), jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    classes = None if classes is None else jnp.asarray(classes)
    if not scores.size:
        return jnp.full(limit, -1, jnp.int32)

    def choose(left: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        best = jnp.argmax(left).astype(jnp.int32)
        overlap = iou(boxes[best][None], boxes)[0] > threshold
        if classes is not None:
            overlap &= classes == classes[best]
        found = left[best] > -jnp.inf
        left = jnp.where(overlap, -jnp.inf, left).at[best].set(-jnp.inf)
        return left, jnp.where(found, best, -1)

    return jax.lax.scan(choose, scores, None, limit)[1]
