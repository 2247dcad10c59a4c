"""A machine for pickles of weights, which runs nothing that a pickle names.

A pickle is a program for a small stack machine, which may call any function of any module. This machine knows only the
instructions that files of weights use. It imports nothing. Where Python's machine would call a function, this one makes
a record (`Tensor`, `Storage`, `Inert`) for the few names that such files hold, and refuses the file for any other.

Source: Python's `pickletools`, for the instructions; PyTorch's `torch/_utils.py`, for the functions that are recorded.
"""

from __future__ import annotations

import itertools
import math
import pickletools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# PyTorch's names of its storages and dtypes.
STORAGES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
}
_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": _BFLOAT16,
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    **{name: np.dtype(name) for name in ("uint16", "uint32", "uint64")},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2")},
}
# Names that a training checkpoint has beside the weights, and that are ignored: plain values, arguments, states of
# random generators. Each becomes a record; its code is neither run nor imported.
_BUILTINS = "set frozenset list dict tuple int float complex bool str bytes bytearray range xrange slice object"
_PATHS = "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath"
_NUMPY = "scalar _reconstruct _frombuffer"
_INERT = {
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS.split()),
    *(f"collections.{name}" for name in ("Counter", "deque")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS.split()),
    *(f"numpy.{core}.{module}.{name}" for core in ("core", "_core") for module in ("multiarray", "numeric")
      for name in _NUMPY.split()),
    *(f"numpy.{kind.__name__}" for kind in set(np.sctypeDict.values())),
    *(f"numpy.dtypes.{type(np.dtype(kind)).__name__}" for kind in set(np.sctypeDict.values())),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("bit_generator", "generator", "randomstate")),
    "numpy.dtype",
    "numpy.ndarray",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "fractions.Fraction",
    "decimal.Decimal",
    "uuid.UUID",
    "_codecs.encode",
    "torch.device",
    "torch.Size",
    "torch.Generator",
    # Lightning's arguments of a network, whose class has had several names.
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
}  # fmt: skip


class Damaged(Exception):
    """The file has a wrong format. The message completes "FILE is damaged: "."""


class Code(Exception):
    """The file names a function or class that is not data. The message is its name."""


@dataclass(frozen=True)
class Global:
    """A function or class that the file names. It is never imported."""

    name: str


@dataclass(frozen=True)
class Inert:
    """A record of any other object, which is ignored."""

    name: str


