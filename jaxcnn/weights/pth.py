"""Reads and writes PyTorch's files without PyTorch, and without running anything that they hold.

There are two formats. Since version 1.6 a `.pth` is an uncompressed zip archive: `data.pkl` is a pickle of the object,
and `data/KEY` is a storage (a flat array of numbers). Before, it was a stream of pickles: a magic number, a version,
the machine's sizes, the object and the keys of the storages; then each storage, its length first. In both, the pickle
says where a tensor lies in its storage: offset, shape and strides, counted in numbers. `jaxcnn.weights.unpickle` reads
the pickles. The file is mapped into memory, and tensors are views of it.

Source: PyTorch's `torch/serialization.py`, for the formats.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import DataError
from jaxcnn.files import regular
from jaxcnn.weights.unpickle import STORAGES, Code, Damaged, Machine, Storage, storage_dtype

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Storages:
    """The storages of a pickle by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def __call__(self, identity: tuple) -> Storage:
        _, kind, key, _, count, *rest = identity
        key = key if isinstance(key, str) else repr(key) if isinstance(key, int) else None
        dtype = storage_dtype(kind)
        if key is None or dtype is None or type(count) is not int or not 0 <= count < 1 << 58:
            raise Damaged("a storage has a wrong description")
        if rest and rest[0] is not None:
            raise Damaged("it holds views of storages, as PyTorch before 0.4 wrote them; save it again with PyTorch")
        known = self.by_key.setdefault(key, Storage(dtype, count, key))
        if (known.dtype, known.count) != (dtype, count):
            raise Damaged(f"the storage {key} has two different descriptions")
        return known


def read(path: Path) -> Any:
    """The object in a file: dicts, lists, numbers and text; tensors as `Tensor`; anything else as `Inert`.

    Raises:
      DataError: when the file is damaged, or holds code or objects that are not data.
    """
    try:
        with open(regular(path), "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read_zip(mapped, path) if mapped[:2] == b"PK" else _read_stream(mapped, path)
    except Code as error:
        raise DataError(
            f"{path} holds code ({str(error)[:100]}), or an object that is not a tensor: nothing of it was run. If you "
            'trust it, save its weights alone with PyTorch: torch.save(model.state_dict(), "weights.pth")'
        ) from None
    except Damaged as error:
        raise DataError(f"{path} is damaged: {error}") from None
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # zipfile and pickletools raise many types of errors
        raise DataError(f"{path} is damaged: {str(error)[:100] or type(error).__name__}") from None


def _read_zip(mapped: mmap.mmap, path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    if any(name.endswith((".npy", "/constants.pkl")) or name == "constants.pkl" for name in entries):
        raise DataError(
            f"{path} is an archive of another kind (TorchScript, or NumPy's .npz): save a state dict with PyTorch, "
            'torch.save(model.state_dict(), "weights.pth")'
        )
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError(f"{path} is a zip archive that PyTorch did not write: it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> memoryview:
        info = entries.get(folder + name)
        if info is None:
            raise Damaged(f"{name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Damaged(f"{name} is compressed or encrypted, which PyTorch never does")
        head = mapped[info.header_offset : info.header_offset + 30] if info.header_offset >= 0 else b""
        if len(head) != 30 or head[:4] != b"PK\x03\x04":
            raise Damaged(f"{name} is not at its position in the archive")
        first = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:], "little")
        data = memoryview(mapped)[first : first + info.file_size]
        if len(data) != info.file_size:
            raise Damaged(f"{name} ends too early")
        if info.CRC and zlib.crc32(data) != info.CRC:  # PyTorch has an option to write no checksums
            raise Damaged(f"the checksum of {name} is wrong")
        return data

    if folder + "byteorder" in entries and bytes(member("byteorder")) != b"little":
        raise Damaged("it was written on a big-endian machine; save it again with PyTorch on a little-endian one")
    storages = _Storages()
    result = Machine(storages).run(io.BytesIO(member("data.pkl")))
    for key, storage in storages.by_key.items():
        _fill(storage, member(f"data/{key}"))
    return result


def _read_stream(mapped: mmap.mmap, path: Path) -> Any:
    def no_storage(identity: tuple) -> Storage:
        raise Damaged("there is a storage before the object")

    if Machine(no_storage).run(mapped) != _MAGIC:
        raise DataError(f"{path} is a pickle that PyTorch did not write")
    version, system = Machine(no_storage).run(mapped), Machine(no_storage).run(mapped)
    if version != _VERSION or not isinstance(system, dict):
        raise Damaged(f"its version is {version if isinstance(version, int) else 'not a number'}")
    if system.get("little_endian") is not True:
        raise Damaged("it was written on a big-endian machine; save it again with PyTorch on a little-endian one")
    storages = _Storages()
    result = Machine(storages).run(mapped)
    keys = Machine(no_storage).run(mapped)
    if not isinstance(keys, list):
        raise Damaged("the list of its storages is missing")
    view = memoryview(mapped)
    position = mapped.tell()
    for key in keys:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None:
            raise Damaged("a storage belongs to no tensor")
        if int.from_bytes(view[position : position + 8], "little") != storage.count:
            raise Damaged(f"the size of storage {key} is not the one in the pickle")
        position += 8
        _fill(storage, view[position : position + storage.count * storage.dtype.itemsize])
        position += storage.count * storage.dtype.itemsize
    return result


def _fill(storage: Storage, data: memoryview) -> None:
    if len(data) != storage.count * storage.dtype.itemsize:
        raise Damaged(f"the storage {storage.key} has {len(data)} bytes for {storage.count} numbers")
    storage.data = np.frombuffer(data, np.uint8).view(storage.dtype)


# --- writing -----------------------------------------------------------------------------------------------------

_ALIGNMENT = 64  # of storages in the file, for mapping it into memory
_NAMES = {dtype: name for name, dtype in reversed(STORAGES.items())}


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict in the zip format. `torch.load` reads it, also with `weights_only=True`."""
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: Any) -> None:
            info = zipfile.ZipInfo(f"archive/{name}")
            filled = -(archive.start_dir + 30 + len(info.filename) + 4) % _ALIGNMENT
            info.extra = b"FB" + filled.to_bytes(2, "little") + bytes(filled)
            archive.writestr(info, data)

        add("data.pkl", _pickle(contiguous))
        add("byteorder", b"little")
        for key, array in enumerate(contiguous.values()):
            add(f"data/{key}", array.reshape(-1).view(np.uint8).data)
        add("version", b"3\n")


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A pickle of an `OrderedDict` of tensors, one per storage; protocol 2, as in PyTorch's files."""
    empty = _named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    out = [pickle.PROTO + b"\x02", empty, pickle.MARK]
    for key, (name, array) in enumerate(arrays.items()):
        strides = [s // array.itemsize for s in array.strides]
        out += [
            _text(name),
            _named("torch._utils", "_rebuild_tensor_v2"),
            pickle.MARK,
            pickle.MARK + _text("storage") + _named("torch", _NAMES[array.dtype]) + _text(str(key)) + _text("cpu"),
            _integer(array.size) + pickle.TUPLE + pickle.BINPERSID,
            _integer(0),
            pickle.MARK + b"".join(map(_integer, array.shape)) + pickle.TUPLE,
            pickle.MARK + b"".join(map(_integer, strides)) + pickle.TUPLE,
            pickle.NEWFALSE,
            empty,
            pickle.TUPLE + pickle.REDUCE,
        ]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])


def _named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return pickle.BININT + value.to_bytes(4, "little", signed=True)
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data
