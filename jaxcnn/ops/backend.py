"""The choice between two forms of an operation: one that is fast on a CPU, and XLA's operation.

`FORMS` names the forms for a CPU. The environment variable `JAXCNN_PLAIN` lists those to switch off, or is `all`: XLA's
operations then replace them, with the same results. It is read when a function is traced and compiled; for `pages`,
once, when oneDNN is loaded.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxcnn.errors import unknown

# A user context of JAX: `jax.jit` and `jax.checkpoint` trace a function again when the context changes.
_general = jax.make_user_context(False)

FORMS = {
    "onednn": "convolutions, their gradients, and products of a few rows by oneDNN (jaxcnn.ops.cpu)",
    "direct": "convolutions of few channels, and depthwise ones of 5x5 and 7x7, by code of our own (jaxcnn.ops.cpu)",
    "winograd": "3x3 and 5x5 convolutions of stride 1 by Winograd's algorithm, with half the products (jaxcnn.ops.cpu)",
    "sums": "batch statistics, layer normalization, and their gradients, in one pass each (jaxcnn.ops.cpu)",
    "products": "convolutions of few pixels with a large kernel as one matrix product",
    "stored": "values that XLA would compute again in each use are stored",
    "random": "the random bits of initial values by code of our own (jaxcnn.ops.cpu)",
    "maximum": "max pooling that writes down which pixel was the largest, for its gradient",
    "slices": "pools as strided slices instead of reduce_window",
    "stuffed": "transposed convolutions without oneDNN with the zeros put in beforehand",
    "ordered": "kernels are updated in place after their last use, and not copied",
    "pages": "the memory of a call in huge pages, where oneDNN is used",
}


def suits_cpu(form: str, *arrays: Any) -> bool:
    """Whether to use this form: on a CPU, outside `general_form`, if the form is not switched off.

    Arrays with symbolic dimensions, which are traced for an export, do not use it: which form is fast depends on the
    sizes.
    """
    if jax.default_backend() != "cpu" or _general.value or not all(isinstance(n, int) for a in arrays for n in a.shape):
        return False
    return switched_on(form)


def switched_on(form: str) -> bool:
    """Whether JAXCNN_PLAIN leaves this form on.

    Raises:
      UserError: for an unknown form in JAXCNN_PLAIN.
    """
    off = os.environ.get("JAXCNN_PLAIN", "").replace(" ", "").split(",")
    if unknown_ones := sorted(set(off) - {"", "all", *FORMS}):
        raise unknown("form in JAXCNN_PLAIN", unknown_ones[0], [*FORMS, "all"])
    return form not in off and "all" not in off


@contextmanager
def general_form() -> Iterator[None]:
    """A context in which each operation is traced as XLA's operation, on every machine.

    A summary counts operations in this form, so its numbers are the same everywhere, and `jaxcnn.export` uses it, so
    that the program runs everywhere. The context holds for the current thread.
    """
    with _general(True):
        yield


def stored(x: jax.Array) -> jax.Array:
    """x, as a value that XLA computes once and keeps on a CPU; likewise its gradient.

    XLA:CPU repeats an elementwise computation inside each operation that uses its result, together with the elementwise
    computations before it: after a few residual blocks, one ReLU was computed five times, each time from four images.
    XLA does not repeat an operation on two whole images, so this function is `select(x == x, x, nan)`, which equals x.
    """
    return stored_p.bind(x) if jnp.issubdtype(x.dtype, jnp.floating) and not _general.value else x


def ordered(gradients: Any) -> Any:
    """The gradients of kernels, none of which XLA uses on a CPU before it has computed all of them.

    A step that donates its parameters overwrites them. XLA may update a kernel before the gradient of the layer below
    has used it, and so works on a copy of each kernel, made when the step begins. To each gradient, this function adds
    a zero that depends on all of them, which XLA cannot know: the highest of 32 bits, moved on twice.

    Args:
      gradients: a tree of arrays. Those of less than two dimensions are small, and stay as they are.
    """
    leaves = [leaf for leaf in jax.tree.leaves(gradients) if _is_kernel(leaf)]
    if len(leaves) < 2 or not suits_cpu("ordered", *leaves):
        return gradients
    some = jnp.stack([leaf[(0,) * leaf.ndim].astype(jnp.float32) for leaf in leaves])
    zero = ((lax.bitcast_convert_type(some, jnp.uint32) >> 31) >> 1).sum()
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype) if _is_kernel(leaf) else leaf, gradients)


def _is_kernel(leaf: jax.Array) -> bool:
    return leaf.ndim > 1 and leaf.size > 0 and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Inside `shard_map`, the arrays marked as varying over the axes that any of them varies over."""
    # The attribute of the type has this name in the tested versions of JAX. `lax`'s convolution does the same.
    axes = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(a, missing, to="varying") if (missing := tuple(sorted(every - own))) else a
        for a, own in zip(arrays, axes, strict=True)
    ]