@dataclass
class Storage:
    """A flat array of numbers in the file; `data` is None until it is read."""

    dtype: np.dtype
    count: int
    key: str
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides are in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of the file."""
        if self.storage.data is None:
            raise Damaged(f"its storage {self.storage.key!r} is missing")
        flat = self.storage.data.view(self.dtype)[self.offset :]
        strides = [s * self.dtype.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


# --- the stack machine -------------------------------------------------------------------------------------------


class _Mark:
    """Marks the start of a tuple, list or dict on the stack."""


_MARK = _Mark()


class Machine:
    """Runs one pickle. Each instruction is handled in `run` or by a method; any other is refused.

    Args:
      storage: makes the Storage of a persistent identifier, a tuple.
    """

    def __init__(self, storage: Callable[[tuple], Storage]):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storage = storage

    def run(self, stream: Any) -> Any:
        argument: Any
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                if len(self.stack) != 1:
                    raise Damaged("its pickle does not end with one object")
                return self.stack[0]
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _TUPLES:
                self.stack.append(tuple(self.take(_TUPLES[name])))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.top()
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name not in ("PROTO", "FRAME"):
                method = getattr(self, f"do_{name.lower()}", None)
                if method is None:
                    # INST, OBJ, EXT1 and others, which only call functions.
                    raise Code(".".join(argument.split()) if isinstance(argument, str) else f"instruction {name}")
                method(argument)
        raise Damaged("its pickle has no end")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Damaged("its pickle takes more than there is")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def take(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise Damaged("its pickle takes more than there is")

    def do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def do_pop(self, _: Any) -> None:
        if not self.stack:
            raise Damaged("its pickle takes more than there is")
        self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.since_mark()

    def do_dup(self, _: Any) -> None:
        self.stack.append(self.top())

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    # Containers.

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def do_list(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def do_dict(self, _: Any) -> None:
        self.stack.append(_put({}, self.since_mark()))

    def do_frozenset(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(Inert("builtins.set"))

    def do_append(self, _: Any) -> None:
        self.extend([self.pop()])

    def do_appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        into = self.top()
        if isinstance(into, list):
            into.extend(items)
        elif not isinstance(into, Inert):
            raise Damaged("its pickle appends to something that is not a list")

    def do_additems(self, _: Any) -> None:
        self.since_mark()
        self.top()

    def do_setitem(self, _: Any) -> None:
        self.set_items(self.take(2))

    def do_setitems(self, _: Any) -> None:
        self.set_items(self.since_mark())

    def set_items(self, items: list[Any]) -> None:
        into = self.top()
        if isinstance(into, dict):
            _put(into, items)
        elif not isinstance(into, Inert):
            raise Damaged("its pickle sets items of something that is not a dict")

    # Instructions for which Python's machine imports and calls.

    def do_global(self, argument: str) -> None:
        self.stack.append(_global(*argument.split(" ", 1)))

    def do_stack_global(self, _: Any) -> None:
        module, name = self.take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("its pickle has a name that is not text")
        self.stack.append(_global(module, name))

    def do_reduce(self, _: Any) -> None:
        function, arguments = self.take(2)
        self.stack.append(_call(function, arguments))

    do_newobj = do_reduce

    def do_build(self, _: Any) -> None:
        self.pop()  # hooks of a Parameter, metadata of a state dict
        if not isinstance(self.top(), (dict, Tensor, Inert)):
            raise Damaged("its pickle gives attributes to something that has none")

    def do_binpersid(self, _: Any) -> None:
        identity = self.pop()
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise Damaged("it refers to something that is not a storage")
        self.stack.append(self.storage(identity))


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("builtins.set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


_KEYS = (str, int, float, bytes, type(None), Inert)


def _put(into: dict, items: list[Any]) -> dict:
    if len(items) % 2:
        raise Damaged("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Simple types only: hashing a tuple recurses, and a nested one could be too deep.
        parts = key if isinstance(key, tuple) and key else (key,)
        if not all(isinstance(part, _KEYS) for part in parts):
            raise Damaged(f"its pickle has a key that is a {type(key).__name__}")
        into[key] = value
    return into


def _global(module: str, name: str) -> Global:
    found = Global(f"{module}.{name}")
    if found.name not in _CALLS and found.name not in _INERT and storage_dtype(found) is None and _dtype(found) is None:
        raise Code(found.name)
    return found


def storage_dtype(named: Any) -> np.dtype | None:
    module, _, name = named.name.rpartition(".") if isinstance(named, Global) else ("", "", "")
    return STORAGES.get(name) if module in ("torch", "torch.storage", "torch.cuda") else None


def _dtype(named: Any) -> np.dtype | None:
    module, _, name = named.name.rpartition(".") if isinstance(named, Global) else ("", "", "")
    return _DTYPES.get(name) if module == "torch" else None


def _call(function: Any, arguments: Any) -> Any:
    """The record of a call, made by this module's functions."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise Damaged("its pickle calls something that is not a function")
    if function.name in _INERT:
        return arguments[0] if function.name == "torch.Size" and len(arguments) == 1 else Inert(function.name)
    if function.name not in _CALLS:
        raise Damaged(f"its pickle calls {function.name}")
    return _CALLS[function.name](*arguments)


def _ordered_dict(pairs: Any = ()) -> dict:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise Damaged("an OrderedDict is not made of pairs")
    return _put({}, list(itertools.chain.from_iterable(pairs)))


def _default_dict(factory: Any = None, pairs: Any = ()) -> dict:
    return _ordered_dict(pairs)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, dtype: np.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise Damaged("a tensor has no storage")
    dtype = storage.dtype if dtype is None else dtype
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or len(shape) != len(strides) or len(shape) > 32:
        raise Damaged("a tensor has an impossible shape")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    if (offset > available) if 0 in shape else (last >= available):
        raise Damaged(f"a tensor of shape {shape} goes beyond its storage of {available} numbers")
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize:
        raise Damaged(f"a tensor has the impossible shape {shape}")
    return Tensor(storage, offset, shape, strides, dtype)


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, named: Any, *rest: Any
) -> Tensor:
    dtype = _dtype(named)
    if dtype is None:
        raise Damaged("a tensor has no dtype")
    return _tensor(storage, offset, shape, strides, dtype=dtype)


def _parameter(data: Any = None, *rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Damaged("a parameter is not a tensor")
    return data


def _of_type(function: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    return _call(function, arguments)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Tensor": _parameter,
}
