"""What every test shares: the processors it may use, exact arithmetic, double precision, the datasets."""

import ctypes
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Each of pytest-xdist's workers takes its share of the cores, not what it inherits from the process that started it;
# read when JAX, NumPy and PyTorch are imported.
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    for _variable in ("NPROC", "OMP_NUM_THREADS"):
        os.environ[_variable] = str(max(1, (os.cpu_count() or 1) // _workers))
os.environ["MPLBACKEND"] = "Agg"
# A shell's background jobs, and what they start, ignore Ctrl-C, and those of nohup a closed terminal. Some tests send
# both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# What one process of this session has compiled the others need not compile again: a third of the time.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jaxcnn-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Most of a test's time is compilation. A program in one piece, hardly optimized, and with the older code for fused
# operations, which jaxlib 0.11 no longer has, takes half of it (test_precision.py: 35 s, 16 s).
# JAXCNN_TEST_FLAGS=none compiles as users do, as CI's second Python does.
if os.environ.get("JAXCNN_TEST_FLAGS") != "none":
    _flags = {"xla_backend_optimization_level": "0", "xla_cpu_parallel_codegen_split_count": "1"}
    if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
        _flags["xla_cpu_use_fusion_emitters"] = "false"
    _given = os.environ.get("XLA_FLAGS", "")
    _added = [f"--{name}={value}" for name, value in _flags.items() if name not in _given]
    os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()

import jax
import pytest

# Accelerators multiply float32 in fewer bits unless they are told not to; a CPU does not care.
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run notebooks, experiments, guides (CI=true does, too)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or "CI" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes long: --slow runs it"))


def pytest_collection_finish() -> None:
    """The garbage collector need not look at modules and tests again and again: a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """What a file's tests have compiled is freed behind it: all of it together would be several gigabytes."""
    yield
    jax.clear_caches()


_much = 1 << 30  # bytes


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    """A process that holds much memory forgets its compiled programs; the cache on disk still has them."""
    global _much
    yield
    if sys.platform != "linux" or _resident() < _much:
        return
    jax.clear_caches()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _much = max(_much, _resident() + (256 << 20))


def _resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def data_dir() -> Path:
    """Where the datasets are, or a skip."""
    if not (path := os.environ.get("JAXCNN_DATA_DIR")):
        pytest.skip("JAXCNN_DATA_DIR is not set")
    return Path(path)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser, or a skip.

    It is a module's: while Playwright runs, an event loop runs in the thread, which no other user of asyncio can bear.
    """
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
