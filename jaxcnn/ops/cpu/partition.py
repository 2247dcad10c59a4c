"""A call on a batch that `jit` has divided among several devices: each device computes its part.

XLA cannot look into a library call, and would gather the whole batch on every device. JAX's `custom_partitioning` tells
XLA how to divide the call. It has no rule for gradients, so it cannot replace the convolution in a program. Instead it
is a parameter of the convolution's primitive, which is lowered to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import ClosedJaxpr
from jax.sharding import NamedSharding, PartitionSpec


def divided(
    function: Callable[..., jax.Array], operands: Sequence[jax.Array], batched: Sequence[bool], summed: bool = False
) -> ClosedJaxpr | None:
    """The program of a call that can be divided; None if there is only one device.

    Args:
      function: a hashable function of arrays that returns an array.
      operands: its arguments; only their shapes and dtypes are used.
      batched, summed: see `partitioned`.
    """
    if jax.device_count() == 1:
        return None
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands)
    # JAX's two partitioners need different rules, so the programs are cached separately.
    shardy = bool(getattr(jax.config, "jax_use_shardy_partitioner", True))
    return _traced(function, shapes, tuple(batched), summed, shardy)


@functools.lru_cache(maxsize=1024)
def _traced(
    function: Callable[..., jax.Array], operands: Sequence[Any], batched: Sequence[bool], summed: bool, shardy: bool
) -> ClosedJaxpr:
    return jax.make_jaxpr(partitioned(function, batched, summed))(*operands)


def partitioned(function: Callable[..., jax.Array], batched: Sequence[bool], summed: bool) -> Callable[..., jax.Array]:
    """The function, with its batch divided as its operands are.

    Args:
      function: a function of arrays that returns an array.
      batched: for each operand, whether its first axis is the batch. The other operands are replicated.
      summed: whether the result is a sum over the batch; otherwise its first axis is the batch.
    """

    def call(*operands: jax.Array) -> jax.Array:
        return function(*operands)

    def divide(mesh: Any, operands: Any, out: Any) -> Any:
        axes = _axes(operands, batched)
        if axes is None and not summed:
            axes = _axes([out], [True])
        shardings = [NamedSharding(mesh, PartitionSpec(axes if one else None)) for one in batched]
        result = NamedSharding(mesh, PartitionSpec(None if summed else axes))

        def part(*parts: jax.Array) -> jax.Array:
            found = function(*parts)
            return lax.psum(found, axes) if summed and axes is not None else found

        return mesh, part, result, tuple(shardings)

    def infer(mesh: Any, operands: Any, out: Any) -> Any:
        return NamedSharding(mesh, PartitionSpec(None if summed else _axes(operands, batched)))

    def rule(mesh: Any, operands: Any, out: Any) -> Any:
        return _rule([len(v.shape) for v in operands], batched, len(out[0].shape), summed)

    run = custom_partitioning(call)
    run.def_partition(partition=divide, infer_sharding_from_operands=infer, sharding_rule=rule)
    return run


def _axes(operands: Any, batched: Sequence[bool]) -> Any:
    """The axes of the mesh along which the batch is divided, from the first operand whose batch is divided."""
    for operand, has_batch in zip(operands, batched, strict=True):
        if has_batch and (spec := getattr(operand.sharding, "spec", None)) and spec[0] is not None:
            return spec[0]
    return None


def _rule(ranks: Sequence[int], batched: Sequence[bool], rank: int, summed: bool) -> Any:
    """The sharding rule for Shardy, with a name per dimension: `b` is the batch, and all others are replicated."""
    whole: list[str] = []

    def names(rank: int, has_batch: bool) -> str:
        own = [f"d{len(whole) + i}" for i in range(rank - has_batch)]
        whole.extend(own)
        return " ".join(["b"] * has_batch + own)

    left = ", ".join(names(*pair) for pair in zip(ranks, batched, strict=True))
    text = f"{left} -> {names(rank, not summed)}"
    return text, {"need_replication_factors": tuple(whole), **({"reduction_factors": ("b",)} if summed else {})}
