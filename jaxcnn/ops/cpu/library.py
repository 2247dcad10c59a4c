"""oneDNN, and the library of this package that calls it: where they are, whether they can be loaded, what they take."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxcnn.ops.backend import suits_cpu
from jaxcnn.ops.cpu.build import LIBRARY, ONEDNN, RUNTIME, fingerprint, supported

CONVOLUTION, PRODUCT = "jaxcnn_convolution", "jaxcnn_product"  # what the program calls
KINDS = ("output", "input", "kernel")  # in the order of the C++ enumeration
TYPES = ("float32", "bfloat16")

_noticed: list[str] = []  # what `notice` has said in this process

# How long a thread of OpenMP that has nothing to do asks for work before it sleeps, in steps of some nanoseconds. Its
# default, milliseconds, takes a core from XLA after each call.
_SPINS = "2000"


def unavailable() -> str | None:
    """Why oneDNN is not called here, in a sentence without a full stop; None where it is called."""
    found = _loaded()
    return found if isinstance(found, str) else None


def about() -> str:
    """Which code computes convolutions on a CPU here, in one line that says what to do where it is the slow one."""
    reason = unavailable()
    if reason is None:
        return f"convolutions on a CPU: oneDNN's, {threads()} thread{'s' * (threads() > 1)}"
    return f"convolutions on a CPU: XLA's, several times slower than oneDNN's: {reason}"


def notice() -> str | None:
    """`about`, for the first training of a process, where it computes by XLA for want of oneDNN; otherwise None."""
    if _noticed or unavailable() is None or not suits_cpu("onednn"):
        return None
    _noticed.append(about())
    return _noticed[0]


def threads() -> int:
    """How many threads a call uses."""
    return _library().jaxcnn_threads()


@functools.lru_cache(maxsize=4096)
def implementation(
    kind: str,
    dtype: str,
    x: tuple[int, ...],
    kernel: tuple[int, ...],
    y: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    swapped: bool = False,
    bias: bool = False,
    residual: bool = False,
    activation: str = "",
) -> str:
    """The name of oneDNN's code for a convolution on this processor; empty where it has none.

    Args:
      kind: which of the three arrays is computed from the others, one of `KINDS`.
      dtype: one of `TYPES`.
      x, kernel, y: shapes, `(N, *spatial, C), (*size, C / groups, K), (N, *out, K)`.
      swapped: whether the kernel lies in memory as `(*size, K, C)`.
      bias, residual, activation: what is done to the sum.
    """
    low, high = zip(*pads, strict=True)
    numbers = [*x, *kernel, *y, *strides, *low, *high, *dilation]
    name = ctypes.create_string_buffer(128)
    _library().jaxcnn_implementation(
        KINDS.index(kind), TYPES.index(dtype), len(strides), (ctypes.c_int64 * len(numbers))(*numbers), groups, swapped,
        bias, residual, activation.encode(), name, len(name),
    )  # fmt: skip
    return name.value.decode()


def _library() -> ctypes.CDLL:
    found = _loaded()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


@functools.cache
def _loaded() -> ctypes.CDLL | str:
    """This package's library, loaded and known to XLA, or why that is not possible."""
    if not supported():
        return f"it is used on Linux on x86-64 only, and this is {platform.system()} on {platform.machine()}"
    if not LIBRARY.exists():
        return "jaxcnn was installed without a C++ compiler: install g++, then install jaxcnn again"
    path = next((p for p in _places() if p.exists()), None)
    if path is None:
        return f"{ONEDNN} is not installed: pip install {RUNTIME}"
    try:
        with _little_spinning():
            ctypes.CDLL(os.fspath(path))  # by its path; the handler then finds it by its name
        library = ctypes.CDLL(os.fspath(LIBRARY))
    except OSError as error:
        hint = ": install libgomp1 (the GNU OpenMP library)" if "libgomp" in str(error) else ""
        return f"it cannot be loaded ({error}){hint}"
    library.jaxcnn_sources.restype = ctypes.c_char_p
    if library.jaxcnn_sources().decode() != fingerprint():
        return "its library was built from another version of jaxcnn: install jaxcnn again"
    library.jaxcnn_implementation.restype = None
    library.jaxcnn_implementation.argtypes = [
        *[ctypes.c_int64] * 3, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64, *[ctypes.c_int] * 3, ctypes.c_char_p,
        ctypes.c_char_p, ctypes.c_int64,
    ]  # fmt: skip
    for name in (CONVOLUTION, PRODUCT):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def _places() -> Iterator[Path]:
    """Where oneDNN's wheel may have put its library."""
    try:
        files: Sequence[Any] = importlib.metadata.files(RUNTIME) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    yield from (Path(file.locate()).resolve() for file in files if file.name == ONEDNN)
    yield from (
        Path(root, "lib", ONEDNN) for root in {sysconfig.get_path("data"), sysconfig.get_path("data", "posix_user")}
    )


@contextmanager
def _little_spinning() -> Iterator[None]:
    """The environment in which GNU OpenMP, loaded inside, lets its idle threads sleep, unless the user has set that."""
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
