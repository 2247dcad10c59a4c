"""Which number of a network's output is looked at: a class, a channel, a place, or any score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import PyTree
from jaxcnn.errors import UserError

Unit = Any
"""Which number of an output `(N, ..., K)` is looked at, in each example: None, the largest; an integer or `(N,)`
integers, a class or channel, where it is largest; a tuple `(y, x, k)`, or `(N, 3)` integers, one unit; or a function
`outputs -> (N,)`."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """A unit as a part that is compiled, `kind`, and a part that is not: `where`, integers `(1 or N, some)`."""

    kind: Any
    where: Any

    @classmethod
    def of(cls, unit: Unit) -> Chosen:
        if unit is None:
            return cls("largest", np.zeros((1, 0), np.int32))
        if callable(unit):
            return cls(unit, np.zeros((1, 0), np.int32))
        where = np.asarray(unit) if not isinstance(unit, jax.Array) else unit
        if not jnp.issubdtype(where.dtype, jnp.integer) or where.ndim > 2:
            raise UserError(
                f"unit={unit!r}: expected a class or channel, the coordinates of a unit as a tuple, an array of either "
                "with one for each example, or a function of the outputs"
            )
        if isinstance(unit, tuple):
            return cls("unit", where[None])
        if where.ndim == 2:
            return cls("unit", where)
        return cls("channel", where.reshape(-1, 1))

    def check(self, limits: Any) -> None:
        """Raises where a coordinate lies outside the output `limits`, its shape without the batch."""
        if isinstance(self.where, jax.core.Tracer) or isinstance(limits, jax.core.Tracer) or not self.where.size:
            return
        shape = np.asarray(limits)
        high = shape if self.kind == "unit" else shape[-1:]
        where = np.asarray(self.where)
        if (bad := (where < 0) | (where >= high)).any():
            row = where[bad.any(1)][0].tolist()
            got = row[0] if self.kind == "channel" else tuple(row)
            end = f"0 to {high[0] - 1}" if len(high) == 1 else f"below {tuple(high.tolist())}"
            raise UserError(f"unit={got}: expected {end}, in an output of shape (N, {', '.join(map(str, shape))})")


def score(output: PyTree, kind: Any, where: jax.Array) -> jax.Array:
    """The number that a `Chosen` unit has in each example: `(N,)`."""
    if not isinstance(kind, str):
        result = kind(output)
        if jnp.ndim(result) != 1:
            raise UserError(
                f"the function that chooses the unit gives {jnp.shape(result)}: expected one number each, (N,)"
            )
        return result
    output = only_array(output)
    flat = output.reshape(len(output), -1)
    return jnp.take_along_axis(flat, flat_index(output, kind, where)[:, None], 1)[:, 0]


def flat_index(output: jax.Array, kind: str, where: jax.Array) -> jax.Array:
    """Where the unit lies in each example's flattened output: `(N,)`."""
    examples, shape = len(output), output.shape[1:]
    if kind != "largest" and len(where) not in (1, examples):
        raise UserError(f"units for {len(where)} examples, and there are {examples}")
    where = jnp.broadcast_to(where, (examples, where.shape[1]))
    values = jax.lax.stop_gradient(output).reshape(examples, -1)
    if kind == "largest":
        return values.argmax(1)
    if not shape:
        raise UserError("the output has one number for each example: leave `unit` out")
    if kind == "channel":
        channels = shape[-1]
        column = jnp.take_along_axis(values.reshape(examples, -1, channels), where[:, None], 2)[:, :, 0]
        return column.argmax(1) * channels + where[:, 0]
    if where.shape[1] != len(shape):
        raise UserError(
            f"a unit of {where.shape[1]} coordinates in an output of shape (N, {', '.join(map(str, shape))}): expected "
            f"{len(shape)}"
        )
    return jnp.ravel_multi_index(tuple(where.T), shape, mode="clip")


def only_array(output: PyTree) -> jax.Array:
    """The output if it is one array of floating point with a batch axis, or an error."""
    leaves = jax.tree.leaves(output)
    if len(leaves) != 1 or leaves[0].ndim < 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        shapes = ", ".join(f"{x.dtype}{x.shape}" for x in leaves)
        raise UserError(f"the output is {shapes}: give `unit` as a function of it that returns one number each, (N,)")
    return leaves[0]


def limits(output: PyTree, kind: Any) -> jax.Array:
    """The shape of an output without its batch, as an array that a compiled function can return."""
    return jnp.asarray(only_array(output).shape[1:] if isinstance(kind, str) else (), jnp.int32)


def image_of(inputs: Sequence[Any]) -> int:
    """Which of the inputs is the image: the first floating one with spatial axes, else the first floating one.

    Raises:
      UserError: when none is floating.
    """
    floating = [i for i, x in enumerate(inputs) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)]
    if not floating:
        got = ", ".join(f"{x.dtype}{x.shape}" if hasattr(x, "dtype") else type(x).__name__ for x in inputs)
        raise UserError(f"expected images in floating point, as the network is given them (preprocessed); got {got}")
    return next((i for i in floating if inputs[i].ndim >= 3), floating[0])
