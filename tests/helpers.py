"""Comparisons and random arrays that several test files use."""

import os
from typing import Any

import jax
import numpy as np


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Asserts that two trees of arrays agree: no error above `tolerance` times the largest value expected there.

    Float32 has 24 bits, 6e-8. A sum of a few hundred products of either sign in another order differs by some ten of
    them relative to its largest terms; 1e-5 leaves that room, and no mistake in a formula fits in it.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape, f"{jax.tree_util.keystr(path)}: {a.shape} instead of {e.shape}"
        a, e = (v.astype(np.promote_types(v.dtype, np.float32)) for v in (a, e))  # NumPy cannot compare bfloat16
        largest = np.abs(e[np.isfinite(e)]).max(initial=1e-3)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * largest, err_msg=jax.tree_util.keystr(path))


def same(actual: Any, expected: Any) -> None:
    """Asserts that two trees of arrays are equal to the last bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def alike(actual: Any, expected: Any) -> None:
    """Asserts that the same computation in two programs gave the same numbers: on a CPU to the last bit.

    An accelerator's compiler contracts products and sums as suits each program, and so does XLA:CPU with the flags that
    conftest.py sets: there to some of float32's last bits.
    """
    exact = jax.default_backend() == "cpu" and os.environ.get("JAXCNN_TEST_FLAGS") == "none"
    same(actual, expected) if exact else close(actual, expected, 1e-6)


def shapes(tree: Any, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """`{"conv1/kernel": (3, 3, 1, 8), ...}` for nested dicts of arrays."""
    flat = jax.tree.leaves_with_path(tree)
    return {prefix + "/".join(entry.key for entry in path): leaf.shape for path, leaf in flat}


def size(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
