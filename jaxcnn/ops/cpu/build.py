"""Compiles this package's C++ library. `hatch_build.py` calls it when jaxcnn is installed; it is also a program.

It needs a C++ compiler and the headers of two packages: `jaxlib` for XLA's foreign function interface, and
`onednn-devel-cpu-gomp` for oneDNN. The library depends on no version of Python, and runs with the jaxlib of its
headers and newer ones; an older one refuses it. So the headers are those of the oldest jaxlib that jaxcnn takes,
whichever one is installed beside it (pyproject.toml). This file imports nothing from jaxcnn, so it runs before jaxcnn
is installed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "libjaxcnn_cpu.so"
ONEDNN, HEADERS, RUNTIME = "libdnnl.so.3", "onednn-devel-cpu-gomp", "onednn-cpu-gomp"
JAXLIB = "0.10"  # whose headers are used
COMPILERS = ("g++", "c++", "clang++")


class CannotBuild(Exception):
    """The library cannot be compiled. The message says what is missing, or quotes the compiler."""


def supported() -> bool:
    """Whether there is a Python package of oneDNN for this platform."""
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")


def fingerprint() -> str:
    """A hash of the C++ sources. It is compiled into the library, and a library of other sources is not called."""
    digest = hashlib.sha256(JAXLIB.encode())
    for path in sorted((HERE / "src").iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> Path:
    """Compiles the library, unless it exists and has the fingerprint of the sources.

    Raises:
      CannotBuild: when the compiler or the headers are missing, or the compiler fails.
    """
    if LIBRARY.exists():
        if fingerprint().encode() in LIBRARY.read_bytes():
            return LIBRARY
        LIBRARY.unlink()
    if not supported():
        raise CannotBuild(f"there is no oneDNN package for {platform.system()} on {platform.machine()}")
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CannotBuild("there is no C++ compiler (g++)")
    jaxlib = importlib.util.find_spec("jaxlib")
    if jaxlib is None or jaxlib.origin is None:
        raise CannotBuild("jaxlib, which has XLA's headers, is not installed")
    if not (found := importlib.metadata.version("jaxlib")).startswith(f"{JAXLIB}."):
        raise CannotBuild(f"the headers of jaxlib {JAXLIB} are needed, and jaxlib {found} is installed")
    source, made = HERE / "src", LIBRARY.with_suffix(f".{os.getpid()}")
    compiles = [
        "-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-ffunction-sections",
        *(f"-isystem{path}" for path in (Path(jaxlib.origin).parent / "include", _file(HEADERS, "dnnl.hpp", 1))),
        f'-DJAXCNN_SOURCES="{fingerprint()}"', "-c",
    ]  # fmt: skip
    links = [
        "-shared",
        # With a shared libstdc++ it would need one as new as the compiler's.
        "-static-libstdc++", "-Wl,--gc-sections", "-Wl,-s",
        f"-Wl,--version-script={source / 'exports.map'}", "-Wl,--allow-shlib-undefined", "-o", str(made),
    ]  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(os.cpu_count()) as pool:

            def compiled(file: Path) -> str:
                to = str(Path(objects, file.with_suffix(".o").name))
                _run(compiler, *compiles, str(file), "-o", to)
                return to

            # The slowest first: the code for each set of vector instructions takes half of the time.
            files = sorted(source.glob("*.cc"), key=lambda file: (file.name != "kernels.cc", file.name))
            _run(compiler, *links, *sorted(pool.map(compiled, files)), str(_file(RUNTIME, ONEDNN)))
        made.replace(LIBRARY)  # atomic, since another process may be loading it
    except OSError as error:
        raise CannotBuild(f"{compiler} cannot be run: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return LIBRARY


def wheel_tag() -> str:
    """The tag of a wheel with the library: any Python 3, on Linux with the required version of glibc or newer."""
    minor = max(int(n) for n in re.findall(rb"GLIBC_2\.(\d+)", LIBRARY.read_bytes()))
    return f"py3-none-manylinux_2_{max(minor, 17)}_x86_64"


def _run(compiler: str, *options: str) -> None:
    done = subprocess.run([*compiler.split(), *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"{compiler} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _file(package: str, name: str, up: int = 0) -> Path:
    """The path of a file of an installed package, or of the folder `up` levels above it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise CannotBuild(f"{package} is not installed") from None
    for file in sorted(files, key=lambda f: len(f.parts)):
        path = Path(str(file.locate())).resolve()
        if file.name == name and path.exists():
            return path.parents[up - 1] if up else path
    raise CannotBuild(f"{package} is installed without {name}")


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as reason:
        sys.exit(f"not built: {reason}")
