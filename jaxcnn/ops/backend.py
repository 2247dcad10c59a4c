"""Which form of an operation is computed: the one that a CPU is quick at, or XLA's own.

The forms for a CPU have names, `FORMS`. `JAXCNN_PLAIN` in the environment lists those that are not to be used, or says
`all`: then every operation is XLA's own, with the same results. It is read when a function is traced and compiled.
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

# A context of JAX's own: what `jax.jit` and `jax.checkpoint` have traced outside of it is traced again inside.
_general = jax.make_user_context(False)

FORMS = {
    "onednn": "convolutions, their gradients, and products of a few rows by oneDNN (jaxcnn.ops.cpu)",
    "products": "convolutions of few pixels with a large kernel as one matrix product",
    "stored": "values that XLA would compute again in each use are stored",
    "maximum": "max pooling that writes down which pixel was the largest, for its gradient",
    "slices": "pools as strided slices instead of reduce_window",
    "stuffed": "transposed convolutions without oneDNN with the zeros put in beforehand",
}


def suits_cpu(form: str, *arrays: Any) -> bool:
    """Whether to compute in this form: when there is no accelerator, outside `general_form`, and not switched off.

    Nor for arrays with symbolic dimensions, which are traced to be exported: which form is quick depends on the sizes.
    """
    if jax.default_backend() != "cpu" or _general.value or not all(isinstance(n, int) for a in arrays for n in a.shape):
        return False
    off = os.environ.get("JAXCNN_PLAIN", "").replace(" ", "").split(",")
    if unknown_ones := sorted(set(off) - {"", "all", *FORMS}):
        raise unknown("form in JAXCNN_PLAIN", unknown_ones[0], [*FORMS, "all"])
    return form not in off and "all" not in off


@contextmanager
def general_form() -> Iterator[None]:
    """A context in which operations are traced as XLA's own, one for each, whatever the machine.

    A summary counts in this form, so that it says the same everywhere, and a network is exported in it, to run
    anywhere. It holds for the thread that enters it.
    """
    with _general(True):
        yield


def stored(x: jax.Array) -> jax.Array:
    """x, and so is its gradient: on a CPU, a value that XLA computes once and keeps.

    XLA:CPU repeats an elementwise computation inside each operation that uses its result, with all that it is made of:
    behind a few residual blocks one ReLU was computed from four images at once, five times over. What it does not
    repeat is an operation on two whole images, and so this is `select(x == x, x, nan)`, whose value is x.
    """
    return stored_p.bind(x) if jnp.issubdtype(x.dtype, jnp.floating) and not _general.value else x


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Inside `shard_map`, all operands as varying over the axes that any of them varies over."""
    # In the checked versions of JAX the type says it under this name; XLA's own convolution does the same by itself.
    axes = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(a, missing, to="varying") if (missing := tuple(sorted(every - own))) else a
        for a, own in zip(arrays, axes, strict=True)
    ]


def _selected(x: jax.Array) -> jax.Array:
    return lax.select(x == x, x, jnp.full_like(x, jnp.nan)) if suits_cpu("stored") else x


def compute(primitive: Primitive, plain: Callable[..., Any], cpu: Callable[..., Any]) -> None:
    """Says how a primitive is computed, inside `jit` and outside: by `cpu` on a CPU, by `plain` elsewhere.

    Outside of `jit` it is compiled by itself. Under `jax.disable_jit`, and to find where a NaN comes from
    (`jax_debug_nans`), JAX calls a compiled function without compiling it, and binding the primitive there would call
    the same implementation for ever. There the arrays are no tracers, and the two functions are called instead.

    A parameter `parts`, where the primitive has one that is not None, is the program for a batch that `jit` divides
    among several CPU devices (`jaxcnn.ops.cpu.partition`); neither function gets it.
    """

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
        return mlir.lower_fun(functools.partial(plain, **params), multiple_results=False)(context, *operands)

    def lower(context: Any, *operands: Any, parts: ClosedJaxpr | None = None, **params: Any) -> Any:
        # What `jax.export` writes is to run anywhere, and JAX refuses calls there that another machine may not have.
        if context.module_context.lowering_parameters.for_export:
            return portable(context, *operands, **params)
        # Inside `shard_map` each device has a program of its own: only that of `jit` has a list of devices.
        if parts is None or getattr(context.module_context.axis_context, "device_assignment", None) is None:
            return mlir.lower_fun(functools.partial(cpu, **params), multiple_results=False)(context, *operands)
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
