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
    """Greedy non-maximum suppression: the indices of the boxes that are kept, best first.

    The box with the highest score (the first of equals) is kept, and all boxes whose IoU with it is above `threshold`
    are removed; this repeats until no box is left or `limit` boxes are kept. Boxes with a score of NaN or -inf are
    never kept, so -inf can mark entries without a box.

    The program compares `limit` boxes with all M and needs no M x M matrix.

    Args:
      boxes: `(M, 4)`.
      scores: `(M,)`.
      threshold: the largest IoU of two boxes that are both kept.
      limit: the maximum number of boxes to keep.
      classes: `(M,)` integers. If given, a box suppresses only boxes of the same class.

    Returns:
      `(limit,)` int32: the indices of the kept boxes, then -1.
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
