"""Optimizers and masks for some of a network's parameters, chosen by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxcnn.core import lies_in
from jaxcnn.errors import UserError, unknown

PyTree = Any
# Extra arguments that are about all parameters at once.
_WHOLE = ("grad", "value_fn", "obj_fn", "grad_fn")


def by_path(optimizers: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """An optimizer for each part of a network: each parameter gets that of the first path in which it lies.

    A path is that of a layer or parameter, as in `freeze` and `weights.load`, and includes all that is inside:
    `"conv1"`, `"layer4/block1"`, `"fc/bias"`. It may be a pattern, in which `*` stands for any characters (`/`, too)
    and `?` for one: `"layer4/*"`, `"*/bn?"`, `"*bias"`, and `"*"` for all others at the end.

    Each optimizer sees its parameters alone; a norm that it computes (`optax.clip_by_global_norm`) is theirs. It gets
    the extra argument `value` of a step, and none of the functions of all parameters, which line searches need.

    Args:
      optimizers: Optax transformations by path. `optax.set_to_zero()` keeps parameters as they are; `freeze` saves
        their gradient, too.

    Returns:
      An Optax transformation (`optax.partition`).

    Raises:
      UserError: for no paths; and when it first sees the parameters, if a path names none of them, or only ones that
        earlier paths have, or if a parameter lies in none of the paths.

    Example:
      >>> optimizer = cnn.train.by_path({"conv1": optax.sgd(1e-3), "*bias": optax.sgd(1e-2), "*": optax.adam(1e-3)})
    """
    patterns = list(optimizers)
    if not patterns:
        raise UserError('by_path: expected an optimizer for each path, such as {"fc": optax.sgd(0.1), "*": ...}')

    def labels(params: PyTree) -> PyTree:
        paths = _paths(params)
        chosen = {path: next((p for p in patterns if lies_in(path, p)), None) for path in paths}
        for pattern in patterns:
            if not (own := _chosen(pattern, paths)):
                raise _unknown(pattern, paths)
            if pattern not in chosen.values():
                raise UserError(
                    f"by_path: all parameters in {pattern!r} lie in paths before it ({own[0]} in "
                    f"{chosen[own[0]]!r}): the first path counts, so put {pattern!r} before"
                )
        if left := [path for path, pattern in chosen.items() if pattern is None]:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UserError(f'by_path: no path holds {left[0]}{more}; end with "*" for all others')
        return jax.tree_util.tree_map_with_path(lambda path, _: chosen[_named(path)], params)

    inner = optax.partition(dict(optimizers), labels)

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, Any]:
        passed = {name: value for name, value in extra.items() if name not in _WHOLE}
        return inner.update(updates, state, params, **passed)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def mask(*paths: str, kind: str | None = None) -> Callable[[PyTree], PyTree]:
    """A mask of parameters for Optax: a function `params -> tree of True and False`.

    Args:
      paths: True for the parameters in these paths or patterns, as in `by_path`; all when none is given.
      kind: True only for parameters of this name, `"kernel"`, `"bias"` or `"scale"`.

    Raises:
      UserError: when the function is called, if a path or kind names no parameter.

    Example:
      >>> optax.adamw(1e-3, weight_decay=0.05, mask=cnn.train.mask(kind="kernel"))
      >>> optax.masked(optax.add_noise(0.01, 0.55, 0), cnn.train.mask("layer4", "fc"))
    """

    def of(params: PyTree) -> PyTree:
        known = _paths(params)
        for path in paths:
            if not _chosen(path, known):
                raise _unknown(path, known)
        kinds = {path.rpartition("/")[2] for path in known}
        if kind is not None and kind not in kinds:
            raise unknown("kind of parameter", kind, kinds)

        def one(path: Any, _: Any) -> bool:
            name = _named(path)
            inside = not paths or any(lies_in(name, p) for p in paths)
            return inside and kind in (None, name.rpartition("/")[2])

        return jax.tree_util.tree_map_with_path(one, params)

    return of


def _paths(params: PyTree) -> list[str]:
    return [_named(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _named(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _chosen(pattern: str, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if lies_in(path, pattern)]


def _unknown(pattern: str, paths: Sequence[str]) -> UserError:
    """The error for a path that names no parameter."""
    names = [path.split("/") for path in paths]
    known = {"/".join(name[:n]) for name in names for n in range(1, len(name) + 1)}
    bare = pattern.removesuffix("/*")
    depth = bare.count("/")
    return unknown("layer or parameter", bare, [k for k in known if k.count("/") == depth] or known)