def _selected(x: jax.Array) -> jax.Array:
    return lax.select(x == x, x, jnp.full_like(x, jnp.nan)) if suits_cpu("stored") else x


def compute(primitive: Primitive, plain: Callable[..., Any], cpu: Callable[..., Any]) -> None:
    """Registers how a primitive is computed, inside and outside of `jit`: by `cpu` on a CPU, by `plain` elsewhere.

    Outside of `jit` the primitive is compiled alone. Under `jax.disable_jit`, and when it searches for a NaN
    (`jax_debug_nans`), JAX runs a compiled function without compiling it. Binding the primitive there would recurse
    forever; the arrays are then not tracers, and `cpu` or `plain` is called directly.

    If the primitive has a parameter `parts` that is not None, it is the program for a batch that `jit` divides among
    several CPU devices (`jaxcnn.ops.cpu.partition`). It is not passed to `plain` or `cpu`.
    """

    several = primitive.multiple_results

    @functools.lru_cache(maxsize=1024)
    def compiled(**params: Any) -> Any:
        def run(*operands: jax.Array) -> jax.Array:
            if isinstance(operands[0], jax.core.Tracer):
                return primitive.bind(*operands, **params)
            own = {name: value for name, value in params.items() if name != "parts"}
            forms = {"cpu": functools.partial(cpu, **own), "default": functools.partial(plain, **own)}
            return lax.platform_dependent(*operands, **forms)

        run.__name__ = primitive.name
        return jax.jit(run)

    primitive.def_impl(lambda *operands, **params: compiled(**params)(*operands))

    def portable(context: Any, *operands: Any, parts: ClosedJaxpr | None = None, **params: Any) -> Any:
        return mlir.lower_fun(functools.partial(plain, **params), several)(context, *operands)

    def lower(context: Any, *operands: Any, parts: ClosedJaxpr | None = None, **params: Any) -> Any:
        # An exported program must run on any machine, and JAX refuses calls of custom libraries in it.
        if context.module_context.lowering_parameters.for_export:
            return portable(context, *operands, **params)
        # Inside `shard_map` each device runs its own program. Only the program of `jit` has a list of devices.
        if parts is None or getattr(context.module_context.axis_context, "device_assignment", None) is None:
            return mlir.lower_fun(functools.partial(cpu, **params), several)(context, *operands)
        return mlir.lower_fun(jaxpr_as_fun(parts), multiple_results=True)(context, *operands)

    mlir.register_lowering(primitive, portable)
    mlir.register_lowering(primitive, lower, platform="cpu")


stored_p = Primitive("jaxcnn_stored")
stored_p.def_impl(lambda x: x)
stored_p.def_abstract_eval(lambda x: x)
ad.deflinear2(stored_p, lambda ct, x: [ct if type(ct) is ad.Zero else stored(ct)])
batching.defvectorized(stored_p)
mlir.register_lowering(stored_p, mlir.lower_fun(lambda x: x, multiple_results=False))
mlir.register_lowering(stored_p, mlir.lower_fun(_selected, multiple_results=False), platform="cpu")
