"""A tree of arrays in one safetensors file: to the last bit, and as the safetensors package reads it."""

from __future__ import annotations

import collections
import json
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors

from jaxcnn.runs import arrays

Pair = collections.namedtuple("Pair", "mean spread")
NAMES = ["float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "bool", "complex64",
         "float8_e4m3fn", "float8_e5m2", "int4"]  # fmt: skip


def bits(x: Any) -> tuple[Any, ...]:
    """What an array is, to the last bit."""
    if arrays.is_key(x):
        return str(jax.random.key_impl(x)), *bits(jax.random.key_data(x))
    x = np.asarray(x)
    return x.dtype.name, x.shape, x.tobytes()


def same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert bits(one) == bits(other)


def stored(tree: Any, folder: Path) -> Path:
    file = folder / "arrays.safetensors"
    found = arrays.flat(tree).copied()
    arrays.write(file, found)
    arrays.check(file, found)
    return file


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5)])
def test_each_dtype_and_shape(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=shape) * 3
    tree = {"x": jnp.asarray(numbers).astype(jnp.dtype(name))}
    file = stored(tree, tmp_path)
    same_bits(arrays.read_like(file, tree), tree)
    same_bits(arrays.read_some(file, ("x",)), tree)


def test_what_is_not_finite_and_minus_zero(tmp_path: Path) -> None:
    odd = np.array([0x7FC00001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x80000000, 1], np.uint32).view(np.float32)
    file = stored({"x": jnp.asarray(odd)}, tmp_path)
    assert arrays.read_some(file, ("x",))["x"].tobytes() == odd.tobytes()


def test_double_precision(tmp_path: Path, x64: None) -> None:
    tree = {"a": jnp.float64(1) / 3, "b": jnp.int64(1 << 60), "c": jnp.uint64((1 << 64) - 1)}
    same_bits(arrays.read_like(stored(tree, tmp_path), tree), tree)


def test_arrays_of_numpy_stay_what_they_are(tmp_path: Path) -> None:
    tree = {"a": np.arange(3.0), "b": np.int64(1 << 60), "c": np.arange(3, dtype=">f4"), "d": np.arange(6)[::2]}
    found = arrays.read_like(stored(tree, tmp_path), tree)
    same_bits(found, {**tree, "c": np.arange(3, dtype=np.float32)})


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys_of_every_kind(impl: str, tmp_path: Path) -> None:
    key = jax.random.key(7, impl=impl)
    tree = {"one": key, "many": jax.random.split(key, (2, 3)), "raw": jax.random.PRNGKey(3)}
    file = stored(tree, tmp_path)
    found = arrays.read_like(file, tree)
    same_bits(found, tree)
    assert found["one"].dtype == key.dtype
    assert float(jax.random.normal(found["one"])) == float(jax.random.normal(key))
    same_bits(arrays.read_some(file, ("one", "many", "raw")), tree)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1), optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9), optax.add_noise(0.1, 0.5, 3),
        optax.inject_hyperparams(optax.adamw)(learning_rate=0.1), optax.MultiSteps(optax.adam(0.1), 3),
        optax.masked(optax.adam(0.1), {"w": True, "b": False}), optax.contrib.schedule_free_sgd(0.1),
    ],
)  # fmt: skip
def test_states_of_optimizers(optimizer: Any, tmp_path: Path) -> None:
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros(0)}
    state = optimizer.init(params)
    same_bits(arrays.read_like(stored(state, tmp_path), state), state)


def test_a_tree_is_built_again_without_another_one(tmp_path: Path) -> None:
    tree = {
        "params": {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(2), "~0": jnp.ones(3)}, "": jnp.ones(4), "é\ud800": 1.5,
                   "list": [jnp.ones(1), (), {}, None], "pair": Pair(jnp.ones(2), None)},
        "other": jnp.ones(1), "numbers": {7: jnp.ones(1), 8: jnp.zeros(1)},
    }  # fmt: skip
    file = stored(tree, tmp_path)
    found = arrays.read_some(file, ("params", "numbers"))
    expected = {name: tree[name] for name in ("params", "numbers")}
    pair = found["params"].pop("pair")  # its class is not known there
    assert (pair["mean"].tolist(), pair["spread"]) == ([1, 1], None)
    expected["params"] = {name: value for name, value in tree["params"].items() if name != "pair"}
    same_bits(found, expected)
    same_bits(arrays.read_like(file, tree), tree)


def test_safetensors_reads_the_same(tmp_path: Path) -> None:
    tree = {"conv1": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "n": (jnp.int32(4), jnp.zeros((0, 2), jnp.float16))}
    with safetensors.safe_open(stored(tree, tmp_path), "numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    expected = {"conv1/kernel": tree["conv1"]["kernel"], "n/0": tree["n"][0], "n/1": tree["n"][1]}
    assert found.keys() == expected.keys()
    assert {name: bits(x) for name, x in found.items()} == {name: bits(x) for name, x in expected.items()}


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"a": jnp.ones(3)}, "b is only in the checkpoint"),
        ({"a": jnp.ones(3), "b": jnp.ones(2), "c": 1}, "c is not in the checkpoint"),
        ({"a": jnp.ones(3), "b": jnp.ones((1, 2))}, r"b is float32 \(2,\), expected float32 \(1, 2\)"),
        ({"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}, r"a is float32 \(3,\), expected bfloat16 \(3,\)"),
        ({"a": jnp.ones(3), "b": jax.random.key(0)}, "b is float32 .*, expected fry|threefry2x32"),
    ],
)
def test_another_tree_is_refused(like: Any, says: str, tmp_path: Path) -> None:
    file = stored({"a": jnp.ones(3), "b": jnp.ones(2)}, tmp_path)
    with pytest.raises(ValueError, match=says):
        arrays.read_like(file, like)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = arrays.flat({"a": jnp.ones(30)})
    file = stored({"a": jnp.ones(30)}, tmp_path)
    whole = file.read_bytes()
    for content in (whole[:-1], whole + b"0"):
        file.write_bytes(content)
        with pytest.raises(OSError, match="not what was written"):
            arrays.check(file, found)
    file.write_bytes(whole)
    with pytest.raises(OSError, match="not what was written"):
        arrays.check(file, arrays.flat({"b": jnp.ones(30)}))


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"null", struct.pack("<Q", 2) + b"{}",
     struct.pack("<Q", 50000) + b"[" * 50000, struct.pack("<Q", 9) + b"\xff" * 9,
     *[struct.pack("<Q", len(text)) + text for text in [json.dumps({"__metadata__": {"jaxcnn": "[]"}}).encode()]]],
)  # fmt: skip
def test_a_file_of_another_form_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError):
        arrays.read_some(tmp_path / "a", ("x",))
