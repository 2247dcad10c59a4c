"""oneDNN, and this package's library that calls it: finding them, loading them, and asking what they support."""

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
from typing import Any, NotRequired, Unpack

import jax

from jaxcnn.ops.backend import suits_cpu, switched_on
from jaxcnn.ops.cpu.build import LIBRARY, ONEDNN, RUNTIME, fingerprint, supported
from jaxcnn.ops.geometry import Ints, Window

# The handlers of XLA
CONVOLUTION, CONVOLUTION_FUSED = "jaxcnn_convolution", "jaxcnn_convolution_fused"
PRODUCT, OUTER = "jaxcnn_product", "jaxcnn_outer"
MOMENTS, SUMS = "jaxcnn_moments", "jaxcnn_sums"
LAYER_NORM, LAYER_NORM_GRADIENT = "jaxcnn_layer_norm", "jaxcnn_layer_norm_gradient"
MAXIMUM, MAX_POOL, MAX_POOL_GRADIENT = "jaxcnn_maximum", "jaxcnn_max_pool", "jaxcnn_max_pool_gradient"
RANDOM_BITS, RANDOM_KEYS = "jaxcnn_random_bits", "jaxcnn_random_keys"
HANDLERS = (
    CONVOLUTION, CONVOLUTION_FUSED, PRODUCT, OUTER, MOMENTS, SUMS, LAYER_NORM, LAYER_NORM_GRADIENT, MAXIMUM, MAX_POOL,
    MAX_POOL_GRADIENT, RANDOM_BITS, RANDOM_KEYS,
)  # fmt: skip
KINDS = ("output", "input", "kernel")  # in the order of the C++ enumeration
OPERATIONS = ("constant", "add", "sub", "mul", "div", "neg", "sqrt", "rsqrt")  # on vectors, likewise
TYPES = ("float32", "bfloat16")

_noticed: list[str] = []  # the text that `notice` has returned in this process

# How often an idle thread of OpenMP checks for work before it sleeps; a check takes some nanoseconds. The default, some
# milliseconds, would take a core from XLA after each call.
_SPINS = "2000"


def unavailable() -> str | None:
    """The reason why oneDNN is not used, a sentence without a full stop; None if it is used."""
    found = _loaded()
    return found if isinstance(found, str) else None


def about() -> str:
    """One line that says which code computes convolutions on this CPU, and how to get the fast one."""
    reason = unavailable()
    if reason is None:
        return f"convolutions on a CPU: oneDNN's, {threads()} thread{'s' * (threads() > 1)}"
    return f"convolutions on a CPU: XLA's, several times slower than oneDNN's: {reason}"


def notice() -> str | None:
    """`about()`, once per process, if XLA computes convolutions because oneDNN is missing; otherwise None."""
    if _noticed or unavailable() is None or not suits_cpu("onednn"):
        return None
    _noticed.append(about())
    return _noticed[0]


def threads() -> int:
    """The number of threads that a call uses."""
    return _library().jaxcnn_threads()


class Settings(Window):
    """A convolution's window, and what is done to its result.

    Attributes:
      bias: whether a bias is added.
      residual: whether an array of the result's shape is added.
      activation: the name of the activation; empty for none.
      wide: whether the kernel is in float32 and the images in bfloat16.
      direct: whether this package's code for few channels, and for depthwise convolutions, may be used.
      winograd: whether Winograd's algorithm may be used.
    """

    bias: NotRequired[bool]
    residual: NotRequired[bool]
    activation: NotRequired[str]
    wide: NotRequired[bool]
    direct: NotRequired[bool]
    winograd: NotRequired[bool]


@functools.lru_cache(maxsize=4096)
def implementation(
    kind: str, dtype: str, x: Ints, kernel: Ints, y: Ints, *, swapped: bool = False, **settings: Unpack[Settings]
) -> str:
    """The name of the code for a convolution on this processor: oneDNN's, or one of this package's; empty for none.

    This package's are "direct", "depthwise" and "winograd".

    Args:
      kind: which of the three arrays is computed from the others, one of `KINDS`.
      dtype: one of `TYPES`.
      x, kernel, y: shapes, `(N, *spatial, C), (*size, C / groups, K), (N, *out, K)`.
      swapped: whether the kernel is stored as `(*size, K, C)`.
      **settings: see `Settings`.
    """
    strides, groups = settings["strides"], settings.get("groups", 1)
    low, high = zip(*settings["pads"], strict=True)
    numbers = [*x, *kernel, *y, *strides, *low, *high, *settings["dilation"]]
    name = ctypes.create_string_buffer(128)
    _library().jaxcnn_implementation(
        KINDS.index(kind), TYPES.index(dtype), len(strides), (ctypes.c_int64 * len(numbers))(*numbers), groups, swapped,
        *(settings.get(name, False) for name in ("bias", "residual", "wide", "direct", "winograd")),
        settings.get("activation", "").encode(), name, len(name),
    )  # fmt: skip
    return name.value.decode()


def _library() -> ctypes.CDLL:
    found = _loaded()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


@functools.cache
def _loaded() -> ctypes.CDLL | str:
    """This package's library, loaded and registered with XLA, or the reason why it cannot be."""
    if not supported():
        return f"it is used on Linux on x86-64 only, and this is {platform.system()} on {platform.machine()}"
    if not LIBRARY.exists():
        return "jaxcnn was installed without a C++ compiler: install g++, then install jaxcnn again"
    path = next((p for p in _places() if p.exists()), None)
    if path is None:
        return f"{ONEDNN} is not installed: pip install {RUNTIME}"
    try:
        with _little_spinning():
            ctypes.CDLL(os.fspath(path))  # loaded by path; this package's library then finds it by name
        library = ctypes.CDLL(os.fspath(LIBRARY))
    except OSError as error:
        hint = ": install libgomp1 (the GNU OpenMP library)" if "libgomp" in str(error) else ""
        return f"it cannot be loaded ({error}){hint}"
    library.jaxcnn_sources.restype = ctypes.c_char_p
    if library.jaxcnn_sources().decode() != fingerprint():
        return "its library was built from another version of jaxcnn: install jaxcnn again"
    library.jaxcnn_implementation.restype = None
    library.jaxcnn_implementation.argtypes = [
        *[ctypes.c_int64] * 3, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64, *[ctypes.c_int] * 6, ctypes.c_char_p,
        ctypes.c_char_p, ctypes.c_int64,
    ]  # fmt: skip
    library.jaxcnn_set_huge_pages(switched_on("pages"))
    try:
        for name in HANDLERS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except jax.errors.JaxRuntimeError as error:
        found = importlib.metadata.version("jaxlib")
        return f"jaxlib {found} refuses its library: install jaxcnn again ({str(error).splitlines()[0]})"
    return library


def _places() -> Iterator[Path]:
    """The paths where oneDNN's wheel may have put its library."""
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
    """An environment that makes GNU OpenMP, if loaded inside, let idle threads sleep, unless the user has set this."""
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
