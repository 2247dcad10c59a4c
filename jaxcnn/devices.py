"""Several devices, on one machine or on several hosts. All code that depends on their number is here.

Training is data-parallel: every device has all parameters and a part of each batch. There are two forms:

- `jit` over a mesh, the default: the step is the program for one device, and XLA divides it and adds the communication.
  Batch statistics, dropout and augmentation are those of the whole batch without extra code.
- `pmap`: the step runs on each device with its part of the batch, and takes means over the devices explicitly.

Several hosts run the same command. They find each other through the cluster (Slurm, Kubernetes, Open MPI, Cloud TPU) or
environment variables; see `join`. Each process reads its part of every batch; only the first one writes files.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxcnn.errors import TrainingError, UserError, first_line

PyTree = Any
Form = Literal["jit", "pmap"]
AXIS = "data"
_PATIENCE = 300  # seconds to wait for the other processes to join
_HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
_LOST = (
    "another process of this run has ended, or cannot be reached: see its output, then continue from the last "
    "checkpoint with --resume in all processes"
)


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process to the other processes of the run. Call it before any computation.

    JAX asks the cluster for values that neither an argument nor an environment variable gives.

    Args:
      coordinator: `host:port` of the first process; JAX_COORDINATOR_ADDRESS by default.
      processes: the number of processes; JAX_NUM_PROCESSES by default.
      process: the index of this process, from 0; JAX_PROCESS_ID by default.

    Raises:
      UserError: when some of the values are missing, or the other processes do not join.
    """

    def known(value: int | None, name: str) -> int | None:
        text = os.environ.get(name)
        if value is not None or not text:
            return value
        if not text.isdecimal():
            raise UserError(f"{name}={text}: expected a number")
        return int(text)

    processes, process = known(processes, "JAX_NUM_PROCESSES"), known(process, "JAX_PROCESS_ID")
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"process {process} of {processes}: expected 0 to {processes - 1}")
    _say_what_aborts()
    _phase[:] = ["joining"]
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=_PATIENCE, heartbeat_timeout_seconds=_HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        first = first_line(error)
        raise UserError(
            f"the processes cannot be joined ({first}): say who they are by --coordinator HOST:PORT --processes N "
            "--process I, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start them by Slurm, "
            "Kubernetes or Open MPI"
        ) from error
    finally:
        _phase[:] = ["running"]
    atexit.register(_end)


def _end() -> None:
    """Runs before JAX's exit handler: a program that ended with an error does not wait for the other processes."""
    _phase[:] = ["ending"]
    if isinstance(getattr(sys, "last_value", None), Exception):
        leave(1)


def _say_what_aborts() -> None:
    """Makes this process print one sentence and exit with status 1 when JAX aborts it because another process is gone.

    A thread of JAX notices that a process sends no heartbeats, or that the first process is gone, and calls abort().
    JAX's Python callback for this case does not work: jaxlib 0.10 cannot convert the callback's argument. So this
    function sets a C handler of SIGABRT, which runs in that thread.
    """
    if os.name != "posix":
        return
    libc = ctypes.CDLL(None)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]

    def aborted(number: int) -> None:
        own = threading.get_native_id() in {thread.native_id for thread in threading.enumerate()}
        if own and _phase == ["running"]:
            libc.signal(number, None)  # in a Python thread, the abort has another reason: let it happen
            return
        if not _said:
            text = f"not all processes joined within {_PATIENCE} seconds" if _phase == ["joining"] else _LOST
            print(f"jaxcnn: {text}", file=sys.stderr, flush=True)
        os._exit(1)

    global _handler
    _handler = kind(aborted)
    libc.signal(signal.SIGABRT, _handler)


_handler: Any = None  # keeps the C handler in memory
_said: list[str] = []  # not empty once it was reported that another process is gone
_phase = ["running"]


def lost(error: BaseException) -> TrainingError | None:
    """The error to raise instead of JAX's error if another process is gone; None for any other error."""
    signs = ("Gloo", "NCCL", "oordination", "heartbeat", "onnection reset", "onnection closed", "ocket closed")
    # JAX raises a ValueError if the failure reached it through an argument, otherwise a RuntimeError.
    if not joined() or isinstance(error, UserError) or not isinstance(error, (ValueError, RuntimeError)):
        return None
    if not any(sign in str(error) for sign in signs):
        return None
    _said.append(_LOST)
    return TrainingError(_LOST)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A context that turns JAX's errors about a lost process into a TrainingError."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if (found := lost(error)) is None:
            raise
        raise found from error


