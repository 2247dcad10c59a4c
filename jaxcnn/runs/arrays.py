"""A tree of arrays as one safetensors file.

Each array is named by its path in the tree, `params/conv1/kernel`, with `/` and `~` inside a name written as `~1` and
`~0`. The file's metadata has, under `jaxcnn`, what safetensors cannot express: the tree's dicts, lists and tuples,
random keys (`jax.random.key`; their data is stored), and the dtypes that are stored as bytes. Any program that reads
safetensors can read the arrays.

Source: https://github.com/huggingface/safetensors, section Format; RFC 6901 for the escapes.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import devices
from jaxcnn.atomic import to_disk

PyTree = Any
_KINDS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_DTYPES = {kind: name for name, kind in _KINDS.items()}
_MOST_HEADER = 100_000_000  # bytes; the limit of safetensors


@dataclass(frozen=True)
class Flat:
    """The arrays of a tree by name, random keys as their data.

    Attributes:
      arrays: by name, in JAX's order of the tree's leaves.
      keys: the implementation of each random key: `threefry2x32`.
      tree: the tree's structure; JSON.
    """

    arrays: dict[str, Any]
    keys: dict[str, str]
    tree: Any

    def copied(self) -> Flat:
        """The same with copied arrays, which stay valid when the originals are donated."""

        def one(x: Any) -> Any:
            return devices.copied(x) if isinstance(x, jax.Array) else np.array(x)

        return Flat({name: one(x) for name, x in self.arrays.items()}, self.keys, self.tree)


def flat(tree: PyTree) -> Flat:
    """The arrays of a tree with their names.

    Raises:
      ValueError: if two arrays have the same name.
    """
    arrays: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _name(path)
        if name in arrays:
            raise ValueError(f"two arrays are called {name}")
        if is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        arrays[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return Flat(arrays, keys, _structure(tree, ()))


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys of `jax.random.key`."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: Any) -> str:
    labels = (jax.tree_util.keystr((entry,), simple=True) for entry in path)
    escaped = "/".join(label.replace("~", "~0").replace("/", "~1") for label in labels)
    return escaped.encode("utf-8", "backslashreplace").decode()  # JSON in UTF-8 has no lone surrogates


def _structure(tree: PyTree, path: Any) -> Any:
    """JSON of a tree: a leaf is its name, None is None, a node is its kind with its children."""
    if tree is None:
        return None
    if jax.tree_util.all_leaves([tree]):
        return _name(path)
    inner = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)[0]
    children = [(place[0], _structure(child, (*path, *place))) for place, child in inner]
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [child for _, child in children]}
    return {"dict": [[_key(place), child] for place, child in children]}


def _key(place: Any) -> str | int:
    key = getattr(place, "key", None)
    return key if isinstance(key, (str, int)) else jax.tree_util.keystr((place,), simple=True)


# --- writing -----------------------------------------------------------------------------------------------------


def write(file: Path, found: Flat) -> None:
    """Writes the arrays and waits until they are on the disk."""
    header: dict[str, Any] = {}
    raw: dict[str, tuple[str, list[int]]] = {}
    arrays, at = [], 0
    for name, array in found.arrays.items():
        array = _little(np.asarray(jax.device_get(array)))
        dtype = array.dtype.name
        kind, shape = _KINDS.get(dtype), list(array.shape)
        if kind is None:
            raw[name] = dtype, shape
            kind, shape = "U8", [array.nbytes]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
        arrays.append(array)
    about = {"tree": found.tree, "keys": found.keys, "raw": raw}
    header["__metadata__"] = {"jaxcnn": json.dumps(about)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        out.flush()
        to_disk(out)


def _little(array: np.ndarray) -> np.ndarray:
    """Converts between native and little-endian byte order (safetensors' order), in either direction."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.byteorder in "<>" else array
    return native if sys.byteorder == "little" else native.byteswap()


def check(file: Path, found: Flat) -> None:
    """Checks the names and sizes in a written file.

    Raises:
      OSError: if they are not those of `found`.
    """
    with Reader(file) as reader:
        there = {name: reader.bytes(name) for name in reader.names}
        size = file.stat().st_size
    expected = {name: int(x.nbytes) for name, x in found.arrays.items()}
    if there != expected or size != reader.start + sum(expected.values()):
        raise OSError(f"{file.name} holds {len(there)} arrays in {size:,} bytes, not what was written")


# --- reading -----------------------------------------------------------------------------------------------------


class Reader:
    """The arrays in a file, one by one.

    Attributes:
      names: the names of all arrays.
      tree: the tree's structure.

    Raises:
      ValueError: if the file was not written by `write`.
    """

    def __init__(self, file: Path):
        self._file: IO[bytes] = open(file, "rb")  # noqa: SIM115 - closed by `__exit__`
        try:
            length = self._file.read(8)
            if len(length) < 8 or (size := struct.unpack("<Q", length)[0]) > _MOST_HEADER:
                raise ValueError("the file has no header")
            header = json.loads(self._file.read(size))
            about = json.loads(header.pop("__metadata__")["jaxcnn"])
            self.start = 8 + size
            self._header: dict[str, Any] = header
            self.tree, self._keys, self._raw = about["tree"], about["keys"], about["raw"]
            self.names = list(header)
        except (KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            self._file.close()
            raise ValueError(f"the file's header is of another form: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def bytes(self, name: str) -> int:
        """The size of an array in bytes."""
        first, end = self._header[name]["data_offsets"]
        return end - first

    def form(self, name: str) -> tuple[tuple[int, ...], str]:
        """An array's shape, and the name of its dtype, or of the random key's implementation."""
        entry = self._header[name]
        dtype, shape = self._raw.get(name) or (_DTYPES[entry["dtype"]], entry["shape"])
        return tuple(shape), self._keys.get(name, dtype)

    def array(self, name: str) -> np.ndarray:
        """An array; for random keys, their data."""
        entry = self._header[name]
        dtype, shape = self._raw.get(name) or (_DTYPES[entry["dtype"]], entry["shape"])
        self._file.seek(self.start + entry["data_offsets"][0])
        found = np.fromfile(self._file, np.uint8, self.bytes(name))
        return _little(found.view(jnp.dtype(dtype)).reshape(shape))  # np.dtype does not know bfloat16

    def leaf(self, name: str, array: Any = np.asarray) -> Any:
        """An array, converted from NumPy by `array`; or random keys."""
        found = array(self.array(name))
        return jax.random.wrap_key_data(found, impl=self._keys[name]) if name in self._keys else found


def read_like(file: Path, like: PyTree) -> PyTree:
    """The tree of a file, with the structure, shapes and dtypes of `like`, on this process's first device.

    Raises:
      ValueError: if they differ.
    """
    device = jax.local_devices()[0]
    wanted = flat(like)
    with Reader(file) as reader:
        if differing := sorted(wanted.arrays.keys() ^ reader.names):
            where = "only in the checkpoint" if differing[0] in reader.names else "not in the checkpoint"
            raise ValueError(f"{differing[0]} is {where}")
        for name, leaf in wanted.arrays.items():
            shape, kind = reader.form(name)
            expected = wanted.keys.get(name, np.dtype(leaf.dtype).name)
            if (shape, kind) != (leaf.shape, expected):
                raise ValueError(f"{name} is {kind} {shape}, expected {expected} {tuple(leaf.shape)}")

        def one(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array):
                return reader.leaf(_name(path))  # JAX would convert NumPy's float64 to float32
            # A copy owned by JAX, so that a step may donate it. `jnp.array` compiles a program for each shape.
            return reader.leaf(_name(path), lambda x: jax.device_put(x, device, may_alias=False))

        return jax.tree_util.tree_map_with_path(one, like)


def read_some(file: Path, names: tuple[str, ...]) -> dict[str, PyTree]:
    """The entries of these names in a file's top-level dict: dicts, lists and tuples of NumPy arrays.

    A node of another class, such as a NamedTuple, is returned as the dict of its children.
    """
    with Reader(file) as reader:

        def built(node: Any) -> Any:
            if node is None or isinstance(node, str):
                return None if node is None else reader.leaf(node)
            ((kind, inner),) = node.items()
            if kind == "dict":
                return {key: built(value) for key, value in inner}
            return (list if kind == "list" else tuple)(map(built, inner))

        return {name: built(node) for name, node in reader.tree["dict"] if name in names}
