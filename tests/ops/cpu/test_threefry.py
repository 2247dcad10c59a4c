"""The random bits of `jax.random` by this package's library are JAX's own, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.ops.cpu import library
from jaxcnn.ops.cpu.threefry import quick_bits
from jaxcnn.ops.jaxpr import every
from tests.ops.cpu.test_cpu import needs_engine

pytestmark = needs_engine

CALLS = {library.RANDOM_BITS, library.RANDOM_KEYS}


def rewritten(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], list[str]]:
    """The function with the library's bits, and the names of its calls and of the draws that JAX computes."""
    program = jax.make_jaxpr(function)(*args)

    def quick(*args: Any) -> Any:
        return quick_bits(program, jax.tree.leaves(args))

    names = [eqn.params.get("target_name", eqn.primitive.name) for eqn in every(jax.make_jaxpr(quick)(*args).jaxpr)]
    return quick, [name for name in names if name in CALLS or (name.startswith("random_") and "wrap" not in name)]


def data(tree: Any) -> list[np.ndarray]:
    keys = jax.dtypes.prng_key
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, keys) else x) for x in jax.tree.leaves(tree)]


def same(function: Callable[..., Any], *args: Any) -> list[str]:
    quick, names = rewritten(function, *args)
    for mine, theirs in zip(data(jax.jit(quick)(*args)), data(jax.jit(function)(*args)), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    return names


# None, one, fewer than a vector, a whole one, some pieces that threads share, the last one smaller.
@pytest.mark.parametrize("shape", [(0,), (), (5,), (16,), (3, 3, 3, 7), (16384,), (1 << 14, 5), (100003,)])
def test_bits(shape: tuple[int, ...]) -> None:
    for seed in (0, 1, -1, 2**31 - 1):
        assert same(lambda key: jax.random.bits(key, shape), jax.random.key(seed)) == [library.RANDOM_BITS]


@pytest.mark.parametrize("shape", [1, 2, 1000, (3, 4)])
def test_split(shape: int | tuple[int, ...]) -> None:
    assert same(lambda key: jax.random.split(key, shape), jax.random.key(7)) == [library.RANDOM_KEYS]


def test_fold_in() -> None:
    for number in (0, 1, 2**32 - 1):
        assert same(jax.random.fold_in, jax.random.key(7), np.uint32(number)) == [library.RANDOM_KEYS]


def draws(key: jax.Array) -> list[jax.Array]:
    keys = jax.random.split(key, 6)
    return [
        jax.random.normal(keys[0], (3, 5)),
        jax.random.truncated_normal(keys[1], -2.0, 2.0, (700,)),
        jax.random.randint(keys[2], (9,), 0, 7),
        jax.random.permutation(keys[3], 20),
        jax.random.bernoulli(keys[4], 0.3, (2, 33)),
        jax.jit(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (4,)))(keys[5]),
    ]


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
def test_every_distribution_also_inside_jit(make: Callable[[int], jax.Array]) -> None:
    names = same(draws, make(3))
    assert set(names) == CALLS
    assert len(names) > 8


def test_what_it_does_not_take_is_computed_by_jax(x64: None) -> None:
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(0), 3)
    assert same(lambda key: jax.random.bits(key, (4,), jnp.uint8), key) == ["random_bits"]
    assert same(lambda key: jax.random.normal(key, (4,), jnp.float64), key) == ["random_bits"]
    assert same(jax.vmap(lambda key: jax.random.bits(key, (4,))), keys) == ["random_bits"]
    assert same(lambda key: jax.lax.map(lambda k: jax.random.bits(k, (4,)), jax.random.split(key, 3)), key) == [
        library.RANDOM_KEYS,
        "random_bits",
    ]
    assert same(lambda key: jax.random.bits(key, (4,)), jax.random.key(0, impl="rbg")) == ["random_bits"]


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXCNN_PLAIN", "random")
    assert same(lambda key: jax.random.bits(key, (4,)), jax.random.key(0)) == ["random_bits"]
    monkeypatch.delenv("JAXCNN_PLAIN")
    with jax.threefry_partitionable(False):  # other bits
        assert same(lambda key: jax.random.bits(key, (4,)), jax.random.key(0)) == ["random_bits"]


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_key_on_a_mesh(kind: str) -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    with jax.set_mesh(mesh):
        key = jax.device_put(jax.random.key(5), NamedSharding(mesh, PartitionSpec()))
        assert set(same(draws, key)) == CALLS