def joined() -> bool:
    """Whether `join` has been called."""
    return jax.distributed.is_initialized()


def leave(status: int) -> NoReturn:
    """Ends a process that failed, in a run of several processes.

    The normal exit of Python would wait for minutes until all processes end, and they may be waiting for this one. This
    function waits 3 seconds for processes that fail for the same reason, so that each can print its message.
    """
    with contextlib.suppress(Exception):  # the others are still running, or are gone
        state = importlib.import_module("jax._src.distributed").global_state  # has no public name
        state.client.wait_at_barrier("jaxcnn/failed", 3000)
        time.sleep(0.5 if first_process() else 0)  # the others abort when the first one, their coordinator, is gone
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def agree(facts: Mapping[str, Any]) -> None:
    """Checks that all processes have the same facts, a dict that JSON can represent.

    Raises:
      UserError: in all processes, when the facts differ; the message names the first difference.
    """
    if jax.process_count() == 1:
        return
    everyone = [json.loads(text) for text in _gathered(json.dumps(facts))]
    first = everyone[0]
    for name in dict.fromkeys(name for one in everyone for name in one):
        for process, one in enumerate(everyone):
            if one.get(name) != first.get(name):
                values = " and ".join(json.dumps(each.get(name))[:80] for each in (first, one))
                raise UserError(
                    f"processes 0 and {process} differ in {name}: {values}; all processes of a run need the same "
                    "command, code and data"
                )


def _gathered(text: str) -> list[str]:
    """The texts of all processes, in the order of the processes."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(own)))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def code_hash() -> str:
    """The first 16 digits of the SHA-256 of this package's Python files."""
    found, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def first_process() -> bool:
    """Whether this process is the first one, which writes files."""
    return jax.process_index() == 0


