"""Compiles this package's C++ library: when jaxcnn is installed, by `hatch_build.py`, and as a program.

It needs a C++ compiler and the headers of two packages: XLA's foreign function interface in `jaxlib`, oneDNN in
`onednn-devel-cpu-gomp`. Nothing in the library depends on the version of Python or of jaxlib. This file imports nothing
of jaxcnn, so that it can be run before that is installed.
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
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "libjaxcnn_cpu.so"
ONEDNN, HEADERS, RUNTIME = "libdnnl.so.3", "onednn-devel-cpu-gomp", "onednn-cpu-gomp"
COMPILERS = ("g++", "c++", "clang++")


class CannotBuild(Exception):
    """What is missing, or what the compiler said."""


def supported() -> bool:
    """Whether there is a oneDNN for this platform among Python's packages."""
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")


def fingerprint() -> str:
    """Changes with the sources: it is compiled in, and a library of other sources is not called."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "src").iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> Path:
    """Compiles the library, unless there is one of these sources.

    Raises:
      CannotBuild: without a compiler or the headers, and when it does not compile.
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
    source, made = HERE / "src", LIBRARY.with_suffix(f".{os.getpid()}")
    command = [
        *compiler.split(), "-std=c++17", "-O2", "-DNDEBUG", "-fPIC", "-shared", "-ffunction-sections",
        *(f"-isystem{path}" for path in (Path(jaxlib.origin).parent / "include", _file(HEADERS, "dnnl.hpp", 1))),
        f'-DJAXCNN_SOURCES="{fingerprint()}"', *map(str, sorted(source.glob("*.cc"))), str(_file(RUNTIME, ONEDNN)),
        # Without a C++ library of its own it would need one as new as the compiler's.
        "-static-libstdc++", "-Wl,--gc-sections", "-Wl,-s",
        f"-Wl,--version-script={source / 'exports.map'}", "-Wl,--allow-shlib-undefined", "-o", str(made),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuild(f"{compiler} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        made.replace(LIBRARY)  # at once: another process may be loading it
    except OSError as error:
        raise CannotBuild(f"{compiler} cannot be run: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return LIBRARY


def wheel_tag() -> str:
    """The tag of a wheel with the library: any Python 3, on Linux with the GNU C library that it asks for, or newer."""
    minor = max(int(n) for n in re.findall(rb"GLIBC_2\.(\d+)", LIBRARY.read_bytes()))
    return f"py3-none-manylinux_2_{max(minor, 17)}_x86_64"


def _file(package: str, name: str, up: int = 0) -> Path:
    """Where an installed package has a file, or the folder so many steps above it."""
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