def from_first(value: Callable[[], Any]) -> Any:
    """The first process's `value()`, a JSON value, in all processes. If it raises a UserError there, all raise it."""
    if jax.process_count() == 1:
        return value()
    try:
        found = {"value": value()} if first_process() else {}
    except UserError as error:
        found = {"error": str(error)}
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(text))] = text[:size]
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def same_everywhere(tree: PyTree) -> PyTree:
    """The arrays of the first process, in all processes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree)))


class OneDevice:
    """Training on one device, with the interface of `DataParallel`.

    Attributes:
      form, size, shard, axis_name: as in `DataParallel`.
    """

    form: Form = "jit"
    size = 1
    shard = 0, 1
    axis_name: str | None = None

    def check(self, batch_size: int) -> None:
        """Does nothing: one device takes any batch."""

    def replicate(self, state: PyTree) -> PyTree:
        """The state itself."""
        return state

    single = whole = replicate

    def batch(self, batch: PyTree) -> PyTree:
        """The batch, moved to the device unless that is a CPU."""
        return batch if jax.default_backend() == "cpu" else jax.device_put(batch)

    split = batch

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, compiled."""
        return jax.jit(step, donate_argnums=0)

    def results(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled."""
        return jax.jit(function)


class DataParallel(OneDevice):
    """Training on several devices, each with its part of the batch.

    Args:
      count: the number of devices; all by default. Several processes always use all devices.
      form: `"jit"` or `"pmap"`, see the module's docstring.

    Attributes:
      form: `"jit"` or `"pmap"`.
      size: the number of devices.
      shard: the part of each batch that this process reads, and the number of parts.
      axis_name: the name of the mapped axis with `pmap`; None with `jit`.

    Raises:
      UserError: for more devices than there are.
    """

    def __init__(self, count: int | None = None, form: Form = "jit"):
        there = jax.devices()
        if form not in ("jit", "pmap"):
            raise UserError(f"parallel form {form!r}: expected jit or pmap")
        if count is not None and not 1 <= count <= len(there):
            divided = f"; JAX_NUM_CPU_DEVICES={count} divides a CPU" if jax.default_backend() == "cpu" else ""
            raise UserError(f"{count} devices were asked for, and there are {len(there)}{divided}")
        if count is not None and jax.process_count() > 1 and count != len(there):
            raise UserError(f"{count} devices were asked for, but several processes use all their {len(there)} devices")
        chosen = there[:count]
        self.form = form
        self.size = len(chosen)
        self.shard = jax.process_index(), jax.process_count()
        self.axis_name = AXIS if form == "pmap" else None
        self.mesh = Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))
        self._own = [device for device in chosen if device.process_index == jax.process_index()]
        self._whole: Sharding = NamedSharding(self.mesh, PartitionSpec())
        self._split: Sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.size == 1:  # JAX is faster with this sharding
            self._whole = self._split = SingleDeviceSharding(chosen[0])

    def check(self, batch_size: int) -> None:
        """Checks that the devices can share the batch equally.

        Raises:
          UserError: when they cannot.
        """
        if batch_size % self.size:
            low = batch_size - batch_size % self.size
            near = " or ".join(str(size) for size in (low, low + self.size) if size)
            raise UserError(f"a batch of {batch_size} cannot be divided by {self.size} devices: take one of {near}")

    def replicate(self, state: PyTree) -> PyTree:
        """A state of one device, copied to all devices. A step may donate the copy."""
        if self.form == "pmap":
            stacked = jax.tree.map(lambda x: jnp.stack([_uncommitted(x)] * len(self._own)), state)
            return jax.pmap(lambda x: x, AXIS, devices=self._all())(stacked)
        return self._put(copied(state), self._whole)

    def single(self, state: PyTree) -> PyTree:
        """The state as one device of this process has it."""
        if self.form == "pmap":
            return jax.tree.map(lambda x: x.addressable_data(0)[0], state)
        return jax.tree.map(lambda x: x.addressable_data(0), state)

    def batch(self, batch: PyTree) -> PyTree:
        """This process's part of a batch, on its devices.

        Raises:
          UserError: when the devices cannot share it equally.
        """
        self.check(len(jax.tree.leaves(batch)[0]) * self.shard[1])
        if self.form == "pmap":
            own = len(self._own)
            return jax.tree.map(lambda x: x.reshape(own, len(x) // own, *x.shape[1:]), batch)
        return self.split(batch) if self.size > 1 else super().batch(batch)

    def split(self, batch: PyTree) -> PyTree:
        """This process's part of a batch as one array over all devices."""
        return self._put(batch, self._split)

    def whole(self, tree: PyTree) -> PyTree:
        """Arrays that are the same in all processes, as arrays replicated on all devices."""
        return self._put(tree, self._whole)

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step `(state, batch) -> (state, metrics)`, compiled for the results of `replicate` and `batch`."""
        if self.form == "pmap":
            mapped = jax.pmap(step, AXIS, donate_argnums=0, devices=self._all())

            def run(state: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
                state, measured = mapped(state, batch)
                return state, {name: value.addressable_data(0)[0] for name, value in measured.items()}

            run.lower = mapped.lower  # type: ignore[attr-defined]
            return run
        if self.size == 1:
            return jax.jit(step, donate_argnums=0)
        # Without in_shardings, each device would compute the whole of a batch that is not divided yet.
        return jax.jit(step, donate_argnums=0, in_shardings=(None, self._split), out_shardings=self._whole)

    def results(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled for divided arrays; its results are replicated on all devices."""
        return jax.jit(function, out_shardings=self._whole if self.size > 1 else None)

    def _all(self) -> list[Any] | None:
        # None means all devices. With several processes, pmap accepts no list.
        return None if jax.process_count() > 1 or self.size == len(jax.devices()) else list(self.mesh.devices.flat)

    def _put(self, tree: PyTree, sharding: Sharding) -> PyTree:
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)

        def one(x: Any) -> Any:
            if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
                data = jax.make_array_from_process_local_data(sharding, np.asarray(jax.random.key_data(x)))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))

        return jax.tree.map(one, tree)


def copied(tree: PyTree) -> PyTree:
    """The same with copied arrays, which stay valid when the originals are donated.

    The runtime copies them; `jnp.copy` compiles a program for each shape.
    """
    return jax.device_put(tree, may_alias=False)


def _uncommitted(x: Any) -> Any:
    """The array without a device. `pmap` refuses an array from a checkpoint, which is committed to the first device."""
    if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(x))), impl=jax.random.key_impl(x))
    return np.asarray(x)


def stop_together(step: int) -> bool:
    """Whether all processes should stop after this step, because one of them received SIGTERM."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
